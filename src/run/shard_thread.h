/* shard_run - a shard's thread: owns its loop, its connections and its core, and performs the core's effects.
 * Started, stopped and freed by the coordinator's thread.
 *
 * Happy path: mailbox -> shard_step -> effects: commands (codec/command -> io/redis), messages to the coordinator;
 *   reply -> codec/reply -> shard_step -> effects.
 * Failure: a connection that ends gives NULL replies and SHARD_CONN down; io/redis reopens it for ever. */
#pragma once
#include "io/mailbox.h"
#include "io/redis/conn.h"
#include "run/msg.h"

struct shard_run;

struct shard_run_opts {
	uint16_t index;
	const char *addr; /* copied */
	struct shard_rules rules;
	struct redis_opts redis; /* strings are copied; tls is referenced */
	struct handoff_rules handoff;
	const char *node;
	struct mailbox *to_coord; /* outlives the shard */
};

/* ERR_INVALID: the address; ERR_IO: no thread. */
enum err_code shard_run_start(const struct shard_run_opts *opts, struct shard_run **out, struct err *err);
void shard_run_send(struct shard_run *s, const struct run_msg *m); /* what m owns moves */
/* Ends the thread, waits for it and frees s. Locks stay. */
void shard_run_stop(struct shard_run *s);
/* The same, but waits no longer than that; false: its loop is stuck, s is still the thread's and the process has to end. */
bool shard_run_stop_within(struct shard_run *s, mono_ms wait_ms);
/* For the watchdog: when its loop last completed a round (any thread). */
mono_ms shard_run_last_round(const struct shard_run *s);
