/* (d) a daemon is killed, another one that has streams of its own takes its streams over.
 * (e) a daemon is killed and its successor finds what it held, with the workers waiting to resume. */
#include <signal.h>

#include "bench/cases.h"
#include "bench/floor.h"
#include "bench/pool.h"

enum { VICTIM = 10000, OWN = 2000, PENDING = 50000, SESSIONS = 10, TTL_S = 10, GIVE_UP_S = 120 };

static struct pool *beside; /* also served meanwhile */

static void until(struct pool *p, const uint64_t *count, uint64_t n, const char *what)
{
	int64_t end = proc_now_us() + (int64_t)GIVE_UP_S * 1000000;
	while (*count < n) {
		pool_round(p, 20000);
		if (beside)
			pool_round(beside, 0);
		if (proc_now_us() > end)
			proc_die(
				"%s: stopped at %llu of %llu", what, (unsigned long long)*count, (unsigned long long)n);
	}
}

static void rounds_for(struct pool *p, double seconds)
{
	int64_t end = proc_now_us() + (int64_t)(seconds * 1e6);
	for (int64_t now; (now = proc_now_us()) < end;)
		pool_round(p, end - now);
}

static struct pool *workers(const struct rig_daemon *d, uint32_t n)
{
	struct pool *p = pool_open(
		&(struct pool_opts){.path = d->workers, .n_sessions = SESSIONS, .credits = (int)(n / SESSIONS)});
	pool_connect_all(p);
	until(p, &pool_counts(p)->n_welcome, SESSIONS, "workers connect");
	return p;
}

static double trouble(const struct pool *p)
{
	const struct pool_counts *k = pool_counts(p);
	return (double)(k->n_lost + k->n_revoked + k->n_refused + k->n_errors + k->n_closed);
}

void case_recovery(struct bench *b, struct report_case *c)
{
	uint32_t n = (uint32_t)(VICTIM * b->scale), own = (uint32_t)(OWN * b->scale);
	rig_flush(&b->rig);
	rig_add(&b->rig, ++b->run, 0, n);
	struct floor_cost floor = floor_recover(&b->rig, n);
	rig_flush(&b->rig);
	struct rig_daemon victim, heir;
	rig_start(&b->rig, &heir, "heir", "");
	rig_wait_ready(&heir);
	rig_add(&b->rig, ++b->run, 0, own);
	struct pool *hers = workers(&heir, own);
	until(hers, &pool_counts(hers)->n_assigned, own, "(d) the heir's own");
	beside = hers;
	rig_start(&b->rig, &victim, "victim", "");
	rig_wait_ready(&victim);
	rig_add(&b->rig, ++b->run, 0, n);
	struct pool *his = workers(&victim, n);
	until(his, &pool_counts(his)->n_assigned, n, "(d) the victim's");
	struct pool *more = workers(&heir, n + 1000); /* credits for what comes */
	int64_t go_on = proc_now_us() + 4000000;      /* past its first renewals */
	while (proc_now_us() < go_on) {
		pool_round(his, 20000);
		pool_round(hers, 0);
		pool_round(more, 0);
	}
	struct meter before;
	meter_read(&b->rig, heir.pid, &before);
	proc_stop(victim.pid, SIGKILL);
	until(more, &pool_counts(more)->n_assigned, n, "(d) recovered");
	struct meter spent = meter_since(&b->rig, heir.pid, &before);
	beside = NULL;
	struct report_row *row =
		report_add_floor(c, "kill to the last stream assigned", "s", spent.at_us / 1e6, TTL_S + floor.seconds);
	report_goal(row, GOAL_AT_MOST, TTL_S + 2);
	report_goal(report_add(c, "the heir's own leases lost", "", trouble(hers)), GOAL_AT_MOST, 0);
	report_goal(report_add(c, "recovered more than once", "", (double)pool_counts(more)->n_assigned - n),
		GOAL_AT_MOST, 0);
	report_add(c, "CPU of the heir per stream", "us", spent.daemon_us / n);
	report_foreign(c, meter_foreign_cpus(&spent));
	pool_close(more);
	pool_close(hers);
	pool_close(his);
	proc_stop(heir.pid, SIGTERM);
}

void case_start(struct bench *b, struct report_case *c)
{
	uint32_t n = (uint32_t)(PENDING * b->scale);
	rig_flush(&b->rig);
	rig_add(&b->rig, ++b->run, 0, n);
	struct floor_cost floor = floor_resume(&b->rig, n);
	rig_flush(&b->rig);
	struct rig_daemon d;
	rig_start(&b->rig, &d, "e", "");
	rig_wait_ready(&d);
	rig_add(&b->rig, ++b->run, 0, n);
	struct pool *p = workers(&d, n);
	until(p, &pool_counts(p)->n_assigned, n, "(e) assigned");
	rounds_for(p, 1);
	proc_stop(d.pid, SIGKILL);
	pool_drop_all(p);
	struct meter before;
	rig_again(&b->rig, &d);
	meter_read(&b->rig, d.pid, &before);
	rig_wait_ready(&d);
	struct meter ready = meter_since(&b->rig, d.pid, &before);
	pool_connect_all(p);
	until(p, &pool_counts(p)->n_welcome, 2 * SESSIONS, "(e) resumed");
	struct meter resumed = meter_since(&b->rig, d.pid, &before);
	rounds_for(p, 2);
	report_goal(report_add_floor(c, "start to ready", "s", ready.at_us / 1e6, floor.seconds), GOAL_AT_MOST, 3);
	report_add_floor(c, "start to every worker resumed", "s", resumed.at_us / 1e6, floor.seconds);
	double lost = trouble(p) + n - (double)pool_counts(p)->n_resumed;
	report_goal(report_add(c, "not resumed, lost or refused", "", lost), GOAL_AT_MOST, 0);
	report_add(c, "CPU of the daemon per entry", "us", resumed.daemon_us / n);
	report_foreign(c, meter_foreign_cpus(&resumed));
	pool_close(p);
	proc_stop(d.pid, SIGTERM);
}
