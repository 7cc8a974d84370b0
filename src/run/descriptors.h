/* run/descriptors - how many descriptors this process has, and may have. Any thread.
 * Failure: /proc cannot be read: 0; there is no descriptor left to read it with: as many as there may be. */
#pragma once
#include <stdint.h>

enum { DESCRIPTORS_KEPT = 64 }; /* from workers, for Redis and operators */

struct descriptors {
	uint64_t n, most; /* open; RLIMIT_NOFILE */
};

struct descriptors descriptors_now(void);
