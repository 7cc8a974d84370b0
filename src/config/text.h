/* text - what is in bytes from outside: UTF-8, control characters, and how to show them in one line.
 * Pure. Any thread. */
#pragma once
#include <stdbool.h>
#include <stddef.h>

/* Offset of the first NUL or byte that is not UTF-8; len when there is none. */
size_t text_bad_byte(const char *bytes, size_t len);
/* True: UTF-8 that has a glyph on one line; no control characters, line separators or byte order marks. */
bool text_is_plain(const char *s);
/* Line and column of an offset, both from 1; columns count characters. */
void text_position(const char *bytes, size_t offset, unsigned *line, unsigned *column);

enum { TEXT_SHOWN = 96 };
/* s in quotes for a message: cut after about 88 bytes; what is not plain becomes '?'. Returns out. */
const char *text_show(const char *s, size_t len, char out[static TEXT_SHOWN]);
