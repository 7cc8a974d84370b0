/* The process of one stream: calls the handler, tells its parent how that ended. A thread of it watches the fence in
 * the shared memory, since the parent may be frozen: at the fence the whole group is killed. */
#include "client/client_p.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "base/mem.h"

enum { WATCH_MAX_MS = 100, EXIT_LOST_PARENT = 1 };

struct child_job { /* what a handler's struct sluice_job is the first part of */
	struct sluice_job job;
	int sock;
	struct child_shared *shared;
	enum wire_kind how; /* the answer, when a sluice_job_* call has named one */
	char *reason;
	bool is_dead, wants_end;
	int64_t retry_ms;
	const char *acked; /* SLUICE_BATCH: the last id that was */
	uint32_t round;
	struct buf in;
};

static void *child_watch(void *arg)
{
	struct child_shared *shared = arg;
	for (;;) {
		int64_t left = shared->stop_ms - mono_now();
		if (left <= 0)
			kill(0, SIGKILL);
		int64_t ms = left < WATCH_MAX_MS ? left : WATCH_MAX_MS;
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
	c->acked = id;
	child_say_text(c, WIRE_ACK, id);
}

void sluice_job_finish(struct sluice_job *job)
{
	((struct child_job *)job)->wants_end = true;
}

/* The handler's status, 0 or what it said of it. */
static int child_call(struct child_job *c, sluice_handler *work)
{
	char text[48];
	c->how = WIRE_DONE;
	int status = work(&c->job);
	fflush(NULL);
	if (status && c->how == WIRE_DONE) {
		snprintf(text, sizeof(text), "the handler returned %d", status);
		sluice_job_fail(&c->job, text, false, -1);
	}
	return status;
}

static _Noreturn void child_answers(struct child_job *c, enum wire_kind kind)
{
	struct wire_head head = {.kind = kind, .dead = c->is_dead, .retry_ms = c->retry_ms};
	child_say(c, head, c->reason, c->reason ? strlen(c->reason) : 0);
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

/* The first that the handler has not acknowledged. */
static size_t first_unfinished(const struct child_job *c, const struct sluice_entry *list, size_t n)
{
	for (size_t i = 0; c->acked && i < n; i++)
		if (strcmp(list[i].id, c->acked) == 0)
			return i + 1;
	return 0;
}

/* One call. False: the rest of what came is void. */
static bool child_calls(struct child_job *c, sluice_handler *work, const struct sluice_entry *list, size_t n)
{
	c->job.entries = list;
	c->job.n_entries = n;
	c->acked = NULL;
	int status = child_call(c, work);
	size_t i = first_unfinished(c, list, n);
	c->acked = NULL;
	if (status == 0)
		sluice_job_ack(&c->job, list[n - 1].id);
	else if (c->how == WIRE_RELEASE)
		child_answers(c, WIRE_RELEASE);
	else if (i < n)
		child_nacks(c, list[i].id);
	if (status == 0 && c->wants_end)
		child_answers(c, WIRE_DONE);
	return status == 0;
}

static void leave_if_told(struct child_job *c)
{
	if (!c->shared->is_to_leave)
		return;
	c->retry_ms = -1;
	c->reason = NULL;
	child_answers(c, WIRE_RELEASE);
}

static void child_works(struct child_job *c, sluice_handler *work, enum sluice_mode mode, const struct wire_head *head,
	const char *text)
{
	struct sluice_entry *list = wire_entries(head, text);
	size_t most = mode == SLUICE_EACH ? 1 : head->n;
	for (size_t i = 0; i < head->n && head->round == c->round; i += most) {
		leave_if_told(c);
		if (!child_calls(c, work, list + i, most))
			break;
	}
	mem_free(list);
}

static _Noreturn void child_entries(struct child_job *c, sluice_handler *work, enum sluice_mode mode)
{
	char bytes[65536];
	struct wire_head head;
	const char *text;
	for (;;) {
		ssize_t n = read(c->sock, bytes, sizeof(bytes));
		if (n < 0 && errno == EINTR)
			continue;
		leave_if_told(c);
		if (n <= 0)
			_exit(EXIT_LOST_PARENT);
		buf_add(&c->in, bytes, (size_t)n);
		for (size_t len; (len = wire_get(c->in.data, c->in.len, &head, &text)) > 0;) {
			child_works(c, work, mode, &head, text);
			buf_consume(&c->in, len);
		}
	}
}

void client_child_main(
	struct sluice_job *job, sluice_handler *work, enum sluice_mode mode, int sock, struct child_shared *shared)
{
	struct child_job c = {.job = *job, .sock = sock, .shared = shared, .retry_ms = -1};
	buf_init(&c.in);
	watch_start(shared);
	if (mode != SLUICE_STREAMS)
		child_entries(&c, work, mode);
	child_call(&c, work);
	child_answers(&c, c.how);
}
