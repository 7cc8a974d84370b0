#include "core/shard/feed.h"

#include <assert.h>
#include <string.h>

#include "core/shard/feed_p.h"
#include "core/sm.h"

/* ---- by handle, by stream ---- */

static struct feed *feed_find(const struct feeds *fs, uint64_t handle)
{
	uint32_t i = (uint32_t)handle;
	struct feed *f =
		i < fs->n_by_handle && fs->by_handle[i] ? shard_pool_at(&fs->pool, fs->by_handle[i] - 1) : NULL;
	return f && f->handle == handle ? f : NULL;
}

static void feed_name(struct feeds *fs, const struct feed *f)
{
	uint32_t i = (uint32_t)f->handle;
	if (i >= fs->n_by_handle) {
		uint32_t n = i + 1 > 2 * fs->n_by_handle ? i + 1 : 2 * fs->n_by_handle;
		fs->by_handle = mem_grow(fs->by_handle, n, sizeof *fs->by_handle);
		memset(fs->by_handle + fs->n_by_handle, 0, (n - fs->n_by_handle) * sizeof *fs->by_handle);
		fs->n_by_handle = n;
	}
	fs->by_handle[i] = f->index + 1;
}

static bool is_feed_of(const void *value, const void *key, size_t len)
{
	const struct feed *f = value;
	return f->stream->len == len && memcmp(f->stream->bytes, key, len) == 0;
}

struct feed *feed_next_feed(const struct feeds *fs, uint32_t *pos)
{
	for (uint32_t end = shard_pool_end(&fs->pool); *pos < end;) {
		struct feed *f = shard_pool_at(&fs->pool, (*pos)++);
		if (f && f->handle)
			return f;
	}
	return NULL;
}

struct feeds *feeds_new(uint64_t seed)
{
	struct feeds *fs = mem_alloc(sizeof *fs);
	map_init(&fs->by_stream, is_feed_of, seed);
	shard_pool_init(&fs->pool, sizeof(struct feed));
	heap_init(&fs->timers);
	list_init(&fs->scripts);
	list_init(&fs->reads);
	feed_parts_init(fs);
	return fs;
}

const struct feed_work feed_no_work;

struct feed_work *feed_at_work(struct feed *f)
{
	if (f->work == &feed_no_work)
		f->work = mem_alloc(sizeof *f->work);
	return (struct feed_work *)f->work;
}

static void feed_free_work(struct feed *f)
{
	if (f->work == &feed_no_work)
		return;
	struct feed_work *w = feed_at_work(f);
	text_unref(w->bad.reason);
	mem_free(w->unread.buf);
	mem_free(w->window.v);
	mem_free(w->bad.fields);
	mem_free(w);
	f->work = &feed_no_work;
}

static bool feed_has_bad(const struct feed_bad *bad)
{
	return bad->id.ms || bad->id.seq || bad->tries || bad->must_fail || bad->is_nacked || bad->fields;
}

void feed_rest(struct feed *f)
{
	const struct feed_work *w = f->work;
	bool is_read = !w->unread.buf && !w->unread.n_void && !feed_is_newer(w->unread.cursor, f->confirmed);
	bool is_acked = !w->window.n && !w->window.singles && !feed_is_newer(w->wanted, f->confirmed) &&
			!feed_is_newer(w->window.top, f->confirmed) && !feed_is_newer(w->added.gap, f->confirmed);
	if (f->state == FEED_RUNNING && !f->script.in_flight && is_read && is_acked && !feed_has_bad(&w->bad))
		feed_free_work(f);
}

void feeds_free(struct feeds *fs)
{
	if (!fs)
		return;
	uint32_t pos = 0;
	for (struct feed *f; (f = feed_next_feed(fs, &pos));) {
		feed_free_work(f);
		text_unref(f->stream);
	}
	map_fini(&fs->by_stream);
	heap_fini(&fs->timers);
	mem_free(fs->by_handle);
	shard_pool_fini(&fs->pool);
	mem_free(fs);
}

const struct entries_rules *feed_rules(const struct shard_ctx *c, const struct feed *f)
{
	return &ctx_service(c, f->svc)->rules->entries; /* services are never forgotten */
}

uint32_t feed_tries_of_dead(const struct feed *f)
{
	return f->work->bad.tries + (f->work->bad.dead_reason == DEAD_REJECTED);
}

/* ---- states ---- */

static const uint16_t allowed_feed[FEED_STATES] = {
	[FEED_OPENING] = 1 << FEED_RUNNING | 1 << FEED_CLOSING,
	[FEED_RUNNING] = 1 << FEED_FAILING | 1 << FEED_BLOCKED | 1 << FEED_BURYING | 1 << FEED_CLOSING,
	[FEED_FAILING] = 1 << FEED_BLOCKED | 1 << FEED_BURYING | 1 << FEED_CLOSING | 1 << FEED_RUNNING,
	[FEED_BLOCKED] = 1 << FEED_RUNNING | 1 << FEED_CLOSING,
	[FEED_BURYING] = 1 << FEED_RUNNING | 1 << FEED_CLOSING,
	[FEED_CLOSING] = 0,
};

static const char *const feed_states[FEED_STATES] = {"opening", "running", "failing", "blocked", "burying", "closing"};
static const struct sm feed_machine = {.what = "feed", .names = feed_states, .allowed = allowed_feed, .n = FEED_STATES};

void feed_move(struct shard_ctx *c, struct feed *f, enum feed_state to, const char *why)
{
	sm_move(&feed_machine, &f->state, to, c->out, slice_of(f->stream), why);
	f->script.at = c->now;
	f->script.backoff = 0;
}

struct msg_feed *feed_tell(struct shard_ctx *c, const struct feed *f, enum feed_result result)
{
	assert(f->handle && result <= FEED_IS_MOVED);
	struct msg *m = ctx_msg(c, msg_feed((struct msg_feed){.result = (uint8_t)result, .slot = f->slot}));
	m->handle = f->handle;
	m->svc = f->svc;
	return &m->feed;
}

void feed_forget(struct feeds *fs, struct shard_ctx *c, struct feed *f)
{
	assert(f->handle);
	heap_remove(&fs->timers, &f->timer);
	list_remove(&f->ready);
	list_remove(&f->reads);
	list_remove(&f->parts);
	if (map_get(&fs->by_stream, f->stream->bytes, f->stream->len) == f)
		map_remove(&fs->by_stream, f->stream->bytes, f->stream->len);
	if (feed_find(fs, f->handle) == f)
		fs->by_handle[(uint32_t)f->handle] = 0;
	feed_free_work(f);
	ctx_retire(c, f->stream);
	f->handle = 0;
	shard_pool_put(&fs->pool, f->index);
}

struct msg_feed *feed_lose(struct feeds *fs, struct shard_ctx *c, struct feed *f, enum feed_result result)
{
	struct msg_feed *told = feed_tell(c, f, result);
	feed_forget(fs, c, f);
	return told;
}

/* ---- what is due ---- */

/* The script it has to send; CMD_N = none. */
static enum cmd_kind feed_command(const struct feed *f)
{
	bool is_ack_due = feed_is_newer(f->work->wanted, f->confirmed);
	if (f->state == FEED_CLOSING) /* what may have been counted is not counted again */
		return is_ack_due                                          ? CMD_FEED_ACK
		       : f->work->bad.must_fail && !f->work->bad.fail_lost ? CMD_FEED_FAIL
									   : CMD_FEED_CLOSE;
	if (!f->run.is_open)
		return CMD_FEED_OPEN;
	if (is_ack_due)
		return CMD_FEED_ACK;
	if (f->work->bad.must_fail)
		return CMD_FEED_FAIL;
	return f->state == FEED_BURYING && !f->work->bad.is_calling && !f->work->bad.fields ? CMD_FEED_PICK : CMD_N;
}

static bool feed_wants_read(const struct shard_ctx *c, const struct feed *f)
{
	return f->state == FEED_RUNNING && f->run.is_open && !f->run.is_held && !f->work->unread.buf &&
	       !f->reading.in_flight && feed_has_room(c, f);
}

/* The dead letters live in another slot: whoever serves it writes them. */
static void feed_call_dead_add(struct feeds *fs, struct shard_ctx *c, struct feed *f)
{
	struct msg_lock_call call = {.kind = CMD_FEED_DEAD_ADD,
		.reason = f->work->bad.dead_reason,
		.slot = feed_rules(c, f)->dlq_slot,
		.retry = feed_tries_of_dead(f),
		.tag = tag_of(PART_FEED, fs->pool.gens[f->index], f->index),
		.id = f->work->bad.id,
		.stream = text_ref(f->stream),
		.error = text_ref(f->work->bad.reason),
		.fields = f->work->bad.fields};
	struct feed_bad *bad = &feed_at_work(f)->bad;
	bad->fields = NULL;
	ctx_msg(c, msg_lock_call(call))->svc = f->svc;
	bad->is_calling = true;
	bad->until = c->now + 2 * c->rules->command_timeout_ms;
}

/* In the list when it is due now; returns when else it would be. */
static mono_ms feed_queue_or_wait(struct link *list, struct link *l, bool is_wanted, mono_ms at, mono_ms now)
{
	if (is_wanted && at <= now) {
		if (list_empty(l))
			list_push(list, l);
		return MONO_NEVER;
	}
	list_remove(l);
	return is_wanted ? at : MONO_NEVER;
}

static bool feed_is_settling(const struct feed *f)
{
	return f->state == FEED_FAILING || f->state == FEED_BURYING;
}

void feed_plan(struct feeds *fs, struct shard_ctx *c, struct feed *f)
{
	assert(f->handle);
	const mono_ms close_by = f->work->bad.close_by;
	if (close_by && (!feed_is_settling(f) || close_by <= c->now)) {
		feed_at_work(f)->bad.close_by = 0;
		feed_move(c, f, FEED_CLOSING, "asked to");
	}
	if (f->state == FEED_BURYING && f->work->bad.fields && !f->work->bad.is_calling && f->script.at <= c->now)
		feed_call_dead_add(fs, c, f);
	bool wants_script = !f->script.in_flight && feed_command(f) != CMD_N;
	mono_ms at = feed_queue_or_wait(&fs->scripts, &f->ready, wants_script, f->script.at, c->now);
	at = mono_min(at, feed_queue_or_wait(&fs->reads, &f->reads, feed_wants_read(c, f), f->reading.at, c->now));
	if (f->state == FEED_BLOCKED || (f->state == FEED_BURYING && f->work->bad.is_calling))
		at = mono_min(at, f->work->bad.until);
	else if (f->state == FEED_BURYING && f->work->bad.fields)
		at = mono_min(at, f->script.at);
	if (f->work->bad.close_by)
		at = mono_min(at, f->work->bad.close_by);
	heap_set(&fs->timers, &f->timer, at);
	feed_sort(fs, f);
}

static void feed_unblock(struct shard_ctx *c, struct feed *f, const char *why)
{
	feed_move(c, f, FEED_RUNNING, why);
	f->reading.at = c->now;
}

void feed_tick(struct feeds *fs, struct shard_ctx *c)
{
	struct heap_node *top;
	while ((top = heap_due(&fs->timers, c->now))) {
		struct feed *f = HEAP_OF(struct feed, timer, top);
		if (f->state == FEED_BLOCKED && f->work->bad.until <= c->now)
			feed_unblock(c, f, "its time has come");
		else if (f->state == FEED_BURYING && f->work->bad.is_calling && f->work->bad.until <= c->now)
			feed_at_work(f)->bad.is_calling = false;
		feed_plan(fs, c, f);
	}
}

/* ---- sending ---- */

/* Of a try that the command counts. asked_ms: its worker's wish, -1 = by the rules. */
static struct cmd_pause feed_pause(struct shard_ctx *c, const struct feed *f, mono_ms asked_ms)
{
	const struct entries_rules *r = feed_rules(c, f);
	if (asked_ms >= 0)
		return (struct cmd_pause){.first_ms = asked_ms, .factor = 1, .max_ms = asked_ms, .permille = 1000};
	return (struct cmd_pause){.first_ms = r->retry_initial_ms,
		.factor = r->retry_factor,
		.max_ms = r->retry_max_ms,
		.permille = (uint32_t)rng_jitter(&c->rng, 1000, r->retry_jitter_pct)};
}

static void feed_fill_command(struct shard_ctx *c, struct feed *f, struct effect *ef)
{
	const struct entries_rules *r = feed_rules(c, f);
	struct cmd *cmd = &ef->cmd;
	if (cmd->kind != CMD_FEED_PICK)
		cmd->as.feed.token = f->token;
	switch ((int)cmd->kind) {
	case CMD_FEED_OPEN:
		cmd->as.feed.pause = feed_pause(c, f, -1);
		cmd->as.feed.open.start = slice_str(r->start);
		cmd->as.feed.open.was_alone = f->run.was_alone && !f->run.was_open;
		cmd->as.feed.open.is_suspect = f->run.is_alone;
		break;
	case CMD_FEED_ACK:
		cmd->id = feed_at_work(f)->added.acking = f->work->wanted;
		cmd->as.feed.ack.now_ms = c->wall_ms;
		cmd->as.feed.ack.trim = r->trim;
		cmd->as.feed.ack.check = feed_is_newer(f->work->wanted, feed_later(f->work->seen, f->confirmed));
		cmd->as.feed.ack.n_added = feed_at_work(f)->added.at_acking = feed_added_at(f, f->work->wanted);
		break;
	case CMD_FEED_FAIL:
		cmd->as.feed.pause = feed_pause(c, f, f->work->bad.nack_ms);
		cmd->as.feed.fail.n_tries = f->work->bad.tries + 1;
		break;
	case CMD_FEED_PICK:
		cmd->id = f->work->bad.id;
		break;
	case CMD_FEED_CLOSE:
		cmd->as.feed.pause = feed_pause(c, f, -1);
		cmd->as.feed.close.end = (enum feed_end)f->run.end;
		cmd->as.feed.close.ttl_ms = r->position_ttl_ms;
		cmd->as.feed.close.drops_unused = r->start[0] == '0'; /* it would begin there anew */
		break;
	}
}

static void feed_send_script(struct feeds *fs, struct shard_ctx *c, struct feed *f)
{
	f->script.command = (uint8_t)feed_command(f);
	assert(f->script.command != CMD_N && !f->script.in_flight);
	uint64_t tag = tag_of(PART_FEED, fs->pool.gens[f->index], f->index);
	struct effect *ef = ctx_redis(c, tag, (enum cmd_kind)f->script.command, f->svc);
	ef->cmd.stream = slice_of(f->stream);
	ef->cmd.asking = f->asking;
	ef->cmd.use_eval = f->script.use_eval;
	feed_fill_command(c, f, ef);
	f->script.in_flight = true;
	f->script.use_eval = false;
	f->script.at = c->now;
	fs->n_in_flight++;
	feed_plan(fs, c, f);
}

static void feed_send_read(struct feeds *fs, struct shard_ctx *c, struct feed *f)
{
	assert(!f->reading.in_flight && !f->work->unread.buf);
	bool at_end = f->reading.was_empty || f->reading.at_end;
	bool arm = fs->tracking == TRACKING_ON && !f->asking && at_end &&
		   (!f->reading.is_armed || f->reading.wait_ms >= FEED_REARM_MS);
	if (arm)
		ctx_redis(c, tag_of(PART_FEED, 0, FEED_CACHING_INDEX), CMD_CACHING, f->svc);
	uint64_t tag = tag_of(PART_FEED, fs->pool.gens[f->index], f->index | FEED_READ_BIT);
	struct effect *ef = ctx_redis(c, tag, CMD_FEED_READ, f->svc);
	uint32_t batch = feed_rules(c, f)->batch;
	f->reading.count = f->reading.count ? f->reading.count : feed_first_count(c, f);
	f->reading.was_left = feed_was_left(c, f);
	f->reading.asked = f->reading.count < batch ? f->reading.count : batch;
	ef->cmd.stream = slice_of(f->stream);
	ef->cmd.asking = f->asking;
	ef->cmd.id = feed_cursor(f);
	ef->cmd.as.read.count = f->reading.asked;
	f->reading.is_armed = f->reading.is_armed || arm;
	f->reading.by_push = f->reading.is_woken;
	f->reading.is_woken = false;
	f->reading.in_flight = true;
	f->reading.is_stale = false;
	f->reading.sent = c->now;
	fs->n_reading++;
	feed_plan(fs, c, f);
}

static void feed_ask_tracking(struct feeds *fs, struct shard_ctx *c)
{
	if (fs->tracking != TRACKING_UNASKED || !c->is_up || shard_pool_count(&fs->pool) == 0)
		return;
	if (fs->has_pushes) {
		ctx_redis(c, tag_of(PART_FEED, 0, FEED_TRACKING_INDEX), CMD_TRACKING, SERVICE_NONE);
		fs->tracking = TRACKING_ASKED;
	} else {
		fs->tracking = TRACKING_REFUSED;
		if (!fs->is_refusal_said)
			effects_log(c->out, LOG_WARN,
				"shard=%u no RESP3, so empty data streams are polled at least every %d ms", c->index,
				FEED_POLL_BLIND_MS);
		fs->is_refusal_said = true;
	}
}

mono_ms feed_flush(struct feeds *fs, struct shard_ctx *c)
{
	feed_ask_tracking(fs, c);
	uint32_t n = 0;
	struct link *l;
	while (c->is_up && n < FEED_PER_STEP && fs->n_in_flight < FEED_IN_FLIGHT && (l = list_pop(&fs->scripts))) {
		feed_send_script(fs, c, LIST_OF(struct feed, ready, l));
		n++;
	}
	bool is_full = n == FEED_PER_STEP;
	n = 0;
	for (; c->is_up && n < FEED_PER_STEP && feed_may_read(fs, c); n++)
		feed_send_read(fs, c, LIST_OF(struct feed, reads, list_pop(&fs->reads)));
	return is_full && fs->n_in_flight < FEED_IN_FLIGHT ? c->now : heap_deadline(&fs->timers);
}

/* ---- connections, slots, pushes ---- */

/* Another connection may be to another server: each open again says where it stands, and each stream is read once. */
static void feed_reconnected(struct feeds *fs, struct shard_ctx *c, struct feed *f)
{
	f->run.is_open = f->reading.is_armed = false;
	f->script.at = f->reading.at = c->now;
	f->reading.wait_ms = 0;
	feed_plan(fs, c, f);
}

void feed_conn(struct feeds *fs, struct shard_ctx *c, bool is_up, bool has_pushes)
{
	fs->tracking = TRACKING_UNASKED;
	fs->has_pushes = is_up && has_pushes;
	uint32_t pos = 0;
	for (struct feed *f; is_up && (f = feed_next_feed(fs, &pos));)
		feed_reconnected(fs, c, f);
}

void feed_slots(struct feeds *fs, struct shard_ctx *c)
{
	uint32_t pos = 0;
	for (struct feed *f; (f = feed_next_feed(fs, &pos));) {
		if (ctx_serves(c, f->slot))
			f->asking = false;
		else if (!f->asking)
			feed_lose(fs, c, f, FEED_IS_MOVED);
	}
}

static void feed_wake(struct feeds *fs, struct shard_ctx *c, struct feed *f)
{
	f->reading.is_armed = false;
	f->reading.is_woken = true;
	f->reading.at = c->now;
	f->reading.wait_ms = 0;
	feed_plan(fs, c, f);
}

void feed_invalidated(struct feeds *fs, struct shard_ctx *c, struct slice name)
{
	if (name.p) {
		struct feed *f = map_get(&fs->by_stream, name.p, name.len);
		if (f)
			feed_wake(fs, c, f);
		return;
	}
	uint32_t pos = 0;
	for (struct feed *f; (f = feed_next_feed(fs, &pos));)
		feed_wake(fs, c, f);
}

/* ---- messages ---- */

static void feed_begin(struct feeds *fs, struct shard_ctx *c, struct msg *m)
{
	assert(m->handle && m->feed_open.stream);
	struct feed *old = feed_find(fs, m->handle);
	if (old)
		feed_forget(fs, c, old);
	uint32_t index;
	struct feed *f = shard_pool_get(&fs->pool, &index);
	f->index = index;
	f->handle = m->handle;
	f->svc = m->svc;
	f->slot = m->feed_open.slot;
	f->token = m->feed_open.token;
	f->asking = m->feed_open.asking;
	f->run.is_adopted = m->feed_open.is_adopted;
	f->run.is_tested = m->feed_open.is_suspect;
	f->run.was_alone = m->feed_open.was_alone;
	f->run.is_held = true;
	f->stream = m->feed_open.stream;
	m->feed_open.stream = NULL;
	f->script.at = f->reading.at = c->now;
	f->n_added = -1;
	f->work = &feed_no_work;
	list_init(&f->ready);
	list_init(&f->reads);
	list_init(&f->parts);
	feed_name(fs, f);
	map_put(&fs->by_stream, f->stream->bytes, f->stream->len, f);
	if (!ctx_service(c, f->svc) || (!f->asking && !ctx_serves(c, f->slot)))
		feed_lose(fs, c, f, FEED_IS_MOVED);
	else
		feed_plan(fs, c, f);
}

/* The position has to say it before an entry is told, and no longer than it is so. */
static void feed_set_alone(struct shard_ctx *c, struct feed *f, bool is_alone)
{
	if (f->run.is_alone == is_alone)
		return;
	f->run.is_alone = is_alone;
	f->run.is_open = false;
	f->script.at = c->now;
}

static void feed_start(struct shard_ctx *c, struct feed *f, const struct msg_feed_start *m)
{
	f->epoch = m->epoch;
	f->run.is_held = f->idle.has_ended = false;
	feed_set_alone(c, f, m->is_suspect);
	if (f->state == FEED_BLOCKED && !feed_is_newer(f->work->bad.id, m->told))
		feed_move(c, f, FEED_RUNNING, "another shard has told it");
	if (!feed_is_newer(m->told, f->confirmed)) {
		feed_restart(c, f);
		return;
	}
	feed_restart(c, f); /* told before, by another shard: as one frame */
	struct feed_work *w = feed_at_work(f);
	w->window.v = mem_grow(w->window.v, 1, sizeof *w->window.v);
	w->window.v[0] = (struct feed_sent){.id = m->told, .at = c->now, .ends = true, .is_all = true};
	w->window.cap = w->window.n = w->window.n_frames = 1;
	w->added.gap = feed_later(w->added.gap, m->told);
	w->unread.cursor = w->window.top = feed_later(m->told, w->unread.cursor);
	f->idle.has_told = true;
}

static void feed_hold(struct feed *f)
{
	f->run.is_held = true;
	f->idle.is_yielding = false;
}

static void feed_end_by(struct feeds *fs, struct shard_ctx *c, struct feed *f, enum feed_end end)
{
	if (end == FEED_END_FORGET) {
		feed_forget(fs, c, f);
		return;
	}
	if (f->state == FEED_CLOSING || f->work->bad.close_by)
		return;
	feed_drop_read(c, f);
	f->run.end = (uint8_t)end;
	f->run.is_held = true;
	if (feed_is_settling(f) && !f->work->bad.fail_lost) { /* that counts the try, or ends the entry */
		f->run.end = (uint8_t)(end == FEED_END_DEATH ? FEED_END_KEEP : end);
		feed_at_work(f)->bad.close_by = c->now + FEED_SETTLE_MS;
	} else {
		feed_move(c, f, FEED_CLOSING, "asked to");
	}
	feed_plan(fs, c, f);
}

void feed_msg(struct feeds *fs, struct shard_ctx *c, struct msg *m)
{
	if (m->kind == MSG_FEED_OPEN) {
		feed_begin(fs, c, m);
		return;
	}
	struct feed *f = feed_find(fs, m->handle);
	if (!f) {
		if (m->kind == MSG_FEED_CLOSE && m->feed_close.end != FEED_END_FORGET) {
			ctx_msg(c, msg_feed((struct msg_feed){.result = FEED_IS_CLOSED}))->handle = m->handle;
		}
		return;
	}
	if (m->kind == MSG_FEED_CLOSE) {
		feed_end_by(fs, c, f, (enum feed_end)m->feed_close.end);
		return;
	}
	if (m->kind == MSG_FEED_START)
		feed_start(c, f, &m->feed_start);
	else if (m->kind == MSG_FEED_HOLD)
		feed_hold(f);
	else if (m->kind == MSG_FEED_SHARE)
		feed_set_alone(c, f, false);
	else if (m->kind == MSG_FEED_TRY && f->state == FEED_BLOCKED)
		feed_unblock(c, f, "asked to");
	else if (m->kind == MSG_FEED_ACK)
		feed_take_ack(c, f, m->feed_ack.id);
	else if (m->kind == MSG_FEED_NACK)
		feed_take_nack(c, f, &m->feed_nack);
	feed_plan(fs, c, f);
}

void feed_forget_all(struct feeds *fs, struct shard_ctx *c)
{
	uint32_t pos = 0;
	for (struct feed *f; (f = feed_next_feed(fs, &pos));)
		feed_forget(fs, c, f);
}

struct feed *feed_of_tag(const struct feeds *fs, uint64_t tag)
{
	return shard_pool_find(&fs->pool, tag_gen(tag), tag_index(tag) & ~FEED_READ_BIT);
}
