/* reconcile_repair - one peer's entry on its way back: its states (drawn in reconcile_p.h), its turn, its fields. */
#include "core/shard/reconcile_p.h"
#include "core/sm.h"

#include "base/log_fields.h"

#include <assert.h>
#include <stdio.h>

enum {
	AGAIN_MS = 200,
	AGAIN_MAX_MS = 5000,
	TRIES = 12,
	LEFT_SLACK_MS = 100 /* clocks and rounding */
};

struct recovery *recovery_of(const struct reconcile *rc, const struct repair *r)
{
	return rc->v[r->key.svc];
}

static const uint16_t allowed[REPAIR_STATES] = {
	[REPAIR_WAITING] = 1 << REPAIR_READY,
	[REPAIR_READY] = 1 << REPAIR_FETCHING | 1 << REPAIR_PROBING,
	[REPAIR_CHECKING] = 1 << REPAIR_WAITING | 1 << REPAIR_READY,
	[REPAIR_FETCHING] = 1 << REPAIR_PROBING | 1 << REPAIR_ACKING | 1 << REPAIR_DEAD | 1 << REPAIR_WAITING |
			    1 << REPAIR_REQUEUEING,
	[REPAIR_PROBING] = 1 << REPAIR_CLOSING | 1 << REPAIR_WAITING,
	[REPAIR_CLOSING] = 1 << REPAIR_REQUEUEING | 1 << REPAIR_DEAD | 1 << REPAIR_WAITING,
	[REPAIR_REQUEUEING] = 0,
	[REPAIR_DEAD] = 0,
	[REPAIR_ACKING] = 0,
};

static uint32_t *counter_of(struct recovery *v, const struct repair *r)
{
	return r->state == REPAIR_WAITING ? &v->n_waiting : r->state == REPAIR_READY ? &v->n_queued : &v->n_busy;
}

static const char *const repair_states[REPAIR_STATES] = {
	"waiting", "ready", "checking", "fetching", "probing", "closing", "requeueing", "dead", "acking"};
static const struct sm repair_machine = {
	.what = "repair", .names = repair_states, .allowed = allowed, .n = REPAIR_STATES};

void repair_move(struct reconcile *rc, struct shard_ctx *c, struct repair *r, enum repair_state to, const char *why)
{
	assert(*counter_of(recovery_of(rc, r), r) > 0);
	struct recovery *v = recovery_of(rc, r);
	--*counter_of(v, r);
	sm_move(&repair_machine, &r->state, to, c->out, slice_of(r->stream), why);
	++*counter_of(v, r);
	list_remove(&r->queue);
	if (to == REPAIR_READY)
		list_push(&v->ready, &r->queue);
	heap_set(&rc->timers, &r->timer, MONO_NEVER);
}

void repair_forget(struct reconcile *rc, struct shard_ctx *c, struct repair *r)
{
	assert(*counter_of(recovery_of(rc, r), r) > 0);
	struct recovery *v = recovery_of(rc, r);
	--*counter_of(v, r);
	list_remove(&r->queue);
	heap_remove(&rc->timers, &r->timer);
	map_remove(&rc->repairs, &r->key, sizeof r->key);
	ctx_retire(c, r->consumer);
	ctx_retire(c, r->stream);
	shard_pool_put(&rc->pool, r->index);
	if (c)
		heap_set(&rc->services, &v->timer, c->now);
}

void repair_left(struct reconcile *rc, struct shard_ctx *c, struct repair *r, enum metric_service why)
{
	ctx_metrics(c, (uint16_t)r->key.svc)->c[why]++;
	repair_forget(rc, c, r);
}

void repair_forget_all(struct reconcile *rc, struct shard_ctx *c, uint16_t svc)
{
	size_t pos = 0;
	for (struct repair *r; (r = map_next(&rc->repairs, &pos));)
		if (r->key.svc == svc)
			repair_forget(rc, c, r);
}

/* ---- found ---- */

static uint64_t mix(uint64_t x)
{
	x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
	x = (x ^ x >> 27) * 0x94d049bb133111ebu;
	return x ^ x >> 31;
}

/* Rendezvous: how many live consumers come before us for this entry. live[0] is ours. */
static unsigned rank_of(const struct recovery *v, struct entry_id id)
{
	uint64_t e = mix(id.ms * 0x9e3779b97f4a7c15u + id.seq);
	unsigned rank = 0;
	uint64_t mine = v->live.n ? mix(v->live.v[0] ^ e) : 0;
	for (size_t i = 1; i < v->live.n; i++)
		rank += mix(v->live.v[i] ^ e) > mine;
	return rank;
}

static struct repair *repair_new(
	struct reconcile *rc, struct shard_ctx *c, struct recovery *v, struct entry_id id, enum repair_state state)
{
	uint32_t index;
	struct repair *r = shard_pool_get(&rc->pool, &index);
	r->index = index;
	r->key = (struct repair_key){v->svc, id};
	r->state = (uint8_t)state;
	r->at.alive = -1;
	r->at.found = c->now;
	list_init(&r->queue);
	map_put(&rc->repairs, &r->key, sizeof r->key, r);
	++*counter_of(v, r);
	if (state == REPAIR_READY)
		list_push(&v->ready, &r->queue);
	return r;
}

void repair_wait_until(struct reconcile *rc, struct shard_ctx *c, struct repair *r, mono_ms at)
{
	if (r->state != REPAIR_WAITING)
		repair_move(rc, c, r, REPAIR_WAITING, "not now");
	heap_set(&rc->timers, &r->timer, at);
}

/* Notes whose it is, and lets those go first whose turn it is. */
static void take_up(
	struct reconcile *rc, struct shard_ctx *c, struct recovery *v, struct repair *r, const struct pending_row *row)
{
	const struct peer *s = recovery_peer(v, row->consumer);
	r->consumer = s ? text_ref(s->name) : text_new(row->consumer.p, row->consumer.len);
	r->idle_ms = row->idle_ms;
	r->at.seen = c->now - row->idle_ms;
	if (s && s->seen_at > r->at.seen)
		r->at.seen = s->seen_at;
	if (r->source == BY_EVENT)
		r->at.seen = mono_max(r->at.seen, c->now - recovery_rules(c, v)->lease.ttl_ms);
	unsigned rank = rank_of(v, r->key.id);
	if (rank > 0)
		repair_wait_until(rc, c, r, c->now + (mono_ms)rank * RANK_MS);
	else if (r->state != REPAIR_READY)
		repair_move(rc, c, r, REPAIR_READY, "it is our turn");
	heap_set(&rc->services, &v->timer, c->now);
}

void repair_found(struct reconcile *rc, struct shard_ctx *c, struct recovery *v, const struct pending_row *row,
	enum repair_source source)
{
	struct repair_key key = {v->svc, row->id};
	if (map_get(&rc->repairs, &key, sizeof key))
		return;
	struct repair *r = repair_new(rc, c, v, row->id, REPAIR_WAITING);
	r->source = (uint8_t)source;
	take_up(rc, c, v, r, row);
}

/* A consumer that acknowledges and deletes one after the other leaves it so for a moment. */
void repair_ghost(struct reconcile *rc, struct shard_ctx *c, struct recovery *v, struct entry_id id)
{
	struct repair_key key = {v->svc, id};
	if (map_get(&rc->repairs, &key, sizeof key))
		return;
	struct repair *r = repair_new(rc, c, v, id, REPAIR_WAITING);
	r->source = BY_SCAN;
	r->is_ghost = true;
	repair_wait_until(rc, c, r, c->now + recovery_rules(c, v)->lease.ttl_ms);
}

uint64_t repair_tag(struct reconcile *rc, const struct repair *r)
{
	return tag_of(PART_RECONCILE, shard_pool_renew(&rc->pool, r->index), r->index);
}

/* An expired lock: is its entry pending for a peer here? */
void repair_expired(struct reconcile *rc, struct shard_ctx *c, struct recovery *v, struct entry_id id)
{
	struct repair_key key = {v->svc, id};
	struct repair *r = map_get(&rc->repairs, &key, sizeof key);
	if (r) { /* looked at already; seen to expire is more than missing */
		r->source = BY_EVENT;
		if (r->state == REPAIR_WAITING && r->stream)
			heap_set(&rc->timers, &r->timer, c->now);
		return;
	}
	if (!c->is_up || v->n_busy + v->n_queued >= RECOVERY_BUSY) {
		c->metrics.c[MR_EVENTS_DROPPED]++;
		return;
	}
	r = repair_new(rc, c, v, id, REPAIR_CHECKING);
	r->source = BY_EVENT;
	r->at.asked = c->now;
	struct effect *ef = ctx_redis(c, repair_tag(rc, r), CMD_PENDING, v->svc);
	ef->cmd.id = id;
	ef->cmd.as.pending.count = 1;
	ef->cmd.asking = ctx_service(c, v->svc)->asking;
}

/* ---- commands, calls, operations ---- */

static void repair_fetch(struct reconcile *rc, struct shard_ctx *c, struct repair *r)
{
	repair_move(rc, c, r, REPAIR_FETCHING, "its fields are asked for");
	r->at.asked = c->now;
	struct effect *ef = ctx_redis(c, repair_tag(rc, r), CMD_FETCH, (uint16_t)r->key.svc);
	ef->cmd.id = r->key.id;
	ef->cmd.asking = ctx_service(c, (uint16_t)r->key.svc)->asking;
}

static struct op_ask repair_op_of(struct reconcile *rc, struct shard_ctx *c, struct repair *r, enum cmd_kind kind)
{
	uint16_t svc = (uint16_t)r->key.svc;
	return (struct op_ask){
		.kind = kind,
		.svc = svc,
		.asking = ctx_service(c, svc)->asking,
		.id = r->key.id,
		.stream = text_ref(r->stream),
		.consumer = text_ref(r->consumer),
		.min_idle_ms = r->idle_ms,
		.not_after = c->now + 2 * c->rules->command_timeout_ms,
		.tag = repair_tag(rc, r),
	};
}

/* Its owner has left on purpose, and had it then: no death. */
static bool was_left_behind(const struct reconcile *rc, const struct repair *r)
{
	const struct peer *s = recovery_peer(recovery_of(rc, r), slice_of(r->consumer));
	return s && s->has_left && r->at.found - r->idle_ms <= s->left_at + LEFT_SLACK_MS;
}

void repair_ghost_back(struct reconcile *rc, struct shard_ctx *c, struct repair *r)
{
	repair_move(rc, c, r, REPAIR_REQUEUEING, "the guard is closed");
	struct op_ask ask = repair_op_of(rc, c, r, CMD_GHOST_BACK);
	if (r->at.guard)
		ask.not_after = repair_guard_end(rc, c, r);
	ctx_ask(c, &ask);
}

/* Its owner has died with this entry and no other. What others have repaired meanwhile was its, too: n_held. */
static bool had_nothing_else(const struct reconcile *rc, const struct repair *r)
{
	const struct peer *s = recovery_peer(recovery_of(rc, r), slice_of(r->consumer));
	return s && s->n_held == 1;
}

void repair_give_back(struct reconcile *rc, struct shard_ctx *c, struct repair *r)
{
	const struct service_rules *rules = recovery_rules(c, recovery_of(rc, r));
	r->is_uncounted = was_left_behind(rc, r);
	uint32_t retry = r->is_uncounted ? r->retry : r->retry + 1;
	/* entries mode: whoever opens the position knows whether it had progress, which is no failure */
	bool is_dead = !r->is_uncounted && retry > rules->max_retries && !rules->entries.is_on;
	repair_move(rc, c, r, is_dead ? REPAIR_DEAD : REPAIR_REQUEUEING, "the guard is closed");
	struct op_ask ask = repair_op_of(rc, c, r, is_dead ? CMD_DEAD : CMD_REQUEUE);
	ask.not_after = repair_guard_end(rc, c, r);
	ask.was_alone = !r->is_uncounted && rules->entries.is_on && had_nothing_else(rc, r);
	ask.is_suspect = r->is_suspect || ask.was_alone;
	ask.retry = is_dead ? r->retry : retry;
	ask.reason = DEAD_MAX_RETRIES;
	if (is_dead)
		ask.error = text_new("owner died", strlen("owner died"));
	ctx_ask(c, &ask);
}

/* ---- answers ---- */

void repair_try_again(struct reconcile *rc, struct shard_ctx *c, struct repair *r)
{
	if (r->tries++ >= TRIES) {
		repair_left(rc, c, r, M_REC_ERROR);
		return;
	}
	repair_wait_until(rc, c, r, c->now + ctx_backoff(c, r->tries, AGAIN_MS, AGAIN_MAX_MS));
	heap_set(&rc->services, &recovery_of(rc, r)->timer, c->now);
}

static void repair_on_checked(struct reconcile *rc, struct shard_ctx *c, struct repair *r, const struct reply *reply)
{
	bool is_it = reply->n > 0 && entry_id_cmp(reply->pending[0].id, r->key.id) == 0;
	if (!is_it || slice_eq(reply->pending[0].consumer, slice_str(c->rules->consumer)))
		repair_forget(rc, c, r);
	else
		take_up(rc, c, recovery_of(rc, r), r, &reply->pending[0]);
}

/* Nobody can work on it: no lock, no door. Its owner has had min_idle to put it away. */
static void on_unreadable(struct reconcile *rc, struct shard_ctx *c, struct repair *r, enum entry_problem problem)
{
	int64_t min_idle = recovery_rules(c, recovery_of(rc, r))->recovery.min_idle_ms;
	if (r->idle_ms + (c->now - r->at.found) < min_idle) {
		repair_forget(rc, c, r); /* the scan finds it when it is old enough */
		return;
	}
	const char *why = entry_problem_text(problem);
	r->problem = (uint8_t)problem;
	repair_move(rc, c, r, REPAIR_DEAD, "nobody can work on it");
	struct op_ask ask = repair_op_of(rc, c, r, CMD_DEAD);
	ask.min_idle_ms = min_idle;
	ask.reason = DEAD_UNPARSEABLE;
	ask.error = text_new(why, strlen(why));
	ctx_ask(c, &ask);
}

bool repair_is_suspect(const struct reconcile *rc, const struct repair *r)
{
	if (r->is_ghost)
		return false;
	const struct peer *s = recovery_peer(recovery_of(rc, r), slice_of(r->consumer));
	return s && s->is_suspect;
}

static bool is_seen(const struct reconcile *rc, const struct repair *r)
{
	return recovery_peer(recovery_of(rc, r), slice_of(r->consumer)) && !repair_is_suspect(rc, r);
}

static void repair_on_fetched(struct reconcile *rc, struct shard_ctx *c, struct repair *r, struct reply *reply)
{
	struct entry_in *e = reply->entries && reply->entries->n > 0 ? &reply->entries->v[0] : NULL;
	if (!e && r->is_ghost) { /* done after all */
		repair_forget(rc, c, r);
		return;
	}
	if (!e && is_seen(rc, r)) { /* deleted, maybe trimmed while it is worked on: its owner puts it away */
		repair_left(rc, c, r, M_REC_ALIVE);
		return;
	}
	if (!e) { /* deleted */
		repair_move(rc, c, r, REPAIR_ACKING, "its data is gone");
		struct op_ask ask = repair_op_of(rc, c, r, CMD_ACK_DEL);
		ctx_ask(c, &ask);
		return;
	}
	if (e->problem != ENTRY_GOOD && r->is_ghost) { /* it has no lock; its reader puts it away */
		repair_ghost_back(rc, c, r);
		return;
	}
	if (e->problem != ENTRY_GOOD) {
		on_unreadable(rc, c, r, e->problem);
		return;
	}
	r->stream = e->stream;
	e->stream = NULL;
	r->retry = e->retry;
	r->is_suspect = e->is_suspect;
	r->slot = e->lock_slot;
	r->tries = 0;
	repair_probe(rc, c, r);
}

void repair_reply(struct reconcile *rc, struct shard_ctx *c, uint64_t t, struct reply *reply)
{
	struct repair *r = shard_pool_find(&rc->pool, tag_gen(t), tag_index(t));
	if (!r)
		return;
	hist_add(&c->metrics.h[HR_COMMAND], (double)(c->now - r->at.asked) / 1000);
	enum cmd_kind kind = r->state == REPAIR_CHECKING ? CMD_PENDING : CMD_FETCH;
	enum verdict v = ctx_judge(c, "recovery", kind, (uint16_t)r->key.svc, reply);
	if (r->state == REPAIR_CHECKING) {
		if (v == VERDICT_ANSWER)
			repair_on_checked(rc, c, r, reply);
		else
			repair_forget(rc, c, r);
	} else if (v == VERDICT_ANSWER) {
		repair_on_fetched(rc, c, r, reply);
	} else {
		repair_try_again(rc, c, r);
	}
}

/* ---- times ---- */

void repair_start_ready(struct reconcile *rc, struct shard_ctx *c, struct recovery *v)
{
	while (c->is_up && v->n_busy < RECOVERY_BUSY && !list_empty(&v->ready)) {
		struct repair *r = LIST_OF(struct repair, queue, v->ready.next);
		if (r->stream)
			repair_probe(rc, c, r);
		else
			repair_fetch(rc, c, r);
	}
}

static void repair_due(struct reconcile *rc, struct shard_ctx *c, struct repair *r)
{
	if (r->state != REPAIR_WAITING) { /* a call that was never answered */
		if (r->state == REPAIR_PROBING)
			ctx_metrics(c, (uint16_t)r->key.svc)->c[M_PROBE_ERROR]++;
		repair_try_again(rc, c, r);
		return;
	}
	struct recovery *v = recovery_of(rc, r);
	if (r->source == BY_PROBE && !repair_is_suspect(rc, r)) {
		repair_forget(rc, c, r); /* its owner has been seen again */
		return;
	}
	repair_move(rc, c, r, REPAIR_READY, "it is our turn");
	heap_set(&rc->services, &v->timer, c->now);
}

void repair_tick(struct reconcile *rc, struct shard_ctx *c)
{
	struct heap_node *top;
	while ((top = heap_due(&rc->timers, c->now)))
		repair_due(rc, c, HEAP_OF(struct repair, timer, top));
}

void reconcile_check(const struct reconcile *rc)
{
	size_t pos = 0;
	uint32_t n = 0, n_waiting = 0, n_queued = 0, n_busy = 0;
	for (const struct repair *r; (r = map_next(&rc->repairs, &pos)); n++) {
		assert(r->state < REPAIR_STATES && r->key.svc < rc->n && recovery_of(rc, r));
		assert((r->state == REPAIR_READY) == !list_empty(&r->queue));
		assert(r->state == REPAIR_READY || r->timer.pos || r->state > REPAIR_CHECKING || r->at.asked > 0);
		n_waiting += r->state == REPAIR_WAITING;
		n_queued += r->state == REPAIR_READY;
		n_busy += r->state > REPAIR_READY;
	}
	assert(n == shard_pool_count(&rc->pool));
	for (size_t i = 0; i < rc->n; i++) {
		if (!rc->v[i])
			continue;
		assert(rc->v[i]->svc == i);
		n_waiting -= rc->v[i]->n_waiting;
		n_queued -= rc->v[i]->n_queued;
		n_busy -= rc->v[i]->n_busy;
	}
	assert(n_waiting == 0 && n_queued == 0 && n_busy == 0); /* each service counts its own */
}
