#include "codec/json.h"

#include <string.h>

#include "base/mem.h"

static void *json_malloc(void *ctx, size_t size)
{
	(void)ctx;
	return mem_grow(NULL, size, 1);
}

static void *json_realloc(void *ctx, void *p, size_t old_size, size_t size)
{
	(void)ctx;
	(void)old_size;
	return mem_grow(p, size, 1);
}

static void json_free(void *ctx, void *p)
{
	(void)ctx;
	mem_free(p);
}

const yyjson_alc json_alc = {.malloc = json_malloc, .realloc = json_realloc, .free = json_free};

/* ---- lone surrogates: some languages' strings have them, JSON's escapes can say them, UTF-8 cannot */

enum { SURROGATE_NONE, SURROGATE_HIGH, SURROGATE_LOW };

/* What "\uXXXX" at p is. */
static int surrogate_at(const char *p, const char *end)
{
	if (end - p < 6 || p[0] != '\\' || p[1] != 'u' || (p[2] | 0x20) != 'd')
		return SURROGATE_NONE;
	for (int i = 3; i < 6; i++)
		if (!strchr("0123456789abcdefABCDEF", p[i]) || !p[i])
			return SURROGATE_NONE;
	if (strchr("89abAB", p[3]))
		return SURROGATE_HIGH;
	return strchr("cdefCDEF", p[3]) ? SURROGATE_LOW : SURROGATE_NONE;
}

/* Outside of strings there is no backslash in JSON. */
const char *json_find_lone(const char *p, const char *end)
{
	while ((p = memchr(p, '\\', (size_t)(end - p)))) {
		int what = surrogate_at(p, end);
		bool is_pair = what == SURROGATE_HIGH && surrogate_at(p + 6, end) == SURROGATE_LOW;
		if (what != SURROGATE_NONE && !is_pair)
			return p;
		p += is_pair ? 12 : end - p < 2 ? 1 : 2;
	}
	return NULL;
}
