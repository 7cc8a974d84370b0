#include "base/map.h"

#include "base/mem.h"

#include <assert.h>
#include <string.h>

/* Linear probing. A removed slot becomes a tombstone and nothing else moves, so that map_next survives
 * removals; tombstones and excess room go at the next map_put that finds too many of either. */
struct map_slot {
	uint64_t hash;
	void *value; /* NULL = free, &tombstone = removed */
};

enum { MIN_CAP = 8 };

static char tombstone;

static uint64_t map_rotl(uint64_t x, unsigned k)
{
	return (x << k) | (x >> (64 - k));
}

static void sip_round(uint64_t v[4])
{
	v[0] += v[1];
	v[1] = map_rotl(v[1], 13) ^ v[0];
	v[0] = map_rotl(v[0], 32);
	v[2] += v[3];
	v[3] = map_rotl(v[3], 16) ^ v[2];
	v[0] += v[3];
	v[3] = map_rotl(v[3], 21) ^ v[0];
	v[2] += v[1];
	v[1] = map_rotl(v[1], 17) ^ v[2];
	v[2] = map_rotl(v[2], 32);
}

static uint64_t map_hash_of(uint64_t seed, const void *key, size_t len) /* SipHash-1-3 */
{
	const unsigned char *at = key;
	uint64_t k1 = seed * 0x9E3779B97F4A7C15u ^ 0xD1B54A32D192ED03u;
	uint64_t v[4] = {seed ^ 0x736F6D6570736575u, k1 ^ 0x646F72616E646F6Du, seed ^ 0x6C7967656E657261u,
		k1 ^ 0x7465646279746573u};
	uint64_t last = (uint64_t)len << 56;
	for (; len >= 8; len -= 8, at += 8) {
		uint64_t word;
		memcpy(&word, at, 8);
		v[3] ^= word;
		sip_round(v);
		v[0] ^= word;
	}
	for (size_t i = 0; i < len; i++)
		last |= (uint64_t)at[i] << (8 * i);
	v[3] ^= last;
	sip_round(v);
	v[0] ^= last;
	v[2] ^= 0xFF;
	for (int i = 0; i < 3; i++)
		sip_round(v);
	return v[0] ^ v[1] ^ v[2] ^ v[3];
}

void map_init(struct map *m, map_equal_fn *equal, uint64_t seed)
{
	*m = (struct map){.seed = seed, .equal = equal};
}

void map_fini(struct map *m)
{
	mem_free(m->slots);
	*m = (struct map){.seed = m->seed, .equal = m->equal};
}

static bool is_live(const struct map_slot *s)
{
	return s->value && s->value != &tombstone;
}

static struct map_slot *map_find(const struct map *m, uint64_t hash, const void *key, size_t len)
{
	if (!m->cap)
		return NULL;
	for (size_t i = hash & (m->cap - 1);; i = (i + 1) & (m->cap - 1)) {
		struct map_slot *s = &m->slots[i];
		if (!s->value)
			return NULL;
		if (is_live(s) && s->hash == hash && m->equal(s->value, key, len))
			return s;
	}
}

void *map_get(const struct map *m, const void *key, size_t len)
{
	if (!m->n)
		return NULL;
	struct map_slot *s = map_find(m, map_hash_of(m->seed, key, len), key, len);
	return s ? s->value : NULL;
}

static void insert_new(struct map *m, uint64_t hash, void *value)
{
	size_t i = hash & (m->cap - 1);
	while (is_live(&m->slots[i]))
		i = (i + 1) & (m->cap - 1);
	m->n_used += m->slots[i].value == NULL;
	m->n++;
	m->slots[i] = (struct map_slot){.hash = hash, .value = value};
}

static void rehash(struct map *m, size_t cap)
{
	struct map old = *m;
	m->slots = mem_array(cap, sizeof(struct map_slot));
	m->cap = cap;
	m->n = m->n_used = 0;
	for (size_t i = 0; i < old.cap; i++)
		if (is_live(&old.slots[i]))
			insert_new(m, old.slots[i].hash, old.slots[i].value);
	mem_free(old.slots);
}

/* Room for one more: at most 3/4 of the slots used, at least 1/8 filled when the map is not small. */
static void map_make_room(struct map *m)
{
	bool is_full = (m->n_used + 1) * 4 > m->cap * 3;
	bool is_sparse = m->cap > MIN_CAP && m->n * 8 < m->cap;
	if (!is_full && !is_sparse)
		return;
	size_t cap = MIN_CAP;
	while (cap < (m->n + 1) * 2)
		cap *= 2;
	rehash(m, cap);
}

void *map_put(struct map *m, const void *key, size_t len, void *value)
{
	assert(value);
	uint64_t hash = map_hash_of(m->seed, key, len);
	struct map_slot *s = map_find(m, hash, key, len);
	if (s) {
		void *before = s->value;
		s->value = value;
		return before;
	}
	map_make_room(m);
	insert_new(m, hash, value);
	return NULL;
}

/* A free slot follows: this tombstone and those just before it stop no search. */
static void drop_tombstones(struct map *m, size_t i)
{
	if (m->slots[(i + 1) & (m->cap - 1)].value)
		return;
	while (m->slots[i].value == &tombstone) {
		m->slots[i].value = NULL;
		m->n_used--;
		i = (i - 1) & (m->cap - 1);
	}
}

void *map_remove(struct map *m, const void *key, size_t len)
{
	struct map_slot *s = map_find(m, map_hash_of(m->seed, key, len), key, len);
	if (!s)
		return NULL;
	void *value = s->value;
	s->value = &tombstone;
	if (--m->n == 0)
		map_fini(m);
	else
		drop_tombstones(m, (size_t)(s - m->slots));
	return value;
}

void *map_next(const struct map *m, size_t *pos)
{
	while (*pos < m->cap) {
		const struct map_slot *s = &m->slots[(*pos)++];
		if (is_live(s))
			return s->value;
	}
	return NULL;
}
