/* (h) entries mode: what wait in many streams, few, and many short ones, through 8 workers that acknowledge each frame. */
#include <signal.h>

#include "bench/cases.h"
#include "bench/feed_floor.h"
#include "bench/pool.h"

enum { SESSIONS = 8, CREDITS = 64, GIVE_UP_S = 180 };

static const char service[] = "    entries: {enabled: true}\n";

struct shape {
	uint32_t n, n_entries;
};

static struct floor_cost with_loop(struct bench *b, struct shape s,
	struct floor_cost (*loop)(struct rig *r, uint32_t run, uint32_t n, uint32_t n_entries))
{
	rig_flush(&b->rig);
	rig_add_entries(&b->rig, ++b->run, 0, s.n, s.n_entries);
	rig_add(&b->rig, b->run, 0, s.n);
	return loop(&b->rig, b->run, s.n, s.n_entries);
}

static void until_done(struct pool *p, uint32_t n)
{
	int64_t end = proc_now_us() + (int64_t)GIVE_UP_S * 1000000;
	while (pool_counts(p)->n_ok < n) {
		pool_round(p, 100000);
		if (proc_now_us() > end)
			proc_die("(h) stopped at %llu of %u streams", (unsigned long long)pool_counts(p)->n_ok, n);
	}
}

static struct meter with_daemon(struct bench *b, struct shape s, double *n_wrong, double *rss)
{
	rig_flush(&b->rig);
	rig_add_entries(&b->rig, ++b->run, 0, s.n, s.n_entries);
	rig_add(&b->rig, b->run, 0, s.n);
	struct rig_daemon d;
	rig_start(&b->rig, &d, "h", service);
	rig_wait_ready(&d);
	struct pool *p = pool_open(&(struct pool_opts){.path = d.workers,
		.n_sessions = SESSIONS,
		.credits = CREDITS,
		.takes_entries = true,
		.n_entries = s.n_entries});
	struct meter before;
	meter_read(&b->rig, d.pid, &before);
	pool_connect_all(p);
	until_done(p, s.n);
	struct meter spent = meter_since(&b->rig, d.pid, &before);
	const struct pool_counts *k = pool_counts(p);
	double again = (double)k->n_entries - (double)s.n * s.n_entries;
	*n_wrong = (double)(k->n_revoked + k->n_refused + k->n_errors + k->n_closed) + (again < 0 ? -again : again);
	*rss = proc_rss_bytes(d.pid);
	pool_close(p);
	proc_stop(d.pid, SIGTERM);
	return spent;
}

void case_entries(struct bench *b, struct report_case *c, uint32_t n_streams, uint32_t n_entries, double per_s)
{
	double scale = b->scale;
	struct shape s = {n_streams, n_entries};
	if (n_streams >= n_entries)
		s.n = (uint32_t)(n_streams * scale);
	else
		s.n_entries = (uint32_t)(n_entries * scale);
	double n = (double)s.n * s.n_entries, n_wrong, rss;
	struct floor_cost floor = with_loop(b, s, feed_floor), plain = with_loop(b, s, feed_plain);
	struct meter spent = with_daemon(b, s, &n_wrong, &rss);
	struct report_row *row =
		report_add_floor(c, "entries per second", "1/s", n / (spent.at_us / 1e6), n / floor.seconds);
	report_ref(row, REF_PLAIN, n / plain.seconds);
	report_goal(row, GOAL_AT_LEAST, per_s);
	row = report_add_floor(c, "CPU of the daemon per entry", "us", spent.daemon_us / n, floor.client_us / n);
	report_ref(row, REF_PLAIN, plain.client_us / n);
	report_goal(row, GOAL_AT_MOST, 2);
	row = report_add_floor(c, "CPU of Redis per entry", "us", spent.redis_us / n, floor.redis_us / n);
	report_ref(row, REF_PLAIN, plain.redis_us / n);
	report_goal_of(row, GOAL_OF_RATIO, GOAL_AT_MOST, 1.3);
	report_add(c, "CPU of the generator per entry", "us", spent.own_us / n);
	report_add(c, "RSS of the daemon at the end", "MiB", rss / 1048576);
	report_goal(report_add(c, "lost, refused or given twice", "", n_wrong), GOAL_AT_MOST, 0);
	report_foreign(c, meter_foreign_cpus(&spent));
	rig_flush(&b->rig);
}
