/* relax - for how long the deadlines of a connection are relaxed. */
#include "core/handoff/handoff_p.h"

#include <assert.h>

/* Relaxed windows: MOVING's own, the one after a handoff, and starts that wait for their closing message. */

static int pair_of(enum note_kind k)
{
	if (k == NOTE_MIGRATING || k == NOTE_MIGRATED)
		return PAIR_MIGRATE;
	return k == NOTE_FAILING_OVER || k == NOTE_FAILED_OVER ? PAIR_FAIL_OVER : PAIR_SMIGRATE;
}

bool relax_matches(const struct handoff_conn *l, enum note_kind k)
{
	return l->relaxed.pairs[pair_of(k)].n > 0;
}

void relax_note(struct handoff *h, struct handoff_conn *l, const struct note *n)
{
	assert(l->is_open && n->kind < NOTE_KINDS);
	mono_ms cap = h->now + h->rules.relaxed_cap_ms;
	struct pair *p = &l->relaxed.pairs[pair_of(n->kind)];
	switch (n->kind) {
	case NOTE_MOVING:
		l->relaxed.moving_until =
			mono_max(l->relaxed.moving_until, mono_min(cap, h->now + mono_max(n->seconds, 1) * 1000));
		break;
	case NOTE_MIGRATING:
	case NOTE_FAILING_OVER:
	case NOTE_SMIGRATING:
		if (p->n > 0 && p->last_start == n->seq)
			break;
		p->n++;
		p->last_start = n->seq;
		p->last_end = -1;
		p->cap_at = cap;
		break;
	case NOTE_MIGRATED:
	case NOTE_FAILED_OVER:
	case NOTE_SMIGRATED:
		if (p->n > 0 && p->last_end != n->seq)
			p->n--;
		p->last_end = n->seq;
		break;
	case NOTE_KINDS:
		break;
	}
}

void relax_clear(struct handoff_conn *l)
{
	for (int i = 0; i < PAIRS; i++)
		l->relaxed.pairs[i] = (struct pair){.last_start = -1, .last_end = -1};
	l->relaxed.moving_until = l->relaxed.post_until = 0;
}

void relax_moved(struct handoff *h, struct handoff_conn *l)
{
	relax_clear(l);
	l->relaxed.post_until = h->now + h->rules.post_relaxed_ms;
	l->relaxed.told_until = -1; /* another connection, which has been told nothing */
}

static mono_ms until_of(struct handoff_conn *l, mono_ms now)
{
	mono_ms until = mono_max(l->relaxed.moving_until, l->relaxed.post_until);
	for (int i = 0; i < PAIRS; i++) {
		struct pair *p = &l->relaxed.pairs[i];
		if (p->n > 0 && p->cap_at <= now)
			p->n = 0; /* the closing message never came */
		if (p->n > 0)
			until = mono_max(until, p->cap_at);
	}
	return until > now ? until : 0;
}

mono_ms relax_tick(struct handoff *h)
{
	mono_ms next = MONO_NEVER;
	bool is_relaxed = false;
	for (uint32_t i = 0; i < h->n_role_conns; i++) {
		struct handoff_conn *l = &h->conns[i];
		mono_ms until = l->is_open ? until_of(l, h->now) : 0;
		if (until != l->relaxed.told_until) {
			if (l->is_open)
				handoff_add(h, HANDOFF_RELAX, i)->until = until;
			l->relaxed.told_until = until;
		}
		if (until) {
			is_relaxed = true;
			next = mono_min(next, until);
			for (int k = 0; k < PAIRS; k++)
				if (l->relaxed.pairs[k].n > 0)
					next = mono_min(next, l->relaxed.pairs[k].cap_at);
		}
	}
	if (h->was_relaxed && !is_relaxed)
		handoff_log(h, LOG_INFO, "maintenance: time-outs as configured again");
	h->was_relaxed = is_relaxed;
	return next;
}
