#include "codec/reply_feed.h"

#include <string.h>

#include <hiredis/hiredis.h>

#include "base/mem.h"
#include "codec/command.h"

static bool is_feed_string(const redisReply *r)
{
	return r && (r->type == REDIS_REPLY_STRING || r->type == REDIS_REPLY_STATUS || r->type == REDIS_REPLY_VERB);
}

static void add_base64(struct buf *b, const char *s, size_t len)
{
	static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
	const unsigned char *p = (const unsigned char *)s;
	for (size_t i = 0; i < len; i += 3) {
		const size_t left = len - i;
		const uint32_t v =
			(uint32_t)p[i] << 16 | (left > 1 ? (uint32_t)p[i + 1] << 8 : 0) | (left > 2 ? p[i + 2] : 0);
		const char out[4] = {digits[v >> 18], digits[v >> 12 & 63], left > 1 ? digits[v >> 6 & 63] : '=',
			left > 2 ? digits[v & 63] : '='};
		buf_add(b, out, 4);
	}
}

void reply_feed_value(struct buf *b, const char *s, size_t len)
{
	if (buf_json_plain(b, s, len))
		return;
	if (buf_is_utf8(s, len)) {
		buf_json_str(b, s, len);
		return;
	}
	buf_str(b, "{\"b64\":\"");
	add_base64(b, s, len);
	buf_str(b, "\"}");
}

/* ["17-0",["name","value",…] and the bracket is left to whoever knows its tries. */
static bool add_feed_entry(struct buf *b, const redisReply *r, struct entry_id *id)
{
	if (r->type != REDIS_REPLY_ARRAY || r->elements != 2 || !is_feed_string(r->element[0]) ||
		!command_id_parse(r->element[0]->str, r->element[0]->len, id))
		return false;
	const redisReply *list = r->element[1];
	if (list->type != REDIS_REPLY_ARRAY || list->elements % 2 != 0)
		return false;
	buf_add(b, "[\"", 2);
	buf_add(b, r->element[0]->str, r->element[0]->len);
	buf_add(b, "\",[", 3);
	for (size_t i = 0; i < list->elements; i++) {
		if (!is_feed_string(list->element[i]))
			return false;
		if (i)
			buf_add(b, ",", 1);
		reply_feed_value(b, list->element[i]->str, list->element[i]->len);
	}
	buf_add(b, "]", 1);
	return true;
}

bool reply_decode_feed(struct buf *b, const struct redisReply *r, struct reply *out)
{
	if (r->type != REDIS_REPLY_ARRAY)
		return false;
	const size_t n = r->elements, head = sizeof(struct feed_batch) + n * sizeof(((struct feed_batch *)0)->v[0]);
	struct feed_batch *f = mem_alloc(head);
	buf_clear(b);
	f->n = (uint32_t)n;
	for (size_t i = 0; i < n; i++) {
		const size_t from = b->len;
		if (!add_feed_entry(b, r->element[i], &f->v[i].id) ||
			(i && entry_id_cmp(f->v[i].id, f->v[i - 1].id) <= 0)) {
			mem_free(f);
			return false;
		}
		f->v[i].len = b->len - from;
	}
	if (n) {
		f = mem_grow(f, head + b->len, 1);
		char *at = (char *)f + head;
		memcpy(at, b->data, b->len);
		for (size_t i = 0; i < n; i++) {
			f->v[i].json = at;
			at += f->v[i].len;
		}
	}
	*out = (struct reply){.kind = REPLY_FEED, .feed = f};
	return true;
}

bool reply_decode_position(const struct redisReply *r, struct reply *out)
{
	if (r->type == REDIS_REPLY_NIL) {
		*out = (struct reply){.kind = REPLY_NIL};
		return true;
	}
	if (r->type == REDIS_REPLY_STRING) {
		*out = (struct reply){.kind = REPLY_NIL};
		command_token_parse(r->str, r->len, &out->id);
		return true;
	}
	if (r->type == REDIS_REPLY_INTEGER && r->integer == -3) {
		*out = (struct reply){.kind = REPLY_INT, .integer = -3};
		return true;
	}
	struct entry_id id, bad = {0};
	if (r->type != REDIS_REPLY_ARRAY || r->elements != 8 || !is_feed_string(r->element[0]) ||
		!command_id_parse(r->element[0]->str, r->element[0]->len, &id) || !is_feed_string(r->element[4]) ||
		(r->element[4]->len && !command_id_parse(r->element[4]->str, r->element[4]->len, &bad)))
		return false;
	long long n[3];
	for (size_t i = 0; i < 3; i++) {
		const redisReply *e = r->element[1 + i];
		if (e->type != REDIS_REPLY_INTEGER || e->integer < 0 || e->integer > INT32_MAX)
			return false;
		n[i] = e->integer;
	}
	const redisReply *added = r->element[5], *lost = r->element[6], *ends = r->element[7];
	if (n[1] > 31 || ends->type != REDIS_REPLY_INTEGER || ends->integer < 0 || added->type != REDIS_REPLY_INTEGER ||
		lost->type != REDIS_REPLY_INTEGER || lost->integer < 0)
		return false;
	*out = (struct reply){.kind = REPLY_POSITION,
		.id = id,
		.integer = n[0],
		.n = (size_t)n[1],
		.wait_ms = n[2],
		.bad = bad,
		.n_added = added->integer < 0 || added->integer > INT64_MAX / 2 ? -1 : added->integer,
		.n_lost = lost->integer,
		.n_ends = ends->integer < INT32_MAX ? (uint32_t)ends->integer : INT32_MAX};
	return true;
}
