#include "base/mono.h"

#include <time.h>

enum { NS_PER_US = 1000, NS_PER_MS = 1000000, WALL_FOR_NS = 100 * NS_PER_MS };

static int64_t read_ns(clockid_t clock)
{
	struct timespec ts;
	clock_gettime(clock, &ts); /* cannot fail for these two clocks */
	return (int64_t)ts.tv_sec * 1000 * NS_PER_MS + ts.tv_nsec;
}

static int64_t read_ms(clockid_t clock)
{
	return read_ns(clock) / NS_PER_MS;
}

int64_t mono_now_us(void)
{
	return read_ns(CLOCK_MONOTONIC) / NS_PER_US;
}

mono_ms mono_now(void)
{
	return read_ms(CLOCK_MONOTONIC);
}

int64_t mono_wall_ms(void)
{
	return read_ms(CLOCK_REALTIME);
}

void mono_read(struct mono_wall *w, mono_ms *now, int64_t *wall_ms)
{
	enum { TRIES = 3 };
	int64_t ns = read_ns(CLOCK_MONOTONIC), before = 0;
	if (ns >= w->until_ns) {
		for (int i = 0; i < TRIES && ns - before > NS_PER_MS; i++) { /* stopped between the two: once more */
			before = ns;
			w->ahead_ns = read_ns(CLOCK_REALTIME) - before;
			ns = read_ns(CLOCK_MONOTONIC);
		}
		w->until_ns = ns + WALL_FOR_NS;
	}
	*now = ns / NS_PER_MS;
	*wall_ms = (ns + w->ahead_ns) / NS_PER_MS;
}
