/* admit - which connection dials next: many wait at once, not all may dial at once. */
#include "core/handoff/handoff_p.h"

#include <stdio.h>

/* A reader that has not come to its end with the operation of C: under way, or it has not heard yet. */
static bool goes_before(const struct handoff_conn *reader, const struct handoff_conn *c)
{
	if (!reader->is_open || !reader->is_up || reader->role != CONN_READER)
		return false;
	if (reader->last_op == c->op)
		return reader->op == c->op || reader->left.are_there;
	return strcmp(reader->address, c->address) == 0;
}

/* While a name leads where we are, one connection at a time looks at it. */
static mono_ms admit_look_at(const struct handoff *h, const struct handoff_conn *l, const struct handoff_op *op)
{
	for (size_t i = 0; i < h->n_role_conns; i++) {
		const struct handoff_conn *o = &h->conns[i];
		if (o != l && o->is_open && o->op == l->op && handoff_is_dialing(o))
			return op->attempts.last;
	}
	return op->look_at;
}

/* A blocked read is ended through C, which waits a little for the readers. */
mono_ms admit_at(struct handoff *h, const struct handoff_conn *l)
{
	const struct handoff_op *op = op_find(h, l->op);
	if (op && op->is_same && h->now < op->attempts.last)
		return mono_max(l->at, admit_look_at(h, l, op));
	if (l->role != CONN_COMMAND || l->n_tries > 0)
		return l->at;
	for (size_t i = 0; i < h->n_role_conns; i++)
		if (goes_before(&h->conns[i], l))
			return mono_max(l->at, l->latest);
	return l->at;
}

static void admit_refused(struct handoff *h, struct handoff_conn *l, struct handoff_op *op)
{
	mono_ms again = breaker_is_trying(h, op->to) ? h->now + WAIT_MS : breaker_reset_at(h, op->to);
	if (again <= op->attempts.last) {
		l->at = again;
		handoff_move(h, l, HANDOFF_WAITING, "it waits its turn");
		return;
	}
	char why[2 * HANDOFF_WHY];
	const char *words = breaker_why(h, op->to);
	snprintf(why, sizeof why, "not tried again (circuit breaker)%s%s", words[0] ? ": " : "", words);
	attempt_give_up(h, l, why);
}

static void handoff_dial(struct handoff *h, struct handoff_conn *l)
{
	struct handoff_op *op = op_find(h, l->op);
	if (!op)
		handoff_leave(h, l, END_LEFT);
	else if (h->now >= op->until)
		attempt_give_up(h, l, l->why[0] ? "" : "its turn did not come within the window");
	else if (!breaker_allows(h, op->to, h->now) && (!op->is_let || breaker_is_trying(h, op->to)))
		admit_refused(h, l, op);
	else
		attempt_begin(h, l, op);
}

/* The next one to dial: readers first, then who waits longest. */
static struct handoff_conn *next_due(struct handoff *h)
{
	struct handoff_conn *best = NULL;
	for (size_t i = 0; i < h->n_role_conns; i++) {
		struct handoff_conn *l = &h->conns[i];
		bool is_waiting = l->state == HANDOFF_WAITING || l->state == HANDOFF_QUEUED;
		if (!l->is_open || !l->is_up || !is_waiting || admit_at(h, l) > h->now)
			continue;
		bool is_reader = l->role == CONN_READER, best_is = best && best->role == CONN_READER;
		if (!best || (is_reader && !best_is) || (is_reader == best_is && l->at < best->at))
			best = l;
	}
	return best;
}

static void queue(struct handoff *h, size_t n_queued)
{
	for (size_t i = 0; i < h->n_role_conns; i++) {
		struct handoff_conn *l = &h->conns[i];
		if (!l->is_open || !l->is_up || l->state != HANDOFF_WAITING || admit_at(h, l) > h->now)
			continue;
		if (h->rules.queue == 0 || n_queued < h->rules.queue) {
			handoff_move(h, l, HANDOFF_QUEUED, "others dial");
			n_queued++;
			continue;
		}
		attempt_give_up(h, l, "the queue of handoffs is full");
	}
}

void admit_due(struct handoff *h)
{
	size_t n_dialing = 0, n_queued = 0;
	for (size_t i = 0; i < h->n_role_conns; i++)
		n_dialing += h->conns[i].is_open && handoff_is_dialing(&h->conns[i]);
	struct handoff_conn *l;
	while (n_dialing < h->rules.max_concurrent && (l = next_due(h))) {
		handoff_dial(h, l);
		n_dialing += handoff_is_dialing(l);
	}
	for (size_t i = 0; i < h->n_role_conns; i++)
		n_queued += h->conns[i].is_open && h->conns[i].state == HANDOFF_QUEUED;
	if (next_due(h))
		queue(h, n_queued);
}
