/* How connections move. */
#include "handoff_story.h"

Test(handoff, make_before_break)
{
	note(C, NOTE_MOVING, 7, 15, "b:2");
	EXPECT("hurry");
	EXPECT("[     0] relax C 15000");
	run_to(1000);
	EXPECT("dial C b:2");
	EXPECT_NOT("switch");
	event(HANDOFF_NEW_UP, C, NULL);
	EXPECT("[  1000] switch C");
	EXPECT("relax C 21000"); /* post_handoff_relaxed */
	EXPECT_NOT("close_old");
	cr_assert_eq(handoff_state(W.h, C), HANDOFF_DRAINING);
	run_to(3000);
	EXPECT_NOT("close_old");
	event(HANDOFF_DRAINED, C, NULL);
	EXPECT("[  3000] close_old C");
	cr_assert_eq(handoff_state(W.h, C), HANDOFF_IDLE);
	cr_assert_eq(count(MH_HANDOFF_OK), 1);
}

Test(handoff, drain_is_bounded)
{
	note(C, NOTE_MOVING, 7, 15, "b:2");
	run_to(1000);
	event(HANDOFF_NEW_UP, C, NULL);
	run_to(15999);
	EXPECT_NOT("close_old");
	run_to(16000);
	EXPECT("[ 16000] close_old C");
}

Test(handoff, subscriber_joins_first)
{
	note(S, NOTE_MOVING, 7, 15, "b:2");
	run_to(1000);
	event(HANDOFF_NEW_UP, S, NULL);
	EXPECT_NOT("switch");
	cr_assert_eq(handoff_state(W.h, S), HANDOFF_JOINING);
	run_to(1200);
	event(HANDOFF_JOINED, S, NULL);
	EXPECT("[  1200] switch S");
	event(HANDOFF_DRAINED, S, NULL);
	run_to(1699);
	EXPECT_NOT("close_old");
	run_to(1700);
	EXPECT("[  1700] close_old S");
}

Test(handoff, subscriber_reads_after_a_stall)
{
	note(S, NOTE_MOVING, 7, 15, "b:2");
	run_to(1000);
	event(HANDOFF_NEW_UP, S, NULL);
	event(HANDOFF_JOINED, S, NULL);
	W.now = 2500; /* nothing ran since */
	step((struct handoff_event){.kind = HANDOFF_TICK, .conn = UINT32_MAX});
	EXPECT_NOT("close_old");
	W.now = 9000; /* once is enough */
	step((struct handoff_event){.kind = HANDOFF_TICK, .conn = UINT32_MAX});
	EXPECT("[  9000] close_old S");
}

Test(handoff, two_subscribers_one_event)
{
	struct handoff_seen *s = mem_alloc(sizeof *s);
	struct slice name = {"orders", 6};
	for (uint64_t i = 1; i < 20000; i++) {
		mono_ms now = (mono_ms)i / 10;
		cr_assert(!handoff_seen_before(s, name, (struct entry_id){i, 0}, i % 2, now));
		if (i > 100)
			cr_assert(handoff_seen_before(s, name, (struct entry_id){i - 100, 0}, (i + 1) % 2, now));
	}
	mem_free(s);
}

Test(handoff, the_same_lock_expires_twice)
{
	struct handoff_seen *s = mem_alloc(sizeof *s);
	struct slice name = {"orders", 6};
	struct entry_id id = {7, 0};
	cr_assert(!handoff_seen_before(s, name, id, 0, 0));
	cr_assert(!handoff_seen_before(s, name, id, 0, 100), "the second time");
	cr_assert(handoff_seen_before(s, name, id, 1, 150));
	cr_assert(handoff_seen_before(s, name, id, 1, 200));
	cr_assert(!handoff_seen_before(s, name, id, 1, 300), "the third, heard by the other side first");
	cr_assert(handoff_seen_before(s, name, id, 0, 310));
	cr_assert(!handoff_seen_before(s, name, id, 0, 320));
	cr_assert(!handoff_seen_before(s, name, id, 1, 320 + HANDOFF_SEEN_MS + 1), "long after");
	id.ms = 8;
	mono_ms now = 5000;
	cr_assert(!handoff_seen_before(s, name, id, 0, now), "before the other side had subscribed");
	for (int i = 1; i < 30; i++) {
		now = 5000 + i * 20;
		cr_assert(!handoff_seen_before(s, name, id, 0, now));
		cr_assert(handoff_seen_before(s, name, id, 1, now + 1));
	}
	cr_assert(
		!handoff_seen_before(s, name, id, 1, now + 20), "the old one is closed: none is taken for that first");
	mem_free(s);
}

Test(handoff, reader_is_unblocked)
{
	moving_all(7, 15, "b:2");
	run_to(125);
	EXPECT("dial B");
	EXPECT_NOT("dial C");
	event(HANDOFF_NEW_UP, B, NULL);
	EXPECT("[   125] unblock B");
	run_to(375);
	EXPECT("[   375] unblock B");
	event(HANDOFF_DRAINED, B, NULL);
	EXPECT("[   375] close_old B");
	forget();
	run_to(5000);
	EXPECT_NOT("unblock B");
}

Test(handoff, reader_goes_before_the_command_connection)
{
	moving_all(7, 1, "b:2"); /* no time for jitter */
	EXPECT("dial B");
	EXPECT("dial S");
	EXPECT_NOT("dial C");
	run_to(50);
	event(HANDOFF_NEW_UP, B, NULL);
	EXPECT("unblock B");
	EXPECT_NOT("dial C");
	event(HANDOFF_DRAINED, B, NULL);
	EXPECT("[    50] dial C");
	start(&rules);
	moving_all(7, 1, "b:2"); /* a reader that takes its time does not hold C up */
	run_to(199);
	EXPECT_NOT("dial C");
	run_to(200);
	EXPECT("[   200] dial C");
}

Test(handoff, one_operation_for_all)
{
	moving_all(7, 15, "b:2");
	moving_all(7, 15, "b:2");
	run_to(1000);
	moving_all(7, 14, "b:2");
	cr_assert_eq(W.n[HANDOFF_DIAL], 3);
	cr_assert_eq(W.n[HANDOFF_DROP_NEW], 0);
	cr_assert_eq(W.n[HANDOFF_RENEW_ALL], 1);
	event(HANDOFF_NEW_UP, C, NULL);
	event(HANDOFF_NEW_UP, B, NULL);
	event(HANDOFF_NEW_UP, S, NULL);
	event(HANDOFF_JOINED, S, NULL);
	moving_all(7, 9, "b:2"); /* the new connections hear of it with the remaining time */
	run_to(16000);
	cr_assert_eq(W.n[HANDOFF_DIAL], 3);
	cr_assert_eq(count(MH_HANDOFF_OK), 1);
	cr_assert_eq(count(MH_MOVING_ACTED), 1);
	cr_assert_eq(count(MH_MOVING_DUPLICATE), 11);
}

Test(handoff, null_endpoint)
{
	note(C, NOTE_MOVING, 7, 15, NULL);
	run_to(7499);
	cr_assert_eq(W.n[HANDOFF_DIAL], 0);
	run_to(8500);
	EXPECT("dial C configured");
	event(HANDOFF_NEW_UP, C, NULL);
	EXPECT("switch C");
	note(C, NOTE_MOVING, 7, 6, NULL); /* sent again to the late joiner */
	forget();
	run_to(14000);
	cr_assert_eq(W.n[HANDOFF_DIAL], 0);
	for (int64_t seconds = -1; seconds < 2; seconds++) {
		start(&rules);
		moving_all(7, seconds, NULL);
		EXPECT("[     0] dial B configured");
		EXPECT("[     0] dial S configured");
		run_to(200);
		EXPECT("[   200] dial C configured");
	}
}

Test(handoff, newer_wins)
{
	note(C, NOTE_MOVING, 7, 15, "b:2");
	run_to(1000);
	note(C, NOTE_MOVING, 9, 15, "c:3");
	EXPECT("drop_new C");
	run_to(2000);
	EXPECT("dial C c:3");
	event(HANDOFF_NEW_DOWN, B, "late"); /* of nobody */
	note(C, NOTE_MOVING, 8, 15, "d:4");
	event(HANDOFF_NEW_UP, C, NULL);
	event(HANDOFF_DRAINED, C, NULL);
	forget();
	note(C, NOTE_MOVING, 8, 15, "d:4");
	run_to(15000);
	cr_assert_eq(W.n[HANDOFF_DIAL], 0);
	cr_assert_eq(count(MH_MOVING_STALE), 2);
	cr_assert_eq(count(MH_HANDOFF_SUPERSEDED), 1);
	cr_assert_eq(count(MH_HANDOFF_OK), 1);
}

Test(handoff, lower_seq_after_the_window)
{
	note(C, NOTE_MOVING, 7, 5, "b:2");
	run_to(1000);
	event(HANDOFF_NEW_UP, C, NULL);
	event(HANDOFF_DRAINED, C, NULL);
	forget();
	run_to(5001);
	note(C, NOTE_MOVING, 2, 5, "c:3");
	run_to(7000);
	EXPECT("dial C c:3");
}

Test(handoff, late_ones)
{
	struct note n = {.kind = NOTE_MOVING, .seq = 1, .seconds = 5, .endpoint = "z:9"};
	step((struct handoff_event){.kind = HANDOFF_LATE, .conn = C, .note = &n});
	run_to(3000);
	cr_assert_eq(W.n[HANDOFF_DIAL], 0);
	cr_assert_eq(count(MH_MOVING_STALE), 1);
}

/* What stands behind the last "dial C" is when. */
static mono_ms dialled_at(void)
{
	buf_add(&W.text, "", 1);
	W.text.len--;
	const char *at = NULL;
	for (const char *p = W.text.data; (p = strstr(p, "dial C")); p++)
		at = p;
	cr_assert(at, "no dial in:\n%s", W.text.data);
	while (*at != '[')
		at--;
	return strtoll(at + 1, NULL, 10);
}

Test(handoff, attempts_are_spread_over_the_window)
{
	for (int seed = 0; seed < 100; seed++) {
		note(C, NOTE_MOVING, 7 + seed, 15, "b:2");
		const mono_ms due[] = {150, 3750, 7500, 11250}, give[] = {151, 376, 376, 376};
		mono_ms began = W.now;
		for (int i = 0; i < 4; i++) {
			run_to(began + due[i] + give[i]);
			cr_assert_eq(W.n[HANDOFF_DIAL], (size_t)i + 1);
			mono_ms off = dialled_at() - began - due[i];
			cr_assert(off >= -give[i] && off <= give[i], "attempt %d off by %lld", i, (long long)off);
			event(HANDOFF_NEW_DOWN, C, "connection refused");
		}
		run_to(began + 15000);
		cr_assert_eq(W.n[HANDOFF_DIAL], 4);
		run_to(began + 16000);
		forget();
		if (handoff_breaker(W.h, NULL) == BREAKER_OPEN)
			start(&rules);
	}
}

Test(handoff, trouble_retries_then_stays)
{
	note(C, NOTE_MOVING, 7, 15, "b:2");
	for (int i = 0; i < 4; i++) {
		run_to(i * 3750 + 500);
		cr_assert_eq(W.n[HANDOFF_DIAL], (size_t)i + 1);
		event(HANDOFF_NEW_DOWN, C, "connection refused");
	}
	cr_assert_str_eq(handoff_reason(W.h, C), "connection refused");
	run_to(14000);
	cr_assert_eq(W.n[HANDOFF_DIAL], 4);
	cr_assert_eq(W.n[HANDOFF_SWITCH], 0);
	cr_assert_eq(count(MH_HANDOFF_FAILED), 1);
	run_to(15001);
	event(HANDOFF_DOWN, C, "closed");
	EXPECT_NOT("target C"); /* stays at the configured address */
}

Test(handoff, attempts_in_short_windows)
{
	for (int64_t seconds = 0; seconds < 6; seconds++) {
		start(&rules);
		note(C, NOTE_MOVING, 7, seconds, "b:2");
		mono_ms window = seconds ? seconds * 1000 : 1000, last = -1000;
		for (size_t n = 0; W.now < window + 1000;) {
			run_to(W.now + 1);
			if (W.n[HANDOFF_DIAL] == n)
				continue;
			cr_assert_geq(W.now - last, 250, "%lld ms after the one before", (long long)(W.now - last));
			cr_assert_leq(W.now, window - (window / 4 < 1000 ? window / 4 : 1000));
			n = W.n[HANDOFF_DIAL];
			last = W.now;
			event(HANDOFF_NEW_DOWN, C, "refused");
		}
		cr_assert_geq(W.n[HANDOFF_DIAL], 3, "%zu attempts in %lld s", W.n[HANDOFF_DIAL], (long long)seconds);
		cr_assert_eq(handoff_state(W.h, C), HANDOFF_IDLE);
	}
}

Test(handoff, trouble_is_bounded_by_the_window)
{
	note(C, NOTE_MOVING, 7, 1, "b:2");
	for (int i = 0; i < 4; i++) {
		if (W.n[HANDOFF_DIAL] > (size_t)i)
			event(HANDOFF_NEW_DOWN, C, "refused");
		run_to(300 * (i + 1));
	}
	forget();
	run_to(20000);
	cr_assert_eq(W.n[HANDOFF_DIAL], 0);
	cr_assert_eq(handoff_state(W.h, C), HANDOFF_IDLE);
}

Test(handoff, hanging_endpoint)
{
	note(C, NOTE_MOVING, 7, 15, "b:2");
	run_to(500);
	EXPECT("dial C b:2 limit=3");
	run_to(4300); /* it ends in time for the next one */
	EXPECT("drop_new C");
	cr_assert_eq(W.n[HANDOFF_DIAL], 2);
	run_to(8100);
	cr_assert_eq(W.n[HANDOFF_DIAL], 3);
	event(HANDOFF_NEW_UP, C, NULL);
	EXPECT("switch C");
	struct handoff_rules r = rules;
	r.timeout_ms = 2000;
	start(&r);
	note(C, NOTE_MOVING, 7, 60, "b:2");
	run_to(500);
	EXPECT("dial C b:2 limit=2000"); /* handoff_timeout is the most */
	start(&rules);
	note(C, NOTE_MOVING, 7, 1, "b:2");
	run_to(250);
	EXPECT("dial C b:2 limit=1000"); /* a second is the least */
}

Test(handoff, breaker_counts_rounds)
{
	struct handoff_rules r = rules;
	r.breaker_failures = 3;
	start(&r);
	moving_all(7, 15, "b:2");
	for (int round = 0; round < 2; round++) {
		run_to(round * 3750 + 600);
		cr_assert_eq(W.n[HANDOFF_DIAL], 3 * ((size_t)round + 1));
		event(HANDOFF_NEW_DOWN, C, "refused");
		event(HANDOFF_NEW_DOWN, B, "refused");
		event(HANDOFF_NEW_DOWN, S, "refused");
		cr_assert_eq(handoff_breaker(W.h, NULL), BREAKER_CLOSED, "six failures, two rounds");
	}
	run_to(8000);
	event(HANDOFF_NEW_DOWN, C, "refused");
	cr_assert_eq(handoff_breaker(W.h, NULL), BREAKER_OPEN);
	forget();
	run_to(12000); /* it closes nothing while the window is open */
	EXPECT("dial C b:2");
	event(HANDOFF_NEW_UP, C, NULL);
	EXPECT("switch C");
	cr_assert_eq(handoff_breaker(W.h, NULL), BREAKER_CLOSED);
}

Test(handoff, breaker)
{
	struct handoff_rules r = rules;
	r.breaker_failures = 2;
	r.breaker_reset_ms = 9000;
	start(&r);
	W.say = true;
	note(C, NOTE_MOVING, 7, 4, "b:2");
	run_to(500);
	event(HANDOFF_NEW_DOWN, C, "WRONGPASS words");
	run_to(1500);
	event(HANDOFF_NEW_DOWN, C, "WRONGPASS words");
	const char *endpoint;
	cr_assert_eq(handoff_breaker(W.h, &endpoint), BREAKER_OPEN);
	cr_assert_str_eq(endpoint, "b:2");
	cr_assert_eq(handoff_gauges(W.h).n_breakers_open, 1);
	for (int i = 2; i < 4; i++) {
		run_to(1000 * i + 200);
		event(HANDOFF_NEW_DOWN, C, "WRONGPASS words");
	}
	run_to(5000);
	forget();
	moving_all(8, 3, "b:2"); /* the next operation: not tried, for the reason of the one before */
	run_to(8500);
	cr_assert_eq(W.n[HANDOFF_DIAL], 0);
	EXPECT("handoff seq=8 to b:2 failed: moved=0 failed=3: not tried again (circuit breaker): WRONGPASS words");
	moving_all(9, 15, "b:2"); /* half-opens within its window, at about 10.5 s */
	run_to(12000);
	cr_assert_geq(W.n[HANDOFF_DIAL], 1);
	cr_assert_eq(handoff_breaker(W.h, NULL), BREAKER_HALF_OPEN);
	event(HANDOFF_NEW_UP, B, NULL);
	cr_assert_eq(handoff_breaker(W.h, NULL), BREAKER_CLOSED);
}

/* The breaker of b:2 is open after two rounds of C's, at 1.1 s; 5 s later the first attempt half-opens it. */
static void open_breaker(unsigned half_open)
{
	struct handoff_rules r = rules;
	r.breaker_failures = 2;
	r.breaker_reset_ms = 5000;
	r.breaker_half_open = half_open;
	r.max_retries = 1;
	start(&r);
	note(C, NOTE_MOVING, 7, 2, "b:2");
	run_to(500);
	event(HANDOFF_NEW_DOWN, C, "refused");
	run_to(1100);
	event(HANDOFF_NEW_DOWN, C, "refused");
	cr_assert_eq(handoff_breaker(W.h, NULL), BREAKER_OPEN);
	run_to(7500);
	forget();
}

Test(handoff, breaker_needs_several_good_ones)
{
	open_breaker(2);
	moving_all(8, 30, "b:2");
	run_to(8600);
	cr_assert_eq(W.n[HANDOFF_DIAL], 2);
	event(HANDOFF_NEW_UP, B, NULL);
	cr_assert_eq(handoff_breaker(W.h, NULL), BREAKER_HALF_OPEN);
	bool is_c = told("dial C");
	event(HANDOFF_NEW_UP, is_c ? C : S, NULL);
	event(HANDOFF_JOINED, S, NULL);
	cr_assert_eq(handoff_breaker(W.h, NULL), BREAKER_CLOSED);
	run_to(8800);
	cr_assert_eq(W.n[HANDOFF_DIAL], 3);
	open_breaker(2);
	moving_all(8, 30, "b:2");
	run_to(8600);
	event(HANDOFF_NEW_UP, B, NULL);
	event(HANDOFF_NEW_DOWN, told("dial C") ? C : S, "refused");
	cr_assert_eq(handoff_breaker(W.h, NULL), BREAKER_OPEN);
}

Test(handoff, breaker_forgets_lost_trials)
{
	open_breaker(1);
	note(B, NOTE_MOVING, 8, 30, "b:2");
	run_to(7800);
	EXPECT("dial B");
	event(HANDOFF_CLOSED, B, NULL); /* its service is gone */
	note(C, NOTE_MOVING, 8, 30, "b:2");
	run_to(12000);
	EXPECT_NOT("dial C");
	run_to(13000);
	EXPECT("dial C");
}

Test(handoff, old_one_ends_first)
{
	moving_all(7, 5, "b:2");
	run_to(600);
	event(HANDOFF_DOWN, C, "closed");
	EXPECT("drop_new C");
	EXPECT("target C b:2");
	event(HANDOFF_UP, C, "b:2");
	event(HANDOFF_DOWN, S, "closed");
	EXPECT("target S b:2");
	char at[HANDOFF_ADDRESS];
	handoff_address(W.h, W.now, "", at);
	cr_assert_str_eq(at, "b:2");
	run_to(5100);
	handoff_address(W.h, W.now, "", at);
	cr_assert_str_eq(at, "a:1");
	forget();
	event(HANDOFF_DOWN, C, "closed");
	EXPECT("target C a:1");
	run_to(30000);
	cr_assert_eq(count(MH_HANDOFF_FALLBACK) + count(MH_HANDOFF_FAILED), 1);
}

Test(handoff, the_old_one_ends_and_both_addresses_are_tried_in_turn)
{
	note(C, NOTE_MOVING, 7, 60, "b:2");
	event(HANDOFF_DOWN, C, "closed");
	EXPECT("[     0] target C b:2 limit=1000 at=0");
	forget();
	event(HANDOFF_DOWN, C, "refused");
	EXPECT("[     0] target C a:1 limit=1000 at=0");
	mono_ms longest = 0;
	for (int i = 2; i < 12; i++) {
		forget();
		event(HANDOFF_DOWN, C, "refused");
		cr_assert_eq(W.n[HANDOFF_TARGET], 1);
		EXPECT(i % 2 ? "target C a:1" : "target C b:2");
		EXPECT(i < 4 ? "limit=2000" : i < 6 ? "limit=4000" : "limit=8000");
		buf_add(&W.text, "", 1);
		mono_ms at = strtoll(strstr(W.text.data, "at=") + 3, NULL, 10);
		cr_assert(at > W.now && at <= W.now + 500);
		longest = mono_max(longest, at - W.now);
		W.now = at;
	}
	cr_assert_str_eq(handoff_reason(W.h, C), "refused");
	forget();
	event(HANDOFF_UP, C, "b:2");
	cr_assert_str_eq(handoff_reason(W.h, C), "");
	event(HANDOFF_DOWN, C, "closed"); /* it closes what it accepts: no hot loop */
	EXPECT("target C b:2 limit=8000");
	cr_assert(!told("at=0") && W.n[HANDOFF_TARGET] == 1);
	event(HANDOFF_UP, C, "b:2");
	run_to(W.now + 1000);
	forget();
	event(HANDOFF_DOWN, C, "closed"); /* up for a while: in turn again from the first on */
	EXPECT("target C b:2 limit=1000");
	run_to(60001);
	event(HANDOFF_DOWN, C, "refused");
	EXPECT("target C a:1 limit=0"); /* the window is over */
	forget();
	event(HANDOFF_DOWN, C, "refused");
	cr_assert_eq(W.n[HANDOFF_TARGET], 0);
}

/* It came back where it was, in the window: whoever answers says it again, and means it. */
Test(handoff, heard_again_after_a_reconnect)
{
	note(C, NOTE_MOVING, 7, 15, "b:2");
	event(HANDOFF_DOWN, C, "closed");
	event(HANDOFF_DOWN, C, "refused");
	event(HANDOFF_UP, C, "a:1");
	forget();
	note(C, NOTE_MOVING, 7, 14, "b:2");
	run_to(1000);
	EXPECT("dial C b:2");
}

/* ---- the address that is named is the one we are at ---- */

Test(handoff, own_number_is_renewed)
{
	const char *const announced[] = {"10.0.0.1:1", "10.0.0.1:1"}, *const configured[] = {
									      "10.0.0.1:1", "redis.test:1"};
	for (int i = 0; i < 2; i++) {
		start_at(&rules, configured[i], "10.0.0.1:1");
		moving_all(7, 15, announced[i]);
		run_to(7499);
		cr_assert_eq(W.n[HANDOFF_DIAL], 0);
		run_to(8500);
		cr_assert_eq(W.n[HANDOFF_DIAL], 3);
		up_at(HANDOFF_NEW_UP, C, "", "10.0.0.1:1");
		EXPECT("switch C");
		forget();
		note(C, NOTE_MOVING, 7, 6, announced[i]); /* the younger one hears it, too */
		run_to(14000);
		EXPECT_NOT("dial C");
	}
}

Test(handoff, own_name_is_looked_at_until_it_leads_elsewhere)
{
	start_at(&rules, "redis.test:1", "10.0.0.1:1");
	moving_all(7, 15, "redis.test:1");
	run_to(125);
	EXPECT("dial B redis.test:1");
	up_at(HANDOFF_NEW_UP, B, "", "10.0.0.1:1");
	EXPECT("drop_new B");
	for (int i = 0; i < 8; i++) {
		forget();
		run_to(W.now + 1600);
		cr_assert_eq(W.n[HANDOFF_DIAL], 1, "one connection looks, each second: %zu", W.n[HANDOFF_DIAL]);
		uint32_t who = told("dial B") ? B : told("dial C") ? C : S;
		up_at(HANDOFF_NEW_UP, who, "", i == 4 ? "10.0.0.2:1" : "10.0.0.1:1");
		if (i == 4) {
			cr_assert_eq(W.n[HANDOFF_SWITCH] + W.n[HANDOFF_DROP_NEW], who == S ? 0 : 1);
			break;
		}
		cr_assert_eq(W.n[HANDOFF_DROP_NEW], 1);
	}
	run_to(W.now + 300);
	cr_assert_eq(W.n[HANDOFF_DIAL], 3, "the others go at once");
	cr_assert_eq(handoff_breaker(W.h, NULL), BREAKER_CLOSED);
}

Test(handoff, what_the_name_gives_is_taken_at_last)
{
	const char *const announced[] = {"redis.test:1", NULL, "other.test:1"};
	for (int i = 0; i < 3; i++) {
		start_at(&rules, "redis.test:1", "10.0.0.1:1");
		note(C, NOTE_MOVING, 7, 15, announced[i]);
		size_t n = 0;
		while (W.n[HANDOFF_SWITCH] == 0 && W.now < 16000) {
			run_to(W.now + 10);
			if (W.n[HANDOFF_DIAL] > n)
				up_at(HANDOFF_NEW_UP, C, "", "10.0.0.1:1");
			n = W.n[HANDOFF_DIAL];
		}
		cr_assert(W.now >= 13700 && W.now <= 14010, "taken at %lld", (long long)W.now);
		cr_assert_geq(n, 5);
	}
}

Test(handoff, inside_the_handshake)
{
	event(HANDOFF_DOWN, C, "closed");
	note(C, NOTE_MOVING, 7, 15, "b:2");
	run_to(2000);
	cr_assert_eq(W.n[HANDOFF_DIAL], 0);
	event(HANDOFF_UP, C, "a:1");
	EXPECT("dial C b:2");
	start(&rules);
	event(HANDOFF_DOWN, C, "closed");
	note(C, NOTE_MOVING, 7, 15, "b:2");
	event(HANDOFF_DOWN, C, "closed again");
	EXPECT("target C b:2");
	event(HANDOFF_UP, C, "b:2");
	run_to(3000);
	cr_assert_eq(W.n[HANDOFF_DIAL], 0);
}

Test(handoff, cap_and_queue)
{
	struct handoff_rules r = rules;
	r.max_concurrent = 1;
	r.queue = 1;
	start(&r);
	moving_all(7, 0, "b:2");
	cr_assert_eq(W.n[HANDOFF_DIAL], 1);
	cr_assert_eq(handoff_gauges(W.h).n_queued, 1);
	run_to(900); /* C finds the queue full */
	event(HANDOFF_NEW_UP, S, NULL);
	event(HANDOFF_JOINED, S, NULL);
	cr_assert_eq(W.n[HANDOFF_DIAL], 2);
	event(HANDOFF_NEW_UP, B, NULL);
	run_to(5000);
	cr_assert_eq(W.n[HANDOFF_DIAL], 2);
	cr_assert_eq(count(MH_HANDOFF_FAILED), 1);
	r.queue = 0;
	start(&r);
	moving_all(7, 0, "b:2");
	run_to(300);
	cr_assert_eq(W.n[HANDOFF_DIAL], 1);
	event(HANDOFF_NEW_UP, S, NULL);
	event(HANDOFF_JOINED, S, NULL);
	EXPECT("dial B");
	EXPECT_NOT("dial C");
}

Test(handoff, jitter_stays_small)
{
	mono_ms first = 1000, last = 0;
	for (uint64_t seed = 1; seed < 200; seed++) {
		start(&rules);
		moving_all((int64_t)seed, 4, "b:2");
		run_to(401);
		cr_assert_eq(W.n[HANDOFF_DIAL], 3);
		start(&rules);
		handoff_free(W.h);
		W.h = handoff_new(&rules, "shard=0", "a:1", seed);
		event(HANDOFF_OPEN, S, "a:1");
		event(HANDOFF_UP, S, "a:1");
		note(S, NOTE_MOVING, 1, 100, "b:2");
		while (W.n[HANDOFF_DIAL] == 0)
			run_to(W.now + 1);
		first = mono_min(first, W.now);
		last = mono_max(last, W.now);
	}
	cr_assert(first < 120 && last > 240 && last <= 300, "from %lld to %lld", (long long)first, (long long)last);
}
