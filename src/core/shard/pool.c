#include "core/shard/pool.h"

#include "base/mem.h"

#include <assert.h>
#include <string.h>

enum { GEN_MASK = 0x0fffffff };

void shard_pool_init(struct shard_pool *p, size_t item_bytes)
{
	*p = (struct shard_pool){.gens = NULL};
	slab_init(&p->slab, item_bytes);
}

void shard_pool_fini(struct shard_pool *p)
{
	slab_fini(&p->slab);
	mem_free(p->gens);
	p->gens = NULL;
	p->n_gens = 0;
}

void *shard_pool_at(const struct shard_pool *p, uint32_t index)
{
	return slab_at(&p->slab, index);
}

uint32_t shard_pool_count(const struct shard_pool *p)
{
	return p->slab.n_items;
}

uint32_t shard_pool_end(const struct shard_pool *p)
{
	return slab_end(&p->slab);
}

void *shard_pool_get(struct shard_pool *p, uint32_t *index)
{
	void *item = slab_get(&p->slab, index);
	uint32_t end = slab_end(&p->slab);
	if (end > p->n_gens) {
		uint32_t n = end > 2 * p->n_gens ? end : 2 * p->n_gens;
		p->gens = mem_grow(p->gens, n, sizeof *p->gens);
		memset(p->gens + p->n_gens, 0, (n - p->n_gens) * sizeof *p->gens);
		p->n_gens = n;
	}
	return item;
}

void shard_pool_put(struct shard_pool *p, uint32_t index)
{
	assert(index < p->n_gens);
	shard_pool_renew(p, index);
	slab_put(&p->slab, index);
}

uint32_t shard_pool_renew(struct shard_pool *p, uint32_t index)
{
	assert(index < p->n_gens);
	return p->gens[index] = (p->gens[index] + 1) & GEN_MASK;
}

void *shard_pool_find(const struct shard_pool *p, uint32_t gen, uint32_t index)
{
	if (index >= p->n_gens || p->gens[index] != gen)
		return NULL;
	return slab_at(&p->slab, index);
}
