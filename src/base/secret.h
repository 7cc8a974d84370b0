/* secret - the passwords of this process: one copy of each, however many connections hold it, in pages of its own
 * that core files leave out, wiped when nobody holds it any more. Any thread. */
#pragma once
#include <stddef.h>

/* The kept copy of these bytes, NUL-terminated; one that is there already is shared. */
const char *secret_keep(const char *bytes, size_t len);
/* Ends what one secret_keep began; NULL is fine. */
void secret_drop(const char *secret);
