/* map - hash map from bytes or from a 128-bit key to a pointer. The map owns no keys: they live in the value.
 * Not thread-safe. Open addressing, 16 bytes a slot; shrinks after removals. Keyed hash (seeded once per map), so
 * hostile keys do not collide. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Tells whether `value` has the key (key, len). */
typedef bool map_equal_fn(const void *value, const void *key, size_t len);

struct map {
	struct map_slot *slots;
	size_t n, n_used, cap;
	uint64_t seed;
	map_equal_fn *equal;
};

/* equal: is this value the one of that key? seed: random, so that nobody can choose keys that collide. */
void map_init(struct map *m, map_equal_fn *equal, uint64_t seed);
void map_fini(struct map *m); /* values are the caller's */
void *map_get(const struct map *m, const void *key, size_t len);
/* Adds or replaces; returns the value that was there, or NULL. */
void *map_put(struct map *m, const void *key, size_t len, void *value);
/* Returns the removed value, or NULL. */
void *map_remove(struct map *m, const void *key, size_t len);
/* Iterates: *pos starts at 0; NULL at the end. Removing the returned value meanwhile is allowed, adding is not. */
void *map_next(const struct map *m, size_t *pos);
