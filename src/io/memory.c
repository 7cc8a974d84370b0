/* Happy path: main calls it before any library has allocated. Failure: a library that has allocated already refuses; it
 * keeps its own functions, which are libc's like those under ours. */
#include "io/memory.h"

#include <hiredis/alloc.h>
#include <openssl/crypto.h>
#include <string.h>
#include <uv.h>

#include "base/mem.h"

static void *memory_get(size_t size)
{
	return mem_grow(NULL, size, 1);
}

static void *get_more(void *p, size_t size)
{
	if (size > 0)
		return mem_grow(p, size, 1);
	mem_free(p);
	return NULL;
}

static char *memory_copy(const char *s)
{
	return mem_dup(s, strlen(s));
}

static void *ssl_get(size_t size, const char *file, int line)
{
	(void)file;
	(void)line;
	return memory_get(size);
}

static void *ssl_get_more(void *p, size_t size, const char *file, int line)
{
	(void)file;
	(void)line;
	return get_more(p, size);
}

static void ssl_free(void *p, const char *file, int line)
{
	(void)file;
	(void)line;
	mem_free(p);
}

void memory_for_libraries(void)
{
	static hiredisAllocFuncs hiredis = {.mallocFn = memory_get,
		.callocFn = mem_array,
		.reallocFn = get_more,
		.strdupFn = memory_copy,
		.freeFn = mem_free};
	uv_replace_allocator(memory_get, get_more, mem_array, mem_free);
	hiredisSetAllocators(&hiredis);
	CRYPTO_set_mem_functions(ssl_get, ssl_get_more, ssl_free);
}
