/* What waits for its time: pages of the delayed set in the order of its times, each with its data; said, or let come
 * back, or forgotten, one script each. What comes back and fails again is left alone: it would
 * never end. */
#include "run/control/waits.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void waits_drop_items(struct waits_job *j)
{
	for (size_t i = 0; i < j->delayed.n; i++)
		mem_free(j->delayed.items[i].data);
	j->delayed.n = 0;
	j->delayed.at = 0;
}

/* One id, or the page that begins at j->from. */
void waits_send_delayed(struct waits_job *j)
{
	char id[COMMAND_ID_CAP];
	waits_drop_items(j);
	if (!waits_ask(j, WAITS_DELAYED))
		return;
	if (j->want.by_id) {
		command_id_format(id, j->want.id);
		control_redis_words(j->conn, (const char *const[]){"ZSCORE", j->names.delayed, id, NULL});
		return;
	}
	control_redis_delayed(j->conn, j->names.delayed, j->delayed.from, j->delayed.n_same, j->delayed.page_n);
}

static bool waits_number(const redisReply *r, double *out)
{
	if (r->type == REDIS_REPLY_DOUBLE)
		*out = r->dval;
	else if (r->type == REDIS_REPLY_STRING)
		*out = strtod(r->str, NULL);
	else
		return false;
	return true;
}

static void add_item(struct waits_job *j, const redisReply *id, const redisReply *due)
{
	struct waits_item *i = &j->delayed.items[j->delayed.n];
	*i = (struct waits_item){0};
	if (j->delayed.n == WAITS_PAGE || !waits_number(due, &i->due_ms))
		return;
	j->delayed.n_same = i->due_ms == j->delayed.from ? j->delayed.n_same + 1 : 1;
	j->delayed.from = i->due_ms;
	if (id->type == REDIS_REPLY_STRING && command_id_parse(id->str, id->len, &i->id))
		j->delayed.n++;
}

static void waits_send_data(struct waits_job *j)
{
	struct slice w[2 + WAITS_PAGE];
	char ids[WAITS_PAGE][COMMAND_ID_CAP];
	if (!j->delayed.n) {
		j->stage = WAITS_ITEM;
		return;
	}
	if (!waits_ask(j, WAITS_DATA))
		return;
	w[0] = (struct slice){"HMGET", 5};
	w[1] = (struct slice){j->names.delayed_data, strlen(j->names.delayed_data)};
	for (size_t i = 0; i < j->delayed.n; i++)
		w[2 + i] = (struct slice){ids[i], (size_t)command_id_format(ids[i], j->delayed.items[i].id)};
	control_redis_bytes(j->conn, w, 2 + j->delayed.n);
}

/* Pairs: one after the other, or each a list of its own, as the server's protocol has it. */
void waits_on_delayed(struct waits_job *j, const redisReply *raw)
{
	j->is_whole = true;
	if (j->want.by_id) {
		if (waits_number(raw, &j->delayed.items[0].due_ms)) {
			j->delayed.items[0].id = j->want.id;
			j->delayed.items[0].data = NULL;
			j->delayed.n = 1;
		}
	} else if (raw->type == REDIS_REPLY_ARRAY) {
		bool is_nested = raw->elements && raw->element[0]->type == REDIS_REPLY_ARRAY;
		size_t n = is_nested ? raw->elements : raw->elements / 2;
		for (size_t i = 0; i < n; i++) {
			redisReply *const *pair = is_nested ? raw->element[i]->element : raw->element + 2 * i;
			if (!is_nested || raw->element[i]->elements == 2)
				add_item(j, pair[0], pair[1]);
		}
		j->is_whole = n < j->delayed.page_n;
	}
	waits_send_data(j);
}

void waits_on_data(struct waits_job *j, const redisReply *raw)
{
	size_t bytes = 1, most = (size_t)1 << 20;
	for (size_t i = 0; raw->type == REDIS_REPLY_ARRAY && i < raw->elements && i < j->delayed.n; i++) {
		const redisReply *r = raw->element[i];
		if (r->type != REDIS_REPLY_STRING)
			continue;
		j->delayed.items[i].data = mem_dup(r->str, r->len);
		j->delayed.items[i].len = r->len;
		bytes += r->len;
	}
	size_t fit = most * j->delayed.n / bytes;
	j->delayed.page_n = fit < 4 * j->delayed.page_n ? fit : 4 * j->delayed.page_n;
	j->delayed.page_n = j->delayed.page_n < 1 ? 1 : j->delayed.page_n > WAITS_PAGE ? WAITS_PAGE : j->delayed.page_n;
	j->stage = WAITS_ITEM;
}

/* ---- one of them */

static void waits_action_row(
	struct waits_job *j, const struct packed_entry *e, const char *result, const char *new_id, const char *error)
{
	char id[COMMAND_ID_CAP];
	command_id_format(id, j->delayed.items[j->delayed.at].id);
	char *stream = e->stream.len ? mem_dup(e->stream.p, e->stream.len) : NULL;
	struct ctl_waiting_action row = {.service = j->rules->name,
		.id = id,
		.stream = stream,
		.result = result,
		.new_id = new_id,
		.error = error};
	ctl_encode_waiting_action(&j->q->out, &row);
	mem_free(stream);
}

static struct packed_entry entry_of(struct waits_job *j)
{
	const struct waits_item *i = &j->delayed.items[j->delayed.at];
	struct packed_entry e = {.n = 0};
	if (i->data)
		packed_decode(&j->delayed.room, (struct slice){i->data, i->len}, &e);
	return e;
}

/* In entries mode it is the entry behind the position that waits: a run that begins earlier would be put off again. */
static void waits_end_pause(struct waits_job *j, const char *stream)
{
	if (waits_ask_data(j, command_slot(stream, strlen(stream))))
		control_redis_hold(j->data, stream, 0, "0");
}

/* Of a stream without an entry in the delayed set: no id is known. */
static void waits_position_row(struct waits_job *j, const char *result)
{
	struct ctl_waiting_action row = {.service = j->rules->name, .stream = j->want.stream, .result = result};
	ctl_encode_waiting_action(&j->q->out, &row);
	j->n++;
}

void waits_on_pause(struct waits_job *j, const struct reply *r)
{
	j->stage = WAITS_ITEM;
	j->pause.has_ended = true;
	if (r->kind == REPLY_NONE || r->kind == REPLY_ERROR)
		control_end(j->q, 1, "%s", control_redis_why(j->data));
	else if (j->pause.is_position)
		waits_position_row(j, "resumed");
}

bool waits_ask_position(struct waits_job *j)
{
	if (j->q->r.verb != CTL_VERB_DELAYED_NOW || !j->want.stream || j->want.by_id || j->walk.only.ms || j->n ||
		!j->rules->entries.is_on || j->pause.is_asked)
		return false;
	j->pause.is_asked = true;
	if (waits_ask_data(j, command_slot(j->want.stream, j->want.len))) {
		char *position = command_position_key(j->want.stream);
		j->stage = WAITS_POSITION;
		control_redis_words(j->data, (const char *const[]){"HMGET", position, "not_before", "run", NULL});
		mem_free(position);
	}
	return true;
}

/* One that is run waits by its daemon's clock: not ours to end. */
void waits_on_position(struct waits_job *j, const redisReply *raw)
{
	double at;
	j->stage = WAITS_ITEM;
	if (raw->type != REDIS_REPLY_ARRAY || raw->elements != 2 || !waits_number(raw->element[0], &at) ||
		at <= (double)j->clock_ms || raw->element[1]->type != REDIS_REPLY_NIL)
		return;
	if (j->q->r.dry_run) {
		waits_position_row(j, "would_resume");
		return;
	}
	j->pause.is_position = true;
	waits_end_pause(j, j->want.stream);
}

static void waits_act(struct waits_job *j, const struct packed_entry *e)
{
	char *stream = e->stream.len ? mem_dup(e->stream.p, e->stream.len) : NULL;
	const bool has_pause =
		j->rules->entries.is_on && stream && strlen(stream) == e->stream.len && !j->pause.has_ended;
	bool is_now = j->q->r.verb == CTL_VERB_DELAYED_NOW;
	if (j->q->r.dry_run) {
		waits_action_row(j, e, is_now ? "would_requeue" : "would_drop", NULL, NULL);
		j->n++;
		j->delayed.at++;
	} else if (is_now && has_pause) {
		waits_end_pause(j, stream);
	} else if (waits_ask(j, WAITS_ACT)) {
		struct cmd c = {.kind = is_now ? CMD_DELAYED_NOW : CMD_DELAYED_DROP,
			.id = j->delayed.items[j->delayed.at].id,
			.use_eval = j->use_eval};
		control_redis_send(j->conn, &c, &j->names);
	}
	mem_free(stream);
}

static void waits_say(struct waits_job *j, const struct packed_entry *e)
{
	const struct waits_item *i = &j->delayed.items[j->delayed.at];
	const uint32_t tries = e->tries;
	char *text[] = {e->stream.len ? mem_dup(e->stream.p, e->stream.len) : NULL,
		e->why.len ? mem_dup(e->why.p, e->why.len) : NULL,
		e->reason.len ? mem_dup(e->reason.p, e->reason.len) : NULL};
	struct ctl_waiting row = {.stream = text[0],
		.state = "delayed",
		.retry = tries  ? tries
			 : e->n ? (int64_t)packed_retries(e)
				: -1,
		.reason = tries ? "fail" : text[1],
		.at_ms = (int64_t)i->due_ms,
		.due_ms = mono_max(0, (int64_t)i->due_ms - j->clock_ms),
		.error = text[2]};
	waits_row(j, &row, i->id);
	for (size_t k = 0; k < sizeof text / sizeof text[0]; k++)
		mem_free(text[k]);
	j->delayed.at++;
}

static bool waits_wants(const struct waits_job *j, const struct packed_entry *e)
{
	const struct view_match *m = &j->want;
	if (!waits_is_the_one(j, j->delayed.items[j->delayed.at].id))
		return false;
	if (j->first_new.ms && entry_id_cmp(j->delayed.items[j->delayed.at].id, j->first_new) >= 0)
		return false; /* one that we have let come back, and that has failed again */
	if (!m->stream || (m->by_id && entry_id_cmp(m->id, j->delayed.items[j->delayed.at].id) == 0))
		return true;
	return e->stream.len == m->len && memcmp(e->stream.p, m->stream, m->len) == 0;
}

bool waits_item_step(struct waits_job *j)
{
	if (j->delayed.at >= j->delayed.n)
		return false;
	struct packed_entry e = entry_of(j);
	if (!waits_wants(j, &e))
		j->delayed.at++;
	else if (j->is_action)
		waits_act(j, &e);
	else
		waits_say(j, &e);
	return true;
}

void waits_on_act(struct waits_job *j, const struct reply *r)
{
	char id[COMMAND_ID_CAP];
	struct packed_entry e = entry_of(j);
	bool is_now = j->q->r.verb == CTL_VERB_DELAYED_NOW;
	j->stage = WAITS_ITEM;
	j->pause.has_ended = false;
	if (is_now && r->kind == REPLY_ID) {
		command_id_format(id, r->id);
		j->first_new = j->first_new.ms ? j->first_new : r->id;
		waits_action_row(j, &e, "requeued", id, NULL);
	} else if (r->kind == REPLY_INT) {
		waits_action_row(j, &e, !is_now && r->integer ? "dropped" : "gone", NULL, NULL);
	} else {
		waits_action_row(j, &e, "error", NULL, control_redis_why(j->conn));
		waits_fail(j, false);
		return;
	}
	j->delayed.n_same -= j->delayed.items[j->delayed.at].due_ms == j->delayed.from &&
			     j->delayed.n_same > 0; /* the page that follows begins earlier */
	j->n++;
	j->delayed.at++;
}
