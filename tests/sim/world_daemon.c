/* world_daemon - one daemon's threads: its turns are those of run/perform, which the real threads take too. */
#include "sim/world.h"
#include <stdio.h>
#include <string.h>

struct mail { /* a message between threads */
	struct event ev;
	struct daemon *daemon;
	uint16_t shard;
	struct msg msg;
};

static void mail_free(struct world *w, struct event *ev)
{
	struct mail *m = HEAP_OF(struct mail, ev, ev);
	(void)w;
	msg_fini(&m->msg);
	mem_free(m);
}

static void mail_to_shard(struct world *w, struct event *ev);

static struct mail *mail_new(struct daemon *d, uint16_t shard, event_fn *run, const struct msg *msg)
{
	struct mail *m = mem_alloc(sizeof *m);
	m->ev = (struct event){.run = run, .drop = mail_free, .daemon = d, .gen = d->gen};
	m->daemon = d;
	m->shard = shard;
	m->msg = *msg;
	m->ev.thread = run == mail_to_shard ? (uint16_t)(THREAD_SHARDS + shard) : THREAD_COORD;
	return m;
}

static int64_t wall(const struct world *w)
{
	return 1700000000000 + w->now;
}

static void say(struct world *w, const struct daemon *d, int shard, const struct effect *ef)
{
	if (shard < 0 && w->o.story)
		world_tell(w, "d%u %s", d->index, ef->text ? ef->text->bytes : "");
	else if (shard < 0)
		world_say(w, "d%u %s", d->index, ef->text ? ef->text->bytes : "");
	else
		world_say(w, "d%u.s%d %s", d->index, shard, ef->text ? ef->text->bytes : "");
}

/* ---- a shard's thread ---- */

static void mail_to_coord(struct world *w, struct event *ev)
{
	struct mail *m = HEAP_OF(struct mail, ev, ev);
	trace_msg(w, m->daemon, m->shard, true, &m->msg);
	struct coord_event ce = {.kind = COORD_MSG, .msg = &m->msg};
	daemon_step(w, m->daemon, &ce);
	mem_free(m); /* what it owned is the step's */
}

static void to_coord(void *arg, const struct msg *msg)
{
	struct wshard *s = arg;
	struct world *w = s->daemon->world;
	struct mail *m = mail_new(s->daemon, s->index, mail_to_coord, msg);
	if (msg->kind != MSG_LOCK_CALL && msg->kind != MSG_LOCK_ANSWER)
		m->msg.from = s->index;
	event_in_order(w, &m->ev, w->now + world_lag(w) / 2, &s->to_coord);
}

static struct role_conn *reader_of(struct wshard *s, uint16_t svc)
{
	for (struct link *l = s->readers.next; l != &s->readers; l = l->next)
		if (LIST_OF(struct role_conn, link, l)->svc == svc)
			return LIST_OF(struct role_conn, link, l);
	return NULL;
}

static bool send_command(void *arg, const struct effect *ef)
{
	struct wshard *s = arg;
	struct role_conn *l = &s->command;
	if (ef->role == CONN_SUBSCRIBER)
		l = &s->subscriber;
	else if (ef->role == CONN_READER)
		l = reader_of(s, ef->svc);
	if (!l || !l->shard)
		return false;
	role_conn_send(s->daemon->world, l, ef);
	return true;
}

static void open_reader(void *arg, uint16_t svc)
{
	struct wshard *s = arg;
	if (reader_of(s, svc))
		return;
	struct role_conn *l = mem_alloc(sizeof *l);
	role_conn_open(s->daemon->world, l, s, CONN_READER, svc);
	list_push(&s->readers, &l->link);
}

static void close_reader(void *arg, uint16_t svc)
{
	struct wshard *s = arg;
	struct role_conn *l = reader_of(s, svc);
	if (!l)
		return;
	role_conn_close(s->daemon->world, l);
	list_remove(&l->link);
	mem_free(l);
}

static void say_shard(void *arg, const struct effect *ef)
{
	const struct wshard *s = arg;
	say(s->daemon->world, s->daemon, s->index, ef);
}

static const struct shard_doers shard_doers = {.send = send_command,
	.to_coord = to_coord,
	.open_reader = open_reader,
	.close_reader = close_reader,
	.log = say_shard};

void wshard_step(struct world *w, struct wshard *s, struct shard_event *ev)
{
	ev->now = w->now;
	ev->wall_ms = wall(w);
	event_at(w, &s->tick, shard_turn(s->core, ev, &s->turns, &shard_doers, s));
	struct shard_event unsent;
	if (shard_turn_unsent(&s->turns, &unsent))
		wshard_step(w, s, &unsent); /* and that one the next */
}

static void shard_tick(struct world *w, struct event *ev)
{
	struct shard_event se = {.kind = SHARD_TICK};
	wshard_step(w, HEAP_OF(struct wshard, tick, ev), &se);
}

static void shard_start(struct world *w, struct daemon *d, uint16_t index, const char *addr)
{
	struct wshard *s = mem_alloc(sizeof *s);
	s->daemon = d;
	s->index = index;
	s->server = server_at(w, addr);
	struct shard_rules rules = d->shard_rules;
	rules.seed += index;
	s->core = shard_new(&rules, index);
	effects_init(&s->turns.effects);
	list_init(&s->readers);
	s->tick = (struct event){
		.run = shard_tick, .daemon = d, .gen = d->gen, .thread = (uint16_t)(THREAD_SHARDS + index)};
	list_init(&s->tick.held);
	d->shards[index] = s;
	role_conn_open(w, &s->command, s, CONN_COMMAND, SERVICE_NONE);
	if (rules.events_on)
		role_conn_open(w, &s->subscriber, s, CONN_SUBSCRIBER, SERVICE_NONE);
	event_at(w, &s->tick, w->now);
}

void wshard_free(struct world *w, struct wshard *s)
{
	event_cancel(w, &s->tick);
	role_conn_close(w, &s->command);
	if (s->subscriber.shard)
		role_conn_close(w, &s->subscriber);
	for (struct link *l; (l = list_pop(&s->readers));) {
		role_conn_close(w, LIST_OF(struct role_conn, link, l));
		mem_free(LIST_OF(struct role_conn, link, l));
	}
	shard_free(s->core);
	shard_turns_fini(&s->turns);
	mem_free(s);
}

/* ---- the coordinator's thread ---- */

static void mail_to_shard(struct world *w, struct event *ev)
{
	struct mail *m = HEAP_OF(struct mail, ev, ev);
	struct wshard *s = m->daemon->shards[m->shard];
	if (!s) {
		mail_free(w, ev);
		return;
	}
	trace_msg(w, m->daemon, m->shard, false, &m->msg);
	/* the tick comes at once, behind what arrives in the same millisecond */
	struct shard_event se = {.kind = SHARD_MSG, .msg = &m->msg, .has_more = true};
	wshard_step(w, s, &se);
	mem_free(m);
}

static bool to_shard(void *arg, uint16_t shard, const struct msg *msg)
{
	struct daemon *d = arg;
	struct world *w = d->world;
	struct wshard *s = shard < WORLD_SERVERS ? d->shards[shard] : NULL;
	if (!s)
		return false;
	struct mail *m = mail_new(d, shard, mail_to_shard, msg);
	event_in_order(w, &m->ev, w->now + world_lag(w) / 2, &s->to_shard);
	return true;
}

static void from_nobody(void *arg, const struct msg *answer)
{
	struct daemon *d = arg;
	event_at(d->world, &mail_new(d, answer->from, mail_to_coord, answer)->ev, d->world->now);
}

static void topology_answers(struct world *w, struct event *ev)
{
	struct daemon *d = HEAP_OF(struct daemon, topo, ev);
	bool is_there = false;
	for (uint16_t i = 0; i < w->n_servers; i++)
		is_there = is_there || (w->servers[i].is_alive && !w->servers[i].is_paused);
	struct coord_event ce = {.kind = COORD_TOPOLOGY_FAILED, .text = {"nobody answers", 14}};
	struct slot_range ranges[64];
	size_t n = 0;
	if (is_there && !w->o.is_cluster) {
		ce = (struct coord_event){
			.kind = COORD_TOPOLOGY, .text = {w->servers[0].addr, strlen(w->servers[0].addr)}};
	} else if (is_there) {
		for (unsigned s = 0; s < SLOTS && n < 64; s++) {
			struct server *o = &w->servers[w->seen[s]];
			if (!o->is_alive && w->owner[s] != w->seen[s])
				o = &w->servers[w->owner[s]]; /* a failover has been agreed on */
			if (s > 0 && n && w->seen[s] == w->seen[s - 1]) {
				ranges[n - 1].to = (uint16_t)s;
				continue;
			}
			ranges[n] = (struct slot_range){.from = (uint16_t)s, .to = (uint16_t)s, .port = 6379};
			snprintf(ranges[n++].host, sizeof ranges[0].host, "%.*s", (int)(strchr(o->addr, ':') - o->addr),
				o->addr);
		}
		ce = (struct coord_event){.kind = COORD_TOPOLOGY, .slots = ranges, .n = n};
	}
	daemon_step(w, d, &ce);
}

static void start_shard(void *arg, const struct effect *ef)
{
	struct daemon *d = arg;
	if (ef->to < WORLD_SERVERS)
		shard_start(d->world, d, ef->to, ef->address->bytes);
}

static void stop_shard(void *arg, uint16_t shard)
{
	struct daemon *d = arg;
	wshard_free(d->world, d->shards[shard]);
	d->shards[shard] = NULL;
}

static void to_worker(void *arg, const struct effect *ef)
{
	struct daemon *d = arg;
	worker_take(d->world, d, ef->session, &ef->frame);
}

static void forget_session(void *arg, uint64_t session)
{
	(void)arg;
	(void)session;
}

static void drop_worker(void *arg, uint64_t session)
{
	struct daemon *d = arg;
	worker_cut(d->world, d, session);
}

static void ask_topology(void *arg)
{
	struct daemon *d = arg;
	struct world *w = d->world;
	event_at(w, &d->topo, w->now + world_lag(w) + world_lag(w));
}

static void end(void *arg, const struct effect *ef)
{
	struct daemon *d = arg;
	const char *why = ef->text ? ef->text->bytes : "";
	world_tell(d->world, "d%u ends with %d%s%.*s", d->index, ef->exit_code, *why ? ": " : "",
		(int)strcspn(why, ":"), why);
	d->wants_exit = true;
	d->exit_code = ef->exit_code;
}

static void answer_control(void *arg, const struct effect *ef)
{
	(void)arg; /* there is no control socket */
	(void)ef;
}

static void say_coord(void *arg, const struct effect *ef)
{
	const struct daemon *d = arg;
	say(d->world, d, -1, ef);
}

static const struct coord_doers coord_doers = {
	.to_shard = to_shard,
	.from_nobody = from_nobody,
	.start_shard = start_shard,
	.stop_shard = stop_shard,
	.frame = to_worker,
	.close = drop_worker,
	.forget_session = forget_session,
	.ask_topology = ask_topology,
	.end = end,
	.control = answer_control,
	.log = say_coord,
};

void daemon_step(struct world *w, struct daemon *d, struct coord_event *ev)
{
	ev->now = w->now;
	ev->wall_ms = wall(w);
	event_at(w, &d->tick, coord_turn(d->core, ev, &d->effects, &coord_doers, d));
	if (d->wants_exit)
		daemon_kill(w, d);
}

static void coord_tick(struct world *w, struct event *ev)
{
	struct coord_event ce = {.kind = COORD_TICK};
	daemon_step(w, HEAP_OF(struct daemon, tick, ev), &ce);
}

/* ---- life ---- */

static void set_rules(struct world *w, struct daemon *d, struct coord_rules *c)
{
	mono_ms ttl = w->o.ttl_ms, margin = mono_max(ttl / 5, 1000);
	struct shard_rules *r = &d->shard_rules;
	*r = (struct shard_rules){.incarnation = d->incarnation,
		.command_timeout_ms = mono_min(3000, (ttl - margin - ttl / 3) * 9 / 10),
		.events_on = w->o.events,
		.events_merge = w->o.events,
		.is_checked = true,
		.seed = rng_next(&w->rng)};
	snprintf(r->consumer, sizeof r->consumer, "redis-consumer-%s", d->node);
	snprintf(r->lock_value, sizeof r->lock_value, "%s/%016llx", r->consumer, (unsigned long long)d->incarnation);
	*c = (struct coord_rules){.max_sessions = 100,
		.is_checked = true,
		.max_frame_bytes = 1 << 20,
		.hello_timeout_ms = 10000,
		.resume_grace_ms = mono_min(5000, ttl / 2),
		.topology_refresh_ms = 30000,
		.drain_timeout_ms = 3 * ttl,
		.incarnation = d->incarnation,
		.seed = rng_next(&w->rng)};
	snprintf(c->node, sizeof c->node, "%s", d->node);
}

static void configure(struct world *w, struct daemon *d)
{
	struct service_rules *services[WORLD_SERVICES];
	unsigned n = 0;
	for (unsigned i = 0; i < w->o.n_services; i++) {
		if (i + 1 == d->without)
			continue;
		struct service_rules *r = services[n++] = mem_alloc(sizeof *r);
		memcpy(r, &w->rules[i], sizeof *r);
		atomic_init(&r->refs, 1);
		r->lease.ttl_ms = d->ttl_ms;
		r->lease.renew_ms = d->ttl_ms / 3;
		r->lease.stop_margin_ms = mono_max(d->ttl_ms / 5, 1000);
	}
	struct coord_event ev = {.kind = COORD_SERVICES, .services = services, .n = n};
	daemon_step(w, d, &ev);
}

void daemon_reload(struct world *w, struct daemon *d, mono_ms ttl_ms, uint16_t without)
{
	if (!d->is_alive || d->is_paused || (d->stalled & 1u << THREAD_COORD))
		return;
	world_tell(w, "d%u reloads ttl=%lld without=%d", d->index, (long long)ttl_ms, (int)without - 1);
	d->ttl_ms = ttl_ms;
	d->without = without;
	configure(w, d);
}

void daemon_start(struct world *w, struct daemon *d)
{
	d->gen++;
	d->is_alive = true;
	d->is_paused = d->wants_exit = false;
	d->stalled = 0;
	d->ttl_ms = w->o.ttl_ms;
	d->has_pushes = w->o.entries.is_on && w->o.tracking != WORLD_NO_PUSHES;
	d->without = 0;
	d->exit_code = -1;
	d->incarnation = (uint64_t)wall(w) << 16 | (rng_next(&w->rng) & 0xffff);
	struct coord_rules rules;
	set_rules(w, d, &rules);
	d->core = coord_new(&rules);
	effects_init(&d->effects);
	d->tick = (struct event){.run = coord_tick, .daemon = d, .gen = d->gen};
	d->topo = (struct event){.run = topology_answers, .daemon = d, .gen = d->gen};
	list_init(&d->tick.held);
	list_init(&d->topo.held);
	world_tell(w, "d%u starts", d->index);
	configure(w, d);
}

static void forget_held(struct world *w, struct link *list)
{
	for (struct link *l; (l = list_pop(list));) {
		struct event *ev = LIST_OF(struct event, held, l);
		if (ev->drop)
			ev->drop(w, ev);
	}
}

void daemon_kill(struct world *w, struct daemon *d)
{
	if (!d->is_alive)
		return;
	world_tell(w, "d%u is gone", d->index);
	d->is_alive = d->is_paused = d->wants_exit = false;
	d->excused_at = w->now;
	for (uint32_t i = 0; i < w->n_items; i++) /* whatever it had */
		w->items[i].may_count = true;
	event_cancel(w, &d->tick);
	event_cancel(w, &d->topo);
	for (unsigned i = 0; i < WORLD_SERVERS; i++) {
		if (d->shards[i])
			wshard_free(w, d->shards[i]);
		d->shards[i] = NULL;
	}
	forget_held(w, &d->held);
	forget_held(w, &d->held_late);
	forget_held(w, &d->stuck);
	d->gen++;
	coord_free(d->core);
	d->core = NULL;
	effects_fini(&d->effects);
	worker_daemon_gone(w, d);
}

static void let_go(struct world *w, struct daemon *d, struct link *list)
{
	uint32_t gen = d->gen;
	for (struct link *l; gen == d->gen && (l = list_pop(list));)
		event_happens(w, LIST_OF(struct event, held, l));
}

void daemon_pause(struct world *w, struct daemon *d, bool paused)
{
	if (!d->is_alive || d->is_paused == paused)
		return;
	world_tell(w, "d%u %s", d->index, paused ? "stopped" : "goes on");
	d->is_paused = paused;
	if (paused)
		return;
	d->excused_at = w->now;
	let_go(w, d, &d->held);
	let_go(w, d, &d->held_late);
}

/* What waited for the thread: all of it, timers of connections last. */
static void unstick(struct world *w, struct daemon *d, uint16_t thread)
{
	struct link now, late, rest;
	list_init(&now);
	list_init(&late);
	list_init(&rest);
	for (struct link *l; (l = list_pop(&d->stuck));) {
		const struct event *ev = LIST_OF(struct event, held, l);
		list_push(ev->thread != thread ? &rest : ev->is_late ? &late : &now, l);
	}
	for (struct link *l; (l = list_pop(&rest));)
		list_push(&d->stuck, l);
	if (d->is_paused) { /* before what came since */
		while (!list_empty(&now)) {
			struct link *last = now.prev;
			list_remove(last);
			list_push_front(&d->held, last);
		}
	}
	let_go(w, d, &now);
	let_go(w, d, &late);
	forget_held(w, &now); /* it has ended meanwhile */
	forget_held(w, &late);
}

void daemon_stall(struct world *w, struct daemon *d, uint16_t thread, bool stalled)
{
	if (!d->is_alive || (d->stalled >> thread & 1) == stalled)
		return;
	world_tell(w, "d%u thread %u %s", d->index, thread, stalled ? "stalls" : "goes on");
	d->stalled ^= 1u << thread;
	if (stalled)
		return;
	if (thread == THREAD_COORD)
		d->excused_at = w->now;
	unstick(w, d, thread);
}

void daemon_stop(struct world *w, struct daemon *d, bool drain)
{
	if (!d->is_alive || d->is_paused || (d->stalled & 1u << THREAD_COORD))
		return;
	world_tell(w, "d%u is told to %s", d->index, drain ? "drain" : "hand over");
	struct coord_event ev = {.kind = COORD_STOP, .flag = drain};
	daemon_step(w, d, &ev);
}
