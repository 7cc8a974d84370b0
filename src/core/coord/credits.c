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

void credit_holder_want(struct credit_holder *s, uint16_t pos, bool is_wanted)
{
	assert(pos < SERVICES_MAX);
	s->n_wanted = (uint16_t)(s->n_wanted + is_wanted - s->wanted[pos]);
	s->wanted[pos] = is_wanted;
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

void credits_keep_empty(struct credit_holder *s, uint16_t pos)
{
	s->emptying_for = (uint16_t)(pos + 1);
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

uint32_t credits_in_use(const struct credits *p, uint16_t pos)
{
	assert(pos < p->n_services);
	uint32_t n = 0;
	for (const struct link *l = p->holders.next; l != &p->holders; l = l->next) {
		const struct credit_holder *h = LIST_OF(const struct credit_holder, ring, l);
		if (takes(p, h, pos))
			n += h->in_use;
	}
	return n;
}

uint32_t credits_offered(const struct credits *p, uint16_t pos, uint32_t *n_holders)
{
	assert(pos < p->n_services && n_holders);
	uint32_t n = *n_holders = 0;
	for (const struct link *l = p->holders.next; l != &p->holders; l = l->next) {
		const struct credit_holder *h = LIST_OF(const struct credit_holder, ring, l);
		if (!h->all_services && !h->wanted[pos])
			continue;
		n += h->credits;
		++*n_holders;
	}
	return n;
}

bool credits_are_shared(const struct credits *p, uint16_t a, uint16_t b)
{
	assert(a < p->n_services && b < p->n_services);
	for (const struct link *l = p->holders.next; l != &p->holders; l = l->next) {
		const struct credit_holder *h = LIST_OF(const struct credit_holder, ring, l);
		if (h->credits && takes(p, h, a) && takes(p, h, b))
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
		credits_keep_empty(least, pos);
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
	return s->is_on && !s->is_paused && !s->is_away && s->owned < s->max_streams;
}

enum { PASS_PER_ENTRY = 1 << 20 /* divided by weights of 1 to 100 */ };

void credits_granted(struct credits *p, uint16_t pos, mono_ms now)
{
	assert(pos < p->n_services);
	struct credits_service *s = &p->service[pos];
	s->pass = s->pass > p->pass ? s->pass : p->pass;
	p->pass = s->pass;
	s->granted_at = now;
}

void credits_read(struct credits *p, uint16_t pos, uint32_t n)
{
	struct credits_service *s = &p->service[pos];
	assert(s->weight > 0);
	s->was_empty = n == 0;
	s->pass += (uint64_t)n * PASS_PER_ENTRY / s->weight;
}

/* The services that some free credit is for, the one at pos among them. */
struct rivals {
	uint32_t n;
	uint32_t n_waiting, n_busy; /* of the others: not reading; and not known to be empty */
	uint32_t weights;           /* of those with a backlog */
};

static struct rivals rivals_of(const struct credits *p, uint16_t pos)
{
	struct rivals r = {0};
	for (uint16_t i = 0; i < p->n_services; i++) {
		const struct credits_service *s = &p->service[i];
		if (!credits_wants(p, i) || credits_free(p, i) == 0)
			continue;
		r.n++;
		if (i == pos || s->was_full)
			r.weights += s->weight;
		if (i == pos || s->is_reading || credits_free(p, i) <= s->reserved)
			continue;
		r.n_waiting++;
		r.n_busy += !s->was_empty;
	}
	return r;
}

/* Of n credits that it could have. */
static uint32_t share_of(const struct credits_service *s, const struct rivals *r, uint32_t n)
{
	if (s->was_empty && r->n_busy) /* to find out */
		return n ? 1 : 0;
	if (s->was_full && n > r->n_busy) {
		assert(r->weights > 0); /* its own is among them */
		uint32_t share = (uint32_t)((uint64_t)n * s->weight / r->weights), rest = n - r->n_busy;
		share = share ? share : 1;
		return share < rest ? share : rest; /* one credit stays for each that may have work and has none */
	}
	if (n && r->n > 1 && !s->was_full)
		return n / r->n ? n / r->n : 1;
	return n;
}

/* A read that keeps a credit from others. Redis ends a wait of less than 100 ms by its clock of 10 Hz: when nobody is
 * known to have work, one service waits, and all that were not looked at for a while are, without waiting. */
static mono_ms short_wait(const struct credits_service *s, const struct rivals *r, mono_ms now)
{
	enum { SHORT_MS = 50, EACH_MS = 4 };
	const bool is_long_ago = now - s->granted_at >= mono_max(SHORT_MS, (mono_ms)EACH_MS * r->n_waiting);
	return r->n_busy || is_long_ago ? 0 : SHORT_MS;
}

uint32_t credits_grant(const struct credits *p, uint16_t pos, mono_ms now, mono_ms *block_ms)
{
	assert(pos < p->n_services && block_ms);
	const struct credits_service *s = &p->service[pos];
	*block_ms = CREDITS_BLOCK_MS;
	if (p->is_draining || !credits_wants(p, pos) || s->is_reading)
		return 0;
	uint32_t mine = credits_free(p, pos), free_all, reserved;
	totals(p, &free_all, &reserved);
	const uint32_t room = mine > s->reserved ? mine - s->reserved : 0;
	const uint32_t left = free_all > reserved ? free_all - reserved : 0;
	if (room == 0 || left == 0)
		return 0;
	const struct rivals r = rivals_of(p, pos);
	uint32_t n = share_of(s, &r, room < left ? room : left), cap = s->max_streams - s->owned;
	n = n < cap ? n : cap;
	n = n < s->read_batch ? n : s->read_batch;
	if (r.n_waiting > left - n)
		*block_ms = short_wait(s, &r, now);
	return n;
}

bool credits_is_kept_out(const struct credits *p, uint16_t pos)
{
	assert(pos < p->n_services);
	const struct credits_service *s = &p->service[pos];
	uint32_t free_all, reserved;
	if (p->is_draining || !credits_wants(p, pos) || s->is_reading || s->was_empty)
		return false;
	totals(p, &free_all, &reserved);
	return credits_free(p, pos) > s->reserved && free_all <= reserved;
}

bool credits_is_in_round(const struct credits *p, uint16_t pos, mono_ms now)
{
	assert(pos < p->n_services);
	const struct credits_service *s = &p->service[pos];
	return s->was_empty && !s->is_reading && s->round != p->round && now >= p->round_next &&
	       credits_wants(p, pos) && credits_free(p, pos) > 0;
}

void credits_looked(struct credits *p, uint16_t pos, mono_ms now)
{
	assert(pos < p->n_services);
	p->service[pos].round = p->round;
	p->round_began = p->round_began ? p->round_began : now;
}

void credits_end_round(struct credits *p, mono_ms now)
{
	enum { PAUSE_MS = 20, PAUSE_MAX_MS = 1000, PAUSE_FACTOR = 4 };
	const mono_ms took = p->round_began ? now - p->round_began : 0; /* it may have waited for a credit on the way */
	p->round++;
	p->round_began = 0;
	p->round_next = now + mono_min(mono_max(PAUSE_MS, PAUSE_FACTOR * took), PAUSE_MAX_MS);
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
