/* mem - allocation that either succeeds or ends the process with one line (exit 71).
 * For our own records and, by json_alc and io/memory, for those of the libraries: no caller meets want of memory
 * halfway. Sizes that come from outside are checked by the caller first. Any thread. */
#pragma once
#include <stddef.h>

_Noreturn void mem_exhausted(void);             /* the end, for memory that a library could not get */
void *mem_alloc(size_t size);                   /* zeroed */
void *mem_array(size_t n, size_t size);         /* zeroed, overflow checked */
void *mem_grow(void *p, size_t n, size_t size); /* realloc, overflow checked, new part not zeroed */
char *mem_dup(const char *bytes, size_t len);   /* copy with a closing NUL */
char *mem_printf(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
void mem_free(void *p);             /* NULL is fine */
void mem_wipe(void *p, size_t len); /* not optimised away */
void mem_trim(void);                /* gives freed memory back to the system: milliseconds, after a peak */
