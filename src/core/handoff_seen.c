#include "core/handoff.h"

enum { PROBES = 8 };

static uint64_t hash_of(struct slice stream, struct entry_id id)
{
	uint64_t h = 14695981039346656037u;
	for (size_t i = 0; i < stream.len; i++)
		h = (h ^ (unsigned char)stream.p[i]) * 1099511628211u;
	h = (h ^ id.ms) * 0x9e3779b97f4a7c15u;
	h = (h ^ (h >> 29) ^ id.seq) * 0xbf58476d1ce4e5b9u;
	h ^= h >> 32;
	return h ? h : 1;
}

bool handoff_seen_before(struct handoff_seen *s, struct slice stream, struct entry_id id)
{
	uint64_t h = hash_of(stream, id);
	for (size_t i = 0; i < PROBES; i++) {
		uint64_t *at = &s->hash[(h + i) % HANDOFF_SEEN];
		if (*at == h)
			return true;
		if (*at == 0) {
			*at = h;
			return false;
		}
	}
	s->hash[h % HANDOFF_SEEN] = h;
	return false;
}
