#include "oom/failing_malloc.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

/* glibc's own; its names for those who replace malloc */
void *__libc_malloc(size_t size);
void *__libc_calloc(size_t n, size_t size);
void *__libc_realloc(void *p, size_t size);

static atomic_long n_calls, fails_at;
static atomic_bool has_hit;
static int report = -1;

void failing_malloc_at(long n)
{
	atomic_store(&n_calls, 0);
	atomic_store(&has_hit, false);
	atomic_store(&fails_at, n);
}

bool failing_malloc_has_hit(void)
{
	return atomic_load(&has_hit);
}

long failing_malloc_count(void)
{
	return atomic_load(&n_calls);
}

static bool is_refused(void)
{
	if (atomic_fetch_add(&n_calls, 1) + 1 != atomic_load(&fails_at))
		return false;
	atomic_store(&has_hit, true);
	errno = ENOMEM;
	if (report >= 0 && write(report, "hit\n", 4) != 4)
		abort();
	return true;
}

void *malloc(size_t size)
{
	return is_refused() ? NULL : __libc_malloc(size);
}

void *calloc(size_t n, size_t size)
{
	return is_refused() ? NULL : __libc_calloc(n, size);
}

void *realloc(void *p, size_t size)
{
	return is_refused() ? NULL : __libc_realloc(p, size);
}

__attribute__((constructor)) static void start(void)
{
	const char *n = getenv("FAIL_MALLOC"), *file = getenv("FAIL_MALLOC_FILE");
	if (file)
		report = open(file, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
	if (n)
		failing_malloc_at(atol(n));
}

__attribute__((destructor)) static void tell(void)
{
	char line[32];
	int len = snprintf(line, sizeof line, "count %ld\n", failing_malloc_count());
	if (report >= 0 && write(report, line, (size_t)len) != len)
		abort();
}
