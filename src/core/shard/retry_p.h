/* retry_p - what retry.c and retry_reply.c share. */
#pragma once
#include "base/list.h"
#include "core/shard/retry.h"
#include "core/shard/pool.h"

enum op_for {
	OP_FOR_COORD,
	OP_FOR_CALL /* recovery in another shard */,
	OP_FOR_PART /* a part of this shard */,
	OP_FOR_LEASE /* a take behind its lock: sent once */
};

/* An operation goes through one or several commands:
 *   done:            DONE [-> WAIT, shared with others]
 *   dead, same slot: DEAD.  Other slot: PENDING (still ours?) -> DEAD_READ -> lock call DEAD_ADD, elsewhere -> ACK_DEL
 *   lock call LOCK:  LOCK -> LOCK_GET (refused: by our own earlier try?) -> RENEW
 *   all others:      one command */
struct op {
	struct heap_node timer;
	struct link queue; /* ready to be sent, or in one of the WAIT lists; else alone */
	uint32_t index;
	uint8_t kind;    /* what was asked (enum cmd_kind) */
	uint8_t command; /* what is sent now */
	uint8_t whom;    /* enum op_for */
	uint8_t reason, tries;
	bool is_live : 1;
	bool in_flight : 1;
	bool asking : 1;
	bool use_eval : 1;
	bool resent : 1;
	bool is_done : 1;     /* DONE was answered with 1; WAIT is left */
	bool is_deleted : 1;  /* dead: the entry's data is gone */
	bool is_heir : 1;     /* done: the stream's next entry may be ours */
	bool only_look : 1;   /* take */
	bool is_fail : 1;     /* later: the worker failed; else it gave it back */
	bool is_suspect : 1;  /* requeue, later */
	bool was_alone : 1;   /* likewise */
	bool is_calling : 1;  /* waits for its DEAD_ADD elsewhere */
	bool releases : 1;    /* ends the lease .handle */
	bool unlocks : 1;     /* done: and deletes its lock, */
	bool is_unlocked : 1; /* and has */
	uint16_t svc, slot, from;
	uint32_t retry;
	uint32_t conn; /* of the connection it was sent over last */
	uint64_t handle, tag;
	struct entry_id id;
	struct entry_id next;           /* done: its stream's next entry, pending for us now; 0-0 = none */
	struct text *stream, *consumer; /* NULL = none, as the next three */
	struct text *value;             /* of the lock */
	struct text *error;             /* dead, later: the worker's reason */
	struct text *info;              /* add: raw JSON */
	struct field_list *fields;
	int64_t ttl_ms; /* of the lock; 0 = the service's */
	int64_t at_ms;  /* add later: Unix ms by the server's clock; 0 = by delay_ms */
	int64_t min_idle_ms;
	mono_ms delay_ms;  /* later, add later */
	mono_ms at;        /* in flight: sent; else: when to act */
	mono_ms not_after; /* answered OP_FAILED from here on */
};

/* Operations that went to Redis in one command, and what it is told of them. */
struct op_ref {
	uint32_t index, gen;
};
struct op_batch {
	struct op_ref *ops; /* in the same block, behind the entries, which need the wider alignment */
	uint32_t n;
	uint32_t conn; /* it went over: as op.conn */
	uint8_t which; /* enum op_group_kind */
	struct cmd_entry entries[];
};
struct op_batch_slot {
	struct op_batch *batch; /* owned */
};

/* Operations of this step that may go together; one list for each command. */
enum op_group_kind { GROUP_DONE, GROUP_TAKE, GROUPS };
struct op_group {
	struct link ops;
	uint32_t n;
};

struct retry {
	struct shard_pool pool;
	struct shard_pool batches; /* struct op_batch_slot: those in flight */
	struct op_group groups[GROUPS];
	uint32_t n_flying[GROUPS]; /* of batches over the present connection */
	struct heap timers;
	struct link ready;
	struct link waiting, covered; /* for a WAIT; by the one in flight */
	bool is_wait_in_flight;
	uint32_t wait_gen;
	uint32_t conn; /* counts connections */
	mono_ms wait_at;
	uint8_t wait_tries;
	uint32_t n_in_flight;
};

/* Sent once: whether it was done cannot be asked. */
static inline bool retry_is_add(enum cmd_kind k)
{
	return k == CMD_ADD || k == CMD_ADD_LATER;
}

/* Tags of a WAIT, and of an op_batch: what else they hold is its index. */
enum { WAIT_INDEX = 0xffffffff, BATCH_BIT = 0x80000000 };

/* True: the operation may wait for others of this step, and does. Sends what it cannot go with. */
bool retry_group_add(struct retry *r, struct shard_ctx *c, struct op *op);
/* Sends what was added, or lets a few wait for the answer to those before them. */
void retry_groups_flush(struct retry *r, struct shard_ctx *c);
void retry_groups_init(struct retry *r); /* empty lists */
/* The answer to a batch: each operation's own. */
void retry_batch_reply(struct retry *r, struct shard_ctx *c, uint64_t tag, const struct reply *reply);
void retry_batches_free(struct retry *r); /* they are not awaited any more */
/* Sends its command; the answer comes under this tag. */
void retry_send(struct retry *r, struct shard_ctx *c, struct op *op, uint64_t tag);
/* Its command, or one that it shares with others, was sent now: its answer is awaited. */
void retry_was_sent(struct retry *r, struct shard_ctx *c, struct op *op);
/* What Redis said of one operation. What reply owns is taken. */
void retry_op_reply(struct retry *r, struct shard_ctx *c, struct op *op, const struct reply *given);

/* To the soonest of its next act and the end of its time; after every change of either. */
void retry_set_timer(struct retry *r, struct op *op);
void retry_queue(struct retry *r, struct op *op);                       /* may be sent now */
void retry_next(struct retry *r, struct op *op, enum cmd_kind command); /* goes on with another command */
void retry_wait(struct retry *r, struct op *op);                        /* done: now for the replicas */
void retry_finish(
	struct retry *r, struct shard_ctx *c, struct op *op, enum op_result result, const struct reply *reply);
/* Asks whoever serves the dead letters' slot to write it there; its fields move into the call. */
void retry_call_dead_add(struct retry *r, struct shard_ctx *c, struct op *op);
