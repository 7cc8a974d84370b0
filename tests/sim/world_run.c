#include "sim/world_run.h"
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static volatile uint64_t running;
static unsigned watch_s;

static void died(int signo)
{
	char text[80];
	int n = snprintf(text, sizeof text, "signal %d in SIM_SEED=%llu\n", signo, (unsigned long long)running);
	if (write(2, text, (size_t)n) < 0)
		_exit(1);
	signal(signo, SIG_DFL);
	raise(signo);
}

void run_watch(unsigned seconds)
{
	watch_s = seconds;
	signal(SIGABRT, died);
	signal(SIGALRM, died);
	signal(SIGSEGV, died);
}

static struct world_opts make_up(uint64_t seed, enum world_size size, enum world_bug bug, bool tell)
{
	struct rng r;
	rng_seed(&r, seed * 3 + 7);
	struct world_opts o = {.seed = seed, .bug = bug, .trace = tell};
	o.is_cluster = rng_below(&r, 3) != 0;
	o.n_masters = o.is_cluster ? 1 + (unsigned)rng_below(&r, 3) : 1;
	o.n_daemons = 1 + (unsigned)rng_below(&r, size == WORLD_LONG ? 3 : 2);
	o.n_services = 1 + (unsigned)rng_below(&r, 2);
	o.serialize = rng_below(&r, 4) != 0;
	o.events = rng_below(&r, 2) != 0;
	o.ttl_ms = 3000 + 1000 * (mono_ms)rng_below(&r, 3);
	o.lag_min_ms = 1;
	o.lag_max_ms = 1 + (mono_ms)rng_below(&r, 8);
	o.slow_per_mille = (unsigned)rng_below(&r, 30);
	o.slow_max_ms = 300;
	o.max_retries = 1 + (uint32_t)rng_below(&r, 4);
	return o;
}

static void add_workers(struct world *w, struct rng *r)
{
	unsigned n = 1 + w->o.n_daemons + (unsigned)rng_below(r, 2);
	for (unsigned i = 0; i < n; i++) {
		struct worker *k = world_worker(w, &w->daemons[i % w->o.n_daemons], 1 + (uint32_t)rng_below(r, 4));
		k->keeps_fence = rng_below(r, 3) != 0;
		k->work_max = 200 + (mono_ms)rng_below(r, 2) * (mono_ms)rng_below(r, (uint64_t)(2 * w->o.ttl_ms));
		k->fail_pct = (unsigned)rng_below(r, 20);
		k->release_pct = (unsigned)rng_below(r, 10);
		k->dead_pct = (unsigned)rng_below(r, 20);
	}
}

static void storm(struct world *w, struct rng *r, mono_ms end)
{
	unsigned n_streams = 2 + (unsigned)rng_below(r, 6);
	faults_begin(w, end);
	while (w->now < end && !w->failed) {
		char stream[24];
		snprintf(stream, sizeof stream, "s%u", (unsigned)rng_below(r, n_streams));
		world_add(w, (uint16_t)rng_below(r, w->o.n_services), stream);
		world_until(w, w->now + world_between(r, 1, 1500));
		check_nothing_lost(w, "the last second");
	}
}

/* Simulated time until everything must have ended, once nothing fails any more. */
static void settle(struct world *w)
{
	mono_ms limit = w->now + 30 * w->o.ttl_ms;
	faults_heal(w);
	world_until(w, w->now + 1000);
	faults_heal(w); /* what a fault in flight has broken since */
	while (!w->failed && w->now < limit && !world_settled(w)) {
		world_until(w, w->now + 500);
		for (unsigned i = 0; i < w->o.n_daemons; i++)
			if (!w->daemons[i].is_alive)
				daemon_start(w, &w->daemons[i]);
	}
	check_nothing_lost(w, "the end");
	if (!w->failed && !world_settled(w))
		world_fail(w, "P3: not everything has ended");
	for (uint32_t i = 0; !w->failed && i < w->n_items; i++)
		if (!w->items[i].is_done && w->items[i].n_assigned == 0)
			world_fail(w, "item %u ended without a worker", i);
}

static void show(const struct world *w)
{
	size_t from = w->trace.len > 60000 ? w->trace.len - 60000 : 0;
	if (w->trace.data)
		fputs(w->trace.data + from, stderr);
	fprintf(stderr, "seed %llu: %s\n", (unsigned long long)w->o.seed, w->failed ? w->why : "fine");
}

bool run_seed(uint64_t seed, enum world_size size, enum world_bug bug, bool tell)
{
	static struct world w; /* large */
	running = seed;
	alarm(watch_s);
	struct world_opts o = make_up(seed, size, bug, tell);
	struct rng r;
	rng_seed(&r, seed * 5 + 11);
	world_init(&w, &o);
	add_workers(&w, &r);
	storm(&w, &r, w.now + (size == WORLD_LONG ? 40 : 4 + (mono_ms)rng_below(&r, 6)) * 1000);
	if (!w.failed)
		settle(&w);
	bool is_fine = !w.failed;
	if (tell)
		show(&w);
	world_fini(&w);
	alarm(0);
	return is_fine;
}
