/* heap - intrusive binary min-heap of deadlines. A node is in one heap at most.
 * Not thread-safe. The heap owns its array, not the nodes. */
#pragma once
#include "base/mono.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct heap_node {
	mono_ms at;
	uint32_t pos; /* 1-based; 0 = in no heap */
};

struct heap {
	struct heap_node **nodes;
	uint32_t n, cap;
};

#define HEAP_OF(type, worker, node) ((type *)((char *)(node)-offsetof(type, worker)))

/* Empty. */
void heap_init(struct heap *h);
/* Frees its own memory; nodes belong to whoever embeds them. */
void heap_fini(struct heap *h);
/* Sets node's deadline and places it; MONO_NEVER takes it out. */
void heap_set(struct heap *h, struct heap_node *node, mono_ms at);
void heap_remove(struct heap *h, struct heap_node *node); /* not in the heap: nothing */
static inline struct heap_node *heap_top(const struct heap *h)
{
	return h->n ? h->nodes[0] : NULL;
}
static inline mono_ms heap_deadline(const struct heap *h)
{
	/* NOLINTNEXTLINE(clang-analyzer-core.NullDereference): the first n of nodes are there */
	return h->n ? h->nodes[0]->at : MONO_NEVER;
}
