/* cmd - every command sluiced sends to Redis, and every answer, as data. codec/command turns a struct cmd into argv and
 * codec/reply turns the library's reply into a struct reply; core never sees keys, scripts or RESP.
 * Slices are valid during the turn only, on its thread; what outlives it is owned as said. */
#pragma once
#include "base/mono.h"
#include "base/text.h"
#include "core/frame.h"
#include <stdbool.h>
#include <stdint.h>

static inline int entry_id_cmp(struct entry_id a, struct entry_id b)
{
	if (a.ms != b.ms)
		return a.ms < b.ms ? -1 : 1;
	return a.seq < b.seq ? -1 : a.seq > b.seq;
}

static inline struct entry_id entry_id_next(struct entry_id a)
{
	return a.seq == UINT64_MAX ? (struct entry_id){a.ms + 1, 0} : (struct entry_id){a.ms, a.seq + 1};
}

/* The id just below; 0-0 has none. */
static inline struct entry_id entry_id_before(struct entry_id a)
{
	if (a.seq > 0)
		return (struct entry_id){a.ms, a.seq - 1};
	return a.ms ? (struct entry_id){a.ms - 1, UINT64_MAX} : a;
}

enum dead_reason {
	DEAD_MAX_RETRIES,
	DEAD_UNPARSEABLE,
	DEAD_TOO_LARGE,
	DEAD_REJECTED,
	DEAD_OPERATOR,
	DEAD_WRONG_TYPE, /* entries mode: the data stream is no stream */
	DEAD_BAD_NAME,   /* entries mode: no name for its position key lands in its slot */
	DEAD_N
};
const char *dead_reason_name(enum dead_reason r); /* "max_retries_exceeded" … */

/* What each says and, after ->, what it answers when all is well (else REPLY_ERROR or REPLY_NONE). Of what has a dot,
 * .stream and .id are in struct cmd, the rest is in the payload that names the kind below. */
enum cmd_kind {
	/* on the lock's master: .stream + .id name the lock */
	CMD_LOCK,      /* SET NX PX ttl_ms             -> OK | NIL (held) */
	CMD_LOCK_GET,  /* GET                          -> TEXT | NIL */
	CMD_LOCK_SWAP, /* .expect -> .value, PX ttl_ms  -> INT ms it lasts now, never less than before | 0 (script) */
	CMD_RENEW,     /* GETEX PX ttl_ms              -> TEXT (whoever holds it) | NIL */
	CMD_UNLOCK,    /* delete if it is .value        -> INT 1 | 0 (DELIFEQ or script) */
	CMD_PROBE,     /* PTTL                         -> INT ms left | -1 no TTL | -2 missing */
	CMD_TOMBSTONE, /* SET XX PX ttl_ms .value       -> OK | NIL  (door: CMD_LOCK with a recover: value) */
	/* on the master of the service's load-balancer stream (LBS) */
	/* XGROUP CREATE MKSTREAM at .start -> OK (BUSYGROUP counts as OK) */
	CMD_GROUP_CREATE,
	CMD_READ, /* XREADGROUP > .count .block_ms  -> ENTRIES (maybe none) */
	/* XREADGROUP after .id, .count   -> ENTRIES (own pending with their fields; deleted ones marked) */
	CMD_READ_OWN,
	CMD_HEARTBEAT, /* XREADGROUP past the end        -> ENTRIES (none) */
	CMD_FETCH,     /* XRANGE .id .id                 -> ENTRIES (one or none) */
	/* script; .stream .id .only_look -> INT 1 taken; 2 the stream has another entry (pending, delayed, or requeued
	 * and not read yet): it waits for that, pending for nobody; 4 merged into what waits; 0 gone */
	CMD_TAKE,
	CMD_TAKE_MANY, /* script; .v .n -> MANY, each answered as TAKE does */
	/* script; .stream .id .is_heir -> INT 1 done, 0 not ours any more (also: pending for another consumer) | ID
	 * done, and this, the stream's next entry, is pending for us now. With .lock_value its lock goes, too, if that
	 * is its value (not in a cluster: it is in another slot) -> INT 3 done, but the lock was not ours */
	CMD_DONE,
	CMD_DONE_MANY, /* script; .v .n .is_heir .lock_value -> MANY, each answered as DONE does */
	/* script; .stream .id .retry .consumer .min_idle_ms -> ID the new id | NIL gone | INT 0 not as expected
	 * (other consumer, not idle) | INT 2 entry deleted: acked */
	CMD_REQUEUE,
	/* script, same slot: like REQUEUE, but to the dead letters; .reason .error .now_ms -> INT 1 | 0 gone or
	 * not as expected | 2 entry deleted: acked */
	CMD_DEAD,
	/* other slot, on the DLQ's master: XADD of .fields and of what DEAD adds (.id .reason .error .now_ms) ->
	 * ID, .n older ones were trimmed for it */
	CMD_DEAD_ADD,
	/* XRANGE .id .id with all fields byte-exact (first half of a dead letter to another slot) -> ENTRIES with
	 * .fields (one or none) */
	CMD_DEAD_READ,
	CMD_ACK_DEL,     /* XACK + XDEL (script) if pending, for .consumer when given; registry cleaned -> INT 1 | 0 */
	CMD_PENDING,     /* XPENDING [IDLE min_idle_ms] .id + .count [.consumer] -> PENDING */
	CMD_CONSUMERS,   /* XINFO CONSUMERS               -> CONSUMERS */
	CMD_LENGTH,      /* XLEN LBS                      -> INT */
	CMD_PENDING_SUM, /* XPENDING summary              -> INT (count) */
	CMD_UNREAD, /* script                        -> ID of the first entry that nobody of the group has read | NIL */
	CMD_DLQ_LENGTH, /* XLEN DLQ                      -> INT */
	/* SET XX of a key that nobody makes, in the LBS' slot: writes nothing, is refused as a write is -> OK | NIL */
	CMD_TRIAL,
	CMD_ADD,       /* XADD LBS * lbs-input {"DataStreamName":.stream,"Info":.info} -> ID */
	CMD_DLQ_RANGE, /* XRANGE DLQ .id + COUNT .count  -> ENTRIES with .fields */
	CMD_DLQ_DEL,   /* XDEL DLQ .id                  -> INT */
	CMD_REPLAY,    /* XADD LBS of .fields            -> ID */
	/* script: like REQUEUE, but back only after .delay_ms; .why .error (a worker's reason) stay with it -> INT 1 |
	 * NIL gone | INT 0 not as expected | INT 2 entry deleted: acked */
	CMD_LATER,
	/* script: like READ without blocking, but entries of streams that run are put to wait at once, not delivered ->
	 * ENTRIES, .integer = how many were put away. .count 0: nothing is delivered -> of each stream that waits the
	 * first of its entries that nobody has read, as far as one page shows; .integer = how many were merged into
	 * what waits for their running stream */
	CMD_SIFT,
	/* script: what is due goes back to the LBS, at most .count; .position: where to look on for streams that nobody
	 * runs -> COUNTS, see enum due_count */
	CMD_DUE,
	/* script: .fields of .stream wait for .delay_ms, or until .at_ms by the server's clock (0 = use .delay_ms);
	 * .why -> ID they wait under */
	CMD_ADD_LATER,
	/* script: entries that the group was given and nobody has (not pending, not waiting for their stream); looks
	 * at .count from .id on -> PENDING without consumers, .id = the last that was looked at, 0-0 = all were;
	 * .only_last: none, .id = the last that the group was given */
	CMD_GHOSTS,
	/* script; .stream .id: such an entry goes back to the LBS -> ID the new id | INT 0 somebody has it, or it
	 * waits | NIL gone */
	CMD_GHOST_BACK,
	CMD_DELAYED_NOW,  /* script: .id, which waits, goes back at once -> ID the new id | INT 0 it does not wait */
	CMD_DELAYED_DROP, /* script: .id, which waits, is forgotten -> INT 1 | INT 0 it does not wait */
	/* who has left the group on purpose (script, {<lbs>}-left): we leave, we are back -> INT; all of them ->
	 * CONSUMERS, idle_ms = ms since */
	CMD_LEAVE,
	CMD_BACK,
	CMD_LEFT,
	/* script; .consumer .min_idle_ms: deletes it from the group if it has nothing and is so idle -> INT 1 | 0 */
	CMD_FORGET,
	/* script: what we have, for `sluicectl fleet` of any daemon: .credits .n_workers -> INT 1 */
	CMD_FLEET,
	/* entries mode, on the data stream's master: .stream names it and its position key; .token */
	/* script; .start, .pause of a try that it counts -> POSITION .id .integer = tries .n =
	 * flags, .n_added .n_lost, and while the entry behind it, .bad, waits for its next try .wait_ms | NIL: a
	 * newer token has it, .id = what that is made of, 0-0 = not a token as ours */
	CMD_FEED_OPEN,
	CMD_FEED_READ, /* XRANGE behind .id, .count -> FEED (maybe none; may begin with .id, if that is the highest) */
	/* script; .id .now_ms .trim .check .n_added -> INT 1 | 0: was there
	 * already | -1: not our token | -2: .check, and the stream has never had such an id | -3: there is no position,
	 * somebody has deleted it */
	CMD_FEED_ACK,
	/* script; .pause .n_tries -> POSITION .integer = tries .wait_ms | NIL: not our token | INT -3 */
	CMD_FEED_FAIL,
	/* script; .end .ttl_ms, .pause of the try that a death costs -> INT 1 | 2: position and stream deleted | 0: not
	 * our token */
	CMD_FEED_CLOSE,
	CMD_FEED_PICK, /* XRANGE .id .id of the stream  -> ENTRIES with .fields (one or none) */
	/* on the master of the entries' dead letters: XADD of .fields, .stream .id .reason .error .now_ms .n_tries ->
	 * ID, .n older ones were trimmed for it */
	CMD_FEED_DEAD_ADD,
	CMD_FEED_DLQ_LENGTH, /* XLEN of them            -> INT */
	/* on any node */
	CMD_TRACKING, /* CLIENT TRACKING ON OPTIN NOLOOP -> OK */
	CMD_CACHING,  /* CLIENT CACHING YES: the next read is tracked -> OK */
	CMD_WAIT,     /* WAIT .n_replicas .block_ms -> INT */
	CMD_UNBLOCK,  /* CLIENT UNBLOCK .client_id  -> INT */
	CMD_SLOTS,    /* CLUSTER SLOTS -> SLOTS (.integer = rows left out, .text: the first) | ERROR RERR_NO_CLUSTER */
	CMD_CLUSTER_INFO,      /* CLUSTER INFO              -> TEXT cluster_state, .integer = its epoch; likewise */
	CMD_ROLE,              /* ROLE                      -> TEXT "master" | "slave" … */
	CMD_RUN_ID,            /* INFO server               -> TEXT run_id */
	CMD_TIME,              /* TIME                      -> INT Unix ms of the server */
	CMD_CONFIG_GET_EVENTS, /* CONFIG GET notify-keyspace-events -> TEXT flags */
	CMD_CONFIG_SET_EVENTS, /* CONFIG SET … .flags               -> OK */
	CMD_PSUBSCRIBE,        /* lock pattern of .db: no reply comes, confirmations are pushes */
	CMD_PING,              /* -> OK */
	CMD_N
};

/* Its first key is the service's load-balancer stream. */
bool cmd_is_on_lbs(enum cmd_kind k);

/* How a feed ends. */
enum feed_end {
	FEED_END_KEEP,   /* given back: the position stays */
	FEED_END_DONE,   /* the position goes after .ttl_ms */
	FEED_END_DEATH,  /* its worker died: the next entry's tries are counted */
	FEED_END_DELETE, /* nothing is behind the position: both keys go, else as done */
	FEED_END_FORGET, /* without Redis traffic */
	FEED_ENDS
};

/* ---- payloads: what a command is about beside .stream and .id, by its kind. Slices and pointers stay their owner's.
 */

/* LOCK, LOCK_SWAP, RENEW, UNLOCK, TOMBSTONE */
struct cmd_lock {
	struct slice value;  /* all but RENEW */
	struct slice expect; /* LOCK_SWAP: what it has now */
	int64_t ttl_ms;      /* all but UNLOCK */
	bool use_delifeq;    /* UNLOCK: by that command, which not every server has */
};

/* GROUP_CREATE */
struct cmd_group {
	struct slice start; /* absent = the service's group_start */
};

/* READ, READ_OWN, SIFT, DLQ_RANGE, FEED_READ */
struct cmd_read {
	int64_t count;
	int64_t block_ms; /* READ; 0 = does not block */
};

/* PENDING */
struct cmd_pending {
	int64_t count, min_idle_ms;
	struct slice consumer; /* absent = everybody's */
};

/* TAKE */
struct cmd_take {
	struct slice consumer; /* absent = ours */
	bool only_look;        /* is it still ours? Nothing is put to wait */
};

/* DONE, ACK_DEL */
struct cmd_done {
	struct slice consumer;   /* absent = DONE: ours; ACK_DEL: whoever has it */
	struct slice lock_value; /* DONE: its lock goes, too, if that is its value; absent = the lock stays */
	bool is_heir;            /* DONE: the stream's next entry may be ours at once */
};

/* One of the entries that a command is about. */
struct cmd_entry {
	struct slice stream;
	struct entry_id id;
};
enum { CMD_MANY_MAX = 128 }; /* some 2 ms of the server */

/* TAKE_MANY, DONE_MANY */
struct cmd_many {
	const struct cmd_entry *v; /* n of them, at least one */
	size_t n;
	struct slice lock_value; /* as cmd_done's, of each */
	bool is_heir;
};

/* REQUEUE, LATER */
struct cmd_requeue {
	struct slice consumer; /* who must have it pending */
	int64_t min_idle_ms;
	int64_t retry;      /* the count to write */
	bool is_suspect;    /* a worker died with it */
	bool was_alone;     /* and had nothing else: the next open counts a try for that */
	int64_t delay_ms;   /* LATER */
	const char *why;    /* LATER: "fail", "release" */
	uint32_t tries;     /* LATER: so often an entry of the data stream failed, which waits; 0: none does */
	struct slice error; /* LATER: the worker's reason, cut to 256 bytes by the codec */
};

/* DEAD, DEAD_ADD, FEED_DEAD_ADD */
struct cmd_dead {
	struct slice consumer; /* DEAD: who must have it pending */
	int64_t min_idle_ms;   /* DEAD */
	enum dead_reason reason;
	struct slice error;              /* the worker's, cut to 1 KiB by the codec */
	int64_t now_ms;                  /* wall clock */
	int64_t n_tries;                 /* FEED_DEAD_ADD */
	const struct field_list *fields; /* all but DEAD: the entry's */
};

/* ADD, REPLAY, ADD_LATER */
struct cmd_add {
	struct slice info;               /* raw JSON, absent = {}; of a new entry of .stream */
	const struct field_list *fields; /* of an entry as it was, in place of a new one; ADD: none */
	int64_t delay_ms, at_ms;         /* ADD_LATER: at_ms by the server's clock, 0 = use delay_ms */
	const char *why;                 /* ADD_LATER: "add", "replay" */
};

/* DUE */
struct cmd_due {
	int64_t count;
	int64_t position; /* where to look on for streams that nobody runs */
};

/* GHOSTS */
struct cmd_ghosts {
	int64_t count;
	bool only_last; /* none is looked at: only the last that the group was given is asked */
};

/* FORGET */
struct cmd_forget {
	struct slice consumer;
	int64_t min_idle_ms;
};

/* FLEET */
struct cmd_fleet {
	int64_t credits, n_workers;
};

/* Entries mode: an entry that has failed n times waits for first_ms × factor^(n − 1), at most max_ms, × permille
 * / 1000. */
struct cmd_pause {
	int64_t first_ms, max_ms;
	uint32_t factor, permille; /* permille: 1000 and what chance adds or takes */
};

struct cmd_feed_open {
	struct slice start; /* of a stream without a position */
	bool was_alone;     /* the run before had nothing else when it ended */
	bool is_suspect;    /* its worker has nothing else */
};
struct cmd_feed_ack {
	int64_t now_ms;   /* wall clock */
	bool trim, check; /* check: has the stream ever had such an id? */
	int64_t n_added;  /* entries ever added up to .id, -1 = not known */
};
struct cmd_feed_fail {
	int64_t n_tries; /* the count to write */
};
struct cmd_feed_close {
	enum feed_end end;
	bool drops_unused; /* FEED_END_KEEP: .ttl_ms also for a position that says nothing, see codec/script.h */
	int64_t ttl_ms;    /* of the position of a stream that is done */
};
/* FEED_OPEN, FEED_ACK, FEED_FAIL, FEED_CLOSE; each has its own part */
struct cmd_feed {
	struct entry_id token;  /* the load-balancer entry whose token is ours */
	struct cmd_pause pause; /* all but FEED_ACK: of a try that it counts */
	struct cmd_feed_open open;
	struct cmd_feed_ack ack;
	struct cmd_feed_fail fail;
	struct cmd_feed_close close;
};

/* WAIT */
struct cmd_wait {
	int64_t n_replicas, block_ms;
};

/* UNBLOCK */
struct cmd_unblock {
	int64_t client_id;
};

/* PSUBSCRIBE, CONFIG_SET_EVENTS */
struct cmd_keyspace {
	int64_t db;         /* PSUBSCRIBE */
	struct slice flags; /* CONFIG_SET_EVENTS */
};

union cmd_payload {
	uint64_t none[14]; /* first, and as large as any: what an initializer leaves out is zero, whatever the kind */
	struct cmd_lock lock;
	struct cmd_group group;
	struct cmd_read read;
	struct cmd_pending pending;
	struct cmd_take take;
	struct cmd_done done;
	struct cmd_many many;
	struct cmd_requeue requeue;
	struct cmd_dead dead;
	struct cmd_add add;
	struct cmd_due due;
	struct cmd_ghosts ghosts;
	struct cmd_forget forget;
	struct cmd_fleet fleet;
	struct cmd_feed feed;
	struct cmd_wait wait;
	struct cmd_unblock unblock;
	struct cmd_keyspace keyspace;
};
_Static_assert(sizeof(union cmd_payload) == sizeof(uint64_t[14]), "cmd_payload: none is not the largest");

struct cmd {
	enum cmd_kind kind;
	uint16_t svc;  /* service id; names come from the runtime's table */
	bool asking;   /* send ASKING first */
	bool use_eval; /* the server does not know the script: send its text */
	struct slice stream;
	struct entry_id id;
	union cmd_payload as; /* of the kind; nothing of the others is read */
};

/* What CMD_DUE answers: reply.counts. */
enum due_count {
	DUE_MOVED,    /* went back to the LBS */
	DUE_WAIT_MS,  /* until the next is due; -1 = none */
	DUE_DELAYED,  /* wait for their time */
	DUE_PARKED,   /* wait for a running stream */
	DUE_POSITION, /* for the next time */
	DUE_WOKEN,    /* streams that nobody ran any more and that go on */
	DUE_WANTED,   /* not read by anybody yet, and due; -1 = not known */
	DUE_COUNTS
};

/* All fields of an entry, byte-exact. One heap block, freed with mem_free. */
struct field {
	struct slice name, value;
};
struct field_list {
	size_t n;
	struct field v[];
};

enum entry_problem {
	ENTRY_GOOD,
	ENTRY_NO_INPUT,
	ENTRY_BAD_JSON,
	ENTRY_BAD_UTF8,
	ENTRY_HALF_CHARACTER,
	ENTRY_NO_OBJECT,
	ENTRY_NO_NAME,
	ENTRY_DELETED
};

/* Why nobody can work on it, for people; NULL when it is ENTRY_GOOD. */
const char *entry_problem_text(enum entry_problem p);

struct entry_in { /* one entry as read */
	struct entry_id id;
	enum entry_problem problem;
	bool is_suspect; /* _suspect: a worker died with it */
	bool was_alone;  /* _suspect says 2: its owner died, and had nothing else */
	bool bad_retry;  /* _retry_count was not 1–9 digits: counts as 0 */
	uint32_t retry;
	uint16_t lock_slot;        /* cluster slot of its lock key */
	uint16_t data_slot;        /* of the data stream itself */
	bool has_no_position;      /* in a cluster no position key of it lands in its slot */
	bool is_position;          /* its name is that of a position's key */
	struct text *stream;       /* owned; NULL when problem */
	struct text *info;         /* owned; raw JSON, "{}" when absent; NULL when problem */
	struct text *trace;        /* owned; a JSON object of its traceparent, tracestate, baggage; NULL = has none */
	struct field_list *fields; /* owned; only for CMD_DEAD_READ and CMD_DLQ_RANGE */
};

/* A read's entries: moves as one pointer from the codec to whoever keeps them. entry_batch_free drops what was not
 * taken (set stolen pointers to NULL). */
struct entry_batch {
	size_t n;
	struct entry_in v[];
};
/* With everything that was not taken out (NULL). NULL is fine. */
void entry_batch_free(struct entry_batch *b);

/* Entries of a data stream as read, each already as the JSON text of the worker protocol without its closing bracket:
 * ["17-0",["name","value",…]. One heap block, freed with mem_free. */
struct feed_batch {
	uint32_t n;
	struct {
		struct entry_id id;
		const char *json; /* in the block */
		size_t len;
	} v[];
};

enum {                         /* reply.n of a POSITION */
	POSITION_PROGRESS = 1, /* the run before acknowledged something */
	POSITION_REMADE = 2,
	POSITION_DEATH = 4,   /* the run before was not closed: nobody knows how it ended */
	POSITION_SUSPECT = 8, /* and maybe because of this stream */
	POSITION_AT_END = 16  /* nothing is behind the position */
};

struct pending_row {
	struct entry_id id;
	int64_t idle_ms;
	uint64_t deliveries;
	struct slice consumer;
};

struct consumer_row {
	struct slice name;
	uint64_t n_pending;
	int64_t idle_ms;
};

struct slot_range {
	uint16_t from, to;
	uint16_t port;  /* 0 = the port that was asked */
	char host[256]; /* "" = the host that was asked */
	char alt[64];   /* the node's "ip" of its metadata, "" = none */
	char node_id[48];
};

enum reply_kind {
	REPLY_NONE /* the connection ended first */,
	REPLY_ERROR,
	REPLY_OK,
	REPLY_NIL,
	REPLY_INT,
	REPLY_TEXT,
	REPLY_ID,
	REPLY_ENTRIES,
	REPLY_PENDING,
	REPLY_CONSUMERS,
	REPLY_SLOTS,
	REPLY_COUNTS,
	REPLY_POSITION,
	REPLY_FEED,
	REPLY_MANY
};

enum reply_error {
	RERR_RETRY,   /* LOADING BUSY TRYAGAIN NOREPLICAS OOM MISCONF maxclients: same node, backoff */
	RERR_REFRESH, /* READONLY MASTERDOWN CLUSTERDOWN UNBLOCKED: ask for the topology, then again */
	RERR_MOVED,   /* .moved_slot, .text = host:port */
	RERR_ASK,     /* same */
	RERR_NOSCRIPT,
	RERR_NOGROUP,    /* also a deleted stream */
	RERR_NO_CLUSTER, /* cluster support disabled */
	RERR_OPERATOR,   /* WRONGTYPE NOPERM NOAUTH WRONGPASS unknown command …: one clear line, backoff */
	RERR_BAD         /* an answer of a shape we do not know */
};

/* What a server refuses for, as sluice_redis_refused_total has it. A redirection or a script to send again is none. */
enum refusal {
	REFUSAL_NONE,
	REFUSAL_OOM,
	REFUSAL_MISCONF,
	REFUSAL_NOREPLICAS,
	REFUSAL_READONLY,
	REFUSAL_NOPERM,
	REFUSAL_NOAUTH,
	REFUSAL_WRONGPASS,
	REFUSAL_WRONGTYPE,
	REFUSAL_LOADING,
	REFUSAL_BUSY,
	REFUSAL_MASTERDOWN,
	REFUSAL_CLUSTERDOWN,
	REFUSAL_TRYAGAIN, /* keys of one command on both sides of a slot that is being moved */
	REFUSAL_MAXCLIENTS,
	REFUSAL_OTHER, /* ERR … */
	REFUSAL_N
};

/* What a master refuses for the moment. */
struct shard_refused {
	mono_ms since; /* refused for the first time since it was accepted; 0 = nothing is refused */
	uint64_t n;
	uint16_t svc;    /* whose keys alone are meant; SERVICE_NONE: it is not known to be one service's trouble */
	char words[320]; /* the server's, and which keys may be meant */
};

struct reply {
	enum reply_kind kind;
	enum reply_error error;
	enum refusal refusal; /* of an ERROR */
	uint16_t moved_slot;
	int64_t integer;
	struct slice
		text; /* TEXT; ERROR: the server's words; MOVED/ASK: host:port ("host" may be empty: the same host) */
	struct entry_id id;
	struct entry_batch *entries; /* ENTRIES: owned by whoever handles the reply */
	struct feed_batch *feed;     /* FEED: owned by whoever handles the reply */
	const struct pending_row *pending;
	const struct consumer_row *consumers;
	const struct slot_range *slots;
	int64_t counts[DUE_COUNTS]; /* COUNTS */
	int64_t wait_ms;            /* POSITION: until the next try of the entry behind it; 0 = none waits */
	struct entry_id bad;        /* POSITION: that entry; 0-0 = none, or not looked at */
	/* POSITION: how many entries were ever added up to it, -1 = not known; how many behind it were trimmed or
	 * deleted before anybody acknowledged them, as far as is known, since that was found last */
	int64_t n_added, n_lost;
	const struct reply *many; /* MANY: of each entry, in the command's order */
	size_t n;                 /* rows of pending, consumers, slots, many; POSITION: flags, POSITION_* */
	uint32_t n_ends;          /* POSITION: runs in a row without an acknowledgement whose end nobody knows */
};
