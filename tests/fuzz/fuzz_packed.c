/* Bytes -> packed_decode: what was found lies within them, and packs to the same again. */
#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "base/buf.h"
#include "base/mem.h"
#include "codec/packed.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void pack(struct buf *b, struct slice s)
{
	buf_printf(b, "%zu:", s.len);
	if (s.len)
		buf_add(b, s.p, s.len);
}

static void pack_why(struct buf *b, const struct packed_entry *e)
{
	struct buf why;
	buf_init(&why);
	if (e->why.len)
		buf_add(&why, e->why.p, e->why.len);
	if (e->tries)
		buf_printf(&why, " %u", e->tries);
	pack(b, (struct slice){why.data, why.len});
	buf_fini(&why);
}

/* Leading zeros of a length are read and not written. */
static bool has_zeros(const char *p, size_t len)
{
	for (size_t i = 0; i + 1 < len; i++)
		if (p[i] == '0' && p[i + 1] >= '0' && p[i + 1] <= '9')
			return true;
	return false;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct packed room = {0};
	struct packed_entry e;
	char *copy = mem_dup((const char *)data, size);
	if (packed_decode(&room, (struct slice){copy, size}, &e)) {
		struct buf b;
		buf_init(&b);
		pack(&b, e.stream);
		pack_why(&b, &e);
		pack(&b, e.reason);
		for (size_t i = 0; i < e.n; i++) {
			pack(&b, e.fields[i].name);
			pack(&b, e.fields[i].value);
		}
		assert(b.len <= size);
		assert(has_zeros(copy, size) || (b.len == size && memcmp(b.data, copy, size) == 0));
		buf_fini(&b);
	}
	mem_free(copy);
	packed_fini(&room);
	return 0;
}
