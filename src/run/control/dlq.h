/* dlq - what the files of the verbs on dead letters share: `dlq …` of entries of a load-balancer stream (LBS),
 * `entries-dlq …` of entries of data streams. Coordinator thread.
 *
 * Pages of the dead letters are looked through up to the one that was the last when the request came, so that what dies
 * again meanwhile is not looked at twice. A dead letter is deleted only after its copy was added: whoever dies between,
 * nothing is lost, and it may be added twice. A replay holds a lock in Redis, so that no other one, of whatever daemon,
 * adds the same dead letters. */
#pragma once
#include "run/control/control.h"
#include "run/control/redis.h"

enum { DLQ_PAGE_FIRST = 8, DLQ_PAGE = 100, DLQ_CONNS = 16 };

enum dlq_stage {
	DLQ_LAST,   /* the last dead letter's id is asked for */
	DLQ_LOCK,   /* no other replay may run */
	DLQ_RENEW,  /* it is still ours? */
	DLQ_HOLDER, /* who has it? */
	DLQ_UNLOCK,
	DLQ_READ,
	DLQ_LOOK,
	DLQ_ADD,    /* to the LBS, at once or later */
	DLQ_DELETE, /* from the dead letters */
	DLQ_HOLD,   /* entries: nothing waits for a next try; a position, where the stream would begin at its end */
	DLQ_GIVE,   /* entries: to their data stream */
	DLQ_WAKE    /* entries: a stream that has more goes to the LBS */
};

struct dlq_letter { /* entries: of the page, what was done with it */
	struct entry_id new_id;
	bool is_given, is_deleted;
};

/* The page of dead letters that is looked through. */
struct dlq_page {
	struct entry_batch *batch;
	size_t at, n; /* n: so many are asked for */
	struct entry_id from, until;
	bool is_last, is_read; /* the last page; a page is there */
};

/* Which master is asked. */
struct dlq_conns {
	struct control_redis *v[DLQ_CONNS], *asked; /* by master */
	size_t n;
};

/* What keeps replays apart: dlq_lock.c. */
struct dlq_lock {
	char value[400];
	mono_ms held_at; /* 0 = not held */
};

/* What is said when the lock is given back. */
struct dlq_end {
	bool is_over;
	int exit;
	char error[700];
};

/* Entries: the page's letters that were given are told of, then deleted: dlq_entries.c. */
struct dlq_settle {
	struct dlq_letter letters[DLQ_PAGE];
	size_t n_given, wake_at, delete_at;
	bool is_on, is_held;
};

struct dlq_job {
	struct control_req *q;
	const struct service_rules *rules; /* a reference */
	struct command_names names;        /* dlq: the key that is meant */
	bool is_entries, is_replay, is_purge, is_show;
	struct dlq_conns conns;
	enum dlq_stage stage;
	bool is_waiting, use_eval;
	struct dlq_page page;
	struct entry_id new_id;
	int64_t n_done, n_failed;
	mono_ms started, due_ms; /* due_ms: of the one under way; -1 = at once */
	struct dlq_lock lock;
	struct dlq_end end;
	struct dlq_settle settle;
};

/* The master of that slot as the one that is asked next; false: there is none, the request is over. */
bool dlq_ask(struct dlq_job *j, uint16_t slot, enum dlq_stage stage);
/* Asks Redis for c at that slot; its answer comes in that stage. Refused: the job is over. */
void dlq_send(struct dlq_job *j, uint16_t slot, const struct cmd *c, enum dlq_stage stage);
/* The job ends with that exit code and sentence (fmt may be NULL). The first word counts. */
void dlq_over(struct dlq_job *j, int exit, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
/* The row of the page's i-th letter. */
void dlq_action_row(struct dlq_job *j, size_t i, const char *result, const char *new_id, const char *error);
/* Deletes the i-th letter of the page. */
void dlq_delete(struct dlq_job *j, size_t i);
/* When the next letter may be touched at the rate that was asked for. */
mono_ms dlq_due(const struct dlq_job *j, mono_ms now);

/* ---- replay of entries, dlq_entries.c */
/* The letter at j->at goes to its data stream. */
void dlq_entries_give(struct dlq_job *j);
/* Tells the group of the streams that were given to and deletes those letters, one command a call; false: all done. */
bool dlq_entries_settle(struct dlq_job *j);
/* An answer of DLQ_HOLD, DLQ_GIVE, DLQ_WAKE, or of DLQ_DELETE while settling. */
void dlq_entries_answer(struct dlq_job *j, const struct reply *r, const redisReply *raw);
/* Redis failed: says which letters were given and are still dead letters. */
void dlq_entries_fail(struct dlq_job *j, const char *why);
/* A list of [name, value] of its own fields. */
void dlq_entries_fields(struct buf *b, const struct entry_in *e);

/* ---- one replay at a time, dlq_lock.c */
/* True: a command about the lock was sent, or the request is over. */
bool dlq_lock_step(struct dlq_job *j, mono_ms now);
/* An answer about the lock that keeps replays apart: taken, still ours, or somebody else's. */
void dlq_lock_answer(struct dlq_job *j, const struct reply *r);
/* How often it is renewed. */
mono_ms dlq_lock_every(const struct dlq_job *j);
/* True: the lock is being given back. */
bool dlq_lock_give_back(struct dlq_job *j);
