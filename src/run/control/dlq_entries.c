/* entries-dlq replay: a page of dead entries goes back to the end of its data streams, in the order they died in;
 * then each of those streams goes to the load-balancer stream once, as its producer would do it, so that somebody
 * works on it; then the letters are deleted.
 *
 * Failure: a stream that does not take it (another type by now, or the highest id is used) is said and left; Redis does
 * not answer: what was given and not deleted is said, and the next replay gives it again. */
#include "run/control/dlq.h"

#include <string.h>

#include "codec/reply_feed.h"

static const struct entry_in *letter(const struct dlq_job *j, size_t i)
{
	return &j->page.batch->v[i];
}

static uint16_t data_slot(const struct entry_in *e)
{
	return command_slot(e->stream->bytes, e->stream->len);
}

/* The fields it had in its stream. */
static struct slice *own_words(const struct entry_in *e, size_t *n)
{
	const struct field_list *l = e->fields;
	const size_t n_own = command_feed_own_fields(l);
	struct slice *w = mem_array(3 + 2 * n_own, sizeof *w);
	*n = 0;
	w[(*n)++] = (struct slice){"XADD", 4};
	w[(*n)++] = (struct slice){e->stream->bytes, e->stream->len};
	w[(*n)++] = (struct slice){"*", 1};
	for (size_t i = 0; i < n_own; i++) {
		w[(*n)++] = l->v[i].name;
		w[(*n)++] = l->v[i].value;
	}
	return w;
}

/* Whoever replays wants it to go on: no pause before a next try is left. And with `start: "$"` a stream whose position
 * has gone would begin behind what is given now. */
static void send_hold(struct dlq_job *j)
{
	const struct entry_in *e = letter(j, j->page.at);
	if (dlq_ask(j, data_slot(e), DLQ_HOLD))
		control_redis_hold(
			j->conns.asked, e->stream->bytes, j->rules->entries.position_ttl_ms, j->rules->entries.start);
}

void dlq_entries_give(struct dlq_job *j)
{
	const struct entry_in *e = letter(j, j->page.at);
	size_t n = 0;
	struct slice *w = e->stream ? own_words(e, &n) : NULL;
	if (n <= 3) {
		dlq_action_row(j, j->page.at, "error", NULL,
			e->stream ? "it has no fields of its own" : "it does not say which stream it is of");
		j->n_failed++;
		j->page.at++;
	} else if (!j->settle.is_held) {
		send_hold(j);
	} else if (dlq_ask(j, data_slot(e), DLQ_GIVE)) {
		control_redis_bytes(j->conns.asked, w, n);
	}
	mem_free(w);
}

/* An earlier letter of the page has told the group of the same stream. */
static bool was_told(const struct dlq_job *j, size_t i)
{
	const struct text *s = letter(j, i)->stream;
	for (size_t k = 0; k < i; k++) {
		const struct text *other = letter(j, k)->stream;
		if (j->settle.letters[k].is_given && other->len == s->len &&
			memcmp(other->bytes, s->bytes, s->len) == 0)
			return true;
	}
	return false;
}

bool dlq_entries_settle(struct dlq_job *j)
{
	if (!j->settle.n_given)
		return false;
	for (; j->settle.wake_at < j->page.at; j->settle.wake_at++) {
		if (!j->settle.letters[j->settle.wake_at].is_given || was_told(j, j->settle.wake_at))
			continue;
		const struct text *s = letter(j, j->settle.wake_at)->stream;
		dlq_send(j, j->rules->lbs_slot, &(struct cmd){.kind = CMD_ADD, .stream = {s->bytes, s->len}}, DLQ_WAKE);
		return true;
	}
	for (; j->settle.delete_at < j->page.at; j->settle.delete_at++) {
		if (!j->settle.letters[j->settle.delete_at].is_given ||
			j->settle.letters[j->settle.delete_at].is_deleted)
			continue;
		dlq_delete(j, j->settle.delete_at);
		return true;
	}
	j->settle.n_given = 0;
	return false;
}

static void given(struct dlq_job *j, const redisReply *raw)
{
	j->settle.letters[j->page.at].is_given = true;
	command_id_parse(raw->str, raw->len, &j->settle.letters[j->page.at].new_id);
	j->settle.n_given++;
	j->page.at++;
	j->settle.is_held = false;
}

static void dlq_entries_deleted(struct dlq_job *j)
{
	char id[COMMAND_ID_CAP];
	struct dlq_letter *l = &j->settle.letters[j->settle.delete_at];
	command_id_format(id, l->new_id);
	dlq_action_row(j, j->settle.delete_at, "replayed", id, NULL);
	l->is_deleted = true;
	j->n_done++;
	j->settle.delete_at++;
}

/* This stream's fault alone. */
static bool is_not_taken(const char *why)
{
	return strstr(why, "WRONGTYPE") || strstr(why, "exhausted the last possible ID");
}

void dlq_entries_answer(struct dlq_job *j, const struct reply *r, const redisReply *raw)
{
	enum dlq_stage stage = j->stage;
	j->stage = DLQ_LOOK;
	if (stage == DLQ_HOLD && r->kind == REPLY_OK) {
		j->settle.is_held = true;
	} else if (stage == DLQ_GIVE && r->kind == REPLY_OK && raw->type == REDIS_REPLY_STRING) {
		given(j, raw);
	} else if (stage == DLQ_WAKE && r->kind == REPLY_ID) {
		j->settle.wake_at++;
	} else if (stage == DLQ_DELETE && r->kind == REPLY_INT) {
		dlq_entries_deleted(j);
	} else if ((stage == DLQ_GIVE || stage == DLQ_HOLD) && r->kind == REPLY_ERROR &&
		   is_not_taken(control_redis_why(j->conns.asked))) {
		dlq_action_row(j, j->page.at, "error", NULL, control_redis_why(j->conns.asked));
		j->n_failed++;
		j->page.at++;
		j->settle.is_held = false;
	} else {
		dlq_entries_fail(j, control_redis_why(j->conns.asked));
	}
}

void dlq_entries_fail(struct dlq_job *j, const char *why)
{
	for (size_t i = 0; j->page.is_read && i < j->page.at; i++) {
		char id[COMMAND_ID_CAP];
		if (!j->settle.letters[i].is_given || j->settle.letters[i].is_deleted)
			continue;
		command_id_format(id, j->settle.letters[i].new_id);
		dlq_action_row(j, i, "error", id, "it was added, but is still among the dead entries");
	}
	j->settle.n_given = 0;
	dlq_over(j, 1, "%s", why[0] ? why : "unexpected answer");
}

void dlq_entries_fields(struct buf *b, const struct entry_in *e)
{
	const size_t n = command_feed_own_fields(e->fields);
	buf_str(b, "[");
	for (size_t i = 0; i < n; i++) {
		const struct field *f = &e->fields->v[i];
		buf_str(b, i ? ",[" : "[");
		reply_feed_value(b, f->name.p, f->name.len);
		buf_str(b, ",");
		reply_feed_value(b, f->value.p, f->value.len);
		buf_str(b, "]");
	}
	buf_str(b, "]");
}
