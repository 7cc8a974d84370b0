/* (o) entries mode: 1,000 keys get an entry in turn, of a worker of 16 credits; the idle ones have to make room. How long
 * an entry takes, beside a worker that has room for all.
 * (n) likewise: a key of 1,000 entries has one that fails each time; how long entries of other keys take meanwhile, beside the same without it.
 * (i) entries mode: 10,000 open streams that are empty. What they cost beside as many leases without entries, and how long
 * an entry that comes to one of them takes. The floor is a process that watches as many streams by client tracking. */
#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/mem.h"
#include "bench/cases.h"
#include "bench/feed_floor.h"
#include "bench/pool.h"

enum { STREAMS = 10000, SESSIONS = 16, PER_S = 200, GIVE_UP_S = 120, SETTLE_S = 6, KEYS = 1000, OF_KEY = 1000 };

struct run {
	struct bench *b;
	uint32_t n_streams, run, n, n_sent, n_seen;
	int64_t *sent_us; /* by stream; 0: nothing is under way */
	double *took_ms;
	redisContext *link; /* does not block */
	int fd;
	bool is_armed, is_first_busy; /* the first stream has entries of its own */
	bool is_named;                /* each entry is followed by one of the load-balancer stream */
};

struct idle {
	double cpu_share, rss, p50_ms, p99_ms, foreign;
};

static void saw(struct run *x, uint32_t stream)
{
	if (stream >= x->n_streams || !x->sent_us[stream])
		return;
	x->took_ms[x->n_seen++] = (double)(proc_now_us() - x->sent_us[stream]) / 1000;
	x->sent_us[stream] = 0;
}

/* The value is the stream's number. */
static void on_entries(void *arg, const char *frame, size_t len)
{
	const char *value = memmem(frame, len, "[\"n\",\"", 6);
	if (value)
		saw(arg, (uint32_t)strtoul(value + 6, NULL, 10));
}

static void on_floor(void *arg)
{
	struct run *x = arg;
	uint32_t v[256];
	ssize_t n = read(x->fd, v, sizeof v);
	for (ssize_t i = 0; i < n / (ssize_t)sizeof *v; i++) {
		x->is_armed = x->is_armed || v[i] == UINT32_MAX;
		saw(x, v[i]);
	}
}

static void add_one(struct run *x)
{
	uint32_t first = x->is_first_busy, at = first + (uint32_t)((uint64_t)x->n_sent * 7919 % (x->n_streams - first));
	char name[RIG_NAME + 1];
	x->n_sent++;
	rig_name(name, x->run, at);
	x->sent_us[at] = proc_now_us();
	int done;
	redisAppendCommand(x->link, "XADD %s * n %u", name, at);
	if (x->is_named)
		redisAppendCommand(x->link, "XADD orders-input * lbs-input {\"DataStreamName\":\"%s\"}", name);
	if (redisBufferWrite(x->link, &done) != REDIS_OK)
		proc_die("redis: %s", x->link->errstr);
}

static void drop_replies(struct run *x)
{
	void *reply;
	if (redisBufferRead(x->link) != REDIS_OK)
		proc_die("redis: %s", x->link->errstr);
	while (redisGetReplyFromReader(x->link, &reply) == REDIS_OK && reply)
		freeReplyObject(reply);
}

static void keep_rate(struct run *x, struct pool *p)
{
	int64_t start = proc_now_us(), give_up = start + (int64_t)x->n * 1000000 / PER_S + 20000000;
	memset(x->sent_us, 0, x->n_streams * sizeof *x->sent_us);
	x->n_sent = x->n_seen = 0;
	while (x->n_seen < x->n) {
		int64_t now = proc_now_us(), due = start + (int64_t)x->n_sent * 1000000 / PER_S;
		if (now > give_up)
			proc_die("(i) stopped at %u of %u entries%s", x->n_seen, x->n,
				x->fd >= 0 ? " of the floor" : "");
		if (x->n_sent < x->n && now >= due) {
			add_one(x);
			drop_replies(x);
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

static void percentiles(struct run *x, struct idle *out)
{
	qsort(x->took_ms, x->n, sizeof *x->took_ms, by_value);
	out->p50_ms = x->took_ms[x->n / 2];
	out->p99_ms = x->took_ms[x->n * 99 / 100];
}

static void rounds_for(struct pool *p, double seconds)
{
	int64_t end = proc_now_us() + (int64_t)(seconds * 1e6);
	for (int64_t now; (now = proc_now_us()) < end;)
		pool_round(p, end - now);
}

static struct idle measure_floor(struct run *x)
{
	rig_flush(&x->b->rig);
	struct idle out = {0};
	x->run = ++x->b->run;
	x->is_armed = false;
	pid_t pid = feed_follow(&x->b->rig, &x->fd, x->run, x->n_streams);
	struct pool *p = pool_open(&(struct pool_opts){.path = ""});
	pool_watch(p, x->fd, on_floor, x);
	while (!x->is_armed)
		pool_round(p, 100000);
	keep_rate(x, p);
	percentiles(x, &out);
	proc_stop(pid, SIGKILL);
	close(x->fd);
	x->fd = -1;
	pool_close(p);
	return out;
}

static struct pool *open_all(struct run *x, const struct rig_daemon *d, bool takes_entries)
{
	struct pool *p = pool_open(&(struct pool_opts){.path = d->workers,
		.n_sessions = SESSIONS,
		.credits = (int)(x->n_streams / SESSIONS) + 1,
		.takes_entries = takes_entries,
		.bad = x->is_first_busy ? "\"bad\"" : NULL,
		.on_entries = on_entries,
		.arg = x});
	pool_connect_all(p);
	int64_t end = proc_now_us() + (int64_t)GIVE_UP_S * 1000000;
	while (pool_counts(p)->n_assigned < x->n_streams) {
		pool_round(p, 100000);
		if (proc_now_us() > end)
			proc_die("(i) stopped at %llu of %u streams", (unsigned long long)pool_counts(p)->n_assigned,
				x->n_streams);
	}
	return p;
}

static struct idle measure_daemon(struct run *x, bool takes_entries)
{
	rig_flush(&x->b->rig);
	struct idle out = {0};
	struct rig_daemon d;
	struct meter before;
	x->run = ++x->b->run;
	rig_start(&x->b->rig, &d, "i", takes_entries ? "    entries: {enabled: true}\n" : "");
	rig_wait_ready(&d);
	rig_add(&x->b->rig, x->run, 0, x->n_streams);
	struct pool *p = open_all(x, &d, takes_entries);
	rounds_for(p, SETTLE_S); /* the poll has found its pace */
	meter_read(&x->b->rig, d.pid, &before);
	rounds_for(p, x->b->seconds < 20 ? x->b->seconds : 20);
	struct meter m = meter_since(&x->b->rig, d.pid, &before);
	out.cpu_share = m.daemon_us / m.at_us * 100;
	out.foreign = meter_foreign_cpus(&m);
	out.rss = proc_rss_bytes(d.pid);
	if (takes_entries) {
		keep_rate(x, p);
		percentiles(x, &out);
	}
	pool_close(p);
	proc_stop(d.pid, SIGTERM);
	return out;
}

static redisContext *connect_now(const struct rig *r)
{
	char path[108];
	snprintf(path, sizeof path, "%s/r0.sock", r->dir);
	redisContext *c = redisConnectUnixNonBlock(path);
	if (!c || c->err)
		proc_die("redis: %s", c ? c->errstr : "no memory");
	return c;
}

static struct run run_open(struct bench *b, double n_streams)
{
	struct run x = {.b = b, .n = (uint32_t)(PER_S * (b->seconds < 10 ? b->seconds : 10)), .fd = -1};
	x.n_streams = (uint32_t)(n_streams * b->scale);
	x.sent_us = mem_array(x.n_streams, sizeof *x.sent_us);
	x.took_ms = mem_array(x.n, sizeof *x.took_ms);
	x.link = connect_now(&b->rig);
	return x;
}

static void run_close(struct run *x)
{
	redisFree(x->link);
	mem_free(x->sent_us);
	mem_free(x->took_ms);
	rig_flush(&x->b->rig);
}

void case_idle_entries(struct bench *b, struct report_case *c)
{
	struct run x = run_open(b, STREAMS);
	struct idle floor = measure_floor(&x), leases = measure_daemon(&x, false), open = measure_daemon(&x, true);
	report_goal_of(report_add_floor(c, "XADD to delivered, p50", "ms", open.p50_ms, floor.p50_ms), GOAL_OF_EXCESS,
		GOAL_AT_MOST, 0.5);
	report_goal_of(report_add_floor(c, "XADD to delivered, p99", "ms", open.p99_ms, floor.p99_ms), GOAL_OF_EXCESS,
		GOAL_AT_MOST, 3);
	report_add(c, "CPU of the daemon, leases only", "% of one", leases.cpu_share);
	report_goal(report_add(c, "CPU of the daemon for open streams, more", "% of one",
			    open.cpu_share - leases.cpu_share),
		GOAL_AT_MOST, 3);
	report_goal(
		report_add(c, "RSS per open stream above its lease", "bytes", (open.rss - leases.rss) / x.n_streams),
		GOAL_AT_MOST, 512);
	report_foreign(c, open.foreign);
	run_close(&x);
}

static const char pause_conf[] =
	"    entries: {enabled: true, retry: {max_retries: 3, initial: 2s, factor: 1, jitter: 0%}}\n";

static void fill_first(struct run *x, bool has_bad)
{
	redisContext *link = x->b->rig.link[0];
	char name[RIG_NAME + 1];
	rig_name(name, x->run, 0);
	for (int i = 1; i <= OF_KEY; i++)
		redisAppendCommand(link, "XADD %s 1-%d n %s", name, i, has_bad && i == OF_KEY / 2 ? "bad" : "0");
	for (int i = 1; i <= OF_KEY; i++)
		freeReplyObject(rig_reply(link));
}

static bool is_first_done(struct run *x)
{
	char name[RIG_NAME + 1];
	rig_name(name, x->run, 0);
	redisReply *pos = redisCommand(x->b->rig.link[0], "HGET {%s}-sluice pos", name);
	bool is_done = pos && pos->str && strtoul(pos->str + 2, NULL, 10) == OF_KEY;
	freeReplyObject(pos);
	return is_done;
}

struct beside {
	double p50_ms, p99_ms, tries, dead, foreign;
};

static struct beside measure_beside(struct run *x, bool has_bad)
{
	rig_flush(&x->b->rig);
	struct rig_daemon d;
	struct idle took = {0};
	struct meter before;
	x->run = ++x->b->run;
	rig_start(&x->b->rig, &d, "n", pause_conf);
	rig_wait_ready(&d);
	rig_add(&x->b->rig, x->run, 0, x->n_streams);
	struct pool *p = open_all(x, &d, true);
	rounds_for(p, 2);
	meter_read(&x->b->rig, d.pid, &before);
	fill_first(x, has_bad);
	keep_rate(x, p);
	struct meter m = meter_since(&x->b->rig, d.pid, &before);
	percentiles(x, &took);
	int64_t end = proc_now_us() + (int64_t)GIVE_UP_S * 1000000;
	while (!is_first_done(x)) {
		pool_round(p, 50000);
		if (proc_now_us() > end)
			proc_die("(n) the key with the bad entry is not done");
	}
	struct beside out = {took.p50_ms, took.p99_ms, (double)pool_counts(p)->n_nacked,
		(double)rig_integer(&x->b->rig, "XLEN orders-entries-dlq"), meter_foreign_cpus(&m)};
	pool_close(p);
	proc_stop(d.pid, SIGTERM);
	return out;
}

void case_bad_entry(struct bench *b, struct report_case *c)
{
	struct run x = run_open(b, KEYS);
	x.is_first_busy = true;
	struct beside without = measure_beside(&x, false), with = measure_beside(&x, true);
	report_goal_of(report_add_floor(c, "XADD to delivered, other keys, p50", "ms", with.p50_ms, without.p50_ms),
		GOAL_OF_EXCESS, GOAL_AT_MOST, 1);
	report_goal_of(report_add_floor(c, "XADD to delivered, other keys, p99", "ms", with.p99_ms, without.p99_ms),
		GOAL_OF_EXCESS, GOAL_AT_MOST, 1);
	report_add(c, "tries of the bad entry", "", with.tries);
	report_goal(
		report_add(c, "dead letters but the bad one", "", fabs(with.dead - 1) + without.dead), GOAL_AT_MOST, 0);
	report_foreign(c, with.foreign);
	run_close(&x);
}

static const char turns_conf[] = "    same_stream: coalesce\n    entries: {enabled: true, idle_release: 1s}\n";

static struct idle measure_turns(struct run *x, int credits)
{
	rig_flush(&x->b->rig);
	struct idle out = {0};
	struct rig_daemon d;
	struct meter before;
	x->run = ++x->b->run;
	rig_start(&x->b->rig, &d, "o", turns_conf);
	rig_wait_ready(&d);
	struct pool *p = pool_open(&(struct pool_opts){.path = d.workers,
		.n_sessions = 1,
		.credits = credits,
		.takes_entries = true,
		.on_entries = on_entries,
		.arg = x});
	pool_connect_all(p);
	keep_rate(x, p); /* until all credits are in use */
	meter_read(&x->b->rig, d.pid, &before);
	keep_rate(x, p);
	struct meter m = meter_since(&x->b->rig, d.pid, &before);
	percentiles(x, &out);
	out.foreign = meter_foreign_cpus(&m);
	pool_close(p);
	proc_stop(d.pid, SIGTERM);
	return out;
}

void case_keys_in_turn(struct bench *b, struct report_case *c)
{
	struct run x = run_open(b, KEYS);
	x.is_named = true;
	struct idle room = measure_turns(&x, KEYS * 2), few = measure_turns(&x, 16);
	report_goal_of(report_add_floor(c, "XADD to delivered, p50", "ms", few.p50_ms, room.p50_ms), GOAL_OF_EXCESS,
		GOAL_AT_MOST, 0.5);
	report_add_floor(c, "XADD to delivered, p99", "ms", few.p99_ms, room.p99_ms);
	report_foreign(c, few.foreign);
	run_close(&x);
}
