/* Any bytes, with the checksum and length set right so that the records are reached: what is read is written back the same. */
#include "codec/state.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { HEAD = 32 };

static void le64(char *at, uint64_t v)
{
	for (unsigned i = 0; i < 8; i++)
		at[i] = (char)(v >> (8 * i) & 0xff);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct state s;
	struct err err;
	if (state_decode((const char *)data, size, &s, &err) == ERR_OK) /* as it came */
		state_fini(&s);
	char *image = malloc(size + HEAD);
	if (!image)
		abort();
	struct buf empty;
	buf_init(&empty);
	state_encode(&empty, &(struct state){0});
	memcpy(image, empty.data, HEAD);
	memcpy(image + HEAD, data, size);
	le64(image + 16, size);
	le64(image + 24, state_checksum(image + HEAD, size));
	if (state_decode(image, size + HEAD, &s, &err) == ERR_OK) {
		buf_clear(&empty);
		state_encode(&empty, &s);
		if (empty.len != size + HEAD || memcmp(empty.data, image, empty.len) != 0)
			abort();
		state_fini(&s);
	}
	buf_fini(&empty);
	free(image);
	return 0;
}
