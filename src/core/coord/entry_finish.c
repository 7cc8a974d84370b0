/* entry_finish - an entry's journey through the coordinator: locked, taken, assigned, finished, given back. */
#include "core/coord/coord_p.h"
#include <assert.h>
#include <stdio.h>
#include <string.h>

struct credits_service *entry_reserved_of(struct coord *c, const struct coord_service *s)
{
	return &c->place.service[coord_pos(c, s)];
}

/* An entry that counts against the reservations of its service, until it is assigned or leaves the way to it. */
void entry_reserve(struct coord *c, struct coord_service *s, struct entry *e)
{
	assert(e->svc == s->svc);
	if (!e->uses_claim)
		entry_reserved_of(c, s)->reserved++;
	e->uses_claim = true;
}

void entry_unreserve(struct coord *c, struct coord_service *s, struct entry *e)
{
	assert(e->svc == s->svc && (!e->uses_claim || entry_reserved_of(c, s)->reserved > 0));
	if (e->uses_claim)
		entry_reserved_of(c, s)->reserved--;
	e->uses_claim = false;
	coord_mark(c, s);
}

bool entry_is_worked(const struct entry *e)
{
	return e->state == ENTRY_ASSIGNED || e->state == ENTRY_REVOKING;
}

mono_ms entry_stop_at(struct coord *c, const struct entry *e)
{
	if (!e->good_until || e->is_lost || e->state == ENTRY_FINISHING) /* then nobody works on it */
		return MONO_NEVER;
	struct coord_service *s = coord_service(c, e->svc);
	return e->good_until - service_stop_margin(s->rules, e->good_until);
}

bool entry_is_late(struct coord *c, const struct entry *e)
{
	return entry_stop_at(c, e) <= c->now;
}

/* Whoever has nothing to do has nothing to report either. */
static mono_ms progress_deadline(const struct coord *c, const struct entry *e)
{
	mono_ms since = e->feed ? entry_feed_waits_since(e) : e->heard;
	if (e->state != ENTRY_ASSIGNED || !c->rules.progress_timeout_ms || since == MONO_NEVER)
		return MONO_NEVER;
	return mono_max(since, e->heard) + c->rules.progress_timeout_ms;
}

void entry_arm(struct coord *c, struct entry *e)
{
	mono_ms at = entry_stop_at(c, e);
	at = mono_min(at, progress_deadline(c, e));
	if (e->state == ENTRY_ASSIGNED && e->is_suspect)
		at = mono_min(at, e->since + SUSPECT_ALONE_MS);
	ledger_arm(&c->ledger, e, at);
}

/* What leads into a state; how an entry ends says its outcome. */
static const char *move_cause(const struct entry *e, enum entry_state to)
{
	static const char *const outcomes[] = {[FINISH_NONE] = "",
		[FINISH_DONE] = "done",
		[FINISH_REQUEUE] = "goes back",
		[FINISH_DEAD] = "dead letter",
		[FINISH_ACK] = "its data is gone"};
	static const char *const revokes[REVOKE_N] = {
		"its lease is lost", "drain", "no progress in time", "an operator", "the daemon ends"};
	static const char *const causes[ENTRY_STATES] = {[ENTRY_FETCHING] = "pending for us",
		[ENTRY_LOCKING] = "its turn has come",
		[ENTRY_BUSY] = "somebody else has the lock",
		[ENTRY_TAKING] = "the registry is asked",
		[ENTRY_PARKED] = "behind another of its stream",
		[ENTRY_READY] = "taken",
		[ENTRY_ASSIGNED] = "a worker has it",
		[ENTRY_LIMBO] = "its worker went away"};
	if (to == ENTRY_FINISHING)
		return outcomes[e->finish];
	return to == ENTRY_REVOKING ? revokes[e->revoke] : causes[to];
}

void entry_move(struct coord *c, struct entry *e, enum entry_state to, mono_ms deadline)
{
	ledger_move(&c->ledger, e, to, c->now, deadline, c->out, move_cause(e, to));
	entry_arm(c, e);
}

void entry_wait_for_route(struct coord *c)
{
	c->reroute_at = mono_min(c->reroute_at, c->now + REROUTE_MS);
}

/* ---- what goes to shards ---- */

static bool shard_is_on(const struct coord *c, uint16_t shard)
{
	return shard != SHARD_NONE && shard < c->shards.n && c->shards.v[shard].is_on;
}

/* Whether the shard that is asked for the lock may take it, too. */
static bool is_taken_with_lock(struct coord *c, const struct entry *e, uint16_t shard, bool asking)
{
	const struct coord_service *s = coord_service(c, e->svc);
	bool is_readers = shard == s->reader.shard && !asking && !s->reader.asking;
	return is_readers && e->state == ENTRY_LOCKING && !e->is_start && !e->good_until;
}

void entry_send_lease(struct coord *c, struct entry *e, uint16_t shard, bool asking)
{
	assert(e->stream && !e->is_lost);
	if (!shard_is_on(c, shard)) {
		e->lease_shard = SHARD_NONE;
		entry_wait_for_route(c);
		return;
	}
	struct msg *m = coord_send(c, shard,
		msg_lease_acquire((struct msg_lease_acquire){.id = e->id,
			.stream = text_ref(e->stream),
			.good_until = e->good_until,
			.slot = e->lock_slot,
			.asking = asking,
			.is_startup = e->is_start,
			.takes = is_taken_with_lock(c, e, shard, asking)}));
	m->handle = entry_handle(e);
	m->svc = e->svc;
	e->lease_shard = shard;
	e->lease_asking = asking;
}

void entry_drop_lease(struct coord *c, struct entry *e, enum msg_kind kind)
{
	assert(kind == MSG_LEASE_RELEASE || kind == MSG_LEASE_FORGET);
	if (shard_is_on(c, e->lease_shard))
		coord_send(c, e->lease_shard, msg_plain(kind))->handle = entry_handle(e);
	e->lease_shard = SHARD_NONE;
}

static enum cmd_kind entry_op_of(const struct entry *e)
{
	static const enum cmd_kind ops[] = {[FINISH_NONE] = CMD_TAKE,
		[FINISH_DONE] = CMD_DONE,
		[FINISH_REQUEUE] = CMD_REQUEUE,
		[FINISH_DEAD] = CMD_DEAD,
		[FINISH_ACK] = CMD_ACK_DEL};
	if (e->finish == FINISH_REQUEUE && e->delay_ms > 0)
		return CMD_LATER;
	return e->state == ENTRY_FETCHING ? CMD_FETCH : ops[e->finish];
}

/* Whether the next entry of a stream that ends here could begin here at once. */
static bool may_begin(struct coord *c, const struct coord_service *s)
{
	const struct credits_service *cs = entry_reserved_of(c, s);
	return !c->place.is_draining && !cs->is_paused && cs->is_on;
}

/* Sends the operation that the entry's state asks for to the shard of its load-balancer stream. */
static void send_op_to(struct coord *c, struct entry *e, uint16_t shard, bool asking)
{
	if (!shard_is_on(c, shard)) {
		e->op_shard = SHARD_NONE;
		entry_wait_for_route(c);
		return;
	}
	struct coord_service *s = coord_service(c, e->svc);
	struct msg_op op = {.kind = (uint8_t)entry_op_of(e),
		.reason = e->dead_reason,
		.asking = asking,
		.resent = e->op_resent,
		.is_suspect = e->is_suspect,
		.slot = s->rules->lbs_slot,
		.retry = e->retry,
		.id = e->id,
		.stream = text_ref(e->stream)};
	if ((op.kind == CMD_DEAD || op.kind == CMD_LATER) && e->note)
		op.error = text_ref(e->note);
	op.releases =
		e->state == ENTRY_FINISHING && e->lease_shard == shard && !e->lease_asking && !e->feed && !e->is_lost;
	op.unlocks = op.releases && op.kind == CMD_DONE && !c->topo.is_cluster;
	op.is_heir = op.kind == CMD_DONE && may_begin(c, s);
	op.only_look = op.kind == CMD_TAKE && e->verify;
	op.is_fail = op.kind == CMD_LATER && e->why == WHY_FAIL;
	op.delay_ms = op.kind == CMD_LATER ? e->delay_ms : 0;
	struct msg *m = coord_send(c, shard, msg_op(op));
	m->handle = entry_handle(e);
	m->svc = e->svc;
	e->op_shard = shard;
}

void entry_send_op(struct coord *c, struct entry *e)
{
	struct coord_service *s = coord_service(c, e->svc);
	send_op_to(c, e, s->reader.shard, s->reader.asking);
}

static bool awaits_op(const struct entry *e)
{
	enum entry_feed_state feed = e->feed ? (enum entry_feed_state)e->feed->state : ENTRY_FEED_NONE;
	return (e->state == ENTRY_TAKING && feed == ENTRY_FEED_NONE) ||
	       (e->state == ENTRY_FINISHING && feed != ENTRY_FEED_CLOSING) || e->verify ||
	       (e->state == ENTRY_FETCHING && e->deadline == MONO_NEVER);
}

bool entry_awaits_lease(const struct entry *e)
{
	return e->state == ENTRY_LOCKING || (e->good_until && !e->is_lost && e->state != ENTRY_FINISHING);
}

void entry_reroute(struct coord *c)
{
	uint32_t pos = 0;
	for (struct entry *e; (e = ledger_next(&c->ledger, &pos));) {
		if (entry_awaits_lease(e) && e->lease_shard == SHARD_NONE)
			entry_send_lease(c, e, topology_shard(&c->topo, e->lock_slot), false);
		if (awaits_op(e) && e->op_shard == SHARD_NONE)
			entry_send_op(c, e);
		entry_feed_reroute(c, e);
	}
}

/* A shard has stopped: what it was asked may or may not have been done; another one is asked. */
void entry_shard_gone(struct coord *c, uint16_t shard, bool was_heard)
{
	uint32_t pos = 0;
	for (struct entry *e; (e = ledger_next(&c->ledger, &pos));) {
		if (e->lease_shard == shard)
			e->lease_shard = SHARD_NONE;
		entry_feed_shard_gone(e, shard);
		if (e->op_shard == shard) {
			e->op_shard = SHARD_NONE;
			e->op_resent = e->op_resent || was_heard;
		}
	}
	entry_wait_for_route(c);
}

/* ---- leaving ---- */

void entry_leave_lists(struct coord *c, struct entry *e)
{
	if (e->owner)
		worker_free_credit(c, e, true);
	list_remove(&e->peers);
}

void entry_drop(struct coord *c, struct entry *e)
{
	assert(e->gen && entry_reserved_of(c, coord_service(c, e->svc))->owned > 0);
	struct coord_service *s = coord_service(c, e->svc);
	entry_leave_lists(c, e);
	entry_leave_active(c, s, e);
	entry_unreserve(c, s, e);
	entry_start_known(c, e);
	entry_reserved_of(c, s)->owned--;
	ledger_drop(&c->ledger, e);
}

/* A lock whose lease is between two shards is deleted by the one that serves its slot now. */
static void find_lease(struct coord *c, struct entry *e)
{
	uint16_t to = topology_shard(&c->topo, e->lock_slot);
	if (e->lease_shard == SHARD_NONE && !e->is_lost && e->good_until > c->now && shard_is_on(c, to))
		entry_send_lease(c, e, to, false);
}

void entry_release_and_drop(struct coord *c, struct entry *e)
{
	find_lease(c, e);
	entry_drop_lease(c, e, MSG_LEASE_RELEASE);
	entry_drop(c, e);
}

/* ---- operations ---- */

void entry_ready(struct coord *c, struct entry *e)
{
	struct coord_service *s = coord_service(c, e->svc);
	entry_move(c, e, ENTRY_READY, c->now + READY_WAIT_MS);
	if (e->is_suspect) /* it waits for a whole worker, not for a credit */
		entry_unreserve(c, s, e);
	list_push(e->is_suspect ? &s->suspects : &s->ready, &e->peers);
	coord_mark(c, s);
}

void entry_taken(struct coord *c, struct entry *e, enum op_result result, bool was_merged)
{
	struct coord_service *s = coord_service(c, e->svc);
	if (result == OP_PARKED) { /* it waits in Redis, or was merged into what waits there */
		s->is_sifting = true;
		s->m.c[M_MERGED] += was_merged;
	}
	if (result != OP_DONE) {
		entry_release_and_drop(c, e);
	} else if (c->drain.is_on) {
		entry_requeue(c, e, WHY_DRAIN, false);
	} else if (!e->good_until) { /* it was to wait, but nobody runs its stream: it is locked now and taken again */
		entry_lock(c, e);
	} else {
		entry_lead(s, e);
		if (e->feed)
			entry_feed_open(c, e);
		else
			entry_ready(c, e);
		entry_park_followers(c, s, e);
	}
}

static void on_verified(struct coord *c, struct entry *e, const struct msg *m)
{
	e->verify = false;
	if (m->op_result.result == OP_DONE || e->is_lost)
		return;
	entry_not_pending(c, e);
}

static void entry_on_fetched(struct coord *c, struct entry *e, const struct msg *m)
{
	struct coord_service *s = coord_service(c, e->svc);
	if (m->op_result.result == OP_DONE && m->op_result.batch && m->op_result.batch->n == 1) {
		entry_enter_one(c, s, &m->op_result.batch->v[0], false);
		return;
	}
	e->finish = FINISH_ACK; /* pending, but its data is gone */
	entry_move(c, e, ENTRY_FINISHING, MONO_NEVER);
	entry_send_op(c, e);
}

void entry_on_op(struct coord *c, const struct msg *m)
{
	struct entry *e = ledger_by_handle(&c->ledger, m->handle);
	if (!e || (enum cmd_kind)m->op_result.kind != (e->verify ? CMD_TAKE : entry_op_of(e)) || e->op_shard != m->from)
		return;
	e->op_shard = SHARD_NONE;
	if (m->op_result.result == OP_MOVED) {
		e->op_resent = m->op_result.resent;
		uint16_t to = SHARD_NONE;
		char addr[TOPOLOGY_ADDR];
		if (m->op_result.asking && coord_redirection(c, m->from, m->op_result.moved_to, addr))
			to = coord_shard_at(c, addr);
		if (to != SHARD_NONE)
			send_op_to(c, e, to, true);
		else
			entry_wait_for_route(c);
		coord_ask_topology(c, "moved");
		return;
	}
	if (e->verify)
		on_verified(c, e, m);
	else if (e->state == ENTRY_FETCHING)
		entry_on_fetched(c, e, m);
	else if (e->state == ENTRY_TAKING)
		entry_taken(c, e, (enum op_result)m->op_result.result, m->op_result.was_merged);
	else if (e->state == ENTRY_FINISHING)
		entry_on_finished(c, e, m);
}

/* ---- workers ---- */

static void fill_assign(struct coord_service *s, struct entry *e, struct worker *w, struct effect *ef)
{
	char all[SESSION_LEASE_CAP + SESSION_TOKEN_CAP];
	int n_lease = session_lease_format(all, e->id, s->rules->hash);
	int n_id = n_lease - SESSION_LEASE_TAIL;
	int n_token = session_token_format(all + n_lease, e->id);
	struct text *t = text_new(all, (size_t)(n_lease + n_token));
	ef->hold = t;
	ef->hold2 = e->info; /* moves: the payload is freed once its frame is written */
	e->info = NULL;
	ef->hold3 = e->trace;
	e->trace = NULL;
	struct out_frame *f = &ef->frame;
	f->lease = (struct slice){t->bytes, (size_t)n_lease};
	f->assign.id = (struct slice){t->bytes, (size_t)n_id};
	f->assign.token = (struct slice){t->bytes + n_lease, (size_t)n_token};
	f->assign.service = (struct slice){s->rules->name, strlen(s->rules->name)};
	f->assign.stream = (struct slice){e->stream->bytes, e->stream->len};
	f->assign.retry = e->retry;
	f->info = (struct slice){ef->hold2->bytes, ef->hold2->len};
	if (ef->hold3)
		f->assign.trace = (struct slice){ef->hold3->bytes, ef->hold3->len};
	f->assign.has_entries = e->feed != NULL;
	if (e->feed)
		f->entry = e->feed->pos;
	/* what it was told last is a lower bound for what it holds: no need to look at each */
	mono_ms until = e->good_until - TELL_MARGIN_MS;
	f->until_ms = list_empty(&w->entries) ? until : mono_min(w->s.told_until, until);
	w->s.told_until = f->until_ms;
}

void entry_assign(struct coord *c, struct entry *e, struct worker *w)
{
	assert(e->state == ENTRY_READY && w->s.state == SESSION_READY);
	struct coord_service *s = coord_service(c, e->svc);
	entry_unreserve(c, s, e);
	e->owner = w->s.id;
	e->was_told = true;
	e->heard = c->now;
	w->credit_holder.in_use++;
	struct effect *ef = worker_frame(c, w, OUT_ASSIGN);
	fill_assign(s, e, w, ef);
	list_push(&w->entries, &e->peers);
	entry_move(c, e, ENTRY_ASSIGNED, MONO_NEVER);
	if (e->feed)
		entry_feed_start(c, e);
	s->m.c[e->retry ? M_ASSIGN_RECOVERED : M_ASSIGN_NEW]++;
	if (c->wall_ms > (int64_t)e->id.ms)
		hist_add(&s->m.h[H_ASSIGN_LATENCY], (double)(c->wall_ms - (int64_t)e->id.ms) / 1000.0);
}

void entry_resume(struct coord *c, struct entry *e, struct worker *w)
{
	assert(entry_is_worked(e) || e->state == ENTRY_LIMBO);
	struct coord_service *s = coord_service(c, e->svc);
	list_remove(&e->peers);
	e->owner = w->s.id;
	e->heard = c->now;
	w->credit_holder.in_use++;
	w->credit_holder.is_alone |= e->is_suspect;
	list_push(&w->entries, &e->peers);
	if (e->state == ENTRY_LIMBO)
		entry_move(c, e, ENTRY_ASSIGNED, MONO_NEVER);
	entry_lead(s, e);
	if (e->feed && !e->is_revoked)
		entry_feed_resume(c, e);
	s->m.c[M_ASSIGN_RESUMED]++;
}

void entry_limbo(struct coord *c, struct entry *e, mono_ms until)
{
	entry_feed_hold(c, e);
	entry_move(c, e, ENTRY_LIMBO, until);
}

/* Why: e->revoke. */
void entry_tell_revoke(struct coord *c, const struct entry *e, const struct worker *w, mono_ms grace_ms)
{
	assert(e->is_revoked && grace_ms >= 0);
	char lease[SESSION_LEASE_CAP];
	int n = session_lease_format(lease, e->id, coord_service(c, e->svc)->rules->hash);
	struct effect *ef = worker_frame(c, w, OUT_REVOKE);
	ef->hold = text_new(lease, (size_t)n);
	ef->frame.lease = (struct slice){ef->hold->bytes, (size_t)n};
	ef->frame.reason = (enum revoke_reason)e->revoke;
	ef->frame.grace_ms = grace_ms;
}

void entry_revoke(struct coord *c, struct entry *e, enum revoke_reason why, mono_ms grace_ms)
{
	assert(why < REVOKE_N && e->state == ENTRY_ASSIGNED);
	struct worker *w = coord_worker(c, e->owner);
	c->m[MP_REVOKE_LOST + why] += !e->is_revoked;
	e->revoke = (uint8_t)why;
	e->is_revoked = true;
	entry_feed_hold(c, e);
	/* a little after the grace: the worker's own clock must have run out first */
	entry_move(c, e, ENTRY_REVOKING, c->now + grace_ms + TELL_MARGIN_MS);
	if (w)
		entry_tell_revoke(c, e, w, grace_ms);
}

/* Its worker was to let go of it anyway. */
bool entry_was_taken_back(const struct entry *e)
{
	return e->is_lost || (e->is_revoked && e->revoke != REVOKE_TIMEOUT);
}

/* What is known of it: how it ended only its parent knows. */
static struct text *how_it_died(const struct worker *w, bool is_dead)
{
	char words[300] = "worker died";
	if (w)
		snprintf(words, sizeof words,
			is_dead ? "worker died: %.200s (pid %d) ended without a word"
				: "worker died or is lost: %.200s (pid %d) closed its connection and did not come back",
			w->s.name, (int)w->s.pid);
	return text_new(words, strlen(words));
}

bool entry_may_have_killed(const struct coord *c, const struct entry *e)
{
	if (!e->feed || entry_feed_is_out(e))
		return true;
	return !e->feed->has_progress && !e->feed->suspect.is_cleared && c->now - e->since < SUSPECT_ALONE_MS;
}

void entry_worker_ended(struct coord *c, struct entry *e, uint32_t n_blamed, bool is_dead)
{
	assert(e->owner);
	bool is_blamed = n_blamed > 0 && !entry_was_taken_back(e) && entry_may_have_killed(c, e);
	if (is_blamed) {
		e->is_suspect = true;
		text_unref(e->note);
		e->note = how_it_died(coord_worker(c, e->owner), is_dead);
	}
	if (e->feed)
		e->feed->suspect.is_blamed = is_blamed && n_blamed == 1 && entry_feed_is_out(e);
	entry_requeue(c, e, e->is_lost ? WHY_LOST : WHY_WORKER_DIED, is_blamed && n_blamed == 1);
}

void entry_clear_suspect(struct coord *c, struct entry *e)
{
	if (!e->is_suspect)
		return;
	struct worker *w = e->owner ? coord_worker(c, e->owner) : NULL;
	if (w)
		w->credit_holder.is_alone = false;
	e->is_suspect = false;
	entry_feed_share(c, e);
	worker_mark_all(c);
}

void entry_stop_waiting(struct coord *c, struct coord_service *s, struct entry *e)
{
	list_remove(&e->peers);
	list_push(&s->ready, &e->peers);
	e->is_suspect = false;
	e->deadline = c->now + READY_WAIT_MS;
	entry_reserve(c, s, e);
	entry_arm(c, e);
	coord_mark(c, s);
}

/* A suspect that waits for an empty worker. True: it goes on waiting. */
static bool suspect_waits(struct coord *c, struct coord_service *s, struct entry *e)
{
	uint16_t pos = coord_pos(c, s);
	if (e->feed && c->now - e->since >= SUSPECT_WAIT_MS && credits_has_taker(&c->place, pos)) {
		entry_stop_waiting(c, s, e); /* workers of endless streams never run empty */
		return true;
	}
	if (c->now - e->since >= SUSPECT_WAIT_MS ? !credits_run_one_empty(&c->place, pos)
						 : !credits_has_taker(&c->place, pos))
		return false; /* nobody here works on this service: somebody else may */
	e->deadline = c->now + READY_WAIT_MS;
	entry_arm(c, e);
	coord_mark(c, s);
	return true;
}

void entry_stopped(struct coord *c, struct entry *e)
{
	static const enum requeue_why whys[REVOKE_N] = {[REVOKE_LOST] = WHY_LOST,
		[REVOKE_DRAIN] = WHY_DRAIN,
		[REVOKE_TIMEOUT] = WHY_TIMEOUT,
		[REVOKE_OPERATOR] = WHY_OPERATOR,
		[REVOKE_SHUTDOWN] = WHY_DRAIN};
	enum requeue_why why = WHY_RELEASE;
	bool counted = false;
	if (e->is_lost) {
		why = WHY_LOST;
	} else if (e->is_revoked) {
		why = whys[e->revoke];
		counted = e->revoke == REVOKE_TIMEOUT;
		if (e->feed)
			e->feed->suspect.is_blamed = counted && entry_feed_is_out(e);
	}
	entry_requeue(c, e, why, counted);
}

/* ---- time ---- */

static void state_deadline(struct coord *c, struct entry *e)
{
	struct coord_service *s = coord_service(c, e->svc);
	e->deadline = MONO_NEVER;
	switch ((enum entry_state)e->state) {
	case ENTRY_FETCHING:
		entry_send_op(c, e);
		break;
	case ENTRY_BUSY:
		entry_reserve(c, s, e);
		entry_move(c, e, ENTRY_LOCKING, MONO_NEVER);
		entry_send_lease(c, e, topology_shard(&c->topo, e->lock_slot), false);
		break;
	case ENTRY_PARKED:
		entry_park(c, e);
		break;
	case ENTRY_READY:
		if (!e->is_suspect || !suspect_waits(c, s, e))
			entry_requeue(c, e, WHY_NO_CREDIT, false);
		break;
	case ENTRY_REVOKING: /* it was told and did not answer: its credit stays used until it does */
		worker_free_credit(c, e, false);
		e->owner = 0;
		entry_stopped(c, e);
		break;
	case ENTRY_LIMBO:
		if (e->owner && coord_worker(c, e->owner))
			entry_worker_ended(c, e, coord_worker(c, e->owner)->n_blamed, false);
		else
			entry_requeue(c, e, WHY_UNRESUMED, false);
		break;
	case ENTRY_FINISHING: /* its position was not closed in time: its token protects it */
		entry_feed_close(c, e, FEED_END_FORGET);
		entry_send_op(c, e);
		break;
	case ENTRY_LOCKING:
	case ENTRY_TAKING:
	case ENTRY_ASSIGNED:
	case ENTRY_STATES:
		break;
	}
}

void entry_on_due(struct coord *c, struct entry *e)
{
	uint64_t handle = entry_handle(e);
	if (entry_stop_at(c, e) <= c->now)
		entry_fence(c, e);
	else if (progress_deadline(c, e) <= c->now)
		entry_revoke(c, e, REVOKE_TIMEOUT, REVOKE_GRACE_MS);
	else if (e->state == ENTRY_ASSIGNED && e->is_suspect && e->since + SUSPECT_ALONE_MS <= c->now)
		entry_clear_suspect(c, e);
	e = ledger_by_handle(&c->ledger, handle);
	if (e && e->deadline <= c->now) {
		state_deadline(c, e);
		e = ledger_by_handle(&c->ledger, handle);
	}
	if (e)
		entry_arm(c, e);
}
