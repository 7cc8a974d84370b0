#include "core/shard/lease.h"

#include "core/shard/lease_p.h"
#include "core/sm.h"

#include <assert.h>
#include <string.h>

enum { JITTER_PCT = 10 };

/* ---- by handle: its low half is a small index, its high half says whether it is still the same entry ---- */

static struct lease *lease_find(const struct leases *ls, uint64_t handle)
{
	uint32_t i = (uint32_t)handle;
	struct lease *l =
		i < ls->n_by_handle && ls->by_handle[i] ? shard_pool_at(&ls->pool, ls->by_handle[i] - 1) : NULL;
	return l && l->handle == handle ? l : NULL;
}

static void name(struct leases *ls, const struct lease *l)
{
	uint32_t i = (uint32_t)l->handle;
	if (i >= ls->n_by_handle) {
		uint32_t n = i + 1 > 2 * ls->n_by_handle ? i + 1 : 2 * ls->n_by_handle;
		ls->by_handle = mem_grow(ls->by_handle, n, sizeof *ls->by_handle);
		memset(ls->by_handle + ls->n_by_handle, 0, (n - ls->n_by_handle) * sizeof *ls->by_handle);
		ls->n_by_handle = n;
	}
	ls->by_handle[i] = l->index + 1;
}

/* From here on the coordinator may give the handle's index to another entry. */
static void unname(struct leases *ls, const struct lease *l)
{
	if (lease_find(ls, l->handle) == l)
		ls->by_handle[(uint32_t)l->handle] = 0;
}

/* The next one in use at *pos or after it; *pos moves behind it. NULL: no more. Survives the end of what it
 * returned. */
static struct lease *next(const struct leases *ls, uint32_t *pos)
{
	for (uint32_t end = shard_pool_end(&ls->pool); *pos < end;) {
		struct lease *l = shard_pool_at(&ls->pool, (*pos)++);
		if (l && l->handle)
			return l;
	}
	return NULL;
}

/* ---- those that are being released, by their lock's name */

struct lock_name {
	struct entry_id id; /* what is hashed */
	const struct text *stream;
};

static bool lease_is_named(const void *value, const void *key, size_t len)
{
	const struct lease *l = value;
	const struct lock_name *n = key;
	return len == sizeof n->id && entry_id_cmp(l->id, n->id) == 0 &&
	       slice_eq(slice_of(l->stream), slice_of(n->stream));
}

static struct lease *releasing(const struct leases *ls, const struct lease *l)
{
	struct lock_name n = {l->id, l->stream};
	return ls->releasing.n ? map_get(&ls->releasing, &n, sizeof n.id) : NULL;
}

struct leases *leases_new(uint64_t seed)
{
	struct leases *ls = mem_alloc(sizeof *ls);
	map_init(&ls->releasing, lease_is_named, seed);
	shard_pool_init(&ls->pool, sizeof(struct lease));
	heap_init(&ls->timers);
	list_init(&ls->batches);
	list_init(&ls->urgent);
	list_init(&ls->calm);
	return ls;
}

void leases_free(struct leases *ls)
{
	if (!ls)
		return;
	uint32_t pos = 0;
	for (struct lease *l; (l = next(ls, &pos));)
		text_unref(l->stream);
	mem_free(ls->renewed);
	lease_batches_free(ls);
	map_fini(&ls->releasing);
	heap_fini(&ls->timers);
	mem_free(ls->by_handle);
	shard_pool_fini(&ls->pool);
	mem_free(ls);
}

uint32_t lease_count(const struct leases *ls)
{
	return shard_pool_count(&ls->pool);
}

const struct service_rules *lease_rules_of(const struct shard_ctx *c, const struct lease *l)
{
	return ctx_service(c, l->svc)->rules; /* known since it was acquired; services are never forgotten */
}

/* ---- states and times ---- */

static const uint16_t allowed[LEASE_STATES] = {
	[LEASE_ACQUIRING] = 1 << LEASE_CHECKING | 1 << LEASE_CONFIRMING | 1 << LEASE_HELD | 1 << LEASE_RELEASING,
	[LEASE_CHECKING] = 1 << LEASE_ACQUIRING | 1 << LEASE_SWAPPING | 1 << LEASE_CONFIRMING | 1 << LEASE_RELEASING,
	[LEASE_SWAPPING] = 1 << LEASE_CHECKING | 1 << LEASE_HELD | 1 << LEASE_RELEASING,
	[LEASE_CONFIRMING] = 1 << LEASE_ACQUIRING | 1 << LEASE_CHECKING | 1 << LEASE_HELD | 1 << LEASE_RELEASING,
	[LEASE_HELD] = 1 << LEASE_RENEWING | 1 << LEASE_RELEASING,
	[LEASE_RENEWING] = 1 << LEASE_HELD | 1 << LEASE_RECREATING | 1 << LEASE_RELEASING,
	[LEASE_RECREATING] = 1 << LEASE_HELD | 1 << LEASE_RECHECKING | 1 << LEASE_RELEASING,
	[LEASE_RECHECKING] = 1 << LEASE_RECREATING | 1 << LEASE_RENEWING | 1 << LEASE_RELEASING,
	[LEASE_RELEASING] = 0,
};

static const char *const lease_states[LEASE_STATES] = {
	"acquiring", "checking", "swapping", "confirming", "held", "renewing", "recreating", "rechecking", "releasing"};
static const struct sm lease_machine = {.what = "lease", .names = lease_states, .allowed = allowed, .n = LEASE_STATES};

void lease_move(struct shard_ctx *c, struct lease *l, enum lease_state to, const char *why)
{
	sm_move(&lease_machine, &l->state, to, c->out, slice_of(l->stream), why);
	l->tries = 0;
}

static bool is_held(const struct lease *l)
{
	return l->state >= LEASE_HELD && l->state <= LEASE_RECHECKING;
}

static mono_ms fence_of(const struct shard_ctx *c, const struct lease *l)
{
	return l->good_until - service_stop_margin(lease_rules_of(c, l), l->good_until);
}

/* In a queue of what may be sent. */
static bool is_queued(const struct lease *l)
{
	return !l->in_batch && !list_empty(&l->ready);
}

/* Out of its queue or batch. */
static void unlink_lease(struct lease *l)
{
	list_remove(&l->ready);
	l->in_batch = false;
}

void lease_set_timer(struct leases *ls, struct shard_ctx *c, struct lease *l)
{
	assert(l->handle);
	mono_ms at = MONO_NEVER;
	if (!l->in_flight && !is_queued(l)) {
		at = l->at;
		if (l->state == LEASE_HELD && at <= fence_of(c, l)) {
			heap_remove(&ls->timers, &l->timer);
			lease_batch_join(ls, l);
			return;
		}
		unlink_lease(l);
	}
	if (is_held(l))
		at = mono_min(at, fence_of(c, l));
	else if (l->state == LEASE_RELEASING)
		at = mono_min(at, l->good_until);
	heap_set(&ls->timers, &l->timer, at);
}

void lease_queue(struct leases *ls, struct shard_ctx *c, struct lease *l)
{
	if (l->in_flight || is_queued(l))
		return;
	unlink_lease(l);
	if (l->state == LEASE_ACQUIRING && releasing(ls, l)) {
		l->at = c->now + RELEASE_WAIT_MS;
		lease_set_timer(ls, c, l);
		return;
	}
	if (l->state == LEASE_HELD)
		lease_move(c, l, LEASE_RENEWING, "its renewal is due");
	bool is_near = is_held(l) && fence_of(c, l) - c->now < lease_rules_of(c, l)->lease.ttl_ms / 4;
	if (is_near)
		list_push_front(&ls->urgent, &l->ready);
	else
		list_push(is_held(l) ? &ls->urgent : &ls->calm, &l->ready);
	lease_set_timer(ls, c, l);
}

/* Renewals that are due within a hundredth of T go together. */
void lease_confirm(struct leases *ls, struct shard_ctx *c, struct lease *l)
{
	assert(l->ttl_ms > 0 && !l->in_flight);
	const struct service_rules *r = lease_rules_of(c, l);
	mono_ms sent = l->at;
	l->good_until = sent + l->ttl_ms;
	lease_move(c, l, LEASE_HELD, "Redis confirmed it");
	l->use_eval = false;
	mono_ms grid = mono_max(r->lease.ttl_ms / 100, 1);
	l->at = sent + rng_jitter(&c->rng, r->lease.renew_ms, JITTER_PCT);
	l->at -= l->at % grid;
	lease_set_timer(ls, c, l);
}

/* ---- ends ---- */

void lease_forget(struct leases *ls, struct shard_ctx *c, struct lease *l)
{
	assert(l->handle);
	struct lock_name n = {l->id, l->stream};
	if (l->state == LEASE_RELEASING && releasing(ls, l) == l)
		map_remove(&ls->releasing, &n, sizeof n.id);
	heap_remove(&ls->timers, &l->timer);
	unlink_lease(l);
	unname(ls, l);
	if (l->by_delifeq && ls->delifeq == DELIFEQ_ASKED)
		ls->delifeq = DELIFEQ_UNASKED; /* nobody waits for the answer */
	l->handle = 0;
	ctx_retire(c, l->stream);
	shard_pool_put(&ls->pool, l->index);
}

static struct msg *report(struct leases *ls, struct shard_ctx *c, const struct lease *l, enum lease_result r)
{
	assert(l->handle && r <= LEASE_IS_RECREATED);
	lease_flush_renewed(ls, c); /* what was confirmed before this must arrive before it */
	struct msg_lease lease = {.result = (uint8_t)r, .slot = l->slot, .good_until = l->good_until};
	if (r == LEASE_IS_MOVED) {
		lease.id = l->id;
		lease.stream = text_ref(l->stream);
	}
	struct msg *m = ctx_msg(c, msg_lease(lease));
	m->handle = l->handle;
	m->svc = l->svc;
	return m;
}

void lease_forget_take(struct leases *ls, struct shard_ctx *c, struct lease *l)
{
	l->lock.is_taking = false;
	if (!l->lock.is_unsaid)
		return;
	l->lock.is_unsaid = false;
	report(ls, c, l, LEASE_IS_HELD);
}

struct msg *lease_report(struct leases *ls, struct shard_ctx *c, struct lease *l, enum lease_result r)
{
	lease_forget_take(ls, c, l); /* the coordinator hears that it was held before it hears anything else of it */
	return report(ls, c, l, r);
}

static void lease_release(struct leases *ls, struct shard_ctx *c, struct lease *l)
{
	if (!l->lock.was_sent) {
		lease_forget(ls, c, l);
		return;
	}
	if (l->state == LEASE_RELEASING)
		return;
	l->good_until = mono_max(l->good_until, c->now) + lease_rules_of(c, l)->lease.ttl_ms;
	if (l->in_flight) { /* its answer is not awaited: the commands run in order */
		shard_pool_renew(&ls->pool, l->index);
		l->in_flight = false;
	}
	unlink_lease(l);
	lease_move(c, l, LEASE_RELEASING, "released");
	unname(ls, l);
	l->use_eval = false;
	struct lock_name n = {l->id, l->stream};
	map_put(&ls->releasing, &n, sizeof n.id, l);
	lease_queue(ls, c, l);
}

void lease_op_answer(struct leases *ls, struct shard_ctx *c, const struct op_answer *a)
{
	struct lease *l = lease_find(ls, a->handle);
	if (!l)
		return;
	if (a->is_released) {
		bool is_over = a->is_unlocked && l->state == LEASE_HELD && !l->in_flight;
		ctx_metrics(c, l->svc)->c[M_RELEASE_OK] += is_over;
		if (is_over)
			lease_forget(ls, c, l);
		else /* a renewal that is on its way may make the lock again */
			lease_release(ls, c, l);
		return;
	}
	if (!l->lock.is_unsaid || a->result == OP_FAILED || a->result == OP_MOVED) {
		lease_forget_take(ls, c, l);
		return;
	}
	l->lock.is_taking = l->lock.is_unsaid = false;
	struct msg *m = report(ls, c, l, LEASE_IS_HELD);
	m->lease.has_take = true;
	m->lease.taken = (uint8_t)a->result;
	m->lease.was_merged = a->n == 4;
}

void lease_lose(struct leases *ls, struct shard_ctx *c, struct lease *l, enum lost_reason reason)
{
	assert(reason < LOST_N);
	lease_report(ls, c, l, LEASE_IS_LOST)->lease.lost = (uint8_t)reason;
	lease_forget(ls, c, l);
}

/* The local deadline: work stops, whatever Redis would say. */
static void fence(struct leases *ls, struct shard_ctx *c, struct lease *l)
{
	bool is_late = c->now >= l->good_until;
	ctx_metrics(c, l->svc)->c[is_late ? M_FENCE_LATE : M_FENCE_STOPPED]++;
	bool is_missing = l->state == LEASE_RECREATING || l->state == LEASE_RECHECKING;
	lease_lose(ls, c, l, is_missing ? LOST_MISSING : LOST_EXPIRED);
}

static void lease_due(struct leases *ls, struct shard_ctx *c, struct lease *l)
{
	if (is_held(l) && c->now >= fence_of(c, l)) {
		fence(ls, c, l);
	} else if (l->state == LEASE_RELEASING && c->now >= l->good_until) {
		ctx_metrics(c, l->svc)->c[M_RELEASE_ERROR]++;
		lease_forget(ls, c, l);
	} else if (!l->in_flight && !is_queued(l) && l->at <= c->now) {
		lease_queue(ls, c, l);
	} else {
		lease_set_timer(ls, c, l);
	}
}

void lease_tick(struct leases *ls, struct shard_ctx *c)
{
	ls->n_sent = 0;
	for (struct heap_node *top; (top = heap_due(&ls->timers, c->now));)
		lease_due(ls, c, HEAP_OF(struct lease, timer, top));
	for (struct lease *l; (l = lease_batch_due(ls, c->now));)
		lease_due(ls, c, l);
}

/* ---- sending ---- */

enum cmd_kind lease_command(const struct lease *l)
{
	switch ((enum lease_state)l->state) {
	case LEASE_ACQUIRING:
	case LEASE_RECREATING:
		return CMD_LOCK;
	case LEASE_CHECKING:
	case LEASE_RECHECKING:
		return CMD_LOCK_GET;
	case LEASE_SWAPPING:
		return CMD_LOCK_SWAP;
	case LEASE_CONFIRMING:
	case LEASE_HELD:
	case LEASE_RENEWING:
		return CMD_RENEW;
	case LEASE_RELEASING:
	case LEASE_STATES:
		break;
	}
	return CMD_UNLOCK;
}

static bool try_delifeq(struct leases *ls)
{
	if (ls->delifeq == DELIFEQ_THERE)
		return true;
	if (ls->delifeq != DELIFEQ_UNASKED)
		return false;
	ls->delifeq = DELIFEQ_ASKED;
	return true;
}

/* expect: of a take-over only; copied. */
void lease_send(struct leases *ls, struct shard_ctx *c, struct lease *l, struct slice expect)
{
	assert(!l->in_flight);
	uint32_t gen = shard_pool_renew(&ls->pool, l->index);
	struct effect *ef = ctx_redis(c, tag_of(PART_LEASE, gen, l->index), lease_command(l), l->svc);
	ef->cmd.stream = slice_of(l->stream);
	ef->cmd.id = l->id;
	ef->cmd.asking = l->asking;
	ef->cmd.use_eval = l->use_eval;
	ef->cmd.as.lock.use_delifeq = l->by_delifeq = l->state == LEASE_RELEASING && try_delifeq(ls);
	ef->cmd.as.lock.value = slice_str(c->rules->lock_value);
	ef->cmd.as.lock.ttl_ms =
		mono_max(lease_rules_of(c, l)->lease.ttl_ms, l->good_until - c->now); /* workers know of good_until */
	if (expect.p) {
		ef->hold = text_new(expect.p, expect.len);
		ef->cmd.as.lock.expect = slice_of(ef->hold);
	}
	unlink_lease(l);
	l->ttl_ms = (int32_t)ef->cmd.as.lock.ttl_ms;
	l->at = c->now;
	if (l->lock.wants_take && !l->lock.was_sent && !refusals_of(&c->refusals, CMD_RENEW)) {
		l->lock.is_taking = true;
		ctx_ask(c, &(struct op_ask){.is_leases = true,
				   .handle = l->handle,
				   .kind = CMD_TAKE,
				   .svc = l->svc,
				   .id = l->id,
				   .stream = text_ref(l->stream),
				   .not_after = MONO_NEVER});
	}
	l->in_flight = l->lock.was_sent = true;
	ls->n_in_flight++;
	ls->n_sent++;
	lease_set_timer(ls, c, l);
}

static bool may_send(const struct leases *ls, const struct shard_ctx *c)
{
	return c->is_up && ls->n_in_flight < LEASES_IN_FLIGHT && !(list_empty(&ls->urgent) && list_empty(&ls->calm));
}

void lease_flush_renewed(struct leases *ls, struct shard_ctx *c)
{
	if (!ls->renewed)
		return;
	ctx_msg(c, msg_renewed((struct msg_renewed){.list = ls->renewed}));
	ls->renewed = NULL;
}

mono_ms lease_flush(struct leases *ls, struct shard_ctx *c)
{
	while (may_send(ls, c) && ls->n_sent < LEASES_PER_STEP) {
		struct link *first = list_empty(&ls->urgent) ? ls->calm.next : ls->urgent.next;
		lease_send(ls, c, LIST_OF(struct lease, ready, first), (struct slice){0});
	}
	if (ls->renewed && (ls->n_in_flight == 0 || c->now >= ls->renewed_at + RENEWED_WAIT_MS))
		lease_flush_renewed(ls, c);
	if (may_send(ls, c))
		return c->now;
	mono_ms flush = ls->renewed ? ls->renewed_at + RENEWED_WAIT_MS : MONO_NEVER;
	return mono_min(flush, mono_min(heap_deadline(&ls->timers), lease_batch_deadline(ls)));
}

void lease_renew_all(struct leases *ls, struct shard_ctx *c)
{
	uint32_t pos = 0;
	for (struct lease *l; (l = next(ls, &pos));)
		lease_queue(ls, c, l);
}

void lease_connected(struct leases *ls, struct shard_ctx *c, bool is_valkey)
{
	ls->delifeq = is_valkey ? DELIFEQ_UNASKED : DELIFEQ_NOT_THERE;
	lease_renew_all(ls, c);
}

/* ---- messages ---- */

static void acquire(struct leases *ls, struct shard_ctx *c, struct msg *m)
{
	assert(m->handle && m->lease_acquire.stream);
	const bool is_over = m->lease_acquire.is_over;
	struct lease *old = is_over ? NULL : lease_find(ls, m->handle);
	if (old)
		lease_forget(ls, c, old);
	uint32_t index;
	struct lease *l = shard_pool_get(&ls->pool, &index);
	l->index = index;
	l->handle = m->handle;
	l->svc = m->svc;
	l->slot = m->lease_acquire.slot;
	l->id = m->lease_acquire.id;
	l->asking = m->lease_acquire.asking;
	l->is_startup = m->lease_acquire.is_startup;
	l->stream = m->lease_acquire.stream;
	m->lease_acquire.stream = NULL;
	l->lock.wants_take = m->lease_acquire.takes;
	l->at = c->now;
	list_init(&l->ready);
	if (!ctx_service(c, l->svc) || (!l->asking && !ctx_serves(c, l->slot))) {
		l->good_until = m->lease_acquire.good_until;
		lease_report(ls, c, l, LEASE_IS_MOVED);
		ctx_retire(c, l->stream);
		l->handle = 0;
		shard_pool_put(&ls->pool, index);
		return;
	}
	if (m->lease_acquire.good_until > 0) {
		l->state = LEASE_HELD;
		l->good_until = m->lease_acquire.good_until;
		l->lock.was_sent = true;
	}
	if (is_over) {
		lease_release(ls, c, l);
		return;
	}
	name(ls, l);
	lease_queue(ls, c, l);
}

void lease_msg(struct leases *ls, struct shard_ctx *c, struct msg *m)
{
	if (m->kind == MSG_LEASE_ACQUIRE) {
		acquire(ls, c, m);
		return;
	}
	struct lease *l = lease_find(ls, m->handle);
	if (!l)
		return;
	if (m->kind == MSG_LEASE_RELEASE)
		lease_release(ls, c, l);
	else if (m->kind == MSG_LEASE_FORGET)
		lease_forget(ls, c, l);
	else if (m->kind == MSG_LEASE_RENEW)
		lease_queue(ls, c, l);
}

void lease_unlock_elsewhere(struct shard_ctx *c, const struct lease *l)
{
	ctx_msg(c, msg_lock_call((struct msg_lock_call){.kind = CMD_UNLOCK,
			   .slot = l->slot,
			   .tag = tag_of(PART_LEASE, 0, 0),
			   .id = l->id,
			   .stream = text_ref(l->stream),
			   .value = text_new(c->rules->lock_value, strlen(c->rules->lock_value))}))
		->svc = l->svc;
}

void lease_lock_answer(struct shard_ctx *c, uint16_t svc, const struct msg_lock_answer *m)
{
	if (m->result != OP_DONE)
		ctx_metrics(c, svc)->c[M_RELEASE_ERROR]++; /* it expires by itself */
	else
		ctx_metrics(c, svc)->c[m->integer == 1 ? M_RELEASE_OK : M_RELEASE_NOT_OURS]++;
}

void lease_slots(struct leases *ls, struct shard_ctx *c)
{
	uint32_t pos = 0;
	for (struct lease *l; (l = next(ls, &pos));) {
		if (ctx_serves(c, l->slot)) {
			l->asking = false;
			continue;
		}
		if (l->asking)
			continue;
		if (l->state == LEASE_RELEASING)
			lease_unlock_elsewhere(c, l);
		else
			lease_report(ls, c, l, LEASE_IS_MOVED);
		lease_forget(ls, c, l);
	}
}

void lease_rules(struct leases *ls, struct shard_ctx *c, uint16_t svc)
{
	uint32_t pos = 0;
	for (struct lease *l; (l = next(ls, &pos));) {
		if (l->svc != svc)
			continue;
		lease_set_timer(ls, c, l);
		if (l->state == LEASE_HELD)
			lease_queue(ls, c, l);
	}
}

void lease_forget_all(struct leases *ls, struct shard_ctx *c)
{
	uint32_t pos = 0;
	for (struct lease *l; (l = next(ls, &pos));)
		lease_forget(ls, c, l);
	mem_free(ls->renewed);
	ls->renewed = NULL;
}

void lease_check(const struct leases *ls, const struct shard_ctx *c)
{
	uint32_t pos = 0, n = 0, n_in_flight = 0, n_releasing = 0;
	for (const struct lease *l; (l = next(ls, &pos)); n++) {
		bool waits = !l->in_flight && !is_queued(l);
		assert(l->state < LEASE_STATES && l->stream && ctx_service(c, l->svc));
		assert(!l->in_flight || list_empty(&l->ready)); /* sent or queued, not both */
		assert(!waits || l->timer.pos || l->in_batch);  /* nothing waits for ever */
		assert(!l->in_batch || (l->state == LEASE_HELD && !l->timer.pos));
		assert(!is_held(l) || l->good_until > 0);
		assert(!is_held(l) ||
			(l->in_batch ? l->at : heap_at(&ls->timers, &l->timer)) <= fence_of(c, l)); /* in time */
		assert(!l->in_flight || l->lock.was_sent);
		if (l->state == LEASE_RELEASING)
			n_releasing++;
		else
			assert(lease_find(ls, l->handle) == l && releasing(ls, l) != l);
		n_in_flight += l->in_flight;
	}
	assert(n == shard_pool_count(&ls->pool));
	assert(n_in_flight <= ls->n_in_flight); /* more: answers that nobody waits for any more */
	assert(ls->releasing.n <= n_releasing);
	lease_batch_check(ls);
}
