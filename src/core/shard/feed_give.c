/* feed_give - what is told of a stream, and what a worker's word does to it. */
#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "core/shard/feed_p.h"
#include "base/log_fields.h"

/* ---- told and not confirmed ---- */

static bool feed_is_single(const struct feed *f)
{
	return f->work->window.singles > 0 || f->work->bad.tries > 0;
}

bool feed_has_room(const struct shard_ctx *c, const struct feed *f)
{
	return feed_is_single(f) ? f->work->window.n == 0 : f->work->window.n_frames < feed_rules(c, f)->window;
}

static void feed_push_sent(struct feed *f, struct feed_sent s)
{
	struct feed_window *w = &feed_at_work(f)->window;
	assert(w->n == 0 || feed_is_newer(s.id, w->v[w->from + w->n - 1].id));
	if (w->from + w->n == w->cap && w->from > 0) {
		memmove(w->v, w->v + w->from, w->n * sizeof *w->v);
		w->from = 0;
	}
	if (w->from + w->n == w->cap) {
		w->cap = w->cap ? w->cap * 2 : 4;
		w->v = mem_grow(w->v, w->cap, sizeof *w->v);
	}
	w->v[w->from + w->n++] = s;
	w->n_frames += s.ends;
}

static void forget_sent(struct feed *f)
{
	if (f->work == &feed_no_work)
		return;
	struct feed_window *w = &feed_at_work(f)->window;
	feed_at_work(f)->unread.n_void += w->n;
	mem_free(w->v);
	w->v = NULL;
	w->n = w->from = w->cap = w->n_frames = 0;
}

static void feed_forget_read(struct feed *f)
{
	struct feed_unread *u = &feed_at_work(f)->unread;
	const struct feed_window *w = &f->work->window;
	u->n_void += feed_n_untold(f);
	mem_free(u->buf);
	u->buf = NULL;
	u->cursor = w->n ? feed_later(f->work->wanted, w->v[w->from + w->n - 1].id) : f->work->wanted;
}

void feed_drop_read(struct shard_ctx *c, struct feed *f)
{
	if (f->work != &feed_no_work)
		feed_forget_read(f);
	f->reading.is_stale = true;
	f->reading.at = c->now;
	f->reading.was_empty = f->reading.at_end = f->idle.is_yielding = false;
	f->idle.since = 0;
}

void feed_restart(struct shard_ctx *c, struct feed *f)
{
	if (feed_is_newer(f->work->wanted, f->confirmed)) /* what it passes is forgotten */
		feed_at_work(f)->added.gap = feed_later(f->work->added.gap, f->work->wanted);
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
	const struct feed_batch *b = f->work->unread.buf;
	uint32_t most = feed_is_single(f) ? 1 : r->batch, n = 0;
	size_t bytes = 0, room = r->batch_bytes < r->entry_bytes ? r->batch_bytes : r->entry_bytes;
	for (uint32_t i = f->work->unread.n_told; i < b->n && n < most; i++, n++) {
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
	struct entry_id id = f->work->unread.buf->v[f->work->unread.n_told].id;
	struct feed_bad *bad = &feed_at_work(f)->bad;
	bool has_bad = bad->id.ms || bad->id.seq;
	if (has_bad && entry_id_cmp(id, bad->id) != 0) /* that one was deleted: the tries were not this one's */
		bad->tries = 0;
	bad->id = (struct entry_id){0};
	if (bad->tries > r->max_retries) {
		static const char words[] = "worker died";
		bad->reason = bad->reason ? bad->reason : text_new(words, sizeof words - 1);
		feed_bury(c, f, id, DEAD_MAX_RETRIES);
	} else if (json_room(f->work->unread.buf, f->work->unread.n_told) > r->entry_bytes) {
		char words[96];
		int n = snprintf(words, sizeof words, "its frame would exceed workers.max_frame: %zu bytes, %u fit",
			json_room(f->work->unread.buf, f->work->unread.n_told), r->entry_bytes);
		text_unref(bad->reason);
		bad->reason = text_new(words, (size_t)n);
		feed_bury(c, f, id, DEAD_TOO_LARGE);
	}
	return f->state == FEED_BURYING;
}

static bool feed_give_frame(struct shard_ctx *c, struct feed *f)
{
	struct metrics_service *m = ctx_metrics(c, f->svc);
	if (f->work->window.n == 0 && is_for_the_dead(c, f))
		return false;
	struct feed_work *w = feed_at_work(f);
	const struct feed_batch *b = w->unread.buf;
	uint32_t n = frame_entries(feed_rules(c, f), f), from = w->unread.n_told;
	if (n == 0) /* too large: it waits until what is before it is acknowledged */
		return false;
	for (uint32_t i = from; i < from + n; i++) {
		feed_push_sent(f, (struct feed_sent){.id = b->v[i].id, .at = c->now, .ends = i + 1 == from + n});
		metric_add_age(&m->h[H_FEED_LATENCY], c->wall_ms, b->v[i].id.ms);
	}
	w->unread.n_told += n;
	f->idle.has_told = true;
	w->window.top = feed_later(w->window.top, b->v[from + n - 1].id);
	struct msg_feed *told = feed_tell(c, f, FEED_HAS_ENTRIES);
	told->json = frame_text(b, from, n, w->bad.tries);
	told->n_entries = n;
	told->id = b->v[from + n - 1].id;
	told->epoch = f->epoch;
	told->has_more = w->unread.n_told < b->n || !f->reading.at_end;
	m->c[M_FEED_DELIVERED] += n;
	return true;
}

void feed_give(struct shard_ctx *c, struct feed *f)
{
	while (f->work->unread.buf && f->state == FEED_RUNNING && !f->run.is_held && feed_has_room(c, f)) {
		if (!feed_give_frame(c, f))
			return;
		struct feed_unread *u = &feed_at_work(f)->unread;
		if (u->n_told == u->buf->n) {
			mem_free(u->buf);
			u->buf = NULL;
		}
	}
}

/* ---- acknowledgements ---- */

static void feed_pop_sent(struct shard_ctx *c, struct feed *f)
{
	struct metrics_service *m = ctx_metrics(c, f->svc);
	struct feed_window *w = &feed_at_work(f)->window;
	while (w->n && !feed_is_newer(w->v[w->from].id, f->confirmed)) {
		const struct feed_sent *s = &w->v[w->from];
		hist_add(&m->h[H_FEED_ACK], (double)(c->now - s->at) / 1000);
		m->c[M_FEED_ACKED]++;
		w->n_frames -= s->ends;
		w->singles -= w->singles > 0;
		w->from++;
		w->n--;
	}
	if (w->n == 0) {
		w->n_frames = w->from = 0;
		f->idle.since = f->reading.was_empty ? c->now : 0;
		f->reading.at = f->reading.was_empty && feed_rules(c, f)->idle_release_ms ? c->now : f->reading.at;
	} else if (w->from > w->cap / 2) {
		memmove(w->v, w->v + w->from, w->n * sizeof *w->v);
		w->from = 0;
	}
}

int64_t feed_added_at(const struct feed *f, struct entry_id id)
{
	if (f->n_added < 0 || feed_is_newer(f->work->added.gap, f->confirmed))
		return -1;
	uint32_t n = 0;
	while (n < f->work->window.n && !feed_is_newer(f->work->window.v[f->work->window.from + n].id, id))
		n++;
	return f->n_added + n + (f->work->added.is_kept && !feed_is_newer(f->work->bad.id, id));
}

/* What is in the dead letters now. */
static void feed_buried(struct shard_ctx *c, struct feed *f)
{
	static const enum metric_service counts[DEAD_N] = {[DEAD_MAX_RETRIES] = M_FEED_DEAD_MAX_RETRIES,
		[DEAD_TOO_LARGE] = M_FEED_DEAD_TOO_LARGE,
		[DEAD_REJECTED] = M_FEED_DEAD_REJECTED};
	ctx_metrics(c, f->svc)->c[counts[f->work->bad.dead_reason]]++;
	char stream[FIELD_VALUE_CAP], error[FIELD_VALUE_CAP];
	effects_log(c->out, LOG_NOTICE,
		"shard=%u service=%s stream=%s entry=%llu-%llu dead letter reason=%s tries=%u%s%s", c->index,
		ctx_service(c, f->svc)->rules->name, field_value(stream, f->stream->bytes, f->stream->len),
		(unsigned long long)f->work->bad.id.ms, (unsigned long long)f->work->bad.id.seq,
		dead_reason_name((enum dead_reason)f->work->bad.dead_reason), feed_tries_of_dead(f),
		f->work->bad.reason ? " error=" : "",
		f->work->bad.reason ? field_value(error, f->work->bad.reason->bytes, f->work->bad.reason->len) : "");
	struct msg_feed *told = feed_tell(c, f, f->work->bad.is_nacked ? FEED_HAS_NACKED : FEED_HAS_BURIED);
	told->id = f->work->bad.id;
	told->reason = f->work->bad.dead_reason;
	told->tries = f->work->bad.tries;
	told->is_dead = true;
	struct feed_work *w = feed_at_work(f);
	w->bad.is_nacked = w->added.is_kept = false;
	w->bad.id = (struct entry_id){0};
	feed_move(c, f, FEED_RUNNING, "the entry is a dead letter");
	feed_drop_read(c, f);
}

void feed_clear(struct shard_ctx *c, struct feed *f)
{
	if (f->run.is_tested)
		feed_tell(c, f, FEED_IS_CLEARED);
	f->run.is_tested = false;
}

void feed_confirmed(struct shard_ctx *c, struct feed *f, struct entry_id pos)
{
	assert(f->run.was_open);
	f->confirmed = feed_later(f->confirmed, pos);
	const bool was_out = f->work->window.n > 0;
	const bool has_bad = f->state == FEED_FAILING || f->state == FEED_BLOCKED || f->state == FEED_BURYING;
	struct feed_work *w = feed_at_work(f);
	if (has_bad && !feed_is_newer(w->bad.id, f->confirmed)) /* passed without being read again */
		w->unread.n_void -= w->unread.n_void > 0;
	feed_pop_sent(c, f);
	bool is_buried = f->state == FEED_BURYING && !feed_is_newer(f->work->bad.id, f->confirmed);
	if (is_buried)
		feed_buried(c, f);
	else
		feed_tell(c, f, FEED_HAS_ACKED)->id = f->confirmed;
	w->bad.tries = 0;
	if (was_out && f->work->window.n == 0)
		feed_clear(c, f);
	if (f->state == FEED_FAILING && !f->work->bad.must_fail && !feed_is_newer(f->work->wanted, f->confirmed))
		feed_bury(c, f, f->work->bad.id, DEAD_REJECTED);
	if (f->state == FEED_BLOCKED && !feed_is_newer(f->work->bad.id, f->confirmed))
		feed_move(c, f, FEED_RUNNING, "it was tried meanwhile");
	if (feed_is_newer(f->confirmed, w->unread.cursor))
		feed_drop_read(c, f);
	feed_give(c, f);
}

bool feed_waits_of_old(const struct feed *f)
{
	return f->state == FEED_BLOCKED && f->run.is_adopted && feed_is_newer(f->work->bad.id, f->work->window.top);
}

/* Is it an entry that somebody was given, and that is not behind one that failed? */
static bool is_good_ack(const struct feed *f, struct entry_id id)
{
	bool has_bad = f->state == FEED_FAILING || f->state == FEED_BURYING ||
		       (f->state == FEED_BLOCKED && !feed_waits_of_old(f));
	if (has_bad && entry_id_cmp(id, f->work->bad.id) >= 0)
		return false;
	return f->run.is_adopted || !feed_is_newer(id, f->work->window.top);
}

static uint32_t sent_before(const struct feed *f, struct entry_id id)
{
	uint32_t i = 0;
	while (i < f->work->window.n && entry_id_cmp(f->work->window.v[f->work->window.from + i].id, id) < 0)
		i++;
	return i;
}

static void feed_wants_ack(struct feed *f, struct entry_id id)
{
	struct feed_work *w = feed_at_work(f);
	uint32_t n = sent_before(f, id);
	if (n == w->window.n ||
		entry_id_cmp(w->window.v[w->window.from + n].id, id) != 0) /* told by another, or not one of them */
		w->added.gap = feed_later(w->added.gap, id);
	w->wanted = feed_later(w->wanted, id);
}

void feed_take_ack(struct shard_ctx *c, struct feed *f, struct entry_id id)
{
	if (f->run.was_open && !feed_is_newer(id, f->confirmed))
		feed_tell(c, f, FEED_HAS_ACKED)->id = f->confirmed;
	else if (is_good_ack(f, id))
		feed_wants_ack(f, id);
	else
		feed_tell(c, f, FEED_BAD_ACK)->id = id;
}

/* ---- entries that fail ---- */

/* What was told behind the entry is void. */
static void cut_sent(struct feed *f, uint32_t n)
{
	struct feed_window *w = &feed_at_work(f)->window;
	feed_at_work(f)->unread.n_void += w->n - n;
	w->n = n;
	w->n_frames = 0;
	if (n)
		w->v[w->from + n - 1].ends = true;
	for (uint32_t i = 0; i < n; i++)
		w->n_frames += w->v[w->from + i].ends;
}

/* Its tries were counted where the feed was before. */
static void feed_take_counted(struct shard_ctx *c, struct feed *f, struct msg_feed_nack *m)
{
	struct feed_bad *bad = &feed_at_work(f)->bad;
	text_unref(bad->reason);
	bad->reason = m->reason;
	m->reason = NULL;
	if (f->state == FEED_RUNNING && bad->tries > feed_rules(c, f)->max_retries) {
		bad->is_nacked = true;
		feed_bury(c, f, m->id, DEAD_MAX_RETRIES);
		return;
	}
	struct msg_feed *told = feed_tell(c, f, FEED_HAS_NACKED);
	told->id = m->id;
	told->wait_ms = f->state == FEED_BLOCKED ? mono_max(bad->until - c->now, 0) : 0;
	told->tries = bad->tries;
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
	const struct feed_sent *s = n < f->work->window.n ? &f->work->window.v[f->work->window.from + n] : NULL;
	bool is_among = (m->is_again || (s && s->is_all)) &&
			feed_is_newer(m->id, f->confirmed); /* before it: not known by id */
	bool is_told = is_among || (s && entry_id_cmp(s->id, m->id) == 0);
	if (f->state != FEED_RUNNING || !is_told || !feed_is_newer(m->id, f->work->wanted)) {
		struct msg_feed *bad = feed_tell(c, f, FEED_BAD_ACK);
		bad->id = m->id;
		bad->is_nack = true;
		return;
	}
	ctx_metrics(c, f->svc)->c[m->is_dead ? M_FEED_NACK_DEAD : M_FEED_NACK_FAILED]++;
	if (is_among)
		feed_wants_ack(f, entry_id_before(m->id));
	else if (n)
		feed_at_work(f)->wanted = feed_later(f->work->wanted, s[-1].id);
	cut_sent(f, n);
	feed_drop_read(c, f);
	struct feed_bad *bad = &feed_at_work(f)->bad;
	bad->id = m->id;
	bad->nack_ms = m->delay_ms;
	bad->is_dead = m->is_dead;
	bad->is_nacked = true;
	bad->must_fail = !m->is_dead;
	text_unref(bad->reason);
	bad->reason = m->reason;
	m->reason = NULL;
	feed_move(c, f, FEED_FAILING, "nacked");
	if (bad->is_dead && !feed_is_newer(f->work->wanted, f->confirmed))
		feed_bury(c, f, bad->id, DEAD_REJECTED);
}

void feed_bury(struct shard_ctx *c, struct feed *f, struct entry_id id, enum dead_reason why)
{
	assert(why < DEAD_N && f->state != FEED_BURYING);
	feed_drop_read(c, f);
	struct feed_work *w = feed_at_work(f);
	w->bad.id = id;
	w->bad.dead_reason = (uint8_t)why;
	w->bad.is_calling = w->added.is_kept = false;
	feed_move(c, f, FEED_BURYING, dead_reason_name(why));
}

void feed_wait(struct shard_ctx *c, struct feed *f, struct entry_id bad, mono_ms wait)
{
	assert(wait >= 0 && f->state == FEED_RUNNING);
	if (wait == 0 || f->work->bad.tries > feed_rules(c, f)->max_retries)
		return;
	struct feed_work *w = feed_at_work(f);
	w->bad.id = bad;
	w->bad.until = c->now + wait;
	feed_move(c, f, FEED_BLOCKED, "its last try was just now");
}

void feed_failed(struct shard_ctx *c, struct feed *f, uint32_t tries, mono_ms wait)
{
	struct feed_bad *bad = &feed_at_work(f)->bad;
	bad->must_fail = bad->fail_lost = false;
	bad->tries = tries;
	if (f->state != FEED_FAILING)
		return;
	if (tries > feed_rules(c, f)->max_retries) {
		feed_bury(c, f, bad->id, DEAD_MAX_RETRIES);
		return;
	}
	bad->until = c->now + wait;
	bad->is_nacked = false;
	feed_move(c, f, FEED_BLOCKED, "it is tried again later");
	struct msg_feed *told = feed_tell(c, f, FEED_HAS_NACKED);
	told->id = bad->id;
	told->wait_ms = wait;
	told->tries = tries;
}

static void feed_check_sent(const struct feed *f)
{
	uint32_t n_frames = 0;
	const struct feed_window *w = &f->work->window;
	assert(w->from + w->n <= w->cap);
	for (uint32_t i = 0; i < w->n; i++) {
		const struct feed_sent *s = &w->v[w->from + i];
		assert(i == 0 || feed_is_newer(s->id, s[-1].id)); /* told in order, each once */
		n_frames += s->ends;
	}
	assert(n_frames == w->n_frames);
}

void feed_check(const struct feeds *fs)
{
	uint32_t n = 0, n_in_flight = 0, n_reading = 0;
	for (uint32_t i = 0; i < shard_pool_end(&fs->pool); i++) {
		const struct feed *f = shard_pool_at(&fs->pool, i);
		if (!f || !f->handle)
			continue;
		assert(f->state < FEED_STATES && f->stream && f->index == i);
		assert(!f->script.in_flight || list_empty(&f->ready)); /* sent or queued, not both */
		assert(!f->reading.in_flight || (list_empty(&f->reads) && !f->work->unread.buf));
		assert(!f->work->unread.buf || f->work->unread.n_told < f->work->unread.buf->n);
		assert(!f->work->bad.fields || f->state == FEED_BURYING || f->state == FEED_CLOSING);
		assert(f->state == FEED_OPENING || f->state == FEED_CLOSING || f->run.was_open);
		assert(f->state != FEED_BLOCKED || f->timer.pos || !list_empty(&f->ready) || f->script.in_flight);
		feed_check_sent(f);
		assert(feed_is_sorted(f));
		n++;
		n_in_flight += f->script.in_flight;
		n_reading += f->reading.in_flight;
	}
	assert(n == shard_pool_count(&fs->pool));
	assert(n_in_flight <= fs->n_in_flight && n_reading <= fs->n_reading);
}
