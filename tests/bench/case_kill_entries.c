/* (j) entries mode: 20,000 entries a second over 1,000 streams, and the daemon that has them all is killed; another one goes on. */
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "bench/cases.h"
#include "bench/pool.h"

enum { STREAMS = 1000, PER_S = 20000, SESSIONS = 8, TTL_S = 10, BEFORE_S = 5, AFTER_S = TTL_S + 4, GIVE_UP_S = 60 };

static const char service[] = "    entries: {enabled: true}\n";

struct stream {
	uint32_t n_sent, n_seen; /* 1-1 … 1-n */
	int64_t goes_on_us;      /* first entry of the heir */
};

struct run {
	struct bench *b;
	uint32_t run, n_streams, next;
	struct stream *v;
	redisContext *link; /* does not block */
	bool is_killed;
	uint64_t n_again, n_skipped, n_behind; /* entries; n_behind: sent and not seen */
};

/* The value is the stream's number. A frame is entries in a row. */
static void on_entries(void *arg, const char *frame, size_t len)
{
	struct run *x = arg;
	const char *value = memmem(frame, len, "[\"n\",\"", 6), *id;
	size_t id_len;
	uint32_t n = pool_entries(frame, len, &id, &id_len);
	uint32_t at = value ? (uint32_t)strtoul(value + 6, NULL, 10) : UINT32_MAX;
	const char *seq = memchr(id, '-', id_len);
	if (at >= x->n_streams || !seq)
		proc_die("(j) not an entry of ours");
	struct stream *s = &x->v[at];
	uint32_t last = (uint32_t)strtoul(seq + 1, NULL, 10), first = last - n + 1;
	if (x->is_killed && !s->goes_on_us)
		s->goes_on_us = proc_now_us();
	if (first > s->n_seen + 1)
		x->n_skipped += first - s->n_seen - 1;
	else
		x->n_again += (last < s->n_seen ? last : s->n_seen) - (first - 1);
	if (last > s->n_seen) {
		x->n_behind -= last - s->n_seen;
		s->n_seen = last;
	}
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

/* Keeps the rate up for so long, and serves both pools. */
static void keep_rate(struct run *x, struct pool *a, struct pool *b, double seconds)
{
	int64_t start = proc_now_us(), n = (int64_t)(PER_S * x->b->scale * seconds);
	for (int64_t i = 0; i < n;) {
		int64_t due = (int64_t)((double)(proc_now_us() - start) * PER_S * x->b->scale / 1e6);
		for (; i < due && i < n; i++) {
			struct stream *s = &x->v[x->next];
			char name[RIG_NAME + 1];
			rig_name(name, x->run, x->next);
			redisAppendCommand(x->link, "XADD %s 1-%u n %u", name, ++s->n_sent, x->next);
			x->next = (x->next + 1) % x->n_streams;
			x->n_behind++;
		}
		exchange(x);
		pool_round(b, a ? 0 : 1000);
		if (a)
			pool_round(a, 1000);
	}
}

static void until_seen(struct run *x, struct pool *p)
{
	int64_t end = proc_now_us() + (int64_t)GIVE_UP_S * 1000000;
	while (x->n_behind) {
		exchange(x);
		pool_round(p, 10000);
		if (proc_now_us() > end)
			proc_die("(j) stopped with %llu entries not delivered", (unsigned long long)x->n_behind);
	}
}

static struct pool *workers(struct run *x, const struct rig_daemon *d)
{
	struct pool *p = pool_open(&(struct pool_opts){.path = d->workers,
		.n_sessions = SESSIONS,
		.credits = (int)(x->n_streams / SESSIONS) + 1,
		.takes_entries = true,
		.on_entries = on_entries,
		.arg = x});
	pool_connect_all(p);
	while (pool_counts(p)->n_welcome < SESSIONS)
		pool_round(p, 100000);
	return p;
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

static double last_goes_on(const struct run *x, int64_t since_us)
{
	int64_t last = since_us;
	for (uint32_t i = 0; i < x->n_streams; i++)
		last = x->v[i].goes_on_us > last ? x->v[i].goes_on_us : last;
	return (double)(last - since_us) / 1e6;
}

void case_kill_entries(struct bench *b, struct report_case *c)
{
	struct run x = {.b = b, .n_streams = (uint32_t)(STREAMS * b->scale), .run = ++b->run};
	x.v = mem_array(x.n_streams, sizeof *x.v);
	rig_flush(&b->rig);
	x.link = connect_now(&b->rig);
	struct rig_daemon victim, heir;
	rig_start(&b->rig, &victim, "victim", service);
	rig_start(&b->rig, &heir, "heir", service);
	rig_wait_ready(&victim);
	rig_wait_ready(&heir);
	rig_add(&b->rig, x.run, 0, x.n_streams);
	struct pool *his = workers(&x, &victim);
	while (pool_counts(his)->n_assigned < x.n_streams)
		pool_round(his, 100000);
	struct pool *hers = workers(&x, &heir);
	struct meter before;
	meter_read(&b->rig, victim.pid, &before);
	keep_rate(&x, his, hers, BEFORE_S);
	struct meter spent = meter_since(&b->rig, victim.pid, &before);
	uint64_t n_before = pool_counts(his)->n_entries;
	proc_stop(victim.pid, SIGKILL);
	int64_t killed_us = proc_now_us();
	pool_close(his);
	x.is_killed = true;
	keep_rate(&x, NULL, hers, AFTER_S);
	until_seen(&x, hers);
	report_goal(report_add(c, "kill to the last stream that goes on", "s", last_goes_on(&x, killed_us)),
		GOAL_AT_MOST, TTL_S + 1);
	report_goal(report_add(c, "entries skipped", "", (double)x.n_skipped), GOAL_AT_MOST, 0);
	report_add(c, "entries given again", "", (double)x.n_again);
	report_add(c, "entries per second before the kill", "1/s", (double)n_before / (spent.at_us / 1e6));
	report_add(c, "CPU of the daemon per entry before the kill", "us", spent.daemon_us / (double)n_before);
	report_foreign(c, meter_foreign_cpus(&spent));
	pool_close(hers);
	proc_stop(heir.pid, SIGTERM);
	redisFree(x.link);
	mem_free(x.v);
	rig_flush(&b->rig);
}
