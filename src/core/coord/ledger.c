#include "core/coord/ledger.h"
#include "core/sm.h"
#include <assert.h>
#include <string.h>

struct id_key {
	uint64_t ms, seq;
	uint16_t svc;
};

#define BIT(s) (1u << (s))

/* From each state: where it may go. */
static const uint16_t allowed[ENTRY_STATES] = {
	[ENTRY_FETCHING] = BIT(ENTRY_LOCKING) | BIT(ENTRY_PARKED) | BIT(ENTRY_FINISHING),
	[ENTRY_LOCKING] = BIT(ENTRY_BUSY) | BIT(ENTRY_TAKING) | BIT(ENTRY_LIMBO) | BIT(ENTRY_FINISHING),
	[ENTRY_BUSY] = BIT(ENTRY_LOCKING) | BIT(ENTRY_FINISHING),
	[ENTRY_TAKING] = BIT(ENTRY_LOCKING) | BIT(ENTRY_READY) | BIT(ENTRY_FINISHING),
	[ENTRY_PARKED] = BIT(ENTRY_LOCKING) | BIT(ENTRY_TAKING) | BIT(ENTRY_FINISHING),
	[ENTRY_READY] = BIT(ENTRY_ASSIGNED) | BIT(ENTRY_FINISHING),
	[ENTRY_ASSIGNED] = BIT(ENTRY_REVOKING) | BIT(ENTRY_LIMBO) | BIT(ENTRY_FINISHING),
	[ENTRY_REVOKING] = BIT(ENTRY_LIMBO) | BIT(ENTRY_FINISHING),
	[ENTRY_LIMBO] = BIT(ENTRY_ASSIGNED) | BIT(ENTRY_FINISHING),
	[ENTRY_FINISHING] = 0,
};

static const char *const entry_states[ENTRY_STATES] = {
	"fetching", "locking", "busy", "taking", "parked", "ready", "assigned", "revoking", "limbo", "finishing"};
static const struct sm entry_machine = {.what = "stream", .names = entry_states, .allowed = allowed, .n = ENTRY_STATES};

const char *entry_state_name(enum entry_state s)
{
	assert(s < ENTRY_STATES);
	return entry_states[s];
}

static struct id_key key_of(uint16_t svc, struct entry_id id)
{
	struct id_key k;
	memset(&k, 0, sizeof k); /* padding is hashed too */
	k.ms = id.ms;
	k.seq = id.seq;
	k.svc = svc;
	return k;
}

static bool ledger_same_id(const void *value, const void *key, size_t len)
{
	const struct entry *e = value;
	struct id_key k = key_of(e->svc, e->id);
	return len == sizeof k && memcmp(&k, key, len) == 0;
}

void ledger_init(struct ledger *l, uint64_t seed)
{
	*l = (struct ledger){0};
	map_init(&l->by_id, ledger_same_id, seed);
	heap_init(&l->timers);
	slab_init(&l->entries, sizeof(struct entry));
	uint32_t unused;
	slab_get(&l->entries, &unused);
}

void ledger_fini(struct ledger *l)
{
	uint32_t pos = 0;
	for (struct entry *e; (e = ledger_next(l, &pos));) {
		list_remove(&e->peers);
		ledger_drop(l, e);
	}
	map_fini(&l->by_id);
	heap_fini(&l->timers);
	slab_fini(&l->entries);
}

struct entry *ledger_add(struct ledger *l, uint16_t svc, struct entry_id id, enum entry_state state, mono_ms now)
{
	assert(state < ENTRY_STATES);
	uint32_t idx;
	struct entry *e = slab_get(&l->entries, &idx);
	list_init(&e->peers);
	e->svc = svc;
	e->id = id;
	e->state = (uint8_t)state;
	e->since = e->heard = now;
	e->deadline = MONO_NEVER;
	e->lease_shard = e->op_shard = SHARD_NONE;
	e->idx = idx;
	l->generation = (l->generation + 1) & 0x7fffffff; /* handles with the top bit are the control door's */
	l->generation += l->generation == 0;
	e->gen = l->generation;
	l->n++;
	l->n_state[state]++;
	struct id_key k = key_of(svc, id);
	void *old = map_put(&l->by_id, &k, sizeof k, e);
	assert(!old);
	(void)old;
	return e;
}

const struct entry_trouble entry_no_trouble;

struct entry_feed *entry_feed_new(uint16_t slot)
{
	struct entry_feed *f = mem_alloc(sizeof *f);
	f->slot = slot;
	f->shard = SHARD_NONE;
	f->trouble = &entry_no_trouble;
	return f;
}

struct entry_trouble *entry_troubled(struct entry_feed *f)
{
	if (f->trouble == &entry_no_trouble)
		f->trouble = mem_alloc(sizeof *f->trouble);
	return (struct entry_trouble *)f->trouble;
}

void entry_nack_over(struct entry_feed *f)
{
	if (!f->trouble->nack.is_on)
		return;
	struct entry_nack *nack = &entry_troubled(f)->nack;
	text_unref(nack->reason);
	*nack = (struct entry_nack){0};
}

void entry_feed_free(struct entry *e)
{
	if (e->feed && e->feed->trouble != &entry_no_trouble) {
		entry_nack_over(e->feed);
		mem_free(entry_troubled(e->feed));
	}
	mem_free(e->feed);
	e->feed = NULL;
}

void ledger_drop(struct ledger *l, struct entry *e)
{
	assert(e->gen);
	assert(list_empty(&e->peers));
	heap_remove(&l->timers, &e->timer);
	struct id_key k = key_of(e->svc, e->id);
	map_remove(&l->by_id, &k, sizeof k);
	l->n--;
	l->n_state[e->state]--;
	text_unref(e->stream);
	text_unref(e->info);
	text_unref(e->trace);
	entry_feed_free(e);
	text_unref(e->note);
	e->gen = 0;
	slab_put(&l->entries, e->idx);
}

struct entry *ledger_get(const struct ledger *l, uint16_t svc, struct entry_id id)
{
	struct id_key k = key_of(svc, id);
	return map_get(&l->by_id, &k, sizeof k);
}

struct entry *ledger_by_handle(const struct ledger *l, uint64_t handle)
{
	struct entry *e = handle ? slab_at(&l->entries, (uint32_t)handle) : NULL;
	return e && e->gen && entry_handle(e) == handle ? e : NULL;
}

void ledger_move(struct ledger *l, struct entry *e, enum entry_state to, mono_ms now, mono_ms deadline,
	struct effects *out, const char *why)
{
	assert(e->gen);
	struct slice stream = e->stream ? (struct slice){e->stream->bytes, e->stream->len} : (struct slice){"?", 1};
	l->n_state[e->state]--;
	l->n_state[to]++;
	sm_move(&entry_machine, &e->state, to, out, stream, why);
	e->since = now;
	e->deadline = deadline;
}

void ledger_arm(struct ledger *l, struct entry *e, mono_ms stop_at)
{
	assert(e->gen);
	mono_ms at = mono_min(e->deadline, stop_at);
	if (heap_at(&l->timers, &e->timer) <= at && at != MONO_NEVER)
		return; /* fires early, looks again: cheaper than moving it at each renewal */
	heap_set(&l->timers, &e->timer, at);
}

struct entry *ledger_due(struct ledger *l, mono_ms now)
{
	struct heap_node *n = heap_due(&l->timers, now);
	if (!n)
		return NULL;
	struct entry *e = HEAP_OF(struct entry, timer, n);
	heap_remove(&l->timers, n);
	return e;
}

struct entry *ledger_next(const struct ledger *l, uint32_t *pos)
{
	for (uint32_t end = slab_end(&l->entries); *pos < end;) {
		struct entry *e = slab_at(&l->entries, (*pos)++);
		if (e && e->gen)
			return e;
	}
	return NULL;
}

void ledger_check(const struct ledger *l)
{
	uint32_t n_state[ENTRY_STATES] = {0}, n = 0, n_timers = 0, pos = 0;
	for (struct entry *e; (e = ledger_next(l, &pos)); n++) {
		assert(e->state < ENTRY_STATES);
		assert(ledger_get(l, e->svc, e->id) == e && ledger_by_handle(l, entry_handle(e)) == e);
		assert(e->deadline == MONO_NEVER ||
			heap_at(&l->timers, &e->timer) <= e->deadline); /* nothing waits for ever */
		n_state[e->state]++;
		n_timers += e->timer.pos != 0;
	}
	assert(n == l->n && n == l->by_id.n && n_timers == l->timers.n);
	for (int s = 0; s < ENTRY_STATES; s++)
		assert(n_state[s] == l->n_state[s]);
}
