#include "core/coord/credits.h"
#include <assert.h>
#include <string.h>

void credits_init(struct credits *p)
{
	memset(p, 0, sizeof *p);
	list_init(&p->holders);
}

void credit_holder_init(struct credit_holder *s, uint64_t session)
{
	assert(session);
	memset(s, 0, sizeof *s);
	list_init(&s->ring);
	s->session = session;
}

void credits_join(struct credits *p, struct credit_holder *s)
{
	assert(s->session);
	if (list_empty(&s->ring))
		list_push(&p->holders, &s->ring);
}

void credits_leave(struct credit_holder *s)
{
	list_remove(&s->ring);
}

static bool takes(const struct credits *p, const struct credit_holder *s, uint16_t pos)
{
	return (s->all_services || s->wanted[pos]) && (s->takes_entries || !p->service[pos].is_entries);
}

uint32_t credits_free(const struct credits *p, uint16_t pos)
{
	assert(pos < p->n_services);
	uint32_t n = 0;
	for (struct link *l = p->holders.next; l != &p->holders; l = l->next) {
		const struct credit_holder *s = LIST_OF(struct credit_holder, ring, l);
		if (takes(p, s, pos))
			n += credit_holder_free(s);
	}
	return n;
}

struct credit_holder *credits_choose(struct credits *p, uint16_t pos)
{
	assert(pos < p->n_services);
	struct credit_holder *best = NULL;
	for (struct link *l = p->holders.next; l != &p->holders; l = l->next) {
		struct credit_holder *s = LIST_OF(struct credit_holder, ring, l);
		if (!takes(p, s, pos) || !credit_holder_free(s))
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
		list_push(&p->holders, &best->ring);
	}
	return best;
}

struct credit_holder *credits_choose_empty(struct credits *p, uint16_t pos, credits_quiet_fn is_quiet, const void *arg)
{
	assert(pos < p->n_services);
	for (struct link *l = p->holders.next; l != &p->holders; l = l->next) {
		struct credit_holder *h = LIST_OF(struct credit_holder, ring, l);
		if (!takes(p, h, pos) || h->credits <= h->in_use || h->is_alone ||
			(h->emptying_for && h->emptying_for != pos + 1))
			continue;
		if (h->in_use && !(is_quiet && is_quiet(h, arg)))
			continue;
		h->emptying_for = 0;
		list_remove(&h->ring);
		list_push(&p->holders, &h->ring);
		return h;
	}
	return NULL;
}

bool credits_has_taker(const struct credits *p, uint16_t pos)
{
	assert(pos < p->n_services);
	for (struct link *l = p->holders.next; l != &p->holders; l = l->next) {
		const struct credit_holder *h = LIST_OF(struct credit_holder, ring, l);
		if (takes(p, h, pos) && h->credits)
			return true;
	}
	return false;
}

bool credits_run_one_empty(struct credits *p, uint16_t pos)
{
	assert(pos < p->n_services);
	struct credit_holder *least = NULL;
	bool is_taken = false;
	for (struct link *l = p->holders.next; l != &p->holders; l = l->next) {
		struct credit_holder *h = LIST_OF(struct credit_holder, ring, l);
		if (!takes(p, h, pos) || !h->credits)
			continue;
		is_taken = true;
		if (h->emptying_for == pos + 1)
			return true;
		if (!h->is_alone && !h->emptying_for && (!least || h->in_use < least->in_use))
			least = h;
	}
	if (least)
		least->emptying_for = (uint16_t)(pos + 1);
	return is_taken;
}

void credits_stop_emptying(struct credits *p, uint16_t pos)
{
	assert(pos < p->n_services);
	for (struct link *l = p->holders.next; l != &p->holders; l = l->next) {
		struct credit_holder *h = LIST_OF(struct credit_holder, ring, l);
		if (h->emptying_for == pos + 1)
			h->emptying_for = 0;
	}
}

/* Free credits of everybody, and reservations of everybody. */
static void totals(const struct credits *p, uint32_t *free_all, uint32_t *reserved)
{
	*free_all = *reserved = 0;
	for (struct link *l = p->holders.next; l != &p->holders; l = l->next)
		*free_all += credit_holder_free(LIST_OF(struct credit_holder, ring, l));
	for (uint16_t i = 0; i < p->n_services; i++)
		if (p->service[i].is_on)
			*reserved += p->service[i].reserved;
}

static bool credits_wants(const struct credits *p, uint16_t i)
{
	const struct credits_service *s = &p->service[i];
	return s->is_on && !s->is_paused && s->owned < s->max_streams;
}

enum { PASS_PER_ENTRY = 1 << 20 /* divided by weights of 1 to 100 */ };

void credits_granted(struct credits *p, uint16_t pos)
{
	assert(pos < p->n_services);
	struct credits_service *s = &p->service[pos];
	s->pass = s->pass > p->pass ? s->pass : p->pass;
	p->pass = s->pass;
}

void credits_read(struct credits *p, uint16_t pos, uint32_t n)
{
	struct credits_service *s = &p->service[pos];
	assert(s->weight > 0);
	if (n == 0) { /* it had its turn: those that wait for these credits come before it now */
		uint64_t least = UINT64_MAX;
		for (uint16_t i = 0; i < p->n_services; i++)
			if (i != pos && credits_wants(p, i) && !p->service[i].is_reading && p->service[i].pass < least)
				least = p->service[i].pass;
		if (least != UINT64_MAX && least > s->pass)
			s->pass = least;
		return;
	}
	s->pass += (uint64_t)n * PASS_PER_ENTRY / s->weight;
}

uint32_t credits_grant(struct credits *p, uint16_t pos, bool *contended)
{
	assert(pos < p->n_services && contended);
	struct credits_service *s = &p->service[pos];
	*contended = false;
	if (p->is_draining || !credits_wants(p, pos) || s->is_reading)
		return 0;
	uint32_t mine = credits_free(p, pos), free_all, reserved, n_services = 0, n_waiting = 0, weights = 0;
	totals(p, &free_all, &reserved);
	for (uint16_t i = 0; i < p->n_services; i++) {
		if (!credits_wants(p, i) || credits_free(p, i) == 0)
			continue;
		n_services++;
		if (i == pos || p->service[i].was_full) /* those with a backlog */
			weights += p->service[i].weight;
		if (i != pos && !p->service[i].is_reading)
			n_waiting++;
	}
	uint32_t room = mine > s->reserved ? mine - s->reserved : 0;
	uint32_t left = free_all > reserved ? free_all - reserved : 0;
	uint32_t n = room < left ? room : left;
	*contended = n_services > 1 && mine < 2 * n_services;
	if (n > n_waiting && s->was_full) {
		assert(weights > 0); /* its own is among them */
		uint32_t share = (uint32_t)((uint64_t)n * s->weight / weights), rest = n - n_waiting;
		share = share ? share : 1;
		n = share < rest ? share : rest; /* one credit stays for each service that has none */
	} else if (n && n_services > 1 && !s->was_full) {
		n = n / n_services ? n / n_services : 1;
	}
	uint32_t cap = s->max_streams - s->owned;
	n = n < cap ? n : cap;
	return n < s->read_batch ? n : s->read_batch;
}

void credits_check(const struct credits *p)
{
	assert(p->n_services <= SERVICES_MAX);
	for (const struct link *l = p->holders.next; l != &p->holders; l = l->next) {
		const struct credit_holder *h = LIST_OF(const struct credit_holder, ring, l);
		uint16_t n_wanted = 0;
		for (uint16_t i = 0; i < SERVICES_MAX; i++)
			n_wanted = (uint16_t)(n_wanted + h->wanted[i]);
		assert(h->all_services || n_wanted == h->n_wanted);
		assert(h->session && h->emptying_for <= SERVICES_MAX);
		assert(!h->is_alone || h->in_use > 0); /* it holds the suspect */
	}
	for (uint16_t i = 0; i < p->n_services; i++) {
		const struct credits_service *s = &p->service[i];
		assert(s->granted <= s->reserved);
		assert(s->is_reading || s->granted == 0);
		assert(!s->is_on || s->weight > 0);
	}
}
