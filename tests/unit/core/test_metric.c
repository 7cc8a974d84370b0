#include "core/metric.h"

#include <criterion/criterion.h>

Test(metric, the_age_of_an_entry_by_two_clocks)
{
	struct hist h = {.n = 0};
	metric_add_age(&h, 5000, 3000);
	cr_assert_eq(h.n, 1);
	cr_assert_float_eq(h.sum_s, 2, 1e-9);
	metric_add_age(&h, 5000, 5000);
	metric_add_age(&h, 5000, 5999); /* our clock is behind */
	cr_assert_eq(h.n, 3);
	cr_assert_float_eq(h.sum_s, 2, 1e-9);
	metric_add_age(&h, 5000, 6000);
	metric_add_age(&h, 5000, UINT64_MAX); /* no time at all */
	cr_assert_eq(h.n, 3);
}
