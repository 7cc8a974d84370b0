#include "core/coord/credits.h"
#include <assert.h>
#include <string.h>

void credits_init(struct credits *p)
{
	memset(p, 0, sizeof *p);
	list_init(&p->holders);
	list_init(&p->several);
	list_init(&p->every);
	for (uint16_t i = 0; i < SERVICES_MAX; i++)
		list_init(&p->takers[i].only);
}

void credit_holder_init(struct credit_holder *s, uint64_t session)
{
	assert(session);
	memset(s, 0, sizeof *s);
	list_init(&s->ring);
	list_init(&s->rank);
	s->session = session;
}

/* ---- sums ---- */

static struct credits_sum sum_of(const struct credit_holder *s)
{
	return (struct credits_sum){.free = credit_holder_free(s),
		.in_use = s->in_use,
		.credits = s->credits,
		.n = 1,
		.n_with = s->credits > 0,
		.n_lent = s->credits > 0 && s->takes_entries && s->n_lending > 0};
}

static void sum_change(struct credits_sum *sum, const struct credits_sum *was, const struct credits_sum *is)
{
	sum->free += is->free - was->free;
	sum->in_use += is->in_use - was->in_use;
	sum->credits += is->credits - was->credits;
	sum->n += is->n - was->n;
	sum->n_with += is->n_with - was->n_with;
	sum->n_lent += is->n_lent - was->n_lent;
}

static void count_as(struct credits *p, struct credit_holder *s, struct credits_sum is)
{
	const struct credits_sum was = s->counted;
	if (s->all_services)
		sum_change(&p->of_every[s->takes_entries], &was, &is);
	for (uint16_t i = 0, left = s->all_services ? 0 : s->n_wanted; left > 0; i++) {
		if (!s->wanted[i])
			continue;
		sum_change(&p->takers[i].sum[s->takes_entries], &was, &is);
		left--;
	}
	p->n_free += is.free - was.free;
	p->has_new_offers = p->has_new_offers || is.n != was.n || is.credits != was.credits;
	s->counted = is;
}

static bool is_joined(const struct credit_holder *s)
{
	return !list_empty(&s->ring);
}

static void credit_holder_changed(struct credits *p, struct credit_holder *s)
{
	if (is_joined(s))
		count_as(p, s, sum_of(s));
}

/* Of all who want the service at pos; is_able: who can have a stream of it. */
static struct credits_sum sum_at(const struct credits *p, uint16_t pos, bool is_able)
{
	assert(pos < p->n_services);
	static const struct credits_sum none;
	const struct credits_takers *t = &p->takers[pos];
	struct credits_sum sum = t->sum[1];
	sum_change(&sum, &none, &p->of_every[1]);
	if (is_able && p->service[pos].is_entries)
		return sum;
	sum_change(&sum, &none, &t->sum[0]);
	sum_change(&sum, &none, &p->of_every[0]);
	return sum;
}

uint32_t credits_free(const struct credits *p, uint16_t pos)
{
	return sum_at(p, pos, true).free;
}

bool credits_has_taker(const struct credits *p, uint16_t pos)
{
	return sum_at(p, pos, true).n_with > 0;
}

uint32_t credits_in_use(const struct credits *p, uint16_t pos)
{
	return sum_at(p, pos, true).in_use;
}

uint32_t credits_offered(const struct credits *p, uint16_t pos, uint32_t *n_holders)
{
	assert(n_holders);
	const struct credits_sum sum = sum_at(p, pos, false);
	*n_holders = sum.n;
	return sum.credits;
}

/* ---- holders ---- */

static struct link *ranks_of(struct credits *p, const struct credit_holder *s)
{
	if (s->all_services)
		return &p->every;
	if (s->n_wanted != 1)
		return &p->several;
	uint16_t only = 0;
	while (!s->wanted[only])
		only++;
	return &p->takers[only].only;
}

static void count_lending(const struct credits *p, struct credit_holder *s)
{
	s->n_lending = 0;
	for (uint16_t i = 0; i < p->n_services; i++)
		s->n_lending = (uint16_t)(s->n_lending + (s->wanted[i] && p->service[i].is_lending));
}

void credits_join(struct credits *p, struct credit_holder *s)
{
	assert(s->session);
	if (is_joined(s))
		return;
	count_lending(p, s);
	list_push(&p->holders, &s->ring);
	list_push(ranks_of(p, s), &s->rank);
	if (s->emptying_for)
		p->takers[s->emptying_for - 1].has_emptying = true;
	credit_holder_changed(p, s);
}

void credits_leave(struct credits *p, struct credit_holder *s)
{
	if (!is_joined(s))
		return;
	count_as(p, s, (struct credits_sum){0});
	list_remove(&s->rank);
	list_remove(&s->ring);
}

void credit_holder_want(struct credits *p, struct credit_holder *s, uint16_t pos, bool is_wanted)
{
	assert(pos < SERVICES_MAX);
	if (s->wanted[pos] == is_wanted)
		return;
	if (is_joined(s))
		count_as(p, s, (struct credits_sum){0});
	s->n_wanted = (uint16_t)(s->n_wanted + is_wanted - s->wanted[pos]);
	s->wanted[pos] = is_wanted;
	if (!is_joined(s))
		return;
	list_remove(&s->rank);
	list_push(ranks_of(p, s), &s->rank);
	count_lending(p, s);
	credit_holder_changed(p, s);
}

void credit_holder_offer(struct credits *p, struct credit_holder *s, uint32_t credits)
{
	s->credits = credits;
	credit_holder_changed(p, s);
}

void credit_holder_use(struct credits *p, struct credit_holder *s, int n)
{
	assert(n >= 0 || s->in_use >= (uint32_t)-n);
	s->in_use += (uint32_t)n;
	credit_holder_changed(p, s);
}

void credit_holder_set_alone(struct credits *p, struct credit_holder *s, bool is_alone)
{
	s->is_alone = is_alone;
	credit_holder_changed(p, s);
}

static bool takes(const struct credits *p, const struct credit_holder *s, uint16_t pos)
{
	return (s->all_services || s->wanted[pos]) && (s->takes_entries || !p->service[pos].is_entries);
}

/* ---- choosing ---- */

/* It is the last of its equals now. */
static void to_the_end(struct credits *p, struct credit_holder *s)
{
	list_remove(&s->ring);
	list_push(&p->holders, &s->ring);
	list_remove(&s->rank);
	list_push(ranks_of(p, s), &s->rank);
}

static bool can_take(const struct credits *p, const struct credit_holder *s, uint16_t pos)
{
	return takes(p, s, pos) && credit_holder_free(s);
}

static struct credit_holder *first_in_ring(const struct credits *p, uint16_t pos)
{
	for (const struct link *l = p->holders.next; l != &p->holders; l = l->next) {
		struct credit_holder *s = LIST_OF(struct credit_holder, ring, l);
		if (can_take(p, s, pos))
			return s;
	}
	return NULL;
}

/* The first with the fewest services. */
static struct credit_holder *first_of_rank(const struct credits *p, const struct link *ranks, uint16_t pos)
{
	struct credit_holder *best = NULL;
	for (const struct link *l = ranks->next; l != ranks; l = l->next) {
		struct credit_holder *s = LIST_OF(struct credit_holder, rank, l);
		if (!can_take(p, s, pos) || (best && s->n_wanted >= best->n_wanted))
			continue;
		best = s;
		if (ranks != &p->several) /* the others are its equals */
			break;
	}
	return best;
}

struct credit_holder *credits_choose(struct credits *p, uint16_t pos)
{
	if (credits_free(p, pos) == 0)
		return NULL;
	struct credit_holder *best = p->n_services == 1 ? first_in_ring(p, pos) : NULL;
	best = best ? best : first_of_rank(p, &p->takers[pos].only, pos);
	best = best ? best : first_of_rank(p, &p->several, pos);
	best = best ? best : first_of_rank(p, &p->every, pos);
	assert(best); /* the sums say so */
	to_the_end(p, best);
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
		credit_holder_changed(p, h);
		to_the_end(p, h);
		return h;
	}
	return NULL;
}

void credits_keep_empty(struct credits *p, struct credit_holder *s, uint16_t pos)
{
	s->emptying_for = (uint16_t)(pos + 1);
	p->takers[pos].has_emptying = true;
	credit_holder_changed(p, s);
}

void credits_lend(struct credits *p, uint16_t pos, bool is_lending)
{
	assert(pos < p->n_services);
	if (p->service[pos].is_lending == is_lending)
		return;
	p->service[pos].is_lending = is_lending;
	p->n_lending = (uint16_t)(is_lending ? p->n_lending + 1 : p->n_lending - 1);
	for (struct link *l = p->holders.next; l != &p->holders; l = l->next) {
		struct credit_holder *h = LIST_OF(struct credit_holder, ring, l);
		if (!h->wanted[pos])
			continue;
		count_lending(p, h);
		credit_holder_changed(p, h);
	}
}

bool credits_may_get_more(const struct credits *p, uint16_t pos)
{
	assert(pos < p->n_services);
	if (p->service[pos].is_entries || p->takers[pos].sum[1].n_lent > 0)
		return true;
	return p->n_lending > 0 && p->of_every[1].n_with > 0;
}

void credits_share(const struct credits *p, uint16_t pos, bool shared[static SERVICES_MAX])
{
	assert(pos < p->n_services);
	for (uint16_t i = 0; i < p->n_services; i++) {
		const bool is_entries = p->service[pos].is_entries || p->service[i].is_entries;
		shared[i] = p->of_every[1].n_with > 0 || (!is_entries && p->of_every[0].n_with > 0);
	}
	for (const struct link *l = p->several.next; l != &p->several; l = l->next) {
		const struct credit_holder *h = LIST_OF(const struct credit_holder, rank, l);
		for (uint16_t i = 0; h->credits && takes(p, h, pos) && i < p->n_services; i++)
			shared[i] = shared[i] || takes(p, h, i);
	}
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
		credits_keep_empty(p, least, pos);
	return is_taken;
}

void credits_stop_emptying(struct credits *p, uint16_t pos)
{
	assert(pos < p->n_services);
	if (!p->takers[pos].has_emptying)
		return;
	p->takers[pos].has_emptying = false;
	for (struct link *l = p->holders.next; l != &p->holders; l = l->next) {
		struct credit_holder *h = LIST_OF(struct credit_holder, ring, l);
		if (h->emptying_for != pos + 1)
			continue;
		h->emptying_for = 0;
		credit_holder_changed(p, h);
	}
}

static bool credits_wants(const struct credits *p, uint16_t i)
{
	const struct credits_service *s = &p->service[i];
	return s->is_on && !s->is_paused && !s->is_away && s->owned < s->max_streams;
}

/* ---- rivals ---- */

static struct credits_rivals rival_of(const struct credits *p, uint16_t pos)
{
	const struct credits_service *s = &p->service[pos];
	struct credits_rivals r = {.reserved = s->is_on ? s->reserved : 0};
	const uint32_t free = credits_wants(p, pos) ? credits_free(p, pos) : 0;
	if (free == 0)
		return r;
	r.n = 1;
	r.weights = s->was_full ? s->weight : 0;
	r.n_waiting = !s->is_reading && free > s->reserved;
	r.n_busy = r.n_waiting && !s->was_empty;
	return r;
}

static void rivals_change(struct credits_rivals *sum, const struct credits_rivals *was, const struct credits_rivals *is)
{
	sum->n += is->n - was->n;
	sum->n_waiting += is->n_waiting - was->n_waiting;
	sum->n_busy += is->n_busy - was->n_busy;
	sum->weights += is->weights - was->weights;
	sum->reserved += is->reserved - was->reserved;
}

static struct credits_rivals rivals_of_all(const struct credits *p)
{
	if (p->are_rivals_counted)
		return p->rivals;
	static const struct credits_rivals none;
	struct credits_rivals sum = none;
	for (uint16_t i = 0; i < p->n_services; i++) {
		const struct credits_rivals is = rival_of(p, i);
		rivals_change(&sum, &none, &is);
	}
	return sum;
}

/* The one at pos, which can have a credit, is among them; it is not counted among those that wait. */
static struct credits_rivals rivals_of(const struct credits *p, uint16_t pos)
{
	struct credits_rivals r = rivals_of_all(p);
	const struct credits_rivals mine = rival_of(p, pos);
	assert(mine.n == 1);
	r.n_waiting -= mine.n_waiting;
	r.n_busy -= mine.n_busy;
	r.weights += p->service[pos].weight - mine.weights;
	return r;
}

void credits_begin_grants(struct credits *p)
{
	assert(!p->are_rivals_counted);
	static const struct credits_rivals none;
	p->rivals = none;
	for (uint16_t i = 0; i < p->n_services; i++) {
		p->service[i].counted = rival_of(p, i);
		rivals_change(&p->rivals, &none, &p->service[i].counted);
	}
	p->are_rivals_counted = true;
}

void credits_end_grants(struct credits *p)
{
	p->are_rivals_counted = false;
}

/* ---- grants ---- */

enum { PASS_PER_ENTRY = 1 << 20 /* divided by weights of 1 to 100 */ };

void credits_granted(struct credits *p, uint16_t pos, mono_ms now)
{
	assert(pos < p->n_services);
	struct credits_service *s = &p->service[pos];
	s->pass = s->pass > p->pass ? s->pass : p->pass;
	p->pass = s->pass;
	s->granted_at = now;
	if (!p->are_rivals_counted)
		return;
	const struct credits_rivals is = rival_of(p, pos);
	rivals_change(&p->rivals, &s->counted, &is);
	s->counted = is;
}

void credits_read(struct credits *p, uint16_t pos, uint32_t n)
{
	struct credits_service *s = &p->service[pos];
	assert(s->weight > 0);
	s->was_empty = n == 0;
	s->pass += (uint64_t)n * PASS_PER_ENTRY / s->weight;
}

/* Of n credits that it could have. */
static uint32_t share_of(const struct credits_service *s, const struct credits_rivals *r, uint32_t n)
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
static mono_ms short_wait(const struct credits_service *s, const struct credits_rivals *r, mono_ms now)
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
	const uint32_t mine = credits_free(p, pos);
	const uint32_t room = mine > s->reserved ? mine - s->reserved : 0;
	if (room == 0)
		return 0;
	const struct credits_rivals r = rivals_of(p, pos);
	const uint32_t left = p->n_free > r.reserved ? p->n_free - r.reserved : 0;
	if (left == 0)
		return 0;
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
	if (p->is_draining || !credits_wants(p, pos) || s->is_reading || s->was_empty)
		return false;
	return credits_free(p, pos) > s->reserved && p->n_free <= rivals_of_all(p).reserved;
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
	uint32_t n_free = 0;
	for (const struct link *l = p->holders.next; l != &p->holders; l = l->next) {
		const struct credit_holder *h = LIST_OF(const struct credit_holder, ring, l);
		uint16_t n_wanted = 0;
		for (uint16_t i = 0; i < SERVICES_MAX; i++)
			n_wanted = (uint16_t)(n_wanted + h->wanted[i]);
		assert(h->all_services || n_wanted == h->n_wanted);
		assert(h->n_lending <= p->n_lending && h->n_lending <= h->n_wanted);
		const struct credits_sum is = sum_of(h);
		assert(memcmp(&is, &h->counted, sizeof is) == 0);
		n_free += is.free;
		assert(h->session && h->emptying_for <= SERVICES_MAX);
		assert(!h->is_alone || h->in_use > 0); /* it holds the suspect */
	}
	assert(n_free == p->n_free);
	uint16_t n_lending = 0;
	for (uint16_t i = 0; i < p->n_services; i++) {
		const struct credits_service *s = &p->service[i];
		n_lending = (uint16_t)(n_lending + s->is_lending);
		assert(s->granted <= s->reserved);
		assert(s->is_reading || s->granted == 0);
		assert(!s->is_on || s->weight > 0);
	}
	assert(n_lending == p->n_lending);
	assert(!p->are_rivals_counted);
}
