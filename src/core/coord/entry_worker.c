/* entry_worker - an entry and the worker that has it: assigned, resumed, told to stop, left by a worker that ended;
 * suspects, which may have ended one. */
#include "core/coord/coord_p.h"

#include "base/log_fields.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

int entry_lease_format(char out[static SESSION_LEASE_CAP], const struct entry *e, uint64_t service_hash)
{
	int n = session_lease_format(out, e->id, service_hash);
	return e->feed && e->feed->is_marked ? session_lease_mark(out, n) : n;
}

static void fill_assign(struct coord_service *s, struct entry *e, struct worker *w, struct effect *ef)
{
	char all[SESSION_LEASE_CAP + SESSION_TOKEN_CAP];
	if (e->feed)
		e->feed->is_marked = true;
	int n_lease = entry_lease_format(all, e, s->rules->hash);
	int n_id = (int)strcspn(all, ".");
	int n_token = session_token_format(all + n_lease, e->id);
	struct text *t = text_new(all, (size_t)(n_lease + n_token));
	ef->hold = t;
	ef->hold2 = e->info; /* moves: the payload is freed once its frame is written */
	e->info = NULL;
	ef->hold3 = e->trace;
	e->trace = NULL;
	struct out_frame *f = &ef->frame;
	f->lease = (struct slice){t->bytes, (size_t)n_lease};
	f->assign.id = (struct slice){t->bytes, (size_t)n_id};
	f->assign.token = (struct slice){t->bytes + n_lease, (size_t)n_token};
	f->assign.service = (struct slice){s->rules->name, strlen(s->rules->name)};
	f->assign.stream = (struct slice){e->stream->bytes, e->stream->len};
	f->assign.retry = e->retry;
	f->info = (struct slice){ef->hold2->bytes, ef->hold2->len};
	if (ef->hold3)
		f->assign.trace = (struct slice){ef->hold3->bytes, ef->hold3->len};
	f->assign.has_entries = e->feed != NULL;
	if (e->feed)
		f->entry = e->feed->pos;
	/* what it was told last is a lower bound for what it holds: no need to look at each */
	mono_ms until = e->good_until - TELL_MARGIN_MS;
	f->until_ms = list_empty(&w->entries) ? until : mono_min(w->s.told_until, until);
	w->s.told_until = f->until_ms;
}

void entry_assign(struct coord *c, struct entry *e, struct worker *w)
{
	assert(e->state == ENTRY_READY && w->s.state == SESSION_READY);
	struct coord_service *s = services_find(&c->services, e->svc);
	entry_unreserve(c, s, e);
	e->owner = w->s.id;
	e->was_told = true;
	e->heard = e->assigned_at = c->now;
	credit_holder_use(&c->place, &w->credit_holder, 1);
	struct effect *ef = worker_frame(c->out, w, OUT_ASSIGN);
	fill_assign(s, e, w, ef);
	worker_is_given(w, e);
	worker_gets(w, e);
	entry_move(c, e, ENTRY_ASSIGNED, MONO_NEVER);
	if (e->feed)
		entry_feed_start(c, e);
	s->m.c[e->retry ? M_ASSIGN_RECOVERED : M_ASSIGN_NEW]++;
	metric_add_age(&s->m.h[H_ASSIGN_LATENCY], c->wall_ms, e->id.ms);
}

void entry_resume(struct coord *c, struct entry *e, struct worker *w)
{
	assert(entry_is_worked(e) || e->state == ENTRY_LIMBO);
	struct coord_service *s = services_find(&c->services, e->svc);
	list_remove(&e->peers);
	e->owner = w->s.id;
	e->heard = c->now;
	if (!e->assigned_at)
		e->assigned_at = c->now; /* by the daemon before this one */
	e->given = 0;
	credit_holder_use(&c->place, &w->credit_holder, 1);
	if (e->is_suspect)
		credit_holder_set_alone(&c->place, &w->credit_holder, true);
	worker_gets(w, e);
	if (e->state == ENTRY_LIMBO)
		entry_move(c, e, ENTRY_ASSIGNED, MONO_NEVER);
	entry_lead(s, e);
	if (e->feed && !e->is_revoked)
		entry_feed_resume(c, e);
	s->m.c[M_ASSIGN_RESUMED]++;
}

void entry_limbo(struct coord *c, struct entry *e, mono_ms until)
{
	entry_feed_hold(c, e);
	entry_move(c, e, ENTRY_LIMBO, until);
}

/* Why: e->revoke. */
void entry_tell_revoke(struct coord *c, const struct entry *e, const struct worker *w, mono_ms grace_ms)
{
	assert(e->is_revoked && grace_ms >= 0);
	char lease[SESSION_LEASE_CAP];
	int n = entry_lease_format(lease, e, services_find(&c->services, e->svc)->rules->hash);
	struct effect *ef = worker_frame(c->out, w, OUT_REVOKE);
	ef->hold = text_new(lease, (size_t)n);
	ef->frame.lease = (struct slice){ef->hold->bytes, (size_t)n};
	ef->frame.reason = (enum revoke_reason)e->revoke;
	ef->frame.grace_ms = grace_ms;
}

void entry_revoke(struct coord *c, struct entry *e, enum revoke_reason why, mono_ms grace_ms)
{
	assert(why < REVOKE_N && e->state == ENTRY_ASSIGNED);
	struct worker *w = workers_find(&c->workers, e->owner);
	c->m[MP_REVOKE_LOST + why] += !e->is_revoked;
	e->revoke = (uint8_t)why;
	e->is_revoked = true;
	entry_feed_hold(c, e);
	/* a little after the grace: the worker's own clock must have run out first */
	entry_move(c, e, ENTRY_REVOKING, c->now + grace_ms + TELL_MARGIN_MS);
	if (w)
		entry_tell_revoke(c, e, w, grace_ms);
}

/* Its worker was to let go of it anyway. */
bool entry_was_taken_back(const struct entry *e)
{
	return e->is_lost || (e->is_revoked && e->revoke != REVOKE_TIMEOUT);
}

/* What is known of it: how it ended only its parent knows. */
static struct text *how_it_died(const struct worker *w, bool is_dead)
{
	char words[300] = "worker died";
	if (w)
		snprintf(words, sizeof words,
			is_dead ? "worker died: %.200s (pid %d) ended without a word"
				: "worker died or is lost: %.200s (pid %d) closed its connection and did not come back",
			w->s.name, (int)w->s.pid);
	return text_new(words, strlen(words));
}

/* Nobody dies of what he has not read. */
static bool entry_is_unread(const struct worker *w, const struct entry *e)
{
	return w->told.n - e->given < w->told.n_unread;
}

bool entry_may_have_killed(const struct coord *c, const struct entry *e, const struct worker *w)
{
	if (entry_is_unread(w, e))
		return false;
	if (!e->feed || entry_feed_is_out(e))
		return true;
	const mono_ms young = e->feed->suspect.is_read ? SUSPECT_ASSIGN_MS : SUSPECT_ALONE_MS;
	const mono_ms ended_at = w->end.began ? w->end.began : c->now; /* not when it is this one's turn to go back */
	return !e->feed->has_progress && !e->feed->suspect.is_cleared && ended_at - e->since < young;
}

void entry_worker_ended(struct coord *c, struct entry *e, uint32_t n_blamed, bool is_dead)
{
	assert(e->owner);
	const struct worker *w = workers_find(&c->workers, e->owner);
	bool is_blamed = n_blamed > 0 && w && !entry_was_taken_back(e) && entry_may_have_killed(c, e, w);
	if (is_blamed) {
		e->is_suspect = true;
		text_unref(e->note);
		e->note = how_it_died(w, is_dead);
	}
	if (e->feed)
		e->feed->suspect.is_blamed = is_blamed && n_blamed == 1 && entry_feed_is_out(e);
	entry_requeue(c, e, e->is_lost ? WHY_LOST : WHY_WORKER_DIED, is_blamed && n_blamed == 1);
}

void entry_clear_suspect(struct coord *c, struct entry *e)
{
	if (!e->is_suspect)
		return;
	struct worker *w = e->owner ? workers_find(&c->workers, e->owner) : NULL;
	if (w)
		credit_holder_set_alone(&c->place, &w->credit_holder, false);
	e->is_suspect = false;
	entry_feed_share(c, e);
	services_mark_all(&c->services);
}

void entry_stop_waiting(struct coord *c, struct coord_service *s, struct entry *e)
{
	list_remove(&e->peers);
	list_push(&s->ready, &e->peers);
	e->is_suspect = false;
	e->deadline = c->now + READY_WAIT_MS;
	entry_reserve(c, s, e);
	entry_arm(c, e);
	services_mark(&c->services, s);
}

/* A suspect that waits for an empty worker. True: it goes on waiting. */
bool entry_suspect_waits(struct coord *c, struct coord_service *s, struct entry *e)
{
	uint16_t pos = services_pos(&c->services, s);
	if (e->feed && c->now - e->since >= SUSPECT_WAIT_MS && credits_has_taker(&c->place, pos)) {
		entry_stop_waiting(c, s, e); /* workers of endless streams never run empty */
		return true;
	}
	if (c->now - e->since >= SUSPECT_WAIT_MS ? !credits_run_one_empty(&c->place, pos)
						 : !credits_has_taker(&c->place, pos))
		return false; /* nobody here works on this service: somebody else may */
	e->deadline = c->now + READY_WAIT_MS;
	entry_arm(c, e);
	services_mark(&c->services, s);
	return true;
}

/* A line is due: of how many streams, with this one; else 0. */
static uint32_t hung_is_due(const struct coord *c, struct worker_hung *h)
{
	enum { SAY_EVERY_MS = 60000 };
	const uint32_t n = ++h->n;
	if (h->said && c->now - h->said < SAY_EVERY_MS)
		return 0;
	*h = (struct worker_hung){.said = mono_max(c->now, 1)};
	return n;
}

void entry_say_silent(struct coord *c, const struct entry *e)
{
	struct worker *m = workers_find(&c->workers, e->owner);
	char stream[FIELD_VALUE_CAP];
	const uint32_t n = m && e->stream ? hung_is_due(c, &m->silent) : 0;
	if (n)
		effects_log(c->out, LOG_WARN,
			"worker=%s session=%llu pid=%lld has said nothing about its work on stream=%s for ms=%lld "
			"(workers.progress_timeout): it is told to stop n=%u",
			m->s.name, (unsigned long long)m->s.id, (long long)m->s.pid,
			field_value(stream, e->stream->bytes, e->stream->len), (long long)c->rules.progress_timeout_ms,
			n);
}

void entry_say_running(struct coord *c, const struct entry *e)
{
	struct worker *m = workers_find(&c->workers, e->owner);
	char stream[FIELD_VALUE_CAP];
	const uint32_t n = m && e->stream ? hung_is_due(c, &m->running) : 0;
	if (n)
		effects_log(c->out, LOG_WARN,
			"worker=%s session=%llu pid=%lld was told to stop stream=%s and has not: others may run it "
			"now, and each such stream keeps a credit until the worker says that it stopped, or ends n=%u",
			m->s.name, (unsigned long long)m->s.id, (long long)m->s.pid,
			field_value(stream, e->stream->bytes, e->stream->len), n);
}

void entry_stopped(struct coord *c, struct entry *e)
{
	static const enum requeue_why whys[REVOKE_N] = {[REVOKE_LOST] = WHY_LOST,
		[REVOKE_DRAIN] = WHY_DRAIN,
		[REVOKE_TIMEOUT] = WHY_TIMEOUT,
		[REVOKE_OPERATOR] = WHY_OPERATOR,
		[REVOKE_SHUTDOWN] = WHY_DRAIN};
	enum requeue_why why = WHY_RELEASE;
	bool counted = false;
	if (e->is_lost) {
		why = WHY_LOST;
	} else if (e->is_revoked) {
		why = whys[e->revoke];
		counted = e->revoke == REVOKE_TIMEOUT;
		if (e->feed)
			e->feed->suspect.is_blamed = counted && entry_feed_is_out(e);
	}
	entry_requeue(c, e, why, counted);
}
