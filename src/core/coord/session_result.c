/* session_result - a worker's frames: results of entries and how they are answered, progress, credits. */
#include "core/coord/coord_p.h"
#include <string.h>

enum { REASON_MAX = 1024, NOTE_MAX = 256 }; /* bytes that are kept of them */

void worker_say_error(struct coord *c, struct worker *m, enum frame_error error, struct slice lease, const char *msg)
{
	struct effect *ef = worker_frame(c->out, m, OUT_ERR);
	ef->frame.error = error;
	ef->hold = text_new(msg, strlen(msg));
	ef->frame.msg = (struct slice){ef->hold->bytes, ef->hold->len};
	if (lease.p && lease.len <= FRAME_LEASE_MAX) {
		ef->hold2 = text_new(lease.p, lease.len);
		ef->frame.lease = (struct slice){ef->hold2->bytes, ef->hold2->len};
	}
	c->workers.errors[error]++;
}

static const char lease_was_lost[] = "the lease was lost: the result is not accepted";
static const char ended_otherwise[] = "the lease has ended otherwise: the result is not accepted";

void worker_free_credit(struct coord *c, struct entry *e, bool credit_back)
{
	struct worker *m = workers_find(&c->workers, e->owner);
	list_remove(&e->peers);
	if (m && e->state == ENTRY_FINISHING && e->holds_credit) {
		e->holds_credit = false;
		credit_holder_use(&c->place, &m->credit_holder, -1);
		services_mark_all(&c->services);
	}
	if (!m || e->state == ENTRY_FINISHING)
		return;
	if (e->is_suspect)
		credit_holder_set_alone(&c->place, &m->credit_holder, false);
	if (e->holds_credit)
		return;
	if (credit_back) {
		credit_holder_use(&c->place, &m->credit_holder, -1);
		services_mark_all(&c->services);
	} else {
		uint64_t service = services_find(&c->services, e->svc)->rules->hash;
		session_remember(&m->s, m->credit_holder.credits,
			(struct session_outcome){
				.id = e->id, .service = service, .outcome = GONE_LOST, .is_zombie = true});
	}
}

static void say_ok(
	struct effects *out, struct worker *m, struct slice lease, enum ok_for ok_for, enum gone_outcome outcome)
{
	struct effect *ef = worker_frame(out, m, OUT_OK);
	ef->hold = text_new(lease.p, lease.len);
	ef->frame.lease = (struct slice){ef->hold->bytes, ef->hold->len};
	ef->frame.ok_for = ok_for;
	ef->frame.outcome = outcome;
}

/* Its stream was empty for long enough, or waits: nobody asked, so it is told. Nothing of it is out, so its credit is
 * free with this word, also when the lease was lost meanwhile: a revoke would have an answer to come. */
static void say_ended(struct effects *out, struct worker *m, struct slice lease, enum gone_outcome outcome)
{
	struct effect *ef = worker_frame(out, m, OUT_ENDED);
	ef->hold = text_new(lease.p, lease.len);
	ef->frame.lease = (struct slice){ef->hold->bytes, ef->hold->len};
	ef->frame.outcome = outcome;
}

void worker_finish(struct coord *c, struct entry *e, bool accepted, enum gone_outcome outcome)
{
	struct worker *m = workers_find(&c->workers, e->owner);
	if (!m)
		return;
	struct coord_service *s = services_find(&c->services, e->svc);
	struct session_outcome o = {.id = e->id,
		.service = s->rules->hash,
		.outcome = (uint8_t)(accepted ? outcome : GONE_LOST),
		.ok_for = e->ok_for,
		.is_result = e->wants_reply && accepted};
	session_remember(&m->s, m->credit_holder.credits, o);
	static const int hists[] = {[OK_FOR_DONE] = H_DURATION_DONE,
		[OK_FOR_FAIL] = H_DURATION_FAIL,
		[OK_FOR_RELEASE] = H_DURATION_OTHER,
		[OK_FOR_ACK] = H_DURATION_OTHER,
		[OK_FOR_NACK] = H_DURATION_OTHER,
		[OK_FOR_ENDED] = H_DURATION_DONE};
	bool is_put_off = e->ok_for == OK_FOR_ENDED && e->finish != FINISH_DONE;
	entry_run_over(c, e, e->wants_reply && accepted && !is_put_off ? hists[e->ok_for] : H_DURATION_OTHER);
	if (!e->wants_reply || m->s.state != SESSION_READY)
		return;
	char text[SESSION_LEASE_CAP];
	int n = entry_lease_format(text, e, s->rules->hash);
	struct slice lease = {text, (size_t)n};
	for (int i = 0; i == 0 || i < e->n_asked; i++)
		if (e->ok_for == OK_FOR_ENDED)
			say_ended(c->out, m, lease, accepted ? outcome : GONE_LOST);
		else if (accepted)
			say_ok(c->out, m, lease, (enum ok_for)e->ok_for, outcome);
		else
			worker_say_error(c, m, FERR_NOT_OWNER, lease, lease_was_lost);
}

static void result(struct coord *c, struct worker *m, struct entry *e, const struct frame *f)
{
	if (e->is_lost && f->kind != FRAME_REVOKED) {
		worker_say_error(c, m, FERR_NOT_OWNER, f->lease, lease_was_lost);
		entry_stopped(c, e);
		return;
	}
	e->wants_reply = f->kind != FRAME_REVOKED;
	e->has_retry_ms = f->has_retry_ms;
	e->retry_ms = (uint32_t)f->retry_ms;
	e->n_asked = 1;
	switch (f->kind) {
	case FRAME_DONE:
		e->ok_for = OK_FOR_DONE;
		entry_done(c, e);
		break;
	case FRAME_FAIL:
		e->ok_for = OK_FOR_FAIL;
		text_unref(e->note);
		e->note = f->reason.p ? text_new(f->reason.p, text_fit(f->reason.p, f->reason.len, REASON_MAX)) : NULL;
		entry_clear_suspect(c, e); /* its worker has outlived it */
		if (f->dead)
			entry_dead_letter(c, e, DEAD_REJECTED);
		else
			entry_requeue(c, e, WHY_FAIL, true);
		break;
	case FRAME_RELEASE:
		e->ok_for = OK_FOR_RELEASE;
		entry_requeue(c, e, WHY_RELEASE, false);
		break;
	case FRAME_REVOKED:
		entry_stopped(c, e);
		break;
	case FRAME_HELLO:
	case FRAME_CREDITS:
	case FRAME_PROGRESS:
	case FRAME_ACK:
	case FRAME_NACK:
	case FRAME_PING:
	case FRAME_PONG:
	case FRAME_BYE:
	case FRAME_UNKNOWN:
	case FRAME_N:
		break;
	}
}

/* Its worker lets go of what ends here in the same moment: nothing of it is out, so either word is true. */
static bool is_let_go(enum frame_kind kind, uint8_t ok_for)
{
	return ok_for == OK_FOR_ENDED && (kind == FRAME_DONE || kind == FRAME_RELEASE);
}

static enum ok_for let_go_for(enum frame_kind kind)
{
	return kind == FRAME_DONE ? OK_FOR_DONE : OK_FOR_RELEASE;
}

static bool is_same_result(enum frame_kind kind, uint8_t ok_for)
{
	static const enum frame_kind kinds[] = {[OK_FOR_DONE] = FRAME_DONE,
		[OK_FOR_FAIL] = FRAME_FAIL,
		[OK_FOR_RELEASE] = FRAME_RELEASE,
		[OK_FOR_ACK] = FRAME_ACK,
		[OK_FOR_NACK] = FRAME_NACK,
		[OK_FOR_ENDED] = FRAME_DONE};
	return kind == kinds[ok_for] || is_let_go(kind, ok_for);
}

/* A result while an earlier one is on its way to Redis: the same gets the same answer, another one comes too late. */
static void second_result(struct coord *c, struct worker *m, struct entry *e, const struct frame *f)
{
	if (f->kind == FRAME_REVOKED)
		return;
	if (is_let_go(f->kind, e->ok_for)) /* both at once: it is answered as ever */
		e->ok_for = (uint8_t)let_go_for(f->kind);
	else if (!e->wants_reply || !is_same_result(f->kind, e->ok_for))
		worker_say_error(c, m, FERR_NOT_OWNER, f->lease, ended_otherwise);
	else if (e->n_asked < UINT8_MAX)
		e->n_asked++;
}

/* A result for a lease that this session has no more. */
static void late_result(struct coord *c, struct worker *m, struct session_outcome *o, const struct frame *f)
{
	if (o && o->is_zombie) {
		o->is_zombie = false;
		credit_holder_use(&c->place, &m->credit_holder, -1);
		services_mark_all(&c->services);
	}
	if (f->kind == FRAME_REVOKED && o)
		return;
	if (!o)
		worker_say_error(c, m, FERR_UNKNOWN_LEASE, f->lease, "no such lease in this session");
	else if (o->outcome == GONE_LOST && !(o->is_result && is_same_result(f->kind, o->ok_for)))
		worker_say_error(c, m, FERR_NOT_OWNER, f->lease, lease_was_lost);
	else if (!o->is_result || !is_same_result(f->kind, o->ok_for))
		worker_say_error(c, m, FERR_NOT_OWNER, f->lease, ended_otherwise);
	else
		say_ok(c->out, m, f->lease,
			is_let_go(f->kind, o->ok_for) ? let_go_for(f->kind) : (enum ok_for)o->ok_for,
			(enum gone_outcome)o->outcome);
}

static void worker_answers(const struct coord *c, struct worker *m)
{
	m->result_at = c->now;
	m->told.n_answered = m->told.n;
}

static void on_result(struct coord *c, struct worker *m, const struct frame *f)
{
	worker_answers(c, m);
	struct entry_id id;
	uint64_t service;
	struct entry *e = worker_entry_of_lease(c, f->lease, &id, &service);
	if (e && e->owner == m->s.id && entry_is_worked(e))
		result(c, m, e, f);
	else if (e && e->owner == m->s.id && e->state == ENTRY_FINISHING)
		second_result(c, m, e, f);
	else
		late_result(c, m, session_recall(&m->s, service, id), f);
}

static void on_progress(struct coord *c, struct worker *m, const struct frame *f)
{
	struct entry_id id;
	uint64_t service;
	struct entry *e = worker_entry_of_lease(c, f->lease, &id, &service);
	if (!e || e->owner != m->s.id || !entry_is_worked(e)) {
		worker_say_error(c, m, FERR_UNKNOWN_LEASE, f->lease, "no such lease in this session");
		return;
	}
	e->heard = c->now;
	if (!f->note.p)
		return;
	text_unref(e->note);
	e->note = text_new(f->note.p, text_fit(f->note.p, f->note.len, NOTE_MAX));
}

void worker_say_bad_entry(struct coord *c, struct worker *w, const struct entry *e)
{
	char text[SESSION_LEASE_CAP];
	int n = entry_lease_format(text, e, services_find(&c->services, e->svc)->rules->hash);
	worker_say_error(
		c, w, FERR_BAD_FIELD, (struct slice){text, (size_t)n}, "id: no entry that waits for an answer");
}

static void on_ack_or_nack(struct coord *c, struct worker *m, const struct frame *f)
{
	worker_answers(c, m);
	struct entry_id id;
	uint64_t service;
	struct entry *e = worker_entry_of_lease(c, f->lease, &id, &service);
	bool is_its = e && e->owner == m->s.id;
	const struct session_outcome *o = is_its ? NULL : session_recall(&m->s, service, id);
	if (is_its && e->state == ENTRY_FINISHING)
		worker_say_error(c, m, FERR_NOT_OWNER, f->lease, ended_otherwise);
	else if (o || (is_its && e->is_lost))
		worker_say_error(c, m, FERR_NOT_OWNER, f->lease,
			o && o->outcome != GONE_LOST ? ended_otherwise : lease_was_lost);
	else if (!is_its || !entry_is_worked(e))
		worker_say_error(c, m, FERR_UNKNOWN_LEASE, f->lease, "no such lease in this session");
	else if (!e->feed)
		worker_say_error(c, m, FERR_BAD_FIELD, f->lease, "lease: its service is not in entries mode");
	else
		entry_feed_word(c, e, f);
}

static void on_credits(struct coord *c, struct worker *m, const struct frame *f)
{
	if (f->problem == FRAME_PROBLEM_LIMIT) {
		worker_say_error(c, m, FERR_LIMIT, (struct slice){0}, "credits must be 0..10000; unchanged");
		return;
	}
	credit_holder_offer(&c->place, &m->credit_holder, (uint32_t)f->credits);
	services_mark_all(&c->services);
}

static void on_ready_frame(struct coord *c, struct worker *m, const struct frame *f)
{
	if (f->problem == FRAME_PROBLEM_FIELD) {
		worker_say_error(c, m, FERR_BAD_FIELD, f->lease, f->bad_field ? f->bad_field : "a field is wrong");
		return;
	}
	switch (f->kind) {
	case FRAME_HELLO:
		worker_fatal(c, m, FERR_BAD_HELLO, "hello comes once");
		break;
	case FRAME_CREDITS:
		on_credits(c, m, f);
		break;
	case FRAME_DONE:
	case FRAME_FAIL:
	case FRAME_RELEASE:
	case FRAME_REVOKED:
		on_result(c, m, f);
		break;
	case FRAME_PROGRESS:
		on_progress(c, m, f);
		break;
	case FRAME_ACK:
	case FRAME_NACK:
		on_ack_or_nack(c, m, f);
		break;
	case FRAME_PING: {
		struct effect *ef = worker_frame(c->out, m, OUT_PONG);
		ef->frame.has_n = f->has_n;
		ef->frame.n = f->n;
		break;
	}
	case FRAME_PONG:
		break;
	case FRAME_BYE:
		worker_on_bye(c, m);
		break;
	case FRAME_UNKNOWN:
		worker_say_error(c, m, FERR_UNKNOWN_TYPE, (struct slice){0}, "unknown frame type");
		break;
	case FRAME_N:
		break;
	}
}

void worker_on_frame(struct coord *c, struct worker *m, const struct frame *f)
{
	m->s.last_heard = c->now;
	if (m->s.state == SESSION_NEW)
		worker_hello(c, m, f);
	else if (m->s.state == SESSION_HELD && f->kind == FRAME_BYE)
		worker_on_bye(c, m);
	else if (m->s.state == SESSION_READY)
		on_ready_frame(c, m, f);
}
