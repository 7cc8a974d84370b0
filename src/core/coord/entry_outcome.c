/* entry_outcome - how an entry's work ends: done, back to the stream at once or later, dead letter; and Redis' word. */
#include "core/coord/coord_p.h"

#include "base/fnv.h"
#include "base/hash_tag.h"
#include "base/log_fields.h"
#include <assert.h>
#include <stdio.h>
#include <string.h>

static enum feed_end feed_end_of(const struct entry *e)
{
	if (e->finish == FINISH_DONE || e->finish == FINISH_DEAD)
		return FEED_END_DONE;
	if (e->finish != FINISH_REQUEUE || !e->feed || !e->feed->suspect.is_blamed)
		return FEED_END_KEEP;
	const struct entry_nack *nack =
		&e->feed->trouble->nack; /* it counts the try, or what it refused gets none any more */
	return nack->is_on && nack->is_sent ? FEED_END_KEEP : FEED_END_DEATH;
}

static void begin_finish(struct coord *c, struct entry *e, enum finish finish)
{
	assert(finish != FINISH_NONE && e->finish == FINISH_NONE);
	struct coord_service *s = services_find(&c->services, e->svc);
	uint64_t owner = e->owner;
	entry_leave_lists(c, e);
	e->owner = owner; /* for the answer */
	entry_unreserve(c, s, e);
	e->verify = e->op_resent = false;
	e->finish = (uint8_t)finish;
	if (entry_feed_close(c, e, feed_end_of(e))) { /* the position first: nobody else may open it before */
		entry_move(c, e, ENTRY_FINISHING, entry_feed_close_by(c));
		return;
	}
	entry_move(c, e, ENTRY_FINISHING, MONO_NEVER);
	entry_send_op(c, e);
}

void entry_end(struct coord *c, struct entry *e, mono_ms again_ms)
{
	assert(e->feed && again_ms >= 0);
	e->wants_reply = true;
	e->n_asked = 1;
	e->ok_for = OK_FOR_ENDED;
	e->holds_credit = true;
	if (again_ms)
		entry_put_off(c, e, again_ms);
	else
		entry_done(c, e);
}

void entry_told_ended(struct coord *c, struct entry *e)
{
	assert(entry_is_ending(e));
	worker_finish(c, e, false, GONE_LOST);
	entry_leave_lists(c, e);
	e->owner = 0;
}

void entry_done(struct coord *c, struct entry *e)
{
	begin_finish(c, e, FINISH_DONE);
}

void entry_dead_letter(struct coord *c, struct entry *e, enum dead_reason why)
{
	assert(why < DEAD_N);
	e->dead_reason = (uint8_t)why;
	begin_finish(c, e, FINISH_DEAD);
}

static bool is_death(enum requeue_why why)
{
	return why == WHY_WORKER_DIED || why == WHY_TIMEOUT;
}

/* Until the nth retry after a failure; n from 0. */
static mono_ms fail_delay(struct rng *rng, const struct retry_rules *r, uint32_t n)
{
	mono_ms wait = mono_min(r->initial_ms, r->max_ms);
	for (; n > 0 && wait > 0 && wait < r->max_ms && r->factor > 1; n--)
		wait = wait > r->max_ms / (mono_ms)r->factor ? r->max_ms : wait * (mono_ms)r->factor;
	mono_ms most = wait * (mono_ms)r->jitter_pct / 100; /* only ever more */
	return most > 0 ? wait + (mono_ms)rng_below(rng, (uint64_t)most + 1) : wait;
}

/* The first worker that dies is an accident: somebody else may have the stream at once. The next ones wait, 1 s, 8 s,
 * as after failures. Where workers die of other streams, too, and nothing is finished meanwhile, it is no stream that
 * kills them, but a database that is away, say: they wait 8 s, 64 s, so that it may be away for more than a minute. */
static mono_ms death_delay(struct rng *rng, const struct coord_service *s, const struct entry *e)
{
	return e->retry == 0 ? 0 : fail_delay(rng, &s->rules->retry, e->retry - !s->deaths.are_many);
}

/* An entry of a data stream that is to blame has a pause of its own; progress is no failure. */
static bool counts_against_stream(const struct entry *e)
{
	return !e->feed || (!e->feed->suspect.is_blamed && !e->feed->has_progress);
}

static void note_death(struct coord_service *s, const struct entry *e)
{
	const uint64_t of = e->stream ? fnv(e->stream->bytes, e->stream->len) : 0;
	s->deaths.are_many |= s->deaths.of && s->deaths.of != of;
	s->deaths.of = of;
}

/* How long it stays away. What its worker asked for counts for the worker's own results only. */
static mono_ms requeue_delay(
	struct coord *c, const struct coord_service *s, const struct entry *e, enum requeue_why why, bool counted)
{
	if (counted && is_death(why))
		return counts_against_stream(e) ? death_delay(&c->rng, s, e) : 0;
	if (why != WHY_FAIL && why != WHY_RELEASE)
		return 0;
	if (e->has_retry_ms)
		return e->retry_ms;
	if (why == WHY_RELEASE &&
		(e->is_revoked || c->drain.is_on || c->stop.is_on)) /* asked to let go, or all leave */
		return 0;
	return why == WHY_FAIL ? fail_delay(&c->rng, &s->rules->retry, e->retry) : s->rules->retry.release_delay_ms;
}

void entry_requeue(struct coord *c, struct entry *e, enum requeue_why why, bool counted)
{
	assert(why <= WHY_NO_CREDIT);
	struct coord_service *s = services_find(&c->services, e->svc);
	e->why = (uint8_t)why;
	if (counted && is_death(why) && counts_against_stream(e))
		note_death(s, e);
	e->delay_ms = requeue_delay(c, s, e, why, counted);
	if (why == WHY_RELEASE && e->delay_ms && e->feed && e->feed->tries && e->feed->trouble->bad.ms)
		entry_feed_note_tries(c, e, e->feed->trouble->bad, e->feed->tries); /* it is that entry that waits */
	bool is_used_up = e->retry + 1 > s->rules->max_retries;
	if (e->feed && is_death(why) && (e->feed->has_progress || is_used_up))
		counted = false; /* progress is no failure; an entry to blame has tries of its own, and with a stream
				  * that has nothing to do what comes later would be lost */
	if (counted && is_used_up) {
		e->dead_reason = DEAD_MAX_RETRIES;
		begin_finish(c, e, FINISH_DEAD);
		return;
	}
	if (counted)
		e->retry++;
	begin_finish(c, e, FINISH_REQUEUE);
}

static void go_back_later(struct coord *c, struct entry *e, enum requeue_why why, mono_ms delay_ms)
{
	assert(delay_ms > 0);
	e->why = (uint8_t)why;
	e->delay_ms = delay_ms;
	begin_finish(c, e, FINISH_REQUEUE);
}

void entry_put_off(struct coord *c, struct entry *e, mono_ms delay_ms)
{
	go_back_later(c, e, WHY_RELEASE, delay_ms);
}

/* stream: as field_value writes it. */
static const char *entry_shown(const struct entry *e, char out[static FIELD_VALUE_CAP])
{
	return e->stream ? field_value(out, e->stream->bytes, e->stream->len) : "?";
}

const char *entry_position_shown(const struct entry *e, char out[static FIELD_VALUE_CAP])
{
	size_t n;
	const struct text *s = e->stream;
	const bool has_tag = hash_tag_find(s->bytes, s->len, &n) != NULL;
	char *key = mem_printf(has_tag ? "%.*s-sluice" : "{%.*s}-sluice", (int)s->len, s->bytes);
	field_value(out, key, strlen(key));
	mem_free(key);
	return out;
}

/* Until the server gives later ids than that one. Its clock is behind ours, or its latest id is the best we know. */
static mono_ms until_later(const struct coord *c, const struct entry *e, struct entry_id newer)
{
	uint64_t now = e->id.ms > (uint64_t)c->wall_ms ? e->id.ms : (uint64_t)c->wall_ms;
	return newer.ms < now ? 0 : (mono_ms)(newer.ms - now) + 1;
}

enum {
	WHY_CAP = 320 + FIELD_VALUE_CAP,
	DAY_MS = 86400000,
	AHEAD_MS = DAY_MS /* no clock of masters differs by that */
};

static void why_no_position(char out[static WHY_CAP], const struct entry *e, enum lost_reason why, mono_ms ahead_ms)
{
	char key[FIELD_VALUE_CAP];
	if (why != LOST_TAKEN)
		snprintf(out, WHY_CAP, "the position of its data stream was deleted");
	else if (ahead_ms < AHEAD_MS)
		snprintf(out, WHY_CAP, "a newer owner has the position of its data stream");
	else
		snprintf(out, WHY_CAP,
			"a newer owner has the position of its data stream, its token is %lld days ahead "
			"(a wrong clock, or an id that was made up): HDEL %s token ends that",
			(long long)(ahead_ms / DAY_MS), entry_position_shown(e, key));
}

/* Who has it may be at work, or gone: after a failover that lost the requeue of its entry, to a master whose clock is
 * behind, the next owner's token is lower than the one before. Nobody has failed. */
void entry_wait_for_position(struct coord *c, struct entry *e, enum lost_reason why, struct entry_id newer)
{
	enum { POSITION_WAIT_MIN_MS = 1000 }; /* also where failures are tried again at once */
	char words[WHY_CAP];
	const struct coord_service *s = services_find(&c->services, e->svc);
	const struct retry_rules *r = &s->rules->retry;
	const mono_ms ahead = until_later(c, e, newer);
	mono_ms wait = mono_max(fail_delay(&c->rng, r, 0), POSITION_WAIT_MIN_MS); /* what failed before is over */
	wait = mono_max(wait, mono_min(ahead, r->max_ms));
	why_no_position(words, e, why, ahead);
	char stream[FIELD_VALUE_CAP];
	effects_log(c->out, LOG_WARN, "service=%s stream=%s id=%llu-%llu waits ms=%lld: %s", s->rules->name,
		entry_shown(e, stream), (unsigned long long)e->id.ms, (unsigned long long)e->id.seq, (long long)wait,
		words);
	text_unref(e->note);
	e->note = text_new(words, strlen(words));
	go_back_later(c, e, WHY_LOST, wait);
}

/* One line each: dead letters are for people. */
static void say_dead(struct effects *out, const struct coord_service *s, const struct entry *e)
{
	char stream[FIELD_VALUE_CAP], error[FIELD_VALUE_CAP];
	effects_log(out, LOG_NOTICE, "service=%s stream=%s id=%llu-%llu dead letter reason=%s retry=%u%s%s",
		s->rules->name, entry_shown(e, stream), (unsigned long long)e->id.ms, (unsigned long long)e->id.seq,
		dead_reason_name((enum dead_reason)e->dead_reason), e->retry, e->note ? " error=" : "",
		e->note ? field_value(error, e->note->bytes, e->note->len) : "");
}

static enum metric_service delay_count(enum requeue_why why)
{
	switch (why) {
	case WHY_FAIL:
		return M_DELAYED_FAIL;
	case WHY_WORKER_DIED:
	case WHY_TIMEOUT:
		return M_DELAYED_DEATH;
	case WHY_LOST:
		return M_DELAYED_LOST;
	case WHY_RELEASE:
	case WHY_OWNER_DIED:
	case WHY_BYE:
	case WHY_DRAIN:
	case WHY_OPERATOR:
	case WHY_UNRESUMED:
	case WHY_NO_CREDIT:
		break;
	}
	return M_DELAYED_RELEASE;
}

static void count_end(struct coord *c, struct coord_service *s, struct entry *e)
{
	double took = (double)(c->now - e->since) / 1000.0;
	switch ((enum finish)e->finish) {
	case FINISH_REQUEUE:
		s->m.c[M_REQUEUE_FAIL + e->why]++;
		if (e->delay_ms > 0)
			s->m.c[delay_count((enum requeue_why)e->why)]++;
		if (e->why == WHY_WORKER_DIED)
			hist_add(&s->m.h[H_REC_WORKER], took);
		break;
	case FINISH_DEAD:
		s->m.c[M_DEAD_MAX_RETRIES + e->dead_reason]++;
		say_dead(c->out, s, e);
		break;
	case FINISH_DONE:
		s->deaths = (struct service_deaths){0};
		break;
	case FINISH_NONE:
	case FINISH_ACK:
		break;
	}
}

enum { TRIMMED_EVERY_MS = 60000 };

/* Somebody trimmed the load-balancer stream (XTRIM, XADD MAXLEN) or deleted by hand what was pending: nothing is left
 * to give back or to keep as a dead letter. One line a minute. */
static void count_trimmed(struct coord *c, struct coord_service *s, const struct entry *e)
{
	s->m.c[M_LOST_TRIMMED] += e->was_told;
	s->trimmed.n++;
	if (s->trimmed.said && c->now < s->trimmed.said + TRIMMED_EVERY_MS)
		return;
	char stream[FIELD_VALUE_CAP];
	effects_log(c->out, LOG_WARN,
		"service=%s stream=%s id=%llu-%llu lost: it was trimmed from %s-input while it was held n=%u; "
		"nobody may use XTRIM, XDEL or XADD MAXLEN on that stream",
		s->rules->name, entry_shown(e, stream), (unsigned long long)e->id.ms, (unsigned long long)e->id.seq,
		s->rules->name, s->trimmed.n);
	s->trimmed.said = mono_max(c->now, 1);
	s->trimmed.n = 0;
}

/* The next entry of a stream that ended here is pending for us: it is read and goes its way. */
static void take_next(struct coord *c, struct coord_service *s, struct entry_id id)
{
	if (ledger_get(&c->ledger, s->svc, id))
		return;
	struct entry *e = entry_enter(c, s, id, ENTRY_FETCHING);
	entry_reserve(c, s, e);
	entry_send_op(c, e);
}

void entry_on_finished(struct coord *c, struct entry *e, const struct msg *m)
{
	assert(e->state == ENTRY_FINISHING);
	static const enum gone_outcome outcomes[] = {[FINISH_NONE] = GONE_LOST,
		[FINISH_DONE] = GONE_DONE,
		[FINISH_REQUEUE] = GONE_REQUEUED,
		[FINISH_DEAD] = GONE_DEAD,
		[FINISH_ACK] = GONE_LOST};
	struct coord_service *s = services_find(&c->services, e->svc);
	bool first_did = m->op_result.result == OP_GONE && m->op_result.resent && !e->is_lost && e->good_until > c->now;
	bool is_trimmed =
		m->op_result.result == OP_DELETED || (m->op_result.result == OP_DONE && e->finish == FINISH_ACK);
	bool ok = m->op_result.result == OP_DONE || first_did || is_trimmed;
	if (is_trimmed)
		count_trimmed(c, s, e);
	else if (ok)
		count_end(c, s, e);
	if (ok && e->feed && e->finish == FINISH_DONE && s->rules->entries.delete_stream)
		entry_feed_delete(c, e);
	if (e->owner)
		worker_finish(c, e, ok, is_trimmed ? GONE_LOST : outcomes[e->finish]);
	entry_leave_lists(c, e);
	e->owner = 0;
	if (m->op_result.releases && e->lease_shard == m->from) { /* by the shard, with the operation's end */
		e->lease_shard = SHARD_NONE;
		e->good_until = 0;
	}
	if (e->is_lost)
		entry_drop(c, e);
	else
		entry_release_and_drop(c, e);
	if (ok && m->op_result.kind == CMD_DONE && m->op_result.next.ms)
		take_next(c, s, m->op_result.next);
}
