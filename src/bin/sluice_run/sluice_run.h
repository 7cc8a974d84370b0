/* sluice_run - the worker that runs a command per stream: the parts of the program and what they share.
 * One thread, one poll(2) loop (loop.c). Nothing in the loop blocks: the fence of the running commands hangs
 * on it.
 *
 *   main.c               main
 *   cli.c                command line
 *   loop.c               the loop: signals, descriptors, the end
 *   events.c             what the daemon has said, as libsluice-worker tells it: the connection is all there
 *   work.c               one lease: its command, its deadlines, its answer
 *   child.c              one process: start, its stderr, its end
 *   entries.c            entries mode: a process per entry, batch or stream
 *   guard.c              a second process that keeps the fence when we are stopped or killed
 *   pause.c              a command that cannot be started: no new work for a while
 *   log.c                our stderr, never waited for */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/buf.h"
#include "base/heap.h"
#include "base/map.h"
#include "base/mono.h"
#include "client/client_p.h"
#include "client/sluice-worker.h"
#include "core/frame.h"

/* ---- command line */
enum mode { MODE_STREAM, MODE_EACH, MODE_BATCH, MODE_FEED };
enum fields_as { FIELDS_PAIRS, FIELDS_OBJECT, FIELDS_ENV };
struct run_options {
	const char *socket;
	char name[128];
	const char **services;
	size_t n_services;
	int credits;
	mono_ms kill_after; /* MONO_NEVER = as long as the grace allows */
	bool gives_back;    /* at the first signal: --on-term release */
	char **command;
	enum mode mode;
	enum fields_as fields;
};
/* Ends the process on --help, --version (0) and on a usage error (64). */
void cli_parse(struct run_options *opt, int argc, char **argv);

/* ---- our stderr */
enum { SAY_BUSY_BYTES = 256 * 1024, SAY_MAX_BYTES = 4 * 1024 * 1024 };
/* Once, first: writes to our stderr never block from here on. A pipe or terminal gets a descriptor of its own, so
 * that others who share it stay blocking. */
void say_open(void);
void run_log(const char *fmt, ...) __attribute__((format(printf, 1, 2))); /* one line, "sluice-run: " before it */
void say_bytes(const char *bytes, size_t len);                            /* as they are; dropped over SAY_MAX_BYTES */
int say_fd(void);
/* Bytes that wait for whoever reads our stderr. */
size_t say_pending(void);
/* Writes what fits now. Nobody reads any more: what is pending is dropped. */
void say_flush(void);
void say_close(void); /* gives what is pending a second */

/* ---- the guard: a process outside our tree. It stops commands by their times when we do not, and kills them when we
 * are gone. It knows a command by the place that was taken for it. */
struct guard_place;
/* Once. argv: overwritten in the guard, so that it is not taken for us in a process list. False: errno says why. */
bool guard_start(char **argv, int credits, mono_ms kill_after);
void guard_fini(void);  /* frees our side; the guard ends with us */
int guard_fd(void);     /* has POLLERR when the guard has ended: guard_ended; -1 = there is none */
void guard_ended(void); /* starts another one */
/* For a command that is to be started, with the times of its lease, kept up to date; NULL: no time limits it. Returns
 * NULL, errno says why: it must not be started. */
struct guard_place *guard_take(struct client_lease *l);
/* Its leader has ended, and is not reaped yet; or it was not started. l as above, NULL = it is gone. */
void guard_give_back(struct guard_place *p, struct client_lease *l);
/* In the command's process, before its exec, as the leader of its group. False: it comes too late. */
bool guard_enter(struct guard_place *p);
/* It is told to stop and is to be killed then, or sooner by its lease. False: the guard has sent SIGTERM. */
bool guard_tell(struct guard_place *p, mono_ms kill_at);
bool guard_has_stopped(const struct guard_place *p);
mono_ms guard_kill_at(const struct guard_place *p);
bool guard_has_news(void);                      /* it has stopped something since the last call */
bool guard_is_due(const struct guard_place *p); /* the time to stop it has come */
void guard_look(mono_ms soonest);               /* each round: the soonest fence of all leases */

/* ---- one process */
enum { REASON_MAX = 1024 };
struct tail; /* the last line of its stderr */
struct child {
	pid_t pid;         /* 0 = none */
	int err_fd;        /* -1 = closed */
	int in_fd, ack_fd; /* --feed: its stdin, its descriptor 3; -1 = closed, or none */
	struct tail *tail;
	struct guard_place *place; /* while it has a process */
};
enum { TRACE_N = 3 }; /* traceparent, tracestate, baggage of the load-balancer stream's entry; NULL = it has none */
struct child_env {
	const char *const *trace;
	const char *service, *stream, *id, *token, *lease;
	char *const *more; /* NAME=value, ends with NULL; NULL = none */
	const char *info;
	size_t info_len;
	bool is_feed; /* a pipe for stdin, another from its descriptor 3 */
	int64_t retry;
};
void child_setup(void); /* once: descriptor limit */
/* Starts command with info and a LF on stdin, in a group of its own. False: errno says why, nothing is started, and
 * place is still the caller's. */
bool child_start(struct child *c, char **command, const struct child_env *env, struct guard_place *place);
/* To its whole process group; after SIGTERM also SIGCONT, so that a stopped one hears it. */
void child_signal(const struct child *c, int sig);
/* Passes on what it has written and keeps the last line. to_the_end: all there is, up to SAY_MAX_BYTES. */
void child_read_stderr(struct child *c, bool to_the_end);
/* After its end: kills what is left of the group, reads the rest of stderr, reaps. l: of guard_give_back. Returns the
 * wait status. */
int child_reap(struct child *c, struct client_lease *l);
/* "exit status 3: last line", at most REASON_MAX bytes, UTF-8. */
void child_reason(const struct child *c, int status, char out[REASON_MAX + 1]);
/* Closes its pipes and frees the kept line. Its process is not touched: child_reap. */
void child_fini(struct child *c);

/* ---- one lease
 *
 *   STARTS --started--> RUNS --TERM sent--> ENDS --KILL sent--> KILLED
 *      |                  |                   |                   |
 *      +---- gave up -----+------- exit ------+-------------------+--> answered, freed
 *
 * An answer is the library's to tell until it is confirmed.
 * In entries mode a lease WAITS between processes; --each and --batch start one when entries have come.
 */
enum work_state {
	WORK_STARTS, /* could not be started yet: again at start_at */
	WORK_RUNS,
	WORK_ENDS,
	WORK_KILLED,
	WORK_WAITS /* entries mode: no process, no entry */
};
enum work_answer {
	ANSWER_RESULT,
	ANSWER_RELEASE, /* we stopped it: done if it was, else given back, not counted */
	ANSWER_REVOKED,
	ANSWER_NONE /* not ours any more: nobody asks */
};
struct work {
	struct heap_node turn; /* when work_turn has something to do */
	enum work_state state;
	enum work_answer answer;
	char *lease, *service, *stream, *id, *token, *info, *trace[TRACE_N];
	size_t info_len;
	int64_t retry;
	struct run_stream *entries; /* NULL: not in entries mode */
	char **env;                 /* of the entry that is given to the next process */
	struct child child;
	mono_ms start_at, kill_at; /* STARTS; ENDS */
	int n_tries;
};

/* ---- all of it */
/* ---- a command that cannot be started */
struct pause {
	int n;             /* in a row */
	mono_ms length_ms; /* of the last pause; 0 = none since a command could be started */
	mono_ms until;     /* no new work until then; 0 = not paused */
};

struct runner {
	const struct run_options *opt;
	struct map by_lease, by_pid;
	struct heap turns;
	struct sluice_worker *worker;
	mono_ms now; /* of this round */
	size_t n_processes;
	struct pause pause;
	int n_stops; /* SIGTERMs and the like so far */
	int exit_code;
	bool is_over;
};

/* opt must outlive it. */
void runner_init(struct runner *r, const struct run_options *opt);
/* Frees everything, also the services of its options. Commands must have ended. */
void runner_fini(struct runner *r);
int runner_loop(struct runner *r); /* returns the exit code */

/* Reads, and acts on what came. No process is started here: commands are only made due. */
void events_turn(struct runner *r);

/* Whether this wait status says so. */
bool pause_cannot_start(int status);
/* A command has ended. reason: one line about it, for the log. Leases that wait may be gone afterwards. */
void pause_note(struct runner *r, int status, const char *reason);
/* No process could be started for a stream, again and again; why: the system's words. Leases that wait may be gone
 * afterwards. */
void pause_no_process(struct runner *r, const char *why);
/* No command is started for what we hold without a process. */
bool pause_is_on(const struct runner *r);
/* A pause is over, and no command could be started since. */
bool pause_is_trial(const struct runner *r);
/* How many streams we want at once now. */
int pause_credits(const struct runner *r);
/* Ends a pause that is over. Returns when it is; MONO_NEVER = there is none. */
mono_ms pause_turn(struct runner *r);

/* A lease that was assigned: its command starts at once, or when entries come. Copies what e points to. */
void work_new(struct runner *r, const struct sluice_event *e);
/* By its command's process; NULL: not one of ours. */
struct work *work_of_pid(const struct runner *r, pid_t pid);
void work_turn(struct runner *r, struct work *w); /* at w->turn.at */
void work_turn_guarded(struct runner *r);         /* what the guard has stopped meanwhile is to end */
void work_suspend_all(struct runner *r);          /* SIGTSTP to the commands */
void work_continue_all(struct runner *r);         /* SIGCONT to those that have time left */
/* Revoked, or at its fence: its command ends by by_ms at the latest. w may be gone afterwards. */
void work_stop(struct runner *r, struct work *w, mono_ms by_ms);
/* We end: stops its command, whose stream is given back unless it finishes meanwhile. Not for entries mode. */
void work_give_back(struct runner *r, struct work *w);
/* Not ours any more: killed at once, or forgotten. Of this and the next two: w may be gone afterwards. */
void work_abandon(struct runner *r, struct work *w);
void work_ended(struct runner *r, struct work *w); /* its process is a zombie */
void work_free(struct runner *r, struct work *w);
/* WAITS: starts on what has come; gives back when we stop, or pause. w may be gone afterwards. */
void work_next(struct runner *r, struct work *w);
void work_next_all(struct runner *r);
void work_stop_asked(struct runner *r);           /* leases in entries mode, which would not end by themselves */
void work_over(struct runner *r, struct work *w); /* the daemon has finished it: idle_release */

/* ---- entries mode */
/* A stream in entries mode from that position on. Heap; entries_free. */
struct run_stream *entries_new(struct entry_id pos);
/* With all entries that were not passed on. NULL is fine. */
void entries_free(struct run_stream *s);
/* Of a SLUICE_ENTRIES. Copies what it keeps. */
void entries_take(struct runner *r, struct work *w, const struct sluice_entry *list, size_t n);
bool entries_have(const struct work *w);
/* Moves what the next process gets on stdin, and variables (the caller's), out of what waits. */
bool entries_give(struct runner *r, struct work *w, struct buf *input, char ***env);
void entries_ended(
	struct runner *r, struct work *w, int status); /* of its process: acknowledges, or says that it failed */
/* --feed: its command failed while it had entries that it has not acknowledged. The first of them is to blame, and the
 * daemon is told; false: there is none. */
bool entries_blame(struct runner *r, struct work *w, int status);
void entries_io(struct runner *r, struct work *w); /* --feed: what its pipes take and have */
bool entries_want_write(const struct work *w);
void entries_close(struct runner *r, struct work *w); /* --feed: its stdin ends after what was written */
bool entries_is_closing(const struct work *w);
