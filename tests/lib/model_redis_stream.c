#include "lib/model_redis_stream.h"

#include <string.h>

#include "base/mem.h"
#include "codec/reply.h"

void model_stream_init(struct model_stream *s, const char *key)
{
	*s = (struct model_stream){.key = mem_dup(key, strlen(key))};
}

void model_stream_fini(struct model_stream *s)
{
	for (size_t i = 0; i < s->n; i++)
		mem_free(s->v[i].fields);
	model_group_destroy(s);
	mem_free(s->v);
	mem_free(s->key);
}

void model_stream_copy(struct model_stream *to, const struct model_stream *from)
{
	for (size_t i = 0; i < from->n; i++)
		model_stream_append(to, from->v[i].id, reply_copy_fields(from->v[i].fields->v, from->v[i].fields->n));
	to->last = from->last;
	to->n_added = from->n_added;
	if (!from->group)
		return;
	model_group_create(to, from->group, from->delivered);
	for (size_t i = 0; i < from->n_consumers; i++) {
		const struct model_consumer *c = &from->consumers[i];
		const uint32_t at = model_group_consumer(to, c->name, strlen(c->name));
		to->consumers[at].seen = c->seen;
	}
	for (size_t i = 0; i < from->n_pel; i++) {
		const struct model_pel_row *p = &from->pel[i];
		model_pel_put(to, p->id, p->consumer, p->delivered, p->n_deliveries);
	}
}

/* ---- entries */

size_t model_stream_find(const struct model_stream *s, struct entry_id id)
{
	size_t lo = 0, hi = s->n;
	while (lo < hi) {
		const size_t mid = (lo + hi) / 2;
		if (entry_id_cmp(s->v[mid].id, id) < 0)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

const struct model_entry *model_stream_get(const struct model_stream *s, struct entry_id id)
{
	const size_t i = model_stream_find(s, id);
	return i < s->n && entry_id_cmp(s->v[i].id, id) == 0 ? &s->v[i] : NULL;
}

void model_stream_append(struct model_stream *s, struct entry_id id, struct field_list *fields)
{
	if (s->n == s->cap) {
		s->cap = s->cap ? s->cap * 2 : 16;
		s->v = mem_grow(s->v, s->cap, sizeof *s->v);
	}
	s->v[s->n++] = (struct model_entry){.id = id, .fields = fields};
	s->last = id;
	s->n_added++;
}

static void drop(struct model_stream *s, size_t at, size_t n)
{
	for (size_t i = at; i < at + n; i++)
		mem_free(s->v[i].fields);
	memmove(s->v + at, s->v + at + n, (s->n - at - n) * sizeof *s->v);
	s->n -= n;
}

bool model_stream_delete(struct model_stream *s, struct entry_id id)
{
	const size_t i = model_stream_find(s, id);
	if (i == s->n || entry_id_cmp(s->v[i].id, id) != 0)
		return false;
	drop(s, i, 1);
	return true;
}

/* Redis drops whole nodes of 100 entries, as long as max_len are left. */
void model_stream_trim(struct model_stream *s, size_t max_len)
{
	enum { NODE = 100 };
	while (s->n >= max_len + NODE)
		drop(s, 0, NODE);
}

/* ---- the group */

void model_group_create(struct model_stream *s, const char *group, struct entry_id start)
{
	s->group = mem_dup(group, strlen(group));
	s->delivered = start;
}

void model_group_destroy(struct model_stream *s)
{
	for (size_t i = 0; i < s->n_consumers; i++)
		mem_free(s->consumers[i].name);
	mem_free(s->consumers);
	mem_free(s->pel);
	mem_free(s->group);
	s->consumers = NULL;
	s->pel = NULL;
	s->group = NULL;
	s->n_consumers = s->n_pel = s->pel_cap = 0;
	s->delivered = (struct entry_id){0, 0};
}

uint32_t model_group_consumer(struct model_stream *s, const char *name, size_t len)
{
	for (uint32_t i = 0; i < s->n_consumers; i++)
		if (strlen(s->consumers[i].name) == len && memcmp(s->consumers[i].name, name, len) == 0)
			return i;
	s->consumers = mem_grow(s->consumers, s->n_consumers + 1, sizeof *s->consumers);
	s->consumers[s->n_consumers] = (struct model_consumer){.name = mem_dup(name, len)};
	return (uint32_t)s->n_consumers++;
}

size_t model_pel_find(const struct model_stream *s, struct entry_id id)
{
	size_t lo = 0, hi = s->n_pel;
	while (lo < hi) {
		const size_t mid = (lo + hi) / 2;
		if (entry_id_cmp(s->pel[mid].id, id) < 0)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

struct model_pel_row *model_pel_get(const struct model_stream *s, struct entry_id id)
{
	const size_t i = model_pel_find(s, id);
	return i < s->n_pel && entry_id_cmp(s->pel[i].id, id) == 0 ? &s->pel[i] : NULL;
}

void model_pel_put(struct model_stream *s, struct entry_id id, uint32_t consumer, int64_t now, uint64_t n_deliveries)
{
	const size_t i = model_pel_find(s, id);
	if (i < s->n_pel && entry_id_cmp(s->pel[i].id, id) == 0) {
		s->consumers[s->pel[i].consumer].n_pending--;
	} else {
		if (s->n_pel == s->pel_cap) {
			s->pel_cap = s->pel_cap ? s->pel_cap * 2 : 16;
			s->pel = mem_grow(s->pel, s->pel_cap, sizeof *s->pel);
		}
		memmove(s->pel + i + 1, s->pel + i, (s->n_pel - i) * sizeof *s->pel);
		s->n_pel++;
	}
	s->pel[i] = (struct model_pel_row){id, consumer, now, n_deliveries};
	s->consumers[consumer].n_pending++;
}

bool model_pel_remove(struct model_stream *s, struct entry_id id)
{
	const size_t i = model_pel_find(s, id);
	if (i == s->n_pel || entry_id_cmp(s->pel[i].id, id) != 0)
		return false;
	s->consumers[s->pel[i].consumer].n_pending--;
	memmove(s->pel + i, s->pel + i + 1, (s->n_pel - i - 1) * sizeof *s->pel);
	s->n_pel--;
	return true;
}

bool model_consumer_forget(struct model_stream *s, const char *name, int64_t since)
{
	for (uint32_t i = 0; i < s->n_consumers; i++) {
		struct model_consumer *c = &s->consumers[i];
		if (strcmp(c->name, name) != 0)
			continue;
		if (c->n_pending > 0 || c->seen > since)
			return false;
		mem_free(c->name);
		const uint32_t last = (uint32_t)--s->n_consumers;
		for (size_t k = 0; k < s->n_pel; k++)
			if (s->pel[k].consumer == last)
				s->pel[k].consumer = i;
		*c = s->consumers[last];
		return true;
	}
	return false;
}
