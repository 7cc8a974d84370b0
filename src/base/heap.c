#include "base/heap.h"

#include "base/mem.h"

enum { MIN_CAP = 16 };

void heap_init(struct heap *h)
{
	*h = (struct heap){0};
}

void heap_fini(struct heap *h)
{
	mem_free(h->nodes);
	*h = (struct heap){0};
}

static void heap_place(struct heap *h, struct heap_node *node, uint32_t i)
{
	h->nodes[i] = node;
	node->pos = i + 1;
}

static void sift_up(struct heap *h, struct heap_node *node, uint32_t i)
{
	while (i > 0 && node->at < h->nodes[(i - 1) / 2]->at) {
		heap_place(h, h->nodes[(i - 1) / 2], i);
		i = (i - 1) / 2;
	}
	heap_place(h, node, i);
}

static void sift_down(struct heap *h, struct heap_node *node, uint32_t i)
{
	for (;;) {
		uint32_t child = 2 * i + 1;
		if (child >= h->n)
			break;
		if (child + 1 < h->n && h->nodes[child + 1]->at < h->nodes[child]->at)
			child++;
		if (node->at <= h->nodes[child]->at)
			break;
		heap_place(h, h->nodes[child], i);
		i = child;
	}
	heap_place(h, node, i);
}

static void resize(struct heap *h, uint32_t cap)
{
	h->nodes = mem_grow(h->nodes, cap, sizeof(struct heap_node *));
	h->cap = cap;
}

static void reorder(struct heap *h, struct heap_node *node, uint32_t i)
{
	if (i > 0 && node->at < h->nodes[(i - 1) / 2]->at)
		sift_up(h, node, i);
	else
		sift_down(h, node, i);
}

void heap_set(struct heap *h, struct heap_node *node, mono_ms at)
{
	if (at == MONO_NEVER) {
		heap_remove(h, node);
		node->at = at;
		return;
	}
	node->at = at;
	if (node->pos) {
		reorder(h, node, node->pos - 1);
		return;
	}
	if (h->n == h->cap)
		resize(h, h->cap ? h->cap * 2 : MIN_CAP);
	h->n++;
	sift_up(h, node, h->n - 1);
}

void heap_remove(struct heap *h, struct heap_node *node)
{
	if (!node->pos)
		return;
	uint32_t i = node->pos - 1;
	struct heap_node *last = h->nodes[--h->n];
	if (last != node)
		reorder(h, last, i);
	node->pos = 0;
	if (h->cap > MIN_CAP && h->n < h->cap / 4)
		resize(h, h->cap / 2);
}
