/* core/shard/feed: what is read, told, acknowledged and retried, and what the fence refuses. */
#include "shard_story.h"

#define H 0x100000007ull

static struct service_rules *feed_rules_for(uint32_t batch, uint32_t window)
{
	struct service_rules *r = story_rules();
	r->entries = (struct entries_rules){.is_on = true,
		.batch = batch,
		.window = window,
		.max_retries = 3,
		.batch_bytes = 100000,
		.entry_bytes = 1000,
		.poll_max_ms = 5000,
		.position_ttl_ms = 60000,
		.retry_initial_ms = 1000,
		.retry_factor = 8,
		.retry_max_ms = 300000,
		.start = "0"};
	return r;
}

static void open_feed(uint64_t handle)
{
	story_msg_in((struct msg){.kind = MSG_FEED_OPEN,
		.svc = 1,
		.feed_open.slot = 9,
		.handle = handle,
		.feed_open.token = ID7,
		.feed_open.stream = text_new("k", 1)});
}

static void answer_position(uint64_t ms, int64_t tries, size_t flags)
{
	story_reply(CMD_FEED_OPEN,
		(struct reply){.kind = REPLY_POSITION, .id = {ms, 0}, .integer = tries, .n = flags, .n_added = -1});
}

/* 11-0 waits for its next try, or will not be tried again. */
static void answer_waits(int64_t tries, int64_t wait_ms)
{
	story_reply(CMD_FEED_OPEN, (struct reply){.kind = REPLY_POSITION,
					   .id = {10, 0},
					   .integer = tries,
					   .wait_ms = wait_ms,
					   .bad = {11, 0},
					   .n_added = -1});
}

static void answer_fail(int64_t tries, int64_t wait_ms)
{
	story_reply(CMD_FEED_FAIL, (struct reply){.kind = REPLY_POSITION, .integer = tries, .wait_ms = wait_ms});
}

static void start(uint32_t epoch)
{
	story_msg_in((struct msg){.kind = MSG_FEED_START, .handle = H, .feed_start.epoch = epoch});
}

/* Entries first-0, first+1-0, … as a read finds them. */
static void answer_read(uint64_t first, uint32_t n, size_t len)
{
	struct feed_batch *b = mem_alloc(sizeof *b + n * (sizeof b->v[0] + len + 24));
	char *at = (char *)&b->v[n];
	b->n = n;
	for (uint32_t i = 0; i < n; i++) {
		int head = sprintf(at, "[%llu", (unsigned long long)(first + i));
		memset(at + head, ' ', len);
		b->v[i].id = (struct entry_id){first + i, 0};
		b->v[i].json = at;
		b->v[i].len = (size_t)head + len;
		at += b->v[i].len;
	}
	story_reply(CMD_FEED_READ, (struct reply){.kind = REPLY_FEED, .feed = b});
}

static void word(enum msg_kind kind, uint64_t ms)
{
	struct entry_id id = {ms, 0};
	struct msg m = kind == MSG_FEED_ACK ? msg_feed_ack((struct msg_feed_ack){.id = id})
					    : msg_feed_nack((struct msg_feed_nack){.id = id, .delay_ms = -1});
	m.handle = H;
	story_msg_in(m);
}

static void ready_with(uint32_t batch, uint32_t window)
{
	story_up();
	story_msg_in((struct msg){.kind = MSG_SERVICE, .service.rules = feed_rules_for(batch, window)});
	W.hide[CMD_CONSUMERS] = W.hide[CMD_TRACKING] = true;
	open_feed(H);
	answer_position(10, 0, 0);
	story_clear();
}

static void ready(void)
{
	ready_with(10, 2);
}

static void picked(void)
{
	struct entry_batch *b = mem_alloc(sizeof *b + sizeof b->v[0]);
	b->n = 1;
	b->v[0].fields = mem_alloc(sizeof *b->v[0].fields);
	story_reply(CMD_FEED_PICK, (struct reply){.kind = REPLY_ENTRIES, .entries = b});
}

/* It is read with its fields, and written. */
static void becomes_dead_letter(void)
{
	picked();
	story_msg_in(msg_lock_answer((struct msg_lock_answer){
		.kind = CMD_FEED_DEAD_ADD, .result = OP_DONE, .tag = W.last_call.lock_call.tag}));
}

Test(feed, opens_tells_acknowledges_and_closes, .init = ready, .fini = story_down)
{
	start(1);
	answer_read(11, 3, 0);
	word(MSG_FEED_ACK, 12);
	story_int(CMD_FEED_ACK, 1);
	story_msg_in((struct msg){.kind = MSG_FEED_CLOSE, .handle = H, .feed_close.end = FEED_END_DONE});
	story_int(CMD_FEED_CLOSE, 1);
	expect_story("[ 1000] feed_read k 10-0\n"
		     "[ 1000] > feed entries 13-0 [11],[12],[13]\n"
		     "[ 1000] feed_read k 13-0\n"
		     "[ 1000] feed_ack k 12-0\n"
		     "[ 1000] > feed acked 12-0\n"
		     "[ 1000] feed_close k\n"
		     "[ 1000] > feed closed\n");
}

Test(feed, at_most_window_frames_wait_for_redis, .fini = story_down)
{
	ready_with(2, 2);
	start(1);
	answer_read(11, 2, 0);
	answer_read(13, 2, 0);
	cr_assert(!story_waits(CMD_FEED_READ));
	story_clear();
	word(MSG_FEED_ACK, 12);
	expect_story("[ 1000] feed_ack k 12-0\n"); /* the worker's word alone makes no room */
	story_int(CMD_FEED_ACK, 1);
	expect_story("[ 1000] > feed acked 12-0\n[ 1000] feed_read k 14-0\n");
}

Test(feed, a_failed_entry_comes_again_alone_and_what_was_behind_it_is_void, .init = ready, .fini = story_down)
{
	start(1);
	answer_read(11, 5, 0);
	story_drop_waiting(CMD_FEED_READ);
	story_clear();
	word(MSG_FEED_NACK, 13);
	story_int(CMD_FEED_ACK, 1);
	word(MSG_FEED_ACK, 14); /* of what is void */
	answer_fail(1, 1000);
	story_until(1999);
	expect_story("[ 1000] feed_ack k 12-0\n"
		     "[ 1000] > feed acked 12-0\n"
		     "[ 1000] feed_fail k\n"
		     "[ 1000] > feed bad_ack 14-0\n"
		     "[ 1000] > feed nacked 13-0 tries=1 wait=1000\n");
}

Test(feed, an_operator_ends_the_pause_of_a_failed_entry, .init = ready, .fini = story_down)
{
	start(1);
	story_msg_in((struct msg){.kind = MSG_FEED_TRY, .handle = H}); /* nothing waits: nothing changes */
	answer_read(11, 10, 0);                                        /* another read is on its way */
	word(MSG_FEED_NACK, 11);
	answer_fail(1, 120000);
	answer_read(21, 3, 0);
	story_clear();
	story_until(1500);
	expect_story("");
	story_msg_in((struct msg){.kind = MSG_FEED_TRY, .handle = H});
	expect_story("[ 1500] feed_read k 10-0\n");
	answer_read(11, 1, 0);
	expect_story("[ 1500] > feed entries 11-0 [11,1]\n"); /* its try is kept */
}

Test(feed, a_read_from_before_a_nack_is_not_told, .init = ready, .fini = story_down)
{
	start(1);
	answer_read(11, 10, 0); /* another read is on its way */
	word(MSG_FEED_NACK, 11);
	answer_fail(1, 1000);
	story_clear();
	answer_read(21, 3, 0);
	expect_story("");
	story_until(2000);
	answer_read(11, 10, 0);
	expect_story("[ 2000] feed_read k 10-0\n"
		     "[ 2000] > feed entries 11-0 [11,1] +\n");
	word(MSG_FEED_ACK, 11);
	story_int(CMD_FEED_ACK, 1);
	expect_story("[ 2000] feed_ack k 11-0\n"
		     "[ 2000] > feed acked 11-0\n"
		     "[ 2000] > feed entries 20-0 [12],[13],[14],[15],[16],[17],[18],[19],[20] +\n"
		     "[ 2000] feed_read k 20-0\n");
}

Test(feed, tries_used_up_go_to_the_dead_letters_then_on, .init = ready, .fini = story_down)
{
	start(1);
	answer_read(11, 2, 0);
	story_drop_waiting(CMD_FEED_READ);
	word(MSG_FEED_NACK, 11);
	story_clear();
	answer_fail(4, 512000);
	becomes_dead_letter();
	expect_story("[ 1000] feed_pick k 11-0\n"
		     "[ 1000] > call feed_dead_add 11-0\n"
		     "[ 1000] feed_ack k 11-0\n");
	story_int(CMD_FEED_ACK, 1);
	expect_story("[ 1000] > feed nacked 11-0 tries=4 wait=0 +\n");
}

static void close_feed(enum feed_end end)
{
	story_msg_in((struct msg){.kind = MSG_FEED_CLOSE, .handle = H, .feed_close.end = (uint8_t)end});
}

Test(feed, what_was_refused_before_the_end_is_settled_first, .init = ready, .fini = story_down)
{
	start(1);
	answer_read(11, 2, 0);
	story_drop_waiting(CMD_FEED_READ);
	word(MSG_FEED_NACK, 11);
	story_clear();
	close_feed(FEED_END_DEATH); /* its worker said so and died: one try */
	answer_fail(4, 512000);
	becomes_dead_letter();
	story_int(CMD_FEED_ACK, 1);
	story_reply(CMD_FEED_CLOSE, (struct reply){.kind = REPLY_INT, .integer = 1});
	expect_story("[ 1000] feed_pick k 11-0\n"
		     "[ 1000] > call feed_dead_add 11-0\n"
		     "[ 1000] feed_ack k 11-0\n"
		     "[ 1000] > feed nacked 11-0 tries=4 wait=0 +\n"
		     "[ 1000] feed_close k\n"
		     "[ 1000] > feed closed\n");
}

Test(feed, an_end_waits_for_a_dead_letter_for_a_second, .init = ready, .fini = story_down)
{
	start(1);
	answer_read(11, 2, 0);
	story_drop_waiting(CMD_FEED_READ);
	word(MSG_FEED_NACK, 11);
	answer_fail(4, 512000);
	story_clear();
	close_feed(FEED_END_DONE);
	close_feed(FEED_END_KEEP); /* the first one counts */
	picked();                  /* and nobody says that it is written */
	story_until(3000);
	expect_story("[ 1000] > call feed_dead_add 11-0\n"
		     "[ 2000] feed_close k\n");
}

Test(feed, a_newer_token_ends_it, .init = ready, .fini = story_down)
{
	start(1);
	answer_read(11, 2, 0);
	story_drop_waiting(CMD_FEED_READ);
	story_clear();
	word(MSG_FEED_ACK, 11);
	story_int(CMD_FEED_ACK, -1);
	expect_story("[ 1000] feed_ack k 11-0\n[ 1000] > feed refused\n");
	word(MSG_FEED_ACK, 12);
	expect_story("");
}

Test(feed, an_open_says_whose_the_newer_token_is, .fini = story_down)
{
	story_up();
	story_msg_in((struct msg){.kind = MSG_SERVICE, .service.rules = feed_rules_for(10, 2)});
	open_feed(H);
	story_clear();
	story_reply(CMD_FEED_OPEN, (struct reply){.kind = REPLY_NIL, .id = {9001, 7}});
	expect_story("[ 1000] > feed refused 9001-7\n");
}

/* Nobody is newer, there is no position at all: the reason is another one. */
Test(feed, a_position_that_was_deleted_ends_it, .init = ready, .fini = story_down)
{
	start(1);
	answer_read(11, 2, 0);
	story_drop_waiting(CMD_FEED_READ);
	story_clear();
	word(MSG_FEED_ACK, 11);
	story_int(CMD_FEED_ACK, -3);
	expect_story("[ 1000] feed_ack k 11-0\n[ 1000] > feed gone\n");
}

/* The answer to the count got lost, and its lease ends: one too few is better than an entry given up too early. */
Test(feed, a_count_that_may_have_been_done_is_not_done_again_at_the_end, .init = ready, .fini = story_down)
{
	start(1);
	answer_read(11, 1, 0);
	word(MSG_FEED_NACK, 11);
	story_reply(CMD_FEED_FAIL, (struct reply){.kind = REPLY_NONE});
	story_msg_in((struct msg){.kind = MSG_FEED_CLOSE, .handle = H, .feed_close.end = FEED_END_KEEP});
	story_until(W.now + 100);
	cr_expect(!story_waits(CMD_FEED_FAIL));
	cr_expect(story_waits(CMD_FEED_CLOSE));
}

/* Another master's shard has told 11 to 13, this one knows only the last of them. */
Test(feed, an_entry_that_another_shard_has_told_may_fail, .init = ready, .fini = story_down)
{
	story_msg_in((struct msg){.kind = MSG_FEED_START, .handle = H, .feed_start = {.epoch = 2, .told = {13, 0}}});
	word(MSG_FEED_NACK, 12);
	story_int(CMD_FEED_ACK, 1);
	answer_fail(1, 1000);
	expect_story("[ 1000] feed_read k 13-0\n"
		     "[ 1000] feed_ack k 11-18446744073709551615\n"
		     "[ 1000] > feed acked 11-18446744073709551615\n"
		     "[ 1000] feed_fail k\n"
		     "[ 1000] > feed nacked 12-0 tries=1 wait=1000\n");
}

/* ---- the pause before a try, which whoever had the stream before has left in the position ---- */

static void open_waiting(int64_t tries, int64_t wait_ms, bool is_adopted)
{
	story_up();
	story_msg_in((struct msg){.kind = MSG_SERVICE, .service.rules = feed_rules_for(10, 2)});
	W.hide[CMD_CONSUMERS] = W.hide[CMD_TRACKING] = true;
	story_msg_in((struct msg){.kind = MSG_FEED_OPEN,
		.svc = 1,
		.handle = H,
		.feed_open = {.slot = 9, .token = ID7, .stream = text_new("k", 1), .is_adopted = is_adopted}});
	story_clear();
	answer_waits(tries, wait_ms);
}

Test(feed, an_entry_whose_pause_is_not_over_is_told_when_it_is, .fini = story_down)
{
	open_waiting(2, 700, false);
	start(1);
	story_until(1699);
	expect_story("[ 1000] > feed open 10-0 waits=700 11-0\n");
	story_clear();
	story_until(1700);
	answer_read(11, 5, 0);
	expect_story("[ 1700] feed_read k 10-0\n[ 1700] > feed entries 11-0 [11,2] +\n");
}

Test(feed, a_pause_outlives_a_reconnect, .fini = story_down)
{
	open_waiting(2, 700, false);
	start(1);
	story_clear();
	story_conn(CONN_COMMAND, false);
	story_conn(CONN_COMMAND, true);
	W.hide[CMD_CACHING] = true;
	answer_waits(2, 650);
	story_until(1699);
	cr_expect(!story_waits(CMD_FEED_READ));
	story_until(1700);
	cr_expect(story_waits(CMD_FEED_READ));
}

Test(feed, after_the_last_try_there_is_no_pause, .fini = story_down)
{
	open_waiting(4, 700, false);
	start(1);
	story_clear();
	answer_read(11, 1, 0);
	expect_story("[ 1000] feed_pick k 11-0\n");
}

Test(feed, a_worker_that_was_given_it_before_may_finish_it, .fini = story_down)
{
	open_waiting(1, 700, true);
	start(1);
	story_clear();
	word(MSG_FEED_ACK, 11);
	story_int(CMD_FEED_ACK, 1);
	expect_story("[ 1000] feed_ack k 11-0\n[ 1000] > feed acked 11-0\n[ 1000] feed_read k 11-0\n");
}

Test(feed, what_another_shard_has_told_meanwhile_waits_no_more, .fini = story_down)
{
	open_waiting(1, 700, true);
	story_msg_in((struct msg){.kind = MSG_FEED_START, .handle = H, .feed_start = {.epoch = 2, .told = {11, 0}}});
	story_clear();
	word(MSG_FEED_ACK, 11);
	story_int(CMD_FEED_ACK, 1);
	expect_story("[ 1000] feed_ack k 11-0\n[ 1000] > feed acked 11-0\n[ 1000] feed_read k 11-0\n");
}

static void nack_again(uint64_t ms, bool is_counted)
{
	struct msg m = msg_feed_nack(
		(struct msg_feed_nack){.id = {ms, 0}, .delay_ms = -1, .is_again = true, .is_counted = is_counted});
	m.handle = H;
	story_msg_in(m);
}

Test(feed, a_nack_that_was_counted_elsewhere_is_answered_with_what_is_left_of_the_pause, .fini = story_down)
{
	open_waiting(1, 700, true);
	story_clear();
	nack_again(11, true);
	expect_story("[ 1000] > feed nacked 11-0 tries=1 wait=700\n");
}

Test(feed, a_nack_that_was_not_counted_elsewhere_is_counted_here, .init = ready, .fini = story_down)
{
	nack_again(12, false);
	start(1);
	story_int(CMD_FEED_ACK, 1);
	answer_fail(1, 1000);
	expect_story("[ 1000] feed_ack k 11-18446744073709551615\n"
		     "[ 1000] > feed acked 11-18446744073709551615\n"
		     "[ 1000] feed_fail k\n"
		     "[ 1000] > feed nacked 12-0 tries=1 wait=1000\n");
}

Test(feed, a_nack_that_used_the_tries_up_elsewhere_is_a_dead_letter, .fini = story_down)
{
	open_waiting(4, 700, true);
	story_clear();
	nack_again(11, true);
	expect_story("[ 1000] feed_pick k 11-0\n");
}

Test(feed, an_id_nobody_was_given_is_refused, .init = ready, .fini = story_down)
{
	start(1);
	answer_read(11, 2, 0);
	story_drop_waiting(CMD_FEED_READ);
	story_clear();
	word(MSG_FEED_ACK, 99);
	word(MSG_FEED_NACK, 99);
	word(MSG_FEED_ACK, 5);
	expect_story("[ 1000] > feed bad_ack 99-0\n"
		     "[ 1000] > feed bad_ack 99-0 +\n"
		     "[ 1000] > feed acked 10-0\n");
}

Test(feed, an_empty_stream_is_polled_ever_more_slowly, .init = ready, .fini = story_down)
{
	start(1);
	story_reply(CMD_TRACKING, (struct reply){.kind = REPLY_ERROR, .error = RERR_OPERATOR, .text = {"NOPERM", 6}});
	story_clear();
	mono_ms last = W.now, gaps[9];
	for (int i = 0; i < 9; i++) {
		answer_read(0, 0, 0);
		story_until(W.next);
		gaps[i] = W.now - last;
		last = W.now;
	}
	static const mono_ms want[] = {5, 10, 20, 40, 80, 160, 250, 250, 250};
	for (int i = 0; i < 9; i++)
		cr_expect_eq(gaps[i], want[i], "%d: %lld", i, (long long)gaps[i]);
}

Test(feed, a_push_reads_at_once_and_what_was_empty_is_armed, .init = ready, .fini = story_down)
{
	start(1);
	story_ok(CMD_TRACKING);
	story_clear();
	answer_read(0, 0, 0);
	story_until(1005);
	expect_story("[ 1005] caching\n[ 1005] feed_read k 10-0\n");
	answer_read(0, 0, 0);
	story_event((struct shard_event){.kind = SHARD_CHANGED, .stream = {"k", 1}});
	expect_story("[ 1005] caching\n[ 1005] feed_read k 10-0\n");
	answer_read(11, 1, 0);
	expect_story("[ 1005] > feed entries 11-0 [11]\n[ 1005] feed_read k 11-0\n");
	answer_read(0, 0, 0);
	story_event((struct shard_event){.kind = SHARD_CHANGED}); /* FLUSHALL: every stream */
	expect_story("[ 1005] caching\n[ 1005] feed_read k 11-0\n");
	answer_read(0, 0, 0);
	expect_story("[ 1005] feed_open k expect=0\n"); /* is it still the same? */
	answer_position(0, 0, POSITION_REMADE);
	expect_story("[ 1005] > feed remade\n");
}

Test(feed, after_a_reconnect_the_open_comes_first_and_nothing_is_told_twice, .init = ready, .fini = story_down)
{
	start(1);
	answer_read(11, 3, 0);
	word(MSG_FEED_ACK, 12);
	W.hide_msg[MSG_CONN] = W.hide[CMD_RUN_ID] = W.hide[CMD_ROLE] = true;
	story_cut();
	story_clear();
	W.now = 2000;
	story_conn(CONN_COMMAND, true);
	expect_story("[ 2000] feed_open k expect=0\n");
	answer_position(12, 0, 0); /* the answer was lost, not the acknowledgement */
	expect_story("[ 2000] > feed acked 12-0\n[ 2000] feed_read k 13-0\n");
}

Test(feed, a_position_that_went_back_is_told_from_there, .init = ready, .fini = story_down)
{
	start(1);
	answer_read(11, 3, 0);
	word(MSG_FEED_ACK, 13);
	story_int(CMD_FEED_ACK, 1);
	W.hide_msg[MSG_CONN] = W.hide[CMD_RUN_ID] = W.hide[CMD_ROLE] = true;
	story_cut();
	story_clear();
	W.now = 2000;
	story_conn(CONN_COMMAND, true);
	answer_position(11, 0, 0);
	answer_read(12, 2, 0);
	expect_story("[ 2000] feed_open k expect=0\n"
		     "[ 2000] feed_read k 11-0\n"
		     "[ 2000] > feed entries 13-0 [12],[13] +\n"
		     "[ 2000] feed_read k 13-0\n");
}

Test(feed, after_a_death_entries_come_one_by_one, .fini = story_down)
{
	story_up();
	story_msg_in((struct msg){.kind = MSG_SERVICE, .service.rules = feed_rules_for(10, 2)});
	W.hide[CMD_CONSUMERS] = W.hide[CMD_TRACKING] = true;
	open_feed(H);
	answer_position(10, 1, POSITION_DEATH | POSITION_PROGRESS);
	start(1);
	story_clear();
	answer_read(11, 3, 0);
	expect_story("[ 1000] > feed entries 11-0 [11,1] +\n");
	word(MSG_FEED_ACK, 11);
	story_int(CMD_FEED_ACK, 1);
	expect_story("[ 1000] feed_ack k 11-0\n"
		     "[ 1000] > feed acked 11-0\n"
		     "[ 1000] > feed entries 12-0 [12] +\n");
}

static void open_suspect(size_t flags)
{
	story_up();
	story_msg_in((struct msg){.kind = MSG_SERVICE, .service.rules = feed_rules_for(3, 2)});
	W.hide[CMD_CONSUMERS] = W.hide[CMD_TRACKING] = true;
	story_msg_in((struct msg){.kind = MSG_FEED_OPEN,
		.svc = 1,
		.handle = H,
		.feed_open = {.slot = 9, .token = ID7, .stream = text_new("k", 1), .is_suspect = true}});
	answer_position(10, 0, flags);
	story_clear();
	story_msg_in((struct msg){.kind = MSG_FEED_START, .handle = H, .feed_start = {.epoch = 1, .is_suspect = true}});
}

Test(feed, a_suspect_is_told_when_redis_knows_that_it_is_alone, .fini = story_down)
{
	open_suspect(0);
	expect_story("[ 1000] feed_open k expect=0 alone\n"); /* and no read before the answer */
	answer_position(10, 0, 0);
	answer_read(11, 2, 0);
	expect_story("[ 1000] feed_read k 10-0\n"
		     "[ 1000] > feed entries 11-0 [11] +\n");
}

Test(feed, a_suspect_whose_stream_is_read_to_its_end_is_cleared, .fini = story_down)
{
	open_suspect(0);
	answer_position(10, 0, 0);
	story_clear();
	answer_read(11, 0, 0);
	expect_story("[ 1000] > feed cleared\n");
	story_msg_in((struct msg){.kind = MSG_FEED_SHARE, .handle = H});
	expect_story("[ 1000] feed_open k expect=0\n");
	answer_position(10, 0, 0);
	story_until(1005);
	answer_read(11, 2, 0);
	expect_story("[ 1005] feed_read k 10-0\n"
		     "[ 1005] > feed entries 12-0 [11],[12]\n"
		     "[ 1005] feed_read k 12-0\n"); /* not one by one any more */
}

Test(feed, a_suspect_is_cleared_by_its_first_entry_and_goes_on_one_by_one, .fini = story_down)
{
	open_suspect(0);
	answer_position(10, 0, 0);
	answer_read(11, 5, 0);
	story_clear();
	for (uint64_t i = 11; i <= 13; i++) {
		word(MSG_FEED_ACK, i);
		story_int(CMD_FEED_ACK, 1);
	}
	expect_story("[ 1000] feed_ack k 11-0\n"
		     "[ 1000] > feed acked 11-0\n"
		     "[ 1000] > feed cleared\n"
		     "[ 1000] > feed entries 12-0 [12] +\n"
		     "[ 1000] feed_ack k 12-0\n"
		     "[ 1000] > feed acked 12-0\n"
		     "[ 1000] > feed entries 13-0 [13] +\n"
		     "[ 1000] feed_ack k 13-0\n"
		     "[ 1000] > feed acked 13-0\n"
		     "[ 1000] > feed entries 15-0 [14],[15] +\n"
		     "[ 1000] feed_read k 15-0\n");
}

Test(feed, after_an_end_that_nobody_knows_entries_come_one_by_one_without_a_try, .fini = story_down)
{
	story_up();
	story_msg_in((struct msg){.kind = MSG_SERVICE, .service.rules = feed_rules_for(10, 2)});
	W.hide[CMD_CONSUMERS] = W.hide[CMD_TRACKING] = true;
	open_feed(H);
	answer_position(10, 0, POSITION_DEATH);
	start(1);
	story_clear();
	answer_read(11, 3, 0);
	expect_story("[ 1000] > feed entries 11-0 [11] +\n");
}

Test(feed, what_has_died_too_often_is_not_told_again, .fini = story_down)
{
	story_up();
	story_msg_in((struct msg){.kind = MSG_SERVICE, .service.rules = feed_rules_for(10, 2)});
	W.hide[CMD_CONSUMERS] = W.hide[CMD_TRACKING] = true;
	open_feed(H);
	answer_position(10, 4, POSITION_DEATH);
	start(1);
	story_clear();
	answer_read(11, 3, 0);
	expect_story("[ 1000] feed_pick k 11-0\n");
}

Test(feed, an_entry_too_large_waits_for_its_turn_then_goes_to_the_dead_letters, .init = ready, .fini = story_down)
{
	start(1);
	answer_read(11, 1, 0);
	story_clear();
	answer_read(12, 1, 2000);
	expect_story("");
	word(MSG_FEED_ACK, 11);
	story_int(CMD_FEED_ACK, 1);
	expect_story("[ 1000] feed_ack k 11-0\n"
		     "[ 1000] > feed acked 11-0\n"
		     "[ 1000] feed_pick k 12-0\n");
}

Test(feed, another_type_and_another_master_end_it, .init = ready, .fini = story_down)
{
	start(1);
	story_clear();
	story_error(CMD_FEED_READ, RERR_OPERATOR, "WRONGTYPE Operation against a key");
	expect_story("[ 1000] > feed wrong_type\n");
	open_feed(H);
	story_clear();
	story_error(CMD_FEED_OPEN, RERR_OPERATOR, "WRONGTYPE Operation against a key (position)");
	expect_story("[ 1000] > feed wrong_type position\n");
	open_feed(H);
	story_error(CMD_FEED_OPEN, RERR_ASK, "10.0.0.1:7");
	W.hide_msg[MSG_MOVED] = true;
	cr_assert(strstr(W.text.data, "> feed moved \"10.0.0.1:7\" asking\n"), "%s", W.text.data);
	story_clear();
}

Test(feed, the_same_stream_again_does_not_get_an_old_reads_entries, .init = ready, .fini = story_down)
{
	start(1);
	story_msg_in((struct msg){.kind = MSG_FEED_CLOSE, .handle = H, .feed_close.end = FEED_END_FORGET});
	open_feed(H + 1);
	story_clear();
	answer_read(11, 3, 0);
	expect_story("");
}

Test(feed, idle_is_said_once_after_a_last_look, .fini = story_down)
{
	story_up();
	struct service_rules *r = feed_rules_for(10, 2);
	r->entries.idle_release_ms = 200;
	story_msg_in((struct msg){.kind = MSG_SERVICE, .service.rules = r});
	W.hide[CMD_CONSUMERS] = W.hide[CMD_TRACKING] = W.hide[CMD_FEED_READ] = true;
	open_feed(H);
	answer_position(10, 0, 0);
	start(1);
	story_clear();
	for (int i = 0; i < 20 && story_waits(CMD_FEED_READ); i++) {
		answer_read(0, 0, 0);
		story_until(mono_min(W.next, 3000));
	}
	expect_story("[ 1200] > feed idle\n");
}

/* ---- idle ones give up their credit ---- */

static void yields_up(mono_ms idle_release_ms)
{
	story_up();
	struct service_rules *r = feed_rules_for(10, 2);
	r->entries.idle_release_ms = idle_release_ms;
	r->same_stream = SAME_STREAM_COALESCE;
	story_msg_in((struct msg){.kind = MSG_SERVICE, .service.rules = r});
	W.hide[CMD_CONSUMERS] = W.hide[CMD_TRACKING] = W.hide[CMD_FEED_READ] = true;
	open_feed(H);
	answer_position(10, 0, 0);
	start(1);
	story_clear();
}

/* Polls that find nothing, until then. */
static void nothing_until(mono_ms t)
{
	while (W.next <= t || story_waits(CMD_FEED_READ)) {
		if (story_waits(CMD_FEED_READ))
			answer_read(0, 0, 0);
		story_until(mono_min(W.next, t));
	}
	story_until(t);
}

static void somebody_waits(uint32_t n)
{
	story_msg_in((struct msg){.kind = MSG_WAITING, .svc = 1, .waiting.n = n});
}

static void somebody_will_wait(void)
{
	story_msg_in((struct msg){.kind = MSG_WAITING, .svc = 1, .waiting.n = 1, .waiting.is_ahead = true});
}

static uint64_t n_yields(void)
{
	return shard_service_metrics(W.s, 1)->c[M_FEED_YIELDS];
}

Test(feed, a_run_that_found_nothing_ends_as_soon_as_another_stream_waits, .fini = story_down)
{
	yields_up(60000);
	nothing_until(1006);
	cr_expect_eq(shard_feeds_of(W.s, 1).idle, 1);
	somebody_waits(1);
	somebody_waits(1); /* it is the one already */
	expect_story("");
	cr_assert(story_waits(CMD_FEED_READ));
	answer_read(0, 0, 0);
	expect_story("[ 1006] > feed idle\n");
	cr_expect(n_yields() == 1 && shard_feeds_of(W.s, 1).idle == 0);
}

Test(feed, empty_streams_that_keep_their_credits_while_others_wait_are_said_once_a_minute, .fini = story_down)
{
	static const struct {
		mono_ms at;
		bool is_said;
	} words[] = {{5900, false}, {6100, true}, {66000, false}, {66200, true}};
	yields_up(0);
	W.say = W.hide[CMD_FEED_OPEN] = true;
	for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
		while (W.next <= words[i].at || story_waits(CMD_FEED_READ) || story_waits(CMD_FEED_OPEN)) {
			if (story_waits(CMD_FEED_OPEN))
				answer_position(10, 0, 0);
			if (story_waits(CMD_FEED_READ))
				answer_read(0, 0, 0);
			story_until(mono_min(W.next, words[i].at));
		}
		story_until(words[i].at);
		story_clear();
		somebody_waits(3);
		cr_expect_eq(strstr(W.text.data ? W.text.data : "", "idle=1 empty streams keep") != NULL,
			words[i].is_said, "at %lld: %s", (long long)words[i].at, W.text.data);
	}
	cr_expect_eq(n_yields(), 0);
}

Test(feed, what_the_last_look_finds_is_told_and_the_run_goes_on, .fini = story_down)
{
	yields_up(60000);
	nothing_until(1006);
	somebody_waits(1);
	answer_read(11, 1, 0);
	word(MSG_FEED_ACK, 11);
	story_int(CMD_FEED_ACK, 1);
	nothing_until(1050);
	expect_story("[ 1006] > feed entries 11-0 [11]\n[ 1006] feed_ack k 11-0\n[ 1006] > feed acked 11-0\n");
	cr_expect_eq(n_yields(), 0); /* that word was for one, and it had work */
	somebody_waits(1);
	nothing_until(1051);
	expect_story("[ 1050] > feed idle\n");
	cr_expect_eq(n_yields(), 1);
}

/* Its worker has 11-0. */
static void busy_up(void)
{
	yields_up(60000);
	answer_read(11, 1, 0);
	story_clear();
}

Test(feed, a_run_makes_room_for_who_comes_next_when_it_has_been_empty_for_a_while, .init = busy_up, .fini = story_down)
{
	somebody_will_wait();
	word(MSG_FEED_ACK, 11);
	story_int(CMD_FEED_ACK, 1);
	nothing_until(1020);
	somebody_will_wait();
	nothing_until(1040);
	cr_expect_eq(n_yields(), 0); /* not one at work, nor between two entries, and the word is not kept */
	story_clear();
	somebody_will_wait();
	somebody_will_wait(); /* it is the one already */
	nothing_until(1041);
	expect_story("[ 1040] > feed idle\n");
	cr_expect_eq(n_yields(), 1);
}

Test(feed, while_others_wait_a_run_ends_when_its_last_entry_is_done, .init = busy_up, .fini = story_down)
{
	story_until(1010);
	answer_read(0, 0, 0); /* sent before it is known that somebody waits: does not count */
	somebody_waits(1);
	story_until(1011);
	word(MSG_FEED_ACK, 11);
	story_int(CMD_FEED_ACK, 1);
	answer_read(0, 0, 0);
	expect_story("[ 1011] feed_ack k 11-0\n[ 1011] > feed acked 11-0\n[ 1011] > feed idle\n");
	cr_expect_eq(n_yields(), 1);
}

Test(feed, that_somebody_waits_is_true_for_half_a_second_only, .init = busy_up, .fini = story_down)
{
	answer_read(0, 0, 0);
	somebody_waits(1);
	nothing_until(1500);
	word(MSG_FEED_ACK, 11);
	story_int(CMD_FEED_ACK, 1);
	nothing_until(1600);
	expect_story("[ 1500] feed_ack k 11-0\n[ 1500] > feed acked 11-0\n");
	cr_expect_eq(n_yields(), 0);
}

Test(feed, of_idle_runs_those_go_first_that_are_empty_for_long, .init = busy_up, .fini = story_down)
{
	open_feed(H + 1);
	answer_position(10, 0, 0);
	story_msg_in((struct msg){.kind = MSG_FEED_START, .handle = H + 1, .feed_start.epoch = 1});
	answer_read(0, 0, 0);  /* the first's */
	answer_read(11, 1, 0); /* the second's */
	story_msg_in((struct msg){.kind = MSG_FEED_ACK, .handle = H + 1, .feed_ack.id = {11, 0}});
	story_int(CMD_FEED_ACK, 1);
	nothing_until(1200);
	word(MSG_FEED_ACK, 11);
	story_int(CMD_FEED_ACK, 1);
	nothing_until(1250); /* the first is empty for 50 ms, the second for 200 */
	story_clear();
	somebody_waits(1);
	nothing_until(1251);
	expect_story("[ 1250] > feed idle\n");
	story_msg_in((struct msg){.kind = MSG_FEED_CLOSE, .handle = H + 1, .feed_close.end = FEED_END_DONE});
	story_int(CMD_FEED_CLOSE, 1);
	cr_expect_eq(shard_feeds_of(W.s, 1).idle, 1);
	word(MSG_FEED_ACK, 11); /* the first is still there, and told so */
	expect_story("[ 1251] feed_close k\n[ 1251] > feed closed\n[ 1251] > feed acked 11-0\n");
}

static int64_t n_behind(void)
{
	return shard_feeds_of(W.s, 1).behind;
}

Test(feed, what_was_read_is_behind_until_it_is_acknowledged_also_while_one_waits, .fini = story_down)
{
	ready_with(2, 1);
	start(1);
	answer_read(11, 2, 0);
	cr_expect_eq(n_behind(), 2);
	word(MSG_FEED_ACK, 11);
	story_int(CMD_FEED_ACK, 1);
	cr_expect_eq(n_behind(), 1);
	word(MSG_FEED_NACK, 12);
	answer_fail(1, 1000);
	cr_expect_eq(n_behind(), 1);
	story_until(2000);
	answer_read(12, 2, 0);
	cr_expect_eq(n_behind(), 2); /* not counted twice */
	word(MSG_FEED_NACK, 12);
	answer_fail(4, 0); /* a dead letter is passed without being read again */
	becomes_dead_letter();
	story_int(CMD_FEED_ACK, 1);
	cr_expect_eq(n_behind(), 1);
	answer_read(13, 1, 0);
	cr_expect_eq(n_behind(), 1);
}

Test(feed, a_stream_that_is_blocked_when_it_is_opened_has_one_behind, .fini = story_down)
{
	story_up();
	story_msg_in((struct msg){.kind = MSG_SERVICE, .service.rules = feed_rules_for(10, 2)});
	open_feed(H);
	answer_waits(1, 8000);
	cr_expect_eq(n_behind(), 1);
}

/* Its worker could not do 11-0, which waits for so long. */
static void blocked_up(mono_ms wait)
{
	busy_up();
	word(MSG_FEED_NACK, 11);
	answer_fail(2, wait);
	story_clear();
}

Test(feed, who_waits_for_long_gives_up_its_credit_to_others_and_says_until_when, .fini = story_down)
{
	blocked_up(8000);
	story_until(1100);
	somebody_waits(1);
	somebody_waits(1); /* once */
	expect_story("[ 1100] > feed put_off waits=7900 11-0\n");
	cr_expect_eq(n_yields(), 1);
	nothing_until(9100);
	expect_story(""); /* nothing is told any more */
}

Test(feed, who_is_on_its_way_out_counts_among_those_that_yield, .fini = story_down)
{
	blocked_up(8000);
	open_feed(H + 1);
	answer_position(10, 0, 0);
	story_msg_in((struct msg){.kind = MSG_FEED_START, .handle = H + 1, .feed_start.epoch = 1});
	answer_read(0, 0, 0);
	somebody_waits(1);
	story_clear();
	story_msg_in((struct msg){.kind = MSG_FEED_CLOSE, .handle = H, .feed_close.end = FEED_END_KEEP});
	somebody_waits(1); /* that one's credit is not free yet */
	nothing_until(1200);
	expect_story("[ 1000] feed_close k\n");
	cr_expect_eq(n_yields(), 1);
}

Test(feed, who_was_told_to_hold_is_not_idle_by_a_read_from_before, .init = busy_up, .fini = story_down)
{
	word(MSG_FEED_ACK, 11);
	story_int(CMD_FEED_ACK, 1);
	story_until(1010);
	somebody_waits(2);
	story_clear();
	story_msg_in((struct msg){.kind = MSG_FEED_HOLD, .handle = H});
	if (story_waits(CMD_FEED_READ))
		answer_read(0, 0, 0);
	expect_story("");
	cr_expect_eq(n_yields(), 0);
}

Test(feed, who_may_go_on_soon_keeps_its_credit, .fini = story_down)
{
	blocked_up(500);
	somebody_waits(1);
	expect_story("");
	cr_expect_eq(n_yields(), 0);
}

Test(feed, who_has_to_wait_while_others_do_gives_up_its_credit_at_once, .init = busy_up, .fini = story_down)
{
	word(MSG_FEED_NACK, 11);
	somebody_waits(1);
	story_clear();
	answer_fail(1, 1000);
	expect_story("[ 1000] > feed nacked 11-0 tries=1 wait=1000\n[ 1000] > feed put_off waits=1000 11-0\n");
}

Test(feed, an_old_word_takes_no_credit, .init = busy_up, .fini = story_down)
{
	word(MSG_FEED_NACK, 11);
	somebody_waits(1);
	story_until(1500);
	story_clear();
	answer_fail(1, 1000);
	expect_story("[ 1500] > feed nacked 11-0 tries=1 wait=1000\n");
}

Test(feed, a_wait_gives_up_its_credit_also_where_idle_ones_keep_theirs, .fini = story_down)
{
	blocked_up(8000);
	story_msg_in((struct msg){.kind = MSG_SERVICE, .service.rules = feed_rules_for(10, 2)});
	somebody_waits(3);
	expect_story("[ 1000] > feed put_off waits=8000 11-0\n");
}

Test(feed, only_as_many_end_as_wait_and_none_where_the_worker_ends_them, .fini = story_down)
{
	yields_up(60000);
	open_feed(H + 1);
	answer_position(10, 0, 0);
	story_msg_in((struct msg){.kind = MSG_FEED_START, .handle = H + 1, .feed_start.epoch = 1});
	nothing_until(1006);
	story_clear();
	somebody_waits(1);
	nothing_until(1200);
	cr_expect(n_yields() == 1 && shard_feeds_of(W.s, 1).idle == 1);
	story_msg_in((struct msg){.kind = MSG_FEED_CLOSE, .handle = H, .feed_close.end = FEED_END_FORGET});
	struct service_rules *r = feed_rules_for(10, 2);
	story_msg_in((struct msg){.kind = MSG_SERVICE, .service.rules = r});
	somebody_waits(5);
	nothing_until(1300);
	cr_expect(n_yields() == 1 && shard_feeds_of(W.s, 1).idle == 1);
}

/* With 20,000 of them each stream that began cost a walk over all, four times. */
Test(feed, who_has_been_idle_for_longest_ends_first, .init = busy_up, .fini = story_down)
{
	open_feed(H + 1);
	answer_position(10, 0, 0);
	story_msg_in((struct msg){.kind = MSG_FEED_START, .handle = H + 1, .feed_start.epoch = 1});
	answer_read(0, 0, 0);
	answer_read(11, 1, 0);
	for (uint64_t i = 0; i < 2; i++) { /* H + 1 is done before H */
		story_msg_in((struct msg){.kind = MSG_FEED_ACK, .handle = H + 1 - i, .feed_ack.id = {11, 0}});
		story_int(CMD_FEED_ACK, 1);
		nothing_until(1050 + (mono_ms)i * 200);
	}
	cr_assert_eq(shard_feeds_of(W.s, 1).idle, 2);
	somebody_waits(1);
	nothing_until(1350);
	cr_assert(n_yields() == 1 && shard_feeds_of(W.s, 1).idle == 1);
	story_msg_in((struct msg){.kind = MSG_FEED_CLOSE, .handle = H, .feed_close.end = FEED_END_FORGET});
	cr_expect_eq(shard_feeds_of(W.s, 1).idle, 0);
}

/* ---- what is gone before it was acknowledged ---- */

/* So many entries were ever added up to 10-0; so many behind it are gone. */
static void answer_added(uint64_t ms, int64_t n_added, int64_t n_lost)
{
	story_reply(CMD_FEED_OPEN,
		(struct reply){.kind = REPLY_POSITION, .id = {ms, 0}, .n_added = n_added, .n_lost = n_lost});
}

static void opened_with(int64_t n_added, bool is_adopted)
{
	story_up();
	story_msg_in((struct msg){.kind = MSG_SERVICE, .service.rules = feed_rules_for(10, 2)});
	W.hide[CMD_CONSUMERS] = W.hide[CMD_TRACKING] = W.hide[CMD_FEED_READ] = true;
	story_msg_in((struct msg){.kind = MSG_FEED_OPEN,
		.svc = 1,
		.feed_open.slot = 9,
		.handle = H,
		.feed_open.token = ID7,
		.feed_open.is_adopted = is_adopted,
		.feed_open.stream = text_new("k", 1)});
	answer_added(10, n_added, 0);
	start(1);
	story_clear();
}

Test(feed, an_ack_says_how_many_entries_it_passes, .fini = story_down)
{
	opened_with(100, false);
	answer_read(11, 5, 0);
	story_clear();
	word(MSG_FEED_ACK, 12);
	word(MSG_FEED_ACK, 14);
	story_int(CMD_FEED_ACK, 1);
	story_int(CMD_FEED_ACK, 1);
	expect_story("[ 1000] feed_ack k 12-0 n=102\n[ 1000] > feed acked 12-0\n"
		     "[ 1000] feed_ack k 14-0 n=104\n[ 1000] > feed acked 14-0\n");
	struct msg m = msg_feed_nack((struct msg_feed_nack){.id = {15, 0}, .delay_ms = -1, .is_dead = true});
	m.handle = H;
	story_msg_in(m); /* a dead letter is passed, too */
	becomes_dead_letter();
	cr_expect(strstr(W.text.data, "feed_ack k 15-0 n=105\n"), "%s", W.text.data);
}

Test(feed, what_passes_entries_that_were_told_elsewhere_does_not_count, .fini = story_down)
{
	opened_with(100, true);
	word(MSG_FEED_ACK, 13); /* of its former owner's entries */
	answer_read(14, 2, 0);
	story_clear();
	word(MSG_FEED_ACK, 15);
	story_int(CMD_FEED_ACK, 1);
	expect_story("[ 1000] > feed acked 13-0\n[ 1000] feed_ack k 15-0\n");
	story_int(CMD_FEED_ACK, 1);
	story_conn(CONN_COMMAND, true);
	answer_added(15, 107, 0);
	answer_read(16, 1, 0);
	story_clear();
	word(MSG_FEED_ACK, 16);
	expect_story("[ 1000] feed_ack k 16-0 n=108\n");
}

Test(feed, an_ack_that_is_forgotten_by_a_resume_does_not_count, .fini = story_down)
{
	opened_with(100, false);
	answer_read(11, 2, 0);
	word(MSG_FEED_ACK, 11);
	word(MSG_FEED_ACK, 12); /* waits for the answer to that */
	start(2);
	story_clear();
	story_int(CMD_FEED_ACK, 1);
	expect_story("[ 1000] > feed acked 11-0\n[ 1000] feed_ack k 12-0\n");
}

Test(feed, what_is_lost_is_counted_at_each_open_and_said_once_a_minute, .init = ready, .fini = story_down)
{
	W.say = true;
	for (int i = 0; i < 3; i++) {
		story_conn(CONN_COMMAND, true);
		story_drop_waiting(CMD_CONSUMERS);
		W.now += i < 2 ? 0 : 60000;
		story_clear();
		answer_added(10, 100, 7);
		cr_expect(strstr(W.text.data, "> feed lost n=7\n"), "%s", W.text.data);
		cr_expect_eq(
			strstr(W.text.data, "stream=k entries lost n=7: trimmed") != NULL, i != 1, "%s", W.text.data);
	}
	cr_expect_eq(shard_service_metrics(W.s, 1)->c[M_FEED_TRIMMED], 21);
}

/* ---- how much the first reads of many streams may bring ---- */

static void open_and_start(uint64_t handle)
{
	open_feed(handle);
	answer_position(10, 0, 0);
	story_msg_in((struct msg){.kind = MSG_FEED_START, .handle = handle, .feed_start.epoch = 1});
}

/* How many entries the newest read that waits for its answer asks for. */
static int64_t newest_read_asks(void)
{
	for (size_t i = W.n_sent; i > 0; i--)
		if (W.sent[i - 1].kind == CMD_FEED_READ)
			return W.sent[i - 1].count;
	return 0;
}

static size_t n_reads_waiting(void)
{
	size_t n = 0;
	for (size_t i = 0; i < W.n_sent; i++)
		n += W.sent[i].kind == CMD_FEED_READ;
	return n;
}

Test(feed, first_reads_are_few_until_the_length_of_entries_is_known, .fini = story_down)
{
	ready_with(100, 2);
	start(1);
	for (uint64_t i = 1; i < 10; i++)
		open_and_start(H + i);
	cr_assert_eq(n_reads_waiting(), 4);
	cr_assert_eq(newest_read_asks(), 32);
	answer_read(11, 0, 0); /* an empty stream tells nothing */
	cr_assert_eq(n_reads_waiting(), 4);
	answer_read(11, 2, 40000); /* 100,000 fit into a frame */
	cr_assert_geq(n_reads_waiting(), 8);
	cr_assert_eq(newest_read_asks(), 3);
}

Test(feed, first_reads_ask_for_no_more_than_a_frame_of_what_the_service_has, .fini = story_down)
{
	ready_with(100, 2);
	start(1);
	answer_read(11, 2, 40000); /* 100,000 fit into a frame */
	open_and_start(H + 1);
	cr_assert_eq(newest_read_asks(), 3);
	answer_read(11, 1, 90000);
	open_and_start(H + 2);
	cr_assert_eq(newest_read_asks(), 2); /* longer ones count at once */
	answer_read(11, 1, 0);
	open_and_start(H + 3);
	cr_assert_eq(newest_read_asks(), 2); /* shorter ones by and by */
	for (uint64_t i = 4; i < 40; i++) {
		answer_read(20 + i, 1, 0);
		open_and_start(H + i);
	}
	cr_assert_eq(newest_read_asks(), 32);
}
