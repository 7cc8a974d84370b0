/* world - the clock, the events, beginning and end. */
#include "sim/world.h"
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum { TRACE_MAX = 1 << 20, EVENTS_MAX = 15000 };

/* ---- events ---- */

void event_at(struct world *w, struct event *ev, mono_ms at)
{
	if (at == MONO_NEVER) {
		event_cancel(w, ev);
		return;
	}
	if (ev->held.next)
		list_remove(&ev->held);
	if (at < w->now)
		at = w->now;
	heap_set(&w->events, &ev->node, (mono_ms)((uint64_t)at << 24 | (++w->order & 0xffffff)));
}

void event_in_order(struct world *w, struct event *ev, mono_ms at, struct order *o)
{
	o->last = mono_max(o->last, at);
	event_at(w, ev, o->last);
}

void event_cancel(struct world *w, struct event *ev)
{
	heap_remove(&w->events, &ev->node);
	if (ev->held.next)
		list_remove(&ev->held);
}

mono_ms world_between(struct rng *r, mono_ms from, mono_ms to)
{
	return to <= from ? from : from + (mono_ms)rng_below(r, (uint64_t)(to - from + 1));
}

bool world_chance(struct world *w, unsigned per_mille)
{
	return per_mille && rng_below(&w->faults, 1000) < per_mille;
}

mono_ms world_lag(struct world *w)
{
	mono_ms lag = world_between(&w->rng, w->o.lag_min_ms, w->o.lag_max_ms);
	if (!w->is_calm && w->o.slow_per_mille && rng_below(&w->rng, 1000) < w->o.slow_per_mille)
		lag += world_between(&w->rng, 1, w->o.slow_max_ms);
	return lag;
}

static void drop(struct world *w, struct event *ev)
{
	if (ev->drop)
		ev->drop(w, ev);
}

/* A process that is stopped gets what came meanwhile when it goes on, in order. */
static bool hold_back(struct event *ev)
{
	struct daemon *d = ev->daemon;
	struct sim_worker *k = ev->worker;
	bool is_stuck = d && !d->is_paused && (d->stalled >> ev->thread & 1);
	if (!is_stuck && !(d && d->is_paused) && !(k && k->is_paused))
		return false;
	struct link *list = d ? (ev->is_late ? &d->held_late : &d->held) : ev->is_late ? &k->held_late : &k->held;
	if (is_stuck)
		list = &d->stuck;
	if (!ev->held.next)
		list_init(&ev->held);
	list_push(list, &ev->held);
	return true;
}

static bool is_stale(const struct event *ev)
{
	return (ev->daemon && ev->gen != ev->daemon->gen) || (ev->worker && ev->gen != ev->worker->gen);
}

void event_happens(struct world *w, struct event *ev)
{
	if (is_stale(ev)) {
		drop(w, ev);
		return;
	}
	if (hold_back(ev))
		return;
	ev->run(w, ev);
}

void world_until(struct world *w, mono_ms t)
{
	mono_ms at;
	while (!w->failed && w->events.n && (at = heap_deadline(&w->events) >> 24) <= t) {
		struct heap_node *top = heap_top(&w->events);
		w->now = mono_max(w->now, at);
		heap_remove(&w->events, top);
		event_happens(w, HEAP_OF(struct event, node, top));
		if (w->now / 1000 != w->second)
			w->n_events = 0;
		w->second = w->now / 1000;
		if (++w->n_events > EVENTS_MAX)
			world_fail(w, "more than %d events in a second: somebody runs in circles", EVENTS_MAX);
	}
	w->now = mono_max(w->now, t);
}

/* ---- said ---- */

static void line(struct world *w, const char *fmt, va_list ap)
{
	if (w->trace.len > TRACE_MAX)
		buf_consume(&w->trace, TRACE_MAX / 2);
	char text[800];
	vsnprintf(text, sizeof text, fmt, ap);
	buf_printf(&w->trace, "[%6lld] %s\n", (long long)w->now, text);
}

void world_say(struct world *w, const char *fmt, ...)
{
	if (!w->o.trace)
		return;
	va_list ap;
	va_start(ap, fmt);
	line(w, fmt, ap);
	va_end(ap);
}

void world_tell(struct world *w, const char *fmt, ...)
{
	if (!w->o.trace && !w->o.story)
		return;
	va_list ap;
	va_start(ap, fmt);
	line(w, fmt, ap);
	va_end(ap);
}

void world_fail(struct world *w, const char *fmt, ...)
{
	if (w->failed)
		return;
	w->failed = true;
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(w->why, sizeof w->why, fmt, ap);
	va_end(ap);
	world_tell(w, "FAILED %s", w->why);
}

/* ---- beginning and end ---- */

static uint64_t fnv(const char *s)
{
	uint64_t h = 14695981039346656037u;
	for (; *s; s++)
		h = (h ^ (unsigned char)*s) * 1099511628211u;
	return h;
}

static void init_service(struct world *w, uint16_t svc)
{
	static const char *const names[WORLD_SERVICES] = {"orders", "mail", "video"};
	struct service_rules *r = &w->rules[svc];
	mono_ms ttl = w->o.ttl_ms;
	*r = (struct service_rules){.svc = svc,
		.same_stream = w->o.coalesce    ? SAME_STREAM_COALESCE
			       : w->o.serialize ? SAME_STREAM_SERIALIZE
						: SAME_STREAM_ALLOW,
		.recovery.probe = true,
		.weight = 1,
		.recovery.forget_consumer_ms = 20000,
		.read_batch = 128,
		.max_streams = 10000,
		.max_retries = w->o.max_retries,
		.recovery.scan_page = 100,
		.jitter_pct = 10,
		.lease.ttl_ms = ttl,
		.lease.renew_ms = ttl / 3,
		.lease.stop_margin_ms = mono_max(ttl / 5, 1000),
		.recovery.scan_interval_ms = 6 * ttl,
		.recovery.min_idle_ms = 3 * ttl,
		.retry = w->o.retry,
		.hash = fnv(names[svc])};
	atomic_init(&r->refs, 1);
	snprintf(r->name, sizeof r->name, "%s", names[svc]);
	snprintf(r->group_start, sizeof r->group_start, "0");
	command_names_init(&w->names[svc], r->name, "", r->same_stream, 0, "0");
	if (w->o.entries.is_on) {
		command_names_entries(&w->names[svc], r->name, "", 0);
		r->entries = w->o.entries;
		r->entries.dlq_slot = command_slot(w->names[svc].entries_dlq, strlen(w->names[svc].entries_dlq));
	}
	r->lbs_slot = w->names[svc].lbs_slot;
	r->dlq.slot = w->names[svc].dlq_slot;
	r->dlq.is_same_slot = w->names[svc].dlq_same_slot = w->names[svc].dlq_same_slot || !w->o.is_cluster;
}

static void init_servers(struct world *w)
{
	w->n_servers = (uint16_t)w->o.n_masters;
	for (uint16_t i = 0; i < w->n_servers; i++) {
		w->servers[i].index = i;
		snprintf(w->servers[i].addr, sizeof w->servers[i].addr, "10.0.0.%u:6379", i + 1u);
		server_start(w, &w->servers[i], model_redis_new());
	}
	unsigned width = SLOTS / w->o.n_masters;
	for (unsigned s = 0; s < SLOTS; s++) {
		unsigned m = s / width;
		w->owner[s] = w->seen[s] = (uint8_t)(m < w->n_servers ? m : w->n_servers - 1u);
	}
	w->ask_slot = w->ask_to = SHARD_NONE;
}

void world_init(struct world *w, const struct world_opts *o)
{
	memset(w, 0, sizeof *w);
	w->o = *o;
	w->now = 1000;
	w->moved_at = -1;
	heap_init(&w->events);
	buf_init(&w->trace);
	list_init(&w->chans);
	rng_seed(&w->rng, o->seed * 2 + 1);
	rng_seed(&w->faults, o->seed * 2 + 0x5eed);
	init_servers(w);
	for (uint16_t i = 0; i < o->n_services; i++)
		init_service(w, i);
	for (unsigned i = 0; i < o->n_daemons; i++) {
		struct daemon *d = &w->daemons[i];
		d->world = w;
		d->index = i;
		list_init(&d->held);
		list_init(&d->held_late);
		list_init(&d->stuck);
		snprintf(d->node, sizeof d->node, "n%u", i);
		daemon_start(w, d);
	}
	for (unsigned i = 0; i < o->n_gos; i++)
		go_start(w, i, (uint16_t)(i % o->n_services));
}

static void free_held(struct world *w, struct link *list)
{
	for (struct link *l; (l = list_pop(list));)
		drop(w, LIST_OF(struct event, held, l));
}

void world_fini(struct world *w)
{
	for (unsigned i = 0; i < w->n_workers; i++) {
		struct sim_worker *k = &w->workers[i];
		event_cancel(w, &k->tick);
		event_cancel(w, &k->dial);
		free_held(w, &k->held);
		free_held(w, &k->held_late);
	}
	for (unsigned i = 0; i < w->o.n_daemons; i++) {
		if (w->daemons[i].is_alive)
			daemon_kill(w, &w->daemons[i]);
		free_held(w, &w->daemons[i].held);
		free_held(w, &w->daemons[i].held_late);
		free_held(w, &w->daemons[i].stuck);
	}
	for (unsigned i = 0; i < WORLD_GOS; i++)
		event_cancel(w, &w->gos[i].tick);
	for (struct heap_node *n; (n = heap_top(&w->events));) {
		heap_remove(&w->events, n);
		drop(w, HEAP_OF(struct event, node, n));
	}
	chans_free(w);
	for (uint16_t i = 0; i < w->n_servers; i++) {
		model_redis_free(w->servers[i].model);
		model_redis_free(w->servers[i].replica);
	}
	for (unsigned i = 0; i < w->o.n_services; i++)
		command_names_fini(&w->names[i]);
	heap_fini(&w->events);
	buf_fini(&w->trace);
}

/* ---- producers ---- */

uint32_t world_add(struct world *w, uint16_t svc, const char *stream)
{
	struct server *s = server_of_service(w, svc);
	if (w->n_items == WORLD_ITEMS || !s->is_alive || s->is_paused ||
		(w->o.entries.is_on && !feed_produce(w, svc, stream)))
		return WORLD_ITEMS;
	return world_wake(w, svc, stream);
}

uint32_t world_wake(struct world *w, uint16_t svc, const char *stream)
{
	struct server *s = server_of_service(w, svc);
	uint32_t i = w->n_items++;
	feed_woken(w, stream);
	w->items[i] = (struct item){.svc = svc, .added = w->now};
	snprintf(w->items[i].stream, sizeof w->items[i].stream, "%s", stream);
	char info[40];
	snprintf(info, sizeof info, "{\"n\":%u}", i);
	struct entry_id id = model_redis_add(s->model, &w->names[svc], stream, info, 0, w->now);
	if (s->replica) /* the producer waits for the replica */
		model_redis_add(s->replica, &w->names[svc], stream, info, 0, w->now);
	world_tell(w, "add %s %s %llu-%llu", w->rules[svc].name, stream, (unsigned long long)id.ms % 100000000,
		(unsigned long long)id.seq);
	server_served(w, s);
	return i;
}

/* What a Go consumer's XDEL left when a failover lost it is for nobody to find. */
static bool has_entries(struct world *w, struct server *s, uint16_t svc)
{
	size_t n = model_redis_n_entries(s->model, &w->names[svc]);
	const struct model_entry *v = model_redis_entries(s->model, &w->names[svc]);
	for (size_t i = 0; i < n; i++) {
		uint32_t item = item_of_entry(w, svc, v[i].id);
		if (!w->o.n_gos || item >= w->n_items || !w->items[item].is_done)
			return true;
	}
	return false;
}

static const char *left_in_redis(struct world *w, uint16_t svc)
{
	struct server *s = server_of_service(w, svc);
	const struct command_names *n = &w->names[svc];
	if (has_entries(w, s, svc))
		return "entries are left";
	if (model_redis_n_pending(s->model, n))
		return "something is pending";
	if (model_redis_n_delayed(s->model, n))
		return "something is delayed";
	if (model_redis_n_parked(s->model, n))
		return "something is parked";
	if (model_redis_n_wishes(s->model, n))
		return "a wish is left";
	return !w->has_deleted && !w->o.n_gos && model_redis_n_registered(s->model, n) ? "the registry is not empty"
										       : NULL;
}

const char *world_unsettled(struct world *w)
{
	const char *what = NULL;
	for (uint16_t svc = 0; svc < w->o.n_services && !what; svc++)
		what = left_in_redis(w, svc);
	if (what)
		return what;
	if (!check_nobody_left(w))
		return "a daemon that is there has left";
	if (!feed_settled(w))
		return "an entry of a data stream is not over";
	for (unsigned i = 0; i < w->o.n_daemons; i++)
		if (w->daemons[i].is_alive && w->daemons[i].core->ledger.n)
			return "a daemon has entries";
	for (unsigned i = 0; i < w->n_workers; i++)
		for (unsigned h = 0; w->workers[i].daemon->is_alive && h < WORLD_HOLDS; h++)
			if (w->workers[i].holds[h].used)
				return "a worker holds something";
	return NULL;
}

bool world_settled(struct world *w)
{
	return world_unsettled(w) == NULL;
}
