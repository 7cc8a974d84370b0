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
	list_remove(&m->end.giving_back);
	if (list_empty(&c->workers.giving_back))
		c->workers.give_back_at = MONO_NEVER;
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

static void all_into_limbo(struct coord *c, struct worker *m, mono_ms until)
{
	for (struct link *l = m->entries.next; l != &m->entries; l = l->next)
		entry_limbo(c, LIST_OF(struct entry, peers, l), until);
}

/* The worker is not connected any more, but its process lives: it may come back for a while. */
static void worker_detach(struct coord *c, struct worker *m)
{
	disconnect(c, m);
	session_move(&m->s, SESSION_DETACHED, c->out, "its connection is closed");
	mono_ms back = c->now + c->rules.resume_grace_ms;
	m->end.n_blamed = n_blamed(c, m);
	m->end.why = WHY_WORKER_DIED;
	/* it cannot be told to stop: what it was told last must have run out first */
	m->end.back_until = mono_max(back, m->s.told_until + TELL_MARGIN_MS);
	all_into_limbo(c, m, m->end.back_until);
	m->s.deadline = mono_max(back, m->s.told_until + 2 * TELL_MARGIN_MS);
	worker_arm(c, m);
	services_mark_all(&c->services);
}

/* ---- what it held goes back ---- */

enum { GIVE_BACK_MAX = 256 };    /* in one turn: some milliseconds' work, with what shards do for it */
enum { GIVE_BACK_EVERY_MS = 2 }; /* others have their turns in between */

static bool has_more_than_a_turn(const struct worker *m)
{
	return m->credit_holder.in_use > GIVE_BACK_MAX; /* each of its entries uses one */
}

static void give_one_back(struct coord *c, const struct worker *m, struct entry *e)
{
	if (m->end.why == WHY_WORKER_DIED)
		entry_worker_ended(c, e, m->end.n_blamed, m->end.is_dead);
	else
		entry_requeue(c, e, e->is_lost ? WHY_LOST : (enum requeue_why)m->end.why, false);
}

/* Until then they wait in LIMBO, with their leases, and nobody can resume them. */
static void give_back_later(struct coord *c, struct worker *m)
{
	assert(list_empty(&m->end.giving_back));
	if (m->s.state == SESSION_READY) {
		disconnect(c, m);
		session_move(&m->s, SESSION_DETACHED, c->out, "it has ended");
		all_into_limbo(c, m, MONO_NEVER);
	}
	m->end.began = c->now;
	list_push(&c->workers.giving_back, &m->end.giving_back);
	c->workers.give_back_at = mono_min(c->workers.give_back_at, c->now + GIVE_BACK_EVERY_MS);
}

/* True: all of it, now. */
static bool give_back(struct coord *c, struct worker *m)
{
	if (has_more_than_a_turn(m)) {
		give_back_later(c, m);
		return false;
	}
	while (!list_empty(&m->entries))
		give_one_back(c, m, LIST_OF(struct entry, peers, m->entries.next));
	services_mark_all(&c->services);
	return true;
}

void worker_give_all_back(struct coord *c, struct worker *m, enum requeue_why why)
{
	assert(why != WHY_WORKER_DIED);
	const bool was_connected = m->is_connected;
	m->end.why = (uint8_t)why;
	const bool is_all = give_back(c, m);
	if (was_connected) /* before EFF_SESSION_OVER: its process is watched from now on, until then */
		effects_add(c->out, EFF_CLOSE)->session = m->s.id;
	if (is_all)
		worker_retire(c, m);
}

bool worker_gives_back_later(struct coord *c, struct worker *m)
{
	if (!list_empty(&m->end.giving_back))
		return true;
	if (!has_more_than_a_turn(m) || c->now < m->end.back_until)
		return false;
	give_back_later(c, m);
	return true;
}

void worker_give_more_back(struct coord *c)
{
	if (c->workers.give_back_at > c->now)
		return;
	struct worker *m = LIST_OF(struct worker, end.giving_back, c->workers.giving_back.next);
	for (int n = 0; n < GIVE_BACK_MAX && !list_empty(&m->entries); n++)
		give_one_back(c, m, LIST_OF(struct entry, peers, m->entries.next));
	services_mark_all(&c->services);
	c->workers.give_back_at = c->now + GIVE_BACK_EVERY_MS;
	if (list_empty(&m->entries))
		worker_retire(c, m);
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
	if (!list_empty(&m->end.giving_back)) /* it had ended before */
		return;
	c->m[MP_DISC_DIED]++;
	if (!list_empty(&m->entries))
		effects_log(c->out, LOG_NOTICE, "worker=%s pid=%d died: its streams go back", m->s.name, (int)m->s.pid);
	if (m->s.state != SESSION_DETACHED)
		m->end.n_blamed = n_blamed(c, m);
	m->end.why = WHY_WORKER_DIED;
	m->end.is_dead = true;
	if (give_back(c, m))
		worker_retire(c, m);
}

void worker_on_bad_input(struct coord *c, struct worker *m, enum frame_error error, const char *text)
{
	if (m->s.state != SESSION_DETACHED)
		worker_fatal(c, m, error, text);
}

void worker_on_bye(struct coord *c, struct worker *m)
{
	c->m[MP_DISC_BYE]++;
	worker_give_all_back(c, m, WHY_BYE);
}
