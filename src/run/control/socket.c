/* The control socket: connections, requests, their ends.
 *
 * Happy path: accept -> bytes up to a newline -> ctl_decode -> the verb -> rows -> the final line -> close.
 * Failure: too many connections, a request that does not decode, silence: one final line, then close. A client
 * that goes away ends its request; what it asked the coordinator for is done all the same. */
#include "run/control/control.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"

struct control_socket {
	struct daemon *d;
	struct unix_listener *listener;
	struct link reqs;
	size_t n_reqs;
	uv_timer_t timer; /* the pump */
	mono_ms pump_at;
	uint32_t last_number;
	struct control_events *events;
	bool is_closing;
};

static void on_pump(uv_timer_t *t);

static void control_socket_arm(struct control_socket *c, mono_ms at)
{
	mono_ms now = loop_now(c->d->loop);
	if (c->is_closing || at >= c->pump_at)
		return;
	c->pump_at = at;
	/* At least 1 ms: libuv runs a timer of 0 again before it looks at any socket. */
	uv_timer_start(&c->timer, on_pump, at > now ? (uint64_t)(at - now) : 1, 0);
}

/* ---- one request's life */

void control_flush(struct control_req *q)
{
	if (q->conn && q->out.len)
		unix_write(q->conn, q->out.data, q->out.len);
	buf_clear(&q->out);
}

void control_wake(struct control_req *q)
{
	q->wake_at = 0;
	control_socket_arm(q->door, 0);
}

void control_end(struct control_req *q, int exit, const char *fmt, ...)
{
	if (q->is_ended)
		return;
	char text[700];
	struct ctl_end end = {.exit = exit, .error = fmt ? text : NULL};
	if (fmt) {
		va_list ap;
		va_start(ap, fmt);
		vsnprintf(text, sizeof text, fmt, ap);
		va_end(ap);
	}
	ctl_encode_end(&q->out, &end);
	control_flush(q);
	if (q->conn)
		unix_close(q->conn, true);
	q->conn = NULL;
	q->is_ended = true;
	control_wake(q);
}

void control_job(struct control_req *q, control_step_fn *step, void *job, void (*job_free)(void *job))
{
	q->step = step;
	q->job = job;
	q->job_free = job_free;
	control_wake(q);
}

bool control_is_full(const struct control_req *q)
{
	return q->conn && unix_write_pending(q->conn) > CONTROL_PENDING_MAX;
}

static void req_free(struct control_req *q)
{
	list_remove(&q->all);
	q->door->n_reqs--;
	control_events_forget(q->door->events, q);
	if (q->job_free)
		q->job_free(q->job);
	if (q->conn)
		unix_close(q->conn, false);
	buf_fini(&q->in);
	buf_fini(&q->out);
	ctl_request_fini(&q->r);
	mem_free(q);
}

void control_go_on(struct control_req *q)
{
	if (!q->is_ended) {
		q->wake_at = MONO_NEVER;
		mono_ms at = q->step(q, loop_now(q->d->loop));
		q->wake_at = mono_min(q->wake_at, at);
		control_flush(q);
	}
	control_socket_arm(q->door, q->is_ended ? 0 : q->wake_at);
}

static void on_pump(uv_timer_t *t)
{
	struct control_socket *c = t->data;
	mono_ms now = loop_now(c->d->loop), next = MONO_NEVER;
	c->pump_at = MONO_NEVER;
	for (struct link *l = c->reqs.next, *after; l != &c->reqs; l = after) {
		struct control_req *q = LIST_OF(struct control_req, all, l);
		after = l->next;
		if (!q->is_ended && q->step && q->wake_at <= now) {
			q->wake_at = MONO_NEVER;
			mono_ms at = q->step(q, now);
			q->wake_at = mono_min(q->wake_at, at);
			control_flush(q);
		}
		if (q->is_ended)
			req_free(q);
		else
			next = mono_min(next, q->wake_at);
	}
	control_socket_arm(c, next);
}

uint32_t control_numbers(struct control_req *q, uint32_t n, control_result_fn *fn)
{
	struct control_socket *c = q->door;
	if (c->last_number > UINT32_MAX - n)
		c->last_number = 0; /* who asked with those numbers has gone long ago */
	q->first = c->last_number + 1;
	q->n_numbers = n;
	q->result = fn;
	c->last_number += n;
	return q->first;
}

void control_ctl(struct control_req *q, const struct coord_ctl *ctl)
{
	struct coord_event ev = {.kind = COORD_CTL, .ctl = ctl};
	daemon_step(q->d, &ev);
}

struct coord_service *control_service_held(struct control_req *q, const char *name)
{
	struct coord *core = q->d->core;
	for (uint16_t i = 0; i < core->services.n; i++) {
		struct coord_service *s = &core->services.v[i];
		if (s->rules && strcmp(s->rules->name, name) == 0)
			return s;
	}
	control_end(q, 1, "service %s is not configured", name);
	return NULL;
}

struct coord_service *control_service(struct control_req *q, const char *name)
{
	struct coord_service *s = control_service_held(q, name);
	if (s && s->is_going)
		control_end(q, 1, "service %s is not configured any more", name);
	return s && !s->is_going ? s : NULL;
}

void control_metrics(struct control_req *q)
{
	struct buf page;
	buf_init(&page);
	metrics_page(q->d, &page);
	struct ctl_metrics row = {.text = page.data ? page.data : ""};
	ctl_encode_metrics(&q->out, &row);
	buf_fini(&page);
	control_end(q, 0, NULL);
}

static void run_verb(struct control_req *q)
{
	static control_verb_fn *const verbs[CTL_VERB_N] = {
		[CTL_VERB_STATUS] = control_status,
		[CTL_VERB_LS] = control_ls,
		[CTL_VERB_SHOW] = control_show,
		[CTL_VERB_EXPLAIN] = control_explain,
		[CTL_VERB_WORKERS] = control_workers,
		[CTL_VERB_NODES] = control_nodes,
		[CTL_VERB_PAUSE] = control_pause,
		[CTL_VERB_RESUME] = control_resume,
		[CTL_VERB_DRAIN] = control_drain,
		[CTL_VERB_UNDRAIN] = control_undrain,
		[CTL_VERB_RELEASE] = control_give_back,
		[CTL_VERB_REQUEUE] = control_give_back,
		[CTL_VERB_REVOKE] = control_revoke,
		[CTL_VERB_ADD] = control_add,
		[CTL_VERB_SCAN] = control_scan,
		[CTL_VERB_TOPOLOGY_REFRESH] = control_refresh,
		[CTL_VERB_DLQ_LS] = control_dlq,
		[CTL_VERB_DLQ_SHOW] = control_dlq,
		[CTL_VERB_DLQ_REPLAY] = control_dlq,
		[CTL_VERB_DLQ_PURGE] = control_dlq,
		[CTL_VERB_ENTRIES_DLQ_LS] = control_dlq,
		[CTL_VERB_ENTRIES_DLQ_SHOW] = control_dlq,
		[CTL_VERB_ENTRIES_DLQ_REPLAY] = control_dlq,
		[CTL_VERB_ENTRIES_DLQ_PURGE] = control_dlq,
		[CTL_VERB_FLEET] = control_fleet,
		[CTL_VERB_DELAYED_LS] = control_waits,
		[CTL_VERB_DELAYED_NOW] = control_waits,
		[CTL_VERB_DELAYED_DROP] = control_waits,
		[CTL_VERB_RELOAD] = control_reload,
		[CTL_VERB_DOCTOR] = control_doctor,
		[CTL_VERB_METRICS] = control_metrics,
		[CTL_VERB_EVENTS] = control_events,
		[CTL_VERB_VERSION] = control_version,
	};
	verbs[q->r.verb](q);
	control_flush(q);
}

/* ---- the socket */

static void control_socket_on_accept(void *arg, struct unix_conn *conn, const struct unix_peer *peer)
{
	struct control_socket *c = arg;
	(void)peer;
	struct control_req *q = mem_alloc(sizeof *q);
	q->door = c;
	q->d = c->d;
	q->conn = conn;
	q->since = loop_now(c->d->loop);
	q->wake_at = MONO_NEVER;
	list_push(&c->reqs, &q->all);
	unix_set_data(conn, q);
	q->is_excess = ++c->n_reqs > CONTROL_CONNS_MAX;
	if (c->n_reqs > 2 * CONTROL_CONNS_MAX)
		control_end(q, CONTROL_UNAVAILABLE, "too many control connections");
}

static void control_socket_on_data(void *arg, struct unix_conn *conn, const char *bytes, size_t len)
{
	struct control_req *q = unix_data(conn);
	(void)arg;
	if (q->has_request || q->is_ended)
		return; /* one request a connection */
	const char *newline = memchr(bytes, '\n', len);
	buf_add(&q->in, bytes, newline ? (size_t)(newline - bytes) + 1 : len);
	if (!newline && q->in.len <= CTL_REQUEST_MAX)
		return;
	q->has_request = true;
	struct err err;
	if (ctl_decode(q->in.data, q->in.len, &q->r, &err) != ERR_OK)
		control_end(q, 64, "%s", err.text);
	else if (q->is_excess) /* said now, so that it is read: a socket closed with a request in it loses the answer */
		control_end(
			q, CONTROL_UNAVAILABLE, "the daemon serves %d control connections already", CONTROL_CONNS_MAX);
	else
		run_verb(q);
}

static void control_socket_on_end(void *arg, struct unix_conn *conn, int pidfd)
{
	struct control_req *q = unix_data(conn);
	(void)arg;
	if (pidfd >= 0)
		close(pidfd);
	q->conn = NULL;
	q->is_ended = true;
	control_wake(q);
}

/* ---- the door */

enum err_code control_socket_open(struct daemon *d, int fd, struct control_socket **out, struct err *err)
{
	static const struct unix_events events = {.on_accept = control_socket_on_accept,
		.on_data = control_socket_on_data,
		.on_end = control_socket_on_end,
		.spare_fds = 24};
	struct control_socket *c = mem_alloc(sizeof *c);
	c->d = d;
	c->pump_at = MONO_NEVER;
	list_init(&c->reqs);
	const struct config *cf = d->config;
	enum err_code code = unix_listen(loop_uv(d->loop), cf->control.socket, fd, (mode_t)cf->control.mode,
		cf->control.group, &events, c, &c->listener, err);
	if (code) {
		mem_free(c);
		return code;
	}
	uv_timer_init(loop_uv(d->loop), &c->timer);
	c->timer.data = c;
	c->events = control_events_open(d);
	*out = c;
	return ERR_OK;
}

static void control_socket_on_closed(uv_handle_t *h)
{
	mem_free(h->data);
}

void control_socket_close(struct control_socket *c)
{
	if (!c)
		return;
	c->is_closing = true;
	while (!list_empty(&c->reqs)) {
		struct control_req *q = LIST_OF(struct control_req, all, c->reqs.next);
		control_end(q, CONTROL_UNAVAILABLE, "the daemon is stopping");
		req_free(q);
	}
	mem_free(c->d->fleet.told);
	c->d->fleet.told = NULL;
	c->d->fleet.n = 0;
	control_events_close(c->events);
	unix_unlisten(c->listener, true);
	uv_close((uv_handle_t *)&c->timer, control_socket_on_closed);
}

void control_socket_result(
	struct control_socket *c, uint32_t request, enum op_result result, struct entry_id id, const char *text)
{
	for (struct link *l = c->reqs.next; l != &c->reqs; l = l->next) {
		struct control_req *q = LIST_OF(struct control_req, all, l);
		if (q->is_ended || request - q->first >= q->n_numbers)
			continue;
		q->result(q, request - q->first, result, id, text);
		return;
	}
}

void control_socket_tick(struct control_socket *c, mono_ms now)
{
	control_fleet_tick(c->d, now);
	for (struct link *l = c->reqs.next; l != &c->reqs; l = l->next) {
		struct control_req *q = LIST_OF(struct control_req, all, l);
		if (!q->has_request && !q->is_ended && now - q->since > CONTROL_IDLE_MS)
			control_end(q, 64, "no request within %d s", CONTROL_IDLE_MS / 1000);
	}
}

struct control_events *control_socket_events(struct control_socket *c)
{
	return c->events;
}
