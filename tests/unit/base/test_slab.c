#include "base/slab.h"
#include "base/rng.h"

#include <criterion/criterion.h>
#include <string.h>
#include <unistd.h>

enum { N = 5 * SLAB_CHUNK };

struct record {
	uint64_t value;
	char more[33];
};

static struct slab s;
static uint32_t index_of[N];

static void up(void)
{
	alarm(20);
	slab_init(&s, sizeof(struct record));
}

static void down(void)
{
	slab_fini(&s);
}

static uint32_t n_chunks(void)
{
	uint32_t n = 0;
	for (uint32_t i = 0; i < s.n_chunks; i++)
		n += s.chunks[i] != NULL;
	return n;
}

static void take(uint32_t k)
{
	struct record *r = slab_get(&s, &index_of[k]);
	cr_assert_eq(r->value, 0);
	r->value = k + 1;
	memset(r->more, 'x', sizeof r->more);
}

Test(slab, records_are_zeroed_aligned_and_keep_their_place, .init = up, .fini = down)
{
	for (uint32_t k = 0; k < N; k++)
		take(k);
	cr_assert_eq(s.n_items, N);
	for (uint32_t k = 0; k < N; k++) {
		struct record *r = slab_at(&s, index_of[k]);
		cr_assert_eq(r->value, k + 1);
		cr_assert_eq((uintptr_t)r % _Alignof(struct record), 0);
	}
	cr_assert_eq(n_chunks(), 5);
	cr_assert_eq(slab_end(&s), N);
}

Test(slab, the_lowest_free_record_comes_first, .init = up, .fini = down)
{
	for (uint32_t k = 0; k < N; k++)
		take(k);
	slab_put(&s, index_of[4 * SLAB_CHUNK]);
	slab_put(&s, index_of[SLAB_CHUNK]);
	uint32_t i;
	slab_get(&s, &i);
	cr_assert_eq(i, SLAB_CHUNK);
	slab_get(&s, &i);
	cr_assert_eq(i, 4 * SLAB_CHUNK);
}

Test(slab, chunks_go_when_they_are_empty, .init = up, .fini = down)
{
	for (uint32_t k = 0; k < N; k++)
		take(k);
	for (uint32_t k = SLAB_CHUNK; k < N; k++)
		slab_put(&s, index_of[k]);
	cr_assert_eq(n_chunks(), 1);
	cr_assert_not_null(s.spare);
	cr_assert_null(slab_at(&s, index_of[N - 1]));
	cr_assert_eq(((struct record *)slab_at(&s, index_of[7]))->value, 8);
	cr_assert_null(slab_at(&s, 1000 * SLAB_CHUNK));
}

Test(slab, one_record_back_and_forth_keeps_its_memory, .init = up, .fini = down)
{
	uint32_t i;
	void *first = slab_get(&s, &i);
	for (int k = 0; k < 1000; k++) {
		slab_put(&s, i);
		cr_assert_eq(slab_get(&s, &i), first);
	}
}

Test(slab, any_order, .init = up, .fini = down)
{
	struct rng rng;
	rng_seed(&rng, 7);
	bool used[N] = {false};
	uint32_t n = 0;
	for (int step = 0; step < 200000; step++) {
		uint32_t k = (uint32_t)rng_below(&rng, N);
		if (used[k])
			slab_put(&s, index_of[k]);
		else
			take(k);
		n = used[k] ? n - 1 : n + 1;
		used[k] = !used[k];
		cr_assert_eq(s.n_items, n);
	}
	for (uint32_t k = 0; k < N; k++)
		if (used[k])
			cr_assert_eq(((struct record *)slab_at(&s, index_of[k]))->value, k + 1);
}
