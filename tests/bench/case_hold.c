/* (b) many leases held for a while: what a lease costs at rest. */
#include <signal.h>

#include "bench/cases.h"
#include "bench/floor.h"
#include "bench/pool.h"

enum { SESSIONS = 16, TTL_S = 10, GIVE_UP_S = 180, TRIM_S = 5 };

static void rounds_for(struct pool *p, double seconds)
{
	int64_t end = proc_now_us() + (int64_t)(seconds * 1e6);
	for (int64_t now; (now = proc_now_us()) < end;)
		pool_round(p, end - now);
}

static void until(struct pool *p, const uint64_t *count, uint64_t n, const char *what)
{
	int64_t end = proc_now_us() + (int64_t)GIVE_UP_S * 1000000;
	while (*count < n) {
		pool_round(p, 100000);
		if (proc_now_us() > end)
			proc_die("(b) %s: stopped at %llu of %llu", what, (unsigned long long)*count,
				(unsigned long long)n);
	}
}

struct held {
	struct meter spent;
	double rss_idle, rss_held, rss_after, renewals, lag_ms, fill_s, locks;
};

static void measure(struct bench *b, const struct rig_daemon *d, struct pool *p, uint32_t n, struct held *h)
{
	pool_connect_all(p);
	until(p, &pool_counts(p)->n_welcome, SESSIONS, "welcome");
	rounds_for(p, 1);
	h->rss_idle = proc_rss_bytes(d->pid);
	int64_t from = proc_now_us();
	rig_add(&b->rig, ++b->run, 0, n);
	until(p, &pool_counts(p)->n_assigned, n, "assigned");
	h->fill_s = (double)(proc_now_us() - from) / 1e6;
	rounds_for(p, TTL_S / 2.0);
	struct rig_lag lag, lag_end;
	struct meter before;
	double calls = rig_calls(&b->rig, "getex");
	rig_lag(d, &lag);
	meter_read(&b->rig, d->pid, &before);
	rounds_for(p, b->seconds);
	h->spent = meter_since(&b->rig, d->pid, &before);
	h->renewals = rig_calls(&b->rig, "getex") - calls;
	rounds_for(p, 1.1); /* snapshots of the shards come once a second */
	rig_lag(d, &lag_end);
	h->lag_ms = rig_lag_ms(&lag, &lag_end, 0.99);
	h->rss_held = proc_rss_bytes(d->pid);
	h->locks = rig_keys(&b->rig) - 2; /* the stream and its registry */
	pool_finish(p);
	until(p, &pool_counts(p)->n_ok, n, "finished");
	rounds_for(p, TRIM_S);
	h->rss_after = proc_rss_bytes(d->pid);
}

static void report(struct bench *b, struct report_case *c, uint32_t n, const struct held *h,
	const struct floor_cost *floor, uint32_t n_floor, double n_lost)
{
	double seconds = h->spent.at_us / 1e6, planned = n / (TTL_S / 3.0), per_renewal = floor->client_us / n_floor;
	report_goal(report_add(c, "leases lost, or without a lock at the end", "",
			    n_lost + (h->locks < n ? n - h->locks : 0)),
		GOAL_AT_MOST, 0);
	struct report_row *row = report_add_floor(c, "renewals per second", "1/s", h->renewals / seconds, planned);
	report_goal_of(row, GOAL_OF_RATIO, GOAL_AT_LEAST, 0.95);
	row = report_add_floor(c, "CPU of the daemon", "% of one", h->spent.daemon_us / h->spent.at_us * 100,
		h->renewals * per_renewal / h->spent.at_us * 100);
	bool is_largest = n >= 100000 * b->scale;
	if (is_largest)
		report_goal(row, GOAL_AT_MOST, 40);
	report_add_floor(c, "CPU of the daemon per renewal", "us", h->spent.daemon_us / h->renewals, per_renewal);
	report_add_floor(
		c, "CPU of Redis per renewal", "us", h->spent.redis_us / h->renewals, floor->redis_us / n_floor);
	row = report_add(c, "RSS per lease above the idle daemon", "bytes", (h->rss_held - h->rss_idle) / n);
	if (is_largest)
		report_goal(row, GOAL_AT_MOST, 512);
	report_add(c, "RSS of the daemon, idle", "MiB", h->rss_idle / 1048576);
	report_add(c, "RSS of the daemon, holding", "MiB", h->rss_held / 1048576);
	report_add(c, "RSS of the daemon after release", "MiB", h->rss_after / 1048576);
	row = report_add(c, "given back of what leases took", "%",
		100 * (h->rss_held - h->rss_after) / (h->rss_held - h->rss_idle));
	if (is_largest)
		report_goal(row, GOAL_AT_LEAST, 60);
	report_goal(report_add(c, "event loop lag, p99 at most", "ms", h->lag_ms), GOAL_AT_MOST, 20);
	report_add(c, "time to take them all", "s", h->fill_s);
}

void case_hold(struct bench *b, struct report_case *c, uint32_t n)
{
	n = (uint32_t)(n * b->scale);
	rig_flush(&b->rig);
	uint32_t n_floor = n < 20000 ? 60000 : 3 * n;
	struct floor_cost floor = floor_renew(&b->rig, n, n_floor);
	rig_flush(&b->rig);
	struct rig_daemon d;
	rig_start(&b->rig, &d, "b", "");
	rig_wait_ready(&d);
	int credits = (int)(n / SESSIONS) + 1;
	struct pool *p = pool_open(&(struct pool_opts){
		.path = d.workers, .n_sessions = SESSIONS, .credits = credits < 10000 ? credits : 10000});
	struct held h = {.fill_s = 0};
	measure(b, &d, p, n, &h);
	const struct pool_counts *k = pool_counts(p);
	report(b, c, n, &h, &floor, n_floor,
		(double)(k->n_lost + k->n_revoked + k->n_refused + k->n_errors + k->n_closed));
	report_foreign(c, meter_foreign_cpus(&h.spent));
	pool_close(p);
	proc_stop(d.pid, SIGTERM);
}
