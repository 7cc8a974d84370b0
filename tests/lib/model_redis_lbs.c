/* model_redis_lbs - the commands on a load-balancer stream, its group, registry and dead letters. */
#include "lib/model_redis_int.h"

#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "codec/reply.h"

static const char nogroup_text[] = "NOGROUP No such key or consumer group";
static const char oom_text[] = "OOM command not allowed when used memory > 'maxmemory'.";

/* The stream with its group, or NULL and NOGROUP in *out. */
struct model_stream *model_group_of(
	struct model_redis *m, const struct cmd *c, const struct command_names *names, struct reply *out)
{
	struct model_stream *s = model_stream_of(m, names->lbs, false);
	if (s && s->group && strcmp(s->group, names->group) == 0)
		return s;
	model_error(c, nogroup_text, out);
	return NULL;
}

void model_oom(const struct cmd *c, struct reply *out)
{
	model_error(c, oom_text, out);
}

bool model_is_refused(struct model_redis *m, const struct cmd *c, struct reply *out)
{
	if (m->is_oom && !m->is_dirty) {
		model_oom(c, out);
		return true;
	}
	m->is_dirty = true;
	return false;
}

static bool slice_is(struct slice s, const char *text)
{
	return s.len == strlen(text) && memcmp(s.p, text, s.len) == 0;
}

/* Never negative, also after the clock stepped back. */
static int64_t idle_since(const struct model_redis *m, int64_t at)
{
	return m->now > at ? m->now - at : 0;
}

void model_group_create_cmd(struct model_redis *m, const struct cmd *c, const struct command_names *names,
	const char *me, struct reply *out)
{
	(void)me;
	if (model_is_refused(m, c, out))
		return;
	struct model_stream *s = model_stream_of(m, names->lbs, true);
	const struct slice start = c->as.group.start.p ? c->as.group.start : slice_str(names->group_start);
	struct entry_id id = {0, 0};
	if (slice_is(start, "$"))
		id = s->last;
	else
		command_id_parse(start.p, start.len, &id);
	if (!s->group)
		model_group_create(s, names->group, id);
	*out = (struct reply){.kind = REPLY_OK};
}

/* ---- reading */

void model_read_entry(const struct model_entry *from, bool with_fields, struct entry_in *e)
{
	e->id = from->id;
	struct lbs_fields fields = {0};
	for (size_t i = 0; i < from->fields->n; i++)
		reply_lbs_field(&fields, from->fields->v[i].name, from->fields->v[i].value);
	reply_read_input(e, &fields);
	if (with_fields)
		e->fields = reply_copy_fields(from->fields->v, from->fields->n);
}

struct entry_batch *model_batch_new(size_t room)
{
	return mem_alloc(sizeof(struct entry_batch) + room * sizeof(struct entry_in));
}

static size_t limit(int64_t count, size_t most)
{
	return count > 0 && (uint64_t)count < most ? (size_t)count : most;
}

void model_read(struct model_redis *m, const struct cmd *c, const struct command_names *names, const char *me,
	struct reply *out)
{
	struct model_stream *s = model_group_of(m, c, names, out);
	if (!s)
		return;
	const size_t first = model_stream_find(s, entry_id_next(s->delivered));
	const size_t n = limit(c->as.read.count, s->n - first);
	struct entry_batch *b = model_batch_new(n);
	*out = (struct reply){.kind = REPLY_ENTRIES, .entries = b};
	if (n == 0)
		return;
	const uint32_t consumer = model_group_consumer(s, me, strlen(me));
	s->consumers[consumer].seen = m->now;
	for (size_t i = 0; i < n; i++) {
		const struct model_entry *e = &s->v[first + i];
		model_read_entry(e, false, &b->v[b->n++]);
		model_pel_put(s, e->id, consumer, m->now, 1);
		s->delivered = e->id;
	}
}

void model_read_own(struct model_redis *m, const struct cmd *c, const struct command_names *names, const char *me,
	struct reply *out)
{
	struct model_stream *s = model_group_of(m, c, names, out);
	if (!s)
		return;
	const uint32_t consumer = model_group_consumer(s, me, strlen(me));
	s->consumers[consumer].seen = m->now;
	const size_t most = limit(c->as.read.count, s->consumers[consumer].n_pending);
	struct entry_batch *b = model_batch_new(most);
	for (size_t i = model_pel_find(s, entry_id_next(c->id)); i < s->n_pel && b->n < most; i++) {
		struct model_pel_row *p = &s->pel[i];
		if (p->consumer != consumer)
			continue;
		struct entry_in *in = &b->v[b->n++];
		const struct model_entry *e = model_stream_get(s, p->id);
		if (e) {
			model_read_entry(e, false, in);
			p->delivered = m->now;
			p->n_deliveries++;
		} else {
			in->id = p->id;
			in->problem = ENTRY_DELETED;
		}
	}
	*out = (struct reply){.kind = REPLY_ENTRIES, .entries = b};
}

void model_heartbeat(struct model_redis *m, const struct cmd *c, const struct command_names *names, const char *me,
	struct reply *out)
{
	struct model_stream *s = model_group_of(m, c, names, out);
	if (!s)
		return;
	const uint32_t consumer = model_group_consumer(s, me, strlen(me));
	s->consumers[consumer].seen = m->now;
	*out = (struct reply){.kind = REPLY_ENTRIES, .entries = model_batch_new(0)};
}

/* XRANGE id id, with fields for the dead letters */
void model_fetch(struct model_redis *m, const struct cmd *c, const struct command_names *names, const char *me,
	struct reply *out)
{
	(void)me;
	const struct model_stream *s = model_stream_of(m, names->lbs, false);
	const struct model_entry *e = s ? model_stream_get(s, c->id) : NULL;
	struct entry_batch *b = model_batch_new(1);
	if (e)
		model_read_entry(e, c->kind == CMD_DEAD_READ, &b->v[b->n++]);
	*out = (struct reply){.kind = REPLY_ENTRIES, .entries = b};
}

/* ---- the scripts, as in codec/script */

static bool has_registry(const struct cmd *c, const struct command_names *names)
{
	return names->same_stream != SAME_STREAM_ALLOW && c->stream.p;
}

/* It still counts for its stream: pending, waiting for its time, or in the LBS and not delivered yet. */
bool model_alive(struct model_redis *m, const struct command_names *names, struct entry_id id)
{
	const struct model_stream *s = model_stream_of(m, names->lbs, false);
	if (!s || !s->group)
		return false;
	return model_pel_get(s, id) || model_is_delayed(m, names, id) ||
	       (model_stream_get(s, id) && entry_id_cmp(id, s->delivered) > 0);
}

static bool is_of(const struct model_stream *s, const struct model_pel_row *p, struct slice consumer)
{
	return slice_is(consumer, s->consumers[p->consumer].name);
}

static bool is_registered(struct model_redis *m, const struct cmd *c, const struct command_names *names)
{
	const struct model_reg_row *row =
		has_registry(c, names) ? model_registry_get(model_registry_of(m, names->registry), c->stream) : NULL;
	return row && entry_id_cmp(row->id, c->id) == 0;
}

void model_take(struct model_redis *m, const struct cmd *c, const struct command_names *names, const char *me,
	struct reply *out)
{
	struct model_stream *s = model_group_of(m, c, names, out);
	if (!s)
		return;
	const struct model_pel_row *p = model_pel_get(s, c->id);
	model_int(out, 0);
	if (!p || !is_of(s, p, c->as.take.consumer.p ? c->as.take.consumer : slice_str(me)))
		return;
	out->integer = 1;
	if (has_registry(c, names) && !is_registered(m, c, names))
		model_take_stream(m, s, c, names, out);
}

bool model_finish(struct model_redis *m, struct model_stream *s, const struct cmd *c, const struct command_names *names,
	const struct entry_id *new, struct entry_id *next)
{
	struct entry_id unused;
	m->is_dirty = true;
	model_pel_remove(s, c->id);
	model_stream_delete(s, c->id);
	if (!is_registered(m, c, names))
		return false;
	if (!new)
		return model_advance(m, names, c->stream, next ? m->heir : NULL, c->id, next ? next : &unused);
	model_registry_set(model_registry_of(m, names->registry), c->stream, *new);
	return false;
}

void model_done(struct model_redis *m, const struct cmd *c, const struct command_names *names, const char *me,
	struct reply *out)
{
	struct model_stream *s = model_group_of(m, c, names, out);
	if (!s)
		return;
	const struct model_pel_row *p = model_pel_get(s, c->id);
	const bool anybodys = c->kind == CMD_ACK_DEL && !c->as.done.consumer.p;
	struct entry_id next = {0, 0};
	m->heir = c->kind == CMD_DONE && c->as.done.is_heir ? me : NULL;
	model_int(out, p && (anybodys || is_of(s, p, c->as.done.consumer.p ? c->as.done.consumer : slice_str(me))));
	if (!out->integer && !p && is_registered(m, c, names) && !model_alive(m, names, c->id))
		model_advance(m, names, c->stream, NULL, c->id, &next);
	else if (out->integer && model_finish(m, s, c, names, NULL, &next))
		*out = (struct reply){.kind = REPLY_ID, .id = next};
	if (c->kind == CMD_DONE && c->as.done.lock_value.len && (out->kind == REPLY_ID || out->integer == 1))
		model_unlock(m, c, c->as.done.lock_value, out);
}

/* ---- many at once: what is simple first, then the rest one by one */

static struct cmd one_of(const struct cmd *c, size_t i)
{
	struct cmd one = *c;
	one.kind = c->kind == CMD_TAKE_MANY ? CMD_TAKE : CMD_DONE;
	one.stream = c->as.many.v[i].stream;
	one.id = c->as.many.v[i].id;
	one.as = (union cmd_payload){0};
	if (one.kind == CMD_DONE)
		one.as.done = (struct cmd_done){.is_heir = c->as.many.is_heir, .lock_value = c->as.many.lock_value};
	return one;
}

enum way { WAY_SLOW, WAY_FAST, WAY_WRITES };

static bool came_before(const struct cmd *c, const enum way *ways, size_t i)
{
	for (size_t k = 0; k < i; k++)
		if (ways[k] == WAY_WRITES && c->as.many.v[k].stream.len == c->as.many.v[i].stream.len &&
			memcmp(c->as.many.v[k].stream.p, c->as.many.v[i].stream.p, c->as.many.v[i].stream.len) == 0)
			return true;
	return false;
}

static enum way way_of(struct model_redis *m, struct model_stream *s, const struct cmd *c,
	const struct command_names *names, const char *me, const enum way *ways, size_t i)
{
	const struct cmd one = one_of(c, i);
	const struct model_pel_row *p = model_pel_get(s, one.id);
	if (!p || !is_of(s, p, slice_str(me)))
		return WAY_SLOW;
	const bool is_calm = !has_registry(&one, names) || model_nothing_waits(m, names);
	if (one.kind == CMD_DONE)
		return is_calm || !is_registered(m, &one, names) ? WAY_FAST : WAY_SLOW;
	if (!has_registry(&one, names) || is_registered(m, &one, names))
		return WAY_FAST;
	const bool is_free = !model_registry_get(model_registry_of(m, names->registry), one.stream);
	return is_free && is_calm && !came_before(c, ways, i) ? WAY_WRITES : WAY_SLOW;
}

static void many(struct model_redis *m, const struct cmd *c, const struct command_names *names, const char *me,
	struct reply *out)
{
	struct model_stream *s = model_group_of(m, c, names, out);
	enum way ways[CMD_MANY_MAX];
	bool writes = false;
	for (size_t i = 0; s && i < c->as.many.n; i++) {
		ways[i] = way_of(m, s, c, names, me, ways, i);
		writes = writes || ways[i] == WAY_WRITES;
	}
	if (!s || (writes && model_is_refused(m, c, out)))
		return;
	for (int slow = 0; slow < 2; slow++) {
		for (size_t i = 0; i < c->as.many.n; i++) {
			const struct cmd one = one_of(c, i);
			if ((ways[i] == WAY_SLOW) == (bool)slow)
				(one.kind == CMD_TAKE ? model_take : model_done)(m, &one, names, me, &m->many[i]);
		}
	}
	*out = (struct reply){.kind = REPLY_MANY, .many = m->many, .n = c->as.many.n};
}

void model_take_many(struct model_redis *m, const struct cmd *c, const struct command_names *names, const char *me,
	struct reply *out)
{
	many(m, c, names, me, out);
}

void model_done_many(struct model_redis *m, const struct cmd *c, const struct command_names *names, const char *me,
	struct reply *out)
{
	many(m, c, names, me, out);
}

const struct model_entry *model_movable(struct model_redis *m, struct model_stream *s, const struct cmd *c,
	const struct command_names *names, struct reply *out)
{
	const struct model_pel_row *p = model_pel_get(s, c->id);
	if (!p) {
		*out = (struct reply){.kind = c->kind == CMD_DEAD ? REPLY_INT : REPLY_NIL};
		return NULL;
	}
	model_int(out, 0);
	const bool is_dead = c->kind == CMD_DEAD;
	const struct slice consumer = is_dead ? c->as.dead.consumer : c->as.requeue.consumer;
	const int64_t min_idle_ms = is_dead ? c->as.dead.min_idle_ms : c->as.requeue.min_idle_ms;
	if ((consumer.len && !is_of(s, p, consumer)) || idle_since(m, p->delivered) < min_idle_ms)
		return NULL;
	const struct model_entry *e = model_stream_get(s, c->id);
	if (!e) {
		model_finish(m, s, c, names, NULL, NULL);
		model_int(out, 2);
	}
	return e;
}

struct field *model_fields_room(struct model_redis *m, size_t n)
{
	if (n > m->fields_cap) {
		m->fields = mem_grow(m->fields, n, sizeof *m->fields);
		m->fields_cap = n;
	}
	return m->fields;
}

void model_requeue(struct model_redis *m, const struct cmd *c, const struct command_names *names, const char *me,
	struct reply *out)
{
	(void)me;
	struct model_stream *s = model_group_of(m, c, names, out);
	const struct model_entry *e = s ? model_movable(m, s, c, names, out) : NULL;
	if (!e || model_is_refused(m, c, out))
		return;
	char count[24];
	snprintf(count, sizeof count, "%lld", (long long)c->as.requeue.retry);
	const struct entry_id id = model_new_id(m, s);
	model_stream_append(s, id, model_marked(m, e->fields, count, c));
	model_finish(m, s, c, names, &id, NULL);
	*out = (struct reply){.kind = REPLY_ID, .id = id};
}

static bool is_dead_field(struct slice name)
{
	return slice_is(name, "_dlq_reason") || slice_is(name, "_dlq_at") || slice_is(name, "_dlq_node") ||
	       slice_is(name, "_dlq_error") || slice_is(name, "_orig_id");
}

/* *trimmed: how many older ones had to go for it. */
static struct entry_id add_dead(struct model_redis *m, const struct cmd *c, const struct command_names *names,
	const char *me, const struct field_list *from, size_t *trimmed)
{
	struct field *f = model_fields_room(m, from->n + 5);
	size_t n = 0;
	for (size_t i = 0; i < from->n; i++)
		if (!is_dead_field(from->v[i].name))
			f[n++] = from->v[i];
	char at[24], id_text[COMMAND_ID_CAP];
	snprintf(at, sizeof at, "%lld", (long long)c->as.dead.now_ms);
	command_id_format(id_text, c->id);
	struct slice error = c->as.dead.error.p ? c->as.dead.error : slice_str("");
	if (error.len > COMMAND_ERROR_MAX)
		error.len = COMMAND_ERROR_MAX;
	f[n++] = (struct field){slice_str("_dlq_reason"), slice_str(dead_reason_name(c->as.dead.reason))};
	f[n++] = (struct field){slice_str("_dlq_at"), slice_str(at)};
	f[n++] = (struct field){slice_str("_dlq_node"), slice_str(me)};
	f[n++] = (struct field){slice_str("_dlq_error"), error};
	f[n++] = (struct field){slice_str("_orig_id"), slice_str(id_text)};
	struct model_stream *dlq = model_stream_of(m, names->dlq, true);
	const struct entry_id id = model_new_id(m, dlq);
	model_stream_append(dlq, id, reply_copy_fields(f, n));
	const size_t before = dlq->n;
	if (names->dlq_max_len > 0)
		model_stream_trim(dlq, (size_t)names->dlq_max_len);
	*trimmed = before - dlq->n;
	return id;
}

void model_dead(struct model_redis *m, const struct cmd *c, const struct command_names *names, const char *me,
	struct reply *out)
{
	struct model_stream *s = model_group_of(m, c, names, out);
	const struct model_entry *e = s ? model_movable(m, s, c, names, out) : NULL;
	if (!e || model_is_refused(m, c, out))
		return;
	size_t trimmed;
	add_dead(m, c, names, me, e->fields, &trimmed);
	model_finish(m, s, c, names, NULL, NULL);
	model_int(out, 1);
	out->n = trimmed;
}

void model_dead_add(struct model_redis *m, const struct cmd *c, const struct command_names *names, const char *me,
	struct reply *out)
{
	size_t trimmed;
	if (model_is_refused(m, c, out))
		return;
	*out = (struct reply){.kind = REPLY_ID, .id = add_dead(m, c, names, me, c->as.dead.fields, &trimmed)};
	out->n = trimmed;
}

/* ---- looking */

void model_pending_cmd(struct model_redis *m, const struct cmd *c, const struct command_names *names, const char *me,
	struct reply *out)
{
	(void)me;
	const struct model_stream *s = model_group_of(m, c, names, out);
	if (!s)
		return;
	const size_t most = c->as.pending.count > 0 ? limit(c->as.pending.count, s->n_pel) : 0;
	if (most > m->pending_cap) {
		m->pending = mem_grow(m->pending, most, sizeof *m->pending);
		m->pending_cap = most;
	}
	size_t n = 0;
	for (size_t i = model_pel_find(s, c->id); i < s->n_pel && n < most; i++) {
		const struct model_pel_row *p = &s->pel[i];
		if ((c->as.pending.consumer.p && !is_of(s, p, c->as.pending.consumer)) ||
			idle_since(m, p->delivered) < c->as.pending.min_idle_ms)
			continue;
		m->pending[n++] = (struct pending_row){
			.id = p->id,
			.idle_ms = idle_since(m, p->delivered),
			.deliveries = p->n_deliveries,
			.consumer = slice_str(s->consumers[p->consumer].name),
		};
	}
	*out = (struct reply){.kind = REPLY_PENDING, .pending = m->pending, .n = n};
}

void model_consumers_cmd(struct model_redis *m, const struct cmd *c, const struct command_names *names, const char *me,
	struct reply *out)
{
	(void)me;
	const struct model_stream *s = model_group_of(m, c, names, out);
	if (!s)
		return;
	if (s->n_consumers > m->consumers_cap) {
		m->consumers = mem_grow(m->consumers, s->n_consumers, sizeof *m->consumers);
		m->consumers_cap = s->n_consumers;
	}
	for (size_t i = 0; i < s->n_consumers; i++)
		m->consumers[i] = (struct consumer_row){
			.name = slice_str(s->consumers[i].name),
			.n_pending = s->consumers[i].n_pending,
			.idle_ms = idle_since(m, s->consumers[i].seen),
		};
	*out = (struct reply){.kind = REPLY_CONSUMERS, .consumers = m->consumers, .n = s->n_consumers};
}

void model_length(struct model_redis *m, const struct cmd *c, const struct command_names *names, const char *me,
	struct reply *out)
{
	(void)me;
	const char *key = c->kind == CMD_LENGTH       ? names->lbs
			  : c->kind == CMD_DLQ_LENGTH ? names->dlq
						      : names->entries_dlq;
	const struct model_stream *s = model_stream_of(m, key, false);
	model_int(out, s ? (int64_t)s->n : 0);
}

void model_pending_sum(struct model_redis *m, const struct cmd *c, const struct command_names *names, const char *me,
	struct reply *out)
{
	(void)me;
	const struct model_stream *s = model_group_of(m, c, names, out);
	if (s)
		model_int(out, (int64_t)s->n_pel);
}

void model_unread(struct model_redis *m, const struct cmd *c, const struct command_names *names, const char *me,
	struct reply *out)
{
	(void)c;
	(void)me;
	const struct model_stream *s = model_stream_of(m, names->lbs, false);
	const bool has_group = s && s->group && strcmp(s->group, names->group) == 0;
	const size_t first = has_group ? model_stream_find(s, entry_id_next(s->delivered)) : 0;
	*out = (struct reply){.kind = REPLY_NIL};
	if (has_group && first < s->n)
		*out = (struct reply){.kind = REPLY_ID, .id = s->v[first].id};
}

void model_dlq_range(struct model_redis *m, const struct cmd *c, const struct command_names *names, const char *me,
	struct reply *out)
{
	(void)me;
	const struct model_stream *s = model_stream_of(m, names->dlq, false);
	const size_t first = s ? model_stream_find(s, c->id) : 0;
	const size_t n = s && c->as.read.count > 0 ? limit(c->as.read.count, s->n - first) : 0;
	struct entry_batch *b = model_batch_new(n);
	while (b->n < n) {
		model_read_entry(&s->v[first + b->n], true, &b->v[b->n]);
		b->n++;
	}
	*out = (struct reply){.kind = REPLY_ENTRIES, .entries = b};
}

/* ---- operators */

void model_dlq_del(struct model_redis *m, const struct cmd *c, const struct command_names *names, const char *me,
	struct reply *out)
{
	(void)me;
	struct model_stream *s = model_stream_of(m, names->dlq, false);
	model_int(out, s && model_stream_delete(s, c->id));
}

void model_input(struct buf *json, const struct cmd *c)
{
	buf_str(json, "{\"DataStreamName\":");
	buf_json_str(json, c->stream.p, c->stream.len);
	buf_str(json, ",\"Info\":");
	if (c->as.add.info.p)
		buf_add(json, c->as.add.info.p, c->as.add.info.len);
	else
		buf_str(json, "{}");
	buf_str(json, "}");
}

void model_add_cmd(struct model_redis *m, const struct cmd *c, const struct command_names *names, const char *me,
	struct reply *out)
{
	(void)me;
	if (model_is_refused(m, c, out))
		return;
	struct buf json;
	buf_init(&json);
	model_input(&json, c);
	const struct field f = {slice_str("lbs-input"), {json.data, json.len}};
	*out = (struct reply){.kind = REPLY_ID, .id = model_redis_add_fields(m, names, &f, 1, m->now - m->offset)};
	buf_fini(&json);
}

void model_replay(struct model_redis *m, const struct cmd *c, const struct command_names *names, const char *me,
	struct reply *out)
{
	(void)me;
	if (model_is_refused(m, c, out))
		return;
	*out = (struct reply){
		.kind = REPLY_ID,
		.id = model_redis_add_fields(m, names, c->as.add.fields->v, c->as.add.fields->n, m->now - m->offset),
	};
}
