/* The daemon's frames, one function each. Numbers are kept as text, so that Info reaches the command value-exact. */
#include "bin/sluice_run/sluice_run.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "codec/json.h"

enum { EXIT_UNAVAILABLE = 69, EXIT_NOPERM = 77, EXIT_CONFIG = 78 };

static const mono_ms UNTIL_MAX = ((mono_ms)1 << 53) - 1; /* at and above: no fence */

static const char *str(yyjson_val *root, const char *key)
{
	const char *s = yyjson_get_str(yyjson_obj_get(root, key));
	return s ? s : "";
}

static int64_t num(yyjson_val *root, const char *key, int64_t absent)
{
	const char *raw = yyjson_get_raw(yyjson_obj_get(root, key));
	if (!raw)
		return absent;
	if (!strpbrk(raw, ".eE"))
		return strtoll(raw, NULL, 10);
	double d = strtod(raw, NULL);
	return d > -9e18 && d < 9e18 ? (int64_t)d : absent;
}

static mono_ms until(yyjson_val *root)
{
	mono_ms ms = num(root, "until_ms", MONO_NEVER);
	return ms >= UNTIL_MAX ? MONO_NEVER : ms;
}

void frames_hello(struct runner *r)
{
	const struct options *opt = r->opt;
	struct buf b;
	buf_init(&b);
	buf_str(&b, "{\"t\":\"hello\",\"v\":1,\"name\":");
	buf_json_str(&b, opt->name, strlen(opt->name));
	buf_printf(&b, ",\"credits\":%d", pause_credits(r));
	for (size_t i = 0; i < opt->n_services; i++) {
		buf_str(&b, i ? "," : ",\"services\":[");
		buf_json_str(&b, opt->services[i], strlen(opt->services[i]));
	}
	buf_str(&b, opt->n_services ? "]" : "");
	if (opt->mode != MODE_STREAM)
		buf_str(&b, ",\"entries\":true");
	if (r->conn.session) {
		buf_str(&b, ",\"session\":");
		buf_json_str(&b, r->conn.session, strlen(r->conn.session));
		buf_str(&b, ",\"resume\":[");
		size_t pos = 0, n = 0;
		for (struct work *w; (w = map_next(&r->by_lease, &pos));) {
			if (w->answer == ANSWER_NONE)
				continue;
			buf_str(&b, n++ ? "," : "");
			buf_json_str(&b, w->lease, strlen(w->lease));
		}
		buf_str(&b, "]");
	}
	buf_str(&b, "}\n");
	conn_send(r, b.data);
	buf_fini(&b);
}

static void forget_result(struct runner *r, struct work *w, const char *outcome)
{
	if (strcmp(outcome, "lost") == 0)
		run_log("stream %s: its result came too late, somebody else owns it", w->stream);
	work_abandon(r, w);
}

static void on_gone(struct runner *r, yyjson_val *list)
{
	size_t i, n;
	yyjson_val *v;
	yyjson_arr_foreach(list, i, n, v)
	{
		struct work *w = work_find(r, str(v, "lease"));
		if (!w)
			continue;
		if (w->state == WORK_SAYS) {
			forget_result(r, w, str(v, "outcome"));
			continue;
		}
		run_log("stream %s is not ours any more (%s), killing it", w->stream, str(v, "outcome"));
		work_abandon(r, w);
	}
}

static void on_resumed(struct runner *r, yyjson_val *list, mono_ms until_ms)
{
	size_t i, n;
	yyjson_val *v;
	yyjson_arr_foreach(list, i, n, v)
	{
		const char *lease = yyjson_get_str(v);
		struct work *w = lease ? work_find(r, lease) : NULL;
		if (!w || w->answer == ANSWER_NONE)
			continue;
		w->is_seen = true;
		if (w->entries)
			entries_resumed(r, w);
		work_set_until(r, w, until_ms);
	}
}

/* Fences are times of the daemon's clock: in another time namespace they mean nothing, and work would be stopped at
 * once or never. */
static bool has_another_clock(struct runner *r, yyjson_val *root)
{
	mono_ms now = mono_now(), theirs = num(root, "now_ms", now), lease_ms = num(root, "lease_ms", r->lease_ms);
	mono_ms off = theirs > now ? theirs - now : now - theirs;
	if (off <= lease_ms)
		return false;
	run_log("sluiced's clock is %lld ms from ours: we do not share CLOCK_MONOTONIC with it (another time namespace "
		"or host), so "
		"nothing could be stopped in time; leaving",
		(long long)(theirs - now));
	r->exit_code = EXIT_CONFIG;
	r->is_over = true;
	return true;
}

/* Resumed ones go on, answers are told (again), the rest is killed: nobody vouches for it. */
static void on_welcome(struct runner *r, yyjson_val *root)
{
	struct conn *c = &r->conn;
	if (c->state == CONN_UP)
		return;
	if (has_another_clock(r, root))
		return;
	mem_free(c->session);
	c->session = mem_dup(str(root, "session"), strlen(str(root, "session")));
	r->lease_ms = num(root, "lease_ms", r->lease_ms);
	c->state = CONN_UP;
	c->backoff = 0;
	c->said_errno = 0;
	run_log("connected to %s", r->opt->socket);
	on_gone(r, yyjson_obj_get(root, "gone"));
	r->until_ms = until(root);
	on_resumed(r, yyjson_obj_get(root, "resumed"), r->until_ms);
	size_t pos = 0;
	for (struct work *w; (w = map_next(&r->by_lease, &pos));) {
		bool is_resumed = w->is_seen;
		w->is_seen = false;
		if (w->state == WORK_SAYS) {
			work_tell(r, w);
		} else if (!is_resumed && w->answer != ANSWER_NONE) {
			run_log("stream %s was not resumed, killing it", w->stream);
			work_abandon(r, w);
		}
	}
}

static void send_for_lease(struct runner *r, const char *type, const char *lease)
{
	struct buf b;
	buf_init(&b);
	buf_printf(&b, "{\"t\":\"%s\",\"lease\":", type);
	buf_json_str(&b, lease, strlen(lease));
	buf_str(&b, "}\n");
	conn_send(r, b.data);
	buf_fini(&b);
}

/* An assign's until_ms counts for the whole session. Here it only takes away: what it adds, the next ping adds too. */
static void lower_until(struct runner *r, mono_ms until_ms)
{
	bool is_lower = until_ms < r->until_ms; /* nothing has a later one than r->until_ms */
	r->until_ms = until_ms;
	size_t pos = 0;
	for (struct work *w; is_lower && (w = map_next(&r->by_lease, &pos));)
		if (w->until_ms > until_ms)
			work_set_until(r, w, until_ms);
}

static void on_assign(struct runner *r, yyjson_val *root)
{
	struct work_spec spec = {.lease = str(root, "lease"),
		.service = str(root, "service"),
		.stream = str(root, "stream"),
		.id = str(root, "id"),
		.token = str(root, "token"),
		.retry = num(root, "retry", 0),
		.until_ms = until(root)};
	struct work *old = work_find(r, spec.lease);
	if (!*spec.lease || (old && old->answer != ANSWER_NONE))
		return;
	if (old || r->n_stops) { /* its former process is still dying; it crossed our credits 0 */
		send_for_lease(r, "release", spec.lease);
		return;
	}
	spec.pos = yyjson_get_str(yyjson_obj_get(yyjson_obj_get(root, "entries"), "pos"));
	if (r->opt->mode != MODE_STREAM && !spec.pos) {
		run_log("stream %s: service %s is not in entries mode, giving it back", spec.stream, spec.service);
		send_for_lease(r, "release", spec.lease);
		return;
	}
	lower_until(r, spec.until_ms);
	yyjson_val *trace = yyjson_obj_get(root, "trace");
	static const char *const names[TRACE_N] = {"traceparent", "tracestate", "baggage"};
	for (size_t i = 0; i < TRACE_N; i++)
		spec.trace[i] = yyjson_get_str(yyjson_obj_get(trace, names[i]));
	yyjson_val *info = yyjson_obj_get(root, "info");
	char *text = info ? yyjson_val_write_opts(info, YYJSON_WRITE_NOFLAG, &json_alc, &spec.info_len, NULL) : NULL;
	spec.info = text ? text : "null";
	spec.info_len = text ? spec.info_len : strlen("null");
	work_new(r, &spec);
	mem_free(text);
}

static void on_ok(struct runner *r, yyjson_val *root)
{
	struct work *w = work_find(r, str(root, "lease"));
	const char *what = str(root, "for");
	if (w && w->entries && strcmp(what, "nack") == 0)
		entries_nacked(r, w);
	else if (w && w->state == WORK_SAYS && strcmp(what, "ack") != 0)
		work_free(r, w);
}

static void on_entries(struct runner *r, yyjson_val *root)
{
	struct work *w = work_find(r, str(root, "lease"));
	if (w && w->entries)
		entries_take(r, w, yyjson_obj_get(root, "e"));
}

static void on_ended(struct runner *r, yyjson_val *root)
{
	struct work *w = work_find(r, str(root, "lease"));
	if (w)
		work_over(r, w);
}

static void on_revoke(struct runner *r, yyjson_val *root)
{
	const char *lease = str(root, "lease");
	struct work *w = work_find(r, lease);
	mono_ms grace_ms = num(root, "grace_ms", 0);
	if (!w) {
		send_for_lease(r, "revoked", lease); /* nothing of it runs here */
		return;
	}
	if (w->state != WORK_SAYS)
		run_log("stream %s revoked: %s, %lld ms", w->stream, str(root, "reason"), (long long)grace_ms);
	work_revoke(r, w, grace_ms < 0 ? 0 : grace_ms);
}

static void on_ping(struct runner *r, yyjson_val *root)
{
	char frame[64] = "{\"t\":\"pong\"}\n";
	if (yyjson_obj_get(root, "n"))
		snprintf(frame, sizeof(frame), "{\"t\":\"pong\",\"n\":%lld}\n", (long long)num(root, "n", 0));
	conn_send(r, frame);
	if (!yyjson_obj_get(root, "until_ms"))
		return;
	size_t pos = 0;
	r->until_ms = until(root);
	for (struct work *w; (w = map_next(&r->by_lease, &pos));)
		work_set_until(r, w, r->until_ms);
}

static void on_fatal(struct runner *r, const char *code, const char *msg)
{
	static const struct {
		const char *code;
		int exit_code;
	} hopeless[] = {{"bad_version", EXIT_UNAVAILABLE}, {"unauthorized", EXIT_NOPERM}, {"bad_hello", EXIT_CONFIG}};
	for (size_t i = 0; i < sizeof(hopeless) / sizeof(hopeless[0]); i++)
		if (strcmp(code, hopeless[i].code) == 0) {
			run_log("sluiced refuses us: %s: %s", code, msg);
			r->exit_code = hopeless[i].exit_code;
			r->is_over = true;
			return;
		}
	run_log("sluiced ended the session: %s: %s; connecting again", code, msg);
	conn_drop(r);
}

static void on_err(struct runner *r, yyjson_val *root)
{
	const char *code = str(root, "code"), *msg = str(root, "msg");
	struct work *w = work_find(r, str(root, "lease"));
	if (yyjson_get_bool(yyjson_obj_get(root, "fatal"))) {
		on_fatal(r, code, msg);
		return;
	}
	if (strcmp(code, "not_owner") == 0 || strcmp(code, "unknown_lease") == 0) {
		if (!w)
			return; /* it was told to us as gone already */
		run_log("stream %s: %s: %s", w->stream, code, msg);
		work_abandon(r, w);
		return;
	}
	run_log("sluiced says %s: %s", code, msg);
	if (w && w->state == WORK_SAYS) {
		w->say_at = r->now + 1000;
		heap_set(&r->turns, &w->turn, w->say_at);
	}
}

bool frames_act(struct runner *r, char *line, size_t len)
{
	yyjson_doc *doc = yyjson_read_opts(line, len, YYJSON_READ_NUMBER_AS_RAW, &json_alc, NULL);
	yyjson_val *root = yyjson_doc_get_root(doc);
	const char *t = str(root, "t");
	bool is_up = r->conn.state == CONN_UP, is_frame = *t != '\0';
	if (strcmp(t, "welcome") == 0)
		on_welcome(r, root);
	else if (strcmp(t, "err") == 0)
		on_err(r, root);
	else if (strcmp(t, "ping") == 0)
		on_ping(r, root);
	else if (is_up && strcmp(t, "assign") == 0)
		on_assign(r, root);
	else if (is_up && strcmp(t, "ok") == 0)
		on_ok(r, root);
	else if (is_up && strcmp(t, "entries") == 0)
		on_entries(r, root);
	else if (is_up && strcmp(t, "ended") == 0)
		on_ended(r, root);
	else if (is_up && strcmp(t, "revoke") == 0)
		on_revoke(r, root);
	else if (is_up && strcmp(t, "drain") == 0)
		run_log("sluiced drains: no new work will come");
	yyjson_doc_free(doc);
	return is_frame;
}
