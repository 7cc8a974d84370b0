/* model_redis_later - what waits: for its time (delayed), for a running entry of its stream (parked, wishes). As the
 * scripts of codec/script do it, step by step, with the order in which they write: under OOM only a script's first write
 * is refused. */
#include "lib/model_redis_int.h"

#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "codec/reply.h"

struct model_delayed {
	struct entry_id id;
	int64_t due;
	struct slice stream; /* own copy */
	char why[12];
	struct field_list *fields;
};

struct model_parked { /* in the order of members: "<length>:<stream>:<id, padded>", or w for a wish */
	char *member;
	size_t len;
	struct slice stream; /* in member */
	struct entry_id id;
	bool is_wish;
};

struct model_wish {
	struct slice stream; /* own copy */
	struct entry_id id;
	struct field_list *fields;
};

struct model_waits {
	char *key;
	struct model_delayed *delayed; /* in order of due, then of the id's text */
	struct model_parked *parked;
	struct model_wish *wishes;
	size_t n_delayed, n_parked, n_wishes;
};

static struct model_waits *waits_of(struct model_redis *m, const struct command_names *names)
{
	for (size_t i = 0; i < m->n_waits; i++)
		if (strcmp(m->waits[i]->key, names->delayed) == 0)
			return m->waits[i];
	struct model_waits *w = mem_alloc(sizeof *w);
	w->key = mem_dup(names->delayed, strlen(names->delayed));
	m->waits = mem_grow(m->waits, m->n_waits + 1, sizeof(struct model_waits *));
	return m->waits[m->n_waits++] = w;
}

bool model_nothing_waits(struct model_redis *m, const struct command_names *names)
{
	const struct model_waits *w = waits_of(m, names);
	return w->n_parked == 0;
}

static struct slice slice_copy(struct slice s)
{
	return (struct slice){mem_dup(s.p ? s.p : "", s.len), s.len};
}

static bool slice_same(struct slice a, struct slice b)
{
	return a.len == b.len && (a.len == 0 || memcmp(a.p, b.p, a.len) == 0);
}

/* ---- delayed */

static int delayed_order(const struct model_delayed *a, const struct model_delayed *b)
{
	char x[COMMAND_ID_CAP], y[COMMAND_ID_CAP];
	if (a->due != b->due)
		return a->due < b->due ? -1 : 1;
	command_id_format(x, a->id);
	command_id_format(y, b->id);
	return strcmp(x, y);
}

static void delayed_put(struct model_waits *w, struct model_delayed d)
{
	w->delayed = mem_grow(w->delayed, w->n_delayed + 1, sizeof *w->delayed);
	size_t i = w->n_delayed++;
	for (; i > 0 && delayed_order(&d, &w->delayed[i - 1]) < 0; i--)
		w->delayed[i] = w->delayed[i - 1];
	w->delayed[i] = d;
}

static struct model_delayed *delayed_get(const struct model_waits *w, struct entry_id id)
{
	for (size_t i = 0; i < w->n_delayed; i++)
		if (entry_id_cmp(w->delayed[i].id, id) == 0)
			return &w->delayed[i];
	return NULL;
}

static struct model_delayed delayed_take(struct model_waits *w, struct model_delayed *d)
{
	struct model_delayed out = *d;
	const size_t i = (size_t)(d - w->delayed);
	memmove(d, d + 1, (--w->n_delayed - i) * sizeof *d);
	return out;
}

static void delayed_free(struct model_delayed d)
{
	mem_free((void *)(uintptr_t)d.stream.p);
	mem_free(d.fields);
}

bool model_is_delayed(struct model_redis *m, const struct command_names *names, struct entry_id id)
{
	return delayed_get(waits_of(m, names), id) != NULL;
}

/* ---- parked and wishes */

static void parked_init(struct model_parked *p, struct slice stream, const struct entry_id *id)
{
	char end[64] = "w", head[24];
	const int n = snprintf(head, sizeof head, "%zu:", stream.len);
	if (id)
		snprintf(end, sizeof end, "%020llu-%020llu", (unsigned long long)id->ms, (unsigned long long)id->seq);
	*p = (struct model_parked){.len = (size_t)n + stream.len + 1 + strlen(end), .is_wish = !id};
	p->member = mem_alloc(p->len + 1);
	memcpy(p->member, head, (size_t)n);
	memcpy(p->member + n, stream.p, stream.len);
	p->member[(size_t)n + stream.len] = ':';
	memcpy(p->member + (size_t)n + stream.len + 1, end, strlen(end));
	p->stream = (struct slice){p->member + n, stream.len};
	if (id)
		p->id = *id;
}

static int member_order(const struct model_parked *a, const struct model_parked *b)
{
	const int c = memcmp(a->member, b->member, a->len < b->len ? a->len : b->len);
	return c ? c : (a->len > b->len) - (a->len < b->len);
}

static void parked_put(struct model_waits *w, struct slice stream, const struct entry_id *id)
{
	struct model_parked p;
	parked_init(&p, stream, id);
	w->parked = mem_grow(w->parked, w->n_parked + 1, sizeof *w->parked);
	size_t i = w->n_parked;
	while (i > 0 && member_order(&p, &w->parked[i - 1]) < 0)
		i--;
	if (i > 0 && member_order(&p, &w->parked[i - 1]) == 0) {
		mem_free(p.member);
		return;
	}
	memmove(w->parked + i + 1, w->parked + i, (w->n_parked++ - i) * sizeof *w->parked);
	w->parked[i] = p;
}

static void parked_drop(struct model_waits *w, size_t i)
{
	mem_free(w->parked[i].member);
	memmove(w->parked + i, w->parked + i + 1, (--w->n_parked - i) * sizeof *w->parked);
}

static void parked_remove(struct model_waits *w, struct slice stream, const struct entry_id *id)
{
	for (size_t i = 0; i < w->n_parked; i++) {
		const struct model_parked *p = &w->parked[i];
		if (slice_same(p->stream, stream) && p->is_wish == !id && (!id || entry_id_cmp(p->id, *id) == 0)) {
			parked_drop(w, i);
			return;
		}
	}
}

/* The oldest entry that waits for the stream; n_parked = none. */
static size_t parked_first(const struct model_waits *w, struct slice stream)
{
	for (size_t i = 0; i < w->n_parked; i++)
		if (!w->parked[i].is_wish && slice_same(w->parked[i].stream, stream))
			return i;
	return w->n_parked;
}

static struct model_wish *wish_of(const struct model_waits *w, struct slice stream)
{
	for (size_t i = 0; i < w->n_wishes; i++)
		if (slice_same(w->wishes[i].stream, stream))
			return &w->wishes[i];
	return NULL;
}

static void wish_drop(struct model_waits *w, struct model_wish *x)
{
	mem_free((void *)(uintptr_t)x->stream.p);
	mem_free(x->fields);
	*x = w->wishes[--w->n_wishes];
}

static void wish_set(struct model_waits *w, struct slice stream, struct entry_id id, const struct field_list *fields)
{
	struct model_wish *x = wish_of(w, stream);
	if (!x) {
		w->wishes = mem_grow(w->wishes, w->n_wishes + 1, sizeof *w->wishes);
		x = &w->wishes[w->n_wishes++];
		*x = (struct model_wish){.stream = slice_copy(stream)};
	}
	mem_free(x->fields);
	x->id = id;
	x->fields = reply_copy_fields(fields->v, fields->n);
}

/* ---- scripts: parts */

/* A write that takes memory; false: refused. Only the first one of a script can be. */
static bool may_write(struct model_redis *m)
{
	if (m->is_oom && !m->is_dirty)
		return false;
	m->is_dirty = true;
	return true;
}

static bool add(
	struct model_redis *m, const struct command_names *names, const struct field_list *f, struct entry_id *id)
{
	if (!may_write(m))
		return false;
	struct model_stream *s = model_stream_of(m, names->lbs, true);
	*id = model_new_id(m, s);
	model_stream_append(s, *id, reply_copy_fields(f->v, f->n));
	return true;
}

struct field_list *model_counted(struct model_redis *m, const struct field_list *from, const char *count)
{
	size_t n = from->n;
	struct field *f = model_fields_room(m, n + 1);
	bool found = false;
	for (size_t i = 0; i < n; i++) {
		f[i] = from->v[i];
		if (f[i].name.len == 12 && memcmp(f[i].name.p, "_retry_count", 12) == 0) {
			f[i].value = (struct slice){count, strlen(count)};
			found = true;
		}
	}
	if (!found && strcmp(count, "0") != 0)
		f[n++] = (struct field){{"_retry_count", 12}, {count, strlen(count)}};
	return reply_copy_fields(f, n);
}

struct field_list *model_marked(
	struct model_redis *m, const struct field_list *from, const char *count, const struct cmd *c)
{
	struct field_list *counted = model_counted(m, from, count);
	struct field *f = model_fields_room(m, counted->n + 1);
	size_t n = 0;
	for (size_t i = 0; i < counted->n; i++)
		if (counted->v[i].name.len != 8 || memcmp(counted->v[i].name.p, "_suspect", 8) != 0)
			f[n++] = counted->v[i];
	if (c->as.requeue.is_suspect)
		f[n++] = (struct field){{"_suspect", 8}, {c->as.requeue.was_alone ? "2" : "1", 1}};
	struct field_list *out = reply_copy_fields(f, n);
	mem_free(counted);
	return out;
}

static bool advance_wish(struct model_redis *m, const struct command_names *names, struct slice stream)
{
	struct model_waits *w = waits_of(m, names);
	struct model_registry *r = model_registry_of(m, names->registry);
	struct model_wish *x = wish_of(w, stream);
	if (!x)
		return false;
	struct field_list *f = model_counted(m, x->fields, "0");
	struct entry_id id;
	if (add(m, names, f, &id)) {
		model_registry_set(r, stream, id);
		wish_drop(w, x);
		parked_remove(w, stream, NULL);
	} else {
		model_registry_del(r, stream);
		m->is_dirty = true;
	}
	mem_free(f);
	return true;
}

/* Nobody runs the stream: what waits for it goes on. True: *next is the heir's now. */
bool model_advance(struct model_redis *m, const struct command_names *names, struct slice stream, const char *heir,
	struct entry_id than, struct entry_id *next)
{
	struct model_waits *w = waits_of(m, names);
	struct model_registry *r = model_registry_of(m, names->registry);
	if (advance_wish(m, names, stream))
		return false;
	for (size_t i; (i = parked_first(w, stream)) < w->n_parked;) {
		const struct entry_id id = w->parked[i].id;
		struct model_stream *s = model_stream_of(m, names->lbs, false);
		const struct model_entry *e = s ? model_stream_get(s, id) : NULL;
		if (e && model_pel_get(s, id)) { /* somebody has it: the group was made again */
			if (!may_write(m))
				break;
			model_registry_set(r, stream, id);
			parked_drop(w, i);
			return false;
		}
		if (e && heir && s->group && entry_id_cmp(id, than) > 0) {
			const uint32_t c = model_group_consumer(s, heir, strlen(heir));
			s->consumers[c].seen = m->now;
			m->is_dirty = true;
			model_pel_put(s, id, c, m->now, 1);
			model_registry_set(r, stream, id);
			parked_drop(w, i);
			*next = id;
			return true;
		}
		struct entry_id new;
		if (e && !add(m, names, e->fields, &new))
			break;
		m->is_dirty = true;
		parked_drop(w, i);
		if (!e)
			continue;
		model_registry_set(r, stream, new);
		model_stream_delete(s, id);
		return false;
	}
	model_registry_del(r, stream);
	m->is_dirty = true;
	return false;
}

/* ---- scripts */

/* It waits for its stream, pending for nobody. False: refused. */
static bool park(struct model_redis *m, struct model_stream *s, const struct command_names *names, struct slice stream,
	struct entry_id id)
{
	if (!may_write(m))
		return false;
	parked_put(waits_of(m, names), stream, &id);
	model_pel_remove(s, id);
	return true;
}

/* It becomes the stream's wish, or the one there is newer. */
static bool merge(struct model_redis *m, struct model_stream *s, const struct command_names *names, struct slice stream,
	struct entry_id id)
{
	struct model_waits *w = waits_of(m, names);
	const struct model_wish *x = wish_of(w, stream);
	const struct model_entry *e = model_stream_get(s, id);
	if (!x || entry_id_cmp(id, x->id) > 0) {
		if (!may_write(m))
			return false;
		parked_put(w, stream, NULL);
		wish_set(w, stream, id, e->fields);
	}
	m->is_dirty = true;
	model_pel_remove(s, id);
	model_stream_delete(s, id);
	return true;
}

/* By another entry than this. */
static bool is_running(
	struct model_redis *m, const struct command_names *names, struct slice stream, struct entry_id id)
{
	const struct model_reg_row *row = model_registry_get(model_registry_of(m, names->registry), stream);
	return row && entry_id_cmp(row->id, id) != 0 && model_alive(m, names, row->id);
}

void model_take_stream(struct model_redis *m, struct model_stream *s, const struct cmd *c,
	const struct command_names *names, struct reply *out)
{
	struct model_waits *w = waits_of(m, names);
	bool is_busy = is_running(m, names, c->stream, c->id);
	size_t first = is_busy ? w->n_parked : parked_first(w, c->stream);
	bool older = first < w->n_parked && entry_id_cmp(w->parked[first].id, c->id) < 0;
	if (is_busy || older) {
		bool merges = names->same_stream == SAME_STREAM_COALESCE && is_busy;
		bool is_gone = merges && !model_stream_get(s, c->id); /* deleted: nothing to merge */
		out->integer = c->as.take.only_look || !merges ? 2 : is_gone ? 0 : 4;
		if (c->as.take.only_look)
			return;
		if (is_gone) {
			m->is_dirty = true;
			model_pel_remove(s, c->id);
			return;
		}
		struct entry_id unused;
		if (!(merges ? merge : park)(m, s, names, c->stream, c->id))
			model_oom(c, out);
		else if (older)
			model_advance(m, names, c->stream, NULL, (struct entry_id){0}, &unused);
		return;
	}
	if (model_is_refused(m, c, out))
		return;
	model_registry_set(model_registry_of(m, names->registry), c->stream, c->id);
	parked_remove(w, c->stream, &c->id);
	struct model_wish *x = wish_of(w, c->stream);
	if (x && entry_id_cmp(c->id, x->id) > 0) {
		wish_drop(w, x);
		parked_remove(w, c->stream, NULL);
	}
}

struct slice model_plain_stream(const struct model_entry *e)
{
	static const char head[] = "{\"DataStreamName\":\"";
	struct slice in = model_entry_field(e, "lbs-input");
	const size_t n = sizeof head - 1;
	if (in.len < n || memcmp(in.p, head, n) != 0)
		return (struct slice){0};
	const char *end = memchr(in.p + n, '"', in.len - n);
	if (!end || memchr(in.p + n, '\\', (size_t)(end - in.p) - n))
		return (struct slice){0};
	return (struct slice){in.p + n, (size_t)(end - in.p) - n};
}

static bool is_among(const struct slice *names, size_t n, struct slice name)
{
	for (size_t i = 0; i < n; i++)
		if (slice_same(names[i], name))
			return true;
	return false;
}

/* Of an entry that waits a look tells its id and its stream. */
static void model_name_entry(const struct model_entry *from, struct slice name, struct entry_in *e)
{
	struct lbs_fields fields = {0};
	struct buf b;
	buf_init(&b);
	buf_str(&b, "{\"DataStreamName\":\"");
	buf_add(&b, name.p, name.len);
	buf_str(&b, "\"}");
	e->id = from->id;
	if (name.p)
		reply_lbs_field(&fields, slice_str("lbs-input"), (struct slice){b.data, b.len});
	reply_read_input(e, &fields);
	buf_fini(&b);
}

/* Nothing is delivered: the page is as it was before the first merge. */
static void model_look(
	struct model_redis *m, struct model_stream *s, const struct command_names *names, struct reply *out)
{
	struct entry_batch *b = out->entries;
	struct entry_id page[COMMAND_LOOK_PAGE];
	struct slice seen[COMMAND_LOOK_PAGE];
	size_t n = 0, n_seen = 0;
	for (size_t i = model_stream_find(s, entry_id_next(s->delivered)); i < s->n && n < COMMAND_LOOK_PAGE; i++)
		page[n++] = s->v[i].id;
	for (size_t i = 0; i < n; i++) {
		const struct model_entry *e = model_stream_get(s, page[i]);
		const bool is_named = model_plain_stream(e).p;
		struct slice name = slice_copy(model_plain_stream(e));
		if (is_named && names->same_stream != SAME_STREAM_ALLOW && is_running(m, names, name, page[i])) {
			out->integer += names->same_stream == SAME_STREAM_COALESCE && merge(m, s, names, name, page[i]);
		} else if (!is_named || !is_among(seen, n_seen, name)) {
			model_name_entry(e, is_named ? name : (struct slice){0}, &b->v[b->n++]);
			if (is_named) {
				seen[n_seen++] = name;
				continue;
			}
		}
		mem_free((void *)(uintptr_t)name.p);
	}
	for (size_t i = 0; i < n_seen; i++)
		mem_free((void *)(uintptr_t)seen[i].p);
}

void model_sift(struct model_redis *m, const struct cmd *c, const struct command_names *names, const char *me,
	struct reply *out)
{
	struct model_stream *s = model_group_of(m, c, names, out);
	if (c->as.read.count == 0) { /* that the group is gone is for others to say */
		*out = (struct reply){.kind = REPLY_ENTRIES, .entries = model_batch_new(COMMAND_LOOK_PAGE)};
		if (s)
			model_look(m, s, names, out);
		return;
	}
	if (!s)
		return;
	struct entry_batch *b = model_batch_new((size_t)c->as.read.count);
	*out = (struct reply){.kind = REPLY_ENTRIES, .entries = b};
	const struct slice who = slice_str(me);
	for (int left = COMMAND_SIFT_BUDGET; left > 0 && b->n < (size_t)c->as.read.count; left--) {
		const size_t next = model_stream_find(s, entry_id_next(s->delivered));
		if (next >= s->n)
			return;
		const struct model_entry e = s->v[next];
		m->is_dirty = true; /* XREADGROUP writes */
		const uint32_t consumer = model_group_consumer(s, who.p, who.len);
		s->consumers[consumer].seen = m->now;
		model_pel_put(s, e.id, consumer, m->now, 1);
		s->delivered = e.id;
		struct slice stream = model_plain_stream(&e), name = slice_copy(stream);
		bool merges = names->same_stream == SAME_STREAM_COALESCE;
		if (stream.p && names->same_stream != SAME_STREAM_ALLOW && is_running(m, names, name, e.id) &&
			(merges ? merge : park)(m, s, names, name, e.id))
			out->integer++;
		else
			model_read_entry(&e, false, &b->v[b->n++]);
		mem_free((void *)(uintptr_t)name.p);
	}
}

void model_later(struct model_redis *m, const struct cmd *c, const struct command_names *names, const char *me,
	struct reply *out)
{
	(void)me;
	struct model_stream *s = model_group_of(m, c, names, out);
	const struct model_entry *e = s ? model_movable(m, s, c, names, out) : NULL;
	if (!e)
		return;
	if (!may_write(m)) {
		model_oom(c, out);
		return;
	}
	char count[24];
	snprintf(count, sizeof count, "%lld", (long long)c->as.requeue.retry);
	struct model_delayed d = {.id = c->id,
		.due = m->now + c->as.requeue.delay_ms,
		.stream = slice_copy(c->stream),
		.fields = model_marked(m, e->fields, count, c)};
	snprintf(d.why, sizeof d.why, "%s", c->as.requeue.why ? c->as.requeue.why : "");
	struct model_waits *w = waits_of(m, names);
	struct model_delayed *old = delayed_get(w, c->id);
	if (old)
		delayed_free(delayed_take(w, old));
	delayed_put(w, d);
	model_finish(m, s, c, names, &c->id, NULL);
	model_int(out, 1);
}

/* Back to the LBS; false: refused, nothing has changed. */
static bool move_back(struct model_redis *m, const struct cmd *c, const struct command_names *names,
	struct model_delayed *d, struct entry_id *id)
{
	if (!add(m, names, d->fields, id))
		return false;
	struct model_registry *r = model_registry_of(m, names->registry);
	const struct model_reg_row *row = d->stream.len ? model_registry_get(r, d->stream) : NULL;
	if (names->same_stream != SAME_STREAM_ALLOW && row && entry_id_cmp(row->id, d->id) == 0)
		model_registry_set(r, d->stream, *id);
	delayed_free(delayed_take(waits_of(m, names), d));
	(void)c;
	return true;
}

/* How many members there are up to the last one of that stream. */
static size_t members_through(const struct model_waits *w, struct slice stream)
{
	struct model_parked end;
	parked_init(&end, stream, NULL);
	end.member[end.len - 1] = '~';
	size_t n = 0;
	for (size_t i = 0; i < w->n_parked; i++)
		n += member_order(&w->parked[i], &end) < 0;
	mem_free(end.member);
	return n;
}

/* Streams that nobody runs any more, from a position on. */
static void wake_up(struct model_redis *m, const struct command_names *names, struct reply *out)
{
	struct model_waits *w = waits_of(m, names);
	struct model_registry *r = model_registry_of(m, names->registry);
	size_t at = (size_t)out->counts[DUE_POSITION];
	const struct model_stream *s = model_stream_of(m, names->lbs, false);
	for (int i = 0; s && s->group && i < 50 && at < w->n_parked; i++) {
		struct slice stream = slice_copy(w->parked[at].stream);
		const struct model_reg_row *row = model_registry_get(r, stream);
		const size_t n_parked = w->n_parked;
		if (names->same_stream == SAME_STREAM_ALLOW || !row || !model_alive(m, names, row->id)) {
			const struct entry_id before = row ? row->id : (struct entry_id){0};
			struct entry_id unused;
			model_advance(m, names, stream, NULL, (struct entry_id){0}, &unused);
			const struct model_reg_row *heir = model_registry_get(r, stream);
			if (heir && (heir->id.ms != before.ms || heir->id.seq != before.seq))
				out->counts[DUE_WOKEN]++;
			if (names->same_stream == SAME_STREAM_ALLOW)
				model_registry_del(r, stream);
		}
		if (names->same_stream != SAME_STREAM_ALLOW || w->n_parked == n_parked)
			at = members_through(w, stream);
		mem_free((void *)(uintptr_t)stream.p);
	}
	out->counts[DUE_POSITION] = (int64_t)at;
}

static int64_t n_wanted(struct model_redis *m, const struct command_names *names)
{
	const struct model_waits *w = waits_of(m, names);
	const struct model_stream *s = model_stream_of(m, names->lbs, false);
	if (!s || !s->group)
		return -1;
	int64_t parked = names->same_stream == SAME_STREAM_COALESCE ? 0 : (int64_t)w->n_parked;
	int64_t n = mono_max(0, (int64_t)s->n - (int64_t)s->n_pel - parked);
	for (size_t i = 0; i < w->n_delayed; i++)
		n += w->delayed[i].due <= m->now;
	return n;
}

void model_due(struct model_redis *m, const struct cmd *c, const struct command_names *names, const char *me,
	struct reply *out)
{
	(void)me;
	struct model_waits *w = waits_of(m, names);
	struct reply r = {.kind = REPLY_COUNTS};
	while (w->n_delayed && w->delayed[0].due <= m->now && r.counts[DUE_MOVED] < c->as.due.count) {
		struct entry_id id;
		if (!move_back(m, c, names, &w->delayed[0], &id)) {
			model_oom(c, out);
			return;
		}
		r.counts[DUE_MOVED]++;
	}
	r.counts[DUE_POSITION] = c->as.due.position < (int64_t)w->n_parked ? c->as.due.position : 0;
	wake_up(m, names, &r);
	r.counts[DUE_WAIT_MS] = w->n_delayed ? mono_max(0, w->delayed[0].due - m->now) : -1;
	r.counts[DUE_DELAYED] = (int64_t)w->n_delayed;
	r.counts[DUE_PARKED] = (int64_t)w->n_parked;
	r.counts[DUE_WANTED] = n_wanted(m, names);
	*out = r;
}

void model_add_later(struct model_redis *m, const struct cmd *c, const struct command_names *names, const char *me,
	struct reply *out)
{
	(void)me;
	if (!may_write(m)) {
		model_oom(c, out);
		return;
	}
	struct model_waits *w = waits_of(m, names);
	struct model_delayed d = {.id = {(uint64_t)m->now, 4294967296},
		.due = c->as.add.at_ms ? c->as.add.at_ms : m->now + c->as.add.delay_ms,
		.stream = slice_copy(c->stream)};
	if (m->n_next) {
		d.id = model_new_id(m, NULL);
	} else {
		while (delayed_get(w, d.id))
			d.id.seq++;
	}
	snprintf(d.why, sizeof d.why, "%s", c->as.add.why ? c->as.add.why : "");
	if (c->as.add.fields) {
		d.fields = reply_copy_fields(c->as.add.fields->v, c->as.add.fields->n);
	} else {
		struct buf json;
		buf_init(&json);
		model_input(&json, c);
		d.fields = reply_copy_fields(&(struct field){{"lbs-input", 9}, {json.data, json.len}}, 1);
		buf_fini(&json);
	}
	delayed_put(w, d);
	*out = (struct reply){.kind = REPLY_ID, .id = d.id};
}

void model_delayed_cmd(struct model_redis *m, const struct cmd *c, const struct command_names *names, const char *me,
	struct reply *out)
{
	(void)me;
	struct model_waits *w = waits_of(m, names);
	struct model_delayed *d = delayed_get(w, c->id);
	struct entry_id id;
	model_int(out, d != NULL);
	if (!d)
		return;
	if (c->kind == CMD_DELAYED_NOW) {
		if (move_back(m, c, names, d, &id))
			*out = (struct reply){.kind = REPLY_ID, .id = id};
		else
			model_oom(c, out);
		return;
	}
	m->is_dirty = true;
	struct model_delayed gone = delayed_take(w, d);
	const struct model_reg_row *row = model_registry_get(model_registry_of(m, names->registry), gone.stream);
	if (row && entry_id_cmp(row->id, gone.id) == 0)
		model_advance(m, names, gone.stream, NULL, gone.id, &id);
	delayed_free(gone);
}

/* ---- life */

static void waits_drop(struct model_redis *m, size_t i)
{
	struct model_waits *w = m->waits[i];
	while (w->n_delayed)
		delayed_free(delayed_take(w, w->delayed));
	while (w->n_parked)
		parked_drop(w, w->n_parked - 1);
	while (w->n_wishes)
		wish_drop(w, w->wishes);
	mem_free(w->delayed);
	mem_free(w->parked);
	mem_free(w->wishes);
	mem_free(w->key);
	mem_free(w);
	m->waits[i] = m->waits[--m->n_waits];
}

void model_waits_free(struct model_redis *m)
{
	while (m->n_waits)
		waits_drop(m, 0);
	mem_free(m->waits);
}

void model_waits_move(struct model_redis *from, struct model_redis *to, uint16_t slot)
{
	for (size_t i = 0; i < from->n_waits;) {
		struct model_waits *w = from->waits[i];
		if (command_slot(w->key, strlen(w->key)) != slot) {
			i++;
			continue;
		}
		for (size_t k = 0; k < to->n_waits; k++) /* a look at a key that is not there leaves an empty one */
			if (strcmp(to->waits[k]->key, w->key) == 0)
				waits_drop(to, k);
		to->waits = mem_grow(to->waits, to->n_waits + 1, sizeof(struct model_waits *));
		to->waits[to->n_waits++] = w;
		from->waits[i] = from->waits[--from->n_waits];
	}
}

void model_waits_copy(struct model_redis *to, const struct model_redis *from)
{
	for (size_t i = 0; i < from->n_waits; i++) {
		const struct model_waits *f = from->waits[i];
		struct model_waits *w = waits_of(to, &(struct command_names){.delayed = f->key});
		for (size_t k = 0; k < f->n_delayed; k++) {
			struct model_delayed d = f->delayed[k];
			d.stream = slice_copy(d.stream);
			d.fields = reply_copy_fields(d.fields->v, d.fields->n);
			delayed_put(w, d);
		}
		for (size_t k = 0; k < f->n_parked; k++)
			parked_put(w, f->parked[k].stream, f->parked[k].is_wish ? NULL : &f->parked[k].id);
		for (size_t k = 0; k < f->n_wishes; k++)
			wish_set(w, f->wishes[k].stream, f->wishes[k].id, f->wishes[k].fields);
	}
}

/* ---- inspection */

size_t model_redis_n_delayed(struct model_redis *m, const struct command_names *names)
{
	return waits_of(m, names)->n_delayed;
}

struct model_entry model_redis_delayed(struct model_redis *m, const struct command_names *names, size_t i, int64_t *due)
{
	const struct model_delayed *d = &waits_of(m, names)->delayed[i];
	*due = d->due;
	return (struct model_entry){.id = d->id, .fields = d->fields};
}

void model_redis_set_due(struct model_redis *m, const struct command_names *names, struct entry_id id, int64_t due)
{
	struct model_waits *w = waits_of(m, names);
	struct model_delayed *d = delayed_get(w, id);
	if (!d)
		return;
	struct model_delayed x = delayed_take(w, d);
	x.due = due;
	delayed_put(w, x);
}

size_t model_redis_n_parked(struct model_redis *m, const struct command_names *names)
{
	return waits_of(m, names)->n_parked;
}

bool model_redis_is_parked(struct model_redis *m, const struct command_names *names, struct entry_id id)
{
	const struct model_waits *w = waits_of(m, names);
	for (size_t i = 0; i < w->n_parked; i++)
		if (!w->parked[i].is_wish && entry_id_cmp(w->parked[i].id, id) == 0)
			return true;
	return false;
}

bool model_is_parked_as(
	struct model_redis *m, const struct command_names *names, struct slice stream, struct entry_id id)
{
	const struct model_waits *w = waits_of(m, names);
	for (size_t i = 0; i < w->n_parked; i++)
		if (!w->parked[i].is_wish && entry_id_cmp(w->parked[i].id, id) == 0 &&
			slice_same(w->parked[i].stream, stream))
			return true;
	return false;
}

void model_redis_drop_wishes(struct model_redis *m, const struct command_names *names)
{
	struct model_waits *w = waits_of(m, names);
	while (w->n_wishes) {
		parked_remove(w, w->wishes[0].stream, NULL);
		wish_drop(w, w->wishes);
	}
}

size_t model_redis_n_wishes(struct model_redis *m, const struct command_names *names)
{
	return waits_of(m, names)->n_wishes;
}

struct model_entry model_redis_wish(struct model_redis *m, const struct command_names *names, size_t i)
{
	const struct model_wish *x = &waits_of(m, names)->wishes[i];
	return (struct model_entry){.id = x->id, .fields = x->fields};
}
