/* reconcile_lock - is a repair's owner alive? Its lock is looked at, and where it is missing closed with a guard. */
#include "core/shard/reconcile_p.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

enum { WATCH_MAX_MS = 60000, LEFT_WAIT_MS = 50 };

/* To the shard of the lock; value moves, NULL and 0 where the kind needs none. */
static void call(struct reconcile *rc, struct shard_ctx *c, struct repair *r, enum cmd_kind kind, struct text *value,
	mono_ms ttl_ms)
{
	assert(r->stream);
	struct msg_lock_call lock = {.kind = (uint8_t)kind,
		.slot = r->slot,
		.tag = repair_tag(rc, r),
		.id = r->key.id,
		.stream = text_ref(r->stream),
		.value = value,
		.ttl_ms = ttl_ms};
	ctx_msg(c, msg_lock_call(lock))->svc = (uint16_t)r->key.svc;
	r->at.asked = c->now;
	heap_set(&rc->timers, &r->timer, c->now + 3 * c->rules->command_timeout_ms);
}

static struct text *guard_value(const struct shard_ctx *c)
{
	char value[400];
	int n = snprintf(value, sizeof value, "recover:%s", c->rules->lock_value);
	return text_new(value, (size_t)n);
}

void repair_probe(struct reconcile *rc, struct shard_ctx *c, struct repair *r)
{
	repair_move(rc, c, r, REPAIR_PROBING, "is its owner alive");
	call(rc, c, r, CMD_PROBE, NULL, 0);
}

static void close_guard(struct reconcile *rc, struct shard_ctx *c, struct repair *r)
{
	repair_move(rc, c, r, REPAIR_CLOSING, "its lock is missing");
	r->at.guard = c->now;
	call(rc, c, r, CMD_LOCK, guard_value(c), recovery_rules(c, recovery_of(rc, r))->lease.ttl_ms);
}

void repair_open_guard(struct reconcile *rc, struct shard_ctx *c, struct repair *r)
{
	if (r->stream)
		call(rc, c, r, CMD_UNLOCK, guard_value(c), 0);
}

void repair_tombstone(struct reconcile *rc, struct shard_ctx *c, struct repair *r, const char *what)
{
	mono_ms ttl_ms = 4 * recovery_rules(c, recovery_of(rc, r))->lease.ttl_ms;
	call(rc, c, r, CMD_TOMBSTONE, text_new(what, strlen(what)), ttl_ms);
}

/* The guard holds for T from its sending; a requeue sent later than this might be executed after that. */
mono_ms repair_guard_end(const struct reconcile *rc, const struct shard_ctx *c, const struct repair *r)
{
	return r->at.guard + recovery_rules(c, recovery_of(rc, r))->lease.ttl_ms - c->rules->command_timeout_ms;
}

/* The lock is there. Its deadline tells when to look again, while its owner is not seen. */
static void on_alive(struct reconcile *rc, struct shard_ctx *c, struct repair *r, int64_t left_ms)
{
	struct recovery *v = recovery_of(rc, r);
	ctx_metrics(c, v->svc)->c[M_PROBE_ALIVE]++;
	if (r->at.alive < 0)
		ctx_metrics(c, v->svc)->c[M_REC_ALIVE]++;
	r->at.alive = r->at.asked;
	if (!repair_is_suspect(rc, r) || !recovery_rules(c, v)->recovery.probe || v->n_waiting >= RECOVERY_WATCHED) {
		repair_forget(rc, c, r);
		return;
	}
	mono_ms wait = left_ms < 0 ? recovery_rules(c, v)->lease.ttl_ms : left_ms + AFTER_MS;
	repair_wait_until(rc, c, r, c->now + mono_min(wait, WATCH_MAX_MS));
	heap_set(&rc->services, &v->timer, c->now);
}

/* Who leaves says so before it falls silent: what was asked after that is the whole truth. */
static bool is_left_known(const struct reconcile *rc, const struct repair *r)
{
	const struct recovery *v = recovery_of(rc, r);
	const struct peer *s = recovery_peer(v, slice_of(r->consumer));
	return v->left_known >= (s && s->is_suspect ? s->suspect_at : r->at.found);
}

/* Missing proves something when this master did not just take over, or when it was seen to expire on it. */
static void on_missing(struct reconcile *rc, struct shard_ctx *c, struct repair *r, const struct msg_lock_answer *m)
{
	const struct service_rules *rules = recovery_rules(c, recovery_of(rc, r));
	ctx_metrics(c, rules->svc)->c[M_PROBE_MISSING]++;
	mono_ms changed_at = m->hold_off_until - rules->lease.ttl_ms - rules->lease.ttl_ms / 3;
	bool is_observed = r->source == BY_EVENT || (r->at.alive >= 0 && r->at.alive > changed_at);
	if (!is_observed && m->hold_off_until > c->now) {
		repair_wait_until(rc, c, r, m->hold_off_until + AFTER_MS);
		heap_set(&rc->services, &recovery_of(rc, r)->timer, c->now);
		return;
	}
	if (!r->is_ghost && !is_left_known(rc, r)) {
		recovery_ask_left(rc, c, recovery_of(rc, r));
		repair_wait_until(rc, c, r, c->now + LEFT_WAIT_MS);
		return;
	}
	close_guard(rc, c, r);
}

static void on_probed(struct reconcile *rc, struct shard_ctx *c, struct repair *r, const struct msg_lock_answer *m)
{
	if (m->result != OP_DONE) {
		ctx_metrics(c, (uint16_t)r->key.svc)->c[M_PROBE_ERROR]++;
		repair_try_again(rc, c, r);
	} else if (m->integer >= -1) {
		on_alive(rc, c, r, m->integer);
	} else {
		on_missing(rc, c, r, m);
	}
}

static void repair_on_closed(
	struct reconcile *rc, struct shard_ctx *c, struct repair *r, const struct msg_lock_answer *m)
{
	if (m->result == OP_GONE)
		repair_left(rc, c, r, M_REC_LOST_RACE); /* the owner is back, or another daemon came first */
	else if (m->result != OP_DONE || c->now >= repair_guard_end(rc, c, r))
		repair_try_again(rc, c, r);
	else if (r->is_ghost)
		repair_ghost_back(rc, c, r);
	else
		repair_give_back(rc, c, r);
}

void reconcile_lock_answer(struct reconcile *rc, struct shard_ctx *c, const struct msg_lock_answer *m)
{
	struct repair *r = shard_pool_find(&rc->pool, tag_gen(m->tag), tag_index(m->tag));
	if (!r)
		return;
	if (r->state == REPAIR_PROBING)
		on_probed(rc, c, r, m);
	else if (r->state == REPAIR_CLOSING)
		repair_on_closed(rc, c, r, m);
}
