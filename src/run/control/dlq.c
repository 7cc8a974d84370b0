/* dlq ls, show, replay, purge: pages of the dead letters up to the one that was the last when the request came, so
 * that what dies again meanwhile is not looked at twice.
 *
 * Happy path: last id -> pages -> each that matches: a row; or XADD to the load-balancer stream, then XDEL, then a row.
 * Failure: Redis does not answer: what is done is done and said; a dead letter is deleted only after its copy was
 * added. */
#include <stdio.h>
#include <string.h>

#include "run/control/control.h"
#include "run/control/redis.h"

enum { DLQ_PAGE_FIRST = 8, DLQ_PAGE = 100 };
enum dlq_stage { DLQ_LAST, DLQ_READ, DLQ_LOOK, DLQ_ADD, DLQ_DELETE };

struct dlq_job {
	struct control_req *q;
	char service[136];
	struct command_names names;
	struct control_redis *dlq, *lbs; /* the same in one master */
	enum dlq_stage stage;
	bool is_waiting;
	struct entry_batch *page;
	size_t at, page_n; /* so many are asked for */
	struct entry_id from, until, new_id;
	int64_t n_done;
	mono_ms started;
	bool is_whole, is_read; /* the last page; a page is there */
};

static void dlq_job_free(void *job)
{
	struct dlq_job *j = job;
	if (j->lbs != j->dlq)
		control_redis_close(j->lbs);
	control_redis_close(j->dlq);
	entry_batch_free(j->page);
	command_names_fini(&j->names);
	mem_free(j);
}

/* ---- one dead letter */

static struct slice dlq_field_of(const struct entry_in *e, const char *name)
{
	for (size_t i = 0; e->fields && i < e->fields->n; i++)
		if (e->fields->v[i].name.len == strlen(name) && memcmp(e->fields->v[i].name.p, name, strlen(name)) == 0)
			return e->fields->v[i].value;
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

static void letter_row(struct dlq_job *j, const struct entry_in *e)
{
	struct control_req *q = j->q;
	char id[COMMAND_ID_CAP];
	command_id_format(id, e->id);
	char *text[] = {string_of(dlq_field_of(e, "_dlq_reason")), string_of(dlq_field_of(e, "_dlq_node")),
		string_of(dlq_field_of(e, "_dlq_error")), string_of(dlq_field_of(e, "_orig_id"))};
	struct ctl_dlq_entry row = {.service = j->service,
		.id = id,
		.stream = e->stream ? e->stream->bytes : NULL,
		.reason = text[0],
		.at_ms = died_at(e),
		.node = text[1],
		.error = text[2],
		.orig_id = text[3],
		.retry = e->retry};
	row.age_ms = mono_max(0, mono_wall_ms() - row.at_ms);
	if (q->r.verb == CTL_VERB_DLQ_LS) {
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

static void action_row(struct dlq_job *j, const char *result, const char *new_id, const char *error)
{
	const struct entry_in *e = &j->page->v[j->at];
	char id[COMMAND_ID_CAP];
	command_id_format(id, e->id);
	struct ctl_dlq_action row = {.service = j->service,
		.id = id,
		.stream = e->stream ? e->stream->bytes : NULL,
		.result = result,
		.new_id = new_id,
		.error = error};
	ctl_encode_dlq_action(&j->q->out, &row);
}

/* ---- what is sent */

static void send_cmd(struct dlq_job *j, struct control_redis *to, const struct cmd *c, enum dlq_stage stage)
{
	j->stage = stage;
	j->is_waiting = true;
	control_redis_send(to, c, &j->names);
}

static void send_delete(struct dlq_job *j)
{
	send_cmd(j, j->dlq, &(struct cmd){.kind = CMD_DLQ_DEL, .id = j->page->v[j->at].id}, DLQ_DELETE);
}

static bool is_ours(struct slice name)
{
	return (name.len >= 5 && memcmp(name.p, "_dlq_", 5) == 0) || dlq_equals(name, "_orig_id");
}

/* The entry as it was before it died, with a fresh count. False when nothing is left of it. */
static bool send_add(struct dlq_job *j)
{
	const struct field_list *from = j->page->v[j->at].fields;
	size_t n = from ? from->n : 0;
	struct field_list *l = mem_alloc(sizeof *l + n * sizeof l->v[0]);
	for (size_t i = 0; i < n; i++) {
		if (is_ours(from->v[i].name))
			continue;
		l->v[l->n] = from->v[i];
		if (dlq_equals(from->v[i].name, "_retry_count"))
			l->v[l->n].value = (struct slice){"0", 1};
		l->n++;
	}
	bool any = l->n > 0;
	if (any)
		send_cmd(j, j->lbs, &(struct cmd){.kind = CMD_REPLAY, .fields = l}, DLQ_ADD);
	mem_free(l);
	return any;
}

static void dlq_send_page(struct dlq_job *j)
{
	entry_batch_free(j->page);
	j->page = NULL;
	j->is_read = false;
	send_cmd(j, j->dlq, &(struct cmd){.kind = CMD_DLQ_RANGE, .id = j->from, .count = (int64_t)j->page_n}, DLQ_READ);
}

/* ---- the walk */

static void finish(struct dlq_job *j)
{
	if (j->q->r.id && j->n_done == 0)
		control_end(j->q, 1, "there is no dead letter %s that matches", j->q->r.id);
	else
		control_end(j->q, 0, NULL);
}

static void done_one(struct dlq_job *j)
{
	j->n_done++;
	j->at++;
	j->stage = DLQ_LOOK;
	if (j->q->r.limit && j->n_done >= j->q->r.limit)
		finish(j);
}

static void act_on(struct dlq_job *j)
{
	const struct ctl_request *r = &j->q->r;
	bool replay = r->verb == CTL_VERB_DLQ_REPLAY;
	if (!replay && r->verb != CTL_VERB_DLQ_PURGE) {
		letter_row(j, &j->page->v[j->at]);
		done_one(j);
	} else if (r->dry_run) {
		action_row(j, replay ? "would_replay" : "would_purge", NULL, NULL);
		done_one(j);
	} else if (!replay) {
		send_delete(j);
	} else if (!send_add(j)) {
		action_row(j, "error", NULL, "it has no fields of its own");
		done_one(j);
	}
}

static mono_ms dlq_step(struct control_req *q, mono_ms now)
{
	struct dlq_job *j = q->job;
	while (!j->is_waiting && !q->is_ended) {
		if (control_is_full(q))
			return now + 5;
		if (!j->is_read) {
			dlq_send_page(j);
		} else if (j->at == j->page->n) {
			if (j->is_whole)
				finish(j);
			else
				dlq_send_page(j);
		} else if (entry_id_cmp(j->page->v[j->at].id, j->until) > 0) {
			finish(j);
		} else if (!dlq_wants(&q->r, &j->page->v[j->at])) {
			j->at++;
		} else {
			mono_ms due = q->r.rate_per_s ? j->started + j->n_done * 1000 / q->r.rate_per_s : now;
			if (due > now)
				return due;
			act_on(j);
		}
	}
	return MONO_NEVER;
}

/* ---- answers */

static void take_page(struct dlq_job *j, struct reply *r)
{
	j->page = r->entries;
	r->entries = NULL;
	j->at = 0;
	j->is_read = true;
	j->is_whole = j->q->r.id || j->page->n < j->page_n;
	j->page_n = control_redis_page(j->page_n, DLQ_PAGE, j->page);
	if (j->page->n)
		j->from = entry_id_next(j->page->v[j->page->n - 1].id);
	j->stage = DLQ_LOOK;
}

static void take_last(struct dlq_job *j, const redisReply *raw)
{
	const redisReply *e = raw->type == REDIS_REPLY_ARRAY && raw->elements ? raw->element[0] : NULL;
	const redisReply *id = e && e->type == REDIS_REPLY_ARRAY && e->elements ? e->element[0] : NULL;
	if (!id || id->type != REDIS_REPLY_STRING || !command_id_parse(id->str, id->len, &j->until))
		finish(j);
	if (j->q->r.id)
		command_id_parse(j->q->r.id, strlen(j->q->r.id), &j->from);
	j->stage = DLQ_LOOK;
}

static void dlq_fail(struct dlq_job *j, const struct control_redis *from)
{
	const char *why = control_redis_why(from);
	if (j->stage == DLQ_ADD || j->stage == DLQ_DELETE) {
		char id[COMMAND_ID_CAP] = "", text[800];
		bool added = j->stage == DLQ_DELETE && j->q->r.verb == CTL_VERB_DLQ_REPLAY;
		if (added)
			command_id_format(id, j->new_id);
		snprintf(text, sizeof text, "%s%s", added ? "it was added, but is still among the dead letters: " : "",
			why);
		action_row(j, "error", added ? id : NULL, text);
	}
	control_end(j->q, 1, "%s", why[0] ? why : "unexpected answer");
}

static void deleted(struct dlq_job *j, const struct reply *r)
{
	char id[COMMAND_ID_CAP];
	command_id_format(id, j->new_id);
	if (j->q->r.verb == CTL_VERB_DLQ_REPLAY)
		action_row(j, "replayed", id, NULL);
	else
		action_row(j, r->integer ? "purged" : "gone", NULL, NULL);
	done_one(j);
}

static void dlq_on_answer(struct dlq_job *j, const struct control_redis *from, struct reply *r, const redisReply *raw)
{
	j->is_waiting = false;
	if (j->stage == DLQ_LAST && r->kind == REPLY_OK) {
		take_last(j, raw);
	} else if (j->stage == DLQ_READ && r->kind == REPLY_ENTRIES) {
		take_page(j, r);
	} else if (j->stage == DLQ_ADD && r->kind == REPLY_ID) {
		j->new_id = r->id;
		send_delete(j);
	} else if (j->stage == DLQ_DELETE && r->kind == REPLY_INT) {
		deleted(j, r);
	} else {
		dlq_fail(j, from);
	}
	if (r->kind == REPLY_ENTRIES)
		entry_batch_free(r->entries);
	control_go_on(j->q);
}

static void on_dlq(void *arg, struct reply *r, const redisReply *raw)
{
	struct dlq_job *j = arg;
	dlq_on_answer(j, j->dlq, r, raw);
}

static void on_lbs(void *arg, struct reply *r, const redisReply *raw)
{
	struct dlq_job *j = arg;
	dlq_on_answer(j, j->lbs, r, raw);
}

void control_dlq(struct control_req *q)
{
	const struct coord_service *s = control_service(q, q->r.service);
	if (!s)
		return;
	const struct service_rules *rules = s->rules;
	const char *dlq_addr = view_addr(q->d, rules->dlq_slot), *lbs_addr = view_addr(q->d, rules->lbs_slot);
	if (!dlq_addr || !lbs_addr) {
		control_end(q, 1, "no master is known for the dead letters: %s",
			q->d->topo_why[0] ? q->d->topo_why : "not connected yet");
		return;
	}
	struct dlq_job *j = mem_alloc(sizeof *j);
	j->q = q;
	j->started = loop_now(q->d->loop);
	j->page_n = q->r.id ? 1 : DLQ_PAGE_FIRST;
	snprintf(j->service, sizeof j->service, "%s", rules->name);
	command_names_init(
		&j->names, rules->name, rules->dlq, rules->same_stream, rules->dlq_max_len, rules->group_start);
	control_job(q, dlq_step, j, dlq_job_free);
	struct err err;
	enum err_code code = control_redis_open(q->d, dlq_addr, on_dlq, j, &j->dlq, &err);
	if (!code && strcmp(dlq_addr, lbs_addr) != 0)
		code = control_redis_open(q->d, lbs_addr, on_lbs, j, &j->lbs, &err);
	else
		j->lbs = j->dlq;
	if (code) {
		control_end(q, 1, "%s", err.text);
		return;
	}
	j->is_waiting = true;
	control_redis_words(j->dlq, (const char *const[]){"XREVRANGE", j->names.dlq, "+", "-", "COUNT", "1", NULL});
}
