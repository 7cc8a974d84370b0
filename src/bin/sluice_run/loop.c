/* The loop: one poll(2) over the signals, the connection, our stderr and the stderr of every command; due deadlines
 * first. It ends when a stop was asked for and everything was told (0), when the daemon refuses us, or at the second
 * stop. */
#include "bin/sluice_run/sluice_run.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/mem.h"

enum { EXIT_OSERR = 71, EXIT_BY_SIGNAL = 128 };
enum { ROUND_MS = 20 };

struct polled {
	struct pollfd *fds;
	struct work **owners; /* same index; NULL for the first ones */
	size_t n, cap;
};

static bool lease_equal(const void *value, const void *key, size_t len)
{
	const struct work *w = value;
	return strlen(w->lease) == len && memcmp(w->lease, key, len) == 0;
}

static bool pid_equal(const void *value, const void *key, size_t len)
{
	const struct work *w = value;
	return memcmp(&w->child.pid, key, len) == 0;
}

static struct sluice_worker *new_worker(const struct run_options *opt)
{
	struct sluice_worker *w = sluice_worker_new(&(struct sluice_options){.socket = opt->socket,
		.name = opt->name,
		.services = opt->services,
		.n_services = opt->n_services,
		.credits = opt->credits,
		.mode = opt->mode == MODE_STREAM ? SLUICE_STREAMS : SLUICE_EACH});
	if (w)
		return w;
	run_log("%s", strerror(errno)); /* no descriptor is left: cli_parse looked at everything else */
	exit(EXIT_OSERR);
}

void runner_init(struct runner *r, const struct run_options *opt)
{
	*r = (struct runner){.opt = opt, .now = mono_now(), .worker = new_worker(opt)};
	map_init(&r->by_lease, lease_equal, (uint64_t)r->now);
	map_init(&r->by_pid, pid_equal, (uint64_t)r->now + 1);
	heap_init(&r->turns);
}

void runner_fini(struct runner *r)
{
	size_t pos = 0;
	for (struct work *w; (w = map_next(&r->by_lease, &pos));)
		work_free(r, w);
	sluice_worker_free(r->worker);
	map_fini(&r->by_lease);
	map_fini(&r->by_pid);
	heap_fini(&r->turns);
	mem_free(r->opt->services);
}

/* ---- signals */

static bool is_ignored(int sig)
{
	struct sigaction now;
	return sigaction(sig, NULL, &now) == 0 && now.sa_handler == SIG_IGN;
}

static int open_signals(void)
{
	sigset_t set;
	sigemptyset(&set);
	sigaddset(&set, SIGCHLD);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGHUP);
	if (!is_ignored(SIGTSTP)) /* as by a shell without job control */
		sigaddset(&set, SIGTSTP);
	sigprocmask(SIG_BLOCK, &set, NULL);
	signal(SIGPIPE, SIG_IGN);
	/* Whoever started us may have them ignored: then no end of a command would ever be seen. */
	signal(SIGCHLD, SIG_DFL);
	signal(SIGTERM, SIG_DFL);
	return signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
}

static void collect_ended(struct runner *r)
{
	for (;;) {
		siginfo_t ended = {0};
		/* Left as zombies here: their numbers name the groups until child_reap is done with them. */
		if (waitid(P_ALL, 0, &ended, WEXITED | WNOHANG | WNOWAIT) != 0 || ended.si_pid == 0)
			return;
		struct work *w = work_of_pid(r, ended.si_pid);
		if (w)
			work_ended(r, w);
		else
			waitpid(ended.si_pid, NULL, 0); /* somebody exec'ed us with children */
	}
}

static void kill_all(struct runner *r)
{
	size_t pos = 0;
	for (struct work *w; (w = map_next(&r->by_lease, &pos));)
		if (w->child.pid && w->state != WORK_KILLED)
			child_signal(&w->child, SIGKILL);
	pos = 0;
	for (struct work *w; (w = map_next(&r->by_lease, &pos));)
		if (w->child.pid) {
			w->answer = ANSWER_REVOKED;
			siginfo_t ended = {0};
			while (waitid(P_PID, (id_t)w->child.pid, &ended, WEXITED | WNOWAIT) != 0 && errno == EINTR)
				continue;
			work_ended(r, w);
		}
}

static void give_all_back(struct runner *r)
{
	size_t pos = 0;
	for (struct work *w; (w = map_next(&r->by_lease, &pos));)
		work_give_back(r, w);
}

static void stop_asked(struct runner *r, int sig)
{
	r->n_stops++;
	if (r->n_stops == 1) {
		run_log("%s: no new work, %s %zu", strsignal(sig), r->opt->gives_back ? "giving back" : "finishing",
			r->n_processes);
		sluice_worker_leave(r->worker);
		work_stop_asked(r);
		if (r->opt->gives_back)
			give_all_back(r);
		return;
	}
	run_log("%s again: killing %zu", strsignal(sig), r->n_processes);
	r->exit_code = EXIT_BY_SIGNAL + sig;
	r->is_over = true;
}

/* The commands have groups of their own: what stops us reaches them through us only. */
static void stand_still(struct runner *r)
{
	sigset_t stop;
	sigemptyset(&stop);
	sigaddset(&stop, SIGTSTP);
	work_suspend_all(r);
	raise(SIGTSTP);
	sigprocmask(SIG_UNBLOCK, &stop, NULL); /* here we stand still, unless nobody could continue us */
	sigprocmask(SIG_BLOCK, &stop, NULL);
	r->now = mono_now();
	work_continue_all(r);
}

static void read_signals(struct runner *r, int fd)
{
	struct signalfd_siginfo info;
	while (read(fd, &info, sizeof(info)) == (ssize_t)sizeof(info)) {
		if (info.ssi_signo == SIGCHLD)
			collect_ended(r);
		else if (info.ssi_signo == SIGTSTP)
			stand_still(r);
		else
			stop_asked(r, (int)info.ssi_signo);
	}
}

/* ---- one round */

static void add_fd(struct polled *p, int fd, short events, struct work *owner)
{
	if (p->n == p->cap) {
		p->cap = p->cap ? 2 * p->cap : 64;
		p->fds = mem_grow(p->fds, p->cap, sizeof(*p->fds));
		p->owners = mem_grow(p->owners, p->cap, sizeof(struct work *));
	}
	p->fds[p->n] = (struct pollfd){.fd = fd, .events = events};
	p->owners[p->n++] = owner;
}

enum { AT_SIGNALS, AT_CONN, AT_STDERR, AT_GUARD, AT_FIRST_CHILD };

static void list_fds(struct runner *r, struct polled *p, int signals)
{
	p->n = 0;
	add_fd(p, signals, POLLIN, NULL);
	add_fd(p, sluice_worker_fd(r->worker), POLLIN, NULL);
	add_fd(p, say_pending() ? say_fd() : -1, POLLOUT, NULL);
	add_fd(p, guard_fd(), 0, NULL);
	if (say_pending() > SAY_BUSY_BYTES)
		return;
	size_t pos = 0;
	for (struct work *w; (w = map_next(&r->by_pid, &pos));)
		if (w->child.err_fd >= 0)
			add_fd(p, w->child.err_fd, POLLIN, w);
	pos = 0;
	for (struct work *w; r->opt->mode == MODE_FEED && (w = map_next(&r->by_pid, &pos));) {
		if (w->child.ack_fd >= 0)
			add_fd(p, w->child.ack_fd, POLLIN, w);
		if (entries_want_write(w))
			add_fd(p, w->child.in_fd, POLLOUT, w);
	}
}

static int wait_ms(const struct runner *r)
{
	mono_ms at = heap_deadline(&r->turns), most = sluice_worker_timeout(r->worker);
	if (r->pause.until)
		at = mono_min(at, r->pause.until);
	mono_ms left = at == MONO_NEVER ? most : at - mono_now();
	return (int)mono_max(0, mono_min(left, most));
}

/* Commands start here alone. A start is a fork, which takes long where the processor is short, and many may be due at
 * once: what the daemon says, a ping among it, must not wait for all of them. One starts in each round at least. */
static void run_turns(struct runner *r)
{
	bool is_first = true;
	while (heap_deadline(&r->turns) <= r->now && (is_first || mono_now() - r->now <= ROUND_MS)) {
		work_turn(r, HEAP_OF(struct work, turn, heap_top(&r->turns)));
		is_first = false;
	}
}

static void round_of(struct runner *r, struct polled *p, int signals)
{
	list_fds(r, p, signals);
	int n = poll(p->fds, p->n, wait_ms(r));
	r->now = mono_now();
	pause_turn(r);
	if (guard_has_news())
		work_turn_guarded(r);
	run_turns(r);
	if (n < 0) {
		events_turn(r);
		return;
	}
	/* Stderr before the ends of processes: those close the descriptors that are listed. */
	for (size_t i = AT_FIRST_CHILD; i < p->n; i++)
		if (p->fds[i].revents) {
			child_read_stderr(&p->owners[i]->child, false);
			if (p->owners[i]->entries)
				entries_io(r, p->owners[i]);
		}
	if (p->fds[AT_SIGNALS].revents)
		read_signals(r, signals);
	events_turn(r);
	if (p->fds[AT_STDERR].revents)
		say_flush();
	if (p->fds[AT_GUARD].revents)
		guard_ended();
}

int runner_loop(struct runner *r)
{
	struct polled p = {0};
	int signals = open_signals();
	if (signals < 0) {
		run_log("signalfd: %s", strerror(errno));
		return EXIT_OSERR;
	}
	while (!r->is_over) {
		round_of(r, &p, signals);
		guard_look(heap_deadline(&r->worker->leases.turns));
	}
	kill_all(r);
	sluice_worker_bye(r->worker);
	close(signals);
	mem_free(p.fds);
	mem_free(p.owners);
	return r->exit_code;
}
