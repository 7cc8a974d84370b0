/* services - the services of the configuration, and the credits they may read with. */
#include "core/coord/coord.h"
#include "core/coord/coord_p.h"
#include <assert.h>
#include <stdio.h>
#include <string.h>

struct coord_service *services_find(struct coord_services *ss, uint16_t svc)
{
	uint8_t *at = &ss->found_at[svc % SERVICES_MAX]; /* ids count up: few share a place */
	if (ss->v[*at].rules && ss->v[*at].svc == svc)
		return &ss->v[*at];
	for (uint16_t i = 0; i < ss->n; i++)
		if (ss->v[i].rules && ss->v[i].svc == svc) {
			*at = (uint8_t)i;
			return &ss->v[i];
		}
	return NULL;
}

const struct coord_service *services_of_hash(const struct coord_services *ss, uint64_t hash)
{
	for (uint16_t i = 0; i < ss->n; i++)
		if (ss->hashes[i] == hash && ss->v[i].rules)
			return &ss->v[i];
	return NULL;
}

uint16_t services_pos(const struct coord_services *ss, const struct coord_service *s)
{
	assert(s >= ss->v && s < ss->v + ss->n);
	return (uint16_t)(s - ss->v);
}

void services_mark(struct coord_services *ss, struct coord_service *s)
{
	s->is_dirty = ss->is_dirty = true;
}

void services_mark_all(struct coord_services *ss)
{
	ss->are_all_dirty = ss->is_dirty = true;
}

bool service_has_no_master(const struct topology *t, const struct coord_service *s)
{
	return s->rules && !s->is_going && t->is_known && topology_shard(t, s->rules->lbs_slot) == SHARD_NONE;
}

static bool same_stream(const void *value, const void *key, size_t len)
{
	const struct entry *e = value;
	return e->stream->len == len && memcmp(e->stream->bytes, key, len) == 0;
}

static uint16_t free_position(struct coord_services *ss)
{
	for (uint16_t i = 0; i < ss->n; i++)
		if (!ss->v[i].rules)
			return i;
	return ss->n < SERVICES_MAX ? ss->n++ : SERVICE_NONE;
}

static void service_to_shards(struct coord *c, struct coord_service *s)
{
	for (uint16_t i = 0; i < c->shards.n; i++) {
		if (!c->shards.v[i].is_on)
			continue;
		bool is_read = i == s->reader.shard && !s->is_going;
		coord_send(c, i,
			msg_service((struct msg_service){.rules = service_rules_ref(s->rules),
				.is_read = is_read,
				.asking = is_read && s->reader.asking}))
			->svc = s->svc;
	}
}

/* Rules replace others: leases that those confirmed, here or on a shard that has not heard yet, end by their margin. */
static void keep_old_margin(const struct coord *c, struct service_rules *r, const struct service_rules *old)
{
	mono_ms margin = service_stop_margin(old, c->now);
	r->lease.old_margin_ms = mono_min(r->lease.stop_margin_ms, mono_min(margin, old->lease.stop_margin_ms));
	r->lease.old_until = mono_max(old->lease.old_until, c->now + 2 * old->lease.ttl_ms);
}

static void service_set(struct coord *c, struct service_rules *r)
{
	topology_fit(&c->topo, r);
	struct coord_service *s = services_find(&c->services, r->svc);
	if (!s) {
		uint16_t pos = free_position(&c->services);
		if (pos == SERVICE_NONE) {
			service_rules_unref(r);
			return;
		}
		s = &c->services.v[pos];
		*s = (struct coord_service){.svc = r->svc, .reader.shard = SHARD_NONE, .offer.shard = SHARD_NONE};
		list_init(&s->grant.turn);
		s->lost.at = MONO_NEVER;
		list_init(&s->ready);
		list_init(&s->suspects);
		list_init(&s->parked);
		map_init(&s->active, same_stream, rng_next(&c->rng));
		c->place.service[pos] = (struct credits_service){.is_on = true, .svc = r->svc};
		workers_service_begins(&c->workers, &c->place, pos, r->svc);
		if (c->place.n_services < c->services.n)
			c->place.n_services = c->services.n;
		coord_place_turn(c, s);
	} else {
		keep_old_margin(c, r, s->rules);
		service_rules_unref(s->rules);
	}
	s->rules = r;
	c->services.hashes[services_pos(&c->services, s)] = r->hash;
	c->services.n_going = (uint16_t)(c->services.n_going - s->is_going);
	s->is_going = false;
	struct credits_service *ps = &c->place.service[services_pos(&c->services, s)];
	ps->is_on = true;
	ps->is_entries = r->entries.is_on;
	credits_lend(&c->place, services_pos(&c->services, s), ps->is_entries);
	ps->max_streams = r->max_streams;
	ps->read_batch = r->read_batch;
	ps->weight = r->weight;
	service_to_shards(c, s);
	services_mark(&c->services, s);
}

void coord_on_services(struct coord *c, const struct coord_event *ev)
{
	for (uint16_t i = 0; i < c->services.n; i++) {
		struct coord_service *s = &c->services.v[i];
		bool kept = !s->rules;
		for (size_t k = 0; k < ev->n && !kept; k++)
			kept = ev->services[k]->svc == s->svc;
		if (kept)
			continue;
		c->services.n_going = (uint16_t)(c->services.n_going + !s->is_going);
		s->is_going = true;
		c->place.service[i].is_on = false;
		credits_lend(&c->place, i, false);
		coord_end_grant(c, s);
		service_to_shards(c, s);
	}
	c->services.shortest_ttl = MONO_NEVER;
	c->services.has_new_offers = true; /* of other services, or in entries mode now */
	for (size_t k = 0; k < ev->n; k++) {
		c->services.shortest_ttl = mono_min(c->services.shortest_ttl, ev->services[k]->lease.ttl_ms);
		service_set(c, ev->services[k]);
	}
	if (c->topo.is_known)
		coord_route_readers(c);
}

/* A removed service whose last entry has gone. */
void coord_sweep_services(struct coord *c)
{
	for (uint16_t i = 0; c->services.n_going > 0 && i < c->services.n; i++) {
		struct coord_service *s = &c->services.v[i];
		if (!s->rules || !s->is_going || c->place.service[i].owned)
			continue;
		for (uint16_t k = 0; k < c->shards.n; k++)
			if (c->shards.v[k].is_on)
				coord_send(c, k, msg_plain(MSG_SERVICE_GONE))->svc = s->svc;
		effects_log(c->out, LOG_NOTICE,
			"service=%s removed: what waits in %s-input stays there until a daemon has the service again",
			s->rules->name, s->rules->name);
		map_fini(&s->active);
		list_remove(&s->grant.turn);
		workers_service_ends(&c->workers, &c->place, i);
		credits_stop_emptying(&c->place, i);
		service_rules_unref(s->rules);
		c->services.n_going--;
		*s = (struct coord_service){.rules = NULL};
	}
}

/* ---- credits ---- */

void coord_end_grant(struct coord *c, struct coord_service *s)
{
	struct credits_service *ps = &c->place.service[services_pos(&c->services, s)];
	ps->reserved -= ps->granted;
	ps->granted = s->grant.n = 0;
	ps->is_reading = false;
}

/* Keeps coord.services.turns in order: behind its equals, so that services of one weight go round. */
void coord_place_turn(struct coord *c, struct coord_service *s)
{
	const struct credits_service *ps = &c->place.service[services_pos(&c->services, s)], *before;
	list_remove(&s->grant.turn);
	struct link *at = &c->services.turns;
	while (!ps->was_empty && at->prev != &c->services.turns) {
		const struct coord_service *prev = LIST_OF(struct coord_service, grant.turn, at->prev);
		before = &c->place.service[services_pos(&c->services, prev)];
		if (!before->was_empty && before->pass <= ps->pass)
			break;
		at = at->prev;
	}
	list_push(at, &s->grant.turn);
}

/* The read that waits is ended, if nothing has come: its credits are needed. */
static void take_back(struct coord *c, struct coord_service *s)
{
	coord_send(c, s->reader.shard, msg_plain(MSG_CREDITS))->svc = s->svc;
	s->grant.n = 0;
}

/* False: it gets nothing now. */
static bool grant(struct coord *c, struct coord_service *s)
{
	uint16_t pos = services_pos(&c->services, s);
	struct credits_service *ps = &c->place.service[pos];
	if (ps->is_reading) { /* credits may have gone meanwhile */
		bool stop = c->place.is_draining || ps->is_paused || ps->is_away || !ps->is_on ||
			    ps->reserved > credits_free(&c->place, pos);
		if (stop && ps->granted && s->grant.n && shards_is_on(&c->shards, s->reader.shard))
			take_back(c, s);
		return false;
	}
	if (ps->is_away)
		return false;
	mono_ms block_ms;
	uint32_t n = credits_grant(&c->place, pos, c->now, &block_ms);
	uint32_t room = ps->read_batch > n ? ps->read_batch - n : 0; /* a read brings no more */
	uint32_t extra = s->grant.again < room ? s->grant.again : room;
	if (!n && !extra)
		return false;
	s->grant.again -= extra;
	s->grant.is_again = extra > 0;
	ps->is_reading = true;
	ps->granted = n;
	ps->reserved += n;
	s->grant.n = n;
	credits_granted(&c->place, pos, c->now);
	coord_place_turn(c, s);
	struct msg_credits credits = {.n = n + extra,
		.block_cap_ms = block_ms,
		.is_sifting = s->is_sifting && s->rules->same_stream != SAME_STREAM_ALLOW};
	coord_send(c, s->reader.shard, msg_credits(credits))->svc = s->svc;
	s->grant.waits = block_ms > 0;
	return true;
}

/* Services known to be empty are looked at between those that have work, where credits are few. */
static void look_at_empty(struct coord *c)
{
	bool is_over = true;
	for (struct link *l = c->services.turns.next, *next; l != &c->services.turns; l = next) {
		next = l->next;
		struct coord_service *s = LIST_OF(struct coord_service, grant.turn, l);
		const uint16_t pos = services_pos(&c->services, s);
		if (!credits_is_in_round(&c->place, pos, c->now))
			continue;
		if (grant(c, s))
			credits_looked(&c->place, pos, c->now);
		else
			is_over = false; /* goes on when a credit is free */
	}
	if (is_over && c->now >= c->place.round_next)
		credits_end_round(&c->place, c->now);
}

/* Its read may wait for entries, and keeps credits meanwhile. */
static bool is_waiting_read(const struct coord *c, uint16_t pos)
{
	const struct coord_service *s = &c->services.v[pos];
	return s->rules && s->grant.waits && c->place.service[pos].granted && s->reader.shard < SHARDS_MAX;
}

/* Those that have work get no credit, for reads that wait for entries keep them. For each, one ends on every shard, as
 * one may not answer: what others give up would be theirs again before the next read of those that have work. */
static void free_for_busy(struct coord *c)
{
	uint16_t n_kept_out = 0, n_ending[SHARDS_MAX];
	for (uint16_t i = 0; i < c->services.n; i++)
		n_kept_out = (uint16_t)(n_kept_out + (c->services.v[i].rules && credits_is_kept_out(&c->place, i)));
	if (n_kept_out == 0)
		return;
	memset(n_ending, 0, sizeof n_ending);
	for (uint16_t i = 0; i < c->services.n; i++)
		if (is_waiting_read(c, i) && c->services.v[i].grant.n == 0)
			n_ending[c->services.v[i].reader.shard]++;
	for (uint16_t i = 0; i < c->services.n; i++) {
		struct coord_service *s = &c->services.v[i];
		if (is_waiting_read(c, i) && s->grant.n && n_ending[s->reader.shard] < n_kept_out) {
			n_ending[s->reader.shard]++;
			take_back(c, s);
		}
	}
}

/* No stream of the service may be begun, and only because of those that run. */
static bool is_full(const struct coord *c, const struct coord_service *s)
{
	uint16_t pos = services_pos(&c->services, s);
	const struct credits_service *ps = &c->place.service[pos];
	if (c->place.is_draining || ps->is_paused || !ps->is_on)
		return false;
	return ps->owned >= ps->max_streams || credits_free(&c->place, pos) <= ps->reserved - ps->granted;
}

/* Idle streams of s are to give up so many credits, on whatever shards they are. */
static void tell_waiting(struct coord *c, const struct coord_service *s, struct msg_waiting waiting)
{
	for (uint16_t i = 0; i < c->shards.n; i++)
		if (c->shards.v[i].is_on)
			coord_send(c, i, msg_waiting(waiting))->svc = s->svc;
}

/* Those of s and of others that may have the credits. */
static void tell_idle(struct coord *c, const struct coord_service *s, struct msg_waiting waiting)
{
	if (s->rules->entries.is_on)
		tell_waiting(c, s, waiting);
	const uint16_t pos = services_pos(&c->services, s);
	const bool is_at_its_own_limit = c->place.service[pos].owned >= c->place.service[pos].max_streams;
	if (is_at_its_own_limit || c->place.n_lending == 0)
		return;
	bool shared[SERVICES_MAX];
	credits_share(&c->place, pos, shared);
	for (uint16_t i = 0; i < c->services.n; i++) {
		const struct coord_service *o = &c->services.v[i];
		if (o != s && o->rules && o->rules->entries.is_on && shared[i])
			tell_waiting(c, o, waiting);
	}
}

enum { RUSH_MS = 60000 };

void coord_on_waiting(struct coord *c, const struct msg *m)
{
	struct coord_service *s = services_find(&c->services, m->svc);
	if (!s)
		return;
	s->m.c[M_MERGED] += m->waiting.n_merged;
	if (m->waiting.n == 0 || !is_full(c, s))
		return;
	s->rush_until = c->now + RUSH_MS;
	tell_idle(c, s, (struct msg_waiting){.n = m->waiting.n});
}

void coord_make_room(struct coord *c, struct coord_service *s, uint32_t n)
{
	if (n > 0 && c->now < s->rush_until && is_full(c, s))
		tell_idle(c, s, (struct msg_waiting){.n = n, .is_ahead = true});
}

/* Who was to get them has left: others have workers, perhaps, and what is held here counts as worked on when we die. At
 * a start its worker may be on its way here. */
static void give_back_unwanted(struct coord *c, struct coord_service *s)
{
	struct link *next;
	for (struct link *l = s->ready.next; l != &s->ready; l = next) {
		next = l->next;
		struct entry *e = LIST_OF(struct entry, peers, l);
		if (!e->is_start)
			entry_requeue(c, e, WHY_NO_CREDIT, false);
	}
}

static void assign_ready(struct coord *c, struct coord_service *s)
{
	uint16_t pos = services_pos(&c->services, s);
	while (!list_empty(&s->ready) && !c->place.is_draining) {
		struct credit_holder *credit_holder = credits_choose(&c->place, pos);
		if (!credit_holder && !credits_has_taker(&c->place, pos))
			give_back_unwanted(c, s);
		if (!credit_holder)
			return;
		struct entry *e = LIST_OF(struct entry, peers, list_pop(&s->ready));
		if (entry_is_late(c, e)) { /* we were stopped on its way: nobody starts on it now */
			entry_on_due(c, e);
			continue;
		}
		entry_assign(c, e, LIST_OF(struct worker, credit_holder, credit_holder));
	}
}

/* ---- suspects ---- */

/* All that it has are data streams of which nothing is out: they can wait while a suspect is tried. */
static bool is_quiet(const struct credit_holder *h, const void *arg)
{
	const struct coord *c = arg;
	const struct worker *w = LIST_OF(const struct worker, credit_holder, h);
	if (w->is_hushed && c->now - w->hushed_at >= SUSPECT_HUSH_MS)
		return false;
	for (const struct link *l = w->entries.next; l != &w->entries; l = l->next) {
		const struct entry *e = LIST_OF(const struct entry, peers, l);
		if (e->state != ENTRY_ASSIGNED || entry_may_have_killed(c, e, w))
			return false;
	}
	return true;
}

static void hush(struct coord *c, struct worker *w, bool on)
{
	if (on && !w->is_hushed)
		w->hushed_at = c->now;
	c->workers.n_hushed += (uint32_t)on - w->is_hushed;
	w->is_hushed = on;
	for (struct link *l = w->entries.next; l != &w->entries; l = l->next)
		entry_feed_hush(c, LIST_OF(struct entry, peers, l), on);
}

/* Those whose suspects are gone go on. */
static void end_hush(struct coord *c)
{
	if (c->workers.n_hushed == 0)
		return;
	for (struct link *l = c->place.holders.next; l != &c->place.holders; l = l->next) {
		struct worker *w = LIST_OF(struct worker, credit_holder.ring, l);
		if (w->is_hushed && !w->credit_holder.is_alone)
			hush(c, w, false);
	}
}

enum { SUSPECTS_RESTED_MAX = 8 };

static bool has_many(const struct link *head)
{
	int n = 0;
	for (const struct link *l = head->next; l != head && n <= SUSPECTS_RESTED_MAX; l = l->next)
		n++;
	return n > SUSPECTS_RESTED_MAX;
}

/* It may be on its way out: what it is given now would not be known as what it dies of. The first suspect waits for
 * it; not those of a worker that died with many, one after the other: the one that kills is soon among few. */
static bool suspect_waits_for_rest(struct coord *c, struct coord_service *s, struct credit_holder *h)
{
	const struct worker *w = LIST_OF(const struct worker, credit_holder, h);
	struct entry *e = LIST_OF(struct entry, peers, s->suspects.next);
	const mono_ms at = w->result_at + RESULT_THEN_END_MS + 1;
	if (!w->result_at || c->now >= at || has_many(&s->suspects))
		return false;
	credits_keep_empty(&c->place, h, services_pos(&c->services, s));
	e->deadline = mono_min(e->deadline, at);
	entry_arm(c, e);
	return true;
}

static void assign_suspects(struct coord *c, struct coord_service *s)
{
	uint16_t pos = services_pos(&c->services, s);
	while (!list_empty(&s->suspects) && !c->place.is_draining) {
		struct credit_holder *h = credits_choose_empty(&c->place, pos, is_quiet, c);
		if (!h || suspect_waits_for_rest(c, s, h))
			return;
		struct entry *e = LIST_OF(struct entry, peers, list_pop(&s->suspects));
		if (entry_is_late(c, e)) {
			entry_on_due(c, e);
			continue;
		}
		credit_holder_set_alone(&c->place, h, true);
		hush(c, LIST_OF(struct worker, credit_holder, h), true);
		entry_assign(c, e, LIST_OF(struct worker, credit_holder, h));
	}
	credits_stop_emptying(&c->place, pos);
}

/* Its load-balancer stream cannot be read now. */
static bool is_away(const struct coord *c, const struct coord_service *s)
{
	if (!shards_is_on(&c->shards, s->reader.shard) || !s->reader.own_done)
		return true;
	const struct coord_shard *sh = &c->shards.v[s->reader.shard];
	return sh->was_up && !sh->is_up[CONN_COMMAND];
}

void coord_pump(struct coord *c)
{
	if (!c->services.is_dirty)
		return;
	const bool are_all = c->services.are_all_dirty; /* what is marked meanwhile is for the next turn */
	c->services.is_dirty = c->services.are_all_dirty = false;
	for (uint16_t i = 0; i < c->services.n; i++)
		c->place.service[i].is_away = c->services.v[i].rules && is_away(c, &c->services.v[i]);
	coord_tell_offers(c);
	for (uint16_t i = 0; i < c->services.n; i++)
		if (c->services.v[i].rules && (c->services.v[i].is_dirty || are_all)) {
			assign_suspects(c, &c->services.v[i]); /* first: an empty worker must not get others */
			assign_ready(c, &c->services.v[i]);
		}
	end_hush(c);
	credits_begin_grants(&c->place);
	if (c->services.n > 1)
		look_at_empty(c);
	/* the lowest pass first, so that few credits go round, to each service by its weight */
	struct link *end = c->services.turns.prev, *next;
	for (struct link *l = c->services.turns.next; l != &c->services.turns; l = next) {
		next = l->next;
		struct coord_service *s = LIST_OF(struct coord_service, grant.turn, l);
		bool is_last = l == end;
		if (s->is_dirty || are_all)
			grant(c, s);
		s->is_dirty = false;
		if (is_last)
			break;
	}
	if (c->services.n > 1)
		free_for_busy(c);
	credits_end_grants(&c->place);
}
