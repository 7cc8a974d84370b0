/* lanes - the connections of one shard: command (C), keyspace subscriber (S), one blocking reader (B) per service. A lane
 * is what a connection is for; while a maintenance handoff is under way it has two: the present one and its replacement,
 * then the new one and what was left. core/handoff decides, this performs. Owner: the shard's thread.
 *
 * Happy path: lanes_open -> io/redis connects -> SHARD_CONN up -> lanes_send -> replies as SHARD_REPLY, pushes as
 *   SHARD_EXPIRED or notifications -> a handoff changes the connection under the lane, the core sees no end of it.
 * Failure: the present connection ends: NULL replies, SHARD_CONN down, io/redis reopens it for ever, in the window of an
 *   announced move at the new address. A replacement that fails costs nothing: the present one serves. */
#pragma once
#include "codec/command.h"
#include "core/handoff/handoff.h"
#include "io/loop.h"
#include "io/redis/conn.h"
#include "run/msg.h"

struct lanes;

struct lanes_opts {
	uint16_t index; /* the shard's */
	struct loop *loop;
	struct redis_opts redis; /* .addr as configured or told by the topology; strings outlive the lanes */
	struct handoff_rules rules;
	mono_ms command_timeout_ms;
	struct command_argv *argv;
	const struct command_self *self;
	/* the owner: names of a service's keys; one turn of the core; a message to the coordinator (what it owns moves) */
	const struct command_names *(*names_of)(void *arg, uint16_t svc);
	void (*step)(void *arg, struct shard_event *ev);
	void (*to_coord)(void *arg, const struct msg *m);
	void (*on_deadline)(void *arg); /* lanes_deadline may have changed */
	void *arg;
};

struct lanes *lanes_new(const struct lanes_opts *o);
void lanes_free(struct lanes *ls);                                    /* after lanes_quit and the end of the loop */
void lanes_open(struct lanes *ls, enum conn_role role, uint16_t svc); /* open already: nothing */
void lanes_close_reader(struct lanes *ls, uint16_t svc);
/* Sends an EFF_REDIS. False: there is no such connection; the caller answers "none". */
bool lanes_send(struct lanes *ls, const struct effect *ef, mono_ms now);
/* Time passes. */
void lanes_tick(struct lanes *ls, mono_ms now);
mono_ms lanes_deadline(const struct lanes *ls);
void lanes_quit(struct lanes *ls); /* closes everything, no callback after it */

void lanes_set_auth(struct lanes *ls, const char *username, const char *password);
void lanes_set_tls(struct lanes *ls, struct redis_tls *tls); /* the owner keeps its reference */
void lanes_set_times(struct lanes *ls, mono_ms command_timeout_ms, const struct redis_times *times);
/* Rules at once; mode and endpoint type (kept, not copied) from the next connection on. */
void lanes_set_maintenance(
	struct lanes *ls, const struct handoff_rules *rules, enum redis_maint mode, const char *endpoint_type);

size_t lanes_count(const struct lanes *ls); /* rows of a snapshot, at most */
/* Fills in conns (room for lanes_count), n_in_flight, handoff; adds to .redis. */
void lanes_snapshot(const struct lanes *ls, struct snapshot *sn);
