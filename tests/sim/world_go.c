/* world_go - consumers of redis-stream-client-go in the same group: their lock's value is their name, they make a missing
 * lock again when they extend it, XACK, XDEL and DEL are calls of their own, and they recover by XACK and XADD. They talk to
 * the model directly; while their master does not answer they do nothing. */
#include "lib/model_redis_int.h"
#include "sim/world.h"
#include <stdio.h>
#include <string.h>

enum { STEP_MIN_MS = 30, STEP_MAX_MS = 250 };

static struct model_redis *redis_of(struct world *w, const struct server *s)
{
	(void)w;
	return s->is_alive && !s->is_paused ? s->model : NULL;
}

static struct reply ask(struct world *w, const struct go *g, struct server *s, struct cmd c)
{
	struct reply r = {.kind = REPLY_NONE};
	struct model_redis *m = redis_of(w, s);
	c.svc = g->svc;
	c.use_eval = true;
	if (m)
		model_redis_exec(m, &c, &w->names[g->svc], g->name, w->now, &r);
	return r;
}

static struct reply ask_lock(struct world *w, const struct go *g, const struct go_hold *h, struct cmd c)
{
	c.stream = (struct slice){h->stream, strlen(h->stream)};
	c.id = h->id;
	c.as.lock.value = c.as.lock.value.p ? c.as.lock.value : (struct slice){g->name, strlen(g->name)};
	c.as.lock.ttl_ms = w->o.ttl_ms;
	return ask(w, g, server_of_slot(w, command_lock_slot(c.stream.p, c.stream.len, c.id)), c);
}

static struct model_stream *stream_of(struct world *w, const struct go *g)
{
	struct model_redis *m = redis_of(w, server_of_service(w, g->svc));
	return m ? model_stream_of(m, w->names[g->svc].lbs, false) : NULL;
}

static bool has_its_lock(struct world *w, const struct go *g, const struct go_hold *h)
{
	struct slice stream = {h->stream, strlen(h->stream)};
	struct server *s = server_of_slot(w, command_lock_slot(stream.p, stream.len, h->id));
	struct model_lock_view v;
	return model_redis_lock(s->model, stream, h->id, w->now, &v) && v.ttl_ms > 0 &&
	       v.value.len == strlen(g->name) && memcmp(v.value.p, g->name, v.value.len) == 0;
}

/* ---- what it does */

static void read_one(struct world *w, struct go *g)
{
	struct go_hold *h = NULL;
	for (unsigned i = 0; i < WORLD_GO_HOLDS && !h; i++)
		if (!g->holds[i].used)
			h = &g->holds[i];
	if (!h)
		return;
	struct reply r = ask(w, g, server_of_service(w, g->svc), (struct cmd){.kind = CMD_READ, .as.read.count = 1});
	struct entry_batch *b = r.kind == REPLY_ENTRIES ? r.entries : NULL;
	if (b && b->n == 1 && b->v[0].problem == ENTRY_GOOD) {
		const struct entry_in *e = &b->v[0];
		*h = (struct go_hold){.id = e->id, .item = item_of_info((struct slice){e->info->bytes, e->info->len})};
		snprintf(h->stream, sizeof h->stream, "%s", e->stream->bytes);
		h->used = ask_lock(w, g, h, (struct cmd){.kind = CMD_LOCK}).kind == REPLY_OK;
		h->done_at = w->now + world_between(&w->rng, 50, 2 * w->o.ttl_ms);
		world_tell(w, "%s reads %s (item %u)%s", g->name, h->stream, h->item, h->used ? "" : ": locked");
		if (h->used)
			check_go_begins(w, g, h);
	}
	entry_batch_free(b);
}

static void extend(struct world *w, struct go *g, struct go_hold *h)
{
	struct reply r = ask_lock(w, g, h, (struct cmd){.kind = CMD_LOCK_GET});
	bool is_mine =
		r.kind == REPLY_TEXT && r.text.len == strlen(g->name) && memcmp(r.text.p, g->name, r.text.len) == 0;
	if (is_mine)
		ask_lock(w, g, h, (struct cmd){.kind = CMD_RENEW});
	else if (r.kind == REPLY_NIL)
		ask_lock(w, g, h, (struct cmd){.kind = CMD_LOCK});
	else if (r.kind == REPLY_TEXT)
		h->used = false;
}

/* XACK in one step, XDEL and DEL in the next. */
static void finish(struct world *w, struct go *g, struct go_hold *h)
{
	struct model_stream *s = stream_of(w, g);
	if (!s)
		return;
	if (!h->is_acked) {
		world_tell(w, "%s xack %s (item %u)", g->name, h->stream, h->item);
		h->was_pending = model_pel_remove(s, h->id);
		h->is_acked = true;
		return;
	}
	if (model_stream_delete(s, h->id) && h->was_pending) {
		w->items[h->item].is_done = true;
		w->items[h->item].is_deleted = w->has_regrouped; /* it may have been delivered again between */
		w->has_deleted = w->has_deleted || w->has_regrouped;
	} else if (!h->was_pending) {
		w->has_deleted = w->items[h->item].is_deleted = true;
	}
	ask_lock(w, g, h, (struct cmd){.kind = CMD_UNLOCK}); /* its DEL: of its own, but when the group was deleted */
	h->used = false;
}

static bool is_held_by(const struct go *g, struct entry_id id)
{
	for (unsigned i = 0; i < WORLD_GO_HOLDS; i++)
		if (g->holds[i].used && entry_id_cmp(g->holds[i].id, id) == 0)
			return true;
	return false;
}

/* An old entry without a lock goes back to the stream. */
static void recover(struct world *w, struct go *g)
{
	struct model_stream *s = stream_of(w, g);
	struct server *server = server_of_service(w, g->svc);
	for (size_t i = 0; s && s->group && i < s->n_pel; i++) {
		struct model_pel_row p = s->pel[i];
		uint32_t item = item_of_entry(w, g->svc, p.id);
		if (item >= w->n_items || is_held_by(g, p.id) || server->model->now - p.delivered < 3 * w->o.ttl_ms)
			continue;
		struct go_hold h = {.id = p.id, .item = item};
		snprintf(h.stream, sizeof h.stream, "%s", w->items[item].stream);
		struct reply r = ask_lock(w, g, &h, (struct cmd){.kind = CMD_PROBE});
		if (r.kind != REPLY_INT || r.integer != -2)
			continue;
		world_tell(w, "%s recovers %s (item %u)", g->name, h.stream, item);
		char info[40];
		snprintf(info, sizeof info, "{\"n\":%u}", item);
		model_pel_remove(s, p.id);
		model_redis_add(server->model, &w->names[g->svc], h.stream, info, 1, w->now);
		model_stream_delete(s, p.id);
		server_served(w, server);
		return;
	}
}

static void go_step(struct world *w, struct event *ev)
{
	struct go *g = HEAP_OF(struct go, tick, ev);
	event_at(w, ev, w->now + world_between(&w->rng, STEP_MIN_MS, STEP_MAX_MS));
	if (!g->is_alive || w->now < g->paused_until)
		return;
	for (unsigned i = 0; i < WORLD_GO_HOLDS; i++) {
		struct go_hold *h = &g->holds[i];
		if (h->used && (h->is_acked || w->now >= h->done_at))
			finish(w, g, h);
		else if (h->used && w->now >= h->extend_at) {
			h->extend_at = w->now + w->o.ttl_ms / 3;
			extend(w, g, h);
		}
	}
	if (rng_below(&w->rng, 4) == 0)
		read_one(w, g);
	if (rng_below(&w->rng, 40) == 0)
		recover(w, g);
}

void gos_look(struct world *w)
{
	for (unsigned i = 0; i < WORLD_GOS; i++) {
		struct go *g = &w->gos[i];
		if (g->is_alive && w->now >= g->paused_until && rng_below(&w->rng, 4) == 0)
			read_one(w, g);
	}
}

/* ---- life */

void go_start(struct world *w, unsigned index, uint16_t svc)
{
	struct go *g = &w->gos[index];
	*g = (struct go){.svc = svc, .is_alive = true, .tick = {.run = go_step}};
	snprintf(g->name, sizeof g->name, "redis-consumer-go%u", index);
	event_at(w, &g->tick, w->now + world_between(&w->rng, 1, STEP_MAX_MS));
}

/* Not between XACK and XDEL: what that leaves in the stream is for nobody to find. */
void go_kill(struct world *w, struct go *g)
{
	if (!g->is_alive)
		return;
	for (unsigned i = 0; i < WORLD_GO_HOLDS; i++) {
		struct go_hold *h = &g->holds[i];
		if (h->used && h->is_acked)
			finish(w, g, h);
		if (h->used && h->is_acked)
			return; /* its master does not answer */
	}
	world_tell(w, "%s dies", g->name);
	g->is_alive = false;
	memset(g->holds, 0, sizeof g->holds);
}

void go_pause(struct world *w, struct go *g, mono_ms ms)
{
	world_tell(w, "%s stops for %lld", g->name, (long long)ms);
	g->paused_until = w->now + ms;
}

/* ---- checks */

bool go_is_finishing(const struct world *w, uint32_t item)
{
	for (unsigned i = 0; i < WORLD_GOS; i++)
		for (unsigned k = 0; k < WORLD_GO_HOLDS; k++)
			if (w->gos[i].holds[k].used && w->gos[i].holds[k].is_acked && w->gos[i].holds[k].item == item)
				return true;
	return false;
}

/* Somebody else begins with the item, or has taken its entry: it must have lost its lock first. */
void check_go_robbed(struct world *w, uint32_t item, const char *by)
{
	if (w->has_lost || w->has_regrouped)
		return;
	for (unsigned i = 0; i < WORLD_GOS; i++)
		for (unsigned k = 0; w->gos[i].is_alive && k < WORLD_GO_HOLDS; k++) {
			const struct go_hold *h = &w->gos[i].holds[k];
			if (h->used && !h->is_acked && h->item == item && has_its_lock(w, &w->gos[i], h))
				world_fail(w, "P6: %s is robbed of item %u (%s) by %s", w->gos[i].name, item, h->stream,
					by);
		}
}
