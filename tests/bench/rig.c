#include "bench/rig.h"

#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/mem.h"

enum { START_MS = 20000, READY_MS = 60000 };

static void pause_ms(int ms)
{
	poll(NULL, 0, ms);
}

/* ---- servers */

static int free_port(void)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t len = sizeof a;
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0 || bind(fd, (struct sockaddr *)&a, len) < 0 || getsockname(fd, (struct sockaddr *)&a, &len) < 0)
		proc_die("no free port: %s", strerror(errno));
	close(fd);
	return ntohs(a.sin_port);
}

static void server_path(const struct rig *r, int i, const char *what, char out[108])
{
	snprintf(out, 108, "%s/r%d%s", r->dir, i, what);
}

static void start_server(struct rig *r, int i)
{
	char sock[108], nodes[108], log[108], port[16] = "0", bus[16] = "1";
	server_path(r, i, ".sock", sock);
	server_path(r, i, ".nodes", nodes);
	server_path(r, i, ".log", log);
	bool is_cluster = r->n_masters > 1;
	if (is_cluster) {
		r->port[i] = free_port();
		snprintf(port, sizeof port, "%d", r->port[i]);
		snprintf(bus, sizeof bus, "%d", free_port());
	}
	const char *program = getenv("SLUICE_REDIS_SERVER");
	const char *argv[] = {program && *program ? program : "redis-server", "--port", port, "--bind", "127.0.0.1",
		"--unixsocket", sock, "--dir", r->dir, "--save", "", "--appendonly", "no", "--maxclients", "5000",
		is_cluster ? "--cluster-enabled" : NULL, "yes", "--cluster-port", bus, "--cluster-config-file", nodes,
		"--cluster-require-full-coverage", "no", NULL};
	r->redis[i] = proc_start(argv, log);
}

redisContext *rig_connect(const struct rig *r, int master)
{
	char sock[108];
	server_path(r, master, ".sock", sock);
	redisContext *c = NULL;
	for (int waited = 0; waited < START_MS; waited += 10) {
		c = redisConnectUnix(sock);
		if (c && !c->err)
			return c;
		redisFree(c);
		if (!proc_is_alive(r->redis[master]))
			proc_die("redis-server ended; see %s (is it installed?)", r->dir);
		pause_ms(10);
	}
	proc_die("redis-server does not answer at %s", sock);
}

static void join(struct rig *r)
{
	static const int from[RIG_MASTERS + 1] = {0, 5462, 10924, 16384};
	for (int i = 0; i < r->n_masters; i++) {
		freeReplyObject(redisCommand(r->link[i], "CLUSTER ADDSLOTSRANGE %d %d", from[i], from[i + 1] - 1));
		freeReplyObject(redisCommand(r->link[i], "CLUSTER SET-CONFIG-EPOCH %d", i + 1));
	}
	for (int i = 1; i < r->n_masters; i++) {
		redisReply *x = redisCommand(r->link[i], "CONFIG GET cluster-port");
		freeReplyObject(
			redisCommand(r->link[0], "CLUSTER MEET 127.0.0.1 %d %s", r->port[i], x->element[1]->str));
		freeReplyObject(x);
	}
	for (int i = 0, waited = 0; i < r->n_masters; waited += 20) {
		redisReply *x = redisCommand(r->link[i], "CLUSTER INFO");
		bool ok = strstr(x->str, "cluster_state:ok") && strstr(x->str, "cluster_slots_assigned:16384");
		freeReplyObject(x);
		if (waited > START_MS)
			proc_die("the cluster does not come up");
		if (ok)
			i++;
		else
			pause_ms(20);
	}
}

static void read_version(struct rig *r)
{
	redisReply *x = redisCommand(r->link[0], "INFO server");
	const char *at = x && x->str ? strstr(x->str, "redis_version:") : NULL;
	if (at)
		snprintf(r->redis_version, sizeof r->redis_version, "%.*s", (int)strcspn(at + 14, "\r\n"), at + 14);
	freeReplyObject(x);
}

void rig_up(struct rig *r, const char *daemon, const char *last, int n_masters)
{
	*r = (struct rig){.daemon = daemon, .last = last, .n_masters = n_masters};
	snprintf(r->dir, sizeof r->dir, "/tmp/sluice-bench-XXXXXX");
	if (!mkdtemp(r->dir))
		proc_die("mkdtemp: %s", strerror(errno));
	for (int i = 0; i < n_masters; i++)
		start_server(r, i);
	for (int i = 0; i < n_masters; i++)
		r->link[i] = rig_connect(r, i);
	if (n_masters > 1)
		join(r);
	read_version(r);
	command_names_init(&r->names, "orders", "", SAME_STREAM_SERIALIZE, 10000, "0");
	r->argv = command_argv_new();
}

void rig_down(struct rig *r)
{
	for (int i = 0; i < r->n_masters; i++) {
		redisFree(r->link[i]);
		proc_stop(r->redis[i], SIGKILL);
	}
	command_names_fini(&r->names);
	command_argv_free(r->argv);
	char line[128];
	snprintf(line, sizeof line, "rm -rf %s", r->dir);
	if (!getenv("BENCH_KEEP") && system(line) != 0)
		fprintf(stderr, "bench: %s stays\n", r->dir);
}

void rig_flush(struct rig *r)
{
	for (int i = 0; i < r->n_masters; i++) {
		freeReplyObject(redisCommand(r->link[i], "FLUSHALL"));
		freeReplyObject(redisCommand(r->link[i], "CONFIG RESETSTAT"));
	}
}

/* ---- daemons */

static void write_conf(const struct rig *r, const struct rig_daemon *d, const char *service)
{
	FILE *f = fopen(d->conf, "w");
	if (!f)
		proc_die("%s: %s", d->conf, strerror(errno));
	char sock[108];
	server_path(r, 0, ".sock", sock);
	fprintf(f, "node: {id: %s}\nredis:\n  endpoints:\n", d->node);
	if (r->n_masters == 1)
		fprintf(f, "    - unix:%s\n", sock);
	for (int i = 0; i < r->n_masters && r->n_masters > 1; i++)
		fprintf(f, "    - 127.0.0.1:%d\n", r->port[i]);
	fprintf(f, "services:\n  - name: orders\n    max_streams: 500000\n%s", service);
	fprintf(f, "workers: {socket: %s, max_sessions: 4000}\n", d->workers);
	fprintf(f, "control: {socket: %s/%s.c}\nmetrics: {listen: \"unix:%s\"}\nlog: {format: text}\n", r->dir, d->node,
		d->metrics);
	fclose(f);
}

void rig_again(struct rig *r, struct rig_daemon *d)
{
	char log[108];
	snprintf(log, sizeof log, "%s/%s.log", r->dir, d->node);
	const char *argv[] = {d->program, "-c", d->conf, NULL};
	d->pid = proc_start(argv, log);
}

void rig_start_program(struct rig *r, struct rig_daemon *d, const char *program, const char *node, const char *service)
{
	*d = (struct rig_daemon){.program = program};
	snprintf(d->node, sizeof d->node, "%s", node);
	snprintf(d->workers, sizeof d->workers, "%s/%s.w", r->dir, node);
	snprintf(d->metrics, sizeof d->metrics, "%s/%s.m", r->dir, node);
	snprintf(d->conf, sizeof d->conf, "%s/%s.yaml", r->dir, node);
	write_conf(r, d, service);
	rig_again(r, d);
}

void rig_start(struct rig *r, struct rig_daemon *d, const char *node, const char *service)
{
	rig_start_program(r, d, r->daemon, node, service);
}

/* One page over the metrics socket; NULL: nobody answers. The caller frees it. */
static char *page(const struct rig_daemon *d, const char *path)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	snprintf(a.sun_path, sizeof a.sun_path, "%s", d->metrics);
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	struct buf b;
	buf_init(&b);
	char chunk[16384];
	int n = snprintf(chunk, sizeof chunk, "GET %s HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n", path);
	bool ok = connect(fd, (struct sockaddr *)&a, sizeof a) == 0 && write(fd, chunk, (size_t)n) == n;
	for (ssize_t got; ok && (got = read(fd, chunk, sizeof chunk)) > 0;)
		buf_add(&b, chunk, (size_t)got);
	close(fd);
	if (!ok || !b.len) {
		buf_fini(&b);
		return NULL;
	}
	return buf_take(&b);
}

bool rig_is_ready(const struct rig_daemon *d)
{
	char *text = page(d, "/readyz");
	bool ready = text && strstr(text, " 200 ");
	mem_free(text);
	return ready;
}

void rig_wait_ready(const struct rig_daemon *d)
{
	for (int waited = 0; !rig_is_ready(d); waited += 5) {
		if (!proc_is_alive(d->pid) || waited > READY_MS)
			proc_die("the daemon does not come up; BENCH_KEEP=1 keeps its log");
		pause_ms(5);
	}
}

void rig_lag(const struct rig_daemon *d, struct rig_lag *out)
{
	*out = (struct rig_lag){.n_bounds = 0};
	char *text = page(d, "/metrics");
	static const char name[] = "sluice_event_loop_lag_seconds_bucket{";
	for (const char *at = text; at && (at = strstr(at, name)); at++) {
		const char *le = strstr(at, "le=\""), *value = strstr(at, "} ");
		if (!le || !value)
			break;
		double bound = strtod(le + 4, NULL), n = strtod(value + 2, NULL);
		int i = 0;
		while (i < out->n_bounds && out->bound[i] != bound)
			i++;
		if (i == 32)
			continue;
		out->bound[i] = bound;
		out->n[i] += n;
		if (i == out->n_bounds)
			out->n_bounds++;
	}
	mem_free(text);
}

double rig_lag_ms(const struct rig_lag *before, const struct rig_lag *after, double share)
{
	int last = after->n_bounds - 1;
	if (last < 0)
		return -1;
	double total = after->n[last] - (before->n_bounds > last ? before->n[last] : 0);
	for (int i = 0; i <= last; i++)
		if (after->n[i] - (before->n_bounds > i ? before->n[i] : 0) >= share * total)
			return after->bound[i] * 1000;
	return -1;
}

/* ---- what it cost */

void meter_read(const struct rig *r, pid_t daemon, struct meter *m)
{
	m->machine_us = proc_machine_us();
	m->at_us = (double)proc_now_us();
	m->daemon_us = daemon ? proc_cpu_us(daemon) : 0;
	m->redis_us = 0;
	for (int i = 0; i < r->n_masters; i++)
		m->redis_us += proc_cpu_us(r->redis[i]);
	m->own_us = proc_cpu_us(0);
}

struct meter meter_since(const struct rig *r, pid_t daemon, const struct meter *before)
{
	struct meter m;
	meter_read(r, daemon, &m);
	return (struct meter){m.at_us - before->at_us, m.daemon_us - before->daemon_us, m.redis_us - before->redis_us,
		m.own_us - before->own_us, m.machine_us - before->machine_us};
}

double meter_foreign_cpus(const struct meter *s)
{
	double foreign = (s->machine_us - s->daemon_us - s->redis_us - s->own_us) / s->at_us;
	return foreign > 0 ? foreign : 0;
}
