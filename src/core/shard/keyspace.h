/* keyspace - the life of the subscription to expiry events of locks: flags merged, subscribed, again after every
 * reconnect. Pure. Owner: the shard thread; used by core/shard. Events are a hint: without them recovery is slower, not
 * wrong. */
#pragma once
#include "core/shard/shard_p.h"

/* DOWN -> ASKING (CONFIG GET) -> [SETTING (CONFIG SET)] -> SUBSCRIBING -> READY.  require and flags not to be had:
 * REFUSED, asked again. READY: the flags are looked at once a minute, since others set them, too, and what was denied
 * may be allowed now; denied again and again, in pauses that grow to 16 minutes. ASKING again when they are missing. */
enum keyspace_state {
	KEYSPACE_DOWN,
	KEYSPACE_ASKING,
	KEYSPACE_SETTING,
	KEYSPACE_SUBSCRIBING,
	KEYSPACE_READY,
	KEYSPACE_REFUSED
};

struct keyspace {
	uint8_t state; /* enum keyspace_state */
	uint32_t gen;
	uint8_t tries;
	bool in_flight;
	bool is_denied_said;
	bool were_on;     /* seen set, or set by us, since this connection is up */
	uint8_t n_denied; /* one after the other; counted up to what lengthens the pause */
	mono_ms at;       /* asked again; subscribing: not confirmed in time; ready: looked at */
};

/* Asserts what holds between turns: a question is under way only while one is asked, or ready and it is looked at. */
void keyspace_check(const struct keyspace *k);
/* No subscriber yet. */
void keyspace_init(struct keyspace *k);
/* The subscriber's connection is up: events are switched on, then subscribed to. Down, and why: told to the
 * coordinator. */
void keyspace_conn(struct keyspace *k, struct shard_ctx *c, bool is_up, struct slice why);
/* The command connection is new, so the server may be: the flags are looked at again. */
void keyspace_command_up(struct keyspace *k, struct shard_ctx *c);
/* The subscription is confirmed: from here on expiries are heard. */
void keyspace_pushed(struct keyspace *k, struct shard_ctx *c);
/* An answer to CONFIG GET or SET; another's tag is ignored. */
void keyspace_reply(struct keyspace *k, struct shard_ctx *c, uint64_t tag, const struct reply *reply);
/* Each step: asks what is due. Returns the next deadline. */
mono_ms keyspace_flush(struct keyspace *k, struct shard_ctx *c);
