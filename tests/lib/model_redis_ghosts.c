/* model_redis_ghosts - entries that the group was given and nobody has. As the scripts of codec/script do it. */
#include "lib/model_redis_int.h"

#include "base/mem.h"
#include "codec/reply.h"

static struct pending_row *ghost_rows(struct model_redis *m, size_t n)
{
	if (n > m->pending_cap) {
		m->pending = mem_grow(m->pending, n, sizeof *m->pending);
		m->pending_cap = n;
	}
	return m->pending;
}

static bool is_ghost(struct model_redis *m, const struct model_stream *s, const struct command_names *names,
	const struct model_entry *e)
{
	const struct slice stream = model_plain_stream(e);
	return !model_pel_get(s, e->id) && !(stream.p && model_is_parked_as(m, names, stream, e->id));
}

void model_ghosts(struct model_redis *m, const struct cmd *c, const struct command_names *names, const char *me,
	struct reply *out)
{
	(void)me;
	const struct model_stream *s = model_stream_of(m, names->lbs, false);
	*out = (struct reply){.kind = REPLY_PENDING};
	if (!s || !s->group)
		return;
	if (c->as.ghosts.only_last) {
		out->id = s->delivered;
		return;
	}
	const size_t waiting = names->same_stream == SAME_STREAM_COALESCE ? 0 : model_redis_n_parked(m, names);
	if (s->n == s->n_pel + waiting)
		return;
	struct pending_row *rows = ghost_rows(m, (size_t)c->as.ghosts.count);
	size_t i = model_stream_find(s, c->id), left = (size_t)c->as.ghosts.count;
	for (; left > 0 && i < s->n && entry_id_cmp(s->v[i].id, s->delivered) <= 0; i++, left--)
		if (is_ghost(m, s, names, &s->v[i]))
			rows[out->n++] = (struct pending_row){.id = s->v[i].id, .consumer = {"", 0}};
	out->pending = rows;
	if (left == 0)
		out->id = s->v[i - 1].id;
}

void model_ghost_back(struct model_redis *m, const struct cmd *c, const struct command_names *names, const char *me,
	struct reply *out)
{
	(void)me;
	struct model_stream *s = model_group_of(m, c, names, out);
	if (!s)
		return;
	const struct model_entry *e = model_stream_get(s, c->id);
	if (model_pel_get(s, c->id)) {
		model_int(out, 0);
		return;
	}
	if (!e) {
		*out = (struct reply){.kind = REPLY_NIL};
		return;
	}
	if (entry_id_cmp(c->id, s->delivered) > 0 || model_is_parked_as(m, names, c->stream, c->id)) {
		model_int(out, 0);
		return;
	}
	if (model_is_refused(m, c, out))
		return;
	const struct entry_id new = model_new_id(m, s);
	model_stream_append(s, new, reply_copy_fields(e->fields->v, e->fields->n));
	model_stream_delete(s, c->id);
	struct model_registry *r = model_registry_of(m, names->registry);
	const struct model_reg_row *row = model_registry_get(r, c->stream);
	if (names->same_stream != SAME_STREAM_ALLOW && row && entry_id_cmp(row->id, c->id) == 0)
		model_registry_set(r, c->stream, new);
	*out = (struct reply){.kind = REPLY_ID, .id = new};
}
