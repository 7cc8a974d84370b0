/* (c) from XADD to assign at a steady rate, one worker process, and what a stream costs: CPU, system calls, context switches.
 * The floor is a process that does the same commands. */
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/mem.h"
#include "bench/cases.h"
#include "bench/count.h"
#include "bench/floor.h"
#include "bench/plain.h"
#include "bench/pool.h"

enum { WARM = 50 };

/* What the daemon has to do with, besides the streams. */
struct fleet {
	int n_sessions, credits;
	const char *services; /* more of them, in its configuration */
};

static const struct fleet a_few = {8, 64, ""};

struct run {
	struct bench *b;
	uint32_t n, n_sent, n_seen;
	int64_t *sent_us;
	double *took_ms;
	redisContext *link; /* does not block */
	int fd;
};

static void saw(struct run *x, uint32_t index)
{
	if (index < x->n)
		x->took_ms[x->n_seen++] = (double)(proc_now_us() - x->sent_us[index]) / 1000;
}

static void on_assign(void *arg, const char *stream, size_t len)
{
	saw(arg, rig_index(stream, len));
}

static void on_floor(void *arg)
{
	struct run *x = arg;
	uint32_t v[256];
	ssize_t n = read(x->fd, v, sizeof v);
	for (ssize_t i = 0; i < n / (ssize_t)sizeof *v; i++)
		saw(x, v[i]);
}

static redisContext *connect_now(const struct rig *r)
{
	char path[108];
	snprintf(path, sizeof path, "%s/r%d.sock", r->dir, rig_master(r, r->names.lbs_slot));
	redisContext *c = redisConnectUnixNonBlock(path);
	if (!c || c->err)
		proc_die("redis: %s", c ? c->errstr : "no memory");
	return c;
}

static void add_one(struct run *x)
{
	char name[RIG_NAME + 1];
	int len = rig_name(name, x->b->run, x->n_sent);
	struct cmd c = {.kind = CMD_ADD, .stream = {name, (size_t)len}, .as.add.info = {"{\"rate\":48000}", 14}};
	redisContext *links[RIG_MASTERS] = {x->link, x->link, x->link};
	x->sent_us[x->n_sent++] = proc_now_us();
	rig_append(&x->b->rig, links, 0, &c, "bench");
}

static void exchange(struct run *x)
{
	int done;
	void *reply;
	if (redisBufferWrite(x->link, &done) != REDIS_OK || redisBufferRead(x->link) != REDIS_OK)
		proc_die("redis: %s", x->link->errstr);
	while (redisGetReplyFromReader(x->link, &reply) == REDIS_OK && reply)
		freeReplyObject(reply);
}

static void keep_rate(struct run *x, struct pool *p, int per_s)
{
	int64_t start = proc_now_us(), give_up = start + (int64_t)x->n * 1000000 / per_s + 20000000;
	while (x->n_seen < x->n) {
		int64_t now = proc_now_us(), due = start + (int64_t)x->n_sent * 1000000 / per_s;
		if (now > give_up)
			proc_die("(c) stopped at %u of %u streams", x->n_seen, x->n);
		if (x->n_sent < x->n && now >= due) {
			add_one(x);
			exchange(x);
			continue;
		}
		pool_round(p, x->n_sent < x->n ? due - now : 100000);
	}
}

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;
	return (x > y) - (x < y);
}

/* Per stream; below 0: not measured. */
struct cost {
	double p50_ms, p99_ms, cpu_us, redis_us, syscalls, switches;
	double foreign_cpus;
};

static const struct cost none = {-1, -1, -1, -1, -1, -1, 0};

static void reset(struct run *x)
{
	rig_flush(&x->b->rig);
	x->b->run++;
	x->n_sent = x->n_seen = 0;
}

/* Keeps the rate up, and sees what that costs process pid. */
static struct cost measure(struct run *x, struct pool *p, int per_s, pid_t pid)
{
	struct meter before;
	struct count count;
	count_begin(&count, pid);
	meter_read(&x->b->rig, pid, &before);
	keep_rate(x, p, per_s);
	struct meter m = meter_since(&x->b->rig, pid, &before);
	struct counted n = count_end(&count);
	double *v = x->took_ms + (x->n > 10 * WARM ? WARM : 0);
	size_t n_took = x->n - (size_t)(v - x->took_ms);
	qsort(v, n_took, sizeof *v, by_value);
	return (struct cost){v[n_took / 2], v[n_took * 99 / 100], m.daemon_us / x->n, m.redis_us / x->n,
		n.syscalls < 0 ? -1 : n.syscalls / x->n, n.switches / x->n, meter_foreign_cpus(&m)};
}

static struct cost measure_follower(struct run *x, int per_s, pid_t (*start)(struct rig *r, int *fd))
{
	reset(x);
	pid_t pid = start(&x->b->rig, &x->fd);
	struct pool *p = pool_open(&(struct pool_opts){.path = ""});
	pool_watch(p, x->fd, on_floor, x);
	while (rig_calls(&x->b->rig, "xreadgroup") < 1 && rig_calls(&x->b->rig, "xgroup|create") < 1)
		usleep(10000);
	usleep(200000);
	struct cost cost = measure(x, p, per_s, pid);
	proc_stop(pid, SIGKILL);
	close(x->fd);
	pool_close(p);
	return cost;
}

static struct cost measure_daemon(struct run *x, int per_s, const char *program, const struct fleet *f)
{
	reset(x);
	struct rig_daemon d;
	rig_start_program(&x->b->rig, &d, program, "c", f->services);
	rig_wait_ready(&d);
	struct pool *p = pool_open(&(struct pool_opts){.path = d.workers,
		.n_sessions = f->n_sessions,
		.credits = f->credits,
		.finishes = true,
		.on_assign = on_assign,
		.arg = x});
	pool_connect_all(p);
	while (pool_counts(p)->n_welcome < (uint64_t)f->n_sessions)
		pool_round(p, 100000);
	pool_round(p, 200000);
	struct cost cost = measure(x, p, per_s, d.pid);
	proc_stop(d.pid, SIGTERM);
	pool_close(p);
	return cost;
}

enum { WITH_THIS = N_REFS, N_PARTIES };

static struct report_row *row(
	struct report_case *c, const char *figure, const char *unit, const double *const v[N_PARTIES])
{
	struct report_row *out = report_add(c, figure, unit, *v[WITH_THIS]);
	for (enum report_ref k = 0; k < N_REFS; k++)
		report_ref(out, k, *v[k]);
	return out;
}

/* Of one field of every party's cost. */
#define ROW(figure, unit, field)                                                                                       \
	row(c, figure, unit,                                                                                           \
		(const double *const[]){                                                                               \
			&v[REF_FLOOR].field, &v[REF_LAST].field, &v[REF_PLAIN].field, &v[WITH_THIS].field})

static void rows(struct report_case *c, const struct cost v[N_PARTIES], int per_s)
{
	report_goal_of(ROW("XADD to assign, p50", "ms", p50_ms), per_s < 1000 ? GOAL_OF_LAST : GOAL_OF_EXCESS,
		per_s == 100 || per_s == 1000 ? GOAL_AT_MOST : GOAL_NONE, per_s < 1000 ? 0.6 : 0.1);
	if (per_s == 1000)
		report_goal_of(
			ROW("XADD to assign, p50, against the last", "ms", p50_ms), GOAL_OF_LAST, GOAL_AT_MOST, 0.6);
	report_goal_of(ROW("XADD to assign, p99", "ms", p99_ms), GOAL_OF_EXCESS,
		per_s == 1000 ? GOAL_AT_MOST : GOAL_NONE, 1.5);
	enum goal judged = per_s == 1000 ? GOAL_AT_MOST : GOAL_NONE;
	report_goal(ROW("CPU per stream", "us", cpu_us), judged, 100);
	ROW("CPU of Redis per stream", "us", redis_us);
	report_goal(ROW("context switches per stream", "", switches), judged, 6);
	if (v[WITH_THIS].syscalls >= 0)
		report_goal(ROW("system calls per stream", "", syscalls), judged, 12);
}

static struct run run_of(struct bench *b, int per_s)
{
	struct run x = {.b = b, .n = (uint32_t)(per_s * (b->seconds < 10 ? b->seconds : 10))};
	x.sent_us = mem_array(x.n, sizeof *x.sent_us);
	x.took_ms = mem_array(x.n, sizeof *x.took_ms);
	x.link = connect_now(&b->rig);
	return x;
}

static void run_end(struct run *x)
{
	redisFree(x->link);
	mem_free(x->sent_us);
	mem_free(x->took_ms);
}

/* Beside the same load with one service and few workers. */
static void fleet_row(struct report_case *c, const char *figure, const char *unit, double with_this, double few)
{
	report_ref(report_add(c, figure, unit, with_this), REF_FLOOR, few);
}

void case_latency(struct bench *b, struct report_case *c, int per_s)
{
	struct run x = run_of(b, per_s);
	struct cost v[N_PARTIES];
	v[REF_FLOOR] = measure_follower(&x, per_s, floor_follow);
	v[REF_PLAIN] = measure_follower(&x, per_s, plain_follow);
	v[REF_LAST] = b->rig.last ? measure_daemon(&x, per_s, b->rig.last, &a_few) : none;
	v[WITH_THIS] = measure_daemon(&x, per_s, b->rig.daemon, &a_few);
	rows(c, v, per_s);
	report_foreign(c, v[WITH_THIS].foreign_cpus);
	run_end(&x);
}

void case_fleet(struct bench *b, struct report_case *c)
{
	enum { PER_S = 1000, SERVICES = 50, LINE = 20 };
	char services[SERVICES * LINE];
	size_t len = 0;
	for (int i = 1; i < SERVICES; i++)
		len += (size_t)snprintf(services + len, sizeof services - len, "  - {name: s%d}\n", i);
	const struct fleet many = {1000, 2, services};
	struct run x = run_of(b, PER_S);
	struct cost few = measure_daemon(&x, PER_S, b->rig.daemon, &a_few);
	struct cost v = measure_daemon(&x, PER_S, b->rig.daemon, &many);
	fleet_row(c, "XADD to assign, p50", "ms", v.p50_ms, few.p50_ms);
	fleet_row(c, "XADD to assign, p99", "ms", v.p99_ms, few.p99_ms);
	fleet_row(c, "CPU per stream", "us", v.cpu_us, few.cpu_us);
	report_foreign(c, v.foreign_cpus);
	run_end(&x);
}
