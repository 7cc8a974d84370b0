/* Work must not outlive its lease when we are killed, and not when we are stopped (SIGSTOP, a debugger, Ctrl-Z).
 * PR_SET_PDEATHSIG reaches the commands only, not what they started, and a stopped process keeps no deadline; so a
 * second process looks at memory that we share: a place for each command's group, with the times by which it hears
 * SIGTERM and is killed. It sleeps until the soonest of them, or until a byte in the pipe says that one is sooner now;
 * the pipe's end is ours, then it kills what is there, and dies too.
 *
 * Happy path: nothing is due, as all times move on in time. Failure modes: we stand still (it stops the commands, we
 * say so when we go on), we die (it kills them), it dies (the pipe breaks; we start another), it is stopped (nobody
 * guards, as before it was there).
 *
 * A place: FREE --taken--> BEGINS --by the child, before its exec--> LIVE <--it signals--> BUSY, LIVE --killed by
 * it--> KILLED; --given back--> FREE. A group's number is ours until its leader is reaped, which is after its place is
 * FREE: so no number that was given back is ever killed. We never wait while we have a place in hand, so that whenever
 * we are stopped it can act. */
#include "bin/sluice_run/sluice_run.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/mem.h"

enum place_state { PLACE_FREE, PLACE_BEGINS, PLACE_LIVE, PLACE_BUSY, PLACE_KILLED };
enum {
	LATE_MS = 50,      /* we send SIGTERM ourselves when we can */
	KILL_LATE_MS = 20, /* and SIGKILL, where that is not for the fence */
	BEGINS_MS = 5,     /* due before its child has said its number: looked at again */
	AGAIN_MS = 1000,   /* between two starts of a guard that dies */
	BUSY_MAX_MS = 100  /* signals of the guard to one group, on a busy machine too */
};

struct guard_place {
	struct client_fence fence;
	_Atomic int64_t kill_ms; /* not later than that, whatever the fence says */
	_Atomic int group, state;
	_Atomic bool is_told;    /* to stop, by us or by the guard */
	_Atomic bool is_guarded; /* the guard has stopped it */
};

struct shared {
	_Atomic int64_t wakes_at;   /* the guard; MONO_NEVER also while it looks */
	_Atomic uint32_t n_used;    /* places from here on are FREE */
	_Atomic uint32_t n_guarded; /* how often is_guarded was set */
	mono_ms kill_after;         /* MONO_NEVER = none */
	struct guard_place places[];
};

static struct {
	struct shared *shared;
	struct guard_place **free; /* the last one is taken next */
	uint32_t n_free, n_guarded;
	char **argv;
	int fd;           /* the pipe; -1 = no guard */
	mono_ms again_at; /* when the last one but the first was started; 0 = never */
} guard = {.fd = -1};

/* ---- in the guard */

static bool place_grab(struct guard_place *p)
{
	int live = PLACE_LIVE;
	return atomic_compare_exchange_strong(&p->state, &live, PLACE_BUSY);
}

static void place_let_go(struct guard_place *p, int state)
{
	int busy = PLACE_BUSY;
	atomic_compare_exchange_strong(&p->state, &busy, state);
}

/* Its result is its own then, though nobody has heard it yet. */
static bool has_ended(pid_t pid)
{
	int fd = (int)syscall(SYS_pidfd_open, pid, 0); /* musl has no function for it */
	struct pollfd p = {.fd = fd, .events = POLLIN};
	bool is_over = fd >= 0 && poll(&p, 1, 0) == 1;
	if (fd >= 0)
		close(fd);
	return is_over;
}

static void note_guarded(struct shared *s, struct guard_place *p)
{
	if (!has_ended(p->group) && !atomic_exchange(&p->is_guarded, true))
		s->n_guarded++;
}

static mono_ms place_kill_at(const struct guard_place *p)
{
	const mono_ms kill_ms = p->kill_ms;
	return mono_min(p->fence.stop_ms, kill_ms == MONO_NEVER ? MONO_NEVER : kill_ms + KILL_LATE_MS);
}

/* Later than we do it, as far as the time left allows. */
static mono_ms place_term_at(const struct guard_place *p)
{
	const mono_ms term_ms = p->fence.term_ms, left = place_kill_at(p) - term_ms;
	if (p->is_told || term_ms == MONO_NEVER)
		return MONO_NEVER;
	return term_ms + mono_max(0, mono_min(LATE_MS, left / 4));
}

static void guard_kills(struct shared *s, struct guard_place *p)
{
	if (!place_grab(p))
		return;
	note_guarded(s, p);
	kill(-p->group, SIGKILL);
	place_let_go(p, PLACE_KILLED);
}

static void guard_terminates(struct shared *s, struct guard_place *p, mono_ms now)
{
	if (!place_grab(p))
		return;
	if (!atomic_exchange(&p->is_told, true)) {
		note_guarded(s, p);
		kill(-p->group, SIGTERM);
		kill(-p->group, SIGCONT);
		if (s->kill_after != MONO_NEVER)
			p->kill_ms = mono_min(p->kill_ms, now + s->kill_after);
	}
	place_let_go(p, PLACE_LIVE);
}

/* Does what is due; returns when it is to look again. */
static mono_ms place_turn(struct shared *s, struct guard_place *p, mono_ms now)
{
	const int state = p->state;
	if (state == PLACE_FREE || state == PLACE_KILLED)
		return MONO_NEVER;
	mono_ms at = mono_min(place_kill_at(p), place_term_at(p));
	if (at > now)
		return at;
	if (state == PLACE_BEGINS)
		return now + BEGINS_MS;
	if (place_kill_at(p) <= now)
		guard_kills(s, p);
	else
		guard_terminates(s, p, now);
	at = mono_min(place_kill_at(p), place_term_at(p));
	return p->state == PLACE_LIVE ? mono_max(at, now + 1) : MONO_NEVER;
}

static int guard_turn(struct shared *s)
{
	mono_ms now = mono_now(), at = MONO_NEVER;
	s->wakes_at = MONO_NEVER; /* what is sooner from here on is told with a byte */
	for (uint32_t i = 0; i < s->n_used; i++)
		at = mono_min(at, place_turn(s, &s->places[i], now));
	s->wakes_at = at;
	return at == MONO_NEVER ? -1 : (int)mono_max(0, mono_min(at - mono_now(), INT_MAX));
}

static _Noreturn void watch(struct shared *s, int fd)
{
	char bytes[256];
	for (;;) {
		struct pollfd p = {.fd = fd, .events = POLLIN};
		if (poll(&p, 1, guard_turn(s)) <= 0)
			continue;
		ssize_t n = read(fd, bytes, sizeof(bytes));
		if (n == 0 || (n < 0 && errno != EINTR && errno != EAGAIN))
			break;
	}
	for (uint32_t i = 0; i < s->n_used; i++)
		if (s->places[i].state != PLACE_FREE && s->places[i].group > 0)
			kill(-s->places[i].group, SIGKILL);
	_exit(0);
}

/* The strings lie one after the other, so the whole line of `ps` is ours. */
static void rename_in_ps(char **argv)
{
	static const char name[] = "sluice-guard";
	if (!argv[0])
		return;
	char *end = argv[0];
	for (char **a = argv; *a && *a == end; a++)
		end = *a + strlen(*a) + 1;
	size_t room = (size_t)(end - argv[0]);
	memset(argv[0], 0, room);
	memcpy(argv[0], name, room < sizeof(name) ? room - 1 : sizeof(name) - 1);
	prctl(PR_SET_NAME, name);
}

static _Noreturn void become_guard(int fd)
{
	setsid(); /* Ctrl-C and Ctrl-Z are not for us */
	if (fork() != 0)
		_exit(0);
	static const int ignored[] = {
		SIGTERM, SIGINT, SIGHUP, SIGQUIT, SIGTSTP, SIGTTIN, SIGTTOU, SIGUSR1, SIGUSR2, SIGALRM, SIGPIPE};
	for (size_t i = 0; i < sizeof(ignored) / sizeof(ignored[0]); i++)
		signal(ignored[i], SIG_IGN);
	rename_in_ps(guard.argv);
	int null = open("/dev/null", O_RDWR);
	for (int i = 0; i <= STDERR_FILENO; i++)
		dup2(null, i);
	dup2(fd, STDERR_FILENO + 1);
	syscall(SYS_close_range, STDERR_FILENO + 2, ~0U, 0); /* musl has no function for it */
	if (chdir("/") != 0)
		_exit(1);
	watch(guard.shared, STDERR_FILENO + 1);
}

/* ---- in sluice-run */

static bool guard_fork(void)
{
	int fds[2];
	if (pipe2(fds, O_CLOEXEC) != 0)
		return false;
	pid_t pid = fork();
	if (pid == 0)
		become_guard(fds[0]);
	int why = errno;
	close(fds[0]);
	if (pid < 0) {
		close(fds[1]);
		errno = why;
		return false;
	}
	waitpid(pid, NULL, 0); /* it left the guard behind as nobody's child */
	guard.fd = fds[1];
	fcntl(guard.fd, F_SETFL, O_NONBLOCK); /* a guard that hangs must not hang us */
	return true;
}

bool guard_start(char **argv, int credits, mono_ms kill_after)
{
	const uint32_t n = 2 * (uint32_t)credits + 64; /* those of leases that are over may still be at their end */
	void *memory = mmap(NULL, sizeof(struct shared) + n * sizeof(struct guard_place), PROT_READ | PROT_WRITE,
		MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (memory == MAP_FAILED)
		return false;
	guard.argv = argv;
	guard.shared = memory;
	guard.shared->wakes_at = MONO_NEVER;
	guard.shared->kill_after = kill_after;
	guard.free = mem_array(n, sizeof(struct guard_place *));
	guard.n_free = n;
	for (uint32_t i = 0; i < n; i++)
		guard.free[i] = &guard.shared->places[n - 1 - i];
	return guard_fork();
}

void guard_fini(void)
{
	mem_free(guard.free);
	guard.free = NULL;
}

int guard_fd(void)
{
	return guard.fd;
}

/* What the dead one had in hand is for the next one. */
static bool guard_fork_again(void)
{
	for (uint32_t i = 0; i < guard.shared->n_used; i++) {
		int busy = PLACE_BUSY;
		atomic_compare_exchange_strong(&guard.shared->places[i].state, &busy, PLACE_LIVE);
	}
	guard.again_at = mono_now();
	return guard_fork();
}

void guard_ended(void)
{
	close(guard.fd);
	guard.fd = -1;
	if (guard.again_at && mono_now() - guard.again_at < AGAIN_MS)
		run_log("sluice-guard has ended again: another one is started with the next command");
	else if (guard_fork_again())
		run_log("sluice-guard has ended: another one is started");
	else
		run_log("sluice-guard has ended: %s", strerror(errno));
}

static void guard_wake(mono_ms at)
{
	if (guard.fd < 0 || at >= guard.shared->wakes_at)
		return;
	ssize_t n;
	do
		n = write(guard.fd, "", 1);
	while (n < 0 && errno == EINTR);
}

struct guard_place *guard_take(struct client_lease *l)
{
	if (guard.fd < 0 && !guard_fork_again())
		return NULL;
	if (!guard.n_free) {
		errno = EAGAIN;
		return NULL;
	}
	struct shared *s = guard.shared;
	struct guard_place *p = guard.free[--guard.n_free];
	assert(p->state == PLACE_FREE);
	const uint32_t at = (uint32_t)(p - s->places);
	p->kill_ms = p->fence.term_ms = p->fence.stop_ms = MONO_NEVER;
	p->is_told = p->is_guarded = false;
	p->group = 0;
	if (l)
		client_lease_share(l, &p->fence);
	p->state = PLACE_BEGINS;
	if (s->n_used <= at)
		s->n_used = at + 1;
	guard_wake(mono_min(place_kill_at(p), place_term_at(p)));
	return p;
}

void guard_give_back(struct guard_place *p, struct client_lease *l)
{
	if (l && l->shared == &p->fence)
		client_lease_share(l, NULL);
	const mono_ms end = mono_now() + BUSY_MAX_MS;
	int state;
	do
		state = p->state; /* the guard holds it for two system calls */
	while ((state == PLACE_BUSY && guard.fd >= 0 && mono_now() < end) ||
		!atomic_compare_exchange_strong(&p->state, &state, PLACE_FREE));
	guard.free[guard.n_free++] = p;
}

bool guard_enter(struct guard_place *p)
{
	p->group = getpid();
	p->state = PLACE_LIVE;
	return place_kill_at(p) > mono_now();
}

bool guard_tell(struct guard_place *p, mono_ms kill_at)
{
	p->kill_ms = mono_min(p->kill_ms, kill_at);
	guard_wake(place_kill_at(p));
	return !atomic_exchange(&p->is_told, true);
}

bool guard_has_stopped(const struct guard_place *p)
{
	return p->is_guarded;
}

mono_ms guard_kill_at(const struct guard_place *p)
{
	return place_kill_at(p);
}

bool guard_has_news(void)
{
	const uint32_t n = guard.shared->n_guarded;
	const bool is_new = n != guard.n_guarded;
	guard.n_guarded = n;
	return is_new;
}

bool guard_is_due(const struct guard_place *p)
{
	return mono_min(place_kill_at(p), p->fence.term_ms) <= mono_now();
}

void guard_look(mono_ms soonest)
{
	static mono_ms before = MONO_NEVER;
	if (soonest < before) /* all other changes are told where they are made */
		guard_wake(soonest);
	before = soonest;
}
