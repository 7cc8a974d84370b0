/* shard_pool - records of one size, named by an index and a generation so that an answer that comes too late finds
 * nothing. Not thread-safe. Records never move; memory is given back after a peak (base/slab), generations stay. */
#pragma once
#include "base/slab.h"

#include <stdbool.h>

struct shard_pool {
	struct slab slab;
	uint32_t *gens; /* one per record; changes with shard_pool_renew and shard_pool_put */
	uint32_t n_gens;
};

/* Of items of that size; no memory yet. */
void shard_pool_init(struct shard_pool *p, size_t item_bytes);
void shard_pool_fini(struct shard_pool *p); /* what records own is the caller's */
/* A zeroed record. */
void *shard_pool_get(struct shard_pool *p, uint32_t *index);
void shard_pool_put(struct shard_pool *p, uint32_t index); /* the record may be gone afterwards */
/* NULL: none of its neighbours is in use either. */
void *shard_pool_at(const struct shard_pool *p, uint32_t index);
uint32_t shard_pool_count(const struct shard_pool *p); /* in use */
uint32_t shard_pool_end(const struct shard_pool *p);   /* every index is below */
/* A new generation for the record: answers to older ones do not find it any more. 28 bits. */
uint32_t shard_pool_renew(struct shard_pool *p, uint32_t index);
/* The record, or NULL when the generation is not its current one. */
void *shard_pool_find(const struct shard_pool *p, uint32_t gen, uint32_t index);
