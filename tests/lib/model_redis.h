/* model_redis - a Redis in memory for the simulation: executes struct cmd, answers struct reply, on the caller's clock.
 * Single-threaded, deterministic. It copies Redis 7 as far as our commands can see it;
 * tests/unit/codec/test_model_against_real holds it to that. One model is one master; a cluster is several.
 *
 * Not modelled: tracking, blocking (a read answers at once; ask model_redis_has_new), wrong types, MAXLEN ~ beyond a rough trim,
 * more than one group a stream. WAIT answers .count, UNBLOCK 1, CLUSTER SLOTS says there is no cluster. */
#pragma once
#include "base/mono.h"
#include "codec/command.h"
#include "core/cmd.h"

struct model_redis;

struct model_redis *model_redis_new(void);
void model_redis_free(struct model_redis *m);
/* A deep copy: what a replica (or a disk) knows now. Continue with it to lose what was written since. Scripts are not
 * copied: they are lost at a failover. Injected errors and the expiry callback are not copied either. */
struct model_redis *model_redis_clone(const struct model_redis *m);

/* names may be NULL where the command needs none. consumer is ours; it is also the dead letters' _dlq_node.
 * out->entries is the caller's; everything else out points to is valid until the next call on m. */
void model_redis_exec(struct model_redis *m, const struct cmd *c, const struct command_names *names,
	const char *consumer, mono_ms now, struct reply *out);

/* ---- the server */

/* The server's wall clock = now + offset_ms (default 1,700,000,000,000). A step moves every TTL, as in Redis. */
void model_redis_set_clock(struct model_redis *m, int64_t offset_ms);
void model_redis_set_run_id(
	struct model_redis *m, const char *run_id); /* default "model-1"; a restart changes it and forgets scripts */
void model_redis_set_delifeq(struct model_redis *m, bool has_it); /* default: the server does not know it */
void model_redis_set_added(struct model_redis *m, bool has_it);   /* default: XINFO STREAM has entries-added */
void model_redis_set_oom(struct model_redis *m, bool is_oom);     /* SET, XADD, HSET are refused, as under noeviction */
/* The next n commands of this kind (CMD_N = of any) answer this error, e.g. "LOADING …", and do nothing. n 0 ends it,
 * -1 = until then. One injection at a time. */
void model_redis_fail(struct model_redis *m, enum cmd_kind kind, int n, const char *error);
/* Called for each lock that expires: when it is touched, or in model_redis_expire. */
void model_redis_on_expired(
	struct model_redis *m, void (*fn)(void *arg, struct slice stream, struct entry_id id), void *arg);
/* Redis' own expiry cycle, which may come late or never: call it when the simulation likes. Returns how many. */
size_t model_redis_expire(struct model_redis *m, mono_ms now);
mono_ms model_redis_next_expiry(
	const struct model_redis *m); /* from when on model_redis_expire finds one; MONO_NEVER = none */

/* ---- what others do to it */

bool model_redis_has_new(
	struct model_redis *m, const struct command_names *names); /* a read would find something (or NOGROUP) */
/* A producer adds. info NULL = absent; retry 0 = no _retry_count. */
struct entry_id model_redis_add(struct model_redis *m, const struct command_names *names, const char *stream,
	const char *info, uint32_t retry, mono_ms now);
struct entry_id model_redis_add_fields(
	struct model_redis *m, const struct command_names *names, const struct field *fields, size_t n, mono_ms now);
void model_redis_next_id(struct model_redis *m,
	struct entry_id id); /* the next XADD not ordered yet gets it (tests against a real server) */
/* XCLAIM by somebody else (a Go consumer). False: not pending; a deleted entry stops being so, as in Redis 7. */
bool model_redis_claim(struct model_redis *m, const struct command_names *names, struct entry_id id,
	const char *consumer, mono_ms now);
/* Somebody makes it; one that is there stays as it is. */
void model_redis_create_consumer(
	struct model_redis *m, const struct command_names *names, struct slice name, mono_ms now);
bool model_redis_xdel(struct model_redis *m, const struct command_names *names, struct entry_id id);
void model_redis_destroy_group(struct model_redis *m, const struct command_names *names);
void model_redis_delete_lbs(struct model_redis *m, const struct command_names *names); /* the stream and its group */
void model_redis_set_registry(
	struct model_redis *m, const struct command_names *names, const char *stream, struct entry_id id);

/* The same to a data stream of entries mode: stream names its key. */
struct entry_id model_redis_feed_add(
	struct model_redis *m, struct slice stream, const struct field *fields, size_t n, mono_ms now);
bool model_redis_feed_xdel(struct model_redis *m, struct slice stream, struct entry_id id);
void model_redis_feed_delete(struct model_redis *m, struct slice stream); /* the stream; its position stays */

/* ---- inspection, for checkers; nothing expires by looking */

struct model_entry {
	struct entry_id id;
	struct field_list *fields;
};
struct model_pending {
	struct entry_id id;
	const char *consumer;
	int64_t idle_ms;
	uint64_t deliveries;
};
struct model_lock_view {
	struct slice stream;
	struct entry_id id;
	struct slice value;
	int64_t ttl_ms; /* below 0: has expired, nobody touched it yet; INT64_MAX: none */
};

size_t model_redis_n_entries(struct model_redis *m, const struct command_names *names);
const struct model_entry *model_redis_entries(
	struct model_redis *m, const struct command_names *names); /* in order of ids */
size_t model_redis_n_dead(struct model_redis *m, const struct command_names *names);
const struct model_entry *model_redis_dead(struct model_redis *m, const struct command_names *names);
bool model_redis_is_pending(struct model_redis *m, const struct command_names *names, struct entry_id id,
	const char *consumer); /* for that consumer */
size_t model_redis_n_pending(struct model_redis *m, const struct command_names *names);
struct model_pending model_redis_pending(
	struct model_redis *m, const struct command_names *names, size_t i, mono_ms now);
struct entry_id model_redis_last_delivered(struct model_redis *m, const struct command_names *names);
/* What waits for its time, in order of it. */
size_t model_redis_n_delayed(struct model_redis *m, const struct command_names *names);
struct model_entry model_redis_delayed(
	struct model_redis *m, const struct command_names *names, size_t i, int64_t *due);
void model_redis_set_due(struct model_redis *m, const struct command_names *names, struct entry_id id, int64_t due);
/* What waits for a running entry of its stream. */
size_t model_redis_n_parked(struct model_redis *m, const struct command_names *names);
bool model_redis_is_parked(struct model_redis *m, const struct command_names *names, struct entry_id id);
bool model_redis_has_left(struct model_redis *m, const struct command_names *names, const char *consumer);
void model_redis_drop_wishes(struct model_redis *m, const struct command_names *names); /* a planted bug */
size_t model_redis_n_wishes(struct model_redis *m, const struct command_names *names);
struct model_entry model_redis_wish(struct model_redis *m, const struct command_names *names, size_t i);
bool model_redis_registered(
	struct model_redis *m, const struct command_names *names, const char *stream, struct entry_id *id);
size_t model_redis_n_registered(struct model_redis *m, const struct command_names *names);
/* False: missing. */
bool model_redis_lock(
	const struct model_redis *m, struct slice stream, struct entry_id id, mono_ms now, struct model_lock_view *out);
/* *pos starts at 0. False at the end. */
bool model_redis_next_lock(const struct model_redis *m, size_t *pos, mono_ms now, struct model_lock_view *out);
struct model_position_view {
	const char *token;
	struct entry_id pos;
	int64_t tries;
	int run;          /* 0 = nobody has it open, 1, 2 = and has acknowledged something */
	int64_t ttl_ms;   /* -1 = for ever */
	int64_t pause_ms; /* before the next try; -1 = none was written */
};
/* False: the data stream has none. */
bool model_redis_position(struct model_redis *m, struct slice stream, mono_ms now, struct model_position_view *out);
/* How many, and *v the first; valid until the next call on m. */
size_t model_redis_feed_entries(struct model_redis *m, struct slice stream, const struct model_entry **v);
size_t model_redis_feed_dead(struct model_redis *m, const struct command_names *names, const struct model_entry **v);
/* The value of a field; p NULL = it has none. */
struct slice model_entry_field(const struct model_entry *e, const char *name);
