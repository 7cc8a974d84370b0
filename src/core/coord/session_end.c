/* session_end - how a worker's connection ends: closed, silent, dead, bye; and what that means for its entries. */
#include "core/coord/coord_p.h"
#include <assert.h>
#include <string.h>

static void disconnect(struct coord *c, struct worker *m)
{
	if (m->is_connected)
		if (--c->workers.n == 0)
			c->workers.alone_since = c->now;
	m->is_connected = false;
	credits_leave(&c->place, &m->credit_holder);
}

/* Frees it at the end of the turn: effects of this turn may still name it. */
void worker_retire(struct coord *c, struct worker *m)
{
	assert(!m->is_gone);
	disconnect(c, m);
	m->is_gone = true;
	effects_add(c->out, EFF_SESSION_OVER)->session = m->s.id;
	heap_remove(&c->workers.timers, &m->s.timer);
	list_remove(&m->dirty);
	list_remove(&m->all);
	list_push(&c->workers.gone, &m->all);
}

/* Since when it had what it has not answered; MONO_NEVER: it had that before its last word. */
static mono_ms given_since(const struct worker *m, const struct entry *e)
{
	if (!e->feed || !entry_feed_is_out(e))
		return e->since;
	return e->given > m->told.n_answered ? e->feed->waits_since : MONO_NEVER;
}

/* Simple workers do one thing and end, and meet the next one on their way out. */
static bool ended_behind_result(const struct coord *c, const struct worker *m, const struct entry *e)
{
	const mono_ms since = given_since(m, e);
	return m->result_at && since <= m->result_at + RESULT_THEN_END_MS && c->now < since + SUSPECT_ASSIGN_MS;
}

/* How many of its entries may be why it ends. None when one was taken from it: simple workers end to stop one
 * stream. The only one counts as two, of which nobody knows, when it was given out behind a result, and the worker
 * ended right then. */
static uint32_t n_blamed(const struct coord *c, const struct worker *m)
{
	uint32_t n = 0;
	bool is_at_its_end = false;
	for (const struct link *l = m->entries.next; l != &m->entries; l = l->next) {
		const struct entry *e = LIST_OF(const struct entry, peers, l);
		if (entry_was_taken_back(e))
			return 0;
		if (!entry_may_have_killed(c, e, m))
			continue;
		n++;
		is_at_its_end = ended_behind_result(c, m, e);
	}
	return n == 1 && is_at_its_end ? 2 : n;
}

/* The worker is not connected any more, but its process lives: it may come back for a while. */
static void worker_detach(struct coord *c, struct worker *m)
{
	disconnect(c, m);
	session_move(&m->s, SESSION_DETACHED, c->out, "its connection is closed");
	mono_ms back = c->now + c->rules.resume_grace_ms;
	m->n_blamed = n_blamed(c, m);
	for (struct link *l = m->entries.next; l != &m->entries; l = l->next) {
		struct entry *e = LIST_OF(struct entry, peers, l);
		/* it cannot be told to stop: what it was told last must have run out first */
		entry_limbo(c, e, mono_max(back, m->s.told_until + TELL_MARGIN_MS));
	}
	m->s.deadline = mono_max(back, m->s.told_until + 2 * TELL_MARGIN_MS);
	worker_arm(c, m);
	services_mark_all(&c->services);
}

void worker_give_all_back(struct coord *c, struct worker *m, enum requeue_why why)
{
	while (!list_empty(&m->entries)) {
		struct entry *e = LIST_OF(struct entry, peers, m->entries.next);
		entry_requeue(c, e, e->is_lost ? WHY_LOST : why, false);
	}
	services_mark_all(&c->services);
}

enum { EMPTY_KEPT = 64 }; /* sessions with nothing to come back for, to see whether their process dies */

static bool has_had_nothing(const struct worker *m)
{
	return list_empty(&m->entries) && !m->told.n && !m->s.n_outcomes && !m->credit_holder.in_use;
}

/* A process may connect again and again, and each session that may come back costs a descriptor. Of those without a
 * stream the oldest goes: what is lost with it is how its last leases ended. */
static void forget_oldest(struct coord *c, bool is_of_empty)
{
	for (struct link *l = c->workers.all.next; l != &c->workers.all; l = l->next) {
		struct worker *m = LIST_OF(struct worker, all, l);
		if (m->s.state != SESSION_DETACHED || !list_empty(&m->entries) || m->credit_holder.in_use ||
			(is_of_empty && !has_had_nothing(m)))
			continue;
		worker_retire(c, m);
		return;
	}
}

static void worker_ended(struct coord *c, struct worker *m, enum metric_process why)
{
	c->m[why]++;
	if (m->s.state == SESSION_READY) {
		worker_detach(c, m);
		const size_t n_detached = c->workers.by_session.n - c->workers.n;
		const bool is_empty = has_had_nothing(m);
		if (n_detached > c->rules.max_sessions || (is_empty && n_detached > EMPTY_KEPT))
			forget_oldest(c, is_empty);
	} else if (m->s.state != SESSION_DETACHED) {
		worker_retire(c, m);
	}
}

void worker_fatal(struct coord *c, struct worker *m, enum frame_error error, const char *msg)
{
	effects_log(c->out, error == FERR_SILENT || error == FERR_SLOW_READER ? LOG_WARN : LOG_INFO,
		"worker=%s session=%llu pid=%d closed: %s", m->s.name[0] ? m->s.name : "?", (unsigned long long)m->s.id,
		(int)m->s.pid, msg);
	worker_say_error(c, m, error, (struct slice){0}, msg);
	effects_add(c->out, EFF_CLOSE)->session = m->s.id;
	worker_ended(c, m, MP_DISC_ERROR);
}

void worker_on_end(struct coord *c, struct worker *m, uint32_t n_unread)
{
	m->told.n_unread = n_unread;
	worker_ended(c, m, MP_DISC_CLOSED);
}

void worker_on_dead(struct coord *c, struct worker *m)
{
	c->m[MP_DISC_DIED]++;
	if (!list_empty(&m->entries))
		effects_log(c->out, LOG_NOTICE, "worker=%s pid=%d died: its streams go back", m->s.name, (int)m->s.pid);
	uint32_t n = m->s.state == SESSION_DETACHED ? m->n_blamed : n_blamed(c, m);
	while (!list_empty(&m->entries))
		entry_worker_ended(c, LIST_OF(struct entry, peers, m->entries.next), n, true);
	services_mark_all(&c->services);
	worker_retire(c, m);
}

void worker_on_bad_input(struct coord *c, struct worker *m, enum frame_error error, const char *text)
{
	if (m->s.state != SESSION_DETACHED)
		worker_fatal(c, m, error, text);
}

void worker_on_bye(struct coord *c, struct worker *m)
{
	worker_give_all_back(c, m, WHY_BYE);
	effects_add(c->out, EFF_CLOSE)->session = m->s.id;
	c->m[MP_DISC_BYE]++;
	worker_retire(c, m);
}
