/* codec/push - a RESP3 push -> a maintenance notification. Pure; any thread. Bytes from outside: every shape is
 * survived. Lenient: names in any case, simple or bulk strings, integers as text, elements missing at the end or
 * too many. */
#pragma once
#include "core/handoff/handoff.h"
struct redisReply;

enum push_class {
	PUSH_IS_NOTE,   /* *out is filled in */
	PUSH_IS_PUBSUB, /* a message, a confirmation, an invalidation: not ours to read here */
	/* an unknown name (out->kind NOTE_KINDS), or a notification without its number, a MOVING without time and
	 * endpoint */
	PUSH_IS_BROKEN
};
/* out->seconds and out->endpoint keep zero when absent; an endpoint that cannot be dialled counts as null.
 * *name (may be NULL) points to the push's name. */
enum push_class push_decode(const struct redisReply *r, struct note *out, struct slice *name);

/* "host:port", "[v6]:port" or bare "v6:port" -> the form io/redis dials; false (and out "") when it cannot be
 * dialled. */
bool push_endpoint(const char *text, size_t len, char out[HANDOFF_ADDRESS]);
