/* kill -9 of sluice-run must not leave work running. PR_SET_PDEATHSIG reaches the commands only, not what they started;
 * so a second process keeps the list of their groups. Children announce themselves before exec; records in the pipe
 * come before its end, so the guard never kills a number that was given back. It dies with us, whatever way we go. */
#include "bin/sluice_run/sluice_run.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/mem.h"

static int pipe_fd = -1;

struct groups {
	pid_t *list;
	size_t n, cap;
};

static void note(struct groups *g, pid_t record)
{
	if (record > 0) {
		if (g->n == g->cap) {
			g->cap = g->cap ? 2 * g->cap : 64;
			g->list = mem_grow(g->list, g->cap, sizeof(*g->list));
		}
		g->list[g->n++] = record;
		return;
	}
	for (size_t i = 0; i < g->n; i++)
		if (g->list[i] == -record) {
			g->list[i] = g->list[--g->n];
			return;
		}
}

static _Noreturn void watch(int fd)
{
	struct groups g = {0};
	pid_t records[256];
	for (;;) {
		/* Records are written whole and far below PIPE_BUF, so they are read whole. */
		ssize_t n = read(fd, records, sizeof(records));
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			break;
		for (size_t i = 0; i < (size_t)n / sizeof(records[0]); i++)
			note(&g, records[i]);
	}
	for (size_t i = 0; i < g.n; i++)
		kill(-g.list[i], SIGKILL);
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

static _Noreturn void become_guard(int fd, char **argv)
{
	setsid();
	if (fork() != 0)
		_exit(0);
	static const int ignored[] = {SIGTERM, SIGINT, SIGHUP, SIGQUIT};
	for (size_t i = 0; i < sizeof(ignored) / sizeof(ignored[0]); i++)
		signal(ignored[i], SIG_IGN);
	rename_in_ps(argv);
	int null = open("/dev/null", O_RDWR);
	for (int i = 0; i <= STDERR_FILENO; i++)
		dup2(null, i);
	dup2(fd, STDERR_FILENO + 1);
	syscall(SYS_close_range, STDERR_FILENO + 2, ~0U, 0); /* musl has no function for it */
	if (chdir("/") != 0)
		_exit(1);
	watch(STDERR_FILENO + 1);
}

void guard_start(char **argv)
{
	int fds[2];
	if (pipe2(fds, O_CLOEXEC) != 0)
		return;
	pid_t pid = fork();
	if (pid == 0)
		become_guard(fds[0], argv);
	close(fds[0]);
	if (pid < 0) {
		close(fds[1]);
		return;
	}
	waitpid(pid, NULL, 0); /* it left the guard behind as nobody's child */
	pipe_fd = fds[1];
	fcntl(pipe_fd, F_SETFL, O_NONBLOCK); /* a guard that hangs must not hang us */
}

static void guard_tell(pid_t record)
{
	if (pipe_fd < 0)
		return;
	ssize_t n;
	do
		n = write(pipe_fd, &record, sizeof(record));
	while (n < 0 && errno == EINTR);
}

void guard_add(pid_t group)
{
	guard_tell(group);
}

void guard_remove(pid_t group)
{
	guard_tell(-group);
}
