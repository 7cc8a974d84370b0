/* reply_feed - the answers that only entries mode asks for. Pure; any thread. */
#pragma once
#include "base/buf.h"
#include "core/cmd.h"
struct redisReply;

/* XRANGE of a data stream -> FEED, ids in order; *b is a scratch buffer, kept between calls. False: a shape we do not
 * know. */
bool reply_decode_feed(struct buf *b, const struct redisReply *r, struct reply *out);
/* A name or a value as the worker protocol has it: a string where it is UTF-8, else {"b64": "…"}. */
void reply_feed_value(struct buf *b, const char *s, size_t len);
/* The open script's answer -> POSITION, or NIL: a newer token, .id. False: a shape we do not know. */
bool reply_decode_position(const struct redisReply *r, struct reply *out);
