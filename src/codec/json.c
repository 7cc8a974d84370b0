#include "codec/json.h"

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
