/* The process of a stream, and then of others: calls the handler, tells its parent how that ended. A thread of it
 * watches the fence in the shared memory, since the parent may be frozen: at the fence the whole group is killed. */
#include "client/client_p.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/mem.h"

enum { EXIT_LOST_PARENT = 1 };

struct child_job { /* what a handler's struct sluice_job is the first part of */
	struct sluice_job job;
	int sock;
	struct child_shared *shared;
	const struct sluice_options *options;
	sluice_handler *work;
	char *text;         /* of job */
	enum wire_kind how; /* the answer, when a sluice_job_* call has named one */
	char *reason;
	bool is_dead, wants_end, is_over; /* is_over: answered */
	int64_t retry_ms;
	size_t n_acked; /* SLUICE_BATCH: of the call's entries */
	uint32_t round;
	struct buf in;
};

static void *child_watch(void *arg)
{
	struct child_shared *shared = arg;
	for (;;) {
		int64_t left = shared->fence.stop_ms - mono_now();
		if (left <= 0)
			kill(0, SIGKILL);
		int64_t ms = left < CHILD_WATCH_MS ? left : CHILD_WATCH_MS;
		struct timespec t = {.tv_nsec = (ms > 0 ? ms : 1) * 1000000L};
		nanosleep(&t, NULL);
	}
	return NULL;
}

/* Its signals are the handler's. */
static void watch_start(struct child_shared *shared)
{
	sigset_t all, before;
	pthread_t thread;
	sigfillset(&all);
	pthread_sigmask(SIG_BLOCK, &all, &before);
	if (pthread_create(&thread, NULL, child_watch, shared) != 0)
		_exit(EXIT_LOST_PARENT);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
}

static void child_say(struct child_job *c, struct wire_head head, const char *text, size_t len)
{
	struct buf b;
	buf_init(&b);
	wire_put(&b, head, text, len);
	for (size_t done = 0; done < b.len;) {
		ssize_t n = send(c->sock, b.data + done, b.len - done, MSG_NOSIGNAL);
		if (n < 0 && errno != EINTR)
			_exit(EXIT_LOST_PARENT);
		done += n > 0 ? (size_t)n : 0;
	}
	buf_fini(&b);
}

static void child_say_text(struct child_job *c, enum wire_kind kind, const char *text)
{
	child_say(c, (struct wire_head){.kind = kind, .retry_ms = -1}, text, text ? strlen(text) : 0);
}

void sluice_job_progress(struct sluice_job *job, const char *note)
{
	child_say_text((struct child_job *)job, WIRE_PROGRESS, note);
}

static int job_ends(struct sluice_job *job, enum wire_kind how, const char *reason, bool dead, int64_t retry_ms)
{
	struct child_job *c = (struct child_job *)job;
	c->how = how;
	mem_free(c->reason);
	c->reason = reason ? mem_dup(reason, strlen(reason)) : NULL;
	c->is_dead = dead;
	c->retry_ms = retry_ms;
	return 1;
}

int sluice_job_fail(struct sluice_job *job, const char *reason, bool dead, int64_t retry_ms)
{
	return job_ends(job, WIRE_FAIL, reason, dead, retry_ms);
}

int sluice_job_release(struct sluice_job *job, int64_t retry_ms)
{
	return job_ends(job, WIRE_RELEASE, NULL, false, retry_ms);
}

void sluice_job_ack(struct sluice_job *job, const char *id)
{
	struct child_job *c = (struct child_job *)job;
	size_t at = c->n_acked;
	while (at < job->n_entries && strcmp(job->entries[at].id, id) != 0)
		at++;
	if (at == job->n_entries)
		return;
	c->n_acked = at + 1;
	child_say_text(c, WIRE_ACK, id);
}

void sluice_job_finish(struct sluice_job *job)
{
	((struct child_job *)job)->wants_end = true;
}

/* The handler's status, 0 or what it said of it. */
static int child_call(struct child_job *c)
{
	char text[48];
	c->how = WIRE_DONE;
	int status = c->work(&c->job);
	fflush(NULL);
	if (status && c->how == WIRE_DONE) {
		snprintf(text, sizeof(text), "the handler returned %d", status);
		sluice_job_fail(&c->job, text, false, -1);
	}
	return status;
}

/* Nothing of the handler runs on: no thread beside ours, no process. What has ended is waited for on the way. */
static bool child_is_alone(void)
{
	enum { DIRS = 2, THREADS = 2 };
	struct stat tasks;
	pid_t ended;
	do
		ended = waitpid(-1, NULL, WNOHANG);
	while (ended > 0);
	return ended < 0 && errno == ECHILD && stat("/proc/self/task", &tasks) == 0 && tasks.st_nlink == DIRS + THREADS;
}

/* It waits for another job then, or ends. */
static void child_answers(struct child_job *c, enum wire_kind kind)
{
	bool goes_on = !c->options->fresh && child_is_alone();
	struct wire_head head = {.kind = kind, .dead = c->is_dead, .retry_ms = c->retry_ms, .n = goes_on};
	child_say(c, head, c->reason, c->reason ? strlen(c->reason) : 0);
	c->is_over = true;
	if (!goes_on)
		_exit(0);
}

/* ---- entries mode */

static void child_nacks(struct child_job *c, const char *id)
{
	struct buf text;
	buf_init(&text);
	buf_add(&text, id, strlen(id) + 1);
	buf_str(&text, c->reason ? c->reason : "");
	buf_add(&text, "", 1);
	child_say(c, (struct wire_head){.kind = WIRE_NACK, .dead = c->is_dead, .retry_ms = c->retry_ms}, text.data,
		text.len);
	buf_fini(&text);
	c->round++;
}

/* One call. False: the rest of what came is void. */
static bool child_calls(struct child_job *c, const struct sluice_entry *list, size_t n)
{
	c->job.entries = list;
	c->job.n_entries = n;
	c->n_acked = 0;
	int status = child_call(c);
	size_t i = c->n_acked; /* the first that the handler has not acknowledged */
	if (status == 0)
		child_say_text(c, WIRE_ACK, list[n - 1].id);
	else if (c->how == WIRE_RELEASE)
		child_answers(c, WIRE_RELEASE);
	else if (i < n)
		child_nacks(c, list[i].id);
	if (status == 0 && c->wants_end)
		child_answers(c, WIRE_DONE);
	return status == 0 && !c->is_over;
}

/* An answer that is not the handler's. */
static void child_ends(struct child_job *c, enum wire_kind kind)
{
	mem_free(c->reason);
	c->reason = NULL;
	c->retry_ms = -1;
	child_answers(c, kind);
}

static void child_works(struct child_job *c, const struct wire_head *head, const char *text)
{
	struct sluice_entry *list = wire_entries(head, text);
	size_t most = c->options->mode == SLUICE_EACH ? 1 : head->n;
	for (size_t i = 0; i < head->n && head->round == c->round; i += most) {
		if (c->shared->is_to_leave)
			child_ends(c, WIRE_RELEASE);
		if (c->is_over || !child_calls(c, list + i, most))
			break;
	}
	mem_free(list);
}

/* Reads more; false: the parent has closed its end. */
static bool child_reads(struct child_job *c)
{
	char bytes[65536];
	ssize_t n;
	do
		n = read(c->sock, bytes, sizeof(bytes));
	while (n < 0 && errno == EINTR);
	if (n > 0)
		buf_add(&c->in, bytes, (size_t)n);
	return n > 0;
}

static void child_entries(struct child_job *c)
{
	struct wire_head head;
	const char *text;
	while (!c->is_over) {
		size_t len = wire_get(c->in.data, c->in.len, &head, &text);
		if (len && head.kind == WIRE_ENTRIES)
			child_works(c, &head, text);
		else if (len && head.kind == WIRE_END)
			child_ends(c, WIRE_DONE);
		buf_consume(&c->in, len);
		bool is_there = len || child_reads(c);
		if (!c->is_over && c->shared->is_to_leave)
			child_ends(c, WIRE_RELEASE);
		if (!is_there && !c->is_over)
			_exit(EXIT_LOST_PARENT);
	}
}

/* ---- one job after another */

/* What comes before it was meant for the last one. */
static void child_awaits_job(struct child_job *c)
{
	struct wire_head head = {0};
	const char *text;
	while (head.kind != WIRE_JOB) {
		size_t len = wire_get(c->in.data, c->in.len, &head, &text);
		if (len && head.kind == WIRE_JOB)
			c->text = mem_dup(text, head.len);
		if (!len)
			head.kind = 0;
		buf_consume(&c->in, len);
		if (!len && !child_reads(c))
			_exit(0);
	}
	c->job = wire_job(c->text);
	c->job.user = c->options->user;
	c->retry_ms = -1;
	c->is_dead = c->wants_end = c->is_over = false;
	c->round = 0;
}

void client_child_main(
	const struct sluice_options *options, sluice_handler *work, int sock, struct child_shared *shared)
{
	struct child_job c = {.options = options, .work = work, .sock = sock, .shared = shared};
	struct sigaction on_term;
	sigaction(SIGTERM, NULL, &on_term);
	prctl(PR_SET_CHILD_SUBREAPER, 1); /* what a handler leaves behind is seen, though its parent has ended */
	buf_init(&c.in);
	watch_start(shared);
	for (;;) {
		child_awaits_job(&c);
		sigaction(SIGTERM, &on_term,
			NULL); /* it is how we are asked to stop, whatever the last one did with it */
		shared->n_begun++;
		if (options->mode != SLUICE_STREAMS) {
			child_entries(&c);
		} else {
			child_call(&c);
			child_answers(&c, c.how);
		}
		mem_free(c.text);
		mem_free(c.reason);
		c.text = c.reason = NULL;
	}
}
