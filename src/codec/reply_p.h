/* reply_p - what the files of codec/reply share: the scratch, the parts of an answer, the decoders of tables. */
#pragma once
#include <string.h>

#include <hiredis/hiredis.h>

#include "base/buf.h"
#include "codec/command.h"
#include "codec/reply.h"

struct reply_decoder {
	struct pending_row *pending;
	struct consumer_row *consumers;
	struct slot_range *slots;
	struct field *fields;
	struct buf json;
	struct reply many[CMD_MANY_MAX];
	size_t n_pending, n_consumers, n_slots, n_fields; /* room */
	char odd_row[200];                                /* the first of the last slot map that was left out */
};

/* An answer that is no error -> *out. False: a shape that the command does not have; *out is anything then. */
typedef bool decode_fn(struct reply_decoder *d, const redisReply *r, struct reply *out);

static inline bool reply_is_text(const redisReply *r)
{
	return r && (r->type == REDIS_REPLY_STRING || r->type == REDIS_REPLY_STATUS || r->type == REDIS_REPLY_VERB);
}

static inline bool reply_is_list(const redisReply *r)
{
	return r && (r->type == REDIS_REPLY_ARRAY || r->type == REDIS_REPLY_MAP || r->type == REDIS_REPLY_SET);
}

static inline bool reply_is_int(const redisReply *r)
{
	return r && r->type == REDIS_REPLY_INTEGER;
}

static inline struct slice reply_slice_of(const redisReply *r)
{
	return (struct slice){r->str, r->len};
}

static inline bool reply_equals(const redisReply *r, const char *s)
{
	return reply_is_text(r) && r->len == strlen(s) && memcmp(r->str, s, r->len) == 0;
}

static inline bool reply_id_of(const redisReply *r, struct entry_id *id)
{
	return reply_is_text(r) && command_id_parse(r->str, r->len, id);
}

/* Tables, kept in the scratch. */
decode_fn reply_decode_pending, reply_decode_ghosts, reply_decode_consumers, reply_decode_left, reply_decode_slots;
