#include "base/heap.h"
#include "base/rng.h"

#include <criterion/criterion.h>
#include <unistd.h>

static struct heap h;

static void up(void)
{
	alarm(20);
	heap_init(&h);
}

static void down(void)
{
	heap_fini(&h);
}

static void check(void)
{
	for (uint32_t i = 0; i < h.n; i++) {
		cr_assert_eq(h.slots[i].node->pos, i + 1);
		cr_assert(heap_deadline(&h) <= h.slots[i].at);
		if (i)
			cr_assert(h.slots[(i - 1) / 4].at <= h.slots[i].at);
	}
}

Test(heap, empty_has_no_deadline, .init = up, .fini = down)
{
	cr_assert_null(heap_top(&h));
	cr_assert_eq(heap_deadline(&h), MONO_NEVER);
}

Test(heap, earliest_first, .init = up, .fini = down)
{
	struct heap_node n[3] = {0};
	heap_set(&h, &n[0], 30);
	heap_set(&h, &n[1], 10);
	heap_set(&h, &n[2], 20);
	cr_assert_eq(heap_top(&h), &n[1]);
	heap_remove(&h, &n[1]);
	cr_assert_eq(heap_deadline(&h), 20);
	cr_assert_eq(n[1].pos, 0);
}

Test(heap, set_again_moves_both_ways, .init = up, .fini = down)
{
	struct heap_node n[3] = {0};
	for (int i = 0; i < 3; i++)
		heap_set(&h, &n[i], 10 * (i + 1));
	heap_set(&h, &n[2], 5);
	cr_assert_eq(heap_top(&h), &n[2]);
	heap_set(&h, &n[2], 50);
	cr_assert_eq(heap_top(&h), &n[0]);
	cr_assert_eq(h.n, 3);
}

Test(heap, due_is_what_is_not_later_than_now, .init = up, .fini = down)
{
	struct heap_node n[2] = {0};
	cr_assert_null(heap_due(&h, 1000));
	heap_set(&h, &n[0], 30);
	heap_set(&h, &n[1], 10);
	cr_assert_null(heap_due(&h, 9));
	cr_assert_eq(heap_due(&h, 10), &n[1]);
	cr_assert_eq(heap_at(&h, &n[0]), 30);
}

Test(heap, never_takes_out, .init = up, .fini = down)
{
	struct heap_node n = {0};
	heap_set(&h, &n, 10);
	heap_set(&h, &n, MONO_NEVER);
	cr_assert_eq(h.n, 0);
	cr_assert_eq(heap_at(&h, &n), MONO_NEVER);
	heap_set(&h, &n, MONO_NEVER);
	heap_remove(&h, &n);
	cr_assert_eq(h.n, 0);
}

Test(heap, random_work_keeps_order_and_gives_memory_back, .init = up, .fini = down)
{
	enum { N = 2000 };
	static struct heap_node n[N];
	struct rng r;
	rng_seed(&r, 7);
	for (int i = 0; i < 20000; i++) {
		struct heap_node *node = &n[rng_below(&r, N)];
		if (rng_below(&r, 3))
			heap_set(&h, node, (mono_ms)rng_below(&r, 1000));
		else
			heap_remove(&h, node);
		if (i % 500 == 0)
			check();
	}
	check();
	mono_ms last = 0;
	while (h.n) {
		struct heap_node *top = heap_top(&h);
		cr_assert(last <= heap_deadline(&h));
		last = heap_deadline(&h);
		heap_remove(&h, top);
	}
	cr_assert(h.cap <= 32);
}
