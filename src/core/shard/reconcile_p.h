/* reconcile_p - what the files of reconcile share: reconcile.c walks and scans, reconcile_repair.c takes an entry back,
 * reconcile_lock.c asks for its owner's lock, reconcile_outcome.c ends it. Of the shard thread, as reconcile.h. */
#pragma once
#include "base/list.h"
#include "base/map.h"
#include "core/shard/reconcile.h"
#include "core/shard/pool.h"

enum {
	RECOVERY_BUSY = 1000,
	RECOVERY_WATCHED =
		/* found alive, looked at again at their deadline (some 250 bytes each); more are found again by a
		 * later walk */
	100000,
	RECOVERY_WAITING = 120000, /* with those that wait for their turn: no more pages until fewer */
	WALK_PAGE = 500,
	GHOST_PAGE = 50, /* with all their fields inside the server */
	RANK_MS = 200,
	AFTER_MS = 5, /* past a lock's deadline */
	EVERY_MS = 1000
};

/*  found: WAITING (for its rank) -> READY -> FETCHING -> PROBING -> CLOSING -> REQUEUEING | DEAD -> tombstone, left
 *
 *    event      CHECKING is before WAITING or READY: is it still pending for somebody else?
 *    READY      goes to PROBING at once when its fields are known
 *    FETCHING   -> ACKING: its data was deleted; -> DEAD: nobody can work on it
 *    PROBING    -> WAITING: alive, until its lock's deadline; or a missing lock proves nothing yet
 *    CLOSING    -> left: refused, the owner is back; -> WAITING: the guard came too late
 *    REQUEUEING -> left: not as expected, the guard is opened again
 *    ghost      pending for nobody: WAITING for T first; READY -> … -> REQUEUEING; when nobody can work on it from
 *               FETCHING at once
 *    any        -> WAITING: no answer, after a backoff */
enum repair_state {
	REPAIR_WAITING,
	REPAIR_READY,
	REPAIR_CHECKING,
	REPAIR_FETCHING,
	REPAIR_PROBING,
	REPAIR_CLOSING,
	REPAIR_REQUEUEING,
	REPAIR_DEAD,
	REPAIR_ACKING,
	REPAIR_STATES
};

enum repair_source { BY_PROBE, BY_EVENT, BY_SCAN };

struct repair_key {
	uint64_t svc;
	struct entry_id id;
};

struct repair_times {
	mono_ms found;
	mono_ms seen;  /* last sign of the owner */
	mono_ms asked; /* the command or call under way */
	mono_ms alive; /* when its lock was last seen; < 0 never */
	mono_ms guard; /* when the guard was closed */
};

struct repair {
	struct heap_node timer;
	struct link queue; /* of its service's ready ones */
	struct repair_key key;
	struct text *consumer, *stream;
	uint32_t index, retry;
	uint16_t slot; /* of its lock */
	uint8_t state, source, tries;
	uint8_t problem;   /* enum entry_problem: nobody can work on it */
	bool is_uncounted; /* its owner had left on purpose */
	bool is_suspect;   /* a worker died with it once: stays said */
	bool is_ghost;     /* delivered, but pending for nobody; it has no consumer */
	int64_t idle_ms;   /* when it was found; it only grows, or the entry was touched */
	struct repair_times at;
};

struct peer { /* another consumer of the group */
	struct text *name;
	mono_ms seen_at;
	mono_ms left_at; /* left the group on purpose then; 0 = has not */
	mono_ms walk_at; /* its entries are walked through again from here on */
	uint64_t round;
	mono_ms suspect_at; /* since when it is */
	uint64_t n_held;    /* the most that it had pending since it was seen last */
	bool has_left;
	bool is_suspect; /* has entries and has not been seen for T */
};

struct page { /* a walk through pending entries: one page at a time */
	struct entry_id from;
	mono_ms began, sent, at;
	uint32_t gen;
	bool is_on, in_flight, use_eval;
	uint8_t tries;
};

struct live_consumers { /* hashes of their names, ours too */
	uint64_t *v;
	size_t n, cap;
};

struct ghosts {                /* entries that nobody has */
	struct entry_id floor; /* what the group was given before that was not ours to look at */
	bool has_floor, are_asked;
	mono_ms said_at; /* they were told of; 0 = never */
	uint32_t n;      /* since then */
};

struct trimmed {         /* entries whose data was gone */
	mono_ms said_at; /* they were told of; 0 = never */
	uint32_t n;      /* since then */
};

struct recovery { /* of one service */
	struct heap_node timer;
	uint16_t svc;
	struct map peers;
	uint64_t round;
	struct live_consumers live;
	struct page consumers, walk, scan, left, ghosts;
	struct ghosts ghost;
	mono_ms left_known;   /* who has left was asked then and answered; 0 = never */
	struct text *walking; /* the suspect whose entries are walked through */
	bool was_scanned;     /* the first pass is over */
	struct link ready;
	uint32_t n_busy;   /* states after READY */
	uint32_t n_queued; /* READY */
	uint32_t n_waiting;
	struct trimmed trimmed;
};

struct reconcile {
	struct shard_pool pool;
	struct map repairs; /* by key */
	struct heap timers; /* of repairs */
	struct heap services;
	struct recovery **v; /* by svc */
	size_t n;
	uint64_t seed;
	char door[360]; /* recover:<lock value> */
};

/* Tag indices: repairs use bit 31 clear; the walks of a service set it. */
enum page_kind { PAGE_CONSUMERS, PAGE_WALK, PAGE_SCAN, PAGE_LEFT, PAGE_GHOSTS };
static inline uint32_t page_index(uint16_t svc, enum page_kind k)
{
	return 0x80000000u | (uint32_t)svc << 3 | (uint32_t)k;
}

/* Of the service that v recovers; known as long as v is. */
const struct service_rules *recovery_rules(const struct shard_ctx *c, const struct recovery *v);
/* By consumer name; NULL: not known. Valid until the next answer to CONSUMERS. */
struct peer *recovery_peer(const struct recovery *v, struct slice name);
/* Asks who has left on purpose; v->left_known tells when it is known. */
void recovery_ask_left(struct reconcile *rc, struct shard_ctx *c, struct recovery *v);
/* A pending entry of a peer: begins its repair unless there is one. */
void repair_found(struct reconcile *rc, struct shard_ctx *c, struct recovery *v, const struct pending_row *row,
	enum repair_source source);
/* One that nobody has: when that is still so after T, and nobody has its lock, it goes back uncounted. */
void repair_ghost(struct reconcile *rc, struct shard_ctx *c, struct recovery *v, struct entry_id id);
/* An entry's lock was seen to expire: it is looked at, if it is pending for somebody. Dropped and counted when too
 * many are looked at. */
void repair_expired(struct reconcile *rc, struct shard_ctx *c, struct recovery *v, struct entry_id id);
/* An answer to a command of a repair; entries in it may be taken out. */
void repair_reply(struct reconcile *rc, struct shard_ctx *c, uint64_t tag, struct reply *reply);
/* Each step: repairs that are due go on. */
void repair_tick(struct reconcile *rc, struct shard_ctx *c);
/* Starts repairs that wait, as many as may run at once. */
void repair_start_ready(struct reconcile *rc, struct shard_ctx *c, struct recovery *v);
/* Of one service: it is not read here any more. Nothing is undone in Redis. */
void repair_forget_all(struct reconcile *rc, struct shard_ctx *c, uint16_t svc);

/* reconcile_repair.c, for the others */
/* The service that r's entry is of. */
struct recovery *recovery_of(const struct reconcile *rc, const struct repair *r);
/* Its only way into another state; its timer is off then. why: for the log, static. */
void repair_move(struct reconcile *rc, struct shard_ctx *c, struct repair *r, enum repair_state to, const char *why);
/* It waits until `at`, monotonic ms. */
void repair_wait_until(struct reconcile *rc, struct shard_ctx *c, struct repair *r, mono_ms at);
/* After a backoff from its beginning; after too many tries it ends as an error. */
void repair_try_again(struct reconcile *rc, struct shard_ctx *c, struct repair *r);
/* Ends it without a word in Redis. r is gone. */
void repair_forget(struct reconcile *rc, struct shard_ctx *c, struct repair *r);
/* The same, counted as `why`. */
void repair_left(struct reconcile *rc, struct shard_ctx *c, struct repair *r, enum metric_service why);
/* A new tag for what it asks next: answers to what it asked before are not known any more. */
uint64_t repair_tag(struct reconcile *rc, const struct repair *r);
/* Its owner has entries and has not been seen for T. */
bool repair_is_suspect(const struct reconcile *rc, const struct repair *r);
/* The guard is closed: back to the load-balancer stream, or to the dead letters when its tries are used up. */
void repair_give_back(struct reconcile *rc, struct shard_ctx *c, struct repair *r);
/* Likewise one that nobody had: uncounted. */
void repair_ghost_back(struct reconcile *rc, struct shard_ctx *c, struct repair *r);

/* reconcile_lock.c, for the others */
/* Asks the lock's master how long the lock still lasts. */
void repair_probe(struct reconcile *rc, struct shard_ctx *c, struct repair *r);
/* Until when the guard keeps others out, less the time of a command: what is sent later might be executed after it. */
mono_ms repair_guard_end(const struct reconcile *rc, const struct shard_ctx *c, const struct repair *r);
/* Takes the guard away. Nobody waits for the answer, nor for the next one's. */
void repair_open_guard(struct reconcile *rc, struct shard_ctx *c, struct repair *r);
/* What was locked is gone: the guard says so (`what`, copied) for four times the TTL. */
void repair_tombstone(struct reconcile *rc, struct shard_ctx *c, struct repair *r, const char *what);
