/* feed_p - what feed.c (what is due, sending), feed_give.c (what is told), feed_reply.c (answers) and feed_yield.c
 * (credits for others) share. */
#pragma once
#include "base/list.h"
#include "base/map.h"
#include "core/shard/feed.h"
#include "core/shard/pool.h"

/*   OPEN -> OPENING --opened--> RUNNING --nack--> FAILING --tries left--> BLOCKED --time--> RUNNING
 *                                 |  ^               | used up, dead            ^
 *                                 +--|---------------|----opened, must wait yet-+
 *                                 |  +---acked--- BURYING <--too large, used up by deaths-- RUNNING
 *   every state --CLOSE--> CLOSING --> (gone); from FAILING and BURYING when what the worker said last is settled
 *   every state: a newer token, made again, another type, another master -> told, gone
 *
 * At most one script and one read of a feed are on their way. What is sent next follows from its record alone
 * (feed_command): after a lost connection the open again, then the acknowledgement that waits, then what the state asks
 * for. A position is confirmed only by an answer of Redis. */
enum feed_state {
	FEED_OPENING,
	FEED_RUNNING, /* reads and tells, unless is_held */
	FEED_FAILING, /* an entry was nacked: what was before it is acknowledged, then its tries are counted */
	FEED_BLOCKED, /* until .until, then the entry comes again, alone */
	FEED_BURYING, /* read with its fields, written to the dead letters, then acknowledged */
	FEED_CLOSING,
	FEED_STATES
};

struct feed_sent { /* an entry that was told and is not confirmed */
	struct entry_id id;
	mono_ms at;  /* told */
	bool ends;   /* the last of its frame */
	bool is_all; /* stands for all up to it: another shard has told them */
};

struct feed_idle {
	mono_ms since;        /* when it was found empty; 0: it is not */
	bool has_told : 1;    /* its worker was given an entry */
	bool is_yielding : 1; /* another stream waits for its credit: it ends when the next read finds nothing */
	bool has_ended : 1;   /* its run is over, as far as this side knows: its credit is free soon */
	uint8_t part;         /* enum feed_part */
};

/* What its credit is good for: where a look for those that may give theirs up finds it. */
enum feed_part { FEED_WORKS, FEED_GIVES_UP, FEED_PAUSES, FEED_RESTS_UNTOLD, FEED_RESTS, FEED_PARTS };

/* How many entries were ever added to the stream, beside feed.n_added. -1 = not known. */
struct feed_added {
	struct entry_id gap;    /* up to here some may be passed that were not told here: they cannot be counted */
	struct entry_id acking; /* up to this id, the one in flight: */
	int64_t at_acking;
	bool is_kept; /* burying: the entry is written */
};

/* What was read and not told. */
struct feed_unread {
	struct entry_id cursor; /* up to here: told, or in buf; feed_cursor() */
	struct feed_batch *buf; /* from n_told on */
	uint32_t n_told;
	uint32_t n_void; /* behind cursor: read, and to be read again, as far as is known */
};

/* When the next read is sent. */
struct feed_reading {
	mono_ms at;      /* when the next may be sent */
	mono_ms sent;    /* the one in flight was */
	mono_ms wait_ms; /* between two polls of an empty stream */
	uint32_t asked;  /* of the one in flight */
	uint32_t count;  /* of the next; 0 = none was sent */
	bool in_flight : 1;
	bool is_stale : 1;  /* the one in flight was sent before what has changed since */
	bool is_armed : 1;  /* the server pushes when it changes */
	bool is_woken : 1;  /* it has: to be read */
	bool by_push : 1;   /* the one in flight is for that */
	bool was_empty : 1; /* the last found nothing */
	bool at_end : 1;    /* the last found less than it asked for */
	bool was_left : 1;  /* the one in flight is the first for long: feed_was_left() */
};

/* What its worker was told and Redis has not confirmed. */
struct feed_window {
	struct feed_sent *v; /* n of them, from `from` on */
	uint32_t n, from, cap, n_frames;
	struct entry_id top; /* the highest that was told under this lease, if above the position */
	uint32_t singles;    /* so many are told one by one */
};

/* The script under way, or the next. */
struct feed_script {
	mono_ms at; /* when the next may be sent; in flight: when it was */
	uint8_t command, backoff;
	bool in_flight : 1, use_eval : 1;
};

/* FAILING, BLOCKED, BURYING, and the next try: the entry behind the position. */
struct feed_bad {
	struct entry_id id;
	struct field_list *fields; /* burying */
	struct text *reason;       /* its worker's */
	mono_ms until;             /* blocked; burying: when a call that got lost is made again */
	mono_ms nack_ms;           /* asked for by the worker, -1 = by the rules */
	mono_ms close_by; /* its run has ended: it is closed when that is settled, at the latest then; 0 = no */
	uint32_t tries;
	uint8_t dead_reason;
	bool is_dead : 1;    /* nack: to the dead letters at once */
	bool must_fail : 1;  /* the tries are to be counted */
	bool fail_lost : 1;  /* they may have been: no answer came */
	bool is_nacked : 1;  /* the worker waits for an answer to its nack */
	bool is_calling : 1; /* burying: the dead letter is being written */
};

/* What there is to keep while there is something to do: an idle feed has none of it (feed_rest). */
struct feed_work {
	struct entry_id wanted; /* to be acknowledged, up to here; not above confirmed: nothing to send */
	struct entry_id seen;   /* the highest that this server has shown since the open, if above confirmed */
	struct feed_unread unread;
	struct feed_window window;
	struct feed_added added;
	struct feed_bad bad;
};

/* This owner of the position, and the one before it. */
struct feed_run {
	mono_ms opened_at;
	uint8_t end;           /* closing: enum feed_end */
	bool is_open : 1;      /* by the server of this connection */
	bool was_open : 1;     /* told */
	bool is_adopted : 1;   /* its worker may know entries that this process has not told */
	bool was_alone : 1;    /* the owner before died, and had nothing else: the first open counts that */
	bool is_alone : 1;     /* its worker has nothing else; the position says so once it is opened again */
	bool is_tested : 1;    /* something died with it: not cleared yet */
	bool is_held : 1;      /* nothing is told */
	bool is_read_told : 1; /* that it is read to the end, and all is acknowledged */
};

struct feed { /* tens of thousands of idle ones: 232 bytes */
	struct heap_node timer;
	struct link ready; /* in the queue of scripts */
	struct link reads; /* in the queue of reads */
	struct link parts; /* with the others of its part, in order of when they came to it; FEED_WORKS: in none */
	uint64_t handle;   /* 0: not in use */
	struct text *stream;
	struct entry_id token; /* the load-balancer entry's id */
	uint32_t index, epoch;
	uint16_t svc, slot;
	uint8_t state;
	bool asking;
	struct entry_id confirmed;    /* its position: acknowledged up to here, by Redis */
	int64_t n_added;              /* so many entries were ever added to the stream up to it; -1 = not known */
	const struct feed_work *work; /* never NULL; written to through feed_at_work() */
	struct feed_reading reading;
	struct feed_script script;
	struct feed_run run;
	struct feed_idle idle;
};

enum {
	FEED_IN_FLIGHT = 1000,
	FEED_READS_IN_FLIGHT = 128,
	FEED_READS_UNKNOWN = 4, /* the same, of a service of which no entry was read yet */
	FEED_PER_STEP = 250,
	FEED_POLL_MIN_MS = 5,
	FEED_POLL_BLIND_MS = 250, /* at most, where no push comes */
	FEED_REARM_MS = 1000,     /* polls from here on arm again: the server's table is bounded */
	FEED_YIELD_MS = 100,      /* those that are empty for so long give up their credits before others */
	FEED_AHEAD_MS = 25,       /* the same where nobody waits yet */
	FEED_WANTED_MS = 500,     /* so long it counts that streams wait: twice the longest pause between two looks */
	FEED_LEND_MS = 500,       /* a pause of more lends its credit to another stream that waits */
	FEED_SETTLE_MS = 1000,    /* so long an end waits for the dead letter; the coordinator waits for 1.5 s */
	FEED_CHECK_MS = 30000,    /* an idle stream is looked at that often: was it made again? */
	FEED_LEFT_MS = 1000,      /* the same when it was not read for so long, and then there is nothing more */
	FEED_FIRST_COUNT = 32     /* of the first read, at most; doubled while entries are small */
};

/* Whose loss of entries was said, by the hash of their names. */
enum { FEED_SAID = 64, FEED_SAY_EVERY_MS = 60000, FEED_KEEPER_MS = 5000 /* empty for so long: no pause between two */ };
struct feed_said {
	uint64_t hash;
	mono_ms at; /* 0 = nobody's */
};

enum feed_tracking { TRACKING_UNASKED, TRACKING_ASKED, TRACKING_ON, TRACKING_REFUSED };

struct feeds {
	struct shard_pool pool;
	uint32_t *by_handle; /* pool index + 1, by the handle's low half */
	uint32_t n_by_handle;
	struct map by_stream;
	struct heap timers;
	struct link scripts, reads;
	struct link parts[FEED_PARTS];
	uint32_t n_in_flight, n_reading;
	enum feed_tracking tracking;
	bool has_pushes, is_refusal_said;
	struct feed_said said[FEED_SAID];
};

/* Indexes of tags that are no feed's; reads have the bit. */
enum { FEED_TRACKING_INDEX = 0x7fffffff, FEED_CACHING_INDEX = 0x7ffffffe };
#define FEED_READ_BIT 0x80000000u

static inline bool feed_is_newer(struct entry_id a, struct entry_id b)
{
	return entry_id_cmp(a, b) > 0;
}
static inline struct entry_id feed_later(struct entry_id a, struct entry_id b)
{
	return feed_is_newer(a, b) ? a : b;
}

/* Read and not told yet. */
static inline uint32_t feed_n_untold(const struct feed *f)
{
	return f->work->unread.buf ? f->work->unread.buf->n - f->work->unread.n_told : 0;
}

/* Up to here it was read: told, or not told yet. */
static inline struct entry_id feed_cursor(const struct feed *f)
{
	return feed_later(f->work->unread.cursor, f->confirmed);
}

/* feed.c */
extern const struct feed_work feed_no_work;
/* Its work, to be written to; there is some afterwards. */
struct feed_work *feed_at_work(struct feed *f);
/* It was found empty: gives the work's memory back when nothing of it counts any more. */
void feed_rest(struct feed *f);
const struct entries_rules *feed_rules(const struct shard_ctx *c, const struct feed *f);
/* Tries of the entry that goes to the dead letters, the one that its worker refused for good among them. */
uint32_t feed_tries_of_dead(const struct feed *f);
/* The only way a state changes: asserts that the move is allowed. */
void feed_move(struct shard_ctx *c, struct feed *f, enum feed_state to, const char *why);
/* Puts it where it belongs now: a queue, a timer, or nowhere. After every change. */
void feed_plan(struct feeds *fs, struct shard_ctx *c, struct feed *f);
/* MSG_FEED of it to the coordinator; fill in the rest. */
struct msg_feed *feed_tell(struct shard_ctx *c, const struct feed *f, enum feed_result result);
/* Without a word to anybody; f is gone. Answers that come later find nothing. */
void feed_forget(struct feeds *fs, struct shard_ctx *c, struct feed *f);
/* Told and forgotten. The rest may be filled in. */
struct msg_feed *feed_lose(struct feeds *fs, struct shard_ctx *c, struct feed *f, enum feed_result result);
struct feed *feed_of_tag(const struct feeds *fs, uint64_t tag); /* NULL: it is gone */

/* feed_reply.c */
/* The read that is next may go out. Where nobody knows how long its service's entries are, those of many streams may be
 * more than one connection bears. */
bool feed_may_read(const struct feeds *fs, const struct shard_ctx *c);
/* How many entries the first read of f asks for: what fits into a frame, as long as its service's are lately. */
uint32_t feed_first_count(const struct shard_ctx *c, const struct feed *f);
/* The longest pause between two polls of an empty stream, ms. */
mono_ms feed_poll_max(const struct feeds *fs, const struct shard_ctx *c, const struct feed *f);
/* The server was not asked to push, and either not all was read or it was long ago: somebody may have made it again. */
bool feed_was_left(const struct shard_ctx *c, const struct feed *f);

/* The next one in use at *pos or behind it; *pos moves on. Survives the end of what it returned. */
struct feed *feed_next_feed(const struct feeds *fs, uint32_t *pos);

/* feed_yield.c */
void feed_parts_init(struct feeds *fs);
/* Puts it where a look for credits finds it. After every change: feed_plan does. */
void feed_sort(struct feeds *fs, struct feed *f);
bool feed_is_sorted(const struct feed *f);
/* It was just found empty: does another stream wait for its credit? Then it is to end; each that waits ends one. */
bool feed_is_wanted(struct shard_ctx *c, struct feed *f);
/* Its entry waits for a next try from now on: does another stream wait for its credit? Then it says so, and is held. */
void feed_lend(struct shard_ctx *c, struct feed *f);

/* feed_give.c */
/* May another frame be told? */
bool feed_has_room(const struct shard_ctx *c, const struct feed *f);
/* Tells what is read, as far as there is room. */
void feed_give(struct shard_ctx *c, struct feed *f);
/* Its entry had to wait when it was opened here; by another clock, that of the master before, its next try may have
 * begun. */
bool feed_waits_of_old(const struct feed *f);
/* Forgets what is read, and what a read under way will bring. */
void feed_drop_read(struct shard_ctx *c, struct feed *f);
/* Everything behind the position is told again. */
void feed_restart(struct shard_ctx *c, struct feed *f);
/* Redis has confirmed the position. */
void feed_confirmed(struct shard_ctx *c, struct feed *f, struct entry_id pos);
/* What came first after something died with it is acknowledged, or nothing is left: others may run beside it. Once. */
void feed_clear(struct shard_ctx *c, struct feed *f);
/* A worker could not do an entry: what was told behind it is void. The reason moves out of m. Nobody was given it:
 * FEED_BAD_ACK. */
void feed_take_nack(struct shard_ctx *c, struct feed *f, struct msg_feed_nack *m);
/* How many entries were ever added to the stream up to id, which is about to be confirmed; -1 = not known. */
int64_t feed_added_at(const struct feed *f, struct entry_id id);
/* A worker has done everything up to id. Nobody was given it: FEED_BAD_ACK. */
void feed_take_ack(struct shard_ctx *c, struct feed *f, struct entry_id id);
/* The first entry behind the position becomes a dead letter. */
void feed_bury(struct shard_ctx *c, struct feed *f, struct entry_id id, enum dead_reason why);
/* Redis has counted: tries so far, and how long until the next. */
void feed_failed(struct shard_ctx *c, struct feed *f, uint32_t tries, mono_ms wait);
/* The entry behind the position waits for its next try, ms: nothing is told until then. RUNNING, with tries left; 0 ms:
 * nothing happens. */
void feed_wait(struct shard_ctx *c, struct feed *f, struct entry_id bad, mono_ms wait);
