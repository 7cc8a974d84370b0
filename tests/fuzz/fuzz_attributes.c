/* Any bytes in any pieces: what is passed on is the same as in one piece, and is never more than came. */
#include "io/redis/attributes.h"

#include <stdlib.h>
#include <string.h>

#include "base/buf.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void collect(void *arg, const char *bytes, size_t len)
{
	buf_add(arg, bytes, len);
}

static bool feed(const char *bytes, size_t len, size_t step, struct buf *out)
{
	struct attributes a = {0};
	bool is_good = true;
	for (size_t at = 0; at < len && is_good; at += step)
		is_good = attributes_feed(&a, bytes + at, len - at < step ? len - at : step, collect, out);
	return is_good;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct buf whole, pieces;
	if (size < 2)
		return 0;
	buf_init(&whole);
	buf_init(&pieces);
	const char *bytes = (const char *)data + 1;
	bool is_good = feed(bytes, size - 1, size - 1, &whole);
	bool is_good_too = feed(bytes, size - 1, 1 + data[0] % 16, &pieces);
	if (is_good != is_good_too || whole.len > size - 1)
		abort();
	if (is_good && (whole.len != pieces.len || (whole.len && memcmp(whole.data, pieces.data, whole.len) != 0)))
		abort();
	buf_fini(&whole);
	buf_fini(&pieces);
	return 0;
}
