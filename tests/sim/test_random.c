/* test_random - many seeds: whatever goes wrong, nothing is lost, no stream has two told owners, and once it is over
 * everything ends. SIM_SEED=n runs one seed and tells all of it; SIM_SEEDS=n runs that many, SIM_FROM=n from that one on. */
#include "sim/world_run.h"
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>

#ifdef __SANITIZE_ADDRESS__
enum { SEEDS = 2000 };
#else
enum { SEEDS = 20000 };
#endif

static uint64_t number(const char *name, uint64_t fallback)
{
	const char *s = getenv(name);
	return s ? strtoull(s, NULL, 10) : fallback;
}

static void many(uint64_t first, uint64_t n, enum world_size size)
{
	run_watch(60); /* of the clock on the wall: a busy machine is slow */
	for (uint64_t seed = first; seed < first + n; seed++) {
		if (run_seed(seed, size, BUG_NONE, false))
			continue;
		fprintf(stderr, "SIM_SEED=%llu SIM_LONG=%d fails:\n", (unsigned long long)seed, size == WORLD_LONG);
		run_seed(seed, size, BUG_NONE, true);
		cr_assert_fail("seed %llu", (unsigned long long)seed);
	}
}

Test(random, short_runs_with_many_seeds, .timeout = 280)
{
	if (getenv("SIM_SEED")) {
		run_watch(60);
		cr_assert(run_seed(
			number("SIM_SEED", 1), number("SIM_LONG", 0) ? WORLD_LONG : WORLD_SHORT, BUG_NONE, true));
	} else {
		many(number("SIM_FROM", 1), number("SIM_SEEDS", SEEDS), WORLD_SHORT);
	}
}

Test(random, a_few_long_runs, .timeout = 280)
{
	if (!getenv("SIM_SEED"))
		many(1000000 + number("SIM_FROM", 1), number("SIM_SEEDS", SEEDS) / 50, WORLD_LONG);
}
