/* ledger - the coordinator's one record of every entry this daemon has to do with, from its reading to Redis'
 * confirmation of its outcome. Storage, states and look-up; the journey itself is in entry_*.c. Pure. Owner: the
 * coordinator's thread.
 *
 *   (read) -> LOCKING -> TAKING -> READY -> ASSIGNED -> FINISHING -> (gone)
 *               |  ^        |        ^  \      |   ^        ^
 *             BUSY-+      PARKED-----+   \   REVOKING |      |
 *                                         \    | LIMBO+------+
 *   FETCHING: pending for us, not known: to be read again     (any) -> FINISHING: requeue or dead letter
 *
 * Every state but READY, ASSIGNED and FINISHING has a deadline of its own; the lease's stop-work deadline runs
 * beside them. */
#pragma once
#include "base/heap.h"
#include "base/list.h"
#include "base/map.h"
#include "base/slab.h"
#include "core/cmd.h"
#include "core/rules.h"
#include "core/turn.h"

enum entry_state {
	ENTRY_FETCHING,
	ENTRY_LOCKING, /* its lock is being acquired */
	ENTRY_BUSY,    /* somebody else holds the lock: tried again later */
	/* locked, or put to wait behind an older one of its stream; the registry and the pending list are being
	 * asked */
	ENTRY_TAKING,
	ENTRY_PARKED,    /* an older entry of the same stream is on its way here; not locked */
	ENTRY_READY,     /* waits for a worker's credit */
	ENTRY_ASSIGNED,  /* a worker has it */
	ENTRY_REVOKING,  /* the worker was told to stop */
	ENTRY_LIMBO,     /* its worker, or its daemon's former process, went away and may come back */
	ENTRY_FINISHING, /* done, requeue or dead letter is on its way to Redis */
	ENTRY_STATES
};

enum finish { FINISH_NONE, FINISH_DONE, FINISH_REQUEUE, FINISH_DEAD, FINISH_ACK };

/* Why an entry goes back; the order is that of the M_REQUEUE_* metrics. */
enum requeue_why {
	WHY_FAIL,
	WHY_RELEASE,
	WHY_WORKER_DIED,
	WHY_OWNER_DIED,
	WHY_BYE,
	WHY_DRAIN,
	WHY_LOST,
	WHY_OPERATOR,
	WHY_TIMEOUT,
	WHY_UNRESUMED,
	WHY_NO_CREDIT
};

enum entry_feed_state { ENTRY_FEED_NONE, ENTRY_FEED_OPENING, ENTRY_FEED_OPEN, ENTRY_FEED_CLOSING };

struct entry_nack { /* its worker says that it could not do an entry; its shard has not said whether that counts */
	bool is_on;
	bool is_dead, is_sent; /* to the dead letters; its shard was told */
	struct entry_id id;
	struct text *reason;
	mono_ms again_ms; /* the worker's wish; -1 = by the rules */
};

/* Did something die with it? Its stream is worked on alone then. */
struct entry_suspicion {
	bool is_hushed;  /* its worker has a suspect */
	bool is_cleared; /* it was one */
	bool is_read;    /* to its end, and all is acknowledged: nothing was there to die of, but the assign */
	bool is_blamed;  /* it ends because of what its worker was told: that entry's try is counted */
};

struct entry_losses {         /* entries that no worker has finished, found while the stream was here */
	uint32_t n_dead;      /* dead letters */
	uint32_t n_lost;      /* trimmed or deleted before they were acknowledged */
	struct entry_id dead; /* the last dead letter */
};

/* What went wrong with entries of a stream. Few have any. */
struct entry_trouble {
	struct entry_id bad;   /* waiting for its retry */
	mono_ms blocked_until; /* 0 = is not */
	uint32_t n_noted;      /* e->note is of an entry that failed so often; 0: it is not */
	struct entry_nack nack;
	struct entry_losses losses;
};

struct entry_feed {                          /* entries mode: what the coordinator knows of the data stream's feed */
	struct entry_id pos;                 /* confirmed by Redis */
	struct entry_id last;                /* told to the worker that has it */
	struct entry_id asked;               /* the highest it has acknowledged */
	const struct entry_trouble *trouble; /* never NULL; written to through entry_troubled() */
	mono_ms waits_since;  /* while something is told and not acknowledged: since when nothing was heard */
	uint32_t epoch;       /* of the present worker's entries */
	uint32_t tries;       /* of the entry behind pos */
	uint16_t slot, shard; /* of the data stream; SHARD_NONE: not sent yet */
	uint8_t state;        /* enum entry_feed_state */
	bool is_started, is_adopted, is_held /* draining */, has_progress;
	bool is_marked; /* its lease says that it is of entries mode: session_lease_mark */
	struct entry_suspicion suspect;
};

struct entry {
	struct link peers; /* in its session's, or its service's ready or parked list */
	struct entry_id id;
	struct text *stream, *info; /* info: until its assign frame is written */
	struct text *trace;         /* the trace it belongs to, JSON; until its assign frame is written; NULL = none */
	struct entry_feed *feed;    /* owned; NULL: not in entries mode */
	struct text *note;          /* progress note, or the reason of a failure */
	mono_ms good_until;         /* the lease's, 0 = not held */
	mono_ms since;              /* this state */
	mono_ms deadline;           /* of this state */
	mono_ms delay_ms;           /* finishing by a requeue: so long until it is back in the LBS; 0 = at once */
	mono_ms heard;              /* assigned: last sign of progress */
	mono_ms assigned_at;        /* first resumed, after a restart; 0 = no worker had it, or its run is counted */
	uint64_t owner;             /* session id, 0 = none */
	uint32_t idx, gen;          /* gen 0: not in use */
	uint32_t retry, audit, retry_ms;
	uint32_t given; /* worker.told.n when its worker was given what it has not answered; 0 = not known */
	struct heap_node timer;
	uint16_t svc, lock_slot;
	uint16_t lease_shard; /* SHARD_NONE: no shard has a lease record of it */
	uint16_t op_shard;    /* where TAKING or FINISHING waits for an answer; SHARD_NONE: not sent yet */
	uint8_t state, finish, why, ok_for, dead_reason;
	uint8_t n_asked;        /* finishing: how often its worker told its result on this connection */
	uint8_t revoke;         /* enum revoke_reason, is_revoked */
	bool is_lost : 1;       /* the lease is: no result of a worker is accepted */
	bool is_revoked : 1;    /* its worker was told to stop; told again when it comes back on another connection */
	bool was_told : 1;      /* a worker may know of it: it changes hands only through the LBS */
	bool is_start : 1;      /* own pending at start-up */
	bool start_counted : 1; /* counts in coord.n_start: its lock is being asked for */
	bool lease_asking : 1;  /* its lease was asked for after an ASK */
	bool op_resent : 1;     /* it may have been done by an earlier try */
	bool verify : 1;        /* assigned: a take is under way to verify it */
	bool wants_reply : 1;   /* finishing: the session waits for ok */
	bool has_followers : 1;
	bool has_retry_ms : 1; /* its worker said when it is to come back: retry_ms */
	bool in_active : 1;    /* is in the service's map of running streams */
	bool holds_credit : 1; /* it ends, and its worker does not know yet: until it is told, its credit is used */
	bool is_suspect : 1;   /* a worker died with it and others, or with it alone: it is worked on alone */
	bool was_alone : 1;    /* its former owner died, and had nothing else */
	bool uses_claim : 1;   /* counts against its service's credit reservations */
};

struct ledger {
	struct slab entries; /* by index; index 0 stays unused: handle 0 names nothing */
	uint32_t generation;
	struct map by_id; /* svc, id -> entry */
	struct heap timers;
	uint32_t n;
	uint32_t n_state[ENTRY_STATES];
};

/* seed: of its hashes. */
void ledger_init(struct ledger *l, uint64_t seed);
/* Frees every record and what it owns. */
void ledger_fini(struct ledger *l);
/* A new entry (stream and info references move). Must not exist yet. */
struct entry *ledger_add(struct ledger *l, uint16_t svc, struct entry_id id, enum entry_state state, mono_ms now);
/* Not in entries mode any more. */
void entry_feed_free(struct entry *e);
/* Frees it; it must be in no list. */
void ledger_drop(struct ledger *l, struct entry *e);
/* By service and id; NULL: not held. Valid until it is dropped. */
struct entry *ledger_get(const struct ledger *l, uint16_t svc, struct entry_id id);
struct entry *ledger_by_handle(const struct ledger *l, uint64_t handle); /* NULL: it is gone */
extern const struct entry_trouble entry_no_trouble;
/* A new record of entries mode, for e->feed. */
struct entry_feed *entry_feed_new(uint16_t slot);
/* Its trouble, to be written to; there is some afterwards. */
struct entry_trouble *entry_troubled(struct entry_feed *f);
/* Its nack is answered, or nobody waits for the answer. */
void entry_nack_over(struct entry_feed *f);
/* Entries mode: the entry behind its position waits for its next try, and its worker with it. */
static inline bool entry_feed_is_blocked(const struct entry *e, mono_ms now)
{
	return e->feed && e->feed->state == ENTRY_FEED_OPEN && e->feed->trouble->blocked_until > now;
}

static inline uint64_t entry_handle(const struct entry *e)
{
	return (uint64_t)e->gen << 32 | e->idx;
}
/* The only way a state changes, by sm_move (out NULL: without a line); sets since; deadline becomes `deadline`. */
void ledger_move(struct ledger *l, struct entry *e, enum entry_state to, mono_ms now, mono_ms deadline,
	struct effects *out, const char *why);
/* Sets the timer to the earlier of its state's deadline and `stop_at` (MONO_NEVER = none). */
void ledger_arm(struct ledger *l, struct entry *e, mono_ms stop_at);
struct entry *ledger_due(struct ledger *l, mono_ms now);          /* NULL: none; its timer is off afterwards */
struct entry *ledger_next(const struct ledger *l, uint32_t *pos); /* iteration by index; *pos starts at 0 */
/* Asserts what holds between turns: counts, indexes and timers agree with the records. */
void ledger_check(const struct ledger *l);
const char *entry_state_name(enum entry_state s);
