/* mono - times. Inside the program a time is monotonic milliseconds; wall time is for display and for Redis ids only.
 * Any thread. core/ never calls these: it gets `now` with each turn. */
#pragma once
#include <stdint.h>

typedef int64_t mono_ms;

#define MONO_NEVER INT64_MAX

mono_ms mono_now(void);     /* CLOCK_MONOTONIC */
int64_t mono_now_us(void);  /* the same in microseconds, for the service manager */
int64_t mono_wall_ms(void); /* CLOCK_REALTIME, Unix ms */

static inline mono_ms mono_min(mono_ms a, mono_ms b)
{
	return a < b ? a : b;
}

static inline mono_ms mono_max(mono_ms a, mono_ms b)
{
	return a > b ? a : b;
}
