/* The daemon's frames, one function each. Numbers are kept as text, so that Info reaches the worker value-exact. */
#include "client/client_p.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

static const mono_ms UNTIL_MAX = ((mono_ms)1 << 53) - 1; /* at and above: no fence */
enum { GRACE_RESERVE_MS = 200 };                         /* of the daemon's grace, for the answer to arrive */

static const char *frame_str(yyjson_val *root, const char *key)
{
	const char *s = yyjson_get_str(yyjson_obj_get(root, key));
	return s ? s : "";
}

static int64_t frame_num(yyjson_val *root, const char *key, int64_t absent)
{
	const char *raw = yyjson_get_raw(yyjson_obj_get(root, key));
	if (!raw)
		return absent;
	if (!strpbrk(raw, ".eE"))
		return strtoll(raw, NULL, 10);
	double d = strtod(raw, NULL);
	return d > -9e18 && d < 9e18 ? (int64_t)d : absent;
}

static mono_ms frame_until(yyjson_val *root)
{
	mono_ms ms = frame_num(root, "until_ms", MONO_NEVER);
	return ms >= UNTIL_MAX ? MONO_NEVER : ms;
}

static void hello_resume(struct sluice_worker *w, struct buf *b)
{
	buf_str(b, ",\"session\":");
	buf_json_str(b, w->session, strlen(w->session));
	buf_str(b, ",\"resume\":[");
	size_t pos = 0, n = 0;
	for (struct client_lease *l; (l = map_next(&w->leases.by_name, &pos));) {
		if (l->state == LEASE_GONE)
			continue;
		buf_str(b, n++ ? "," : "");
		buf_json_str(b, l->name, strlen(l->name));
	}
	buf_str(b, "]");
}

void client_hello(struct sluice_worker *w)
{
	struct buf b;
	buf_init(&b);
	buf_str(&b, "{\"t\":\"hello\",\"v\":1,\"name\":");
	buf_json_str(&b, w->hello.name, strlen(w->hello.name));
	buf_printf(&b, ",\"credits\":%d", w->hello.credits);
	for (size_t i = 0; i < w->hello.n_services; i++) {
		buf_str(&b, i ? "," : ",\"services\":[");
		buf_json_str(&b, w->hello.services[i], strlen(w->hello.services[i]));
	}
	buf_str(&b, w->hello.n_services ? "]" : "");
	if (w->hello.is_in_entries_mode)
		buf_str(&b, ",\"entries\":true");
	if (w->session)
		hello_resume(w, &b);
	buf_str(&b, "}\n");
	w->conn.hello_at = mono_now();
	client_send(w, b.data, b.len);
	buf_fini(&b);
}

static void welcome_gone(struct sluice_worker *w, yyjson_val *list)
{
	size_t i, n;
	yyjson_val *v;
	yyjson_arr_foreach(list, i, n, v)
	{
		const char *outcome = frame_str(v, "outcome");
		struct client_lease *l = client_lease_find(w, frame_str(v, "lease"));
		if (!l)
			continue;
		if (l->state != LEASE_SAYS)
			client_note(w, "lease %s is not ours any more (%s)", l->name, outcome);
		else if (strcmp(outcome, "lost") == 0)
			client_note(w, "lease %s: its result came too late, somebody else owns it", l->name);
		client_lease_lose(w, l, false);
	}
}

static void welcome_resumed(struct sluice_worker *w, yyjson_val *list)
{
	size_t i, n;
	yyjson_val *v;
	yyjson_arr_foreach(list, i, n, v)
	{
		const char *lease = yyjson_get_str(v);
		struct client_lease *l = lease ? client_lease_find(w, lease) : NULL;
		if (!l || l->state == LEASE_GONE)
			continue;
		l->is_seen = true;
		client_lease_resumed(w, l);
		client_lease_until(w, l, w->leases.until_ms);
	}
}

/* Fences are times of the daemon's clock: in another time namespace they mean nothing, and work would be stopped at
 * once or never. A welcome was written between our hello and now, however long one of us was stopped. */
static bool client_has_another_clock(struct sluice_worker *w, yyjson_val *root)
{
	mono_ms now = mono_now(), theirs = frame_num(root, "now_ms", now);
	mono_ms lease_ms = frame_num(root, "lease_ms", w->leases.lease_ms);
	if (theirs >= w->conn.hello_at - lease_ms && theirs <= now + lease_ms)
		return false;
	client_fail(w, "clock",
		"sluiced's clock is %lld ms from ours: we do not share CLOCK_MONOTONIC with it (another time namespace "
		"or host), so nothing could be stopped in time; leaving",
		(long long)(theirs - now));
	return true;
}

/* A daemon of 0.1, which says no now_ms, ignores that we want entries and would assign streams without end. */
static bool client_daemon_is_too_old(struct sluice_worker *w, yyjson_val *root)
{
	if (!w->hello.is_in_entries_mode || yyjson_get_raw(yyjson_obj_get(root, "now_ms")))
		return false;
	client_fail(w, "bad_version", "%.64s is older than entries mode, which came with sluiced 0.2",
		frame_str(root, "server"));
	return true;
}

/* Said once: whoever waits for their entries here would wait for ever. */
static void welcome_not_served(struct sluice_worker *w, yyjson_val *list)
{
	char names[200] = "";
	size_t i, n, len = 0;
	yyjson_val *v;
	if (w->said.is_not_served_said || yyjson_arr_size(list) == 0)
		return;
	yyjson_arr_foreach(list, i, n, v)
	{
		const char *name = yyjson_get_str(v);
		if (name && len < sizeof names)
			len += (size_t)snprintf(names + len, sizeof names - len, "%s%.64s", i ? ", " : "", name);
	}
	client_note(w,
		"%s %s in entries mode: this worker takes no entries, and so nothing of %s; sluice-run does with "
		"--each, "
		"--batch or --feed",
		names, yyjson_arr_size(list) == 1 ? "is" : "are", yyjson_arr_size(list) == 1 ? "it" : "them");
	w->said.is_not_served_said = true;
}

/* Resumed ones go on, answers are told (again), the rest is lost: nobody vouches for it. */
static bool client_on_welcome(struct sluice_worker *w, yyjson_val *root, struct sluice_event *e)
{
	if (w->conn.state == CLIENT_UP || client_has_another_clock(w, root) || client_daemon_is_too_old(w, root))
		return false;
	mem_free(w->session);
	w->session = mem_dup(frame_str(root, "session"), strlen(frame_str(root, "session")));
	w->leases.lease_ms = frame_num(root, "lease_ms", w->leases.lease_ms);
	w->conn.state = CLIENT_UP;
	w->conn.backoff = 0;
	mem_free(w->conn.trouble);
	w->conn.trouble = NULL;
	client_note(w, "connected to %s", w->hello.socket);
	welcome_not_served(w, yyjson_obj_get(root, "not_served"));
	welcome_gone(w, yyjson_obj_get(root, "gone"));
	w->leases.until_ms = frame_until(root);
	welcome_resumed(w, yyjson_obj_get(root, "resumed"));
	size_t pos = 0;
	for (struct client_lease *l; (l = map_next(&w->leases.by_name, &pos));) {
		bool is_resumed = l->is_seen;
		l->is_seen = false;
		if (l->state == LEASE_SAYS) {
			client_lease_tell(w, l);
		} else if (!is_resumed && l->state != LEASE_GONE) {
			client_note(w, "lease %s was not resumed", l->name);
			client_lease_lose(w, l, false);
		}
	}
	*e = (struct sluice_event){.type = SLUICE_UP};
	return true;
}

static void client_send_for_lease(struct sluice_worker *w, const char *type, const char *lease)
{
	struct buf b;
	client_frame_begin(&b, type, lease);
	buf_str(&b, "}\n");
	client_send(w, b.data, b.len);
	buf_fini(&b);
}

/* An assign's until_ms counts for the whole session. Here it only takes away: what it adds, the next ping adds too. */
static void client_lower_until(struct sluice_worker *w, mono_ms until_ms)
{
	bool is_lower = until_ms < w->leases.until_ms; /* nothing has a later one than w->until_ms */
	w->leases.until_ms = until_ms;
	size_t pos = 0;
	for (struct client_lease *l; is_lower && (l = map_next(&w->leases.by_name, &pos));)
		if (l->until_ms > until_ms)
			client_lease_until(w, l, until_ms);
}

static void assign_event(struct sluice_worker *w, yyjson_val *root, struct sluice_event *e)
{
	yyjson_val *trace = yyjson_obj_get(root, "trace"), *info = yyjson_obj_get(root, "info");
	*e = (struct sluice_event){.type = SLUICE_ASSIGN,
		.service = frame_str(root, "service"),
		.stream = frame_str(root, "stream"),
		.id = frame_str(root, "id"),
		.token = frame_str(root, "token"),
		.retry = frame_num(root, "retry", 0),
		.traceparent = yyjson_get_str(yyjson_obj_get(trace, "traceparent")),
		.tracestate = yyjson_get_str(yyjson_obj_get(trace, "tracestate")),
		.baggage = yyjson_get_str(yyjson_obj_get(trace, "baggage")),
		.pos = yyjson_get_str(yyjson_obj_get(yyjson_obj_get(root, "entries"), "pos"))};
	w->said.info = info ? yyjson_val_write_opts(info, YYJSON_WRITE_NOFLAG, &json_alc, &e->info_len, NULL) : NULL;
	e->info = w->said.info ? w->said.info : "null";
	e->info_len = w->said.info ? e->info_len : strlen("null");
}

/* A stream of a service that is not in entries mode: somebody else must work on it, so it comes again only after a
 * while, and a backlog of them does not go round and round. Said once a minute. */
static void client_give_back_misfit(struct sluice_worker *w, const struct sluice_event *e, const char *lease)
{
	enum { MISFIT_BACK_MS = 30000, MISFIT_SAY_MS = 60000 };
	struct buf b;
	if (!w->said.misfit_at || w->now >= w->said.misfit_at + MISFIT_SAY_MS) {
		client_note(w,
			"service %s is not in entries mode: its streams, %s for one, are given back for %d s each; "
			"name the services to be served, or leave entries mode",
			e->service, e->stream, MISFIT_BACK_MS / 1000);
		w->said.misfit_at = mono_max(w->now, 1);
	}
	client_frame_begin(&b, "release", lease);
	buf_printf(&b, ",\"retry_ms\":%d}\n", MISFIT_BACK_MS);
	client_send(w, b.data, b.len);
	buf_fini(&b);
}

static bool client_on_assign(struct sluice_worker *w, yyjson_val *root, struct sluice_event *e)
{
	const char *name = frame_str(root, "lease");
	struct client_lease *old = client_lease_find(w, name);
	if (!*name || (old && old->state != LEASE_GONE))
		return false;
	if (old || w->is_leaving) { /* its former work is still ending; it crossed our credits 0 */
		client_send_for_lease(w, "release", name);
		return false;
	}
	assign_event(w, root, e);
	struct entry_id pos = {0, 0};
	if (w->hello.is_in_entries_mode && (!e->pos || !command_id_parse(e->pos, strlen(e->pos), &pos))) {
		client_give_back_misfit(w, e, name);
		return false;
	}
	mono_ms until_ms = frame_until(root);
	client_lower_until(w, until_ms);
	struct client_lease *l = client_lease_new(w, name, until_ms);
	l->has_entries = w->hello.is_in_entries_mode;
	l->done = l->taken = pos;
	e->lease = l->name;
	if (l->fence_ms <= w->now) { /* too late to begin */
		sluice_worker_revoked(w, l->name);
		return false;
	}
	return true;
}

static bool client_on_ok(struct sluice_worker *w, yyjson_val *root, struct sluice_event *e)
{
	struct client_lease *l = client_lease_find(w, frame_str(root, "lease"));
	const char *what = frame_str(root, "for");
	if (!l)
		return false;
	*e = (struct sluice_event){.lease = l->name, .user = l->user, .reason = frame_str(root, "outcome")};
	if (l->is_void && l->state != LEASE_SAYS && strcmp(what, "nack") == 0) {
		l->is_void = false;
		e->type = SLUICE_NACKED;
		return l->state != LEASE_GONE;
	}
	if (l->state != LEASE_SAYS || strcmp(what, "ack") == 0 || strcmp(what, "nack") == 0)
		return false;
	e->type = SLUICE_CONFIRMED;
	map_remove(&w->leases.by_name, l->name, strlen(l->name));
	w->leases.to_free = l; /* after the event */
	return true;
}

static bool client_on_entries(struct sluice_worker *w, yyjson_val *root, struct sluice_event *e)
{
	struct client_lease *l = client_lease_find(w, frame_str(root, "lease"));
	if (!l || !l->has_entries || l->is_void || l->state != LEASE_WORKS)
		return false;
	client_entries_take(w, l, yyjson_obj_get(root, "e"));
	*e = (struct sluice_event){.type = SLUICE_ENTRIES,
		.lease = l->name,
		.user = l->user,
		.n_entries = w->said.entries.n,
		.entries = w->said.entries.list};
	return w->said.entries.n > 0;
}

static void client_on_ended(struct sluice_worker *w, yyjson_val *root)
{
	struct client_lease *l = client_lease_find(w, frame_str(root, "lease"));
	if (l)
		client_lease_lose(w, l, true);
}

static bool client_on_revoke(struct sluice_worker *w, yyjson_val *root, struct sluice_event *e)
{
	const char *lease = frame_str(root, "lease");
	struct client_lease *l = client_lease_find(w, lease);
	mono_ms grace_ms = mono_max(0, frame_num(root, "grace_ms", 0));
	if (!l) {
		client_send_for_lease(w, "revoked", lease); /* nothing of it runs here */
		return false;
	}
	if (l->state == LEASE_SAYS || l->state == LEASE_GONE)
		return false; /* the answer is on its way */
	l->state = LEASE_STOPS;
	mono_ms by = w->now + mono_max(grace_ms - GRACE_RESERVE_MS, grace_ms / 2);
	*e = (struct sluice_event){.type = SLUICE_STOP,
		.lease = l->name,
		.user = l->user,
		.reason = frame_str(root, "reason"),
		.by_ms = mono_min(by, l->stop_ms)};
	return true;
}

static void client_on_ping(struct sluice_worker *w, yyjson_val *root)
{
	char frame[64] = "{\"t\":\"pong\"}\n";
	if (yyjson_obj_get(root, "n"))
		snprintf(frame, sizeof(frame), "{\"t\":\"pong\",\"n\":%lld}\n", (long long)frame_num(root, "n", 0));
	client_send(w, frame, strlen(frame));
	if (!yyjson_obj_get(root, "until_ms"))
		return;
	size_t pos = 0;
	w->leases.until_ms = frame_until(root);
	for (struct client_lease *l; (l = map_next(&w->leases.by_name, &pos));)
		client_lease_until(w, l, w->leases.until_ms);
}

static void client_on_fatal(struct sluice_worker *w, const char *code, const char *msg)
{
	static const char *const hopeless[] = {"bad_version", "unauthorized", "bad_hello"};
	for (size_t i = 0; i < sizeof(hopeless) / sizeof(hopeless[0]); i++)
		if (strcmp(code, hopeless[i]) == 0) {
			client_fail(w, hopeless[i], "sluiced refuses us: %s: %s", code, msg);
			return;
		}
	client_trouble(w, "sluiced ended the session: %s: %s; connecting again", code, msg);
	client_drop(w);
}

static void client_on_err(struct sluice_worker *w, yyjson_val *root)
{
	const char *code = frame_str(root, "code"), *msg = frame_str(root, "msg");
	struct client_lease *l = client_lease_find(w, frame_str(root, "lease"));
	if (yyjson_get_bool(yyjson_obj_get(root, "fatal"))) {
		client_on_fatal(w, code, msg);
		return;
	}
	if (strcmp(code, "not_owner") == 0 || strcmp(code, "unknown_lease") == 0) {
		if (!l)
			return; /* it was told to us as gone already */
		client_note(w, "lease %s: %s: %s", l->name, code, msg);
		client_lease_lose(w, l, false);
		return;
	}
	client_note(w, "sluiced says %s: %s", code, msg);
	if (l && l->is_void && l->state != LEASE_SAYS && l->state != LEASE_GONE && strcmp(code, "bad_field") == 0) {
		client_send_for_lease(w, "release", l->name); /* no answer to the nack will come */
		client_lease_lose(w, l, false);
		return;
	}
	if (l && l->state == LEASE_SAYS)
		heap_set(&w->leases.turns, &l->turn, w->now + 1000);
}

static bool act_while_up(struct sluice_worker *w, const char *t, yyjson_val *root, struct sluice_event *e)
{
	if (strcmp(t, "assign") == 0)
		return client_on_assign(w, root, e);
	if (strcmp(t, "ok") == 0)
		return client_on_ok(w, root, e);
	if (strcmp(t, "entries") == 0)
		return client_on_entries(w, root, e);
	if (strcmp(t, "revoke") == 0)
		return client_on_revoke(w, root, e);
	if (strcmp(t, "ended") == 0)
		client_on_ended(w, root);
	*e = (struct sluice_event){.type = SLUICE_DRAIN};
	return strcmp(t, "drain") == 0;
}

/* In its place: strings of the document are those of the line, which nothing moves before the next is looked at. For
 * yyjson 4 bytes behind it have to be NUL; there stands the next line, which gets its bytes back. */
static yyjson_doc *client_read_frame(char *line, size_t len)
{
	char next[YYJSON_PADDING_SIZE];
	memcpy(next, line + len, sizeof(next));
	memset(line + len, 0, sizeof(next));
	yyjson_doc *doc = yyjson_read_opts(line, len, YYJSON_READ_NUMBER_AS_RAW | YYJSON_READ_INSITU, &json_alc, NULL);
	memcpy(line + len + 1, next + 1, sizeof(next) - 1);
	return doc;
}

bool client_act(struct sluice_worker *w, char *line, size_t len, struct sluice_event *e)
{
	w->said.doc = client_read_frame(line, len);
	yyjson_val *root = yyjson_doc_get_root(w->said.doc);
	const char *t = frame_str(root, "t");
	if (yyjson_is_true(yyjson_obj_get(root, "end"))) {
		client_trouble(w,
			"this is not the worker protocol: %s is sluiced's control.socket, and not its workers.socket",
			w->hello.socket);
		client_drop(w);
		return false;
	}
	if (!*t) {
		client_trouble(w, "this is not the worker protocol: %.80s", root ? "JSON without `t`" : line);
		client_drop(w);
		return false;
	}
	if (strcmp(t, "welcome") == 0)
		return client_on_welcome(w, root, e);
	if (strcmp(t, "err") == 0)
		client_on_err(w, root);
	else if (strcmp(t, "ping") == 0)
		client_on_ping(w, root);
	else
		return w->conn.state == CLIENT_UP && act_while_up(w, t, root, e);
	return false;
}
