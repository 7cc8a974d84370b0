/* world_check - what must hold: nothing lost, never two told owners, tokens that rise, credits, locks that outlive work. */
#include "sim/world.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- which item is it? ---- */

static uint32_t number_in(const char *p, size_t len)
{
	static const char mark[] = "\"n\":";
	for (size_t i = 0; i + sizeof mark - 1 < len; i++)
		if (memcmp(p + i, mark, sizeof mark - 1) == 0)
			return (uint32_t)strtoul(p + i + sizeof mark - 1, NULL, 10);
	return WORLD_ITEMS;
}

uint32_t item_of_info(struct slice info)
{
	return number_in(info.p, info.len);
}

static uint32_t item_of(const struct model_entry *e)
{
	struct slice in = model_entry_field(e, "lbs-input");
	return in.p ? number_in(in.p, in.len) : WORLD_ITEMS;
}

uint32_t item_of_entry(struct world *w, uint16_t svc, struct entry_id id)
{
	struct server *s = server_of_service(w, svc);
	const struct model_entry *v = model_redis_entries(s->model, &w->names[svc]);
	size_t n = model_redis_n_entries(s->model, &w->names[svc]);
	for (size_t i = 0; i < n; i++)
		if (entry_id_cmp(v[i].id, id) == 0)
			return item_of(&v[i]);
	return WORLD_ITEMS;
}

uint32_t item_of_lease(struct world *w, struct slice lease)
{
	uint32_t most = w->n_known < 256 ? w->n_known : 256;
	for (uint32_t i = 0; i < most; i++)
		if (strlen(w->known[i].lease) == lease.len && memcmp(w->known[i].lease, lease.p, lease.len) == 0)
			return w->known[i].item;
	return WORLD_ITEMS;
}

/* ---- P1 ---- */

/* consumer NULL: for anybody */
static bool is_pending(struct world *w, uint16_t svc, struct entry_id id, const char *consumer)
{
	struct server *s = server_of_service(w, svc);
	size_t n = model_redis_n_pending(s->model, &w->names[svc]);
	for (size_t i = 0; i < n; i++) {
		struct model_pending p = model_redis_pending(s->model, &w->names[svc], i, w->now);
		if (entry_id_cmp(p.id, id) == 0)
			return !consumer || strcmp(p.consumer, consumer) == 0;
	}
	return false;
}

bool is_dead_letter(struct world *w, uint16_t svc, uint32_t item)
{
	struct server *s = server_of_slot(w, w->names[svc].dlq_slot);
	const struct model_entry *v = model_redis_dead(s->model, &w->names[svc]);
	size_t n = model_redis_n_dead(s->model, &w->names[svc]);
	for (size_t i = 0; i < n; i++)
		if (item_of(&v[i]) == item)
			return true;
	return false;
}

static bool is_in_stream(struct world *w, uint16_t svc, uint32_t item)
{
	struct server *s = server_of_service(w, svc);
	const struct model_entry *v = model_redis_entries(s->model, &w->names[svc]);
	size_t n = model_redis_n_entries(s->model, &w->names[svc]);
	struct entry_id delivered = model_redis_last_delivered(s->model, &w->names[svc]);
	for (size_t i = 0; i < n; i++)
		if (item_of(&v[i]) == item &&
			(entry_id_cmp(v[i].id, delivered) > 0 || is_pending(w, svc, v[i].id, NULL) ||
				model_redis_is_parked(s->model, &w->names[svc], v[i].id)))
			return true;
	return false;
}

/* Waits for its time. */
static bool is_delayed(struct world *w, uint16_t svc, uint32_t item)
{
	struct server *s = server_of_service(w, svc);
	size_t n = model_redis_n_delayed(s->model, &w->names[svc]);
	for (size_t i = 0; i < n; i++) {
		int64_t due;
		const struct model_entry e = model_redis_delayed(s->model, &w->names[svc], i, &due);
		if (item_of(&e) == item)
			return true;
	}
	return false;
}

/* What is left of several, to run next. */
static bool is_wish(struct world *w, uint16_t svc, uint32_t item)
{
	struct server *s = server_of_service(w, svc);
	for (size_t i = 0; i < model_redis_n_wishes(s->model, &w->names[svc]); i++) {
		const struct model_entry e = model_redis_wish(s->model, &w->names[svc], i);
		if (item_of(&e) == item)
			return true;
	}
	return false;
}

static bool is_somewhere(struct world *w, uint32_t i)
{
	const struct item *it = &w->items[i];
	return is_in_stream(w, it->svc, i) || is_delayed(w, it->svc, i) || is_wish(w, it->svc, i) ||
	       is_dead_letter(w, it->svc, i);
}

/* Merged into another one of its stream that is still to run, or began after this one was added. The later one by id
 * stays: an older one that was requeued is that, too. */
static bool is_merged(struct world *w, uint32_t item)
{
	const struct item *it = &w->items[item];
	for (uint32_t i = 0; w->o.coalesce && i < w->n_items; i++) {
		const struct item *o = &w->items[i];
		if (i == item || o->svc != it->svc || strcmp(o->stream, it->stream) != 0)
			continue;
		if (o->is_deleted || (!o->is_done && is_somewhere(w, i)) || o->last_assigned > it->added)
			return true;
	}
	return false;
}

static void check_item(struct world *w, uint32_t i, const char *when)
{
	const struct item *it = &w->items[i];
	if (it->is_done || it->is_deleted || go_is_finishing(w, i) || is_somewhere(w, i) || is_merged(w, i))
		return;
	world_fail(w, "P1: item %u (%s %s) is lost after %s", i, w->rules[it->svc].name, it->stream, when);
}

void check_nothing_lost(struct world *w, const char *when)
{
	for (uint32_t i = 0; i < w->n_items; i++)
		check_item(w, i, when);
}

/* It waited for its stream, with its lock on the way to be deleted, and is pending for the same daemon again, which will
 * ask for the lock anew. */
static bool is_new_again(struct world *w, const struct cmd *c, const char *consumer)
{
	for (unsigned i = 0; i < w->o.n_daemons; i++) {
		struct daemon *d = &w->daemons[i];
		if (strcmp(d->shard_rules.consumer, consumer) != 0)
			continue;
		const struct entry *e = d->is_alive ? ledger_get(&d->core->ledger, c->svc, c->id) : NULL;
		return !e || e->state == ENTRY_FETCHING || e->state == ENTRY_LOCKING || e->state == ENTRY_PARKED;
	}
	return false;
}

/* Called after the command; item: what the entry was before it. */
void check_executed(struct world *w, struct server *s, const struct cmd *c, const struct reply *r, const char *consumer,
	uint32_t item)
{
	(void)s;
	if (c->kind == CMD_UNLOCK) {
		bool is_guard = c->as.lock.value.len > 8 &&
				memcmp(c->as.lock.value.p, "recover:", 8) == 0; /* opened again by who closed it */
		if (r->kind == REPLY_INT && r->integer == 1 && !is_guard && !w->has_lost && !w->has_regrouped &&
			is_pending(w, c->svc, c->id, consumer) && !is_new_again(w, c, consumer))
			world_fail(w, "P2: the lock of %.*s %llu-%llu is deleted while the entry is pending",
				(int)c->stream.len, c->stream.p, (unsigned long long)c->id.ms,
				(unsigned long long)c->id.seq);
		return;
	}
	if (item >= w->n_items)
		return;
	bool is_done = r->kind == REPLY_ID || (r->kind == REPLY_INT && (r->integer == 1 || r->integer == 3));
	if (c->kind == CMD_DONE && is_done) {
		if (!w->items[item].was_said && !w->o.entries.idle_release_ms)
			world_fail(w, "P5: item %u counts as done, but no worker said so", item);
		w->items[item].is_done = true;
	}
	if ((c->kind == CMD_REQUEUE || c->kind == CMD_LATER || c->kind == CMD_DEAD || c->kind == CMD_ACK_DEL) &&
		(r->kind == REPLY_ID || (r->kind == REPLY_INT && r->integer == 1)))
		check_go_robbed(w, item, command_name(c->kind));
	if (w->o.bug != BUG_ACK_FIRST || c->kind != CMD_REQUEUE)
		check_item(w, item, command_name(c->kind));
}

/* ---- retries ---- */

/* Its daemon puts it back: the retry is counted only when somebody has failed. before: the count it had. */
void check_retry(struct world *w, const struct cmd *c, const struct reply *r, uint32_t item, int64_t before)
{
	bool is_done = r->kind == REPLY_ID || (r->kind == REPLY_INT && r->integer == 1);
	if (w->o.entries.is_on) /* what counts there is the entry of the data stream */
		return;
	if (item >= w->n_items || !is_done || c->as.requeue.retry <= before || w->items[item].may_count || w->has_lost)
		return;
	world_fail(w, "item %u (%s) has retry %lld after %lld, but nobody failed", item, w->items[item].stream,
		(long long)c->as.requeue.retry, (long long)before);
}

/* Who held one stream only is why it ends; among several nobody knows, and with one taken from it that may be why. */
void check_worker_ends(struct world *w, struct daemon *d, uint64_t session)
{
	uint32_t pos = 0, n = 0, item = WORLD_ITEMS;
	for (struct entry *e; d->is_alive && (e = ledger_next(&d->core->ledger, &pos));) {
		if (e->owner != session ||
			(e->state != ENTRY_ASSIGNED && e->state != ENTRY_REVOKING && e->state != ENTRY_LIMBO))
			continue;
		if (e->is_lost || e->is_revoked)
			return;
		item = item_of_entry(w, e->svc, e->id);
		n++;
	}
	if (n == 1 && item < w->n_items)
		w->items[item].may_count = true;
}

bool check_nobody_left(struct world *w)
{
	for (unsigned i = 0; i < w->o.n_daemons; i++)
		for (uint16_t svc = 0; w->daemons[i].is_alive && !w->has_lost && svc < w->o.n_services; svc++)
			if (model_redis_has_left(server_of_service(w, svc)->model, &w->names[svc],
				    w->daemons[i].shard_rules.consumer))
				return false;
	return true;
}

/* ---- P2 ---- */

static bool is_at_work(const struct world *w, const struct sim_worker *k, const struct hold *h)
{
	if (!h->used || !h->was_working || w->now >= h->stop_at || (h->is_feed && h->n_queue == 0))
		return false;
	return !k->keeps_fence || w->now < h->until;
}

/* Stopped itself, or without a fence and its daemon was stopped: it could not know. */
static bool is_excused(const struct sim_worker *k, const struct hold *h)
{
	const struct daemon *d = k->daemon;
	return h->is_excused || k->is_paused ||
	       (!k->keeps_fence && (d->is_paused || (d->stalled & 1u << THREAD_COORD) || d->excused_at >= h->sent));
}

static void check_overlap(struct world *w, struct sim_worker *k, struct hold *h, struct sim_worker *k2, struct hold *h2)
{
	if (h2 == h || !is_at_work(w, k2, h2) || h2->svc != h->svc)
		return;
	bool is_same = h2->item == h->item;
	if (!is_same && (!w->o.serialize || strcmp(h2->stream, h->stream) != 0 || w->has_lost))
		return;
	if (!is_same && (w->items[h->item].is_deleted || w->items[h2->item].is_deleted))
		return; /* nobody knows any more what stream it was of */
	if (!is_same && w->has_regrouped && (w->items[h2->item].is_done || go_is_finishing(w, h2->item)))
		return; /* acknowledged by who had it before the group was deleted: its stream counts as free */
	if (is_same && h2->token >= h->token + w->has_regrouped && !w->has_lost)
		world_fail(w, "P2: the token of item %u does not rise", h->item);
	if (is_excused(k2, h2))
		return;
	world_fail(w, "P2: w%u was told of %s (item %u) while w%u works on it (item %u since %lld, until %lld)",
		k->index, h->stream, h->item, k2->index, h2->item, (long long)h2->since, (long long)h2->until);
}

static void check_credits(struct world *w, struct sim_worker *k)
{
	uint32_t n = 0;
	for (unsigned i = 0; i < WORLD_HOLDS; i++)
		n += k->holds[i].used;
	if (n > k->most_credits)
		world_fail(w, "w%u has %u streams but %u credits", k->index, n, k->most_credits);
}

void check_assign(struct world *w, struct sim_worker *k, struct hold *h)
{
	uint32_t slot = w->n_known++ % 256;
	snprintf(w->known[slot].lease, sizeof w->known[slot].lease, "%s", h->lease);
	w->known[slot].item = h->item;
	if (h->item >= w->n_items) {
		world_fail(w, "an assign of an unknown item");
		return;
	}
	struct item *it = &w->items[h->item];
	it->n_assigned++;
	if (!h->is_excused) /* it lay in the socket: its daemon may have given the worker up since */
		it->may_count = false;
	check_credits(w, k);
	it->last_assigned = w->now;
	if (h->is_excused) /* it lay in the socket of a stopped worker: the token is there for that */
		return;
	if (h->token + w->has_regrouped <= it->last_token && !w->has_lost)
		world_fail(w, "P2: item %u is assigned with token %llu after %llu", h->item,
			(unsigned long long)h->token, (unsigned long long)it->last_token);
	it->last_token = h->token;
	/* regrouped: delivered again before a done that had been refused was told again */
	if (it->is_done && !it->is_deleted && !w->has_lost && !w->has_regrouped && !w->o.entries.idle_release_ms)
		world_fail(w, "item %u is assigned after it was done", h->item);
	for (unsigned i = 0; i < w->n_workers; i++)
		for (unsigned j = 0; w->workers[i].is_alive && j < WORLD_HOLDS; j++)
			check_overlap(w, k, h, &w->workers[i], &w->workers[i].holds[j]);
	check_go_robbed(w, h->item, "an assign");
}

/* A Go consumer knows neither registry nor token: only the very item counts. */
void check_go_begins(struct world *w, const struct go *g, const struct go_hold *h)
{
	if (h->item < w->n_items)
		w->items[h->item].last_assigned = w->now;
	for (unsigned i = 0; i < w->n_workers; i++)
		for (unsigned j = 0; w->workers[i].is_alive && j < WORLD_HOLDS; j++) {
			struct sim_worker *k = &w->workers[i];
			struct hold *h2 = &k->holds[j];
			if (!is_at_work(w, k, h2) || h2->item != h->item || is_excused(k, h2))
				continue;
			world_fail(w, "P2: %s begins with item %u while w%u works on it (since %lld, until %lld)",
				g->name, h->item, k->index, (long long)h2->since, (long long)h2->until);
		}
}

/* The worker is told that all its leases are good until then: their locks must last as long. */
void check_until(struct world *w, struct daemon *d, uint64_t session, mono_ms until)
{
	uint32_t pos = 0;
	if (w->has_lost)
		return;
	for (struct entry *e; (e = ledger_next(&d->core->ledger, &pos));) {
		if (e->owner != session || e->state != ENTRY_ASSIGNED || e->is_lost || !e->good_until ||
			e->since == w->now)
			continue; /* assigned in this turn: its own frame comes behind this one */
		struct slice stream = {e->stream->bytes, e->stream->len};
		struct server *s = server_of_slot(w, e->lock_slot);
		struct model_lock_view v;
		bool is_there = model_redis_lock(s->model, stream, e->id, w->now, &v);
		const char *mine = d->shard_rules.lock_value;
		if (!is_there || v.value.len != strlen(mine) || memcmp(v.value.p, mine, v.value.len) != 0 ||
			w->now + v.ttl_ms < until)
			world_fail(w,
				"P2: a worker of d%u is told %s is good until %lld, but its lock (%.*s) ends at %lld",
				d->index, e->stream->bytes, (long long)until, is_there ? (int)v.value.len : 4,
				is_there ? v.value.p : "none", is_there ? (long long)(w->now + v.ttl_ms) : -1LL);
	}
}
