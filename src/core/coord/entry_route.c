/* entry_route - what entries ask of shards: leases and operations, sent where the map says, sent again when it changes,
 * and what became of an operation. */
#include "core/coord/coord_p.h"
#include <assert.h>

void entry_wait_for_route(struct coord *c)
{
	c->reroute_at = mono_min(c->reroute_at, c->now + REROUTE_MS);
}

/* ---- what goes to shards ---- */

/* Whether the shard that is asked for the lock may take it, too. */
static bool is_taken_with_lock(struct coord_services *ss, const struct entry *e, uint16_t shard, bool asking)
{
	const struct coord_service *s = services_find(ss, e->svc);
	bool is_readers = shard == s->reader.shard && !asking && !s->reader.asking;
	return is_readers && e->state == ENTRY_LOCKING && !e->is_start && !e->good_until;
}

void entry_send_lease(struct coord *c, struct entry *e, uint16_t shard, bool asking)
{
	assert(e->stream && !e->is_lost);
	if (!shards_is_on(&c->shards, shard)) {
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
			.takes = is_taken_with_lock(&c->services, e, shard, asking)}));
	m->handle = entry_handle(e);
	m->svc = e->svc;
	e->lease_shard = shard;
	e->lease_asking = asking;
}

void entry_drop_lease(struct coord *c, struct entry *e, enum msg_kind kind)
{
	assert(kind == MSG_LEASE_RELEASE || kind == MSG_LEASE_FORGET);
	if (shards_is_on(&c->shards, e->lease_shard))
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
	if (!shards_is_on(&c->shards, shard)) {
		e->op_shard = SHARD_NONE;
		entry_wait_for_route(c);
		return;
	}
	struct coord_service *s = services_find(&c->services, e->svc);
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
	op.tries = op.kind == CMD_LATER && e->feed ? e->feed->trouble->n_noted : 0;
	op.delay_ms = op.kind == CMD_LATER ? e->delay_ms : 0;
	struct msg *m = coord_send(c, shard, msg_op(op));
	m->handle = entry_handle(e);
	m->svc = e->svc;
	e->op_shard = shard;
}

void entry_send_op(struct coord *c, struct entry *e)
{
	struct coord_service *s = services_find(&c->services, e->svc);
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

void entry_ready(struct coord *c, struct entry *e)
{
	struct coord_service *s = services_find(&c->services, e->svc);
	entry_move(c, e, ENTRY_READY, c->now + READY_WAIT_MS);
	if (e->is_suspect) /* it waits for a whole worker, not for a credit */
		entry_unreserve(c, s, e);
	else
		entry_reserve(c, s, e);
	list_push(e->is_suspect ? &s->suspects : &s->ready, &e->peers);
	services_mark(&c->services, s);
}

void entry_taken(struct coord *c, struct entry *e, enum op_result result, bool was_merged)
{
	struct coord_service *s = services_find(&c->services, e->svc);
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
		if (e->feed) {
			e->deadline = entry_waits_until(c, e, e->feed->slot);
			entry_arm(c, e);
			entry_feed_open(c, e);
		} else {
			entry_ready(c, e);
		}
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
	struct coord_service *s = services_find(&c->services, e->svc);
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
		uint16_t to = m->op_result.asking ? coord_shard_asked(c, m->from, m->op_result.moved_to) : SHARD_NONE;
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
