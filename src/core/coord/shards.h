/* shards - the threads that serve the masters, by their number (topology.h), and when the topology is looked up.
 * Pure. Owner: the coordinator's thread; read by the views of run/, which live on it. Times: monotonic ms. A shard is
 * on between EFF_SHARD_START and MSG_STOPPED; messages go only to those. One that cannot start is tried again. */
#pragma once
#include "core/rules.h"
#include "core/turn.h"

struct coord_shard {
	bool is_on;
	bool is_up[CONN_ROLES], was_up; /* was_up: its command connection */
	bool is_leaving;                /* has no slots any more: stops when empty */
	bool is_stopping;               /* asked to stop */
	bool is_refused;                /* it could not be started: tried again at start_at, n_tries so far, .why */
	uint8_t n_tries;
	mono_ms start_at, said_at; /* said_at: its last line about that; 0 = none */
	mono_ms heard_at;          /* a lease of it was confirmed: the last time */
	mono_ms stuck_at;          /* an entry waited long for its lock or position there: the last time; 0 = none */
	mono_ms since, down_since; /* started; its command connection is down: since when */
	char why[200];             /* last reason for being down */
};

/* The threads that serve the masters: shards.c. */
struct coord_shards {
	struct coord_shard *v; /* by topology node; owned */
	uint16_t n;
	bool had_any;        /* a shard that starts now takes slots over from another master */
	mono_ms start_again; /* those that could not be started are tried then */
};

enum { TOPO_REASONS = 4 }; /* that are told of, each once until it is known again */

/* Why the topology is looked up, as sluice_topology_refresh_total has it. */
enum topo_reason { TOPO_PERIODIC, TOPO_MOVED, TOPO_OTHER };

/* Look-ups of the topology, and what was said of them: shards.c. */
struct coord_look_up {
	mono_ms next, asked;
	bool is_pending, is_again;
	enum topo_reason reason, next_reason; /* of the look-up under way; of the one at .next */
	mono_ms failed_at;                    /* it cannot be read since then; 0 = it can */
	uint64_t said[TOPO_REASONS];          /* hashes of the reasons told since it was last known; 0 = free */
	mono_ms left_out_said;                /* the last line about masters without a number; 0 = none */
	mono_ms moved_at, moved_said; /* the last MOVED of a standalone server; the last line about it; 0 = none */
	struct {
		int64_t seq;
		mono_ms until; /* 0 = none */
	} announced[8];        /* slot moves the topology was asked for */
	uint32_t n_announced;
};

/* What is configured as a standalone server, or looks like one, redirects to others: it is a master of a cluster. */
bool look_up_is_redirected(const struct coord_look_up *l, mono_ms now);
/* Can messages go to it? SHARD_NONE is none. */
bool shards_is_on(const struct coord_shards *ss, uint16_t shard);
