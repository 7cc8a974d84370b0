#include "coord_story.h"

/* ---- hello ---- */

Test(coord, a_first_frame_that_is_no_hello_is_fatal, .init = story_ready, .fini = story_down)
{
	story_accept(1);
	story_up(1, (struct frame){.kind = FRAME_PING});
	expect_story("[ 1000] w1 err bad_frame \n"
		     "[ 1000] w1 closed\n");
}

Test(coord, a_hello_in_another_version_and_a_second_hello, .init = story_ready, .fini = story_down)
{
	story_accept(1);
	story_up(1, (struct frame){.kind = FRAME_HELLO, .hello.v = 2});
	story_hello(2, 1);
	story_up(2, (struct frame){.kind = FRAME_HELLO, .hello.v = 1});
	expect_story("[ 1000] w1 err bad_version \n"
		     "[ 1000] w1 closed\n"
		     "[ 1000] w2 welcome until=10500\n"
		     "[ 1000] s credits 0:1\n"
		     "[ 1000] w2 err bad_hello \n"
		     "[ 1000] w2 closed\n"
		     "[ 1000] s credits 0:0\n");
}

Test(coord, a_hello_naming_an_unknown_service, .init = story_ready, .fini = story_down)
{
	struct slice s = {"nope", 4};
	story_accept(1);
	story_up(1, (struct frame){.kind = FRAME_HELLO,
			    .hello.v = 1,
			    .hello.has_services = true,
			    .hello.services = &s,
			    .hello.n_services = 1});
	expect_story("[ 1000] w1 err bad_hello \n"
		     "[ 1000] w1 closed\n");
}

Test(coord, no_hello_in_time, .init = story_ready, .fini = story_down)
{
	story_accept(1);
	story_until(11000);
	expect_story("[11000] w1 err hello_timeout \n"
		     "[11000] w1 closed\n");
}

Test(coord, too_many_sessions_and_a_user_who_may_not, .init = story_ready, .fini = story_down)
{
	for (uint64_t i = 1; i <= 4; i++)
		story_accept(i);
	story_event((struct coord_event){.kind = COORD_ACCEPT, .session = 9, .pid = 10, .text = {"k", 1}});
	expect_story("[ 1000] w4 err too_many_sessions \n"
		     "[ 1000] w4 closed\n"
		     "[ 1000] w9 err unauthorized \n"
		     "[ 1000] w9 closed\n");
}

Test(coord, silence_ends_a_session_but_not_our_own_stall, .init = story_ready, .fini = story_down)
{
	story_hello(1, 0);
	story_until(4400);
	story_clear();
	W.now = 60000; /* stopped and continued */
	story_event((struct coord_event){.kind = COORD_TICK});
	expect_story("[60000] w1 ping until=69500\n");
	story_until(75000);
	expect_story("[63333] w1 ping until=72833\n"
		     "[66666] w1 ping until=76166\n"
		     "[69999] w1 ping until=79499\n"
		     "[70000] w1 err silent \n"
		     "[70000] w1 closed\n");
}

/* ---- limits and repeats ---- */

Test(coord, credits_out_of_range_and_unknown_frames_change_nothing, .init = story_ready, .fini = story_down)
{
	story_hello(1, 2);
	story_clear();
	story_up(1, (struct frame){.kind = FRAME_CREDITS, .problem = FRAME_PROBLEM_LIMIT, .credits = 20000});
	story_up(1, (struct frame){.kind = FRAME_UNKNOWN});
	story_up(1, (struct frame){.kind = FRAME_DONE, .problem = FRAME_PROBLEM_FIELD, .bad_field = "lease: missing"});
	story_up(1, (struct frame){.kind = FRAME_PING, .has_n = true, .n = 4});
	story_says(1, FRAME_DONE, 99);
	story_says(1, FRAME_PROGRESS, 99);
	expect_story("[ 1000] w1 err limit \n"
		     "[ 1000] w1 err unknown_type \n"
		     "[ 1000] w1 err bad_field \n"
		     "[ 1000] w1 pong 4\n"
		     "[ 1000] w1 err unknown_lease 99-0\n"
		     "[ 1000] w1 err unknown_lease 99-0\n");
}

Test(coord, a_token_keeps_its_width, .init = story_ready, .fini = story_down)
{
	story_hello(1, 1);
	struct entry_batch *b = story_batch(7, "s");
	b->v[0].id = (struct entry_id){1700000000123, 1000007}; /* the server's clock stands still */
	story_from_shard((struct msg){
		.kind = MSG_ENTRIES, .svc = 0, .entries.source = SOURCE_NEW, .entries.n_asked = 1, .entries.batch = b});
	story_lease(W.last_handle, LEASE_IS_HELD, 11000, false);
	story_clear();
	story_op(W.last_handle, CMD_TAKE, OP_DONE, false);
	expect_story("[ 1000] w1 assign 1700000000123-1000007 s token=1700000000124000007 retry=0 until=10500\n");
}

Test(coord, done_sent_again_gets_the_same_answer, .init = story_ready, .fini = story_down)
{
	story_hello(1, 1);
	uint64_t h = story_assigned(7, "s");
	story_clear();
	story_says(1, FRAME_DONE, 7);
	story_says(1, FRAME_DONE, 7); /* before Redis has answered */
	story_op(h, CMD_DONE, OP_DONE, false);
	story_says(1, FRAME_DONE, 7);
	expect_story("[ 1000] s done 7-0 retry=0\n"
		     "[ 1000] s credits 0:1\n"
		     "[ 1000] w1 ok 7-0 for=0 done\n"
		     "[ 1000] w1 ok 7-0 for=0 done\n"
		     "[ 1000] s release 1\n"
		     "[ 1000] w1 ok 7-0 for=0 done\n");
}

/* The shard that has the lock reads the stream, too: taken behind the lock, released with the last operation. */
Test(coord, one_word_of_the_shard_for_lock_and_take, .init = story_ready, .fini = story_down)
{
	story_hello(1, 1);
	story_read(0, 7, "s");
	cr_assert(W.last_takes);
	struct msg held = {.kind = MSG_LEASE,
		.handle = W.last_handle,
		.lease.result = LEASE_IS_HELD,
		.lease.good_until = W.now + 10000,
		.lease.has_take = true,
		.lease.taken = OP_DONE};
	story_clear();
	story_from_shard(held);
	cr_assert(strstr(W.text.data, "w1 assign 7-0 s") && !strstr(W.text.data, "s take"), "%s", W.text.data);
	story_clear();
	story_says(1, FRAME_DONE, 7);
	cr_assert(W.last_releases);
	story_from_shard((struct msg){.kind = MSG_OP_RESULT,
		.handle = held.handle,
		.op_result.kind = CMD_DONE,
		.op_result.result = OP_DONE,
		.op_result.releases = true});
	cr_assert(strstr(W.text.data, "w1 ok 7-0 for=0 done") && !strstr(W.text.data, "s release"), "%s", W.text.data);
	cr_assert(!strstr(W.text.data, "acquire"), "%s", W.text.data);
	cr_assert_eq(W.c->ledger.n, 0);
}

Test(coord, one_word_of_the_shard_for_lock_and_what_waits, .init = story_ready, .fini = story_down)
{
	static const struct {
		enum op_result taken;
		bool was_merged;
		uint64_t n_merged;
	} rows[] = {{OP_PARKED, false, 0}, {OP_PARKED, true, 1}, {OP_GONE, false, 1}};
	story_hello(1, 1);
	for (uint64_t i = 0; i < 3; i++) {
		story_read(0, 7 + i, "s");
		story_clear();
		story_from_shard((struct msg){.kind = MSG_LEASE,
			.handle = W.last_handle,
			.lease.result = LEASE_IS_HELD,
			.lease.good_until = W.now + 10000,
			.lease.has_take = true,
			.lease.taken = (uint8_t)rows[i].taken,
			.lease.was_merged = rows[i].was_merged});
		cr_assert(strstr(W.text.data, "s release"), "%s", W.text.data);
		cr_assert_eq(W.c->services.v[0].m.c[M_MERGED], rows[i].n_merged);
		cr_assert_eq(W.c->ledger.n, 0);
	}
}

Test(coord, of_two_results_the_first_counts, .init = story_ready, .fini = story_down)
{
	story_hello(1, 1);
	uint64_t h = story_assigned(7, "s");
	story_clear();
	story_says(1, FRAME_FAIL, 7);
	story_says(1, FRAME_DONE, 7);
	story_op(h, CMD_REQUEUE, OP_DONE, false);
	story_says(1, FRAME_RELEASE, 7);
	story_says(1, FRAME_FAIL, 7);
	expect_story("[ 1000] s requeue 7-0 retry=1\n"
		     "[ 1000] s credits 0:1\n"
		     "[ 1000] w1 err not_owner 7-0\n"
		     "[ 1000] w1 ok 7-0 for=1 requeued\n"
		     "[ 1000] s release 1\n"
		     "[ 1000] w1 err not_owner 7-0\n"
		     "[ 1000] w1 ok 7-0 for=1 requeued\n");
}

Test(coord, a_result_after_revoked_is_refused, .init = story_ready, .fini = story_down)
{
	story_hello(1, 1);
	uint64_t h = story_assigned(7, "s");
	story_clear();
	story_says(1, FRAME_REVOKED, 7);
	story_says(1, FRAME_DONE, 7);
	story_op(h, CMD_REQUEUE, OP_DONE, false);
	story_says(1, FRAME_DONE, 7);
	story_says(1, FRAME_REVOKED, 7);
	expect_story("[ 1000] s requeue 7-0 retry=0\n"
		     "[ 1000] s credits 0:1\n"
		     "[ 1000] w1 err not_owner 7-0\n"
		     "[ 1000] s release 1\n"
		     "[ 1000] w1 err not_owner 7-0\n");
}

Test(coord, a_result_sent_again_after_coming_back_is_answered_once, .init = story_ready, .fini = story_down)
{
	story_hello(1, 1);
	uint64_t h = story_assigned(7, "s");
	story_says(1, FRAME_DONE, 7);
	story_event((struct coord_event){.kind = COORD_END, .session = 1});
	story_clear();
	story_back(2, 7);
	story_says(2, FRAME_DONE, 7);
	story_op(h, CMD_DONE, OP_DONE, false);
	expect_story("[ 1000] w2 welcome until=10500 resumed=7-0\n"
		     "[ 1000] w2 ok 7-0 for=0 done\n"
		     "[ 1000] s release 1\n");
}

Test(coord, a_result_of_another_session_is_not_taken, .init = story_ready, .fini = story_down)
{
	story_hello(1, 1);
	story_hello(2, 0);
	story_assigned(7, "s");
	story_clear();
	story_says(2, FRAME_DONE, 7);
	expect_story("[ 1000] w2 err unknown_lease 7-0\n");
}

Test(coord, done_of_an_entry_that_is_not_ours_any_more, .init = story_ready, .fini = story_down)
{
	story_hello(1, 1);
	uint64_t h = story_assigned(7, "s");
	story_says(1, FRAME_DONE, 7);
	story_clear();
	story_op(h, CMD_DONE, OP_GONE, false);
	expect_story("[ 1000] w1 err not_owner 7-0\n"
		     "[ 1000] s release 1\n");
}

Test(coord, a_lost_reply_is_not_a_lost_result, .init = story_ready, .fini = story_down)
{
	story_hello(1, 1);
	uint64_t h = story_assigned(7, "s");
	story_says(1, FRAME_DONE, 7);
	story_clear();
	story_op(h, CMD_DONE, OP_GONE, true); /* sent twice: the first one did it */
	expect_story("[ 1000] w1 ok 7-0 for=0 done\n"
		     "[ 1000] s release 1\n");
}

Test(coord, fail_counts_and_goes_to_the_dead_letters_above_the_limit, .init = story_ready, .fini = story_down)
{
	story_hello(1, 1);
	story_assigned(7, "s");
	story_clear();
	story_says(1, FRAME_FAIL, 7);
	expect_story("[ 1000] s requeue 7-0 retry=1\n"
		     "[ 1000] s credits 0:1\n");
}

static void retry_ready(void)
{
	story_retry = (struct retry_rules){.initial_ms = 1000, .factor = 8, .max_ms = 20000, .release_delay_ms = 700};
	story_ready();
	story_hello(1, 1);
}

/* The entry of this id and retry count ends by this frame: how long it stays away. */
static mono_ms delay_of(uint64_t id, uint32_t retry, enum frame_kind kind, int64_t retry_ms)
{
	char text[SESSION_LEASE_CAP];
	uint64_t h = story_assigned(id, "s");
	struct entry *e = ledger_by_handle(&W.c->ledger, h);
	e->retry = retry;
	services_find(&W.c->services, 0)->rules->max_retries = 9;
	struct frame f = {
		.kind = kind, .lease = story_text(id, text), .has_retry_ms = retry_ms >= 0, .retry_ms = retry_ms};
	story_up(1, f);
	mono_ms delay = e->delay_ms;
	story_op(h, delay ? CMD_LATER : CMD_REQUEUE, OP_DONE, false);
	return delay;
}

Test(coord, a_failed_entry_waits_longer_each_time, .init = retry_ready, .fini = story_down)
{
	static const mono_ms waits[] = {1000, 8000, 20000, 20000, 20000};
	for (uint32_t n = 0; n < 5; n++)
		cr_expect_eq(delay_of(10 + n, n, FRAME_FAIL, -1), waits[n], "retry %u", n);
	cr_expect_eq(delay_of(20, 1, FRAME_RELEASE, -1), 700);
	cr_expect_eq(delay_of(21, 1, FRAME_FAIL, 0), 0, "at once, as its worker says");
	cr_expect_eq(delay_of(22, 1, FRAME_RELEASE, 86400000), 86400000);
	cr_expect_eq(services_find(&W.c->services, 0)->m.c[M_DELAYED_FAIL], 5);
	cr_expect_eq(services_find(&W.c->services, 0)->m.c[M_DELAYED_RELEASE], 2);
}

static mono_ms delay_of_death(uint32_t retry)
{
	uint64_t h = story_assigned(7, "s");
	struct entry *e = ledger_by_handle(&W.c->ledger, h);
	e->retry = retry;
	services_find(&W.c->services, 0)->rules->max_retries = 9;
	story_event((struct coord_event){.kind = COORD_PEER_DEAD, .session = 1});
	return e->delay_ms;
}

/* Somebody else may have it at once; what kills workers on and on takes its time. */
Test(coord, the_first_worker_that_dies_costs_no_time, .init = retry_ready, .fini = story_down)
{
	cr_expect_eq(delay_of_death(0), 0);
}

Test(coord, the_second_one_does, .init = retry_ready, .fini = story_down)
{
	cr_expect_eq(delay_of_death(1), 1000);
	cr_expect_eq(ledger_by_handle(&W.c->ledger, W.last_handle)->retry, 2);
}

Test(coord, and_each_one_more, .init = retry_ready, .fini = story_down)
{
	cr_expect_eq(delay_of_death(2), 8000);
	story_op(W.last_handle, CMD_LATER, OP_DONE, false);
	cr_expect_eq(services_find(&W.c->services, 0)->m.c[M_DELAYED_DEATH], 1);
}

/* The entry of this id dies with a worker of its own: how long it stays away. */
static mono_ms dies_of(uint64_t id, const char *stream, uint32_t retry)
{
	static uint64_t session = 1;
	story_hello(++session, 1);
	uint64_t h = story_assigned(id, stream);
	struct entry *e = ledger_by_handle(&W.c->ledger, h);
	e->retry = retry;
	services_find(&W.c->services, 0)->rules->max_retries = 9;
	story_event((struct coord_event){.kind = COORD_PEER_DEAD, .session = e->owner});
	mono_ms delay = e->delay_ms;
	story_op(h, delay ? CMD_LATER : CMD_REQUEUE, OP_DONE, false);
	return delay;
}

/* Then it is no stream that kills them. */
Test(coord, where_workers_die_of_several_streams_all_of_those_wait_longer, .init = retry_ready, .fini = story_down)
{
	story_event((struct coord_event){.kind = COORD_PEER_DEAD, .session = 1});
	cr_expect_eq(dies_of(10, "a", 1), 1000);
	cr_expect_eq(dies_of(11, "a", 2), 8000);
	cr_expect_eq(dies_of(12, "b", 0), 0);
	cr_expect_eq(dies_of(13, "b", 1), 8000);
	cr_expect_eq(dies_of(14, "a", 2), 20000); /* the longest */
}

Test(coord, what_is_finished_says_that_workers_live, .init = retry_ready, .fini = story_down)
{
	story_event((struct coord_event){.kind = COORD_PEER_DEAD, .session = 1});
	dies_of(10, "a", 1);
	dies_of(11, "b", 1);
	story_hello(100, 1);
	uint64_t h = story_assigned(12, "c");
	story_says(100, FRAME_DONE, 12);
	story_op(h, CMD_DONE, OP_DONE, false);
	story_event((struct coord_event){.kind = COORD_PEER_DEAD, .session = 100});
	cr_expect_eq(dies_of(13, "a", 1), 1000);
}

Test(coord, jitter_only_adds_to_a_wait, .init = retry_ready, .fini = story_down)
{
	services_find(&W.c->services, 0)->rules->retry.jitter_pct = 20;
	mono_ms least = MONO_NEVER, most = 0;
	for (uint64_t i = 0; i < 200; i++) {
		mono_ms wait = delay_of(10 + i, 0, FRAME_FAIL, -1);
		least = mono_min(least, wait);
		most = mono_max(most, wait);
	}
	cr_expect(least >= 1000 && least < 1050, "%lld", (long long)least);
	cr_expect(most <= 1200 && most > 1150, "%lld", (long long)most);
}

Test(coord, what_is_given_back_while_the_daemon_hands_over_does_not_wait, .init = retry_ready, .fini = story_down)
{
	story_assigned(7, "s");
	story_event((struct coord_event){.kind = COORD_STOP});
	story_clear();
	story_says(1, FRAME_RELEASE, 7);
	expect_story("[ 1000] s requeue 7-0 retry=0\n");
}

Test(coord, what_its_worker_was_asked_to_release_does_not_wait, .init = retry_ready, .fini = story_down)
{
	uint64_t h = story_assigned(7, "s");
	struct coord_ctl ctl = {.kind = CTL_GIVE_BACK, .svc = 0, .handle = h};
	story_event((struct coord_event){.kind = COORD_CTL, .ctl = &ctl});
	story_clear();
	story_says(1, FRAME_RELEASE, 7);
	expect_story("[ 1000] s requeue 7-0 retry=0\n"
		     "[ 1000] s credits 0:1\n");
	h = story_assigned(8, "s");
	story_clear();
	story_event((struct coord_event){.kind = COORD_PEER_DEAD, .session = 1});
	cr_expect_eq(ledger_by_handle(&W.c->ledger, h)->delay_ms, 0);
}

Test(coord, fail_dead_is_a_dead_letter_at_once, .init = story_ready, .fini = story_down)
{
	story_hello(1, 1);
	story_assigned(7, "s");
	story_clear();
	char text[SESSION_LEASE_CAP];
	story_up(1, (struct frame){.kind = FRAME_FAIL, .lease = story_text(7, text), .dead = true});
	expect_story("[ 1000] s dead 7-0 retry=0\n"
		     "[ 1000] s credits 0:1\n");
}

/* ---- revokes ---- */

Test(coord, stop_work_comes_in_time_and_a_late_done_is_refused, .init = story_ready, .fini = story_down)
{
	story_hello(1, 1);
	uint64_t h = story_assigned(7, "s"); /* good until 11000 */
	story_clear();
	story_until(9000);
	expect_story("[ 4333] w1 ping until=10500\n"
		     "[ 7666] w1 ping until=10500\n"
		     "[ 9000] s forget 1\n"
		     "[ 9000] w1 revoke 7-0 lost grace=1500\n"
		     "[ 9000] w1 ping until=18500\n");
	W.now = 9100;
	story_says(1, FRAME_DONE, 7);
	story_op(h, CMD_REQUEUE, OP_DONE, false);
	expect_story("[ 9100] w1 err not_owner 7-0\n"
		     "[ 9100] s requeue 7-0 retry=0\n"
		     "[ 9100] s credits 0:1\n");
}

static void renewed(uint64_t handle, mono_ms until)
{
	struct renewed *r = mem_alloc(sizeof *r + sizeof r->v[0]);
	r->n = 1;
	r->v[0].handle = handle;
	r->v[0].good_until = until;
	story_from_shard((struct msg){.kind = MSG_RENEWED, .renewed.list = r});
}

Test(coord, longer_leases_after_a_reload_stop_no_work, .init = story_ready, .fini = story_down)
{
	story_hello(1, 1);
	story_assigned(7, "s"); /* good until 11000 */
	W.now = 2000;
	story_services_of(1, 100, 60000);
	W.now = 3000;
	story_services_of(1, 100, 90000); /* margin 18000: before the lease began */
	story_clear();
	story_until(8999);
	cr_assert_null(strstr(W.text.data, "revoke"), "%s", W.text.data);
	story_until(9000);
	cr_assert(strstr(W.text.data, "[ 9000] w1 revoke 7-0 lost grace=1500\n"), "%s", W.text.data);
}

Test(coord, leases_renewed_after_a_reload_have_the_new_margin, .init = story_ready, .fini = story_down)
{
	story_hello(1, 1);
	uint64_t h = story_assigned(7, "s");
	W.now = 2000;
	story_services_of(1, 100, 60000);
	W.now = 4000;
	renewed(h, 64000);
	for (mono_ms t = 10000; t <= 50000; t += 5000) {
		story_until(t);
		story_up(1, (struct frame){.kind = FRAME_PONG});
	}
	story_until(51999);
	cr_assert_null(strstr(W.text.data, "revoke"), "%s", W.text.data);
	story_until(52000);
	cr_assert(strstr(W.text.data, "[52000] w1 revoke 7-0 lost grace=11500\n"), "%s", W.text.data);
}

static void limits(mono_ms ping_ms)
{
	W.rules.ping_ms = ping_ms;
	story_event((struct coord_event){.kind = COORD_LIMITS, .rules = &W.rules});
}

Test(coord, a_service_taken_out_and_put_back_while_a_stream_runs_is_read_again, .init = story_begin, .fini = story_down)
{
	story_services(2, 100);
	story_event((struct coord_event){.kind = COORD_TOPOLOGY, .text = {"a:1", 3}});
	story_own(0, 0, "");
	story_own(1, 0, "");
	story_hello(1, 4);
	story_read(1, 7, "s");
	story_lease(W.last_handle, LEASE_IS_HELD, W.now + 10000, false);
	story_op(W.last_handle, CMD_TAKE, OP_DONE, false);
	story_clear();
	story_services(1, 100); /* its reader is closed, with what it was granted */
	story_services(2, 100);
	cr_assert(strstr(W.text.data, "s credits 1:1\n"), "%s", W.text.data);
}

Test(coord, a_reload_makes_pings_more_frequent_and_finds_nobody_silent, .init = story_ready, .fini = story_down)
{
	story_hello(1, 0);
	W.now = 4000; /* silent for longer than three new pings */
	story_clear();
	limits(500);
	story_until(5000);
	expect_story("[ 4000] w1 ping until=13500\n"
		     "[ 4500] w1 ping until=14000\n"
		     "[ 5000] w1 ping until=14500\n");
	story_until(6000);
	cr_assert(strstr(W.text.data, "[ 5501] w1 err silent"), "%s", W.text.data);
}

Test(coord, a_reload_makes_no_ping_rarer_than_was_told, .init = story_ready, .fini = story_down)
{
	story_hello(1, 0);
	story_clear();
	limits(9000);
	story_until(8000);
	expect_story("[ 4333] w1 ping until=13833\n"
		     "[ 7666] w1 ping until=17166\n");
}

Test(coord, a_zombie_keeps_its_credit_until_it_speaks, .init = story_ready, .fini = story_down)
{
	story_hello(1, 1);
	uint64_t h = story_assigned(7, "s");
	story_event((struct coord_event){
		.kind = COORD_CTL, .ctl = &(struct coord_ctl){.kind = CTL_GIVE_BACK, .handle = h}});
	story_until(6600); /* grace 5000 and a margin */
	story_op(h, CMD_REQUEUE, OP_DONE, false);
	story_clear();
	story_says(1, FRAME_DONE, 7);
	expect_story("[ 6600] w1 err not_owner 7-0\n"
		     "[ 6600] s credits 0:1\n");
}

Test(coord, progress_timeout, .init = story_begin, .fini = story_down)
{
	coord_free(W.c);
	W.rules.progress_timeout_ms = 1000;
	W.c = coord_new(&W.rules);
	story_services(1, 100);
	story_event((struct coord_event){.kind = COORD_TOPOLOGY, .text = {"a:1", 3}});
	story_own(0, 0, "");
	story_hello(1, 1);
	story_assigned(7, "s");
	story_clear();
	story_until(1900);
	story_says(1, FRAME_PROGRESS, 7);
	story_until(3000);
	expect_story("[ 2900] w1 revoke 7-0 timeout grace=5000\n");
}

/* ---- credits ---- */

Test(coord, without_credits_nothing_is_read, .init = story_ready, .fini = story_down)
{
	story_hello(1, 0);
	story_up(1, (struct frame){.kind = FRAME_CREDITS, .credits = 3});
	story_up(1, (struct frame){.kind = FRAME_CREDITS, .credits = 0}); /* taken back: the read is unblocked */
	expect_story("[ 1000] w1 welcome until=10500\n"
		     "[ 1000] s credits 0:3\n"
		     "[ 1000] s credits 0:0\n");
}

Test(coord, max_streams, .init = story_begin, .fini = story_down)
{
	story_services(1, 1);
	story_event((struct coord_event){.kind = COORD_TOPOLOGY, .text = {"a:1", 3}});
	story_own(0, 0, "");
	story_clear();
	story_hello(1, 5);
	uint64_t h = story_assigned(7, "s");
	story_says(1, FRAME_DONE, 7);
	story_op(h, CMD_DONE, OP_DONE, false);
	expect_story("[ 1000] w1 welcome until=10500\n"
		     "[ 1000] s credits 0:1\n"
		     "[ 1000] s acquire 1\n"
		     "[ 1000] s take 7-0 retry=0\n"
		     "[ 1000] w1 assign 7-0 s token=0000000000007000000 retry=0 until=10500\n"
		     "[ 1000] s done 7-0 retry=0\n"
		     "[ 1000] w1 ok 7-0 for=0 done\n"
		     "[ 1000] s release 1\n"
		     "[ 1000] s credits 0:1\n");
}

Test(coord, two_services_share_few_credits, .init = story_begin, .fini = story_down)
{
	story_services(2, 100);
	story_event((struct coord_event){.kind = COORD_TOPOLOGY, .text = {"a:1", 3}});
	story_own(0, 0, "");
	story_own(1, 0, "");
	story_clear();
	story_hello(1, 1);
	story_read(0, 0, ""); /* nothing there: the other one's turn */
	story_read(1, 0, "");
	story_read(0, 0, "");
	expect_story("[ 1000] w1 welcome until=10500\n"
		     "[ 1000] s credits 0:1\n"
		     "[ 1000] s credits 1:1\n"
		     "[ 1000] s credits 0:1\n"
		     "[ 1000] s credits 1:1\n");
}

static int count_of(const char *what)
{
	int n = 0;
	for (const char *at = W.text.data; at && (at = strstr(at, what)); at++)
		n++;
	return n;
}

static void nothing_is_there(uint16_t n_services)
{
	for (uint16_t i = 0; i < n_services; i++)
		if (W.c->place.service[i].is_reading)
			story_read(i, 0, "");
}

/* 250 services and 200 credits: each stream that came ended 200 reads, which were asked for again at once. */
Test(coord, a_service_with_work_ends_one_read_that_waits_for_it, .init = story_begin, .fini = story_down)
{
	enum { SERVICES = 12 };
	story_services(SERVICES, 100);
	story_event((struct coord_event){.kind = COORD_TOPOLOGY, .text = {"a:1", 3}});
	for (uint16_t i = 0; i < SERVICES; i++)
		story_own(i, 0, "");
	story_hello(1, 8);
	for (int k = 0; k < 4; k++)
		nothing_is_there(SERVICES);
	uint16_t busy = 0;
	while (!W.c->place.service[busy].is_reading)
		busy++;
	story_clear();
	story_read(busy, 7, "s");
	cr_assert_eq(count_of(":0\n"), 1, "%s", W.text.data);
	story_clear();
	story_event((struct coord_event){.kind = COORD_TICK});
	services_mark_all(&W.c->services);
	story_event((struct coord_event){.kind = COORD_TICK});
	expect_story(""); /* that one is on its way */
	for (uint16_t i = 0; i < SERVICES; i++)
		if (W.c->services.v[i].grant.waits && W.c->services.v[i].grant.n == 0 &&
			W.c->place.service[i].is_reading)
			story_read(i, 0, "");
	cr_assert(W.c->place.service[busy].is_reading, "%s", W.text.data);
}

/* ---- coming back ---- */

Test(coord, a_worker_that_comes_back_names_what_it_has, .init = story_ready, .fini = story_down)
{
	story_hello(1, 1);
	story_assigned(7, "s");
	story_event((struct coord_event){.kind = COORD_END, .session = 1});
	story_clear();
	W.now = 2000;
	story_back(2, 7);
	expect_story("[ 2000] w2 welcome until=10500 resumed=7-0\n");
	story_back(3, 8); /* while the other connection stands: it takes its place; 8 it never had */
	expect_story("[ 2000] w3 welcome until=11500 gone=8-0:lost\n"
		     "[ 2000] s requeue 7-0 retry=0\n"
		     "[ 2000] w2 closed\n"
		     "[ 2000] s credits 0:1\n");
}

Test(coord, a_lease_named_twice_is_answered_once, .init = story_ready, .fini = story_down)
{
	story_hello(1, 1);
	story_assigned(7, "s");
	story_clear();
	char a[SESSION_LEASE_CAP], b[SESSION_LEASE_CAP];
	struct slice had = story_text(7, a), never = story_text(8, b);
	struct slice resume[] = {had, never, had, never};
	story_accept(2);
	story_up(2, (struct frame){.kind = FRAME_HELLO,
			    .hello.v = 1,
			    .credits = 1,
			    .hello.name = {"w", 1},
			    .hello.session = {W.key, 32},
			    .hello.resume = resume,
			    .hello.n_resume = 4});
	expect_story("[ 1000] w2 welcome until=10500 resumed=7-0 gone=8-0:lost\n"
		     "[ 1000] w1 closed\n");
}

Test(coord, a_worker_that_does_not_come_back, .init = story_ready, .fini = story_down)
{
	story_hello(1, 1);
	story_assigned(7, "s");
	story_event((struct coord_event){.kind = COORD_END, .session = 1});
	story_clear();
	story_until(12000); /* its lease is lost before: it cannot be told, so its fence must have passed */
	expect_story("[ 9000] s forget 1\n"
		     "[11000] s requeue 7-0 retry=0\n");
}

Test(coord, a_dead_worker_gives_back_at_once_and_counted, .init = story_ready, .fini = story_down)
{
	story_hello(1, 1);
	story_assigned(7, "s");
	story_clear();
	story_event((struct coord_event){.kind = COORD_END, .session = 1});
	story_event((struct coord_event){.kind = COORD_PEER_DEAD, .session = 1});
	expect_story("[ 1000] s requeue 7-0 retry=1 suspect\n");
}

/* The entry is good until 11000, its worker is told to let go of it. */
static uint64_t story_revoked(void)
{
	story_hello(1, 1);
	uint64_t h = story_assigned(7, "s");
	story_event((struct coord_event){
		.kind = COORD_CTL, .ctl = &(struct coord_ctl){.kind = CTL_GIVE_BACK, .handle = h}});
	return h;
}

Test(coord, a_revoke_is_told_again_to_the_connection_that_takes_over, .init = story_ready, .fini = story_down)
{
	story_revoked();
	story_clear();
	W.now = 2000;
	story_back(2, 7);
	story_says(2, FRAME_REVOKED, 7);
	expect_story("[ 2000] w2 welcome until=10500 resumed=7-0\n"
		     "[ 2000] w2 revoke 7-0 operator grace=4000\n"
		     "[ 2000] w1 closed\n"
		     "[ 2000] s requeue 7-0 retry=0\n"
		     "[ 2000] s credits 0:1\n");
}

Test(coord, a_revoke_is_told_again_to_a_worker_that_comes_back, .init = story_ready, .fini = story_down)
{
	story_revoked();
	story_event((struct coord_event){.kind = COORD_END, .session = 1});
	story_clear();
	W.now = 2000;
	story_back(2, 7);
	story_until(8000);
	expect_story("[ 2000] w2 welcome until=10500 resumed=7-0\n"
		     "[ 2000] w2 revoke 7-0 operator grace=5000\n"
		     "[ 5333] w2 ping until=10500\n"
		     "[ 7500] s requeue 7-0 retry=0\n");
}

Test(coord, a_worker_that_ends_by_a_revoke_is_not_counted, .init = story_ready, .fini = story_down)
{
	story_revoked();
	story_clear();
	story_event((struct coord_event){.kind = COORD_END, .session = 1});
	story_event((struct coord_event){.kind = COORD_PEER_DEAD, .session = 1});
	expect_story("[ 1000] s requeue 7-0 retry=0\n");
}

Test(coord, a_hello_waits_until_own_entries_are_known, .init = story_new, .fini = story_down)
{
	story_clear();
	memset(W.key, 'a', 32);
	story_back(1, 7);
	expect_story("");
	story_own(0, 7, "s");
	story_lease(W.last_handle, LEASE_IS_HELD, 11000, true);
	expect_story("[ 1000] s acquire 1\n"
		     "[ 1000] w1 welcome until=10500 resumed=7-0\n");
}

Test(coord, a_hello_that_waited_as_long_as_a_lease_lasts_was_not_silent, .init = story_new, .fini = story_down)
{
	story_clear();
	story_back(1, 7);
	story_until(14400);
	expect_story("[11000] w1 welcome until=20500 gone=7-0:lost\n" /* nobody had asked it for a sign of life */
		     "[14333] w1 ping until=23833\n");
}

Test(coord, a_session_of_this_process_does_not_wait_for_own_entries, .init = story_new, .fini = story_down)
{
	story_own(0, 9, "t"); /* its lock's master does not answer */
	story_hello(1, 1);
	story_assigned(7, "s");
	story_event((struct coord_event){.kind = COORD_END, .session = 1});
	story_clear();
	story_back(2, 7);
	expect_story("[ 1000] w2 welcome until=10500 resumed=7-0\n");
}

Test(coord, own_entries_that_nobody_comes_back_for, .init = story_new, .fini = story_down)
{
	story_clear();
	story_own(0, 7, "s");
	story_lease(W.last_handle, LEASE_IS_HELD, 11000, true);
	story_from_shard((struct msg){.kind = MSG_LEASE,
		.handle = W.last_handle,
		.lease.result = LEASE_IS_RECREATED,
		.lease.good_until = 30000});
	story_op(W.last_handle, CMD_TAKE, OP_DONE, false);
	story_until(10500); /* a worker of the former process may have been told to go on for T - 500 ms */
	expect_story("[ 1000] s acquire 1\n"
		     "[ 1000] s take 7-0 retry=0\n"
		     "[10500] s requeue 7-0 retry=0\n");
}

Test(coord, own_entries_of_a_process_with_longer_leases_wait_for_those, .init = story_new, .fini = story_down)
{
	story_own(0, 7, "s");
	story_from_shard((struct msg){.kind = MSG_LEASE,
		.handle = W.last_handle,
		.lease.result = LEASE_IS_HELD,
		.lease.good_until = 30000,
		.lease.was_ours = true,
		.lease.lasts_ms = 20000});
	story_clear();
	story_until(20499);
	expect_story("");
	story_until(20500); /* 500 ms before the former lock would have ended */
	expect_story("[20500] s requeue 7-0 retry=0\n");
}

Test(coord, own_entries_whose_lock_was_missing_go_back, .init = story_new, .fini = story_down)
{
	story_clear();
	story_own(0, 7, "s");
	story_lease(W.last_handle, LEASE_IS_HELD, 11000, false);
	expect_story("[ 1000] s acquire 1\n"
		     "[ 1000] s requeue 7-0 retry=0\n");
}

/* ---- the audit ---- */

static void own_ids(uint64_t id, int64_t pass)
{
	struct id_page *p = mem_alloc(sizeof *p + sizeof p->v[0]);
	p->n = id ? 1 : 0;
	p->v[0] = (struct entry_id){id, 0};
	story_from_shard((struct msg){.kind = MSG_OWN_IDS,
		.own_ids.pass = pass,
		.own_ids.began = W.now,
		.own_ids.is_last = true,
		.own_ids.page = p});
}

Test(coord, an_assigned_entry_that_is_not_pending_is_revoked, .init = story_ready, .fini = story_down)
{
	story_hello(1, 1);
	story_assigned(7, "s");
	story_clear();
	W.now = 2000;
	own_ids(7, 1);
	expect_story("");
	W.now = 3000;
	own_ids(0, 2);
	expect_story("[ 3000] s forget 1\n" /* the lock keeps others away until the worker has stopped */
		     "[ 3000] w1 revoke 7-0 lost grace=1500\n");
}

Test(coord, a_lock_made_again_for_an_entry_that_is_not_pending_is_left_to_expire, .init = story_ready,
	.fini = story_down)
{
	story_hello(1, 1);
	uint64_t h = story_assigned(7, "s");
	story_clear();
	story_lease(h, LEASE_IS_RECREATED, 11000, true);
	story_op(h, CMD_TAKE, OP_GONE, false);
	expect_story("[ 1000] s take 7-0 retry=0\n"
		     "[ 1000] s forget 1\n"
		     "[ 1000] w1 revoke 7-0 lost grace=1500\n");
}

static void held_again(uint64_t first, size_t n)
{
	struct entry_batch *b = mem_alloc(sizeof *b + n * sizeof b->v[0]);
	b->n = n;
	for (size_t i = 0; i < n; i++) {
		b->v[i] = (struct entry_in){.id = {first + i, 0}, .lock_slot = 9};
		b->v[i].stream = text_new("s", 1);
		b->v[i].info = text_new("{}", 2);
	}
	story_from_shard((struct msg){.kind = MSG_ENTRIES,
		.svc = 0,
		.entries.source = SOURCE_NEW,
		.entries.n_asked = (int64_t)n,
		.entries.batch = b});
}

Test(coord, all_that_is_held_is_read_again_when_the_group_was_gone, .init = story_ready, .fini = story_down)
{
	story_hello(1, 200);
	for (uint64_t id = 1; id <= 200; id++) {
		char stream[20];
		snprintf(stream, sizeof stream, "s%llu", (unsigned long long)id);
		story_assigned(id, stream);
	}
	story_clear();
	story_from_shard((struct msg){.kind = MSG_GROUP_LOST});
	story_from_shard((struct msg){.kind = MSG_GROUP_LOST, .group_lost.is_remade = true});
	held_again(1, 128);
	held_again(129, 72);
	expect_story("[ 1000] s credits 0:128\n"
		     "[ 1000] s credits 0:72\n");
}

Test(coord, a_worker_that_comes_back_before_its_old_connection_ended_is_told_to_stop_again, .init = story_ready,
	.fini = story_down)
{
	story_hello(1, 1);
	story_assigned(7, "s");
	struct coord_ctl ctl = {.kind = CTL_REVOKE, .session = 1};
	story_event((struct coord_event){.kind = COORD_CTL, .ctl = &ctl});
	story_clear();
	W.now = 2000;
	story_back(2, 7);
	expect_story("[ 2000] w2 welcome until=10500 resumed=7-0\n"
		     "[ 2000] w2 revoke 7-0 operator grace=4000\n"
		     "[ 2000] w1 closed\n");
}

Test(coord, a_pending_entry_nobody_knows_is_fetched, .init = story_ready, .fini = story_down)
{
	story_clear();
	own_ids(7, 1);
	story_until(1400);
	own_ids(7, 2);
	story_until(1600);
	expect_story("[ 1500] s fetch 7-0 retry=0\n");
	uint32_t pos = 0;
	struct entry *e = ledger_next(&W.c->ledger, &pos);
	story_from_shard((struct msg){.kind = MSG_OP_RESULT,
		.handle = entry_handle(e),
		.op_result.kind = CMD_FETCH,
		.op_result.result = OP_DONE,
		.op_result.batch = story_batch(7, "s")});
	expect_story("[ 1600] s acquire 1\n");
}

Test(coord, a_pending_entry_without_data_is_acknowledged, .init = story_ready, .fini = story_down)
{
	own_ids(7, 1);
	story_until(1600);
	story_clear();
	uint32_t pos = 0;
	struct entry *e = ledger_next(&W.c->ledger, &pos);
	uint64_t h = entry_handle(e);
	story_op(h, CMD_FETCH, OP_GONE, false);
	story_op(h, CMD_ACK_DEL, OP_DONE, false);
	expect_story("[ 1600] s ack 7-0 retry=0\n");
	cr_assert_eq(W.c->ledger.n, 0);
}

/* Its connection was lost while it was fetched: what is pending for us is read anew, and this one has no data any more. */
Test(coord, a_fetched_entry_that_is_found_deleted_keeps_no_credit, .init = story_ready, .fini = story_down)
{
	story_hello(1, 1);
	uint64_t a = story_assigned(7, "s");
	story_says(1, FRAME_DONE, 7);
	story_from_shard((struct msg){.kind = MSG_OP_RESULT,
		.handle = a,
		.op_result.kind = CMD_DONE,
		.op_result.result = OP_DONE,
		.op_result.next = {8, 0}});
	struct entry *e = ledger_get(&W.c->ledger, 0, (struct entry_id){8, 0});
	cr_assert(e && e->state == ENTRY_FETCHING && e->uses_claim);
	story_clear();
	struct entry_batch *b = story_batch(8, "s");
	b->v[0].problem = ENTRY_DELETED;
	story_from_shard((struct msg){
		.kind = MSG_ENTRIES, .entries.source = SOURCE_OWN, .entries.is_last = true, .entries.batch = b});
	expect_story("[ 1000] s ack 8-0 retry=0\n");
	e = ledger_get(&W.c->ledger, 0, (struct entry_id){8, 0});
	cr_assert(e && !e->uses_claim);
}

/* ---- nobody is there for it ---- */

Test(coord, what_comes_when_the_last_worker_has_left_goes_back_at_once, .init = story_ready, .fini = story_down)
{
	story_hello(1, 2);
	story_read(0, 7, "s");
	uint64_t h = W.last_handle;
	story_lease(h, LEASE_IS_HELD, 11000, false);
	story_up(1, (struct frame){.kind = FRAME_CREDITS, .credits = 0});
	story_clear();
	story_op(h, CMD_TAKE, OP_DONE, false);
	expect_story("[ 1000] s requeue 7-0 retry=0\n");
}

Test(coord, what_comes_while_its_worker_is_busy_waits_for_it, .init = story_ready, .fini = story_down)
{
	story_hello(1, 2);
	story_read(0, 7, "s");
	uint64_t h = W.last_handle;
	story_lease(h, LEASE_IS_HELD, 11000, false);
	story_read(0, 8, "t");
	uint64_t i = W.last_handle;
	story_lease(i, LEASE_IS_HELD, 11000, false);
	story_up(1, (struct frame){.kind = FRAME_CREDITS, .credits = 1});
	story_op(h, CMD_TAKE, OP_DONE, false);
	story_clear();
	story_op(i, CMD_TAKE, OP_DONE, false);
	expect_story("");
	story_until(2999);
	struct entry *e = ledger_by_handle(&W.c->ledger, i);
	cr_assert(e && e->state == ENTRY_READY);
}

/* ---- a second entry of a stream ---- */

Test(coord, a_second_entry_waits_without_a_lock, .init = story_ready, .fini = story_down)
{
	story_hello(1, 3);
	story_read(0, 7, "s");
	uint64_t a = W.last_handle;
	story_read(0, 8, "s"); /* the first one is not locked yet: this one stands behind it */
	story_lease(a, LEASE_IS_HELD, 11000, false);
	story_clear();
	story_op(a, CMD_TAKE, OP_DONE, false);
	struct entry *b = ledger_get(&W.c->ledger, 0, (struct entry_id){8, 0});
	cr_assert(b && b->state == ENTRY_TAKING && !b->good_until && b->lease_shard == SHARD_NONE);
	story_from_shard((struct msg){.kind = MSG_OP_RESULT,
		.handle = entry_handle(b),
		.op_result.kind = CMD_TAKE,
		.op_result.result = OP_PARKED});
	cr_expect_eq(W.c->ledger.n, 1);
	cr_expect(services_find(&W.c->services, 0)->is_sifting);
	story_clear();
	/* the first ends: Redis says that the second is ours now */
	story_says(1, FRAME_DONE, 7);
	story_from_shard((struct msg){.kind = MSG_OP_RESULT,
		.handle = a,
		.op_result.kind = CMD_DONE,
		.op_result.result = OP_DONE,
		.op_result.next = {8, 0}});
	expect_story("[ 1000] s done 7-0 retry=0\n"
		     "[ 1000] w1 ok 7-0 for=0 done\n"
		     "[ 1000] s release 1\n"
		     "[ 1000] s fetch 8-0 retry=0\n");
}

Test(coord, a_second_entry_comes_first_when_the_first_was_not_to_be_had, .init = story_ready, .fini = story_down)
{
	story_hello(1, 3);
	story_read(0, 7, "s");
	uint64_t a = W.last_handle;
	story_read(0, 8, "s");
	story_lease(a, LEASE_IS_HELD, 11000, false);
	story_clear();
	story_op(a, CMD_TAKE, OP_GONE, false);
	cr_expect_eq(ledger_get(&W.c->ledger, 0, (struct entry_id){8, 0})->state, ENTRY_LOCKING);
}

Test(coord, an_entry_of_another_process_of_ours_waits_until_its_worker_has_stopped, .init = story_ready,
	.fini = story_down)
{
	story_hello(1, 1);
	story_read(0, 7, "s");
	story_clear();
	story_from_shard((struct msg){.kind = MSG_LEASE,
		.handle = W.last_handle,
		.lease.result = LEASE_IS_HELD,
		.lease.good_until = 21000,
		.lease.was_ours = true,
		.lease.lasts_ms = 10000});
	story_until(10499);
	story_clear();
	W.c->next_turn = W.now; /* not a stall */
	story_until(10500);
	expect_story("[10500] s requeue 7-0 retry=0\n");
}

/* ---- the end ---- */

Test(coord, an_entry_just_read_is_locked_before_a_drain_gives_it_back, .init = story_ready, .fini = story_down)
{
	story_hello(1, 2);
	story_read(0, 7, "s");
	uint64_t a = W.last_handle;
	story_clear();
	story_event((struct coord_event){.kind = COORD_STOP, .flag = true});
	story_read(0, 8, "t");
	uint64_t b = W.last_handle;
	story_lease(a, LEASE_IS_BUSY, 0, false);
	story_lease(b, LEASE_IS_HELD, 11000, false);
	story_op(b, CMD_REQUEUE, OP_DONE, false);
	story_until(1200);
	expect_story("[ 1000] w1 drain grace=60000\n"
		     "[ 1000] s credits 0:0\n"
		     "[ 1000] s acquire 2\n"
		     "[ 1000] s requeue 8-0 retry=0\n"
		     "[ 1000] s release 2\n"
		     "[ 1200] ends with 0\n");
}

Test(coord, a_drain_gives_back_what_is_not_worked_on, .init = story_ready, .fini = story_down)
{
	story_hello(1, 2);
	uint64_t a = story_assigned(7, "s");
	story_read(0, 8, "t");
	uint64_t b = W.last_handle;
	story_lease(b, LEASE_IS_HELD, 11000, false);
	story_clear();
	story_event((struct coord_event){.kind = COORD_STOP, .flag = true});
	story_op(b, CMD_REQUEUE, OP_DONE, false);
	story_says(1, FRAME_DONE, 7);
	story_op(a, CMD_DONE, OP_DONE, false);
	story_until(2000);
	expect_story("[ 1000] w1 drain grace=60000\n"
		     "[ 1000] s requeue 8-0 retry=0\n"
		     "[ 1000] s release 2\n"
		     "[ 1000] s done 7-0 retry=0\n"
		     "[ 1000] w1 ok 7-0 for=0 done\n"
		     "[ 1000] s release 1\n"
		     "[ 1200] ends with 0\n");
}

Test(coord, who_comes_during_a_drain_is_told_the_same, .init = story_ready, .fini = story_down)
{
	story_hello(1, 1);
	story_assigned(7, "s");
	story_clear();
	story_event((struct coord_event){.kind = COORD_CTL, .ctl = &(struct coord_ctl){.kind = CTL_DRAIN}});
	story_hello(2, 1);
	expect_story("[ 1000] w1 drain grace=60000\n"
		     "[ 1000] w2 welcome until=10500\n"
		     "[ 1000] w2 drain grace=60000\n");
}

Test(coord, a_drain_that_takes_too_long_revokes_and_ends, .init = story_begin, .fini = story_down)
{
	coord_free(W.c);
	W.rules.drain_timeout_ms = 1000;
	W.c = coord_new(&W.rules);
	story_services(1, 100);
	story_event((struct coord_event){.kind = COORD_TOPOLOGY, .text = {"a:1", 3}});
	story_own(0, 0, "");
	story_hello(1, 1);
	story_assigned(7, "s");
	story_clear();
	story_event((struct coord_event){.kind = COORD_STOP, .flag = true});
	story_until(8000); /* Redis answers nothing */
	expect_story("[ 1000] w1 drain grace=1000\n"
		     "[ 2000] w1 revoke 7-0 shutdown grace=2000\n"
		     "[ 4333] w1 ping until=10500\n"
		     "[ 4500] s requeue 7-0 retry=0\n"
		     "[ 7200] ends with 0\n"
		     "[ 7666] w1 ping until=17166\n");
}

Test(coord, a_handover_ends_when_workers_have_been_heard, .init = story_ready, .fini = story_down)
{
	story_hello(1, 1);
	story_assigned(7, "s");
	story_clear();
	story_event((struct coord_event){.kind = COORD_STOP});
	story_until(1050);
	expect_story("[ 1050] ends with 0\n");
}

Test(coord, a_handover_waits_a_moment_for_its_mark, .init = story_ready, .fini = story_down)
{
	W.is_leaving_shown = true;
	story_event((struct coord_event){.kind = COORD_STOP});
	story_until(1799);
	expect_story("[ 1000] s leave 0-0 retry=0\n");
	story_until(1800);
	expect_story("[ 1800] ends with 0\n");
}

Test(coord, a_result_that_was_sent_before_a_handover_is_delivered, .init = story_ready, .fini = story_down)
{
	story_hello(1, 1);
	uint64_t h = story_assigned(7, "s");
	story_clear();
	story_event((struct coord_event){.kind = COORD_STOP});
	W.now = 1010;
	story_says(1, FRAME_DONE, 7);
	story_until(1100);
	expect_story("[ 1010] s done 7-0 retry=0\n");
	story_op(h, CMD_DONE, OP_DONE, false);
	expect_story("[ 1100] w1 ok 7-0 for=0 done\n"
		     "[ 1100] s release 1\n"
		     "[ 1100] ends with 0\n");
}

Test(coord, a_handover_waits_a_moment_for_a_worker_that_leaves_too, .init = story_ready, .fini = story_down)
{
	story_hello(1, 1);
	uint64_t h = story_assigned(7, "s");
	story_up(1, (struct frame){.kind = FRAME_CREDITS});
	story_clear();
	story_event((struct coord_event){.kind = COORD_STOP});
	story_until(1400);
	expect_story("");
	story_says(1, FRAME_RELEASE, 7);
	story_op(h, CMD_REQUEUE, OP_DONE, false);
	expect_story("[ 1400] s requeue 7-0 retry=0\n"
		     "[ 1400] w1 ok 7-0 for=2 requeued\n"
		     "[ 1400] s release 1\n"
		     "[ 1400] ends with 0\n");
}

Test(coord, a_handover_waits_no_longer_than_it_says, .init = story_ready, .fini = story_down)
{
	story_hello(1, 1);
	story_assigned(7, "s");
	story_up(1, (struct frame){.kind = FRAME_CREDITS});
	story_clear();
	story_event((struct coord_event){.kind = COORD_STOP});
	story_until(1900);
	expect_story("[ 1800] ends with 0\n");
}

Test(coord, a_finish_that_takes_longer_than_the_lease_does_not_spin, .init = story_ready, .fini = story_down)
{
	story_hello(1, 0);
	story_up(1, (struct frame){.kind = FRAME_CREDITS, .credits = 1});
	story_assigned(7, "s");
	story_says(1, FRAME_DONE, 7);
	story_until(60000); /* a turn without an end would hang here */
}

/* ---- slots ---- */

Test(coord, a_reader_that_followed_an_ask_comes_home_when_the_slot_stays, .init = story_begin, .fini = story_down)
{
	struct slot_range r[] = {
		{.from = 0, .to = 8000, .port = 1, .host = "a"}, {.from = 8001, .to = 16383, .port = 1, .host = "b"}};
	story_services(1, 100);
	story_event((struct coord_event){.kind = COORD_TOPOLOGY, .slots = r, .n = 2});
	const struct coord_service *s = &W.c->services.v[0];
	cr_assert_eq(s->reader.shard, 0);
	story_from_shard((struct msg){
		.kind = MSG_MOVED, .from = 0, .moved.slot = 5, .moved.asking = true, .moved.to = text_new("b:1", 3)});
	cr_assert_eq(s->reader.shard, 1);
	cr_assert(s->reader.asking);
	story_from_shard((struct msg){.kind = MSG_MOVED, .from = 1, .moved.slot = 5, .moved.to = text_new("a:1", 3)});
	cr_assert_eq(s->reader.shard, 0, "it asks there for ever");
	cr_assert_not(s->reader.asking);
}

static void slots_moved(int64_t seq)
{
	story_from_shard((struct msg){.kind = MSG_REFRESH,
		.refresh.is_announced = true,
		.refresh.seq = seq,
		.refresh.why = text_new("moved", 5)});
}

Test(coord, slots_that_move_are_asked_for_once, .init = story_begin, .fini = story_down)
{
	struct coord_event answer = {.kind = COORD_TOPOLOGY, .text = {"a:1", 3}};
	story_services(1, 100);
	story_event(answer);
	story_until(W.now + 200);
	slots_moved(18);
	cr_assert(W.c->look_up.is_pending);
	story_event(answer);
	for (int i = 0; i < 8; i++) /* the other connections heard it too */
		slots_moved(18);
	story_until(W.now + 1000);
	cr_assert_not(W.c->look_up.is_pending);
	slots_moved(19);
	slots_moved(20); /* the answer that is on its way may not know it */
	story_event(answer);
	cr_assert_not(W.c->look_up.is_pending);
	story_until(W.now + 200);
	cr_assert(W.c->look_up.is_pending, "the second move was forgotten");
	story_event((struct coord_event){.kind = COORD_TOPOLOGY_FAILED, .text = {"no", 2}});
	story_until(W.now + 600);
	cr_assert(W.c->look_up.is_pending, "a failed question is not asked again");
	story_event(answer);
	story_until(W.now + 1000);
	cr_assert_not(W.c->look_up.is_pending);
}

Test(coord, a_node_behind_an_ask_that_dies_is_given_up, .init = story_begin, .fini = story_down)
{
	struct slot_range r[] = {{.from = 0, .to = 16383, .port = 1, .host = "a"}};
	story_services(1, 100);
	story_event((struct coord_event){.kind = COORD_TOPOLOGY, .slots = r, .n = 1});
	const struct coord_service *s = &W.c->services.v[0];
	story_from_shard((struct msg){
		.kind = MSG_MOVED, .from = 0, .moved.slot = 5, .moved.asking = true, .moved.to = text_new("b:1", 3)});
	story_event((struct coord_event){.kind = COORD_TOPOLOGY, .slots = r, .n = 1});
	cr_assert_eq(s->reader.shard, 1, "it has had no time to connect");
	W.now += 1500;
	story_from_shard((struct msg){.kind = MSG_CONN, .from = 1, .conn.role = CONN_COMMAND});
	story_event((struct coord_event){.kind = COORD_TOPOLOGY, .slots = r, .n = 1});
	cr_assert_eq(s->reader.shard, 0, "it waits there for ever");
	story_from_shard((struct msg){.kind = MSG_EMPTY, .from = 1});
	story_from_shard((struct msg){.kind = MSG_STOPPED, .from = 1});
	cr_assert_not(W.c->shards.v[1].is_on);
}

/* Lines that a failed look at the topology costs. */
static size_t lines_for(const char *why)
{
	struct coord_event ev = {.kind = COORD_TOPOLOGY_FAILED, .now = W.now, .text = {why, strlen(why)}};
	size_t n = 0;
	coord_step(W.c, &ev, &W.out);
	for (size_t i = 0; i < W.out.n; i++)
		n += W.out.v[i].kind == EFF_LOG;
	effects_clear(&W.out);
	return n;
}

Test(coord, each_reason_why_redis_is_not_there_is_said_once, .init = story_begin, .fini = story_down)
{
	struct slot_range r[] = {{.from = 0, .to = 16383, .port = 1, .host = "a"}};
	story_services(1, 100);
	cr_expect_eq(lines_for("connection refused"), 1);
	cr_expect_eq(lines_for("connection refused"), 0);
	cr_expect_eq(lines_for("WRONGPASS"), 1, "it hides behind the first");
	cr_expect_eq(lines_for("connection refused"), 0);
	cr_expect_eq(lines_for("no answer for 3001 ms"), 1);
	cr_expect_eq(lines_for("no answer for 3007 ms"), 0);
	cr_expect_eq(lines_for("a fourth"), 1);
	cr_expect_eq(lines_for("a fifth"), 0, "no end of them");
	story_event((struct coord_event){.kind = COORD_TOPOLOGY, .slots = r, .n = 1});
	cr_expect_eq(lines_for("connection refused"), 1, "it was there meanwhile");
}

/* ---- trimmed while held: nothing is left to give back */

static void fail_of_a_trimmed_one(enum cmd_kind op, bool dead)
{
	story_hello(1, 1);
	uint64_t h = story_assigned(7, "s");
	char text[SESSION_LEASE_CAP];
	story_up(1, (struct frame){.kind = FRAME_FAIL, .lease = story_text(7, text), .dead = dead});
	story_clear();
	story_op(h, op, OP_DELETED, false);
	story_up(1, (struct frame){.kind = FRAME_FAIL, .lease = story_text(7, text), .dead = dead}); /* told again */
	expect_story("[ 1000] w1 ok 7-0 for=1 lost\n"
		     "[ 1000] s release 1\n"
		     "[ 1000] w1 ok 7-0 for=1 lost\n");
	const struct metrics_service *m = &W.c->services.v[0].m;
	cr_expect_eq(m->c[M_LOST_TRIMMED], 1);
	cr_expect_eq(m->c[M_REQUEUE_FAIL] + m->c[M_DEAD_REJECTED], 0, "it is counted as what it is");
	story_says(1, FRAME_DONE, 7);
	expect_story("[ 1000] w1 err not_owner 7-0\n");
}

Test(coord, what_was_trimmed_is_not_requeued, .init = story_ready, .fini = story_down)
{
	fail_of_a_trimmed_one(CMD_REQUEUE, false);
}

Test(coord, what_was_trimmed_is_no_dead_letter, .init = story_ready, .fini = story_down)
{
	fail_of_a_trimmed_one(CMD_DEAD, true);
}

Test(coord, done_of_what_was_trimmed_is_done, .init = story_ready, .fini = story_down)
{
	story_hello(1, 1);
	uint64_t h = story_assigned(7, "s");
	story_says(1, FRAME_DONE, 7);
	story_clear();
	story_op(h, CMD_DONE, OP_DONE, false);
	expect_story("[ 1000] w1 ok 7-0 for=0 done\n"
		     "[ 1000] s release 1\n");
	cr_expect_eq(W.c->services.v[0].m.c[M_LOST_TRIMMED], 0);
}

/* ---- what the log says of many */

static size_t n_warnings(const char *words)
{
	size_t n = 0;
	for (size_t i = 0; i < W.out.n; i++)
		n += W.out.v[i].kind == EFF_LOG && W.out.v[i].level == LOG_WARN &&
		     strstr(W.out.v[i].text->bytes, words);
	return n;
}

static size_t warnings_until(mono_ms end, const char *words)
{
	size_t n = 0;
	while (W.now < end) {
		struct coord_event ev = {.kind = COORD_TICK, .now = W.now += 100};
		coord_step(W.c, &ev, &W.out);
		n += n_warnings(words);
		effects_clear(&W.out);
	}
	return n;
}

Test(coord, many_lost_leases_are_one_warning_with_their_number, .init = story_ready, .fini = story_down)
{
	story_hello(1, 50);
	uint64_t h[20];
	for (uint64_t i = 0; i < 20; i++) {
		char name[8];
		snprintf(name, sizeof name, "s%d", (int)i);
		h[i] = story_assigned(100 + i, name);
	}
	for (int i = 0; i < 12; i++)
		story_from_shard((struct msg){
			.kind = MSG_LEASE, .handle = h[i], .lease.result = LEASE_IS_LOST, .lease.lost = LOST_TAKEN});
	cr_expect_eq(warnings_until(W.now + 3000, "service=orders leases lost n=12 taken=12"), 1);
	for (int i = 12; i < 15; i++)
		story_from_shard((struct msg){
			.kind = MSG_LEASE, .handle = h[i], .lease.result = LEASE_IS_LOST, .lease.lost = LOST_MISSING});
	cr_expect_eq(warnings_until(W.now + 2000, "leases lost"), 0, "once a minute");
}
