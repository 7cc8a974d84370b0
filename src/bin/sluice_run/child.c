/* One process of COMMAND. Info is handed over in a memfd: however long it is and however slowly it is read, we never
 * wait. The work of a stream ends when the command does: what is left of its group is killed before the number is given
 * back. */
#include "bin/sluice_run/sluice_run.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/mem.h"
#include "base/utf8.h"

enum { EXIT_CANNOT_RUN = 126, EXIT_NOT_FOUND = 127, READ_BYTES = 16384, ACK_FD = 3 };

struct tail {
	char line[REASON_MAX]; /* the one being written */
	char last[REASON_MAX]; /* the last whole one that was not blank */
	size_t line_len, last_len;
};

static struct rlimit fd_limit; /* as we got it: the commands get the same */

void child_setup(void)
{
	if (getrlimit(RLIMIT_NOFILE, &fd_limit) != 0)
		return;
	struct rlimit most = {.rlim_cur = fd_limit.rlim_max, .rlim_max = fd_limit.rlim_max};
	setrlimit(RLIMIT_NOFILE, &most);
}

static void set_env(const struct child_env *env)
{
	char retry[24];
	snprintf(retry, sizeof(retry), "%lld", (long long)env->retry);
	setenv("SLUICE_SERVICE", env->service, 1);
	setenv("SLUICE_STREAM", env->stream, 1);
	setenv("SLUICE_ID", env->id, 1);
	setenv("SLUICE_TOKEN", env->token, 1);
	setenv("SLUICE_RETRY", retry, 1);
	setenv("SLUICE_LEASE", env->lease, 1);
	static const char *const names[TRACE_N] = {"TRACEPARENT", "TRACESTATE", "BAGGAGE"};
	for (size_t i = 0; i < TRACE_N; i++)
		if (env->trace[i]) /* what sluice-run itself was started with is not this stream's trace */
			setenv(names[i], env->trace[i], 1);
		else
			unsetenv(names[i]);
	if (env->is_feed)
		setenv("SLUICE_ACK_FD", "3", 1);
	for (char *const *e = env->more; e && *e; e++)
		putenv(*e);
}

static void default_signals(void)
{
	sigset_t none;
	sigemptyset(&none);
	for (int sig = 1; sig < NSIG; sig++)
		signal(sig, SIG_DFL); /* not all can be set: no matter */
	sigprocmask(SIG_SETMASK, &none, NULL);
}

struct ends { /* of its pipes: read from [0], written to [1]; -1 = none */
	int in[2], err[2], ack[2];
};

static _Noreturn void become_command(
	char **command, const struct child_env *env, pid_t parent, struct guard_place *place, const struct ends *e)
{
	setpgid(0, 0);
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent)
		_exit(EXIT_CANNOT_RUN);
	if (!guard_enter(place))
		kill(getpid(), SIGKILL); /* no exit status: it has not begun */
	dup2(e->in[0], STDIN_FILENO);
	dup2(e->err[1], STDERR_FILENO);
	if (e->ack[1] >= 0) {
		dup2(e->ack[1], ACK_FD);
		fcntl(ACK_FD, F_SETFD, 0); /* when it was that number already */
	}
	/* musl has no function for it */
	syscall(SYS_close_range, (e->ack[1] >= 0 ? ACK_FD : STDERR_FILENO) + 1, ~0U, 0);
	if (fd_limit.rlim_max)
		setrlimit(RLIMIT_NOFILE, &fd_limit);
	set_env(env);
	default_signals();
	execvp(command[0], command);
	int why = errno;
	dprintf(STDERR_FILENO, "sluice-run: cannot run %s: %s\n", command[0], strerror(why));
	_exit(why == ENOENT ? EXIT_NOT_FOUND : EXIT_CANNOT_RUN);
}

static bool child_write_all(int fd, const char *bytes, size_t len)
{
	while (len) {
		ssize_t n = write(fd, bytes, len);
		if (n <= 0)
			return false;
		bytes += n;
		len -= (size_t)n;
	}
	return true;
}

/* A descriptor to read info and a LF from, -1 with errno. */
static int open_info(const char *info, size_t len)
{
	int fd = memfd_create("sluice-info", MFD_CLOEXEC);
	if (fd < 0)
		return -1;
	if (child_write_all(fd, info, len) && child_write_all(fd, "\n", 1) && lseek(fd, 0, SEEK_SET) == 0)
		return fd;
	int why = errno;
	close(fd);
	errno = why;
	return -1;
}

static void close_one(int fd)
{
	if (fd >= 0)
		close(fd);
}

static bool open_ends(struct ends *e, bool is_feed, const char *info, size_t info_len)
{
	if (is_feed)
		return pipe2(e->in, O_CLOEXEC) == 0 && pipe2(e->ack, O_CLOEXEC) == 0 && pipe2(e->err, O_CLOEXEC) == 0;
	e->in[0] = open_info(info, info_len);
	return e->in[0] >= 0 && pipe2(e->err, O_CLOEXEC) == 0;
}

bool child_start(struct child *c, char **command, const struct child_env *env, struct guard_place *place)
{
	struct ends e = {.in = {-1, -1}, .err = {-1, -1}, .ack = {-1, -1}};
	pid_t parent = getpid();
	pid_t pid = -1;
	if (open_ends(&e, env->is_feed, env->info, env->info_len))
		pid = fork();
	if (pid == 0)
		become_command(command, env, parent, place, &e);
	int why = errno;
	close_one(e.in[0]);
	close_one(e.err[1]);
	close_one(e.ack[1]);
	if (pid < 0) {
		close_one(e.in[1]);
		close_one(e.err[0]);
		close_one(e.ack[0]);
		errno = why;
		return false;
	}
	setpgid(pid, pid); /* both sides do it: whoever is first, a signal to the group finds it */
	*c = (struct child){.pid = pid, .err_fd = e.err[0], .in_fd = e.in[1], .ack_fd = e.ack[0], .place = place};
	const int ours[] = {c->err_fd, c->in_fd, c->ack_fd};
	for (size_t i = 0; i < 3; i++)
		if (ours[i] >= 0)
			fcntl(ours[i], F_SETFL, O_NONBLOCK);
	return true;
}

void child_signal(const struct child *c, int sig)
{
	kill(-c->pid, sig);
	if (sig == SIGTERM)
		kill(-c->pid, SIGCONT); /* a stopped process must hear it too */
}

static bool is_blank(const char *line, size_t len)
{
	for (size_t i = 0; i < len; i++)
		if ((unsigned char)line[i] > ' ')
			return false;
	return true;
}

static void remember(struct tail *t, const char *bytes, size_t len)
{
	const char *end = bytes + len;
	while (bytes < end) {
		const char *lf = memchr(bytes, '\n', (size_t)(end - bytes));
		const char *stop = lf ? lf : end;
		size_t n = (size_t)(stop - bytes);
		if (n > sizeof(t->line) - t->line_len)
			n = sizeof(t->line) - t->line_len;
		memcpy(t->line + t->line_len, bytes, n);
		t->line_len += n;
		bytes = lf ? lf + 1 : end;
		if (!lf)
			break;
		if (!is_blank(t->line, t->line_len)) {
			memcpy(t->last, t->line, t->line_len);
			t->last_len = t->line_len;
		}
		t->line_len = 0;
	}
}

static void close_stderr(struct child *c)
{
	if (c->err_fd >= 0)
		close(c->err_fd);
	c->err_fd = -1;
}

void child_read_stderr(struct child *c, bool to_the_end)
{
	char bytes[READ_BYTES];
	/* Not for ever: somebody outside the group may hold the pipe and go on writing. */
	size_t left = to_the_end ? SAY_MAX_BYTES : 1;
	while (left && c->err_fd >= 0) {
		ssize_t n = read(c->err_fd, bytes, sizeof(bytes));
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN)
			return;
		if (n <= 0) {
			close_stderr(c);
			return;
		}
		if (!c->tail)
			c->tail = mem_alloc(sizeof(*c->tail));
		remember(c->tail, bytes, (size_t)n);
		say_bytes(bytes, (size_t)n);
		left -= (size_t)n < left ? (size_t)n : left;
	}
}

int child_reap(struct child *c, struct client_lease *l)
{
	int status = 0;
	kill(-c->pid, SIGKILL); /* while the number is still ours: the leader is a zombie */
	child_read_stderr(c, true);
	close_stderr(c);
	guard_give_back(c->place, l);
	c->place = NULL;
	while (waitpid(c->pid, &status, 0) < 0 && errno == EINTR)
		continue;
	c->pid = 0;
	return status;
}

/* Appends what is UTF-8 of the line, '?' for each byte that is not, no control characters, up to REASON_MAX. */
static void add_text(char *out, size_t at, const char *line, size_t len)
{
	const char *p = line, *end = line + len;
	while (p < end) {
		size_t n = utf8_len(p, (size_t)(end - p));
		bool is_plain = n && !utf8_control(p);
		if (at + (is_plain ? n : 1) > REASON_MAX)
			break;
		if (is_plain)
			memcpy(out + at, p, n);
		else
			out[at] = n ? ' ' : '?';
		at += is_plain ? n : 1;
		p += n ? n : 1;
	}
	out[at] = '\0';
}

void child_reason(const struct child *c, int status, char out[REASON_MAX + 1])
{
	int n;
	if (WIFSIGNALED(status))
		n = snprintf(
			out, REASON_MAX, "killed by signal %d (%s)", WTERMSIG(status), strsignal(WTERMSIG(status)));
	else
		n = snprintf(out, REASON_MAX, "exit status %d", WEXITSTATUS(status));
	if (!c->tail)
		return;
	bool has_line = !is_blank(c->tail->line, c->tail->line_len);
	const char *line = has_line ? c->tail->line : c->tail->last;
	size_t len = has_line ? c->tail->line_len : c->tail->last_len;
	if (!len)
		return;
	memcpy(out + n, ": ", 2); /* NOLINT(bugprone-not-null-terminated-result): add_text ends it */
	add_text(out, (size_t)n + 2, line, len);
}

void child_fini(struct child *c)
{
	close_stderr(c);
	close_one(c->in_fd);
	close_one(c->ack_fd);
	c->in_fd = c->ack_fd = -1;
	mem_free(c->tail);
	c->tail = NULL;
}
