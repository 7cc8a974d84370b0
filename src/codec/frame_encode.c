/* frame_encode - what the daemon says to a worker as lines of JSON, and its words. */
#include "codec/frame.h"

#include <string.h>

enum { PROTOCOL_VERSION = 1 };

static const mono_ms UNTIL_MAX = ((mono_ms)1 << 53) - 1;

static const struct {
	const char *name;
	bool is_fatal;
} errors[FERR_N] = {
	[FERR_BAD_FRAME] = {"bad_frame", true},
	[FERR_TOO_BIG] = {"too_big", true},
	[FERR_BAD_VERSION] = {"bad_version", true},
	[FERR_BAD_HELLO] = {"bad_hello", true},
	[FERR_UNAUTHORIZED] = {"unauthorized", true},
	[FERR_HELLO_TIMEOUT] = {"hello_timeout", true},
	[FERR_SLOW_READER] = {"slow_reader", true},
	[FERR_SILENT] = {"silent", true},
	[FERR_TOO_MANY_SESSIONS] = {"too_many_sessions", true},
	[FERR_LIMIT] = {"limit", false},
	[FERR_UNKNOWN_TYPE] = {"unknown_type", false},
	[FERR_UNKNOWN_LEASE] = {"unknown_lease", false},
	[FERR_NOT_OWNER] = {"not_owner", false},
	[FERR_BAD_FIELD] = {"bad_field", false},
	[FERR_INTERNAL] = {"internal", false},
};

static const char *const outcomes[] = {[GONE_DONE] = "done",
	[GONE_REQUEUED] = "requeued",
	[GONE_DEAD] = "dead",
	[GONE_LOST] = "lost",
	[GONE_WAITS] = "waits"};

static const char *const revokes[REVOKE_N] = {
	[REVOKE_LOST] = "lost",
	[REVOKE_DRAIN] = "drain",
	[REVOKE_TIMEOUT] = "timeout",
	[REVOKE_OPERATOR] = "operator",
	[REVOKE_SHUTDOWN] = "shutdown",
};

static const char *const ok_fors[] = {[OK_FOR_DONE] = "done",
	[OK_FOR_FAIL] = "fail",
	[OK_FOR_RELEASE] = "release",
	[OK_FOR_ACK] = "ack",
	[OK_FOR_NACK] = "nack",
	[OK_FOR_ENDED] = "done"};

const char *frame_error_name(enum frame_error e)
{
	return errors[e].name;
}

bool frame_error_fatal(enum frame_error e)
{
	return errors[e].is_fatal;
}

const char *frame_outcome_name(enum gone_outcome o)
{
	return outcomes[o];
}

const char *frame_revoke_name(enum revoke_reason r)
{
	return revokes[r];
}

static void add_int(struct buf *b, int64_t v)
{
	if (v < 0) {
		buf_add(b, "-", 1);
		buf_u64(b, 0 - (uint64_t)v);
		return;
	}
	buf_u64(b, (uint64_t)v);
}

/* before: what precedes the value, e.g. `,"n":` */
static void int_field(struct buf *b, const char *before, int64_t v)
{
	buf_str(b, before);
	add_int(b, v);
}

static void add_slice(struct buf *b, struct slice s)
{
	buf_json_str(b, s.p ? s.p : "", s.p ? s.len : 0);
}

static void slice_field(struct buf *b, const char *before, struct slice s)
{
	buf_str(b, before);
	add_slice(b, s);
}

/* For our own names, which need no escaping. */
static void name_field(struct buf *b, const char *before, const char *name)
{
	buf_str(b, before);
	buf_add(b, "\"", 1);
	buf_str(b, name);
	buf_add(b, "\"", 1);
}

static void until_field(struct buf *b, mono_ms until)
{
	int_field(b, ",\"until_ms\":", mono_min(until, UNTIL_MAX));
}

static void add_info(struct buf *b, struct slice info)
{
	if (!info.p) {
		buf_str(b, "null");
		return;
	}
	size_t at = b->len;
	buf_add(b, info.p, info.len);
	for (char *end = b->data + b->len, *p = b->data + at; (p = memchr(p, '\n', (size_t)(end - p))); p++)
		*p = ' ';
	for (char *end = b->data + b->len, *p = b->data + at; (p = memchr(p, '\r', (size_t)(end - p))); p++)
		*p = ' ';
}

static void encode_welcome(struct buf *b, const struct out_frame *f)
{
	int_field(b, "{\"t\":\"welcome\",\"v\":", PROTOCOL_VERSION);
	slice_field(b, ",\"server\":", f->welcome.server);
	slice_field(b, ",\"node\":", f->welcome.node);
	slice_field(b, ",\"session\":", f->welcome.session);
	int_field(b, ",\"lease_ms\":", f->welcome.lease_ms);
	int_field(b, ",\"ping_ms\":", f->welcome.ping_ms);
	int_field(b, ",\"resume_ms\":", f->welcome.resume_ms);
	int_field(b, ",\"max_frame\":", f->welcome.max_frame);
	until_field(b, f->until_ms);
	int_field(b, ",\"now_ms\":", f->welcome.now_ms);
	buf_str(b, ",\"resumed\":[");
	for (size_t i = 0; i < f->welcome.n_resumed; i++)
		slice_field(b, i ? "," : "", f->welcome.resumed[i]);
	buf_str(b, "],\"gone\":[");
	for (size_t i = 0; i < f->welcome.n_gone; i++) {
		slice_field(b, i ? ",{\"lease\":" : "{\"lease\":", f->welcome.gone[i].lease);
		name_field(b, ",\"outcome\":", outcomes[f->welcome.gone[i].outcome]);
		buf_add(b, "}", 1);
	}
	buf_add(b, "]", 1);
	for (size_t i = 0; i < f->welcome.n_not_served; i++)
		slice_field(b, i ? "," : ",\"not_served\":[", f->welcome.not_served[i]);
	if (f->welcome.n_not_served)
		buf_add(b, "]", 1);
}

static void id_field(struct buf *b, const char *before, struct entry_id id)
{
	buf_str(b, before);
	buf_add(b, "\"", 1);
	buf_u64(b, id.ms);
	buf_add(b, "-", 1);
	buf_u64(b, id.seq);
	buf_add(b, "\"", 1);
}

static void encode_assign(struct buf *b, const struct out_frame *f)
{
	slice_field(b, "{\"t\":\"assign\",\"lease\":", f->lease);
	slice_field(b, ",\"service\":", f->assign.service);
	slice_field(b, ",\"stream\":", f->assign.stream);
	slice_field(b, ",\"id\":", f->assign.id);
	slice_field(b, ",\"token\":", f->assign.token);
	int_field(b, ",\"retry\":", f->assign.retry);
	buf_str(b, ",\"info\":");
	add_info(b, f->info);
	if (f->assign.has_entries)
		id_field(b, ",\"entries\":{\"pos\":", f->entry), buf_add(b, "}", 1);
	if (f->assign.trace.p) {
		buf_str(b, ",\"trace\":");
		buf_add(b, f->assign.trace.p, f->assign.trace.len);
	}
	until_field(b, f->until_ms);
}

static void encode_entries(struct buf *b, const struct out_frame *f)
{
	slice_field(b, "{\"t\":\"entries\",\"lease\":", f->lease);
	buf_str(b, ",\"e\":[");
	buf_add(b, f->info.p, f->info.len);
	buf_str(b, f->more ? "],\"more\":true" : "],\"more\":false");
}

static void encode_err(struct buf *b, const struct out_frame *f)
{
	name_field(b, "{\"t\":\"err\",\"code\":", errors[f->error].name);
	slice_field(b, ",\"msg\":", f->msg);
	if (f->lease.p)
		slice_field(b, ",\"lease\":", f->lease);
	buf_str(b, errors[f->error].is_fatal ? ",\"fatal\":true" : ",\"fatal\":false");
}

static void encode_lease_frame(struct buf *b, const struct out_frame *f)
{
	if (f->kind == OUT_OK) {
		slice_field(b, "{\"t\":\"ok\",\"lease\":", f->lease);
		name_field(b, ",\"for\":", ok_fors[f->ok_for]);
		if (f->ok_for == OK_FOR_ACK || f->ok_for == OK_FOR_NACK)
			id_field(b, ",\"id\":", f->entry);
		if (f->ok_for != OK_FOR_ACK)
			name_field(b, ",\"outcome\":", outcomes[f->outcome]);
		if (f->outcome == GONE_WAITS)
			int_field(b, ",\"retry_ms\":", f->retry_ms);
		return;
	}
	slice_field(b, "{\"t\":\"revoke\",\"lease\":", f->lease);
	name_field(b, ",\"reason\":", revokes[f->reason]);
	int_field(b, ",\"grace_ms\":", f->grace_ms);
}

void frame_encode(struct buf *b, const struct out_frame *f)
{
	switch (f->kind) {
	case OUT_WELCOME:
		encode_welcome(b, f);
		break;
	case OUT_ASSIGN:
		encode_assign(b, f);
		break;
	case OUT_OK:
	case OUT_REVOKE:
		encode_lease_frame(b, f);
		break;
	case OUT_DRAIN:
		int_field(b, "{\"t\":\"drain\",\"grace_ms\":", f->grace_ms);
		break;
	case OUT_PING:
		int_field(b, "{\"t\":\"ping\",\"n\":", f->n);
		until_field(b, f->until_ms);
		break;
	case OUT_PONG:
		buf_str(b, "{\"t\":\"pong\"");
		if (f->has_n)
			int_field(b, ",\"n\":", f->n);
		break;
	case OUT_ERR:
		encode_err(b, f);
		break;
	case OUT_ENTRIES:
		encode_entries(b, f);
		break;
	case OUT_ENDED:
		slice_field(b, "{\"t\":\"ended\",\"lease\":", f->lease);
		name_field(b, ",\"outcome\":", outcomes[f->outcome]);
		break;
	}
	buf_add(b, "}\n", 2);
}
