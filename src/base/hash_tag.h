/* hash_tag - the part of a Redis key that alone decides its slot, where it has one. Any thread. */
#pragma once
#include <stddef.h>
#include <string.h>

/* What stands between the first { and the first } after it, *n bytes within key; NULL when there is none or nothing
 * between. */
static inline const char *hash_tag_find(const char *key, size_t len, size_t *n)
{
	const char *open = len ? memchr(key, '{', len) : NULL;
	if (!open)
		return NULL;
	open++;
	const char *close = memchr(open, '}', len - (size_t)(open - key));
	if (!close || close == open)
		return NULL;
	*n = (size_t)(close - open);
	return open;
}
