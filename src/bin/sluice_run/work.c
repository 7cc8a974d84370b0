/* One lease: the only place that decides when its command is told to stop, when it is killed and what the daemon is
 * told. Failure modes: fork fails (tried again for a while, then given back), the command ignores SIGTERM (SIGKILL at
 * kill_at). The daemon that is gone or frozen and the answer that gets lost are libsluice-worker's.
 */
#include "bin/sluice_run/sluice_run.h"

#include <assert.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>

#include "base/mem.h"
#include "codec/entry_id.h"

enum {
	EXIT_DEAD = 65,
	EXIT_RELEASE = 75,
	START_TRIES = 10,
	TRIAL_TRIES = 2,
	START_PAUSE_MS = 500,
	KILL_AFTER_MS = 10000, /* a command that is given back and does not end; without --kill-after */
	TRIAL_MS = 2000,       /* after a pause: for so long the one stream may hold the credit without an entry */
};

static void schedule(struct runner *r, struct work *w)
{
	mono_ms at = w->state == WORK_STARTS ? w->start_at : w->state == WORK_ENDS ? w->kill_at : MONO_NEVER;
	if (w->state == WORK_WAITS && pause_is_trial(r))
		at = r->now + TRIAL_MS;
	heap_set(&r->turns, &w->turn, at);
}

static void work_move(struct runner *r, struct work *w, enum work_state to)
{
	static const bool allowed[5][5] = {
		[WORK_WAITS] = {[WORK_STARTS] = true},
		[WORK_STARTS] = {[WORK_RUNS] = true},
		[WORK_RUNS] = {[WORK_WAITS] = true, [WORK_ENDS] = true, [WORK_KILLED] = true},
		[WORK_ENDS] = {[WORK_KILLED] = true},
	};
	assert(allowed[w->state][to]);
	w->state = to;
	schedule(r, w);
}

/* ---- the table */

struct work *work_of_pid(const struct runner *r, pid_t pid)
{
	return map_get(&r->by_pid, &pid, sizeof(pid));
}

static void free_env(struct work *w)
{
	for (char **e = w->env; e && *e; e++)
		mem_free(*e);
	mem_free(w->env);
	w->env = NULL;
}

void work_free(struct runner *r, struct work *w)
{
	heap_remove(&r->turns, &w->turn);
	map_remove(&r->by_lease, w->lease, strlen(w->lease));
	if (w->child.pid)
		map_remove(&r->by_pid, &w->child.pid, sizeof(w->child.pid));
	child_fini(&w->child);
	mem_free(w->lease);
	mem_free(w->service);
	mem_free(w->stream);
	mem_free(w->id);
	mem_free(w->token);
	mem_free(w->info);
	for (size_t i = 0; i < TRACE_N; i++)
		mem_free(w->trace[i]);
	free_env(w);
	entries_free(w->entries);
	mem_free(w);
}

/* ---- what the daemon is told; each frees w */

static void answer_release(struct runner *r, struct work *w)
{
	sluice_worker_release(r->worker, w->lease, -1);
	work_free(r, w);
}

static void answer_revoked(struct runner *r, struct work *w)
{
	sluice_worker_revoked(r->worker, w->lease);
	work_free(r, w);
}

static void answer_result(struct runner *r, struct work *w, int status)
{
	char reason[REASON_MAX + 1];
	int code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
	if (code == 0) {
		sluice_worker_done(r->worker, w->lease);
	} else if (code == EXIT_RELEASE || pause_cannot_start(status)) {
		sluice_worker_release(r->worker, w->lease, -1);
	} else if (code != EXIT_DEAD && entries_blame(r, w, status)) { /* that entry failed, not its stream */
		sluice_worker_release(r->worker, w->lease, 0);
	} else {
		child_reason(&w->child, status, reason);
		run_log("stream %s failed: %s", w->stream, reason);
		sluice_worker_fail(r->worker, w->lease, reason, code == EXIT_DEAD, -1);
	}
	work_free(r, w);
}

/* Done, or never again: that holds although we stopped it. */
static bool has_decided(int status)
{
	return WIFEXITED(status) && (WEXITSTATUS(status) == 0 || WEXITSTATUS(status) == EXIT_DEAD);
}

/* ---- beginning and end of the process */

static bool start_guarded(struct runner *r, struct work *w, const struct child_env *env)
{
	struct client_lease *l = client_lease_find(r->worker, w->lease);
	struct guard_place *place = guard_take(l);
	if (!place)
		return false;
	if (child_start(&w->child, r->opt->command, env, place))
		return true;
	int why = errno;
	guard_give_back(place, l);
	errno = why;
	return false;
}

static void work_start(struct runner *r, struct work *w)
{
	struct child_env env = {.service = w->service,
		.stream = w->stream,
		.id = w->id,
		.token = w->token,
		.lease = w->lease,
		.more = w->env,
		.is_feed = w->entries && r->opt->mode == MODE_FEED,
		.info = w->info,
		.info_len = w->info_len,
		.retry = w->retry,
		.trace = (const char *const *)w->trace};
	if (!start_guarded(r, w, &env)) {
		const char *why = strerror(errno);
		w->n_tries++;
		if (w->n_tries == 1)
			run_log("stream %s: cannot start a process: %s", w->stream, why);
		if (w->n_tries >= (pause_is_trial(r) ? TRIAL_TRIES : START_TRIES)) {
			answer_release(r, w);
			pause_no_process(r, why);
			return;
		}
		w->start_at = r->now + START_PAUSE_MS;
		schedule(r, w);
		return;
	}
	mem_free(w->info);
	w->info = NULL;
	free_env(w);
	r->n_processes++;
	map_put(&r->by_pid, &w->child.pid, sizeof(w->child.pid), w);
	work_move(r, w, WORK_RUNS);
	if (w->entries && r->opt->mode == MODE_FEED)
		entries_io(r, w);
}

static char *work_copy(const char *s)
{
	return s ? mem_dup(s, strlen(s)) : NULL;
}

void work_new(struct runner *r, const struct sluice_event *e)
{
	struct work *w = mem_alloc(sizeof(*w));
	*w = (struct work){.state = WORK_STARTS,
		.lease = work_copy(e->lease),
		.service = work_copy(e->service),
		.stream = work_copy(e->stream),
		.id = work_copy(e->id),
		.token = work_copy(e->token),
		.info = mem_dup(e->info, e->info_len),
		.info_len = e->info_len,
		.trace = {work_copy(e->traceparent), work_copy(e->tracestate), work_copy(e->baggage)},
		.retry = e->retry,
		.child = {.err_fd = -1, .in_fd = -1, .ack_fd = -1},
		.start_at = r->now,
		.kill_at = MONO_NEVER};
	struct entry_id pos;
	if (r->opt->mode != MODE_STREAM && command_id_parse(e->pos, strlen(e->pos), &pos)) {
		w->entries = entries_new(pos);
		w->state = r->opt->mode == MODE_FEED ? WORK_STARTS : WORK_WAITS;
	}
	map_put(&r->by_lease, w->lease, strlen(w->lease), w);
	sluice_worker_set_user(r->worker, w->lease, w);
	schedule(r, w);
	if (w->state == WORK_WAITS)
		work_next(r, w);
}

void work_next(struct runner *r, struct work *w)
{
	if (w->state != WORK_WAITS)
		return;
	if (r->n_stops || pause_is_on(r)) {
		answer_release(r, w);
		return;
	}
	if (!entries_have(w))
		return;
	struct buf input;
	buf_init(&input);
	entries_give(r, w, &input, &w->env);
	mem_free(w->info);
	w->info_len = input.len;
	w->info = buf_take(&input);
	w->n_tries = 0;
	w->start_at = r->now;
	work_move(r, w, WORK_STARTS);
}

void work_next_all(struct runner *r)
{
	size_t pos = 0;
	for (struct work *w; (w = map_next(&r->by_lease, &pos));)
		work_next(r, w);
}

void work_stop_asked(struct runner *r)
{
	work_next_all(r);
	size_t pos = 0;
	for (struct work *w; (w = map_next(&r->by_lease, &pos));)
		if (w->entries && r->opt->mode == MODE_FEED && w->state == WORK_RUNS)
			entries_close(r, w);
}

void work_over(struct runner *r, struct work *w)
{
	if (r->opt->mode == MODE_FEED &&
		w->state == WORK_RUNS) { /* it has acknowledged all it got: it may end in peace */
		w->answer = ANSWER_NONE;
		entries_close(r, w);
		return;
	}
	work_abandon(r, w);
}

/* A process per entry or batch: the lease goes on, unless the command could not be started, which is no failure of
 * the entry. */
static bool goes_on(struct runner *r, struct work *w, int status)
{
	if (!w->entries || r->opt->mode == MODE_FEED || pause_cannot_start(status))
		return false;
	entries_ended(r, w, status);
	if (w->answer != ANSWER_RESULT || w->state != WORK_RUNS)
		return false;
	child_fini(&w->child);
	work_move(r, w, WORK_WAITS);
	work_next(r, w);
	return true;
}

/* What the daemon is told of it; w may be gone afterwards. */
static void tell_end(struct runner *r, struct work *w, int status)
{
	if (goes_on(r, w, status))
		return;
	switch (w->answer) {
	case ANSWER_RESULT:
		if (w->entries && entries_is_closing(w) && r->n_stops && WIFEXITED(status) &&
			WEXITSTATUS(status) == 0) {
			answer_release(r, w); /* we told it to end */
			break;
		}
		answer_result(r, w, status);
		break;
	case ANSWER_RELEASE:
		if (has_decided(status))
			answer_result(r, w, status);
		else
			answer_release(r, w);
		break;
	case ANSWER_REVOKED:
	case ANSWER_NONE: /* nobody asks, but then its name is free again */
		answer_revoked(r, w);
		break;
	}
}

/* True: news, it is to end. What we had stopped ourselves keeps its answer. */
static bool note_guarded_stop(struct work *w)
{
	if (!w->child.pid || !guard_has_stopped(w->child.place) || w->answer != ANSWER_RESULT)
		return false;
	run_log("stream %s: not renewed in time, sluice-guard has stopped it", w->stream);
	w->answer = ANSWER_REVOKED;
	return true;
}

void work_ended(struct runner *r, struct work *w)
{
	if (w->entries)
		entries_io(r, w); /* what it has acknowledged last */
	map_remove(&r->by_pid, &w->child.pid, sizeof(w->child.pid));
	r->n_processes--;
	note_guarded_stop(w);
	int status = child_reap(&w->child, client_lease_find(r->worker, w->lease));
	char reason[REASON_MAX + 1];
	child_reason(&w->child, status, reason);
	tell_end(r, w, status);
	pause_note(r, status, reason);
}

/* ---- stopping it */

static void kill_now(struct runner *r, struct work *w)
{
	child_signal(&w->child, SIGKILL);
	work_move(r, w, WORK_KILLED);
}

/* SIGTERM, and SIGKILL at kill_at at the latest. */
static void end_by(struct runner *r, struct work *w, mono_ms kill_at)
{
	if (r->opt->kill_after != MONO_NEVER)
		kill_at = mono_min(kill_at, r->now + r->opt->kill_after);
	w->kill_at = mono_min(w->kill_at, kill_at);
	if (w->kill_at <= r->now) {
		kill_now(r, w);
		return;
	}
	if (guard_tell(w->child.place, w->kill_at))
		child_signal(&w->child, SIGTERM);
	work_move(r, w, WORK_ENDS);
}

void work_stop(struct runner *r, struct work *w, mono_ms by_ms)
{
	switch (w->state) {
	case WORK_STARTS:
	case WORK_WAITS:
		answer_revoked(r, w);
		break;
	case WORK_RUNS:
		w->answer = ANSWER_REVOKED;
		end_by(r, w, by_ms);
		break;
	case WORK_ENDS:
		w->answer = ANSWER_REVOKED;
		w->kill_at = mono_min(w->kill_at, by_ms);
		guard_tell(w->child.place, w->kill_at);
		schedule(r, w);
		break;
	case WORK_KILLED:
		break; /* the answer is on its way */
	}
}

void work_give_back(struct runner *r, struct work *w)
{
	if (w->entries) /* work_stop_asked gives it back after the entry at hand */
		return;
	if (w->state == WORK_STARTS) {
		answer_release(r, w);
	} else if (w->state == WORK_RUNS) {
		w->answer = ANSWER_RELEASE;
		end_by(r, w, r->opt->kill_after == MONO_NEVER ? r->now + KILL_AFTER_MS : MONO_NEVER);
	}
}

void work_abandon(struct runner *r, struct work *w)
{
	w->answer = ANSWER_NONE;
	if (w->state == WORK_STARTS || w->state == WORK_WAITS)
		answer_revoked(r, w);
	else if (w->state != WORK_KILLED)
		kill_now(r, w);
}

void work_turn(struct runner *r, struct work *w)
{
	if (w->state == WORK_STARTS)
		work_start(r, w);
	else if (w->state == WORK_ENDS)
		kill_now(r, w);
	else if (w->state == WORK_WAITS && pause_is_trial(r))
		answer_release(r, w); /* another one may have an entry to try with */
	else
		schedule(r, w);
}

/* The library would say so with its next word, but the end of the command may come before. */
void work_turn_guarded(struct runner *r)
{
	size_t pos = 0;
	for (struct work *w; (w = map_next(&r->by_pid, &pos));)
		if (note_guarded_stop(w) && w->state == WORK_RUNS)
			end_by(r, w, guard_kill_at(w->child.place));
}

void work_suspend_all(struct runner *r)
{
	size_t pos = 0;
	for (struct work *w; (w = map_next(&r->by_pid, &pos));)
		kill(-w->child.pid, SIGTSTP);
}

void work_continue_all(struct runner *r)
{
	size_t pos = 0;
	for (struct work *w; (w = map_next(&r->by_pid, &pos));)
		if (!guard_is_due(w->child.place))
			kill(-w->child.pid, SIGCONT);
}
