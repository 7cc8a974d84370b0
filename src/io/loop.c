/* Happy path: uv_run; the deadline timer calls on_deadline; tasks, and then what was deferred, run from an idle handle,
 * that is after the present round of callbacks, before the prepare handles that write, and before the next wait. An
 * attached loop has only its timer; all else is its host's. Failure: uv_loop_init and friends only fail for want of
 * descriptors or memory: the process ends (exit 71). A name look-up that hangs in the resolver cannot be cancelled:
 * loop_free waits 1 s for it, then leaves the loop's memory to the process's end, because the look-up's thread still
 * points to it. */
#include "io/loop.h"

#include <assert.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/mem.h"

enum { HEARTBEAT_MS = 1000, FREE_WAIT_MS = 1000, TASKS_A_ROUND = 64 };

struct deferred {
	void (*fn)(void *arg);
	void *arg;
};

struct loop {
	struct loop *host; /* NULL: none, own_uv is its own */
	uv_loop_t own_uv, *uv;
	uv_timer_t timer;     /* the owner's deadline */
	mono_ms rings_at;     /* when it does, if it is active */
	uv_timer_t heartbeat; /* so that an idle loop shows life too */
	uv_check_t check;
	uv_idle_t idle; /* runs tasks and what was deferred */
	char name[32];
	loop_fn *on_deadline;
	void *arg;
	mono_ms due, lag;
	bool is_in_deadline;
	struct link tasks;
	struct deferred *deferred;
	size_t n_deferred, cap_deferred;
	_Atomic int64_t last_round;
};

static _Thread_local struct loop *running;

static void must(int rc, const char *what)
{
	if (rc == 0)
		return;
	log_line(LOG_ERROR, "event loop: %s failed: %s", what, uv_strerror(rc));
	exit(71);
}

static void loop_on_timer(uv_timer_t *t)
{
	struct loop *l = t->data;
	mono_ms now = mono_now();
	if (now < l->due) { /* the loop's clock is a little coarser than ours */
		loop_wake_at(l, l->due);
		return;
	}
	l->lag = now - l->due;
	l->due = MONO_NEVER;
	l->is_in_deadline = true;
	l->on_deadline(l->arg, now);
	l->is_in_deadline = false;
}

static void on_heartbeat(uv_timer_t *t)
{
	struct loop *l = t->data;
	atomic_store_explicit(&l->last_round, mono_now(), memory_order_relaxed);
}

static void on_check(uv_check_t *c)
{
	struct loop *l = c->data;
	atomic_store_explicit(&l->last_round, (int64_t)uv_now(l->uv), memory_order_relaxed);
}

/* Two that ask for each other must not keep sockets waiting. */
static void run_tasks(struct loop *l)
{
	for (int i = 0; i < TASKS_A_ROUND; i++) {
		struct link *first = list_pop(&l->tasks);
		if (!first)
			break;
		struct loop_task *t = LIST_OF(struct loop_task, link, first);
		t->fn(t->arg);
	}
}

static void run_deferred(struct loop *l)
{
	size_t n = l->n_deferred; /* what is added meanwhile waits for the next round */
	if (!n)
		return;
	for (size_t k = 0; k < n; k++) {
		struct deferred d = l->deferred[k];
		d.fn(d.arg);
	}
	l->n_deferred -= n;
	memmove(l->deferred, l->deferred + n, l->n_deferred * sizeof(*l->deferred));
}

static void loop_on_idle(uv_idle_t *i)
{
	struct loop *l = i->data;
	run_tasks(l);
	run_deferred(l);
	if (l->n_deferred == 0 && list_empty(&l->tasks))
		uv_idle_stop(&l->idle);
}

static struct loop *new_loop(const char *name, loop_fn *on_deadline, void *arg)
{
	struct loop *l = mem_alloc(sizeof(*l));
	snprintf(l->name, sizeof(l->name), "%s", name);
	l->on_deadline = on_deadline;
	l->arg = arg;
	l->due = MONO_NEVER;
	list_init(&l->tasks);
	return l;
}

struct loop *loop_new(const char *name, loop_fn *on_deadline, void *arg)
{
	struct loop *l = new_loop(name, on_deadline, arg);
	l->uv = &l->own_uv;
	must(uv_loop_init(l->uv), "uv_loop_init");
	must(uv_timer_init(l->uv, &l->timer), "uv_timer_init");
	must(uv_timer_init(l->uv, &l->heartbeat), "uv_timer_init");
	must(uv_check_init(l->uv, &l->check), "uv_check_init");
	must(uv_idle_init(l->uv, &l->idle), "uv_idle_init");
	l->timer.data = l->heartbeat.data = l->check.data = l->idle.data = l;
	must(uv_timer_start(&l->heartbeat, on_heartbeat, HEARTBEAT_MS, HEARTBEAT_MS), "uv_timer_start");
	must(uv_check_start(&l->check, on_check), "uv_check_start");
	uv_unref((uv_handle_t *)&l->heartbeat);
	uv_unref((uv_handle_t *)&l->check);
	atomic_store(&l->last_round, mono_now());
	return l;
}

struct loop *loop_attach(struct loop *host, const char *name, loop_fn *on_deadline, void *arg)
{
	assert(!host->host);
	struct loop *l = new_loop(name, on_deadline, arg);
	l->host = host;
	l->uv = host->uv;
	must(uv_timer_init(l->uv, &l->timer), "uv_timer_init");
	l->timer.data = l;
	return l;
}

bool loop_is_attached(const struct loop *l)
{
	return l->host != NULL;
}

static void on_detached(uv_handle_t *h)
{
	mem_free(h->data);
}

static void on_give_up(uv_timer_t *t)
{
	uv_stop(t->loop);
}

void loop_free(struct loop *l)
{
	if (!l)
		return;
	if (l->host) {
		uv_close((uv_handle_t *)&l->timer, on_detached);
		return;
	}
	while (l->n_deferred)
		run_deferred(l);
	uv_close((uv_handle_t *)&l->heartbeat, NULL);
	uv_close((uv_handle_t *)&l->check, NULL);
	uv_close((uv_handle_t *)&l->idle, NULL);
	uv_update_time(l->uv);
	must(uv_timer_start(&l->timer, on_give_up, FREE_WAIT_MS, 0), "uv_timer_start");
	uv_unref((uv_handle_t *)&l->timer);
	uv_run(l->uv, UV_RUN_DEFAULT); /* closing callbacks; look-ups under way */
	uv_close((uv_handle_t *)&l->timer, NULL);
	uv_run(l->uv, UV_RUN_NOWAIT);
	mem_free(l->deferred);
	l->deferred = NULL;
	l->cap_deferred = 0;
	if (uv_loop_close(l->uv) == 0) {
		mem_free(l);
		return;
	}
	bool only_requests = l->uv->active_reqs.count > 0;
	if (!only_requests)
		uv_print_all_handles(l->uv, stderr);
	assert(only_requests && "a handle was not closed");
	log_line(LOG_WARN, "loop=%s a name look-up still hangs; not waiting for it", l->name);
}

uv_loop_t *loop_uv(struct loop *l)
{
	return l->uv;
}

void loop_wake_at(struct loop *l, mono_ms at)
{
	l->due = at > 0 ? at : loop_now(l); /* 0 = at once: late since now, not since the host's start */
	if (at == MONO_NEVER) {
		must(uv_timer_stop(&l->timer), "uv_timer_stop");
		return;
	}
	mono_ms now = loop_now(l); /* what libuv adds the time-out to */
	mono_ms wait = at > now ? at - now : 0;
	if (l->is_in_deadline)
		wait = mono_max(wait, 1); /* libuv would run it again at once and never look at a socket */
	if (l->rings_at == now + wait && uv_is_active((uv_handle_t *)&l->timer))
		return; /* most turns leave it where it is */
	l->rings_at = now + wait;
	must(uv_timer_start(&l->timer, loop_on_timer, (uint64_t)wait, 0), "uv_timer_start");
}

mono_ms loop_now(struct loop *l)
{
	return (mono_ms)uv_now(l->uv); /* libuv's clock is CLOCK_MONOTONIC in milliseconds, like mono_now */
}

void loop_run(struct loop *l)
{
	assert(!l->host && !running);
	running = l;
	uv_run(l->uv, UV_RUN_DEFAULT);
	running = NULL;
}

struct loop *loop_running(void)
{
	return running;
}

void loop_stop(struct loop *l)
{
	assert(!l->host);
	uv_stop(l->uv);
}

void loop_defer(struct loop *l, void (*fn)(void *arg), void *arg)
{
	if (l->host)
		l = l->host;
	if (l->n_deferred == l->cap_deferred) {
		l->cap_deferred = l->cap_deferred ? 2 * l->cap_deferred : 16;
		l->deferred = mem_grow(l->deferred, l->cap_deferred, sizeof(*l->deferred));
	}
	l->deferred[l->n_deferred++] = (struct deferred){fn, arg};
	must(uv_idle_start(&l->idle, loop_on_idle), "uv_idle_start");
}

void loop_task_init(struct loop_task *t, void (*fn)(void *arg), void *arg)
{
	list_init(&t->link);
	t->fn = fn;
	t->arg = arg;
}

void loop_soon(struct loop *l, struct loop_task *t)
{
	if (l->host)
		l = l->host;
	if (!list_empty(&t->link))
		return;
	list_push(&l->tasks, &t->link);
	must(uv_idle_start(&l->idle, loop_on_idle), "uv_idle_start");
}

void loop_task_drop(struct loop_task *t)
{
	list_remove(&t->link);
}

mono_ms loop_lag_ms(const struct loop *l)
{
	return l->lag;
}

mono_ms loop_last_round(const struct loop *l)
{
	return atomic_load_explicit(&(l->host ? l->host : l)->last_round, memory_order_relaxed);
}
