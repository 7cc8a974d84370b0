/* role_conn_p - what role_conn.c (connections, sending), role_conn_move.c (handoffs) and role_conn_doubt.c (which
 * connections cannot be believed) share. */
#pragma once
#include "run/role_conn.h"

/* Who answers on a connection. */
struct role_link_server {
	bool was_up;   /* before, too */
	bool is_asked; /* since it is up */
	mono_ms up_at;
	mono_ms anew_at; /* the connection was made anew, because others were at another server; 0 = never */
	uint64_t id;     /* hash of its run id; 0 = not known */
};

struct role_link { /* one connection; the callbacks' argument */
	struct role_conns *ls;
	struct role_conn *rconn; /* NULL: closed, waits for its last NULL replies */
	struct redis_conn *conn;
	size_t n_open; /* replies to come */
	size_t n_lost; /* commands without an answer, after it was left */
	bool is_done;  /* closed, no callback comes any more */
	uint8_t side;  /* of a subscriber: its replacement has the other */
	struct role_link_server server;
	struct role_link *next; /* of .old, or of .closing */
};

struct role_conn {
	struct role_conns *ls;
	uint32_t id; /* for core/handoff: role, or CONN_ROLES + svc */
	enum conn_role role;
	uint16_t svc;
	struct role_link *cur, *next, *old;
	bool has_sub; /* S: the core has subscribed with .sub */
	struct cmd sub;
	bool has_switched;               /* the core is to be told */
	char no_opt_in[HANDOFF_ADDRESS]; /* where an attempt at a replacement ended at the opt-in; "" = nowhere */
	mono_ms relaxed_until;
	mono_ms own_ms;         /* what its last command may take by itself (BLOCK) */
	mono_ms dropped_at;     /* for an answer of unknown shape; 0 = never */
	struct role_conn *more; /* readers */
};

struct inflight { /* a command on its way: what its answer answers */
	uint64_t tag;
	mono_ms sent;
	uint32_t next_free;
	uint16_t svc;
	uint8_t kind, role;
	bool is_own; /* ours, not the core's */
};

struct role_conns {
	struct role_conns_opts o;
	char addr[HANDOFF_ADDRESS];
	struct role_conn command, subscriber;
	struct role_conn *readers;
	struct role_link *closing; /* without a connection */
	struct handoff *handoff;
	mono_ms deadline;
	struct inflight *inflights;
	uint32_t n_inflights, free_inflight; /* free list, 0 = none; index 0 is unused */
	struct reply_decoder *decoder;
	struct handoff_seen *seen; /* while two subscribers may deliver the same event */
	mono_ms seen_until;
	uint64_t counters[METRIC_REDIS_N];
	struct hist command_time;
	/* why no connection: the last reasons in the log, and when; empty after one. Two, as two addresses may be tried
	 * in turn */
	struct role_conns_said {
		char why[512];
		mono_ms at;
	} said[2];
	mono_ms differ_said_at; /* that connections stay at different servers */
	bool is_quitting;
};

/* role_conn.c */
struct role_conn *role_conn_by_id(struct role_conns *ls, uint32_t id); /* NULL: gone */
struct role_conn *role_conn_first(struct role_conns *ls);
/* The next of them: command, subscriber, then the readers; NULL: no more. */
struct role_conn *role_conn_after(struct role_conns *ls, const struct role_conn *l);
/* o->addr is the configured address, from which "auto" endpoint types derive; addr ("" = that one) is dialled. */
struct role_link *role_conn_dial(struct role_conn *l, const struct redis_opts *o, const char *addr);
/* Ends a connection: what waits on it gets NULL in a later round. */
void role_link_close(struct role_link *lc);
void role_conn_say_lost(const struct role_conn *l, size_t n); /* commands that a connection left behind */
void role_link_send(struct role_link *lc, const struct cmd *cmd, struct inflight f, mono_ms deadline);
mono_ms role_conn_timeout(const struct role_conns *ls, const struct role_conn *l, mono_ms now); /* relaxed or not */

/* role_conn_doubt.c */
/* An answer of unknown shape: ends the connection, *reply is none then. */
void role_conn_drop_unaligned(struct role_link *lc, const redisReply *r, struct reply *reply);
/* It is up: when it was before, the address may lead to another server now, and its neighbours still to the old one. */
void role_conn_doubt_server(struct role_link *lc);
void role_conn_on_server(struct role_link *lc, const redisReply *r); /* who it is: NULL = no answer */

/* role_conn_move.c */
void role_conns_event(struct role_conns *ls, struct handoff_event *ev);
/* Tells the handoff policy what happened to l, and performs what it decides. */
void role_conn_event(struct role_conn *l, enum handoff_event_kind kind, struct slice text);
/* Tells the policy when nothing is awaited any more over connections that were left. */
void role_conn_check_drained(struct role_conn *l);
/* True: a keyspace event that the other connection has delivered; side: of the one that delivers it now. */
bool role_conns_is_repeated(struct role_conns *ls, struct slice stream, struct entry_id id, unsigned side);
/* Could an expiry be heard twice now, because there are, or were a moment ago, two subscriptions? */
bool role_conns_may_repeat(struct role_conns *ls, mono_ms now);
void role_conns_begin_repeats(struct role_conns *ls); /* a second subscriber is about to subscribe */
