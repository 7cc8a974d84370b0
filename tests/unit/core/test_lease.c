#include "shard_story.h"

static const char ME[] = "redis-consumer-me/20";

static void acquire(uint64_t handle, mono_ms adopt, bool startup)
{
	char name[32];
	int n = snprintf(name, sizeof name, "s%llu", (unsigned long long)handle);
	story_msg_in((struct msg){.kind = MSG_LEASE_ACQUIRE,
		.handle = handle,
		.svc = 1,
		.slot = 9,
		.id = ID7,
		.ms = adopt,
		.flag = startup,
		.stream = text_new(name, (size_t)n)});
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
