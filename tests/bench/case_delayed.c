/* (k) many entries that wait for their time: what each takes of Redis, and how soon all are back once they are due. */
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "bench/cases.h"
#include "bench/pool.h"

enum { WAITING = 100000, CHUNK = 500, HOUR_MS = 3600000, GIVE_UP_S = 120, EVERY_US = 2000, SNAPSHOT_MS = 1100 };

static const char info[] = "{\"rate\":48000}", key[] = "{orders-input}-delayed";

/* Bytes of the names and values that an entry has. */
static double fields_bytes(void)
{
	return (double)(strlen("lbs-input") + strlen("{\"DataStreamName\":\"\",\"Info\":}") + RIG_NAME + strlen(info));
}

static void add_later(struct bench *b, uint32_t n)
{
	struct rig *r = &b->rig;
	for (uint32_t done = 0; done < n;) {
		uint32_t chunk = n - done < CHUNK ? n - done : CHUNK;
		for (uint32_t i = 0; i < chunk; i++) {
			char name[RIG_NAME + 1];
			int len = rig_name(name, b->run, done + i);
			struct cmd c = {.kind = CMD_ADD_LATER,
				.use_eval = done + i == 0,
				.stream = {name, (size_t)len},
				.as.add.info = {info, sizeof info - 1},
				.as.add.delay_ms = HOUR_MS,
				.as.add.why = "add"};
			rig_append(r, r->link, 0, &c, "bench");
		}
		for (uint32_t i = 0; i < chunk; i++)
			freeReplyObject(rig_reply(r->link[0]));
		done += chunk;
	}
}

static void pause_us(struct pool *p, int64_t us)
{
	int64_t end = proc_now_us() + us;
	for (int64_t now; (now = proc_now_us()) < end;)
		pool_round(p, end - now);
}

/* Until fewer than n wait; returns when. */
static int64_t until_fewer(struct bench *b, struct pool *p, long long n)
{
	int64_t give_up = proc_now_us() + (int64_t)GIVE_UP_S * 1000000;
	for (long long left; (left = rig_integer(&b->rig, "ZCARD %s", key)) >= n;) {
		pause_us(p, EVERY_US);
		if (proc_now_us() > give_up)
			proc_die("(k) stopped with %lld entries that are due", left);
	}
	return proc_now_us();
}

void case_delayed(struct bench *b, struct report_case *c)
{
	uint32_t n = (uint32_t)(WAITING * b->scale);
	rig_flush(&b->rig);
	struct rig_daemon d;
	rig_start(&b->rig, &d, "k", "");
	rig_wait_ready(&d);
	struct pool *nobody = pool_open(&(struct pool_opts){.path = ""});
	b->run++;
	double empty = rig_memory(&b->rig);
	add_later(b, n);
	double each = (rig_memory(&b->rig) - empty) / n;
	pause_us(nobody, SNAPSHOT_MS * 1000);
	struct rig_lag lag, lag_end;
	struct meter before;
	rig_lag(&d, &lag);
	rig_integer(&b->rig, "ZUNIONSTORE %s 1 %s WEIGHTS 0", key, key); /* all are due now */
	int64_t first = until_fewer(b, nobody, n);
	meter_read(&b->rig, d.pid, &before);
	double seconds = (double)(until_fewer(b, nobody, 1) - first) / 1e6;
	struct meter spent = meter_since(&b->rig, d.pid, &before);
	pause_us(nobody, SNAPSHOT_MS * 1000);
	rig_lag(&d, &lag_end);
	report_goal(report_add(c, "Redis' memory per entry above its fields", "bytes", each - fields_bytes()),
		GOAL_AT_MOST, 300);
	report_goal(report_add(c, "due ones moved per second", "1/s", n / seconds), GOAL_AT_LEAST, 20000);
	report_goal(report_add(c, "event loop lag, at most", "ms", rig_lag_ms(&lag, &lag_end, 1)), GOAL_AT_MOST, 20);
	report_add(c, "CPU of Redis per entry moved", "us", spent.redis_us / n);
	report_add(c, "CPU of the daemon per entry moved", "us", spent.daemon_us / n);
	double lost = n - (double)rig_integer(&b->rig, "XLEN orders-input");
	report_goal(report_add(c, "entries lost", "", lost), GOAL_AT_MOST, 0);
	report_foreign(c, meter_foreign_cpus(&spent));
	pool_close(nobody);
	proc_stop(d.pid, SIGTERM);
	rig_flush(&b->rig);
}
