#include "base/rng.h"

#include <criterion/criterion.h>
#include <string.h>
#include <unistd.h>

static struct rng r;

static void up(void)
{
	alarm(20);
	rng_seed(&r, 42);
}

Test(rng, same_seed_same_numbers, .init = up)
{
	struct rng same, other;
	rng_seed(&same, 42);
	rng_seed(&other, 43);
	int n_equal = 0;
	for (int i = 0; i < 100; i++) {
		uint64_t x = rng_next(&r);
		cr_assert_eq(x, rng_next(&same));
		n_equal += x == rng_next(&other);
	}
	cr_assert_eq(n_equal, 0);
}

Test(rng, below_reaches_every_value_evenly, .init = up)
{
	unsigned seen[7] = {0};
	for (int i = 0; i < 70000; i++)
		seen[rng_below(&r, 7)]++;
	for (int i = 0; i < 7; i++)
		cr_assert(seen[i] > 9500 && seen[i] < 10500, "%d came %u times", i, seen[i]);
	cr_assert_eq(rng_below(&r, 1), 0);
}

Test(rng, below_is_not_biased_for_large_n, .init = up)
{
	uint64_t n = UINT64_MAX / 3 * 2; /* a plain % would put two of three numbers into the lower half */
	int n_low = 0;
	for (int i = 0; i < 10000; i++)
		n_low += rng_below(&r, n) < n / 2;
	cr_assert(n_low > 4700 && n_low < 5300, "%d", n_low);
}

Test(rng, jitter_stays_in_range_and_reaches_its_ends, .init = up)
{
	int64_t low = INT64_MAX, high = 0;
	for (int i = 0; i < 20000; i++) {
		int64_t v = rng_jitter(&r, 1000, 10);
		low = v < low ? v : low;
		high = v > high ? v : high;
	}
	cr_assert_eq(low, 900);
	cr_assert_eq(high, 1100);
}

Test(rng, jitter_edges, .init = up)
{
	cr_assert_eq(rng_jitter(&r, 1000, 0), 1000);
	cr_assert_eq(rng_jitter(&r, 0, 50), 0);
	cr_assert_eq(rng_jitter(&r, -5, 50), 0);
	for (int i = 0; i < 1000; i++) {
		cr_assert(rng_jitter(&r, 10, 500) >= 0);
		cr_assert(rng_jitter(&r, INT64_MAX, 90) >= 0);
		cr_assert(rng_jitter(&r, INT64_MAX / 2, 400) >= 0);
	}
}

Test(rng, secure_fills_everything, .init = up)
{
	unsigned char a[600] = {0}, b[600] = {0};
	rng_secure(a, sizeof(a));
	rng_secure(b, sizeof(b));
	cr_assert(memcmp(a, b, sizeof(a)) != 0);
	cr_assert(memcmp(a + 500, b + 500, 100) != 0);
}
