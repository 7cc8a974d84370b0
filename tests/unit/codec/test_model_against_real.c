/* Random commands to the model and to a real server: whatever our commands can see must be the same. SLUICE_SEED
 * repeats one run, SLUICE_SEEDS says how many. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/mem.h"
#include "base/rng.h"
#include "codec/packed.h"
#include "lib/model_redis.h"
#include "lib/real_redis.h"

enum { N_SEEDS = 20, N_STEPS = 3000, N_IDS = 8, CHECK_EVERY = 25, SLACK_MS = 3000, LONG_MS = 3600000 };

static const char *const streams[] = {"a", "b{t}", "c<MUTEX_KEY_SEP>1-1"};
static const char *const consumers[] = {"me", "you", "go"};
static const char *const values[] = {"me/1", "you/1", ""};

struct pair {
	int64_t wall_ms; /* the model's time */
	uint64_t seed;
	int step;
	struct rng rng;
	struct real_redis *real;
	struct model_redis *model;
	struct command_names names;
	struct entry_id ids[N_IDS]; /* the last ones that were given */
	unsigned n_ids;
	bool is_oom;
	struct packed packed;
	int64_t position;        /* of the last CMD_DUE */
	struct entry_id feed_id; /* of a data stream */
};

static unsigned roll(struct pair *p, unsigned n)
{
	return (unsigned)rng_below(&p->rng, n);
}

/* The two clocks are not read in the same moment: what they give together must not go back. */
static mono_ms now(struct pair *p)
{
	const mono_ms at = mono_now();
	const int64_t wall = mono_wall_ms();
	p->wall_ms = wall < p->wall_ms && wall > p->wall_ms - SLACK_MS ? p->wall_ms : wall;
	model_redis_set_clock(p->model, p->wall_ms - at);
	return at;
}

/* ---- comparing */

static bool slices_equal(struct slice a, struct slice b)
{
	return a.len == b.len && (a.len == 0 || memcmp(a.p, b.p, a.len) == 0);
}

static bool texts_equal(const struct text *a, const struct text *b)
{
	if (!a || !b)
		return a == b;
	return a->len == b->len && memcmp(a->bytes, b->bytes, a->len) == 0;
}

static bool fields_equal(const struct field_list *a, const struct field_list *b)
{
	if (!a || !b)
		return a == b;
	bool equal = a->n == b->n;
	for (size_t i = 0; equal && i < a->n; i++)
		equal = slices_equal(a->v[i].name, b->v[i].name) && slices_equal(a->v[i].value, b->v[i].value);
	return equal;
}

static bool entries_equal(const struct entry_batch *a, const struct entry_batch *b)
{
	bool equal = a->n == b->n;
	for (size_t i = 0; equal && i < a->n; i++) {
		const struct entry_in *x = &a->v[i], *y = &b->v[i];
		equal = entry_id_cmp(x->id, y->id) == 0 && x->problem == y->problem && x->retry == y->retry &&
			x->bad_retry == y->bad_retry && x->lock_slot == y->lock_slot &&
			texts_equal(x->stream, y->stream) && texts_equal(x->info, y->info) &&
			fields_equal(x->fields, y->fields);
	}
	return equal;
}

static bool feeds_equal(const struct feed_batch *a, const struct feed_batch *b)
{
	bool equal = a->n == b->n;
	for (uint32_t i = 0; equal && i < a->n; i++)
		equal = entry_id_cmp(a->v[i].id, b->v[i].id) == 0 && a->v[i].len == b->v[i].len &&
			memcmp(a->v[i].json, b->v[i].json, a->v[i].len) == 0;
	return equal;
}

static bool is_near(int64_t a, int64_t b)
{
	return llabs(a - b) < SLACK_MS;
}

static bool pending_equal(const struct reply *a, const struct reply *b)
{
	bool equal = a->n == b->n;
	for (size_t i = 0; equal && i < a->n; i++) {
		const struct pending_row *x = &a->pending[i], *y = &b->pending[i];
		equal = entry_id_cmp(x->id, y->id) == 0 && x->deliveries == y->deliveries &&
			slices_equal(x->consumer, y->consumer) && is_near(x->idle_ms, y->idle_ms);
	}
	return equal;
}

/* Every consumer of a that has something is in b. Versions differ in when they make a consumer that has nothing. */
static bool consumers_within(const struct reply *a, const struct reply *b)
{
	for (size_t i = 0; i < a->n; i++) {
		const struct consumer_row *x = &a->consumers[i];
		bool found = x->n_pending == 0;
		for (size_t k = 0; k < b->n && !found; k++) {
			const struct consumer_row *y = &b->consumers[k];
			found = slices_equal(x->name, y->name) && x->n_pending == y->n_pending &&
				is_near(x->idle_ms, y->idle_ms);
		}
		if (!found)
			return false;
	}
	return true;
}

/* Who has left: the same names, with the same times. */
static bool left_equal(const struct reply *a, const struct reply *b)
{
	bool equal = a->n == b->n;
	for (size_t i = 0; equal && i < a->n; i++) {
		equal = false;
		for (size_t k = 0; k < b->n && !equal; k++)
			equal = slices_equal(a->consumers[i].name, b->consumers[k].name) &&
				is_near(a->consumers[i].idle_ms, b->consumers[k].idle_ms);
	}
	return equal;
}

static bool counts_equal(const struct reply *a, const struct reply *b)
{
	for (int i = 0; i < DUE_COUNTS; i++) {
		bool is_time = i == DUE_WAIT_MS && a->counts[i] > 0;
		if (is_time ? !is_near(a->counts[i], b->counts[i]) : a->counts[i] != b->counts[i]) {
			fprintf(stderr, "count %d: %lld, model %lld\n", i, (long long)a->counts[i],
				(long long)b->counts[i]);
			return false;
		}
	}
	return true;
}

static bool replies_equal(enum cmd_kind kind, const struct reply *a, const struct reply *b)
{
	if (a->kind != b->kind)
		return false;
	switch (a->kind) {
	case REPLY_NONE:
	case REPLY_OK:
	case REPLY_SLOTS:
		return true;
	case REPLY_NIL: /* of the open of a position: whose it is */
		return entry_id_cmp(a->id, b->id) == 0;
	case REPLY_POSITION:
		return entry_id_cmp(a->id, b->id) == 0 && a->integer == b->integer && a->n == b->n &&
		       is_near(a->wait_ms, b->wait_ms) && entry_id_cmp(a->bad, b->bad) == 0 &&
		       a->n_added == b->n_added && a->n_lost == b->n_lost;
	case REPLY_FEED:
		return feeds_equal(a->feed, b->feed);
	case REPLY_ERROR:
		return a->error == b->error;
	case REPLY_INT:
		if (kind == CMD_PROBE || kind == CMD_LOCK_SWAP || kind == CMD_TIME)
			return a->integer > 0 ? is_near(a->integer, b->integer) : a->integer == b->integer;
		return a->integer == b->integer && a->n == b->n;
	case REPLY_TEXT:
		return kind == CMD_RUN_ID || slices_equal(a->text, b->text);
	case REPLY_ID:
		return entry_id_cmp(a->id, b->id) == 0 && a->n == b->n;
	case REPLY_ENTRIES:
		return entries_equal(a->entries, b->entries) && a->integer == b->integer;
	case REPLY_PENDING:
		return pending_equal(a, b) && entry_id_cmp(a->id, b->id) == 0;
	case REPLY_CONSUMERS:
		return kind == CMD_LEFT ? left_equal(a, b) : consumers_within(a, b) && consumers_within(b, a);
	case REPLY_COUNTS:
		return counts_equal(a, b);
	case REPLY_MANY:
		for (size_t i = 0; a->n == b->n && i < a->n; i++)
			if (!replies_equal(kind, &a->many[i], &b->many[i]))
				return false;
		return a->n == b->n;
	}
	return false;
}

/* ---- one command to both */

static void remember(struct pair *p, struct entry_id id)
{
	p->ids[p->n_ids++ % N_IDS] = id;
}

static struct entry_id last_dead(struct pair *p)
{
	const redisReply *r = real_redis_command(p->real, "XREVRANGE %s + - COUNT 1", p->names.dlq);
	struct entry_id id = {0, 0};
	if (r->type == REDIS_REPLY_ARRAY && r->elements == 1)
		command_id_parse(r->element[0]->element[0]->str, r->element[0]->element[0]->len, &id);
	return id;
}

static struct entry_id last_added(struct pair *p)
{
	struct entry_id id = {0, 0};
	const redisReply *r = real_redis_command(p->real, "XINFO STREAM %s", p->names.lbs);
	for (size_t i = 0; r->type != REDIS_REPLY_ERROR && i + 1 < r->elements; i += 2)
		if (strcmp(r->element[i]->str, "last-generated-id") == 0)
			command_id_parse(r->element[i + 1]->str, r->element[i + 1]->len, &id);
	return id;
}

static bool may_add(enum cmd_kind k)
{
	return k == CMD_TAKE || k == CMD_DONE || k == CMD_TAKE_MANY || k == CMD_DONE_MANY || k == CMD_REQUEUE ||
	       k == CMD_DEAD || k == CMD_ACK_DEL || k == CMD_ADD || (k >= CMD_REPLAY && k <= CMD_DELAYED_DROP);
}

/* What the real command has added to the LBS since: the model gives the same ids. */
static void order_ids(struct pair *p, struct entry_id since)
{
	char from[COMMAND_ID_CAP];
	command_id_format(from, since);
	const redisReply *r = real_redis_command(p->real, "XRANGE %s (%s +", p->names.lbs, from);
	for (size_t i = 0; r->type == REDIS_REPLY_ARRAY && i < r->elements; i++) {
		struct entry_id id;
		command_id_parse(r->element[i]->element[0]->str, r->element[i]->element[0]->len, &id);
		model_redis_next_id(p->model, id);
	}
}

/* The model's due times are the real ones, so that both move the same. */
static void same_due(struct pair *p, struct entry_id id)
{
	char text[COMMAND_ID_CAP];
	command_id_format(text, id);
	const redisReply *r = real_redis_command(p->real, "ZSCORE %s %s", p->names.delayed, text);
	if (r->type == REDIS_REPLY_STRING || r->type == REDIS_REPLY_DOUBLE)
		model_redis_set_due(p->model, &p->names, id,
			r->type == REDIS_REPLY_DOUBLE ? (int64_t)r->dval : (int64_t)strtod(r->str, NULL));
}

static void both(struct pair *p, const struct cmd *c, const struct command_names *names, const char *consumer)
{
	const struct command_self self = {.consumer = consumer, .node = consumer};
	struct reply real, model;
	const struct entry_id since = last_added(p);
	real_redis_exec(p->real, c, names, &self, &real);
	if (real.kind == REPLY_ID &&
		(c->kind == CMD_DEAD_ADD || c->kind == CMD_ADD_LATER || c->kind == CMD_FEED_DEAD_ADD))
		model_redis_next_id(p->model, real.id);
	else if (c->kind == CMD_DEAD && real.kind == REPLY_INT && real.integer == 1)
		model_redis_next_id(p->model, last_dead(p));
	if (may_add(c->kind)) /* what the reply points to is gone then */
		order_ids(p, since);
	model_redis_exec(p->model, c, names, consumer, now(p), &model);
	if (c->kind == CMD_LATER || c->kind == CMD_ADD_LATER)
		same_due(p, c->kind == CMD_LATER ? c->id : real.id);
	if (real.kind == REPLY_ID && c->kind != CMD_DEAD_ADD && c->kind != CMD_FEED_DEAD_ADD)
		remember(p, real.id);
	cr_assert(replies_equal(c->kind, &real, &model),
		"seed %llu step %d: %s as %s: real kind %d error %d int %lld n %zu, model kind %d error %d int %lld n "
		"%zu",
		(unsigned long long)p->seed, p->step, command_name(c->kind), consumer, real.kind, real.error,
		(long long)real.integer, real.n, model.kind, model.error, (long long)model.integer, model.n);
	if (real.kind == REPLY_FEED && real.feed->n) /* to be acknowledged, and picked */
		p->feed_id = real.feed->v[0].id;
	mem_free(real.feed);
	mem_free(model.feed);
	if (real.kind == REPLY_COUNTS)
		p->position = real.counts[DUE_POSITION];
	if (real.kind == REPLY_ENTRIES) {
		entry_batch_free(real.entries);
		entry_batch_free(model.entries);
	}
}

static struct entry_id some_id(struct pair *p)
{
	if (p->n_ids == 0 || roll(p, 12) == 0)
		return (struct entry_id){5, roll(p, 3)};
	return p->ids[roll(p, p->n_ids < N_IDS ? p->n_ids : N_IDS)];
}

static struct entry_id id_or_start(struct pair *p)
{
	return roll(p, 3) ? (struct entry_id){0, 0} : some_id(p);
}

static const struct field_list *some_fields(struct pair *p)
{
	static const struct field rows[][2] = {
		{{{"lbs-input", 9}, {"{\"DataStreamName\":\"a\",\"Info\":{\"n\":1.0}}", 40}},
			{{"_retry_count", 12}, {"2", 1}}},
		{{{"lbs-input", 9}, {"nonsense", 8}}, {{"_retry_count", 12}, {"2x", 2}}},
		{{{"\0\r\n", 3}, {"\xff", 1}}, {{"_dlq_at", 7}, {"7", 1}}},
	};
	static _Alignas(struct field_list) char room[sizeof(struct field_list) + 2 * sizeof(struct field)];
	struct field_list *l = (struct field_list *)room;
	l->n = 1 + roll(p, 2);
	memcpy(l->v, rows[roll(p, 3)], 2 * sizeof l->v[0]);
	return l;
}

static void feed_command(struct pair *p, struct cmd *c)
{
	struct cmd_feed *f = &c->as.feed;
	c->id = roll(p, 3) ? p->feed_id : c->kind == CMD_FEED_READ ? (struct entry_id){0, 0} : some_id(p);
	if (c->kind == CMD_FEED_READ || c->kind == CMD_FEED_PICK) {
		c->as.read.count = 1 + roll(p, 3);
		return;
	}
	f->token = (struct entry_id){7, roll(p, 3)};
	if (c->kind != CMD_FEED_ACK)
		f->pause = (struct cmd_pause){.first_ms = roll(p, 3) * LONG_MS,
			.factor = (uint32_t)roll(p, 3) + 1,
			.max_ms = 3 * LONG_MS,
			.permille = roll(p, 2) ? 1000 : 1200};
	if (c->kind == CMD_FEED_OPEN)
		f->open = (struct cmd_feed_open){
			.start = slice_str(roll(p, 2) ? "0" : "$"), .was_alone = roll(p, 2), .is_suspect = roll(p, 2)};
	else if (c->kind == CMD_FEED_ACK)
		f->ack = (struct cmd_feed_ack){
			.now_ms = 1700, .trim = roll(p, 2), .check = roll(p, 2), .n_added = (int64_t)roll(p, 6) - 1};
	else if (c->kind == CMD_FEED_FAIL)
		f->fail.n_tries = roll(p, 3);
	else
		f->close = (struct cmd_feed_close){.end = (enum feed_end)roll(p, FEED_ENDS),
			.ttl_ms = LONG_MS + roll(p, 4) * LONG_MS,
			.drops_unused = roll(p, 2)};
}

/* Versions differ in when they make a consumer that has nothing. */
static void make_consumer(struct pair *p, struct slice name)
{
	real_redis_command(p->real, "XGROUP CREATECONSUMER %s %s %b", p->names.lbs, p->names.group, name.p, name.len);
	model_redis_create_consumer(p->model, &p->names, name, now(p));
}

static struct slice some_consumer(struct pair *p)
{
	return slice_str(roll(p, 3) ? NULL : consumers[roll(p, 3)]);
}

static int64_t some_idle(struct pair *p)
{
	return roll(p, 6) ? 0 : LONG_MS;
}

/* many: four entries. */
static void random_payload(struct pair *p, struct cmd *c, const struct cmd_entry *many)
{
	const struct slice error = slice_str(roll(p, 2) ? "why" : NULL), value = slice_str(values[roll(p, 3)]);
	union cmd_payload *as = &c->as;
	switch ((int)c->kind) {
	case CMD_LOCK:
	case CMD_LOCK_SWAP:
	case CMD_RENEW:
	case CMD_UNLOCK:
	case CMD_TOMBSTONE:
		as->lock = (struct cmd_lock){.value = value,
			.expect = slice_str(values[roll(p, 3)]),
			.ttl_ms = LONG_MS + roll(p, 4) * LONG_MS,
			.use_delifeq = c->kind == CMD_UNLOCK && roll(p, 2)};
		break;
	case CMD_GROUP_CREATE:
		as->group.start = slice_str(roll(p, 3) ? NULL : "$");
		break;
	case CMD_SIFT: /* 0: a look */
		as->read.count = roll(p, 4);
		break;
	case CMD_READ:
	case CMD_READ_OWN:
	case CMD_DLQ_RANGE:
		as->read.count = 1 + roll(p, 4);
		break;
	case CMD_PENDING:
		as->pending = (struct cmd_pending){1 + roll(p, 4), some_idle(p), some_consumer(p)};
		break;
	case CMD_TAKE:
		as->take = (struct cmd_take){some_consumer(p), roll(p, 4) == 0};
		break;
	case CMD_DONE:
		as->done = (struct cmd_done){some_consumer(p), value, roll(p, 2)};
		break;
	case CMD_ACK_DEL:
		as->done.consumer = some_consumer(p);
		break;
	case CMD_TAKE_MANY:
		as->many = (struct cmd_many){.v = many, .n = 1 + roll(p, 4)};
		break;
	case CMD_DONE_MANY:
		as->many = (struct cmd_many){many, 1 + roll(p, 4), value, roll(p, 2)};
		break;
	case CMD_REQUEUE:
	case CMD_LATER:
		as->requeue = (struct cmd_requeue){.consumer = some_consumer(p),
			.min_idle_ms = some_idle(p),
			.retry = roll(p, 3),
			.is_suspect = roll(p, 2),
			.was_alone = roll(p, 2),
			.delay_ms = roll(p, 2) ? 0 : LONG_MS,
			.why = "fail",
			.error = error};
		break;
	case CMD_DEAD:
	case CMD_DEAD_ADD:
	case CMD_FEED_DEAD_ADD:
		as->dead = (struct cmd_dead){.consumer = some_consumer(p),
			.min_idle_ms = some_idle(p),
			.reason = (enum dead_reason)roll(p, DEAD_N),
			.error = error,
			.now_ms = 1700,
			.n_tries = roll(p, 3),
			.fields = some_fields(p)};
		break;
	case CMD_ADD:
	case CMD_REPLAY:
	case CMD_ADD_LATER:
		as->add = (struct cmd_add){
			.info = slice_str(roll(p, 2) ? "{\"big\":123456789012345678901234567890}" : NULL),
			.fields = c->kind == CMD_ADD_LATER && roll(p, 2) ? NULL : some_fields(p),
			.delay_ms = roll(p, 2) ? 0 : LONG_MS,
			.why = "fail"};
		break;
	case CMD_DUE:
		as->due = (struct cmd_due){1 + roll(p, 4), p->position};
		break;
	case CMD_GHOSTS:
		as->ghosts = (struct cmd_ghosts){1 + roll(p, 4), roll(p, 6) == 0};
		break;
	case CMD_FORGET:
		as->forget = (struct cmd_forget){slice_str(consumers[roll(p, 3)]), some_idle(p)};
		break;
	case CMD_FEED_OPEN:
	case CMD_FEED_READ:
	case CMD_FEED_ACK:
	case CMD_FEED_FAIL:
	case CMD_FEED_CLOSE:
	case CMD_FEED_PICK:
		feed_command(p, c);
		break;
	case CMD_CONFIG_SET_EVENTS:
		as->keyspace.flags = slice_str(roll(p, 2) ? "" : "xE");
		break;
	default:
		break;
	}
}

static void random_command(struct pair *p)
{
	static const enum cmd_kind kinds[] = {CMD_LOCK, CMD_LOCK, CMD_LOCK_GET, CMD_LOCK_SWAP, CMD_RENEW, CMD_UNLOCK,
		CMD_PROBE, CMD_TOMBSTONE, CMD_GROUP_CREATE, CMD_READ, CMD_READ, CMD_READ, CMD_READ_OWN, CMD_HEARTBEAT,
		CMD_FETCH, CMD_TAKE, CMD_TAKE, CMD_TAKE, CMD_DONE, CMD_DONE, CMD_TAKE_MANY, CMD_TAKE_MANY,
		CMD_DONE_MANY, CMD_REQUEUE, CMD_REQUEUE, CMD_REQUEUE, CMD_DEAD, CMD_DEAD_ADD, CMD_DEAD_READ,
		CMD_ACK_DEL, CMD_PENDING, CMD_CONSUMERS, CMD_LENGTH, CMD_PENDING_SUM, CMD_UNREAD, CMD_UNREAD,
		CMD_DLQ_LENGTH, CMD_ADD, CMD_ADD, CMD_ADD, CMD_ADD, CMD_LATER, CMD_LATER, CMD_LATER, CMD_DUE, CMD_DUE,
		CMD_DUE, CMD_SIFT, CMD_SIFT, CMD_GHOSTS, CMD_GHOSTS, CMD_GHOST_BACK, CMD_GHOST_BACK, CMD_ADD_LATER,
		CMD_DELAYED_NOW, CMD_DELAYED_DROP, CMD_FEED_OPEN, CMD_FEED_OPEN, CMD_FEED_READ, CMD_FEED_READ,
		CMD_FEED_ACK, CMD_FEED_ACK, CMD_FEED_FAIL, CMD_FEED_CLOSE, CMD_FEED_PICK, CMD_FEED_DEAD_ADD,
		CMD_FEED_DLQ_LENGTH, CMD_LEAVE, CMD_BACK, CMD_LEFT, CMD_FORGET, CMD_FORGET, CMD_DLQ_RANGE, CMD_DLQ_DEL,
		CMD_REPLAY, CMD_WAIT, CMD_SLOTS, CMD_CLUSTER_INFO, CMD_ROLE, CMD_PING, CMD_TRIAL, CMD_TIME, CMD_RUN_ID,
		CMD_CONFIG_SET_EVENTS, CMD_CONFIG_GET_EVENTS};
	struct cmd_entry many[4];
	for (size_t i = 0; i < 4; i++)
		many[i] = (struct cmd_entry){slice_str(streams[roll(p, 3)]), some_id(p)};
	struct cmd c = {
		.kind = kinds[roll(p, sizeof kinds / sizeof kinds[0])],
		.use_eval = roll(p, 2),
		.stream = slice_str(streams[roll(p, 3)]),
		.id = some_id(p),
	};
	if (c.kind == CMD_FORGET && p->is_oom)
		c.kind = CMD_LEFT;
	random_payload(p, &c, many);
	if (c.kind == CMD_READ_OWN || c.kind == CMD_PENDING || c.kind == CMD_DLQ_RANGE || c.kind == CMD_GHOSTS)
		c.id = id_or_start(p);
	if (c.kind == CMD_DLQ_DEL)
		c.id = last_dead(p);
	if (c.kind == CMD_FORGET)
		make_consumer(p, c.as.forget.consumer);
	if (c.kind == CMD_DEAD && roll(p, 4) == 0)
		c.stream = slice_str(NULL);
	both(p, &c, &p->names, consumers[roll(p, 3)]);
}

/* ---- what others do */

static void expire_locks(struct pair *p)
{
	real_redis_command(p->real, "EVAL %s 0",
		"for _, k in ipairs(redis.call('KEYS', '*<MUTEX_KEY_SEP>*')) do "
		"if redis.call('TYPE', k).ok == 'string' then redis.call('DEL', k) end end");
	model_redis_set_clock(p->model, INT64_MAX / 2);
	model_redis_expire(p->model, 0);
	cr_expect_eq(model_redis_next_expiry(p->model), MONO_NEVER);
}

static void toggle_oom(struct pair *p)
{
	p->is_oom = !p->is_oom;
	real_redis_command(p->real, "CONFIG SET maxmemory %d", p->is_oom);
	model_redis_set_oom(p->model, p->is_oom);
}

/* Adds to a data stream; the first entry of one that was made again has a low id. */
static void produce(struct pair *p, struct slice stream)
{
	static const struct field f[2] = {{{"a", 1}, {"\xff\0", 2}}, {{"a", 1}, {"\"1\n", 3}}};
	char id[COMMAND_ID_CAP] = "*";
	const struct model_entry *v;
	if (model_redis_feed_entries(p->model, stream, &v) == 0 && roll(p, 2))
		snprintf(id, sizeof id, "6-%u", roll(p, 100));
	const redisReply *r = real_redis_command(p->real, "XADD %b %s %b %b %b %b", stream.p, stream.len, id,
		f[0].name.p, f[0].name.len, f[0].value.p, f[0].value.len, f[1].name.p, f[1].name.len, f[1].value.p,
		f[1].value.len);
	struct entry_id new;
	if (r->type != REDIS_REPLY_STRING || !command_id_parse(r->str, r->len, &new))
		return;
	model_redis_next_id(p->model, new);
	model_redis_feed_add(p->model, stream, f, 2, now(p));
	p->feed_id = new;
}

static void somebody_else(struct pair *p)
{
	const struct entry_id id = some_id(p);
	const char *stream = streams[roll(p, 3)], *consumer = consumers[roll(p, 3)];
	char text[COMMAND_ID_CAP];
	command_id_format(text, id);
	switch (roll(p, 32)) {
	case 0:
		expire_locks(p);
		break;
	case 1:
		toggle_oom(p);
		break;
	case 2:
		real_redis_command(p->real, "SCRIPT FLUSH");
		model_redis_set_run_id(p->model, "restarted");
		break;
	case 3:
		real_redis_command(p->real, "XGROUP DESTROY %s %s", p->names.lbs, p->names.group);
		model_redis_destroy_group(p->model, &p->names);
		break;
	case 4:
		if (roll(p, 4))
			break;
		real_redis_command(p->real, "DEL %s", p->names.lbs);
		model_redis_delete_lbs(p->model, &p->names);
		break;
	case 5:
	case 6:
	case 7:
		if (p->is_oom)
			break;
		real_redis_command(p->real, "HSET %s %s %s", p->names.registry, stream, text);
		model_redis_set_registry(p->model, &p->names, stream, id);
		break;
	case 8:
	case 9:
	case 10:
	case 11:
		real_redis_command(p->real, "XDEL %s %s", p->names.lbs, text);
		model_redis_xdel(p->model, &p->names, id);
		break;
	case 12:
		if (roll(p, 4))
			break;
		struct model_redis *copy = model_redis_clone(p->model);
		model_redis_free(p->model);
		p->model = copy;
		real_redis_command(p->real, "SCRIPT FLUSH");
		real_redis_command(p->real, "CONFIG SET notify-keyspace-events %s", "");
		break;
	case 24:
	case 25:
	case 26:
	case 27:
	case 28:
	case 29:
		produce(p, slice_str(stream));
		break;
	case 30:
		command_id_format(text, p->feed_id);
		real_redis_command(p->real, "XDEL %s %s", stream, text);
		model_redis_feed_xdel(p->model, slice_str(stream), p->feed_id);
		break;
	case 31:
		if (roll(p, 4)) /* made again, with lower ids maybe */
			break;
		real_redis_command(p->real, "DEL %s", stream);
		model_redis_feed_delete(p->model, slice_str(stream));
		break;
	default:
		if (p->is_oom)
			break;
		real_redis_command(p->real, "XCLAIM %s %s %s 0 %s", p->names.lbs, p->names.group, consumer, text);
		model_redis_claim(p->model, &p->names, id, consumer, now(p));
	}
}

/* ---- everything there is */

/* What waits: ids, times, and the fields byte for byte. */
static void compare_waits(struct pair *p)
{
	const long long n = real_redis_command(p->real, "ZCARD %s", p->names.delayed)->integer;
	cr_assert_eq((size_t)n, model_redis_n_delayed(p->model, &p->names), "seed %llu step %d: %lld wait",
		(unsigned long long)p->seed, p->step, n);
	cr_assert_eq(real_redis_command(p->real, "HLEN %s", p->names.delayed_data)->integer, n);
	for (size_t i = 0; i < (size_t)n; i++) {
		int64_t due;
		const struct model_entry e = model_redis_delayed(p->model, &p->names, i, &due);
		char id[COMMAND_ID_CAP];
		command_id_format(id, e.id);
		const redisReply *r = real_redis_command(p->real, "HGET %s %s", p->names.delayed_data, id);
		cr_assert_eq(r->type, REDIS_REPLY_STRING, "seed %llu step %d: %s waits", (unsigned long long)p->seed,
			p->step, id);
		struct packed_entry got;
		cr_assert(packed_decode(&p->packed, (struct slice){r->str, r->len}, &got));
		cr_assert_eq(got.n, e.fields->n);
		for (size_t k = 0; k < got.n; k++)
			cr_assert(slices_equal(got.fields[k].name, e.fields->v[k].name) &&
				  slices_equal(got.fields[k].value, e.fields->v[k].value));
	}
	cr_assert_eq((size_t)real_redis_command(p->real, "ZCARD %s", p->names.parked)->integer,
		model_redis_n_parked(p->model, &p->names), "seed %llu step %d: parked", (unsigned long long)p->seed,
		p->step);
}

static const char *field_of(const redisReply *r, const char *name)
{
	for (size_t i = 0; i + 1 < r->elements; i += 2)
		if (strcmp(r->element[i]->str, name) == 0)
			return r->element[i + 1]->str;
	return "none";
}

static void compare_feed(struct pair *p, const char *stream)
{
	struct command_names as_dlq = p->names;
	char key[64], pos[COMMAND_ID_CAP];
	struct model_position_view v;
	as_dlq.dlq = (char *)(uintptr_t)stream;
	both(p, &(struct cmd){.kind = CMD_DLQ_RANGE, .as.read.count = 100000}, &as_dlq, "me");
	snprintf(key, sizeof key, strchr(stream, '{') ? "%s-sluice" : "{%s}-sluice", stream);
	const long long ttl = real_redis_command(p->real, "PTTL %s", key)->integer;
	const redisReply *r = real_redis_command(p->real, "HGETALL %s", key);
	const bool is_there = model_redis_position(p->model, slice_str(stream), now(p), &v);
	cr_assert_eq(r->elements > 0, is_there, "seed %llu step %d: position of %s", (unsigned long long)p->seed,
		p->step, stream);
	if (!is_there)
		return;
	command_id_format(pos, v.pos);
	cr_expect_str_eq(field_of(r, "token"), v.token);
	cr_expect_str_eq(field_of(r, "pos"), pos);
	cr_expect_eq(strtoll(field_of(r, "tries"), NULL, 10), v.tries);
	cr_expect_eq(strtol(field_of(r, "run"), NULL, 10), v.run);
	cr_expect(is_near(ttl, v.ttl_ms));
	const char *pause = field_of(r, "pause");
	cr_expect_eq(strcmp(pause, "none") == 0 ? -1 : strtoll(pause, NULL, 10), v.pause_ms);
}

static void compare_state(struct pair *p)
{
	compare_waits(p);
	for (size_t i = 0; i < 3; i++)
		compare_feed(p, streams[i]);
	struct command_names entries = p->names;
	entries.dlq = entries.entries_dlq;
	both(p, &(struct cmd){.kind = CMD_DLQ_RANGE, .as.read.count = 100000}, &entries, "me");
	struct command_names whole = p->names;
	both(p, &(struct cmd){.kind = CMD_DLQ_RANGE, .as.read.count = 100000}, &whole, "me");
	whole.dlq = whole.lbs;
	both(p, &(struct cmd){.kind = CMD_DLQ_RANGE, .as.read.count = 100000}, &whole, "me");
	both(p, &(struct cmd){.kind = CMD_PENDING, .as.pending.count = 100000}, &p->names, "me");
	both(p, &(struct cmd){.kind = CMD_CONSUMERS}, &p->names, "me");
	both(p, &(struct cmd){.kind = CMD_LEFT, .use_eval = true}, &p->names, "me");
	const long long n = real_redis_command(p->real, "HLEN %s", p->names.registry)->integer;
	cr_assert_eq((size_t)n,
		model_redis_n_registered(p->model, &p->names) + model_redis_n_wishes(p->model, &p->names),
		"seed %llu step %d", (unsigned long long)p->seed, p->step);
	for (size_t i = 0; i < 3; i++) {
		const redisReply *r = real_redis_command(p->real, "HGET %s %s", p->names.registry, streams[i]);
		struct entry_id real = {0, 0}, model = {0, 0};
		if (r->type == REDIS_REPLY_STRING)
			command_id_parse(r->str, r->len, &real);
		model_redis_registered(p->model, &p->names, streams[i], &model);
		cr_assert_eq(entry_id_cmp(real, model), 0, "seed %llu step %d: registry of %s",
			(unsigned long long)p->seed, p->step, streams[i]);
	}
}

/* Since Redis 7. */
static bool has_entries_added(struct real_redis *real)
{
	real_redis_command(real, "XADD s 1-1 n 1");
	const redisReply *info = real_redis_command(real, "XINFO STREAM s");
	bool has_it = false;
	for (size_t i = 0; i < info->elements; i += 2)
		has_it |= strcmp(info->element[i]->str, "entries-added") == 0;
	return has_it;
}

static void run(struct real_redis *real, uint64_t seed)
{
	struct pair p = {.seed = seed, .real = real, .model = model_redis_new()};
	rng_seed(&p.rng, seed);
	real_redis_command(real, "FLUSHALL");
	real_redis_command(real, "SCRIPT FLUSH");
	real_redis_command(real, "CONFIG SET maxmemory 0");
	model_redis_set_added(p.model, has_entries_added(real));
	real_redis_command(real, "FLUSHALL");
	real_redis_command(real, "CONFIG SET notify-keyspace-events %s", "");
	real_redis_use_resp(real, seed % 2 ? 2 : 3);
	model_redis_set_delifeq(p.model, real_redis_command(real, "DELIFEQ no-key v")->type == REDIS_REPLY_INTEGER);
	command_names_init(&p.names, "orders", "", (enum same_stream)(seed % 3), 0, "0");
	command_names_entries(&p.names, "orders", "", seed % 4 ? 0 : 10);
	both(&p, &(struct cmd){.kind = CMD_GROUP_CREATE}, &p.names, "me");
	for (p.step = 0; p.step < N_STEPS; p.step++) {
		if (roll(&p, 8))
			random_command(&p);
		else
			somebody_else(&p);
		if (p.step % CHECK_EVERY == 0)
			compare_state(&p);
	}
	command_names_fini(&p.names);
	packed_fini(&p.packed);
	model_redis_free(p.model);
}

Test(model, is_like_a_real_server)
{
	struct real_redis *real = real_redis_start(NULL);
	const char *only = getenv("SLUICE_SEED"), *many = getenv("SLUICE_SEEDS");
	const uint64_t n = many ? strtoull(many, NULL, 10) : N_SEEDS;
	alarm(120 + (unsigned)n);
	if (only)
		run(real, strtoull(only, NULL, 10));
	for (uint64_t seed = 1; seed <= n && !only; seed++)
		run(real, seed);
	real_redis_stop(real);
}

/* ---- what a real server cannot show without waiting */

struct alone {
	struct model_redis *m;
	struct command_names names;
	int n_expired;
};

static void alone_init(struct alone *a)
{
	*a = (struct alone){.m = model_redis_new()};
	command_names_init(&a->names, "orders", "", SAME_STREAM_SERIALIZE, 0, "0");
}

static void alone_fini(struct alone *a)
{
	model_redis_free(a->m);
	command_names_fini(&a->names);
}

static struct reply alone_exec(struct alone *a, mono_ms at, struct cmd c)
{
	struct reply r;
	c.use_eval = true;
	model_redis_exec(a->m, &c, &a->names, "me", at, &r);
	return r;
}

#define LOCK .stream = {"a", 1}, .id = {5, 0}

static void count_expired(void *arg, struct slice stream, struct entry_id id)
{
	struct alone *a = arg;
	a->n_expired += stream.len == 1 && id.ms == 5;
}

Test(model, locks_end_by_the_servers_clock)
{
	struct alone a;
	alone_init(&a);
	model_redis_on_expired(a.m, count_expired, &a);
	alone_exec(&a, 1000, (struct cmd){.kind = CMD_LOCK, LOCK, .as.lock.value = {"me/1", 4}, .as.lock.ttl_ms = 500});
	cr_expect_eq(alone_exec(&a, 1500, (struct cmd){.kind = CMD_PROBE, LOCK}).integer, 0);
	cr_expect_eq(model_redis_next_expiry(a.m), 1501);
	cr_expect_eq(model_redis_expire(a.m, 1500), 0);
	cr_expect_eq(alone_exec(&a, 1501, (struct cmd){.kind = CMD_PROBE, LOCK}).integer, -2);
	cr_expect_eq(a.n_expired, 1);
	alone_exec(&a, 2000, (struct cmd){.kind = CMD_LOCK, LOCK, .as.lock.ttl_ms = 5000});
	cr_expect_eq(
		alone_exec(&a, 2100, (struct cmd){.kind = CMD_RENEW, LOCK, .as.lock.ttl_ms = 6000}).kind, REPLY_TEXT);
	model_redis_set_clock(a.m, 1700000000000 + 5000); /* it steps */
	cr_expect_eq(alone_exec(&a, 2100, (struct cmd){.kind = CMD_PROBE, LOCK}).integer, 1000);
	cr_expect_eq(model_redis_expire(a.m, 3101), 1);
	cr_expect_eq(a.n_expired, 2);
	alone_fini(&a);
}

Test(model, a_clone_loses_what_came_later)
{
	struct alone a;
	alone_init(&a);
	alone_exec(&a, 0, (struct cmd){.kind = CMD_GROUP_CREATE});
	const struct entry_id first = model_redis_add(a.m, &a.names, "a", NULL, 2, 10);
	alone_exec(&a, 10, (struct cmd){.kind = CMD_LOCK, LOCK, .as.lock.ttl_ms = 5000});
	struct model_redis *replica = model_redis_clone(a.m);
	model_redis_add(a.m, &a.names, "b", NULL, 0, 11);
	cr_expect_eq(model_redis_n_entries(a.m, &a.names), 2);
	model_redis_free(a.m);
	a.m = replica;
	cr_expect_eq(model_redis_n_entries(a.m, &a.names), 1);
	cr_expect(model_redis_has_new(a.m, &a.names));
	const struct reply r = alone_exec(&a, 12, (struct cmd){.kind = CMD_READ, .as.read.count = 9});
	cr_assert(r.kind == REPLY_ENTRIES && r.entries->n == 1);
	cr_expect(entry_id_cmp(r.entries->v[0].id, first) == 0 && r.entries->v[0].retry == 2);
	entry_batch_free(r.entries);
	cr_expect_not(model_redis_has_new(a.m, &a.names));
	cr_expect_eq(model_redis_pending(a.m, &a.names, 0, 20).idle_ms, 8);
	struct model_lock_view lock;
	cr_assert(model_redis_lock(a.m, (struct slice){"a", 1}, (struct entry_id){5, 0}, 1010, &lock));
	cr_expect_eq(lock.ttl_ms, 4000);
	alone_fini(&a);
}

Test(model, errors_can_be_ordered)
{
	struct alone a;
	alone_init(&a);
	model_redis_fail(a.m, CMD_PROBE, 2, "LOADING Redis is loading the dataset in memory");
	cr_expect_eq(alone_exec(&a, 0, (struct cmd){.kind = CMD_PING}).kind, REPLY_OK);
	for (int i = 0; i < 2; i++)
		cr_expect_eq(alone_exec(&a, 0, (struct cmd){.kind = CMD_PROBE, LOCK}).error, RERR_RETRY);
	cr_expect_eq(alone_exec(&a, 0, (struct cmd){.kind = CMD_PROBE, LOCK}).integer, -2);
	model_redis_fail(a.m, CMD_N, -1, "MOVED 7 h:1");
	for (int i = 0; i < 5; i++)
		cr_expect_eq(alone_exec(&a, 0, (struct cmd){.kind = CMD_PING}).error, RERR_MOVED);
	model_redis_fail(a.m, CMD_N, 0, NULL);
	cr_expect_eq(alone_exec(&a, 0, (struct cmd){.kind = CMD_PING}).kind, REPLY_OK);
	alone_fini(&a);
}
