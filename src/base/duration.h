/* duration - how people write a time: 500ms, 10s, 5m, 2h, 1d. Pure; any thread. */
#pragma once
#include <stdbool.h>
#include <stdint.h>

/* Reads a whole number of at most 18 digits and its unit (0 needs none) into *ms. False, *ms unchanged: not a
 * duration, or over INT64_MAX ms. */
bool duration_parse(const char *text, int64_t *ms);
