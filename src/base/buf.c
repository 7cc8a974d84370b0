#include "base/buf.h"

#include "base/digits.h"
#include "base/mem.h"
#include "base/utf8.h"

#include <assert.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

enum { MIN_CAP = 64 };

void buf_init(struct buf *b)
{
	*b = (struct buf){0};
}

void buf_fini(struct buf *b)
{
	mem_free(b->data);
	*b = (struct buf){0};
}

char *buf_room(struct buf *b, size_t len)
{
	size_t need;
	if (__builtin_add_overflow(b->len, len, &need) || need == SIZE_MAX)
		need = SIZE_MAX - 1; /* mem_grow refuses it and says why */
	if (need < b->cap)
		return b->data + b->len;
	size_t cap = b->cap ? b->cap : MIN_CAP;
	while (cap <= need && cap < SIZE_MAX / 2)
		cap *= 2;
	if (cap <= need)
		cap = need + 1;
	b->data = mem_grow(b->data, cap, 1);
	b->cap = cap;
	return b->data + b->len;
}

void buf_reserve_wiping(struct buf *b, size_t len)
{
	if (b->len + len < b->cap)
		return;
	struct buf moved = {0};
	buf_room(&moved, b->len + len);
	buf_add(&moved, b->data, b->len);
	mem_wipe(b->data, b->cap);
	buf_fini(b);
	*b = moved;
}

void buf_str(struct buf *b, const char *s)
{
	buf_add(b, s, strlen(s));
}

void buf_printf(struct buf *b, const char *fmt, ...)
{
	va_list ap, again;
	va_start(ap, fmt);
	va_copy(again, ap);
	size_t room = b->cap - b->len;
	int n = vsnprintf(room ? b->data + b->len : NULL, room, fmt, ap);
	va_end(ap);
	assert(n >= 0);
	if (n >= 0 && (size_t)n >= room) {
		buf_room(b, (size_t)n);
		vsnprintf(b->data + b->len, (size_t)n + 1, fmt, again);
	}
	va_end(again);
	b->len += n > 0 ? (size_t)n : 0;
}

void buf_u64(struct buf *b, uint64_t v)
{
	char text[DIGITS_U64] = "";
	buf_add(b, text, digits_put(text, v, 0));
}

void buf_consume(struct buf *b, size_t n)
{
	assert(n <= b->len);
	if (!n)
		return;
	b->len -= n;
	memmove(b->data, b->data + n, b->len + 1);
}

void buf_clear(struct buf *b)
{
	b->len = 0;
	if (b->data)
		b->data[0] = '\0';
}

char *buf_take(struct buf *b)
{
	char *data = b->data ? b->data : mem_dup("", 0);
	*b = (struct buf){0};
	return data;
}

bool buf_is_utf8(const char *s, size_t len)
{
	for (size_t i = 0, n; i < len; i += n) {
		n = utf8_ascii(s + i, len - i);
		n = n ? n : utf8_len(s + i, len - i);
		if (!n)
			return false;
	}
	return true;
}

static void add_escape(struct buf *b, unsigned char c)
{
	static const char *const named[128] = {
		['"'] = "\\\"",
		['\\'] = "\\\\",
		['\b'] = "\\b",
		['\f'] = "\\f",
		['\n'] = "\\n",
		['\r'] = "\\r",
		['\t'] = "\\t",
	};
	if (named[c])
		buf_str(b, named[c]);
	else
		buf_printf(b, "\\u%04x", c);
}

bool buf_json_plain(struct buf *b, const char *s, size_t len)
{
	if (utf8_json_plain(s, len) != len)
		return false;
	char *at = buf_room(b, len + 2);
	at[0] = '"';
	if (len)
		memcpy(at + 1, s, len);
	at[len + 1] = '"';
	buf_added(b, len + 2);
	return true;
}

void buf_json_str(struct buf *b, const char *s, size_t len)
{
	if (buf_json_plain(b, s, len))
		return;
	buf_add(b, "\"", 1);
	size_t plain = 0; /* bytes before i that need no change and are not added yet */
	size_t i = 0;
	while (i < len) {
		size_t n = utf8_json_plain(s + i, len - i);
		plain += n;
		i += n;
		if (i == len)
			break;
		unsigned char c = (unsigned char)s[i];
		n = utf8_len(s + i, len - i);
		if (n && c >= ' ' && c != '"' && c != '\\') {
			plain += n;
			i += n;
			continue;
		}
		buf_add(b, s + i - plain, plain);
		plain = 0;
		if (n)
			add_escape(b, c);
		else
			buf_str(b, "\xEF\xBF\xBD");
		i++;
	}
	if (plain)
		buf_add(b, s + len - plain, plain);
	buf_add(b, "\"", 1);
}
