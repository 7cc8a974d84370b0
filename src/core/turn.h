/* turn - every event that goes into a step and every effect that comes out, as tagged unions.
 * One pure step per thread (core/shard, core/coord); the runtime (run/) performs the effects after the step returned.
 *
 * A *handle* names an entry held by the coordinator: generation << 32 | index. Shards only carry it around.
 * A *tag* names a command in flight inside one shard.
 *
 * Who decides what: the coordinator owns the one record of each entry (core/coord/ledger) and routes by slot, as only
 * it knows the topology. Shards own locks and their renewal (core/shard/lease), the reading of load-balancer streams
 * (core/shard/reader), the execution and repetition of single operations (core/shard/retry), the recovery of entries
 * of peers (core/shard/reconcile). */
#pragma once
#include "base/log.h" /* enum log_level only: core itself writes no line */
#include "core/cmd.h"
#include "core/rules.h"

/* ---- messages between coordinator and shards; fixed size, copied by value ---- */

/* What each one is for; its payload struct below says what is in it. */
enum msg_kind {
	/* coordinator -> shard */
	MSG_SLOTS,   /* the slots this shard's master serves: leases and operations on others are given back as moved */
	MSG_SERVICE, /* a new or changed service */
	MSG_SERVICE_GONE,  /* of .svc: stop reading, forget it (leases of it stay until released). No payload */
	MSG_CREDITS,       /* how much may be read */
	MSG_LEASE_ACQUIRE, /* lock it, or go on renewing what is held */
	MSG_LEASE_RELEASE, /* delete the lock if it is ours, forget the lease. No payload, no answer */
	MSG_LEASE_FORGET,  /* forget without touching Redis. No payload, no answer */
	MSG_LEASE_RENEW,   /* renew now. No payload */
	/* one operation, repeated until Redis has answered (an add is sent once, and waited for no longer than a
	 * command); answer MSG_OP_RESULT */
	MSG_OP,
	/* both ways: a shard asks the one that serves .slot, through the coordinator; answer MSG_LOCK_ANSWER */
	MSG_LOCK_CALL,
	/* both ways: a lock expired; from the shard that saw it, by the coordinator to every shard that reads a
	 * service */
	MSG_EXPIRED,
	/* both ways: streams of .svc wait for a credit; from the shard that reads the load-balancer stream, by the
	 * coordinator to every shard when none is free */
	MSG_WAITING,
	MSG_SCAN,      /* of .svc: reconcile now. No payload */
	MSG_FLEET,     /* what our workers can take, to be told to the other daemons; nobody waits */
	MSG_RENEW_ALL, /* renew everything now, scan later (maintenance announced, reconnect). No payload */
	/* entries mode, to the shard of the data stream */
	MSG_FEED_OPEN,  /* the position is ours from now on; answer FEED_IS_OPEN */
	MSG_FEED_START, /* tell entries */
	MSG_FEED_HOLD,  /* tell nothing more. No payload */
	MSG_FEED_SHARE, /* its worker may have other streams from here on. No payload */
	MSG_FEED_TRY,   /* the entry that waits for its next try waits no longer. No payload */
	MSG_FEED_ACK,
	MSG_FEED_NACK,
	MSG_FEED_CLOSE, /* answer FEED_IS_CLOSED, but for FEED_END_FORGET */
	MSG_STOP,       /* forget all, no Redis traffic; answer MSG_STOPPED. No payload */

	/* shard -> coordinator */
	MSG_CONN,    /* a connection is up or down */
	MSG_LEASE,   /* what became of a lease */
	MSG_RENEWED, /* leases that are good for longer */
	MSG_ENTRIES, /* what was read */
	MSG_OWN_IDS, /* one page of the audit */
	MSG_OP_RESULT,
	MSG_LOCK_ANSWER, /* both ways; to shard .from */
	MSG_MOVED,       /* a redirection: the topology changed */
	MSG_REFRESH,     /* ask for the topology soon */
	MSG_REPLACED,    /* another process with our node id has taken a lock over: we must end */
	MSG_GROUP_LOST,  /* the group was gone */
	MSG_FEED,        /* what became of a feed */
	MSG_EMPTY,       /* after MSG_SLOTS with none: nothing is left here. No payload */
	MSG_STOPPED,     /* No payload */
	MSG_NOT_STARTED, /* said in its place by whoever was to start it */
	MSG_N
};

enum conn_role { CONN_COMMAND, CONN_READER, CONN_SUBSCRIBER, CONN_ROLES };

enum lease_result {
	LEASE_IS_HELD,     /* acquired; see .was_ours */
	LEASE_IS_BUSY,     /* somebody else holds it */
	LEASE_IS_LOST,     /* .lost says why; the shard has forgotten it */
	LEASE_IS_MOVED,    /* not here: .moved_to, .asking; the shard has forgotten it */
	LEASE_IS_RECREATED /* was missing, is held again: verify that the entry is still pending for us */
};
enum lost_reason { LOST_EXPIRED, LOST_TAKEN, LOST_MISSING, LOST_NOT_PENDING, LOST_REPLACED, LOST_N };

enum entry_source { SOURCE_NEW, SOURCE_OWN /* own pending at start */, SOURCE_FETCH };

enum op_result {     /* what an operation came to */
	OP_DONE,     /* done, taken, requeued (.new_id), dead-lettered, acked, … */
	OP_PARKED,   /* take: its stream has another entry: it waits, or .was_merged; not pending for us */
	OP_GONE,     /* not pending any more: somebody else did it */
	OP_NOT_OURS, /* requeue, dead: pending for another consumer, or not idle */
	OP_DELETED,  /* the entry's data was deleted: acknowledged */
	OP_MOVED,    /* not here: .moved_to, .asking: send it to the right shard */
	OP_FAILED    /* the server refuses for good: .error has its words */
};

enum feed_result { /* fields that a result does not name are 0 */
	/* .id = position, .tries of the entry behind it, .before, .is_suspect; .bad, which waits for its next try
	 * for .wait_ms, 0 = it does not */
	FEED_IS_OPEN,
	FEED_HAS_ENTRIES, /* .json, .n_entries of them, .id the last, .has_more, .epoch */
	FEED_HAS_ACKED,   /* .id: confirmed by Redis */
	FEED_HAS_NACKED,  /* .id, .wait_ms, .tries, .is_dead */
	FEED_HAS_BURIED,  /* .id, .reason: a dead letter that no worker asked for; .is_dead */
	FEED_BAD_ACK,     /* .id: nobody was given that entry; .is_nack */
	FEED_IS_READ,     /* to its end, and all is acknowledged; the first time of a run */
	FEED_IS_CLEARED,  /* a suspect is none: all that was there when something died with it is acknowledged */
	FEED_IS_IDLE,     /* empty for idle_release, or another stream waits for its credit: nothing more is told */
	FEED_IS_PUT_OFF, /* another stream waits for its credit, and its .bad waits .wait_ms for a next try: likewise */
	FEED_HAS_LOST,   /* .n_entries were trimmed or deleted before they were acknowledged */
	FEED_IS_CLOSED,  /* forgotten, as all that follow */
	FEED_IS_REFUSED, /* a newer token has the position; when it was opened: .id of that, if it is known */
	FEED_IS_GONE,    /* there is no position any more: it was deleted, by FLUSHALL perhaps */
	FEED_IS_REMADE,  /* the stream was made again with lower ids */
	FEED_IS_WRONG_TYPE, /* .is_position: its key is, else the data stream */
	FEED_IS_MOVED       /* .moved_to, .asking */
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

/* Payloads. Pointers are owned by the message, msg_fini frees them; whoever keeps one sets it to NULL. `asking`: the
 * server said ASK, or is to be asked with ASKING. `moved_to`: host:port by a server's word, NULL = not known. */
struct msg_slots {
	uint8_t *bits;      /* a map of SLOTS bits; NULL: none */
	bool was_elsewhere; /* another master served some of them until now (failover, slot move): a missing lock proves
			     * nothing for a while. Slots added by a later MSG_SLOTS count as that by themselves */
};
struct msg_service {
	struct service_rules *rules; /* a reference */
	bool is_read;                /* this shard reads its load-balancer stream */
	bool asking;
};
struct msg_credits {
	/* entries that may be read from now on: replaces what was not used; 0: a blocked read is unblocked */
	int64_t n;
	mono_ms block_cap_ms; /* the longest BLOCK; 0 = none: the read does not wait */
	bool is_sifting;      /* entries of running streams are put to wait while reading */
};
struct msg_fleet {
	int64_t credits; /* of the service's workers */
	uint32_t n_workers;
	bool may_get_more; /* idle streams may give up credits of theirs: while none is free, who waits is looked at */
};
struct msg_lease_acquire {
	struct entry_id id;
	struct text *stream;
	mono_ms good_until; /* 0: lock it; else it is held and good until then: go on renewing */
	uint16_t slot;
	bool asking;
	bool is_startup; /* an own lock of any incarnation is taken over */
	bool is_over;    /* held, and only to be released: its entry has ended, its handle may be another's */
	bool takes;      /* this shard reads its load-balancer stream, too: its take goes right behind the lock */
};
struct msg_op {
	uint8_t kind;   /* enum cmd_kind */
	uint8_t reason; /* dead: enum dead_reason */
	bool asking;
	bool resent;     /* it was sent before, elsewhere */
	bool is_suspect; /* requeue, later: the new entry says that a worker died with it */
	bool is_heir;    /* done: the stream's next entry may be ours */
	bool only_look;  /* take: nothing is put to wait */
	bool is_fail;    /* later: the worker failed; else it gave it back */
	bool releases;   /* with it ends the lease of the same handle, which this shard has, too */
	bool unlocks;    /* done: its script may delete that lock, too, for there is no cluster */
	uint16_t slot;
	uint32_t retry; /* requeue, later: count to write */
	uint32_t tries; /* later: so often an entry of the data stream failed, which waits; 0: none does */
	struct entry_id id;
	struct text *stream;
	struct text *error; /* dead, later: the worker's reason; NULL = none */
	struct text *info;  /* add: raw JSON; NULL = none */
	mono_ms delay_ms;   /* later, add later */
	int64_t at_ms;      /* add later: then, Unix ms by the server's clock; 0 = by delay_ms */
};
struct msg_lock_call {
	/* CMD_PROBE, CMD_LOCK, CMD_TOMBSTONE, CMD_UNLOCK; CMD_DEAD_ADD, CMD_FEED_DEAD_ADD; CMD_DLQ_LENGTH,
	 * CMD_FEED_DLQ_LENGTH */
	uint8_t kind;
	uint8_t reason; /* dead letters: enum dead_reason */
	bool asking;    /* the master of its slot has said .moved_to */
	uint16_t slot;
	uint32_t retry; /* dead letters of entries mode: tries */
	uint64_t tag;   /* the asker's, for the answer */
	struct entry_id id;
	struct text *stream;
	struct text *value; /* of the lock */
	struct text *error; /* dead letters: the worker's reason; NULL = none */
	struct text *moved_to;
	struct field_list *fields; /* dead letters; mem_free */
	int64_t ttl_ms;            /* of the lock; 0 = the service's */
};
struct msg_lock_answer {
	uint8_t kind;    /* of the call */
	uint8_t result;  /* OP_DONE; OP_GONE: refused, somebody else's; OP_FAILED; OP_MOVED */
	uint64_t tag;    /* of the call */
	int64_t integer; /* what Redis answered: ms that a probed lock lasts, number of dead letters, 1 = unlocked */
	mono_ms hold_off_until; /* until then a missing lock proves nothing there; 0 = it proves */
};
struct msg_expired {
	struct entry_id id;
	struct text *stream;
};
struct msg_waiting {
	uint32_t n;        /* streams, as far as one look has told */
	uint32_t n_merged; /* adds for running streams that were merged by that look */
	bool is_ahead;     /* nobody waits yet, but somebody will soon */
};
struct msg_feed_open {
	struct entry_id token; /* the load-balancer entry */
	struct text *stream;
	uint16_t slot;
	bool asking;
	bool is_adopted; /* a worker may have entries of it that this process has not told */
	bool is_suspect; /* something died with it */
	bool was_alone;  /* its owner, which had nothing else */
};
struct msg_feed_start {
	uint32_t epoch;       /* each FEED_HAS_ENTRIES says it again */
	struct entry_id told; /* what is up to there was told already; not above the position: everything comes again */
	bool is_suspect;      /* its worker has nothing else */
};
struct msg_feed_ack {
	struct entry_id id;
};
struct msg_feed_nack {
	struct entry_id id;
	mono_ms delay_ms; /* -1 = by the rules */
	bool is_dead;     /* to the dead letters at once */
	bool is_again;    /* it was on its way when the feed moved: another shard had told the entry */
	bool is_counted;  /* and Redis had counted it */
	struct text *reason;
};
struct msg_feed_close {
	uint8_t end; /* enum feed_end */
};
struct msg_conn {
	uint8_t role; /* enum conn_role; a reader's service is the message's .svc */
	bool is_up;
	struct text *why; /* it is down; NULL = not known */
};
struct msg_lease {
	uint8_t result; /* enum lease_result */
	uint8_t lost;   /* LEASE_IS_LOST: enum lost_reason */
	bool was_ours;  /* held: it was ours already (an older incarnation's, or a reply was lost) */
	bool has_take;  /* held: it was taken behind its lock, too: .taken .was_merged as in msg_op_result */
	bool was_merged;
	uint8_t taken; /* enum op_result */
	bool asking;
	uint16_t slot;
	mono_ms good_until;    /* moved: 0 = was never held */
	struct entry_id id;    /* moved: of its entry, which may have ended: its lock is deleted where it is now */
	struct text *stream;   /* likewise */
	int64_t lasts_ms;      /* of one that was taken over: how long its lock lasts; else 0 */
	struct text *moved_to; /* moved */
};
struct msg_renewed {
	struct renewed *list; /* mem_free */
};
struct msg_entries {
	uint8_t source;            /* enum entry_source */
	bool is_last;              /* own: the last page of a pass */
	uint32_t n_parked;         /* more that were put to wait or merged by the server */
	int64_t n_asked;           /* credits used up by this read */
	struct entry_batch *batch; /* NULL: none */
};
struct msg_own_ids {
	struct id_page *page; /* mem_free */
	int64_t pass;         /* its number: all pages of a pass started after the previous pass ended */
	mono_ms began;        /* when the pass began */
	bool is_last;         /* page of the pass */
};
struct msg_op_result {
	uint8_t kind;   /* enum cmd_kind, of the operation */
	uint8_t result; /* enum op_result */
	bool asking;
	bool resent;     /* it was sent more than once: a reply may have been lost */
	bool releases;   /* the lease of the same handle has ended with it */
	bool was_merged; /* take: into what waits; else it waits itself */
	uint16_t slot;
	struct entry_id new_id;    /* requeue, add; 0-0 = not known after a lost reply */
	struct entry_id next;      /* done: the stream's next entry, pending for us; 0-0 = none */
	struct entry_batch *batch; /* fetch */
	struct text *error;        /* OP_FAILED: the server's words; NULL = none */
	struct text *moved_to;     /* OP_MOVED */
};
struct msg_moved {
	uint16_t slot;
	bool asking;
	struct text *to; /* host:port; "host" may be empty: the same host */
};
struct msg_refresh {
	struct text *why;
	bool is_announced; /* by every connection: once for this number */
	int64_t seq;       /* that number */
};
struct msg_replaced {
	struct text *why;
};
struct msg_group_lost {
	bool is_remade; /* else it was just found to be gone */
};
struct feed_before { /* the run before */
	bool had_progress;
	bool is_unknown; /* how it ended, nobody knows */
	uint32_t n_ends; /* such runs in a row, without an acknowledgement, with something to do */
};
struct msg_feed {
	uint8_t result;  /* enum feed_result: says which of the others are set */
	uint8_t reason;  /* enum dead_reason */
	bool is_at_end;  /* nothing is behind the position */
	bool is_suspect; /* and it ended maybe because of this stream */
	bool has_more;   /* to be told as soon as there is room */
	bool is_dead;    /* it is a dead letter */
	bool is_nack;
	bool is_position;
	bool asking;
	uint16_t slot;
	uint32_t epoch, tries, n_entries;
	struct feed_before before;
	struct entry_id id, bad;
	mono_ms wait_ms;   /* comes again after that */
	struct text *json; /* entries: their texts, with commas */
	struct text *moved_to;
};
struct msg_not_started {
	struct text *why;
};

/* Kinds with a payload: enumerator, name of the payload. */
#define MSG_PAYLOADS(X)                                                                                                \
	X(SLOTS, slots)                                                                                                \
	X(SERVICE, service)                                                                                            \
	X(CREDITS, credits)                                                                                            \
	X(FLEET, fleet)                                                                                                \
	X(LEASE_ACQUIRE, lease_acquire)                                                                                \
	X(OP, op)                                                                                                      \
	X(LOCK_CALL, lock_call)                                                                                        \
	X(EXPIRED, expired)                                                                                            \
	X(WAITING, waiting)                                                                                            \
	X(FEED_OPEN, feed_open)                                                                                        \
	X(FEED_START, feed_start)                                                                                      \
	X(FEED_ACK, feed_ack)                                                                                          \
	X(FEED_NACK, feed_nack)                                                                                        \
	X(FEED_CLOSE, feed_close)                                                                                      \
	X(CONN, conn)                                                                                                  \
	X(LEASE, lease)                                                                                                \
	X(RENEWED, renewed)                                                                                            \
	X(ENTRIES, entries)                                                                                            \
	X(OWN_IDS, own_ids)                                                                                            \
	X(OP_RESULT, op_result)                                                                                        \
	X(LOCK_ANSWER, lock_answer)                                                                                    \
	X(MOVED, moved)                                                                                                \
	X(REFRESH, refresh)                                                                                            \
	X(REPLACED, replaced)                                                                                          \
	X(GROUP_LOST, group_lost)                                                                                      \
	X(FEED, feed)                                                                                                  \
	X(NOT_STARTED, not_started)

struct msg {
	uint8_t kind;    /* enum msg_kind: which payload */
	uint16_t from;   /* the shard that sent it; of a lock call and its answer: the shard that asks */
	uint16_t svc;    /* the service it is about */
	uint64_t handle; /* the entry it is about */
	union {
#define MSG_MEMBER(kind_, name) struct msg_##name name;
		MSG_PAYLOADS(MSG_MEMBER)
#undef MSG_MEMBER
	};
};

/* Builders, one for each kind with a payload: msg_credits((struct msg_credits){.n = 5}). What the payload owns moves
 * into the message; .handle, .svc and .from are filled in by the sender. */
#define MSG_BUILDER(kind_, name)                                                                                       \
	static inline struct msg msg_##name(struct msg_##name payload)                                                 \
	{                                                                                                              \
		return (struct msg){.kind = MSG_##kind_, .name = payload};                                             \
	}
MSG_PAYLOADS(MSG_BUILDER)
#undef MSG_BUILDER

/* One of a kind without payload. */
static inline struct msg msg_plain(enum msg_kind kind)
{
	return (struct msg){.kind = (uint8_t)kind};
}
/* Frees everything a message owns: after it was handled, when it could not be delivered, at shutdown. The only place
 * that does. */
void msg_fini(struct msg *m);
/* What is said in the place of shard `to`, which does not run, to a message of the coordinator: not here, look again.
 * A MSG_LOCK_CALL may be for a slot without a master: `to` is SHARD_NONE then.
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
	EFF_SHARD_START, /* .to .address */
	EFF_SHARD_STOP,  /* .to */
	EFF_FRAME,       /* .frame to session .session */
	EFF_CLOSE,       /* session .session: flush what was written, close; .text why */
	/* session .session, closed before, is forgotten: whether its process lives is nothing to us any more */
	EFF_SESSION_OVER,
	EFF_TOPOLOGY, /* ask for the topology; .text why */
	EFF_FATAL,    /* end the process: .text .exit_code */
	EFF_CTL,      /* a control request is answered: .ctl .text */
	/* both */
	EFF_LOG /* .level .text (owned) */
};

struct effect_ctl {
	uint32_t request; /* as coord_ctl had it */
	enum op_result result;
	struct entry_id id; /* of what was added; 0-0 = none, or not known */
};

struct effect {
	enum effect_kind kind;
	enum log_level level;
	enum conn_role role;
	uint16_t svc, to;
	uint64_t tag, session;
	int64_t timeout_ms;
	struct text *text;    /* owned: words for people */
	struct text *address; /* owned: host:port, "" = the configured endpoint we are connected to */
	union {
		struct cmd cmd;         /* slices point to records that live until the effects have been performed */
		struct msg msg;         /* moves */
		struct out_frame frame; /* slices likewise; .hold owns what they point to where needed */
		struct effect_ctl ctl;
		int exit_code;
	};
	struct text *hold, *hold2, *hold3; /* owned; released after performing */
};

struct effects {
	struct effect *v;
	size_t n, cap;
	bool says_moves; /* each transition of a state machine is a debug line: whoever performs them wants those */
};
/* Empty. */
void effects_init(struct effects *e);
/* Frees what they own and the list. */
void effects_fini(struct effects *e);
/* A zeroed effect at the end. Valid until the next call. */
struct effect *effects_add(struct effects *e, enum effect_kind kind);
/* A message at the end, to shard `to` (SHARD_NONE: to the coordinator); what m owns moves. Returns it for the rest to
 * be filled in; valid until the next call. */
struct msg *effects_msg(struct effects *e, uint16_t to, struct msg m);
/* A line for the log, formatted now; cut at 1,199 bytes. */
void effects_log(struct effects *e, enum log_level level, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
/* Frees what the effects own and empties the list (after performing, or without). */
void effects_clear(struct effects *e);
/* Frees what one effect owns. Its kind stays. */
void effect_fini(struct effect *ef);
