/* test_story_life - an entry's way through one daemon, line by line. */
#include "sim/story.h"

Test(story, starts_and_welcomes, .init = story_up, .fini = story_down)
{
	story_worker(&W.daemons[0], 2, 500);
	expect_story("[  1000] d0 starts\n"
		     "[  1004] d0 topology standalone masters=1\n"
		     "[  1004] d0 shard=0 redis=10.0.0.1:6379 started\n"
		     "[  1006] d0.s0 group_create\n"
		     "[  1500] w0 hello credits=2 resume=0\n"
		     "[  1500] d0 worker=w pid=100 connected credits=2 resumed=0 gone=0\n"
		     "[  1500] w0 < welcome resumed=0 gone=0 until=11000\n");
}

Test(story, an_entry_is_locked_taken_worked_on_and_done, .init = story_up, .fini = story_down)
{
	story_worker(&W.daemons[0], 2, 500);
	story_clear();
	world_add(&W, 0, "s1");
	story_for(1000);
	expect_story("[  1520] add orders s1 1520-0\n"
		     "[  1524] d0.s0 lock s1 1520-0\n"
		     "[  1524] d0.s0 take s1 1520-0\n"
		     "[  1533] w0 < assign s1 1520-0 retry=0 until=11024\n"
		     "[  2033] w0 done 1520-0\n"
		     "[  2034] d0.s0 done s1 1520-0\n"
		     "[  2043] w0 < ok 1520-0 for=done outcome=done\n");
	cr_assert(world_settled(&W));
}

Test(story, a_failure_counts_and_the_fourth_is_a_dead_letter, .init = story_up, .fini = story_down)
{
	struct sim_worker *k = story_worker(&W.daemons[0], 1, 100);
	k->fail_pct = 100;
	W.rules[0].max_retries = 3;
	story_clear();
	world_add(&W, 0, "s1");
	story_for(2000);
	expect_story("[  1520] add orders s1 1520-0\n"
		     "[  1524] d0.s0 lock s1 1520-0\n"
		     "[  1524] d0.s0 take s1 1520-0\n"
		     "[  1533] w0 < assign s1 1520-0 retry=0 until=11024\n"
		     "[  1633] w0 fail 1520-0\n"
		     "[  1634] d0.s0 requeue s1 1520-0 retry=1\n"
		     "[  1642] d0.s0 unlock s1 1520-0\n"
		     "[  1643] w0 < ok 1520-0 for=fail outcome=requeued\n"
		     "[  1644] d0.s0 lock s1 1640-0\n"
		     "[  1644] d0.s0 take s1 1640-0\n"
		     "[  1649] w0 < assign s1 1640-0 retry=1 until=11144\n"
		     "[  1749] w0 fail 1640-0\n"
		     "[  1750] d0.s0 requeue s1 1640-0 retry=2\n"
		     "[  1754] d0.s0 unlock s1 1640-0\n"
		     "[  1755] w0 < ok 1640-0 for=fail outcome=requeued\n"
		     "[  1756] d0.s0 lock s1 1752-0\n"
		     "[  1756] d0.s0 take s1 1752-0\n"
		     "[  1761] w0 < assign s1 1752-0 retry=2 until=11256\n"
		     "[  1861] w0 fail 1752-0\n"
		     "[  1862] d0.s0 requeue s1 1752-0 retry=3\n"
		     "[  1866] d0.s0 unlock s1 1752-0\n"
		     "[  1867] w0 < ok 1752-0 for=fail outcome=requeued\n"
		     "[  1868] d0.s0 lock s1 1864-0\n"
		     "[  1868] d0.s0 take s1 1864-0\n"
		     "[  1873] w0 < assign s1 1864-0 retry=3 until=11368\n"
		     "[  1973] w0 fail 1864-0\n"
		     "[  1974] d0.s0 dead s1 1864-0\n"
		     "[  1982] d0.s0 unlock s1 1864-0\n"
		     "[  1983] d0 service=orders stream=s1 id=1700000001864-0 dead letter reason=max_retries_exceeded "
		     "retry=3\n"
		     "[  1983] w0 < ok 1864-0 for=fail outcome=dead\n");
	cr_assert(world_settled(&W));
}

Test(story, a_release_is_not_counted, .init = story_up, .fini = story_down)
{
	struct sim_worker *k = story_worker(&W.daemons[0], 1, 100);
	k->release_pct = 100;
	story_clear();
	world_add(&W, 0, "s1");
	story_for(150);
	k->release_pct = 0;
	story_for(1000);
	expect_story("[  1520] add orders s1 1520-0\n"
		     "[  1524] d0.s0 lock s1 1520-0\n"
		     "[  1524] d0.s0 take s1 1520-0\n"
		     "[  1533] w0 < assign s1 1520-0 retry=0 until=11024\n"
		     "[  1633] w0 release 1520-0\n"
		     "[  1634] d0.s0 requeue s1 1520-0 retry=0\n"
		     "[  1642] d0.s0 unlock s1 1520-0\n"
		     "[  1643] w0 < ok 1520-0 for=release outcome=requeued\n"
		     "[  1644] d0.s0 lock s1 1640-0\n"
		     "[  1644] d0.s0 take s1 1640-0\n"
		     "[  1649] w0 < assign s1 1640-0 retry=0 until=11144\n"
		     "[  1749] w0 release 1640-0\n"
		     "[  1750] d0.s0 requeue s1 1640-0 retry=0\n"
		     "[  1754] d0.s0 unlock s1 1640-0\n"
		     "[  1755] w0 < ok 1640-0 for=release outcome=requeued\n"
		     "[  1756] d0.s0 lock s1 1752-0\n"
		     "[  1756] d0.s0 take s1 1752-0\n"
		     "[  1761] w0 < assign s1 1752-0 retry=0 until=11256\n"
		     "[  1861] w0 done 1752-0\n"
		     "[  1862] d0.s0 done s1 1752-0\n"
		     "[  1871] w0 < ok 1752-0 for=done outcome=done\n");
	cr_assert(world_settled(&W));
}

Test(story, a_second_entry_of_a_running_stream_waits_its_turn, .init = story_up, .fini = story_down)
{
	story_worker(&W.daemons[0], 4, 300);
	story_clear();
	world_add(&W, 0, "s1");
	world_add(&W, 0, "s1");
	story_for(1200);
	expect_story("[  1520] add orders s1 1520-0\n"
		     "[  1520] add orders s1 1520-1\n"
		     "[  1524] d0.s0 lock s1 1520-0\n"
		     "[  1524] d0.s0 take s1 1520-0\n"
		     "[  1533] w0 < assign s1 1520-0 retry=0 until=11024\n"
		     "[  1534] d0.s0 take s1 1520-1\n"
		     "[  1833] w0 done 1520-0\n"
		     "[  1834] d0.s0 done s1 1520-0\n"
		     "[  1843] w0 < ok 1520-0 for=done outcome=done\n"
		     "[  1850] d0.s0 lock s1 1520-1\n"
		     "[  1850] d0.s0 take s1 1520-1\n"
		     "[  1855] w0 < assign s1 1520-1 retry=0 until=11350\n"
		     "[  2155] w0 done 1520-1\n"
		     "[  2156] d0.s0 done s1 1520-1\n"
		     "[  2161] w0 < ok 1520-1 for=done outcome=done\n");
	cr_assert(world_settled(&W));
}

Test(story, a_worker_dies_and_its_stream_goes_back_at_once, .init = story_up, .fini = story_down)
{
	struct sim_worker *k = story_worker(&W.daemons[0], 1, 5000);
	story_worker(&W.daemons[0], 0, 300);
	story_clear();
	world_add(&W, 0, "s1");
	story_for(1000);
	worker_set_credits(&W, &W.workers[1], 1);
	worker_kill(&W, k);
	story_for(1000);
	expect_story("[  1540] add orders s1 1540-0\n"
		     "[  1544] d0.s0 lock s1 1540-0\n"
		     "[  1544] d0.s0 take s1 1540-0\n"
		     "[  1553] w0 < assign s1 1540-0 retry=0 until=11044\n"
		     "[  2540] w1 credits\n"
		     "[  2540] w0 dies\n"
		     "[  2542] d0 worker=w pid=100 died: its streams go back\n"
		     "[  2543] d0.s0 requeue s1 1540-0 retry=1\n"
		     "[  2551] d0.s0 unlock s1 1540-0\n"
		     "[  2553] d0.s0 lock s1 2549-0\n"
		     "[  2553] d0.s0 take s1 2549-0\n"
		     "[  2558] w1 < assign s1 2549-0 retry=1 until=12053\n"
		     "[  2858] w1 done 2549-0\n"
		     "[  2859] d0.s0 done s1 2549-0\n"
		     "[  2868] w1 < ok 2549-0 for=done outcome=done\n");
	cr_assert(world_settled(&W));
}

Test(story, a_worker_comes_back_and_keeps_its_stream, .init = story_up, .fini = story_down)
{
	struct sim_worker *k = story_worker(&W.daemons[0], 1, 2000);
	story_clear();
	world_add(&W, 0, "s1");
	story_for(500);
	worker_disconnect(&W, k);
	story_for(3000);
	expect_story("[  1520] add orders s1 1520-0\n"
		     "[  1524] d0.s0 lock s1 1520-0\n"
		     "[  1524] d0.s0 take s1 1520-0\n"
		     "[  1533] w0 < assign s1 1520-0 retry=0 until=11024\n"
		     "[  2020] w0 loses its connection\n"
		     "[  2100] w0 hello credits=1 resume=1\n"
		     "[  2100] d0 worker=w pid=100 connected credits=1 resumed=1 gone=0\n"
		     "[  2100] w0 < welcome resumed=1 gone=0 until=11024\n"
		     "[  3533] w0 done 1520-0\n"
		     "[  3534] d0.s0 done s1 1520-0\n"
		     "[  3543] w0 < ok 1520-0 for=done outcome=done\n");
	cr_assert(world_settled(&W));
}

Test(story, a_worker_says_bye_and_nothing_is_counted, .init = story_up, .fini = story_down)
{
	struct sim_worker *k = story_worker(&W.daemons[0], 1, 5000);
	story_clear();
	world_add(&W, 0, "s1");
	story_for(500);
	worker_bye(&W, k);
	story_for(500);
	expect_story("[  1520] add orders s1 1520-0\n"
		     "[  1524] d0.s0 lock s1 1520-0\n"
		     "[  1524] d0.s0 take s1 1520-0\n"
		     "[  1533] w0 < assign s1 1520-0 retry=0 until=11024\n"
		     "[  2020] w0 bye\n"
		     "[  2021] d0.s0 requeue s1 1520-0 retry=0\n"
		     "[  2029] d0.s0 unlock s1 1520-0\n");
}
