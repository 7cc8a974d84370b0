/* (a) read -> lock -> take -> assign -> done -> ack -> unlock of streams that wait, 8 workers of 64 credits. */
#include <signal.h>

#include "bench/cases.h"
#include "bench/floor.h"
#include "bench/pool.h"

enum { STREAMS = 50000, SESSIONS = 8, CREDITS = 64, GIVE_UP_S = 120 };

static struct pool *run_daemon(struct bench *b, const struct rig_daemon *d, uint32_t n, struct meter *spent)
{
	struct pool *p = pool_open(
		&(struct pool_opts){.path = d->workers, .n_sessions = SESSIONS, .credits = CREDITS, .finishes = true});
	struct meter before;
	meter_read(&b->rig, d->pid, &before);
	pool_connect_all(p);
	while (pool_counts(p)->n_ok < n) {
		pool_round(p, 100000);
		if ((double)proc_now_us() - before.at_us > GIVE_UP_S * 1e6)
			proc_die("(a) stopped at %llu of %u streams", (unsigned long long)pool_counts(p)->n_ok, n);
	}
	*spent = meter_since(&b->rig, d->pid, &before);
	return p;
}

void case_throughput(struct bench *b, struct report_case *c)
{
	uint32_t n = (uint32_t)(STREAMS * b->scale);
	rig_flush(&b->rig);
	rig_add(&b->rig, ++b->run, 0, n);
	struct floor_cost floor = floor_journey(&b->rig, n);
	rig_flush(&b->rig);
	rig_add(&b->rig, ++b->run, 0, n);
	struct rig_daemon d;
	rig_start(&b->rig, &d, "a", "");
	rig_wait_ready(&d);
	struct meter spent;
	struct pool *p = run_daemon(b, &d, n, &spent);
	const struct pool_counts *k = pool_counts(p);
	struct report_row *row =
		report_add_floor(c, "streams per second", "1/s", n / (spent.at_us / 1e6), n / floor.seconds);
	row->goal_of_ratio = true;
	report_goal(row, GOAL_AT_LEAST, 0.6);
	row = report_add_floor(c, "CPU of the daemon per stream", "us", spent.daemon_us / n, floor.client_us / n);
	report_goal(row, GOAL_AT_MOST, 25);
	report_add_floor(c, "CPU of Redis per stream", "us", spent.redis_us / n, floor.redis_us / n);
	report_add(c, "CPU of the generator per stream", "us", spent.own_us / n);
	report_add(c, "RSS of the daemon at the end", "MiB", proc_rss_bytes(d.pid) / 1048576);
	report_goal(report_add(c, "lost, refused or given twice", "",
			    (double)(k->n_lost + k->n_refused + k->n_errors + (k->n_assigned - n))),
		GOAL_AT_MOST, 0);
	report_foreign(c, meter_foreign_cpus(&spent));
	pool_close(p);
	proc_stop(d.pid, SIGTERM);
}
