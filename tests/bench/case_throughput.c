/* (a) read -> lock -> take -> assign -> done -> ack -> unlock of streams that wait, 8 workers of 64 credits. */
#include <signal.h>

#include "bench/cases.h"
#include "bench/floor.h"
#include "bench/plain.h"
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

struct journey {
	struct meter spent;
	double n_wrong, rss;
};

static struct journey with_daemon(struct bench *b, const char *program, uint32_t n)
{
	rig_flush(&b->rig);
	rig_add(&b->rig, ++b->run, 0, n);
	struct rig_daemon d;
	rig_start_program(&b->rig, &d, program, "a", "");
	rig_wait_ready(&d);
	struct journey j = {.n_wrong = 0};
	struct pool *p = run_daemon(b, &d, n, &j.spent);
	const struct pool_counts *k = pool_counts(p);
	j.n_wrong = (double)(k->n_lost + k->n_refused + k->n_errors + (k->n_assigned - n));
	j.rss = proc_rss_bytes(d.pid);
	pool_close(p);
	proc_stop(d.pid, SIGTERM);
	return j;
}

static struct floor_cost with_loop(struct bench *b, struct floor_cost (*loop)(struct rig *r, uint32_t n), uint32_t n)
{
	rig_flush(&b->rig);
	rig_add(&b->rig, ++b->run, 0, n);
	return loop(&b->rig, n);
}

void case_throughput(struct bench *b, struct report_case *c)
{
	uint32_t n = (uint32_t)(STREAMS * b->scale);
	struct floor_cost floor = with_loop(b, floor_journey, n), plain = with_loop(b, plain_journey, n);
	bool has_last = b->rig.last != NULL;
	struct journey last = {.n_wrong = 0};
	if (has_last)
		last = with_daemon(b, b->rig.last, n);
	struct journey j = with_daemon(b, b->rig.daemon, n);
	struct report_row *row =
		report_add_floor(c, "streams per second", "1/s", n / (j.spent.at_us / 1e6), n / floor.seconds);
	report_ref(row, REF_PLAIN, n / plain.seconds);
	report_ref(row, REF_LAST, has_last ? n / (last.spent.at_us / 1e6) : -1);
	report_goal_of(row, GOAL_OF_LAST, GOAL_AT_LEAST, b->rig.n_masters == 1 ? 1.5 : 1.3);
	row = report_add_floor(c, "CPU of the daemon per stream", "us", j.spent.daemon_us / n, floor.client_us / n);
	report_ref(row, REF_PLAIN, plain.client_us / n);
	report_ref(row, REF_LAST, has_last ? last.spent.daemon_us / n : -1);
	report_goal(row, b->rig.n_masters == 1 ? GOAL_AT_MOST : GOAL_NONE, 9);
	row = report_add_floor(c, "CPU of Redis per stream", "us", j.spent.redis_us / n, floor.redis_us / n);
	report_ref(row, REF_PLAIN, plain.redis_us / n);
	report_ref(row, REF_LAST, has_last ? last.spent.redis_us / n : -1);
	report_goal(row, b->rig.n_masters == 1 ? GOAL_AT_MOST : GOAL_NONE, 15);
	report_add(c, "CPU of the generator per stream", "us", j.spent.own_us / n);
	row = report_add(c, "RSS of the daemon at the end", "MiB", j.rss / 1048576);
	report_ref(row, REF_LAST, has_last ? last.rss / 1048576 : -1);
	report_goal(report_add(c, "lost, refused or given twice", "", j.n_wrong), GOAL_AT_MOST, 0);
	report_foreign(c, meter_foreign_cpus(&j.spent));
}
