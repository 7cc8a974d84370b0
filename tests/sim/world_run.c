#include "sim/world_run.h"
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static volatile uint64_t running;
static unsigned watch_s;
static struct world world; /* large */
enum { TRACE_SHOWN_MAX = 600000 };

static size_t trace_from(const struct world *w)
{
	return w->trace.len > TRACE_SHOWN_MAX ? w->trace.len - TRACE_SHOWN_MAX : 0;
}

static void died(int signo)
{
	char text[80];
	int n = snprintf(text, sizeof text, "signal %d in SIM_SEED=%llu\n", signo, (unsigned long long)running);
	size_t from = trace_from(&world);
	if ((world.trace.len && write(2, world.trace.data + from, world.trace.len - from) < 0) ||
		write(2, text, (size_t)n) < 0)
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

static void make_up_entries(struct world_opts *o, struct rng *r)
{
	o->serialize = true;
	o->coalesce = rng_below(r, 2);
	o->n_gos = 0; /* they know nothing of it */
	o->tracking = (enum world_tracking)rng_below(r, 3);
	o->entries = (struct entries_rules){.is_on = true,
		.trim = rng_below(r, 3) == 0,
		.delete_stream = rng_below(r, 4) == 0,
		.batch = 1 + (uint32_t)rng_below(r, 5),
		.window = 1 + (uint32_t)rng_below(r, 3),
		.max_retries = 1 + (uint32_t)rng_below(r, 3),
		.batch_bytes = 4096,
		.entry_bytes = 4096,
		.idle_release_ms = rng_below(r, 2) ? 200 : 0,
		.position_ttl_ms = 604800000,
		.poll_max_ms = 500 + 1000 * (mono_ms)rng_below(r, 4),
		.retry_initial_ms = 100 + (mono_ms)rng_below(r, 300),
		.retry_max_ms = 1500,
		.retry_factor = 2,
		.retry_jitter_pct = 20,
		.start = "0"};
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
	o.n_gos = rng_below(&r, 3) ? 0 : 1 + (unsigned)rng_below(&r, WORLD_GOS);
	o.coalesce = o.serialize && rng_below(&r, 3) == 0;
	if (rng_below(&r, 4))
		o.retry = (struct retry_rules){.initial_ms = (mono_ms)rng_below(&r, 1500),
			.max_ms = 4000,
			.factor = 1 + (uint32_t)rng_below(&r, 8),
			.jitter_pct = 20,
			.release_delay_ms = (mono_ms)rng_below(&r, 1500)};
	if (bug == BUG_NONE ? rng_below(&r, 3) == 0 : bug >= BUG_ACK_UNFENCED)
		make_up_entries(&o, &r);
	return o;
}

static void add_workers(struct world *w, struct rng *r)
{
	unsigned n = 1 + w->o.n_daemons + (unsigned)rng_below(r, 2);
	for (unsigned i = 0; i < n; i++) {
		struct sim_worker *k = world_worker(w, &w->daemons[i % w->o.n_daemons], 1 + (uint32_t)rng_below(r, 4));
		k->keeps_fence = rng_below(r, 3) != 0;
		k->work_max = 200 + (mono_ms)rng_below(r, 2) * (mono_ms)rng_below(r, (uint64_t)(2 * w->o.ttl_ms));
		k->fail_pct = (unsigned)rng_below(r, 20);
		k->release_pct = (unsigned)rng_below(r, 10);
		k->dead_pct = (unsigned)rng_below(r, 20);
		k->nack_pct = w->o.entries.is_on ? (unsigned)rng_below(r, 15) : 0;
	}
}

static void storm(struct world *w, struct rng *r, mono_ms end)
{
	unsigned n_streams = 2 + (unsigned)rng_below(r, 6);
	faults_begin(w, end);
	while (w->now < end && !w->failed) {
		char stream[24];
		uint16_t svc = (uint16_t)rng_below(r, w->o.n_services);
		/* other names in each service: a lock's key names stream and id, not the service */
		snprintf(stream, sizeof stream, "%c%u", 's' + svc, (unsigned)rng_below(r, n_streams));
		world_add(w, svc, stream);
		world_until(w, w->now + world_between(r, 1, 1500));
		if (w->o.bug != BUG_ACK_FIRST &&
			w->o.bug != BUG_DUE_FORGETS_FIRST) /* there only what a death in between has lost counts */
			check_nothing_lost(w, "the last second");
	}
}

/* One daemon may be gone for good: the others recover what it left. */
static void start_daemons(struct world *w, const struct daemon *gone)
{
	for (unsigned i = 0; i < w->o.n_daemons; i++)
		if (!w->daemons[i].is_alive && &w->daemons[i] != gone)
			daemon_start(w, &w->daemons[i]);
}

/* Simulated time until everything must have ended, once nothing fails any more. */
static void settle(struct world *w)
{
	struct daemon *gone = w->o.n_daemons > 1 && rng_below(&w->rng, 2) ? &w->daemons[0] : NULL;
	mono_ms limit = w->now + 30 * w->o.ttl_ms;
	if (gone) {
		daemon_kill(w, gone);
		w->has_gone = true;
	}
	faults_heal(w);
	start_daemons(w, gone);
	world_until(w, w->now + 1000);
	faults_heal(w); /* what a fault in flight has broken since */
	while (!w->failed && w->now < limit && !world_settled(w)) {
		start_daemons(w, gone);
		world_until(w, w->now + 500);
	}
	check_nothing_lost(w, "the end");
	if (!w->failed && !world_settled(w))
		world_fail(w, "P3: not everything has ended: %s", world_unsettled(w));
}

/* What is left in Redis. */
static void show_rest(struct world *w, uint16_t svc)
{
	struct model_redis *m = server_of_service(w, svc)->model;
	const struct command_names *n = &w->names[svc];
	const struct model_entry *v = model_redis_entries(m, n);
	for (size_t i = 0; i < model_redis_n_entries(m, n); i++) {
		uint32_t item = item_of_entry(w, svc, v[i].id);
		struct entry_id at = {0};
		bool is_known = item < w->n_items && model_redis_registered(m, n, w->items[item].stream, &at);
		fprintf(stderr, "%s: entry %llu-%llu item %u registry %s%llu-%llu\n", w->rules[svc].name,
			(unsigned long long)v[i].id.ms, (unsigned long long)v[i].id.seq, item, is_known ? "" : "none ",
			(unsigned long long)at.ms, (unsigned long long)at.seq);
	}
	for (size_t i = 0; i < model_redis_n_pending(m, n); i++) {
		struct model_pending p = model_redis_pending(m, n, i, w->now);
		fprintf(stderr, "%s: %llu-%llu pending for %s\n", w->rules[svc].name, (unsigned long long)p.id.ms,
			(unsigned long long)p.id.seq, p.consumer);
	}
	fprintf(stderr, "%s: registered %zu delivered %llu\n", w->rules[svc].name, model_redis_n_registered(m, n),
		(unsigned long long)model_redis_last_delivered(m, n).ms);
}

static void show(struct world *w)
{
	for (uint16_t i = 0; i < w->o.n_services; i++)
		show_rest(w, i);
	feed_show(w);
	if (w->trace.data)
		fputs(w->trace.data + trace_from(w), stderr);
	fprintf(stderr, "seed %llu: %s\n", (unsigned long long)w->o.seed, w->failed ? w->why : "fine");
}

bool run_seed(uint64_t seed, enum world_size size, enum world_bug bug, bool tell)
{
	struct world *w = &world;
	running = seed;
	alarm(watch_s);
	struct world_opts o = make_up(seed, size, bug, tell);
	struct rng r;
	rng_seed(&r, seed * 5 + 11);
	world_init(w, &o);
	add_workers(w, &r);
	storm(w, &r, w->now + (size == WORLD_LONG ? 40 : 4 + (mono_ms)rng_below(&r, 6)) * 1000);
	if (!w->failed)
		settle(w);
	bool is_fine = !w->failed;
	if (tell)
		show(w);
	world_fini(w);
	alarm(0);
	return is_fine;
}
