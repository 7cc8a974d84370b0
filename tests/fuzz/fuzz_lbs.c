/* Any bytes as lbs-input: no crash, and what is accepted comes out as one line of JSON that reads as the same again. */
#include "codec/reply.h"

#include <stdlib.h>
#include <string.h>

#include "base/buf.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void demand(bool is_kept)
{
	if (!is_kept)
		abort();
}

static bool texts_equal(const struct text *a, const struct text *b)
{
	return a->len == b->len && memcmp(a->bytes, b->bytes, a->len) == 0;
}

static void check_again(const struct entry_in *e)
{
	struct buf json;
	buf_init(&json);
	buf_str(&json, "{\"DataStreamName\":");
	buf_json_str(&json, e->stream->bytes, e->stream->len);
	buf_str(&json, ",\"Info\":");
	buf_add(&json, e->info->bytes, e->info->len);
	buf_str(&json, "}");
	demand(!memchr(json.data, '\n', json.len) && !memchr(json.data, '\0', json.len));
	struct entry_in again = {.id = e->id};
	const struct lbs_fields fields = {.input = {json.data, json.len}};
	reply_read_input(&again, &fields);
	demand(again.problem == ENTRY_GOOD && texts_equal(again.stream, e->stream) && texts_equal(again.info, e->info));
	demand(again.lock_slot == e->lock_slot);
	text_unref(again.stream);
	text_unref(again.info);
	buf_fini(&json);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct entry_in e = {.id = {1700000000000, 3}};
	const struct slice bytes = {(const char *)data, size};
	/* the same bytes as a retry count, a mark and a trace */
	const struct lbs_fields fields = {.input = bytes, .retry = bytes, .suspect = bytes, .trace = {bytes, bytes}};
	reply_read_input(&e, &fields);
	demand(e.retry <= 999999999 && !(e.bad_retry && e.retry));
	demand(e.problem != ENTRY_NO_INPUT || !data);
	if (e.problem == ENTRY_GOOD) {
		demand(e.stream->len > 0 && !memchr(e.stream->bytes, '\0', e.stream->len));
		check_again(&e);
	}
	text_unref(e.stream);
	text_unref(e.info);
	demand(!e.trace || !memchr(e.trace->bytes, '\n', e.trace->len));
	text_unref(e.trace);
	return 0;
}
