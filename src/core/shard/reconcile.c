#include "base/fnv.h"
#include "core/shard/reconcile.h"

#include "core/shard/reconcile_p.h"

#include <stdio.h>

enum { NOBODY_WAITS = 0x7fffffff /* an index that no repair has */ };
enum { AGAIN_MS = 200, AGAIN_MAX_MS = 5000, START_SPREAD_MS = 5000, POSTPONE_MS = 10000 };

/* ---- life ---- */

static bool is_repair(const void *value, const void *key, size_t len)
{
	const struct repair *r = value;
	return len == sizeof r->key && memcmp(&r->key, key, len) == 0;
}

static bool is_peer(const void *value, const void *key, size_t len)
{
	const struct peer *s = value;
	return s->name->len == len && memcmp(s->name->bytes, key, len) == 0;
}

struct reconcile *reconcile_new(uint64_t seed)
{
	struct reconcile *rc = mem_alloc(sizeof *rc);
	rc->seed = seed;
	shard_pool_init(&rc->pool, sizeof(struct repair));
	map_init(&rc->repairs, is_repair, seed);
	heap_init(&rc->timers);
	heap_init(&rc->services);
	return rc;
}

static void recovery_free(struct recovery *v)
{
	if (!v)
		return;
	size_t pos = 0;
	for (struct peer *s; (s = map_next(&v->peers, &pos));) {
		text_unref(s->name);
		mem_free(s);
	}
	map_fini(&v->peers);
	text_unref(v->walking);
	mem_free(v->live.v);
	mem_free(v);
}

void reconcile_free(struct reconcile *rc)
{
	if (!rc)
		return;
	size_t pos = 0;
	for (struct repair *r; (r = map_next(&rc->repairs, &pos));) {
		text_unref(r->consumer);
		text_unref(r->stream);
	}
	for (size_t i = 0; i < rc->n; i++)
		recovery_free(rc->v[i]);
	mem_free(rc->v);
	map_fini(&rc->repairs);
	heap_fini(&rc->timers);
	heap_fini(&rc->services);
	shard_pool_fini(&rc->pool);
	mem_free(rc);
}

const struct service_rules *recovery_rules(const struct shard_ctx *c, const struct recovery *v)
{
	return ctx_service(c, v->svc)->rules;
}

static struct recovery *reconcile_find(const struct reconcile *rc, uint16_t svc)
{
	return svc < rc->n ? rc->v[svc] : NULL;
}

static void reconcile_wake(struct reconcile *rc, struct shard_ctx *c, struct recovery *v)
{
	heap_set(&rc->services, &v->timer, c->now);
}

/* Entries that the group was given before it was known to us, at "$", may have been skipped on purpose. */
static bool wants_ghost_floor(const struct shard_ctx *c, const struct recovery *v)
{
	return !v->ghost.has_floor && strcmp(recovery_rules(c, v)->group_start, "$") == 0;
}

static struct recovery *reconcile_begin(struct reconcile *rc, struct shard_ctx *c, uint16_t svc)
{
	if (svc >= rc->n) {
		rc->v = mem_grow(rc->v, (size_t)svc + 1, sizeof(struct recovery *));
		while (rc->n <= svc)
			rc->v[rc->n++] = NULL;
	}
	struct recovery *v = rc->v[svc] = mem_alloc(sizeof *v);
	v->svc = svc;
	map_init(&v->peers, is_peer, rc->seed);
	list_init(&v->ready);
	v->consumers.is_on = v->scan.is_on = true;
	v->consumers.at = c->now;
	v->left.is_on = true;
	v->left.at = MONO_NEVER; /* asked when somebody is suspected */
	v->left.gen = v->consumers.gen = v->walk.gen = v->scan.gen = v->ghosts.gen = (uint32_t)rng_next(&c->rng);
	mono_ms spread = mono_min(recovery_rules(c, v)->recovery.scan_interval_ms, START_SPREAD_MS);
	v->scan.at = c->now + (mono_ms)rng_below(&c->rng, (uint64_t)spread + 1);
	v->ghosts.at = wants_ghost_floor(c, v) ? c->now : v->scan.at;
	return v;
}

void reconcile_service(struct reconcile *rc, struct shard_ctx *c, uint16_t svc)
{
	struct recovery *v = reconcile_find(rc, svc);
	if (ctx_service(c, svc)->is_read) {
		if (!v)
			v = reconcile_begin(rc, c, svc);
		reconcile_wake(rc, c, v);
		return;
	}
	if (!v)
		return;
	repair_forget_all(rc, c, svc);
	heap_remove(&rc->services, &v->timer);
	rc->v[svc] = NULL;
	recovery_free(v);
}

void reconcile_command_up(struct reconcile *rc, struct shard_ctx *c)
{
	for (size_t i = 0; i < rc->n; i++)
		if (rc->v[i])
			reconcile_wake(rc, c, rc->v[i]);
}

void reconcile_scan(struct reconcile *rc, struct shard_ctx *c, uint16_t svc)
{
	struct recovery *v = reconcile_find(rc, svc);
	if (!v)
		return;
	v->scan.at = v->consumers.at = v->walk.at = v->ghosts.at = c->now;
	v->ghost.are_asked = true;
	reconcile_wake(rc, c, v);
}

void reconcile_postpone(struct reconcile *rc, struct shard_ctx *c)
{
	for (size_t i = 0; i < rc->n; i++)
		if (rc->v[i] && rc->v[i]->scan.from.ms == 0)
			rc->v[i]->scan.at = mono_max(rc->v[i]->scan.at, c->now + POSTPONE_MS);
}

void reconcile_expired(struct reconcile *rc, struct shard_ctx *c, struct slice stream, struct entry_id id)
{
	(void)stream; /* the entry's id says it all */
	for (size_t i = 0; i < rc->n; i++)
		if (rc->v[i])
			repair_expired(rc, c, rc->v[i], id);
}

/* ---- consumers ---- */

static uint64_t name_hash(struct slice s) /* the same in every daemon */
{
	return fnv(s.p, s.len);
}

static void add_live(struct recovery *v, uint64_t hash)
{
	if (v->live.n == v->live.cap) {
		v->live.cap = v->live.cap ? v->live.cap * 2 : 16;
		v->live.v = mem_grow(v->live.v, v->live.cap, sizeof *v->live.v);
	}
	v->live.v[v->live.n++] = hash;
}

struct peer *recovery_peer(const struct recovery *v, struct slice name)
{
	return map_get(&v->peers, name.p, name.len);
}

static void note_consumer(struct shard_ctx *c, struct recovery *v, const struct consumer_row *row)
{
	const struct service_rules *rules = recovery_rules(c, v);
	struct peer *s = recovery_peer(v, row->name);
	if (!s) {
		s = mem_alloc(sizeof *s);
		s->name = text_new(row->name.p, row->name.len);
		map_put(&v->peers, s->name->bytes, s->name->len, s);
	}
	s->round = v->round;
	if (s->seen_at < c->now - row->idle_ms || row->n_pending > s->n_held)
		s->n_held = row->n_pending;
	s->seen_at = c->now - row->idle_ms;
	bool is_suspect = row->n_pending > 0 && row->idle_ms >= rules->lease.ttl_ms;
	if (is_suspect && !s->is_suspect && rules->recovery.probe)
		effects_log(c->out, LOG_INFO,
			"shard=%u service=%s consumer=%.200s not seen idle_ms=%lld pending=%llu: looking at its locks",
			c->index, rules->name, s->name->bytes, (long long)row->idle_ms,
			(unsigned long long)row->n_pending);
	if (is_suspect && !s->is_suspect)
		s->suspect_at = c->now;
	s->is_suspect = is_suspect;
}

static void drop_absent(struct shard_ctx *c, struct recovery *v)
{
	size_t pos = 0;
	for (struct peer *s; (s = map_next(&v->peers, &pos));) {
		if (s->round == v->round)
			continue;
		map_remove(&v->peers, s->name->bytes, s->name->len);
		ctx_retire(c, s->name);
		mem_free(s);
	}
}

/* A walk through the entries of a suspect that has not been walked through lately. */
static void start_walk(struct shard_ctx *c, struct recovery *v)
{
	if (v->walk.is_on || !recovery_rules(c, v)->recovery.probe)
		return;
	size_t pos = 0;
	for (struct peer *s; (s = map_next(&v->peers, &pos));) {
		if (!s->is_suspect || s->walk_at > c->now)
			continue;
		v->walking = text_ref(s->name);
		v->walk.is_on = true;
		v->walk.began = c->now;
		v->walk.from = (struct entry_id){0};
		return;
	}
}

static void end_walk(struct shard_ctx *c, struct recovery *v)
{
	struct peer *s = recovery_peer(v, slice_of(v->walking));
	if (s)
		s->walk_at = v->walk.began + mono_max(EVERY_MS, 10 * (c->now - v->walk.began)) - 1;
	ctx_retire(c, v->walking);
	v->walking = NULL;
	v->walk.is_on = false;
}

/* How many live consumers come before us where one of all is enough. live[0] is ours. */
static unsigned rank_of_all(const struct recovery *v)
{
	unsigned rank = 0;
	for (size_t i = 1; i < v->live.n; i++)
		rank += v->live.v[i] > v->live.v[0];
	return rank;
}

/* ---- who has left ---- */

/* Whoever is not in it has not left, or is back. */
static void on_left(struct recovery *v, const struct reply *reply)
{
	size_t pos = 0;
	for (struct peer *s; (s = map_next(&v->peers, &pos));)
		s->has_left = false;
	for (size_t i = 0; i < reply->n; i++) {
		struct peer *s = recovery_peer(v, reply->consumers[i].name);
		if (!s)
			continue;
		s->has_left = true;
		s->left_at = v->left.sent - reply->consumers[i].idle_ms; /* what it got later was not left behind */
	}
	v->left_known = v->left.sent;
	v->left.at = MONO_NEVER;
}

void recovery_ask_left(struct reconcile *rc, struct shard_ctx *c, struct recovery *v)
{
	if (!v->left.in_flight && v->left.at > c->now) {
		v->left.at = c->now;
		reconcile_wake(rc, c, v);
	}
}

/* Names of pods that never come back would stay for ever: one of them a look, by the daemon whose turn it is. */
static void forget_consumer(struct shard_ctx *c, struct recovery *v, const struct consumer_row *row)
{
	const struct service_rules *rules = recovery_rules(c, v);
	struct op_ask ask = {.kind = CMD_FORGET,
		.svc = v->svc,
		.asking = ctx_service(c, v->svc)->asking,
		.consumer = text_new(row->name.p, row->name.len),
		.min_idle_ms = rules->recovery.forget_consumer_ms,
		.not_after = c->now + c->rules->command_timeout_ms,
		.tag = tag_of(PART_RECONCILE, 0, NOBODY_WAITS)};
	effects_log(c->out, LOG_INFO, "shard=%u service=%s consumer=%.200s idle_ms=%lld has nothing: forgotten",
		c->index, rules->name, ask.consumer->bytes, (long long)row->idle_ms);
	ctx_ask(c, &ask);
}

static bool is_my_turn(const struct recovery *v, const struct consumer_row *row)
{
	uint64_t least = UINT64_MAX;
	for (size_t i = 0; i < v->live.n; i++)
		least = least < (v->live.v[i] ^ name_hash(row->name)) ? least : v->live.v[i] ^ name_hash(row->name);
	return v->live.n > 0 && least == (v->live.v[0] ^ name_hash(row->name));
}

static void forget_one(struct shard_ctx *c, struct recovery *v, const struct reply *reply)
{
	for (size_t i = 0; i < reply->n; i++) {
		const struct consumer_row *row = &reply->consumers[i];
		mono_ms after = recovery_rules(c, v)->recovery.forget_consumer_ms;
		bool is_old = after > 0 && row->n_pending == 0 && row->idle_ms >= after;
		if (is_old && !slice_eq(row->name, slice_str(c->rules->consumer)) && is_my_turn(v, row)) {
			forget_consumer(c, v, row);
			return;
		}
	}
}

static bool has_suspect(const struct recovery *v)
{
	size_t pos = 0;
	for (const struct peer *s; (s = map_next(&v->peers, &pos));)
		if (s->is_suspect)
			return true;
	return false;
}

static void on_consumers(struct shard_ctx *c, struct recovery *v, const struct reply *reply)
{
	struct slice me = slice_str(c->rules->consumer);
	mono_ms ttl = recovery_rules(c, v)->lease.ttl_ms;
	mono_ms next = v->consumers.sent + EVERY_MS;
	v->round++;
	v->live.n = 0;
	add_live(v, name_hash(me));
	for (size_t i = 0; i < reply->n; i++) {
		const struct consumer_row *row = &reply->consumers[i];
		if (slice_eq(row->name, me))
			continue;
		note_consumer(c, v, row);
		if (row->idle_ms >= ttl)
			continue;
		add_live(v, name_hash(row->name));
		if (row->n_pending > 0) /* if it is not seen again, then just in time */
			next = mono_min(next, c->now + ttl - row->idle_ms);
	}
	ctx_service(c, v->svc)->rank = rank_of_all(v);
	drop_absent(c, v);
	v->consumers.at = mono_max(next, c->now + 1);
	if (has_suspect(v)) /* has it left on purpose? */
		v->left.at = mono_min(v->left.at, c->now);
	start_walk(c, v);
	forget_one(c, v, reply);
}

/* ---- pages ---- */

static void found_rows(struct reconcile *rc, struct shard_ctx *c, struct recovery *v, const struct reply *reply,
	enum repair_source source)
{
	for (size_t i = 0; i < reply->n; i++)
		if (!slice_eq(reply->pending[i].consumer, slice_str(c->rules->consumer)))
			repair_found(rc, c, v, &reply->pending[i], source);
}

static void on_walk(struct reconcile *rc, struct shard_ctx *c, struct recovery *v, const struct reply *reply)
{
	struct page *p = &v->walk;
	found_rows(rc, c, v, reply, BY_PROBE);
	if (reply->n == WALK_PAGE) {
		p->from = entry_id_next(reply->pending[reply->n - 1].id);
		return;
	}
	end_walk(c, v);
	start_walk(c, v);
}

static void scan_ended(struct shard_ctx *c, struct recovery *v, bool is_ok)
{
	const struct service_rules *rules = recovery_rules(c, v);
	struct metrics_service *m = ctx_metrics(c, v->svc);
	struct page *p = &v->scan;
	enum metric_service full = is_ok ? M_SCAN_FULL_OK : M_SCAN_FULL_ERROR;
	enum metric_service first = is_ok ? M_SCAN_START_OK : M_SCAN_START_ERROR;
	m->c[v->was_scanned ? full : first]++;
	p->from = (struct entry_id){0};
	if (!is_ok)
		return;
	hist_add(&m->h[H_SCAN], (double)(c->now - p->began) / 1000);
	v->was_scanned = true;
	p->at = c->now + rng_jitter(&c->rng, rules->recovery.scan_interval_ms, rules->jitter_pct);
}

static void on_scan(struct reconcile *rc, struct shard_ctx *c, struct recovery *v, const struct reply *reply)
{
	found_rows(rc, c, v, reply, BY_SCAN);
	if (reply->n == recovery_rules(c, v)->recovery.scan_page)
		v->scan.from = entry_id_next(reply->pending[reply->n - 1].id);
	else
		scan_ended(c, v, true);
}

static void on_ghosts(struct reconcile *rc, struct shard_ctx *c, struct recovery *v, const struct reply *reply)
{
	struct page *p = &v->ghosts;
	if (wants_ghost_floor(c, v)) {
		v->ghost.has_floor = reply->id.ms || reply->id.seq; /* else nothing was given to it yet */
		v->ghost.floor = p->from = entry_id_next(reply->id);
		p->at = v->ghost.has_floor ? v->scan.at : c->now + EVERY_MS;
		return;
	}
	for (size_t i = 0; i < reply->n; i++)
		repair_ghost(rc, c, v, reply->pending[i].id);
	if (reply->id.ms || reply->id.seq) {
		p->from = entry_id_next(reply->id);
		return;
	}
	p->from = v->ghost.floor;
	v->ghost.are_asked = false;
	p->at = c->now +
		rng_jitter(&c->rng, recovery_rules(c, v)->recovery.scan_interval_ms, recovery_rules(c, v)->jitter_pct);
}

static void page_failed(struct shard_ctx *c, struct recovery *v, struct page *p)
{
	if (p == &v->left) { /* nothing else waits for it: then all are deaths */
		v->left_known = c->now;
		p->at = MONO_NEVER;
		return;
	}
	if (p == &v->walk) {
		end_walk(c, v); /* a later look at the consumers begins another */
	} else if (p == &v->scan) {
		scan_ended(c, v, false);
	}
	p->at = c->now + ctx_backoff(c, p->tries, AGAIN_MS, AGAIN_MAX_MS);
	p->tries = (uint8_t)(p->tries < 100 ? p->tries + 1 : p->tries);
}

static struct page *page_of(struct recovery *v, enum page_kind k)
{
	struct page *const pages[] = {[PAGE_CONSUMERS] = &v->consumers,
		[PAGE_WALK] = &v->walk,
		[PAGE_SCAN] = &v->scan,
		[PAGE_LEFT] = &v->left,
		[PAGE_GHOSTS] = &v->ghosts};
	return pages[k];
}

static enum cmd_kind page_command(enum page_kind k)
{
	static const enum cmd_kind kinds[] = {[PAGE_CONSUMERS] = CMD_CONSUMERS,
		[PAGE_WALK] = CMD_PENDING,
		[PAGE_SCAN] = CMD_PENDING,
		[PAGE_LEFT] = CMD_LEFT,
		[PAGE_GHOSTS] = CMD_GHOSTS};
	return kinds[k];
}

static void page_reply(struct reconcile *rc, struct shard_ctx *c, uint64_t tag, const struct reply *reply)
{
	enum page_kind k = (enum page_kind)(tag_index(tag) & 7);
	struct recovery *v = reconcile_find(rc, (uint16_t)(tag_index(tag) >> 3));
	if (!v)
		return;
	struct page *p = page_of(v, k);
	if (!p->in_flight || tag_gen(tag) != p->gen)
		return;
	p->in_flight = false;
	reconcile_wake(rc, c, v);
	hist_add(&c->metrics.h[HR_COMMAND], (double)(c->now - p->sent) / 1000);
	enum cmd_kind kind = page_command(k);
	if (reply->kind == REPLY_ERROR && reply->error == RERR_NOSCRIPT) {
		p->use_eval = true;
		p->at = c->now;
		return;
	}
	if (ctx_judge(c, "recovery", kind, v->svc, reply) != VERDICT_ANSWER) {
		page_failed(c, v, p);
		return;
	}
	p->tries = 0;
	if (k == PAGE_CONSUMERS)
		on_consumers(c, v, reply);
	else if (k == PAGE_LEFT)
		on_left(v, reply);
	else if (k == PAGE_WALK)
		on_walk(rc, c, v, reply);
	else if (k == PAGE_GHOSTS)
		on_ghosts(rc, c, v, reply);
	else
		on_scan(rc, c, v, reply);
}

void reconcile_reply(struct reconcile *rc, struct shard_ctx *c, uint64_t tag, const struct reply *given)
{
	struct reply reply = *given;
	if (tag_index(tag) & 0x80000000u)
		page_reply(rc, c, tag, &reply);
	else
		repair_reply(rc, c, tag, &reply);
	entry_batch_free(reply.entries);
}

/* ---- sending ---- */

static struct cmd *reconcile_send_page(struct shard_ctx *c, struct recovery *v, struct page *p, enum page_kind k)
{
	p->gen = (p->gen + 1) & 0x0fffffff;
	p->sent = c->now;
	p->in_flight = true;
	enum cmd_kind kind = page_command(k);
	struct effect *ef = ctx_redis(c, tag_of(PART_RECONCILE, p->gen, page_index(v->svc, k)), kind, v->svc);
	ef->cmd.asking = ctx_service(c, v->svc)->asking;
	ef->cmd.id = p->from;
	ef->cmd.use_eval = p->use_eval;
	return &ef->cmd;
}

/* Pages wait for room: what was found is worked off first. */
static bool has_room(const struct recovery *v)
{
	return v->n_busy + v->n_queued < RECOVERY_BUSY && v->n_waiting < RECOVERY_WAITING;
}

/* One daemon of all is enough: the one of rank 0. */
static void look_for_ghosts(struct shard_ctx *c, struct recovery *v)
{
	struct page *p = &v->ghosts;
	if (p->in_flight || p->at > c->now || !has_room(v))
		return;
	const bool is_mine = ctx_service(c, v->svc)->rank == 0 || v->ghost.are_asked || wants_ghost_floor(c, v);
	if (!is_mine) {
		p->from = v->ghost.floor;
		p->at = c->now + recovery_rules(c, v)->recovery.scan_interval_ms;
		return;
	}
	struct cmd *cmd = reconcile_send_page(c, v, p, PAGE_GHOSTS);
	cmd->as.ghosts = (struct cmd_ghosts){.count = GHOST_PAGE, .only_last = wants_ghost_floor(c, v)};
}

static mono_ms reconcile_flush_one(struct reconcile *rc, struct shard_ctx *c, struct recovery *v)
{
	repair_start_ready(rc, c, v);
	if (!c->is_up)
		return MONO_NEVER; /* woken when it is */
	if (!v->consumers.in_flight && v->consumers.at <= c->now)
		reconcile_send_page(c, v, &v->consumers, PAGE_CONSUMERS);
	if (v->walk.is_on && !v->walk.in_flight && has_room(v)) {
		struct cmd *cmd = reconcile_send_page(c, v, &v->walk, PAGE_WALK);
		cmd->as.pending = (struct cmd_pending){.count = WALK_PAGE, .consumer = slice_of(v->walking)};
	}
	if (!v->scan.in_flight && v->scan.at <= c->now && has_room(v)) {
		if (v->scan.from.ms == 0 && v->scan.from.seq == 0)
			v->scan.began = c->now;
		struct cmd *cmd = reconcile_send_page(c, v, &v->scan, PAGE_SCAN);
		cmd->as.pending.count = recovery_rules(c, v)->recovery.scan_page;
		cmd->as.pending.min_idle_ms = recovery_rules(c, v)->recovery.min_idle_ms;
	}
	if (!v->left.in_flight && v->left.at <= c->now)
		reconcile_send_page(c, v, &v->left, PAGE_LEFT);
	look_for_ghosts(c, v);
	mono_ms next = v->consumers.in_flight ? MONO_NEVER : v->consumers.at;
	if (!v->left.in_flight)
		next = mono_min(next, v->left.at);
	if (!v->scan.in_flight && v->scan.at > c->now)
		next = mono_min(next, v->scan.at);
	if (!v->ghosts.in_flight && v->ghosts.at > c->now)
		next = mono_min(next, v->ghosts.at);
	return next;
}

mono_ms reconcile_flush(struct reconcile *rc, struct shard_ctx *c)
{
	repair_tick(rc, c);
	struct heap_node *top;
	while ((top = heap_due(&rc->services, c->now)))
		heap_set(&rc->services, top, reconcile_flush_one(rc, c, HEAP_OF(struct recovery, timer, top)));
	return mono_min(heap_deadline(&rc->timers), heap_deadline(&rc->services));
}

uint32_t reconcile_count(const struct reconcile *rc)
{
	return shard_pool_count(&rc->pool);
}
