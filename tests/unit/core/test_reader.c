#include "shard_story.h"

static void serve_by(struct service_rules *r)
{
	story_msg_in((struct msg){.kind = MSG_SERVICE, .service.rules = r, .service.is_read = true});
}

static void serve(bool reads)
{
	story_msg_in((struct msg){.kind = MSG_SERVICE, .service.rules = story_rules(), .service.is_read = reads});
}

/* What recovery and the look-ups of lengths do beside is not part of these stories. */
static void quiet(void)
{
	static const enum cmd_kind noise[] = {CMD_CONSUMERS, CMD_LENGTH, CMD_PENDING_SUM, CMD_UNREAD, CMD_DLQ_LENGTH,
		CMD_PENDING, CMD_HEARTBEAT, CMD_RUN_ID, CMD_ROLE, CMD_DUE};
	for (size_t i = 0; i < sizeof noise / sizeof noise[0]; i++)
		W.hide[noise[i]] = true;
	W.hide_msg[MSG_OWN_IDS] = W.hide_msg[MSG_CONN] = W.no_scan = true;
}

static void begin(void)
{
	story_up();
	quiet();
}

/* A reader that has read its own pending entries and waits for credits. */
static void ready(void)
{
	begin();
	serve(true);
	story_conn(CONN_READER, true);
	story_ok(CMD_GROUP_CREATE);
	story_entries(CMD_READ_OWN, 1, 0);
	story_clear();
}

static void credits(int64_t n)
{
	story_msg_in((struct msg){.kind = MSG_CREDITS, .svc = 1, .credits.n = n, .credits.block_cap_ms = 2000});
}

Test(reader, makes_the_group_then_reads_its_own_then_new_ones, .init = begin, .fini = story_down)
{
	serve(true);
	story_conn(CONN_READER, true);
	credits(10);
	story_ok(CMD_GROUP_CREATE);
	story_entries(CMD_READ_OWN, 1, 128);
	story_entries(CMD_READ_OWN, 200, 1);
	expect_story("[ 1000] reader open\n"
		     "[ 1000] group_create\n"
		     "[ 1000] read_own\n"
		     "[ 1000] > entries own n=128 asked=0\n"
		     "[ 1000] read_own 128-0\n"
		     "[ 1000] > entries own n=1 asked=0 +\n"
		     "[ 1000] read count=10 block=2000\n");
}

/* The loop writes what was started last first (io/redis/conn.c): the lock and its take, which a worker waits for. */
Test(reader, is_started_before_the_take_of_the_same_turn, .init = ready, .fini = story_down)
{
	struct msg acquire = {.kind = MSG_LEASE_ACQUIRE,
		.handle = 1,
		.svc = 1,
		.lease_acquire = {.slot = 5, .id = ID7, .stream = text_new("s1", 2)}};
	story_event((struct shard_event){.kind = SHARD_MSG, .msg = &acquire, .has_more = true});
	expect_story("");
	credits(10);
	expect_story("[ 1000] read count=10 block=2000\n"
		     "[ 1000] lock s1 7-0 value=redis-consumer-me/20\n");
}

Test(reader, the_last_own_page_is_told_even_when_empty, .init = begin, .fini = story_down)
{
	serve(true);
	story_ok(CMD_GROUP_CREATE);
	story_clear();
	story_reply(CMD_READ_OWN, (struct reply){.kind = REPLY_ENTRIES});
	expect_story("[ 1000] > entries own n=0 asked=0 +\n");
}

Test(reader, every_grant_ends_in_one_answer, .init = ready, .fini = story_down)
{
	credits(10);
	W.now = 1500;
	story_entries(CMD_READ, 1, 3);
	story_until(9000);
	expect_story("[ 1000] read count=10 block=2000\n"
		     "[ 1500] > entries new n=3 asked=10\n");
	credits(7);
	story_reply(CMD_READ, (struct reply){.kind = REPLY_NIL});
	expect_story("[ 9000] read count=7 block=2000\n"
		     "[ 9000] > entries new n=0 asked=7\n");
	story_until(20000);
	expect_story("");
}

Test(reader, reads_no_more_than_a_batch, .init = ready, .fini = story_down)
{
	credits(1000);
	story_entries(CMD_READ, 1, 128);
	expect_story("[ 1000] read count=128 block=2000\n"
		     "[ 1000] > entries new n=128 asked=128\n");
}

Test(reader, blocks_no_longer_than_a_third_of_t_or_than_told, .init = ready, .fini = story_down)
{
	story_msg_in((struct msg){.kind = MSG_CREDITS, .svc = 1, .credits.n = 1, .credits.block_cap_ms = 50});
	expect_story("[ 1000] read count=1 block=50\n");
	story_entries(CMD_READ, 1, 0);
	struct service_rules *r = story_rules();
	r->lease.ttl_ms = 3000;
	story_msg_in((struct msg){.kind = MSG_SERVICE, .service.rules = r, .service.is_read = true});
	story_clear();
	credits(1);
	expect_story("[ 1000] read count=1 block=1000\n");
}

static void look_finds(size_t n, int64_t n_merged)
{
	struct entry_batch *b = mem_alloc(sizeof *b + n * sizeof b->v[0]);
	b->n = n;
	story_reply(CMD_SIFT, (struct reply){.kind = REPLY_ENTRIES, .entries = b, .integer = n_merged});
}

/* In entries mode. */
static void ready_for_entries_by(enum same_stream same_stream)
{
	begin();
	W.hide_msg[MSG_LOCK_CALL] = W.hide[CMD_FLEET] = true;
	struct service_rules *r = story_rules();
	r->entries.is_on = true;
	r->entries.idle_release_ms = 1000;
	r->same_stream = same_stream;
	serve_by(r);
	story_conn(CONN_READER, true);
	story_ok(CMD_GROUP_CREATE);
	story_entries(CMD_READ_OWN, 1, 0);
	story_clear();
}

static void ready_for_entries(void)
{
	ready_for_entries_by(SAME_STREAM_COALESCE);
}

static void ready_for_sessions(void)
{
	ready_for_entries_by(SAME_STREAM_SERIALIZE);
}

static void looks_and_finds(mono_ms at, size_t n, int64_t n_merged)
{
	story_until(at - 1);
	expect_story("");
	story_until(at);
	look_finds(n, n_merged);
	char text[100];
	int len = snprintf(text, sizeof text, "[ %lld] sift\n", (long long)at);
	if (n || n_merged)
		snprintf(text + len, sizeof text - (size_t)len, "[ %lld] > waiting n=%zu merged=%lld\n", (long long)at,
			n, (long long)n_merged);
	expect_story(text);
}

Test(reader, looks_who_waits_while_no_credit_is_free_less_and_less_often, .init = ready_for_entries, .fini = story_down)
{
	looks_and_finds(1025, 2, 3);
	looks_and_finds(1050, 2, 0); /* what was merged made room for others to be seen */
	looks_and_finds(1100, 0, 0);
	looks_and_finds(1200, 0, 0);
	looks_and_finds(1400, 0, 0);
	looks_and_finds(1650, 0, 0);
	looks_and_finds(1900, 0, 0);
	credits(1);
	story_until(2900);
	expect_story("[ 1900] read count=1 block=2000\n");
	story_entries(CMD_READ, 1, 1);
	expect_story("[ 2900] > entries new n=1 asked=1\n[ 2900] sift\n"); /* the last look was long ago */
	look_finds(0, 0);
	looks_and_finds(2950, 0, 0);
}

Test(reader, reads_do_not_put_a_look_off_for_ever, .init = ready_for_entries, .fini = story_down)
{
	looks_and_finds(1025, 0, 0);
	for (mono_ms at = 1030; at < 1275; at += 20) { /* each read within 25 ms after the last */
		story_until(at);
		credits(1);
		story_entries(CMD_READ, 1, 1);
	}
	story_clear();
	story_until(1274);
	expect_story("");
	story_until(1275);
	expect_story("[ 1275] sift\n");
}

Test(reader, looks_also_where_idle_ones_keep_their_credits, .init = ready_for_sessions, .fini = story_down)
{
	looks_and_finds(1250, 2, 0); /* those that wait for a next try do not */
}

static void workers_are(uint32_t n, bool may_get_more)
{
	story_msg_in((struct msg){
		.kind = MSG_FLEET, .svc = 1, .fleet = {.credits = n, .n_workers = n, .may_get_more = may_get_more}});
}

Test(reader, it_looks_from_the_first_worker_on, .init = ready_for_entries, .fini = story_down)
{
	workers_are(0, false);
	story_until(5000);
	expect_story("");
	workers_are(1, true);
	look_finds(2, 0);
	expect_story("[ 5000] sift\n[ 5000] > waiting n=2 merged=0\n");
}

Test(reader, without_entries_mode_it_looks_where_others_may_give_up_credits, .init = ready, .fini = story_down)
{
	W.hide[CMD_FLEET] = true;
	story_until(5000);
	workers_are(1, false);
	story_until(9000);
	expect_story("");
	workers_are(1, true);
	look_finds(2, 0);
	expect_story("[ 9000] sift\n[ 9000] > waiting n=2 merged=0\n");
	looks_and_finds(9250, 0, 0);
	workers_are(0, false);
	story_until(20000);
	expect_story("");
}

Test(reader, tells_of_workers_that_come_while_it_tells, .init = ready, .fini = story_down)
{
	W.hide[CMD_FLEET] = false;
	workers_are(5, false);
	expect_story("[ 1000] fleet\n");
	workers_are(12, false);
	story_int(CMD_FLEET, 1);
	story_until(2000);
	expect_story("[ 2000] fleet\n");
	story_int(CMD_FLEET, 1);
	story_until(11000);
	expect_story("");
}

/* The stream has gone ahead, that key perhaps not: MIGRATE refuses to put it over a second one. */
Test(reader, behind_an_ask_it_does_not_tell_of_workers, .init = ready, .fini = story_down)
{
	W.hide[CMD_FLEET] = false;
	story_msg_in((struct msg){
		.kind = MSG_SERVICE, .service.rules = story_rules(), .service.is_read = true, .service.asking = true});
	workers_are(5, false);
	story_until(5000);
	cr_assert(!W.text.data || !strstr(W.text.data, "fleet"), "%s", W.text.data);
	story_msg_in((struct msg){.kind = MSG_SERVICE, .service.rules = story_rules(), .service.is_read = true});
	cr_assert(strstr(W.text.data, "fleet"), "the slot has come: %s", W.text.data);
}

Test(reader, without_workers_it_does_not_look, .init = ready_for_entries, .fini = story_down)
{
	story_msg_in((struct msg){.kind = MSG_FLEET, .svc = 1});
	story_until(5000);
	expect_story("");
}

/* The slot is on its way; keys that nobody has made yet, or that have gone ahead, are not the stream. */
Test(reader, an_ask_for_a_key_beside_the_stream_leaves_the_reader_here, .init = ready, .fini = story_down)
{
	W.trials = true;
	credits(1);
	story_until(6000);
	story_clear();
	story_error(CMD_TRIAL, RERR_ASK, "h:1");
	expect_story("[ 6000] > refresh \"ask\"\n");
	story_until(7000);
	story_entries(CMD_READ, 1, 1);
	story_clear();
	credits(1);
	expect_story("[ 7000] read count=1 block=2000\n");
}

/* The move was called off and the stream has gone back: none is made anew at the other node. */
Test(reader, a_group_that_is_gone_behind_an_ask_is_looked_for_at_home, .init = ready, .fini = story_down)
{
	story_msg_in((struct msg){
		.kind = MSG_SERVICE, .service.rules = story_rules(), .service.is_read = true, .service.asking = true});
	story_clear();
	story_error(CMD_HEARTBEAT, RERR_NOGROUP, "NOGROUP no such key");
	expect_story("[ 1000] > moved slot=5\n");
}

static void due(int64_t moved, int64_t wait_ms)
{
	struct reply r = {
		.kind = REPLY_COUNTS, .counts = {[DUE_MOVED] = moved, [DUE_WAIT_MS] = wait_ms, [DUE_DELAYED] = 7}};
	story_reply(CMD_DUE, r);
}

Test(reader, looks_for_what_is_due_in_time_and_once_a_second, .init = ready, .fini = story_down)
{
	W.hide[CMD_DUE] = false;
	story_clear();
	due(0, -1);
	story_until(1999);
	expect_story("");
	story_until(2000);
	due(100, 0); /* a full page: more may be due */
	due(3, 300);
	story_until(2300);
	due(1, 60000);
	expect_story("[ 2000] due\n[ 2000] due\n[ 2300] due\n");
	story_until(3300);
	expect_story("[ 3300] due\n");
	cr_expect_eq(shard_lengths(W.s, 1).delayed, 7);
}

Test(reader, what_it_gives_back_itself_is_looked_for_when_it_is_due, .init = ready, .fini = story_down)
{
	W.hide[CMD_DUE] = W.hide[CMD_LATER] = false;
	W.hide[CMD_LATER] = W.hide_msg[MSG_OP_RESULT] = true;
	due(0, -1);
	story_until(1900);
	story_clear();
	story_msg_in((struct msg){
		.kind = MSG_OP, .op.kind = CMD_LATER, .handle = 1, .svc = 1, .op.id = ID7, .op.delay_ms = 50});
	story_int(CMD_LATER, 1);
	story_until(1950);
	expect_story("[ 1950] due\n");
}

Test(reader, never_two_reads_at_once, .init = ready, .fini = story_down)
{
	credits(10);
	credits(20);
	story_until(30000);
	cr_assert_eq(W.n_cmds[CMD_READ], 1);
	story_clear();
	story_entries(CMD_READ, 1, 1);
	expect_story("[30000] > entries new n=1 asked=10\n"); /* and waits to be told anew */
}

Test(reader, credits_that_go_away_unblock_it, .init = ready, .fini = story_down)
{
	credits(10);
	credits(0);
	expect_story("[ 1000] read count=10 block=2000\n"
		     "[ 1000] unblock 33\n");
	story_reply(CMD_READ, (struct reply){.kind = REPLY_NIL});
	story_int(CMD_UNBLOCK, 1);
	expect_story("[ 1000] > entries new n=0 asked=10\n");
	credits(5);
	expect_story("[ 1000] read count=5 block=2000\n");
}

Test(reader, credits_taken_back_before_the_read_are_answered, .init = ready, .fini = story_down)
{
	story_conn(CONN_READER, false);
	credits(10);
	expect_story("");
	credits(0);
	expect_story("[ 1000] > entries new n=0 asked=10\n");
	credits(0);
	expect_story("");
	story_conn(CONN_READER, true);
	expect_story("");
}

Test(reader, a_lost_reply_ends_the_grant_and_an_audit_looks_for_it, .init = ready, .fini = story_down)
{
	credits(10);
	story_pending(CMD_PENDING, 1, 0, "", 0);
	W.now = 1100;
	story_clear();
	story_reply(CMD_READ, (struct reply){.kind = REPLY_NONE});
	story_conn(CONN_READER, false);
	expect_story("[ 1100] > entries new n=0 asked=10\n");
	credits(10);
	expect_story("");
	W.now = 1200;
	uint64_t audits = W.n_cmds[CMD_PENDING];
	story_conn(CONN_READER, true);
	expect_story("[ 1200] read count=10 block=2000\n");
	cr_assert_eq(W.n_cmds[CMD_PENDING], audits + 1);
}

/* A handoff: another connection is the reader's from now on, the read on the one that was left still waits. */
static void switch_reader(void)
{
	story_event((struct shard_event){
		.kind = SHARD_CONN, .role = CONN_READER, .svc = 1, .up = true, .is_valkey = true, .client_id = 44});
}

Test(reader, goes_on_reading_when_the_one_that_was_left_is_silent, .init = ready, .fini = story_down)
{
	credits(10);
	story_clear();
	switch_reader();
	story_until(1099);
	expect_story("");
	story_until(1200);
	expect_story("[ 1100] read count=10 block=2000\n");
	story_entries(CMD_READ, 1, 2); /* the old one's answer, late: taken, and the grant goes on */
	expect_story("[ 1200] > entries new n=2 asked=0\n");
	story_entries(CMD_READ, 7, 1);
	expect_story("[ 1200] > entries new n=1 asked=10\n");
}

Test(reader, the_answer_of_the_one_that_was_left_ends_the_grant, .init = ready, .fini = story_down)
{
	credits(10);
	story_clear();
	switch_reader();
	story_entries(CMD_READ, 1, 2);
	expect_story("[ 1000] > entries new n=2 asked=10\n");
	credits(8);
	expect_story("[ 1000] read count=8 block=2000\n");
	switch_reader(); /* told once more: the same connection */
	story_until(2000);
	expect_story("");
	story_event(
		(struct shard_event){.kind = SHARD_CONN, .role = CONN_READER, .svc = 1, .up = true, .client_id = 55});
	story_reply(CMD_READ, (struct reply){.kind = REPLY_NIL}); /* unblocked, or lost: the grant is there still */
	expect_story("[ 2000] read count=8 block=2000\n");
	credits(0);
	expect_story("[ 2000] unblock 55\n");
}

Test(reader, a_read_that_fails_waits_before_the_next, .init = ready, .fini = story_down)
{
	credits(10);
	story_clear();
	story_error(CMD_READ, RERR_REFRESH, "UNBLOCKED");
	credits(10);
	expect_story("[ 1000] > entries new n=0 asked=10\n"
		     "[ 1000] > refresh \"UNBLOCKED\"\n");
	story_until(1200);
	cr_assert(strstr(W.text.data, "read count=10"), "%s", W.text.data);
}

Test(reader, a_lost_group_is_made_again_loudly, .init = ready, .fini = story_down)
{
	W.say = true;
	credits(10);
	story_clear();
	story_error(CMD_READ, RERR_NOGROUP, "NOGROUP");
	credits(10);
	story_ok(CMD_GROUP_CREATE);
	expect_story("[ 1000] > entries new n=0 asked=10\n"
		     "[ 1000] say shard=2 service=orders the consumer group is gone: making it again from the "
		     "beginning n=1\n"
		     "[ 1000] > group_lost\n"
		     "[ 1000] group_create value=0\n"
		     "[ 1000] > group_lost +\n"
		     "[ 1000] say shard=2 service=orders the consumer group is made again\n"
		     "[ 1000] read count=10 block=2000\n");
}

/* What makes it and what reads may be at different servers. */
Test(reader, a_group_that_is_lost_again_and_again_is_made_more_and_more_seldom, .init = ready, .fini = story_down)
{
	W.say = true;
	credits(10);
	int n_said = 0;
	for (int i = 0; i < 12; i++) {
		story_error(CMD_READ, RERR_NOGROUP, "NOGROUP");
		credits(10);
		story_until(W.now + 7000); /* with that nothing is left to wait for */
		story_ok(CMD_GROUP_CREATE);
		n_said += strstr(W.text.data, "say shard=2 service=orders the consumer group is gone") != NULL;
		story_clear();
	}
	cr_assert_eq(n_said, 2, "once, and a minute later: %d", n_said);
	story_error(CMD_READ, RERR_NOGROUP, "NOGROUP");
	credits(10);
	story_until(W.now + 3000);
	cr_assert_null(strstr(W.text.data, "group_create"), "%s", W.text.data);
	story_until(W.now + 4000);
	cr_assert(strstr(W.text.data, "group_create"), "%s", W.text.data);
}

Test(reader, a_lost_group_is_told_once, .init = ready, .fini = story_down)
{
	story_error(CMD_HEARTBEAT, RERR_NOGROUP, "NOGROUP");
	story_clear();
	story_error(CMD_LENGTH, RERR_NOGROUP, "NOGROUP");
	expect_story("");
	cr_assert_eq(W.n_cmds[CMD_GROUP_CREATE], 2);
}

Test(reader, an_answer_to_a_former_reader_is_too_late, .init = begin, .fini = story_down)
{
	serve(true);
	serve(false);
	serve(true);
	story_clear();
	story_ok(CMD_GROUP_CREATE);
	expect_story("");
	story_ok(CMD_GROUP_CREATE);
	expect_story("[ 1000] read_own\n");
}

Test(reader, an_operation_that_finds_no_group_has_it_repaired, .init = ready, .fini = story_down)
{
	story_msg_in((struct msg){.kind = MSG_OP, .op.kind = CMD_TAKE, .handle = 1, .svc = 1, .op.id = ID7});
	story_clear();
	story_error(CMD_TAKE, RERR_NOGROUP, "NOGROUP");
	expect_story("[ 1000] > group_lost\n"
		     "[ 1000] group_create value=0\n");
	story_ok(CMD_GROUP_CREATE);
	story_clear();
	story_until(1100);
	cr_assert(strstr(W.text.data, "take 7-0\n"));
}

Test(reader, moved_waits_to_be_told_and_looks_by_itself_after_a_while, .init = ready, .fini = story_down)
{
	credits(10);
	story_clear();
	story_error(CMD_READ, RERR_MOVED, "h:1");
	credits(10);
	story_until(2999);
	expect_story("[ 1000] > entries new n=0 asked=10\n"
		     "[ 1000] > moved slot=5 \"h:1\"\n");
	story_until(3000);
	expect_story("[ 3000] group_create\n");
	story_ok(CMD_GROUP_CREATE);
	expect_story("[ 3000] read count=10 block=2000\n");
}

Test(reader, goes_on_when_told_again, .init = ready, .fini = story_down)
{
	credits(10);
	story_error(CMD_READ, RERR_ASK, "h:1");
	story_clear();
	story_msg_in((struct msg){
		.kind = MSG_SERVICE, .service.rules = story_rules(), .service.is_read = true, .service.asking = true});
	expect_story("[ 1000] group_create asking\n");
}

Test(reader, closes_and_hands_on_what_still_came, .init = ready, .fini = story_down)
{
	credits(10);
	story_clear();
	serve(false);
	expect_story("[ 1000] reader close\n");
	story_entries(CMD_READ, 1, 2);
	expect_story("[ 1000] > entries new n=2 asked=0\n");
	credits(10);
	expect_story("[ 1000] > entries new n=0 asked=10\n");
	serve(true); /* a late answer to the former reader means nothing to the new one */
	story_clear();
	story_until(30000);
	expect_story("");
}

Test(reader, a_service_that_is_gone_is_not_read, .init = ready, .fini = story_down)
{
	story_msg_in((struct msg){.kind = MSG_SERVICE_GONE, .svc = 1});
	expect_story("[ 1000] reader close\n");
	cr_assert_null(shard_service_metrics(W.s, 1));
	story_clear();
	story_until(60000);
	expect_story("");
}

/* ---- beside the reads ---- */

static void answer_all(enum cmd_kind kind)
{
	while (story_waits(kind))
		story_int(kind, 5);
}

Test(reader, beats_its_heart_every_third_of_t, .init = ready, .fini = story_down)
{
	uint64_t n = W.n_cmds[CMD_HEARTBEAT];
	while (W.now < 31000) {
		while (story_waits(CMD_HEARTBEAT))
			story_reply(CMD_HEARTBEAT, (struct reply){.kind = REPLY_ENTRIES});
		story_until(W.now + 1);
	}
	cr_assert_eq(n, 1);
	cr_assert(W.n_cmds[CMD_HEARTBEAT] >= 10 && W.n_cmds[CMD_HEARTBEAT] <= 11, "%lu", W.n_cmds[CMD_HEARTBEAT]);
}

Test(reader, knows_the_lengths_once_a_second, .init = ready, .fini = story_down)
{
	cr_assert_eq(shard_lengths(W.s, 1).lbs, -1);
	answer_all(CMD_LENGTH);
	answer_all(CMD_PENDING_SUM);
	answer_all(CMD_DLQ_LENGTH);
	story_error(CMD_UNREAD, RERR_NOSCRIPT, "NOSCRIPT"); /* sent again with its text */
	story_reply(CMD_UNREAD, (struct reply){.kind = REPLY_ID, .id = {700, 3}});
	cr_assert_eq(W.n_cmds[CMD_UNREAD], 2);
	struct shard_lengths l = shard_lengths(W.s, 1);
	cr_assert(l.lbs == 5 && l.pending == 5 && l.dlq == 5 && l.unread_ms == 700);
	story_until(1999);
	cr_assert_eq(W.n_cmds[CMD_LENGTH], 1);
	story_until(2000);
	cr_assert_eq(W.n_cmds[CMD_LENGTH], 2);
	story_nil(CMD_UNREAD);
	cr_assert_eq(shard_lengths(W.s, 1).unread_ms, -1);
}

static void dead_letters_elsewhere(enum op_result result, int64_t n)
{
	story_msg_in((struct msg){.kind = MSG_LOCK_ANSWER,
		.lock_answer.tag = W.last_call.lock_call.tag,
		.lock_answer.kind = CMD_DLQ_LENGTH,
		.svc = 1,
		.lock_answer.result = (uint8_t)result,
		.lock_answer.integer = n});
}

Test(reader, asks_where_the_dead_letters_are_how_many_they_are, .init = begin, .fini = story_down)
{
	struct service_rules *r = story_rules();
	r->dlq.is_same_slot = false;
	r->dlq.slot = 77;
	serve_by(r);
	story_ok(CMD_GROUP_CREATE);
	story_entries(CMD_READ_OWN, 1, 0);
	cr_assert(W.n_cmds[CMD_DLQ_LENGTH] == 0 && W.last_call.lock_call.kind == CMD_DLQ_LENGTH &&
		  W.last_call.lock_call.slot == 77);
	cr_assert_eq(shard_lengths(W.s, 1).dlq, -1);
	story_clear();
	struct msg first = W.last_call;
	dead_letters_elsewhere(OP_DONE, 7);
	cr_assert_eq(shard_lengths(W.s, 1).dlq, 7);
	story_until(1999);
	expect_story("");
	story_until(2000);
	expect_story("[ 2000] > call dlq_length 0-0\n");
	dead_letters_elsewhere(OP_MOVED, 0); /* that master is asked later */
	cr_assert_eq(shard_lengths(W.s, 1).dlq, 7);
	story_until(3000);
	expect_story("[ 3000] > call dlq_length 0-0\n");
	story_until(3000 + 1000 + 2 * 3000); /* nobody answered */
	expect_story("[10000] > call dlq_length 0-0\n");
	W.last_call = first;
	dead_letters_elsewhere(OP_DONE, 9); /* too late */
	cr_assert_eq(shard_lengths(W.s, 1).dlq, 7);
}

/* The audit asks for our own consumer; recovery for all or for others. */
static void audit_answer(uint64_t first, size_t n)
{
	story_pending(CMD_PENDING, first, n, "redis-consumer-me", 0);
}

Test(reader, audits_page_by_page, .init = ready, .fini = story_down)
{
	W.hide_msg[MSG_OWN_IDS] = W.hide[CMD_PENDING] = false;
	audit_answer(1, 1000);
	W.now = 1100;
	audit_answer(1001, 10);
	expect_story("[ 1000] > own_ids pass=1 n=1000\n"
		     "[ 1000] pending 1000-1 consumer=redis-consumer-me\n"
		     "[ 1100] > own_ids pass=1 n=10 +\n");
	story_until(1999);
	expect_story("");
	story_until(2000); /* a second after its start; it took less than a tenth of that */
	expect_story("[ 2000] pending consumer=redis-consumer-me\n");
	W.now = 2500;
	audit_answer(1, 0);
	story_drop_waiting(CMD_CONSUMERS);
	story_clear();
	story_until(6999); /* ten times as long as it took */
	cr_assert_null(strstr(W.text.data ? W.text.data : "", "pending consumer=redis-consumer-me"));
	story_until(7000);
	cr_assert(strstr(W.text.data, "[ 7000] pending consumer=redis-consumer-me\n"));
	W.now = 13000; /* a stall of six seconds */
	audit_answer(1, 0);
	story_drop_waiting(CMD_CONSUMERS);
	story_clear();
	story_until(16999);
	cr_assert_null(strstr(W.text.data ? W.text.data : "", "pending consumer=redis-consumer-me"));
	story_until(17000);
	cr_assert(strstr(W.text.data, "[17000] pending consumer=redis-consumer-me\n"));
}

Test(reader, audits_of_many_ids_are_rarer, .init = ready, .fini = story_down)
{
	W.hide_msg[MSG_OWN_IDS] = W.hide[CMD_PENDING] = false;
	for (uint64_t page = 0; page < 25; page++)
		audit_answer(1 + page * 1000, 1000);
	audit_answer(25001, 0);
	story_clear();
	story_until(2999); /* 25,000 of 12,500 a second */
	cr_assert_null(strstr(W.text.data ? W.text.data : "", "pending consumer=redis-consumer-me"));
	story_until(3000);
	cr_assert(strstr(W.text.data, "[ 3000] pending consumer=redis-consumer-me\n"));
}

Test(reader, an_audit_that_breaks_off_begins_anew, .init = ready, .fini = story_down)
{
	W.hide_msg[MSG_OWN_IDS] = W.hide[CMD_PENDING] = false;
	audit_answer(1, 1000);
	story_error(CMD_PENDING, RERR_RETRY, "BUSY");
	story_clear();
	while (!story_waits(CMD_PENDING))
		story_until(W.now + 1);
	audit_answer(1, 1);
	cr_assert(strstr(W.text.data, "own_ids pass=2 n=1 +\n"), "%s", W.text.data);
}
