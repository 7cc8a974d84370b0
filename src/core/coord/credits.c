#include "core/coord/credits.h"
#include <string.h>

void placement_init(struct placement *p)
{
	memset(p, 0, sizeof *p);
	list_init(&p->seats);
}

void seat_init(struct seat *s, uint64_t session)
{
	memset(s, 0, sizeof *s);
	list_init(&s->ring);
	s->session = session;
}

void placement_join(struct placement *p, struct seat *s)
{
	if (list_empty(&s->ring))
		list_push(&p->seats, &s->ring);
}

void placement_leave(struct seat *s)
{
	list_remove(&s->ring);
}

static bool takes(const struct seat *s, uint16_t pos)
{
	return s->all_services || s->wanted[pos];
}

uint32_t placement_free(const struct placement *p, uint16_t pos)
{
	uint32_t n = 0;
	for (struct link *l = p->seats.next; l != &p->seats; l = l->next) {
		const struct seat *s = LIST_OF(struct seat, ring, l);
		if (takes(s, pos))
			n += seat_free(s);
	}
	return n;
}

struct seat *placement_choose(struct placement *p, uint16_t pos)
{
	struct seat *best = NULL;
	for (struct link *l = p->seats.next; l != &p->seats; l = l->next) {
		struct seat *s = LIST_OF(struct seat, ring, l);
		if (!takes(s, pos) || !seat_free(s))
			continue;
		if (!s->all_services && s->n_wanted == 1) {
			best = s;
			break;
		}
		if (!best || (best->all_services && !s->all_services) ||
			(!best->all_services && !s->all_services && s->n_wanted < best->n_wanted))
			best = s;
		if (p->n_services == 1)
			break;
	}
	if (best) { /* to the end of the ring */
		list_remove(&best->ring);
		list_push(&p->seats, &best->ring);
	}
	return best;
}

/* Free credits of everybody, and claims of everybody. */
static void totals(const struct placement *p, uint32_t *free_all, uint32_t *claims)
{
	*free_all = *claims = 0;
	for (struct link *l = p->seats.next; l != &p->seats; l = l->next)
		*free_all += seat_free(LIST_OF(struct seat, ring, l));
	for (uint16_t i = 0; i < p->n_services; i++)
		if (p->service[i].is_on)
			*claims += p->service[i].claims;
}

static bool wants(const struct placement *p, uint16_t i)
{
	const struct placement_service *s = &p->service[i];
	return s->is_on && !s->is_paused && s->owned < s->max_streams;
}

uint32_t placement_grant(struct placement *p, uint16_t pos, bool *contended)
{
	struct placement_service *s = &p->service[pos];
	*contended = false;
	if (p->is_draining || !wants(p, pos) || s->is_reading)
		return 0;
	uint32_t mine = placement_free(p, pos), free_all, claims, n_services = 0, n_waiting = 0;
	totals(p, &free_all, &claims);
	for (uint16_t i = 0; i < p->n_services; i++) {
		if (!wants(p, i) || placement_free(p, i) == 0)
			continue;
		n_services++;
		if (i != pos && !p->service[i].is_reading)
			n_waiting++;
	}
	uint32_t room = mine > s->claims ? mine - s->claims : 0;
	uint32_t left = free_all > claims ? free_all - claims : 0;
	uint32_t n = room < left ? room : left;
	*contended = n_services > 1 && mine < 2 * n_services;
	if (n > n_waiting && s->was_full)
		n -= n_waiting; /* one credit stays for each service that has none */
	else if (n && n_services > 1 && !s->was_full)
		n = n / n_services ? n / n_services : 1;
	uint32_t cap = s->max_streams - s->owned;
	n = n < cap ? n : cap;
	return n < s->read_batch ? n : s->read_batch;
}
