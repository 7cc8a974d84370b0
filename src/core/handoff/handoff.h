/* handoff - moves connections before maintenance cuts them: what a notification means for each connection, when its
 * replacement is dialled, when it takes over, when the old one is closed; relaxed time-outs; circuit breakers. Pure.
 * Owner: the thread of the connections: a shard's (run/role_conn) or the coordinator's (run/topology_client), which
 * feeds it and performs what it says. Times: monotonic ms.
 * Promises: the old connection serves until its replacement is ready (make before break), or until it ends by itself;
 * one operation per (seq, endpoint); attempts are spread over the announced window, none uses it up; when the old
 * connection ends in the window, the announced and the configured address are tried in turn; every waiting state has a
 * deadline. Caps, queue and breakers count per machine. */
#pragma once
#include "core/metric.h"
#include "core/turn.h"

/* In the order of the MH_ rows of core/metric.h. */
enum note_kind {
	NOTE_MOVING,
	NOTE_MIGRATING,
	NOTE_MIGRATED,
	NOTE_FAILING_OVER,
	NOTE_FAILED_OVER,
	NOTE_SMIGRATING,
	NOTE_SMIGRATED,
	NOTE_KINDS
};

enum { HANDOFF_ADDRESS = 300, HANDOFF_PEER = 64, HANDOFF_WHY = 200 };

struct note { /* one notification, as codec/push reads it */
	enum note_kind kind;
	int64_t seq;
	int64_t seconds;                /* 0 = now, or not said */
	char endpoint[HANDOFF_ADDRESS]; /* MOVING: host:port; "" = null */
};

const char *note_name(enum note_kind kind); /* "MOVING" … */

struct handoff_rules { /* maintenance: of the configuration */
	mono_ms relaxed_timeout_ms, relaxed_cap_ms, post_relaxed_ms, timeout_ms;
	unsigned max_retries, max_concurrent, queue; /* queue 0 = a place for each connection */
	unsigned breaker_failures, breaker_half_open;
	mono_ms breaker_reset_ms;
};

/* One machine per connection ("connection"):
 *
 *             +---------- failed, retries left ----------+
 *             v                                          |
 *   IDLE -> WAITING ------------------------------> DIALING -- ready (C, B: switch) ---------> DRAINING -> IDLE
 *    ^        |  (jitter; null: half the time) ^       | ready (S)                            ^
 *    |        +-> QUEUED (cap) ----------------+       v                                      |
 *    |                                              JOINING -- subscription confirmed: switch +
 *    +---- retries used up, breaker open, old one ended: it, or its reconnect, goes on --------
 *   MOVING with a newer seq in any state -> WAITING for the new endpoint. */
enum handoff_state {
	HANDOFF_IDLE,
	HANDOFF_WAITING,
	HANDOFF_QUEUED,
	HANDOFF_DIALING,  /* the replacement connects and shakes hands */
	HANDOFF_JOINING,  /* it subscribes */
	HANDOFF_DRAINING, /* it serves; the old one finishes what it has, or (S) is listened to a little longer */
	HANDOFF_STATES
};
const char *handoff_state_name(enum handoff_state s); /* "idle" "waiting" … */

enum handoff_event_kind {
	/* .connection .role: a connection begins to connect; .out gets the address to dial ("" = configured) */
	HANDOFF_OPEN,
	HANDOFF_CLOSED,   /* .connection: gone, with all its connections */
	HANDOFF_NOTE,     /* .connection .note, on its present connection or on the replacement */
	HANDOFF_LATE,     /* .connection .note, on a connection that was left */
	HANDOFF_BROKEN,   /* .connection .text: a push nobody understands; .note->kind NOTE_KINDS = its name neither */
	HANDOFF_UP,       /* .connection: the present connection is up, at .text, with .peer */
	HANDOFF_DOWN,     /* .connection: it ended, or its attempt failed; .text why */
	HANDOFF_NEW_UP,   /* .connection .peer: the replacement is up; .flag = it must subscribe first */
	HANDOFF_NEW_DOWN, /* .connection: it failed; .text why */
	HANDOFF_JOINED,   /* .connection: its subscription is confirmed */
	HANDOFF_DRAINED,  /* .connection: nothing waits on connections that were left */
	HANDOFF_TICK
};

struct handoff_event {
	enum handoff_event_kind kind;
	mono_ms now;
	uint32_t conn;
	enum conn_role role;
	bool flag;
	const struct note *note;
	struct slice text;
	struct slice peer; /* "ip:port" of who answers; empty = not known */
};

enum handoff_effect_kind {
	/* .connection: open a replacement to .address ("" = configured, resolved anew), which has .limit ms */
	HANDOFF_DIAL,
	HANDOFF_DROP_NEW,  /* .connection: close the replacement, it will not be used */
	HANDOFF_SWITCH,    /* .connection: the replacement is the connection from now on */
	HANDOFF_UNBLOCK,   /* .connection: end the blocking read on the connection that was left */
	HANDOFF_CLOSE_OLD, /* .connection: close what was left; what still waits there gets no answer */
	/* .connection: the next attempt dials .address at .until (in the past = at once) and has .limit ms, 0 = as
	 * configured */
	HANDOFF_TARGET,
	HANDOFF_RELAX,     /* .connection: relaxed time-outs until .until; 0 = no longer */
	HANDOFF_RENEW_ALL, /* renew all leases now, scan later */
	HANDOFF_REFRESH,   /* slots have moved (.seq): ask for the topology once */
	HANDOFF_LOG        /* .level .text */
};

struct handoff_effect {
	enum handoff_effect_kind kind;
	enum log_level level;
	uint32_t conn;
	mono_ms until, limit;
	int64_t seq;
	char address[HANDOFF_ADDRESS];
	struct text *text; /* owned by the list */
};

struct handoff_effects {
	struct handoff_effect *v;
	size_t n, cap;
	bool says_moves; /* as effects.says_moves */
};
/* Frees what they own and empties the list, after performing them. */
void handoff_effects_clear(struct handoff_effects *e);
/* The same, and the list's memory. */
void handoff_effects_fini(struct handoff_effects *e);

struct handoff;
/* name: for log lines ("shard=0"); configured: host:port as the connections dial it. Both are copied. */
struct handoff *handoff_new(const struct handoff_rules *rules, const char *name, const char *configured, uint64_t seed);
/* NULL is fine. */
void handoff_free(struct handoff *h);
/* Copied; they count from the next event on. */
void handoff_set_rules(struct handoff *h, const struct handoff_rules *rules);
/* Handles one event after everything that is due, appends effects, returns the next deadline. */
mono_ms handoff_step(struct handoff *h, const struct handoff_event *ev, struct handoff_effects *out);
/* The configured address is another one from now on (the topology's connection has several). Copied. */
void handoff_set_configured(struct handoff *h, const char *configured);
/* Where a connection that is opened now, and would go to `from` ("" = configured), goes. */
void handoff_address(const struct handoff *h, mono_ms now, const char *from, char out[HANDOFF_ADDRESS]);

/* ---- seen from outside ---- */
enum handoff_state handoff_state(const struct handoff *h, uint32_t conn);
/* Does conn have longer timeouts now, because its server has announced maintenance? Unknown conn: false. */
bool handoff_is_relaxed(const struct handoff *h, uint32_t conn);
/* Why its last attempt to move or to come back failed, in the server's words; "" = it did not. */
const char *handoff_reason(const struct handoff *h, uint32_t conn);
struct handoff_gauges {
	uint32_t n_active, n_queued, n_relaxed, n_breakers_open;
};
/* How many connections move, wait and are relaxed, and breakers open, now. */
struct handoff_gauges handoff_gauges(const struct handoff *h);
enum breaker_state { BREAKER_CLOSED, BREAKER_OPEN, BREAKER_HALF_OPEN };
const char *breaker_state_name(enum breaker_state s); /* "closed" "open" "half_open" */
/* The worst of all endpoints; endpoint (may be NULL) gets its name. */
enum breaker_state handoff_breaker(const struct handoff *h, const char **endpoint);
/* Counters since handoff_new. Valid as long as h. */
const struct metrics_handoff *handoff_metrics(const struct handoff *h);

/* ---- events that two connections deliver ---- */
/* HANDOFF_SEEN_MS: shorter than two subscribers are listened to, longer than one is behind the other. */
enum { HANDOFF_SEEN = 4096, HANDOFF_SEEN_MS = 450, HANDOFF_SIDES = 2 };
struct handoff_seen { /* zeroed at first */
	struct seen_event {
		uint64_t hash;              /* 0 = free */
		uint32_t at[HANDOFF_SIDES]; /* ms, cut: the oldest of those that */
		uint8_t n[HANDOFF_SIDES];   /* this side has delivered and the other not */
	} v[2][HANDOFF_SEEN];               /* the younger half is .young; it changes when it is half full */
	uint32_t n;
	uint8_t young;
};
/* True when the other side has delivered this one already: each one that it was ahead is taken once, the last one
 * first, as what it delivered before this side had subscribed never comes here. That is forgotten after
 * HANDOFF_SEEN_MS, or
 * HANDOFF_SEEN / 2 others. */
bool handoff_seen_before(struct handoff_seen *s, struct slice stream, struct entry_id id, unsigned side, mono_ms now);
