#include "base/rng.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

enum { EXIT_OS = 71 };

static uint64_t splitmix(uint64_t *state)
{
	uint64_t z = (*state += 0x9E3779B97F4A7C15u);
	z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
	z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
	return z ^ (z >> 31);
}

static uint64_t rng_rotl(uint64_t x, unsigned k)
{
	return (x << k) | (x >> (64 - k));
}

void rng_seed(struct rng *r, uint64_t seed)
{
	r->s[0] = splitmix(&seed);
	r->s[1] = splitmix(&seed); /* two successive outputs are never both 0 */
}

uint64_t rng_next(struct rng *r) /* xoroshiro128++ */
{
	uint64_t a = r->s[0], b = r->s[1];
	uint64_t out = rng_rotl(a + b, 17) + a;
	b ^= a;
	r->s[0] = rng_rotl(a, 49) ^ b ^ (b << 21);
	r->s[1] = rng_rotl(b, 28);
	return out;
}

uint64_t rng_below(struct rng *r, uint64_t n)
{
	assert(n > 0);
	uint64_t reject_below = (0 - n) % n; /* 2^64 mod n: without it small numbers come more often */
	uint64_t x;
	do {
		x = rng_next(r);
	} while (x < reject_below);
	return x % n;
}

int64_t rng_jitter(struct rng *r, int64_t value, unsigned pct)
{
	if (value <= 0)
		return 0;
	int64_t spread;
	if (__builtin_mul_overflow(value, (int64_t)pct, &spread))
		spread = value / 100 > INT64_MAX / 2 / (int64_t)pct ? INT64_MAX / 2 : value / 100 * (int64_t)pct;
	else
		spread /= 100;
	if (spread > INT64_MAX / 2)
		spread = INT64_MAX / 2;
	int64_t delta = (int64_t)rng_below(r, (uint64_t)spread * 2 + 1) - spread;
	int64_t out;
	if (__builtin_add_overflow(value, delta, &out))
		return INT64_MAX;
	return out > 0 ? out : 0;
}

void rng_secure(void *out, size_t len)
{
	unsigned char *at = out;
	while (len) {
		ssize_t got = getrandom(at, len, 0);
		if (got < 0 && errno == EINTR)
			continue;
		if (got <= 0) {
			fprintf(stderr, "<3>no random numbers from the kernel: %s\n", strerror(errno));
			_Exit(EXIT_OS);
		}
		at += got;
		len -= (size_t)got;
	}
}
