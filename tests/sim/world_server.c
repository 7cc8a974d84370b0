/* world_server - the life of a master: expiry events, pauses, restarts, failovers, slots that move. */
#include "lib/model_redis_int.h"
#include "sim/world.h"
#include <stdio.h>
#include <string.h>

struct push { /* an expiry event on its way to a subscriber */
	struct event ev;
	struct chan *chan;
	struct entry_id id;
	size_t len;
	char stream[];
};

static void push_free(struct world *w, struct event *ev)
{
	(void)w;
	mem_free(HEAP_OF(struct push, ev, ev));
}

static void push_arrives(struct world *w, struct event *ev)
{
	struct push *p = HEAP_OF(struct push, ev, ev);
	struct role_conn *l = p->chan->rconn;
	if (l && l->is_up && l->chan == p->chan) {
		struct shard_event se = {.kind = SHARD_EXPIRED,
			.role = l->role,
			.svc = l->svc,
			.stream = {p->stream, p->len},
			.id = p->id};
		wshard_step(w, l->shard, &se);
	}
	mem_free(p);
}

struct expiry_arg {
	struct world *w;
	struct server *s;
};
static struct expiry_arg expiry_args[WORLD_SERVERS];

static void on_expired(void *arg, struct slice stream, struct entry_id id)
{
	struct expiry_arg *a = arg;
	struct world *w = a->w;
	for (struct link *l = w->chans.next; l != &w->chans; l = l->next) {
		struct chan *c = LIST_OF(struct chan, all, l);
		if (c->server != a->s || !c->is_subscribed || !c->rconn)
			continue;
		struct push *p = mem_alloc(sizeof *p + stream.len);
		struct daemon *d = c->rconn->shard->daemon;
		p->ev = (struct event){.run = push_arrives,
			.drop = push_free,
			.daemon = d,
			.gen = d->gen,
			.thread = (uint16_t)(THREAD_SHARDS + c->rconn->shard->index)};
		p->chan = c;
		p->id = id;
		p->len = stream.len;
		memcpy(p->stream, stream.p, stream.len);
		event_in_order(w, &p->ev, w->now + world_lag(w), &c->replies);
	}
}

void server_start(struct world *w, struct server *s, struct model_redis *model)
{
	char run_id[40];
	snprintf(run_id, sizeof run_id, "run-%u-%u", s->index, ++s->n_lives);
	s->model = model;
	/* a server has it or not, and the next in its place need not be of the same version */
	model_redis_set_delifeq(model, w->o.story || rng_below(&w->rng, 2));
	s->is_alive = true;
	s->is_paused = false;
	model_redis_set_run_id(model, run_id);
	model_redis_set_clock(model, 1700000000000 + s->clock_offset);
	expiry_args[s->index] = (struct expiry_arg){w, s};
	model_redis_on_expired(model, on_expired, &expiry_args[s->index]);
}

struct server *server_at(struct world *w, const char *addr)
{
	for (uint16_t i = 0; i < w->n_servers; i++)
		if (strcmp(w->servers[i].addr, addr) == 0)
			return &w->servers[i];
	return NULL;
}

struct server *server_of_slot(struct world *w, uint16_t slot)
{
	if (!w->o.is_cluster) /* the one that lives */
		for (uint16_t i = 0; i < w->n_servers; i++)
			if (w->owner[0] == i)
				return &w->servers[i];
	return &w->servers[slot == w->ask_slot ? w->ask_to : w->owner[slot]];
}

struct server *server_of_service(struct world *w, uint16_t svc)
{
	return server_of_slot(w, w->names[svc].lbs_slot);
}

/* Its clients see a reset; what they had sent is lost. */
static void reset_clients(struct world *w, struct server *s)
{
	for (struct link *l = w->chans.next; l != &w->chans; l = l->next) {
		struct chan *c = LIST_OF(struct chan, all, l);
		if (c->server == s && c->rconn)
			role_conn_break(w, c->rconn, "connection reset by peer");
	}
}

void server_pause(struct world *w, struct server *s, bool paused)
{
	if (s->is_paused == paused || !s->is_alive)
		return;
	s->is_paused = paused;
	w->moved_at = w->now;
	world_tell(w, "redis %u %s", s->index, paused ? "stopped" : "goes on");
	if (paused)
		return;
	for (struct link *l = w->chans.next; l != &w->chans; l = l->next) {
		struct chan *c = LIST_OF(struct chan, all, l);
		if (c->server == s)
			chan_serve(w, c);
	}
	server_served(w, s);
}

static struct model_redis *survivor(struct world *w, struct server *s)
{
	struct model_redis *m = s->replica;
	if (m)
		w->has_lost = true;
	else
		m = model_redis_clone(s->model);
	s->replica = NULL;
	return m;
}

void server_restart(struct world *w, struct server *s)
{
	struct model_redis *m = survivor(w, s);
	world_tell(w, "redis %u restarts", s->index);
	w->moved_at = w->now;
	reset_clients(w, s);
	model_redis_free(s->model);
	server_start(w, s, m);
}

void server_fail_over(struct world *w, struct server *s)
{
	if (!w->o.is_cluster || w->n_servers == WORLD_SERVERS) {
		server_restart(w, s);
		return;
	}
	struct server *to = &w->servers[w->n_servers];
	*to = (struct server){.index = w->n_servers++, .clock_offset = s->clock_offset};
	snprintf(to->addr, sizeof to->addr, "10.0.0.%u:6379", to->index + 1u);
	world_tell(w, "redis %u failed over to %u", s->index, to->index);
	w->moved_at = w->now;
	server_start(w, to, survivor(w, s));
	for (unsigned i = 0; i < SLOTS; i++)
		if (w->owner[i] == s->index)
			w->owner[i] = (uint8_t)to->index;
	if (w->ask_to == s->index)
		w->ask_to = to->index;
	s->is_alive = false;
	reset_clients(w, s);
}

/* ---- what operators and producers do ---- */

/* Once in a run: a second time, a requeue of one daemon that waits for the first repair may meet an entry that the other has
 * got in between, under the same id. */
void server_destroy_group(struct world *w, uint16_t svc)
{
	struct server *s = server_of_service(w, svc);
	if (!s->is_alive || s->is_paused || w->has_regrouped)
		return;
	world_tell(w, "the group of %s is deleted", w->rules[svc].name);
	w->has_regrouped = true;
	w->moved_at = w->now;
	model_redis_destroy_group(s->model, &w->names[svc]);
	server_served(w, s);
}

void server_delete_entry(struct world *w, uint16_t svc, uint32_t n)
{
	struct server *s = server_of_service(w, svc);
	if (!s->is_alive || s->is_paused || n >= model_redis_n_pending(s->model, &w->names[svc]))
		return;
	struct entry_id id = model_redis_pending(s->model, &w->names[svc], n, w->now).id;
	uint32_t item = item_of_entry(w, svc, id);
	if (item >= w->n_items)
		return;
	world_tell(w, "entry %llu-%llu is deleted", (unsigned long long)id.ms % 100000000, (unsigned long long)id.seq);
	w->has_deleted = w->items[item].is_deleted = true;
	model_redis_xdel(s->model, &w->names[svc], id);
	if (s->replica)
		model_redis_xdel(s->replica, &w->names[svc], id);
}

/* ---- slots ---- */

static void move_locks(struct model_redis *from, struct model_redis *to, uint16_t slot)
{
	size_t pos = 0;
	for (struct model_lock *l; (l = map_next(&from->locks, &pos));) {
		if (command_lock_slot(l->key, l->stream_len, l->id) != slot)
			continue;
		mono_ms at = heap_at(&from->expiries, &l->expiry);
		heap_remove(&from->expiries, &l->expiry);
		map_remove(&from->locks, l->key, l->stream_len + sizeof l->id);
		map_put(&to->locks, l->key, l->stream_len + sizeof l->id, l);
		heap_set(&to->expiries, &l->expiry,
			at == MONO_NEVER ? at : at - from->offset + to->offset); /* PTTL is what moves */
	}
}

/* A look at a key that is not there leaves an empty one in the model. */
static void drop_empty(struct model_redis *m, const char *key)
{
	model_stream_drop(m, key);
	for (size_t i = 0; i < m->n_registries; i++) {
		if (strcmp(m->registries[i]->key, key) != 0)
			continue;
		map_fini(&m->registries[i]->rows);
		mem_free(m->registries[i]->key);
		mem_free(m->registries[i]);
		m->registries[i] = m->registries[--m->n_registries];
	}
}

static void move_streams(struct model_redis *from, struct model_redis *to, uint16_t slot)
{
	for (size_t i = 0; i < from->n_streams;) {
		struct model_stream *s = from->streams[i];
		if (command_slot(s->key, strlen(s->key)) != slot) {
			i++;
			continue;
		}
		drop_empty(to, s->key);
		to->streams = mem_grow(to->streams, to->n_streams + 1, sizeof(struct model_stream *));
		to->streams[to->n_streams++] = s;
		from->streams[i] = from->streams[--from->n_streams];
	}
	for (size_t i = 0; i < from->n_registries;) {
		struct model_registry *r = from->registries[i];
		if (command_slot(r->key, strlen(r->key)) != slot) {
			i++;
			continue;
		}
		drop_empty(to, r->key);
		to->registries = mem_grow(to->registries, to->n_registries + 1, sizeof(struct model_registry *));
		to->registries[to->n_registries++] = r;
		from->registries[i] = from->registries[--from->n_registries];
	}
}

struct handover { /* the slot's new owner is told to everybody */
	struct event ev;
	uint16_t slot, to;
	bool is_public;
};

static void handover_free(struct world *w, struct event *ev)
{
	(void)w;
	mem_free(HEAP_OF(struct handover, ev, ev));
}

static void hand_over(struct world *w, struct event *ev)
{
	struct handover *h = HEAP_OF(struct handover, ev, ev);
	if (h->is_public) {
		w->seen[h->slot] = w->owner[h->slot];
		handover_free(w, ev);
		return;
	}
	w->owner[h->slot] = (uint8_t)w->ask_to;
	w->ask_slot = w->ask_to = SHARD_NONE;
	h->is_public = true;
	event_at(w, ev, w->now + world_between(&w->faults, 0, 300)); /* gossip */
	server_served(w, &w->servers[w->owner[h->slot]]);
}

void server_move_slot(struct world *w, uint16_t slot, struct server *to, mono_ms asking_ms)
{
	struct server *from = &w->servers[w->owner[slot]];
	if (w->ask_slot != SHARD_NONE || from == to || !to->is_alive || !from->is_alive || to->is_paused ||
		from->is_paused)
		return;
	if (from->replica || to->replica) /* about to fail over: what a slot held would be lost whole */
		return;
	world_tell(w, "slot %u moves from redis %u to %u", slot, from->index, to->index);
	w->moved_at = w->now;
	feed_slot_moves(w, from, slot);
	move_locks(from->model, to->model, slot);
	move_streams(from->model, to->model, slot);
	model_waits_move(from->model, to->model, slot);
	model_left_move(from->model, to->model, slot);
	model_feed_move(from->model, to->model, slot);
	w->ask_slot = slot;
	w->ask_to = to->index;
	struct handover *h = mem_alloc(sizeof *h);
	h->ev = (struct event){.run = hand_over, .drop = handover_free};
	h->slot = slot;
	event_at(w, &h->ev, w->now + asking_ms);
	server_served(w, from); /* blocked readers there learn of it now, or when they time out */
}
