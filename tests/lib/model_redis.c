#include "lib/model_redis_int.h"

#include <string.h>

#include "base/mem.h"
#include "codec/reply.h"

static const char oom_text[] = "OOM command not allowed when used memory > 'maxmemory'.";

void model_error(const struct cmd *c, const char *text, struct reply *out)
{
	reply_set_error(c->kind, (struct slice){text, strlen(text)}, out);
}

/* ---- locks */

static bool lock_equal(const void *value, const void *key, size_t len)
{
	const struct model_lock *l = value;
	return l->stream_len + sizeof l->id == len && memcmp(l->key, key, len) == 0;
}

/* Builds the map's key in b. */
static void lock_key(struct buf *b, struct slice stream, struct entry_id id)
{
	buf_clear(b);
	if (stream.len)
		buf_add(b, stream.p, stream.len);
	buf_add(b, &id, sizeof id);
}

static void lock_free(struct model_lock *l)
{
	mem_free(l->value);
	mem_free(l);
}

static void lock_drop(struct model_redis *m, struct model_lock *l)
{
	heap_remove(&m->expiries, &l->expiry);
	map_remove(&m->locks, l->key, l->stream_len + sizeof l->id);
	lock_free(l);
}

static void lock_expire(struct model_redis *m, struct model_lock *l)
{
	if (m->on_expired)
		m->on_expired(m->on_expired_arg, (struct slice){l->key, l->stream_len}, l->id);
	lock_drop(m, l);
}

static void lock_set_value(struct model_lock *l, struct slice value)
{
	mem_free(l->value);
	l->value = mem_dup(value.p ? value.p : "", value.len);
	l->value_len = value.len;
}

/* The lock that c names; expired ones go first, as when Redis touches a key. */
static struct model_lock *lock_get(struct model_redis *m, const struct cmd *c)
{
	lock_key(&m->text, c->stream, c->id);
	struct model_lock *l = map_get(&m->locks, m->text.data, m->text.len);
	if (l && heap_at(&m->expiries, &l->expiry) < m->now) {
		lock_expire(m, l);
		return NULL;
	}
	return l;
}

static struct model_lock *lock_add(struct model_redis *m, struct slice stream, struct entry_id id)
{
	lock_key(&m->text, stream, id);
	struct model_lock *l = mem_alloc(sizeof *l + m->text.len);
	l->id = id;
	l->stream_len = stream.len;
	memcpy(l->key, m->text.data, m->text.len);
	map_put(&m->locks, l->key, m->text.len, l);
	return l;
}

static bool value_is(const struct model_lock *l, struct slice value)
{
	return l && l->value_len == value.len && (value.len == 0 || memcmp(l->value, value.p, value.len) == 0);
}

/* The reply keeps its own copy: the lock may be gone before it is read. */
static void reply_value(struct model_redis *m, const struct model_lock *l, struct reply *out)
{
	*out = (struct reply){.kind = REPLY_NIL};
	if (!l)
		return;
	buf_clear(&m->text);
	buf_add(&m->text, l->value, l->value_len);
	*out = (struct reply){.kind = REPLY_TEXT, .text = {m->text.data, m->text.len}};
}

/* SET NX or XX */
static void exec_set(struct model_redis *m, const struct cmd *c, const struct command_names *names, const char *me,
	struct reply *out)
{
	(void)names;
	(void)me;
	if (m->is_oom) {
		model_error(c, oom_text, out);
		return;
	}
	struct model_lock *l = lock_get(m, c);
	*out = (struct reply){.kind = REPLY_NIL};
	if ((l != NULL) != (c->kind == CMD_TOMBSTONE))
		return;
	if (!l)
		l = lock_add(m, c->stream, c->id);
	lock_set_value(l, c->as.lock.value);
	heap_set(&m->expiries, &l->expiry, m->now + c->as.lock.ttl_ms);
	out->kind = REPLY_OK;
}

/* A write that finds nothing to write on. */
static void exec_trial(struct model_redis *m, const struct cmd *c, const struct command_names *names, const char *me,
	struct reply *out)
{
	(void)names;
	(void)me;
	*out = (struct reply){.kind = REPLY_NIL};
	if (m->is_oom)
		model_error(c, oom_text, out);
}

static void exec_get(struct model_redis *m, const struct cmd *c, const struct command_names *names, const char *me,
	struct reply *out)
{
	(void)names;
	(void)me;
	struct model_lock *l = lock_get(m, c);
	if (l && c->kind == CMD_RENEW)
		heap_set(&m->expiries, &l->expiry, m->now + c->as.lock.ttl_ms);
	reply_value(m, l, out);
}

static void exec_swap(struct model_redis *m, const struct cmd *c, const struct command_names *names, const char *me,
	struct reply *out)
{
	(void)names;
	(void)me;
	struct model_lock *l = lock_get(m, c);
	model_int(out, 0);
	if (!value_is(l, c->as.lock.expect))
		return;
	if (m->is_oom) {
		model_error(c, oom_text, out);
		return;
	}
	out->integer = mono_max(heap_at(&m->expiries, &l->expiry) - m->now, c->as.lock.ttl_ms);
	lock_set_value(l, c->as.lock.value);
	heap_set(&m->expiries, &l->expiry, m->now + out->integer);
}

static void exec_unlock(struct model_redis *m, const struct cmd *c, const struct command_names *names, const char *me,
	struct reply *out)
{
	(void)names;
	(void)me;
	struct model_lock *l = lock_get(m, c);
	model_int(out, value_is(l, c->as.lock.value));
	if (out->integer)
		lock_drop(m, l);
}

/* With done, where it has a value: done, but the lock was not ours is 3. */
void model_unlock(struct model_redis *m, const struct cmd *c, struct slice value, struct reply *out)
{
	struct model_lock *l = lock_get(m, c);
	if (value_is(l, value))
		lock_drop(m, l);
	else if (out->kind == REPLY_INT)
		out->integer = 3;
}

static void exec_probe(struct model_redis *m, const struct cmd *c, const struct command_names *names, const char *me,
	struct reply *out)
{
	(void)names;
	(void)me;
	const struct model_lock *l = lock_get(m, c);
	model_int(out, !l ? -2 : l->expiry.pos ? heap_at(&m->expiries, &l->expiry) - m->now : -1);
}

/* ---- any node */

static void exec_node(struct model_redis *m, const struct cmd *c, const struct command_names *names, const char *me,
	struct reply *out)
{
	(void)names;
	(void)me;
	*out = (struct reply){.kind = REPLY_OK};
	if (c->kind == CMD_WAIT)
		model_int(out, c->as.wait.n_replicas);
	else if (c->kind == CMD_UNBLOCK)
		model_int(out, 1);
	else if (c->kind == CMD_SLOTS || c->kind == CMD_CLUSTER_INFO)
		model_error(c, "ERR This instance has cluster support disabled", out);
	else if (c->kind == CMD_ROLE)
		*out = (struct reply){.kind = REPLY_TEXT, .text = {"master", 6}};
	else if (c->kind == CMD_RUN_ID)
		*out = (struct reply){.kind = REPLY_TEXT, .text = {m->run_id, strlen(m->run_id)}};
	else if (c->kind == CMD_TIME)
		model_int(out, m->now);
	else if (c->kind == CMD_CONFIG_GET_EVENTS)
		*out = (struct reply){.kind = REPLY_TEXT, .text = {m->events, strlen(m->events)}};
	else if (c->kind == CMD_CONFIG_SET_EVENTS) {
		mem_free(m->events);
		m->events = mem_dup(c->as.keyspace.flags.p, c->as.keyspace.flags.len);
	}
}

/* ---- the table */

static const struct {
	model_exec_fn *exec;
	int script; /* 1 + enum script; 0 = none */
} rows[CMD_N] = {
	[CMD_LOCK] = {exec_set, 0},
	[CMD_LOCK_GET] = {exec_get, 0},
	[CMD_LOCK_SWAP] = {exec_swap, 1 + SCRIPT_SWAP},
	[CMD_RENEW] = {exec_get, 0},
	[CMD_UNLOCK] = {exec_unlock, 1 + SCRIPT_UNLOCK},
	[CMD_PROBE] = {exec_probe, 0},
	[CMD_TOMBSTONE] = {exec_set, 0},
	[CMD_GROUP_CREATE] = {model_group_create_cmd, 0},
	[CMD_READ] = {model_read, 0},
	[CMD_READ_OWN] = {model_read_own, 0},
	[CMD_HEARTBEAT] = {model_heartbeat, 0},
	[CMD_FETCH] = {model_fetch, 0},
	[CMD_TAKE] = {model_take, 1 + SCRIPT_TAKE},
	[CMD_TAKE_MANY] = {model_take_many, 1 + SCRIPT_TAKE_MANY},
	[CMD_DONE] = {model_done, 1 + SCRIPT_DONE},
	[CMD_DONE_MANY] = {model_done_many, 1 + SCRIPT_DONE_MANY},
	[CMD_REQUEUE] = {model_requeue, 1 + SCRIPT_REQUEUE},
	[CMD_DEAD] = {model_dead, 1 + SCRIPT_DEAD},
	[CMD_DEAD_ADD] = {model_dead_add, 1 + SCRIPT_BURY},
	[CMD_DEAD_READ] = {model_fetch, 0},
	[CMD_ACK_DEL] = {model_done, 1 + SCRIPT_DONE},
	[CMD_PENDING] = {model_pending_cmd, 0},
	[CMD_CONSUMERS] = {model_consumers_cmd, 0},
	[CMD_LENGTH] = {model_length, 0},
	[CMD_PENDING_SUM] = {model_pending_sum, 0},
	[CMD_UNREAD] = {model_unread, 1 + SCRIPT_UNREAD},
	[CMD_DLQ_LENGTH] = {model_length, 0},
	[CMD_TRIAL] = {exec_trial, 0},
	[CMD_ADD] = {model_add_cmd, 0},
	[CMD_DLQ_RANGE] = {model_dlq_range, 0},
	[CMD_DLQ_DEL] = {model_dlq_del, 0},
	[CMD_REPLAY] = {model_replay, 0},
	[CMD_LATER] = {model_later, 1 + SCRIPT_LATER},
	[CMD_SIFT] = {model_sift, 1 + SCRIPT_SIFT},
	[CMD_DUE] = {model_due, 1 + SCRIPT_DUE},
	[CMD_ADD_LATER] = {model_add_later, 1 + SCRIPT_ADD_LATER},
	[CMD_GHOSTS] = {model_ghosts, 1 + SCRIPT_GHOSTS},
	[CMD_GHOST_BACK] = {model_ghost_back, 1 + SCRIPT_GHOST_BACK},
	[CMD_DELAYED_NOW] = {model_delayed_cmd, 1 + SCRIPT_DELAYED},
	[CMD_DELAYED_DROP] = {model_delayed_cmd, 1 + SCRIPT_DELAYED},
	[CMD_LEAVE] = {model_left_cmd, 1 + SCRIPT_LEFT},
	[CMD_BACK] = {model_left_cmd, 1 + SCRIPT_LEFT},
	[CMD_LEFT] = {model_left_cmd, 1 + SCRIPT_LEFT},
	[CMD_FORGET] = {model_forget, 1 + SCRIPT_FORGET},
	[CMD_FLEET] = {model_fleet, 1 + SCRIPT_FLEET},
	[CMD_FEED_OPEN] = {model_feed_cmd, 1 + SCRIPT_FEED_OPEN},
	[CMD_FEED_READ] = {model_feed_cmd, 0},
	[CMD_FEED_ACK] = {model_feed_cmd, 1 + SCRIPT_FEED_ACK},
	[CMD_FEED_FAIL] = {model_feed_cmd, 1 + SCRIPT_FEED_FAIL},
	[CMD_FEED_CLOSE] = {model_feed_cmd, 1 + SCRIPT_FEED_CLOSE},
	[CMD_FEED_PICK] = {model_feed_cmd, 0},
	[CMD_FEED_DEAD_ADD] = {model_feed_cmd, 1 + SCRIPT_BURY},
	[CMD_FEED_DLQ_LENGTH] = {model_length, 0},
	[CMD_TRACKING] = {exec_node, 0},
	[CMD_CACHING] = {exec_node, 0},
	[CMD_WAIT] = {exec_node, 0},
	[CMD_UNBLOCK] = {exec_node, 0},
	[CMD_SLOTS] = {exec_node, 0},
	[CMD_CLUSTER_INFO] = {exec_node, 0},
	[CMD_ROLE] = {exec_node, 0},
	[CMD_RUN_ID] = {exec_node, 0},
	[CMD_TIME] = {exec_node, 0},
	[CMD_CONFIG_GET_EVENTS] = {exec_node, 0},
	[CMD_CONFIG_SET_EVENTS] = {exec_node, 0},
	[CMD_PSUBSCRIBE] = {exec_node, 0},
	[CMD_PING] = {exec_node, 0},
};

void model_redis_exec(struct model_redis *m, const struct cmd *c, const struct command_names *names,
	const char *consumer, mono_ms now, struct reply *out)
{
	m->now = now + m->offset;
	m->is_dirty = false;
	if (m->n_fail != 0 && (m->fail_kind == CMD_N || m->fail_kind == c->kind)) {
		m->n_fail -= m->n_fail > 0;
		model_error(c, m->fail_text, out);
		return;
	}
	const bool by_delifeq = c->kind == CMD_UNLOCK && c->as.lock.use_delifeq;
	if (by_delifeq && !m->has_delifeq) {
		model_error(c, "ERR unknown command 'DELIFEQ'", out);
		return;
	}
	const bool is_plain = by_delifeq || (c->kind == CMD_DEAD_ADD && names->dlq_max_len == 0) ||
			      (c->kind == CMD_FEED_DEAD_ADD && names->entries_dlq_max_len == 0);
	const uint32_t script = rows[c->kind].script && !is_plain ? 1u << rows[c->kind].script : 0;
	if (script) {
		if (c->use_eval)
			m->scripts |= script;
		if (!(m->scripts & script)) {
			model_error(c, "NOSCRIPT No matching script. Please use EVAL.", out);
			return;
		}
	}
	rows[c->kind].exec(m, c, names, consumer, out);
}

/* ---- life */

struct model_redis *model_redis_new(void)
{
	struct model_redis *m = mem_alloc(sizeof *m);
	m->offset = 1700000000000;
	map_init(&m->locks, lock_equal, 1);
	heap_init(&m->expiries);
	buf_init(&m->text);
	m->run_id = mem_printf("model-1");
	m->events = mem_printf("%s", "");
	return m;
}

void model_redis_free(struct model_redis *m)
{
	if (!m)
		return;
	size_t pos = 0;
	for (struct model_lock *l; (l = map_next(&m->locks, &pos));)
		lock_free(l);
	map_fini(&m->locks);
	heap_fini(&m->expiries);
	for (size_t i = 0; i < m->n_streams; i++) {
		model_stream_fini(m->streams[i]);
		mem_free(m->streams[i]);
	}
	for (size_t i = 0; i < m->n_registries; i++) {
		pos = 0;
		for (void *row; (row = map_next(&m->registries[i]->rows, &pos));)
			mem_free(row);
		map_fini(&m->registries[i]->rows);
		mem_free(m->registries[i]->key);
		mem_free(m->registries[i]);
	}
	model_waits_free(m);
	model_left_free(m);
	model_feed_free(m);
	mem_free(m->streams);
	mem_free(m->registries);
	mem_free(m->run_id);
	mem_free(m->events);
	mem_free(m->fail_text);
	buf_fini(&m->text);
	mem_free(m->pending);
	mem_free(m->consumers);
	mem_free(m->fields);
	mem_free(m);
}

struct model_redis *model_redis_clone(const struct model_redis *from)
{
	struct model_redis *m = model_redis_new();
	m->offset = from->offset;
	m->is_oom = from->is_oom;
	m->has_delifeq = from->has_delifeq;
	model_redis_set_run_id(m, from->run_id);
	size_t pos = 0;
	for (struct model_lock *l; (l = map_next(&from->locks, &pos));) {
		struct model_lock *copy = lock_add(m, (struct slice){l->key, l->stream_len}, l->id);
		lock_set_value(copy, (struct slice){l->value, l->value_len});
		if (l->expiry.pos != 0)
			heap_set(&m->expiries, &copy->expiry, heap_at(&from->expiries, &l->expiry));
	}
	for (size_t i = 0; i < from->n_streams; i++)
		model_stream_copy(model_stream_of(m, from->streams[i]->key, true), from->streams[i]);
	model_waits_copy(m, from);
	model_left_copy(m, from);
	model_feed_copy(m, from);
	for (size_t i = 0; i < from->n_registries; i++) {
		struct model_registry *r = model_registry_of(m, from->registries[i]->key);
		pos = 0;
		for (struct model_reg_row *row; (row = map_next(&from->registries[i]->rows, &pos));)
			model_registry_set(r, (struct slice){row->stream, row->len}, row->id);
	}
	return m;
}

/* ---- the server */

void model_redis_set_clock(struct model_redis *m, int64_t offset_ms)
{
	m->offset = offset_ms;
}

void model_redis_set_delifeq(struct model_redis *m, bool has_it)
{
	m->has_delifeq = has_it;
}

void model_redis_set_added(struct model_redis *m, bool has_it)
{
	m->no_added = !has_it;
}

void model_redis_set_run_id(struct model_redis *m, const char *run_id)
{
	mem_free(m->run_id);
	m->run_id = mem_dup(run_id, strlen(run_id));
	m->scripts = 0;
}

void model_redis_set_oom(struct model_redis *m, bool is_oom)
{
	m->is_oom = is_oom;
}

void model_redis_fail(struct model_redis *m, enum cmd_kind kind, int n, const char *error)
{
	mem_free(m->fail_text);
	m->fail_text = mem_dup(error ? error : "", error ? strlen(error) : 0);
	m->fail_kind = kind;
	m->n_fail = n;
}

void model_redis_on_expired(
	struct model_redis *m, void (*fn)(void *arg, struct slice stream, struct entry_id id), void *arg)
{
	m->on_expired = fn;
	m->on_expired_arg = arg;
}

size_t model_redis_expire(struct model_redis *m, mono_ms now)
{
	size_t n = 0;
	for (; heap_deadline(&m->expiries) < now + m->offset; n++)
		lock_expire(m, HEAP_OF(struct model_lock, expiry, heap_top(&m->expiries)));
	return n;
}

mono_ms model_redis_next_expiry(const struct model_redis *m)
{
	const mono_ms at = heap_deadline(&m->expiries);
	return at == MONO_NEVER ? MONO_NEVER : at - m->offset + 1;
}

static void view(const struct model_redis *m, const struct model_lock *l, mono_ms now, struct model_lock_view *out)
{
	*out = (struct model_lock_view){
		.stream = {l->key, l->stream_len},
		.id = l->id,
		.value = {l->value, l->value_len},
		.ttl_ms = l->expiry.pos ? heap_at(&m->expiries, &l->expiry) - m->offset - now : INT64_MAX,
	};
}

bool model_redis_lock(
	const struct model_redis *m, struct slice stream, struct entry_id id, mono_ms now, struct model_lock_view *out)
{
	struct buf key;
	buf_init(&key);
	lock_key(&key, stream, id);
	const struct model_lock *l = map_get(&m->locks, key.data, key.len);
	buf_fini(&key);
	if (l)
		view(m, l, now, out);
	return l != NULL;
}

bool model_redis_next_lock(const struct model_redis *m, size_t *pos, mono_ms now, struct model_lock_view *out)
{
	const struct model_lock *l = map_next(&m->locks, pos);
	if (l)
		view(m, l, now, out);
	return l != NULL;
}
