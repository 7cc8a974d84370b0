/* The verbs that look: status, ls, show, workers, nodes, version. */
#include "run/control/control.h"
#include "run/control/down.h"
#include "run/control/lag.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- status */

static struct ctl_status_redis *redis_rows(struct control_req *q, const struct buf *slots, size_t *n)
{
	const struct coord *c = q->d->core;
	struct ctl_status_redis *rows = mem_array((size_t)c->shards.n + 1, sizeof *rows);
	*n = 0;
	for (uint16_t i = 0; i < c->shards.n; i++) {
		const struct coord_shard *s = &c->shards.v[i];
		if (!s->is_on && !s->is_refused)
			continue;
		bool up = s->is_up[CONN_COMMAND];
		const struct snapshot *snap = q->d->shards.snapshots[i];
		rows[(*n)++] = (struct ctl_status_redis){.redis = c->topo.nodes[i].addr,
			.state = up && snap && snap->handoff.n_relaxed ? "relaxed"
				 : up                                  ? "connected"
				 : s->why[0]                           ? "down"
								       : "connecting",
			.breaker_open = snap && snap->handoff.breaker == BREAKER_OPEN,
			.slots = slots[i].len ? slots[i].data : NULL,
			.down_ms = up ? -1 : mono_max(0, loop_now(q->d->loop) - s->down_since),
			.error = !up && s->why[0] ? s->why : NULL};
	}
	return rows;
}

static int64_t age_or_none(int64_t wall_ms, uint64_t oldest_ms)
{
	return oldest_ms == UINT64_MAX ? -1 : view_age_ms(wall_ms, (struct entry_id){.ms = oldest_ms});
}

static struct ctl_status_service *service_rows(struct control_req *q, size_t *n)
{
	const struct coord *c = q->d->core;
	int64_t wall_ms = mono_wall_ms();
	struct view_service *v = view_services(q->d);
	struct ctl_status_service *rows = mem_array((size_t)c->services.n + 1, sizeof *rows);
	*n = 0;
	for (uint16_t i = 0; i < c->services.n; i++) {
		const struct coord_service *s = &c->services.v[i];
		if (!s->rules || (s->is_going && !c->place.service[i].owned))
			continue;
		struct ctl_status_service *row = &rows[(*n)++];
		*row = (struct ctl_status_service){.service = s->rules->name,
			.paused = c->place.service[i].is_paused,
			.credits = v[i].credits,
			.credits_in_use = v[i].in_use,
			.workers = v[i].workers,
			.lbs_length = v[i].lbs,
			.lbs_pending = v[i].pending,
			.dlq_length = v[i].dlq,
			.entries_dlq_length = v[i].entries_dlq,
			.streams_idle = s->rules->entries.is_on ? v[i].feeds.idle : -1,
			.unassigned_oldest_age_ms = age_or_none(wall_ms, v[i].oldest_unassigned_ms),
			.owned_oldest_age_ms = age_or_none(wall_ms, v[i].oldest_ms)};
		memcpy(row->owned.n, v[i].n, sizeof row->owned.n);
	}
	mem_free(v);
	return rows;
}

/* Cuts text at its newlines; v points into it. */
static size_t split_lines(char *text, const char **v, size_t cap)
{
	size_t n = 0;
	for (char *save = NULL, *line = strtok_r(text, "\n", &save); line && n < cap;
		line = strtok_r(NULL, "\n", &save))
		v[n++] = line;
	return n;
}

static void end_not_ready(struct control_req *q, const struct ctl_texts *reasons)
{
	struct buf words;
	buf_init(&words);
	for (size_t i = 0; i < reasons->n; i++)
		buf_printf(&words, "%s%s", i ? "; " : "", reasons->v[i]);
	control_end(q, 1, "%s", words.len ? words.data : "no reason is known");
	buf_fini(&words);
}

void control_status(struct control_req *q)
{
	struct daemon *d = q->d;
	const struct coord *c = d->core;
	struct buf why;
	buf_init(&why);
	const char *reasons[64];
	bool ready = daemon_ready(d, &why);
	char *text = buf_take(&why);
	struct buf *slots = view_slots(&c->topo);
	struct ctl_status row = {.ready = ready,
		.draining = c->drain.is_on,
		.reasons = {.v = reasons, .n = split_lines(text, reasons, 64)},
		.node = d->config->node.id,
		.version = SLUICE_VERSION,
		.pid = getpid(),
		.uptime_ms = mono_now() - d->clock.started_at,
		.workers = c->workers.n};
	row.redis = redis_rows(q, slots, &row.n_redis);
	row.services = service_rows(q, &row.n_services);
	ctl_encode_status(&q->out, &row);
	mem_free((void *)(uintptr_t)row.redis);
	mem_free((void *)(uintptr_t)row.services);
	view_slots_free(slots, c->topo.n_nodes);
	if (q->r.ready && !ready)
		end_not_ready(q, &row.reasons);
	else
		control_end(q, 0, NULL);
	mem_free(text);
}

/* ---- ls, show */

struct stream_texts { /* what a row points to */
	char position[COMMAND_ID_CAP], id[COMMAND_ID_CAP], token[SESSION_TOKEN_CAP], lease[SESSION_LEASE_CAP];
};

static void stream_row(
	struct control_req *q, const struct entry *e, int64_t lag, struct stream_texts *t, struct ctl_stream *row)
{
	struct coord *c = q->d->core;
	const struct coord_service *s = services_find(&c->services, e->svc);
	const struct worker *m = e->owner ? workers_find(&c->workers, e->owner) : NULL;
	mono_ms now = loop_now(q->d->loop);
	command_id_format(t->id, e->id);
	session_token_format(t->token, e->id);
	entry_lease_format(t->lease, e, s ? s->rules->hash : 0);
	*row = (struct ctl_stream){.service = s ? s->rules->name : "",
		.stream = e->stream ? e->stream->bytes : NULL,
		.id = t->id,
		.lease = t->lease,
		.state = view_state(e, now),
		.worker = m ? m->s.name : NULL,
		.retry = e->retry,
		.age_ms = view_age_ms(mono_wall_ms(), e->id),
		.assigned_ms = m && e->assigned_at && e->state != ENTRY_FINISHING ? now - e->assigned_at : -1,
		.until_ms = m && m->s.told_until ? m->s.told_until : -1,
		.token = t->token,
		.note = e->note && e->state == ENTRY_ASSIGNED ? e->note->bytes : NULL,
		.tries = -1,
		.lag = lag,
		.unacked_ms = -1};
	if (!e->feed || e->feed->state == ENTRY_FEED_NONE)
		return;
	command_id_format(t->position, e->feed->pos);
	row->position = t->position;
	row->tries = e->feed->tries;
	mono_ms waits = entry_feed_waits_since(e);
	row->unacked_ms = waits == MONO_NEVER ? -1 : mono_max(0, now - waits);
}

struct ls_row {
	uint64_t ms, seq, handle;
};

struct ls_job { /* of ls and show */
	struct lag *lag;
	bool is_show;
	size_t n, at;
	struct ls_row rows[];
};

static void ls_free(void *job)
{
	struct ls_job *j = job;
	lag_free(j->lag);
	mem_free(j);
}

static int by_id(const void *a, const void *b)
{
	const struct ls_row *x = a, *y = b;
	return entry_id_cmp((struct entry_id){x->ms, x->seq}, (struct entry_id){y->ms, y->seq});
}

static void show_entry(struct control_req *q, const struct entry *e, int64_t lag);

static void ls_put(struct control_req *q, const struct entry *e, int64_t lag)
{
	const struct ls_job *j = q->job;
	struct stream_texts texts;
	struct ctl_stream row;
	if (j->is_show) {
		show_entry(q, e, lag);
		return;
	}
	stream_row(q, e, lag, &texts, &row);
	ctl_encode_stream(&q->out, &row);
}

static mono_ms ls_step(struct control_req *q, mono_ms now)
{
	struct ls_job *j = q->job;
	const mono_ms lag_wait = lag_waits(j->lag);
	if (lag_wait)
		return now + lag_wait;
	if (control_is_full(q))
		return now + 5;
	for (size_t k = 0; k < CONTROL_CHUNK && j->at < j->n; k++) {
		const struct entry *e = ledger_by_handle(&q->d->core->ledger, j->rows[j->at].handle);
		if (e && lag_ask(j->lag, e))
			return now + lag_waits(j->lag);
		int64_t lag = lag_take(j->lag);
		j->at++;
		if (e)
			ls_put(q, e, lag);
	}
	if (j->at == j->n)
		control_end(q, 0, NULL);
	return now;
}

static bool ls_wants(const struct control_req *q, const struct entry *e, uint16_t svc, int64_t wall_ms)
{
	return (svc == SERVICE_NONE || e->svc == svc) &&
	       (q->r.state == CTL_STATE_N || view_state(e, loop_now(q->d->loop)) == q->r.state) &&
	       (!q->r.older_than_ms || view_age_ms(wall_ms, e->id) > q->r.older_than_ms);
}

void control_ls(struct control_req *q)
{
	if (q->r.waiting) {
		control_waits(q);
		return;
	}
	const struct ledger *l = &q->d->core->ledger;
	uint16_t svc = SERVICE_NONE;
	if (q->r.service) {
		const struct coord_service *s = control_service_held(q, q->r.service);
		if (!s)
			return;
		svc = s->svc;
	}
	struct ls_job *j = mem_alloc(sizeof *j + (size_t)l->n * sizeof j->rows[0]);
	j->lag = lag_new(q);
	int64_t wall_ms = mono_wall_ms();
	uint32_t pos = 0;
	for (const struct entry *e; (e = ledger_next(l, &pos));)
		if (ls_wants(q, e, svc, wall_ms))
			j->rows[j->n++] = (struct ls_row){e->id.ms, e->id.seq, entry_handle(e)};
	qsort(j->rows, j->n, sizeof j->rows[0], by_id);
	if (q->r.limit && (size_t)q->r.limit < j->n)
		j->n = (size_t)q->r.limit;
	control_job(q, ls_step, j, ls_free);
	if (j->n <= CONTROL_CHUNK)
		ls_step(q, loop_now(q->d->loop));
}

static void show_entry(struct control_req *q, const struct entry *e, int64_t lag)
{
	struct daemon *d = q->d;
	const struct coord_service *s = services_find(&d->core->services, e->svc);
	mono_ms now = loop_now(d->loop);
	struct stream_texts texts;
	struct ctl_show row = {.renewed_ms = -1, .lease_left_ms = -1, .progress_ms = -1, .dead_entries = -1};
	char dead[COMMAND_ID_CAP];
	if (e->feed) {
		row.dead_entries = e->feed->trouble->losses.n_dead;
		command_id_format(dead, e->feed->trouble->losses.dead);
		row.dead_entry = e->feed->trouble->losses.n_dead ? dead : NULL;
	}
	stream_row(q, e, lag, &texts, &row.stream);
	char session[24], lbs[160] = "";
	snprintf(session, sizeof session, "%llu", (unsigned long long)e->owner);
	row.session = e->owner ? session : NULL;
	if (s) {
		snprintf(lbs, sizeof lbs, "%s-input", s->rules->name);
		row.lbs = lbs;
		row.lbs_redis = view_addr(d, s->rules->lbs_slot);
	}
	char *lock = e->stream ? view_lock_key(e) : NULL;
	row.lock = lock;
	if (lock)
		row.lock_redis = view_addr(d, e->lock_slot);
	if (e->good_until) {
		row.lock_value = d->shards.rules.lock_value;
		row.lease_left_ms = mono_max(0, e->good_until - now);
		if (s)
			row.renewed_ms = mono_max(0, now - (e->good_until - s->rules->lease.ttl_ms));
	}
	if (e->state == ENTRY_ASSIGNED)
		row.progress_ms = now - mono_max(e->heard, e->since);
	row.info.text = e->info ? e->info->bytes : NULL;
	ctl_encode_show(&q->out, &row);
	mem_free(lock);
}

bool control_match(struct control_req *q, struct view_match *m)
{
	uint16_t svc = SERVICE_NONE;
	if (q->r.service) {
		const struct coord_service *s = control_service_held(q, q->r.service);
		if (!s)
			return false;
		svc = s->svc;
	}
	view_match_init(m, q->r.stream, svc);
	return true;
}

void control_show(struct control_req *q)
{
	const struct ledger *l = &q->d->core->ledger;
	struct view_match m;
	if (!control_match(q, &m))
		return;
	struct ls_job *j = mem_alloc(sizeof *j + (size_t)l->n * sizeof j->rows[0]);
	j->lag = lag_new(q);
	j->is_show = true;
	uint32_t pos = 0;
	for (const struct entry *e; (e = ledger_next(l, &pos));)
		if (view_matches(&m, e))
			j->rows[j->n++] = (struct ls_row){e->id.ms, e->id.seq, entry_handle(e)};
	control_job(q, ls_step, j, ls_free);
	if (!j->n)
		control_end(q, 1, "%s is not held by this daemon; sluicectl explain looks further", q->r.stream);
	else if (j->n <= CONTROL_CHUNK)
		ls_step(q, loop_now(q->d->loop));
}

/* ---- workers */

static const char *worker_state(const struct coord *c, const struct worker *m)
{
	if (m->s.state == SESSION_DETACHED)
		return "limbo";
	if (m->s.state != SESSION_READY)
		return "connecting";
	if (c->drain.is_on)
		return "draining"; /* every one was told so */
	if (m->credit_holder.credits == 0 && m->credit_holder.in_use > 0)
		return "leaving"; /* it finishes what it has and takes no more */
	return "active";
}

void control_workers(struct control_req *q)
{
	const struct coord *c = q->d->core;
	mono_ms now = loop_now(q->d->loop);
	for (struct link *l = c->workers.all.next; l != &c->workers.all; l = l->next) {
		const struct worker *m = LIST_OF(struct worker, all, l);
		if (m->is_gone || m->s.state == SESSION_NEW)
			continue;
		char session[24];
		snprintf(session, sizeof session, "%llu", (unsigned long long)m->s.id);
		const char *services[SERVICES_MAX];
		size_t n = 0;
		for (uint16_t i = 0; !m->credit_holder.all_services && i < c->services.n; i++)
			if (m->credit_holder.wanted[i] && c->services.v[i].rules)
				services[n++] = c->services.v[i].rules->name;
		struct ctl_worker row = {.name = m->s.name,
			.session = session,
			.pid = m->s.pid,
			.uid = (int64_t)m->s.uid,
			.credits = m->credit_holder.credits,
			.in_use = m->credit_holder.in_use,
			.services = {.v = services, .n = n},
			.state = worker_state(c, m),
			.connected_ms = now - m->s.connected_at,
			.until_ms = m->s.told_until ? m->s.told_until : -1};
		ctl_encode_worker(&q->out, &row);
	}
	control_end(q, 0, NULL);
}

/* ---- nodes */

/* snap: what its thread said of it a moment ago; NULL = nothing yet. */
static struct ctl_connection connection(enum conn_role role, bool is_up, const struct snapshot_conn *snap)
{
	static const char *const names[CONN_ROLES] = {
		[CONN_COMMAND] = "command", [CONN_READER] = "reader", [CONN_SUBSCRIBER] = "subscriber"};
	return (struct ctl_connection){.role = names[role],
		.state = is_up ? "ready" : "connecting",
		.handoff = snap ? snapshot_conn_word(snap) : "idle",
		.relaxed = snap && snap->is_relaxed,
		.address = snap && snap->endpoint[0] ? snap->endpoint : NULL,
		.peer = snap && snap->peer[0] ? snap->peer : NULL,
		.error = snap && snap->why[0] ? snap->why : NULL};
}

static const struct snapshot_conn *said_of(const struct snapshot *snap, enum conn_role role)
{
	for (size_t k = 0; snap && k < snap->n_conns; k++)
		if (snap->conns[k].role == role)
			return &snap->conns[k];
	return NULL;
}

static void node_row(struct control_req *q, uint16_t i, const char *slots)
{
	const struct coord *c = q->d->core;
	const struct coord_shard *s = &c->shards.v[i];
	const struct snapshot *snap = q->d->shards.snapshots[i];
	struct ctl_connection *conns = mem_array((snap ? snap->n_conns : 0) + CONN_ROLES, sizeof *conns);
	size_t n = 0;
	conns[n++] = connection(
		CONN_COMMAND, s->is_up[CONN_COMMAND], said_of(snap, CONN_COMMAND)); /* fresher than the snapshot */
	if (q->d->config->redis.keyspace_events != CONFIG_KEYSPACE_OFF)
		conns[n++] = connection(CONN_SUBSCRIBER, s->is_up[CONN_SUBSCRIBER], said_of(snap, CONN_SUBSCRIBER));
	for (size_t k = 0; snap && k < snap->n_conns; k++)
		if (snap->conns[k].role == CONN_READER)
			conns[n++] = connection(CONN_READER, snap->conns[k].is_up, &snap->conns[k]);
	struct ctl_node row = {.redis = c->topo.nodes[i].addr,
		.role = c->topo.nodes[i].is_master ? "master" : "leaving",
		.slots = slots,
		.state = s->is_up[CONN_COMMAND] ? "connected"
			 : s->why[0]            ? "down"
						: "connecting",
		.connections = conns,
		.n_connections = n,
		.breaker = snap ? breaker_state_name((enum breaker_state)snap->handoff.breaker) : "closed",
		.lag_ms = snap ? snap->lag_ms : -1};
	ctl_encode_node(&q->out, &row);
	mem_free(conns);
}

/* Behind Sentinel: who says which master it is. */
static void sentinel_rows(struct control_req *q)
{
	static const char *const words[] = {[SENTINEL_UNASKED] = "unasked",
		[SENTINEL_ANSWERS] = "answers",
		[SENTINEL_KNOWS_NOT] = "knows no such master",
		[SENTINEL_REFUSES] = "refuses us",
		[SENTINEL_SILENT] = "silent"};
	enum sentinel_heard heard;
	const char *addr;
	for (size_t i = 0; (addr = topology_client_sentinel(q->d->topo.client, i, &heard)); i++) {
		struct ctl_node row = {
			.redis = addr, .role = "sentinel", .state = words[heard], .breaker = "closed", .lag_ms = -1};
		ctl_encode_node(&q->out, &row);
	}
}

void control_nodes(struct control_req *q)
{
	const struct coord *c = q->d->core;
	if (!c->topo.is_known) {
		sentinel_rows(q);
		control_end(q, 1, "no master is known yet: %s", down_topology(q->d));
		return;
	}
	struct buf *slots = view_slots(&c->topo);
	for (uint16_t i = 0; i < c->shards.n; i++)
		if (c->shards.v[i].is_on || c->shards.v[i].is_refused)
			node_row(q, i, slots[i].len ? slots[i].data : NULL);
	view_slots_free(slots, c->topo.n_nodes);
	sentinel_rows(q);
	control_end(q, 0, NULL);
}

void control_version(struct control_req *q)
{
	struct ctl_version row = {.version = SLUICE_VERSION,
		.node = q->d->config->node.id,
		.pid = getpid(),
		.control = CTL_PROTOCOL,
		.worker = 1};
	ctl_encode_version(&q->out, &row);
	control_end(q, 0, NULL);
}
