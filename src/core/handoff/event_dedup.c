#include "core/handoff/handoff.h"

static uint64_t dedup_hash_of(struct slice stream, struct entry_id id)
{
	uint64_t h = 14695981039346656037u;
	for (size_t i = 0; i < stream.len; i++)
		h = (h ^ (unsigned char)stream.p[i]) * 1099511628211u;
	h = (h ^ id.ms) * 0x9e3779b97f4a7c15u;
	h = (h ^ (h >> 29) ^ id.seq) * 0xbf58476d1ce4e5b9u;
	h ^= h >> 32;
	return h ? h : 1;
}

/* The place of h in the table, or the first free one. There is one: a table is never more than half full. */
static uint64_t *dedup_place(uint64_t *table, uint64_t h)
{
	uint64_t i = h % HANDOFF_SEEN;
	while (table[i] && table[i] != h)
		i = (i + 1) % HANDOFF_SEEN;
	return &table[i];
}

bool handoff_seen_before(struct handoff_seen *s, struct slice stream, struct entry_id id)
{
	uint64_t h = dedup_hash_of(stream, id);
	uint64_t *at = dedup_place(s->hash[s->young], h);
	if (*at || *dedup_place(s->hash[!s->young], h))
		return true;
	*at = h;
	if (++s->n > HANDOFF_SEEN / 2) {
		s->young = !s->young;
		s->n = 0;
		memset(s->hash[s->young], 0, sizeof s->hash[0]);
	}
	return false;
}
