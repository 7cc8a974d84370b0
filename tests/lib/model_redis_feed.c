/* model_redis_feed - entries mode: data streams and their positions, as the FEED scripts of codec/script do it, step by
 * step. Tracking is for whoever knows connections: the model only answers. */
#include "lib/model_redis_int.h"

#include <hiredis/hiredis.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "codec/reply.h"
#include "codec/reply_feed.h"
#include "core/coord/session.h"

struct model_position { /* a hash */
	char *key;
	char token[SESSION_TOKEN_CAP]; /* "" = none, as the hash is then: it has all or nothing */
	struct entry_id pos;
	int64_t tries;
	int run;            /* 0 = not open, 1, 2 = has acknowledged; 3, 4 = likewise, alone */
	int died;           /* runs in a row whose end nobody knows; none was counted */
	int ends;           /* those without an acknowledgement, counted or not */
	int64_t expires_at; /* server ms; 0 = never */
	int64_t not_before; /* server ms; has_pause */
	int64_t pause_ms;
	int64_t n_added; /* up to pos; -1 = not known */
	bool has_pause;
};

/* ---- keys ---- */

static char *position_key(struct slice stream)
{
	const bool has_tag = command_has_tag(stream.p, stream.len);
	return mem_printf(has_tag ? "%.*s-sluice" : "{%.*s}-sluice", (int)stream.len, stream.p);
}

static char *stream_key(struct slice stream)
{
	return mem_printf("%.*s", (int)stream.len, stream.p);
}

static struct model_stream *data_of(struct model_redis *m, struct slice stream, bool create)
{
	char *key = stream_key(stream);
	struct model_stream *s = model_stream_of(m, key, create);
	mem_free(key);
	return s;
}

static void position_drop(struct model_redis *m, struct model_position *p)
{
	mem_free(p->key);
	*p = m->positions[--m->n_positions];
}

static struct model_position *position_at(const struct model_redis *m, const char *key)
{
	for (size_t i = 0; i < m->n_positions; i++)
		if (strcmp(m->positions[i].key, key) == 0)
			return &m->positions[i];
	return NULL;
}

static struct model_position *position_new(struct model_redis *m, const char *key)
{
	m->positions = mem_grow(m->positions, m->n_positions + 1, sizeof *m->positions);
	m->positions[m->n_positions] = (struct model_position){.key = mem_dup(key, strlen(key))};
	return &m->positions[m->n_positions++];
}

static struct model_position *position_of(struct model_redis *m, struct slice stream)
{
	char *key = position_key(stream);
	struct model_position *p = position_at(m, key);
	mem_free(key);
	if (p && p->expires_at && p->expires_at < m->now) {
		position_drop(m, p);
		p = NULL;
	}
	return p;
}

/* ---- scripts ---- */

static void token_of(char out[SESSION_TOKEN_CAP], const struct cmd *c)
{
	session_token_format(out, c->as.feed.token);
}

static bool is_mine(const struct model_position *p, const struct cmd *c)
{
	char mine[SESSION_TOKEN_CAP];
	token_of(mine, c);
	return p && strcmp(p->token, mine) == 0;
}

static bool is_owned(const struct model_position *p)
{
	return p && p->token[0];
}

static bool is_start_at_end(const struct cmd *c)
{
	return c->as.feed.open.start.len == 1 && c->as.feed.open.start.p[0] == '$';
}

/* A try was counted: the next one waits. Returns how long. */
static int64_t feed_pause(const struct model_redis *m, struct model_position *p, const struct cmd_pause *c)
{
	int64_t ms = c->first_ms;
	for (int64_t i = 1; ms > 0 && c->factor > 1 && i < p->tries && ms < c->max_ms; i++)
		ms *= c->factor;
	p->pause_ms = (ms < c->max_ms ? ms : c->max_ms) * c->permille / 1000;
	p->not_before = m->now + p->pause_ms;
	p->has_pause = true;
	return p->pause_ms;
}

/* How long the next try has to wait yet. */
static int64_t feed_pause_left(const struct model_redis *m, struct model_position *p)
{
	if (p->tries == 0 || !p->has_pause)
		return 0;
	if (p->not_before - m->now > p->pause_ms)
		p->not_before = m->now + p->pause_ms;
	return p->not_before > m->now ? p->not_before - m->now : 0;
}

/* Nobody has said how the run before ended. *counts: a try. */
static size_t feed_unknown_end(const struct model_redis *m, struct model_position *p, const struct cmd *c, size_t flags,
	bool has_progress, bool *counts)
{
	size_t more = POSITION_DEATH | (has_progress ? POSITION_PROGRESS : 0);
	const bool is_at_end = flags & POSITION_AT_END;
	p->ends = has_progress || is_at_end ? 0 : p->ends + 1;
	const bool is_paused = p->tries > 0 && p->has_pause && p->not_before > m->now; /* nobody was given it again */
	if (has_progress || is_at_end || is_paused)
		p->died = 0;
	if (is_paused || (flags & (POSITION_REMADE | POSITION_AT_END)))
		return more;
	if (p->run >= 3 || c->as.feed.open.was_alone) {
		*counts = true;
		p->tries++;
		p->died = 0;
		more |= POSITION_SUSPECT;
	} else if (++p->died > 1) {
		more |= POSITION_SUSPECT;
	}
	return more;
}

/* Entries behind the position that are there; -1 = it would have to be counted. */
static int64_t feed_behind(const struct model_stream *s, struct entry_id pos)
{
	if (entry_id_cmp(s->last, pos) <= 0)
		return 0;
	return s->n == 0 || entry_id_cmp(s->v[0].id, pos) > 0 ? (int64_t)s->n : -1;
}

/* How many were added up to it is known from here on, where it can be. Returns how many of them nobody was given. */
static int64_t feed_find_lost(const struct model_redis *m, const struct model_stream *s, struct model_position *p)
{
	const int64_t behind = s && !m->no_added ? feed_behind(s, p->pos) : -1, was = p->n_added;
	if (behind < 0)
		return 0;
	p->n_added = (int64_t)s->n_added - behind;
	return was >= 0 && p->n_added > was ? p->n_added - was : 0;
}

static void feed_open(struct model_redis *m, const struct cmd *c, struct model_position *p, struct reply *out)
{
	const struct model_stream *s = data_of(m, c->stream, false);
	struct model_position new = p ? *p : (struct model_position){.n_added = -1};
	size_t flags = 0;
	bool counts = false;
	if (!p && is_start_at_end(c) && s)
		new.pos = s->last;
	if (p && s && entry_id_cmp(p->pos, s->last) > 0) {
		new.pos = (struct entry_id){0};
		new.tries = 0;
		new.n_added = -1;
		flags = POSITION_REMADE;
	}
	const bool is_out = new.run && !(flags & POSITION_REMADE); /* somebody may be at work on what he was told */
	const int64_t n_lost = is_out ? 0 : feed_find_lost(m, s, &new);
	const bool has_progress = new.run == 2 || new.run == 4;
	if (!s || s->n == 0 || entry_id_cmp(new.pos, s->last) >= 0) {
		flags |= POSITION_AT_END;
		new.tries = 0;
	}
	const bool is_unknown = !is_mine(p, c) && new.run;
	if (is_unknown)
		flags |= feed_unknown_end(m, &new, c, flags, has_progress, &counts);
	new.run = (is_mine(p, c) && has_progress ? 2 : 1) + (c->as.feed.open.is_suspect ? 2 : 0);
	if (model_is_refused(m, c, out))
		return;
	if (!p) {
		char *key = position_key(c->stream);
		p = position_new(m, key);
		mem_free(key);
	}
	new.key = p->key;
	new.expires_at = 0;
	token_of(new.token, c);
	*p = new;
	*out = (struct reply){.kind = REPLY_POSITION,
		.id = p->pos,
		.integer = p->tries,
		.n = flags,
		.n_added = p->n_added,
		.n_lost = n_lost,
		.n_ends = is_unknown ? (uint32_t)p->ends : 0};
	const int64_t wait_ms = counts ? feed_pause(m, p, &c->as.feed.pause) : feed_pause_left(m, p);
	const size_t next = s ? model_stream_find(s, entry_id_next(p->pos)) : 0;
	if (wait_ms > 0 && s && next < s->n) {
		out->wait_ms = wait_ms;
		out->bad = s->v[next].id;
	}
}

static void newer_token(const struct model_position *p, struct reply *out)
{
	*out = (struct reply){.kind = REPLY_NIL};
	command_token_parse(p->token, strlen(p->token), &out->id);
}

static void feed_open_cmd(struct model_redis *m, const struct cmd *c, struct reply *out)
{
	struct model_position *p = position_of(m, c->stream);
	char mine[SESSION_TOKEN_CAP];
	token_of(mine, c);
	if (p && (strlen(p->token) > strlen(mine) || (strlen(p->token) == strlen(mine) && strcmp(p->token, mine) > 0)))
		newer_token(p, out);
	else
		feed_open(m, c, p, out);
}

static void feed_ack(struct model_redis *m, const struct cmd *c, struct reply *out)
{
	struct model_position *p = position_of(m, c->stream);
	struct model_stream *s = data_of(m, c->stream, false);
	if (!is_mine(p, c)) {
		model_int(out, is_owned(p) ? -1 : -3);
	} else if (entry_id_cmp(c->id, p->pos) <= 0) {
		model_int(out, 0);
	} else if (c->as.feed.ack.check && s && entry_id_cmp(c->id, s->last) > 0) {
		model_int(out, -2);
	} else if (!model_is_refused(m, c, out)) {
		p->pos = c->id;
		p->n_added = c->as.feed.ack.n_added;
		p->tries = 0;
		p->has_pause = false;
		p->run = p->run >= 3 ? 4 : 2;
		while (c->as.feed.ack.trim && s && s->n && entry_id_cmp(s->v[0].id, c->id) <= 0 &&
			entry_id_cmp(c->id, s->last) <= 0)
			model_stream_delete(s, s->v[0].id);
		model_int(out, 1);
	}
}

static void feed_fail(struct model_redis *m, const struct cmd *c, struct reply *out)
{
	struct model_position *p = position_of(m, c->stream);
	if (!is_owned(p)) {
		model_int(out, -3);
	} else if (!is_mine(p, c)) {
		*out = (struct reply){.kind = REPLY_NIL};
	} else if (!model_is_refused(m, c, out)) {
		p->tries = c->as.feed.fail.n_tries;
		const int64_t wait_ms = feed_pause(m, p, &c->as.feed.pause);
		*out = (struct reply){
			.kind = REPLY_POSITION, .id = p->pos, .integer = p->tries, .wait_ms = wait_ms, .n_added = -1};
	}
}

static void feed_close(struct model_redis *m, const struct cmd *c, struct reply *out)
{
	struct model_position *p = position_of(m, c->stream);
	const struct model_stream *s = data_of(m, c->stream, false);
	if (!is_mine(p, c)) {
		model_int(out, 0);
		return;
	}
	const bool has_more =
		s && (entry_id_cmp(p->pos, s->last) > 0 || model_stream_find(s, entry_id_next(p->pos)) < s->n);
	if (c->as.feed.close.end == FEED_END_DELETE && !has_more) {
		char *key = stream_key(c->stream);
		model_stream_drop(m, key);
		mem_free(key);
		position_drop(m, p);
		model_int(out, 2);
		return;
	}
	if (c->as.feed.close.end == FEED_END_DEATH && p->run) {
		if (model_is_refused(m, c, out))
			return;
		p->tries++;
		feed_pause(m, p, &c->as.feed.pause);
	}
	p->run = p->died = p->ends = 0;
	const bool is_kept = c->as.feed.close.end == FEED_END_KEEP || c->as.feed.close.end == FEED_END_FORGET;
	const bool is_unused =
		is_kept && c->as.feed.close.drops_unused && ((!p->pos.ms && !p->pos.seq && !p->tries) || !s);
	if (is_unused || c->as.feed.close.end == FEED_END_DONE || c->as.feed.close.end == FEED_END_DELETE)
		p->expires_at = m->now + c->as.feed.close.ttl_ms;
	model_int(out, 1);
}

/* ---- reads ---- */

static redisReply text_reply(struct slice s)
{
	return (redisReply){.type = REDIS_REPLY_STRING, .str = (char *)(uintptr_t)(s.p ? s.p : ""), .len = s.len};
}

/* One entry as the library would hand it over; *room: what it is made of. */
struct fake_entry {
	redisReply entry, id, fields, *both[2];
	char id_text[COMMAND_ID_CAP];
	redisReply *values, **list;
};

static void fake_init(struct fake_entry *f, const struct model_entry *e)
{
	const size_t n = 2 * e->fields->n;
	f->values = mem_alloc((n + 1) * sizeof *f->values);
	f->list = mem_alloc((n + 1) * sizeof(redisReply *));
	for (size_t i = 0; i < n; i++) {
		const struct field *of = &e->fields->v[i / 2];
		f->values[i] = text_reply(i % 2 ? of->value : of->name);
		f->list[i] = &f->values[i];
	}
	const int len = command_id_format(f->id_text, e->id);
	f->id = text_reply((struct slice){f->id_text, (size_t)len});
	f->fields = (redisReply){.type = REDIS_REPLY_ARRAY, .elements = n, .element = f->list};
	f->both[0] = &f->id;
	f->both[1] = &f->fields;
	f->entry = (redisReply){.type = REDIS_REPLY_ARRAY, .elements = 2, .element = f->both};
}

static void feed_read(struct model_redis *m, const struct cmd *c, struct reply *out)
{
	const struct model_stream *s = data_of(m, c->stream, false);
	const size_t first = s ? model_stream_find(s, entry_id_next(c->id)) : 0;
	size_t n = s ? s->n - first : 0;
	n = n > (size_t)c->as.read.count ? (size_t)c->as.read.count : n;
	struct fake_entry *fakes = mem_alloc((n + 1) * sizeof *fakes);
	redisReply **list = mem_alloc((n + 1) * sizeof(redisReply *));
	for (size_t i = 0; i < n; i++) {
		fake_init(&fakes[i], &s->v[first + i]);
		list[i] = &fakes[i].entry;
	}
	const redisReply all = {.type = REDIS_REPLY_ARRAY, .elements = n, .element = list};
	reply_decode_feed(&m->text, &all, out);
	for (size_t i = 0; i < n; i++) {
		mem_free(fakes[i].values);
		mem_free(fakes[i].list);
	}
	mem_free(fakes);
	mem_free(list);
}

static void feed_pick(struct model_redis *m, const struct cmd *c, struct reply *out)
{
	const struct model_stream *s = data_of(m, c->stream, false);
	const struct model_entry *e = s ? model_stream_get(s, c->id) : NULL;
	struct entry_batch *b = model_batch_new(1);
	if (e)
		model_read_entry(e, true, &b->v[b->n++]);
	*out = (struct reply){.kind = REPLY_ENTRIES, .entries = b};
}

/* ---- dead letters ---- */

static struct slice text_slice(const char *s)
{
	return (struct slice){s, strlen(s)};
}

static void feed_dead_add(struct model_redis *m, const struct cmd *c, const struct command_names *names, const char *me,
	struct reply *out)
{
	if (model_is_refused(m, c, out))
		return;
	const size_t n_old = c->as.dead.fields ? c->as.dead.fields->n : 0;
	struct field *f = model_fields_room(m, n_old + 7);
	char id[COMMAND_ID_CAP], at[24], tries[24];
	size_t n = 0;
	for (size_t i = 0; i < n_old; i++)
		f[n++] = c->as.dead.fields->v[i];
	command_id_format(id, c->id);
	snprintf(at, sizeof at, "%lld", (long long)c->as.dead.now_ms);
	snprintf(tries, sizeof tries, "%lld", (long long)c->as.dead.n_tries);
	const struct slice error = {c->as.dead.error.p,
		c->as.dead.error.len < COMMAND_ERROR_MAX ? c->as.dead.error.len : COMMAND_ERROR_MAX};
	f[n++] = (struct field){text_slice("_dlq_stream"), c->stream};
	f[n++] = (struct field){text_slice("_orig_id"), text_slice(id)};
	f[n++] = (struct field){text_slice("_dlq_reason"), text_slice(dead_reason_name(c->as.dead.reason))};
	f[n++] = (struct field){text_slice("_dlq_error"), error.p ? error : text_slice("")};
	f[n++] = (struct field){text_slice("_dlq_at"), text_slice(at)};
	f[n++] = (struct field){text_slice("_dlq_node"), text_slice(me)};
	f[n++] = (struct field){text_slice("_tries"), text_slice(tries)};
	struct model_stream *dlq = model_stream_of(m, names->entries_dlq, true);
	const struct entry_id new = model_new_id(m, dlq);
	model_stream_append(dlq, new, reply_copy_fields(f, n));
	const size_t before = dlq->n;
	if (names->entries_dlq_max_len > 0)
		model_stream_trim(dlq, (size_t)names->entries_dlq_max_len);
	*out = (struct reply){.kind = REPLY_ID, .id = new, .n = before - dlq->n};
}

void model_feed_cmd(struct model_redis *m, const struct cmd *c, const struct command_names *names, const char *me,
	struct reply *out)
{
	switch ((int)c->kind) {
	case CMD_FEED_OPEN:
		feed_open_cmd(m, c, out);
		break;
	case CMD_FEED_READ:
		feed_read(m, c, out);
		break;
	case CMD_FEED_ACK:
		feed_ack(m, c, out);
		break;
	case CMD_FEED_FAIL:
		feed_fail(m, c, out);
		break;
	case CMD_FEED_CLOSE:
		feed_close(m, c, out);
		break;
	case CMD_FEED_PICK:
		feed_pick(m, c, out);
		break;
	case CMD_FEED_DEAD_ADD:
		feed_dead_add(m, c, names, me, out);
		break;
	}
}

/* ---- life ---- */

void model_feed_free(struct model_redis *m)
{
	while (m->n_positions)
		position_drop(m, m->positions);
	mem_free(m->positions);
}

void model_feed_copy(struct model_redis *to, const struct model_redis *from)
{
	for (size_t i = 0; i < from->n_positions; i++) {
		struct model_position *p = position_new(to, from->positions[i].key);
		char *key = p->key;
		*p = from->positions[i];
		p->key = key;
	}
}

void model_feed_move(struct model_redis *from, struct model_redis *to, uint16_t slot)
{
	for (size_t i = from->n_positions; i-- > 0;) {
		const struct model_position p = from->positions[i];
		if (command_slot(p.key, strlen(p.key)) != slot)
			continue;
		struct model_position *new = position_new(to, p.key);
		char *key = new->key;
		*new = p;
		new->key = key;
		new->expires_at = p.expires_at ? p.expires_at - from->offset + to->offset : 0;
		position_drop(from, &from->positions[i]);
	}
}

/* ---- what producers do, and what checkers look at ---- */

struct entry_id model_redis_feed_add(
	struct model_redis *m, struct slice stream, const struct field *fields, size_t n, mono_ms now)
{
	m->now = now + m->offset;
	struct model_stream *s = data_of(m, stream, true);
	const struct entry_id id = model_new_id(m, s);
	model_stream_append(s, id, reply_copy_fields(fields, n));
	return id;
}

bool model_redis_feed_xdel(struct model_redis *m, struct slice stream, struct entry_id id)
{
	struct model_stream *s = data_of(m, stream, false);
	return s && model_stream_delete(s, id);
}

void model_redis_feed_delete(struct model_redis *m, struct slice stream)
{
	char *key = stream_key(stream);
	model_stream_drop(m, key);
	mem_free(key);
}

size_t model_redis_feed_entries(struct model_redis *m, struct slice stream, const struct model_entry **v)
{
	const struct model_stream *s = data_of(m, stream, false);
	*v = s ? s->v : NULL;
	return s ? s->n : 0;
}

size_t model_redis_feed_dead(struct model_redis *m, const struct command_names *names, const struct model_entry **v)
{
	const struct model_stream *s = model_stream_of(m, names->entries_dlq, false);
	*v = s ? s->v : NULL;
	return s ? s->n : 0;
}

bool model_redis_position(struct model_redis *m, struct slice stream, mono_ms now, struct model_position_view *out)
{
	m->now = now + m->offset;
	const struct model_position *p = position_of(m, stream);
	if (p)
		*out = (struct model_position_view){.token = p->token,
			.pos = p->pos,
			.tries = p->tries,
			.run = p->run,
			.pause_ms = p->has_pause ? p->pause_ms : -1,
			.ttl_ms = p->expires_at ? p->expires_at - m->now : -1};
	return p != NULL;
}
