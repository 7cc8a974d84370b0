/* lease_p - what lease.c and lease_reply.c share. */
#pragma once
#include "base/list.h"
#include "base/map.h"
#include "core/shard/lease.h"
#include "core/shard/pool.h"

/*            ACQUIRE            .ms > 0: adopt
 *               |                  |
 *   (NIL) +-> ACQUIRING ---OK---> HELD <---mine--- RENEWING --NIL--> RECREATING --OK--> HELD (recreated)
 *         |     | NIL    +--1-->   |  ---due--->     |  ^              | NIL   ^
 *         +-- CHECKING -> SWAPPING |                 |  +---- mine - RECHECKING -NIL
 *               | mine             |               other value          | other value
 *             CONFIRMING --mine--> +                 +---> LOST <-------+
 *   While the server refuses renewals: ACQUIRING --OK--> CONFIRMING, so that nothing is held that cannot be kept.
 *   RELEASE: from everywhere -> RELEASING -> (forgotten).  At good_until - stop_margin: every state of the right half
 * -> LOST. */
enum lease_state {
	LEASE_ACQUIRING,  /* SET NX */
	LEASE_CHECKING,   /* refused: whose is it? */
	LEASE_SWAPPING,   /* an older process of ours: taking over */
	LEASE_CONFIRMING, /* our own value: renewing it tells until when, and that it can be renewed */
	LEASE_HELD,       /* nothing to do until the next renewal */
	LEASE_RENEWING,
	LEASE_RECREATING, /* was missing before its deadline: SET NX */
	LEASE_RECHECKING, /* refused: whose is it? */
	LEASE_RELEASING,
	LEASE_STATES
};

/* What Redis may know of the lock, and the take of its entry, which goes right behind the first lock. */
struct lease_lock {
	bool was_ours : 1;    /* found with our value */
	bool was_missing : 1; /* re-created: to be verified */
	bool was_sent : 1;    /* Redis may have it */
	bool wants_take : 1;
	bool is_taking : 1; /* that has gone, and its answer counts: nothing went wrong with the lock */
	bool is_unsaid : 1; /* held, which is said with that answer */
};

struct lease {             /* 100,000 of them: keep it near 100 bytes */
	struct link ready; /* in a queue of what may be sent, or in a batch; else alone */
	uint64_t handle;   /* 0: not in use */
	struct entry_id id;
	struct text *stream;
	mono_ms good_until; /* 0 = never held; releasing: when to give up */
	mono_ms at;         /* in flight: when it was sent; else when to act */
	struct heap_node timer;
	uint32_t index;
	int32_t ttl_ms; /* of the command in flight */
	uint16_t svc, slot;
	uint8_t state;
	uint8_t tries;
	bool in_flight : 1;
	bool asking : 1;
	bool is_startup : 1;
	bool use_eval : 1;
	bool by_delifeq : 1; /* of the unlock in flight */
	bool in_batch : 1;   /* held: its batch looks after its next renewal, no timer */
	struct lease_lock lock;
};

enum {
	LEASES_IN_FLIGHT = 1000,
	LEASES_PER_STEP = 250,
	RENEWED_CHUNK = 256,
	RENEWED_WAIT_MS = 10,
	RELEASE_WAIT_MS = 20 /* acquired again: looks whether its release is over */
};

/* Does the server have DELIFEQ, and may we use it? A Valkey is asked: one unlock uses it, the others go by script
 * meanwhile. */
enum delifeq { DELIFEQ_UNASKED, DELIFEQ_ASKED, DELIFEQ_THERE, DELIFEQ_NOT_THERE };

struct leases {
	struct shard_pool pool;
	uint32_t *by_handle; /* pool index + 1, by the handle's low half; not while releasing */
	uint32_t n_by_handle;
	struct map
		releasing; /* by entry id and stream: a second try would delete the lock that was acquired meanwhile */
	struct heap timers;
	struct link batches; /* of held ones by their deadlines, the soonest first; an empty one waits for its end */
	struct link urgent, calm;     /* renewals first */
	uint32_t n_in_flight, n_sent; /* in this step */
	struct renewed *renewed;
	mono_ms renewed_at;
	enum delifeq delifeq; /* of the present connection */
	bool is_replaced;     /* MSG_REPLACED was sent */
};

/* lease_batch.c */
/* Into the batch of l->at, from the one in which it was. */
void lease_batch_join(struct leases *ls, struct lease *l);
/* One whose batch is due; it stays there until it is queued, or ends. NULL: none. */
struct lease *lease_batch_due(struct leases *ls, mono_ms now);
/* When the next batch is due; MONO_NEVER: there is none. */
mono_ms lease_batch_deadline(const struct leases *ls);
/* Their records; no lease is in one any more. */
void lease_batches_free(struct leases *ls);
/* Asserts that each is in the batch of its deadline. */
void lease_batch_check(const struct leases *ls);

/* lease.c, lease_reply.c */
/* The rules of its service: known since it was acquired, services are never forgotten. */
const struct service_rules *lease_rules_of(const struct shard_ctx *c, const struct lease *l);
/* Without a word to anybody: its record goes back to the pool, l is gone. Answers that come later find nothing. */
void lease_forget(struct leases *ls, struct shard_ctx *c, struct lease *l);
/* Reports it lost for that reason, then forgets it. */
void lease_lose(struct leases *ls, struct shard_ctx *c, struct lease *l, enum lost_reason reason);
/* Sends the command of its state. expect: of a take-over only, what the lock's value must be; copied. */
void lease_send(struct leases *ls, struct shard_ctx *c, struct lease *l, struct slice expect);
enum cmd_kind lease_command(const struct lease *l); /* what its state asks Redis */
void lease_move(struct shard_ctx *c, struct lease *l, enum lease_state to, const char *why); /* by sm_move */
/* To the soonest of its next act and its fence; after every change of either. */
void lease_set_timer(struct leases *ls, struct shard_ctx *c, struct lease *l);
/* Puts the lease into the queue of what may be sent. */
void lease_queue(struct leases *ls, struct shard_ctx *c, struct lease *l);
/* Sends the renewals that are collected. Before any other word about a lease: the order counts. */
void lease_flush_renewed(struct leases *ls, struct shard_ctx *c);
/* The lease is good until sent + ttl; schedules its next renewal. */
void lease_confirm(struct leases *ls, struct shard_ctx *c, struct lease *l);
/* A released lock whose slot is elsewhere by now: whoever serves it there deletes it, if it is ours. The coordinator
 * knows the way. */
void lease_unlock_elsewhere(struct shard_ctx *c, const struct lease *l);
/* What the take behind the lock says does not count any more; a lease that waited for it is told without. */
void lease_forget_take(struct leases *ls, struct shard_ctx *c, struct lease *l);
/* MSG_LEASE with that result; the rest may be filled in. Sends collected renewals first. Valid until the next
 * effect. */
struct msg *lease_report(struct leases *ls, struct shard_ctx *c, struct lease *l, enum lease_result r);
