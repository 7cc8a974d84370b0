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

mono_ms worker_until(const struct coord *c, const struct worker *m)
{
	mono_ms until = MONO_NEVER;
	for (struct link *l = m->entries.next; l != &m->entries; l = l->next) {
		const struct entry *e = LIST_OF(struct entry, peers, l);
		if (!e->is_lost && e->good_until)
			until = mono_min(until, e->good_until);
	}
	return (until == MONO_NEVER ? c->now + c->services.shortest_ttl : until) - TELL_MARGIN_MS;
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

/* The list stays about in order of renewal, so that its head tells whether looking at all of them is worth it. */
void worker_touch(struct coord_workers *ws, struct worker *m, struct entry *e)
{
	if (e->state == ENTRY_ASSIGNED) {
		list_remove(&e->peers);
		list_push(&m->entries, &e->peers);
	}
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
