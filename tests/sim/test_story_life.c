/* test_story_life - an entry's way through one daemon, line by line. */
#include "sim/story.h"

Test(story, starts_and_welcomes, .init = story_up, .fini = story_down)
{
	story_worker(&W.daemons[0], 2, 500);
	expect_story("");
}

Test(story, an_entry_is_locked_taken_worked_on_and_done, .init = story_up, .fini = story_down)
{
	story_worker(&W.daemons[0], 2, 500);
	story_clear();
	world_add(&W, 0, "s1");
	story_for(1000);
	expect_story("");
	cr_assert(world_settled(&W));
}

Test(story, a_failure_counts_and_the_fourth_is_a_dead_letter, .init = story_up, .fini = story_down)
{
	struct worker *k = story_worker(&W.daemons[0], 1, 100);
	k->fail_pct = 100;
	W.rules[0].max_retries = 3;
	story_clear();
	world_add(&W, 0, "s1");
	story_for(2000);
	expect_story("");
	cr_assert(world_settled(&W));
}

Test(story, a_release_is_not_counted, .init = story_up, .fini = story_down)
{
	struct worker *k = story_worker(&W.daemons[0], 1, 100);
	k->release_pct = 100;
	story_clear();
	world_add(&W, 0, "s1");
	story_for(150);
	k->release_pct = 0;
	story_for(1000);
	expect_story("");
	cr_assert(world_settled(&W));
}

Test(story, a_second_entry_of_a_running_stream_waits_its_turn, .init = story_up, .fini = story_down)
{
	story_worker(&W.daemons[0], 4, 300);
	story_clear();
	world_add(&W, 0, "s1");
	world_add(&W, 0, "s1");
	story_for(1200);
	expect_story("");
	cr_assert(world_settled(&W));
}

Test(story, a_worker_dies_and_its_stream_goes_back_at_once, .init = story_up, .fini = story_down)
{
	struct worker *k = story_worker(&W.daemons[0], 1, 5000);
	story_worker(&W.daemons[0], 0, 300);
	story_clear();
	world_add(&W, 0, "s1");
	story_for(1000);
	worker_set_credits(&W, &W.workers[1], 1);
	worker_kill(&W, k);
	story_for(1000);
	expect_story("");
	cr_assert(world_settled(&W));
}

Test(story, a_worker_comes_back_and_keeps_its_stream, .init = story_up, .fini = story_down)
{
	struct worker *k = story_worker(&W.daemons[0], 1, 2000);
	story_clear();
	world_add(&W, 0, "s1");
	story_for(500);
	worker_disconnect(&W, k);
	story_for(3000);
	expect_story("");
	cr_assert(world_settled(&W));
}

Test(story, a_worker_says_bye_and_nothing_is_counted, .init = story_up, .fini = story_down)
{
	struct worker *k = story_worker(&W.daemons[0], 1, 5000);
	story_clear();
	world_add(&W, 0, "s1");
	story_for(500);
	worker_bye(&W, k);
	story_for(500);
	expect_story("");
}
