/* handoff_impl - what the files of core/handoff share. */
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
	UNBLOCK_EVERY_MS = 250
};

/* One announcement (seq, endpoint), whatever the number of connections that heard it. */
struct op {
	uint32_t serial; /* 0 = unused */
	int64_t seq;
	char from[HANDOFF_ADDRESS], to[HANDOFF_ADDRESS]; /* to "" = configured, resolved anew */
	mono_ms began, until, due;
	mono_ms jitter;
	mono_ms ended; /* the last connection's part */
	uint32_t n_open, n_moved, n_failed, n_cut;
	bool is_said, is_superseded;
	char why[160]; /* last failure */
};

enum { PAIR_MIGRATE, PAIR_FAIL_OVER, PAIR_SMIGRATE, PAIRS };
struct pair { /* starts and their closing messages */
	uint32_t n;
	int64_t last_start, last_end; /* seq */
	mono_ms cap_at;
};

struct handoff_conn {
	bool is_open, is_up;
	uint8_t state;
	enum conn_role role;
	char address[HANDOFF_ADDRESS]; /* of the present connection */
	uint32_t op;                   /* in work: serial; 0 = none */
	uint32_t last_op;              /* the last one it took part in */
	uint32_t given_up;             /* the op whose endpoint it does not try any more */
	unsigned n_tries;
	mono_ms at;     /* of the state: due, or deadline */
	mono_ms latest; /* C does not wait longer for readers */
	mono_ms began;  /* this handoff */
	mono_ms up_at;
	bool has_old;     /* connections that were left and not closed yet */
	bool is_late;     /* they have had more time, after a stall */
	mono_ms close_at; /* they: S closes them then; others at the latest */
	mono_ms unblock_at;
	struct pair pairs[PAIRS];
	mono_ms moving_until, post_until;
	mono_ms relaxed_until; /* as told; 0 = not relaxed, -1 = nothing told yet */
};

struct breaker {
	char endpoint[HANDOFF_ADDRESS];
	uint8_t state;
	unsigned n_failures;       /* in a row */
	unsigned n_trials, n_good; /* half-open: attempts, and those that succeeded */
	mono_ms opened_at, used_at;
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
	struct op ops[OPS];
	uint32_t serial;
	struct breaker breakers[BREAKERS];
	struct seen_note seen[SEEN_NOTES];
	size_t seen_at;
	bool is_broken_said;
	bool was_relaxed;
	struct metrics_handoff metrics;
	/* the turn */
	mono_ms now;
	struct handoff_effects *out;
};

struct handoff_effect *handoff_add(struct handoff *h, enum handoff_effect_kind kind, uint32_t conn);
void handoff_log(struct handoff *h, enum log_level level, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/* handoff_op.c */
struct op *op_find(struct handoff *h, uint32_t serial);
/* The operation of this MOVING on a connection at `from`: known, new, or NULL = an older one, to be left alone. */
struct op *handoff_op_of(struct handoff *h, const struct note *n, const char *from, bool *is_new);
enum op_end {
	END_MOVED,
	END_FAILED,
	END_CUT /* the old one ended first */,
	END_SUPERSEDED,
	END_LEFT /* nothing came of it, nothing went wrong */
};
void op_ended(struct handoff *h, struct handoff_conn *l, enum op_end how); /* a connection's part in it */
mono_ms op_tick(struct handoff *h);                                        /* says what came of those that have ended */
/* endpoint "" = the configured address, which has no breaker */
bool breaker_allows(struct handoff *h, const char *endpoint);
bool breaker_is_trying(struct handoff *h, const char *endpoint); /* half-open: the trials under way decide */
void breaker_trial(struct handoff *h, const char *endpoint);
void breaker_result(struct handoff *h, const char *endpoint, bool is_good);
/* Where a connection's next connection goes. */
void op_target(const struct handoff *h, mono_ms now, uint32_t given_up, const char *from, char out[HANDOFF_ADDRESS]);

/* handoff_relax.c */
bool relax_matches(const struct handoff_conn *l, enum note_kind k); /* a closing message that something waits for */
void relax_note(struct handoff *h, struct handoff_conn *l, const struct note *n);
void relax_moved(struct handoff *h, struct handoff_conn *l);
void relax_clear(struct handoff_conn *l);
mono_ms relax_tick(struct handoff *h); /* tells what has changed; the next end */
