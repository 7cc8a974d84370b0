/* rules - the settings the core needs, as plain numbers. Built by run/ from the configuration; core never sees config/.
 * struct service_rules is immutable and reference-counted: coordinator and shards hold references, each
 * on its thread. Data only. */
#pragma once
#include "base/mono.h"
#include "base/text.h"
#include <stdbool.h>
#include <stdint.h>

enum { SERVICE_NONE = 0xffff, SHARD_NONE = 0xffff, SERVICES_MAX = 256, SHARDS_MAX = 512, SLOTS = 16384 };

/* services[].same_stream, in the order of its words: a second entry that names a running stream */
enum same_stream { SAME_STREAM_SERIALIZE, SAME_STREAM_ALLOW, SAME_STREAM_COALESCE };

/* When an entry comes back: after a failure initial × factor^n, at most max, and up to jitter_pct more of it. */
struct retry_rules {
	mono_ms initial_ms, max_ms; /* initial 0 = at once */
	uint32_t factor;
	unsigned jitter_pct;
	mono_ms release_delay_ms;
};

struct entries_rules { /* entries mode */
	bool is_on;
	bool trim, delete_stream; /* on_ack: trim; on_done: delete */
	uint32_t batch, window, max_retries;
	uint32_t batch_bytes;
	uint32_t entry_bytes; /* the JSON text of one entry may have, so that its frame fits */
	mono_ms idle_release_ms /* 0 = the worker ends it */, position_ttl_ms, poll_max_ms;
	mono_ms retry_initial_ms, retry_max_ms;
	unsigned retry_factor, retry_jitter_pct;
	int64_t dlq_max_len; /* 0 = unbounded */
	uint16_t dlq_slot;
	char start[4]; /* "0" or "$" */
	char dlq[256]; /* "" = <name>-entries-dlq */
};

/* A key that the daemons keep for a service: no data stream. */
enum own_kind { OWN_LBS, OWN_STATE /* registry, delayed set, … */, OWN_DEAD_LETTERS };
struct own_key {
	uint64_t hash; /* fnv of the name */
	enum own_kind kind;
	const char *name;
};

struct lease_rules { /* of its locks */
	mono_ms ttl_ms, renew_ms, stop_margin_ms;
	mono_ms old_margin_ms, old_until; /* a lease good until before old_until keeps the margin of former rules */
};

struct recovery_rules { /* of entries whose owner is gone */
	mono_ms scan_interval_ms, min_idle_ms, forget_consumer_ms;
	uint32_t scan_page;
	bool probe;
};

struct dlq_rules {
	char name[256]; /* "" = <service>-input-dlq */
	uint16_t slot;
	bool is_same_slot;
	int64_t max_len; /* 0 = unbounded */
};

struct own_keys {
	const struct own_key *v; /* NULL = none */
	uint32_t n;
};

struct service_rules {
	atomic_uint refs;
	uint16_t svc; /* stable id, never reused while the process lives */
	uint16_t lbs_slot;
	enum same_stream same_stream;
	uint32_t weight; /* 1..100: its share of free credits when several services want them */
	uint32_t read_batch, max_streams, max_retries, wait_replicas;
	unsigned jitter_pct;
	struct lease_rules lease;
	struct recovery_rules recovery;
	struct retry_rules retry;
	struct dlq_rules dlq;
	uint64_t hash; /* of the name: part of lease strings */
	struct entries_rules entries;
	char group_start[4]; /* "0" or "$" */
	char name[136];
	struct own_keys own; /* in the same memory */
};

static inline struct service_rules *service_rules_ref(struct service_rules *r)
{
	atomic_fetch_add_explicit(&r->refs, 1, memory_order_relaxed);
	return r;
}

static inline void service_rules_unref(struct service_rules *r)
{
	if (r && atomic_fetch_sub_explicit(&r->refs, 1, memory_order_acq_rel) == 1)
		mem_free(r);
}

/* How long before the end of a lease its work stops. A larger margin must not reach back: it could begin in the
 * past. */
static inline mono_ms service_stop_margin(const struct service_rules *r, mono_ms good_until)
{
	return good_until < r->lease.old_until ? r->lease.old_margin_ms : r->lease.stop_margin_ms;
}

/* Idle streams may give up their credits: only where each add is a wish of its own. With coalesce who has added to a
 * data stream has named it, too; else it may be a session, named once, and its next entry would wait for nobody. */
static inline bool service_idle_may_yield(const struct service_rules *r)
{
	return r->same_stream == SAME_STREAM_COALESCE && r->entries.idle_release_ms > 0;
}

struct shard_rules {          /* fixed for a shard's life but for timeouts */
	char consumer[300];   /* redis-consumer-<node> */
	char lock_value[340]; /* <consumer>/<incarnation> */
	uint64_t incarnation; /* rises with each start; also the text after the slash, in hex */
	mono_ms command_timeout_ms;
	bool events_on, events_required, events_merge; /* redis.keyspace_events */
	int db;
	uint64_t seed;
	bool is_checked; /* as in coord_rules */
};

struct coord_rules {
	uint32_t max_sessions;
	uint32_t max_frame_bytes;
	mono_ms hello_timeout_ms, ping_ms /* 0 = T/3 of the shortest lease */, resume_grace_ms, progress_timeout_ms;
	mono_ms topology_refresh_ms;
	mono_ms drain_timeout_ms;
	char node[280];
	uint64_t incarnation;
	uint64_t seed;
	bool is_checked; /* all invariants are asserted at the end of each turn: not for production, it costs */
};
