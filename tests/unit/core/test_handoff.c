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
		cr_assert(!handoff_seen_before(s, name, (struct entry_id){i, 0}));
		if (i > 100)
			cr_assert(handoff_seen_before(s, name, (struct entry_id){i - 100, 0}));
	}
	mem_free(s);
}

Test(handoff, reader_is_unblocked)
{
	moving_all(7, 15, "b:2");
	run_to(250);
	EXPECT("dial B");
	EXPECT_NOT("dial C");
	EXPECT_NOT("dial S");
	event(HANDOFF_NEW_UP, B, NULL);
	EXPECT("[   250] unblock B");
	run_to(500);
	EXPECT("[   500] unblock B");
	event(HANDOFF_DRAINED, B, NULL);
	EXPECT("[   500] close_old B");
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

Test(handoff, trouble_retries_then_stays)
{
	note(C, NOTE_MOVING, 7, 15, "b:2");
	for (int i = 0; i < 4; i++) {
		run_to(W.now + 2500);
		cr_assert_eq(W.n[HANDOFF_DIAL], (size_t)i + 1);
		event(HANDOFF_NEW_DOWN, C, "connection refused");
	}
	run_to(12000);
	cr_assert_eq(W.n[HANDOFF_DIAL], 4);
	cr_assert_eq(W.n[HANDOFF_SWITCH], 0);
	cr_assert_eq(count(MH_HANDOFF_FAILED), 1);
	event(HANDOFF_DOWN, C, "closed");
	EXPECT_NOT("target C"); /* stays at the configured address */
}

Test(handoff, trouble_is_bounded_by_the_window)
{
	note(C, NOTE_MOVING, 7, 1, "b:2");
	event(HANDOFF_NEW_DOWN, C, "refused");
	run_to(950);
	if (W.n[HANDOFF_DIAL] > 1)
		event(HANDOFF_NEW_DOWN, C, "refused");
	run_to(1000);
	forget();
	event(HANDOFF_NEW_DOWN, C, "refused");
	run_to(20000);
	cr_assert_eq(W.n[HANDOFF_DIAL], 0);
	cr_assert_eq(handoff_state(W.h, C), HANDOFF_IDLE);
}

Test(handoff, hanging_endpoint)
{
	note(C, NOTE_MOVING, 7, 60, "b:2");
	run_to(1000);
	EXPECT("dial C");
	run_to(16001);
	EXPECT("drop_new C");
	run_to(18000);
	cr_assert_eq(W.n[HANDOFF_DIAL], 2);
}

Test(handoff, breaker)
{
	struct handoff_rules r = rules;
	r.breaker_failures = 2;
	r.breaker_reset_ms = 5000;
	start(&r);
	note(C, NOTE_MOVING, 7, 30, "b:2");
	run_to(1000);
	event(HANDOFF_NEW_DOWN, C, "refused");
	run_to(2000);
	event(HANDOFF_NEW_DOWN, C, "refused");
	const char *endpoint;
	cr_assert_eq(handoff_breaker(W.h, &endpoint), BREAKER_OPEN);
	cr_assert_str_eq(endpoint, "b:2");
	cr_assert_eq(handoff_gauges(W.h).n_breakers_open, 1);
	note(B, NOTE_MOVING, 7, 30, "b:2");
	run_to(6000);
	cr_assert_eq(W.n[HANDOFF_DIAL], 2);
	run_to(7500);
	note(S, NOTE_MOVING, 7, 30, "b:2");
	run_to(9500);
	cr_assert_eq(W.n[HANDOFF_DIAL], 3);
	cr_assert_eq(handoff_breaker(W.h, NULL), BREAKER_HALF_OPEN);
	event(HANDOFF_NEW_UP, S, NULL);
	event(HANDOFF_JOINED, S, NULL);
	cr_assert_eq(handoff_breaker(W.h, NULL), BREAKER_CLOSED);
}

/* The breaker of b:2 is open after two failures of C, at 2 s; 5 s later the first attempt half-opens it. */
static void open_breaker(unsigned half_open)
{
	struct handoff_rules r = rules;
	r.breaker_failures = 2;
	r.breaker_reset_ms = 5000;
	r.breaker_half_open = half_open;
	start(&r);
	note(C, NOTE_MOVING, 7, 30, "b:2");
	run_to(1000);
	event(HANDOFF_NEW_DOWN, C, "refused");
	run_to(2000);
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

Test(handoff, reconnect_gives_the_endpoint_up)
{
	note(C, NOTE_MOVING, 7, 30, "b:2");
	event(HANDOFF_DOWN, C, "closed");
	EXPECT("target C b:2");
	forget();
	for (int i = 0; i < 3; i++)
		event(HANDOFF_DOWN, C, "refused");
	cr_assert_eq(W.n[HANDOFF_TARGET], 0);
	event(HANDOFF_DOWN, C, "refused");
	EXPECT("target C a:1");
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
	run_to(1500); /* C finds the queue full */
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
	for (uint64_t seed = 1; seed < 200; seed++) {
		start(&rules);
		moving_all((int64_t)seed, 4, "b:2");
		run_to(401);
		cr_assert_eq(W.n[HANDOFF_DIAL], 3);
		start(&rules);
		moving_all((int64_t)seed, 100, "b:2");
		run_to(1001);
		cr_assert_eq(W.n[HANDOFF_DIAL], 3);
	}
}
