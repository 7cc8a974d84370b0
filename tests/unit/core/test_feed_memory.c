/* core/shard/feed: what an idle stream keeps in memory; tens of thousands of them are usual. */
#include "core/shard/feed_p.h"
#include "unit/core/shard_story.h"

static struct shard_rules rules = {
	.consumer = "redis-consumer-me", .lock_value = "redis-consumer-me/20", .command_timeout_ms = 3000};
static struct shard_ctx C;
static struct effects out;
static struct feeds *fs;
static struct feed *f;

/* Open, started, nothing was read yet. */
static void begin(void)
{
	struct service_rules *r = story_rules();
	r->entries = (struct entries_rules){.is_on = true,
		.batch = 10,
		.window = 2,
		.max_retries = 3,
		.batch_bytes = 1000,
		.entry_bytes = 1000,
		.poll_max_ms = 5000,
		.start = "0"};
	effects_init(&out);
	ctx_init(&C, &rules, 0);
	ctx_begin(&C, 1000, 1700000001000, &out);
	ctx_service_put(&C, r)->is_read = true;
	fs = feeds_new(1);
	feed_conn(fs, &C, true, false);
	struct msg m = msg_feed_open(
		(struct msg_feed_open){.token = {7, 0}, .stream = text_new("k", 1), .slot = 9, .asking = true});
	m.handle = m.svc = 1;
	feed_msg(fs, &C, &m);
	f = shard_pool_at(&fs->pool, 0);
}

static void end(void)
{
	feeds_free(fs);
	ctx_fini(&C);
	effects_fini(&out);
}

static void answer(uint32_t bit, struct reply r)
{
	C.is_up = true;
	feed_flush(fs, &C);
	feed_reply(fs, &C, tag_of(PART_FEED, fs->pool.gens[f->index], f->index | bit), &r);
	feed_check(fs);
}

static void is_opened_at(uint64_t ms, int64_t tries)
{
	answer(0, (struct reply){.kind = REPLY_POSITION, .id = {ms, 0}, .integer = tries, .n_added = -1});
	struct msg m = {.kind = MSG_FEED_START, .handle = 1, .feed_start.epoch = 1};
	feed_msg(fs, &C, &m);
}

static void finds(uint64_t ms)
{
	struct feed_batch *b = ms ? mem_alloc(sizeof *b + sizeof b->v[0]) : NULL;
	if (b) {
		b->n = 1;
		b->v[0].id = (struct entry_id){ms, 0};
		b->v[0].json = "[1";
		b->v[0].len = 2;
	}
	C.now += 500;
	feed_tick(fs, &C);
	answer(FEED_READ_BIT, (struct reply){.kind = REPLY_FEED, .feed = b});
}

static void is_acknowledged(uint64_t ms)
{
	struct msg m = msg_feed_ack((struct msg_feed_ack){.id = {ms, 0}});
	m.handle = 1;
	feed_msg(fs, &C, &m);
	answer(0, (struct reply){.kind = REPLY_INT, .integer = 1});
}

Test(feed_memory, an_idle_stream_takes_little, .init = begin, .fini = end)
{
	cr_assert_leq(sizeof(struct feed), 232);
	is_opened_at(10, 0);
	finds(0);
	cr_assert(f->work == &feed_no_work); /* nothing ever came */
	finds(11);
	cr_assert_eq(f->work->window.n, 1);
	is_acknowledged(11);
	finds(0);
	cr_assert(f->work == &feed_no_work); /* all that came is done */
}

Test(feed_memory, what_waits_is_kept, .init = begin, .fini = end)
{
	is_opened_at(10, 0);
	finds(11);
	finds(0);
	cr_assert_eq(f->work->window.n, 1); /* told, not acknowledged */
	is_acknowledged(11);
	cr_assert_eq(f->confirmed.ms, 11);
}

Test(feed_memory, tries_are_kept, .init = begin, .fini = end)
{
	is_opened_at(10, 2);
	finds(11);
	finds(0);
	cr_assert_eq(f->work->bad.tries, 2);
	is_acknowledged(11);
	cr_assert_eq(f->work->bad.tries, 0);
	finds(0);
	cr_assert(f->work == &feed_no_work);
}
