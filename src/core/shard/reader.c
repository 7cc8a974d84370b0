#include "core/shard/reader.h"

#include "core/shard/reader_p.h"
#include "core/sm.h"

#include <assert.h>

struct readers *readers_new(void)
{
	struct readers *rs = mem_alloc(sizeof *rs);
	heap_init(&rs->timers);
	return rs;
}

void readers_free(struct readers *rs)
{
	if (!rs)
		return;
	for (size_t i = 0; i < rs->n; i++)
		mem_free(rs->v[i]);
	mem_free(rs->v);
	heap_fini(&rs->timers);
	mem_free(rs);
}

const struct service_rules *reader_rules(const struct shard_ctx *c, const struct reader *r)
{
	return ctx_service(c, r->svc)->rules;
}

enum cmd_kind reader_command(enum reader_query e)
{
	assert(e < READER_QUERY_N);
	static const enum cmd_kind kinds[READER_QUERY_N] = {
		[READER_QUERY_GROUP] = CMD_GROUP_CREATE,
		[READER_QUERY_OWN] = CMD_READ_OWN,
		[READER_QUERY_READ] = CMD_READ,
		[READER_QUERY_HEARTBEAT] = CMD_HEARTBEAT,
		[READER_QUERY_AUDIT] = CMD_PENDING,
		[READER_QUERY_LENGTH] = CMD_LENGTH,
		[READER_QUERY_PENDING_SUM] = CMD_PENDING_SUM,
		[READER_QUERY_UNREAD] = CMD_UNREAD,
		[READER_QUERY_DLQ_LENGTH] = CMD_DLQ_LENGTH,
		[READER_QUERY_DUE] = CMD_DUE,
		[READER_QUERY_FLEET] = CMD_FLEET,
		[READER_QUERY_FEED_DLQ_LENGTH] = CMD_FEED_DLQ_LENGTH,
		[READER_QUERY_UNBLOCK] = CMD_UNBLOCK,
		[READER_QUERY_TRIAL] = CMD_TRIAL,
		[READER_QUERY_LOOK] = CMD_SIFT,
	};
	return kinds[e];
}

static struct reader *reader_find(const struct readers *rs, uint16_t svc)
{
	return svc < rs->n ? rs->v[svc] : NULL;
}

static void reader_wake(struct readers *rs, struct shard_ctx *c, struct reader *r)
{
	heap_set(&rs->timers, &r->timer, c->now);
}

/* ---- states ---- */

static const uint16_t allowed[READER_STATES] = {
	[READER_GROUP] = 1 << READER_OWN | 1 << READER_RUN | 1 << READER_AWAY | 1 << READER_GROUP,
	[READER_OWN] = 1 << READER_RUN | 1 << READER_AWAY | 1 << READER_GROUP,
	[READER_RUN] = 1 << READER_AWAY | 1 << READER_GROUP,
	[READER_AWAY] = 1 << READER_GROUP | 1 << READER_AWAY,
};

static const char *const reader_states[READER_STATES] = {"group", "own", "run", "away"};
static const struct sm reader_machine = {
	.what = "reader", .names = reader_states, .allowed = allowed, .n = READER_STATES};

void reader_look_anew(struct shard_ctx *c, struct reader *r)
{
	struct reader_query_state *look = &r->reader_queries[READER_QUERY_LOOK];
	/* where idle ones keep their credits, only those that wait for a try can give theirs up: that is rare */
	r->look_ms = service_idle_may_yield(reader_rules(c, r)) ? LOOK_MS : LOOK_MAX_MS;
	look->at = mono_min(c->now + r->look_ms, mono_max(look->sent + LOOK_MAX_MS, c->now));
}

void reader_move(struct reader *r, struct shard_ctx *c, enum reader_state to, const char *why)
{
	sm_move(&reader_machine, &r->state, to, c->out, slice_str(reader_rules(c, r)->name), why);
	switch (to) {
	case READER_GROUP:
		r->reader_queries[READER_QUERY_GROUP].at = c->now;
		break;
	case READER_OWN:
		r->own_after = (struct entry_id){0};
		r->reader_queries[READER_QUERY_OWN].at = r->reader_queries[READER_QUERY_HEARTBEAT].at = c->now;
		break;
	case READER_RUN:
		r->is_again = true;
		for (int e = READER_QUERY_READ; e < READER_QUERY_UNBLOCK; e++)
			r->reader_queries[e].at = mono_min(r->reader_queries[e].at, c->now);
		r->reader_queries[READER_QUERY_TRIAL].at = c->now + TRIAL_MS;
		r->reader_queries[READER_QUERY_LOOK].sent = c->now;
		reader_look_anew(c, r);
		break;
	case READER_AWAY:
		r->reader_queries[READER_QUERY_GROUP].at = c->now + AWAY_MS;
		break;
	case READER_STATES:
		break;
	}
}

static struct reader *open_reader(struct readers *rs, struct shard_ctx *c, uint16_t svc)
{
	if (svc >= rs->n) {
		rs->v = mem_grow(rs->v, (size_t)svc + 1, sizeof(struct reader *));
		while (rs->n <= svc)
			rs->v[rs->n++] = NULL;
	}
	struct reader *r = rs->v[svc] = mem_alloc(sizeof *r);
	r->svc = svc;
	r->client_id = -1;
	for (int e = 0; e < READER_QUERY_TRIAL; e++) {
		r->reader_queries[e].at = c->now;
		r->reader_queries[e].gen = (uint32_t)rng_next(&c->rng); /* answers to a former reader are too late */
	}
	r->reader_queries[READER_QUERY_UNBLOCK].at = MONO_NEVER;
	r->reader_queries[READER_QUERY_TRIAL].gen = r->reader_queries[READER_QUERY_FLEET].gen =
		r->reader_queries[READER_QUERY_LOOK].gen = r->reader_queries[READER_QUERY_UNBLOCK].gen;
	effects_add(c->out, EFF_READER_OPEN)->svc = svc;
	return r;
}

static void close_reader(struct readers *rs, struct shard_ctx *c, struct reader *r)
{
	effects_add(c->out, EFF_READER_CLOSE)->svc = r->svc;
	heap_remove(&rs->timers, &r->timer);
	rs->v[r->svc] = NULL;
	ctx_service(c, r->svc)->lengths = SHARD_LENGTHS_UNKNOWN;
	mem_free(r);
}

void reader_service(struct readers *rs, struct shard_ctx *c, uint16_t svc)
{
	struct reader *r = reader_find(rs, svc);
	if (!ctx_service(c, svc)->is_read) {
		if (r)
			close_reader(rs, c, r);
		return;
	}
	if (!r)
		r = open_reader(rs, c, svc);
	else if (r->state == READER_AWAY)
		reader_move(r, c, READER_GROUP, "told anew to read here");
	reader_wake(rs, c, r);
}

struct msg *reader_entries(
	struct shard_ctx *c, uint16_t svc, enum entry_source source, struct entry_batch *b, int64_t n_asked)
{
	assert(n_asked >= 0);
	struct msg *m = ctx_msg(
		c, msg_entries((struct msg_entries){.source = (uint8_t)source, .n_asked = n_asked, .batch = b}));
	m->svc = svc;
	return m;
}

/* One grant at a time: what it brought is answered by one MSG_ENTRIES, then the next is awaited. */
void reader_credits(struct readers *rs, struct shard_ctx *c, uint16_t svc, const struct msg_credits *m)
{
	struct reader *r = reader_find(rs, svc);
	if (!r) {
		if (m->n > 0)
			reader_entries(c, svc, SOURCE_NEW, NULL, m->n);
		return;
	}
	r->block_cap_ms = m->block_cap_ms;
	r->is_sifting = m->is_sifting;
	if (m->n > 0) {
		r->grant.credits = m->n;
	} else if (r->grant.asked > 0) {
		r->grant.credits = 0;
		r->reader_queries[READER_QUERY_UNBLOCK].at = c->now;
	} else if (r->grant.credits > 0) {
		reader_entries(c, r->svc, SOURCE_NEW, NULL, r->grant.credits);
		r->grant.credits = 0;
	}
	reader_wake(rs, c, r);
}

/* Another connection took over. The read that waits on the one that was left ends soon, or is never answered: reading
 * goes on with its grant after a moment; a late answer is taken all the same. */
static void reader_leave(struct shard_ctx *c, struct reader *r)
{
	struct reader_query_state *s = &r->reader_queries[READER_QUERY_READ];
	if (!s->in_flight)
		return;
	r->grant.left_gen = s->gen;
	r->grant.is_left = true;
	s->in_flight = false;
	s->at = c->now + LEFT_MS;
	r->grant.credits = r->grant.asked;
	r->grant.asked = 0;
	r->reader_queries[READER_QUERY_UNBLOCK].at = MONO_NEVER;
}

void reader_conn(struct readers *rs, struct shard_ctx *c, uint16_t svc, bool is_up, int64_t client_id)
{
	struct reader *r = reader_find(rs, svc);
	if (!r)
		return;
	bool is_switch = is_up && r->is_conn_up && client_id != r->client_id;
	r->is_conn_up = is_up;
	r->client_id = is_up ? client_id : -1;
	if (is_up) { /* a reply may have been lost with the old one: an audit finds what it delivered */
		r->reader_queries[READER_QUERY_READ].at = r->reader_queries[READER_QUERY_AUDIT].at = c->now;
		r->reader_queries[READER_QUERY_READ].tries = 0;
	}
	if (is_switch)
		reader_leave(c, r);
	reader_wake(rs, c, r);
}

void reader_command_up(struct readers *rs, struct shard_ctx *c)
{
	c->trial_at = c->now + TRIAL_MS;
	for (size_t i = 0; i < rs->n; i++) {
		struct reader *r = rs->v[i];
		if (!r)
			continue;
		for (int e = 0; e < READER_QUERY_UNBLOCK; e++) {
			if (e != READER_QUERY_READ) /* asked again: the connection that was left may never answer */
				r->reader_queries[e].in_flight = false;
			bool is_for_later = (e == READER_QUERY_GROUP && r->state == READER_AWAY) ||
					    (e == READER_QUERY_READ && r->grant.is_left);
			if (!is_for_later)
				r->reader_queries[e].at = c->now;
		}
		r->audit.from = (struct entry_id){0};
		r->reader_queries[READER_QUERY_TRIAL].at = c->trial_at;
		r->reader_queries[READER_QUERY_FLEET].at = c->now;
		r->reader_queries[READER_QUERY_FLEET].in_flight = r->reader_queries[READER_QUERY_LOOK].in_flight =
			false;
		reader_look_anew(c, r);
		reader_wake(rs, c, r);
	}
}

/* Counts a loss, and whether it is said. True: soon after the one before, so that making it again helps little. */
static bool lost_again(const struct shard_ctx *c, struct reader_lost *l)
{
	bool is_again = l->n > 0 && c->now < l->at + LOST_FORGOTTEN_MS;
	l->n = is_again ? l->n + 1 : 1;
	l->at = c->now;
	l->is_said = !is_again || c->now >= l->said_at + LOST_SAY_MS;
	l->said_at = l->is_said ? c->now : l->said_at;
	return is_again;
}

void reader_group_lost(struct readers *rs, struct shard_ctx *c, struct reader *r)
{
	assert(ctx_service(c, r->svc)->is_read);
	ctx_service(c, r->svc)->is_group_lost = false;
	reader_wake(rs, c, r);
	if (r->was_lost || r->state == READER_GROUP)
		return; /* being made already */
	if (ctx_service(c, r->svc)
			->asking) { /* the move may have been called off: where the map says it is asked first */
		ctx_msg(c, msg_moved((struct msg_moved){.slot = reader_rules(c, r)->lbs_slot}));
		reader_move(r, c, READER_AWAY, "what an ASK led to is gone");
		return;
	}
	bool is_again = lost_again(c, &r->lost);
	if (r->lost.is_said)
		effects_log(c->out, LOG_WARN,
			"shard=%u service=%s the consumer group is gone: making it again from the beginning n=%u",
			c->index, reader_rules(c, r)->name, r->lost.n);
	ctx_msg(c, msg_plain(MSG_GROUP_LOST))->svc = r->svc;
	r->was_lost = true;
	reader_move(r, c, READER_GROUP, "the group is gone");
	if (is_again)
		r->reader_queries[READER_QUERY_GROUP].at += ctx_backoff(c, r->lost.n - 2, LOST_MS, LOST_MAX_MS);
}

void reader_fleet(struct readers *rs, struct shard_ctx *c, uint16_t svc, const struct msg_fleet *m)
{
	struct reader *r = reader_find(rs, svc);
	struct shard_service *s = ctx_service(c, svc);
	if (!r || !s)
		return;
	struct reader_query_state *tell = &r->reader_queries[READER_QUERY_FLEET];
	if (s->credits != m->credits || s->n_workers != m->n_workers) { /* at most once a second */
		tell->at = mono_min(tell->at, mono_max(c->now, tell->sent + EVERY_MS));
		r->is_fleet_news = true;
	}
	s->credits = m->credits;
	s->n_workers = m->n_workers;
	s->may_get_more = m->may_get_more;
	reader_wake(rs, c, r);
}

/* ---- sending ---- */

/* Nothing may be read, though there are workers, or nobody has said, and idle streams may have the credits. */
static bool is_without_credit(const struct shard_ctx *c, const struct reader *r)
{
	const struct shard_service *s = ctx_service(c, r->svc);
	return r->grant.credits == 0 && r->grant.asked == 0 && s->credits != 0 &&
	       (s->may_get_more || (s->credits < 0 && reader_rules(c, r)->entries.is_on));
}

static bool is_enabled(const struct shard_ctx *c, const struct reader *r, enum reader_query e)
{
	if (!c->is_up && e != READER_QUERY_READ)
		return false;
	switch (e) {
	case READER_QUERY_GROUP:
		return r->state == READER_GROUP || r->state == READER_AWAY;
	case READER_QUERY_OWN:
		return r->state == READER_OWN;
	case READER_QUERY_READ:
		return r->state == READER_RUN && r->is_conn_up && r->grant.credits > 0;
	case READER_QUERY_HEARTBEAT:
		return r->state == READER_OWN || r->state == READER_RUN;
	case READER_QUERY_DLQ_LENGTH:
	case READER_QUERY_AUDIT:
	case READER_QUERY_LENGTH:
	case READER_QUERY_PENDING_SUM:
	case READER_QUERY_UNREAD:
	case READER_QUERY_TRIAL:
	case READER_QUERY_DUE:
		return r->state == READER_RUN;
	case READER_QUERY_FEED_DLQ_LENGTH:
		return r->state == READER_RUN && reader_rules(c, r)->entries.is_on;
	case READER_QUERY_LOOK:
		return r->state == READER_RUN && is_without_credit(c, r);
	case READER_QUERY_FLEET: /* asking: its key may not have moved yet, and a second one is in MIGRATE's way */
		return r->state == READER_RUN && !r->is_fleet_forbidden && ctx_service(c, r->svc)->credits >= 0 &&
		       !ctx_service(c, r->svc)->asking;
	case READER_QUERY_UNBLOCK:
		return r->grant.asked > 0 && r->client_id > 0;
	case READER_QUERY_N:
		break;
	}
	return false;
}

static void fill_read(struct shard_ctx *c, struct reader *r, struct effect *ef)
{
	const struct service_rules *rules = reader_rules(c, r);
	const mono_ms block = mono_min(mono_min(BLOCK_MAX_MS, rules->lease.ttl_ms / 3), r->block_cap_ms);
	r->grant.asked = r->grant.credits < rules->read_batch ? r->grant.credits : rules->read_batch;
	r->grant.credits = 0;
	r->grant.is_left = false;
	ef->role = CONN_READER;
	ef->timeout_ms = block + c->rules->command_timeout_ms;
	ef->cmd.as.read.count = r->grant.asked;
	ef->cmd.as.read.block_ms = block;
	if (r->is_sifting) {
		ef->cmd.kind = CMD_SIFT;
		ef->cmd.use_eval = !r->has_sift;
	}
}

static void fill(struct shard_ctx *c, struct reader *r, enum reader_query e, struct effect *ef)
{
	switch (e) {
	case READER_QUERY_GROUP:
		if (r->was_lost)
			ef->cmd.as.group.start = slice_str("0");
		break;
	case READER_QUERY_OWN:
		ef->cmd.id = r->own_after;
		ef->cmd.as.read.count = OWN_PAGE;
		break;
	case READER_QUERY_READ:
		fill_read(c, r, ef);
		break;
	case READER_QUERY_AUDIT:
		if (r->audit.from.ms == 0 && r->audit.from.seq == 0) {
			r->audit.began = c->now;
			r->audit.n = 0;
			r->audit.pass++;
		}
		ef->cmd.id = r->audit.from;
		ef->cmd.as.pending.count = AUDIT_PAGE;
		ef->cmd.as.pending.consumer = slice_str(c->rules->consumer);
		break;
	case READER_QUERY_DUE:
		ef->cmd.as.due.count = DUE_PAGE;
		ef->cmd.as.due.position = r->due_position;
		ctx_service(c, r->svc)->due_at = MONO_NEVER; /* its answer tells */
		break;
	case READER_QUERY_FLEET:
		ef->cmd.as.fleet.credits = ctx_service(c, r->svc)->credits;
		ef->cmd.as.fleet.n_workers = ctx_service(c, r->svc)->n_workers;
		r->is_fleet_news = false;
		break;
	case READER_QUERY_UNBLOCK:
		ef->cmd.as.unblock.client_id = r->client_id;
		break;
	case READER_QUERY_HEARTBEAT:
	case READER_QUERY_LENGTH:
	case READER_QUERY_PENDING_SUM:
	case READER_QUERY_UNREAD:
	case READER_QUERY_DLQ_LENGTH:
	case READER_QUERY_FEED_DLQ_LENGTH:
	case READER_QUERY_TRIAL:
	case READER_QUERY_LOOK: /* .count 0 */
	case READER_QUERY_N:
		break;
	}
}

static bool is_call(const struct shard_ctx *c, const struct reader *r, enum reader_query e)
{
	return e == READER_QUERY_FEED_DLQ_LENGTH ||
	       (e == READER_QUERY_DLQ_LENGTH && !reader_rules(c, r)->dlq.is_same_slot);
}

/* The dead letters live in another slot: whoever serves it is asked. Not in flight: a call that gets lost is made
 * again. */
static void call_dlq_length(struct shard_ctx *c, struct reader *r, enum reader_query e)
{
	const struct service_rules *rules = reader_rules(c, r);
	struct reader_query_state *s = &r->reader_queries[e];
	s->gen = (s->gen + 1) & 0x0fffffff;
	struct msg_lock_call call = {.kind = (uint8_t)reader_command(e),
		.slot = e == READER_QUERY_DLQ_LENGTH ? rules->dlq.slot : rules->entries.dlq_slot,
		.tag = tag_of(PART_READER, s->gen, (uint32_t)r->svc << 8 | e)};
	ctx_msg(c, msg_lock_call(call))->svc = r->svc;
	s->at = c->now + EVERY_MS + 2 * c->rules->command_timeout_ms;
}

static void reader_send(struct shard_ctx *c, struct reader *r, enum reader_query e)
{
	assert(!r->reader_queries[e].in_flight);
	struct reader_query_state *s = &r->reader_queries[e];
	s->gen = (s->gen + 1) & 0x0fffffff;
	s->sent = c->now;
	s->in_flight = true;
	struct effect *ef =
		ctx_redis(c, tag_of(PART_READER, s->gen, (uint32_t)r->svc << 8 | e), reader_command(e), r->svc);
	ef->cmd.asking = ctx_service(c, r->svc)->asking && e != READER_QUERY_UNBLOCK;
	ef->cmd.use_eval = s->use_eval;
	s->use_eval = false;
	fill(c, r, e, ef);
}

/* False: another reader has asked, or will. While something is refused, once a second: to see when it is over. */
static bool is_trials_turn(struct shard_ctx *c, struct reader_query_state *s)
{
	if (c->now < c->trial_at) {
		s->at = c->trial_at;
		return false;
	}
	c->trial_at = c->now + (c->refusals.n_kinds ? EVERY_MS : TRIAL_MS);
	return true;
}

static mono_ms reader_flush_one(struct shard_ctx *c, struct reader *r)
{
	mono_ms next = MONO_NEVER;
	for (int e = 0; e < READER_QUERY_N; e++) {
		struct reader_query_state *s = &r->reader_queries[e];
		if (s->in_flight || !is_enabled(c, r, (enum reader_query)e))
			continue;
		if (s->at <= c->now && is_call(c, r, (enum reader_query)e))
			call_dlq_length(c, r, (enum reader_query)e);
		else if (s->at <= c->now && (e != READER_QUERY_TRIAL || is_trials_turn(c, s)))
			reader_send(c, r, (enum reader_query)e);
		if (!s->in_flight)
			next = mono_min(next, s->at);
	}
	return next;
}

/* Somebody gave an entry back for later: looked at when it is due. */
static void due_news(struct readers *rs, struct shard_ctx *c)
{
	for (size_t i = 0; c->news.is_due && i < rs->n; i++) {
		struct reader *r = rs->v[i];
		struct shard_service *s = ctx_service(c, (uint16_t)i);
		if (!r || !s->is_due_news)
			continue;
		struct reader_query_state *q = &r->reader_queries[READER_QUERY_DUE];
		q->at = mono_min(q->at, s->due_at);
		s->is_due_news = false;
		reader_wake(rs, c, r);
	}
	c->news.is_due = false;
}

mono_ms reader_flush(struct readers *rs, struct shard_ctx *c)
{
	due_news(rs, c);
	for (size_t i = 0; c->news.is_group_lost && i < rs->n; i++)
		if (rs->v[i] && ctx_service(c, (uint16_t)i)->is_group_lost)
			reader_group_lost(rs, c, rs->v[i]);
	c->news.is_group_lost = false;
	struct heap_node *top;
	while ((top = heap_due(&rs->timers, c->now))) {
		struct reader *r = HEAP_OF(struct reader, timer, top);
		heap_set(&rs->timers, top, reader_flush_one(c, r));
	}
	return heap_deadline(&rs->timers);
}

void reader_check(const struct readers *rs, const struct shard_ctx *c)
{
	for (size_t i = 0; i < rs->n; i++) {
		const struct reader *r = rs->v[i];
		if (!r)
			continue;
		bool is_reading = r->reader_queries[READER_QUERY_READ].in_flight;
		assert(r->svc == i && r->state < READER_STATES);
		assert(ctx_service(c, r->svc) && ctx_service(c, r->svc)->is_read);
		assert(r->grant.asked == 0 || is_reading); /* a grant is used by one read at a time */
		assert(!is_reading || r->grant.asked > 0);
		assert(!r->grant.is_left || !is_reading);
		assert(r->is_conn_up || r->client_id == -1);
	}
}
