/* (m) what the workers need is away for a minute and every stream fails: default settings, nothing is given up. */
#include <signal.h>

#include "bench/cases.h"
#include "bench/pool.h"

enum { STREAMS = 1000, SESSIONS = 8, OUTAGE_S = 60, GIVE_UP_S = 300, SETTLE_US = 2000000, LOOK_US = 50000 };

static void rounds_for(struct pool *p, int64_t us)
{
	int64_t end = proc_now_us() + us;
	for (int64_t now; (now = proc_now_us()) < end;)
		pool_round(p, end - now);
}

static long long n_left(struct bench *b)
{
	return rig_integer(&b->rig, "XLEN orders-input") + rig_integer(&b->rig, "ZCARD {orders-input}-delayed");
}

static double until_done(struct bench *b, struct pool *p, int64_t since_us)
{
	while (n_left(b) > 0) {
		rounds_for(p, LOOK_US);
		if (proc_now_us() - since_us > (int64_t)GIVE_UP_S * 1000000)
			proc_die("(m) stopped with %lld streams that are not done", n_left(b));
	}
	return (double)(proc_now_us() - since_us) / 1e6;
}

void case_outage(struct bench *b, struct report_case *c)
{
	uint32_t n = (uint32_t)(STREAMS * b->scale);
	double outage_s = b->seconds < OUTAGE_S ? b->seconds : OUTAGE_S;
	rig_flush(&b->rig);
	struct rig_daemon d;
	rig_start(&b->rig, &d, "m", "");
	rig_wait_ready(&d);
	struct pool *p = pool_open(&(struct pool_opts){
		.path = d.workers, .n_sessions = SESSIONS, .credits = (int)(n / SESSIONS) + 1, .finishes = true});
	pool_fails(p, true);
	pool_connect_all(p);
	rounds_for(p, SETTLE_US);
	struct meter before;
	meter_read(&b->rig, d.pid, &before);
	int64_t begin = proc_now_us();
	rig_add(&b->rig, ++b->run, 0, n);
	rounds_for(p, (int64_t)(outage_s * 1e6));
	struct meter spent = meter_since(&b->rig, d.pid, &before);
	double n_failed = (double)pool_counts(p)->n_assigned;
	pool_fails(p, false);
	double seconds = until_done(b, p, begin);
	report_goal(report_add(c, "dead letters", "", (double)rig_integer(&b->rig, "XLEN orders-input-dlq")),
		GOAL_AT_MOST, 0);
	report_goal(report_add(c, "begin to the last stream done", "s", seconds), GOAL_AT_MOST, 180);
	report_add(c, "length of the outage", "s", outage_s);
	report_add(c, "starts that failed, per stream", "", n_failed / n);
	report_goal(report_add(c, "CPU of the daemon in the outage", "% of one", spent.daemon_us / spent.at_us * 100),
		GOAL_AT_MOST, 2);
	report_goal(report_add(c, "CPU of Redis in the outage", "% of one", spent.redis_us / spent.at_us * 100),
		GOAL_AT_MOST, 2);
	report_foreign(c, meter_foreign_cpus(&spent));
	pool_close(p);
	proc_stop(d.pid, SIGTERM);
	rig_flush(&b->rig);
}
