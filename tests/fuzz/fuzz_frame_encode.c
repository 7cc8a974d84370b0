/* Any structure: what frame_encode writes of it is one line that another reader of JSON understands the same, and a
 * worker's frame that another writer of JSON writes comes out of the splitter and frame_decode as it was. */
#include "codec/frame.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <yyjson.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { LIST_MAX = 4 };

struct source { /* the structure's bytes */
	const uint8_t *p;
	size_t left;
};

static void demand(bool is_kept)
{
	if (!is_kept)
		abort();
}

static uint8_t take_u8(struct source *s)
{
	if (!s->left)
		return 0;
	s->left--;
	return *s->p++;
}

static int64_t take_int(struct source *s)
{
	uint64_t v = 0;
	uint8_t head = take_u8(s);
	for (unsigned i = 0; i < head % 9; i++)
		v = v << 8 | take_u8(s);
	return head & 0x80 ? (int64_t)~v : (int64_t)v;
}

static struct slice take_text(struct source *s)
{
	size_t len = take_u8(s);
	len = len > s->left ? s->left : len;
	struct slice out = {len ? (const char *)s->p : NULL, len};
	s->p += len;
	s->left -= len;
	return out;
}

/* ---- what comes back */

/* The text, if the reader may take it for UTF-8; frame_encode mends what is not. */
static void expect_text(yyjson_val *v, struct slice want)
{
	demand(yyjson_is_str(v));
	yyjson_mut_doc *doc = yyjson_mut_doc_new(NULL);
	yyjson_mut_doc_set_root(doc, yyjson_mut_strn(doc, want.p ? want.p : "", want.len));
	char *json = yyjson_mut_write(doc, 0, NULL); /* NULL: not UTF-8 */
	if (json)
		demand(yyjson_get_len(v) == want.len &&
			(!want.len || memcmp(yyjson_get_str(v), want.p, want.len) == 0));
	free(json);
	yyjson_mut_doc_free(doc);
}

static void expect_field(yyjson_val *root, const char *key, struct slice want)
{
	expect_text(yyjson_obj_get(root, key), want);
}

static void expect_name(yyjson_val *root, const char *key, const char *want)
{
	demand(yyjson_equals_str(yyjson_obj_get(root, key), want));
}

static void expect_int(yyjson_val *root, const char *key, int64_t want)
{
	yyjson_val *v = yyjson_obj_get(root, key);
	demand(yyjson_is_int(v) && yyjson_get_sint(v) == want && (want < 0) == yyjson_is_sint(v));
}

static void expect_until(yyjson_val *root, mono_ms want)
{
	const mono_ms most = ((mono_ms)1 << 53) - 1;
	expect_int(root, "until_ms", want < most ? want : most);
}

static void expect_lists(yyjson_val *root, const struct out_frame *f)
{
	yyjson_val *resumed = yyjson_obj_get(root, "resumed"), *gone = yyjson_obj_get(root, "gone");
	demand(yyjson_is_arr(resumed) && yyjson_arr_size(resumed) == f->welcome.n_resumed);
	demand(yyjson_is_arr(gone) && yyjson_arr_size(gone) == f->welcome.n_gone);
	for (size_t i = 0; i < f->welcome.n_resumed; i++)
		expect_text(yyjson_arr_get(resumed, i), f->welcome.resumed[i]);
	for (size_t i = 0; i < f->welcome.n_gone; i++) {
		expect_field(yyjson_arr_get(gone, i), "lease", f->welcome.gone[i].lease);
		expect_name(yyjson_arr_get(gone, i), "outcome", frame_outcome_name(f->welcome.gone[i].outcome));
	}
}

static void expect_id(yyjson_val *v, struct entry_id want)
{
	char text[64];
	snprintf(text, sizeof text, "%llu-%llu", (unsigned long long)want.ms, (unsigned long long)want.seq);
	demand(yyjson_equals_str(v, text));
}

static void expect_frame(yyjson_val *root, const struct out_frame *f)
{
	static const char *const types[] = {
		"welcome", "assign", "ok", "revoke", "drain", "ping", "pong", "err", "entries", "ended"};
	static const char *const ok_fors[] = {"done", "fail", "release", "ack", "nack"};
	expect_name(root, "t", types[f->kind]);
	switch (f->kind) {
	case OUT_WELCOME:
		expect_int(root, "v", 1);
		expect_field(root, "server", f->welcome.server);
		expect_field(root, "node", f->welcome.node);
		expect_field(root, "session", f->welcome.session);
		expect_int(root, "lease_ms", f->welcome.lease_ms);
		expect_int(root, "ping_ms", f->welcome.ping_ms);
		expect_int(root, "resume_ms", f->welcome.resume_ms);
		expect_int(root, "max_frame", f->welcome.max_frame);
		expect_until(root, f->until_ms);
		expect_int(root, "now_ms", f->welcome.now_ms);
		expect_lists(root, f);
		break;
	case OUT_ASSIGN:
		expect_field(root, "lease", f->lease);
		expect_field(root, "service", f->assign.service);
		expect_field(root, "stream", f->assign.stream);
		expect_field(root, "id", f->assign.id);
		expect_field(root, "token", f->assign.token);
		expect_int(root, "retry", f->assign.retry);
		demand(f->info.p ? yyjson_is_arr(yyjson_obj_get(root, "info"))
				 : yyjson_is_null(yyjson_obj_get(root, "info")));
		if (f->assign.has_entries)
			expect_id(yyjson_obj_get(yyjson_obj_get(root, "entries"), "pos"), f->entry);
		expect_until(root, f->until_ms);
		break;
	case OUT_OK:
		expect_field(root, "lease", f->lease);
		expect_name(root, "for", ok_fors[f->ok_for]);
		if (f->ok_for != OK_FOR_ACK)
			expect_name(root, "outcome", frame_outcome_name(f->outcome));
		if (f->ok_for == OK_FOR_ACK || f->ok_for == OK_FOR_NACK)
			expect_id(yyjson_obj_get(root, "id"), f->entry);
		break;
	case OUT_REVOKE:
		expect_field(root, "lease", f->lease);
		expect_name(root, "reason", frame_revoke_name(f->reason));
		expect_int(root, "grace_ms", f->grace_ms);
		break;
	case OUT_DRAIN:
		expect_int(root, "grace_ms", f->grace_ms);
		break;
	case OUT_PING:
		expect_int(root, "n", f->n);
		expect_until(root, f->until_ms);
		break;
	case OUT_PONG:
		demand(f->has_n || !yyjson_obj_get(root, "n"));
		if (f->has_n)
			expect_int(root, "n", f->n);
		break;
	case OUT_ERR:
		expect_name(root, "code", frame_error_name(f->error));
		expect_field(root, "msg", f->msg);
		demand(f->lease.p != NULL || !yyjson_obj_get(root, "lease"));
		if (f->lease.p)
			expect_field(root, "lease", f->lease);
		demand(yyjson_get_bool(yyjson_obj_get(root, "fatal")) == frame_error_fatal(f->error));
		break;
	case OUT_ENTRIES:
		expect_field(root, "lease", f->lease);
		demand(yyjson_arr_size(yyjson_obj_get(root, "e")) == 1);
		demand(yyjson_get_bool(yyjson_obj_get(root, "more")) == f->more);
		break;
	case OUT_ENDED:
		expect_field(root, "lease", f->lease);
		expect_name(root, "outcome", frame_outcome_name(f->outcome));
		break;
	}
}

static void try_out(struct source *s)
{
	struct slice resumed[LIST_MAX];
	struct gone gone[LIST_MAX];
	uint8_t kind = take_u8(s), lists = take_u8(s);
	struct out_frame f = {.kind = kind % (OUT_ENDED + 1), .welcome.resumed = resumed, .welcome.gone = gone};
	f.ok_for = take_u8(s) % (OK_FOR_NACK + 1);
	f.outcome = take_u8(s) % (GONE_WAITS + 1);
	f.reason = take_u8(s) % REVOKE_N;
	f.error = take_u8(s) % FERR_N;
	f.has_n = kind & 0x80;
	f.info = kind & 0x40 ? (struct slice){"[1,\r\n2]", 7} : (struct slice){NULL, 0};
	if (f.kind == OUT_ENTRIES)
		f.info = (struct slice){"[\"1-0\",[]]", 10};
	f.assign.has_entries = f.more = kind & 0x20;
	f.entry.ms = (uint64_t)take_int(s);
	f.entry.seq = (uint64_t)take_int(s);
	int64_t *const numbers[] = {&f.until_ms, &f.welcome.lease_ms, &f.welcome.ping_ms, &f.welcome.resume_ms,
		&f.welcome.max_frame, &f.welcome.now_ms, &f.assign.retry, &f.grace_ms, &f.n};
	for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++)
		*numbers[i] = take_int(s);
	struct slice *const texts[] = {&f.lease, &f.welcome.server, &f.welcome.node, &f.welcome.session,
		&f.assign.service, &f.assign.stream, &f.assign.id, &f.assign.token, &f.msg};
	for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++)
		*texts[i] = take_text(s);
	for (; f.welcome.n_resumed < lists % (LIST_MAX + 1); f.welcome.n_resumed++)
		resumed[f.welcome.n_resumed] = take_text(s);
	for (; f.welcome.n_gone < lists / 16 % (LIST_MAX + 1); f.welcome.n_gone++)
		gone[f.welcome.n_gone] = (struct gone){take_text(s), take_u8(s) % (GONE_LOST + 1)};
	struct buf b;
	buf_init(&b);
	frame_encode(&b, &f);
	demand(memchr(b.data, '\n', b.len) == b.data + b.len - 1 && !memchr(b.data, '\r', b.len));
	yyjson_doc *doc = yyjson_read(b.data, b.len, 0);
	demand(doc != NULL);
	expect_frame(yyjson_doc_get_root(doc), &f);
	yyjson_doc_free(doc);
	buf_fini(&b);
}

/* ---- the other way */

static const char *const in_names[FRAME_UNKNOWN] = {
	"hello", "credits", "done", "fail", "release", "progress", "ack", "nack", "revoked", "ping", "pong", "bye"};

static void add_text(yyjson_mut_doc *doc, const char *key, struct slice s)
{
	if (s.p)
		yyjson_mut_obj_add_strn(doc, yyjson_mut_doc_get_root(doc), key, s.p, s.len);
}

static void add_texts(yyjson_mut_doc *doc, const char *key, const struct slice *v, size_t n)
{
	yyjson_mut_val *list = yyjson_mut_arr(doc);
	for (size_t i = 0; i < n; i++)
		yyjson_mut_arr_add_strn(doc, list, v[i].p ? v[i].p : "", v[i].len);
	yyjson_mut_obj_add_val(doc, yyjson_mut_doc_get_root(doc), key, list);
}

/* NULL: one of the texts is not UTF-8. */
static char *written(const struct frame *f, size_t *len)
{
	yyjson_mut_doc *doc = yyjson_mut_doc_new(NULL);
	yyjson_mut_val *root = yyjson_mut_obj(doc);
	yyjson_mut_doc_set_root(doc, root);
	if (f->kind == FRAME_HELLO) {
		yyjson_mut_obj_add_sint(doc, root, "v", f->hello.v);
		yyjson_mut_obj_add_strn(doc, root, "name", f->hello.name.p ? f->hello.name.p : "", f->hello.name.len);
		add_text(doc, "session", f->hello.session);
		if (f->hello.has_services)
			add_texts(doc, "services", f->hello.services, f->hello.n_services);
		add_texts(doc, "resume", f->hello.resume, f->hello.n_resume);
	}
	if (f->kind == FRAME_HELLO || f->kind == FRAME_CREDITS)
		yyjson_mut_obj_add_sint(doc, root, f->kind == FRAME_HELLO ? "credits" : "n", f->credits);
	if (f->has_n)
		yyjson_mut_obj_add_sint(doc, root, "n", f->n);
	if (f->hello.takes_entries)
		yyjson_mut_obj_add_bool(doc, root, "entries", true);
	if (f->has_retry_ms)
		yyjson_mut_obj_add_sint(doc, root, "retry_ms", f->retry_ms);
	char id[64];
	snprintf(id, sizeof id, "%llu-%llu", (unsigned long long)f->entry.ms, (unsigned long long)f->entry.seq);
	if (f->kind == FRAME_ACK || f->kind == FRAME_NACK)
		yyjson_mut_obj_add_str(doc, root, "id", id);
	add_text(doc, "lease", f->lease);
	add_text(doc, "reason", f->reason);
	add_text(doc, "note", f->note);
	if (f->dead)
		yyjson_mut_obj_add_bool(doc, root, "dead", true);
	yyjson_mut_obj_add_str(doc, root, "t", in_names[f->kind]);
	char *json = yyjson_mut_write(doc, YYJSON_WRITE_NOFLAG, len);
	yyjson_mut_doc_free(doc);
	return json;
}

static void expect_slice(struct slice got, struct slice want)
{
	demand(got.len == want.len && (!want.len || memcmp(got.p, want.p, want.len) == 0));
}

static void expect_same(const struct frame *got, const struct frame *want)
{
	demand(got->kind == want->kind && got->problem == FRAME_PROBLEM_NONE && got->hello.v == want->hello.v);
	demand(got->credits == want->credits && got->dead == want->dead && got->has_n == want->has_n &&
		got->n == want->n);
	demand(got->hello.takes_entries == want->hello.takes_entries && got->has_retry_ms == want->has_retry_ms &&
		got->retry_ms == want->retry_ms && got->entry.ms == want->entry.ms &&
		got->entry.seq == want->entry.seq);
	demand(got->hello.has_services == want->hello.has_services && got->hello.n_services == want->hello.n_services);
	demand(got->hello.n_resume == want->hello.n_resume);
	for (size_t i = 0; i < want->hello.n_services; i++)
		expect_slice(got->hello.services[i], want->hello.services[i]);
	for (size_t i = 0; i < want->hello.n_resume; i++)
		expect_slice(got->hello.resume[i], want->hello.resume[i]);
	expect_slice(got->hello.name, want->hello.name);
	expect_slice(got->hello.session, want->hello.session);
	expect_slice(got->lease, want->lease);
	expect_slice(got->reason, want->reason);
	expect_slice(got->note, want->note);
}

static struct slice take_lease(struct source *s)
{
	struct slice lease = take_text(s);
	if (!lease.p)
		return (struct slice){"x", 1};
	return (struct slice){lease.p, lease.len < FRAME_LEASE_MAX ? lease.len : FRAME_LEASE_MAX};
}

static void take_fields(struct source *s, struct frame *f, uint8_t head)
{
	bool is_hello = f->kind == FRAME_HELLO;
	if (is_hello || f->kind == FRAME_CREDITS)
		f->credits = (uint16_t)take_int(s) % (FRAME_CREDITS_MAX + 1);
	if (is_hello) {
		f->hello.v = take_int(s);
		f->hello.name = take_text(s);
		f->hello.session = take_text(s);
		f->hello.has_services = head & 0x80;
		f->hello.takes_entries = head & 0x10;
		for (; f->hello.has_services && f->hello.n_services < head / 16 % LIST_MAX; f->hello.n_services++)
			f->hello.services[f->hello.n_services] = take_text(s);
		for (uint8_t n = take_u8(s) % (LIST_MAX + 1); f->hello.n_resume < n; f->hello.n_resume++)
			f->hello.resume[f->hello.n_resume] = take_lease(s);
	}
	if (f->kind == FRAME_DONE || f->kind == FRAME_FAIL || f->kind == FRAME_RELEASE || f->kind == FRAME_PROGRESS ||
		f->kind == FRAME_REVOKED || f->kind == FRAME_ACK || f->kind == FRAME_NACK)
		f->lease = take_lease(s);
	if (f->kind == FRAME_ACK || f->kind == FRAME_NACK) {
		f->entry.ms = (uint64_t)take_int(s);
		f->entry.seq = (uint64_t)take_int(s);
	}
	if (f->kind == FRAME_NACK) {
		f->has_retry_ms = head & 0x40;
		f->retry_ms = f->has_retry_ms ? (uint16_t)take_int(s) : 0;
	}
	if (f->kind == FRAME_FAIL || f->kind == FRAME_NACK) {
		f->reason = take_text(s);
		f->dead = head & 0x80;
	}
	if (f->kind == FRAME_PROGRESS)
		f->note = take_text(s);
	if (f->kind == FRAME_PING || f->kind == FRAME_PONG) {
		f->has_n = head & 0x80;
		f->n = f->has_n ? take_int(s) : 0;
	}
}

static void try_in(struct source *s)
{
	static struct frame_decoder *d;
	struct slice services[LIST_MAX], resume[LIST_MAX];
	uint8_t head = take_u8(s);
	struct frame f = {.kind = head % FRAME_UNKNOWN,
			     .hello.v = -1,
			     .hello.services = services,
			     .hello.resume = resume},
		     got;
	take_fields(s, &f, head);
	size_t len;
	char *json = written(&f, &len);
	if (!json)
		return;
	if (!d)
		d = frame_decoder_new();
	struct frame_splitter splitter;
	struct err err;
	enum err_code code;
	char *line;
	frame_splitter_init(&splitter, len);
	frame_splitter_feed(&splitter, json, len);
	frame_splitter_feed(&splitter, head & 8 ? "\r\n" : "\n", head & 8 ? 2 : 1);
	demand(frame_splitter_next(&splitter, &line, &len, &code));
	demand(frame_decode(d, line, len, &got, &err) == ERR_OK);
	expect_same(&got, &f);
	frame_splitter_fini(&splitter);
	free(json);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct source s = {data, size};
	try_out(&s);
	s = (struct source){data, size};
	try_in(&s);
	return 0;
}
