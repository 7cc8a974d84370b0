/* handoff_p - what the files of core/handoff share. */
#pragma once
#include "base/rng.h"
#include "core/handoff/handoff.h"

enum {
	OPS = 8,
	BREAKERS = 16,
	SEEN_NOTES = 32,
	WINDOW_MAX_MS = 300000,
	LINGER_MS = 500,
	LATE_MS = 50,
	UNBLOCK_EVERY_MS = 250,
	WAIT_MS = 100,           /* until the trials of a breaker are looked at again */
	ATTEMPT_APART_MS = 250,  /* never closer */
	ATTEMPT_LEAST_MS = 1000, /* never less time for one */
};

/* When the attempts of an operation begin. */
struct op_schedule {
	mono_ms due;
	mono_ms jitter, step; /* of the first attempt; from one attempt to the next */
	mono_ms last;         /* an attempt that begins later may not end before the window does */
};

/* Its connections, by what came of them. */
struct op_counts {
	uint32_t n_open, n_moved, n_failed, n_cut;
};

/* One announcement (seq, endpoint), whatever the number of connections that heard it. */
struct handoff_op {
	uint32_t serial; /* 0 = unused */
	int64_t seq;
	char from[HANDOFF_ADDRESS], to[HANDOFF_ADDRESS]; /* to "" = configured, resolved anew */
	char from_peer[HANDOFF_PEER];                    /* who was there when it was announced */
	mono_ms began, until;
	struct op_schedule attempts;
	mono_ms ended;   /* the last connection's part */
	mono_ms look_at; /* is_same: when the name is looked at again */
	struct op_counts conns;
	unsigned n_rounds; /* that have failed, of all its connections */
	bool is_said, is_superseded;
	bool is_named;         /* it leads to a name, which may come to lead elsewhere */
	bool is_same;          /* and led to where the connections are when it was last looked at */
	bool is_let;           /* the circuit breaker has let it begin */
	char why[HANDOFF_WHY]; /* last failure */
};

enum { PAIR_MIGRATE, PAIR_FAIL_OVER, PAIR_SMIGRATE, PAIRS };
struct pair { /* starts and their closing messages */
	uint32_t n;
	int64_t last_start, last_end; /* seq */
	mono_ms cap_at;
};

/* How long its deadlines are relaxed, by what was announced over it: relax.c. */
struct relaxation {
	struct pair pairs[PAIRS];
	mono_ms moving_until, post_until;
	mono_ms told_until; /* as told; 0 = not relaxed, -1 = nothing told yet */
};

/* The connections that were left for its replacement. */
struct left_conns {
	bool are_there;   /* and not closed yet */
	bool are_late;    /* they have had more time, after a stall */
	mono_ms close_at; /* S closes them then; others at the latest */
	mono_ms unblock_at;
};

struct handoff_conn {
	bool is_open, is_up;
	uint8_t state;
	enum conn_role role;
	char address[HANDOFF_ADDRESS]; /* of the present connection */
	char peer[HANDOFF_PEER];       /* who answers there; "" = not known */
	char next_peer[HANDOFF_PEER];  /* of the replacement */
	uint32_t op;                   /* in work: serial; 0 = none */
	uint32_t last_op;              /* the last one it took part in */
	unsigned n_tries;              /* attempts at the replacement that have failed */
	unsigned n_back;               /* attempts to come back in the window, since it was up for a while */
	char why[HANDOFF_WHY];         /* why its last attempt failed; "" = it did not */
	mono_ms at;                    /* of the state: due, or deadline */
	mono_ms next_at;               /* of the next attempt; MONO_NEVER = this is the last */
	mono_ms latest;                /* C does not wait longer for readers */
	mono_ms began;                 /* this handoff */
	mono_ms up_at;
	struct left_conns left;
	struct relaxation relaxed;
};

struct breaker {
	char endpoint[HANDOFF_ADDRESS];
	uint8_t state;
	unsigned n_failures;       /* in a row */
	unsigned n_trials, n_good; /* half-open: attempts, and those that succeeded */
	mono_ms opened_at, used_at;
	char why[HANDOFF_WHY]; /* the last failure */
};

struct seen_note {
	uint8_t kind;
	int64_t seq;
	mono_ms until;
};

struct handoff {
	struct handoff_rules rules;
	char name[32], configured[HANDOFF_ADDRESS];
	struct rng rng;
	struct handoff_conn *conns;
	size_t n_role_conns;
	struct handoff_op ops[OPS];
	uint32_t serial;
	struct breaker breakers[BREAKERS];
	struct seen_note seen[SEEN_NOTES];
	size_t seen_at;
	bool is_broken_said;
	bool was_relaxed;
	struct metrics_handoff metrics;
	/* the turn */
	mono_ms now;
	uint32_t heard; /* the connection whose replacement has something to say: no deadline comes before it */
	struct handoff_effects *out;
};

/* An effect of this event; fill in the rest. Valid until the next one. */
struct handoff_effect *handoff_add(struct handoff *h, enum handoff_effect_kind kind, uint32_t conn);
/* A line about this set of connections: its name and server come first. */
void handoff_log(struct handoff *h, enum log_level level, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/* handoff.c */
/* Asserts what holds between events: a replacement that is dialled belongs to an operation and has a deadline. */
void handoff_check(struct handoff *h);
void handoff_move(struct handoff *h, struct handoff_conn *l, enum handoff_state to, const char *why); /* by sm_move */
bool handoff_is_dialing(const struct handoff_conn *l); /* its replacement is under way */
uint32_t handoff_index(const struct handoff *h, const struct handoff_conn *l);
enum op_end {
	END_MOVED,
	END_FAILED,
	END_CUT /* the old one ended first */,
	END_SUPERSEDED,
	END_LEFT /* nothing came of it, nothing went wrong */
};
/* Its part in the operation is over, or never was; what was left before may still drain. */
void handoff_leave(struct handoff *h, struct handoff_conn *l, enum op_end how);

/* op.c */
struct handoff_op *op_find(struct handoff *h, uint32_t serial);
/* The operation of this MOVING on a connection l: known, new, or NULL = an older one, to be left alone. */
struct handoff_op *handoff_op_of(struct handoff *h, const struct note *n, const struct handoff_conn *l, bool *is_new);
/* The connection is where the operation leads, and younger than the announcement. */
bool op_has(const struct handoff_op *op, const struct handoff_conn *l);
void op_ended(struct handoff *h, struct handoff_conn *l, enum op_end how); /* a connection's part in it */
mono_ms op_tick(struct handoff *h);                                        /* says what came of those that have ended */
/* Where a connection's next connection goes; false: no announced move concerns it, out is the configured address. */
bool op_target(const struct handoff *h, mono_ms now, const char *from, char out[HANDOFF_ADDRESS]);

/* attempt.c */
void attempt_join(
	struct handoff *h, struct handoff_conn *l, struct handoff_op *op); /* unless it has heard of it already */
void attempt_begin(struct handoff *h, struct handoff_conn *l, struct handoff_op *op); /* dials now */
void attempt_failed(struct handoff *h, struct handoff_conn *l, struct slice why);
/* No more attempts. why "": the reason of the last failure stays. */
void attempt_give_up(struct handoff *h, struct handoff_conn *l, const char *why);
/* The replacement has reached the one we leave, and there is time to look again: it is dropped. */
bool attempt_is_same(struct handoff *h, struct handoff_conn *l);
/* The present connection ended, or an attempt to open it failed: the next one's address, when, and its time. */
void attempt_come_back(struct handoff *h, struct handoff_conn *l, bool was_up);

/* admit.c */
void admit_due(struct handoff *h); /* dials what is due: readers first, as many at once as may be */
/* When a waiting connection may dial. */
mono_ms admit_at(struct handoff *h, const struct handoff_conn *l);

/* breaker.c; endpoint "" = the configured address, which has no breaker. They count rounds of operations. */
bool breaker_allows(const struct handoff *h, const char *endpoint, mono_ms now);
bool breaker_is_trying(struct handoff *h, const char *endpoint);         /* half-open: the trials under way decide */
mono_ms breaker_reset_at(const struct handoff *h, const char *endpoint); /* open: half-opens then; else MONO_NEVER */
const char *breaker_why(struct handoff *h, const char *endpoint);        /* the last failure's words, maybe "" */
void breaker_trial(struct handoff *h, const char *endpoint);
/* An attempt at that address has succeeded: enough of them close its breaker. "" = nothing happens. */
void breaker_good(struct handoff *h, const char *endpoint);
/* An attempt at that address has failed, and why: enough of them open its breaker. "" = nothing happens. */
void breaker_bad(struct handoff *h, const char *endpoint, const char *why);

/* relax.c */
bool relax_matches(const struct handoff_conn *l, enum note_kind k); /* a closing message that something waits for */
void relax_note(struct handoff *h, struct handoff_conn *l, const struct note *n);
/* The connection was replaced: the new one is told nothing yet, and stays relaxed for post_relaxed_ms. */
void relax_moved(struct handoff *h, struct handoff_conn *l);
/* Forgets what was announced over it. */
void relax_clear(struct handoff_conn *l);
mono_ms relax_tick(struct handoff *h); /* tells what has changed; the next end */
