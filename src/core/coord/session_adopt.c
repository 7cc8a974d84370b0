/* session_adopt - a session that lives through a restart of the daemon, because the service manager kept its
 * connection. The worker notices nothing; what it holds was found among our own pending entries and waits in
 * LIMBO, as for one that resumes. */
#include "core/coord/coord_p.h"
#include <stdio.h>
#include <string.h>

bool worker_can_go_on(const struct coord *c, const struct worker *m)
{
	if (m->credit_holder.takes_entries) /* what it was told and has not acknowledged comes again: it has to know */
		return false;
	if (m->s.state != SESSION_READY || !m->is_connected || m->is_gone || c->drain.is_on)
		return false;
	uint32_t n = 0;
	for (const struct link *l = m->entries.next; l != &m->entries; l = l->next, n++) {
		const struct entry *e = LIST_OF(const struct entry, peers, l);
		if (e->state != ENTRY_ASSIGNED || e->is_lost)
			return false;
	}
	if (n != m->credit_holder.in_use) /* it was told to stop something and has not answered */
		return false;
	uint32_t pos = 0;
	for (const struct entry *e; c->ledger.n_state[ENTRY_FINISHING] && (e = ledger_next(&c->ledger, &pos));)
		if (e->state == ENTRY_FINISHING && e->owner == m->s.id)
			return false;
	return true;
}

/* It works on something that is not ours any more. Its credit comes back with its answer. */
static void adopt_tell_lost(struct coord *c, struct worker *m, struct slice lease)
{
	struct session_outcome o = {.outcome = GONE_LOST, .is_zombie = true};
	if (lease.len > FRAME_LEASE_MAX || !session_lease_parse(lease, &o.id, &o.service))
		return;
	if (services_of_hash(&c->services, o.service)) {
		session_remember(&m->s, m->credit_holder.credits, o);
		credit_holder_use(&c->place, &m->credit_holder, 1);
	}
	struct effect *ef = worker_frame(c->out, m, OUT_REVOKE);
	ef->hold = text_new(lease.p, lease.len);
	ef->frame.lease = (struct slice){ef->hold->bytes, ef->hold->len};
	ef->frame.reason = REVOKE_LOST;
	c->m[MP_REVOKE_LOST]++;
}

/* Its fence has passed: it may have stopped what it held, and says so when it comes again. */
static bool is_too_late(const struct coord *c, const struct coord_event *ev)
{
	return ev->frame->hello.n_resume > 0 && ev->until <= c->now;
}

void worker_on_adopt(struct coord *c, const struct coord_event *ev)
{
	const struct frame *f = ev->frame;
	struct worker *m = worker_new(c, ev);
	if (!coord_knows_own(c) || !ev->flag || is_too_late(c, ev) || !worker_take_services(c, m, f)) {
		effects_add(c->out, EFF_CLOSE)->session = m->s.id;
		worker_retire(c, m);
		return;
	}
	snprintf(m->s.name, sizeof m->s.name, "%.*s", (int)(f->hello.name.len < 127 ? f->hello.name.len : 127),
		f->hello.name.p ? f->hello.name.p : "");
	credit_holder_offer(&c->place, &m->credit_holder, (uint32_t)f->credits);
	m->s.told_until = ev->until;
	m->s.n_pings = (int64_t)ev->n;
	session_move(&m->s, SESSION_READY, c->out, "of the former process");
	m->s.deadline = MONO_NEVER;
	m->s.last_ping = c->now - coord_ping_ms(c); /* told of its leases at once */
	size_t n_kept = 0;
	for (size_t i = 0; i < f->hello.n_resume; i++) {
		enum gone_outcome gone;
		if (worker_resume_one(c, m, NULL, f->hello.resume[i], &gone))
			n_kept++;
		else
			adopt_tell_lost(c, m, f->hello.resume[i]);
	}
	effects_log(c->out, LOG_INFO, "worker=%s pid=%d goes on credits=%u held=%zu lost=%zu", m->s.name, (int)m->s.pid,
		m->credit_holder.credits, n_kept, f->hello.n_resume - n_kept);
	credits_join(&c->place, &m->credit_holder);
	worker_arm(c, m);
	services_mark_all(&c->services);
	if (c->drain.is_on)
		worker_say_drain(c, m);
}
