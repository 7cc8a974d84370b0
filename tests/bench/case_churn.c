/* (f) a thousand workers, a tenth of which loses its connection every second and comes back to resume. */
#include <signal.h>

#include "bench/cases.h"
#include "bench/pool.h"

enum { SESSIONS = 1000, EACH = 10, CHURN = SESSIONS / 10, GIVE_UP_S = 60 };

static void until(struct pool *p, const uint64_t *count, uint64_t n, const char *what)
{
	int64_t end = proc_now_us() + (int64_t)GIVE_UP_S * 1000000;
	while (*count < n) {
		pool_round(p, 10000);
		if (proc_now_us() > end)
			proc_die("(f) %s: stopped at %llu of %llu", what, (unsigned long long)*count,
				(unsigned long long)n);
	}
}

/* One second: a tenth goes and comes back at once. Returns how long until all of them were welcome again, in ms. */
static double churn(struct pool *p, int from)
{
	int64_t start = proc_now_us();
	uint64_t welcome = pool_counts(p)->n_welcome;
	for (int i = 0; i < CHURN; i++) {
		pool_drop(p, (from + i) % SESSIONS);
		pool_connect(p, (from + i) % SESSIONS);
		pool_round(p, 0);
	}
	until(p, &pool_counts(p)->n_welcome, welcome + CHURN, "welcome again");
	double took = (double)(proc_now_us() - start) / 1000;
	for (int64_t now; (now = proc_now_us()) < start + 1000000;)
		pool_round(p, start + 1000000 - now);
	return took;
}

void case_churn(struct bench *b, struct report_case *c)
{
	uint32_t n = SESSIONS * EACH;
	int seconds = b->seconds < 20 ? (int)b->seconds : 20;
	rig_flush(&b->rig);
	struct rig_daemon d;
	rig_start(&b->rig, &d, "f", "");
	rig_wait_ready(&d);
	struct pool *p = pool_open(&(struct pool_opts){.path = d.workers, .n_sessions = SESSIONS, .credits = EACH});
	int64_t from = proc_now_us();
	pool_connect_all(p);
	until(p, &pool_counts(p)->n_welcome, SESSIONS, "welcome");
	report_add(c, "connecting 1,000 workers", "ms", (double)(proc_now_us() - from) / 1000);
	rig_add(&b->rig, ++b->run, 0, n);
	until(p, &pool_counts(p)->n_assigned, n, "assigned");
	struct meter before;
	meter_read(&b->rig, d.pid, &before);
	double worst = 0;
	for (int s = 0; s < seconds; s++) {
		double took = churn(p, s * CHURN);
		worst = took > worst ? took : worst;
	}
	struct meter spent = meter_since(&b->rig, d.pid, &before);
	const struct pool_counts *k = pool_counts(p);
	double affected = (double)(k->n_gone + k->n_lost + k->n_revoked + k->n_refused + k->n_errors + k->n_closed) +
			  (double)(k->n_assigned - n);
	report_goal(report_add(c, "leases affected", "", affected), GOAL_AT_MOST, 0);
	report_add(c, "leases resumed", "", (double)k->n_resumed);
	report_add(c, "100 workers back, slowest second", "ms", worst);
	report_add(c, "CPU of the daemon", "% of one", spent.daemon_us / spent.at_us * 100);
	report_add(c, "RSS of the daemon", "MiB", proc_rss_bytes(d.pid) / 1048576);
	report_foreign(c, meter_foreign_cpus(&spent));
	pool_close(p);
	proc_stop(d.pid, SIGTERM);
}
