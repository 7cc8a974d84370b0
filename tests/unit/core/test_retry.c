#include "shard_story.h"

static void op(enum cmd_kind kind)
{
	story_msg_in((struct msg){.kind = MSG_OP,
		.op.kind = (uint8_t)kind,
		.handle = 1,
		.svc = 1,
		.op.id = ID7,
		.op.retry = 2,
		.op.stream = text_new("s1", 2)});
}

static void new_id(uint64_t ms)
{
	story_reply(CMD_REQUEUE, (struct reply){.kind = REPLY_ID, .id = {ms, 0}});
}

/* Until the command is sent again; how long that took. */
static mono_ms again(enum cmd_kind kind)
{
	mono_ms from = W.now;
	while (!story_waits(kind)) {
		cr_assert_lt(W.now - from, 60000, "never sent again");
		story_until(W.now + 1);
	}
	return W.now - from;
}

static void change_rules(struct service_rules *r)
{
	story_msg_in((struct msg){.kind = MSG_SERVICE, .service.rules = r});
	story_clear();
}

/* ---- what answers mean ---- */

Test(retry, take_is_taken_parked_or_gone, .init = story_up, .fini = story_down)
{
	for (int i = 2; i >= 0; i--) {
		op(CMD_TAKE);
		story_int(CMD_TAKE, i);
	}
	expect_story("[ 1000] take s1 7-0\n[ 1000] > op take parked\n"
		     "[ 1000] take s1 7-0\n[ 1000] > op take done\n"
		     "[ 1000] take s1 7-0\n[ 1000] > op take gone\n");
}

Test(retry, done_is_done_or_not_ours_any_more, .init = story_up, .fini = story_down)
{
	op(CMD_DONE);
	story_int(CMD_DONE, 1);
	op(CMD_DONE);
	story_int(CMD_DONE, 0);
	expect_story("[ 1000] done s1 7-0\n[ 1000] > op done done\n"
		     "[ 1000] done s1 7-0\n[ 1000] > op done gone\n");
}

Test(retry, requeue_tells_the_new_id, .init = story_up, .fini = story_down)
{
	op(CMD_REQUEUE);
	new_id(8);
	op(CMD_REQUEUE);
	story_nil(CMD_REQUEUE);
	op(CMD_REQUEUE);
	story_int(CMD_REQUEUE, 0);
	op(CMD_REQUEUE);
	story_int(CMD_REQUEUE, 2);
	expect_story(
		"[ 1000] requeue s1 7-0 consumer=redis-consumer-me retry=2 idle=0\n[ 1000] > op requeue done 8-0\n"
		"[ 1000] requeue s1 7-0 consumer=redis-consumer-me retry=2 idle=0\n[ 1000] > op requeue gone\n"
		"[ 1000] requeue s1 7-0 consumer=redis-consumer-me retry=2 idle=0\n[ 1000] > op requeue not_ours\n"
		"[ 1000] requeue s1 7-0 consumer=redis-consumer-me retry=2 idle=0\n[ 1000] > op requeue deleted\n");
}

static void later(bool resent)
{
	story_msg_in((struct msg){.kind = MSG_OP,
		.op.kind = CMD_LATER,
		.handle = 1,
		.svc = 1,
		.op.id = ID7,
		.op.retry = 2,
		.op.delay_ms = 8000,
		.op.is_fail = true,
		.op.resent = resent,
		.op.stream = text_new("s1", 2),
		.op.error = text_new("no luck", 7)});
}

Test(retry, later_is_done_gone_or_not_ours, .init = story_up, .fini = story_down)
{
	for (int i = 0; i <= 2; i++) {
		later(false);
		story_int(CMD_LATER, i);
	}
	later(false);
	story_nil(CMD_LATER);
	later(true); /* the first one did it */
	story_nil(CMD_LATER);
	expect_story(
		"[ 1000] later s1 7-0 consumer=redis-consumer-me delay=8000 why=fail\n[ 1000] > op later not_ours\n"
		"[ 1000] later s1 7-0 consumer=redis-consumer-me delay=8000 why=fail\n[ 1000] > op later done\n"
		"[ 1000] later s1 7-0 consumer=redis-consumer-me delay=8000 why=fail\n[ 1000] > op later deleted\n"
		"[ 1000] later s1 7-0 consumer=redis-consumer-me delay=8000 why=fail\n[ 1000] > op later gone\n"
		"[ 1000] later s1 7-0 consumer=redis-consumer-me delay=8000 why=fail\n[ 1000] > op later done "
		"resent\n");
}

Test(retry, later_tells_how_often_an_entry_of_the_stream_failed, .init = story_up, .fini = story_down)
{
	story_msg_in((struct msg){.kind = MSG_OP,
		.op = {.kind = CMD_LATER, .id = ID7, .delay_ms = 8000, .tries = 2, .stream = text_new("s1", 2)},
		.handle = 1,
		.svc = 1});
	story_int(CMD_LATER, 1);
	expect_story("[ 1000] later s1 7-0 consumer=redis-consumer-me delay=8000 why=release tries=2\n"
		     "[ 1000] > op later done\n");
}

Test(retry, dead_letter_in_the_same_slot_is_one_script, .init = story_up, .fini = story_down)
{
	for (int i = 0; i <= 2; i++) {
		op(CMD_DEAD);
		story_int(CMD_DEAD, i);
	}
	expect_story("[ 1000] dead s1 7-0 consumer=redis-consumer-me\n[ 1000] > op dead gone\n"
		     "[ 1000] dead s1 7-0 consumer=redis-consumer-me\n[ 1000] > op dead done\n"
		     "[ 1000] dead s1 7-0 consumer=redis-consumer-me\n[ 1000] > op dead deleted\n");
}

Test(retry, fetch_hands_the_entry_over, .init = story_up, .fini = story_down)
{
	op(CMD_FETCH);
	struct entry_batch *b = mem_alloc(sizeof *b + sizeof b->v[0]);
	b->n = 1;
	b->v[0].stream = text_new("s1", 2);
	story_reply(CMD_FETCH, (struct reply){.kind = REPLY_ENTRIES, .entries = b});
	op(CMD_FETCH);
	story_reply(CMD_FETCH, (struct reply){.kind = REPLY_ENTRIES});
	expect_story("[ 1000] fetch s1 7-0\n[ 1000] > op fetch done\n"
		     "[ 1000] fetch s1 7-0\n[ 1000] > op fetch gone\n");
}

/* ---- repeated until answered ---- */

Test(retry, a_lost_reply_is_told_with_the_answer, .init = story_up, .fini = story_down)
{
	op(CMD_DONE);
	story_cut();
	W.now = 5000;
	story_conn(CONN_COMMAND, true);
	story_clear();
	story_int(CMD_DONE, 0);
	expect_story("[ 5000] > op done gone resent\n");
}

Test(retry, gone_after_a_lost_reply_was_done_by_the_first, .init = story_up, .fini = story_down)
{
	op(CMD_REQUEUE);
	op(CMD_DEAD);
	story_cut();
	story_conn(CONN_COMMAND, true);
	story_clear();
	story_nil(CMD_REQUEUE);
	story_int(CMD_DEAD, 0);
	expect_story("[ 1000] > op requeue done resent\n[ 1000] > op dead done resent\n");
}

Test(retry, what_was_resent_elsewhere_stays_resent, .init = story_up, .fini = story_down)
{
	story_msg_in((struct msg){.kind = MSG_OP,
		.op.kind = CMD_DONE,
		.handle = 1,
		.svc = 1,
		.op.id = ID7,
		.op.resent = true,
		.op.stream = text_new("s1", 2)});
	story_clear();
	story_int(CMD_DONE, 0);
	expect_story("[ 1000] > op done gone resent\n");
}

Test(retry, refusals_of_the_moment_are_repeated_with_backoff, .init = story_up, .fini = story_down)
{
	op(CMD_DONE);
	mono_ms longest = 0, first = 0;
	for (int i = 0; i < 12; i++) {
		story_error(CMD_DONE, RERR_RETRY, "OOM");
		longest = again(CMD_DONE);
		first = first ? first : longest;
	}
	cr_assert(first >= 37 && first <= 63, "first after %ld", (long)first);
	cr_assert(longest >= 750 && longest <= 1250, "last after %ld", (long)longest);
	story_clear();
	story_int(CMD_DONE, 0); /* refused is not executed: nothing was resent */
	cr_assert(strstr(W.text.data, "op done gone\n"), "%s", W.text.data);
}

Test(retry, an_operators_error_does_not_end_it, .init = story_up, .fini = story_down)
{
	op(CMD_DONE);
	story_clear();
	mono_ms longest = 0;
	for (int i = 0; i < 10; i++) {
		story_error(CMD_DONE, RERR_OPERATOR, "WRONGTYPE");
		longest = again(CMD_DONE);
	}
	cr_assert(longest >= 3750 && longest <= 6250, "%ld", (long)longest);
	const char *said = strstr(W.text.data, "say shard=2 service=orders operation: redis refuses: WRONGTYPE");
	cr_assert(said, "%s", W.text.data);
	cr_assert_null(strstr(said + 1, "say shard"));
}

Test(retry, an_operators_command_gets_the_servers_words, .init = story_up, .fini = story_down)
{
	story_msg_in((struct msg){
		.kind = MSG_OP, .op.kind = CMD_ADD, .handle = 1, .svc = 1, .op.stream = text_new("s1", 2)});
	story_clear();
	story_error(CMD_ADD, RERR_OPERATOR, "WRONGTYPE");
	cr_assert(strstr(W.text.data, "> op add failed \"WRONGTYPE\"\n"), "%s", W.text.data);
}

Test(retry, an_add_is_neither_repeated_nor_waited_for_without_end, .init = story_up, .fini = story_down)
{
	struct msg add = {.kind = MSG_OP, .op.kind = CMD_ADD, .handle = 1, .svc = 1};
	add.op.stream = text_new("s1", 2);
	story_msg_in(add);
	story_cut(); /* it may be there: a second one would run twice */
	cr_assert(strstr(W.text.data, "> op add failed resent\n"), "%s", W.text.data);
	add.op.stream = text_new("s2", 2);
	story_msg_in(add);
	story_clear();
	story_until(W.now + 2999);
	cr_assert_null(W.text.data ? strstr(W.text.data, "add") : NULL);
	story_until(W.now + 1);
	cr_assert(strstr(W.text.data, "> op add failed\n"), "%s", W.text.data);
}

Test(retry, an_unknown_script_is_sent_as_text, .init = story_up, .fini = story_down)
{
	op(CMD_TAKE);
	story_error(CMD_TAKE, RERR_NOSCRIPT, "NOSCRIPT");
	story_int(CMD_TAKE, 1);
	expect_story("[ 1000] take s1 7-0\n[ 1000] take s1 7-0 eval\n[ 1000] > op take done\n");
}

Test(retry, waits_for_the_connection, .init = story_up, .fini = story_down)
{
	story_cut();
	story_clear();
	op(CMD_DONE);
	story_until(60000);
	expect_story("");
	story_conn(CONN_COMMAND, true);
	cr_assert(strstr(W.text.data, "[60000] done s1 7-0\n"));
}

Test(retry, at_most_two_thousand_are_on_their_way_in_order, .init = story_up, .fini = story_down)
{
	W.mute = true;
	for (uint64_t i = 1; i <= 5000; i++)
		story_msg_in(
			(struct msg){.kind = MSG_OP, .op.kind = CMD_REQUEUE, .handle = i, .svc = 1, .op.id = {i, 0}});
	cr_assert_eq(W.n_cmds[CMD_REQUEUE], 2000);
	for (uint64_t i = 1; i <= 5000; i++) {
		struct sent s = story_take(CMD_REQUEUE);
		cr_assert_eq(s.id.ms, i);
		struct reply r = {.kind = REPLY_INT, .integer = 1};
		story_event((struct shard_event){.kind = SHARD_REPLY, .tag = s.tag, .reply = &r});
	}
	cr_assert_eq(W.n_msgs[MSG_OP_RESULT], 5000);
}

static void requeue_answered(void)
{
	struct sent s = story_take(CMD_REQUEUE);
	struct reply r = {.kind = REPLY_INT, .integer = 1};
	story_event((struct shard_event){.kind = SHARD_REPLY, .tag = s.tag, .reply = &r});
}

/* A worker with 50,000 streams was killed: the streams of others began when all of these had gone back. */
Test(retry, what_workers_wait_for_goes_before_what_goes_back, .init = story_up, .fini = story_down)
{
	W.mute = true;
	for (uint64_t i = 1; i <= 5000; i++)
		story_msg_in(
			(struct msg){.kind = MSG_OP, .op.kind = CMD_REQUEUE, .handle = i, .svc = 1, .op.id = {i, 0}});
	story_msg_in((struct msg){.kind = MSG_OP, .op.kind = CMD_DONE, .handle = 5001, .svc = 1, .op.id = {5001, 0}});
	cr_assert_eq(W.n_cmds[CMD_DONE], 0, "as many as may be are on their way");
	requeue_answered();
	requeue_answered();
	cr_assert_eq(W.n_cmds[CMD_DONE], 1);
	const uint64_t n_back = W.n_cmds[CMD_REQUEUE];
	for (uint64_t i = 1; i <= 1000; i++)
		story_msg_in((struct msg){
			.kind = MSG_OP, .op.kind = CMD_DONE, .handle = 6000 + i, .svc = 1, .op.id = {6000 + i, 0}});
	for (int i = 0; i < 80; i++)
		requeue_answered();
	cr_assert_geq(W.n_cmds[CMD_REQUEUE], n_back + 9, "nor are they left out");
}

/* Redis has restarted, and a worker with many streams was killed: each went there twice, the second time with the text
 * of its script. */
Test(retry, of_many_that_the_server_does_not_know_one_tells_it, .init = story_up, .fini = story_down)
{
	W.mute = true;
	for (uint64_t i = 1; i <= 3000; i++)
		story_msg_in(
			(struct msg){.kind = MSG_OP, .op.kind = CMD_REQUEUE, .handle = i, .svc = 1, .op.id = {i, 0}});
	static const struct reply unknown = {.kind = REPLY_ERROR, .error = RERR_NOSCRIPT, .text = {"NOSCRIPT", 8}};
	int n_texts = 0;
	for (int i = 0; i < 2000; i++) /* they were on their way together */
		story_event((struct shard_event){.kind = SHARD_REPLY,
			.tag = story_take(CMD_REQUEUE).tag,
			.reply = &unknown,
			.has_more = i % 100 != 99});
	cr_assert_eq(W.n_cmds[CMD_REQUEUE], 4000);
	for (int i = 0; i < 2000; i++) {
		struct sent s = story_take(CMD_REQUEUE);
		struct reply r = {.kind = REPLY_INT, .integer = 1};
		cr_assert_eq(s.use_eval, i == 0, "the first, and what comes behind it finds it known");
		n_texts += s.use_eval;
		story_event((struct shard_event){.kind = SHARD_REPLY, .tag = s.tag, .reply = &r});
	}
	cr_assert_eq(n_texts, 1);
	cr_assert_eq(W.n_msgs[MSG_OP_RESULT], 2000);
	struct sent again_unknown = story_take(CMD_REQUEUE); /* SCRIPT FLUSH, or another master */
	story_event((struct shard_event){.kind = SHARD_REPLY, .tag = again_unknown.tag, .reply = &unknown});
	struct sent last = {0};
	while (story_waits(CMD_REQUEUE))
		last = story_take(CMD_REQUEUE);
	cr_assert(last.use_eval);
}

/* ---- many at once ---- */

/* Operations 1 to n, which come together. */
static void together(enum cmd_kind kind, uint64_t n)
{
	for (uint64_t i = 1; i <= n; i++)
		story_event((struct shard_event){.kind = SHARD_MSG,
			.has_more = i < n,
			.msg = &(struct msg){.kind = MSG_OP,
				.op.kind = (uint8_t)kind,
				.handle = i,
				.svc = 1,
				.op.id = {i, 0},
				.op.stream = text_new("s1", 2)}});
}

Test(retry, what_comes_together_goes_together, .init = story_up, .fini = story_down)
{
	together(CMD_TAKE, 3);
	expect_story("[ 1000] take_many n=3\n");
	static const struct reply each[] = {{.kind = REPLY_INT, .integer = 1},
		{.kind = REPLY_ERROR, .error = RERR_RETRY, .text = {"OOM", 3}}, {.kind = REPLY_INT, .integer = 2}};
	story_reply(CMD_TAKE_MANY, (struct reply){.kind = REPLY_MANY, .many = each, .n = 3});
	expect_story("[ 1000] > op take done\n[ 1000] > op take parked\n");
	again(CMD_TAKE);
	story_int(CMD_TAKE, 1);
	cr_assert(strstr(W.text.data, "take s1 2-0\n"), "only the one that was refused: %s", W.text.data);
	story_clear();
}

Test(retry, what_differs_goes_apart, .init = story_up, .fini = story_down)
{
	static const uint8_t ops[] = {CMD_TAKE, CMD_DONE, CMD_REQUEUE, CMD_DONE, CMD_TAKE, CMD_DONE};
	for (size_t i = 0; i < sizeof ops; i++)
		story_event((struct shard_event){.kind = SHARD_MSG,
			.has_more = i + 1 < sizeof ops,
			.msg = &(struct msg){.kind = MSG_OP,
				.op.kind = ops[i],
				.op.is_heir = i == 5,
				.handle = i + 1,
				.svc = 1,
				.op.id = {i + 1, 0},
				.op.stream = text_new("s1", 2)}});
	expect_story("[ 1000] requeue s1 3-0 consumer=redis-consumer-me retry=0 idle=0\n[ 1000] done_many n=2\n"
		     "[ 1000] take_many n=2\n");
	story_error(CMD_DONE_MANY, RERR_MOVED, "h:1");
	cr_assert(strstr(W.text.data, "] done s1 6-0\n"), "%s", W.text.data);
}

Test(retry, an_answer_to_many_that_nobody_knows, .init = story_up, .fini = story_down)
{
	together(CMD_DONE, 2);
	story_error(CMD_DONE_MANY, RERR_NOSCRIPT, "NOSCRIPT");
	expect_story("[ 1000] done_many n=2\n[ 1000] done_many n=2 eval\n");
	static const struct reply one = {.kind = REPLY_INT, .integer = 1};
	story_reply(CMD_DONE_MANY, (struct reply){.kind = REPLY_MANY, .many = &one, .n = 1});
	story_clear();
	again(CMD_DONE);
	story_drop_waiting(CMD_DONE);
	story_cut();
}

Test(retry, many_without_an_answer_are_sent_again, .init = story_up, .fini = story_down)
{
	together(CMD_DONE, 2);
	story_cut();
	story_clear();
	story_conn(CONN_COMMAND, true);
	again(CMD_DONE_MANY);
	static const struct reply each[] = {{.kind = REPLY_INT}, {.kind = REPLY_INT, .integer = 1}};
	story_clear();
	story_reply(CMD_DONE_MANY, (struct reply){.kind = REPLY_MANY, .many = each, .n = 2});
	cr_assert(strstr(W.text.data, "op done gone resent\n") && strstr(W.text.data, "op done done resent\n"), "%s",
		W.text.data);
}

Test(retry, a_batch_has_a_limit, .init = story_up, .fini = story_down)
{
	together(CMD_TAKE, 2 * CMD_MANY_MAX + 1);
	expect_story("[ 1000] take_many n=128\n[ 1000] take_many n=128\n");
	story_error(CMD_TAKE_MANY, RERR_MOVED, "h:1");
	story_error(CMD_TAKE_MANY, RERR_MOVED, "h:1");
	cr_assert(strstr(W.text.data, "] take s1 257-0\n"), "the rest has waited for them");
}

Test(retry, a_few_wait_for_those_before_them, .init = story_up, .fini = story_down)
{
	together(CMD_DONE, 1);
	together(CMD_DONE, 2);
	op(CMD_TAKE); /* only for their own kind */
	op(CMD_REQUEUE);
	expect_story("[ 1000] done s1 1-0\n[ 1000] take s1 7-0\n"
		     "[ 1000] requeue s1 7-0 consumer=redis-consumer-me retry=2 idle=0\n");
	story_int(CMD_DONE, 1);
	expect_story("[ 1000] > op done done\n[ 1000] done_many n=2\n");
	together(CMD_DONE, 31);
	expect_story("");
	together(CMD_DONE, 1); /* many do not wait */
	expect_story("[ 1000] done_many n=32\n");
}

/* What is on its way over the old one may be answered late, or never. */
Test(retry, nobody_waits_for_an_old_connection, .init = story_up, .fini = story_down)
{
	together(CMD_DONE, 1);
	together(CMD_DONE, 2);
	story_clear();
	story_conn(CONN_COMMAND, true);
	cr_assert(strstr(W.text.data, "done_many n=2\n"), "%s", W.text.data);
	story_int(CMD_DONE, 1); /* the old one's: the new one's is still on its way */
	story_clear();
	together(CMD_DONE, 1);
	expect_story("");
}

/* ---- wait_replicas ---- */

static void with_replicas(uint32_t n)
{
	struct service_rules *r = story_rules();
	r->wait_replicas = n;
	change_rules(r);
}

Test(retry, done_waits_for_the_replicas, .init = story_up, .fini = story_down)
{
	with_replicas(2);
	op(CMD_DONE);
	op(CMD_DONE);
	story_int(CMD_DONE, 1);
	expect_story("[ 1000] done s1 7-0\n[ 1000] done s1 7-0\n[ 1000] wait 2\n");
	story_int(CMD_DONE, 1); /* not covered by the WAIT before it */
	story_int(CMD_WAIT, 2);
	expect_story("[ 1000] > op done done\n[ 1000] wait 2\n");
	story_int(CMD_WAIT, 1);
	expect_story("");
	again(CMD_WAIT);
	story_clear();
	story_int(CMD_WAIT, 3);
	cr_assert(strstr(W.text.data, "> op done done\n"));
}

Test(retry, a_lost_wait_asks_again_whether_it_is_done, .init = story_up, .fini = story_down)
{
	with_replicas(1);
	op(CMD_DONE);
	story_int(CMD_DONE, 1);
	story_cut();
	story_conn(CONN_COMMAND, true);
	story_clear();
	story_int(CMD_DONE, 0); /* it is: ours was the first one */
	expect_story("[ 1000] wait 1\n");
	story_int(CMD_WAIT, 1);
	expect_story("[ 1000] > op done done resent\n");
}

Test(retry, what_waits_for_the_next_wait_is_asked_again_too, .init = story_up, .fini = story_down)
{
	with_replicas(1);
	op(CMD_DONE);
	op(CMD_DONE);
	story_int(CMD_DONE, 1);
	story_int(CMD_DONE, 1);
	story_clear();
	story_cut();
	story_conn(CONN_COMMAND, true);
	static const struct reply each[] = {{.kind = REPLY_INT}, {.kind = REPLY_INT}};
	story_reply(CMD_DONE_MANY, (struct reply){.kind = REPLY_MANY, .many = each, .n = 2});
	story_int(CMD_WAIT, 1);
	cr_assert_eq(W.n_msgs[MSG_OP_RESULT], 2);
	cr_assert_eq(W.n_cmds[CMD_DONE], 2);
}

Test(retry, what_waits_between_two_waits_is_asked_again_too, .init = story_up, .fini = story_down)
{
	with_replicas(2);
	op(CMD_DONE);
	story_int(CMD_DONE, 1);
	story_int(CMD_WAIT, 1);
	story_cut();
	story_conn(CONN_COMMAND, true);
	cr_assert(story_waits(CMD_DONE));
	cr_assert_not(story_waits(CMD_WAIT));
}

Test(retry, what_an_old_connection_has_done_is_asked_again_before_a_wait_on_the_new, .init = story_up,
	.fini = story_down)
{
	with_replicas(1);
	op(CMD_DONE);
	story_conn(CONN_COMMAND, true); /* a handoff: the answer comes over the old one */
	story_clear();
	story_int(CMD_DONE, 1);
	expect_story("[ 1000] done s1 7-0\n");
	story_int(CMD_DONE, 0);
	expect_story("[ 1000] wait 1\n");
	story_conn(CONN_COMMAND, true);
	story_clear();
	story_int(CMD_WAIT, 0); /* of the old one, too few */
	story_until(W.now + 200);
	cr_assert(story_waits(CMD_DONE));
	cr_assert_not(story_waits(CMD_WAIT));
}

/* ---- dead letters to another slot ---- */

static void other_slot(void)
{
	struct service_rules *r = story_rules();
	r->dlq.is_same_slot = false;
	r->dlq.slot = 77;
	change_rules(r);
}

static void pending(int64_t idle)
{
	struct pending_row row = {.id = ID7, .idle_ms = idle};
	story_reply(CMD_PENDING, (struct reply){.kind = REPLY_PENDING, .pending = &row, .n = 1});
}

static void fields(void)
{
	struct entry_batch *b = mem_alloc(sizeof *b + sizeof b->v[0]);
	b->n = 1;
	b->v[0].fields = mem_alloc(sizeof *b->v[0].fields);
	story_reply(CMD_DEAD_READ, (struct reply){.kind = REPLY_ENTRIES, .entries = b});
}

static void call_answer(enum op_result result)
{
	story_msg_in((struct msg){.kind = MSG_LOCK_ANSWER,
		.lock_answer.tag = W.last_call.lock_call.tag,
		.lock_answer.kind = W.last_call.lock_call.kind,
		.lock_answer.result = (uint8_t)result});
}

Test(retry, dead_letter_elsewhere_is_written_before_it_is_acked, .init = story_up, .fini = story_down)
{
	other_slot();
	op(CMD_DEAD);
	pending(5);
	fields();
	cr_assert_eq(W.last_call.lock_call.slot, 77);
	call_answer(OP_DONE);
	story_int(CMD_ACK_DEL, 1);
	expect_story("[ 1000] pending s1 7-0 consumer=redis-consumer-me\n"
		     "[ 1000] dead_read s1 7-0\n"
		     "[ 1000] > call dead_add 7-0\n"
		     "[ 1000] ack_del s1 7-0 consumer=redis-consumer-me\n"
		     "[ 1000] > op dead done\n");
}

Test(retry, dead_letter_elsewhere_of_an_entry_not_ours_any_more_is_not_written, .init = story_up, .fini = story_down)
{
	other_slot();
	op(CMD_DEAD);
	story_clear();
	struct pending_row row = {.id = {8, 0}}; /* the next one */
	story_reply(CMD_PENDING, (struct reply){.kind = REPLY_PENDING, .pending = &row, .n = 1});
	expect_story("[ 1000] > op dead gone\n");
}

Test(retry, dead_letter_elsewhere_is_tried_until_it_is_written, .init = story_up, .fini = story_down)
{
	other_slot();
	op(CMD_DEAD);
	pending(5);
	fields();
	call_answer(OP_FAILED);
	cr_assert_gt(again(CMD_PENDING), 100);
	pending(5);
	fields(); /* and now no answer at all */
	cr_assert_eq(again(CMD_PENDING), 6000);
	call_answer(OP_DONE); /* too late: ignored */
	cr_assert(story_waits(CMD_PENDING));
	cr_assert_not(story_waits(CMD_ACK_DEL));
}

Test(retry, dead_letter_elsewhere_of_deleted_data_is_acked, .init = story_up, .fini = story_down)
{
	other_slot();
	op(CMD_DEAD);
	pending(5);
	story_reply(CMD_DEAD_READ, (struct reply){.kind = REPLY_ENTRIES});
	story_clear();
	story_int(CMD_ACK_DEL, 1);
	expect_story("[ 1000] > op dead deleted\n");
}

/* ---- slots ---- */

static void slots_without(uint16_t slot)
{
	uint8_t *bits = mem_alloc(SLOTS / 8);
	memset(bits, 0xff, SLOTS / 8);
	bits[slot / 8] &= (uint8_t) ~(1u << (slot % 8));
	story_msg_in((struct msg){.kind = MSG_SLOTS, .slots.bits = bits});
}

Test(retry, goes_back_with_its_slot, .init = story_up, .fini = story_down)
{
	op(CMD_DONE);
	story_cut();
	story_clear();
	slots_without(5);
	expect_story("[ 1000] > op done moved resent\n");
	op(CMD_TAKE);
	expect_story("[ 1000] > op take moved\n");
}

Test(retry, what_waits_for_others_goes_back_with_its_slot, .init = story_up, .fini = story_down)
{
	together(CMD_DONE, 1);
	together(CMD_DONE, 2);
	expect_story("[ 1000] done s1 1-0\n");
	slots_without(5);
	expect_story("[ 1000] > op done moved\n[ 1000] > op done moved\n[ 1000] > op done moved\n");
	slots_without(6);
	together(CMD_DONE, 1);
	story_int(CMD_DONE, 1); /* nobody waits for it any more */
	expect_story("[ 1000] done s1 1-0\n");
}

Test(retry, moved_by_redis_says_where_to, .init = story_up, .fini = story_down)
{
	op(CMD_DONE);
	story_clear();
	story_error(CMD_DONE, RERR_ASK, "h:1");
	expect_story("[ 1000] > moved slot=5 \"h:1\" asking\n[ 1000] > op done moved \"h:1\" asking\n");
}

Test(retry, of_a_service_nobody_knows_fails, .init = story_up, .fini = story_down)
{
	story_msg_in((struct msg){.kind = MSG_OP, .op.kind = CMD_DONE, .handle = 1, .svc = 9});
	expect_story("[ 1000] > op done failed\n");
}

/* ---- lock calls ---- */

static void call(enum cmd_kind kind)
{
	story_msg_in((struct msg){.kind = MSG_LOCK_CALL,
		.lock_call.kind = (uint8_t)kind,
		.from = 4,
		.lock_call.tag = 99,
		.svc = 1,
		.lock_call.slot = 9,
		.lock_call.id = ID7,
		.lock_call.stream = text_new("s1", 2),
		.lock_call.value = text_new("recover:me", 10)});
}

Test(lock_call, probe_tells_what_is_left, .init = story_up, .fini = story_down)
{
	call(CMD_PROBE);
	story_int(CMD_PROBE, -2);
	expect_story("[ 1000] probe s1 7-0\n[ 1000] > answer probe done n=-2\n");
}

Test(lock_call, door_is_closed_refused_or_ours_already, .init = story_up, .fini = story_down)
{
	call(CMD_LOCK);
	story_ok(CMD_LOCK);
	expect_story("[ 1000] lock s1 7-0 value=recover:me\n[ 1000] > answer lock done n=0\n");
	call(CMD_LOCK);
	story_nil(CMD_LOCK);
	story_txt(CMD_LOCK_GET, "recover:you");
	expect_story("[ 1000] lock s1 7-0 value=recover:me\n[ 1000] lock_get s1 7-0\n[ 1000] > answer lock gone n=0\n");
	call(CMD_LOCK);
	story_nil(CMD_LOCK);
	cr_expect_eq(W.sent[0].kind, CMD_LOCK_GET);
	story_txt(CMD_LOCK_GET, "recover:me");
	cr_expect(W.sent[0].kind == CMD_RENEW && W.sent[0].ttl_ms == 10000);
	story_txt(CMD_RENEW, "recover:me");
	expect_story("[ 1000] lock s1 7-0 value=recover:me\n[ 1000] lock_get s1 7-0\n[ 1000] renew s1 7-0\n"
		     "[ 1000] > answer lock done n=0\n");
}

Test(lock_call, fails_after_the_command_timeout, .init = story_up, .fini = story_down)
{
	story_cut();
	story_clear();
	call(CMD_PROBE);
	story_until(3999);
	expect_story("");
	story_until(4000);
	expect_story("[ 4000] > answer probe failed n=0\n");
}

Test(lock_call, tells_that_missing_proves_nothing_after_a_restart, .init = story_up, .fini = story_down)
{
	story_cut();
	W.now = 2000;
	story_conn(CONN_COMMAND, true);
	story_txt(CMD_RUN_ID, "def");
	call(CMD_PROBE);
	story_clear();
	story_int(CMD_PROBE, -2);
	expect_story("[ 2000] > answer probe done n=-2 +\n");
	W.now = 2000 + 10000 + 3332;
	call(CMD_PROBE);
	story_clear();
	story_int(CMD_PROBE, -2);
	expect_story("[15332] > answer probe done n=-2 +\n");
	W.now = 2000 + 10000 + 3333;
	call(CMD_PROBE);
	story_clear();
	story_int(CMD_PROBE, -2);
	expect_story("[15333] > answer probe done n=-2\n");
}

Test(lock_call, a_reconnect_to_the_same_server_proves_as_before, .init = story_up, .fini = story_down)
{
	story_cut();
	story_conn(CONN_COMMAND, true);
	story_txt(CMD_RUN_ID, "abc");
	call(CMD_PROBE);
	story_clear();
	story_int(CMD_PROBE, -2);
	expect_story("[ 1000] > answer probe done n=-2\n");
}

Test(lock_call, slots_that_come_later_prove_nothing_for_a_while, .init = story_up, .fini = story_down)
{
	slots_without(9);
	slots_without(3);
	call(CMD_PROBE);
	story_clear();
	story_int(CMD_PROBE, -2);
	expect_story("[ 1000] > answer probe done n=-2 +\n");
}

static void call_dead_add(bool asking)
{
	struct field_list *f = mem_alloc(sizeof *f);
	*f = (struct field_list){0};
	story_msg_in((struct msg){.kind = MSG_LOCK_CALL,
		.lock_call.kind = CMD_DEAD_ADD,
		.lock_call.asking = asking,
		.from = 4,
		.lock_call.tag = 99,
		.svc = 1,
		.lock_call.slot = 9,
		.lock_call.id = ID7,
		.lock_call.fields = f});
}

/* Its slot is half moved, and that stream has gone ahead. */
Test(lock_call, a_dead_letter_follows_an_ask_once, .init = story_up, .fini = story_down)
{
	call_dead_add(false);
	story_clear();
	story_error(CMD_DEAD_ADD, RERR_ASK, "h:1");
	expect_story("[ 1000] > refresh \"ask\"\n[ 1000] > call dead_add 7-0\n");
	cr_assert(W.last_call.lock_call.asking && W.last_call.lock_call.tag == 99 && W.last_call.from == 4);
	call_dead_add(true);
	expect_story("[ 1000] dead_add 7-0 asking\n");
	story_error(CMD_DEAD_ADD, RERR_ASK, "h:1");
	expect_story("[ 1000] > answer dead_add moved n=0\n");
}

Test(lock_call, dead_letters_of_others_are_added_here, .init = story_up, .fini = story_down)
{
	call_dead_add(false);
	story_reply(CMD_DEAD_ADD, (struct reply){.kind = REPLY_ID, .id = {1, 2}});
	expect_story("[ 1000] dead_add 7-0\n[ 1000] > answer dead_add done n=0\n");
}
