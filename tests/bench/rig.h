/* rig - what a case stands on: one redis-server or a cluster of masters without replicas, daemons, and the meter of what
 * all of them cost. Everything lives in a directory under /tmp and is gone at the end. Nothing here fails: it dies. */
#pragma once
#include <hiredis/hiredis.h>

#include "bench/proc.h"
#include "codec/command.h"

enum { RIG_MASTERS = 3, RIG_NAME = 32 };

struct rig {
	char dir[64];
	const char *daemon, *last; /* the program; the last release's, or NULL */
	int n_masters;
	pid_t redis[RIG_MASTERS];
	int port[RIG_MASTERS];
	redisContext *link[RIG_MASTERS];
	struct command_names names;
	struct command_argv *argv;
	int n_started;
	char redis_version[32];
};

struct rig_daemon {
	pid_t pid;
	const char *program;
	char node[32], workers[108], metrics[108], conf[108];
};

void rig_up(struct rig *r, const char *daemon, const char *last, int n_masters);
void rig_down(struct rig *r);
void rig_flush(struct rig *r); /* all keys of all masters; statistics too */

/* Writes its configuration and starts it. service: more lines of the service's settings, or "". */
void rig_start(struct rig *r, struct rig_daemon *d, const char *node, const char *service);
/* The same with another program. */
void rig_start_program(struct rig *r, struct rig_daemon *d, const char *program, const char *node, const char *service);
void rig_again(struct rig *r, struct rig_daemon *d); /* the same node, after it has ended */
bool rig_is_ready(const struct rig_daemon *d);
void rig_wait_ready(const struct rig_daemon *d);
/* The loops' lag, all loops; a page's figures are up to a second old. */
struct rig_lag {
	double bound[32], n[32];
	int n_bounds;
};
void rig_lag(const struct rig_daemon *d, struct rig_lag *out);
/* A share of the turns between the two had at most so much, ms (upper bound of its bucket); share 1: all. -1: no figures. */
double rig_lag_ms(const struct rig_lag *before, const struct rig_lag *after, double share);

/* ---- Redis, pipelined */
int rig_master(const struct rig *r, uint16_t slot);
redisContext *rig_connect(const struct rig *r, int master); /* a new connection, the caller's */
void rig_append(struct rig *r, redisContext *const *links, int master, const struct cmd *c, const char *node);
/* The next reply; an error reply dies. The caller frees it. */
redisReply *rig_reply(redisContext *link);
/* Entries from..from+n of a run into the load-balancer stream. */
void rig_add(struct rig *r, uint32_t run, uint32_t from, uint32_t n);
/* Data streams from..from+n of a run get n_entries entries 1-1, 1-2, … of about 200 bytes each. */
void rig_add_entries(struct rig *r, uint32_t run, uint32_t from, uint32_t n, uint32_t n_entries);
int rig_name(char out[RIG_NAME + 1], uint32_t run, uint32_t index);
uint32_t rig_index(const char *name, size_t len);     /* of a stream's name */
double rig_calls(struct rig *r, const char *command); /* of all masters, since rig_flush */
double rig_keys(struct rig *r);
/* The answer of the first master to a command whose answer is an integer. */
long long rig_integer(struct rig *r, const char *format, ...) __attribute__((format(printf, 2, 3)));
double rig_memory(struct rig *r); /* bytes that the first master's data and clients take */

/* ---- what it cost */
struct meter {
	double at_us, daemon_us, redis_us, own_us, machine_us;
};
void meter_read(const struct rig *r, pid_t daemon, struct meter *m);
struct meter meter_since(const struct rig *r, pid_t daemon, const struct meter *before);
double meter_foreign_cpus(const struct meter *spent);
