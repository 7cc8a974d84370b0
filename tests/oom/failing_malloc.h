/* failing_malloc - libc's allocation, of which the N-th call of the process fails, once. Linked into a test, or preloaded
 * into a program as a library: then FAIL_MALLOC=N says which (0: none), and FAIL_MALLOC_FILE gets a line "hit" when it does,
 * and at the end "count COUNT", the number of calls. Any thread. */
#pragma once
#include <stdbool.h>

void failing_malloc_at(long n); /* counted from now; 0 = none */
bool failing_malloc_has_hit(void);
long failing_malloc_count(void);
