#include "base/mono.h"

#include <criterion/criterion.h>
#include <time.h>
#include <unistd.h>

static void up(void)
{
	alarm(20);
}

Test(mono, counts_milliseconds_forward, .init = up)
{
	struct timespec ts;
	clock_gettime(CLOCK_MONOTONIC, &ts);
	mono_ms before = (mono_ms)ts.tv_sec * 1000;
	mono_ms a = mono_now();
	mono_ms b = mono_now();
	cr_assert(before <= a && a <= b && b < before + 20000);
}

Test(mono, wall_is_unix_time, .init = up)
{
	int64_t s = (int64_t)time(NULL);
	int64_t ms = mono_wall_ms();
	cr_assert(ms >= (s - 1) * 1000 && ms < (s + 20) * 1000);
}

Test(mono, min_and_max, .init = up)
{
	cr_assert_eq(mono_min(5, MONO_NEVER), 5);
	cr_assert_eq(mono_max(5, 7), 7);
}
