/* msg - every message between threads, and who owns what in it.
 * RUN_CORE carries a message of core/turn.h; the others are the runtime's own. Fixed size, copied by value. */
#pragma once
#include "base/log.h"
#include "core/handoff/handoff.h"
#include "core/metric.h"
#include "core/shard/shard.h"
#include "core/turn.h"
#include "io/redis/conn.h"

enum run_msg_kind {
	RUN_CORE, /* .core: what it owns moves to the receiver */
	RUN_QUIT, /* coordinator -> shard: close everything, end the thread */
	/* coordinator -> shard: .username (owned) .password (secret_keep's) for all connections; the receiver ends
	 * both */
	RUN_AUTH,
	RUN_TLS,     /* coordinator -> shard: .tls (a reference moves) */
	RUN_TIMES,   /* coordinator -> shard: .times */
	RUN_MAINT,   /* coordinator -> shard: .maint: rules at once, mode and type from the next connections on */
	RUN_SNAPSHOT /* shard -> coordinator, once a second, and when a connection came or went: .snapshot (owned) */
};

/* What a step says, as a log line. Any thread. */
static inline void run_say(const struct effect *ef)
{
	static const enum log_level levels[] = {[LOG_ERROR] = LOG_ERROR,
		[LOG_WARN] = LOG_WARN,
		[LOG_NOTICE] = LOG_NOTICE,
		[LOG_INFO] = LOG_INFO,
		[LOG_DEBUG] = LOG_DEBUG};
	log_line(levels[ef->level], "%s", ef->text ? ef->text->bytes : "");
}

struct snapshot_conn {
	uint8_t role; /* enum conn_role */
	bool is_up;
	uint16_t svc; /* readers */
	bool is_relaxed;
	uint8_t handoff;                /* enum handoff_state */
	uint8_t maint;                  /* enum redis_maint_state */
	char endpoint[HANDOFF_ADDRESS]; /* dialled */
	char peer[HANDOFF_PEER];        /* who answers there; "" = nobody */
	char why[HANDOFF_WHY];          /* the last attempt to move or to come back failed; "" = it did not */
};
/* "idle" "relaxed" "handing-off" "draining" (role_conn_move.c) */
const char *snapshot_conn_word(const struct snapshot_conn *c);

struct snapshot_handoff {
	uint32_t n_active, n_queued, n_relaxed, n_breakers_open;
	uint8_t breaker;                        /* enum breaker_state: the worst */
	char breaker_endpoint[HANDOFF_ADDRESS]; /* of it; "" = all closed */
	struct metrics_handoff m;
};

struct snapshot_service {
	uint16_t svc;
	struct shard_feeds feeds; /* entries mode */
	struct shard_lengths lengths;
	struct metrics_service m;
};

struct snapshot { /* of one shard, as of .at */
	mono_ms at, lag_ms;
	uint32_t n_leases;
	size_t n_conns, n_in_flight;
	struct snapshot_conn *conns; /* in the same block, behind the services */
	struct snapshot_handoff handoff;
	struct metrics_redis redis;
	struct shard_refused refused;
	int64_t clock_offset_ms; /* the server's minus ours; 0 until it is known */
	struct hist lag;
	size_t n_services;
	struct snapshot_service services[];
};

struct run_msg {
	enum run_msg_kind kind;
	uint16_t shard; /* sender, from shards */
	union {
		struct msg core;
		struct {
			char *username;
			const char *password;
			bool is_for_next; /* connections that are up stay who they are */
		};
		struct redis_tls *tls;
		struct {
			mono_ms command_timeout_ms;
			struct redis_times redis;
		} times;
		struct {
			struct handoff_rules rules;
			enum redis_maint mode;
			char endpoint_type[16];
		} maint;
		struct snapshot *snapshot;
	};
};
