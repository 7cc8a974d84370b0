#include "base/mem.h"

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#ifdef __GLIBC__
#include <malloc.h>
#endif

enum { EXIT_OS = 71 };

/* Neither stdio nor the log: both may need the memory that is not there. */
_Noreturn void mem_die(void)
{
	static const char line[] = "<3>out of memory\n";
	if (write(STDERR_FILENO, line, sizeof(line) - 1) < 0) {
		/* nobody left to tell */
	}
	_exit(EXIT_OS);
}

static size_t checked_size(size_t n, size_t size)
{
	size_t total;
	if (__builtin_mul_overflow(n, size, &total) || total > PTRDIFF_MAX)
		mem_die();
	return total ? total : 1;
}

void *mem_alloc(size_t size)
{
	return mem_array(1, size);
}

void *mem_array(size_t n, size_t size)
{
	void *p = calloc(1, checked_size(n, size));
	if (!p)
		mem_die();
	return p;
}

void *mem_grow(void *p, size_t n, size_t size)
{
	void *grown = realloc(p, checked_size(n, size));
	if (!grown)
		mem_die();
	return grown;
}

char *mem_dup(const char *bytes, size_t len)
{
	size_t size;
	if (__builtin_add_overflow(len, 1, &size))
		mem_die();
	char *copy = mem_grow(NULL, size, 1);
	if (len)
		memcpy(copy, bytes, len);
	copy[len] = '\0';
	return copy;
}

char *mem_printf(const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	char *text;
	if (vasprintf(&text, fmt, ap) < 0)
		mem_die();
	va_end(ap);
	return text;
}

void mem_free(void *p)
{
	free(p);
}

void mem_wipe(void *p, size_t len)
{
	if (len)
		explicit_bzero(p, len);
}

void mem_trim(void)
{
#ifdef __GLIBC__
	malloc_trim(0);
#endif
}
