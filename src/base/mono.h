/* mono - times. Inside the program a time is monotonic milliseconds; wall time is for display and for Redis ids only.
 * Any thread. core/ never calls these: it gets `now` with each turn. */
#pragma once
#include <stdint.h>

typedef int64_t mono_ms;

#define MONO_NEVER INT64_MAX

mono_ms mono_now(void);     /* CLOCK_MONOTONIC */
int64_t mono_now_us(void);  /* the same in microseconds, for the service manager */
int64_t mono_wall_ms(void); /* CLOCK_REALTIME, Unix ms */

/* How far the wall clock is ahead, as read a moment ago. Zeroed at first; one thread. */
struct mono_wall {
	int64_t ahead_ns, until_ns; /* until: of the monotonic clock */
};
/* Both times for one clock's reading: a step of the wall clock shows within 100 ms. */
void mono_read(struct mono_wall *w, mono_ms *now, int64_t *wall_ms);

static inline mono_ms mono_min(mono_ms a, mono_ms b)
{
	return a < b ? a : b;
}

static inline mono_ms mono_max(mono_ms a, mono_ms b)
{
	return a > b ? a : b;
}
