/* feed_reply - what the answers of Redis mean for a feed. */
#include <assert.h>
#include <string.h>

#include "core/shard/feed_p.h"
#include "base/fnv.h"
#include "base/log_fields.h"

enum { AGAIN_MS = 50, AGAIN_MAX_MS = 1000, REFUSED_MS = 200, REFUSED_MAX_MS = 5000 };

/* Told and forgotten: the last thing that happens to it. */
static struct msg_feed *feed_is_gone(struct feeds *fs, struct shard_ctx *c, struct feed *f, enum feed_result result)
{
	if (f->state == FEED_CLOSING) /* that is all that is waited for */
		result = FEED_IS_CLOSED;
	return feed_lose(fs, c, f, result);
}

static struct msg_feed *feed_is_refused(struct feeds *fs, struct shard_ctx *c, struct feed *f)
{
	ctx_metrics(c, f->svc)->c[M_FEED_REFUSED]++;
	char stream[FIELD_VALUE_CAP];
	effects_log(c->out, LOG_NOTICE, "shard=%u stream=%s a newer owner has the position: not accepted", c->index,
		field_value(stream, f->stream->bytes, f->stream->len));
	return feed_is_gone(fs, c, f, FEED_IS_REFUSED);
}

/* With the position the lock has gone, too, as a rule: whoever deletes all of it leaves nobody an owner. */
static struct msg_feed *feed_is_deleted(struct feeds *fs, struct shard_ctx *c, struct feed *f)
{
	char stream[FIELD_VALUE_CAP];
	effects_log(c->out, LOG_WARN,
		"shard=%u stream=%s its position is gone from Redis (FLUSHALL, DEL, or eviction): its work is stopped",
		c->index, field_value(stream, f->stream->bytes, f->stream->len));
	return feed_is_gone(fs, c, f, FEED_IS_GONE);
}

/* ---- open ---- */

static void feed_say_remade(const struct shard_ctx *c, const struct feed *f)
{
	char stream[FIELD_VALUE_CAP];
	effects_log(c->out, LOG_WARN, "shard=%u stream=%s was made again with lower ids: its position goes back to 0-0",
		c->index, field_value(stream, f->stream->bytes, f->stream->len));
}

/* Each open finds what is gone since the one before, once. */
static void feed_has_lost(struct feeds *fs, struct shard_ctx *c, const struct feed *f, int64_t n)
{
	ctx_metrics(c, f->svc)->c[M_FEED_TRIMMED] += (uint64_t)n;
	feed_tell(c, f, FEED_HAS_LOST)->n_entries = n < UINT32_MAX ? (uint32_t)n : UINT32_MAX;
	const uint64_t hash = fnv(f->stream->bytes, f->stream->len);
	struct feed_said *said = &fs->said[hash % FEED_SAID];
	if (said->at && said->hash == hash && c->now < said->at + FEED_SAY_EVERY_MS)
		return;
	*said = (struct feed_said){.hash = hash, .at = c->now};
	char stream[FIELD_VALUE_CAP];
	effects_log(c->out, LOG_WARN,
		"shard=%u service=%s stream=%s entries lost n=%lld: trimmed or deleted before they were acknowledged",
		c->index, ctx_service(c, f->svc)->rules->name, field_value(stream, f->stream->bytes, f->stream->len),
		(long long)n);
}

static void feed_first_open(struct shard_ctx *c, struct feed *f, const struct reply *reply)
{
	f->run.was_open = true;
	f->confirmed = reply->id;
	if (feed_is_newer(f->work->wanted, f->work->unread.cursor)) /* acknowledged to the process before */
		feed_at_work(f)->unread.cursor = f->work->wanted;
	if (reply->integer)
		feed_at_work(f)->bad.tries = (uint32_t)reply->integer;
	if (reply->integer || f->run.is_tested || reply->n & POSITION_DEATH)
		feed_at_work(f)->window.singles = feed_rules(c, f)->batch;
	f->run.is_tested = f->run.is_tested || reply->n & POSITION_SUSPECT;
	if (f->state == FEED_OPENING) {
		feed_move(c, f, FEED_RUNNING, "opened");
		feed_wait(c, f, reply->bad, reply->wait_ms);
	}
	struct msg_feed *told = feed_tell(c, f, FEED_IS_OPEN);
	told->id = reply->id;
	told->tries = (uint32_t)reply->integer;
	told->before.had_progress = reply->n & POSITION_PROGRESS;
	told->before.is_unknown = reply->n & POSITION_DEATH;
	told->is_at_end = reply->n & POSITION_AT_END;
	told->before.n_ends = reply->n_ends;
	told->is_suspect = reply->n & POSITION_SUSPECT;
	told->bad = f->state == FEED_BLOCKED ? f->work->bad.id : (struct entry_id){0};
	told->wait_ms = f->state == FEED_BLOCKED ? reply->wait_ms : 0;
}

/* A failover has lost acknowledgements: what nobody waits to have confirmed is told again. */
static void feed_went_back(struct shard_ctx *c, struct feed *f, const struct reply *reply)
{
	struct entry_id old = f->confirmed;
	bool is_ack_due = feed_is_newer(f->work->wanted, old);
	struct feed_work *w = feed_at_work(f);
	f->confirmed = reply->id;
	w->bad.tries = (uint32_t)reply->integer;
	w->window.top = feed_later(w->window.top, old); /* that was told, too */
	if (f->state == FEED_BLOCKED)
		feed_move(c, f, FEED_RUNNING, "the position went back");
	if (f->state != FEED_RUNNING) {
		w->wanted = is_ack_due ? w->wanted : old;
		w->added.gap = feed_later(w->added.gap, w->wanted);
		return;
	}
	w->wanted = is_ack_due ? w->wanted : f->confirmed;
	feed_restart(c, f);
	feed_wait(c, f, reply->bad, reply->wait_ms);
}

/* Opened again after a reconnect, or to see whether the stream is still the same. */
static void feed_opened_again(struct shard_ctx *c, struct feed *f, const struct reply *reply)
{
	bool counted =
		f->work->bad.must_fail && f->work->bad.fail_lost && (uint32_t)reply->integer == f->work->bad.tries + 1;
	if (f->work->bad.fail_lost)
		feed_at_work(f)->bad.fail_lost = false;
	if (feed_is_newer(f->confirmed, reply->id)) {
		feed_went_back(c, f, reply);
	} else if (feed_is_newer(reply->id, f->confirmed)) { /* the answer to an acknowledgement got lost */
		feed_confirmed(c, f, reply->id);
		feed_at_work(f)->bad.tries = (uint32_t)reply->integer;
	}
	if (counted)
		feed_failed(c, f, (uint32_t)reply->integer, reply->wait_ms);
}

static void feed_on_open(struct feeds *fs, struct shard_ctx *c, struct feed *f, const struct reply *reply)
{
	if (reply->kind != REPLY_POSITION) {
		feed_is_refused(fs, c, f)->id = reply->id;
		return;
	}
	if (reply->n & POSITION_REMADE)
		feed_say_remade(c, f);
	if (reply->n & POSITION_REMADE && f->run.was_open) {
		feed_is_gone(fs, c, f, FEED_IS_REMADE);
		return;
	}
	f->run.is_open = true;
	f->run.opened_at = c->now;
	if (f->work != &feed_no_work)
		feed_at_work(f)->seen = reply->id;
	f->n_added = reply->n_added;
	if (f->run.was_open)
		feed_opened_again(c, f, reply);
	else
		feed_first_open(c, f, reply);
	if (reply->n_lost)
		feed_has_lost(fs, c, f, reply->n_lost);
	feed_plan(fs, c, f);
}

/* ---- the other scripts ---- */

/* The id that was to be acknowledged is not one of this stream's. */
static void feed_never_had(struct shard_ctx *c, struct feed *f)
{
	feed_tell(c, f, FEED_BAD_ACK)->id = f->work->added.acking;
	feed_at_work(f)->wanted = f->confirmed;
	feed_at_work(f)->bad.must_fail = false;
	if (f->state == FEED_FAILING)
		feed_move(c, f, FEED_RUNNING, "what was before it is gone");
	if (f->state == FEED_RUNNING)
		feed_restart(c, f);
}

static void feed_on_ack(struct feeds *fs, struct shard_ctx *c, struct feed *f, const struct reply *reply)
{
	if (reply->integer == -1 || reply->integer == -3) {
		(reply->integer == -1 ? feed_is_refused : feed_is_deleted)(fs, c, f);
		return;
	}
	if (reply->integer == -2) { /* an id that this stream has never had */
		feed_never_had(c, f);
	} else {
		f->n_added = reply->integer == 1 ? f->work->added.at_acking : -1; /* 0: it was further already */
		feed_confirmed(c, f, f->work->added.acking);
	}
	feed_plan(fs, c, f);
}

static void feed_on_fail(struct feeds *fs, struct shard_ctx *c, struct feed *f, const struct reply *reply)
{
	if (reply->kind != REPLY_POSITION) {
		(reply->kind == REPLY_INT ? feed_is_deleted : feed_is_refused)(fs, c, f);
		return;
	}
	feed_failed(c, f, (uint32_t)reply->integer, reply->wait_ms);
	feed_lend(c, f);
	feed_plan(fs, c, f);
}

static void feed_on_pick(struct feeds *fs, struct shard_ctx *c, struct feed *f, const struct reply *reply)
{
	struct entry_batch *b = reply->entries;
	if (f->state == FEED_BURYING && b && b->n > 0 && b->v[0].fields) {
		feed_at_work(f)->bad.fields = b->v[0].fields;
		b->v[0].fields = NULL;
	} else if (f->state == FEED_BURYING) { /* deleted meanwhile: nothing to keep */
		feed_at_work(f)->wanted = feed_later(f->work->wanted, f->work->bad.id);
	}
	feed_plan(fs, c, f);
}

static void feed_script_answered(struct feeds *fs, struct shard_ctx *c, struct feed *f, const struct reply *reply)
{
	f->script.backoff = 0;
	f->script.at = c->now;
	switch ((int)f->script.command) {
	case CMD_FEED_OPEN:
		feed_on_open(fs, c, f, reply);
		break;
	case CMD_FEED_ACK:
		feed_on_ack(fs, c, f, reply);
		break;
	case CMD_FEED_FAIL:
		feed_on_fail(fs, c, f, reply);
		break;
	case CMD_FEED_PICK:
		feed_on_pick(fs, c, f, reply);
		break;
	case CMD_FEED_CLOSE:
		feed_is_gone(fs, c, f, FEED_IS_CLOSED);
		break;
	}
}

/* ---- reads ---- */

bool feed_may_read(const struct feeds *fs, const struct shard_ctx *c)
{
	if (list_empty(&fs->reads))
		return false;
	const struct feed *first = LIST_OF(struct feed, reads, fs->reads.next);
	const bool is_known = ctx_service(c, first->svc)->entry_bytes > 0;
	return fs->n_reading < (is_known ? FEED_READS_IN_FLIGHT : FEED_READS_UNKNOWN);
}

uint32_t feed_first_count(const struct shard_ctx *c, const struct feed *f)
{
	const uint32_t bytes = ctx_service(c, f->svc)->entry_bytes;
	const uint32_t fit = bytes ? feed_rules(c, f)->batch_bytes / bytes + 1 : FEED_FIRST_COUNT;
	return fit < FEED_FIRST_COUNT ? fit : FEED_FIRST_COUNT;
}

/* A longer one counts at once, shorter ones by and by: a stream among them may have long ones. */
static void feed_weigh(struct shard_service *s, size_t bytes)
{
	const uint32_t now = bytes < UINT32_MAX ? (uint32_t)bytes : UINT32_MAX;
	s->entry_bytes = now >= s->entry_bytes ? now : s->entry_bytes - (s->entry_bytes - now) / 8;
}

static void feed_adapt_count(struct shard_ctx *c, struct feed *f, const struct feed_batch *b)
{
	const struct entries_rules *r = feed_rules(c, f);
	size_t bytes = 0;
	for (uint32_t i = 0; i < b->n; i++)
		bytes += b->v[i].len;
	feed_weigh(ctx_service(c, f->svc), bytes / b->n);
	size_t fit = (size_t)r->batch_bytes * b->n / (bytes + 1) + 1;
	f->reading.count = f->reading.count * 2 < r->batch ? f->reading.count * 2 : r->batch;
	f->reading.count = f->reading.count < fit ? f->reading.count : (uint32_t)fit;
}

/* Empty for so long that its lease ends, or somebody else waits for its credit: said once. */
static bool feed_is_idle(struct shard_ctx *c, struct feed *f)
{
	mono_ms max = feed_rules(c, f)->idle_release_ms;
	if (!max || f->run.is_held || f->work->window.n || f->reading.is_woken ||
		feed_is_newer(f->work->wanted, f->confirmed))
		return false;
	if (f->reading.sent >= f->idle.since + max)
		return true;
	bool is_wanted = feed_is_wanted(c, f);
	ctx_metrics(c, f->svc)->c[M_FEED_YIELDS] += is_wanted;
	return is_wanted;
}

mono_ms feed_poll_max(const struct feeds *fs, const struct shard_ctx *c, const struct feed *f)
{
	mono_ms max = feed_rules(c, f)->poll_max_ms;
	return fs->tracking == TRACKING_ON ? max : mono_min(max, FEED_POLL_BLIND_MS);
}

bool feed_was_left(const struct shard_ctx *c, const struct feed *f)
{
	const struct feed_reading *r = &f->reading;
	bool has_more = !r->at_end && r->asked > 1; /* as it seemed; of one entry nobody knows */
	return !r->was_empty && r->sent >= f->run.opened_at && (has_more || c->now - r->sent >= FEED_LEFT_MS);
}

static void feed_found_nothing(struct feeds *fs, struct shard_ctx *c, struct feed *f)
{
	const struct entries_rules *r = feed_rules(c, f);
	ctx_metrics(c, f->svc)->c[M_FEED_READ_EMPTY]++;
	f->reading.was_empty = true;
	bool is_surprise = f->work->unread.n_void; /* they were there */
	if (is_surprise)
		feed_at_work(f)->unread.n_void = 0;
	if (f->work->window.n == 0) {
		if (f->work->window.singles)
			feed_at_work(f)->window.singles = 0;
		feed_clear(c, f);
		if (!f->run.is_read_told)
			feed_tell(c, f, FEED_IS_READ);
		f->run.is_read_told = true;
	}
	if (!f->idle.since)
		f->idle.since = f->reading.sent;
	f->reading.wait_ms =
		f->reading.wait_ms ? mono_min(f->reading.wait_ms * 2, feed_poll_max(fs, c, f)) : FEED_POLL_MIN_MS;
	if (f->reading.by_push || f->reading.was_left || is_surprise || c->now - f->run.opened_at > FEED_CHECK_MS)
		f->run.is_open = false; /* is it still the same stream? */
	if (feed_is_idle(c, f)) {
		f->run.is_held = f->idle.has_ended = true;
		feed_tell(c, f, FEED_IS_IDLE);
		return;
	}
	f->reading.at = f->reading.is_woken ? c->now : c->now + f->reading.wait_ms;
	if (r->idle_release_ms && f->work->window.n == 0)
		f->reading.at = mono_min(f->reading.at, mono_max(f->idle.since + r->idle_release_ms, c->now));
	feed_rest(f);
}

/* Of what is to be read again, after so many more were read. */
static uint32_t n_left(const struct feed *f, uint32_t n)
{
	return f->reading.at_end || n > f->work->unread.n_void ? 0 : f->work->unread.n_void - n;
}

static void feed_found_some(struct shard_ctx *c, struct feed *f, struct feed_batch *b, uint32_t n_known)
{
	assert(n_known < b->n);
	struct metrics_service *m = ctx_metrics(c, f->svc);
	m->c[M_FEED_READ_ENTRIES]++;
	if (f->reading.was_empty)
		m->c[f->reading.by_push ? M_FEED_WAKE_PUSH : M_FEED_WAKE_POLL]++;
	feed_adapt_count(c, f, b);
	f->reading.was_empty = f->idle.is_yielding = false;
	f->idle.since = f->reading.wait_ms = 0;
	struct feed_work *w = feed_at_work(f);
	w->unread.buf = b;
	w->unread.n_told = n_known;
	w->unread.n_void = n_left(f, b->n - n_known);
	w->unread.cursor = b->v[b->n - 1].id;
	w->seen = feed_later(w->seen, w->unread.cursor);
	f->reading.at = c->now;
	feed_give(c, f);
}

static void feed_on_read(struct feeds *fs, struct shard_ctx *c, struct feed *f, const struct reply *reply)
{
	struct feed_batch *b = reply->feed;
	uint32_t n_known = 0;
	if (f->reading.is_stale || f->state != FEED_RUNNING) {
		mem_free(b);
		feed_plan(fs, c, f);
		return;
	}
	while (b && n_known < b->n && !feed_is_newer(b->v[n_known].id, feed_cursor(f)))
		n_known++;
	f->reading.at_end = !b || b->n < f->reading.asked;
	if (b && n_known < b->n) {
		feed_found_some(c, f, b, n_known);
	} else {
		mem_free(b);
		feed_found_nothing(fs, c, f);
	}
	feed_plan(fs, c, f);
}

/* ---- every answer ---- */

static void feed_try_again(
	struct feeds *fs, struct shard_ctx *c, struct feed *f, bool is_read, mono_ms first, mono_ms cap)
{
	mono_ms at = c->now + ctx_backoff(c, f->script.backoff, first, cap);
	f->script.backoff = (uint8_t)(f->script.backoff < 100 ? f->script.backoff + 1 : 100);
	if (is_read)
		f->reading.at = at;
	else
		f->script.at = at;
	feed_plan(fs, c, f);
}

/* It may have been done. */
static void feed_answer_lost(struct feed *f, bool is_read)
{
	f->run.is_open = false;
	if (is_read) /* too much at once, maybe */
		f->reading.count = f->reading.count > 4 ? f->reading.count / 4 : 1;
	else if (f->script.command == CMD_FEED_FAIL)
		feed_at_work(f)->bad.fail_lost = true;
}

static bool feed_is_wrong_type(const struct reply *reply)
{
	static const char word[] = "WRONGTYPE";
	return reply->kind == REPLY_ERROR && reply->text.len >= sizeof word - 1 &&
	       memcmp(reply->text.p, word, sizeof word - 1) == 0;
}

/* The scripts say so behind the server's words. */
static bool is_of_position(struct slice words)
{
	static const char end[] = "(position)";
	const size_t n = sizeof end - 1;
	return words.len >= n && memcmp(words.p + words.len - n, end, n) == 0;
}

static void feed_moved(struct feeds *fs, struct shard_ctx *c, struct feed *f, const struct reply *reply)
{
	if (f->state == FEED_CLOSING) {
		feed_is_gone(fs, c, f, FEED_IS_CLOSED);
		return;
	}
	struct msg_feed *told = feed_lose(fs, c, f, FEED_IS_MOVED);
	told->asking = reply->error == RERR_ASK;
	told->moved_to = text_new(reply->text.p, reply->text.len);
}

static void feed_answered(
	struct feeds *fs, struct shard_ctx *c, struct feed *f, bool is_read, const struct reply *reply)
{
	enum cmd_kind kind = is_read ? CMD_FEED_READ : (enum cmd_kind)f->script.command;
	if (feed_is_wrong_type(reply)) {
		feed_is_gone(fs, c, f, FEED_IS_WRONG_TYPE)->is_position = is_of_position(reply->text);
		return;
	}
	switch (ctx_judge(c, "feed", kind, f->svc, reply)) {
	case VERDICT_ANSWER:
		if (is_read)
			feed_on_read(fs, c, f, reply);
		else
			feed_script_answered(fs, c, f, reply);
		break;
	case VERDICT_LOST:
		feed_answer_lost(f, is_read);
		feed_try_again(fs, c, f, is_read, AGAIN_MS, AGAIN_MAX_MS);
		break;
	case VERDICT_AGAIN:
		feed_try_again(fs, c, f, is_read, AGAIN_MS, AGAIN_MAX_MS);
		break;
	case VERDICT_NO_GROUP:
	case VERDICT_REFUSED:
		feed_try_again(fs, c, f, is_read, REFUSED_MS, REFUSED_MAX_MS);
		break;
	case VERDICT_EVAL:
		f->script.use_eval = true;
		f->script.at = c->now;
		feed_plan(fs, c, f);
		break;
	case VERDICT_MOVED:
		feed_moved(fs, c, f, reply);
		break;
	}
}

/* Without it pushes do not come: polls do the same, more often. */
static void feed_tracking_answered(struct feeds *fs, struct shard_ctx *c, bool is_on, const struct reply *reply)
{
	if (reply->kind == REPLY_NONE || fs->tracking != TRACKING_ASKED)
		return;
	bool is_error = reply->kind == REPLY_ERROR;
	fs->tracking = is_on && !is_error ? TRACKING_ON : TRACKING_REFUSED;
	if (!is_error || fs->is_refusal_said)
		return;
	fs->is_refusal_said = true;
	effects_log(c->out, LOG_WARN,
		"shard=%u CLIENT TRACKING refused, so empty data streams are polled at least every %d ms: %.*s",
		c->index, FEED_POLL_BLIND_MS, (int)(reply->text.len < 200 ? reply->text.len : 200),
		reply->text.p ? reply->text.p : "");
}

void feed_reply(struct feeds *fs, struct shard_ctx *c, uint64_t tag, const struct reply *reply)
{
	uint32_t index = tag_index(tag);
	if (index == FEED_TRACKING_INDEX || index == FEED_CACHING_INDEX) {
		if (index == FEED_TRACKING_INDEX)
			feed_tracking_answered(fs, c, true, reply);
		else if (reply->kind == REPLY_ERROR && fs->tracking == TRACKING_ON)
			fs->tracking = TRACKING_UNASKED; /* it is not on any more */
		return;
	}
	bool is_read = index & FEED_READ_BIT;
	struct feed *f = feed_of_tag(fs, tag);
	fs->n_reading -= is_read;
	fs->n_in_flight -= !is_read;
	if (!f) { /* forgotten meanwhile */
		mem_free(reply->feed);
	} else {
		if (is_read)
			f->reading.in_flight = false;
		else
			f->script.in_flight = false;
		feed_answered(fs, c, f, is_read, reply);
	}
	entry_batch_free(reply->entries);
}

void feed_lock_answer(struct feeds *fs, struct shard_ctx *c, const struct msg_lock_answer *m)
{
	struct feed *f = feed_of_tag(fs, m->tag);
	if (!f || !f->work->bad.is_calling)
		return;
	struct feed_work *w = feed_at_work(f);
	w->bad.is_calling = false;
	w->added.is_kept = f->state == FEED_BURYING && m->result == OP_DONE;
	if (w->added.is_kept)
		w->wanted = feed_later(w->wanted, w->bad.id);
	else
		f->script.at = c->now + ctx_backoff(c, f->script.backoff++ % 16, AGAIN_MS, AGAIN_MAX_MS);
	feed_plan(fs, c, f);
}
