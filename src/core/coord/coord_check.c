/* coord_check - what holds of the coordinator at the end of every turn. A failed assertion is a bug of ours, found
 * where it was made and not where it hurts. For debug, sanitizer and simulation builds: it looks at every entry. */
#include "core/coord/coord_p.h"

#include <assert.h>

/* What the entries of one service add up to. */
struct entry_sums {
	uint32_t n, n_reserved, n_active;
};

void entry_check(const struct coord *c, const struct entry *e)
{
	const struct coord_service *s = NULL;
	for (uint16_t i = 0; i < c->services.n && !s; i++)
		if (c->services.v[i].rules && c->services.v[i].svc == e->svc)
			s = &c->services.v[i];
	assert(s); /* a service stays until its last entry has gone */
	assert(e->stream || e->state == ENTRY_FETCHING || e->state == ENTRY_FINISHING);
	assert(!e->is_lost || (e->lease_shard == SHARD_NONE && e->good_until == 0));
	assert(e->lease_shard == SHARD_NONE || shards_is_on(&c->shards, e->lease_shard) ||
		c->shards.v[e->lease_shard].is_stopping);
	assert(e->op_shard == SHARD_NONE || shards_is_on(&c->shards, e->op_shard) ||
		c->shards.v[e->op_shard].is_stopping);
	assert(!e->in_active || map_get(&s->active, e->stream->bytes, e->stream->len) == e);
	assert(e->state == ENTRY_FINISHING || e->finish == FINISH_NONE);
	/* what a worker has, or leaves, is not on its way to one; fetched and gone, it leaves with its claim */
	assert(!e->uses_claim || e->state <= ENTRY_READY || e->finish == FINISH_ACK);
	assert(!e->start_counted || e->is_start);
	const struct worker *w = e->owner ? map_get(&c->workers.by_session, &e->owner, sizeof e->owner) : NULL;
	switch ((enum entry_state)e->state) {
	case ENTRY_ASSIGNED:
		assert(w && w->s.state == SESSION_READY && !list_empty(&e->peers));
		break;
	case ENTRY_READY:
	case ENTRY_PARKED:
		assert(!list_empty(&e->peers) && !e->owner);
		break;
	case ENTRY_FETCHING:
	case ENTRY_LOCKING:
	case ENTRY_BUSY:
	case ENTRY_TAKING:
		assert(list_empty(&e->peers) && !e->owner);
		break;
	case ENTRY_REVOKING:
	case ENTRY_LIMBO:
		break;
	case ENTRY_FINISHING:
		assert(list_empty(&e->peers) && e->finish != FINISH_NONE);
		break;
	case ENTRY_STATES:
		assert(false);
	}
}

static uint32_t list_of_state(const struct link *head, enum entry_state state, bool suspects)
{
	uint32_t n = 0;
	for (const struct link *l = head->next; l != head; l = l->next, n++) {
		const struct entry *e = LIST_OF(const struct entry, peers, l);
		assert(e->gen && e->state == state && (state != ENTRY_READY || e->is_suspect == suspects));
	}
	return n;
}

static uint32_t service_check(const struct coord *c, uint16_t pos, const struct entry_sums *sums)
{
	const struct coord_service *s = &c->services.v[pos];
	const struct credits_service *cs = &c->place.service[pos];
	assert(s->svc == cs->svc);
	assert(cs->owned == sums->n);                           /* every record is counted, and once */
	assert(cs->reserved == cs->granted + sums->n_reserved); /* none is forgotten, none stays */
	assert(s->active.n == sums->n_active);
	assert(s->reader.shard == SHARD_NONE || shards_is_on(&c->shards, s->reader.shard));
	assert(!s->is_going || !cs->is_on);
	assert(!s->is_dirty || c->services.is_dirty);
	assert(s->lost.at >= c->services.lost_at);
	return list_of_state(&s->ready, ENTRY_READY, false) + list_of_state(&s->suspects, ENTRY_READY, true) +
	       list_of_state(&s->parked, ENTRY_PARKED, false);
}

uint32_t worker_check(const struct coord *c, const struct worker *w)
{
	assert(!w->is_gone);
	assert(map_get(&c->workers.by_session, &w->s.id, sizeof w->s.id) == w);
	assert(w->credit_holder.session == w->s.id);
	assert(list_empty(&w->dirty)); /* its until_ms went out */
	assert(w->is_connected == (w->s.state != SESSION_DETACHED));
	assert(list_empty(&w->entries) || w->s.state == SESSION_READY || w->s.state == SESSION_DETACHED);
	assert(list_empty(&w->end.giving_back) || w->s.state == SESSION_DETACHED);
	assert(list_empty(&w->credit_holder.ring) || w->s.state == SESSION_READY);
	uint32_t n = 0;
	mono_ms latest = 0;
	for (const struct link *l = w->entries.next; l != &w->entries; l = l->next, n++) {
		const struct entry *e = LIST_OF(const struct entry, peers, l);
		assert(e->gen && e->owner == w->s.id);
		assert(!e->good_until || e->good_until + w->disorder >= latest);
		latest = mono_max(latest, e->good_until);
	}
	assert(latest <= w->latest);
	assert(n <= w->credit_holder.in_use); /* more: it was told to stop and has not answered */
	return n;
}

void shards_check(const struct coord *c)
{
	assert(c->shards.n <= c->topo.n_nodes);
	for (uint16_t i = 0; i < c->shards.n; i++) {
		const struct coord_shard *s = &c->shards.v[i];
		assert(!(s->is_on && s->is_stopping));
		assert(!s->is_leaving || s->is_on || s->is_stopping);
		assert(!(s->is_on && c->topo.nodes[i].is_free)); /* its number is nobody else's */
		assert(!s->is_refused || !s->is_on);
	}
}

static void workers_check(const struct coord *c, uint32_t *n_listed)
{
	uint32_t n_connected = 0, n = 0;
	for (const struct link *l = c->workers.all.next; l != &c->workers.all; l = l->next, n++) {
		const struct worker *w = LIST_OF(const struct worker, all, l);
		*n_listed += worker_check(c, w);
		n_connected += w->is_connected;
	}
	assert(n_connected == c->workers.n);
	assert((c->workers.give_back_at == MONO_NEVER) == list_empty(&c->workers.giving_back));
	assert(n == c->workers.by_session.n && list_empty(&c->workers.gone) && list_empty(&c->workers.dirty));
}

void coord_check(const struct coord *c)
{
	struct entry_sums sums[SERVICES_MAX] = {0};
	uint32_t pos = 0, n_listed = 0, n_in_lists = 0, n_start = 0;
	ledger_check(&c->ledger);
	topology_check(&c->topo);
	credits_check(&c->place);
	shards_check(c);
	for (const struct entry *e; (e = ledger_next(&c->ledger, &pos));) {
		entry_check(c, e);
		n_in_lists += !list_empty(&e->peers);
		n_start += e->start_counted;
		for (uint16_t i = 0; i < c->services.n; i++)
			if (c->services.v[i].rules && c->services.v[i].svc == e->svc) {
				sums[i].n++;
				sums[i].n_reserved += e->uses_claim;
				sums[i].n_active += e->in_active;
			}
	}
	for (uint16_t i = 0; i < c->services.n; i++)
		if (c->services.v[i].rules)
			n_listed += service_check(c, i, &sums[i]);
	workers_check(c, &n_listed);
	assert(n_listed == n_in_lists); /* nobody is in a list that nobody walks */
	assert(n_start == c->n_start);
	assert(!c->drain.is_on || c->place.is_draining);
	assert(!c->drain.stop_after || c->drain.is_on);
	assert(!c->look_up.is_again || c->look_up.is_pending);
}
