#include "base/mono.h"

#include <time.h>

static int64_t read_ms(clockid_t clock)
{
	struct timespec ts;
	clock_gettime(clock, &ts); /* cannot fail for these two clocks */
	return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

int64_t mono_now_us(void)
{
	struct timespec ts;
	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (int64_t)ts.tv_sec * 1000000 + ts.tv_nsec / 1000;
}

mono_ms mono_now(void)
{
	return read_ms(CLOCK_MONOTONIC);
}

int64_t mono_wall_ms(void)
{
	return read_ms(CLOCK_REALTIME);
}
