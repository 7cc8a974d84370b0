/* (l) many entries of one stream that runs, then one of another stream: how soon the other begins, what the many hold while
 * they wait, and what becomes of them: one more run with the newest (coalesce), or all of them in order (serialize). */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench/cases.h"
#include "bench/pool.h"

enum { DUPLICATES = 20000, CREDITS = 4, CHUNK = 500, GIVE_UP_S = 300, ROUND_US = 20000 };

struct run {
	struct bench *b;
	struct pool *pool;
	int64_t other_us; /* when the other stream began; 0 = not yet */
	long long last;   /* of the busy stream's Info; -1: no run yet */
	uint64_t n_runs, n_out_of_order;
};

static void on_assign(void *arg, const char *frame, size_t len)
{
	struct run *x = arg;
	const char *at = memmem(frame, len, "\"info\":{\"n\":", 12);
	if (!at) {
		x->other_us = proc_now_us();
		return;
	}
	long long n = strtoll(at + 12, NULL, 10);
	x->n_runs++;
	x->n_out_of_order += n <= x->last;
	x->last = n;
}

static void add(struct run *x, const char *stream, const char *text)
{
	struct cmd c = {.kind = CMD_ADD, .stream = {stream, strlen(stream)}, .as.add.info = {text, strlen(text)}};
	rig_append(&x->b->rig, x->b->rig.link, 0, &c, "bench");
}

static void drop_replies(struct run *x, uint32_t n)
{
	while (n--)
		freeReplyObject(rig_reply(x->b->rig.link[0]));
}

static void add_many(struct run *x, uint32_t from, uint32_t n)
{
	for (uint32_t done = 0; done < n;) {
		uint32_t chunk = n - done < CHUNK ? n - done : CHUNK;
		for (uint32_t i = 0; i < chunk; i++) {
			char text[32];
			snprintf(text, sizeof text, "{\"n\":%u}", from + done + i);
			add(x, "busy", text);
		}
		drop_replies(x, chunk);
		pool_round(x->pool, 0);
		done += chunk;
	}
}

static void until(struct run *x, const uint64_t *count, uint64_t n, const char *what)
{
	int64_t end = proc_now_us() + (int64_t)GIVE_UP_S * 1000000;
	while (*count < n) {
		pool_round(x->pool, ROUND_US);
		if (proc_now_us() > end)
			proc_die("(l) %s: stopped at %llu of %llu", what, (unsigned long long)*count,
				(unsigned long long)n);
	}
}

static double n_locks(struct bench *b)
{
	redisReply *x = redisCommand(b->rig.link[0], "KEYS *" COMMAND_LOCK_SEP "*");
	double n = x ? (double)x->elements : -1;
	freeReplyObject(x);
	return n;
}

/* Until none of them is in the load-balancer stream unread: merged, or put to wait. */
static void until_settled(struct run *x)
{
	int64_t end = proc_now_us() + (int64_t)GIVE_UP_S * 1000000;
	for (;;) {
		long long n = rig_integer(&x->b->rig, "XLEN orders-input"),
			  waits = rig_integer(&x->b->rig, "ZCARD {orders-input}-parked");
		if (n - 2 <= waits)
			return;
		pool_round(x->pool, ROUND_US);
		if (proc_now_us() > end)
			proc_die("(l) %lld entries are neither merged nor put to wait", n - 2 - waits);
	}
}

void case_same_stream(struct bench *b, struct report_case *c, bool merges)
{
	uint32_t n = (uint32_t)(DUPLICATES * b->scale);
	struct run x = {.b = b, .last = -1};
	rig_flush(&b->rig);
	struct rig_daemon d;
	rig_start(&b->rig, &d, "l", merges ? "    same_stream: coalesce\n" : "");
	rig_wait_ready(&d);
	struct pool *p = x.pool = pool_open(&(struct pool_opts){
		.path = d.workers, .n_sessions = 1, .credits = CREDITS, .on_assign_frame = on_assign, .arg = &x});
	pool_connect_all(p);
	add_many(&x, 0, 1);
	until(&x, &pool_counts(p)->n_assigned, 1, "the first");
	add_many(&x, 1, n);
	struct meter before;
	meter_read(&b->rig, d.pid, &before);
	add(&x, "other", "{}");
	int64_t added = proc_now_us();
	drop_replies(&x, 1);
	until(&x, &pool_counts(p)->n_assigned, 2, "the other");
	until_settled(&x);
	double locks = n_locks(b);
	pool_finish(p);
	int64_t from = proc_now_us();
	until(&x, &pool_counts(p)->n_ok, merges ? 3 : n + 2, "finished");
	double seconds = (double)(proc_now_us() - from) / 1e6;
	struct meter spent = meter_since(&b->rig, d.pid, &before);
	report_goal(report_add(c, "XADD to begun, the other stream", "ms", (double)(x.other_us - added) / 1000),
		GOAL_AT_MOST, 100);
	report_goal(report_add(c, "locks beside those of running streams", "", locks - 2), GOAL_AT_MOST, 0);
	report_goal(report_add(c, "runs too many or too few", "",
			    (double)llabs((long long)x.n_runs - (merges ? 2 : (long long)n + 1))),
		GOAL_AT_MOST, 0);
	report_goal(report_add(c, "runs out of order, newest missing", "",
			    (double)x.n_out_of_order + (x.last != (long long)n)),
		GOAL_AT_MOST, 0);
	if (!merges)
		report_add(c, "runs per second, one after the other", "1/s", n / seconds);
	report_foreign(c, meter_foreign_cpus(&spent));
	pool_close(p);
	proc_stop(d.pid, SIGTERM);
	rig_flush(&b->rig);
}
