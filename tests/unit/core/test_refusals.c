/* What a master refuses: said once a minute with a count, counted, kept until it is accepted again. */
#include "shard_story.h"

static struct shard_refused refused;

static void try_lock(enum reply_error e, const char *words)
{
	story_until(W.now + 1000);
	while (!story_waits(CMD_LOCK))
		story_until(W.now + 100);
	story_error(CMD_LOCK, e, words);
}

static void up(void)
{
	story_up();
	W.say = true;
	story_msg_in((struct msg){.kind = MSG_LEASE_ACQUIRE,
		.handle = 1,
		.svc = 1,
		.lease_acquire.id = ID7,
		.lease_acquire.stream = text_new("s1", 2)});
	story_clear();
}

static int count_of(const char *words)
{
	int n = 0;
	for (const char *p = W.text.data; p && (p = strstr(p, words)); p++)
		n++;
	return n;
}

Test(refusals, one_line_a_minute_with_words_and_count, .init = up, .fini = story_down)
{
	for (int i = 0; i < 30; i++)
		try_lock(RERR_RETRY, "OOM command not allowed");
	cr_expect_eq(count_of("say shard=2 service=orders lease: redis refuses: OOM command not allowed n=1\n"), 1);
	cr_expect_eq(count_of("say "), 1, "%s", W.text.data);
	mono_ms minute = W.now + 60000;
	while (W.now < minute)
		try_lock(RERR_RETRY, "OOM command not allowed");
	cr_expect_eq(count_of("redis refuses: OOM"), 2, "%s", W.text.data);
	cr_expect_eq(count_of(" n=1\n"), 1, "the second line has a count of its own: %s", W.text.data);
	cr_expect(shard_metrics(W.s)->c[MR_REFUSED_OOM] > 60);
	cr_expect_eq(shard_metrics(W.s)->c[MR_REFUSED_MISCONF], 0);
}

Test(refusals, are_kept_until_it_is_accepted, .init = up, .fini = story_down)
{
	cr_expect(!shard_refused(W.s, W.now, &refused));
	try_lock(RERR_RETRY, "OOM first");
	mono_ms first = W.now;
	try_lock(RERR_RETRY, "OOM second");
	cr_expect(shard_refused(W.s, W.now, &refused));
	cr_expect_eq(refused.since, first);
	cr_expect_eq(refused.n, 2);
	cr_expect_str_eq(refused.words, "OOM second");
	while (!story_waits(CMD_LOCK))
		story_until(W.now + 100);
	story_ok(CMD_LOCK);
	cr_expect(!shard_refused(W.s, W.now, &refused));
}

Test(refusals, of_one_services_keys_are_not_over_when_anothers_are_accepted, .init = up, .fini = story_down)
{
	struct service_rules *bills = story_rules();
	bills->svc = 2;
	story_msg_in((struct msg){.kind = MSG_SERVICE, .svc = 2, .service.rules = bills});
	for (int i = 0; i < 2; i++) {
		const bool is_right =
			i == 0; /* else the server is the trouble, and what it takes shows that this is over */
		try_lock(RERR_RETRY, is_right ? "NOPERM no such key" : "OOM");
		story_msg_in((struct msg){.kind = MSG_LEASE_ACQUIRE,
			.handle = 2 + (uint64_t)i,
			.svc = 2,
			.lease_acquire.id = {9, (uint64_t)i},
			.lease_acquire.stream = text_new("b1", 2)});
		story_ok(CMD_LOCK);
		cr_expect_eq(shard_refused(W.s, W.now, &refused), is_right);
	}
}

/* One of the moments of every reshard is no error, one that stays is told, and makes the daemon not ready. */
Test(refusals, a_slot_that_stays_half_moved_is_told, .init = up, .fini = story_down)
{
	for (int i = 0; i < 30; i++)
		try_lock(RERR_RETRY, "TRYAGAIN Multiple keys request during rehashing of slot");
	cr_expect_eq(count_of("say shard=2 service=orders lease: redis refuses: TRYAGAIN"), 1, "%s", W.text.data);
	cr_expect(shard_refused(W.s, W.now, &refused));
	cr_expect_eq(refused.n, 30);
	cr_expect_eq(shard_metrics(W.s)->c[MR_REFUSED_TRYAGAIN], 30);
	story_msg_in((struct msg){.kind = MSG_SLOTS});
	cr_expect(!shard_refused(W.s, W.now, &refused), "the move has ended");
}

Test(refusals, of_what_is_not_asked_any_more_are_forgotten, .init = up, .fini = story_down)
{
	try_lock(RERR_OPERATOR, "NOPERM no set");
	cr_expect(shard_refused(W.s, W.now, &refused));
	story_msg_in((struct msg){.kind = MSG_LEASE_FORGET, .handle = 1});
	cr_expect(shard_refused(W.s, W.now + 15000, &refused));
	cr_expect(!shard_refused(W.s, W.now + 15001, &refused));
}

Test(refusals, another_connection_begins_anew, .init = up, .fini = story_down)
{
	try_lock(RERR_REFRESH, "READONLY");
	cr_expect(shard_refused(W.s, W.now, &refused));
	story_cut();
	story_conn(CONN_COMMAND, true);
	cr_expect(!shard_refused(W.s, W.now, &refused));
}

Test(refusals, redirections_are_none, .init = up, .fini = story_down)
{
	while (!story_waits(CMD_LOCK))
		story_until(W.now + 100);
	story_error(CMD_LOCK, RERR_ASK, "h:1");
	cr_expect(!shard_refused(W.s, W.now, &refused));
	cr_expect_eq(count_of("say "), 0, "%s", W.text.data);
}

Test(refusals, a_key_of_a_wrong_type_is_one_streams_trouble, .init = up, .fini = story_down)
{
	try_lock(RERR_OPERATOR, "WRONGTYPE");
	cr_expect(!shard_refused(W.s, W.now, &refused));
	cr_expect_eq(count_of("refuses: WRONGTYPE"), 1);
}

static void group_is_refused(uint16_t svc, const char *words)
{
	struct service_rules *rules = story_rules();
	rules->svc = svc;
	story_msg_in((struct msg){.kind = MSG_SERVICE, .svc = svc, .service.rules = rules, .service.is_read = true});
	story_error(CMD_GROUP_CREATE, RERR_OPERATOR, words);
	cr_expect(shard_refused(W.s, W.now, &refused));
}

Test(refusals, a_key_of_a_wrong_type_is_one_services_trouble, .init = story_up, .fini = story_down)
{
	group_is_refused(1, "WRONGTYPE");
	cr_expect_eq(refused.svc, 1);
	group_is_refused(2, "WRONGTYPE");
	cr_expect_eq(refused.svc, SERVICE_NONE, "two have it: it is nobody's alone");
}

Test(refusals, a_right_that_is_missing_may_be_everybodys, .init = story_up, .fini = story_down)
{
	group_is_refused(1, "NOPERM this user has no permissions");
	cr_expect_eq(refused.svc, SERVICE_NONE);
}

/* ---- trials: an idle daemon finds out, and finds out when it is over */

static void reader_up(void)
{
	story_up();
	W.trials = true;
	W.say = true;
	story_msg_in((struct msg){.kind = MSG_SERVICE, .service.rules = story_rules(), .service.is_read = true});
	story_ok(CMD_GROUP_CREATE);
	story_entries(CMD_READ_OWN, 0, 0);
	W.mute = false;
	story_clear();
}

Test(refusals, a_reader_tries_a_write_now_and_then, .init = reader_up, .fini = story_down)
{
	while (!story_waits(CMD_TRIAL))
		story_until(W.now + 100);
	cr_expect(W.now >= 6000 && W.now <= 6200, "%lld", (long long)W.now);
	story_nil(CMD_TRIAL);
	mono_ms then = W.now;
	while (!story_waits(CMD_TRIAL))
		story_until(W.now + 100);
	cr_expect(W.now - then >= 4900 && W.now - then <= 5200);
	story_error(CMD_TRIAL, RERR_RETRY, "OOM");
	cr_expect(shard_refused(W.s, W.now, &refused));
	then = W.now;
	for (int i = 0; i < 20; i++) {
		while (!story_waits(CMD_TRIAL))
			story_until(W.now + 100);
		story_error(CMD_TRIAL, RERR_RETRY, "OOM");
	}
	cr_expect(W.now - then <= 22000, "once a second: %lld", (long long)(W.now - then));
	cr_expect(shard_refused(W.s, W.now, &refused) && refused.n == 21);
	while (!story_waits(CMD_TRIAL))
		story_until(W.now + 100);
	story_nil(CMD_TRIAL);
	cr_expect(!shard_refused(W.s, W.now, &refused));
}

Test(refusals, a_user_who_may_not_try_is_left_alone, .init = reader_up, .fini = story_down)
{
	while (!story_waits(CMD_TRIAL))
		story_until(W.now + 100);
	story_error(CMD_TRIAL, RERR_OPERATOR, "NOPERM no such key");
	cr_expect(!shard_refused(W.s, W.now, &refused));
	cr_expect_eq(count_of("NOPERM"), 0);
	story_until(W.now + 60000);
	cr_expect(!story_waits(CMD_TRIAL));
	story_conn(CONN_COMMAND, true);
	story_until(W.now + 6000);
	cr_expect(story_waits(CMD_TRIAL), "another connection may be another user's");
}

Test(refusals, the_clock_of_the_server_is_known, .init = reader_up, .fini = story_down)
{
	cr_expect_eq(shard_clock_offset(W.s), 0);
	story_conn(CONN_COMMAND, true);
	story_int(CMD_TIME, 1700000000000 + W.now + 250);
	cr_expect_eq(shard_clock_offset(W.s), 250, "%lld", (long long)shard_clock_offset(W.s));
}

Test(refusals, an_operators_add_is_answered_at_once, .init = story_up, .fini = story_down)
{
	story_msg_in((struct msg){
		.kind = MSG_OP, .op.kind = CMD_ADD, .handle = 1, .svc = 1, .op.stream = text_new("s1", 2)});
	story_clear();
	story_error(CMD_ADD, RERR_RETRY, "OOM command not allowed");
	cr_assert(strstr(W.text.data, "> op add failed \"OOM command not allowed\"\n"), "%s", W.text.data);
	cr_expect(!shard_refused(W.s, W.now, &refused), "it is told; the trial finds the rest");
}
