/* hist - latency histogram with fixed buckets in seconds, for Prometheus. Not thread-safe; copied by value in
 * snapshots. */
#pragma once
#include <stdint.h>

enum { HIST_BUCKETS = 16 };
extern const double hist_bounds_s[HIST_BUCKETS]; /* 0.0005 … 60, rising; the last bucket +Inf is `n` */

struct hist {
	uint64_t bucket[HIST_BUCKETS]; /* not cumulative */
	uint64_t n;
	double sum_s;
};

/* Not a number or below 0 counts as 0: a clock said so. */
void hist_add(struct hist *h, double seconds);
/* Adds all of from. */
void hist_merge(struct hist *into, const struct hist *from);
