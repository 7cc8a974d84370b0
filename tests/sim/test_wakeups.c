/* test_wakeups - E4 over an hour: producers add to a data stream, pause, and add to the load-balancer stream; leases end
 * when their stream is empty; nothing waits for longer than a poll and a second. */
#include "sim/world.h"
#include <criterion/criterion.h>
#include <stdio.h>
#include <unistd.h>

enum { PRODUCERS = 4, STREAMS = 3, HOUR_MS = 3600000, POLL_MAX_MS = 5000 };

struct producer {
	mono_ms at;
	bool has_added; /* to the data stream only, so far */
	char stream[24];
};

static struct world W;

static void begin(enum world_tracking tracking)
{
	struct world_opts o = {.seed = 7,
		.n_daemons = 2,
		.n_masters = 3,
		.is_cluster = true,
		.n_services = 1,
		.serialize = true,
		.coalesce = true,
		.ttl_ms = 10000,
		.lag_min_ms = 1,
		.lag_max_ms = 4,
		.slow_per_mille = 10,
		.slow_max_ms = 100,
		.max_retries = 3,
		.tracking = tracking,
		.entries = {.is_on = true,
			.batch = 5,
			.window = 2,
			.max_retries = 3,
			.batch_bytes = 4096,
			.entry_bytes = 4096,
			.idle_release_ms = 200,
			.position_ttl_ms = 604800000,
			.poll_max_ms = POLL_MAX_MS,
			.retry_initial_ms = 1000,
			.retry_max_ms = 1000,
			.retry_factor = 2,
			.start = "0"}};
	world_init(&W, &o);
	for (unsigned i = 0; i < 4; i++)
		world_worker(&W, &W.daemons[i % 2], 4)->work_max = 40;
}

/* Pauses around idle_release, and long ones. */
static mono_ms pause_of(struct rng *r)
{
	return world_between(r, 0, rng_below(r, 3) ? 600 : 8000);
}

static void produce(struct producer *p, struct rng *r)
{
	if (p->at > W.now)
		return;
	if (p->has_added) {
		world_wake(&W, 0, p->stream);
		p->has_added = false;
		p->at = W.now + pause_of(r);
		return;
	}
	snprintf(p->stream, sizeof p->stream, "k%u", (unsigned)rng_below(r, STREAMS));
	p->has_added = feed_produce(&W, 0, p->stream);
	p->at = W.now + world_between(r, 0, 300);
}

/* Until the world is full, then until all of it has ended. The longest wait. */
static mono_ms round_of(struct producer *producers, struct rng *r)
{
	mono_ms most = 0, limit = W.now + 120000;
	while (!W.failed && W.n_items + PRODUCERS < WORLD_ITEMS && W.now < limit - 60000) {
		for (int i = 0; i < PRODUCERS; i++)
			if (W.n_items + PRODUCERS < WORLD_ITEMS || producers[i].has_added)
				produce(&producers[i], r);
		world_until(&W, W.now + 10);
		most = mono_max(most, feed_longest_wait(&W));
	}
	for (int i = 0; i < PRODUCERS; i++)
		if (producers[i].has_added) {
			world_wake(&W, 0, producers[i].stream);
			producers[i].has_added = false;
		}
	while (!W.failed && W.now < limit && !world_settled(&W))
		world_until(&W, W.now + 10);
	most = mono_max(most, feed_longest_wait(&W));
	cr_assert(!W.failed, "%s", W.why);
	cr_assert(feed_forget_ended(&W), "at %lld something waits for ever", (long long)W.now);
	return most;
}

static void an_hour(enum world_tracking tracking)
{
	alarm(120);
	struct producer producers[PRODUCERS] = {0};
	struct rng r;
	rng_seed(&r, 11);
	begin(tracking);
	mono_ms most = 0;
	uint64_t n = 0;
	while (W.now < HOUR_MS) {
		most = mono_max(most, round_of(producers, &r));
		n++;
		cr_assert_leq(most, POLL_MAX_MS + 1000, "an entry waited for %lld ms", (long long)most);
	}
	cr_log_info("%llu rounds, the longest wait was %lld ms\n", (unsigned long long)n, (long long)most);
	world_fini(&W);
}

Test(wakeups, with_pushes_now_and_then_lost)
{
	an_hour(WORLD_TRACKS);
}

Test(wakeups, without_pushes)
{
	an_hour(WORLD_NO_PUSHES);
}
