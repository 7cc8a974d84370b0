/* slab - records of one size in chunks, named by a small index. Not thread-safe. Records never move; a chunk whose last
 * record was freed is given back (one is kept as a spare), and the lowest free record is handed out first, so
 * that memory shrinks after a peak. Allocation never fails (mem_*). */
#pragma once
#include <stddef.h>
#include <stdint.h>

enum { SLAB_CHUNK = 256 }; /* records in a chunk */

struct slab_chunk;

struct slab {
	size_t item_bytes;
	struct slab_chunk **chunks; /* NULL: given back */
	struct slab_chunk *spare;
	uint32_t n_chunks, cap_chunks;
	uint32_t n_items;
	uint32_t first; /* no chunk below has room */
};

/* Of items of that size, aligned for anything; no memory yet. */
void slab_init(struct slab *s, size_t item_bytes);
void slab_fini(struct slab *s);                  /* what records own is the caller's */
void *slab_get(struct slab *s, uint32_t *index); /* a zeroed record */
void slab_put(struct slab *s, uint32_t index);   /* must be in use */
/* The record; what is left of it when it was put back, zeroes when it was never used, NULL when its chunk is gone. */
void *slab_at(const struct slab *s, uint32_t index);
static inline uint32_t slab_end(const struct slab *s) /* every index is below */
{
	return s->n_chunks * SLAB_CHUNK;
}
