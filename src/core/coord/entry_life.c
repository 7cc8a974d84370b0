/* entry_life - an entry's record in the coordinator: reservations, its moves and their deadlines, how it leaves. */
#include "core/coord/coord_p.h"
#include <assert.h>

enum { AWAY_MS = 2000, AWAY_AGAIN_MS = 2000, AWAY_JITTER_PCT = 25 };

struct credits_service *entry_reserved_of(struct coord *c, const struct coord_service *s)
{
	return &c->place.service[services_pos(&c->services, s)];
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
	services_mark(&c->services, s);
}

/* The master that it waits for, where that is not its load-balancer stream's: streams of others go on meanwhile. */
static uint16_t waits_for(const struct coord_service *s, const struct entry *e)
{
	uint16_t shard = SHARD_NONE;
	if (e->state == ENTRY_LOCKING)
		shard = e->lease_shard;
	else if (e->state == ENTRY_TAKING && e->feed)
		shard = e->feed->shard;
	return shard == s->reader.shard ? SHARD_NONE : shard;
}

void entry_look_at_claim(struct coord *c, struct coord_service *s, struct entry *e)
{
	const uint16_t shard = waits_for(s, e);
	if (shard >= c->shards.n || c->now - e->since < CLAIM_MS)
		return;
	c->shards.v[shard].stuck_at = c->now;
	if (e->uses_claim)
		entry_unreserve(c, s, e);
}

static bool is_stuck(const struct coord *c, const struct coord_service *s, uint16_t slot)
{
	const uint16_t shard = topology_shard(&c->topo, slot);
	return shard < c->shards.n && shard != s->reader.shard && c->shards.v[shard].stuck_at &&
	       c->now - c->shards.v[shard].stuck_at < STUCK_MS;
}

void entry_reserve_for_lock(struct coord *c, struct coord_service *s, struct entry *e)
{
	if (is_stuck(c, s, e->lock_slot) || (e->feed && is_stuck(c, s, e->feed->slot)))
		entry_unreserve(c, s, e);
	else
		entry_reserve(c, s, e);
}

bool entry_is_worked(const struct entry *e)
{
	return e->state == ENTRY_ASSIGNED || e->state == ENTRY_REVOKING;
}

bool entry_is_ending(const struct entry *e)
{
	return e->state == ENTRY_FINISHING && e->owner && e->wants_reply && e->ok_for == OK_FOR_ENDED;
}

mono_ms entry_stop_at(struct coord_services *ss, const struct entry *e)
{
	if (!e->good_until || e->is_lost || (e->state == ENTRY_FINISHING && !entry_is_ending(e)))
		return MONO_NEVER; /* nobody works on it */
	struct coord_service *s = services_find(ss, e->svc);
	return e->good_until - service_stop_margin(s->rules, e->good_until);
}

bool entry_is_late(struct coord *c, const struct entry *e)
{
	return entry_stop_at(&c->services, e) <= c->now;
}

/* Whoever has nothing to do has nothing to report either. */
static mono_ms progress_deadline(const struct coord_rules *r, const struct entry *e)
{
	mono_ms since = e->feed ? entry_feed_waits_since(e) : e->heard;
	if (e->state != ENTRY_ASSIGNED || !r->progress_timeout_ms || since == MONO_NEVER)
		return MONO_NEVER;
	return mono_max(since, e->heard) + r->progress_timeout_ms;
}

void entry_arm(struct coord *c, struct entry *e)
{
	mono_ms at = entry_stop_at(&c->services, e);
	at = mono_min(at, progress_deadline(&c->rules, e));
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

/* Own ones of the start wait: their workers may be at work. Where the master is the one of the load-balancer stream
 * nothing could be given back either. */
mono_ms entry_waits_until(struct coord *c, const struct entry *e, uint16_t slot)
{
	const struct coord_service *s = services_find(&c->services, e->svc);
	const uint16_t shard = topology_shard(&c->topo, slot);
	if (e->is_start || shard == s->reader.shard)
		return MONO_NEVER;
	bool is_down = shards_is_on(&c->shards, shard) && !c->shards.v[shard].is_up[CONN_COMMAND];
	return mono_max(c->now, (is_down ? c->shards.v[shard].down_since : c->now) + AWAY_MS);
}

/* ---- leaving ---- */

void entry_leave_lists(struct coord *c, struct entry *e)
{
	if (e->owner)
		worker_free_credit(c, e, true);
	list_remove(&e->peers);
}

void entry_run_over(struct coord *c, struct entry *e, int hist)
{
	if (e->assigned_at)
		hist_add(&services_find(&c->services, e->svc)->m.h[hist], (double)(c->now - e->assigned_at) / 1000.0);
	e->assigned_at = 0;
}

void entry_drop(struct coord *c, struct entry *e)
{
	assert(e->gen && entry_reserved_of(c, services_find(&c->services, e->svc))->owned > 0);
	struct coord_service *s = services_find(&c->services, e->svc);
	entry_run_over(c, e, H_DURATION_OTHER);
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
	if (e->lease_shard == SHARD_NONE && !e->is_lost && e->good_until > c->now && shards_is_on(&c->shards, to))
		entry_send_lease(c, e, to, false);
}

void entry_release_and_drop(struct coord *c, struct entry *e)
{
	find_lease(c, e);
	entry_drop_lease(c, e, MSG_LEASE_RELEASE);
	entry_drop(c, e);
}

/* ---- time ---- */

static void limbo_is_over(struct coord *c, struct entry *e)
{
	struct worker *w = e->owner ? workers_find(&c->workers, e->owner) : NULL;
	if (!w)
		entry_requeue(c, e, WHY_UNRESUMED, false);
	else if (!worker_gives_back_later(c, w))
		entry_worker_ended(c, e, w->end.n_blamed, false);
}

static void state_deadline(struct coord *c, struct entry *e)
{
	struct coord_service *s = services_find(&c->services, e->svc);
	e->deadline = MONO_NEVER;
	switch ((enum entry_state)e->state) {
	case ENTRY_FETCHING:
		entry_send_op(c, e);
		break;
	case ENTRY_BUSY:
		entry_reserve_for_lock(c, s, e);
		entry_move(c, e, ENTRY_LOCKING, entry_waits_until(c, e, e->lock_slot));
		entry_send_lease(c, e, topology_shard(&c->topo, e->lock_slot), false);
		break;
	case ENTRY_PARKED:
		entry_park(c, e);
		break;
	case ENTRY_READY:
		if (!e->is_suspect || !entry_suspect_waits(c, s, e))
			entry_requeue(c, e, WHY_NO_CREDIT, false);
		break;
	case ENTRY_REVOKING: /* it was told and did not answer: its credit stays used until it does */
		entry_say_running(c, e);
		worker_free_credit(c, e, false);
		e->owner = 0;
		entry_stopped(c, e);
		break;
	case ENTRY_LIMBO:
		limbo_is_over(c, e);
		break;
	case ENTRY_FINISHING: /* its position was not closed in time: its token protects it */
		entry_feed_close(c, e, FEED_END_FORGET);
		entry_send_op(c, e);
		break;
	case ENTRY_LOCKING:
	case ENTRY_TAKING: /* the master of its lock, or of its data stream, is away: others may have its credit */
		entry_put_off(c, e, rng_jitter(&c->rng, AWAY_AGAIN_MS, AWAY_JITTER_PCT));
		break;
	case ENTRY_ASSIGNED:
	case ENTRY_STATES:
		break;
	}
}

void entry_on_due(struct coord *c, struct entry *e)
{
	uint64_t handle = entry_handle(e);
	if (entry_stop_at(&c->services, e) <= c->now)
		entry_fence(c, e);
	else if (progress_deadline(&c->rules, e) <= c->now) {
		entry_say_silent(c, e);
		entry_revoke(c, e, REVOKE_TIMEOUT, REVOKE_GRACE_MS);
	} else if (e->state == ENTRY_ASSIGNED && e->is_suspect && e->since + SUSPECT_ALONE_MS <= c->now)
		entry_clear_suspect(c, e);
	e = ledger_by_handle(&c->ledger, handle);
	if (e && e->deadline <= c->now) {
		state_deadline(c, e);
		e = ledger_by_handle(&c->ledger, handle);
	}
	if (e)
		entry_arm(c, e);
}
