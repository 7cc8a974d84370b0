/* Any bytes a server may send: the first says which command they answer, the rest goes through the library's reader.
 * No crash, no leak, slices lie where they say, and every answer is of a kind its command may have. */
#include "base/buf.h"
#include "base/mem.h"
#include "codec/reply.h"

#include <yyjson.h>
#include <stdlib.h>
#include <string.h>

#include <hiredis/hiredis.h>

#include "codec/command.h"
#include "codec/reply_sentinel.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static size_t n_read;

static void demand(bool is_kept)
{
	if (!is_kept)
		abort();
}

static void touch(struct slice s)
{
	for (size_t i = 0; s.p && i < s.len; i++)
		n_read += (unsigned char)s.p[i];
}

static void check_entries(const struct entry_batch *b)
{
	for (size_t i = 0; i < b->n; i++) {
		const struct entry_in *e = &b->v[i];
		demand((e->problem == ENTRY_GOOD) == (e->stream != NULL) && !e->stream == !e->info);
		demand(e->retry <= 999999999);
		if (e->stream)
			demand(e->stream->len > 0 && e->stream->len <= REPLY_STREAM_MAX &&
				e->lock_slot == command_lock_slot(e->stream->bytes, e->stream->len, e->id));
		for (size_t k = 0; e->fields && k < e->fields->n; k++) {
			touch(e->fields->v[k].name);
			touch(e->fields->v[k].value);
		}
	}
}

/* Each is JSON once its bracket is closed, whatever bytes it has. */
static void check_feed(const struct feed_batch *f)
{
	for (uint32_t i = 0; i < f->n; i++) {
		struct buf b;
		buf_init(&b);
		buf_add(&b, f->v[i].json, f->v[i].len);
		buf_str(&b, "]");
		yyjson_doc *doc = yyjson_read(b.data, b.len, 0);
		demand(yyjson_arr_size(yyjson_doc_get_root(doc)) == 2 && !memchr(b.data, '\n', b.len));
		yyjson_doc_free(doc);
		buf_fini(&b);
	}
}

static void check(const struct reply *r)
{
	touch(r->text);
	for (size_t i = 0; r->kind == REPLY_PENDING && i < r->n; i++)
		touch(r->pending[i].consumer);
	for (size_t i = 0; r->kind == REPLY_CONSUMERS && i < r->n; i++)
		touch(r->consumers[i].name);
	for (size_t i = 0; r->kind == REPLY_SLOTS && i < r->n; i++)
		demand(r->slots[i].from <= r->slots[i].to && r->slots[i].to < 16384 &&
			memchr(r->slots[i].host, '\0', sizeof r->slots[i].host) &&
			memchr(r->slots[i].alt, '\0', sizeof r->slots[i].alt));
	if (r->kind == REPLY_ERROR && (r->error == RERR_MOVED || r->error == RERR_ASK))
		demand(r->moved_slot < 16384 && r->text.len > 0);
	if (r->kind == REPLY_FEED) {
		check_feed(r->feed);
		mem_free(r->feed);
	}
	if (r->kind == REPLY_POSITION)
		demand(r->integer >= 0 && r->n <= 15 && r->wait_ms >= 0 && r->n_added >= -1 && r->n_lost >= 0);
	if (r->kind == REPLY_ENTRIES) {
		check_entries(r->entries);
		entry_batch_free(r->entries);
	}
}

static void check_sentinel(const struct redisReply *r)
{
	char addr[SENTINEL_ADDR], peers[3][SENTINEL_ADDR];
	if (sentinel_decode_addr(r, addr))
		demand(strchr(addr, ':') != NULL);
	demand(sentinel_decode_epoch(r) >= 0);
	demand(sentinel_decode_peers(r, peers, 3) <= 3);
	n_read += sentinel_is_switch(r, "m");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct reply_decoder *d;
	if (!d)
		d = reply_decoder_new();
	if (size == 0)
		return 0;
	redisReader *reader = redisReaderCreate();
	reader->maxelements = 1 << 16;
	redisReaderFeed(reader, (const char *)data + 1, size - 1);
	void *raw = NULL;
	if (redisReaderGetReply(reader, &raw) == REDIS_OK && raw) {
		struct reply r;
		reply_decode(d, (enum cmd_kind)(data[0] % CMD_N), raw, &r);
		demand(r.kind != REPLY_NONE);
		check(&r);
		check_sentinel(raw);
		struct push p;
		reply_decode_push(raw, &p);
		touch(p.name);
		touch(p.stream);
		demand(p.kind != PUSH_LOCK_EXPIRED || p.stream.len > 0);
	}
	if (raw)
		freeReplyObject(raw);
	redisReaderFree(reader);
	return 0;
}
