/* topology_move - the connection of the topology's questions, which moves before maintenance cuts it, as a shard's
 * connections do and by the same machine (core/handoff). Coordinator thread.
 *
 * Happy path: an announcement -> a replacement is dialled beside the present connection -> it is up -> it is the
 * present
 *   one, the old is closed, on_up: what was asked on the old one is asked again.
 * Failure: the present one ends: on_down, then the machine's address in an announced window, else the owner's next. */
#pragma once
#include "core/handoff/handoff.h"
#include "io/redis/conn.h"

struct topology_move;

struct topology_move_events {
	void (*on_up)(void *arg);
	/* The address that is tried next when no announced one is: the owner's list, in turn. */
	const char *(*on_down)(void *arg, const struct err *why);
	redis_reply_fn *on_reply;
	/* of a new connection, with the present credentials */
	void (*opts)(void *arg, struct redis_opts *out);
};

/* Opens the connection to addr. rules are copied. */
struct topology_move *topology_move_open(uv_loop_t *loop, const struct redis_opts *opts, const char *addr,
	const struct handoff_rules *rules, const struct topology_move_events *ev, void *arg);
/* Closes its connections; freed when libuv has let go of it. NULL is fine. */
void topology_move_close(struct topology_move *m);
struct redis_conn *topology_move_conn(struct topology_move *m); /* the present one, until the next callback */
/* Leaves it for another one of the owner's addresses. */
void topology_move_redial(struct topology_move *m, const char *addr, const char *why);
/* How long an answer may take now. */
mono_ms topology_move_timeout(const struct topology_move *m, mono_ms timeout_ms);
/* After a reload: for connections that are up at once where that can be done, for the next ones else. Copied. */
void topology_move_set_rules(
	struct topology_move *m, const struct handoff_rules *rules, mono_ms timeout_ms, const struct redis_opts *opts);
/* User and password for connections that are up and for the next. username is copied, password is secret_keep's. */
void topology_move_set_auth(struct topology_move *m, const char *username, const char *password);
/* The same, for the next connections only. */
void topology_move_set_next_auth(struct topology_move *m, const char *username, const char *password);
/* For the next connections; takes a reference of its own. */
void topology_move_set_tls(struct topology_move *m, struct redis_tls *tls);
