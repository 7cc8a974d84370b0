#include "core/shard/shard.h"

#include "core/shard/feed.h"
#include "core/shard/keyspace.h"
#include "core/shard/lease.h"
#include "core/shard/reader.h"
#include "core/shard/reconcile.h"
#include "core/shard/retry.h"
#include "core/shard/shard_p.h"

#include <assert.h>

struct shard {
	struct shard_rules rules;
	struct shard_ctx ctx;
	struct leases *leases;
	struct retry *retry;
	struct readers *readers;
	struct reconcile *reconcile;
	struct keyspace keyspace;
	struct feeds *feeds;
	uint32_t role_gen;
	char run_id[64];            /* of the server last seen; "" = none yet */
	mono_ms time_at, time_sent; /* the server's clock is asked for, and was */
	int64_t clock_offset_ms;
	bool is_stopped;
	uint32_t n_turns; /* that may have been checked */
};

enum { ROLE_RUN_ID, ROLE_ROLE, ROLE_TIME };
enum { CLOCK_EVERY_MS = 30000 };

struct shard *shard_new(const struct shard_rules *rules, uint16_t index)
{
	struct shard *s = mem_alloc(sizeof *s);
	s->rules = *rules;
	ctx_init(&s->ctx, &s->rules, index);
	rng_next(&s->ctx.rng); /* was a hash seed: the stories of tests/sim keep their times */
	s->leases = leases_new(s->rules.seed);
	s->retry = retry_new();
	s->readers = readers_new();
	s->reconcile = reconcile_new(rng_next(&s->ctx.rng));
	keyspace_init(&s->keyspace);
	s->feeds = feeds_new(s->rules.seed ^ 0x66656564);
	return s;
}

void shard_free(struct shard *s)
{
	if (!s)
		return;
	leases_free(s->leases);
	retry_free(s->retry);
	readers_free(s->readers);
	reconcile_free(s->reconcile);
	feeds_free(s->feeds);
	ctx_fini(&s->ctx);
	mem_free(s);
}

/* ---- who is there: a master that is another one than before has maybe lost locks ---- */

static void shard_ask_role(struct shard *s)
{
	s->role_gen++;
	ctx_redis(&s->ctx, tag_of(PART_ROLE, s->role_gen, ROLE_RUN_ID), CMD_RUN_ID, SERVICE_NONE);
	ctx_redis(&s->ctx, tag_of(PART_ROLE, s->role_gen, ROLE_ROLE), CMD_ROLE, SERVICE_NONE);
}

static void ask_time(struct shard *s)
{
	ctx_redis(&s->ctx, tag_of(PART_ROLE, s->role_gen, ROLE_TIME), CMD_TIME, SERVICE_NONE);
	s->time_sent = s->ctx.now;
	s->time_at = s->ctx.now + CLOCK_EVERY_MS;
}

/* Their clock was read about half-way between the question and its answer. */
static void time_reply(struct shard *s, const struct reply *reply)
{
	if (reply->kind != REPLY_INT)
		return;
	s->clock_offset_ms = reply->integer - (s->ctx.wall_ms - (s->ctx.now - s->time_sent) / 2);
}

static mono_ms time_settle(struct shard *s)
{
	if (!s->ctx.is_up)
		return MONO_NEVER;
	if (s->time_at <= s->ctx.now)
		ask_time(s);
	return s->time_at;
}

static void role_reply(struct shard *s, uint64_t tag, const struct reply *reply)
{
	struct shard_ctx *c = &s->ctx;
	if (tag_gen(tag) != (s->role_gen & 0x0fffffff))
		return;
	if (tag_index(tag) == ROLE_TIME)
		time_reply(s, reply);
	if (reply->kind != REPLY_TEXT)
		return;
	if (tag_index(tag) == ROLE_ROLE) {
		if (!slice_eq(reply->text, slice_str("master")))
			ctx_refresh(c, slice_str("connected to a server that is not a master"));
		return;
	}
	size_t n = reply->text.len < sizeof s->run_id ? reply->text.len : sizeof s->run_id - 1;
	bool is_known = s->run_id[0] != '\0';
	bool is_same = strlen(s->run_id) == n && memcmp(s->run_id, reply->text.p, n) == 0;
	memcpy(s->run_id, reply->text.p, n);
	s->run_id[n] = '\0';
	if (!is_known || is_same)
		return;
	c->slots.changed_at = c->now;
	effects_log(c->out, LOG_NOTICE,
		"shard=%u another server, or a new start of it: missing locks prove nothing for a while", c->index);
}

/* ---- events ---- */

static void on_conn(struct shard *s, const struct shard_event *ev)
{
	struct shard_ctx *c = &s->ctx;
	if (ev->role == CONN_SUBSCRIBER) {
		keyspace_conn(&s->keyspace, c, ev->up, ev->text);
		return; /* reported when the subscription stands */
	}
	struct msg_conn conn = {.role = (uint8_t)ev->role,
		.is_up = ev->up,
		.why = ev->text.p ? text_new(ev->text.p, ev->text.len) : NULL};
	ctx_msg(c, msg_conn(conn))->svc = ev->role == CONN_READER ? ev->svc : SERVICE_NONE;
	if (ev->role == CONN_READER) {
		reader_conn(s->readers, c, ev->svc, ev->up, ev->client_id);
		return;
	}
	if (ev->up && c->is_up)
		retry_conn(s->retry, c, false); /* a handoff: a WAIT speaks of its own connection only */
	c->is_up = ev->up;
	retry_conn(s->retry, c, ev->up);
	feed_conn(s->feeds, c, ev->up, ev->has_pushes);
	if (!ev->up)
		return;
	refusals_forget(&c->refusals);
	shard_ask_role(s);
	s->time_at = c->now;
	lease_connected(s->leases, c, ev->is_valkey);
	reader_command_up(s->readers, c);
	reconcile_command_up(s->reconcile, c);
	keyspace_command_up(&s->keyspace, c);
}

static void shard_on_reply(struct shard *s, uint64_t tag, const struct reply *reply)
{
	switch (tag_part(tag)) {
	case PART_LEASE:
		lease_reply(s->leases, &s->ctx, tag, reply);
		entry_batch_free(reply->entries);
		break;
	case PART_RETRY:
		retry_reply(s->retry, &s->ctx, tag, reply);
		break;
	case PART_READER:
		reader_reply(s->readers, &s->ctx, tag, reply);
		break;
	case PART_KEYSPACE:
		keyspace_reply(&s->keyspace, &s->ctx, tag, reply);
		entry_batch_free(reply->entries);
		break;
	case PART_ROLE:
		role_reply(s, tag, reply);
		entry_batch_free(reply->entries);
		break;
	case PART_FEED:
		feed_reply(s->feeds, &s->ctx, tag, reply);
		break;
	case PART_RECONCILE:
		reconcile_reply(s->reconcile, &s->ctx, tag, reply);
		break;
	case PART_NONE:
		entry_batch_free(reply->entries);
		break;
	}
}

/* Slots that come from another master later on: it may not have had every lock. */
static bool gains(const struct shard_ctx *c, const uint8_t *bits)
{
	if (!c->slots.are_told || !bits)
		return false;
	for (size_t i = 0; i < SLOTS / 8; i++)
		if (bits[i] & ~(c->slots.bits ? c->slots.bits[i] : 0))
			return true;
	return false;
}

static void shard_on_slots(struct shard *s, struct msg_slots *m)
{
	struct shard_ctx *c = &s->ctx;
	if (m->was_elsewhere || gains(c, m->bits))
		c->slots.changed_at = c->now;
	mem_free(c->slots.bits);
	c->slots.bits = m->bits;
	m->bits = NULL;
	c->slots.are_told = true;
	refusals_slots(&c->refusals);
	lease_slots(s->leases, c);
	retry_slots(s->retry, c);
	feed_slots(s->feeds, c);
	if (!c->slots.bits)
		ctx_msg(c, msg_plain(MSG_EMPTY));
}

/* Does no lease keep another margin than that of new ones? */
static bool has_one_margin(const struct lease_rules *l, mono_ms now)
{
	return l->old_until <= now || l->old_margin_ms == l->stop_margin_ms;
}

/* Rules come with each reload, and when a reader moves: mostly with the same times. */
static bool are_times_new(const struct lease_rules *was, const struct lease_rules *is, mono_ms now)
{
	return was->ttl_ms != is->ttl_ms || was->renew_ms != is->renew_ms ||
	       was->stop_margin_ms != is->stop_margin_ms || !has_one_margin(was, now) || !has_one_margin(is, now);
}

static void on_service(struct shard *s, struct msg_service *m)
{
	struct shard_ctx *c = &s->ctx;
	uint16_t svc = m->rules->svc;
	const struct shard_service *known = ctx_service(c, svc);
	bool is_changed = known && are_times_new(&known->rules->lease, &m->rules->lease, c->now);
	struct shard_service *sv = ctx_service_put(c, m->rules);
	m->rules = NULL;
	sv->is_read = m->is_read;
	sv->asking = m->asking;
	if (is_changed)
		lease_rules(s->leases, c, svc);
	reader_service(s->readers, c, svc);
	reconcile_service(s->reconcile, c, svc);
}

static void on_service_gone(struct shard *s, uint16_t svc)
{
	struct shard_service *sv = ctx_service(&s->ctx, svc);
	if (!sv)
		return;
	sv->is_read = false;
	sv->is_gone = true;
	reader_service(s->readers, &s->ctx, svc);
	reconcile_service(s->reconcile, &s->ctx, svc);
}

static void on_stop(struct shard *s)
{
	lease_forget_all(s->leases, &s->ctx);
	retry_forget_all(s->retry, &s->ctx);
	feed_forget_all(s->feeds, &s->ctx);
	s->is_stopped = true;
	ctx_msg(&s->ctx, msg_plain(MSG_STOPPED));
}

static void on_lock_answer(struct shard *s, uint16_t svc, const struct msg_lock_answer *a)
{
	struct shard_ctx *c = &s->ctx;
	switch (tag_part(a->tag)) {
	case PART_RETRY:
		retry_lock_answer(s->retry, c, a);
		break;
	case PART_READER:
		reader_lock_answer(s->readers, c, a);
		break;
	case PART_LEASE:
		lease_lock_answer(c, svc, a);
		break;
	case PART_FEED:
		feed_lock_answer(s->feeds, c, a);
		break;
	case PART_RECONCILE:
		reconcile_lock_answer(s->reconcile, c, a);
		break;
	case PART_NONE:
	case PART_KEYSPACE:
	case PART_ROLE:
		break;
	}
}

static void shard_on_msg(struct shard *s, struct msg *m)
{
	struct shard_ctx *c = &s->ctx;
	switch (m->kind) { /* what only shards send does not come here */
	case MSG_SLOTS:
		shard_on_slots(s, &m->slots);
		break;
	case MSG_SERVICE:
		on_service(s, &m->service);
		break;
	case MSG_SERVICE_GONE:
		on_service_gone(s, m->svc);
		break;
	case MSG_CREDITS:
		reader_credits(s->readers, c, m->svc, &m->credits);
		break;
	case MSG_LEASE_ACQUIRE:
	case MSG_LEASE_RELEASE:
	case MSG_LEASE_FORGET:
	case MSG_LEASE_RENEW:
		lease_msg(s->leases, c, m);
		break;
	case MSG_FEED_OPEN:
	case MSG_FEED_START:
	case MSG_FEED_HOLD:
	case MSG_FEED_SHARE:
	case MSG_FEED_TRY:
	case MSG_FEED_ACK:
	case MSG_FEED_NACK:
	case MSG_FEED_CLOSE:
		feed_msg(s->feeds, c, m);
		break;
	case MSG_OP:
	case MSG_LOCK_CALL:
		retry_msg(s->retry, c, m);
		break;
	case MSG_LOCK_ANSWER:
		on_lock_answer(s, m->svc, &m->lock_answer);
		break;
	case MSG_EXPIRED:
		reconcile_expired(s->reconcile, c, slice_of(m->expired.stream), m->expired.id);
		break;
	case MSG_WAITING:
		feed_yield(s->feeds, c, m->svc, &m->waiting);
		break;
	case MSG_FLEET:
		reader_fleet(s->readers, c, m->svc, &m->fleet);
		break;
	case MSG_SCAN:
		reconcile_scan(s->reconcile, c, m->svc);
		break;
	case MSG_RENEW_ALL:
		lease_renew_all(s->leases, c);
		reconcile_postpone(s->reconcile, c);
		break;
	case MSG_STOP:
		on_stop(s);
		break;
	}
	msg_fini(m);
}

static void shard_on_expired(struct shard *s, const struct shard_event *ev)
{
	struct msg_expired expired = {.id = ev->id, .stream = text_new(ev->stream.p, ev->stream.len)};
	ctx_msg(&s->ctx, msg_expired(expired));
	s->ctx.metrics.c[MR_EVENTS_OK]++;
}

static void shard_on_event(struct shard *s, const struct shard_event *ev)
{
	switch (ev->kind) {
	case SHARD_TICK:
		break;
	case SHARD_CONN:
		on_conn(s, ev);
		break;
	case SHARD_REPLY:
		shard_on_reply(s, ev->tag, ev->reply);
		break;
	case SHARD_EXPIRED:
		shard_on_expired(s, ev);
		break;
	case SHARD_CHANGED:
		feed_invalidated(s->feeds, &s->ctx, ev->stream);
		break;
	case SHARD_PUSHED:
		keyspace_pushed(&s->keyspace, &s->ctx);
		break;
	case SHARD_MSG: {
		struct msg m = *ev->msg;
		shard_on_msg(s, &m);
		break;
	}
	}
}

static void drop_event(const struct shard_event *ev)
{
	if (ev->kind == SHARD_REPLY) {
		entry_batch_free(ev->reply->entries);
		mem_free(ev->reply->feed);
	} else if (ev->kind == SHARD_MSG) {
		struct msg m = *ev->msg;
		msg_fini(&m);
	}
}

/* What parts ask of each other, until nothing is left. */
static void exchange(struct shard *s)
{
	struct shard_ctx *c = &s->ctx;
	while (c->asks.n || c->answers.n) {
		for (size_t i = 0; i < c->asks.n; i++)
			retry_ask(s->retry, c, &c->asks.v[i]);
		c->asks.n = 0;
		for (size_t i = 0; i < c->answers.n; i++) {
			struct op_answer a = c->answers.v[i];
			if (a.is_leases)
				lease_op_answer(s->leases, c, &a);
			else
				reconcile_op_answer(s->reconcile, c, &a);
		}
		c->answers.n = 0;
	}
}

static void shard_check(const struct shard *s)
{
	const struct shard_ctx *c = &s->ctx;
	assert(c->asks.n == 0 && c->answers.n == 0); /* what parts ask of each other is asked within the turn */
	assert(!c->news.is_group_lost && !c->news.is_due);
	for (size_t i = 0; i < c->n_services; i++)
		assert(!c->services[i] || (c->services[i]->rules && c->services[i]->rules->svc == i));
	lease_check(s->leases, c);
	retry_check(s->retry, c);
	reader_check(s->readers, c);
	reconcile_check(s->reconcile);
	feed_check(s->feeds);
	keyspace_check(&s->keyspace);
}

/* At the end of every turn; the more there is to look at, the rarer. */
static bool is_check_due(struct shard *s)
{
	uint32_t n = lease_count(s->leases) + retry_count(s->retry) + reconcile_count(s->reconcile);
	return s->rules.is_checked && s->n_turns++ % (1 + n / 256) == 0;
}

mono_ms shard_step(struct shard *s, const struct shard_event *ev, struct effects *out)
{
	struct shard_ctx *c = &s->ctx;
	ctx_begin(c, ev->now, ev->wall_ms, out);
	if (s->is_stopped) {
		drop_event(ev);
		return MONO_NEVER;
	}
	lease_tick(s->leases, c);
	retry_tick(s->retry, c);
	feed_tick(s->feeds, c);
	shard_on_event(s, ev);
	if (s->is_stopped)
		return MONO_NEVER;
	exchange(s);
	if (ev->has_more)
		return c->now;
	mono_ms next;
	do {
		exchange(s);
		next = reconcile_flush(s->reconcile, c);
	} while (c->asks.n || c->answers.n);
	/* The connection that is started first is written last: a worker waits for the take, nobody for a read. */
	next = mono_min(next, reader_flush(s->readers, c));
	next = mono_min(next, lease_flush(s->leases, c));
	exchange(s); /* takes, which go right behind their locks */
	next = mono_min(next, retry_flush(s->retry, c));
	next = mono_min(next, time_settle(s));
	next = mono_min(next, feed_flush(s->feeds, c));
	next = mono_min(next, keyspace_flush(&s->keyspace, c));
	if (is_check_due(s))
		shard_check(s);
	return next;
}

/* ---- seen from outside ---- */

const struct metrics_redis *shard_metrics(const struct shard *s)
{
	return &s->ctx.metrics;
}

const struct metrics_service *shard_service_metrics(const struct shard *s, uint16_t svc)
{
	const struct shard_service *sv = ctx_service(&s->ctx, svc);
	return sv && !sv->is_gone ? &sv->metrics : NULL;
}

uint32_t shard_n_leases(const struct shard *s)
{
	return lease_count(s->leases);
}

bool shard_refused(const struct shard *s, mono_ms now, struct shard_refused *out)
{
	return refusals_now(&s->ctx.refusals, now, out);
}

int64_t shard_clock_offset(const struct shard *s)
{
	return s->clock_offset_ms;
}

struct shard_feeds shard_feeds_of(const struct shard *s, uint16_t svc)
{
	return feed_sums(s->feeds, svc);
}

struct shard_lengths shard_lengths(const struct shard *s, uint16_t svc)
{
	const struct shard_service *sv = ctx_service(&s->ctx, svc);
	return sv ? sv->lengths : SHARD_LENGTHS_UNKNOWN;
}
