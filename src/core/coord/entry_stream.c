/* entry_stream - the entries of one stream here: they go on in order, and only the first has a lock. */
#include "core/coord/coord_p.h"
#include <assert.h>
#include <string.h>

static bool is_same_stream(const struct entry *a, const struct entry *b)
{
	return a->stream->len == b->stream->len && memcmp(a->stream->bytes, b->stream->bytes, a->stream->len) == 0;
}

void entry_lead(struct coord_service *s, struct entry *e)
{
	assert(e->stream && e->svc == s->svc);
	if (s->rules->same_stream == SAME_STREAM_ALLOW || e->in_active ||
		map_get(&s->active, e->stream->bytes, e->stream->len))
		return;
	map_put(&s->active, e->stream->bytes, e->stream->len, e);
	e->in_active = true;
}

/* Asks to be put to wait, without a lock: the server does so when its stream has an older entry, else it is taken. */
void entry_park(struct coord *c, struct entry *e)
{
	assert(e->stream && e->state == ENTRY_PARKED);
	list_remove(&e->peers);
	entry_move(c, e, ENTRY_TAKING, MONO_NEVER);
	entry_send_op(c, e);
}

void entry_lock(struct coord *c, struct entry *e)
{
	assert(e->stream);
	struct coord_service *s = services_find(&c->services, e->svc);
	list_remove(&e->peers);
	entry_lead(s, e);
	entry_reserve_for_lock(c, s, e);
	entry_move(c, e, ENTRY_LOCKING, entry_waits_until(c, e, e->lock_slot));
	entry_send_lease(c, e, topology_shard(&c->topo, e->lock_slot), false);
}

static bool is_registered(const struct entry *e)
{
	return e->state != ENTRY_LOCKING && e->state != ENTRY_BUSY && e->state != ENTRY_TAKING;
}

void entry_follow(struct coord *c, struct entry *e, struct entry *first)
{
	assert(first != e && first->in_active && e->state == ENTRY_PARKED);
	struct coord_service *s = services_find(&c->services, e->svc);
	first->has_followers = true;
	list_push(&s->parked, &e->peers);
	e->deadline = c->now + rng_jitter(&c->rng, PARKED_RETRY_MS, 10);
	entry_arm(c, e);
	if (is_registered(first))
		entry_park(c, e);
}

/* The first one is registered now: those behind it can be put to wait. */
void entry_park_followers(struct coord *c, struct coord_service *s, const struct entry *first)
{
	assert(first->in_active || !first->has_followers);
	if (!first->has_followers)
		return;
	for (struct link *l = s->parked.next, *next; l != &s->parked; l = next) {
		next = l->next;
		struct entry *e = LIST_OF(struct entry, peers, l);
		if (is_same_stream(e, first))
			entry_park(c, e);
	}
}

/* Its stream is free: the oldest one behind it comes first now. */
void entry_leave_active(struct coord *c, struct coord_service *s, struct entry *e)
{
	if (!e->in_active)
		return;
	map_remove(&s->active, e->stream->bytes, e->stream->len);
	e->in_active = false;
	if (!e->has_followers)
		return;
	struct entry *first = NULL;
	for (struct link *l = s->parked.next; l != &s->parked; l = l->next) {
		struct entry *p = LIST_OF(struct entry, peers, l);
		if (is_same_stream(p, e) && (!first || entry_id_cmp(p->id, first->id) < 0))
			first = p;
	}
	if (!first)
		return;
	first->has_followers = true;
	entry_lock(c, first);
}
