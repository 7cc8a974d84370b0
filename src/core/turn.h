/* turn - every event that goes into a step and every effect that comes out, as tagged unions.
 * One pure step per thread (core/shard, core/coord); the runtime (run/) performs the effects after the step returned.
 *
 * A *handle* names an entry held by the coordinator: generation << 32 | index. Shards only carry it around.
 * A *tag* names a command in flight inside one shard.
 *
 * Who decides what: the coordinator owns the one record of each entry (core/ledger) and routes by slot, because only it
 * knows the topology. Shards own locks and their renewal (core/lease), the reading of load-balancer streams
 * (core/reader), the execution and repetition of single operations (core/retry) and the recovery of peers' entries
 * (core/reconcile). */
#pragma once
#include "base/log.h" /* enum log_level only: core itself writes no line */
#include "core/cmd.h"
#include "core/rules.h"

/* ---- messages between coordinator and shards; fixed size, copied by value ---- */

enum msg_kind {
	/* coordinator -> shard */
	/* .bits (owned by the receiver, mem_free; NULL = none): the slots this shard's master serves. Leases and
	 * operations on other slots (unless .asking) are given back: MSG_LEASE moved, MSG_OP_RESULT moved.
	 * .flag = another master served some of them until now (failover, slot move): a missing lock proves nothing
	 * for a while. Slots added by a later MSG_SLOTS count as that by themselves. */
	MSG_SLOTS,
	/* .rules (a reference moves): new or changed service. .flag = this shard reads its LBS. .asking. */
	MSG_SERVICE,
	MSG_SERVICE_GONE, /* .svc: stop reading, forget it (leases of it stay until released) */
	/* .svc, .n entries that may be read from now on (replaces what was not used; 0 = none: a blocked read is
	 * unblocked), .ms = longest BLOCK; .flag = entries of running streams are put to wait while reading */
	MSG_CREDITS,
	/* .handle .svc .id .stream(ref moves) .slot .asking; .ms = 0: lock it; > 0: it is held and good until .ms:
	 * go on renewing. .flag = start-up: an own lock of any incarnation is taken over. */
	MSG_LEASE_ACQUIRE,
	MSG_LEASE_RELEASE, /* .handle: delete the lock if it is ours, forget the lease. No answer. */
	MSG_LEASE_FORGET,  /* .handle: forget without touching Redis. No answer. */
	MSG_LEASE_RENEW,   /* .handle: renew now */
	/* .op on .svc: one operation, repeated until Redis has answered (an add is sent once, and waited for no
	 * longer than a command); answer MSG_OP_RESULT. .text = error (dead) or info (add); .resent: it was sent
	 * before, elsewhere (moved). Later: .ms = how long, .flag = the worker failed. Done: .flag = the stream's
	 * next entry may be ours. Take: .flag = only look. Add later: .ms, or .n = at, Unix ms */
	MSG_OP,
	/* both ways. Shard .from asks the shard that serves .slot: .op = CMD_PROBE, CMD_LOCK, CMD_TOMBSTONE,
	 * CMD_UNLOCK on the lock of .stream + .id (.text = value, .n = TTL in ms), or CMD_DEAD_ADD (.fields, .text
	 * = error, .reason, .id), or CMD_DLQ_LENGTH of .svc. Answer: MSG_LOCK_ANSWER with the same .from and .tag,
	 * through the coordinator */
	MSG_LOCK_CALL,
	/* both ways. The lock of .stream + .id expired: from the shard that saw it, by the coordinator to every
	 * shard that reads a service */
	MSG_EXPIRED,
	MSG_SCAN,      /* .svc: reconcile now */
	MSG_RENEW_ALL, /* renew everything now, scan later (maintenance announced, reconnect) */
	/* entries mode, to the shard of the data stream */
	/* .handle .svc .id (the token) .stream (ref moves) .slot .asking: the position is ours from now on. .flag = a
	 * worker may have entries of it that this process has not told */
	MSG_FEED_OPEN,
	/* .handle: tell entries, each message with .tag. .id not 0-0: what is up to there was told already, else
	 * everything after the position comes (again) */
	MSG_FEED_START,
	MSG_FEED_HOLD,  /* .handle: tell nothing more */
	MSG_FEED_ACK,   /* .handle .id */
	MSG_FEED_NACK,  /* .handle .id .ms (-1 = by the rules) .flag = dead .text = reason */
	MSG_FEED_CLOSE, /* .handle .op = enum feed_end. Answer FEED_IS_CLOSED, but for FORGET */
	MSG_STOP,       /* forget all, no Redis traffic; answer MSG_STOPPED */

	/* shard -> coordinator */
	MSG_CONN,    /* .conn up or down (.flag), .svc for readers, .text (owned) why */
	MSG_LEASE,   /* .handle .lease result; .ms = good until; .n = of one that was taken over: ms its lock lasts */
	MSG_RENEWED, /* .renewed (owned, mem_free): leases whose good_until moved */
	/* .svc .batch (owned), .source; .n = entries that were asked for (credits used up by this read); .flag =
	 * last page of an own-pending pass; .retry = how many more were put to wait or merged */
	MSG_ENTRIES,
	/* .svc .ids (owned, mem_free): one page of the audit; .flag = last page; .ms = when the pass began; .n =
	 * pass number (all pages of a pass started after the previous pass ended) */
	MSG_OWN_IDS,
	/* .handle .op .result; .id = new id (requeue, add; 0-0 = not known after a lost reply), or of the
	 * stream's next entry, pending for us (done); fetch: .batch when
	 * OP_DONE, fetch of a deleted entry: OP_GONE */
	MSG_OP_RESULT,
	/* both ways; to shard .from. .tag .op .result: OP_DONE (probe: .n = PTTL's answer; dead letters: .n of
	 * them), OP_GONE (refused: somebody else's), OP_FAILED, OP_MOVED (.text). .flag = a missing lock proves
	 * nothing there until .ms */
	MSG_LOCK_ANSWER,
	MSG_MOVED, /* .slot .text (owned, "host:port"): the topology changed */
	/* .text (owned) why: ask for the topology soon. .flag = announced by every connection: once for this
	 * number .n */
	MSG_REFRESH,
	MSG_REPLACED,   /* .text (owned): another process with our node id has taken a lock over: we must end */
	MSG_GROUP_LOST, /* .svc: the group was gone and is made again; .flag = done */
	MSG_FEED,       /* .handle .result (enum feed_result) */
	MSG_EMPTY,      /* after MSG_SLOTS with none: nothing is left here */
	MSG_STOPPED,
	MSG_NOT_STARTED, /* said in its place by whoever was to start it: .text (owned) why */
	MSG_N
};

enum conn_role { CONN_COMMAND, CONN_READER, CONN_SUBSCRIBER, CONN_ROLES };

enum lease_result {
	LEASE_IS_HELD, /* acquired; .flag = it was ours already (an older incarnation's, or a reply was lost) */
	LEASE_IS_BUSY, /* somebody else holds it */
	LEASE_IS_LOST, /* .lost says why; the shard has forgotten it */
	/* not here: .text host:port or NULL, .asking; .ms = good until (0 = was never held); the shard has
	 * forgotten it */
	LEASE_IS_MOVED,
	LEASE_IS_RECREATED /* was missing, is held again: verify that the entry is still pending for us */
};
enum lost_reason { LOST_EXPIRED, LOST_TAKEN, LOST_MISSING, LOST_NOT_PENDING, LOST_REPLACED, LOST_N };

enum entry_source { SOURCE_NEW, SOURCE_OWN /* own pending at start */, SOURCE_FETCH };

enum op_result {   /* what an operation came to */
	OP_DONE,   /* done, taken, requeued (.id), dead-lettered, acked, … */
	OP_PARKED, /* take: its stream has another entry; .n = 2: it waits, .n = 4: it was merged; not pending for us */
	OP_GONE,   /* not pending any more: somebody else did it */
	OP_NOT_OURS, /* requeue, dead: pending for another consumer, or not idle */
	OP_DELETED,  /* the entry's data was deleted: acknowledged */
	OP_MOVED,    /* not here: .text host:port or NULL, .asking: send it to the right shard */
	OP_FAILED    /* the server refuses for good: .text the server's words */
};

enum feed_result {
	FEED_IS_OPEN,     /* .id = position, .n = tries of the entry behind it; .flag = the run before had progress */
	FEED_HAS_ENTRIES, /* .text = their JSON texts, with commas; .n of them, .id the last; .flag = more; .tag */
	FEED_HAS_ACKED,   /* .id: confirmed by Redis */
	FEED_HAS_NACKED,  /* .id; .ms = comes again after that, .n = tries; .flag = it is a dead letter */
	FEED_HAS_BURIED,  /* .id .reason: a dead letter that no worker asked for */
	FEED_BAD_ACK,     /* .id: nobody was given that entry; .flag = it was a nack */
	FEED_IS_IDLE,     /* empty for idle_release: nothing more is told */
	FEED_IS_CLOSED,   /* forgotten, as all that follow */
	FEED_IS_REFUSED,  /* a newer token has the position */
	FEED_IS_REMADE,   /* the stream was made again with lower ids */
	FEED_IS_WRONG_TYPE,
	FEED_IS_MOVED /* .text host:port or NULL, .asking */
};

struct renewed {
	uint32_t n;
	struct {
		uint64_t handle;
		mono_ms good_until;
	} v[];
};

struct id_page {
	uint32_t n;
	struct entry_id v[];
};

struct msg {
	uint8_t kind;
	uint8_t op;     /* enum cmd_kind */
	uint8_t result; /* enum op_result, lease_result */
	uint8_t lost;   /* enum lost_reason */
	uint8_t conn;   /* enum conn_role */
	uint8_t source; /* enum entry_source */
	uint8_t reason; /* enum dead_reason */
	bool flag, asking;
	bool is_suspect; /* MSG_OP requeue: the new entry says that a worker died with it */
	bool resent;     /* OP_RESULT: it was sent more than once (a reply may have been lost) */
	uint16_t svc, slot;
	uint16_t from;  /* shard: sender (shard -> coordinator), or whom the answer is for */
	uint32_t retry; /* requeue: count to write */
	uint64_t handle, tag;
	int64_t n;
	mono_ms ms;
	struct entry_id id;
	struct text
		*stream; /* MSG_OP, MSG_LEASE_ACQUIRE, MSG_LOCK_CALL, MSG_EXPIRED: a reference moves with the message */
	struct field_list *fields; /* MSG_LOCK_CALL dead-add: owned by the receiver */
	union {                    /* owned by the receiver */
		struct text *text; /* also: error of a dead letter, value of a lock call */
		uint8_t *bits;
		struct service_rules *rules;
		struct renewed *renewed;
		struct entry_batch *batch;
		struct id_page *ids;
	};
};
/* Whether a MSG_OP_RESULT carries .batch (else .text or nothing). */
static inline bool msg_has_batch(const struct msg *m)
{
	return m->kind == MSG_OP_RESULT && m->result == OP_DONE && m->op == CMD_FETCH;
}
/* Frees everything a message owns (a message that could not be delivered, or a shutdown). */
void msg_fini(struct msg *m);
/* What is said in the place of shard `to`, which does not run, to a message of the coordinator: not here, look again.
 * *answer owns nothing; m stays the caller's. False: nobody waits for an answer to m. */
bool msg_answer_of_nobody(const struct msg *m, uint16_t to, struct msg *answer);

/* ---- shard ---- */

enum shard_event_kind {
	SHARD_TICK,    /* a deadline is due */
	SHARD_CONN,    /* .role (.svc) is .up: .client_id, .is_valkey; or down: .text why */
	SHARD_REPLY,   /* .tag .reply (entries in it are owned by the step) */
	SHARD_EXPIRED, /* keyspace event: lock of (.stream, .id) expired */
	SHARD_CHANGED, /* a tracking push: .stream has changed; NULL = every one may have */
	SHARD_PUSHED,  /* subscription confirmed */
	SHARD_MSG      /* .msg: what it owns is the step's */
};

struct shard_event {
	enum shard_event_kind kind;
	mono_ms now;
	int64_t wall_ms;
	enum conn_role role;
	uint16_t svc;
	bool has_more;      /* events that came with it follow at once, the last one without this: what is asked of
			     * Redis waits for them and goes together */
	bool has_pushes;    /* it speaks RESP3 */
	bool up, is_valkey; /* is_valkey: by its own word; those have commands that Redis has not */
	int64_t client_id;
	struct slice text;
	uint64_t tag;
	const struct reply *reply;
	struct slice stream;
	struct entry_id id;
	const struct msg *msg;
};

enum effect_kind {
	/* shard */
	/* .cmd over .role (.svc for readers) with .tag; .timeout_ms (0 = command timeout; a blocking read: block +
	 * command timeout) */
	EFF_REDIS,
	EFF_MSG,          /* .msg to the coordinator (shard) or to shard .to (coordinator) */
	EFF_READER_OPEN,  /* .svc: a blocking connection of its own */
	EFF_READER_CLOSE, /* .svc */
	/* coordinator */
	EFF_SHARD_START, /* .to, .text = host:port ("" = the configured endpoint we are connected to) */
	EFF_SHARD_STOP,  /* .to */
	EFF_FRAME,       /* .frame to session .session */
	EFF_CLOSE,       /* session .session: flush what was written, close; .text why */
	EFF_TOPOLOGY,    /* ask for the topology; .text why */
	EFF_FATAL,       /* end the process: .text; .n = exit code */
	EFF_CTL,         /* control request .n is answered: .result, .id, .text */
	/* both */
	EFF_LOG /* .level .text (owned) */
};

struct effect {
	enum effect_kind kind;
	enum log_level level;
	enum conn_role role;
	uint16_t svc, to;
	uint64_t tag, session;
	int64_t n, timeout_ms;
	struct text *text; /* owned */
	union {
		struct cmd cmd;         /* slices point to records that live until the effects have been performed */
		struct msg msg;         /* moves */
		struct out_frame frame; /* slices likewise; .hold owns what they point to where needed */
	};
	struct text *hold, *hold2, *hold3; /* owned; released after performing */
};

struct effects {
	struct effect *v;
	size_t n, cap;
};
void effects_init(struct effects *e);
void effects_fini(struct effects *e);
/* A zeroed effect at the end. Valid until the next call. */
struct effect *effects_add(struct effects *e, enum effect_kind kind);
struct msg *effects_msg(struct effects *e, enum msg_kind kind, uint16_t to);
void effects_log(struct effects *e, enum log_level level, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
/* Frees what the effects own and empties the list (after performing, or without). */
void effects_clear(struct effects *e);
void effect_fini(struct effect *ef);
