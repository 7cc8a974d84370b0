/* event_dedup - a keyspace event that two subscribers deliver is taken once. */
#include "core/handoff/handoff.h"

#include <assert.h>

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
static struct seen_event *dedup_place(struct seen_event *table, uint64_t h)
{
	uint64_t i = h % HANDOFF_SEEN;
	while (table[i].hash && table[i].hash != h)
		i = (i + 1) % HANDOFF_SEEN;
	return &table[i];
}

static struct seen_event *dedup_add(struct handoff_seen *s, uint64_t h)
{
	if (++s->n > HANDOFF_SEEN / 2) {
		s->young = !s->young;
		s->n = 1;
		memset(s->v[s->young], 0, sizeof s->v[0]);
	}
	struct seen_event *e = dedup_place(s->v[s->young], h);
	*e = (struct seen_event){.hash = h};
	return e;
}

static void dedup_forget(struct seen_event *e, unsigned side, uint32_t now)
{
	if (e->n[side] == 0 || now - e->at[side] <= HANDOFF_SEEN_MS)
		return;
	e->n[side]--; /* those behind it are younger: by how much is not known */
	e->at[side] = now;
}

bool handoff_seen_before(struct handoff_seen *s, struct slice stream, struct entry_id id, unsigned side, mono_ms now)
{
	assert(side < HANDOFF_SIDES);
	uint64_t h = dedup_hash_of(stream, id);
	struct seen_event *e = dedup_place(s->v[s->young], h);
	if (!e->hash)
		e = dedup_place(s->v[!s->young], h);
	if (!e->hash)
		e = dedup_add(s, h);
	for (unsigned i = 0; i < HANDOFF_SIDES; i++)
		dedup_forget(e, i, (uint32_t)now);
	if (e->n[!side] > 0) {
		e->n[!side]--;
		return true;
	}
	if (e->n[side]++ == 0)
		e->at[side] = (uint32_t)now;
	if (e->n[side] == UINT8_MAX)
		e->n[side]--;
	return false;
}
