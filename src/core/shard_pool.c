#include "core/shard_pool.h"

#include "base/mem.h"

#include <string.h>

enum { CHUNK = 256, GEN_MASK = 0x0fffffff };

void shard_pool_init(struct shard_pool *p, size_t item_bytes)
{
	*p = (struct shard_pool){.item_bytes = item_bytes};
}

void shard_pool_fini(struct shard_pool *p)
{
	for (uint32_t i = 0; i < p->cap / CHUNK; i++)
		mem_free(p->chunks[i]);
	mem_free(p->chunks);
	mem_free(p->gens);
	mem_free(p->free_list);
	*p = (struct shard_pool){.item_bytes = p->item_bytes};
}

void *shard_pool_at(const struct shard_pool *p, uint32_t index)
{
	return p->chunks[index / CHUNK] + (size_t)(index % CHUNK) * p->item_bytes;
}

static void add_chunk(struct shard_pool *p)
{
	uint32_t n_chunks = p->cap / CHUNK;
	p->chunks = mem_grow(p->chunks, n_chunks + 1, sizeof *p->chunks);
	p->chunks[n_chunks] = mem_array(CHUNK, p->item_bytes);
	p->gens = mem_grow(p->gens, p->cap + CHUNK, sizeof *p->gens);
	memset(p->gens + p->cap, 0, CHUNK * sizeof *p->gens);
	p->free_list = mem_grow(p->free_list, p->cap + CHUNK, sizeof *p->free_list);
	p->cap += CHUNK;
	for (uint32_t i = 0; i < CHUNK; i++)
		p->free_list[p->n_free++] = p->cap - 1 - i;
}

void *shard_pool_get(struct shard_pool *p, uint32_t *index)
{
	if (!p->n_free)
		add_chunk(p);
	*index = p->free_list[--p->n_free];
	p->n_items++;
	void *item = shard_pool_at(p, *index);
	memset(item, 0, p->item_bytes);
	return item;
}

void shard_pool_put(struct shard_pool *p, uint32_t index)
{
	shard_pool_renew(p, index);
	p->free_list[p->n_free++] = index;
	p->n_items--;
}

uint32_t shard_pool_renew(struct shard_pool *p, uint32_t index)
{
	return p->gens[index] = (p->gens[index] + 1) & GEN_MASK;
}

void *shard_pool_find(const struct shard_pool *p, uint32_t gen, uint32_t index)
{
	if (index >= p->cap || p->gens[index] != gen)
		return NULL;
	return shard_pool_at(p, index);
}
