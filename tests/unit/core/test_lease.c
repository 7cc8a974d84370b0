#include "shard_story.h"

static const char ME[] = "redis-consumer-me/20";

static void acquire(uint64_t handle, mono_ms adopt, bool startup)
{
	char name[32];
	int n = snprintf(name, sizeof name, "s%llu", (unsigned long long)handle);
	story_msg_in((struct msg){.kind = MSG_LEASE_ACQUIRE,
		.handle = handle,
		.svc = 1,
		.lease_acquire.slot = 9,
		.lease_acquire.id = ID7,
		.lease_acquire.good_until = adopt,
		.lease_acquire.is_startup = startup,
		.lease_acquire.stream = text_new(name, (size_t)n)});
}

static void hold(uint64_t handle)
{
	acquire(handle, 0, false);
	story_ok(CMD_LOCK);
	story_clear();
}

static uint64_t count(enum metric_service m)
{
	return shard_service_metrics(W.s, 1)->c[m];
}

Test(lease, is_good_from_the_moment_the_lock_was_sent, .init = story_up, .fini = story_down)
{
	acquire(1, 0, false);
	W.now = 1400;
	story_ok(CMD_LOCK);
	expect_story("[ 1000] lock s1 7-0 value=redis-consumer-me/20\n"
		     "[ 1400] > lease 1 held until=11000\n");
	cr_assert_eq(count(M_ACQUIRE_OK), 1);
	cr_assert_eq(shard_n_leases(W.s), 1);
}

Test(lease, renews_in_time_and_counts_from_sending, .init = story_up, .fini = story_down)
{
	hold(1);
	story_until(4800);
	cr_assert(story_waits(CMD_RENEW), "not renewed after T/3 + 10 %%");
	W.now = 5500; /* a slow answer */
	story_clear();
	story_txt(CMD_RENEW, ME);
	mono_ms sent = 0;
	cr_assert_eq(sscanf(W.text.data, "[ 5500] > renewed 1:%ld", &sent), 1);
	cr_assert(sent >= 10000 + 4000 - 100 && sent <= 10000 + 4700, "%s", W.text.data);
	cr_assert_eq(count(M_RENEW_OK), 1);
	const struct hist *margin = &shard_service_metrics(W.s, 1)->h[H_MARGIN];
	cr_assert_eq(margin->n, 1);
	cr_assert_float_eq(margin->sum_s, 5.5, 0.001); /* 11000 - 5500 */
}

Test(lease, stops_work_before_the_key_can_expire, .init = story_up, .fini = story_down)
{
	hold(1);
	story_until(8999);
	story_clear();
	story_until(20000);
	expect_story("[ 9000] > lease 1 lost expired until=11000\n");
	cr_assert_eq(count(M_FENCE_STOPPED), 1);
	cr_assert_eq(shard_n_leases(W.s), 0);
	story_txt(CMD_RENEW, ME); /* far too late: nothing */
	expect_story("");
}

Test(lease, keeps_the_margin_it_was_confirmed_with, .init = story_up, .fini = story_down)
{
	hold(1); /* until 11000 */
	W.now = 2000;
	struct service_rules *r = story_rules();
	r->lease.ttl_ms = 60000;
	r->lease.stop_margin_ms = 12000;
	r->lease.old_margin_ms = 2000;
	r->lease.old_until = 22000;
	story_msg_in((struct msg){.kind = MSG_SERVICE, .service.rules = r});
	story_until(4800);
	cr_assert(story_waits(CMD_RENEW));
	story_until(8999);
	cr_assert_null(strstr(W.text.data, "lost"), "%s", W.text.data);
	story_until(9000);
	cr_assert(strstr(W.text.data, "[ 9000] > lease 1 lost expired until=11000\n"), "%s", W.text.data);
}

Test(lease, is_not_shortened_by_shorter_rules, .init = story_up, .fini = story_down)
{
	hold(1); /* until 11000: a worker may know of it */
	W.now = 2000;
	struct service_rules *r = story_rules();
	r->lease.ttl_ms = 3000;
	r->lease.renew_ms = 1000;
	r->lease.stop_margin_ms = r->lease.old_margin_ms = 1000;
	r->lease.old_until = 22000;
	story_msg_in((struct msg){.kind = MSG_SERVICE, .service.rules = r});
	mono_ms until = 0;
	for (int i = 0; i < 12; i++) {
		for (int n = 0; n < 100 && !story_waits(CMD_RENEW); n++)
			story_until(W.now + 50);
		story_clear();
		story_txt(CMD_RENEW, ME);
		cr_assert_eq(sscanf(W.text.data, "[%*d] > renewed 1:%ld", &until), 1, "%s", W.text.data);
		cr_assert(until >= 11000 && until - W.now >= 2900, "%s", W.text.data);
	}
	cr_assert(until > 11000 && until <= W.now + 3000, "%s", W.text.data);
}

Test(lease, a_late_turn_stops_work_before_anything_else, .init = story_up, .fini = story_down)
{
	hold(1);
	story_until(4800);
	story_clear();
	W.now = 30000; /* frozen; the answer was in the socket all along */
	story_txt(CMD_RENEW, ME);
	expect_story("[30000] > lease 1 lost expired until=11000\n");
	cr_assert_eq(count(M_FENCE_LATE), 1);
	cr_assert_eq(count(M_FENCE_STOPPED), 0);
}

/* ---- acquiring ---- */

Test(lease, held_by_somebody_else_is_busy, .init = story_up, .fini = story_down)
{
	acquire(1, 0, false);
	story_nil(CMD_LOCK);
	story_txt(CMD_LOCK_GET, "redis-consumer-other/20");
	expect_story("[ 1000] lock s1 7-0 value=redis-consumer-me/20\n"
		     "[ 1000] lock_get s1 7-0\n"
		     "[ 1000] > lease 1 busy\n");
	cr_assert_eq(count(M_ACQUIRE_BUSY), 1);
	cr_assert_eq(shard_n_leases(W.s), 0);
}

Test(lease, values_that_only_look_like_ours_are_busy, .init = story_up, .fini = story_down)
{
	static const char *const values[] = {"redis-consumer-me", "redis-consumer-me/", "redis-consumer-me2/10",
		"redis-consumer-me210", "redis-consumer-me/zz", "redis-consumer-me/11111111111111111",
		"recover:redis-consumer-me/20", "gone:1-0", ""};
	for (size_t i = 0; i < sizeof values / sizeof values[0]; i++) {
		acquire(i + 1, 0, true);
		story_nil(CMD_LOCK);
		story_clear();
		story_txt(CMD_LOCK_GET, values[i]);
		cr_assert(strstr(W.text.data, "busy"), "'%s': %s", values[i], W.text.data);
	}
}

Test(lease, a_lock_whose_reply_was_lost_is_ours, .init = story_up, .fini = story_down)
{
	acquire(1, 0, false);
	story_cut();
	story_conn(CONN_COMMAND, true);
	story_clear();
	story_nil(CMD_LOCK); /* the second one: refused by the first */
	story_txt(CMD_LOCK_GET, ME);
	W.now = 1100;
	story_txt(CMD_RENEW, ME);
	expect_story("[ 1000] lock_get s1 7-0\n"
		     "[ 1000] renew s1 7-0\n"
		     "[ 1100] > lease 1 held until=11000 +\n");
}

Test(lease, a_lock_that_expires_between_two_questions_is_asked_for_again, .init = story_up, .fini = story_down)
{
	acquire(1, 0, false);
	story_nil(CMD_LOCK);
	story_nil(CMD_LOCK_GET);
	story_nil(CMD_LOCK);
	story_txt(CMD_LOCK_GET, ME);
	story_nil(CMD_RENEW);
	story_clear();
	story_ok(CMD_LOCK);
	expect_story("[ 1000] > lease 1 held until=11000 +\n");
}

Test(lease, an_older_process_of_ours_is_taken_over, .init = story_up, .fini = story_down)
{
	acquire(1, 0, false);
	story_nil(CMD_LOCK);
	story_clear();
	story_txt(CMD_LOCK_GET, "redis-consumer-me/1f");
	story_int(CMD_LOCK_SWAP, 25000);
	expect_story("[ 1000] lock_swap s1 7-0 value=redis-consumer-me/20 expect=redis-consumer-me/1f\n"
		     "[ 1000] > lease 1 held until=26000 lasts=25000 +\n");
	cr_assert_eq(count(M_ACQUIRE_TAKEN_OVER), 1);
}

Test(lease, a_take_over_that_came_too_late_looks_again, .init = story_up, .fini = story_down)
{
	acquire(1, 0, false);
	story_nil(CMD_LOCK);
	story_txt(CMD_LOCK_GET, "redis-consumer-me/1f");
	story_clear();
	story_int(CMD_LOCK_SWAP, 0);
	story_txt(CMD_LOCK_GET, "redis-consumer-other/1");
	expect_story("[ 1000] lock_get s1 7-0\n"
		     "[ 1000] > lease 1 busy\n");
}

Test(lease, a_take_over_whose_script_is_unknown_is_sent_as_text, .init = story_up, .fini = story_down)
{
	acquire(1, 0, false);
	story_nil(CMD_LOCK);
	story_txt(CMD_LOCK_GET, "redis-consumer-me/1f");
	story_clear();
	story_error(CMD_LOCK_SWAP, RERR_NOSCRIPT, "NOSCRIPT");
	story_txt(CMD_LOCK_GET, "redis-consumer-me/1f");
	story_int(CMD_LOCK_SWAP, 10000);
	expect_story("[ 1000] lock_get s1 7-0 eval\n"
		     "[ 1000] lock_swap s1 7-0 value=redis-consumer-me/20 expect=redis-consumer-me/1f eval\n"
		     "[ 1000] > lease 1 held until=11000 lasts=10000 +\n");
}

Test(lease, a_newer_process_of_ours_replaces_us, .init = story_up, .fini = story_down)
{
	acquire(1, 0, false);
	story_nil(CMD_LOCK);
	story_clear();
	story_txt(CMD_LOCK_GET, "redis-consumer-me/21");
	expect_story("[ 1000] > replaced\n"
		     "[ 1000] > lease 1 busy\n");
}

Test(lease, at_start_any_incarnation_is_taken_over, .init = story_up, .fini = story_down)
{
	acquire(1, 0, true); /* the clock that numbers incarnations was set back */
	story_nil(CMD_LOCK);
	story_clear();
	story_txt(CMD_LOCK_GET, "redis-consumer-me/ffffffffffffffff");
	expect_story("[ 1000] lock_swap s1 7-0 value=redis-consumer-me/20 expect=redis-consumer-me/ffffffffffffffff\n");
}

Test(lease, waits_for_the_connection_and_nothing_else, .init = story_up, .fini = story_down)
{
	story_cut();
	story_clear();
	acquire(1, 0, false);
	story_until(90000);
	expect_story("");
	story_conn(CONN_COMMAND, true);
	story_clear();
	story_ok(CMD_LOCK);
	expect_story("[90000] > lease 1 held until=100000\n");
}

Test(lease, refusals_of_the_moment_are_repeated, .init = story_up, .fini = story_down)
{
	acquire(1, 0, false);
	for (int i = 0; i < 20; i++) {
		mono_ms asked = W.now;
		story_error(CMD_LOCK, RERR_RETRY, "LOADING");
		while (!story_waits(CMD_LOCK))
			story_until(W.now + 1);
		cr_assert(W.now - asked >= 37 && W.now - asked <= 250, "after %ld ms", (long)(W.now - asked));
	}
	cr_assert_eq(count(M_ACQUIRE_ERROR), 20);
	story_clear();
	story_ok(CMD_LOCK);
	cr_assert(strstr(W.text.data, "> lease 1 held"));
}

Test(lease, an_operators_error_is_said_once_a_minute, .init = story_up, .fini = story_down)
{
	acquire(1, 0, false);
	int n = 0;
	story_clear();
	while (W.now < 61000) {
		if (story_waits(CMD_LOCK)) {
			story_error(CMD_LOCK, RERR_OPERATOR, "NOPERM no permissions");
			n++;
		}
		story_until(W.now + 10);
	}
	cr_assert(n >= 12 && n < 30, "%d tries in a minute", n);
	const char *first =
		strstr(W.text.data, "say shard=2 service=orders lease: redis refuses: NOPERM no permissions");
	cr_assert(first, "%s", W.text.data);
	cr_assert_null(strstr(first + 1, "say"));
}

/* Nobody is given what could not be kept: it would be taken back, and given out again, for ever. */
Test(lease, is_not_held_while_renewals_are_refused, .init = story_up, .fini = story_down)
{
	hold(1);
	story_until(4800);
	story_error(CMD_RENEW, RERR_OPERATOR, "NOPERM no permissions");
	story_until(9000);
	story_clear();
	acquire(2, 0, false);
	story_ok(CMD_LOCK);
	cr_assert(story_waits(CMD_RENEW), "%s", W.text.data);
	story_error(CMD_RENEW, RERR_OPERATOR, "NOPERM no permissions");
	while (W.now < 30000) { /* the lock has run out meanwhile */
		if (story_waits(CMD_RENEW))
			story_error(CMD_RENEW, RERR_OPERATOR, "NOPERM no permissions");
		story_until(W.now + 10);
	}
	cr_expect_null(strstr(W.text.data, "held"), "%s", W.text.data);
	while (!story_waits(CMD_RENEW))
		story_until(W.now + 10);
	story_nil(CMD_RENEW);
	story_clear();
	story_ok(CMD_LOCK);
	cr_expect(strstr(W.text.data, "> lease 2 held"), "%s", W.text.data);
}

Test(lease, a_server_that_is_no_master_makes_us_ask_for_the_topology, .init = story_up, .fini = story_down)
{
	acquire(1, 0, false);
	acquire(2, 0, false);
	story_clear();
	story_error(CMD_LOCK, RERR_REFRESH, "READONLY");
	story_error(CMD_LOCK, RERR_REFRESH, "READONLY");
	expect_story("[ 1000] > refresh \"READONLY\"\n");
}

/* ---- renewing ---- */

Test(lease, an_unanswered_renewal_is_repeated_until_the_deadline, .init = story_up, .fini = story_down)
{
	hold(1);
	story_until(4800);
	mono_ms until = 0;
	while (W.now < 8000) {
		if (story_waits(CMD_RENEW)) {
			until = W.now;
			story_error(CMD_RENEW, RERR_RETRY, "BUSY");
		}
		story_until(W.now + 1);
	}
	while (!story_waits(CMD_RENEW))
		story_until(W.now + 1);
	cr_assert(W.now - until <= 250);
	cr_assert(count(M_RENEW_ERROR) > 10);
	until = W.now;
	story_clear();
	story_txt(CMD_RENEW, ME);
	mono_ms good = 0;
	cr_assert_eq(sscanf(W.text.data, "[ %*d] > renewed 1:%ld", &good), 1);
	cr_assert_eq(good, until + 10000);
}

Test(lease, is_renewed_at_once_after_a_reconnect, .init = story_up, .fini = story_down)
{
	hold(1);
	W.now = 2000;
	story_cut();
	W.now = 2500;
	story_conn(CONN_COMMAND, true);
	cr_assert(strstr(W.text.data, "[ 2500] renew s1 7-0\n"), "%s", W.text.data);
}

Test(lease, is_renewed_when_told_to_renew_all, .init = story_up, .fini = story_down)
{
	hold(1);
	hold(2);
	W.now = 2000;
	story_msg_in((struct msg){.kind = MSG_LEASE_RENEW, .handle = 2});
	expect_story("[ 2000] renew s2 7-0\n");
	story_msg_in((struct msg){.kind = MSG_RENEW_ALL});
	expect_story("[ 2000] renew s1 7-0\n");
}

Test(lease, stays_lost_while_redis_is_frozen, .init = story_up, .fini = story_down)
{
	hold(1);
	story_until(6000); /* a renewal was sent, no answer comes */
	story_clear();
	story_cut();
	story_until(7000);
	story_conn(CONN_COMMAND, true); /* up again, but it still does not answer */
	story_until(8999);
	story_clear();
	story_until(9000);
	expect_story("[ 9000] > lease 1 lost expired until=11000\n");
}

Test(lease, missing_before_its_deadline_is_created_again, .init = story_up, .fini = story_down)
{
	hold(1);
	story_until(4800);
	story_clear();
	story_nil(CMD_RENEW);
	W.now = 4900;
	story_ok(CMD_LOCK);
	expect_story("[ 4800] lock s1 7-0 value=redis-consumer-me/20\n"
		     "[ 4900] > lease 1 recreated until=14800\n");
	cr_assert_eq(count(M_RENEW_MISSING), 1);
}

Test(lease, missing_and_not_answered_in_time_is_lost_and_not_created_again, .init = story_up, .fini = story_down)
{
	hold(1);
	story_until(4800);
	story_nil(CMD_RENEW);
	story_clear();
	story_until(8999);
	expect_story("");
	story_until(9000);
	expect_story("[ 9000] > lease 1 lost missing until=11000\n");
	story_ok(CMD_LOCK);
	story_until(30000);
	expect_story("");
}

Test(lease, missing_and_then_somebody_elses_is_taken, .init = story_up, .fini = story_down)
{
	hold(1);
	story_until(4800);
	story_nil(CMD_RENEW);
	story_nil(CMD_LOCK);
	story_clear();
	story_txt(CMD_LOCK_GET, "recover:redis-consumer-other/1");
	expect_story("[ 4800] > lease 1 lost taken until=11000\n");
	cr_assert_eq(count(M_RENEW_TAKEN), 1);
}

Test(lease, created_again_with_a_lost_reply_is_still_to_be_verified, .init = story_up, .fini = story_down)
{
	hold(1);
	story_until(4800);
	story_nil(CMD_RENEW);
	story_error(CMD_LOCK, RERR_RETRY, "x"); /* executed or not */
	while (!story_waits(CMD_LOCK))
		story_until(W.now + 1);
	story_nil(CMD_LOCK);
	story_txt(CMD_LOCK_GET, ME);
	story_clear();
	mono_ms sent = W.now;
	story_txt(CMD_RENEW, ME);
	char want[80];
	snprintf(want, sizeof want, "[ %4ld] > lease 1 recreated until=%ld\n", (long)sent, (long)sent + 10000);
	expect_story(want);
}

Test(lease, taken_by_somebody_else_is_lost_at_once, .init = story_up, .fini = story_down)
{
	hold(1);
	story_until(4800);
	story_clear();
	story_txt(CMD_RENEW, "redis-consumer-other/9");
	expect_story("[ 4800] > lease 1 lost taken until=11000\n");
}

Test(lease, taken_by_another_process_of_ours_ends_us, .init = story_up, .fini = story_down)
{
	hold(1);
	story_until(4800);
	story_clear();
	story_txt(CMD_RENEW, "redis-consumer-me/21");
	expect_story("[ 4800] > replaced\n"
		     "[ 4800] > lease 1 lost replaced until=11000\n");
}

Test(lease, that_we_are_replaced_is_told_once, .init = story_up, .fini = story_down)
{
	hold(1);
	hold(2);
	story_msg_in((struct msg){.kind = MSG_RENEW_ALL});
	story_txt(CMD_RENEW, "redis-consumer-me/21");
	story_txt(CMD_RENEW, "redis-consumer-me/21");
	cr_assert_eq(W.n_msgs[MSG_REPLACED], 1);
	cr_assert_eq(shard_n_leases(W.s), 0);
}

Test(lease, new_times_of_the_service_hold_at_once, .init = story_up, .fini = story_down)
{
	hold(1);
	W.now = 2000;
	struct service_rules *r = story_rules();
	r->lease.stop_margin_ms = 5000;
	r->lease.ttl_ms = 20000;
	story_msg_in((struct msg){.kind = MSG_SERVICE, .service.rules = r});
	expect_story("[ 2000] renew s1 7-0\n");
	story_until(6000); /* the old T of its last confirmation, the new margin */
	expect_story("[ 6000] > lease 1 lost expired until=11000\n");
}

/* 100,000 leases of 250 services were all renewed at once, each looked at 250 times, by a reload of nothing. */
Test(lease, rules_with_the_same_times_renew_nothing, .init = story_up, .fini = story_down)
{
	hold(1);
	W.now = 2000;
	struct service_rules *r = story_rules();
	r->max_retries++;
	r->lease.old_margin_ms = r->lease.stop_margin_ms; /* as a reload leaves them */
	r->lease.old_until = 2000 + 2 * r->lease.ttl_ms;
	story_msg_in((struct msg){.kind = MSG_SERVICE, .service.rules = r});
	expect_story("");
}

Test(lease, new_times_hold_for_a_renewal_that_is_on_its_way, .init = story_up, .fini = story_down)
{
	hold(1);
	story_msg_in((struct msg){.kind = MSG_RENEW_ALL});
	struct service_rules *r = story_rules();
	r->lease.stop_margin_ms = 5000;
	r->lease.ttl_ms = 20000;
	story_msg_in((struct msg){.kind = MSG_SERVICE, .service.rules = r});
	story_clear();
	story_until(5999);
	expect_story("");
	story_txt(CMD_RENEW, ME); /* it asked for the old T */
	expect_story("[ 5999] > renewed 1:11000\n");
	story_until(6000);
	expect_story("[ 5999] renew s1 7-0\n"
		     "[ 6000] > lease 1 lost expired until=11000\n");
}

Test(lease, a_new_margin_holds_while_a_renewal_is_on_its_way, .init = story_up, .fini = story_down)
{
	hold(1);
	story_msg_in((struct msg){.kind = MSG_RENEW_ALL});
	struct service_rules *r = story_rules();
	r->lease.stop_margin_ms = 5000;
	story_msg_in((struct msg){.kind = MSG_SERVICE, .service.rules = r});
	story_clear();
	story_until(8000);
	expect_story("[ 6000] > lease 1 lost expired until=11000\n");
}

/* ---- many ---- */

static void hold_many(uint64_t n)
{
	W.mute = true;
	for (uint64_t h = 1; h <= n; h++) {
		acquire(h, 0, false);
		story_ok(CMD_LOCK);
	}
}

Test(lease, many_are_renewed_in_groups, .init = story_up, .fini = story_down)
{
	hold_many(3000);
	int n_steps = 0, n_sending = 0;
	while (W.now < 4700 && W.next <= 4700) {
		W.now = mono_max(W.now, W.next);
		uint64_t before = W.n_cmds[CMD_RENEW];
		story_event((struct shard_event){.kind = SHARD_TICK});
		cr_assert_leq(W.n_cmds[CMD_RENEW] - before, 250);
		n_steps++;
		n_sending += W.n_cmds[CMD_RENEW] > before;
		while (story_waits(CMD_RENEW))
			story_txt(CMD_RENEW, ME);
	}
	cr_assert_eq(count(M_RENEW_OK), 3000);
	cr_assert_leq(n_sending, 30, "%d groups", n_sending);
	cr_assert_leq(W.n_msgs[MSG_RENEWED], 40);
}

Test(lease, not_more_than_a_thousand_commands_are_on_their_way, .init = story_up, .fini = story_down)
{
	hold_many(3000);
	W.now = 2000;
	story_msg_in((struct msg){.kind = MSG_RENEW_ALL});
	cr_assert_eq(W.n_cmds[CMD_RENEW], 250);
	story_until(2000);
	cr_assert_eq(W.n_cmds[CMD_RENEW], 1000);
	for (int i = 0; i < 256; i++) /* late answers of forgotten ones count, too */
		story_msg_in((struct msg){.kind = MSG_LEASE_FORGET, .handle = (uint64_t)i + 1});
	for (int i = 0; i < 1000; i++)
		story_txt(CMD_RENEW, ME);
	story_until(2000);
	cr_assert_geq(W.n_cmds[CMD_RENEW], 1990);
}

Test(lease, confirmed_renewals_are_told_before_anything_about_a_lease, .init = story_up, .fini = story_down)
{
	hold(1);
	hold(2);
	story_msg_in((struct msg){.kind = MSG_RENEW_ALL});
	story_clear();
	story_txt(CMD_RENEW, ME);
	expect_story("");
	story_txt(CMD_RENEW, "x");
	cr_assert(strstr(W.text.data, "> renewed"), "%s", W.text.data);
	cr_assert(strstr(W.text.data, "> renewed") < strstr(W.text.data, "lost taken"), "%s", W.text.data);
}

Test(lease, confirmed_renewals_do_not_wait_for_a_slow_one, .init = story_up, .fini = story_down)
{
	hold(1);
	hold(2);
	story_msg_in((struct msg){.kind = MSG_RENEW_ALL});
	story_txt(CMD_RENEW, ME);
	story_clear();
	story_until(1020);
	cr_assert(strncmp(W.text.data, "[ 1010] > renewed ", 18) == 0, "%s", W.text.data);
}

/* ---- leaving, moving ---- */

Test(lease, released_is_unlocked_until_redis_has_answered, .init = story_up, .fini = story_down)
{
	hold(1);
	story_msg_in((struct msg){.kind = MSG_LEASE_RELEASE, .handle = 1});
	expect_story("[ 1000] unlock s1 7-0 delifeq\n");
	story_error(CMD_UNLOCK, RERR_OPERATOR, "ERR unknown command 'DELIFEQ'");
	expect_story("[ 1000] unlock s1 7-0\n");
	story_error(CMD_UNLOCK, RERR_NOSCRIPT, "NOSCRIPT");
	expect_story("[ 1000] unlock s1 7-0 eval\n");
	story_cut();
	story_conn(CONN_COMMAND, true);
	story_int(CMD_UNLOCK, 1);
	cr_assert_eq(shard_n_leases(W.s), 0);
	cr_assert_eq(count(M_RELEASE_OK), 1);
}

static void release(uint64_t handle, const char *story)
{
	story_clear();
	story_msg_in((struct msg){.kind = MSG_LEASE_RELEASE, .handle = handle});
	expect_story(story);
}

Test(lease, one_release_asks_whether_the_server_has_delifeq, .init = story_up, .fini = story_down)
{
	for (uint64_t handle = 1; handle <= 4; handle++)
		hold(handle);
	release(1, "[ 1000] unlock s1 7-0 delifeq\n");
	release(2, "[ 1000] unlock s2 7-0\n");
	story_int(CMD_UNLOCK, 1); /* the oldest: handle 1's */
	release(3, "[ 1000] unlock s3 7-0 delifeq\n");
	release(4, "[ 1000] unlock s4 7-0 delifeq\n");
	for (int i = 0; i < 3; i++)
		story_int(CMD_UNLOCK, 1);
	cr_assert_eq(shard_n_leases(W.s), 0);
	cr_assert_eq(count(M_RELEASE_OK), 4);
}

Test(lease, a_redis_is_not_asked_for_delifeq, .init = story_up, .fini = story_down)
{
	hold(1);
	story_event((struct shard_event){.kind = SHARD_CONN, .role = CONN_COMMAND, .up = true, .client_id = 34});
	release(1, "[ 1000] unlock s1 7-0\n");
}

Test(lease, a_server_that_refuses_delifeq_is_not_asked_again, .init = story_up, .fini = story_down)
{
	for (uint64_t handle = 1; handle <= 4; handle++)
		hold(handle);
	release(1, "[ 1000] unlock s1 7-0 delifeq\n");
	story_int(CMD_UNLOCK, 1);
	release(2, "[ 1000] unlock s2 7-0 delifeq\n");
	release(3, "[ 1000] unlock s3 7-0 delifeq\n");
	story_clear(); /* another server behind the same connection */
	story_error(CMD_UNLOCK, RERR_OPERATOR, "NOPERM this user has no permissions to run the 'delifeq' command");
	expect_story("[ 1000] unlock s2 7-0\n");
	story_error(CMD_UNLOCK, RERR_OPERATOR, "NOPERM this user has no permissions to run the 'delifeq' command");
	expect_story("[ 1000] unlock s3 7-0\n");
	release(4, "[ 1000] unlock s4 7-0\n");
}

Test(lease, delifeq_is_asked_for_on_each_connection_until_answered, .init = story_up, .fini = story_down)
{
	for (uint64_t handle = 1; handle <= 3; handle++)
		hold(handle);
	release(1, "[ 1000] unlock s1 7-0 delifeq\n");
	story_error(CMD_UNLOCK, RERR_RETRY, "LOADING");
	release(2, "[ 1000] unlock s2 7-0 delifeq\n"); /* no answer to the question */
	story_error(CMD_UNLOCK, RERR_OPERATOR, "ERR unknown command 'DELIFEQ'");
	release(3, "[ 1000] unlock s3 7-0\n");
	story_cut();
	story_clear();
	story_conn(CONN_COMMAND, true);
	cr_assert(strstr(W.text.data, "unlock s1 7-0 delifeq"), "%s", W.text.data);
	cr_assert_null(strstr(W.text.data, "s2 7-0 delifeq"), "%s", W.text.data);
}

Test(lease, is_acquired_again_only_when_its_release_is_over, .init = story_up, .fini = story_down)
{
	hold(1);
	story_msg_in((struct msg){.kind = MSG_LEASE_RELEASE, .handle = 1});
	story_msg_in((struct msg){.kind = MSG_LEASE_ACQUIRE,
		.handle = 2,
		.svc = 1,
		.lease_acquire.slot = 9,
		.lease_acquire.id = ID7,
		.lease_acquire.stream = text_new("s1", 2)});
	acquire(3, 0, false); /* another stream's */
	expect_story("[ 1000] unlock s1 7-0 delifeq\n"
		     "[ 1000] lock s3 7-0 value=redis-consumer-me/20\n");
	story_error(CMD_UNLOCK, RERR_RETRY, "LOADING");
	story_until(1100); /* sent again: it would delete the new lock, too */
	expect_story("[ 1046] unlock s1 7-0 delifeq\n");
	story_int(CMD_UNLOCK, 1);
	story_until(1120);
	expect_story("[ 1120] lock s1 7-0 value=redis-consumer-me/20\n");
}

Test(lease, a_release_gives_up_when_the_lock_has_expired_by_itself, .init = story_up, .fini = story_down)
{
	hold(1);
	story_cut();
	story_msg_in((struct msg){.kind = MSG_LEASE_RELEASE, .handle = 1});
	story_until(20999);
	cr_assert_eq(shard_n_leases(W.s), 1);
	story_until(21000);
	cr_assert_eq(shard_n_leases(W.s), 0);
	cr_assert_eq(count(M_RELEASE_ERROR), 1);
}

Test(lease, released_while_being_acquired_is_unlocked_after_the_lock, .init = story_up, .fini = story_down)
{
	acquire(1, 0, false);
	story_clear();
	story_msg_in((struct msg){.kind = MSG_LEASE_RELEASE, .handle = 1});
	expect_story("[ 1000] unlock s1 7-0 delifeq\n");
	story_ok(CMD_LOCK);
	story_int(CMD_UNLOCK, 1);
	expect_story("");
	cr_assert_eq(shard_n_leases(W.s), 0);
}

Test(lease, released_or_forgotten_before_it_was_asked_for_needs_no_redis, .init = story_up, .fini = story_down)
{
	story_cut();
	acquire(1, 0, false);
	acquire(2, 0, false);
	story_msg_in((struct msg){.kind = MSG_LEASE_RELEASE, .handle = 1});
	story_msg_in((struct msg){.kind = MSG_LEASE_FORGET, .handle = 2});
	cr_assert_eq(shard_n_leases(W.s), 0);
	story_conn(CONN_COMMAND, true);
	cr_assert_not(story_waits(CMD_LOCK));
	cr_assert_not(story_waits(CMD_UNLOCK));
}

Test(lease, follows_its_slot, .init = story_up, .fini = story_down)
{
	hold(1);
	acquire(2, 0, false);
	story_clear();
	uint8_t *bits = mem_alloc(SLOTS / 8);
	bits[0] = 0xff; /* 0..7; the leases are on 9 */
	story_msg_in((struct msg){.kind = MSG_SLOTS, .slots.bits = bits});
	cr_assert(strstr(W.text.data, "> lease 1 moved until=11000\n"), "%s", W.text.data);
	cr_assert(strstr(W.text.data, "> lease 2 moved until=0\n"));
	cr_assert_str_eq(W.moved, "7-0 s2", "its lock can be found when its entry has ended");
	cr_assert_eq(shard_n_leases(W.s), 0);
	story_clear();
	story_ok(CMD_LOCK);
	expect_story("");
	acquire(3, 0, false);
	expect_story("[ 1000] > lease 3 moved until=0\n");
}

Test(lease, moved_by_redis_says_where_to, .init = story_up, .fini = story_down)
{
	hold(1);
	story_until(4800);
	story_clear();
	story_error(CMD_RENEW, RERR_MOVED, "10.0.0.2:7000");
	expect_story("[ 4800] > moved slot=5 \"10.0.0.2:7000\"\n"
		     "[ 4800] > lease 1 moved until=11000 \"10.0.0.2:7000\"\n");
	cr_assert_eq(shard_n_leases(W.s), 0);
}

Test(lease, during_a_migration_it_asks_there, .init = story_up, .fini = story_down)
{
	acquire(1, 0, false);
	story_clear();
	story_error(CMD_LOCK, RERR_ASK, "10.0.0.2:7000");
	expect_story("[ 1000] > refresh \"ask\"\n"
		     "[ 1000] > lease 1 moved until=0 \"10.0.0.2:7000\" asking\n");
}

Test(lease, an_asking_lease_stays_until_the_slot_has_come, .init = story_up, .fini = story_down)
{
	uint8_t *bits = mem_alloc(SLOTS / 8);
	story_msg_in((struct msg){.kind = MSG_SLOTS, .slots.bits = bits});
	story_msg_in((struct msg){.kind = MSG_LEASE_ACQUIRE,
		.handle = 1,
		.svc = 1,
		.lease_acquire.slot = 9,
		.lease_acquire.id = ID7,
		.lease_acquire.good_until = 9000,
		.lease_acquire.asking = true,
		.lease_acquire.stream = text_new("s1", 2)});
	expect_story("[ 1000] renew s1 7-0 asking\n");
	story_txt(CMD_RENEW, ME);
	story_msg_in((struct msg){.kind = MSG_SLOTS, .slots.bits = mem_alloc(SLOTS / 8)});
	cr_assert_eq(shard_n_leases(W.s), 1);
	bits = mem_alloc(SLOTS / 8);
	bits[1] = 2;
	story_msg_in((struct msg){.kind = MSG_SLOTS, .slots.bits = bits});
	story_clear();
	story_msg_in((struct msg){.kind = MSG_LEASE_RENEW, .handle = 1});
	expect_story("[ 1000] renew s1 7-0\n");
}

Test(lease, adopted_from_another_shard_keeps_its_deadline, .init = story_up, .fini = story_down)
{
	acquire(1, 5000, false);
	expect_story("[ 1000] renew s1 7-0\n");
	story_until(2999);
	expect_story("");
	story_until(3000);
	expect_story("[ 3000] > lease 1 lost expired until=5000\n");
}

Test(lease, stop_forgets_all_without_a_word_to_redis, .init = story_up, .fini = story_down)
{
	hold(1);
	story_msg_in((struct msg){.kind = MSG_STOP});
	expect_story("[ 1000] > stopped\n");
	cr_assert_eq(W.next, MONO_NEVER);
	acquire(2, 0, false);
	story_until(30000);
	expect_story("");
}

/* The slot of another shard's lease has come here, and its entry has ended: by now the handle's place is a new entry's. */
Test(lease, one_that_is_over_takes_no_name_from_others, .init = story_up, .fini = story_down)
{
	hold(1);
	story_msg_in((struct msg){.kind = MSG_LEASE_ACQUIRE,
		.handle = 1,
		.svc = 1,
		.lease_acquire.slot = 9,
		.lease_acquire.id = {8, 0},
		.lease_acquire.good_until = 9000,
		.lease_acquire.is_over = true,
		.lease_acquire.stream = text_new("s2", 2)});
	expect_story("[ 1000] unlock s2 8-0 delifeq\n");
	story_int(CMD_UNLOCK, 1);
	cr_assert_eq(shard_n_leases(W.s), 1);
	story_clear();
	story_msg_in((struct msg){.kind = MSG_LEASE_RELEASE, .handle = 1});
	expect_story("[ 1000] unlock s1 7-0 delifeq\n");
}

Test(lease, an_unlock_follows_its_slot, .init = story_up, .fini = story_down)
{
	hold(1);
	story_msg_in((struct msg){.kind = MSG_LEASE_RELEASE, .handle = 1});
	story_clear();
	story_error(CMD_UNLOCK, RERR_MOVED, "10.0.0.2:7000");
	expect_story("[ 1000] > moved slot=5 \"10.0.0.2:7000\"\n"
		     "[ 1000] > call unlock 7-0 \"redis-consumer-me/20\"\n");
	cr_assert_eq(shard_n_leases(W.s), 0);
	struct msg answer = {.kind = MSG_LOCK_ANSWER,
		.svc = 1,
		.lock_answer.kind = CMD_UNLOCK,
		.lock_answer.tag = W.last_call.lock_call.tag,
		.lock_answer.integer = 1};
	cr_assert_eq(W.last_call.lock_call.slot, 9);
	story_msg_in(answer);
	cr_assert_eq(count(M_RELEASE_OK), 1);
	answer.lock_answer.result = OP_FAILED;
	story_msg_in(answer);
	cr_assert_eq(count(M_RELEASE_ERROR), 1);
}

Test(lease, an_unlock_on_its_way_when_the_slot_moves_goes_after_it, .init = story_up, .fini = story_down)
{
	hold(1);
	story_msg_in((struct msg){.kind = MSG_LEASE_RELEASE, .handle = 1});
	story_cut(); /* the master is gone */
	story_clear();
	story_msg_in((struct msg){.kind = MSG_SLOTS, .slots.bits = mem_alloc(SLOTS / 8)});
	expect_story("[ 1000] > call unlock 7-0 \"redis-consumer-me/20\"\n");
	cr_assert_eq(shard_n_leases(W.s), 0);
}

Test(lease, an_unlock_waits_while_its_slot_is_on_its_way, .init = story_up, .fini = story_down)
{
	hold(1);
	story_msg_in((struct msg){.kind = MSG_LEASE_RELEASE, .handle = 1});
	story_error(CMD_UNLOCK, RERR_ASK, "10.0.0.2:7000");
	story_clear();
	story_until(1100);
	cr_assert(strstr(W.text.data, "unlock s1 7-0"), "%s", W.text.data);
}

/* ---- taken right behind the lock, ended with its last operation ---- */

static void acquire_and_take(uint64_t handle)
{
	story_msg_in((struct msg){.kind = MSG_LEASE_ACQUIRE,
		.handle = handle,
		.svc = 1,
		.lease_acquire.slot = 9,
		.lease_acquire.id = ID7,
		.lease_acquire.takes = true,
		.lease_acquire.stream = text_new("s1", 2)});
}

Test(lease, its_take_goes_right_behind_the_lock, .init = story_up, .fini = story_down)
{
	static const struct {
		int64_t answer;
		const char *told;
	} rows[] = {{1, "take=done"}, {2, "take=parked"}, {4, "take=parked merged"}, {0, "take=gone"}};
	for (uint64_t i = 0; i < 4; i++) {
		acquire_and_take(i + 1);
		story_ok(CMD_LOCK);
		expect_story("[ 1000] lock s1 7-0 value=redis-consumer-me/20\n[ 1000] take s1 7-0\n");
		story_int(CMD_TAKE, rows[i].answer);
		char want[100];
		snprintf(want, sizeof want, "[ 1000] > lease %llu held until=11000 %s\n", (unsigned long long)i + 1,
			rows[i].told);
		expect_story(want);
	}
}

/* Many that come together: their locks, then one take of all. */
Test(lease, many_takes_go_behind_many_locks, .init = story_up, .fini = story_down)
{
	for (uint64_t i = 1; i <= 3; i++)
		story_event((struct shard_event){.kind = SHARD_MSG,
			.has_more = i < 3,
			.msg = &(struct msg){.kind = MSG_LEASE_ACQUIRE,
				.handle = i,
				.svc = 1,
				.lease_acquire.slot = 9,
				.lease_acquire.id = {i, 0},
				.lease_acquire.takes = true,
				.lease_acquire.stream = text_new("s", 1)}});
	expect_story("[ 1000] lock s 1-0 value=redis-consumer-me/20\n[ 1000] lock s 2-0 value=redis-consumer-me/20\n"
		     "[ 1000] lock s 3-0 value=redis-consumer-me/20\n[ 1000] take_many n=3\n");
}

Test(lease, a_lock_that_is_refused_makes_its_take_void, .init = story_up, .fini = story_down)
{
	acquire_and_take(1);
	story_nil(CMD_LOCK);
	story_int(CMD_TAKE, 1);
	story_txt(CMD_LOCK_GET, ME); /* ours after all: its taker asks again */
	story_txt(CMD_RENEW, ME);
	cr_assert(strstr(W.text.data, "> lease 1 held until=11000 +\n"), "%s", W.text.data);
	acquire_and_take(2);
	story_nil(CMD_LOCK);
	story_clear();
	story_txt(CMD_LOCK_GET, "somebody");
	story_int(CMD_TAKE, 1);
	expect_story("[ 1000] > lease 2 busy\n");
}

/* Its holder is gone a moment later: the second lock is ours, but the take stood before it. */
Test(lease, a_take_before_the_second_lock_does_not_count, .init = story_up, .fini = story_down)
{
	acquire_and_take(1);
	story_nil(CMD_LOCK);
	story_nil(CMD_LOCK_GET);
	story_clear();
	story_ok(CMD_LOCK);
	expect_story("[ 1000] > lease 1 held until=11000\n");
	story_int(CMD_TAKE, 1);
	expect_story("");
	cr_assert(!story_waits(CMD_TAKE));
}

Test(lease, a_take_that_fails_leaves_the_lock, .init = story_up, .fini = story_down)
{
	acquire_and_take(1);
	story_ok(CMD_LOCK);
	story_clear();
	story_error(CMD_TAKE, RERR_RETRY, "BUSY script");
	story_until(1500);
	expect_story("[ 1000] > lease 1 held until=11000\n");
	cr_assert(!story_waits(CMD_TAKE), "who was told takes it");
	acquire_and_take(2);
	story_ok(CMD_LOCK);
	story_error(CMD_TAKE, RERR_NOSCRIPT, "NOSCRIPT");
	story_clear();
	story_int(CMD_TAKE, 1);
	expect_story("[ 1500] > lease 2 held until=11500 take=done\n");
}

Test(lease, a_lost_connection_makes_the_take_void, .init = story_up, .fini = story_down)
{
	acquire_and_take(1);
	story_cut(); /* before either answer */
	story_conn(CONN_COMMAND, true);
	story_until(1500);
	cr_assert(!story_waits(CMD_TAKE));
	story_nil(CMD_LOCK);
	story_txt(CMD_LOCK_GET, ME);
	story_clear();
	story_txt(CMD_RENEW, ME);
	cr_assert(strstr(W.text.data, "> lease 1 held") && !strstr(W.text.data, "take="), "%s", W.text.data);
	acquire_and_take(2);
	story_ok(CMD_LOCK);
	story_clear();
	story_cut(); /* between them */
	cr_assert(strstr(W.text.data, "> lease 2 held until=11500\n"), "%s", W.text.data);
}

/* Whatever comes before the take's answer: first it is told that it was held. */
Test(lease, is_told_held_before_anything_else, .init = story_up, .fini = story_down)
{
	acquire_and_take(1);
	story_ok(CMD_LOCK);
	story_clear();
	uint8_t *bits = mem_alloc(SLOTS / 8);
	story_msg_in((struct msg){.kind = MSG_SLOTS, .slots.bits = bits});
	cr_assert_eq(
		strncmp(W.text.data, "[ 1000] > lease 1 held until=11000\n[ 1000] > lease 1 moved until=11000\n", 70),
		0, "%s", W.text.data);
	story_int(CMD_TAKE, 1);
	cr_assert_eq(shard_n_leases(W.s), 0);
	bits = mem_alloc(SLOTS / 8);
	memset(bits, 0xff, SLOTS / 8);
	story_msg_in((struct msg){.kind = MSG_SLOTS, .slots.bits = bits});
	acquire_and_take(2);
	story_ok(CMD_LOCK);
	story_clear();
	story_until(W.now + 5000);
	story_txt(CMD_RENEW, ME);
	cr_assert(strstr(W.text.data, "> lease 2 held until=11000\n"), "%s", W.text.data);
	story_clear();
	story_int(CMD_TAKE, 1);
	cr_assert(!strstr(W.text.data ? W.text.data : "", "> lease"), "%s", W.text.data);
	acquire_and_take(3);
	story_ok(CMD_LOCK);
	story_clear();
	story_until(W.now + 9000);
	cr_assert(strstr(W.text.data, "> lease 3 held") < strstr(W.text.data, "> lease 3 lost"), "%s", W.text.data);
}

static void last_operation(uint64_t handle, enum cmd_kind op)
{
	story_msg_in((struct msg){.kind = MSG_OP,
		.op.kind = (uint8_t)op,
		.handle = handle,
		.svc = 1,
		.op.id = ID7,
		.op.releases = true,
		.op.stream = text_new("s1", 2)});
}

Test(lease, ends_with_the_last_operation_of_its_entry, .init = story_up, .fini = story_down)
{
	hold(1);
	last_operation(1, CMD_DONE);
	story_int(CMD_DONE, 1);
	expect_story("[ 1000] done s1 7-0\n[ 1000] > op done done released\n[ 1000] unlock s1 7-0 delifeq\n");
	story_int(CMD_UNLOCK, 1);
	cr_assert_eq(count(M_RELEASE_OK), 1);
	cr_assert_eq(shard_n_leases(W.s), 0);
	last_operation(1, CMD_REQUEUE); /* no lease of that name: nothing to release */
	story_clear();
	story_nil(CMD_REQUEUE);
	expect_story("[ 1000] > op requeue gone released\n");
}

Test(lease, stays_while_its_last_operation_is_not_over, .init = story_up, .fini = story_down)
{
	hold(1);
	last_operation(1, CMD_DONE);
	story_error(CMD_DONE, RERR_RETRY, "LOADING");
	story_cut();
	story_conn(CONN_COMMAND, true);
	story_until(W.now + 100);
	cr_assert(!story_waits(CMD_UNLOCK));
	story_clear();
	story_error(CMD_DONE, RERR_MOVED, "h:1");
	cr_assert(strstr(W.text.data, "> op done moved") && !strstr(W.text.data, "released"), "%s", W.text.data);
	cr_assert(!story_waits(CMD_UNLOCK));
	cr_assert_eq(shard_n_leases(W.s), 1);
}

static void done_and_unlock(uint64_t handle, bool has_more)
{
	story_event((struct shard_event){.kind = SHARD_MSG,
		.has_more = has_more,
		.msg = &(struct msg){.kind = MSG_OP,
			.op.kind = CMD_DONE,
			.handle = handle,
			.svc = 1,
			.op.id = {handle, 0},
			.op.releases = true,
			.op.unlocks = true,
			.op.stream = text_new("s", 1)}});
}

Test(lease, goes_with_the_script_that_is_done, .init = story_up, .fini = story_down)
{
	hold(1);
	done_and_unlock(1, false);
	story_int(CMD_DONE, 1);
	expect_story("[ 1000] done s 1-0 value=redis-consumer-me/20\n[ 1000] > op done done released\n");
	cr_assert_eq(count(M_RELEASE_OK), 1);
	cr_assert_eq(shard_n_leases(W.s), 0);
	hold(2);
	hold(3);
	done_and_unlock(2, true);
	done_and_unlock(3, false);
	static const struct reply each[] = {{.kind = REPLY_ID, .id = {9, 0}}, {.kind = REPLY_INT, .integer = 1}};
	story_reply(CMD_DONE_MANY, (struct reply){.kind = REPLY_MANY, .many = each, .n = 2});
	expect_story("[ 1000] done_many value=redis-consumer-me/20 n=2\n[ 1000] > op done done 9-0 released\n"
		     "[ 1000] > op done done released\n");
	cr_assert_eq(shard_n_leases(W.s), 0);
}

/* Not done, not our lock, or a renewal on its way that may make it again: by a command of its own. */
Test(lease, is_unlocked_by_itself_when_the_script_did_not, .init = story_up, .fini = story_down)
{
	static const int64_t answers[] = {0, 3};
	for (uint64_t i = 0; i < 2; i++) {
		hold(i + 1);
		done_and_unlock(i + 1, false);
		story_int(CMD_DONE, answers[i]);
		cr_assert(story_waits(CMD_UNLOCK), "%d", (int)answers[i]);
		story_int(CMD_UNLOCK, 0);
	}
	cr_assert_eq(count(M_RELEASE_NOT_OURS), 2);
	hold(3);
	done_and_unlock(3, false);
	story_until(W.now + 5000); /* its renewal has gone */
	cr_assert(story_waits(CMD_RENEW));
	story_int(CMD_DONE, 1);
	cr_assert(story_waits(CMD_UNLOCK));
}

Test(lease, waits_for_replicas_before_it_goes, .init = story_up, .fini = story_down)
{
	struct service_rules *r = story_rules();
	r->wait_replicas = 1;
	story_msg_in((struct msg){.kind = MSG_SERVICE, .service.rules = r});
	hold(1);
	done_and_unlock(1, false);
	story_int(CMD_DONE, 1);
	story_int(CMD_WAIT, 1);
	expect_story("[ 1000] done s 1-0\n[ 1000] wait 1\n[ 1000] > op done done released\n"
		     "[ 1000] unlock s1 7-0 delifeq\n");
}
