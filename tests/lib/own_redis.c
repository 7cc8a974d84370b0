#include "lib/own_redis.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { TRIES = 1000, PAUSE_NS = 10000000 };

static void run_server(const struct own_redis *r, const char *const *extra)
{
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	const char *argv[40] = {"redis-server", "--port", "0", "--unixsocket", r->path, "--dir", r->dir, "--save", "", "--appendonly", "no",
		"--daemonize", "no", "--logfile", "redis.log"};
	int n = 15;
	for (; extra && *extra && n < 39; extra++)
		argv[n++] = *extra;
	execvp(argv[0], (char *const *)(size_t)argv);
	_exit(127);
}

static int answers(const struct own_redis *r)
{
	struct sockaddr_un un = {.sun_family = AF_UNIX};
	snprintf(un.sun_path, sizeof(un.sun_path), "%s", r->path);
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	int rc = connect(fd, (struct sockaddr *)&un, sizeof(un));
	close(fd);
	return rc == 0;
}

void own_redis_start(struct own_redis *r, const char *const *extra)
{
	snprintf(r->dir, sizeof(r->dir), "/tmp/sluice-redis.XXXXXX");
	if (!mkdtemp(r->dir))
		exit(99);
	snprintf(r->path, sizeof(r->path), "%s/redis.sock", r->dir);
	r->pid = fork();
	if (r->pid == 0)
		run_server(r, extra);
	for (int i = 0; i < TRIES; i++) { /* a process outside has no event to wait for */
		if (answers(r))
			return;
		nanosleep(&(struct timespec){.tv_nsec = PAUSE_NS}, NULL);
	}
	fprintf(stderr, "own_redis: no answer from redis-server in %s\n", r->dir);
	exit(99);
}

void own_redis_stop(struct own_redis *r)
{
	kill(r->pid, SIGKILL);
	waitpid(r->pid, NULL, 0);
	static const char *const files[] = {"redis.sock", "redis.log", "dump.rdb"};
	char path[128];
	for (size_t i = 0; i < sizeof(files) / sizeof(files[0]); i++) {
		snprintf(path, sizeof(path), "%s/%s", r->dir, files[i]);
		unlink(path);
	}
	rmdir(r->dir);
}
