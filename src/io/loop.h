/* io/loop - one libuv loop with one timer, for one thread.
 * The owner asks for a wake-up at a deadline; everything else (mailbox, redis, unix, signals) attaches to loop->uv.
 * A second owner on the same thread has a loop that is attached: a deadline of its own, on the libuv loop of its host.
 * Failure: uv initialisation ends the process (exit 71). */
#pragma once
#include "base/list.h"
#include "base/mono.h"
#include <stdbool.h>
#include <uv.h>

struct loop;
typedef void loop_fn(void *arg, mono_ms now);

/* Stopped; on_deadline runs on the thread that runs it. name: for logs, copied. Ends the process when
 * libuv cannot. */
struct loop *loop_new(const char *name, loop_fn *on_deadline, void *arg);
/* Runs with host, on its thread: loop_run and loop_stop are host's alone. Free it before host. */
struct loop *loop_attach(struct loop *host, const char *name, loop_fn *on_deadline, void *arg);
bool loop_is_attached(const struct loop *l);
/* Closes what the loop itself owns; every handle on it must have been closed before. Asserts that none is left. Of an
 * attached one: no callback of it comes any more; host frees it, and closes its handles, when it goes round. */
void loop_free(struct loop *l);
/* libuv's loop, for adapters on its thread. */
uv_loop_t *loop_uv(struct loop *l);
/* One pending deadline; a later call replaces it; MONO_NEVER = none. In the past = at the next turn. */
void loop_wake_at(struct loop *l, mono_ms at);
mono_ms loop_now(struct loop *l); /* refreshed once per callback round */
void loop_run(struct loop *l);    /* until loop_stop */
void loop_stop(struct loop *l);   /* owner thread only */
/* Runs fn once at the end of the present round of callbacks (defers frees out of library callbacks). */
void loop_defer(struct loop *l, void (*fn)(void *arg), void *arg);
/* What its owner wants done once, on the loop's thread, at the end of the present round of callbacks and before
 * anything is written: also what another such task has asked for. Owned by who asks; loop_task_init first. */
struct loop_task {
	struct link link;
	void (*fn)(void *arg);
	void *arg;
};
void loop_task_init(struct loop_task *t, void (*fn)(void *arg), void *arg);
/* Owner thread. Asked for already: nothing changes. */
void loop_soon(struct loop *l, struct loop_task *t);
/* Owner thread; it does not run any more, unless asked for again. */
void loop_task_drop(struct loop_task *t);
/* The one that this thread is running now; NULL: none. Never an attached one. */
struct loop *loop_running(void);
/* Milliseconds by which the last deadline was missed, and the time of the last completed round (for watchdogs; any
 * thread may read the latter). */
mono_ms loop_lag_ms(const struct loop *l);
/* When it last went round, monotonic ms: an old time means a callback hangs. Any thread. */
mono_ms loop_last_round(const struct loop *l);
