/* text - immutable, reference-counted bytes (a stream's name, an Info). May be shared between threads: nobody
 * writes after text_new, the count is atomic. Every holder owns one reference; messages move or copy references as
 * they say. */
#pragma once
#include "base/mem.h"
#include <stdatomic.h>
#include <stdint.h>
#include <string.h>

struct text {
	atomic_uint refs;
	uint32_t len;
	char bytes[]; /* with a closing NUL that len does not count */
};

/* Room for len bytes, to be filled in, with the NUL behind them, before anybody else has it. */
static inline struct text *text_room(size_t len)
{
	struct text *t = mem_grow(NULL, sizeof *t + len + 1, 1);
	atomic_init(&t->refs, 1);
	t->len = (uint32_t)len;
	return t;
}

static inline struct text *text_new(const char *bytes, size_t len)
{
	struct text *t = text_room(len);
	if (len)
		memcpy(t->bytes, bytes, len);
	t->bytes[len] = '\0';
	return t;
}

/* "" behind the number 1, else "s": 1 worker, 2 workers. */
static inline const char *text_plural(int64_t n)
{
	return n == 1 ? "" : "s";
}

/* How many of the len bytes of UTF-8 fit into max, not in the middle of a character. */
static inline size_t text_fit(const char *bytes, size_t len, size_t max)
{
	if (len <= max)
		return len;
	size_t n = max;
	for (int i = 0; i < 3 && n > 0 && ((unsigned char)bytes[n] & 0xc0) == 0x80; i++)
		n--;
	return ((unsigned char)bytes[n] & 0xc0) == 0x80 ? max : n; /* not UTF-8 */
}

static inline struct text *text_ref(struct text *t)
{
	if (t)
		atomic_fetch_add_explicit(&t->refs, 1, memory_order_relaxed);
	return t;
}

static inline void text_unref(struct text *t)
{
	if (t && atomic_fetch_sub_explicit(&t->refs, 1, memory_order_acq_rel) == 1)
		mem_free(t);
}
