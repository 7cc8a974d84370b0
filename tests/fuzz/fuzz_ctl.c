/* Control requests: whatever comes in, ctl_decode answers with a request that encodes and decodes to itself, or with a
 * sentence. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "codec/ctl.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void must(bool claim, const char *what)
{
	if (!claim) {
		fprintf(stderr, "%s\n", what);
		abort();
	}
}

static void check_round_trip(const struct ctl_request *r)
{
	struct buf first, second;
	struct ctl_request again;
	struct err err = {0};
	buf_init(&first);
	buf_init(&second);
	if (ctl_encode(&first, r, &err) == ERR_OK) { /* escapes may make it longer than the limit */
		must(memchr(first.data, '\n', first.len) == first.data + first.len - 1, "more than one line");
		must(ctl_decode(first.data, first.len, &again, &err) == ERR_OK, err.text);
		must(ctl_encode(&second, &again, &err) == ERR_OK, err.text);
		must(strcmp(first.data, second.data) == 0, "the round trip changed it");
		ctl_request_fini(&again);
	}
	buf_fini(&first);
	buf_fini(&second);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct ctl_request r;
	struct err err = {0};
	if (ctl_decode((const char *)data, size, &r, &err) == ERR_OK) {
		must(ctl_request_check(&r, &err) == ERR_OK, err.text);
		check_round_trip(&r);
		ctl_request_fini(&r);
	} else {
		must(err.text[0] != 0, "no sentence");
		must(strchr(err.text, '\n') == NULL, "the sentence has lines");
	}
	return 0;
}
