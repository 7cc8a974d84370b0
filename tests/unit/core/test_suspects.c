/* Who killed the worker? Of several streams that it held nobody knows; each is worked on alone until it is cleared. */
#include "coord_story.h"

static void story_dies(uint64_t session)
{
	story_event((struct coord_event){.kind = COORD_PEER_DEAD, .session = session});
}

static void story_renewed(uint64_t handle, mono_ms until)
{
	struct renewed *r = mem_alloc(sizeof *r + sizeof r->v[0]);
	r->n = 1;
	r->v[0].handle = handle;
	r->v[0].good_until = until;
	story_from_shard((struct msg){.kind = MSG_RENEWED, .renewed.list = r});
}

static void suspects_up(void)
{
	story_ready();
	story_hello(1, 3);
	story_clear();
}

Test(suspects, a_worker_that_held_one_stream_has_a_known_culprit, .init = suspects_up, .fini = story_down)
{
	story_assigned(2000, "a");
	story_clear();
	story_dies(1);
	expect_story("[ 1000] s requeue 2000-0 retry=1 suspect\n"
		     "[ 1000] s credits 0:0\n");
}

Test(suspects, of_several_none_is_counted_and_all_are_suspects, .init = suspects_up, .fini = story_down)
{
	story_assigned(2000, "a");
	story_assigned(2001, "b");
	story_clear();
	story_dies(1);
	expect_story("[ 1000] s requeue 2000-0 retry=0 suspect\n"
		     "[ 1000] s requeue 2001-0 retry=0 suspect\n"
		     "[ 1000] s credits 0:0\n");
}

/* It does one thing and ends, and meets the next assign on its way out. */
static void ends_after(mono_ms result_to_assign, mono_ms assign_to_end, const char *becomes)
{
	story_assigned(2000, "a");
	story_says(1, FRAME_DONE, 2000);
	W.now += result_to_assign;
	story_assigned(2001, "b");
	W.now += assign_to_end;
	story_clear();
	story_dies(1);
	cr_expect(strstr(W.text.data, becomes), "%s", W.text.data);
}

Test(suspects, a_worker_that_ends_behind_a_result_has_no_known_culprit, .init = suspects_up, .fini = story_down)
{
	ends_after(50, 999, "requeue 2001-0 retry=0 suspect\n");
}

Test(suspects, one_that_took_its_time_before_the_assign_has, .init = suspects_up, .fini = story_down)
{
	ends_after(51, 0, "requeue 2001-0 retry=1 suspect\n");
}

Test(suspects, one_that_took_its_time_behind_it_has, .init = suspects_up, .fini = story_down)
{
	ends_after(0, 1000, "requeue 2001-0 retry=1 suspect\n");
}

Test(suspects, is_given_out_when_its_worker_has_outlived_its_last_result, .init = suspects_up, .fini = story_down)
{
	const uint64_t a = story_assigned(2000, "a");
	story_says(1, FRAME_DONE, 2000);
	story_op(a, CMD_DONE, OP_DONE, false);
	story_taken_suspect(2001, "bad");
	story_assigned(2002, "c");
	story_clear();
	story_until(1050);
	cr_expect_null(strstr(W.text.data, "assign"), "%s", W.text.data);
	story_until(1051);
	cr_expect(strstr(W.text.data, "assign 2001-0 bad"), "%s", W.text.data);
	cr_expect_null(strstr(W.text.data, "assign 2002-0"), "%s", W.text.data);
	story_clear();
	story_dies(1);
	cr_expect(strstr(W.text.data, "requeue 2001-0 retry=1 suspect\n"), "%s", W.text.data);
}

Test(suspects, many_follow_each_other_at_once, .init = suspects_up, .fini = story_down)
{
	for (uint64_t n = 0; n < 11; n++) {
		char stream[8];
		snprintf(stream, sizeof stream, "s%d", (int)n);
		story_taken_suspect(2000 + n, stream);
	}
	story_clear();
	story_says(1, FRAME_DONE, 2000);
	cr_expect(strstr(W.text.data, "assign 2001-0 s1"), "%s", W.text.data);
	story_clear();
	story_says(1, FRAME_DONE, 2001);
	cr_expect(strstr(W.text.data, "assign 2002-0 s2"), "%s", W.text.data);
	story_clear();
	story_says(1, FRAME_DONE, 2002);
	cr_expect_null(strstr(W.text.data, "assign"), "%s", W.text.data);
	story_until(1051);
	cr_expect(strstr(W.text.data, "assign 2003-0 s3"), "%s", W.text.data);
}

/* It ends without having read so many of the latest assigns. */
static void ends_unread(size_t n)
{
	story_clear();
	story_event((struct coord_event){.kind = COORD_END, .session = 1, .n = n});
	story_dies(1);
}

Test(suspects, a_worker_does_not_die_of_what_it_has_not_read, .init = suspects_up, .fini = story_down)
{
	story_assigned(2000, "a");
	ends_unread(1);
	cr_expect(strstr(W.text.data, "requeue 2000-0 retry=0\n"), "%s", W.text.data);
}

Test(suspects, what_it_has_read_is_the_culprit_then, .init = suspects_up, .fini = story_down)
{
	story_assigned(2000, "a");
	story_assigned(2001, "b");
	ends_unread(1);
	cr_expect(strstr(W.text.data, "requeue 2000-0 retry=1 suspect\n"), "%s", W.text.data);
	cr_expect(strstr(W.text.data, "requeue 2001-0 retry=0\n"), "%s", W.text.data);
}

Test(suspects, what_comes_on_another_connection_was_read, .init = suspects_up, .fini = story_down)
{
	uint64_t a = story_assigned(2000, "a");
	story_event((struct coord_event){.kind = COORD_END, .session = 1, .n = 1});
	story_back(2, 2000);
	story_renewed(a, 30000);
	story_clear();
	story_event((struct coord_event){.kind = COORD_END, .session = 2});
	story_dies(2);
	cr_expect(strstr(W.text.data, "requeue 2000-0 retry=1 suspect\n"), "%s", W.text.data);
}

Test(suspects, a_worker_that_ends_to_stop_one_stream_has_no_culprit, .init = suspects_up, .fini = story_down)
{
	uint64_t a = story_assigned(2000, "a");
	story_assigned(2001, "b");
	story_event((struct coord_event){
		.kind = COORD_CTL, .ctl = &(struct coord_ctl){.kind = CTL_GIVE_BACK, .handle = a}});
	story_clear();
	story_dies(1);
	expect_story("[ 1000] s requeue 2000-0 retry=0\n"
		     "[ 1000] s requeue 2001-0 retry=0\n"
		     "[ 1000] s credits 0:0\n");
}

Test(suspects, a_worker_that_falls_silent_is_no_other_case, .init = suspects_up, .fini = story_down)
{
	uint64_t a = story_assigned(2000, "a"), b = story_assigned(2001, "b");
	story_event((struct coord_event){.kind = COORD_END, .session = 1});
	story_renewed(a, 30000);
	story_renewed(b, 30000);
	story_clear();
	story_until(12000);
	cr_expect(strstr(W.text.data, "requeue 2000-0 retry=0 suspect"), "%s", W.text.data);
	cr_expect(strstr(W.text.data, "requeue 2001-0 retry=0 suspect"), "%s", W.text.data);
}

Test(suspects, what_a_worker_says_of_its_streams_clears_them, .init = suspects_up, .fini = story_down)
{
	story_taken_suspect(2000, "a");
	story_clear();
	story_says(1, FRAME_FAIL, 2000);
	expect_story("[ 1000] s requeue 2000-0 retry=1\n");
}

Test(suspects, goes_to_an_empty_worker_that_gets_nothing_else, .init = suspects_up, .fini = story_down)
{
	story_taken_suspect(2000, "a");
	cr_expect(strstr(W.text.data, "assign 2000-0 a"), "%s", W.text.data);
	cr_expect(strstr(W.text.data, "credits 0:0"), "nothing more is read for a worker that is to be alone: %s",
		W.text.data);
	story_clear();
	uint64_t b = story_assigned(2001, "b");
	cr_expect_null(strstr(W.text.data, "assign"), "%s", W.text.data);
	story_clear();
	story_says(1, FRAME_DONE, 2000);
	cr_expect(strstr(W.text.data, "assign 2001-0 b"), "%s", W.text.data);
	(void)b;
}

Test(suspects, waits_while_others_run_and_holds_nobody_up, .init = suspects_up, .fini = story_down)
{
	story_assigned(2000, "a");
	story_taken_suspect(2001, "b");
	story_clear();
	story_assigned(2002, "c");
	cr_expect(strstr(W.text.data, "assign 2002-0 c"), "%s", W.text.data);
	cr_expect_null(strstr(W.text.data, "assign 2001-0"), "%s", W.text.data);
	story_clear();
	story_says(1, FRAME_DONE, 2000);
	story_says(1, FRAME_DONE, 2002);
	story_until(1051);
	cr_expect(strstr(W.text.data, "assign 2001-0 b"), "%s", W.text.data);
}

Test(suspects, that_has_outlived_ten_seconds_is_none_any_more, .init = suspects_up, .fini = story_down)
{
	story_renewed(story_taken_suspect(2000, "a"), 60000);
	story_says(1, FRAME_PONG, 0);
	story_until(10999);
	story_says(1, FRAME_PONG, 0);
	uint64_t b = story_assigned(2001, "b");
	cr_expect_null(strstr(W.text.data, "assign 2001-0"), "%s", W.text.data);
	story_until(11000);
	cr_expect(strstr(W.text.data, "assign 2001-0 b"), "%s", W.text.data);
	story_clear();
	story_says(1, FRAME_RELEASE, 2000);
	cr_expect(strstr(W.text.data, "requeue 2000-0 retry=0\n"), "%s", W.text.data);
	(void)b;
}

/* Keeps worker 1 busy with ever new streams, so that it never is empty by itself. */
static void keep_busy_until(mono_ms t, uint64_t suspect, uint64_t *running, uint64_t *next_id)
{
	while (W.now < t) {
		story_until(mono_min(t, W.now + 1000));
		story_says(1, FRAME_PONG, 0);
		story_from_shard((struct msg){.kind = MSG_LEASE,
			.handle = suspect,
			.lease.result = LEASE_IS_RECREATED,
			.lease.good_until = W.now + 10000});
		story_op(suspect, CMD_TAKE, OP_DONE, false);
		uint64_t finished = *running;
		*running = ++*next_id;
		story_assigned(*running, *running & 1 ? "y" : "x"); /* the next one before the last one ends */
		story_says(1, FRAME_DONE, finished);
	}
}

Test(suspects, a_busy_worker_is_let_run_empty_after_half_a_minute, .init = suspects_up, .fini = story_down)
{
	uint64_t running = 3000, next_id = 3000;
	story_assigned(running, "x");
	uint64_t suspect = story_taken_suspect(2001, "b");
	keep_busy_until(30000, suspect, &running, &next_id);
	cr_expect_null(strstr(W.text.data, "assign 2001-0"));
	story_clear();
	keep_busy_until(36000, suspect, &running, &next_id);
	cr_expect(strstr(W.text.data, "assign 2001-0 b"), "%s", W.text.data);
}

Test(suspects, goes_on_to_other_daemons_where_nobody_works, .init = suspects_up, .fini = story_down)
{
	story_up(1, (struct frame){.kind = FRAME_CREDITS, .credits = 0});
	story_taken_suspect(2000, "a");
	story_clear();
	story_until(3000);
	expect_story("[ 3000] s requeue 2000-0 retry=0 suspect\n");
}
