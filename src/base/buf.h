/* buf - growable byte buffer. Not thread-safe. Appending never fails (mem_*); a limit is the caller's. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

struct buf {
	char *data; /* NUL-terminated once anything was added; NULL before */
	size_t len, cap;
};

/* Empty, without memory of its own yet. */
void buf_init(struct buf *b);
/* Frees its memory; it may be used again after buf_init. */
void buf_fini(struct buf *b);
/* Room for len more bytes and the NUL behind them; data moves when it grows. Out of memory ends the process, as
 * everywhere. Returns where they go: buf_added says how many were written there. */
char *buf_room(struct buf *b, size_t len);
/* So many bytes (at most as many as there is room for) were written behind the end. */
static inline void buf_added(struct buf *b, size_t len)
{
	b->len += len;
	b->data[b->len] = '\0';
}
/* Appends; data moves when it grows. */
static inline void buf_add(struct buf *b, const void *bytes, size_t len)
{
	char *at = len < b->cap - b->len ? b->data + b->len : buf_room(b, len);
	if (len)
		memcpy(at, bytes, len);
	buf_added(b, len);
}
/* Appends a string without its NUL. */
void buf_str(struct buf *b, const char *s);
/* Appends as printf formats; behind the end there is a NUL that does not count in len. */
void buf_printf(struct buf *b, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Appends a number in decimal, much faster than buf_printf. */
void buf_u64(struct buf *b, uint64_t v);
/* Room for len more bytes: adding them moves nothing. What moves now leaves nothing behind. */
void buf_reserve_wiping(struct buf *b, size_t len);
void buf_consume(struct buf *b, size_t n); /* drops the first n bytes */
void buf_clear(struct buf *b);             /* keeps the memory */
char *buf_take(struct buf *b); /* the string (never NULL), caller frees with mem_free; b is empty afterwards */
/* Is all of s UTF-8? NUL bytes are. */
bool buf_is_utf8(const char *s, size_t len);
/* Appends s as a JSON string with quotes; bytes that are not UTF-8 become U+FFFD. */
void buf_json_str(struct buf *b, const char *s, size_t len);
/* The same of text that JSON has as it is: ASCII, no control character, no quote, no backslash. False: it is none, and
 * nothing is appended. */
bool buf_json_plain(struct buf *b, const char *s, size_t len);
