#include "core/handoff/handoff_p.h"

#include <stdio.h>

enum { SUM_UP_MS = 1000 };

/* ---- operations ---- */

struct op *op_find(struct handoff *h, uint32_t serial)
{
	for (int i = 0; serial && i < OPS; i++)
		if (h->ops[i].serial == serial)
			return &h->ops[i];
	return NULL;
}

static void sum_up(struct handoff *h, struct op *op)
{
	const char *to = op->to[0] ? op->to : "the configured address";
	op->is_said = true;
	if (op->n_failed > 0) {
		h->metrics.c[MH_HANDOFF_FAILED]++;
		handoff_log(h, LOG_WARN, "handoff seq=%lld to %s failed: moved=%u failed=%u: %s", (long long)op->seq,
			to, op->n_moved, op->n_failed, op->why);
	} else if (op->n_cut > 0) {
		h->metrics.c[MH_HANDOFF_FALLBACK]++;
		handoff_log(h, LOG_WARN,
			"handoff seq=%lld to %s: moved=%u reconnected=%u: the old connections ended first",
			(long long)op->seq, to, op->n_moved, op->n_cut);
	} else if (op->n_moved > 0) {
		h->metrics.c[MH_HANDOFF_OK]++;
		handoff_log(h, LOG_NOTICE, "handoff seq=%lld to %s done: moved=%u after_ms=%lld", (long long)op->seq,
			to, op->n_moved, (long long)(op->ended - op->began));
	} else if (op->is_superseded) {
		h->metrics.c[MH_HANDOFF_SUPERSEDED]++;
		handoff_log(h, LOG_INFO, "handoff seq=%lld to %s superseded", (long long)op->seq, to);
	}
}

mono_ms op_tick(struct handoff *h)
{
	mono_ms next = MONO_NEVER;
	for (int i = 0; i < OPS; i++) {
		struct op *op = &h->ops[i];
		if (!op->serial || op->is_said || op->n_open > 0)
			continue;
		if (op->began + SUM_UP_MS <= h->now)
			sum_up(h, op);
		else
			next = mono_min(next, op->began + SUM_UP_MS);
	}
	return next;
}

void op_ended(struct handoff *h, struct handoff_conn *l, enum op_end how)
{
	struct op *op = op_find(h, l->op);
	l->op = 0;
	if (!op)
		return;
	op->n_open--;
	op->n_moved += how == END_MOVED;
	op->n_failed += how == END_FAILED;
	op->n_cut += how == END_CUT;
	op->is_superseded |= how == END_SUPERSEDED;
	op->ended = h->now;
}

static struct op *new_op(struct handoff *h, const struct note *n, const char *from)
{
	struct op *op = &h->ops[0];
	for (int i = 1; i < OPS && op->serial; i++)
		if (!h->ops[i].serial || h->ops[i].serial < op->serial)
			op = &h->ops[i];
	if (op->serial && !op->is_said)
		sum_up(h, op);
	*op = (struct op){.serial = ++h->serial, .seq = n->seq, .began = h->now};
	snprintf(op->from, sizeof op->from, "%s", from);
	snprintf(op->to, sizeof op->to, "%s", n->endpoint);
	mono_ms window = n->seconds > 0 ? n->seconds * 1000 : 0;
	op->until = h->now + mono_max(window, 1000);
	op->due = h->now;
	if (window > 1000) {
		op->due += op->to[0] ? 0 : window / 2;
		op->jitter = mono_min(window / 10, 1000);
	}
	return op;
}

struct op *handoff_op_of(struct handoff *h, const struct note *n, const char *from, bool *is_new)
{
	*is_new = false;
	for (int i = 0; i < OPS; i++) {
		struct op *op = &h->ops[i];
		if (op->serial && op->until > h->now && op->seq == n->seq && strcmp(op->to, n->endpoint) == 0)
			return op;
	}
	for (int i = 0; i < OPS; i++)
		if (h->ops[i].serial && h->ops[i].until > h->now && h->ops[i].seq > n->seq)
			return NULL;
	*is_new = true;
	return new_op(h, n, from);
}

/* ---- where to dial ---- */

static bool may_dial(const struct handoff *h, mono_ms now, const char *endpoint)
{
	for (int i = 0; i < BREAKERS; i++) {
		const struct breaker *b = &h->breakers[i];
		if (strcmp(b->endpoint, endpoint) != 0 || !b->endpoint[0])
			continue;
		if (b->state == BREAKER_OPEN)
			return now >= b->opened_at + h->rules.breaker_reset_ms;
		return b->state == BREAKER_CLOSED || b->n_trials < h->rules.breaker_half_open ||
		       now >= b->used_at + h->rules.breaker_reset_ms; /* of some trials nothing was heard again */
	}
	return true;
}

static bool op_follow(const struct handoff *h, mono_ms now, uint32_t given_up, char at[HANDOFF_ADDRESS])
{
	bool has_moved = false;
	uint32_t after = 0;
	for (;;) {
		const struct op *op = NULL;
		for (int i = 0; i < OPS; i++)
			if (h->ops[i].serial > after && (!op || h->ops[i].serial < op->serial))
				op = &h->ops[i];
		if (!op)
			return has_moved;
		after = op->serial;
		if (op->until <= now || op->serial == given_up || strcmp(op->from, at) != 0)
			continue;
		if (op->to[0] && !may_dial(h, now, op->to))
			continue;
		snprintf(at, HANDOFF_ADDRESS, "%s", op->to[0] ? op->to : h->configured);
		has_moved = true;
	}
}

void op_target(const struct handoff *h, mono_ms now, uint32_t given_up, const char *from, char out[HANDOFF_ADDRESS])
{
	char at[HANDOFF_ADDRESS];
	snprintf(at, sizeof at, "%s", from[0] ? from : h->configured);
	if (!op_follow(h, now, given_up, at)) {
		snprintf(at, sizeof at, "%s", h->configured);
		op_follow(h, now, given_up, at);
	}
	snprintf(out, HANDOFF_ADDRESS, "%s", at);
}

/* ---- circuit breakers ---- */

static struct breaker *breaker_at(struct handoff *h, const char *endpoint)
{
	struct breaker *oldest = &h->breakers[0];
	for (int i = 0; i < BREAKERS; i++) {
		struct breaker *b = &h->breakers[i];
		if (b->endpoint[0] && strcmp(b->endpoint, endpoint) == 0)
			return b;
		if (b->used_at < oldest->used_at)
			oldest = b;
	}
	*oldest = (struct breaker){0};
	snprintf(oldest->endpoint, sizeof oldest->endpoint, "%s", endpoint);
	return oldest;
}

bool breaker_allows(struct handoff *h, const char *endpoint)
{
	return !endpoint[0] || may_dial(h, h->now, endpoint);
}

bool breaker_is_trying(struct handoff *h, const char *endpoint)
{
	return endpoint[0] && breaker_at(h, endpoint)->state == BREAKER_HALF_OPEN;
}

void breaker_trial(struct handoff *h, const char *endpoint)
{
	if (!endpoint[0])
		return;
	struct breaker *b = breaker_at(h, endpoint);
	b->used_at = h->now;
	if (b->state == BREAKER_HALF_OPEN && b->n_trials >= h->rules.breaker_half_open)
		b->n_trials = b->n_good;
	if (b->state == BREAKER_OPEN) {
		b->state = BREAKER_HALF_OPEN;
		b->n_trials = b->n_good = 0;
		handoff_log(h, LOG_INFO, "circuit breaker of %s half-open", endpoint);
	}
	b->n_trials += b->state == BREAKER_HALF_OPEN;
}

void breaker_result(struct handoff *h, const char *endpoint, bool is_good)
{
	if (!endpoint[0])
		return;
	struct breaker *b = breaker_at(h, endpoint);
	b->used_at = h->now;
	if (is_good && b->state == BREAKER_HALF_OPEN && ++b->n_good < h->rules.breaker_half_open)
		return;
	if (is_good) {
		if (b->state != BREAKER_CLOSED)
			handoff_log(h, LOG_NOTICE, "circuit breaker of %s closed", endpoint);
		b->state = BREAKER_CLOSED;
		b->n_failures = b->n_trials = 0;
		return;
	}
	b->n_failures++;
	if (b->state == BREAKER_OPEN || (b->state == BREAKER_CLOSED && b->n_failures < h->rules.breaker_failures))
		return;
	b->state = BREAKER_OPEN;
	b->opened_at = h->now;
	b->n_trials = 0;
	handoff_log(h, LOG_WARN, "circuit breaker of %s open failures=%u reset_ms=%lld", endpoint, b->n_failures,
		(long long)h->rules.breaker_reset_ms);
}

const char *breaker_state_name(enum breaker_state s)
{
	static const char *const names[] = {"closed", "open", "half_open"};
	return names[s];
}

enum breaker_state handoff_breaker(const struct handoff *h, const char **endpoint)
{
	const struct breaker *worst = NULL;
	for (int i = 0; i < BREAKERS; i++) {
		const struct breaker *b = &h->breakers[i];
		if (b->state == BREAKER_OPEN || (b->state == BREAKER_HALF_OPEN && !worst))
			worst = b;
	}
	if (endpoint)
		*endpoint = worst ? worst->endpoint : "";
	return worst ? (enum breaker_state)worst->state : BREAKER_CLOSED;
}
