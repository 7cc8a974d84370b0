/* sluice_worker_run: a process for each stream, so that work may block. One poll(2) loop over the signals, the worker
 * and the children; nothing in it waits. A child that does not end in time is killed, it alone; one that dies without
 * an answer has failed. Children that have answered are used again, the latest first; what is not wanted ends after a
 * while.
 *
 * A child: WORKS (it has a lease) --answer--> RESTS (in `resting`, if it says that it goes on) --assign--> WORKS;
 * --stop, fence, resting for too long--> killed --> reaped. One that was told to stop never rests: the signal may meet
 * it late. */
#include "client/client_p.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/mem.h"
#include "core/cmd.h"

enum { RUN_USAGE = 64, RUN_UNAVAILABLE = 69, RUN_OSERR = 71, RUN_NOPERM = 77, RUN_CONFIG = 78 };
enum { FORK_AGAIN_MS = 1000, GIVE_BACK_MS = 10000, REST_MS = 5000 };

struct run_child {
	struct link in_all, in_resting;
	struct heap_node kill; /* when it is killed */
	char *lease;           /* NULL = none */
	pid_t pid;             /* also the number of its group */
	int sock;
	struct child_shared *shared;
	struct buf in, out; /* from it and to it */
	uint32_t n_jobs;
	uint32_t round;     /* entries mode: nacks it has sent about this one */
	struct buf given;   /* entries mode: struct entry_id of each that it was given and has not finished */
	bool is_stopped;    /* it was told to end: it answers revoked */
	bool is_given_back; /* by us, at SIGTERM: release */
};

struct run {
	struct sluice_worker *worker;
	const struct sluice_options *options;
	sluice_handler *work;
	struct link all, resting;
	size_t n_children;
	struct heap kills;
	int signals, status;
	sigset_t mask_before;
	bool is_leaving, is_over, has_ended_ones;
	struct pollfd *fds;
	struct run_child **owners;
};

static void run_says(const char *fmt, const char *a, const char *b)
{
	fprintf(stderr, "%s: ", program_invocation_short_name);
	fprintf(stderr, fmt, a, b);
	fputc('\n', stderr);
}

/* ---- a child's beginning */

static int run_signals(struct run *r)
{
	sigset_t mine;
	sigemptyset(&mine);
	sigaddset(&mine, SIGTERM);
	sigaddset(&mine, SIGINT);
	sigaddset(&mine, SIGCHLD);
	sigprocmask(SIG_BLOCK, &mine, &r->mask_before);
	return signalfd(-1, &mine, SFD_NONBLOCK | SFD_CLOEXEC);
}

static _Noreturn void run_as_child(struct run *r, struct run_child *c, int sock, pid_t parent)
{
	setpgid(0, 0);
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent)
		_exit(1);
	close(sluice_worker_fd(r->worker));
	close(r->worker->conn.fd);
	close(r->signals);
	struct link *at = r->all.next;
	for (; at != &r->all; at = at->next)
		close(LIST_OF(struct run_child, in_all, at)->sock);
	sigprocmask(SIG_SETMASK, &r->mask_before, NULL);
	client_child_main(r->options, r->work, sock, c->shared);
}

static bool run_fork(struct run *r, struct run_child *c)
{
	int pair[2];
	pid_t parent = getpid();
	c->shared = mmap(NULL, sizeof(*c->shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (c->shared == MAP_FAILED)
		return false;
	c->shared->fence.stop_ms = MONO_NEVER;
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) != 0) {
		munmap(c->shared, sizeof(*c->shared));
		return false;
	}
	fcntl(pair[0], F_SETFL, O_NONBLOCK);
	fflush(NULL);
	c->sock = pair[0];
	c->pid = fork();
	if (c->pid == 0)
		run_as_child(r, c, pair[1], parent);
	int why = errno;
	close(pair[1]);
	if (c->pid > 0) {
		setpgid(c->pid, c->pid);
		return true;
	}
	close(pair[0]);
	munmap(c->shared, sizeof(*c->shared));
	errno = why;
	return false;
}

/* NULL and errno: there is none. */
static struct run_child *run_new_child(struct run *r)
{
	struct run_child *c = mem_alloc(sizeof(*c));
	*c = (struct run_child){0};
	list_init(&c->in_resting);
	if (!run_fork(r, c)) {
		mem_free(c);
		return NULL;
	}
	buf_init(&c->in);
	buf_init(&c->out);
	buf_init(&c->given);
	list_push(&r->all, &c->in_all);
	r->n_children++;
	return c;
}

/* One that rests, but for a lease that ends before such a one may have noticed; else a new one. */
static struct run_child *run_find_child(struct run *r, const struct client_lease *l)
{
	struct link *last = r->resting.prev;
	if (last == &r->resting || l->stop_ms - mono_now() < 2 * CHILD_WATCH_MS)
		return run_new_child(r);
	struct run_child *c = LIST_OF(struct run_child, in_resting, last);
	list_remove(last);
	heap_remove(&r->kills, &c->kill);
	return c;
}

static void run_tell_child(struct run *r, struct run_child *c)
{
	(void)r;
	size_t done = 0;
	while (done < c->out.len) {
		ssize_t n = send(c->sock, c->out.data + done, c->out.len - done, MSG_NOSIGNAL);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			break; /* later, or it has ended */
		done += (size_t)n;
	}
	if (done)
		buf_consume(&c->out, done);
}

static void run_begin(struct run *r, const struct sluice_event *e)
{
	struct sluice_job job = {.service = e->service,
		.stream = e->stream,
		.id = e->id,
		.token = e->token,
		.retry = e->retry,
		.info = e->info,
		.info_len = e->info_len,
		.traceparent = e->traceparent,
		.tracestate = e->tracestate,
		.baggage = e->baggage};
	struct client_lease *l = client_lease_find(r->worker, e->lease);
	struct run_child *c = run_find_child(r, l);
	if (!c) {
		run_says("stream %s: cannot start a process: %s", e->stream, strerror(errno));
		sluice_worker_release(r->worker, e->lease, FORK_AGAIN_MS);
		return;
	}
	c->lease = mem_dup(e->lease, strlen(e->lease));
	c->round = 0;
	c->n_jobs++;
	client_lease_share(l, &c->shared->fence);
	l->user = c;
	wire_put_job(&c->out, &job);
	run_tell_child(r, c);
}

/* ---- its end */

static void run_kill(struct run *r, struct run_child *c)
{
	heap_remove(&r->kills, &c->kill);
	list_remove(&c->in_resting);
	c->is_stopped = true;
	kill(-c->pid, SIGKILL);
	kill(c->pid, SIGKILL);
}

static void run_stop(struct run *r, struct run_child *c, mono_ms by_ms)
{
	if (by_ms < c->shared->fence.stop_ms)
		c->shared->fence.stop_ms = by_ms;
	if (by_ms < heap_at(&r->kills, &c->kill))
		heap_set(&r->kills, &c->kill, by_ms);
	if (!c->is_stopped && !c->is_given_back)
		kill(-c->pid, SIGTERM);
}

/* It is answered. */
static void run_forget_lease(struct run *r, struct run_child *c)
{
	struct client_lease *l = c->lease ? client_lease_find(r->worker, c->lease) : NULL;
	if (l) {
		client_lease_share(l, NULL);
		l->user = NULL;
	}
	mem_free(c->lease);
	c->lease = NULL;
	c->given.len = 0;
}

static void run_free(struct run *r, struct run_child *c)
{
	run_forget_lease(r, c);
	heap_remove(&r->kills, &c->kill);
	list_remove(&c->in_resting);
	list_remove(&c->in_all);
	r->n_children--;
	close(c->sock);
	munmap(c->shared, sizeof(*c->shared));
	buf_fini(&c->in);
	buf_fini(&c->out);
	buf_fini(&c->given);
	mem_free(c);
}

/* It ended without a word: the entry that it was at work on has failed. When that is counted, the stream goes back. */
static void run_dies_of_entry(struct run *r, const struct run_child *c, const char *why)
{
	struct entry_id id;
	char text[COMMAND_ID_CAP];
	if (client_given_first(&c->given, &id)) {
		command_id_format(text, id);
		sluice_worker_nack(r->worker, c->lease, text, why, false, -1);
	} else {
		run_says("lease %s: %s", c->lease, why);
		sluice_worker_release(r->worker, c->lease, -1);
	}
}

static bool run_was_told(const struct run_child *c)
{
	return c->is_stopped || c->is_given_back || c->kill.pos;
}

static void run_answered(struct run *r, struct run_child *c, bool goes_on)
{
	run_forget_lease(r, c);
	if (!goes_on || r->is_leaving)
		return; /* it ends, or is ended with us */
	if (run_was_told(c)) {
		run_kill(r, c);
		return;
	}
	c->shared->fence.stop_ms = MONO_NEVER;
	list_push(&r->resting, &c->in_resting);
	heap_set(&r->kills, &c->kill, mono_now() + REST_MS);
}

/* Who gives up because of SIGTERM has not failed. */
static void run_stopped(struct run *r, struct run_child *c)
{
	if (c->is_given_back)
		sluice_worker_release(r->worker, c->lease, -1);
	else
		sluice_worker_revoked(r->worker, c->lease);
	run_forget_lease(r, c);
	run_kill(r, c);
}

static void run_heard(struct run *r, struct run_child *c, const struct wire_head *h, const char *text)
{
	if (!c->lease)
		return;
	char *copy = text ? mem_dup(text, h->len) : NULL;
	switch ((enum wire_kind)h->kind) {
	case WIRE_PROGRESS:
		sluice_worker_progress(r->worker, c->lease, copy);
		break;
	case WIRE_ACK:
		sluice_worker_ack(r->worker, c->lease, copy);
		client_given_done(&c->given, copy);
		break;
	case WIRE_NACK:
		if (run_was_told(c)) {
			run_stopped(r, c);
			break;
		}
		sluice_worker_nack(r->worker, c->lease, copy, copy + strlen(copy) + 1, h->dead, h->retry_ms);
		c->round++;
		c->given.len = 0;
		break;
	case WIRE_DONE:
		sluice_worker_done(r->worker, c->lease);
		break;
	case WIRE_FAIL:
		if (run_was_told(c))
			run_stopped(r, c);
		else
			sluice_worker_fail(r->worker, c->lease, copy, h->dead, h->retry_ms);
		break;
	case WIRE_RELEASE:
		sluice_worker_release(r->worker, c->lease, h->retry_ms);
		break;
	case WIRE_JOB:
	case WIRE_ENTRIES:
	case WIRE_END:
		break;
	}
	if (c->lease && (h->kind == WIRE_DONE || h->kind == WIRE_FAIL || h->kind == WIRE_RELEASE))
		run_answered(r, c, h->n);
	mem_free(copy);
}

/* False: it has closed its end. */
static bool run_listen(struct run *r, struct run_child *c)
{
	char bytes[16384];
	ssize_t n = 1;
	while ((n = read(c->sock, bytes, sizeof(bytes))) > 0 || (n < 0 && errno == EINTR)) {
		if (n < 0)
			continue;
		buf_add(&c->in, bytes, (size_t)n);
		struct wire_head head;
		const char *text;
		for (size_t len; (len = wire_get(c->in.data, c->in.len, &head, &text)) > 0;) {
			run_heard(r, c, &head, text);
			buf_consume(&c->in, len);
		}
	}
	return n < 0 && errno == EAGAIN;
}

/* It has ended without an answer of its own. */
static void run_answers(struct run *r, struct run_child *c, int status)
{
	char why[64];
	if (c->is_given_back) {
		sluice_worker_release(r->worker, c->lease, -1);
	} else if (run_was_told(c) || c->shared->fence.stop_ms <= mono_now()) {
		sluice_worker_revoked(r->worker, c->lease);
	} else if (c->n_jobs > c->shared->n_begun) { /* it had ended before: nothing is held against the stream */
		sluice_worker_release(r->worker, c->lease, FORK_AGAIN_MS);
	} else {
		if (WIFSIGNALED(status))
			snprintf(why, sizeof(why), "the handler's process ended, signal %d", WTERMSIG(status));
		else
			snprintf(why, sizeof(why), "the handler's process ended, status %d", WEXITSTATUS(status));
		if (r->options->mode == SLUICE_STREAMS)
			sluice_worker_fail(r->worker, c->lease, why, false, -1);
		else
			run_dies_of_entry(r, c, why);
	}
}

static void run_reap(struct run *r, struct run_child *c)
{
	int status = 0;
	siginfo_t ended = {0};
	if (waitid(P_PID, (id_t)c->pid, &ended, WEXITED | WNOHANG | WNOWAIT) != 0 || !ended.si_pid)
		return;
	kill(-c->pid, SIGKILL); /* what it has left running; until waitpid the number is its own */
	waitpid(c->pid, &status, 0);
	run_listen(r, c);
	if (c->lease)
		run_answers(r, c, status);
	run_free(r, c);
}

static void run_reap_all(struct run *r)
{
	if (!r->has_ended_ones)
		return;
	r->has_ended_ones = false;
	for (struct link *at = r->all.next, *next; at != &r->all; at = next) {
		next = at->next;
		run_reap(r, LIST_OF(struct run_child, in_all, at));
	}
}

/* ---- turns */

static void run_leave(struct run *r)
{
	if (r->is_leaving)
		return;
	r->is_leaving = true;
	sluice_worker_leave(r->worker);
	for (struct link *at = r->all.next; at != &r->all; at = at->next) {
		struct run_child *c = LIST_OF(struct run_child, in_all, at);
		if (r->options->mode != SLUICE_STREAMS) {
			c->shared->is_to_leave = true;
			shutdown(c->sock, SHUT_WR); /* it may be waiting for entries */
		} else if (r->options->gives_back && c->lease) {
			run_stop(r, c, mono_now() + GIVE_BACK_MS);
			c->is_given_back = true;
		}
	}
}

static void run_failed(struct run *r, const struct sluice_event *e)
{
	static const struct {
		const char *code;
		int status;
	} statuses[] = {{"unconfirmed", RUN_UNAVAILABLE}, {"bad_version", RUN_UNAVAILABLE},
		{"unauthorized", RUN_NOPERM}, {"bad_hello", RUN_CONFIG}, {"clock", RUN_CONFIG}};
	run_says("%s: %s", e->reason, e->text);
	for (size_t i = 0; i < sizeof(statuses) / sizeof(statuses[0]); i++)
		if (strcmp(statuses[i].code, e->reason) == 0)
			r->status = statuses[i].status;
	r->is_over = true;
}

/* All that it was given is finished. */
static bool run_waits_for_entries(const struct run *r, const struct run_child *c)
{
	const struct client_lease *l = client_lease_find(r->worker, c->lease);
	return l && !l->is_void && entry_id_cmp(l->taken, l->done) == 0;
}

static void run_event(struct run *r, const struct sluice_event *e)
{
	struct run_child *c = e->user;
	switch (e->type) {
	case SLUICE_ASSIGN:
		run_begin(r, e);
		break;
	case SLUICE_ENTRIES:
		if (!c) { /* their process has died, and its word about it was lost with the connection */
			sluice_worker_release(r->worker, e->lease, -1);
		} else if (!r->is_leaving) {
			wire_put_entries(&c->out, e->entries, e->n_entries, c->round);
			client_given_add(&c->given, e->entries, e->n_entries);
			run_tell_child(r, c);
		}
		break;
	case SLUICE_STOP:
		if (strcmp(e->reason, "fence") == 0 && !(c && run_was_told(c))) /* it comes again: said once */
			run_says("lease %s: %s", e->lease, "not renewed in time, stopping it");
		if (c)
			run_stop(r, c, e->by_ms);
		else
			sluice_worker_revoked(r->worker, e->lease);
		break;
	case SLUICE_ENDED:
		if (c && run_waits_for_entries(r, c)) {
			wire_put(&c->out, (struct wire_head){.kind = WIRE_END}, NULL, 0);
			run_tell_child(r, c);
			break;
		}
		/* fall through */
	case SLUICE_GONE:
		if (c)
			run_kill(r, c);
		else
			sluice_worker_revoked(r->worker, e->lease);
		break;
	case SLUICE_NOTE:
		run_says("%s%s", e->text, "");
		break;
	case SLUICE_LEFT:
		r->is_over = true;
		break;
	case SLUICE_FAILED:
		run_failed(r, e);
		break;
	case SLUICE_NACKED:
		if (!c)
			sluice_worker_release(r->worker, e->lease, -1);
		break;
	case SLUICE_CONFIRMED:
	case SLUICE_UP:
	case SLUICE_DRAIN:
		break;
	}
}

static int run_list(struct run *r)
{
	r->fds = mem_grow(r->fds, r->n_children + 2, sizeof(*r->fds));
	r->owners = mem_grow(r->owners, r->n_children + 2, sizeof(struct run_child *));
	r->fds[0] = (struct pollfd){.fd = r->signals, .events = POLLIN};
	r->fds[1] = (struct pollfd){.fd = sluice_worker_fd(r->worker), .events = POLLIN};
	int n = 2;
	for (struct link *at = r->all.next; at != &r->all; at = at->next, n++) {
		struct run_child *c = LIST_OF(struct run_child, in_all, at);
		r->owners[n] = c;
		r->fds[n] = (struct pollfd){.fd = c->sock, .events = (short)(c->out.len ? POLLIN | POLLOUT : POLLIN)};
	}
	return n;
}

static int run_wait_ms(const struct run *r)
{
	int ms = sluice_worker_timeout(r->worker);
	mono_ms left = heap_deadline(&r->kills) == MONO_NEVER ? ms : heap_deadline(&r->kills) - mono_now();
	return left < 0 ? 0 : left < ms ? (int)left : ms;
}

static void run_read_signals(struct run *r)
{
	struct signalfd_siginfo s;
	while (read(r->signals, &s, sizeof(s)) == (ssize_t)sizeof(s))
		if (s.ssi_signo == SIGCHLD)
			r->has_ended_ones = true;
		else
			run_leave(r);
}

static void run_turn(struct run *r)
{
	int n = run_list(r);
	if (poll(r->fds, (nfds_t)n, run_wait_ms(r)) < 0)
		n = 0;
	while (heap_deadline(&r->kills) <= mono_now())
		run_kill(r, HEAP_OF(struct run_child, kill, heap_top(&r->kills)));
	sluice_worker_step(r->worker);
	for (int i = 2; i < n; i++) {
		if (r->fds[i].revents & POLLOUT)
			run_tell_child(r, r->owners[i]);
		if (r->fds[i].revents & (POLLIN | POLLHUP | POLLERR) && !run_listen(r, r->owners[i]))
			run_reap(r, r->owners[i]);
	}
	if (n && r->fds[0].revents)
		run_read_signals(r);
	run_reap_all(r);
	for (struct sluice_event e; !r->is_over && sluice_worker_next(r->worker, &e);)
		run_event(r, &e);
}

static void run_end(struct run *r)
{
	while (!list_empty(&r->all)) {
		struct run_child *c = LIST_OF(struct run_child, in_all, r->all.next);
		run_kill(r, c);
		waitpid(c->pid, NULL, 0);
		run_free(r, c);
	}
	sluice_worker_bye(r->worker);
	sluice_worker_free(r->worker);
	close(r->signals);
	sigprocmask(SIG_SETMASK, &r->mask_before, NULL);
	heap_fini(&r->kills);
	mem_free(r->fds);
	mem_free(r->owners);
}

int sluice_worker_run(const struct sluice_options *options, sluice_handler *work)
{
	struct run r = {.worker = sluice_worker_new(options), .options = options, .work = work};
	if (!r.worker) {
		run_says("the worker's options: %s%s", strerror(errno), "");
		return errno == EINVAL || errno == ENAMETOOLONG ? RUN_USAGE : RUN_OSERR;
	}
	list_init(&r.all);
	list_init(&r.resting);
	heap_init(&r.kills);
	r.signals = run_signals(&r);
	if (r.signals < 0) {
		sluice_worker_free(r.worker);
		return RUN_OSERR;
	}
	while (!r.is_over)
		run_turn(&r);
	run_end(&r);
	return r.status;
}
