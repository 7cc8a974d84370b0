/* retry_p - what retry.c and retry_reply.c share. */
#pragma once
#include "base/list.h"
#include "core/shard/retry.h"
#include "core/shard/pool.h"

enum op_for {
	OP_FOR_COORD,
	OP_FOR_CALL /* recovery in another shard */,
	OP_FOR_PART /* a part of this shard */,
	OP_FOR_LEASE /* a take behind its lock: sent once */,
	OP_FOR_NOBODY /* a call that goes on elsewhere */
};

/* An operation goes through one or several commands:
 *   done:            DONE [-> WAIT, shared with others]
 *   dead, same slot: DEAD.  Other slot: PENDING (still ours?) -> DEAD_READ -> lock call DEAD_ADD, elsewhere -> ACK_DEL
 *   lock call LOCK:  LOCK -> LOCK_GET (refused: by our own earlier try?) -> RENEW
 *   all others:      one command */
/* Who asked, and how it is told. */
struct op_asker {
	uint8_t whom;  /* enum op_for */
	uint16_t from; /* a call: the shard that recovers */
	uint64_t handle, tag;
};

/* The entry, in which form the command wants it. Texts are references, NULL = none. */
struct op_entry {
	struct entry_id id;
	struct text *stream, *consumer;
	struct text *info; /* add: raw JSON */
	struct field_list *fields;
	int64_t min_idle_ms;
};

/* What is sent now, and how that goes. */
struct op_sent {
	uint8_t command; /* enum cmd_kind */
	uint8_t tries;
	bool in_flight : 1;
	bool asking : 1;
	bool use_eval : 1;
	bool again : 1;  /* an earlier try may have done it */
	uint8_t n_evals; /* retry.n_evals of its command then */
	uint32_t conn;   /* of the connection it was sent over last */
	mono_ms at;      /* in flight: sent; else: when to act */
};

struct op_lock {
	struct text *value;
	int64_t ttl_ms; /* 0 = the service's */
};

struct op_done {
	bool is_done : 1;     /* DONE was answered with 1; WAIT is left */
	bool is_heir : 1;     /* the stream's next entry may be ours */
	bool unlocks : 1;     /* and deletes its lock, */
	bool is_unlocked : 1; /* and has */
	struct entry_id next; /* its stream's next entry, pending for us now; 0-0 = none */
};

struct op_dead {
	uint8_t reason;      /* enum dead_reason */
	bool is_deleted : 1; /* the entry's data is gone */
	bool is_calling : 1; /* waits for its DEAD_ADD elsewhere */
	struct text *error;  /* the worker's reason; of later, too */
};

/* requeue, later: how often it was tried, and how that ended. */
struct op_try {
	uint32_t n;
	bool is_suspect : 1;
	bool was_alone : 1;
};

/* later, add later. */
struct op_later {
	mono_ms delay_ms;
	int64_t at_ms;    /* add later: Unix ms by the server's clock; 0 = by delay_ms */
	uint32_t tries;   /* of the data stream's entry that failed and waits; 0: none does */
	bool is_fail : 1; /* the worker failed; else it gave it back */
};

struct op {
	struct heap_node timer;
	struct link queue; /* ready to be sent, in a group, or in one of the WAIT lists; else alone */
	uint32_t index;
	uint8_t kind; /* what was asked (enum cmd_kind) */
	bool is_live : 1;
	bool only_look : 1; /* take */
	bool releases : 1;  /* ends the lease .asker.handle */
	bool is_grouped : 1;
	uint16_t svc, slot;
	mono_ms not_after; /* answered OP_FAILED from here on */
	struct op_asker asker;
	struct op_entry entry;
	struct op_sent sent;
	struct op_lock lock;
	struct op_done done;
	struct op_dead dead;
	struct op_try try;
	struct op_later later;
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

/* Operations that go together next; one list for each command. */
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
	struct link ready, going_back; /* going_back: requeues; behind the others, see pop_ready */
	uint32_t n_popped;
	uint8_t n_evals
		[CMD_N]; /* of each command: so often its script's text was sent; only whether it changes counts */
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

/* True: the operation may wait for others, and does. Sends what it cannot go with. */
bool retry_group_add(struct retry *r, struct shard_ctx *c, struct op *op);
/* Sends what was added, or lets a few wait for the answer to those before them. */
void retry_groups_flush(struct retry *r, struct shard_ctx *c);
void retry_unqueue(struct retry *r, struct op *op); /* it waits in no list any more */
void retry_groups_init(struct retry *r);            /* empty lists */
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
void retry_queue_first(struct retry *r, struct op *op);                 /* the same, before all others of its queue */
void retry_next(struct retry *r, struct op *op, enum cmd_kind command); /* goes on with another command */
void retry_wait(struct retry *r, struct op *op);                        /* done: now for the replicas */
void retry_finish(
	struct retry *r, struct shard_ctx *c, struct op *op, enum op_result result, const struct reply *reply);
/* Asks whoever serves the dead letters' slot to write it there; its fields move into the call. */
void retry_call_dead_add(struct retry *r, struct shard_ctx *c, struct op *op);
