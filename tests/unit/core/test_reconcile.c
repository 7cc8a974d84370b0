#include "shard_story.h"

#include <time.h>

static const char OTHER[] = "redis-consumer-other";

static void quiet(void)
{
	static const enum cmd_kind noise[] = {CMD_LENGTH, CMD_PENDING_SUM, CMD_UNREAD, CMD_DLQ_LENGTH, CMD_HEARTBEAT,
		CMD_RUN_ID, CMD_ROLE, CMD_GROUP_CREATE, CMD_READ_OWN, CMD_CONSUMERS};
	for (size_t i = 0; i < sizeof noise / sizeof noise[0]; i++)
		W.hide[noise[i]] = true;
	W.hide_msg[MSG_OWN_IDS] = W.hide_msg[MSG_CONN] = W.hide_msg[MSG_ENTRIES] = true;
	W.no_scan = W.no_audit = true;
}

static void serve(struct service_rules *r)
{
	story_msg_in((struct msg){.kind = MSG_SERVICE, .service.rules = r, .service.is_read = true});
}

static void begin(void)
{
	story_up();
	quiet();
	W.hide[CMD_LEFT] = true;
	serve(story_rules());
	story_conn(CONN_READER, true);
	story_ok(CMD_GROUP_CREATE);
	story_entries(CMD_READ_OWN, 1, 0);
	story_clear();
}

static uint64_t count(enum metric_service m)
{
	return shard_service_metrics(W.s, 1)->c[m];
}

static void nobody_has_left(void)
{
	story_reply(CMD_LEFT, (struct reply){.kind = REPLY_CONSUMERS});
}

static void consumers(uint64_t n_pending, int64_t idle_ms)
{
	struct consumer_row rows[] = {
		{.name = slice_str_("redis-consumer-me"), .n_pending = 5, .idle_ms = 99999},
		{.name = slice_str_(OTHER), .n_pending = n_pending, .idle_ms = idle_ms},
	};
	while (!story_waits(CMD_CONSUMERS))
		story_until(W.now + 1);
	story_reply(CMD_CONSUMERS, (struct reply){.kind = REPLY_CONSUMERS, .consumers = rows, .n = 2});
	if (story_waits(CMD_LEFT))
		nobody_has_left();
}

/* The oldest call of this kind is answered. */
static void answer_with(struct msg_lock_answer a)
{
	for (size_t i = 0; i < W.n_calls; i++)
		if (W.calls[i].lock_call.kind == a.kind) {
			a.tag = W.calls[i].lock_call.tag;
			memmove(&W.calls[i], &W.calls[i + 1], (--W.n_calls - i) * sizeof W.calls[0]);
			story_msg_in(msg_lock_answer(a));
			return;
		}
	cr_assert_fail("no call of %s is waiting", story_cmds[a.kind]);
}

static void answer(enum cmd_kind op, enum op_result result, int64_t n)
{
	answer_with((struct msg_lock_answer){.kind = (uint8_t)op, .result = (uint8_t)result, .integer = n});
}

static void suspect(size_t n)
{
	consumers(n, 12000);
	story_pending(CMD_PENDING, 7, n, OTHER, 11000);
}

static void fetched(uint32_t retry)
{
	struct entry_batch *b = mem_alloc(sizeof *b + sizeof b->v[0]);
	b->n = 1;
	b->v[0] = (struct entry_in){.id = ID7, .stream = text_new("s1", 2), .retry = retry, .lock_slot = 9};
	story_reply(CMD_FETCH, (struct reply){.kind = REPLY_ENTRIES, .entries = b});
}

static void new_id(uint64_t ms)
{
	story_reply(CMD_REQUEUE, (struct reply){.kind = REPLY_ID, .id = {ms, 0}});
}

/* ---- the way back ---- */

Test(recovery, a_dead_owners_entry_goes_back, .init = begin, .fini = story_down)
{
	suspect(1);
	fetched(1);
	cr_assert_eq(W.last_call.lock_call.slot, 9);
	answer(CMD_PROBE, OP_DONE, -2);
	cr_assert_eq(W.last_call.lock_call.ttl_ms, 10000);
	answer(CMD_LOCK, OP_DONE, 0);
	new_id(8);
	cr_assert_eq(W.last_call.lock_call.ttl_ms, 40000);
	expect_story("[ 1000] pending consumer=redis-consumer-other\n"
		     "[ 1000] fetch 7-0\n"
		     "[ 1000] > call probe 7-0\n"
		     "[ 1000] > call lock 7-0 \"recover:redis-consumer-me/20\"\n"
		     "[ 1000] requeue s1 7-0 consumer=redis-consumer-other retry=2 idle=11000\n"
		     "[ 1000] > call tomb 7-0 \"gone:8-0\"\n");
	cr_assert_eq(count(M_REC_REQUEUED), 1);
	cr_assert_eq(count(M_REQUEUE_OWNER_DIED), 1);
	cr_assert_eq(count(M_PROBE_MISSING), 1);
	cr_assert_eq(shard_service_metrics(W.s, 1)->h[H_REC_PROBE].n, 1);
	answer(CMD_TOMBSTONE, OP_DONE, 0);
	expect_story("");
}

static void has_left(mono_ms ago)
{
	struct consumer_row row = {.name = slice_str_(OTHER), .idle_ms = ago};
	story_reply(CMD_LEFT, (struct reply){.kind = REPLY_CONSUMERS, .consumers = &row, .n = 1});
}

/* One suspect, of whom it is told when it left. */
static void suspect_who_left(mono_ms ago)
{
	struct consumer_row row = {.name = slice_str_(OTHER), .n_pending = 1, .idle_ms = 12000};
	while (!story_waits(CMD_CONSUMERS))
		story_until(W.now + 1);
	story_reply(CMD_CONSUMERS, (struct reply){.kind = REPLY_CONSUMERS, .consumers = &row, .n = 1});
	has_left(ago);
	story_pending(CMD_PENDING, 7, 1, OTHER, 11000);
}

Test(recovery, who_left_on_purpose_is_no_death, .init = begin, .fini = story_down)
{
	suspect_who_left(10900); /* it was given the entry 11 s ago, then left */
	fetched(3);              /* one more would be a dead letter */
	answer(CMD_PROBE, OP_DONE, -2);
	answer(CMD_LOCK, OP_DONE, 0);
	cr_assert(strstr(W.text.data, "requeue s1 7-0 consumer=redis-consumer-other retry=3 idle=11000\n"), "%s",
		W.text.data);
	new_id(8);
	cr_assert_eq(count(M_REQUEUE_OWNER_LEFT), 1);
	cr_assert_eq(count(M_REQUEUE_OWNER_DIED), 0);
}

Test(recovery, who_came_back_and_died_then_has_not_left, .init = begin, .fini = story_down)
{
	suspect_who_left(20000); /* the entry came after that */
	fetched(0);
	answer(CMD_PROBE, OP_DONE, -2);
	answer(CMD_LOCK, OP_DONE, 0);
	cr_assert(strstr(W.text.data, "requeue s1 7-0 consumer=redis-consumer-other retry=1 idle=11000\n"), "%s",
		W.text.data);
}

Test(recovery, a_server_that_does_not_say_who_left_holds_nothing_up, .init = begin, .fini = story_down)
{
	struct consumer_row row = {.name = slice_str_(OTHER), .n_pending = 1, .idle_ms = 12000};
	while (!story_waits(CMD_CONSUMERS))
		story_until(W.now + 1);
	story_reply(CMD_CONSUMERS, (struct reply){.kind = REPLY_CONSUMERS, .consumers = &row, .n = 1});
	story_error(CMD_LEFT, RERR_OPERATOR, "NOPERM hgetall");
	story_pending(CMD_PENDING, 7, 1, OTHER, 11000);
	fetched(0);
	answer(CMD_PROBE, OP_DONE, -2);
	answer(CMD_LOCK, OP_DONE, 0);
	cr_assert(strstr(W.text.data, "retry=1"), "%s", W.text.data);
}

Test(recovery, who_has_been_gone_for_long_is_forgotten, .init = begin, .fini = story_down)
{
	struct consumer_row rows[] = {{.name = slice_str_("old"), .n_pending = 0, .idle_ms = 86400000},
		{.name = slice_str_("older-but-busy"), .n_pending = 1, .idle_ms = 99400000},
		{.name = slice_str_("idle"), .idle_ms = 86399999}};
	while (!story_waits(CMD_CONSUMERS))
		story_until(W.now + 1);
	story_reply(CMD_CONSUMERS, (struct reply){.kind = REPLY_CONSUMERS, .consumers = rows, .n = 3});
	cr_assert(strstr(W.text.data, "] forget consumer=old idle=86400000\n"), "%s", W.text.data);
	story_reply(CMD_FORGET, (struct reply){.kind = REPLY_INT, .integer = 1});
}

Test(recovery, an_owner_that_was_just_seen_is_not_suspect, .init = begin, .fini = story_down)
{
	consumers(1, 9999);
	story_until(1000);
	expect_story("");
	consumers(0, 99999); /* nor one without entries */
	expect_story("");
}

Test(recovery, a_consumer_is_asked_for_just_when_it_becomes_suspect, .init = begin, .fini = story_down)
{
	consumers(1, 9700);
	while (!story_waits(CMD_CONSUMERS))
		story_until(W.now + 1);
	cr_assert_eq(W.now, 1300);
	consumers(1, 10000);
	expect_story("[ 1300] pending consumer=redis-consumer-other\n");
}

Test(recovery, an_alive_lock_is_looked_at_again_at_its_deadline, .init = begin, .fini = story_down)
{
	suspect(1);
	fetched(0);
	answer(CMD_PROBE, OP_DONE, 400);
	story_clear();
	story_until(1404);
	expect_story("");
	story_until(1405);
	expect_story("[ 1405] > call probe 7-0\n");
	answer(CMD_PROBE, OP_DONE, -2);
	expect_story("[ 1405] > call lock 7-0 \"recover:redis-consumer-me/20\"\n");
	cr_assert_eq(count(M_REC_ALIVE), 1);
}

Test(recovery, an_owner_seen_again_is_left_alone, .init = begin, .fini = story_down)
{
	suspect(1);
	fetched(0);
	answer(CMD_PROBE, OP_DONE, 5000);
	story_clear();
	consumers(1, 3);
	story_until(9000);
	expect_story("");
}

Test(recovery, a_lock_without_a_deadline_is_alive, .init = begin, .fini = story_down)
{
	suspect(1);
	fetched(0);
	answer(CMD_PROBE, OP_DONE, -1);
	cr_assert_eq(count(M_PROBE_ALIVE), 1);
	cr_assert_eq(W.n_calls, 0);
}

Test(recovery, a_refused_door_means_the_owner_is_back, .init = begin, .fini = story_down)
{
	suspect(1);
	fetched(0);
	answer(CMD_PROBE, OP_DONE, -2);
	story_clear();
	answer(CMD_LOCK, OP_GONE, 0);
	expect_story("");
	cr_assert_eq(count(M_REC_LOST_RACE), 1);
}

Test(recovery, an_entry_somebody_else_requeued_opens_the_door_again, .init = begin, .fini = story_down)
{
	for (int i = 0; i < 2; i++) {
		suspect(1);
		fetched(0);
		answer(CMD_PROBE, OP_DONE, -2);
		answer(CMD_LOCK, OP_DONE, 0);
		story_clear();
		if (i == 0)
			story_int(CMD_REQUEUE, 0);
		else
			story_nil(CMD_REQUEUE);
		cr_assert(strstr(W.text.data, "> call unlock 7-0 \"recover:redis-consumer-me/20\"\n"));
		story_until(W.now + 1500);
	}
	cr_assert_eq(count(M_REC_LOST_RACE), 2);
}

Test(recovery, too_many_starts_make_a_dead_letter, .init = begin, .fini = story_down)
{
	suspect(1);
	fetched(3);
	answer(CMD_PROBE, OP_DONE, -2);
	story_clear();
	answer(CMD_LOCK, OP_DONE, 0);
	story_int(CMD_DEAD, 1);
	expect_story("[ 1000] dead s1 7-0 consumer=redis-consumer-other idle=11000\n"
		     "[ 1000] > call tomb 7-0 \"gone:dead\"\n");
	cr_assert_eq(count(M_DEAD_MAX_RETRIES), 1);
	cr_assert_eq(count(M_REC_DEAD), 1);
}

Test(recovery, deleted_data_is_acked, .init = begin, .fini = story_down)
{
	suspect(1);
	story_clear();
	story_entries(CMD_FETCH, 1, 0);
	story_int(CMD_ACK_DEL, 1);
	expect_story("[ 1000] ack_del 7-0 consumer=redis-consumer-other\n");
	cr_assert_eq(count(M_REC_GONE), 1);
}

static void fetched_unreadable(void)
{
	struct entry_batch *b = mem_alloc(sizeof *b + sizeof b->v[0]);
	b->n = 1;
	b->v[0] = (struct entry_in){.id = ID7, .problem = ENTRY_BAD_JSON};
	story_reply(CMD_FETCH, (struct reply){.kind = REPLY_ENTRIES, .entries = b});
}

Test(recovery, an_unreadable_entry_is_left_until_it_is_old, .init = begin, .fini = story_down)
{
	suspect(1);
	story_clear();
	fetched_unreadable();
	expect_story("");
	story_until(2000);
	consumers(1, 40000);
	story_pending(CMD_PENDING, 7, 1, OTHER, 29500);
	story_until(2500);
	story_clear();
	fetched_unreadable();
	story_int(CMD_DEAD, 1);
	expect_story("[ 2500] dead 7-0 consumer=redis-consumer-other idle=30000\n");
	cr_assert_eq(count(M_DEAD_UNPARSEABLE), 1);
}

/* ---- what proves nothing ---- */

static void missing_in_hold_off(mono_ms until)
{
	answer_with(
		(struct msg_lock_answer){.kind = CMD_PROBE, .result = OP_DONE, .integer = -2, .hold_off_until = until});
}

Test(recovery, missing_after_a_failover_is_looked_at_again_later, .init = begin, .fini = story_down)
{
	suspect(1);
	fetched(0);
	story_clear();
	missing_in_hold_off(4000);
	story_until(3500);
	consumers(1, 15000); /* still not seen */
	story_drop_waiting(CMD_PENDING);
	story_clear();
	story_until(4004);
	expect_story("");
	story_until(4005);
	expect_story("[ 4005] > call probe 7-0\n");
	answer(CMD_PROBE, OP_DONE, -2);
	expect_story("[ 4005] > call lock 7-0 \"recover:redis-consumer-me/20\"\n");
}

Test(recovery, a_lock_seen_alive_on_the_new_master_may_expire_there, .init = begin, .fini = story_down)
{
	W.now = 20000;
	suspect(1);
	fetched(0);
	answer(CMD_PROBE, OP_DONE, 100);
	story_until(20105);
	story_clear();
	missing_in_hold_off(19000 + 13333); /* changed at 19000, seen at 20000 */
	expect_story("[20105] > call lock 7-0 \"recover:redis-consumer-me/20\"\n");
}

Test(recovery, a_lock_seen_alive_before_the_failover_proves_nothing, .init = begin, .fini = story_down)
{
	W.now = 20000;
	suspect(1);
	fetched(0);
	answer(CMD_PROBE, OP_DONE, 100);
	story_until(20105);
	story_clear();
	missing_in_hold_off(20050 + 13333);
	expect_story("");
}

Test(recovery, an_observed_expiry_proves_it, .init = begin, .fini = story_down)
{
	W.no_scan = false;
	story_msg_in((struct msg){.kind = MSG_EXPIRED, .expired.stream = text_new("s1", 2), .expired.id = ID7});
	story_pending(CMD_PENDING, 7, 1, OTHER, 5000);
	fetched(0);
	missing_in_hold_off(9000);
	nobody_has_left(); /* it is asked first: who left on purpose did not die */
	story_until(1050);
	missing_in_hold_off(9000);
	answer(CMD_LOCK, OP_DONE, 0);
	new_id(8);
	expect_story("[ 1000] pending 7-0\n"
		     "[ 1000] fetch 7-0\n"
		     "[ 1000] > call probe 7-0\n"
		     "[ 1050] > call probe 7-0\n"
		     "[ 1050] > call lock 7-0 \"recover:redis-consumer-me/20\"\n"
		     "[ 1050] requeue s1 7-0 consumer=redis-consumer-other retry=1 idle=5000\n"
		     "[ 1050] > call tomb 7-0 \"gone:8-0\"\n");
	cr_assert_eq(shard_service_metrics(W.s, 1)->h[H_REC_EVENT].n, 1);
}

/* ---- events ---- */

Test(recovery, an_expired_lock_is_told_to_all, .init = begin, .fini = story_down)
{
	story_event((struct shard_event){.kind = SHARD_EXPIRED, .stream = {"s1", 2}, .id = ID7});
	expect_story("[ 1000] > expired s1\n");
	cr_assert_eq(shard_metrics(W.s)->c[MR_EVENTS_OK], 1);
}

Test(recovery, an_expired_lock_of_an_entry_of_our_own_or_of_none_is_nothing, .init = begin, .fini = story_down)
{
	W.no_scan = false;
	for (uint64_t first = 7; first < 9; first++) {
		story_msg_in((struct msg){.kind = MSG_EXPIRED, .expired.stream = text_new("s1", 2), .expired.id = ID7});
		story_clear();
		story_pending(CMD_PENDING, first, 1, first == 7 ? "redis-consumer-me" : OTHER, 5000);
		expect_story("");
	}
}

/* ---- the door holds no longer than T ---- */

Test(recovery, a_door_closed_too_long_ago_is_not_trusted, .init = begin, .fini = story_down)
{
	suspect(1);
	fetched(0);
	answer(CMD_PROBE, OP_DONE, -2);
	story_clear();
	W.now = 8000; /* T - command_timeout later */
	answer(CMD_LOCK, OP_DONE, 0);
	cr_assert_eq(W.n_cmds[CMD_REQUEUE], 0);
	cr_assert_eq(count(M_REC_ERROR), 0);
	story_until(9000);
	cr_assert(strstr(W.text.data, "> call probe 7-0\n"), "it begins again");
}

static void requeueing(void)
{
	begin();
	suspect(1);
	fetched(0);
	answer(CMD_PROBE, OP_DONE, -2);
	answer(CMD_LOCK, OP_DONE, 0);
	story_clear();
}

Test(recovery, a_requeue_on_its_way_is_waited_for, .init = requeueing, .fini = story_down)
{
	W.hide[CMD_PENDING] = true;
	story_until(9000); /* the door held until 11000 - 3000 */
	story_clear();
	new_id(8);
	cr_assert(strstr(W.text.data, "> call tomb 7-0 \"gone:8-0\"\n"), "%s", W.text.data);
	cr_assert_eq(count(M_REC_REQUEUED), 1);
}

Test(recovery, a_requeue_refused_after_the_door_is_not_sent_again, .init = requeueing, .fini = story_down)
{
	story_until(8000);
	story_error(CMD_REQUEUE, RERR_NOSCRIPT, "NOSCRIPT");
	story_until(8010);
	cr_assert_eq(W.n_cmds[CMD_REQUEUE], 1);
	cr_assert_eq(count(M_REC_ERROR), 1);
}

Test(recovery, a_requeue_is_not_sent_after_the_door_may_have_opened, .init = begin, .fini = story_down)
{
	suspect(1);
	fetched(0);
	answer(CMD_PROBE, OP_DONE, -2);
	answer(CMD_LOCK, OP_DONE, 0);
	story_cut();
	story_until(9000);
	story_conn(CONN_COMMAND, true);
	cr_assert_not(story_waits(CMD_REQUEUE));
	cr_assert_eq(W.n_calls, 0, "the door stays closed: the requeue may have been executed");
	cr_assert_eq(count(M_REC_ERROR), 1);
}

Test(recovery, a_call_that_is_never_answered_is_made_again, .init = begin, .fini = story_down)
{
	suspect(1);
	fetched(0);
	story_clear();
	story_until(9999);
	expect_story("");
	story_until(11000);
	cr_assert(strstr(W.text.data, "> call probe 7-0\n"), "%s", W.text.data);
	cr_assert_eq(count(M_PROBE_ERROR), 1);
}

/* ---- whose turn it is ---- */

static uint64_t fetched_at_once(const char *me, const char *other, bool *is_mine)
{
	W = (struct story){.consumer = me};
	begin();
	struct consumer_row rows[] = {
		{.name = slice_str_(me), .idle_ms = 1},
		{.name = slice_str_(other), .idle_ms = 1},
		{.name = slice_str_(OTHER), .n_pending = 200, .idle_ms = 12000},
	};
	story_reply(CMD_CONSUMERS, (struct reply){.kind = REPLY_CONSUMERS, .consumers = rows, .n = 3});
	story_pending(CMD_PENDING, 1, 200, OTHER, 12000);
	for (size_t i = 0; i < W.n_sent; i++)
		if (W.sent[i].kind == CMD_FETCH)
			is_mine[W.sent[i].id.ms] = true;
	uint64_t n = W.n_cmds[CMD_FETCH];
	story_until(1199);
	cr_assert_eq(W.n_cmds[CMD_FETCH], n);
	story_until(1200);
	cr_assert_eq(W.n_cmds[CMD_FETCH], 200, "the others 200 ms later, not %lu", W.n_cmds[CMD_FETCH]);
	story_down();
	return n;
}

Test(recovery, daemons_take_turns)
{
	bool a[201] = {0}, b[201] = {0};
	uint64_t n_a = fetched_at_once("redis-consumer-a", "redis-consumer-b", a);
	uint64_t n_b = fetched_at_once("redis-consumer-b", "redis-consumer-a", b);
	cr_assert_eq(n_a + n_b, 200);
	cr_assert(n_a > 60 && n_b > 60, "%lu and %lu", n_a, n_b);
	for (int i = 1; i <= 200; i++)
		cr_assert_neq(a[i], b[i], "entry %d is for exactly one of them", i);
}

/* ---- the scan ---- */

static void scanning(void)
{
	begin();
	W.no_scan = false;
}

static void until_scan(void)
{
	mono_ms from = W.now;
	while (!story_waits(CMD_PENDING)) {
		cr_assert_lt(W.now - from, 70000);
		story_drop_waiting(CMD_CONSUMERS);
		story_until(W.now + 10);
	}
}

Test(scan, goes_to_the_end_page_by_page, .init = scanning, .fini = story_down)
{
	until_scan();
	cr_assert_leq(W.now, 6010, "the first one soon after the start");
	cr_assert(strstr(W.text.data, "] pending idle=30000\n"));
	story_clear();
	mono_ms at = W.now;
	story_pending(CMD_PENDING, 1, 100, "redis-consumer-me", 40000); /* our own are not touched */
	story_pending(CMD_PENDING, 101, 1, OTHER, 40000);
	char want[100];
	snprintf(want, sizeof want, "[%5ld] pending 100-1 idle=30000\n[%5ld] fetch 101-0\n", (long)at, (long)at);
	expect_story(want);
	cr_assert_eq(count(M_SCAN_START_OK), 1);
	until_scan();
	cr_assert(W.now - at >= 59000 && W.now - at <= 61000, "%ld", (long)(W.now - at));
	story_pending(CMD_PENDING, 1, 0, "", 0);
	cr_assert_eq(count(M_SCAN_FULL_OK), 1);
}

Test(scan, an_alive_owner_is_not_watched, .init = scanning, .fini = story_down)
{
	until_scan();
	story_pending(CMD_PENDING, 7, 1, OTHER, 40000);
	fetched(0);
	answer(CMD_PROBE, OP_DONE, 300);
	story_clear();
	W.no_scan = true;
	story_until(20000);
	expect_story("");
}

Test(scan, deleted_data_of_a_consumer_that_lives_is_left_to_it, .init = scanning, .fini = story_down)
{
	consumers(1, 100); /* its stream runs, however long ago a producer trimmed the entry */
	until_scan();
	story_pending(CMD_PENDING, 7, 1, OTHER, 40000);
	W.no_scan = true;
	story_until(W.now + 200); /* it may be the other one's turn */
	story_clear();
	story_entries(CMD_FETCH, 7, 0);
	expect_story("");
	cr_assert_eq(count(M_REC_ALIVE), 1);
}

Test(scan, a_missing_lock_of_a_consumer_that_lives_is_recovered, .init = scanning, .fini = story_down)
{
	until_scan();
	story_pending(CMD_PENDING, 7, 1, OTHER, 40000);
	fetched(0);
	answer(CMD_PROBE, OP_DONE, -2);
	nobody_has_left();
	story_until(W.now + 50);
	answer(CMD_PROBE, OP_DONE, -2);
	answer(CMD_LOCK, OP_DONE, 0);
	cr_assert(strstr(W.text.data, "requeue s1 7-0 consumer=redis-consumer-other retry=1 idle=40000\n"));
}

Test(scan, comes_when_told, .init = scanning, .fini = story_down)
{
	until_scan();
	story_pending(CMD_PENDING, 1, 0, "", 0);
	story_clear();
	W.now += 100;
	story_msg_in((struct msg){.kind = MSG_SCAN, .svc = 1});
	cr_assert(strstr(W.text.data, "pending idle=30000\n"));
}

Test(scan, is_put_off_during_maintenance, .init = scanning, .fini = story_down)
{
	story_msg_in((struct msg){.kind = MSG_RENEW_ALL});
	until_scan();
	cr_assert_geq(W.now, 11000);
}

Test(scan, an_error_is_counted_and_it_begins_anew, .init = scanning, .fini = story_down)
{
	until_scan();
	story_pending(CMD_PENDING, 1, 100, "redis-consumer-me", 40000);
	story_error(CMD_PENDING, RERR_RETRY, "BUSY");
	cr_assert_eq(count(M_SCAN_START_ERROR), 1);
	story_clear();
	until_scan();
	cr_assert(strstr(W.text.data, "] pending idle=30000\n"), "%s", W.text.data);
}

/* ---- switched off, ended ---- */

Test(recovery, without_probing_only_the_scan_finds, .init = begin, .fini = story_down)
{
	struct service_rules *r = story_rules();
	r->recovery.probe = false;
	serve(r);
	story_clear();
	consumers(3, 60000);
	expect_story("");
}

Test(recovery, ends_with_the_service, .init = begin, .fini = story_down)
{
	suspect(3);
	fetched(0);
	story_msg_in((struct msg){.kind = MSG_SERVICE_GONE, .svc = 1});
	story_clear();
	fetched(0);
	answer_with((struct msg_lock_answer){.kind = CMD_PROBE, .result = OP_DONE, .integer = -2});
	story_until(60000);
	expect_story("");
}

/* ---- many ---- */

/* A model of what the others do: pending entries 1 … n of OTHER, all locks expired. */
static bool is_there[20001];
static size_t n_there;

static void model_pending(const struct sent *s)
{
	struct pending_row rows[500];
	size_t n = 0;
	for (uint64_t id = s->id.ms + (s->id.seq > 0); id <= 20000 && n < (size_t)s->count; id++)
		if (id > 0 && is_there[id])
			rows[n++] =
				(struct pending_row){.id = {id, 0}, .idle_ms = 11000, .consumer = slice_str_(OTHER)};
	struct reply r = {.kind = REPLY_PENDING, .pending = rows, .n = n};
	story_event((struct shard_event){.kind = SHARD_REPLY, .tag = s->tag, .reply = &r});
}

static void model_command(const struct sent *s)
{
	struct reply r = {.kind = REPLY_NIL};
	if (s->kind == CMD_FETCH) {
		struct entry_batch *b = mem_alloc(sizeof *b + sizeof b->v[0]);
		b->n = 1;
		b->v[0] = (struct entry_in){.id = s->id, .stream = text_new("s1", 2), .lock_slot = 9};
		r = (struct reply){.kind = REPLY_ENTRIES, .entries = b};
	} else if (s->kind == CMD_REQUEUE) {
		cr_assert(is_there[s->id.ms], "%lu twice", s->id.ms);
		is_there[s->id.ms] = false;
		n_there--;
		r = (struct reply){.kind = REPLY_ID, .id = {s->id.ms + 100000, 0}};
	}
	story_event((struct shard_event){.kind = SHARD_REPLY, .tag = s->tag, .reply = &r});
}

/* One round trip: everything that waits is answered. */
static void model_round(void)
{
	size_t n = W.n_sent, n_calls = W.n_calls;
	struct sent *s = mem_array(n + 1, sizeof *s);
	memcpy(s, W.sent, n * sizeof *s);
	W.n_sent = 0;
	struct msg *calls = mem_array(n_calls + 1, sizeof *calls);
	memcpy(calls, W.calls, n_calls * sizeof *calls);
	W.n_calls = 0;
	for (size_t i = 0; i < n; i++)
		if (s[i].kind == CMD_PENDING)
			model_pending(&s[i]);
		else if (s[i].kind == CMD_FETCH || s[i].kind == CMD_REQUEUE)
			model_command(&s[i]);
	for (size_t i = 0; i < n_calls; i++)
		story_msg_in((struct msg){.kind = MSG_LOCK_ANSWER,
			.lock_answer.tag = calls[i].lock_call.tag,
			.lock_answer.kind = calls[i].lock_call.kind,
			.lock_answer.result = OP_DONE,
			.lock_answer.integer = calls[i].lock_call.kind == CMD_PROBE ? -2 : 0});
	mem_free(s);
	mem_free(calls);
}

static size_t model_busy(void)
{
	size_t n = 0;
	for (size_t i = 0; i < W.n_sent; i++)
		n += W.sent[i].kind == CMD_FETCH || W.sent[i].kind == CMD_REQUEUE;
	for (size_t i = 0; i < W.n_calls; i++)
		n += W.calls[i].lock_call.kind == CMD_PROBE || W.calls[i].lock_call.kind == CMD_LOCK;
	return n;
}

Test(recovery, ten_thousand_entries_are_back_within_a_second, .init = begin, .fini = story_down)
{
	W.mute = true;
	for (n_there = 0; n_there < 10000; n_there++)
		is_there[n_there + 1] = true;
	consumers(10000, 12000);
	clock_t cpu = clock();
	size_t n_most = 0;
	int n_rounds = 0;
	for (; n_there > 0; n_rounds++) {
		cr_assert_lt(n_rounds, 200, "%zu are left", n_there);
		model_round();
		story_until(W.now + 5); /* a slow round trip */
		size_t n = model_busy();
		n_most = n > n_most ? n : n_most;
		if (n_rounds == 10)
			cr_assert_leq(W.n_cmds[CMD_PENDING], 8, "%lu pages", W.n_cmds[CMD_PENDING]);
	}
	cr_assert_leq(W.now - 1000, 900, "after %ld ms", (long)(W.now - 1000));
	cr_assert(n_most > 900 && n_most <= 1000, "%zu at once", n_most);
	cr_assert_eq(count(M_REC_REQUEUED), 10000);
	double ms = (double)(clock() - cpu) * 1000 / CLOCKS_PER_SEC;
	cr_log_info("10000 recoveries: %.0f ms of CPU here, %d rounds", ms, n_rounds);
}

/* A suspect's entries 1 … n; each lock lasts another 3 s. */
static void found_alive(uint64_t n)
{
	W.mute = true;
	consumers(n, 12000);
	for (uint64_t first = 1; first < n; first += 500) {
		story_pending(CMD_PENDING, first, 500, OTHER, 11000);
		while (story_waits(CMD_FETCH))
			story_entries(CMD_FETCH, 1, 1);
		while (W.n_calls)
			answer(CMD_PROBE, OP_DONE, 3000);
	}
}

Test(recovery, a_thousand_at_once_when_many_deadlines_come_together, .init = begin, .fini = story_down)
{
	found_alive(5000);
	story_until(4004);
	cr_assert_eq(W.n_calls, 0);
	story_until(4005);
	cr_assert_eq(W.n_calls, 1000);
	for (int i = 0; i < 5000; i++)
		answer(CMD_PROBE, OP_DONE, 3000);
	cr_assert_eq(count(M_PROBE_ALIVE), 10000);
	cr_assert_eq(count(M_REC_ALIVE), 5000);
}

Test(recovery, fifty_thousand_locks_of_one_owner_are_watched, .init = begin, .fini = story_down)
{
	found_alive(50000);
	story_until(4005);
	for (int i = 0; i < 50000; i++)
		answer(CMD_PROBE, OP_DONE, 3000);
	cr_assert_eq(count(M_PROBE_ALIVE), 100000);
	cr_assert_eq(count(M_REC_ALIVE), 50000);
}

Test(recovery, a_second_suspect_does_not_wait_for_the_first, .init = begin, .fini = story_down)
{
	suspect(1);
	W.now = 1500; /* that walk took long: its next is far away */
	struct consumer_row rows[] = {
		{.name = slice_str_(OTHER), .n_pending = 1, .idle_ms = 12500},
		{.name = slice_str_("redis-consumer-third"), .n_pending = 1, .idle_ms = 10000},
	};
	story_msg_in((struct msg){.kind = MSG_SCAN, .svc = 1});
	story_clear();
	story_reply(CMD_CONSUMERS, (struct reply){.kind = REPLY_CONSUMERS, .consumers = rows, .n = 2});
	expect_story("[ 1500] pending consumer=redis-consumer-third\n");
}

Test(recovery, suspects_are_walked_through_one_after_the_other, .init = begin, .fini = story_down)
{
	struct consumer_row rows[] = {
		{.name = slice_str_(OTHER), .n_pending = 501, .idle_ms = 12500},
		{.name = slice_str_("redis-consumer-third"), .n_pending = 1, .idle_ms = 10000},
	};
	W.hide[CMD_FETCH] = true;
	story_reply(CMD_CONSUMERS, (struct reply){.kind = REPLY_CONSUMERS, .consumers = rows, .n = 2});
	bool is_other = strstr(W.text.data, "other") != NULL;
	story_clear();
	story_pending(CMD_PENDING, 1, 500, "x", 12500);
	expect_story(is_other ? "[ 1000] pending 500-1 consumer=redis-consumer-other\n"
			      : "[ 1000] pending 500-1 consumer=redis-consumer-third\n");
	story_pending(CMD_PENDING, 501, 1, "x", 12500);
	expect_story(is_other ? "[ 1000] pending consumer=redis-consumer-third\n"
			      : "[ 1000] pending consumer=redis-consumer-other\n");
}

/* ---- entries that nobody has ---- */

static void found_ghosts(size_t n, struct entry_id last)
{
	struct pending_row rows[2] = {{.id = ID7, .consumer = {"", 0}}, {.id = {9, 0}, .consumer = {"", 0}}};
	while (!story_waits(CMD_GHOSTS))
		story_until(W.now + 1);
	story_reply(CMD_GHOSTS, (struct reply){.kind = REPLY_PENDING, .pending = rows, .n = n, .id = last});
}

static void begin_ghosts(void)
{
	W.ghosts = true;
	begin();
	W.hide[CMD_GHOSTS] = true;
	W.say = true;
}

/* From the look to the door, which is closed. */
static void ghost_is_looked_at(void)
{
	found_ghosts(1, (struct entry_id){0, 0});
	const mono_ms found = W.now;
	story_until(found + 9999);
	cr_assert_not(story_waits(CMD_FETCH), "its consumer may have acknowledged it, and is about to delete it");
	story_until(found + 10000);
	fetched(3);
	answer(CMD_PROBE, OP_DONE, -2);
	answer(CMD_LOCK, OP_DONE, 0);
}

Test(ghosts, go_back_uncounted_and_loudly, .init = begin_ghosts, .fini = story_down)
{
	ghost_is_looked_at();
	story_reply(CMD_GHOST_BACK, (struct reply){.kind = REPLY_ID, .id = {99, 0}});
	cr_assert(strstr(W.text.data, "ghost_back s1 7-0\n"), "%s", W.text.data);
	cr_assert(strstr(W.text.data, "stream=s1 id=7-0 was delivered, but nobody had it: back as 99-0 n=1"), "%s",
		W.text.data);
	cr_assert(strstr(W.text.data, "> call tomb 7-0 \"gone:99-0\""), "%s", W.text.data);
	cr_assert(count(M_REQUEUE_GHOST) == 1 && count(M_REQUEUE_OWNER_DIED) == 0 && count(M_REC_REQUEUED) == 1);
}

Test(ghosts, somebody_has_it_after_all, .init = begin_ghosts, .fini = story_down)
{
	ghost_is_looked_at();
	story_clear();
	story_int(CMD_GHOST_BACK, 0);
	cr_assert(strstr(W.text.data, "> call unlock 7-0 \"recover:"), "%s", W.text.data);
	cr_assert(count(M_REQUEUE_GHOST) == 0 && count(M_REC_LOST_RACE) == 1);
}

Test(ghosts, whose_lock_is_there_is_worked_on, .init = begin_ghosts, .fini = story_down)
{
	found_ghosts(1, (struct entry_id){0, 0});
	story_until(W.now + 10000);
	fetched(0);
	story_clear();
	answer(CMD_PROBE, OP_DONE, 4000);
	story_until(W.now + 5000);
	cr_assert_not(strstr(W.text.data ? W.text.data : "", "call lock"), "%s", W.text.data);
	cr_assert_eq(count(M_REC_ALIVE), 1);
}

Test(ghosts, done_meanwhile_is_nothing, .init = begin_ghosts, .fini = story_down)
{
	found_ghosts(1, (struct entry_id){0, 0});
	story_until(W.now + 10000);
	story_clear();
	story_reply(CMD_FETCH, (struct reply){.kind = REPLY_ENTRIES});
	story_until(W.now + 1000);
	cr_assert_not(story_waits(CMD_ACK_DEL));
	cr_assert_not(strstr(W.text.data ? W.text.data : "", "lost"), "%s", W.text.data);
}

Test(ghosts, nobody_can_read_goes_to_its_reader, .init = begin_ghosts, .fini = story_down)
{
	found_ghosts(1, (struct entry_id){0, 0});
	story_until(W.now + 10000);
	struct entry_batch *b = mem_alloc(sizeof *b + sizeof b->v[0]);
	b->n = 1;
	b->v[0] = (struct entry_in){.id = ID7, .problem = ENTRY_BAD_JSON};
	story_reply(CMD_FETCH, (struct reply){.kind = REPLY_ENTRIES, .entries = b});
	story_reply(CMD_GHOST_BACK, (struct reply){.kind = REPLY_ID, .id = {99, 0}});
	cr_assert(count(M_REQUEUE_GHOST) == 1 && W.n_calls == 0);
}

Test(ghosts, are_looked_for_page_by_page_and_again_after_the_interval, .init = begin_ghosts, .fini = story_down)
{
	found_ghosts(2, (struct entry_id){9, 0});
	found_ghosts(0, (struct entry_id){0, 0});
	const mono_ms end = W.now;
	cr_assert_eq(W.n_cmds[CMD_GHOSTS], 2);
	story_until(end + 50000);
	cr_assert_eq(W.n_cmds[CMD_GHOSTS], 2, "60 s, but for the jitter");
	story_until(end + 70000);
	cr_assert_eq(W.n_cmds[CMD_GHOSTS], 3);
}

Test(ghosts, a_look_that_fails_is_tried_again, .init = begin_ghosts, .fini = story_down)
{
	while (!story_waits(CMD_GHOSTS))
		story_until(W.now + 1);
	story_error(CMD_GHOSTS, RERR_NOSCRIPT, "NOSCRIPT");
	cr_assert(story_waits(CMD_GHOSTS));
	story_error(CMD_GHOSTS, RERR_RETRY, "BUSY");
	cr_assert_not(story_waits(CMD_GHOSTS));
	story_until(W.now + 1000);
	cr_assert(story_waits(CMD_GHOSTS));
}
