/* utf8 - where a character begins and ends. Pure; any thread. */
#pragma once
#include <stddef.h>

/* Bytes of the UTF-8 character at s, which has len > 0 bytes; 0 when there is none: overlong, a surrogate, past
 * U+10FFFF, cut off. */
size_t utf8_len(const char *s, size_t len);
/* Bytes of the control character at s, NUL among them: 1 in ASCII, 2 beyond it (U+0080 to U+009F; terminals take U+009B
 * for ESC [); 0 when there is none. What is at s is a whole character, or ended by a NUL. */
size_t utf8_control(const char *s);
/* So many of the first bytes are ASCII; sixteen at a time, most text is nothing else. */
size_t utf8_ascii(const char *s, size_t len);
/* The same of bytes that a JSON string has as they are: ASCII, no control character, no quote, no backslash. */
size_t utf8_json_plain(const char *s, size_t len);
