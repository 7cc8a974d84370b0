/* role_conn - the connections of one shard: command (C), keyspace subscriber (S), one blocking reader (B) per
 * service. A connection is what a connection is for; while a maintenance handoff is under way it has two: the present
 * one and its replacement, then the new one and what was left. core/handoff decides, this performs. Owner: the
 * shard's thread.
 *
 * Happy path: role_conns_open -> io/redis connects -> SHARD_CONN up -> role_conns_send -> replies as SHARD_REPLY,
 * pushes as
 *   SHARD_EXPIRED or notifications -> a handoff changes the connection under the connection, the core sees no end
 * of it. Failure: the present connection ends: NULL replies, SHARD_CONN down, io/redis reopens it for ever, in the
 * window of an
 *   announced move at the new address. A replacement that fails costs nothing: the present one serves. */
#pragma once
#include "codec/command.h"
#include "core/handoff/handoff.h"
#include "io/loop.h"
#include "io/redis/conn.h"
#include "run/msg.h"

struct role_conns;

struct role_conns_opts {
	uint16_t index; /* the shard's */
	struct loop *loop;
	struct redis_opts redis; /* .addr as configured or told by the topology; strings outlive the connections */
	struct handoff_rules rules;
	mono_ms command_timeout_ms;
	struct command_argv *argv;
	const struct command_self *self;
	/* the owner: names of a service's keys; one turn of the core; a message to the coordinator (what it owns
	 * moves) */
	const struct command_names *(*names_of)(void *arg, uint16_t svc);
	void (*step)(void *arg, struct shard_event *ev);
	void (*to_coord)(void *arg, const struct msg *m);
	void (*on_deadline)(void *arg); /* role_conns_deadline may have changed */
	void *arg;
};

/* No connection yet: role_conns_open. o is copied. Heap. */
struct role_conns *role_conns_new(const struct role_conns_opts *o);
void role_conns_free(struct role_conns *ls); /* after role_conns_quit and the end of the loop */
void role_conns_open(struct role_conns *ls, enum conn_role role, uint16_t svc); /* open already: nothing */
void role_conns_close_reader(struct role_conns *ls, uint16_t svc);
/* Sends an EFF_REDIS. False: there is no such connection; the caller answers "none". */
bool role_conns_send(struct role_conns *ls, const struct effect *ef, mono_ms now);
/* Time passes. */
void role_conns_tick(struct role_conns *ls, mono_ms now);
/* When the handoff policy wants its next tick, monotonic ms. */
mono_ms role_conns_deadline(const struct role_conns *ls);
void role_conns_quit(struct role_conns *ls); /* closes everything, no callback after it */

/* is_for_next: connections that are up stay who they are. */
void role_conns_set_auth(struct role_conns *ls, const char *username, const char *password, bool is_for_next);
void role_conns_set_tls(struct role_conns *ls, struct redis_tls *tls); /* the owner keeps its reference */
void role_conns_set_times(struct role_conns *ls, mono_ms command_timeout_ms, const struct redis_times *times);
/* Rules at once; mode and endpoint type (kept, not copied) from the next connection on. */
void role_conns_set_maintenance(
	struct role_conns *ls, const struct handoff_rules *rules, enum redis_maint mode, const char *endpoint_type);

size_t role_conns_count(const struct role_conns *ls); /* rows of a snapshot, at most */
/* Fills in conns (room for role_conns_count), n_in_flight, handoff; adds to .redis. */
void role_conns_snapshot(const struct role_conns *ls, struct snapshot *sn);
