/* The verbs that steer: pause, resume, drain, undrain, release, requeue, revoke, add, scan, topology refresh,
 * reload. */
#include "run/control/control.h"
#include "run/control/down.h"

#include "base/instant.h"

#include <stdio.h>
#include <string.h>

/* ---- pause, resume */

static void set_paused(struct control_req *q, enum coord_ctl_kind kind)
{
	uint16_t svc = SERVICE_NONE;
	if (q->r.service) {
		const struct coord_service *s = control_service(q, q->r.service);
		if (!s)
			return;
		svc = s->svc;
	}
	control_ctl(q, &(struct coord_ctl){.kind = kind, .svc = svc});
	const struct coord *c = q->d->core;
	for (uint16_t i = 0; i < c->services.n; i++) {
		const struct coord_service *s = &c->services.v[i];
		if (!s->rules || s->is_going || (svc != SERVICE_NONE && s->svc != svc))
			continue;
		struct ctl_service_row row = {.service = s->rules->name, .paused = c->place.service[i].is_paused};
		ctl_encode_service_row(&q->out, &row);
	}
	control_end(q, 0, NULL);
}

void control_pause(struct control_req *q)
{
	set_paused(q, CTL_PAUSE);
}

void control_resume(struct control_req *q)
{
	set_paused(q, CTL_RESUME);
}

/* ---- drain */

static void drain_row(struct control_req *q, mono_ms now)
{
	const struct coord *c = q->d->core;
	struct ctl_drain row = {.draining = c->drain.is_on,
		.owned = c->ledger.n,
		.workers = c->workers.n,
		.elapsed_ms = c->drain.is_on ? mono_max(0, now - c->drain.began) : 0};
	ctl_encode_drain(&q->out, &row);
}

static mono_ms drain_step(struct control_req *q, mono_ms now)
{
	const struct coord *c = q->d->core;
	mono_ms *next_row = q->job;
	bool done = c->ledger.n == 0;
	if (done || !c->drain.is_on || now >= *next_row) {
		drain_row(q, now);
		*next_row = now + 1000;
	}
	if (done)
		control_end(q, 0, NULL);
	else if (!c->drain.is_on)
		control_end(q, 1, "the drain was ended by somebody else, %u still owned", c->ledger.n);
	return now + 50;
}

void control_drain(struct control_req *q)
{
	control_ctl(q, &(struct coord_ctl){.kind = CTL_DRAIN, .svc = SERVICE_NONE});
	if (q->r.wait) {
		control_job(q, drain_step, mem_alloc(sizeof(mono_ms)), mem_free);
		return;
	}
	drain_row(q, loop_now(q->d->loop));
	control_end(q, 0, NULL);
}

void control_undrain(struct control_req *q)
{
	control_ctl(q, &(struct coord_ctl){.kind = CTL_UNDRAIN, .svc = SERVICE_NONE});
	drain_row(q, loop_now(q->d->loop));
	if (q->d->core->drain.is_on)
		control_end(q, 1, "the daemon is stopping: the drain goes on");
	else
		control_end(q, 0, NULL);
}

/* ---- release, requeue */

static const char *refusal(const struct entry *e)
{
	switch ((enum entry_state)e->state) {
	case ENTRY_BUSY:
		return "somebody else holds its lock";
	case ENTRY_LIMBO:
		return "its worker's connection dropped and may come back; it goes back by itself when not";
	case ENTRY_FETCHING:
		return "it is being read";
	case ENTRY_LOCKING:
	case ENTRY_TAKING:
	case ENTRY_PARKED:
	case ENTRY_READY:
	case ENTRY_ASSIGNED:
	case ENTRY_REVOKING:
	case ENTRY_FINISHING:
	case ENTRY_STATES:
		break;
	}
	return "its state does not allow it";
}

/* Returns whether it goes back. */
static bool control_give_back_one(struct control_req *q, uint64_t handle)
{
	struct coord *c = q->d->core;
	const struct entry *e = ledger_by_handle(&c->ledger, handle);
	const struct coord_service *s = e ? services_find(&c->services, e->svc) : NULL;
	if (!s)
		return false;
	char id[COMMAND_ID_CAP];
	command_id_format(id, e->id);
	struct text *stream = e->stream ? text_ref(e->stream) : text_new("", 0);
	struct ctl_stream_action row = {
		.service = s->rules->name, .stream = stream->bytes, .id = id, .result = "requeued"};
	bool was_ending = e->state == ENTRY_FINISHING;
	control_ctl(q, &(struct coord_ctl){.kind = CTL_GIVE_BACK, .svc = e->svc, .handle = handle});
	e = ledger_by_handle(&c->ledger, handle);
	if (was_ending) {
		row.result = "gone";
		row.error = "its outcome is known already";
	} else if (e && e->state == ENTRY_REVOKING) {
		row.result = "revoking";
	} else if (e && e->state != ENTRY_FINISHING) {
		row.result = "error";
		row.error = refusal(e);
	}
	ctl_encode_stream_action(&q->out, &row);
	text_unref(stream);
	return !row.error;
}

void control_give_back(struct control_req *q)
{
	struct view_match m;
	if (!control_match(q, &m))
		return;
	const struct ledger *l = &q->d->core->ledger;
	uint64_t *handles = NULL;
	size_t n = 0, n_done = 0;
	uint32_t pos = 0;
	for (const struct entry *e; (e = ledger_next(l, &pos));) {
		if (!view_matches(&m, e))
			continue;
		if ((n & (n - 1)) == 0)
			handles = mem_grow(handles, n ? 2 * n : 1, sizeof *handles);
		handles[n++] = entry_handle(e);
	}
	for (size_t i = 0; i < n; i++)
		n_done += control_give_back_one(q, handles[i]);
	mem_free(handles);
	if (n_done)
		control_end(q, 0, NULL);
	else if (n)
		control_end(q, 1, "%s cannot be given back now", q->r.stream);
	else
		control_end(q, 1, "%s is not held by this daemon", q->r.stream);
}

/* ---- revoke */

static bool is_meant(const struct worker *m, const char *worker)
{
	char number[24];
	snprintf(number, sizeof number, "%llu", (unsigned long long)m->s.id);
	return strcmp(m->s.name, worker) == 0 || strcmp(number, worker) == 0;
}

/* Several workers of one name: which is meant, is not ours to guess. */
static void refuse_ambiguous(struct control_req *q, const uint64_t *ids, size_t n)
{
	struct buf list;
	buf_init(&list);
	for (size_t i = 0; i < n && i < 8; i++) {
		const struct worker *m = workers_find(&q->d->core->workers, ids[i]);
		if (m)
			buf_printf(&list, "%s%llu (pid %lld)", i ? ", " : "", (unsigned long long)m->s.id,
				(long long)m->s.pid);
	}
	control_end(q, 1, "%zu workers are called %.100s: say which session: %s%s", n, q->r.worker,
		list.data ? list.data : "", n > 8 ? ", …" : "");
	buf_fini(&list);
}

void control_revoke(struct control_req *q)
{
	struct coord *c = q->d->core;
	uint64_t *ids = mem_array(c->workers.by_session.n + 1, sizeof *ids);
	size_t n = 0;
	for (struct link *l = c->workers.all.next; l != &c->workers.all; l = l->next) {
		const struct worker *m = LIST_OF(struct worker, all, l);
		if (!m->is_gone && m->s.state != SESSION_NEW && is_meant(m, q->r.worker))
			ids[n++] = m->s.id;
	}
	if (n > 1) {
		refuse_ambiguous(q, ids, n);
		mem_free(ids);
		return;
	}
	for (size_t i = 0; i < n; i++) {
		const struct worker *m = workers_find(&c->workers, ids[i]);
		if (!m)
			continue;
		int64_t streams = 0;
		for (const struct link *l = m->entries.next; l != &m->entries; l = l->next)
			streams += LIST_OF(struct entry, peers, l)->state == ENTRY_ASSIGNED;
		char session[24];
		snprintf(session, sizeof session, "%llu", (unsigned long long)ids[i]);
		struct ctl_revoke row = {.worker = m->s.name, .session = session, .streams = streams};
		ctl_encode_revoke(&q->out, &row);
		control_ctl(q, &(struct coord_ctl){.kind = CTL_REVOKE, .svc = SERVICE_NONE, .session = ids[i]});
	}
	mem_free(ids);
	if (n)
		control_end(q, 0, NULL);
	else
		control_end(q, 1, "no worker is called %s", q->r.worker);
}

/* ---- add */

enum { ADD_WINDOW = 256 };

struct add_job {
	uint16_t svc;
	uint32_t n, n_sent, n_answered;
	bool has_failed;
	int64_t at_ms; /* Unix; 0 = by the request's in_ms */
	char why[400];
};

static void add_name(const struct control_req *q, uint32_t index, char *out, size_t cap)
{
	if (q->r.count > 1)
		snprintf(out, cap, "%s-%u", q->r.stream, index + 1);
	else
		snprintf(out, cap, "%s", q->r.stream);
}

static void add_result(
	struct control_req *q, uint32_t index, enum op_result result, struct entry_id id, const char *text)
{
	struct add_job *j = q->job;
	j->n_answered++;
	if (result == OP_DONE) {
		size_t cap = strlen(q->r.stream) + 16;
		char id_text[COMMAND_ID_CAP], *name = mem_alloc(cap);
		add_name(q, index, name, cap);
		command_id_format(id_text, id);
		struct ctl_added row = {.service = q->r.service, .stream = name, .id = id_text};
		ctl_encode_added(&q->out, &row);
		mem_free(name);
	} else if (!j->has_failed) {
		j->has_failed = true;
		const char *why = result == OP_MOVED ? "Redis moved; try again"
						     : "no answer from Redis: it may have been added all the same";
		snprintf(j->why, sizeof j->why, "%s", text && text[0] ? text : why);
	}
	control_wake(q);
}

static mono_ms add_step(struct control_req *q, mono_ms now)
{
	struct add_job *j = q->job;
	size_t cap = strlen(q->r.stream) + 16;
	char *name = mem_alloc(cap);
	while (!j->has_failed && j->n_sent < j->n && j->n_sent - j->n_answered < ADD_WINDOW && !control_is_full(q)) {
		add_name(q, j->n_sent, name, cap);
		struct coord_ctl ctl = {.kind = CTL_ADD,
			.svc = j->svc,
			.request = q->first + j->n_sent,
			.stream = {name, strlen(name)},
			.delay_ms = q->r.in_ms,
			.at_ms = j->at_ms};
		if (q->r.info)
			ctl.info = (struct slice){q->r.info, strlen(q->r.info)};
		j->n_sent++;
		control_ctl(q, &ctl);
	}
	mem_free(name);
	if (j->has_failed && j->n_answered == j->n_sent)
		control_end(q, 1, "%s", j->why);
	else if (j->n_answered == j->n)
		control_end(q, 0, NULL);
	return control_is_full(q) ? now + 5 : MONO_NEVER;
}

/* Is one of the names to be added a key of the daemons' own? Then the request is answered. */
static bool is_refused(struct control_req *q, const struct coord_service *s)
{
	char why[OWN_WHY_CAP];
	size_t cap = strlen(q->r.stream) + 16;
	char *text = mem_alloc(cap);
	bool is_own = false;
	for (uint32_t i = 0; i < (uint32_t)q->r.count && !is_own; i++) {
		add_name(q, i, text, cap);
		struct own_name name = {.bytes = text, .len = strlen(text)};
		name.is_position = command_is_position_key(name.bytes, name.len);
		is_own = services_is_own_key(&q->d->core->services, s, &name, why);
	}
	mem_free(text);
	if (is_own)
		control_end(q, 64, "%s", why);
	return is_own;
}

void control_add(struct control_req *q)
{
	const struct coord_service *s = control_service(q, q->r.service);
	if (!s || is_refused(q, s))
		return;
	if (!q->d->core->topo.is_known) {
		control_end(q, 1, "Redis is not reachable: %s; nothing was sent", down_topology(q->d));
		return;
	}
	char down[DOWN_WORDS_CAP];
	if (down_words(q->d, s->reader.shard, NULL, down)) {
		control_end(q, 1, "%s; nothing was sent", down);
		return;
	}
	int64_t at_ms = 0;
	if (q->r.at && (q->r.in_ms || !instant_parse(q->r.at, &at_ms))) { /* its form was checked with the request */
		control_end(q, 64, "add: --in and --at do not go together");
		return;
	}
	struct add_job *j = mem_alloc(sizeof *j);
	j->at_ms = at_ms;
	j->svc = s->svc;
	j->n = (uint32_t)q->r.count;
	control_numbers(q, j->n, add_result);
	control_job(q, add_step, j, mem_free);
}

/* ---- scan */

void control_scan(struct control_req *q)
{
	const struct coord_service *s = control_service(q, q->r.service);
	if (!s)
		return;
	const struct coord *c = q->d->core;
	bool can = s->reader.shard != SHARD_NONE && c->shards.v[s->reader.shard].is_up[CONN_COMMAND];
	struct ctl_scan row = {.service = s->rules->name, .result = can ? "started" : "error"};
	row.redis = s->reader.shard != SHARD_NONE ? c->topo.nodes[s->reader.shard].addr : NULL;
	char down[DOWN_WORDS_CAP];
	if (!can && !down_words(q->d, s->reader.shard, NULL, down)) {
		if (row.redis)
			snprintf(down, sizeof down, "redis %.300s is not connected yet", row.redis);
		else
			down_no_master(q->d, s->rules->name, s->rules->lbs_slot, down);
	}
	row.error = can ? NULL : down;
	if (can)
		control_ctl(q, &(struct coord_ctl){.kind = CTL_SCAN, .svc = s->svc});
	ctl_encode_scan(&q->out, &row);
	control_end(q, can ? 0 : 1, can ? NULL : "%s", row.error);
}

/* ---- topology refresh */

struct refresh_job {
	mono_ms asked, look_down, give_up;
	uint64_t n_failed;
	bool is_started;
	uint16_t n;
	bool *was_master;
	struct buf *slots;
};

static void refresh_free(void *job)
{
	struct refresh_job *j = job;
	view_slots_free(j->slots, j->n);
	mem_free(j->was_master);
	mem_free(j);
}

static void refresh_rows(struct control_req *q)
{
	const struct refresh_job *j = q->job;
	const struct topology *t = &q->d->core->topo;
	struct buf *slots = view_slots(t);
	for (uint16_t i = 0; i < t->n_nodes; i++) {
		bool was = i < j->n && j->was_master[i], is = t->nodes[i].is_master;
		if (!was && !is)
			continue;
		const char *before = i < j->n && j->slots[i].len ? j->slots[i].data : "";
		const char *after = slots[i].len ? slots[i].data : "";
		struct ctl_topology row = {.redis = t->nodes[i].addr,
			.role = is ? "master" : "leaving",
			.slots = after[0] ? after : NULL,
			.change = !was                         ? "new"
				  : !is                        ? "gone"
				  : strcmp(before, after) == 0 ? "same"
							       : "moved"};
		ctl_encode_topology(&q->out, &row);
	}
	view_slots_free(slots, t->n_nodes);
}

/* Redis is known to be down, or was never up: that is said, after it had a moment to come back. */
static bool refresh_is_down(struct control_req *q, char why[static DOWN_WORDS_CAP])
{
	const struct daemon *d = q->d;
	if (d->core->topo.is_known)
		return down_all(d, why);
	snprintf(why, DOWN_WORDS_CAP, "no master is known yet: %.500s", down_topology(d));
	return true;
}

static mono_ms refresh_step(struct control_req *q, mono_ms now)
{
	char down[DOWN_WORDS_CAP];
	struct refresh_job *j = q->job;
	const struct coord *c = q->d->core;
	if (!j->is_started) { /* a look-up that was under way before counts only when it began after us */
		control_ctl(q, &(struct coord_ctl){.kind = CTL_REFRESH, .svc = SERVICE_NONE});
		j->is_started = true;
	}
	if (c->look_up.asked <= j->asked || c->look_up.is_pending) {
		if (now >= j->give_up)
			control_end(
				q, 1, "no answer from Redis: %s", q->d->topo.why[0] ? q->d->topo.why : "still asking");
		else if (now >= j->look_down && refresh_is_down(q, down))
			control_end(q, 1, "%s", down);
		return now + 5;
	}
	if (c->m[MP_TOPO_OTHER_ERROR] + c->m[MP_TOPO_PERIODIC_ERROR] + c->m[MP_TOPO_MOVED_ERROR] != j->n_failed) {
		control_end(q, 1, "%s", down_all(q->d, down) ? down : q->d->topo.why);
		return now;
	}
	refresh_rows(q);
	control_end(q, 0, NULL);
	return now;
}

void control_refresh(struct control_req *q)
{
	const struct coord *c = q->d->core;
	struct refresh_job *j = mem_alloc(sizeof *j);
	j->asked = c->look_up.is_pending ? c->look_up.asked - 1 : c->look_up.asked;
	j->look_down = loop_now(q->d->loop) + DOWN_LOOK_MS;
	j->give_up = loop_now(q->d->loop) + 4000;
	j->n_failed = c->m[MP_TOPO_OTHER_ERROR] + c->m[MP_TOPO_PERIODIC_ERROR] + c->m[MP_TOPO_MOVED_ERROR];
	j->n = c->topo.n_nodes;
	j->was_master = mem_array((size_t)j->n + 1, sizeof *j->was_master);
	for (uint16_t i = 0; i < j->n; i++)
		j->was_master[i] = c->topo.nodes[i].is_master;
	j->slots = view_slots(&c->topo);
	control_job(q, refresh_step, j, refresh_free);
}

/* ---- reload */

static void control_reload_row(void *arg, const char *path, const char *before, const char *after, const char *class)
{
	struct control_req *q = arg;
	struct ctl_reload row = {.setting = path,
		.result = strcmp(class, "needs restart") == 0 ? "needs_restart" : class,
		.from = before,
		.to = after};
	ctl_encode_reload(&q->out, &row);
}

void control_reload(struct control_req *q)
{
	struct err err;
	size_t before = q->out.len;
	if (daemon_reload(q->d, control_reload_row, q, &err) != ERR_OK) {
		struct ctl_reload row = {.result = "rejected", .problem = err.text};
		ctl_encode_reload(&q->out, &row);
		control_end(q, 78, "%s", err.text);
		return;
	}
	if (q->out.len == before) {
		struct ctl_reload row = {.result = "unchanged"};
		ctl_encode_reload(&q->out, &row);
	}
	control_end(q, 0, NULL);
}
