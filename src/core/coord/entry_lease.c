/* entry_lease - what shards say of leases, and the audit: held, lost, moved, not pending any more. */
#include "core/coord/coord_p.h"

#include "base/log_fields.h"
#include <assert.h>
#include <stdio.h>
#include <string.h>

/* A start-up entry whose lock was asked for: when the last one is known, workers that want to resume are answered. */
void entry_start_known(struct coord *c, struct entry *e)
{
	assert(!e->start_counted || c->n_start > 0);
	if (!e->start_counted)
		return;
	e->start_counted = false;
	if (--c->n_start == 0)
		worker_try_held(c);
}

/* It may have been another process of ours that held it: one before this one, or, by a wrong configuration, beside
 * it. */
static void start_held(struct coord *c, struct entry *e, const struct msg *m)
{
	e->was_told = true; /* we cannot know: a worker of the former process may have it */
	struct coord_service *s = services_find(&c->services, e->svc);
	mono_ms ttl_ms = s->rules->lease.ttl_ms;
	entry_unreserve(c, s, e);
	/* what the former process told last ends before its lock would have; its leases may have been longer */
	if (m->lease.was_ours)
		entry_move(c, e, ENTRY_LIMBO,
			c->now + mono_max(c->rules.resume_grace_ms,
					 mono_max(ttl_ms, m->lease.lasts_ms) - TELL_MARGIN_MS));
	else /* the lock was missing: no worker may still hold it in time */
		entry_requeue(c, e, WHY_UNRESUMED, false);
	entry_start_known(c, e);
}

/* Its worker's list is in order of these. */
static void entry_is_good_until(struct coord *c, struct entry *e, mono_ms until)
{
	e->good_until = until;
	struct worker *w = e->owner ? workers_find(&c->workers, e->owner) : NULL;
	if (w)
		worker_reorder(w, e);
}

static void on_held(struct coord *c, struct entry *e, const struct msg *m)
{
	entry_is_good_until(c, e, m->lease.good_until);
	if (e->state != ENTRY_LOCKING)
		return;
	if (e->is_start || m->lease.lasts_ms > 0) {
		start_held(c, e, m);
		return;
	}
	if (c->drain.is_on) { /* read before we stopped reading, and nobody else's */
		entry_requeue(c, e, WHY_DRAIN, false);
		return;
	}
	entry_move(c, e, ENTRY_TAKING, MONO_NEVER);
	if (m->lease.has_take)
		entry_taken(c, e, (enum op_result)m->lease.taken, m->lease.was_merged);
	else
		entry_send_op(c, e);
}

static void on_busy(struct coord *c, struct entry *e)
{
	struct coord_service *s = services_find(&c->services, e->svc);
	e->lease_shard = SHARD_NONE;
	e->good_until = 0;
	if (e->state != ENTRY_LOCKING)
		return;
	entry_unreserve(c, s, e);
	entry_move(c, e, ENTRY_BUSY, c->now + rng_jitter(&c->rng, s->rules->lease.ttl_ms / 3, 10));
	entry_start_known(c, e);
}

static void revoke_lost(struct coord *c, struct coord_service *s, struct entry *e, mono_ms was_good)
{
	mono_ms grace = mono_max(service_stop_margin(s->rules, was_good) - TELL_MARGIN_MS, 0);
	struct worker *w = workers_find(&c->workers, e->owner);
	if (w) /* the others' fence is farther away now */
		worker_touch(&c->workers, w, e);
	if (e->state == ENTRY_ASSIGNED) {
		entry_revoke(c, e, REVOKE_LOST, grace);
		return;
	}
	if (!w)
		return;
	e->revoke = REVOKE_LOST;
	e->is_revoked = true;
	entry_tell_revoke(c, e, w, grace);
	c->m[MP_REVOKE_LOST]++;
}

static const char *const lost_names[LOST_N] = {"expired", "taken", "missing", "not_pending", "replaced"};

enum { LOST_TOGETHER_MS = 1000, LOST_EVERY_MS = 60000 };

/* A line each at notice; and one warning for all that go within a second or, when it goes on, within a minute. */
static void tell_lost(struct coord *c, struct coord_service *s, const struct entry *e, enum lost_reason why)
{
	char stream[FIELD_VALUE_CAP];
	s->m.c[M_LOST_EXPIRED + why]++;
	effects_log(c->out, LOG_NOTICE, "service=%s stream=%s id=%llu-%llu lease lost reason=%s", s->rules->name,
		e->stream ? field_value(stream, e->stream->bytes, e->stream->len) : "?", (unsigned long long)e->id.ms,
		(unsigned long long)e->id.seq, lost_names[why]);
	s->lost.n[why]++;
	if (s->lost.at != MONO_NEVER)
		return;
	s->lost.at = c->now + LOST_TOGETHER_MS;
	if (s->lost.said)
		s->lost.at = mono_max(s->lost.at, s->lost.said + LOST_EVERY_MS);
	c->services.lost_at = mono_min(c->services.lost_at, s->lost.at);
}

static void warn_lost(struct coord *c, struct coord_service *s)
{
	char reasons[160] = "";
	size_t at = 0;
	uint32_t n = 0;
	for (int i = 0; i < LOST_N; i++) {
		if (s->lost.n[i])
			at += (size_t)snprintf(
				reasons + at, sizeof reasons - at, " %s=%u", lost_names[i], s->lost.n[i]);
		n += s->lost.n[i];
		s->lost.n[i] = 0;
	}
	effects_log(c->out, LOG_WARN, "service=%s leases lost n=%u%s", s->rules->name, n, reasons);
	s->lost.said = mono_max(c->now, 1);
	s->lost.at = MONO_NEVER;
}

void entry_warn_lost(struct coord *c)
{
	if (c->services.lost_at > c->now)
		return;
	c->services.lost_at = MONO_NEVER;
	for (uint16_t i = 0; i < c->services.n; i++) {
		struct coord_service *s = &c->services.v[i];
		if (s->rules && s->lost.at <= c->now)
			warn_lost(c, s);
		if (s->rules)
			c->services.lost_at = mono_min(c->services.lost_at, s->lost.at);
	}
}

void entry_lease_lost(struct coord *c, struct entry *e, enum lost_reason why)
{
	assert(why < LOST_N);
	struct coord_service *s = services_find(&c->services, e->svc);
	mono_ms was_good = e->good_until;
	e->good_until = 0;
	e->lease_shard = SHARD_NONE;
	if (e->is_lost)
		return;
	e->is_lost = true;
	entry_start_known(c, e);
	if (e->was_told)
		tell_lost(c, s, e, why);
	switch ((enum entry_state)e->state) {
	case ENTRY_LOCKING:
	case ENTRY_TAKING:
	case ENTRY_PARKED:
	case ENTRY_READY:
		entry_requeue(c, e, WHY_LOST, false);
		break;
	case ENTRY_ASSIGNED:
	case ENTRY_REVOKING:
		revoke_lost(c, s, e, was_good);
		break;
	case ENTRY_LIMBO: /* nobody can be told: what it was told last must have passed */
		e->deadline = mono_max(was_good, c->now);
		entry_arm(c, e);
		break;
	case ENTRY_FINISHING:
		if (entry_is_ending(e))
			entry_told_ended(c, e);
		break;
	case ENTRY_FETCHING:
	case ENTRY_BUSY:
	case ENTRY_STATES:
		break;
	}
}

/* ---- a master that does not answer ---- */

static void heard_of(struct coord *c, uint16_t shard)
{
	if (shard < c->shards.n)
		c->shards.v[shard].heard_at = c->now;
}

/* It answers when it has confirmed any lease since about the time in which each of them is renewed once. What is left
 * of a lease at its stop-work time, when the master died just before its renewal, is the longest that can be asked
 * for. */
static bool is_mute(const struct coord *c, const struct service_rules *r, uint16_t shard)
{
	if (shard >= c->shards.n || !c->shards.v[shard].is_on)
		return false;
	mono_ms until_stop = r->lease.ttl_ms - r->lease.stop_margin_ms;
	mono_ms longest = mono_min(until_stop / 2, until_stop - r->lease.renew_ms * 11 / 10);
	return c->now - c->shards.v[shard].heard_at >= mono_max(longest, 1);
}

static void fence_here(struct coord *c, struct entry *e)
{
	struct coord_service *s = services_find(&c->services, e->svc);
	s->m.c[c->now > e->good_until ? M_FENCE_LATE : M_FENCE_STOPPED] += e->was_told;
	entry_drop_lease(c, e, MSG_LEASE_FORGET);
	entry_lease_lost(c, e, LOST_EXPIRED);
}

static void leases_end_together(struct coord *c, uint16_t shard)
{
	uint32_t pos = 0, n = 1;
	for (struct entry *other; (other = ledger_next(&c->ledger, &pos));) {
		if (other->lease_shard != shard || entry_stop_at(&c->services, other) == MONO_NEVER)
			continue;
		fence_here(c, other);
		n++;
	}
	if (n > 1)
		effects_log(c->out, LOG_WARN,
			"shard=%u redis=%s confirms no lease any more: its %u leases end together", shard,
			c->topo.nodes[shard].addr, n);
	worker_send_later_fences(c);
}

void entry_fence(struct coord *c, struct entry *e)
{
	const uint16_t shard = e->lease_shard;
	bool mute = is_mute(c, services_find(&c->services, e->svc)->rules, shard);
	fence_here(c, e);
	if (mute)
		leases_end_together(c, shard);
}

/* The shard has fenced it, and counted that. */
static void on_fenced(struct coord *c, struct entry *e, enum lost_reason why)
{
	const uint16_t shard = e->lease_shard;
	bool mute = is_mute(c, services_find(&c->services, e->svc)->rules, shard);
	entry_lease_lost(c, e, why);
	if (mute)
		leases_end_together(c, shard);
}

/* Somebody else may have it pending by now, and waits for its lock: that is left to expire while a worker still
 * stops. */
void entry_not_pending(struct coord *c, struct entry *e)
{
	bool is_worked = entry_is_worked(e) || e->state == ENTRY_LIMBO;
	entry_drop_lease(c, e, is_worked ? MSG_LEASE_FORGET : MSG_LEASE_RELEASE);
	entry_lease_lost(c, e, LOST_NOT_PENDING);
}

static void on_lease_moved(struct coord *c, struct entry *e, const struct msg *m)
{
	char addr[TOPOLOGY_ADDR];
	bool is_known = topology_redirection(&c->topo, m->from, m->lease.moved_to, addr);
	e->lease_shard = SHARD_NONE;
	if (m->lease.good_until)
		entry_is_good_until(c, e, m->lease.good_until);
	if (is_known && m->lease.asking)
		entry_send_lease(c, e, coord_shard_at(c, addr), true);
	else if (is_known && topology_moved(&c->topo, m->lease.slot, addr))
		coord_start_shards(c), coord_route_readers(c);
	if (e->lease_shard == SHARD_NONE && entry_awaits_lease(e)) {
		uint16_t to = topology_shard(&c->topo, e->lock_slot);
		if (to == m->from || m->lease.asking)
			entry_wait_for_route(c); /* the map is behind, or nobody is there yet: a moment later */
		else
			entry_send_lease(c, e, to, false);
	}
	coord_ask_topology(c, "moved");
}

/* Its entry has ended, and the word that it was released crossed this one: its lock is deleted where it is now. */
static void release_moved(struct coord *c, const struct msg *m)
{
	uint16_t to = topology_shard(&c->topo, m->lease.slot);
	if (m->lease.asking)
		to = coord_shard_asked(c, m->from, m->lease.moved_to);
	if (!m->lease.stream || m->lease.good_until <= c->now || to == m->from || !shards_is_on(&c->shards, to))
		return; /* else it expires by itself */
	struct msg *sent = coord_send(c, to,
		msg_lease_acquire((struct msg_lease_acquire){.id = m->lease.id,
			.stream = text_ref(m->lease.stream),
			.good_until = m->lease.good_until,
			.slot = m->lease.slot,
			.asking = m->lease.asking,
			.is_over = true}));
	sent->handle = m->handle;
	sent->svc = m->svc;
}

void entry_on_lease(struct coord *c, const struct msg *m)
{
	struct entry *e = ledger_by_handle(&c->ledger, m->handle);
	if (!e && m->lease.result == LEASE_IS_MOVED)
		release_moved(c, m);
	if (!e || e->lease_shard != m->from)
		return;
	if (m->lease.result == LEASE_IS_HELD || m->lease.result == LEASE_IS_RECREATED)
		heard_of(c, m->from);
	switch ((enum lease_result)m->lease.result) {
	case LEASE_IS_HELD:
		on_held(c, e, m);
		break;
	case LEASE_IS_BUSY:
		on_busy(c, e);
		break;
	case LEASE_IS_LOST:
		if (m->lease.lost == LOST_EXPIRED || m->lease.lost == LOST_MISSING)
			on_fenced(c, e, (enum lost_reason)m->lease.lost);
		else
			entry_lease_lost(c, e, (enum lost_reason)m->lease.lost);
		break;
	case LEASE_IS_MOVED:
		on_lease_moved(c, e, m);
		break;
	case LEASE_IS_RECREATED:
		entry_is_good_until(c, e, m->lease.good_until);
		entry_arm(c, e);
		if (e->state != ENTRY_FINISHING && e->state != ENTRY_TAKING && !e->verify) {
			e->verify = true;
			entry_send_op(c, e);
		}
		break;
	}
}

void entry_on_renewed(struct coord *c, uint16_t shard, const struct renewed *r)
{
	heard_of(c, shard);
	struct worker *w = NULL;
	for (uint32_t i = 0; i < r->n; i++) {
		struct entry *e = ledger_by_handle(&c->ledger, r->v[i].handle);
		if (!e || e->is_lost || r->v[i].good_until <= e->good_until)
			continue;
		e->good_until = r->v[i].good_until;
		if (!e->owner)
			continue;
		if (!w || w->s.id != e->owner) /* most often it is the one of the last */
			w = workers_find(&c->workers, e->owner);
		if (w)
			worker_touch(&c->workers, w, e);
	}
}

/* ---- the audit ---- */

static void audit_end(struct coord *c, struct coord_service *s, const struct msg *m)
{
	uint32_t pos = 0;
	for (struct entry *e; (e = ledger_next(&c->ledger, &pos));) {
		if (e->svc == s->svc)
			entry_look_at_claim(c, s, e);
		if (e->svc != s->svc || e->audit == (uint32_t)m->own_ids.pass || e->since >= m->own_ids.began ||
			c->now < s->audit.hold)
			continue;
		switch ((enum entry_state)e->state) {
		case ENTRY_BUSY:
		case ENTRY_PARKED:
		case ENTRY_READY:
			entry_release_and_drop(c, e);
			break;
		case ENTRY_FETCHING:
			if (e->deadline != MONO_NEVER)
				entry_drop(c, e);
			break;
		case ENTRY_ASSIGNED:
		case ENTRY_REVOKING:
		case ENTRY_LIMBO:
			if (e->is_lost)
				break;
			entry_not_pending(c, e);
			break;
		case ENTRY_LOCKING:
		case ENTRY_TAKING:
		case ENTRY_FINISHING:
		case ENTRY_STATES:
			break;
		}
	}
}

void entry_on_own_ids(struct coord *c, const struct msg *m)
{
	struct coord_service *s = services_find(&c->services, m->svc);
	if (!s || m->from != s->reader.shard)
		return;
	coord_is_still_back(c, s);
	s->audit.pass = (uint32_t)m->own_ids.pass;
	for (uint32_t i = 0; m->own_ids.page && i < m->own_ids.page->n; i++) {
		struct entry *e = ledger_get(&c->ledger, s->svc, m->own_ids.page->v[i]);
		if (!e && s->reader.own_done) { /* new to me, unless its reading is about to be told */
			e = entry_enter(c, s, m->own_ids.page->v[i], ENTRY_FETCHING);
			e->deadline = c->now + FETCH_AFTER_MS;
			entry_arm(c, e);
		}
		if (e)
			e->audit = (uint32_t)m->own_ids.pass;
	}
	if (m->own_ids.is_last)
		audit_end(c, s, m);
}
