/* model_redis_view - keys by name, what others do to the model, and what checkers look at. */
#include "lib/model_redis_int.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "codec/reply.h"

/* ---- keys: a simulation has a handful */

struct model_stream *model_stream_of(struct model_redis *m, const char *key, bool create)
{
	for (size_t i = 0; i < m->n_streams; i++)
		if (strcmp(m->streams[i]->key, key) == 0)
			return m->streams[i];
	if (!create)
		return NULL;
	struct model_stream *s = mem_alloc(sizeof *s);
	model_stream_init(s, key);
	m->streams = mem_grow(m->streams, m->n_streams + 1, sizeof(struct model_stream *));
	m->streams[m->n_streams++] = s;
	return s;
}

void model_stream_drop(struct model_redis *m, const char *key)
{
	for (size_t i = 0; i < m->n_streams; i++) {
		if (strcmp(m->streams[i]->key, key) != 0)
			continue;
		model_stream_fini(m->streams[i]);
		mem_free(m->streams[i]);
		m->streams[i] = m->streams[--m->n_streams];
		return;
	}
}

static bool row_equal(const void *value, const void *key, size_t len)
{
	const struct model_reg_row *row = value;
	return row->len == len && memcmp(row->stream, key, len) == 0;
}

struct model_registry *model_registry_of(struct model_redis *m, const char *key)
{
	for (size_t i = 0; i < m->n_registries; i++)
		if (strcmp(m->registries[i]->key, key) == 0)
			return m->registries[i];
	struct model_registry *r = mem_alloc(sizeof *r);
	r->key = mem_dup(key, strlen(key));
	map_init(&r->rows, row_equal, 1);
	m->registries = mem_grow(m->registries, m->n_registries + 1, sizeof(struct model_registry *));
	m->registries[m->n_registries++] = r;
	return r;
}

struct model_reg_row *model_registry_get(const struct model_registry *r, struct slice stream)
{
	return map_get(&r->rows, stream.p, stream.len);
}

void model_registry_set(struct model_registry *r, struct slice stream, struct entry_id id)
{
	struct model_reg_row *row = model_registry_get(r, stream);
	if (!row) {
		row = mem_alloc(sizeof *row + stream.len);
		row->len = stream.len;
		memcpy(row->stream, stream.p, stream.len);
		map_put(&r->rows, row->stream, row->len, row);
	}
	row->id = id;
}

void model_registry_del(struct model_registry *r, struct slice stream)
{
	mem_free(map_remove(&r->rows, stream.p, stream.len));
}

struct entry_id model_new_id(struct model_redis *m, const struct model_stream *s)
{
	if (m->n_next) {
		const struct entry_id id = m->next[0];
		memmove(m->next, m->next + 1, --m->n_next * sizeof m->next[0]);
		assert(!s || entry_id_cmp(id, s->last) > 0);
		return id;
	}
	assert(s);
	const struct entry_id now = {(uint64_t)m->now, 0};
	return now.ms > s->last.ms ? now : entry_id_next(s->last);
}

/* ---- others */

bool model_redis_has_new(struct model_redis *m, const struct command_names *names)
{
	const struct model_stream *s = model_stream_of(m, names->lbs, false);
	return !s || !s->group || (s->n > 0 && entry_id_cmp(s->v[s->n - 1].id, s->delivered) > 0);
}

void model_redis_next_id(struct model_redis *m, struct entry_id id)
{
	assert(m->n_next < sizeof m->next / sizeof m->next[0]);
	m->next[m->n_next++] = id;
}

struct entry_id model_redis_add_fields(
	struct model_redis *m, const struct command_names *names, const struct field *fields, size_t n, mono_ms now)
{
	m->now = now + m->offset;
	struct model_stream *s = model_stream_of(m, names->lbs, true);
	const struct entry_id id = model_new_id(m, s);
	model_stream_append(s, id, reply_copy_fields(fields, n));
	return id;
}

struct entry_id model_redis_add(struct model_redis *m, const struct command_names *names, const char *stream,
	const char *info, uint32_t retry, mono_ms now)
{
	struct buf json;
	buf_init(&json);
	buf_str(&json, "{\"DataStreamName\":");
	buf_json_str(&json, stream, strlen(stream));
	if (info)
		buf_printf(&json, ",\"Info\":%s", info);
	buf_str(&json, "}");
	char count[16];
	const int count_len = snprintf(count, sizeof count, "%u", retry);
	const struct field f[2] = {
		{{"lbs-input", 9}, {json.data, json.len}},
		{{"_retry_count", 12}, {count, (size_t)count_len}},
	};
	const struct entry_id id = model_redis_add_fields(m, names, f, retry ? 2 : 1, now);
	buf_fini(&json);
	return id;
}

/* Asked for by tests; a stream that is missing is an empty one. */
static struct model_stream *lbs_of(struct model_redis *m, const struct command_names *names)
{
	return model_stream_of(m, names->lbs, true);
}

bool model_redis_claim(
	struct model_redis *m, const struct command_names *names, struct entry_id id, const char *consumer, mono_ms now)
{
	m->now = now + m->offset;
	struct model_stream *s = lbs_of(m, names);
	const struct model_pel_row *p = model_pel_get(s, id);
	if (!p)
		return false;
	if (!model_stream_get(s, id)) { /* Redis 7 drops what was deleted instead */
		model_pel_remove(s, id);
		return false;
	}
	const uint32_t to = model_group_consumer(s, consumer, strlen(consumer));
	s->consumers[to].seen = m->now;
	model_pel_put(s, id, to, m->now, p->n_deliveries + 1);
	return true;
}

void model_redis_create_consumer(
	struct model_redis *m, const struct command_names *names, struct slice name, mono_ms now)
{
	m->now = now + m->offset;
	struct model_stream *s = lbs_of(m, names);
	const size_t n = s->n_consumers;
	if (s->group && model_group_consumer(s, name.p, name.len) == n)
		s->consumers[n].seen = m->now;
}

bool model_redis_xdel(struct model_redis *m, const struct command_names *names, struct entry_id id)
{
	return model_stream_delete(lbs_of(m, names), id);
}

void model_redis_destroy_group(struct model_redis *m, const struct command_names *names)
{
	model_group_destroy(lbs_of(m, names));
}

void model_redis_delete_lbs(struct model_redis *m, const struct command_names *names)
{
	model_stream_drop(m, names->lbs);
}

void model_redis_set_registry(
	struct model_redis *m, const struct command_names *names, const char *stream, struct entry_id id)
{
	model_registry_set(model_registry_of(m, names->registry), (struct slice){stream, strlen(stream)}, id);
}

/* ---- inspection */

size_t model_redis_n_entries(struct model_redis *m, const struct command_names *names)
{
	return lbs_of(m, names)->n;
}

const struct model_entry *model_redis_entries(struct model_redis *m, const struct command_names *names)
{
	return lbs_of(m, names)->v;
}

size_t model_redis_n_dead(struct model_redis *m, const struct command_names *names)
{
	return model_stream_of(m, names->dlq, true)->n;
}

const struct model_entry *model_redis_dead(struct model_redis *m, const struct command_names *names)
{
	return model_stream_of(m, names->dlq, true)->v;
}

size_t model_redis_n_pending(struct model_redis *m, const struct command_names *names)
{
	return lbs_of(m, names)->n_pel;
}

bool model_redis_is_pending(
	struct model_redis *m, const struct command_names *names, struct entry_id id, const char *consumer)
{
	const struct model_stream *s = lbs_of(m, names);
	const struct model_pel_row *p = model_pel_get(s, id);
	return p && strcmp(s->consumers[p->consumer].name, consumer) == 0;
}

struct model_pending model_redis_pending(
	struct model_redis *m, const struct command_names *names, size_t i, mono_ms now)
{
	const struct model_stream *s = lbs_of(m, names);
	const struct model_pel_row *p = &s->pel[i];
	return (struct model_pending){
		.id = p->id,
		.consumer = s->consumers[p->consumer].name,
		.idle_ms = now + m->offset - p->delivered,
		.deliveries = p->n_deliveries,
	};
}

struct entry_id model_redis_last_delivered(struct model_redis *m, const struct command_names *names)
{
	return lbs_of(m, names)->delivered;
}

bool model_redis_registered(
	struct model_redis *m, const struct command_names *names, const char *stream, struct entry_id *id)
{
	const struct model_reg_row *row =
		model_registry_get(model_registry_of(m, names->registry), (struct slice){stream, strlen(stream)});
	if (row)
		*id = row->id;
	return row != NULL;
}

size_t model_redis_n_registered(struct model_redis *m, const struct command_names *names)
{
	return model_registry_of(m, names->registry)->rows.n;
}

struct slice model_entry_field(const struct model_entry *e, const char *name)
{
	struct slice value = {NULL, 0};
	for (size_t i = 0; i < e->fields->n; i++) {
		const struct field *f = &e->fields->v[i];
		if (f->name.len == strlen(name) && memcmp(f->name.p, name, f->name.len) == 0)
			value = f->value;
	}
	return value;
}
