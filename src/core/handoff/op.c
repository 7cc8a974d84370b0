/* op - one announcement, whatever the number of connections that heard it: its window, its end, where it leads. */
#include "core/handoff/handoff_p.h"

#include <assert.h>
#include <stdio.h>

enum { SUM_UP_MS = 1000, SHORTEST_MS = 1000, JITTER_PART = 20, JITTER_MAX_MS = 300 };

/* ---- operations ---- */

struct handoff_op *op_find(struct handoff *h, uint32_t serial)
{
	assert(h->serial >= serial);
	for (int i = 0; serial && i < OPS; i++)
		if (h->ops[i].serial == serial)
			return &h->ops[i];
	return NULL;
}

static void sum_up(struct handoff *h, struct handoff_op *op)
{
	const char *to = op->to[0] ? op->to : "the configured address";
	op->is_said = true;
	if (op->conns.n_failed > 0) {
		h->metrics.c[MH_HANDOFF_FAILED]++;
		handoff_log(h, LOG_WARN, "handoff seq=%lld to %s failed: moved=%u failed=%u: %s", (long long)op->seq,
			to, op->conns.n_moved, op->conns.n_failed, op->why);
	} else if (op->conns.n_cut > 0) {
		h->metrics.c[MH_HANDOFF_FALLBACK]++;
		handoff_log(h, LOG_WARN,
			"handoff seq=%lld to %s: moved=%u reconnected=%u: the old connections ended first",
			(long long)op->seq, to, op->conns.n_moved, op->conns.n_cut);
	} else if (op->conns.n_moved > 0) {
		h->metrics.c[MH_HANDOFF_OK]++;
		handoff_log(h, LOG_NOTICE, "handoff seq=%lld to %s done: moved=%u after_ms=%lld", (long long)op->seq,
			to, op->conns.n_moved, (long long)(op->ended - op->began));
	} else if (op->is_superseded) {
		h->metrics.c[MH_HANDOFF_SUPERSEDED]++;
		handoff_log(h, LOG_INFO, "handoff seq=%lld to %s superseded", (long long)op->seq, to);
	}
}

mono_ms op_tick(struct handoff *h)
{
	mono_ms next = MONO_NEVER;
	for (int i = 0; i < OPS; i++) {
		struct handoff_op *op = &h->ops[i];
		if (!op->serial || op->is_said || op->conns.n_open > 0)
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
	struct handoff_op *op = op_find(h, l->op);
	l->op = 0;
	if (!op)
		return;
	op->conns.n_open--;
	op->conns.n_moved += how == END_MOVED;
	op->conns.n_failed += how == END_FAILED;
	op->conns.n_cut += how == END_CUT;
	op->is_superseded |= how == END_SUPERSEDED;
	op->ended = h->now;
}

/* A name, which may lead elsewhere at the next look-up; not a number, not a path. */
static bool op_is_name(const char *address)
{
	const char *colon = strrchr(address, ':');
	if (!colon || address[0] == '[' || strncmp(address, "unix:", 5) == 0)
		return false;
	size_t n = strspn(address, "0123456789.");
	return address + n < colon;
}

static bool op_is_own(const struct handoff_op *op)
{
	return strcmp(op->to, op->from) == 0 || (op->from_peer[0] && strcmp(op->to, op->from_peer) == 0);
}

/* With null, and when it is our own number that is announced, it leads elsewhere only later: at half the time. A name
 * is looked at all the while. */
static void op_plan(struct handoff *h, struct handoff_op *op, mono_ms window)
{
	op->is_named = op_is_name(op->to[0] ? op->to : h->configured);
	op->attempts.due = h->now;
	op->until = h->now + mono_max(window, SHORTEST_MS);
	if (window > SHORTEST_MS) {
		bool is_later = !op->to[0] || (op_is_own(op) && !op->is_named);
		op->attempts.due += is_later ? window / 2 : 0;
		op->attempts.jitter = mono_min(window / JITTER_PART, JITTER_MAX_MS);
	}
	mono_ms left = op->until - op->attempts.due;
	op->attempts.step = mono_max(left / (h->rules.max_retries + 1), ATTEMPT_APART_MS);
	op->attempts.last = op->until - mono_min(left / 4, ATTEMPT_LEAST_MS);
	op->attempts.last -= (mono_ms)rng_below(&h->rng, (uint64_t)op->attempts.jitter / 4 + 1);
}

/* Rather a than b makes room for a new one: unused, nobody's part in it open, over, older. */
static bool op_goes_before(const struct handoff *h, const struct handoff_op *a, const struct handoff_op *b)
{
	if (!a->serial || !b->serial)
		return !a->serial && b->serial;
	if (!a->conns.n_open != !b->conns.n_open)
		return !a->conns.n_open;
	if ((a->until <= h->now) != (b->until <= h->now))
		return a->until <= h->now;
	return a->serial < b->serial;
}

/* Too many at once: whoever is still at this one drops it, and obeys the next that it hears. */
static void op_end_all(struct handoff *h, const struct handoff_op *op)
{
	for (size_t i = 0; op->conns.n_open && i < h->n_role_conns; i++)
		if (h->conns[i].is_open && h->conns[i].op == op->serial)
			handoff_leave(h, &h->conns[i], END_SUPERSEDED);
}

static struct handoff_op *new_op(struct handoff *h, const struct note *n, const struct handoff_conn *l)
{
	struct handoff_op *op = &h->ops[0];
	for (int i = 1; i < OPS; i++)
		if (op_goes_before(h, &h->ops[i], op))
			op = &h->ops[i];
	if (op->serial)
		op_end_all(h, op);
	assert(!op->conns.n_open);
	if (op->serial && !op->is_said)
		sum_up(h, op);
	*op = (struct handoff_op){.serial = ++h->serial, .seq = n->seq, .began = h->now};
	snprintf(op->from, sizeof op->from, "%s", l->address);
	snprintf(op->from_peer, sizeof op->from_peer, "%s", l->peer);
	snprintf(op->to, sizeof op->to, "%s", n->endpoint);
	op_plan(h, op, n->seconds > 0 ? n->seconds * 1000 : 0);
	return op;
}

/* A connection that has obeyed a newer one is not called back by an older one that is said again. */
static bool op_is_behind(struct handoff *h, const struct handoff_op *op, const struct handoff_conn *l)
{
	const struct handoff_op *last = op_find(h, l->last_op);
	return last && last->until > h->now && last->seq > op->seq;
}

struct handoff_op *handoff_op_of(struct handoff *h, const struct note *n, const struct handoff_conn *l, bool *is_new)
{
	*is_new = false;
	for (int i = 0; i < OPS; i++) {
		struct handoff_op *op = &h->ops[i];
		if (op->serial && op->until > h->now && op->seq == n->seq && strcmp(op->to, n->endpoint) == 0)
			return op_is_behind(h, op, l) ? NULL : op;
	}
	for (int i = 0; i < OPS; i++)
		if (h->ops[i].serial && h->ops[i].until > h->now && h->ops[i].seq > n->seq)
			return NULL;
	*is_new = true;
	return new_op(h, n, l);
}

bool op_has(const struct handoff_op *op, const struct handoff_conn *l)
{
	if (!l->is_up || (op->to[0] && strcmp(l->address, op->to) != 0))
		return false;
	bool is_younger = l->up_at > (op->to[0] ? op->began : op->attempts.due);
	bool is_same_peer = op->is_named && l->peer[0] && strcmp(l->peer, op->from_peer) == 0;
	return is_younger && (!is_same_peer || l->up_at >= op->attempts.last);
}

/* ---- where to dial ---- */

/* From `at` along the announced moves, in their order. What one led to and a later one away from has gone with the
 * later one's window, however long the first one's is: from there it is the configured address. */
static bool op_follow(const struct handoff *h, mono_ms now, char at[HANDOFF_ADDRESS])
{
	bool has_moved = false;
	uint32_t after = 0;
	for (;;) {
		const struct handoff_op *op = NULL;
		for (int i = 0; i < OPS; i++)
			if (h->ops[i].serial > after && (!op || h->ops[i].serial < op->serial))
				op = &h->ops[i];
		if (!op)
			return has_moved;
		after = op->serial;
		bool is_over = op->until <= now;
		if (strcmp(op->from, at) != 0 || (is_over && (!has_moved || op_is_own(op))))
			continue;
		snprintf(at, HANDOFF_ADDRESS, "%s", op->to[0] && !is_over ? op->to : h->configured);
		has_moved = !is_over;
	}
}

bool op_target(const struct handoff *h, mono_ms now, const char *from, char out[HANDOFF_ADDRESS])
{
	snprintf(out, HANDOFF_ADDRESS, "%s", from[0] ? from : h->configured);
	if (op_follow(h, now, out))
		return true;
	snprintf(out, HANDOFF_ADDRESS, "%s", h->configured);
	return op_follow(h, now, out);
}
