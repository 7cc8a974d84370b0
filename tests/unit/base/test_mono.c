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

Test(mono, one_reading_gives_both_times, .init = up)
{
	struct mono_wall w = {0};
	for (int i = 0; i < 1000; i++) {
		mono_ms least = mono_now(), now;
		int64_t least_wall = mono_wall_ms(), wall;
		mono_read(&w, &now, &wall);
		cr_assert(now >= least && now <= mono_now());
		cr_assert(wall >= least_wall - 1 && wall <= mono_wall_ms() + 1, "%lld", (long long)(wall - least_wall));
	}
}

Test(mono, a_step_of_the_wall_clock_shows_soon, .init = up)
{
	struct mono_wall w = {0};
	mono_ms now;
	int64_t wall;
	mono_read(&w, &now, &wall);
	w.ahead_ns += INT64_C(3600000000000); /* as if it had been set back an hour since */
	mono_read(&w, &now, &wall);
	usleep(110000);
	mono_read(&w, &now, &wall);
	cr_assert(wall - mono_wall_ms() <= 1 && mono_wall_ms() - wall < 10000);
}

Test(mono, min_and_max, .init = up)
{
	cr_assert_eq(mono_min(5, MONO_NEVER), 5);
	cr_assert_eq(mono_max(5, 7), 7);
}
