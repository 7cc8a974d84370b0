/* attempt - when one connection dials within the window, how long it may take, and what follows a failure. */
#include "core/handoff/handoff_p.h"

#include <assert.h>
#include <stdio.h>

/* The attempts of one connection: real endpoints are announced before they accept, so attempts are spread evenly over
 * the window, and one that hangs ends before the next is due. */

enum { READER_FIRST_MS = 200, LOOK_MS = 1000, BACK_MS = 125, BACK_LEAST_MS = 1000, BACK_DOUBLES = 3, GRACE_MS = 100 };

static struct handoff_effect *attempt_add(
	struct handoff *h, enum handoff_effect_kind kind, const struct handoff_conn *l, const char *address)
{
	struct handoff_effect *ef = handoff_add(h, kind, handoff_index(h, l));
	snprintf(ef->address, sizeof ef->address, "%s", address);
	return ef;
}

static void attempt_plan(struct handoff *h, struct handoff_conn *l, struct handoff_op *op)
{
	op->conns.n_open++;
	op->is_said = false;
	l->op = op->serial;
	l->n_tries = 0;
	l->why[0] = '\0';
	l->began = h->now;
	mono_ms early = op->attempts.jitter / 4;
	mono_ms wait = l->role == CONN_READER
			       ? (mono_ms)rng_below(&h->rng, (uint64_t)early + 1)
			       : early + (mono_ms)rng_below(&h->rng, (uint64_t)(op->attempts.jitter - early) + 1);
	l->at = mono_max(op->attempts.due, h->now) + wait;
	l->latest = mono_max(op->attempts.due, h->now) + mono_max(op->attempts.jitter, READER_FIRST_MS);
	handoff_move(h, l, HANDOFF_WAITING, "the next attempt");
}

void attempt_join(struct handoff *h, struct handoff_conn *l, struct handoff_op *op)
{
	assert(l->is_open && op);
	if (l->last_op == op->serial)
		return; /* this connection heard it, or has moved for it already */
	l->last_op = op->serial;
	if (l->op)
		handoff_leave(h, l, END_SUPERSEDED);
	if (!op_has(op, l))
		attempt_plan(h, l, op);
}

/* When the one after an attempt that begins now is due: the next place in the window, give or take a tenth. */
static mono_ms attempt_after(struct handoff *h, const struct handoff_conn *l, const struct handoff_op *op)
{
	if (l->n_tries >= h->rules.max_retries)
		return MONO_NEVER;
	mono_ms slot = mono_max(l->n_tries + 1, (h->now - op->attempts.due) / op->attempts.step + 1),
		tenth = op->attempts.step / 10;
	mono_ms at = op->attempts.due + slot * op->attempts.step +
		     (mono_ms)rng_below(&h->rng, 2 * (uint64_t)tenth + 1) - tenth;
	at = mono_max(mono_min(at, op->attempts.last), h->now + ATTEMPT_APART_MS);
	return at > op->attempts.last ? MONO_NEVER : at;
}

void attempt_begin(struct handoff *h, struct handoff_conn *l, struct handoff_op *op)
{
	assert(l->is_open && op);
	assert(l->is_up && l->op == op->serial);
	op->is_let = true;
	breaker_trial(h, op->to);
	l->next_at = attempt_after(h, l, op);
	mono_ms left = (l->next_at == MONO_NEVER ? op->until : l->next_at) - h->now;
	mono_ms limit = mono_min(h->rules.timeout_ms, mono_max(left, ATTEMPT_LEAST_MS));
	attempt_add(h, HANDOFF_DIAL, l, op->to)->limit = limit;
	l->at = h->now + limit + GRACE_MS; /* who performs it knows better what it waited for */
	handoff_move(h, l, HANDOFF_DIALING, "its time has come");
}

void attempt_give_up(struct handoff *h, struct handoff_conn *l, const char *why)
{
	assert(why);
	struct handoff_op *op = op_find(h, l->op);
	if (why[0])
		snprintf(l->why, sizeof l->why, "%s", why);
	if (why[0] && op)
		snprintf(op->why, sizeof op->why, "%s", why);
	handoff_leave(h, l, END_FAILED);
}

void attempt_failed(struct handoff *h, struct handoff_conn *l, struct slice why)
{
	struct handoff_op *op = op_find(h, l->op);
	snprintf(l->why, sizeof l->why, "%.*s", (int)(why.len < HANDOFF_WHY ? why.len : HANDOFF_WHY - 1),
		why.p ? why.p : "");
	if (!op) {
		handoff_move(h, l, HANDOFF_WAITING, "the next attempt");
		handoff_leave(h, l, END_LEFT);
		return;
	}
	snprintf(op->why, sizeof op->why, "%s", l->why);
	if (l->n_tries >= op->n_rounds) { /* the first of this round */
		op->n_rounds = l->n_tries + 1;
		breaker_bad(h, op->to, l->why);
	}
	l->n_tries++;
	handoff_move(h, l, HANDOFF_WAITING, "the next attempt"); /* the replacement is gone */
	if (l->next_at == MONO_NEVER)
		attempt_give_up(h, l, "");
	else
		l->at = mono_max(l->next_at, h->now);
}

bool attempt_is_same(struct handoff *h, struct handoff_conn *l)
{
	struct handoff_op *op = op_find(h, l->op);
	if (!op || !op->is_named || !l->peer[0])
		return false;
	bool is_same = strcmp(l->peer, l->next_peer) == 0;
	if (!is_same || h->now >= op->attempts.last) {
		op->is_same = false;
		return false;
	}
	handoff_add(h, HANDOFF_DROP_NEW, handoff_index(h, l));
	op->is_same = true;
	op->look_at = mono_min(h->now + LOOK_MS, op->attempts.last);
	l->at = op->look_at;
	handoff_move(h, l, HANDOFF_WAITING, "the next attempt");
	return true;
}

/* In an announced window the announced and the configured address in turn: at once each, then a little later; the time
 * of one doubles with each turn, as the other may be the one that answers. */
void attempt_come_back(struct handoff *h, struct handoff_conn *l, bool was_up)
{
	char to[HANDOFF_ADDRESS];
	bool is_announced = op_target(h, h->now, l->address, to);
	if (!is_announced && strcmp(to, l->address) == 0)
		return; /* as usual, with backoff */
	if (is_announced && !was_up && strcmp(to, l->address) == 0)
		snprintf(to, sizeof to, "%s", h->configured);
	struct handoff_effect *ef = attempt_add(h, HANDOFF_TARGET, l, to);
	ef->until = h->now;
	if (is_announced) {
		mono_ms turn = mono_min(l->n_back++ / 2, BACK_DOUBLES);
		ef->limit = BACK_LEAST_MS << turn;
		ef->until += turn > 0 ? BACK_MS + (mono_ms)rng_below(&h->rng, 2 * BACK_MS) : 0;
	}
	snprintf(l->address, sizeof l->address, "%s", to);
}
