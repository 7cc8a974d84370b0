/* The same bytes in two different cuts give the same lines and the same end. First byte: max_frame, second: the cut. */
#include "codec/frame.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void demand(bool is_kept)
{
	if (!is_kept)
		abort();
}

/* Appends the lines, each with a '\n', to out. Returns how it ended. */
static enum err_code split(const char *bytes, size_t size, size_t max_frame, size_t cut, struct buf *out)
{
	struct frame_splitter s;
	enum err_code code = ERR_OK;
	char *line;
	size_t len;
	frame_splitter_init(&s, max_frame);
	for (size_t at = 0; at < size && !code; at += cut) {
		frame_splitter_feed(&s, bytes + at, size - at < cut ? size - at : cut);
		while (frame_splitter_next(&s, &line, &len, &code)) {
			demand(len > 0 && len <= max_frame && line[len] == '\0' && !memchr(line, '\n', len));
			buf_add(out, line, len);
			buf_add(out, "\n", 1);
		}
		demand(code == ERR_OK || code == ERR_RANGE);
		demand(code || s.pending.len - s.start <= max_frame + 1);
	}
	frame_splitter_fini(&s);
	return code;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (size < 3)
		return 0;
	const char *bytes = (const char *)data + 2;
	struct buf whole, pieces;
	buf_init(&whole);
	buf_init(&pieces);
	enum err_code a = split(bytes, size - 2, data[0] + 1u, size, &whole);
	enum err_code b = split(bytes, size - 2, data[0] + 1u, data[1] + 1u, &pieces);
	demand(a == b && whole.len == pieces.len);
	demand(whole.len == 0 || memcmp(whole.data, pieces.data, whole.len) == 0);
	buf_fini(&whole);
	buf_fini(&pieces);
	return 0;
}
