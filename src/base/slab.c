#include "base/slab.h"

#include "base/mem.h"

#include <assert.h>
#include <stdalign.h>
#include <string.h>

enum { NONE = 0xffff };

struct slab_chunk {
	uint16_t n_used, free; /* first free record, or NONE */
	uint16_t next[SLAB_CHUNK];
	alignas(max_align_t) char items[];
};

void slab_init(struct slab *s, size_t item_bytes)
{
	size_t align = alignof(max_align_t);
	*s = (struct slab){.item_bytes = (item_bytes + align - 1) / align * align};
}

void slab_fini(struct slab *s)
{
	for (uint32_t i = 0; i < s->n_chunks; i++)
		mem_free(s->chunks[i]);
	mem_free(s->spare);
	mem_free(s->chunks);
	*s = (struct slab){.item_bytes = s->item_bytes};
}

static struct slab_chunk *new_chunk(struct slab *s)
{
	struct slab_chunk *c = s->spare;
	if (c) { /* all in it is free, as it was left */
		s->spare = NULL;
		return c;
	}
	c = mem_alloc(sizeof *c + SLAB_CHUNK * s->item_bytes);
	c->n_used = 0;
	c->free = 0;
	for (int i = 0; i < SLAB_CHUNK; i++)
		c->next[i] = i + 1 < SLAB_CHUNK ? (uint16_t)(i + 1) : NONE;
	return c;
}

static struct slab_chunk *chunk_with_room(struct slab *s)
{
	while (s->first < s->n_chunks && s->chunks[s->first] && s->chunks[s->first]->free == NONE)
		s->first++;
	if (s->first == s->n_chunks) {
		if (s->n_chunks == s->cap_chunks) {
			s->cap_chunks = s->cap_chunks ? s->cap_chunks * 2 : 4;
			s->chunks = mem_grow(s->chunks, s->cap_chunks, sizeof(struct slab_chunk *));
		}
		s->chunks[s->n_chunks++] = NULL;
	}
	if (!s->chunks[s->first])
		s->chunks[s->first] = new_chunk(s);
	return s->chunks[s->first];
}

void *slab_get(struct slab *s, uint32_t *index)
{
	struct slab_chunk *c = chunk_with_room(s);
	uint16_t i = c->free;
	c->free = c->next[i];
	c->n_used++;
	s->n_items++;
	*index = s->first * SLAB_CHUNK + i;
	return memset(c->items + i * s->item_bytes, 0, s->item_bytes);
}

void slab_put(struct slab *s, uint32_t index)
{
	uint32_t k = index / SLAB_CHUNK;
	struct slab_chunk *c = s->chunks[k];
	assert(c && c->n_used > 0);
	uint16_t i = (uint16_t)(index % SLAB_CHUNK);
	c->next[i] = c->free;
	c->free = i;
	s->n_items--;
	if (k < s->first)
		s->first = k;
	if (--c->n_used > 0)
		return;
	s->chunks[k] = NULL;
	mem_free(s->spare);
	s->spare = c;
}

void *slab_at(const struct slab *s, uint32_t index)
{
	struct slab_chunk *c = index / SLAB_CHUNK < s->n_chunks ? s->chunks[index / SLAB_CHUNK] : NULL;
	return c ? c->items + (index % SLAB_CHUNK) * s->item_bytes : NULL;
}
