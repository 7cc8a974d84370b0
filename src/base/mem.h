/* mem - allocation that either succeeds or ends the process with one line (exit 71).
 * For our own small records. Sizes that come from outside are checked by the caller first.
 * Any thread. */
#pragma once
#include <stddef.h>

void *mem_alloc(size_t size);                   /* zeroed */
void *mem_array(size_t n, size_t size);         /* zeroed, overflow checked */
void *mem_grow(void *p, size_t n, size_t size); /* realloc, overflow checked, new part not zeroed */
char *mem_dup(const char *bytes, size_t len);   /* copy with a closing NUL */
char *mem_printf(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
_Noreturn void mem_die(void);       /* as when there is no memory */
void mem_free(void *p);             /* NULL is fine */
void mem_wipe(void *p, size_t len); /* not optimised away */
void mem_trim(void);                /* gives freed memory back to the system: milliseconds, after a peak */
