/* heap - intrusive min-heap of deadlines. A node is in one heap at most.
 * Not thread-safe. The heap owns its array, not the nodes. Deadlines lie in the array, so that looking for the
 * soonest touches no node, and four children share a cache line: with 100,000 nodes, setting a deadline took a fifth
 * of what a renewal costs before (perf, make bench BENCH=b100k). */
#pragma once
#include "base/mono.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct heap_node {
	uint32_t pos; /* 1-based; 0 = in no heap */
};

struct heap_slot {
	mono_ms at;
	struct heap_node *node;
};

struct heap {
	struct heap_slot *slots;
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
/* The one with the soonest deadline; NULL: there is none. */
static inline struct heap_node *heap_top(const struct heap *h)
{
	return h->n ? h->slots[0].node : NULL;
}
static inline mono_ms heap_deadline(const struct heap *h)
{
	/* NOLINTNEXTLINE(clang-analyzer-core.NullDereference): the first n of slots are there */
	return h->n ? h->slots[0].at : MONO_NEVER;
}
/* The one with the soonest deadline, when that is not later than now; else NULL. */
static inline struct heap_node *heap_due(const struct heap *h, mono_ms now)
{
	return heap_deadline(h) <= now ? heap_top(h) : NULL;
}
/* Its deadline; MONO_NEVER: in no heap. */
static inline mono_ms heap_at(const struct heap *h, const struct heap_node *node)
{
	return node->pos ? h->slots[node->pos - 1].at : MONO_NEVER;
}
