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
	struct sim_worker *k = story_worker(&W.daemons[0], 1, 60000);
	k->keeps_fence = false;
	story_clear();
	world_add(&W, 0, "s1");
	story_for(500);
	server_pause(&W, &W.servers[0], true);
	story_for(20000);
	expect_story("[  1520] add orders s1 1520-0\n"
		     "[  1524] d0.s0 lock s1 1520-0\n"
		     "[  1524] d0.s0 take s1 1520-0\n"
		     "[  1533] w0 < assign s1 1520-0 retry=0 until=11024\n"
		     "[  2020] redis 0 stopped\n"
		     "[  5027] d0 topology cannot be read, the last one stays: nobody answers; trying again\n"
		     "[  9524] d0 service=orders stream=s1 id=1700000001520-0 lease lost reason=expired\n"
		     "[  9524] w0 < revoke 1520-0 reason=lost grace=1500\n"
		     "[ 10339] w0 revoked 1520-0\n"
		     "[ 10524] d0 service=orders leases lost n=1 expired=1\n");
	server_pause(&W, &W.servers[0], false);
	k->work_min = k->work_max = 200;
	story_for(3000);
	expect_story("[ 22020] redis 0 goes on\n"
		     "[ 22161] d0.s0 requeue s1 1520-0 retry=0\n"
		     "[ 22171] d0.s0 lock s1 22167-0\n"
		     "[ 22171] d0.s0 take s1 22167-0\n"
		     "[ 22176] w0 < assign s1 22167-0 retry=0 until=31671\n"
		     "[ 22376] w0 done 22167-0\n"
		     "[ 22377] d0.s0 done s1 22167-0\n"
		     "[ 22386] w0 < ok 22167-0 for=done outcome=done\n");
	cr_assert(world_settled(&W));
}

Test(story, frozen_daemon_the_worker_keeps_its_fence, .init = story_up, .fini = story_down)
{
	struct sim_worker *k = story_worker(&W.daemons[0], 1, 60000);
	story_clear();
	world_add(&W, 0, "s1");
	story_for(500);
	daemon_pause(&W, &W.daemons[0], true);
	story_for(15000);
	k->work_min = k->work_max = 200;
	daemon_pause(&W, &W.daemons[0], false);
	story_for(3000);
	expect_story("[  1520] add orders s1 1520-0\n"
		     "[  1524] d0.s0 lock s1 1520-0\n"
		     "[  1524] d0.s0 take s1 1520-0\n"
		     "[  1533] w0 < assign s1 1520-0 retry=0 until=11024\n"
		     "[  2020] d0 stopped\n"
		     "[ 11024] w0 stops s1: its fence\n"
		     "[ 11024] w0 revoked 1520-0\n"
		     "[ 17020] d0 goes on\n"
		     "[ 17020] d0 service=orders stream=s1 id=1700000001520-0 lease lost reason=expired\n"
		     "[ 17020] w0 < revoke 1520-0 reason=lost grace=1500\n"
		     "[ 17021] d0.s0 requeue s1 1520-0 retry=0\n"
		     "[ 17031] d0.s0 lock s1 17027-0\n"
		     "[ 17031] d0.s0 take s1 17027-0\n"
		     "[ 17036] w0 < assign s1 17027-0 retry=0 until=26531\n"
		     "[ 17236] w0 done 17027-0\n"
		     "[ 17237] d0.s0 done s1 17027-0\n"
		     "[ 17246] w0 < ok 17027-0 for=done outcome=done\n"
		     "[ 18020] d0 service=orders leases lost n=1 expired=1\n");
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
	expect_story("[  1520] add orders s1 1520-0\n"
		     "[  1524] d0.s0 lock s1 1520-0\n"
		     "[  1524] d0.s0 take s1 1520-0\n"
		     "[  1533] w0 < assign s1 1520-0 retry=0 until=11024\n"
		     "[  2020] d0 is gone\n"
		     "[  2320] d0 starts\n"
		     "[  2324] d0 topology standalone masters=1\n"
		     "[  2324] d0 shard=0 redis=10.0.0.1:6379 started\n"
		     "[  2326] d0.s0 group_create\n"
		     "[  2336] d0.s0 lock s1 1520-0\n"
		     "[  2344] d0.s0 lock_swap s1 1520-0\n"
		     "[  2604] w0 hello credits=1 resume=1\n"
		     "[  2604] d0 worker=w pid=100 connected credits=1 resumed=1 gone=0\n"
		     "[  2604] w0 < welcome resumed=1 gone=0 until=11852\n"
		     "[  4533] w0 done 1520-0\n"
		     "[  4534] d0.s0 done s1 1520-0\n"
		     "[  4543] w0 < ok 1520-0 for=done outcome=done\n");
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
	expect_story("[  1520] add orders s1 1520-0\n"
		     "[  1524] d0.s0 lock s1 1520-0\n"
		     "[  1524] d0.s0 take s1 1520-0\n"
		     "[  1533] w0 < assign s1 1520-0 retry=0 until=11024\n"
		     "[  2020] d0 is told to hand over\n"
		     "[  2070] d0 ends with 0\n"
		     "[  2070] d0 is gone\n"
		     "[  2620] d0 starts\n"
		     "[  2624] d0 topology standalone masters=1\n"
		     "[  2624] d0 shard=0 redis=10.0.0.1:6379 started\n"
		     "[  2626] d0.s0 group_create\n"
		     "[  2636] d0.s0 lock s1 1520-0\n"
		     "[  2644] d0.s0 lock_swap s1 1520-0\n"
		     "[  2654] w0 hello credits=1 resume=1\n"
		     "[  2657] d0 worker=w pid=100 connected credits=1 resumed=1 gone=0\n"
		     "[  2657] w0 < welcome resumed=1 gone=0 until=12152\n"
		     "[  4533] w0 done 1520-0\n"
		     "[  4534] d0.s0 done s1 1520-0\n"
		     "[  4543] w0 < ok 1520-0 for=done outcome=done\n");
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
	expect_story("[  1520] add orders s1 1520-0\n"
		     "[  1524] d0.s0 lock s1 1520-0\n"
		     "[  1524] d0.s0 take s1 1520-0\n"
		     "[  1533] w0 < assign s1 1520-0 retry=0 until=11024\n"
		     "[  2020] d0 is told to drain\n"
		     "[  2020] d0 draining: no new work; held=1\n"
		     "[  2020] add orders s2 2020-0\n"
		     "[  2020] w0 < drain grace=30000\n"
		     "[  2024] d0.s0 lock s2 2020-0\n"
		     "[  2024] d0.s0 take s2 2020-0\n"
		     "[  2030] d0.s0 requeue s2 2020-0 retry=0\n"
		     "[  2038] d0.s0 unlock s2 2020-0\n"
		     "[  2533] w0 done 1520-0\n"
		     "[  2534] d0.s0 done s1 1520-0\n"
		     "[  2543] w0 < ok 1520-0 for=done outcome=done\n"
		     "[  2743] d0 ends with 0\n"
		     "[  2743] d0 is gone\n");
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
	expect_story("[  1520] add orders s1 1520-0\n"
		     "[  1524] d0.s0 lock s1 1520-0\n"
		     "[  1524] d0.s0 take s1 1520-0\n"
		     "[  1533] w0 < assign s1 1520-0 retry=0 until=11024\n"
		     "[  2020] w1 hello credits=1 resume=0\n"
		     "[  2020] d1 worker=w pid=101 connected credits=1 resumed=0 gone=0\n"
		     "[  2020] w1 < welcome resumed=0 gone=0 until=11520\n"
		     "[  2040] d0 is gone\n"
		     "[ 11024] w0 stops s1: its fence\n"
		     "[ 11544] d1.s0 lock s1 1520-0\n"
		     "[ 11550] d1.s0 requeue s1 1520-0 retry=1\n"
		     "[ 11560] d1.s0 lock s1 11556-0\n"
		     "[ 11560] d1.s0 tomb s1 1520-0\n"
		     "[ 11560] d1.s0 take s1 11556-0\n"
		     "[ 11565] w1 < assign s1 11556-0 retry=1 until=21060\n"
		     "[ 11865] w1 done 11556-0\n"
		     "[ 11866] d1.s0 done s1 11556-0\n"
		     "[ 11875] w1 < ok 11556-0 for=done outcome=done\n");
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
	expect_story("[  2020] slot 10893 moves from redis 1 to 2\n"
		     "[ 10539] w0 done 1520-0\n"
		     "[ 10540] d0.s0 done s1 1520-0\n"
		     "[ 10549] w0 < ok 1520-0 for=done outcome=done\n"
		     "[ 10550] d0.s2 unlock s1 1520-0 asking\n");
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
	expect_story("[  2253] d0.s0 group_create\n"
		     "[  5533] w0 done 1520-0\n"
		     "[  5534] d0.s0 done s1 1520-0\n"
		     "[  5543] w0 < ok 1520-0 for=done outcome=done\n");
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
	expect_story("[  2020] d1 is gone\n"
		     "[  2020] d1 starts\n"
		     "[  2024] d1 topology standalone masters=1\n"
		     "[  2024] d1 shard=0 redis=10.0.0.1:6379 started\n"
		     "[  2026] d1.s0 group_create\n"
		     "[  2036] d1.s0 lock s1 1520-0\n"
		     "[  2044] d1.s0 lock_swap s1 1520-0\n"
		     "[  4505] d0 ends with 78: another process with our node id is running\n"
		     "[  4505] d0 is gone\n");
	cr_assert(!W.daemons[0].is_alive);
	cr_assert(W.daemons[1].is_alive);
}

Test(story, what_a_go_consumer_has_claimed_meanwhile_is_left_to_it, .init = story_up, .fini = story_down)
{
	story_worker(&W.daemons[0], 1, 60000);
	world_add(&W, 0, "s1");
	story_for(500);
	server_pause(&W, &W.servers[0], true);
	story_for(20000);
	story_clear();
	struct entry_id id = {1700000001520, 0};
	cr_assert(model_redis_claim(W.servers[0].model, &W.names[0], id, "redis-consumer-go", W.now));
	server_pause(&W, &W.servers[0], false);
	story_for(3000);
	cr_assert_eq(model_redis_n_pending(W.servers[0].model, &W.names[0]), 1, "robbed");
	cr_assert_str_eq(model_redis_pending(W.servers[0].model, &W.names[0], 0, W.now).consumer, "redis-consumer-go");
	cr_assert_eq(model_redis_n_entries(W.servers[0].model, &W.names[0]), 1);
	expect_story("[ 22020] redis 0 goes on\n"
		     "[ 22161] d0.s0 requeue s1 1520-0 retry=0\n");
}
