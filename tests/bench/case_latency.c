/* (c) from XADD to assign at a steady rate, one worker process; the floor is a process that does the same commands. */
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/mem.h"
#include "bench/cases.h"
#include "bench/floor.h"
#include "bench/pool.h"

enum { SESSIONS = 8, CREDITS = 64, WARM = 50 };

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
	struct cmd c = {.kind = CMD_ADD, .stream = {name, (size_t)len}, .info = {"{\"rate\":48000}", 14}};
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

static void percentiles(struct run *x, double out[2])
{
	double *v = x->took_ms + (x->n > 10 * WARM ? WARM : 0);
	size_t n = x->n - (size_t)(v - x->took_ms);
	qsort(v, n, sizeof *v, by_value);
	out[0] = v[n / 2];
	out[1] = v[n * 99 / 100];
}

static void reset(struct run *x)
{
	rig_flush(&x->b->rig);
	x->b->run++;
	x->n_sent = x->n_seen = 0;
}

static void measure_floor(struct run *x, int per_s, double out[2])
{
	reset(x);
	pid_t pid = floor_follow(&x->b->rig, &x->fd);
	struct pool *p = pool_open(&(struct pool_opts){.path = ""});
	pool_watch(p, x->fd, on_floor, x);
	while (rig_calls(&x->b->rig, "xreadgroup") < 1 && rig_calls(&x->b->rig, "xgroup|create") < 1)
		usleep(10000);
	usleep(200000);
	keep_rate(x, p, per_s);
	percentiles(x, out);
	proc_stop(pid, SIGKILL);
	close(x->fd);
	pool_close(p);
}

static void measure_daemon(struct run *x, int per_s, double out[2], struct meter *spent)
{
	reset(x);
	struct rig_daemon d;
	rig_start(&x->b->rig, &d, "c", "");
	rig_wait_ready(&d);
	struct pool *p = pool_open(&(struct pool_opts){.path = d.workers,
		.n_sessions = SESSIONS,
		.credits = CREDITS,
		.finishes = true,
		.on_assign = on_assign,
		.arg = x});
	pool_connect_all(p);
	while (pool_counts(p)->n_welcome < SESSIONS)
		pool_round(p, 100000);
	pool_round(p, 200000);
	struct meter before;
	meter_read(&x->b->rig, d.pid, &before);
	keep_rate(x, p, per_s);
	*spent = meter_since(&x->b->rig, d.pid, &before);
	percentiles(x, out);
	proc_stop(d.pid, SIGTERM);
	pool_close(p);
}

void case_latency(struct bench *b, struct report_case *c, int per_s)
{
	struct run x = {.b = b, .n = (uint32_t)(per_s * (b->seconds < 10 ? b->seconds : 10))};
	x.sent_us = mem_array(x.n, sizeof *x.sent_us);
	x.took_ms = mem_array(x.n, sizeof *x.took_ms);
	x.link = connect_now(&b->rig);
	double floor[2], took[2];
	struct meter spent;
	measure_floor(&x, per_s, floor);
	measure_daemon(&x, per_s, took, &spent);
	struct report_row *row = report_add_floor(c, "XADD to assign, p50", "ms", took[0], floor[0]);
	row->goal_of_excess = true;
	report_goal(row, GOAL_AT_MOST, 1);
	row = report_add_floor(c, "XADD to assign, p99", "ms", took[1], floor[1]);
	row->goal_of_excess = true;
	report_goal(row, GOAL_AT_MOST, 5);
	report_add(c, "CPU of the daemon per stream", "us", spent.daemon_us / x.n);
	report_foreign(c, meter_foreign_cpus(&spent));
	redisFree(x.link);
	mem_free(x.sent_us);
	mem_free(x.took_ms);
}
