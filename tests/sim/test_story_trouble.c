/* test_story_trouble - what the daemon does when Redis, a worker or a daemon does not. */
#include "sim/story.h"

static void three_masters(void)
{
	story_with((struct world_opts){.is_cluster = true, .n_masters = 3});
}

static void two_daemons(void)
{
	story_with((struct world_opts){.n_daemons = 2});
}

Test(story, frozen_redis_the_worker_stops_before_the_key_can_expire, .init = story_up, .fini = story_down)
{
	struct worker *k = story_worker(&W.daemons[0], 1, 60000);
	k->keeps_fence = false;
	story_clear();
	world_add(&W, 0, "s1");
	story_for(500);
	server_pause(&W, &W.servers[0], true);
	story_for(20000);
	expect_story("");
	server_pause(&W, &W.servers[0], false);
	k->work_min = k->work_max = 200;
	story_for(3000);
	expect_story("");
	cr_assert(world_settled(&W));
}

Test(story, frozen_daemon_the_worker_keeps_its_fence, .init = story_up, .fini = story_down)
{
	struct worker *k = story_worker(&W.daemons[0], 1, 60000);
	story_clear();
	world_add(&W, 0, "s1");
	story_for(500);
	daemon_pause(&W, &W.daemons[0], true);
	story_for(15000);
	k->work_min = k->work_max = 200;
	daemon_pause(&W, &W.daemons[0], false);
	story_for(3000);
	expect_story("");
	cr_assert(world_settled(&W));
}

Test(story, a_restart_resumes_what_is_still_its_own, .init = story_up, .fini = story_down)
{
	story_worker(&W.daemons[0], 1, 3000);
	story_clear();
	world_add(&W, 0, "s1");
	story_for(500);
	daemon_kill(&W, &W.daemons[0]);
	story_for(300);
	daemon_start(&W, &W.daemons[0]);
	story_for(4000);
	expect_story("");
	cr_assert(world_settled(&W));
}

Test(story, a_handover_leaves_everything_to_the_next_process, .init = story_up, .fini = story_down)
{
	story_worker(&W.daemons[0], 1, 3000);
	story_clear();
	world_add(&W, 0, "s1");
	story_for(500);
	daemon_stop(&W, &W.daemons[0], false);
	story_for(600);
	cr_assert(!W.daemons[0].is_alive);
	daemon_start(&W, &W.daemons[0]);
	story_for(4000);
	expect_story("");
	cr_assert(world_settled(&W));
}

Test(story, a_drain_lets_workers_finish_and_reads_nothing, .init = story_up, .fini = story_down)
{
	story_worker(&W.daemons[0], 2, 1000);
	story_clear();
	world_add(&W, 0, "s1");
	story_for(500);
	daemon_stop(&W, &W.daemons[0], true);
	world_add(&W, 0, "s2");
	story_for(2000);
	expect_story("");
	cr_assert(!W.daemons[0].is_alive);
	cr_assert_eq(model_redis_n_pending(W.servers[0].model, &W.names[0]), 0);
}

Test(story, another_daemon_recovers_what_a_dead_one_held, .init = two_daemons, .fini = story_down)
{
	story_worker(&W.daemons[0], 1, 60000);
	story_clear();
	world_add(&W, 0, "s1");
	story_for(500);
	story_worker(&W.daemons[1], 1, 300);
	daemon_kill(&W, &W.daemons[0]);
	story_for(12000);
	expect_story("");
}

Test(story, a_slot_moves_and_its_lease_with_it, .init = three_masters, .fini = story_down)
{
	story_worker(&W.daemons[0], 1, 9000);
	world_add(&W, 0, "s1");
	story_for(500);
	uint32_t pos = 0;
	struct entry *e = ledger_next(&W.daemons[0].core->ledger, &pos);
	cr_assert(e && e->state == ENTRY_ASSIGNED);
	story_clear();
	server_move_slot(&W, e->lock_slot, &W.servers[(W.owner[e->lock_slot] + 1) % 3], 5000);
	story_for(10000);
	expect_story("");
	cr_assert(world_settled(&W));
}

Test(story, a_deleted_group_is_made_again_and_held_entries_are_recognised, .init = story_up, .fini = story_down)
{
	story_worker(&W.daemons[0], 1, 4000);
	world_add(&W, 0, "s1");
	story_for(500);
	story_clear();
	model_redis_destroy_group(W.servers[0].model, &W.names[0]);
	server_served(&W, &W.servers[0]);
	story_for(6000);
	expect_story("");
	cr_assert(world_settled(&W));
}

Test(story, an_older_process_of_the_same_node_ends_when_it_sees_a_newer_one, .init = two_daemons, .fini = story_down)
{
	story_worker(&W.daemons[0], 1, 30000);
	world_add(&W, 0, "s1");
	story_for(500);
	story_clear();
	daemon_kill(&W, &W.daemons[1]);
	snprintf(W.daemons[1].node, sizeof W.daemons[1].node, "n0"); /* a configuration error */
	daemon_start(&W, &W.daemons[1]);
	story_for(5000);
	expect_story("");
	cr_assert(!W.daemons[0].is_alive);
	cr_assert(W.daemons[1].is_alive);
}
