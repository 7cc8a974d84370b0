/* reconcile_outcome - how a repair ends: given back, a dead letter, lost, too late; what is counted and told of it. */
#include "core/shard/reconcile_p.h"

#include "base/log_fields.h"

#include <stdio.h>
#include <string.h>

enum { TRIMMED_EVERY_MS = 60000, GHOSTS_EVERY_MS = 60000 };

/* One line a minute: a group that loses its entries has an operator who should know. */
static void say_ghost(struct shard_ctx *c, struct recovery *v, const struct repair *r, struct entry_id id)
{
	char stream[FIELD_VALUE_CAP];
	v->ghost.n++;
	if (v->ghost.said_at && c->now < v->ghost.said_at + GHOSTS_EVERY_MS)
		return;
	effects_log(c->out, LOG_WARN,
		"shard=%u service=%s stream=%s id=%llu-%llu was delivered, but nobody had it: back as %llu-%llu n=%u; "
		"was "
		"its consumer deleted by XGROUP DELCONSUMER?",
		c->index, recovery_rules(c, v)->name,
		r->stream ? field_value(stream, r->stream->bytes, r->stream->len) : "?",
		(unsigned long long)r->key.id.ms, (unsigned long long)r->key.id.seq, (unsigned long long)id.ms,
		(unsigned long long)id.seq, v->ghost.n);
	v->ghost.said_at = mono_max(c->now, 1);
	v->ghost.n = 0;
}

static void ghost_is_back(struct reconcile *rc, struct shard_ctx *c, struct repair *r, struct entry_id id)
{
	ctx_metrics(c, (uint16_t)r->key.svc)->c[M_REQUEUE_GHOST]++;
	say_ghost(c, recovery_of(rc, r), r, id);
}

static void owner_is_gone(struct shard_ctx *c, const struct repair *r)
{
	static const enum metric_service_hist hists[] = {H_REC_PROBE, H_REC_EVENT, H_REC_SCAN};
	struct metrics_service *m = ctx_metrics(c, (uint16_t)r->key.svc);
	m->c[r->is_uncounted ? M_REQUEUE_OWNER_LEFT : M_REQUEUE_OWNER_DIED]++;
	hist_add(&m->h[hists[r->source]], (double)(c->now - r->at.seen) / 1000);
}

static void requeued(struct reconcile *rc, struct shard_ctx *c, struct repair *r, struct entry_id id)
{
	if (r->is_ghost)
		ghost_is_back(rc, c, r, id);
	else
		owner_is_gone(c, r);
	char what[64];
	snprintf(what, sizeof what, "gone:%llu-%llu", (unsigned long long)id.ms, (unsigned long long)id.seq);
	if (r->stream)
		repair_tombstone(rc, c, r, what);
	repair_left(rc, c, r, M_REC_REQUEUED);
}

static void dead_lettered(struct reconcile *rc, struct shard_ctx *c, struct repair *r)
{
	struct recovery *v = recovery_of(rc, r);
	ctx_metrics(c, v->svc)->c[r->problem ? M_DEAD_UNPARSEABLE : M_DEAD_MAX_RETRIES]++;
	char stream[FIELD_VALUE_CAP], error[FIELD_VALUE_CAP];
	const char *why = entry_problem_text((enum entry_problem)r->problem);
	effects_log(c->out, LOG_NOTICE,
		"shard=%u service=%s stream=%s id=%llu-%llu dead letter reason=%s retry=%u owner=%.200s%s%s", c->index,
		recovery_rules(c, v)->name, r->stream ? field_value(stream, r->stream->bytes, r->stream->len) : "?",
		(unsigned long long)r->key.id.ms, (unsigned long long)r->key.id.seq,
		dead_reason_name(r->problem ? DEAD_UNPARSEABLE : DEAD_MAX_RETRIES), r->retry, r->consumer->bytes,
		why ? " error=" : "", why ? field_value(error, why, strlen(why)) : "");
	if (r->stream)
		repair_tombstone(rc, c, r, "gone:dead");
	repair_left(rc, c, r, M_REC_DEAD);
}

/* Pending for somebody, but no longer in the stream: trimmed, or deleted by hand. One line a minute. */
static void recovered_nothing(struct reconcile *rc, struct shard_ctx *c, struct repair *r)
{
	struct recovery *v = recovery_of(rc, r);
	v->trimmed.n++;
	if (!v->trimmed.said_at || c->now >= v->trimmed.said_at + TRIMMED_EVERY_MS) {
		effects_log(c->out, LOG_WARN,
			"shard=%u service=%s id=%llu-%llu lost: it was pending for %.200s and is not in the stream any "
			"more n=%u; "
			"nobody may use XTRIM, XDEL or XADD MAXLEN on %s-input",
			c->index, recovery_rules(c, v)->name, (unsigned long long)r->key.id.ms,
			(unsigned long long)r->key.id.seq, r->consumer->bytes, v->trimmed.n,
			recovery_rules(c, v)->name);
		v->trimmed.said_at = mono_max(c->now, 1);
		v->trimmed.n = 0;
	}
	repair_left(rc, c, r, M_REC_GONE);
}

void reconcile_op_answer(struct reconcile *rc, struct shard_ctx *c, const struct op_answer *a)
{
	struct repair *r = shard_pool_find(&rc->pool, tag_gen(a->tag), tag_index(a->tag));
	if (!r)
		return;
	if (a->result == OP_FAILED ||
		a->result == OP_MOVED) { /* not known whether it was executed: the door stays closed */
		repair_left(rc, c, r, M_REC_ERROR);
	} else if (r->state == REPAIR_ACKING && a->result == OP_DONE) {
		recovered_nothing(rc, c, r);
	} else if (r->state == REPAIR_ACKING) {
		repair_left(rc, c, r, M_REC_LOST_RACE);
	} else if (a->result == OP_DONE && r->state == REPAIR_DEAD) {
		dead_lettered(rc, c, r);
	} else if (a->result == OP_DONE) {
		requeued(rc, c, r, a->id);
	} else {
		repair_open_guard(rc, c, r);
		if (a->result == OP_DELETED)
			recovered_nothing(rc, c, r);
		else
			repair_left(rc, c, r, M_REC_LOST_RACE);
	}
}
