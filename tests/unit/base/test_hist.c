#include "base/hist.h"

#include <criterion/criterion.h>
#include <math.h>
#include <unistd.h>

static void up(void)
{
	alarm(20);
}

Test(hist, bounds_rise, .init = up)
{
	for (int i = 1; i < HIST_BUCKETS; i++)
		cr_assert(hist_bounds_s[i - 1] < hist_bounds_s[i]);
	cr_assert_eq(hist_bounds_s[HIST_BUCKETS - 1], 60);
}

Test(hist, a_bound_belongs_to_its_bucket, .init = up)
{
	struct hist h = {0};
	for (int i = 0; i < HIST_BUCKETS; i++) {
		hist_add(&h, hist_bounds_s[i]);
		cr_assert_eq(h.bucket[i], 1);
	}
	hist_add(&h, 0.0006);
	cr_assert_eq(h.bucket[1], 2);
}

Test(hist, beyond_the_last_bound_only_n_counts, .init = up)
{
	struct hist h = {0};
	hist_add(&h, 61);
	cr_assert_eq(h.n, 1);
	cr_assert_eq(h.sum_s, 61);
	for (int i = 0; i < HIST_BUCKETS; i++)
		cr_assert_eq(h.bucket[i], 0);
}

Test(hist, nonsense_counts_as_zero, .init = up)
{
	struct hist h = {0};
	hist_add(&h, -1);
	hist_add(&h, (double)NAN);
	cr_assert_eq(h.bucket[0], 2);
	cr_assert_eq(h.sum_s, 0);
}

Test(hist, merge_adds, .init = up)
{
	struct hist a = {0}, b = {0};
	hist_add(&a, 1);
	hist_add(&b, 1);
	hist_add(&b, 100);
	hist_merge(&a, &b);
	cr_assert_eq(a.n, 3);
	cr_assert_eq(a.sum_s, 102);
	cr_assert_eq(a.bucket[10], 2);
}
