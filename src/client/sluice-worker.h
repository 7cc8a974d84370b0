/* sluice-worker.h - libsluice-worker, the worker's side of sluiced's worker socket, sluice-worker(7), in C. Linux.
 *
 *	static int work(struct sluice_job *job)
 *	{
 *		return printf("%s %s\n", job->stream, job->info) < 0;
 *	}
 *
 *	int main(void)
 *	{
 *		return sluice_worker_run(&(struct sluice_options){.credits = 4}, work);
 *	}
 *
 * Two ways: sluice_worker_run() has a loop and a process for each stream, so that work may block; or your own loop
 * asks a struct sluice_worker for events (sluice_worker_new and below), and runs and stops the work itself.
 *
 * Times are milliseconds of CLOCK_MONOTONIC. Text is UTF-8 and ends with NUL. Each struct sluice_worker is used by one
 * thread at a time; different ones know nothing of each other, there are no globals. Want of memory ends the process
 * (status 71), as everywhere in sluiced. */
#ifndef SLUICE_WORKER_H
#define SLUICE_WORKER_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define SLUICE_API __attribute__((visibility("default")))

enum { SLUICE_CREDITS_MAX = 10000 };

enum sluice_mode {
	SLUICE_STREAMS, /* a handler's call, or an event, for each stream */
	SLUICE_EACH,    /* entries mode: a call of the handler for each entry */
	SLUICE_BATCH    /* entries mode: a call for as many as came together */
};

struct sluice_options {
	const char *socket;          /* NULL: $SLUICED_WORKER, else /run/sluiced/worker.sock */
	const char *name;            /* shown by sluicectl; NULL: program@host:pid, host = $POD_NAME if set */
	const char *const *services; /* n_services of them; none: all */
	size_t n_services;
	int credits;           /* streams at once, 1 to SLUICE_CREDITS_MAX; 0 counts as 1 */
	enum sluice_mode mode; /* for one's own loop SLUICE_EACH and SLUICE_BATCH are the same */
	bool gives_back;       /* sluice_worker_run: at SIGTERM work is stopped and given back, not finished */
	bool fresh;            /* sluice_worker_run: a new process for each stream, none is used again */
	void *user;            /* sluice_worker_run: for the handler */
};

/* Bytes that may hold anything; a NUL that is not counted stands behind them. */
struct sluice_bytes {
	const char *data;
	size_t len;
};

struct sluice_field {
	struct sluice_bytes name, value;
};

struct sluice_entry {
	const char *id;
	int64_t tries; /* how often it failed before */
	size_t n_fields;
	const struct sluice_field *fields; /* in the order of XADD */
};

/* ---- a loop that is there, a process for each stream */

struct sluice_job {
	const char *service, *stream, *id, *token; /* token: for what is written to, which refuses lower ones */
	int64_t retry;
	const char *info; /* JSON, value-exact */
	size_t info_len;
	const char *traceparent, *tracestate, *baggage; /* NULL = it has none */
	size_t n_entries;                               /* entries mode; 1 with SLUICE_EACH */
	const struct sluice_entry *entries;
	void *user;
};

/* Runs in a process of its own, as after fork(2): memory is a copy. 0 = done, or these entries are; anything else = it
 * failed, with the reason of sluice_job_fail, if that was called. May block for as long as it likes. When its stream
 * is revoked, or the fence comes near, its process group gets SIGTERM, and SIGKILL when the time is over; it ends
 * itself at the fence even when the parent is frozen, and dies with the parent.
 *
 * The process works on one stream at a time and is used again for a later one, what the handler has left in its memory
 * included (open connections, caches), unless `fresh`, or it was stopped, or the handler has left a thread or a process
 * running: then it ends with its stream, and they with it. */
typedef int sluice_handler(struct sluice_job *job);

/* Takes work until SIGTERM or SIGINT, then finishes what is held and leaves. Blocks; call it while the process has one
 * thread. Connects again for ever. Warnings go to standard error. Returns what main may return: 0 = left as told;
 * 64 = bad options, 69 = the last results could not be told, or another protocol version, 71 = the system has refused
 * something (errno), 77 = the daemon does not allow this user, 78 = it refuses our hello or has another clock. */
SLUICE_API int sluice_worker_run(const struct sluice_options *options, sluice_handler *work);

/* The value of a field of an entry, the last of that name; data NULL when there is none. Owned by the entry. */
SLUICE_API struct sluice_bytes sluice_entry_get(const struct sluice_entry *entry, const char *name);

/* Of these, called in a handler: nothing fails, strings are copied.
 * The work goes on; note (NULL = none) is shown by sluicectl. */
SLUICE_API void sluice_job_progress(struct sluice_job *job, const char *note);
/* Why and how it fails: dead = never again; retry_ms < 0 = as configured. For `return sluice_job_fail(…)`: it is 1. */
SLUICE_API int sluice_job_fail(struct sluice_job *job, const char *reason, bool dead, int64_t retry_ms);
/* Give the stream back, no retry is counted; retry_ms < 0 = as configured. For `return sluice_job_release(…)`: 1. */
SLUICE_API int sluice_job_release(struct sluice_job *job, int64_t retry_ms);
/* SLUICE_BATCH: the entries up to and including id are finished; an id that is none of this call's changes nothing. */
SLUICE_API void sluice_job_ack(struct sluice_job *job, const char *id);
/* Entries mode: this stream needs nobody any more, its lease ends when this call of the handler has returned 0. */
SLUICE_API void sluice_job_finish(struct sluice_job *job);

/* ---- one's own loop
 *
 *	struct sluice_worker *w = sluice_worker_new(&options);
 *	for (struct sluice_event e;;) {
 *		struct pollfd p = {sluice_worker_fd(w), POLLIN, 0};
 *		poll(&p, 1, sluice_worker_timeout(w));
 *		sluice_worker_step(w);
 *		while (sluice_worker_next(w, &e))
 *			...
 *	}
 *
 * For each lease that was assigned there is one answer: done, fail, release or revoked. Until the daemon has confirmed
 * it, it is told again after each reconnect. */

struct sluice_worker;

enum sluice_event_type {
	SLUICE_ASSIGN = 1, /* begin to work on `lease`: all of the event's first part is there */
	SLUICE_ENTRIES,    /* entries of `lease`, in order, each once; n_entries, entries */
	SLUICE_NACKED,     /* the nack of `lease` is answered: entries behind it follow */
	SLUICE_STOP,       /* stop the work by by_ms and answer (revoked, or how it ended). May come again: the
	                    * earliest by_ms counts. reason: fence, or what the daemon says: lost, drain, timeout, … */
	SLUICE_GONE,  /* not ours any more: stop at once, and answer anything: it goes nowhere, but frees the name */
	SLUICE_ENDED, /* entries mode: the stream has no work now, its lease is over; answer as with SLUICE_GONE */
	SLUICE_CONFIRMED, /* the answer is with Redis: reason is the outcome (done, requeued, dead, lost). lease is
	                    * gone after this event */
	SLUICE_UP,        /* welcome; leases in work go on */
	SLUICE_DRAIN,     /* no new work will come; nothing to do */
	SLUICE_NOTE,      /* `text` for a log: a line about the connection, or what the daemon complains about */
	SLUICE_LEFT,      /* after sluice_worker_leave: nothing is held any more. sluice_worker_bye, then free */
	SLUICE_FAILED     /* it cannot go on: reason is a code (bad_version, bad_hello, unauthorized, clock, or
	                    * unconfirmed: told to leave, and nobody there to confirm), text says more. The last one */
};

struct sluice_event {
	enum sluice_event_type type;
	const char *lease;                         /* NULL = about no lease */
	void *user;                                /* as set by sluice_worker_set_user; NULL before */
	const char *service, *stream, *id, *token; /* SLUICE_ASSIGN */
	int64_t retry;
	const char *info; /* JSON */
	size_t info_len;
	const char *traceparent, *tracestate, *baggage; /* NULL = not there */
	const char *pos;                                /* NULL = not in entries mode */
	size_t n_entries;
	const struct sluice_entry *entries;
	int64_t by_ms;
	const char *reason, *text;
};

/* NULL and errno EINVAL: credits, or a name that does not fit; ENAMETOOLONG: socket; or why there is no descriptor.
 * Nothing is connected yet. Options are copied. */
SLUICE_API struct sluice_worker *sluice_worker_new(const struct sluice_options *options);
/* Closes the connection without a word: what is held stays for resume_grace if the process lives. NULL is fine. */
SLUICE_API void sluice_worker_free(struct sluice_worker *w);

/* Stays the same for the worker's life; readable when there is something for sluice_worker_step. */
SLUICE_API int sluice_worker_fd(const struct sluice_worker *w);
/* How long to wait for it at most: for poll(2), never negative. */
SLUICE_API int sluice_worker_timeout(const struct sluice_worker *w);
/* Looks at the clock, connects when it is time to, reads and writes what is possible. Never waits. */
SLUICE_API void sluice_worker_step(struct sluice_worker *w);
/* The next event, its strings good until the next call of this or of step. False: there is none, and what was said
 * meanwhile has been sent. Who stops asking before that is told by a timeout of 0 that there is more. */
SLUICE_API bool sluice_worker_next(struct sluice_worker *w, struct sluice_event *e);

/* What follows about a lease that is not held does nothing. Sent at the next false of next, or by step. */
SLUICE_API void sluice_worker_set_user(struct sluice_worker *w, const char *lease, void *user);
/* Finished. */
SLUICE_API void sluice_worker_done(struct sluice_worker *w, const char *lease);
/* Failed: reason (NULL = none; at most 1 KiB of it counts), dead = never again, retry_ms < 0 = as configured. */
SLUICE_API void sluice_worker_fail(
	struct sluice_worker *w, const char *lease, const char *reason, bool dead, int64_t retry_ms);
/* Given back, not counted. */
SLUICE_API void sluice_worker_release(struct sluice_worker *w, const char *lease, int64_t retry_ms);
/* The work was stopped: the answer to SLUICE_STOP. Not confirmed by an event; the lease is gone. */
SLUICE_API void sluice_worker_revoked(struct sluice_worker *w, const char *lease);
/* The work goes on; note (NULL = none) is shown by sluicectl. Dropped while there is no connection. */
SLUICE_API void sluice_worker_progress(struct sluice_worker *w, const char *lease, const char *note);
/* Entries mode: everything up to id is finished. Told again after a reconnect. */
SLUICE_API void sluice_worker_ack(struct sluice_worker *w, const char *lease, const char *id);
/* Entries mode: this entry failed. Acknowledge what is finished before it first. Nothing comes until SLUICE_NACKED;
 * entries that you still have of this stream are void. */
SLUICE_API void sluice_worker_nack(
	struct sluice_worker *w, const char *lease, const char *id, const char *reason, bool dead, int64_t retry_ms);
/* How many streams at once from now on, 0 to SLUICE_CREDITS_MAX; 0 = no new work. */
SLUICE_API void sluice_worker_credits(struct sluice_worker *w, int n);
/* No new work from now on; SLUICE_LEFT comes when everything has been answered and confirmed. */
SLUICE_API void sluice_worker_leave(struct sluice_worker *w);
/* Says bye: the daemon gives back what is still held. Waits up to a second for its reading it. */
SLUICE_API void sluice_worker_bye(struct sluice_worker *w);
/* How many leases are held, those included whose answer waits to be confirmed. */
SLUICE_API size_t sluice_worker_held(const struct sluice_worker *w);

#ifdef __cplusplus
}
#endif
#endif
