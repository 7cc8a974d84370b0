/* session_fence - until when a worker may work: until_ms with each ping, and its own silence. */
#include "core/coord/coord_p.h"

/* Never less often than it was told. */
static mono_ms ping_ms(const struct coord *c, const struct worker *m)
{
	return m->s.told_ping_ms ? mono_min(m->s.told_ping_ms, coord_ping_ms(c)) : coord_ping_ms(c);
}

void worker_arm(struct coord *c, struct worker *m)
{
	heap_set(&c->workers.timers, &m->s.timer, session_deadline(&m->s, ping_ms(c, m)));
}

static bool entry_has_lease(const struct entry *e)
{
	return !e->is_lost && e->good_until;
}

/* One more that is good until then, behind all others. */
static void worker_has_until(struct worker *w, mono_ms until)
{
	w->disorder = mono_max(w->disorder, w->latest - until);
	w->latest = mono_max(w->latest, until);
}

/* When the first of its leases ends; MONO_NEVER: it has none. Looks at all of them. */
static mono_ms look_through(struct worker *w)
{
	mono_ms until = MONO_NEVER;
	w->latest = w->disorder = 0;
	for (const struct link *l = w->entries.next; l != &w->entries; l = l->next) {
		const struct entry *e = LIST_OF(const struct entry, peers, l);
		if (!entry_has_lease(e))
			continue;
		until = mono_min(until, e->good_until);
		worker_has_until(w, e->good_until);
	}
	return until;
}

/* As look_through, or a little before: the first in order tells for all. */
static mono_ms first_end(struct worker *w)
{
	if (w->disorder > WORKER_DISORDER_MS)
		return look_through(w);
	for (const struct link *l = w->entries.next; l != &w->entries; l = l->next) {
		const struct entry *e = LIST_OF(const struct entry, peers, l);
		if (entry_has_lease(e))
			return e->good_until - w->disorder;
	}
	return MONO_NEVER;
}

mono_ms worker_until(const struct coord *c, struct worker *w)
{
	mono_ms end = first_end(w);
	return (end == MONO_NEVER ? c->now + c->services.shortest_ttl : end) - TELL_MARGIN_MS;
}

void worker_is_given(struct worker *w, struct entry *e)
{
	w->told.n++;
	if (e)
		e->given = w->told.n;
}

void worker_gets(struct worker *w, struct entry *e)
{
	list_push(&w->entries, &e->peers);
	if (entry_has_lease(e))
		worker_has_until(w, e->good_until);
}

static void ping(struct coord *c, struct worker *m, mono_ms until)
{
	struct effect *ef = worker_frame(c->out, m, OUT_PING);
	ef->frame.has_n = true;
	ef->frame.n = ++m->s.n_pings;
	ef->frame.until_ms = until;
	m->s.told_until = until;
	m->s.last_ping = c->now;
	worker_arm(c, m);
}

void worker_reorder(struct worker *w, struct entry *e)
{
	if (list_empty(&e->peers))
		return;
	list_remove(&e->peers);
	worker_gets(w, e);
}

void worker_touch(struct coord_workers *ws, struct worker *m, struct entry *e)
{
	worker_reorder(m, e);
	if (m->s.state == SESSION_READY && list_empty(&m->dirty))
		list_push(&ws->dirty, &m->dirty);
}

void worker_send_until(struct coord *c, struct worker *m)
{
	if (m->s.state != SESSION_READY || m->s.told_until - c->now > c->services.shortest_ttl * 7 / 10)
		return; /* what it knows is good for long: the next ping tells */
	mono_ms worth = m->s.told_until + c->services.shortest_ttl / 10;
	const struct entry *oldest = list_empty(&m->entries) ? NULL : LIST_OF(struct entry, peers, m->entries.next);
	if (oldest && !oldest->is_lost && oldest->good_until && oldest->good_until - TELL_MARGIN_MS < worth)
		return; /* the smallest is not larger */
	mono_ms until = worker_until(c, m);
	if (until >= worth)
		ping(c, m, until);
}

void worker_send_later_fences(struct coord *c)
{
	for (struct link *l = c->workers.all.next; l != &c->workers.all; l = l->next) {
		struct worker *m = LIST_OF(struct worker, all, l);
		if (m->is_gone || m->s.state != SESSION_READY)
			continue;
		mono_ms until = worker_until(c, m);
		if (until > m->s.told_until)
			ping(c, m, until);
	}
}

void worker_after_stall(struct coord *c)
{
	for (struct link *l = c->workers.all.next; l != &c->workers.all; l = l->next) {
		struct worker *m = LIST_OF(struct worker, all, l);
		m->s.last_heard = c->now;
	}
}

void worker_after_limits(struct coord *c)
{
	worker_after_stall(c); /* nobody was to speak as often as it may have to now */
	for (struct link *l = c->workers.all.next; l != &c->workers.all; l = l->next) {
		struct worker *m = LIST_OF(struct worker, all, l);
		if (!m->is_gone)
			worker_arm(c, m);
	}
}

void worker_on_due(struct coord *c, struct worker *m)
{
	switch (m->s.state) {
	case SESSION_NEW:
		worker_fatal(c, m, FERR_HELLO_TIMEOUT, "no hello in time");
		return;
	case SESSION_HELD: /* what a former process left is not known in time: its leases ran out */
		worker_welcome(c, m);
		return;
	case SESSION_READY:
		if (session_is_silent(&m->s, ping_ms(c, m), c->now)) {
			worker_fatal(c, m, FERR_SILENT, "no answer to pings");
			return;
		}
		if (m->s.last_ping + ping_ms(c, m) <= c->now)
			ping(c, m, worker_until(c, m));
		worker_arm(c, m);
		return;
	case SESSION_DETACHED:
		if (list_empty(&m->entries)) {
			worker_retire(c, m);
			return;
		}
		m->s.deadline = c->now + 500;
		worker_arm(c, m);
		return;
	}
}
