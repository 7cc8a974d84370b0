/* shard_thread - a shard's thread: owns its loop, its connections and its core, and performs the core's effects.
 * Started, stopped and freed by the coordinator's thread. Where there is only one master it is that thread itself: what
 * the two tell each other then wakes nobody, which costs a stream half of its system calls and its waiting. All else is
 * as with a thread of its own; each message comes in a turn to come.
 *
 * Happy path: mailbox -> shard_step -> effects: commands (codec/command -> io/redis), messages to the coordinator;
 *   reply -> codec/reply -> shard_step -> effects.
 * Failure: a connection that ends gives NULL replies and SHARD_CONN down; io/redis reopens it for ever. */
#pragma once
#include "io/mailbox.h"
#include "io/redis/conn.h"
#include "run/msg.h"

struct shard_thread;

struct shard_thread_opts {
	uint16_t index;
	const char *addr; /* copied */
	struct shard_rules rules;
	struct redis_opts redis; /* strings are copied; tls is referenced */
	struct handoff_rules handoff;
	const char *node;
	struct mailbox *to_coord; /* outlives the shard */
	struct loop *host;        /* the coordinator's, on which it runs; outlives it. NULL: a thread of its own */
};

/* ERR_INVALID: the address; ERR_IO: no thread, no descriptors. */
enum err_code shard_thread_start(const struct shard_thread_opts *opts, struct shard_thread **out, struct err *err);
void shard_thread_send(struct shard_thread *s, const struct run_msg *m); /* what m owns moves */
/* Ends the thread, waits for it and frees s. Locks stay. Not from inside a callback of the shard's own. */
void shard_thread_stop(struct shard_thread *s);
/* The same, but waits no longer than that; false: its loop is stuck, s is still the thread's and the process has
 * to end. */
bool shard_thread_stop_within(struct shard_thread *s, mono_ms wait_ms);
/* For the watchdog: when its loop last completed a round (any thread). */
mono_ms shard_thread_last_round(const struct shard_thread *s);
