/* keyspace - the life of the subscription to expiry events of locks: flags merged, subscribed, again after every
 * reconnect. Pure. Owner: the shard thread; used by core/shard. Events are a hint: without them recovery is slower, not
 * wrong. */
#pragma once
#include "core/shard/shard_p.h"

/* DOWN -> ASKING (CONFIG GET) -> [SETTING (CONFIG SET)] -> SUBSCRIBING -> READY.  require and flags not to be had:
 * REFUSED, asked again. */
enum keyspace_state {
	KEYSPACE_DOWN,
	KEYSPACE_ASKING,
	KEYSPACE_SETTING,
	KEYSPACE_SUBSCRIBING,
	KEYSPACE_READY,
	KEYSPACE_REFUSED
};

struct keyspace {
	enum keyspace_state state;
	uint32_t gen;
	uint8_t tries;
	bool in_flight;
	bool is_denied_said;
	mono_ms at; /* asked again; subscribing: not confirmed in time */
};

void keyspace_init(struct keyspace *k);
void keyspace_conn(struct keyspace *k, struct shard_ctx *c, bool is_up, struct slice why);
void keyspace_command_up(struct keyspace *k, struct shard_ctx *c);
void keyspace_pushed(struct keyspace *k, struct shard_ctx *c);
void keyspace_reply(struct keyspace *k, struct shard_ctx *c, uint64_t tag, const struct reply *reply);
mono_ms keyspace_flush(struct keyspace *k, struct shard_ctx *c);
