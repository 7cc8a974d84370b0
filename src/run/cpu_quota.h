/* cpu_quota - how much of the machine's cores the control groups leave to this process: a container's limit.
 * Reads files each time; any thread. */
#pragma once
#include <stdint.h>

/* CPU time that it may use, in thousandths of a core; 0 = no limit, or none that can be read. Reads small files of
 * /proc and /sys below root ("" but in tests); the smallest limit on the way up counts. Versions 1 and 2. */
int64_t cpu_quota_milli(const char *root);
