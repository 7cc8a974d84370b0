/* rng - small seeded generator (jitter, simulation) and kernel randomness (identifiers).
 * A struct rng belongs to one thread. */
#pragma once
#include <stddef.h>
#include <stdint.h>

struct rng {
	uint64_t s[2];
};

/* The same seed gives the same numbers. */
void rng_seed(struct rng *r, uint64_t seed);
/* 64 random bits. Not for secrets: rng_secure. */
uint64_t rng_next(struct rng *r);
/* Uniform in [0, n), n > 0. */
uint64_t rng_below(struct rng *r, uint64_t n);
/* value ± pct %, never below 0. */
int64_t rng_jitter(struct rng *r, int64_t value, unsigned pct);
/* From the kernel; ends the process when there is none. */
void rng_secure(void *out, size_t len);
