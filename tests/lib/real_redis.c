#include "lib/real_redis.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/mem.h"
#include "codec/reply.h"

enum { N_ARGS = 48, START_MS = 10000 };

struct real_redis {
	char dir[64], socket[96];
	pid_t pid;
	redisContext *link;
	redisReply *last;
	struct command_argv *argv;
	struct reply_decoder *decoder;
};

static void give_up(const char *why)
{
	fprintf(stderr, "real_redis: %s\n", why);
	exit(1);
}

static void run_server(const struct real_redis *r, const char *const *args)
{
	const char *program = getenv("SLUICE_REDIS_SERVER");
	const char *argv[N_ARGS] = {program && *program ? program : "redis-server", "--port", "0", "--unixsocket",
		r->socket, "--dir", r->dir, "--save", "", "--appendonly", "no", "--logfile", "redis.log"};
	int n = 13;
	for (; args && *args && n < N_ARGS - 1; args++)
		argv[n++] = *args;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	execvp(argv[0], (char **)(uintptr_t)argv);
	_exit(127);
}

static redisContext *dial(const struct real_redis *r)
{
	redisContext *c = redisConnectUnix(r->socket);
	if (c && !c->err)
		return c;
	if (c)
		redisFree(c);
	return NULL;
}

struct real_redis *real_redis_start(const char *const *args)
{
	struct real_redis *r = mem_alloc(sizeof *r);
	snprintf(r->dir, sizeof r->dir, "/tmp/sluice-redis-XXXXXX");
	if (!mkdtemp(r->dir))
		give_up("mkdtemp failed");
	snprintf(r->socket, sizeof r->socket, "%s/s", r->dir);
	r->pid = fork();
	if (r->pid < 0)
		give_up("fork failed");
	if (r->pid == 0)
		run_server(r, args);
	for (int waited = 0; !(r->link = dial(r)); waited += 5) {
		if (waitpid(r->pid, NULL, WNOHANG) == r->pid)
			give_up("redis-server did not start; is it installed?");
		if (waited > START_MS)
			give_up("redis-server did not answer");
		poll(NULL, 0, 5);
	}
	r->argv = command_argv_new();
	r->decoder = reply_decoder_new();
	return r;
}

void real_redis_stop(struct real_redis *r)
{
	if (!r)
		return;
	if (r->last)
		freeReplyObject(r->last);
	redisFree(r->link);
	kill(r->pid, SIGKILL);
	waitpid(r->pid, NULL, 0);
	char log[96];
	snprintf(log, sizeof log, "%s/redis.log", r->dir);
	unlink(log);
	unlink(r->socket);
	rmdir(r->dir);
	command_argv_free(r->argv);
	reply_decoder_free(r->decoder);
	mem_free(r);
}

const char *real_redis_socket(const struct real_redis *r)
{
	return r->socket;
}

static const redisReply *keep(struct real_redis *r, void *reply)
{
	if (!reply)
		give_up(r->link->errstr);
	r->last = reply;
	return reply;
}

static void drop_last(struct real_redis *r)
{
	if (r->last)
		freeReplyObject(r->last);
	r->last = NULL;
}

void real_redis_use_resp(struct real_redis *r, int resp)
{
	if (real_redis_command(r, "HELLO %d", resp)->type == REDIS_REPLY_ERROR)
		give_up("HELLO was refused");
}

const redisReply *real_redis_command(struct real_redis *r, const char *format, ...)
{
	drop_last(r);
	va_list ap;
	va_start(ap, format);
	void *reply = redisvCommand(r->link, format, ap);
	va_end(ap);
	return keep(r, reply);
}

void real_redis_exec(struct real_redis *r, const struct cmd *c, const struct command_names *names,
	const struct command_self *self, struct reply *out)
{
	drop_last(r);
	command_encode(r->argv, c, names, self);
	void *reply = redisCommandArgv(r->link, command_argc(r->argv), command_args(r->argv), command_lens(r->argv));
	reply_decode(r->decoder, c->kind, keep(r, reply), out);
}
