/* world_fault - what goes wrong in a random run: one fault after the other, each with an end. */
#include "sim/world.h"
#include <string.h>

enum { GAP_MS = 700 };

struct fault {
	struct event ev;
	event_fn *heal;
	struct server *server;
	struct daemon *daemon;
	struct sim_worker *worker;
	mono_ms until; /* of the whole storm */
	unsigned way;
	uint16_t thread; /* of the daemon, that stalls */
	bool is_stall, is_reload;
};

static void fault_free(struct world *w, struct event *ev)
{
	(void)w;
	mem_free(HEAP_OF(struct fault, ev, ev));
}

static struct fault *fault_new(event_fn *run)
{
	struct fault *f = mem_alloc(sizeof *f);
	f->ev = (struct event){.run = run, .drop = fault_free};
	return f;
}

static void heal_one(struct world *w, struct event *ev)
{
	struct fault *f = HEAP_OF(struct fault, ev, ev);
	if (f->server) {
		server_pause(w, f->server, false);
		model_redis_fail(f->server->model, CMD_N, 0, NULL);
		model_redis_set_oom(f->server->model, false);
	}
	if (f->is_stall)
		daemon_stall(w, f->daemon, f->thread, false);
	else if (f->is_reload)
		daemon_reload(w, f->daemon, w->o.ttl_ms, 0);
	else if (f->daemon && f->daemon->is_alive)
		daemon_pause(w, f->daemon, false);
	else if (f->daemon && !(w->has_gone && f->daemon->index == 0))
		daemon_start(w, f->daemon);
	if (f->worker && f->worker->is_alive)
		worker_pause(w, f->worker, false);
	else if (f->worker)
		worker_start(w, f->worker);
	mem_free(f);
}

static mono_ms span(struct world *w, mono_ms most)
{
	return world_between(&w->faults, 1, rng_below(&w->faults, 3) ? most / 8 : most);
}

static struct server *any_server(struct world *w)
{
	return &w->servers[w->owner[rng_below(&w->faults, SLOTS)]];
}

/* ---- Redis ---- */

static void fail_over_now(struct world *w, struct event *ev)
{
	struct fault *f = HEAP_OF(struct fault, ev, ev);
	if (f->server->is_alive) {
		if (f->way)
			server_fail_over(w, f->server);
		else
			server_restart(w, f->server);
	}
	mem_free(f);
}

static void fault_redis_lost(struct world *w, struct server *s)
{
	struct fault *f = fault_new(fail_over_now);
	f->server = s;
	f->way = (unsigned)rng_below(&w->faults, 2);
	if (!s->replica && rng_below(&w->faults, 2)) /* what the last millisecond wrote is lost */
		s->replica = model_redis_clone(s->model);
	event_at(w, &f->ev, w->now + 1);
}

static void fault_redis_errors(struct world *w, struct server *s)
{
	static const char *const errors[] = {"LOADING Redis is loading the dataset in memory",
		"BUSY a script is running", "MISCONF no disk", "TRYAGAIN Multiple keys",
		"ERR max number of clients reached", "CLUSTERDOWN The cluster is down",
		"READONLY You can't write against a read only replica.", "NOSCRIPT No matching script.",
		"NOPERM no permissions"};
	unsigned way = (unsigned)rng_below(&w->faults, 10);
	if (way == 9)
		model_redis_set_oom(s->model, true);
	else
		model_redis_fail(s->model, CMD_N, way == 7 ? 3 : -1, errors[way]);
	struct fault *f = fault_new(heal_one);
	f->server = s;
	event_at(w, &f->ev, w->now + span(w, w->o.ttl_ms));
}

static void fault_slot(struct world *w)
{
	if (!w->o.is_cluster)
		return;
	uint16_t slot = w->names[rng_below(&w->faults, w->o.n_services)].lbs_slot;
	unsigned which = (unsigned)rng_below(&w->faults, 2);
	for (unsigned i = 0; which && i < w->n_workers; i++) { /* the slot of a lock that is in use */
		struct daemon *d = w->workers[i].daemon;
		uint32_t pos = (uint32_t)rng_below(&w->faults, 3);
		struct entry *e = d->is_alive ? ledger_next(&d->core->ledger, &pos) : NULL;
		if (e && e->stream)
			slot = e->lock_slot;
	}
	if (w->n_keys && rng_below(&w->faults, 2)) { /* that of a data stream */
		const char *name = w->keys[rng_below(&w->faults, w->n_keys)].name;
		slot = command_slot(name, strlen(name));
	}
	server_move_slot(w, slot, any_server(w), span(w, 1000));
}

static void fault_redis(struct world *w)
{
	struct server *s = any_server(w);
	unsigned way = (unsigned)rng_below(&w->faults, 10);
	if (!s->is_alive || s->is_paused)
		return;
	if (way < 3) {
		server_pause(w, s, true);
		struct fault *f = fault_new(heal_one);
		f->server = s;
		event_at(w, &f->ev, w->now + span(w, 2 * w->o.ttl_ms));
	} else if (way < 5) {
		fault_redis_lost(w, s);
	} else if (way < 7) {
		fault_redis_errors(w, s);
	} else if (way < 9) {
		fault_slot(w);
	} else { /* its clock is corrected a little */
		s->clock_offset = world_between(&w->faults, 0, 150) - 75;
		model_redis_set_clock(s->model, 1700000000000 + s->clock_offset);
	}
}

static void fault_stream(struct world *w)
{
	uint16_t svc = (uint16_t)rng_below(&w->faults, w->o.n_services);
	if (rng_below(&w->faults, 3) == 0)
		server_destroy_group(w, svc);
	else
		server_delete_entry(w, svc, (uint32_t)rng_below(&w->faults, 3));
}

/* ---- processes ---- */

static void fault_thread(struct world *w, struct daemon *d)
{
	struct fault *f = fault_new(heal_one);
	f->daemon = d;
	f->is_stall = true;
	f->thread = (uint16_t)rng_below(&w->faults, THREAD_SHARDS + w->o.n_masters);
	daemon_stall(w, d, f->thread, true);
	event_at(w, &f->ev, w->now + span(w, 2 * w->o.ttl_ms));
}

/* Its leases become twice as long for a while, or one of its services is taken out. */
static void fault_reload(struct world *w, struct daemon *d)
{
	struct fault *f = fault_new(heal_one);
	f->daemon = d;
	f->is_reload = true;
	if (w->o.n_services == 1 || rng_below(&w->faults, 2)) /* one is always left */
		daemon_reload(w, d, 2 * w->o.ttl_ms, 0);
	else
		daemon_reload(w, d, w->o.ttl_ms, (uint16_t)(1 + rng_below(&w->faults, w->o.n_services)));
	event_at(w, &f->ev, w->now + span(w, 2 * w->o.ttl_ms));
}

static void fault_daemon(struct world *w)
{
	struct daemon *d = &w->daemons[rng_below(&w->faults, w->o.n_daemons)];
	unsigned way = (unsigned)rng_below(&w->faults, 8);
	if (!d->is_alive || d->is_paused)
		return;
	if (way >= 4) {
		(way < 6 ? fault_thread : fault_reload)(w, d);
		return;
	}
	if (way == 0)
		daemon_kill(w, d);
	else if (way == 1)
		daemon_stop(w, d, rng_below(&w->faults, 3) == 0);
	else
		daemon_pause(w, d, true);
	struct fault *f = fault_new(heal_one);
	f->daemon = d;
	event_at(w, &f->ev, w->now + span(w, 2 * w->o.ttl_ms));
}

static void die_now(struct world *w, struct event *ev)
{
	struct fault *f = HEAP_OF(struct fault, ev, ev);
	if (f->daemon->is_alive && !f->daemon->is_paused)
		daemon_kill(w, f->daemon);
	f->ev.run = heal_one;
	event_at(w, ev, w->now + span(w, 2 * w->o.ttl_ms));
}

/* Its acknowledgement is on its way, and arrives when somebody else has the stream. */
mono_ms fault_dies_acking(struct world *w, struct daemon *d)
{
	struct fault *f = fault_new(die_now);
	f->daemon = d;
	event_at(w, &f->ev, w->now);
	return world_between(&w->faults, w->o.ttl_ms, 3 * w->o.ttl_ms);
}

static void fault_conn(struct world *w)
{
	struct daemon *d = &w->daemons[rng_below(&w->faults, w->o.n_daemons)];
	for (unsigned i = 0; d->is_alive && i < WORLD_SERVERS; i++) {
		struct wshard *s = d->shards[i];
		if (!s)
			continue;
		if (rng_below(&w->faults, 2))
			role_conn_break(w, &s->command, "reset");
		for (struct link *l = s->readers.next; l != &s->readers; l = l->next)
			if (rng_below(&w->faults, 2))
				role_conn_break(w, LIST_OF(struct role_conn, link, l), "reset");
	}
}

static void fault_worker(struct world *w)
{
	struct sim_worker *k = &w->workers[rng_below(&w->faults, w->n_workers)];
	unsigned way = (unsigned)rng_below(&w->faults, 6);
	if (!k->is_alive || k->is_paused)
		return;
	if (way < 2) {
		worker_disconnect(w, k);
		return;
	}
	if (way == 2)
		worker_kill(w, k);
	else if (way == 3)
		worker_bye(w, k);
	else if (way == 4)
		worker_pause(w, k, true);
	else {
		worker_set_credits(w, k, (uint32_t)rng_below(&w->faults, 5));
		return;
	}
	struct fault *f = fault_new(heal_one);
	f->worker = k;
	event_at(w, &f->ev, w->now + span(w, 2 * w->o.ttl_ms));
}

static void fault_go(struct world *w)
{
	struct go *g = &w->gos[rng_below(&w->faults, WORLD_GOS)];
	if (!g->is_alive || w->now < g->paused_until)
		return;
	if (rng_below(&w->faults, 4) == 0)
		go_kill(w, g);
	else
		go_pause(w, g, span(w, 2 * w->o.ttl_ms));
}

/* ---- the storm ---- */

static void next_fault(struct world *w, struct event *ev)
{
	struct fault *f = HEAP_OF(struct fault, ev, ev);
	if (w->now >= f->until) {
		mem_free(f);
		return;
	}
	switch (rng_below(&w->faults, 6)) {
	case 0:
	case 1:
		fault_redis(w);
		break;
	case 2:
		fault_daemon(w);
		break;
	case 3:
		fault_conn(w);
		break;
	case 4:
		fault_stream(w);
		break;
	default:
		fault_worker(w);
		if (w->o.n_gos)
			fault_go(w);
		break;
	}
	event_at(w, ev, w->now + world_between(&w->faults, 0, GAP_MS));
}

void faults_begin(struct world *w, mono_ms until)
{
	struct fault *f = fault_new(next_fault);
	f->until = until;
	w->has_storm = true;
	event_at(w, &f->ev, w->now + world_between(&w->faults, 0, GAP_MS));
}

void faults_heal(struct world *w)
{
	w->is_calm = true;
	for (uint16_t i = 0; i < w->n_servers; i++) {
		server_pause(w, &w->servers[i], false);
		model_redis_fail(w->servers[i].model, CMD_N, 0, NULL);
		model_redis_set_oom(w->servers[i].model, false);
	}
	for (unsigned i = 0; i < WORLD_GOS; i++) /* what they leave must be recovered */
		go_kill(w, &w->gos[i]);
	for (unsigned i = 0; i < w->o.n_daemons; i++)
		daemon_pause(w, &w->daemons[i], false);
	for (unsigned i = 0; i < w->o.n_daemons; i++)
		for (uint16_t t = 0; t < THREAD_SHARDS + WORLD_SERVERS; t++)
			daemon_stall(w, &w->daemons[i], t, false);
	for (unsigned i = 0; i < w->o.n_daemons; i++)
		daemon_reload(w, &w->daemons[i], w->o.ttl_ms, 0);
	for (unsigned i = 0; i < w->n_workers; i++) {
		worker_pause(w, &w->workers[i], false);
		worker_start(w, &w->workers[i]);
		worker_set_credits(w, &w->workers[i], 4);
	}
}
