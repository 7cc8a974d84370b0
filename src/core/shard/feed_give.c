/* feed_give - what is told of a stream, and what a worker's word does to it. */
#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "core/shard/feed_p.h"
#include "base/log_fields.h"

/* ---- told and not confirmed ---- */

static bool feed_is_single(const struct feed *f)
{
	return f->singles > 0 || f->tries > 0;
}

bool feed_has_room(const struct shard_ctx *c, const struct feed *f)
{
	return feed_is_single(f) ? f->n_sent == 0 : f->n_frames < feed_rules(c, f)->window;
}

static void feed_push_sent(struct feed *f, struct feed_sent s)
{
	assert(f->n_sent == 0 || feed_is_newer(s.id, f->sent[f->sent_from + f->n_sent - 1].id));
	if (f->sent_from + f->n_sent == f->sent_cap && f->sent_from > 0) {
		memmove(f->sent, f->sent + f->sent_from, f->n_sent * sizeof *f->sent);
		f->sent_from = 0;
	}
	if (f->sent_from + f->n_sent == f->sent_cap) {
		f->sent_cap = f->sent_cap ? f->sent_cap * 2 : 4;
		f->sent = mem_grow(f->sent, f->sent_cap, sizeof *f->sent);
	}
	f->sent[f->sent_from + f->n_sent++] = s;
	f->n_frames += s.ends;
}

static void forget_sent(struct feed *f)
{
	mem_free(f->sent);
	f->sent = NULL;
	f->n_sent = f->sent_from = f->sent_cap = f->n_frames = 0;
}

void feed_drop_read(struct shard_ctx *c, struct feed *f)
{
	mem_free(f->buf);
	f->buf = NULL;
	f->read_gen++;
	f->read_at = c->now;
	f->cursor = feed_later(f->pos, f->ack);
	if (f->n_sent)
		f->cursor = feed_later(f->cursor, f->sent[f->sent_from + f->n_sent - 1].id);
	f->was_empty = f->at_end = f->idle.is_yielding = false;
	f->idle.since = 0;
}

void feed_restart(struct shard_ctx *c, struct feed *f)
{
	if (feed_is_newer(f->ack, f->pos)) /* what it passes is forgotten */
		f->added.gap = feed_later(f->added.gap, f->ack);
	forget_sent(f);
	feed_drop_read(c, f);
}

/* ---- telling ---- */

static size_t json_room(const struct feed_batch *b, uint32_t i)
{
	return b->v[i].len + 16; /* comma, tries, bracket */
}

static struct text *frame_text(const struct feed_batch *b, uint32_t from, uint32_t n, uint32_t tries)
{
	size_t len = 0;
	for (uint32_t i = from; i < from + n; i++)
		len += json_room(b, i);
	struct text *t = text_room(len);
	char *at = t->bytes;
	for (uint32_t i = from; i < from + n; i++) {
		if (i > from)
			*at++ = ',';
		memcpy(at, b->v[i].json, b->v[i].len);
		at += b->v[i].len;
		if (i == from && tries > 0)
			at += snprintf(at, 13, ",%u", tries);
		*at++ = ']';
	}
	*at = '\0';
	t->len = (uint32_t)(at - t->bytes);
	return t;
}

/* How many from `from` on fit into one frame. */
static uint32_t frame_entries(const struct entries_rules *r, const struct feed *f)
{
	const struct feed_batch *b = f->buf;
	uint32_t most = feed_is_single(f) ? 1 : r->batch, n = 0;
	size_t bytes = 0, room = r->batch_bytes < r->entry_bytes ? r->batch_bytes : r->entry_bytes;
	for (uint32_t i = f->n_told; i < b->n && n < most; i++, n++) {
		bytes += json_room(b, i);
		if (json_room(b, i) > r->entry_bytes || (n > 0 && bytes > room))
			break;
	}
	return n;
}

/* The first entry behind the position may be one that nobody is to get. True: it is. */
static bool is_for_the_dead(struct shard_ctx *c, struct feed *f)
{
	const struct entries_rules *r = feed_rules(c, f);
	struct entry_id id = f->buf->v[f->n_told].id;
	bool has_bad = f->bad.ms || f->bad.seq;
	if (has_bad && entry_id_cmp(id, f->bad) != 0) /* that one was deleted: the tries were not this one's */
		f->tries = 0;
	f->bad = (struct entry_id){0};
	if (f->tries > r->max_retries) {
		static const char words[] = "worker died";
		f->reason = f->reason ? f->reason : text_new(words, sizeof words - 1);
		feed_bury(c, f, id, DEAD_MAX_RETRIES);
	} else if (json_room(f->buf, f->n_told) > r->entry_bytes) {
		char words[96];
		int n = snprintf(words, sizeof words, "its frame would exceed workers.max_frame: %zu bytes, %u fit",
			json_room(f->buf, f->n_told), r->entry_bytes);
		text_unref(f->reason);
		f->reason = text_new(words, (size_t)n);
		feed_bury(c, f, id, DEAD_TOO_LARGE);
	}
	return f->state == FEED_BURYING;
}

static bool feed_give_frame(struct shard_ctx *c, struct feed *f)
{
	struct metrics_service *m = ctx_metrics(c, f->svc);
	if (f->n_sent == 0 && is_for_the_dead(c, f))
		return false;
	struct feed_batch *b = f->buf;
	uint32_t n = frame_entries(feed_rules(c, f), f), from = f->n_told;
	if (n == 0) /* too large: it waits until what is before it is acknowledged */
		return false;
	for (uint32_t i = from; i < from + n; i++) {
		feed_push_sent(f, (struct feed_sent){.id = b->v[i].id, .at = c->now, .ends = i + 1 == from + n});
		if (c->wall_ms > (int64_t)b->v[i].id.ms)
			hist_add(&m->h[H_FEED_LATENCY], (double)(c->wall_ms - (int64_t)b->v[i].id.ms) / 1000);
	}
	f->n_told += n;
	f->idle.has_told = true;
	f->top = feed_later(f->top, b->v[f->n_told - 1].id);
	struct msg_feed *told = feed_tell(c, f, FEED_HAS_ENTRIES);
	told->json = frame_text(b, from, n, f->tries);
	told->n_entries = n;
	told->id = b->v[f->n_told - 1].id;
	told->epoch = f->epoch;
	told->has_more = f->n_told < b->n || !f->at_end;
	m->c[M_FEED_DELIVERED] += n;
	return true;
}

void feed_give(struct shard_ctx *c, struct feed *f)
{
	while (f->buf && f->state == FEED_RUNNING && !f->is_held && feed_has_room(c, f)) {
		if (!feed_give_frame(c, f))
			return;
		if (f->n_told == f->buf->n) {
			mem_free(f->buf);
			f->buf = NULL;
		}
	}
}

/* ---- acknowledgements ---- */

static void feed_pop_sent(struct shard_ctx *c, struct feed *f)
{
	struct metrics_service *m = ctx_metrics(c, f->svc);
	while (f->n_sent && !feed_is_newer(f->sent[f->sent_from].id, f->pos)) {
		const struct feed_sent *s = &f->sent[f->sent_from];
		hist_add(&m->h[H_FEED_ACK], (double)(c->now - s->at) / 1000);
		m->c[M_FEED_ACKED]++;
		f->n_frames -= s->ends;
		f->singles -= f->singles > 0;
		f->sent_from++;
		f->n_sent--;
	}
	if (f->n_sent == 0) {
		f->n_frames = f->sent_from = 0;
		f->idle.since = f->was_empty ? c->now : 0;
		f->read_at = f->was_empty && feed_rules(c, f)->idle_release_ms ? c->now : f->read_at;
	} else if (f->sent_from > f->sent_cap / 2) {
		memmove(f->sent, f->sent + f->sent_from, f->n_sent * sizeof *f->sent);
		f->sent_from = 0;
	}
}

int64_t feed_added_at(const struct feed *f, struct entry_id id)
{
	if (f->added.at_pos < 0 || feed_is_newer(f->added.gap, f->pos))
		return -1;
	uint32_t n = 0;
	while (n < f->n_sent && !feed_is_newer(f->sent[f->sent_from + n].id, id))
		n++;
	return f->added.at_pos + n + (f->added.is_kept && !feed_is_newer(f->bad, id));
}

/* What is in the dead letters now. */
static void feed_buried(struct shard_ctx *c, struct feed *f)
{
	static const enum metric_service counts[DEAD_N] = {[DEAD_MAX_RETRIES] = M_FEED_DEAD_MAX_RETRIES,
		[DEAD_TOO_LARGE] = M_FEED_DEAD_TOO_LARGE,
		[DEAD_REJECTED] = M_FEED_DEAD_REJECTED};
	ctx_metrics(c, f->svc)->c[counts[f->dead_reason]]++;
	char stream[FIELD_VALUE_CAP], error[FIELD_VALUE_CAP];
	effects_log(c->out, LOG_NOTICE,
		"shard=%u service=%s stream=%s entry=%llu-%llu dead letter reason=%s tries=%u%s%s", c->index,
		ctx_service(c, f->svc)->rules->name, field_value(stream, f->stream->bytes, f->stream->len),
		(unsigned long long)f->bad.ms, (unsigned long long)f->bad.seq,
		dead_reason_name((enum dead_reason)f->dead_reason), feed_tries_of_dead(f), f->reason ? " error=" : "",
		f->reason ? field_value(error, f->reason->bytes, f->reason->len) : "");
	struct msg_feed *told = feed_tell(c, f, f->is_nacked ? FEED_HAS_NACKED : FEED_HAS_BURIED);
	told->id = f->bad;
	told->reason = f->dead_reason;
	told->tries = f->tries;
	told->is_dead = true;
	f->is_nacked = f->added.is_kept = false;
	f->bad = (struct entry_id){0};
	feed_move(c, f, FEED_RUNNING, "the entry is a dead letter");
	feed_drop_read(c, f);
}

void feed_clear(struct shard_ctx *c, struct feed *f)
{
	if (f->is_tested)
		feed_tell(c, f, FEED_IS_CLEARED);
	f->is_tested = false;
}

void feed_confirmed(struct shard_ctx *c, struct feed *f, struct entry_id pos)
{
	assert(f->was_open);
	f->pos = feed_later(f->pos, pos);
	const bool was_out = f->n_sent > 0;
	feed_pop_sent(c, f);
	bool is_buried = f->state == FEED_BURYING && !feed_is_newer(f->bad, f->pos);
	if (is_buried)
		feed_buried(c, f);
	else
		feed_tell(c, f, FEED_HAS_ACKED)->id = f->pos;
	f->tries = 0;
	if (was_out && f->n_sent == 0)
		feed_clear(c, f);
	if (f->state == FEED_FAILING && !f->must_fail && !feed_is_newer(f->ack, f->pos))
		feed_bury(c, f, f->bad, DEAD_REJECTED);
	if (f->state == FEED_BLOCKED && !feed_is_newer(f->bad, f->pos))
		feed_move(c, f, FEED_RUNNING, "it was tried meanwhile");
	if (feed_is_newer(f->pos, f->cursor))
		feed_drop_read(c, f);
	feed_give(c, f);
}

/* Its entry had to wait when it was opened here; by another clock, that of the master before, its next try may have
 * begun. */
static bool feed_waits_of_old(const struct feed *f)
{
	return f->state == FEED_BLOCKED && f->is_adopted && feed_is_newer(f->bad, f->top);
}

/* Is it an entry that somebody was given, and that is not behind one that failed? */
static bool is_good_ack(const struct feed *f, struct entry_id id)
{
	bool has_bad = f->state == FEED_FAILING || f->state == FEED_BURYING ||
		       (f->state == FEED_BLOCKED && !feed_waits_of_old(f));
	if (has_bad && entry_id_cmp(id, f->bad) >= 0)
		return false;
	return f->is_adopted || !feed_is_newer(id, f->top);
}

static uint32_t sent_before(const struct feed *f, struct entry_id id)
{
	uint32_t i = 0;
	while (i < f->n_sent && entry_id_cmp(f->sent[f->sent_from + i].id, id) < 0)
		i++;
	return i;
}

static void feed_wants_ack(struct feed *f, struct entry_id id)
{
	uint32_t n = sent_before(f, id);
	if (n == f->n_sent ||
		entry_id_cmp(f->sent[f->sent_from + n].id, id) != 0) /* told by another, or not one of them */
		f->added.gap = feed_later(f->added.gap, id);
	f->ack = feed_later(f->ack, id);
}

void feed_take_ack(struct shard_ctx *c, struct feed *f, struct entry_id id)
{
	if (f->was_open && !feed_is_newer(id, f->pos))
		feed_tell(c, f, FEED_HAS_ACKED)->id = f->pos;
	else if (is_good_ack(f, id))
		feed_wants_ack(f, id);
	else
		feed_tell(c, f, FEED_BAD_ACK)->id = id;
}

/* ---- entries that fail ---- */

/* What was told behind the entry is void. */
static void cut_sent(struct feed *f, uint32_t n)
{
	f->n_sent = n;
	f->n_frames = 0;
	if (n)
		f->sent[f->sent_from + n - 1].ends = true;
	for (uint32_t i = 0; i < n; i++)
		f->n_frames += f->sent[f->sent_from + i].ends;
}

/* Its tries were counted where the feed was before. */
static void feed_take_counted(struct shard_ctx *c, struct feed *f, struct msg_feed_nack *m)
{
	text_unref(f->reason);
	f->reason = m->reason;
	m->reason = NULL;
	if (f->state == FEED_RUNNING && f->tries > feed_rules(c, f)->max_retries) {
		f->is_nacked = true;
		feed_bury(c, f, m->id, DEAD_MAX_RETRIES);
		return;
	}
	struct msg_feed *told = feed_tell(c, f, FEED_HAS_NACKED);
	told->id = m->id;
	told->wait_ms = f->state == FEED_BLOCKED ? mono_max(f->until - c->now, 0) : 0;
	told->tries = f->tries;
}

void feed_take_nack(struct shard_ctx *c, struct feed *f, struct msg_feed_nack *m)
{
	if (m->is_counted) {
		feed_take_counted(c, f, m);
		return;
	}
	if (m->is_again && feed_waits_of_old(f))
		feed_move(c, f, FEED_RUNNING, "it was tried meanwhile");
	uint32_t n = sent_before(f, m->id);
	const struct feed_sent *s = n < f->n_sent ? &f->sent[f->sent_from + n] : NULL;
	bool is_among =
		(m->is_again || (s && s->is_all)) && feed_is_newer(m->id, f->pos); /* before it: not known by id */
	bool is_told = is_among || (s && entry_id_cmp(s->id, m->id) == 0);
	if (f->state != FEED_RUNNING || !is_told || !feed_is_newer(m->id, f->ack)) {
		struct msg_feed *bad = feed_tell(c, f, FEED_BAD_ACK);
		bad->id = m->id;
		bad->is_nack = true;
		return;
	}
	ctx_metrics(c, f->svc)->c[m->is_dead ? M_FEED_NACK_DEAD : M_FEED_NACK_FAILED]++;
	if (is_among)
		feed_wants_ack(f, entry_id_before(m->id));
	else if (n)
		f->ack = feed_later(f->ack, f->sent[f->sent_from + n - 1].id);
	cut_sent(f, n);
	feed_drop_read(c, f);
	f->bad = m->id;
	f->nack_ms = m->delay_ms;
	f->is_dead = m->is_dead;
	f->is_nacked = true;
	f->must_fail = !m->is_dead;
	text_unref(f->reason);
	f->reason = m->reason;
	m->reason = NULL;
	feed_move(c, f, FEED_FAILING, "nacked");
	if (f->is_dead && !feed_is_newer(f->ack, f->pos))
		feed_bury(c, f, f->bad, DEAD_REJECTED);
}

void feed_bury(struct shard_ctx *c, struct feed *f, struct entry_id id, enum dead_reason why)
{
	assert(why < DEAD_N && f->state != FEED_BURYING);
	feed_drop_read(c, f);
	f->bad = id;
	f->dead_reason = (uint8_t)why;
	f->is_calling = f->added.is_kept = false;
	feed_move(c, f, FEED_BURYING, dead_reason_name(why));
}

void feed_wait(struct shard_ctx *c, struct feed *f, struct entry_id bad, mono_ms wait)
{
	assert(wait >= 0 && f->state == FEED_RUNNING);
	if (wait == 0 || f->tries > feed_rules(c, f)->max_retries)
		return;
	f->bad = bad;
	f->until = c->now + wait;
	feed_move(c, f, FEED_BLOCKED, "its last try was just now");
}

void feed_failed(struct shard_ctx *c, struct feed *f, uint32_t tries, mono_ms wait)
{
	f->must_fail = f->fail_lost = false;
	f->tries = tries;
	if (f->state != FEED_FAILING)
		return;
	if (tries > feed_rules(c, f)->max_retries) {
		feed_bury(c, f, f->bad, DEAD_MAX_RETRIES);
		return;
	}
	f->until = c->now + wait;
	f->is_nacked = false;
	feed_move(c, f, FEED_BLOCKED, "it is tried again later");
	struct msg_feed *told = feed_tell(c, f, FEED_HAS_NACKED);
	told->id = f->bad;
	told->wait_ms = wait;
	told->tries = tries;
}

static void feed_check_sent(const struct feed *f)
{
	uint32_t n_frames = 0;
	assert(f->sent_from + f->n_sent <= f->sent_cap);
	for (uint32_t i = 0; i < f->n_sent; i++) {
		const struct feed_sent *s = &f->sent[f->sent_from + i];
		assert(i == 0 || feed_is_newer(s->id, s[-1].id)); /* told in order, each once */
		n_frames += s->ends;
	}
	assert(n_frames == f->n_frames);
}

void feed_check(const struct feeds *fs)
{
	uint32_t n = 0, n_in_flight = 0, n_reading = 0;
	for (uint32_t i = 0; i < shard_pool_end(&fs->pool); i++) {
		const struct feed *f = shard_pool_at(&fs->pool, i);
		if (!f || !f->handle)
			continue;
		assert(f->state < FEED_STATES && f->stream && f->index == i);
		assert(!f->in_flight || list_empty(&f->ready)); /* sent or queued, not both */
		assert(!f->reading || (list_empty(&f->reads) && !f->buf));
		assert(!f->buf || f->n_told < f->buf->n);
		assert(!f->fields || f->state == FEED_BURYING || f->state == FEED_CLOSING);
		assert(f->state == FEED_OPENING || f->state == FEED_CLOSING || f->was_open);
		assert(f->state != FEED_BLOCKED || f->timer.pos || !list_empty(&f->ready) || f->in_flight);
		feed_check_sent(f);
		n++;
		n_in_flight += f->in_flight;
		n_reading += f->reading;
	}
	assert(n == shard_pool_count(&fs->pool));
	assert(n_in_flight <= fs->n_in_flight && n_reading <= fs->n_reading);
}
