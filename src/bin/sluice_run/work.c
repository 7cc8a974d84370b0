/* One lease: the only place that decides when its command is told to stop, when it is killed and what the daemon is
 * told. Failure modes: fork fails (tried again for a while, then given back), the command ignores SIGTERM (SIGKILL at
 * kill_at), the daemon is gone or frozen (the fence), the answer gets lost with the connection (told again until `ok`).
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
	START_PAUSE_MS = 500,
	SAY_AGAIN_MS = 1000,
	KILL_AFTER_MS = 10000,  /* a command that is given back and does not end; without --kill-after */
	GRACE_RESERVE_MS = 200, /* of the daemon's grace, for SIGKILL to work and our answer to arrive */
	FENCE_KILL_MIN_MS = 20,
};

static void schedule(struct runner *r, struct work *w)
{
	mono_ms at = MONO_NEVER;
	switch (w->state) {
	case WORK_STARTS:
		at = mono_min(w->start_at, w->fence_term);
		break;
	case WORK_RUNS:
		at = w->fence_term;
		break;
	case WORK_ENDS:
		at = mono_min(w->kill_at, w->fence_kill);
		break;
	case WORK_SAYS:
		at = w->say_at;
		break;
	case WORK_WAITS:
		at = w->fence_term;
		break;
	case WORK_KILLED:
		break;
	}
	heap_set(&r->turns, &w->turn, at);
}

static void work_move(struct runner *r, struct work *w, enum work_state to)
{
	static const bool allowed[6][6] = {
		[WORK_WAITS] = {[WORK_STARTS] = true, [WORK_SAYS] = true},
		[WORK_STARTS] = {[WORK_RUNS] = true, [WORK_SAYS] = true},
		[WORK_RUNS] = {[WORK_WAITS] = true, [WORK_ENDS] = true, [WORK_KILLED] = true, [WORK_SAYS] = true},
		[WORK_ENDS] = {[WORK_KILLED] = true, [WORK_SAYS] = true},
		[WORK_KILLED] = {[WORK_SAYS] = true},
	};
	assert(allowed[w->state][to]);
	w->state = to;
	schedule(r, w);
}

/* ---- the table */

struct work *work_find(const struct runner *r, const char *lease)
{
	return map_get(&r->by_lease, lease, strlen(lease));
}

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
	mem_free(w->frame);
	free_env(w);
	entries_free(w->entries);
	mem_free(w);
}

/* ---- what the daemon is told */

static char *new_frame(const char *type, const struct work *w, const char *reason, bool is_dead)
{
	struct buf b;
	buf_init(&b);
	buf_printf(&b, "{\"t\":\"%s\",\"lease\":", type);
	buf_json_str(&b, w->lease, strlen(w->lease));
	if (reason) {
		buf_str(&b, ",\"reason\":");
		buf_json_str(&b, reason, strlen(reason));
	}
	buf_str(&b, is_dead ? ",\"dead\":true}\n" : "}\n");
	return buf_take(&b);
}

static char *new_result(const struct work *w, int status)
{
	char reason[REASON_MAX + 1];
	int code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
	if (code == 0)
		return new_frame("done", w, NULL, false);
	if (code == EXIT_RELEASE)
		return new_frame("release", w, NULL, false);
	if (pause_cannot_start(status))
		return new_frame("release", w, NULL, false);
	child_reason(&w->child, status, reason);
	run_log("stream %s failed: %s", w->stream, reason);
	return new_frame("fail", w, reason, code == EXIT_DEAD);
}

/* Done, or never again: that holds although we stopped it. */
static bool has_decided(int status)
{
	return WIFEXITED(status) && (WEXITSTATUS(status) == 0 || WEXITSTATUS(status) == EXIT_DEAD);
}

void work_tell(struct runner *r, struct work *w)
{
	if (r->conn.state != CONN_UP)
		return;
	conn_send(r, w->frame);
	w->say_at = MONO_NEVER;
	schedule(r, w);
	if (!w->waits_for_ok)
		work_free(r, w);
}

/* Owns frame. */
static void work_answer_one(struct runner *r, struct work *w, char *frame, bool waits_for_ok)
{
	w->frame = frame;
	w->waits_for_ok = waits_for_ok;
	w->say_at = MONO_NEVER;
	work_move(r, w, WORK_SAYS);
	work_tell(r, w);
}

static void answer_revoked(struct runner *r, struct work *w)
{
	work_answer_one(r, w, new_frame("revoked", w, NULL, false), false);
}

/* ---- beginning and end of the process */

static void work_start(struct runner *r, struct work *w)
{
	struct child_env env = {.service = w->service,
		.stream = w->stream,
		.id = w->id,
		.token = w->token,
		.lease = w->lease,
		.more = w->env,
		.is_feed = w->entries && r->opt->mode == MODE_FEED,
		.retry = w->retry,
		.trace = (const char *const *)w->trace};
	if (!child_start(&w->child, r->opt->command, &env, w->info, w->info_len)) {
		w->n_tries++;
		if (w->n_tries == 1)
			run_log("stream %s: cannot start a process: %s", w->stream, strerror(errno));
		if (w->n_tries >= START_TRIES) {
			work_answer_one(r, w, new_frame("release", w, NULL, false), true);
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

static bool is_between(const struct work *w)
{
	return w->state == WORK_STARTS || w->state == WORK_WAITS;
}

void work_new(struct runner *r, const struct work_spec *spec)
{
	struct work *w = mem_alloc(sizeof(*w));
	*w = (struct work){.state = WORK_STARTS,
		.info_len = spec->info_len,
		.retry = spec->retry,
		.child = {.err_fd = -1, .in_fd = -1, .ack_fd = -1},
		.start_at = r->now,
		.kill_at = MONO_NEVER,
		.say_at = MONO_NEVER};
	w->lease = mem_dup(spec->lease, strlen(spec->lease));
	w->service = mem_dup(spec->service, strlen(spec->service));
	w->stream = mem_dup(spec->stream, strlen(spec->stream));
	w->id = mem_dup(spec->id, strlen(spec->id));
	w->token = mem_dup(spec->token, strlen(spec->token));
	w->info = mem_dup(spec->info, spec->info_len);
	for (size_t i = 0; i < TRACE_N; i++)
		w->trace[i] = spec->trace[i] ? mem_dup(spec->trace[i], strlen(spec->trace[i])) : NULL;
	struct entry_id pos;
	if (spec->pos && command_id_parse(spec->pos, strlen(spec->pos), &pos)) {
		w->entries = entries_new(pos);
		w->state = r->opt->mode == MODE_FEED ? WORK_STARTS : WORK_WAITS;
	}
	map_put(&r->by_lease, w->lease, strlen(w->lease), w);
	work_set_until(r, w, spec->until_ms);
	if (w->state == WORK_STARTS)
		work_turn(r, w);
}

void work_next(struct runner *r, struct work *w)
{
	if (w->state != WORK_WAITS)
		return;
	if (r->n_stops) {
		work_answer_one(r, w, new_frame("release", w, NULL, false), true);
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
	work_turn(r, w);
}

void work_stop_asked(struct runner *r)
{
	size_t pos = 0;
	for (struct work *w; (w = map_next(&r->by_lease, &pos));)
		if (w->entries && w->state == WORK_WAITS)
			work_next(r, w);
		else if (w->entries && r->opt->mode == MODE_FEED && w->state == WORK_RUNS)
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

/* A process per entry or batch: the lease goes on. */
static bool goes_on(struct runner *r, struct work *w, int status)
{
	if (!w->entries || r->opt->mode == MODE_FEED)
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
			work_answer_one(r, w, new_frame("release", w, NULL, false), true); /* we told it to end */
			break;
		}
		work_answer_one(r, w, new_result(w, status), true);
		break;
	case ANSWER_RELEASE:
		work_answer_one(
			r, w, has_decided(status) ? new_result(w, status) : new_frame("release", w, NULL, false), true);
		break;
	case ANSWER_REVOKED:
		answer_revoked(r, w);
		break;
	case ANSWER_NONE:
		work_free(r, w);
		break;
	}
}

void work_ended(struct runner *r, struct work *w)
{
	if (w->entries)
		entries_io(r, w); /* what it has acknowledged last */
	map_remove(&r->by_pid, &w->child.pid, sizeof(w->child.pid));
	r->n_processes--;
	int status = child_reap(&w->child);
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
static void work_stop(struct runner *r, struct work *w, mono_ms kill_at)
{
	if (r->opt->kill_after != MONO_NEVER)
		kill_at = mono_min(kill_at, r->now + r->opt->kill_after);
	w->kill_at = mono_min(w->kill_at, kill_at);
	if (mono_min(w->kill_at, w->fence_kill) <= r->now) {
		kill_now(r, w);
		return;
	}
	child_signal(&w->child, SIGTERM);
	work_move(r, w, WORK_ENDS);
}

static void stop_at_fence(struct runner *r, struct work *w)
{
	run_log("stream %s: not renewed in time, stopping it", w->stream);
	w->answer = ANSWER_REVOKED;
	if (is_between(w))
		answer_revoked(r, w);
	else
		work_stop(r, w, w->fence_kill);
}

/* A tenth of the lease is kept for stopping, and no more than a quarter of what is left when the daemon's word is
 * short. */
void work_set_until(struct runner *r, struct work *w, mono_ms until_ms)
{
	w->until_ms = until_ms;
	if (until_ms == MONO_NEVER) {
		w->fence_term = w->fence_kill = MONO_NEVER;
	} else {
		mono_ms lead = mono_max(0, mono_min(r->lease_ms / 10, (until_ms - r->now) / 4));
		w->fence_term = until_ms - lead;
		w->fence_kill = until_ms - mono_min(lead, mono_max(FENCE_KILL_MIN_MS, lead / 10));
	}
	schedule(r, w);
}

void work_revoke(struct runner *r, struct work *w, mono_ms grace_ms)
{
	mono_ms kill_at = r->now + mono_max(grace_ms - GRACE_RESERVE_MS, grace_ms / 2);
	switch (w->state) {
	case WORK_STARTS:
	case WORK_WAITS:
		answer_revoked(r, w);
		break;
	case WORK_RUNS:
		w->answer = ANSWER_REVOKED;
		work_stop(r, w, kill_at);
		break;
	case WORK_ENDS:
		w->answer = ANSWER_REVOKED;
		w->kill_at = mono_min(w->kill_at, kill_at);
		schedule(r, w);
		break;
	case WORK_KILLED:
	case WORK_SAYS:
		break; /* the answer is on its way */
	}
}

void work_give_back(struct runner *r, struct work *w)
{
	if (w->entries) /* work_stop_asked gives it back after the entry at hand */
		return;
	if (w->state == WORK_STARTS) {
		work_answer_one(r, w, new_frame("release", w, NULL, false), true);
	} else if (w->state == WORK_RUNS) {
		w->answer = ANSWER_RELEASE;
		work_stop(r, w, r->opt->kill_after == MONO_NEVER ? r->now + KILL_AFTER_MS : MONO_NEVER);
	}
}

void work_abandon(struct runner *r, struct work *w)
{
	w->answer = ANSWER_NONE;
	if (is_between(w) || w->state == WORK_SAYS)
		work_free(r, w);
	else if (w->state != WORK_KILLED)
		kill_now(r, w);
}

void work_turn(struct runner *r, struct work *w)
{
	switch (w->state) {
	case WORK_STARTS:
		if (w->fence_term <= r->now)
			stop_at_fence(r, w);
		else
			work_start(r, w);
		break;
	case WORK_RUNS:
	case WORK_WAITS:
		stop_at_fence(r, w);
		break;
	case WORK_ENDS:
		kill_now(r, w);
		break;
	case WORK_SAYS:
		w->say_at = r->now + SAY_AGAIN_MS;
		schedule(r, w);
		work_tell(r, w);
		break;
	case WORK_KILLED:
		schedule(r, w);
		break;
	}
}
