/* The verbs on dead letters: ls, show, purge, and replay of entries of the load-balancer stream (LBS).
 *
 * Happy path: last id -> pages -> each that matches: a row; or XADD to the LBS, or into the delayed set when a rate is
 * given, then XDEL, then a row. Failure: Redis does not answer: what is done is done and said. */
#include "run/control/dlq.h"

#include "run/control/down.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static void dlq_on_answer(void *arg, struct reply *r, const redisReply *raw);

static void dlq_job_free(void *job)
{
	struct dlq_job *j = job;
	for (size_t i = 0; i < j->conns.n; i++)
		control_redis_close(j->conns.v[i]);
	entry_batch_free(j->page.batch);
	command_names_fini(&j->names);
	service_rules_unref((struct service_rules *)(uintptr_t)j->rules);
	mem_free(j);
}

/* ---- whom to ask */

void dlq_over(struct dlq_job *j, int exit, const char *fmt, ...)
{
	va_list ap;
	if (j->end.is_over)
		return;
	j->end.is_over = true;
	j->end.exit = exit;
	if (!fmt)
		return;
	va_start(ap, fmt);
	vsnprintf(j->end.error, sizeof j->end.error, fmt, ap);
	va_end(ap);
}

static struct control_redis *dlq_conn(struct dlq_job *j, const char *addr)
{
	for (size_t i = 0; i < j->conns.n; i++)
		if (strcmp(control_redis_addr(j->conns.v[i]), addr) == 0)
			return j->conns.v[i];
	if (j->conns.n == DLQ_CONNS) { /* the oldest goes: it has nothing under way */
		control_redis_close(j->conns.v[0]);
		memmove(j->conns.v, j->conns.v + 1, --j->conns.n * sizeof j->conns.v[0]);
	}
	struct err err;
	if (control_redis_open(j->q->d, addr, dlq_on_answer, j, &j->conns.v[j->conns.n], &err) == ERR_OK)
		return j->conns.v[j->conns.n++];
	dlq_over(j, 1, "%s", err.text);
	return NULL;
}

bool dlq_ask(struct dlq_job *j, uint16_t slot, enum dlq_stage stage)
{
	const char *addr = view_addr(j->q->d, slot);
	struct control_redis *c = addr ? dlq_conn(j, addr) : NULL;
	char why[DOWN_WORDS_CAP];
	if (!addr)
		dlq_over(j, 1, "%s", down_no_master(j->q->d, "what is asked", slot, why));
	if (!c)
		return false;
	j->conns.asked = c;
	j->stage = stage;
	j->is_waiting = true;
	return true;
}

void dlq_send(struct dlq_job *j, uint16_t slot, const struct cmd *c, enum dlq_stage stage)
{
	if (dlq_ask(j, slot, stage))
		control_redis_send(j->conns.asked, c, &j->names);
}

/* ---- one dead letter */

/* The last one: what was added when it died is behind its own. */
static struct slice dlq_field_of(const struct entry_in *e, const char *name)
{
	for (size_t i = e->fields ? e->fields->n : 0; i > 0; i--) {
		const struct field *f = &e->fields->v[i - 1];
		if (f->name.len == strlen(name) && memcmp(f->name.p, name, f->name.len) == 0)
			return f->value;
	}
	return (struct slice){NULL, 0};
}

static bool dlq_equals(struct slice s, const char *text)
{
	return s.p && s.len == strlen(text) && memcmp(s.p, text, s.len) == 0;
}

static int64_t number_of(struct slice s)
{
	int64_t v = 0;
	if (!s.p || s.len == 0 || s.len > 18)
		return -1;
	for (size_t i = 0; i < s.len; i++) {
		if (s.p[i] < '0' || s.p[i] > '9')
			return -1;
		v = v * 10 + (s.p[i] - '0');
	}
	return v;
}

static int64_t died_at(const struct entry_in *e)
{
	int64_t at = number_of(dlq_field_of(e, "_dlq_at"));
	return at >= 0 ? at : (int64_t)e->id.ms;
}

static bool dlq_wants(const struct ctl_request *r, const struct entry_in *e)
{
	char id[COMMAND_ID_CAP];
	command_id_format(id, e->id);
	if (r->id && strcmp(r->id, id) != 0)
		return false;
	if (r->reason && !dlq_equals(dlq_field_of(e, "_dlq_reason"), r->reason))
		return false;
	if (r->stream && (!e->stream || strcmp(e->stream->bytes, r->stream) != 0))
		return false;
	return !r->older_than_ms || mono_wall_ms() - died_at(e) > r->older_than_ms;
}

/* NUL-terminated, NULL when absent; caller frees. */
static char *string_of(struct slice s)
{
	return s.p ? mem_dup(s.p, s.len) : NULL;
}

static void fields_json(struct buf *b, const struct entry_in *e)
{
	buf_str(b, "{");
	for (size_t i = 0; e->fields && i < e->fields->n; i++) {
		const struct field *f = &e->fields->v[i];
		buf_str(b, i ? "," : "");
		buf_json_str(b, f->name.p, f->name.len);
		buf_str(b, ":");
		buf_json_str(b, f->value.p, f->value.len);
	}
	buf_str(b, "}");
}

static void entry_row(struct dlq_job *j, const struct ctl_dlq_entry *from, const struct entry_in *e)
{
	struct ctl_entries_dlq_entry row = {.service = from->service,
		.id = from->id,
		.stream = from->stream,
		.reason = from->reason,
		.at_ms = from->at_ms,
		.age_ms = from->age_ms,
		.node = from->node,
		.error = from->error,
		.orig_id = from->orig_id,
		.tries = number_of(dlq_field_of(e, "_tries"))};
	if (!j->is_show) {
		ctl_encode_entries_dlq_short(&j->q->out, &row);
		return;
	}
	struct buf fields;
	buf_init(&fields);
	dlq_entries_fields(&fields, e);
	row.fields.text = fields.data;
	ctl_encode_entries_dlq_entry(&j->q->out, &row);
	buf_fini(&fields);
}

static void letter_row(struct dlq_job *j, const struct entry_in *e)
{
	struct control_req *q = j->q;
	char id[COMMAND_ID_CAP];
	command_id_format(id, e->id);
	char *text[] = {string_of(dlq_field_of(e, "_dlq_reason")), string_of(dlq_field_of(e, "_dlq_node")),
		string_of(dlq_field_of(e, "_dlq_error")), string_of(dlq_field_of(e, "_orig_id"))};
	struct ctl_dlq_entry row = {.service = j->rules->name,
		.id = id,
		.stream = e->stream ? e->stream->bytes : NULL,
		.reason = text[0],
		.at_ms = died_at(e),
		.node = text[1],
		.error = text[2],
		.orig_id = text[3],
		.retry = e->retry};
	row.age_ms = mono_max(0, mono_wall_ms() - row.at_ms);
	if (j->is_entries) {
		entry_row(j, &row, e);
	} else if (!j->is_show) {
		ctl_encode_dlq_short(&q->out, &row);
	} else {
		struct buf fields;
		buf_init(&fields);
		fields_json(&fields, e);
		row.fields.text = fields.data;
		row.info.text = e->info ? e->info->bytes : NULL;
		ctl_encode_dlq_entry(&q->out, &row);
		buf_fini(&fields);
	}
	for (size_t i = 0; i < sizeof text / sizeof text[0]; i++)
		mem_free(text[i]);
}

void dlq_action_row(struct dlq_job *j, size_t i, const char *result, const char *new_id, const char *error)
{
	const struct entry_in *e = &j->page.batch->v[i];
	char id[COMMAND_ID_CAP];
	command_id_format(id, e->id);
	struct ctl_dlq_action row = {.service = j->rules->name,
		.id = id,
		.stream = e->stream ? e->stream->bytes : NULL,
		.result = result,
		.new_id = new_id,
		.error = error,
		.due_ms = new_id ? j->due_ms : -1};
	ctl_encode_dlq_action(&j->q->out, &row);
}

/* ---- what is sent */

void dlq_delete(struct dlq_job *j, size_t i)
{
	dlq_send(j, command_slot(j->names.dlq, strlen(j->names.dlq)),
		&(struct cmd){.kind = CMD_DLQ_DEL, .id = j->page.batch->v[i].id}, DLQ_DELETE);
}

static bool is_dlq_field(struct slice name)
{
	return (name.len >= 5 && memcmp(name.p, "_dlq_", 5) == 0) || dlq_equals(name, "_orig_id");
}

/* The entry as it was before it died, with a fresh count. False when nothing is left of it. */
static bool send_add(struct dlq_job *j)
{
	const struct field_list *from = j->page.batch->v[j->page.at].fields;
	size_t n = from ? from->n : 0;
	struct field_list *l = mem_alloc(sizeof *l + n * sizeof l->v[0]);
	for (size_t i = 0; i < n; i++) {
		if (is_dlq_field(from->v[i].name))
			continue;
		l->v[l->n] = from->v[i];
		if (dlq_equals(from->v[i].name, "_retry_count"))
			l->v[l->n].value = (struct slice){"0", 1};
		l->n++;
	}
	bool any = l->n > 0;
	struct cmd c = {.kind = CMD_REPLAY, .as.add.fields = l};
	if (j->q->r.rate_per_s) { /* it waits in Redis for its turn, whatever becomes of us */
		const struct text *stream = j->page.batch->v[j->page.at].stream;
		c.kind = CMD_ADD_LATER;
		c.as.add.why = "replay";
		c.use_eval = j->use_eval;
		c.stream = stream ? (struct slice){stream->bytes, stream->len} : (struct slice){"", 0};
		c.as.add.delay_ms = j->due_ms = mono_max(0, dlq_due(j, 0) - loop_now(j->q->d->loop));
	}
	if (any)
		dlq_send(j, j->rules->lbs_slot, &c, DLQ_ADD);
	mem_free(l);
	return any;
}

static void dlq_send_page(struct dlq_job *j)
{
	entry_batch_free(j->page.batch);
	j->page.batch = NULL;
	j->page.is_read = false;
	memset(j->settle.letters, 0, sizeof j->settle.letters);
	j->settle.n_given = j->settle.wake_at = j->settle.delete_at = 0;
	dlq_send(j, command_slot(j->names.dlq, strlen(j->names.dlq)),
		&(struct cmd){.kind = CMD_DLQ_RANGE, .id = j->page.from, .as.read.count = (int64_t)j->page.n},
		DLQ_READ);
}

/* ---- the walk */

static void finish(struct dlq_job *j)
{
	const struct ctl_request *r = &j->q->r;
	bool is_none = j->n_done + j->n_failed == 0;
	if (is_none && r->id)
		dlq_over(j, 1, "there is no dead letter %s that matches", r->id);
	else if (is_none && r->stream)
		dlq_over(j, 1, "there is no dead letter of %s that matches", r->stream);
	else if (j->n_failed)
		dlq_over(j, 1, "%lld of %lld could not be replayed: they are still in %s", (long long)j->n_failed,
			(long long)(j->n_done + j->n_failed), j->names.dlq);
	else
		dlq_over(j, 0, NULL);
}

static void done_one(struct dlq_job *j)
{
	j->n_done++;
	j->page.at++;
	j->stage = DLQ_LOOK;
}

mono_ms dlq_due(const struct dlq_job *j, mono_ms now)
{
	int64_t rate = j->q->r.rate_per_s, n = j->n_done + j->n_failed + (int64_t)j->settle.n_given;
	return rate ? j->started + n * 1000 / rate : now;
}

static void act_on(struct dlq_job *j)
{
	const struct ctl_request *r = &j->q->r;
	j->due_ms = -1;
	if (!j->is_replay && !j->is_purge) {
		letter_row(j, &j->page.batch->v[j->page.at]);
		done_one(j);
	} else if (r->dry_run) {
		dlq_action_row(j, j->page.at, j->is_replay ? "would_replay" : "would_purge", NULL, NULL);
		done_one(j);
	} else if (j->is_purge) {
		dlq_delete(j, j->page.at);
	} else if (j->is_entries) {
		dlq_entries_give(j);
	} else if (!send_add(j)) {
		dlq_action_row(j, j->page.at, "error", NULL, "it has no fields of its own");
		j->n_failed++;
		j->page.at++;
	}
}

/* Nothing more is to be looked at. */
static bool is_at_end(const struct dlq_job *j)
{
	int64_t limit = j->q->r.limit, n = j->n_done + j->n_failed + (int64_t)j->settle.n_given;
	if (limit && n >= limit)
		return true;
	if (j->page.at < j->page.batch->n)
		return entry_id_cmp(j->page.batch->v[j->page.at].id, j->page.until) > 0;
	return j->page.is_last;
}

/* The next letter of the page: true when there was something to do at once, else *at says when. */
static bool dlq_look(struct dlq_job *j, mono_ms now, mono_ms *at)
{
	bool has_more = j->page.is_read && !is_at_end(j) && j->page.at < j->page.batch->n;
	bool is_wanted = has_more && dlq_wants(&j->q->r, &j->page.batch->v[j->page.at]);
	/* a replay of the LBS' letters does not wait: they do, in Redis */
	bool is_paced = j->is_purge || (j->is_replay && j->is_entries);
	mono_ms due = is_wanted && is_paced && !j->q->r.dry_run ? dlq_due(j, now) : now;
	if (!j->page.is_read)
		dlq_send_page(j);
	else if ((!has_more || due > now) && dlq_entries_settle(j))
		return true;
	else if (is_at_end(j))
		finish(j);
	else if (!has_more)
		dlq_send_page(j);
	else if (!is_wanted)
		j->page.at++;
	else if (due <= now)
		act_on(j);
	*at = due;
	return due <= now;
}

static mono_ms dlq_step(struct control_req *q, mono_ms now)
{
	struct dlq_job *j = q->job;
	mono_ms at = now;
	while (!j->is_waiting && !q->is_ended) {
		if (control_is_full(q))
			return now + 5;
		if (j->end.is_over) {
			if (!dlq_lock_give_back(j))
				control_end(q, j->end.exit, j->end.error[0] ? "%s" : NULL, j->end.error);
		} else if (!dlq_lock_step(j, now) && !dlq_look(j, now, &at)) {
			return mono_min(at, now + dlq_lock_every(j));
		}
	}
	return MONO_NEVER;
}

/* ---- answers */

/* Entries of data streams say which one they are of. */
static void name_streams(struct entry_batch *b)
{
	for (size_t i = 0; i < b->n; i++) {
		struct slice s = dlq_field_of(&b->v[i], "_dlq_stream");
		text_unref(b->v[i].stream);
		b->v[i].stream = s.p && s.len && !memchr(s.p, '\0', s.len) ? text_new(s.p, s.len) : NULL;
	}
}

static void take_page(struct dlq_job *j, struct reply *r)
{
	j->page.batch = r->entries;
	r->entries = NULL;
	if (j->is_entries)
		name_streams(j->page.batch);
	j->page.at = 0;
	j->page.is_read = true;
	j->page.is_last = j->q->r.id || j->page.batch->n < j->page.n;
	j->page.n = control_redis_page(j->page.n, DLQ_PAGE, j->page.batch);
	if (j->q->r.rate_per_s && (int64_t)j->page.n > j->q->r.rate_per_s) /* nothing is kept for long */
		j->page.n = (size_t)j->q->r.rate_per_s;
	if (j->page.batch->n)
		j->page.from = entry_id_next(j->page.batch->v[j->page.batch->n - 1].id);
	j->stage = DLQ_LOOK;
}

static void take_last(struct dlq_job *j, const redisReply *raw)
{
	const redisReply *e = raw->type == REDIS_REPLY_ARRAY && raw->elements ? raw->element[0] : NULL;
	const redisReply *id = e && e->type == REDIS_REPLY_ARRAY && e->elements ? e->element[0] : NULL;
	if (!id || id->type != REDIS_REPLY_STRING || !command_id_parse(id->str, id->len, &j->page.until))
		finish(j);
	if (j->q->r.id)
		command_id_parse(j->q->r.id, strlen(j->q->r.id), &j->page.from);
	j->stage = DLQ_LOOK;
}

/* It has only looked so far. */
static bool is_untouched(const struct dlq_job *j)
{
	return (j->is_replay || j->is_purge) && !j->q->r.dry_run && j->n_done + j->n_failed == 0 &&
	       j->settle.n_given == 0 && (j->stage == DLQ_LAST || j->stage == DLQ_READ);
}

static void dlq_fail(struct dlq_job *j)
{
	const char *why = control_redis_why(j->conns.asked);
	if (j->stage == DLQ_ADD || j->stage == DLQ_DELETE) {
		char id[COMMAND_ID_CAP] = "", text[800];
		bool added = j->stage == DLQ_DELETE && j->is_replay;
		if (added)
			command_id_format(id, j->new_id);
		snprintf(text, sizeof text, "%s%s", added ? "it was added, but is still among the dead letters: " : "",
			why);
		dlq_action_row(j, j->page.at, "error", added ? id : NULL, text);
	}
	dlq_over(j, 1, "%s%s", why[0] ? why : "unexpected answer",
		is_untouched(j) ? control_redis_untouched(j->conns.asked) : "");
}

static void deleted(struct dlq_job *j, const struct reply *r)
{
	char id[COMMAND_ID_CAP];
	command_id_format(id, j->new_id);
	if (j->is_replay)
		dlq_action_row(j, j->page.at, "replayed", id, NULL);
	else
		dlq_action_row(j, j->page.at, r->integer ? "purged" : "gone", NULL, NULL);
	done_one(j);
}

static void dlq_on_letter(struct dlq_job *j, struct reply *r, const redisReply *raw)
{
	if (j->stage == DLQ_LAST && r->kind == REPLY_OK) {
		take_last(j, raw);
	} else if (j->stage == DLQ_READ && r->kind == REPLY_ENTRIES) {
		take_page(j, r);
	} else if (j->stage == DLQ_ADD && r->kind == REPLY_ID) {
		j->new_id = r->id;
		dlq_delete(j, j->page.at);
	} else if (j->stage == DLQ_DELETE && r->kind == REPLY_INT) {
		deleted(j, r);
	} else {
		dlq_fail(j);
	}
}

static void dlq_on_answer(void *arg, struct reply *r, const redisReply *raw)
{
	struct dlq_job *j = arg;
	bool is_unknown = r->kind == REPLY_ERROR && r->error == RERR_NOSCRIPT && !j->use_eval;
	bool is_give = j->stage == DLQ_HOLD || j->stage == DLQ_GIVE || j->stage == DLQ_WAKE;
	j->is_waiting = false;
	j->use_eval = is_unknown; /* the same again, with the script */
	if (is_unknown && j->stage != DLQ_UNLOCK)
		j->stage = DLQ_LOOK;
	else if (is_unknown)
		dlq_lock_give_back(j);
	else if (j->stage >= DLQ_LOCK && j->stage <= DLQ_UNLOCK)
		dlq_lock_answer(j, r);
	else if (is_give || (j->stage == DLQ_DELETE && j->is_entries && j->is_replay))
		dlq_entries_answer(j, r, raw);
	else
		dlq_on_letter(j, r, raw);
	if (r->kind == REPLY_ENTRIES)
		entry_batch_free(r->entries);
	control_go_on(j->q);
}

/* ---- the request */

static bool dlq_is(enum ctl_verb v, enum ctl_verb one, enum ctl_verb other)
{
	return v == one || v == other;
}

void control_dlq(struct control_req *q)
{
	const struct coord_service *s = control_service(q, q->r.service);
	if (!s)
		return;
	struct dlq_job *j = mem_alloc(sizeof *j);
	const struct service_rules *rules = j->rules = service_rules_ref((struct service_rules *)(uintptr_t)s->rules);
	enum ctl_verb v = q->r.verb;
	j->q = q;
	j->started = loop_now(q->d->loop);
	j->page.n = q->r.id ? 1 : DLQ_PAGE_FIRST;
	j->is_entries = v >= CTL_VERB_ENTRIES_DLQ_LS && v <= CTL_VERB_ENTRIES_DLQ_PURGE;
	j->is_show = dlq_is(v, CTL_VERB_DLQ_SHOW, CTL_VERB_ENTRIES_DLQ_SHOW);
	j->is_replay = dlq_is(v, CTL_VERB_DLQ_REPLAY, CTL_VERB_ENTRIES_DLQ_REPLAY);
	j->is_purge = dlq_is(v, CTL_VERB_DLQ_PURGE, CTL_VERB_ENTRIES_DLQ_PURGE);
	char *dlq = !j->is_entries          ? mem_dup(rules->dlq.name, strlen(rules->dlq.name))
		    : rules->entries.dlq[0] ? mem_dup(rules->entries.dlq, strlen(rules->entries.dlq))
					    : mem_printf("%s-entries-dlq", rules->name);
	command_names_init(&j->names, rules->name, dlq, rules->same_stream, rules->dlq.max_len, rules->group_start);
	mem_free(dlq);
	control_job(q, dlq_step, j, dlq_job_free);
	if (dlq_ask(j, command_slot(j->names.dlq, strlen(j->names.dlq)), DLQ_LAST))
		control_redis_words(
			j->conns.asked, (const char *const[]){"XREVRANGE", j->names.dlq, "+", "-", "COUNT", "1", NULL});
}
