/* lanes_impl - what lanes.c (connections, sending) and lanes_move.c (handoffs) share. */
#pragma once
#include "run/role_conn.h"

struct lane_conn { /* one connection; the callbacks' argument */
	struct lanes *ls;
	struct lane *lane; /* NULL: closed, waits for its last NULL replies */
	struct redis_conn *conn;
	size_t n_open;          /* replies to come */
	size_t n_lost;          /* commands without an answer, after it was left */
	bool is_done;           /* closed, no callback comes any more */
	struct lane_conn *next; /* of .old, or of .closing */
};

struct lane {
	struct lanes *ls;
	uint32_t id; /* for core/handoff: role, or CONN_ROLES + svc */
	enum conn_role role;
	uint16_t svc;
	struct lane_conn *cur, *next, *old;
	bool has_sub; /* S: the core has subscribed with .sub */
	struct cmd sub;
	bool has_switched; /* the core is to be told */
	mono_ms relaxed_until;
	mono_ms own_ms;    /* what its last command may take by itself (BLOCK) */
	struct lane *more; /* readers */
};

struct flight { /* a command on its way: what its answer answers */
	uint64_t tag;
	mono_ms sent;
	uint32_t next_free;
	uint16_t svc;
	uint8_t kind, role;
	bool is_own; /* ours, not the core's */
};

struct lanes {
	struct lanes_opts o;
	char addr[HANDOFF_ADDRESS];
	struct lane command, subscriber;
	struct lane *readers;
	struct lane_conn *closing; /* without a lane */
	struct handoff *handoff;
	mono_ms deadline;
	struct flight *flights;
	uint32_t n_flights, free_flight; /* free list, 0 = none; index 0 is unused */
	struct reply_decoder *decoder;
	struct handoff_seen *seen; /* while two subscribers may deliver the same event */
	mono_ms seen_until;
	uint64_t counters[METRIC_REDIS_N];
	struct hist command_time;
	char said[512]; /* why no connection: the last reason in the log, and when; empty after one */
	mono_ms said_at;
	bool is_quitting;
};

/* lanes.c */
struct lane *lane_by_id(struct lanes *ls, uint32_t id); /* NULL: gone */
struct lane *lane_first(struct lanes *ls);
struct lane *lane_after(struct lanes *ls, const struct lane *l);
/* o->addr is the configured address, from which "auto" endpoint types derive; addr ("" = that one) is dialled. */
struct lane_conn *lane_dial(struct lane *l, const struct redis_opts *o, const char *addr);
/* Ends a connection: what waits on it gets NULL in a later round. */
void lane_conn_close(struct lane_conn *lc);
void lane_say_lost(const struct lane *l, size_t n); /* commands that a connection left behind */
void lane_conn_send(struct lane_conn *lc, const struct cmd *cmd, struct flight f, mono_ms deadline);
mono_ms lane_timeout(const struct lanes *ls, const struct lane *l, mono_ms now); /* relaxed or not */

/* lanes_move.c */
void lanes_event(struct lanes *ls, struct handoff_event *ev);
void lane_event(struct lane *l, enum handoff_event_kind kind, struct slice text);
void lane_check_drained(struct lane *l);
/* True: a keyspace event that the other connection has delivered. */
bool lanes_is_repeated(struct lanes *ls, struct slice stream, struct entry_id id);
bool lanes_may_repeat(struct lanes *ls, mono_ms now);
