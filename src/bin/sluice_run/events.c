/* What the daemon has said, and where the connection stands: libsluice-worker tells it in events. */
#include "bin/sluice_run/sluice_run.h"

#include <string.h>

enum { EXIT_UNAVAILABLE = 69, EXIT_NOPERM = 77, EXIT_CONFIG = 78 };

static void on_failed(struct runner *r, const struct sluice_event *e)
{
	static const struct {
		const char *code;
		int exit_code;
	} ends[] = {{"bad_version", EXIT_UNAVAILABLE}, {"unauthorized", EXIT_NOPERM}, {"bad_hello", EXIT_CONFIG},
		{"clock", EXIT_CONFIG}, {"unconfirmed", EXIT_UNAVAILABLE}};
	run_log("%s", e->text);
	for (size_t i = 0; i < sizeof(ends) / sizeof(ends[0]); i++)
		if (strcmp(e->reason, ends[i].code) == 0)
			r->exit_code = ends[i].exit_code;
	r->is_over = true;
}

static void on_work_stop(struct runner *r, struct work *w, const struct sluice_event *e)
{
	const bool is_fence = strcmp(e->reason, "fence") == 0;
	const bool is_said = w->answer == ANSWER_REVOKED || w->state == WORK_KILLED; /* a fence comes again */
	if (is_fence && !is_said)
		run_log("stream %s: not renewed in time, stopping it", w->stream);
	else if (!is_fence && e->by_ms > r->now)
		run_log("stream %s revoked: %s, it has %lld ms to end", w->stream, e->reason,
			(long long)(e->by_ms - r->now));
	else if (!is_fence)
		run_log("stream %s revoked: %s, stopping it at once", w->stream, e->reason);
	work_stop(r, w, e->by_ms);
}

static void on_gone(struct runner *r, struct work *w)
{
	run_log("stream %s is not ours any more, killing it", w->stream);
	work_abandon(r, w);
}

static void event_of_work(struct runner *r, struct work *w, const struct sluice_event *e)
{
	if (e->type == SLUICE_ENTRIES)
		entries_take(r, w, e->entries, e->n_entries);
	else if (e->type == SLUICE_NACKED)
		work_next(r, w);
	else if (e->type == SLUICE_STOP)
		on_work_stop(r, w, e);
	else if (e->type == SLUICE_GONE)
		on_gone(r, w);
	else if (e->type == SLUICE_ENDED)
		work_over(r, w);
}

static void on_event(struct runner *r, const struct sluice_event *e)
{
	if (e->type == SLUICE_ASSIGN)
		work_new(r, e);
	else if (e->user && e->type != SLUICE_CONFIRMED) /* that of an answered one is freed */
		event_of_work(r, e->user, e);
	else if (e->type == SLUICE_NOTE)
		run_log("%s", e->text);
	else if (e->type == SLUICE_DRAIN)
		run_log("sluiced drains: no new work will come");
	else if (e->type == SLUICE_FAILED)
		on_failed(r, e);
	else if (e->type == SLUICE_LEFT)
		r->is_over = true;
}

void events_turn(struct runner *r)
{
	struct sluice_event e;
	sluice_worker_step(r->worker);
	while (!r->is_over && sluice_worker_next(r->worker, &e))
		on_event(r, &e);
}
