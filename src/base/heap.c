#include "base/heap.h"

#include "base/mem.h"

enum { MIN_CAP = 16, WAYS = 4 /* children of a node */ };

void heap_init(struct heap *h)
{
	*h = (struct heap){0};
}

void heap_fini(struct heap *h)
{
	mem_free(h->slots);
	*h = (struct heap){0};
}

static void heap_place(struct heap *h, struct heap_slot s, uint32_t i)
{
	h->slots[i] = s;
	s.node->pos = i + 1;
}

static void sift_up(struct heap *h, struct heap_slot s, uint32_t i)
{
	while (i > 0 && s.at < h->slots[(i - 1) / WAYS].at) {
		heap_place(h, h->slots[(i - 1) / WAYS], i);
		i = (i - 1) / WAYS;
	}
	heap_place(h, s, i);
}

/* The soonest of i's children; n: there is none. */
static uint32_t soonest_child(const struct heap *h, uint32_t i)
{
	uint32_t best = WAYS * i + 1, end = best + WAYS < h->n ? best + WAYS : h->n;
	for (uint32_t child = best + 1; child < end; child++)
		if (h->slots[child].at < h->slots[best].at)
			best = child;
	return best < h->n ? best : h->n;
}

static void sift_down(struct heap *h, struct heap_slot s, uint32_t i)
{
	for (uint32_t child; (child = soonest_child(h, i)) < h->n && h->slots[child].at < s.at; i = child)
		heap_place(h, h->slots[child], i);
	heap_place(h, s, i);
}

static void resize(struct heap *h, uint32_t cap)
{
	h->slots = mem_grow(h->slots, cap, sizeof *h->slots);
	h->cap = cap;
}

static void reorder(struct heap *h, struct heap_slot s, uint32_t i)
{
	if (i > 0 && s.at < h->slots[(i - 1) / WAYS].at)
		sift_up(h, s, i);
	else
		sift_down(h, s, i);
}

void heap_set(struct heap *h, struct heap_node *node, mono_ms at)
{
	if (at == MONO_NEVER) {
		heap_remove(h, node);
		return;
	}
	struct heap_slot s = {.at = at, .node = node};
	if (node->pos) {
		if (h->slots[node->pos - 1].at != at)
			reorder(h, s, node->pos - 1);
		return;
	}
	if (h->n == h->cap)
		resize(h, h->cap ? h->cap * 2 : MIN_CAP);
	h->n++;
	sift_up(h, s, h->n - 1);
}

void heap_remove(struct heap *h, struct heap_node *node)
{
	if (!node->pos)
		return;
	uint32_t i = node->pos - 1;
	struct heap_slot last = h->slots[--h->n];
	if (last.node != node)
		reorder(h, last, i);
	node->pos = 0;
	if (h->cap > MIN_CAP && h->n < h->cap / 4)
		resize(h, h->cap / 2);
}
