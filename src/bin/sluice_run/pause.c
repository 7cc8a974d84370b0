/* A command that cannot be started (exit status 126 or 127, or no process to be had for it) is no fault of its stream:
 * that is given back, and after a few in a row no new work is taken for a growing while; then one stream tries. Said
 * once when work stops, and once when it goes on. In entries mode the leases that wait for entries go back too, so that
 * the stream that tries is not an idle one that has the only credit. */
#include "bin/sluice_run/sluice_run.h"

#include <stdio.h>
#include <sys/wait.h>

enum { EXIT_CANNOT_RUN = 126, EXIT_NOT_FOUND = 127, IN_A_ROW = 3, PAUSE_FIRST_MS = 2000, PAUSE_MAX_MS = 60000 };

bool pause_cannot_start(int status)
{
	return WIFEXITED(status) && (WEXITSTATUS(status) == EXIT_CANNOT_RUN || WEXITSTATUS(status) == EXIT_NOT_FOUND);
}

bool pause_is_on(const struct runner *r)
{
	return r->pause.until != 0;
}

bool pause_is_trial(const struct runner *r)
{
	return r->pause.length_ms && !r->pause.until;
}

int pause_credits(const struct runner *r)
{
	if (r->n_stops || pause_is_on(r))
		return 0;
	return pause_is_trial(r) ? 1 : r->opt->credits; /* after a pause one tries for all */
}

static void tell_credits(struct runner *r)
{
	sluice_worker_credits(r->worker, pause_credits(r));
}

static void pause_begin(struct runner *r, const char *reason)
{
	struct pause *p = &r->pause;
	if (!p->length_ms)
		run_log("%s cannot be started (%s): no new work until it can, tried again after pauses of %d s and "
			"more",
			r->opt->command[0], reason, PAUSE_FIRST_MS / 1000);
	p->length_ms = p->length_ms ? mono_min(2 * p->length_ms, PAUSE_MAX_MS) : PAUSE_FIRST_MS;
	p->until = r->now + p->length_ms;
	tell_credits(r);
	work_next_all(r);
}

static void not_started(struct runner *r, const char *reason)
{
	struct pause *p = &r->pause;
	p->n++;
	if (p->n >= IN_A_ROW && !p->until)
		pause_begin(r, reason);
}

void pause_no_process(struct runner *r, const char *why)
{
	char reason[256];
	snprintf(reason, sizeof reason, "no process: %s", why);
	not_started(r, reason);
}

void pause_note(struct runner *r, int status, const char *reason)
{
	struct pause *p = &r->pause;
	if (pause_cannot_start(status)) {
		not_started(r, reason);
		return;
	}
	bool was_paused = p->length_ms > 0;
	*p = (struct pause){.n = 0};
	if (!was_paused)
		return;
	run_log("%s can be started again: taking work", r->opt->command[0]);
	tell_credits(r);
}

mono_ms pause_turn(struct runner *r)
{
	struct pause *p = &r->pause;
	if (p->until && p->until <= r->now) {
		p->until = 0;
		tell_credits(r);
	}
	return p->until ? p->until : MONO_NEVER;
}
