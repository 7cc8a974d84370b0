/* suggest - which known word was meant: for "did you mean". Pure; any thread. */
#pragma once
#include <stddef.h>

enum { SUGGEST_MAX = 80 /* longer words are never near */ };

/* Edits (insert, drop, replace, swap of neighbours) between two words, case and - _ ignored. SUGGEST_MAX = too far. */
size_t suggest_distance(const char *a, size_t n_a, const char *b, size_t n_b);
/* Whether that many edits away a word of n_word bytes is still near: 1 edit up to 3 bytes, 2 up to 6, else 3. */
int suggest_is_near(size_t edits, size_t n_word);
