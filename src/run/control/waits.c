/* delayed ls, now, drop; ls --waiting.
 *
 * Happy path, service by service: what this daemon holds without a worker -> the server's clock -> pages of what waits
 * for its time -> of what waits for its stream -> of what nobody has read. Failure: Redis does not answer: what was
 * done is said, exit 1 with its words; a list goes on with the next service, and says at its end which are missing. */
#include "run/control/waits.h"

#include "run/control/down.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void waits_drop_members(struct waits_job *j)
{
	for (size_t i = 0; i < j->parked.n; i++)
		mem_free(j->parked.members[i]);
	j->parked.n = 0;
}

static void waits_leave_service(struct waits_job *j)
{
	control_redis_close(j->conn);
	control_redis_close(j->data);
	j->conn = j->data = NULL;
	j->pause = (struct waits_pause){false};
	waits_drop_items(j);
	waits_drop_members(j);
	mem_free(j->parked.after);
	j->parked.after = NULL;
	if (!j->rules)
		return;
	command_names_fini(&j->names);
	command_names_fini(&j->lbs);
	service_rules_unref((struct service_rules *)(uintptr_t)j->rules);
	j->rules = NULL;
}

static void waits_free(void *job)
{
	struct waits_job *j = job;
	waits_leave_service(j);
	missing_fini(&j->walk.missing);
	packed_fini(&j->delayed.room);
	text_unref(j->walk.blocked.stream);
	mem_free(j->walk.svcs);
	mem_free(j);
}

bool waits_is_full(const struct waits_job *j)
{
	return j->q->r.limit && j->n >= j->q->r.limit;
}

void waits_row(struct waits_job *j, struct ctl_waiting *row, struct entry_id id)
{
	char text[COMMAND_ID_CAP];
	command_id_format(text, id);
	row->service = j->rules->name;
	row->id = text;
	row->age_ms = view_age_ms(mono_wall_ms(), id);
	if (waits_is_full(j) || (j->q->r.older_than_ms && row->age_ms <= j->q->r.older_than_ms))
		return;
	ctl_encode_waiting(&j->q->out, row);
	j->n++;
}

static void waits_on_answer(void *arg, struct reply *r, const redisReply *raw);

static void waits_next_service(struct waits_job *j)
{
	waits_leave_service(j);
	j->walk.at++;
	j->stage = WAITS_NEXT;
}

/* The service under way cannot be asked. What acts ends here: it does not do a part of what it was asked. */
static void waits_miss(struct waits_job *j, const char *addr, const char *why)
{
	if (j->is_action) {
		control_end(j->q, 1, "%s", why);
		return;
	}
	missing_add(&j->walk.missing, j->rules->name, addr, why);
	waits_next_service(j);
}

bool waits_ask(struct waits_job *j, enum waits_stage stage)
{
	const char *addr;
	struct err err;
	char words[DOWN_WORDS_CAP];
	const char *why = missing_master(&j->walk.missing, j->q->d, j->names.lbs, j->rules->lbs_slot, &addr, words);
	if (!j->conn && why)
		waits_miss(j, addr, why);
	else if (!j->conn && control_redis_open(j->q->d, addr, waits_on_answer, j, &j->conn, &err) != ERR_OK)
		waits_miss(j, NULL, err.text);
	if (!j->conn)
		return false;
	j->stage = stage;
	j->is_waiting = true;
	return true;
}

bool waits_ask_data(struct waits_job *j, uint16_t slot)
{
	const char *addr = view_addr(j->q->d, slot);
	struct err err;
	if (control_redis_to(j->q->d, addr, waits_on_answer, j, &j->data, &err) != ERR_OK) {
		if (addr)
			control_end(j->q, 1, "%s", err.text);
		else
			control_end(j->q, 1, "slot %u, where the position of the stream is, has no master", slot);
		return false;
	}
	j->stage = WAITS_PAUSE;
	j->is_waiting = true;
	return true;
}

void waits_fail(struct waits_job *j, bool is_silent)
{
	const struct control_redis *asked = j->stage == WAITS_POSITION ? j->data : j->conn;
	const char *why = control_redis_why(asked);
	bool is_untouched = j->is_action && !j->q->r.dry_run && j->n == 0 && j->stage <= WAITS_DATA;
	why = why[0] ? why : "unexpected answer from Redis";
	if (j->is_action)
		control_end(j->q, 1, "%s%s", why, is_untouched ? control_redis_untouched(asked) : "");
	else
		waits_miss(j, is_silent ? control_redis_addr(asked) : NULL, why);
}

/* ---- what this daemon has and no worker works on */

static int by_due(const void *a, const void *b)
{
	const struct entry *x = *(const struct entry *const *)a, *y = *(const struct entry *const *)b;
	const mono_ms p = x->feed->trouble->blocked_until, q = y->feed->trouble->blocked_until;
	return p < q ? -1 : p > q;
}

/* Entries mode: asked for, and it waits with its worker for the next try of an entry. */
static bool waits_with_worker(const struct waits_job *j, const struct entry *e, mono_ms now)
{
	return e->svc == j->walk.svcs[j->walk.at] && e->state == ENTRY_ASSIGNED && entry_feed_is_blocked(e, now) &&
	       waits_is_the_one(j, e->id) && (!j->want.stream || view_matches(&j->want, e));
}

/* Those are in no set. Soonest first. */
static void waits_list_blocked(struct waits_job *j)
{
	const struct ledger *l = &j->q->d->core->ledger;
	const mono_ms now = loop_now(j->q->d->loop); /* the coordinator may have slept since its last turn */
	const struct entry **found = mem_array((size_t)l->n + 1, sizeof *found);
	size_t n = 0;
	uint32_t pos = 0;
	for (const struct entry *e; (e = ledger_next(l, &pos));)
		if (waits_with_worker(j, e, now))
			found[n++] = e;
	qsort(found, n, sizeof *found, by_due);
	for (size_t i = 0; i < n; i++) {
		const mono_ms due_ms = found[i]->feed->trouble->blocked_until - now;
		struct ctl_waiting row = {.stream = found[i]->stream->bytes,
			.state = ctl_state_name(CTL_STATE_BLOCKED),
			.retry = found[i]->feed->tries,
			.reason = "fail",
			.at_ms = mono_wall_ms() + due_ms,
			.due_ms = due_ms,
			.error = found[i]->note ? found[i]->note->bytes : NULL};
		waits_row(j, &row, found[i]->id);
	}
	mem_free(found);
}

static void waits_own(struct waits_job *j)
{
	const struct coord *c = j->q->d->core;
	uint32_t pos = 0;
	for (const struct entry *e; (e = ledger_next(&c->ledger, &pos));) {
		if (e->svc != j->walk.svcs[j->walk.at] || (e->state != ENTRY_READY && e->state != ENTRY_PARKED))
			continue;
		struct ctl_waiting row = {.stream = e->stream ? e->stream->bytes : NULL,
			.state = ctl_state_name(view_state(e, loop_now(j->q->d->loop))),
			.retry = e->retry,
			.at_ms = -1,
			.due_ms = -1};
		waits_row(j, &row, e->id);
	}
}

/* What drop does not reach: their workers have them. */
static void waits_count_blocked(struct waits_job *j)
{
	const struct ledger *l = &j->q->d->core->ledger;
	const mono_ms now = loop_now(j->q->d->loop);
	uint32_t pos = 0;
	for (const struct entry *e; (e = ledger_next(l, &pos));) {
		if (!waits_with_worker(j, e, now))
			continue;
		if (!j->walk.blocked.n++) {
			j->walk.blocked.stream = text_ref(e->stream);
			j->walk.blocked.bad = e->feed->trouble->bad;
		}
	}
}

/* Those whose worker waits with them are in no set: they have their pauses here. */
static void waits_try_own(struct waits_job *j)
{
	const struct coord *c = j->q->d->core;
	mono_ms now = loop_now(j->q->d->loop); /* the coordinator may have slept since its last turn */
	uint32_t pos = 0;
	for (const struct entry *e; !waits_is_full(j) && (e = ledger_next(&c->ledger, &pos));) {
		if (!waits_with_worker(j, e, now))
			continue;
		char id[COMMAND_ID_CAP];
		command_id_format(id, e->id);
		struct ctl_waiting_action row = {.service = j->rules->name,
			.id = id,
			.stream = e->stream->bytes,
			.result = j->q->r.dry_run ? "would_resume" : "resumed"};
		ctl_encode_waiting_action(&j->q->out, &row);
		j->n++;
		if (!j->q->r.dry_run)
			control_ctl(j->q,
				&(struct coord_ctl){.kind = CTL_TRY_NOW, .svc = e->svc, .handle = entry_handle(e)});
	}
}

/* ---- what waits for its stream: "<length>:<stream>:<padded id>", or "…:w" of a wish, whose id the registry has */

static void waits_send_parked(struct waits_job *j)
{
	waits_drop_members(j);
	if (!waits_ask(j, WAITS_PARKED))
		return;
	control_redis_words(j->conn, (const char *const[]){"ZRANGEBYLEX", j->names.parked,
					     j->parked.after ? j->parked.after : "-", "+", "LIMIT", "0", "100", NULL});
}

static void waits_on_parked(struct waits_job *j, const redisReply *raw)
{
	size_t n = raw->type == REDIS_REPLY_ARRAY ? raw->elements : 0;
	for (size_t i = 0; i < n && j->parked.n < WAITS_PAGE; i++) {
		if (raw->element[i]->type != REDIS_REPLY_STRING)
			continue;
		j->parked.members[j->parked.n] = mem_dup(raw->element[i]->str, raw->element[i]->len);
		j->parked.lens[j->parked.n++] = raw->element[i]->len;
	}
	j->is_whole = n < WAITS_PAGE;
	if (j->parked.n) {
		mem_free(j->parked.after);
		j->parked.after = mem_printf("(%s", j->parked.members[j->parked.n - 1]);
	}
	j->delayed.at = 0;
	j->stage = WAITS_MEMBER;
}

/* The stream of a member, and what follows it. */
static struct slice member_stream(const struct waits_job *j, struct slice *rest)
{
	const char *m = j->parked.members[j->delayed.at];
	size_t n = 0, digits = strspn(m, "0123456789"), len = j->parked.lens[j->delayed.at];
	for (size_t i = 0; i < digits && n < len; i++)
		n = n * 10 + (size_t)(m[i] - '0');
	if (digits == 0 || m[digits] != ':' || digits + 1 + n + 1 > len)
		return (struct slice){NULL, 0};
	*rest = (struct slice){m + digits + 1 + n + 1, len - (digits + 1 + n + 1)};
	return (struct slice){m + digits + 1, n};
}

static void say_parked(struct waits_job *j, struct entry_id id)
{
	struct slice rest, s = member_stream(j, &rest);
	char *stream = s.p ? mem_dup(s.p, s.len) : NULL;
	struct ctl_waiting row = {.stream = stream, .state = "parked", .retry = -1, .at_ms = -1, .due_ms = -1};
	waits_row(j, &row, id);
	mem_free(stream);
	j->delayed.at++;
	j->stage = WAITS_MEMBER;
}

static uint64_t padded(const char *s, size_t len)
{
	uint64_t v = 0;
	for (size_t i = 0; i < len && s[i] >= '0' && s[i] <= '9'; i++)
		v = v * 10 + (uint64_t)(s[i] - '0');
	return v;
}

static void waits_member(struct waits_job *j)
{
	struct slice rest, stream = member_stream(j, &rest);
	if (stream.p && rest.len == 1 && rest.p[0] == 'w') {
		char *wish = mem_alloc(6 + stream.len);
		memcpy(wish, "\0wish:", 6);
		memcpy(wish + 6, stream.p, stream.len);
		if (waits_ask(j, WAITS_WISH))
			control_redis_bytes(j->conn,
				(const struct slice[]){{"HGET", 4}, {j->names.registry, strlen(j->names.registry)},
					{wish, 6 + stream.len}},
				3);
		mem_free(wish);
	} else if (stream.p && rest.len == 41 && rest.p[20] == '-') {
		say_parked(j, (struct entry_id){padded(rest.p, 20), padded(rest.p + 21, 20)});
	} else {
		j->delayed.at++; /* not ours */
	}
}

/* Its first text is its id. */
static void waits_on_wish(struct waits_job *j, const redisReply *raw)
{
	struct entry_id id;
	const char *colon = raw->type == REDIS_REPLY_STRING ? memchr(raw->str, ':', raw->len) : NULL;
	size_t len = colon ? (size_t)padded(raw->str, (size_t)(colon - raw->str)) : 0;
	j->stage = WAITS_MEMBER;
	if (colon && len <= raw->len - (size_t)(colon + 1 - raw->str) && command_id_parse(colon + 1, len, &id))
		say_parked(j, id);
	else
		j->delayed.at++; /* it has begun meanwhile */
}

/* ---- what nobody has read */

static void waits_on_group(struct waits_job *j, const redisReply *groups)
{
	struct entry_id last = {0, 0};
	for (size_t i = 0; groups && groups->type == REDIS_REPLY_ARRAY && i < groups->elements; i++) {
		const redisReply *g = groups->element[i], *name = NULL, *id = NULL;
		for (size_t k = 0; k + 1 < g->elements; k += 2) {
			if (g->element[k]->type != REDIS_REPLY_STRING)
				continue;
			if (strcmp(g->element[k]->str, "name") == 0)
				name = g->element[k + 1];
			else if (strcmp(g->element[k]->str, "last-delivered-id") == 0)
				id = g->element[k + 1];
		}
		if (name && id && name->str && id->str && strcmp(name->str, j->names.group) == 0)
			command_id_parse(id->str, id->len, &last);
	}
	j->unread = entry_id_next(last);
	j->is_whole = false;
	j->stage = WAITS_UNREAD;
	j->delayed.page_n = WAITS_PAGE_FIRST;
}

static void waits_send_unread(struct waits_job *j)
{
	struct cmd c = {.kind = CMD_DLQ_RANGE, .id = j->unread, .as.read.count = (int64_t)j->delayed.page_n};
	if (waits_ask(j, WAITS_UNREAD))
		control_redis_send(j->conn, &c, &j->lbs);
}

static void waits_on_unread(struct waits_job *j, const struct entry_batch *b)
{
	for (size_t i = 0; i < b->n; i++) {
		const struct entry_in *e = &b->v[i];
		struct ctl_waiting row = {.stream = e->stream ? e->stream->bytes : NULL,
			.state = "unread",
			.retry = e->retry,
			.at_ms = -1,
			.due_ms = -1,
			.error = entry_problem_text(e->problem)};
		waits_row(j, &row, e->id);
		j->unread = entry_id_next(e->id);
	}
	j->is_whole = b->n < j->delayed.page_n;
	j->delayed.page_n = control_redis_page(j->delayed.page_n, WAITS_PAGE, b);
}

/* ---- the walk */

/* delayed drop: what it was to forget, but a worker has it. */
static bool waits_end_blocked(struct waits_job *j)
{
	const struct waits_blocked *b = &j->walk.blocked;
	char id[COMMAND_ID_CAP];
	command_id_format(id, b->bad);
	if (!b->n || (j->want.stream && j->n))
		return false;
	if (b->n == 1)
		control_end(j->q, 1,
			"%.200s waits with its worker for the next try of entry %s; drop does not reach it: sluicectl "
			"delayed now tries it at once, XDEL %.200s %s gives that entry up",
			b->stream->bytes, id, b->stream->bytes, id);
	else
		control_end(j->q, 1,
			"%zu streams wait with their workers for the next try of an entry, %.200s the first; drop does "
			"not reach them: sluicectl delayed now tries them at once, explain tells of which entry",
			b->n, b->stream->bytes);
	return true;
}

static void waits_finish(struct waits_job *j)
{
	const bool is_either = j->is_action && !j->q->r.stream && !j->q->r.id; /* one word: a service or a stream */
	if (waits_end_blocked(j))
		return;
	if (j->want.stream && j->n == 0 && !j->walk.missing.n_services)
		control_end(j->q, 1,
			is_either ? "no service and nothing that waits for its time is called %s"
				  : "nothing called %s waits for its time; sluicectl explain tells where it is",
			j->want.stream);
	else
		missing_end(j->q, &j->walk.missing, j->walk.n, "");
}

static void waits_begin_service(struct waits_job *j)
{
	const struct coord_service *s = services_find(&j->q->d->core->services, j->walk.svcs[j->walk.at]);
	if (!s || !s->rules) { /* removed meanwhile */
		j->walk.at++;
		return;
	}
	const struct service_rules *r = s->rules;
	j->rules = service_rules_ref((struct service_rules *)(uintptr_t)r);
	command_names_init(&j->names, r->name, r->dlq.name, r->same_stream, r->dlq.max_len, r->group_start);
	command_names_init(&j->lbs, r->name, j->names.lbs, r->same_stream, 0, r->group_start);
	j->delayed.from = -INFINITY;
	j->delayed.n_same = 0;
	j->delayed.page_n = j->want.by_id ? 1 : WAITS_PAGE_FIRST;
	j->first_new = (struct entry_id){0, 0};
	if (j->q->r.waiting)
		waits_own(j);
	if (!j->is_action)
		waits_list_blocked(j);
	if (j->q->r.verb == CTL_VERB_DELAYED_NOW)
		waits_try_own(j);
	if (j->q->r.verb == CTL_VERB_DELAYED_DROP)
		waits_count_blocked(j);
	if (waits_ask(j, WAITS_CLOCK))
		control_redis_send(j->conn, &(struct cmd){.kind = CMD_TIME}, &j->names);
}

/* A page is done: the next one, or the next kind, or the next service. */
static void waits_after_page(struct waits_job *j)
{
	if (waits_is_full(j)) {
		waits_finish(j);
	} else if (j->stage == WAITS_ITEM && !j->is_whole) {
		waits_send_delayed(j);
	} else if (j->stage == WAITS_ITEM && j->q->r.waiting) {
		waits_send_parked(j);
	} else if (j->stage == WAITS_MEMBER && !j->is_whole) {
		waits_send_parked(j);
	} else if (j->stage == WAITS_MEMBER && waits_ask(j, WAITS_GROUP)) {
		control_redis_words(j->conn, (const char *const[]){"XINFO", "GROUPS", j->names.lbs, NULL});
	} else if (j->stage == WAITS_UNREAD && !j->is_whole) {
		waits_send_unread(j);
	} else if (!j->is_waiting && !waits_ask_position(j)) {
		waits_next_service(j);
	}
}

static mono_ms waits_step(struct control_req *q, mono_ms now)
{
	struct waits_job *j = q->job;
	while (!j->is_waiting && !q->is_ended) {
		if (control_is_full(q))
			return now + 5;
		if (j->stage == WAITS_NEXT && j->walk.at == j->walk.n)
			waits_finish(j);
		else if (j->stage == WAITS_NEXT)
			waits_begin_service(j);
		else if (j->stage == WAITS_MEMBER && j->delayed.at < j->parked.n && !waits_is_full(j))
			waits_member(j);
		else if (j->stage != WAITS_ITEM || waits_is_full(j) || !waits_item_step(j))
			waits_after_page(j);
	}
	return MONO_NEVER;
}

static void waits_on_page(struct waits_job *j, struct reply *r, const redisReply *raw)
{
	bool is_ok = r->kind == REPLY_OK;
	if (j->stage == WAITS_CLOCK && r->kind == REPLY_INT) {
		j->clock_ms = r->integer;
		waits_send_delayed(j);
	} else if (j->stage == WAITS_DELAYED && is_ok) {
		waits_on_delayed(j, raw);
	} else if (j->stage == WAITS_POSITION && is_ok) {
		waits_on_position(j, raw);
	} else if (j->stage == WAITS_DATA && is_ok) {
		waits_on_data(j, raw);
	} else if (j->stage == WAITS_PARKED && is_ok) {
		waits_on_parked(j, raw);
	} else if (j->stage == WAITS_WISH && is_ok) {
		waits_on_wish(j, raw);
	} else if (j->stage == WAITS_GROUP && r->kind != REPLY_NONE) { /* an error: there is no such stream */
		waits_on_group(j, is_ok ? raw : NULL);
	} else if (j->stage == WAITS_UNREAD && r->kind == REPLY_ENTRIES) {
		waits_on_unread(j, r->entries);
	} else {
		waits_fail(j, r->kind == REPLY_NONE);
	}
}

static void waits_on_answer(void *arg, struct reply *r, const redisReply *raw)
{
	struct waits_job *j = arg;
	bool is_unknown = r->kind == REPLY_ERROR && r->error == RERR_NOSCRIPT && !j->use_eval;
	j->is_waiting = false;
	j->use_eval = is_unknown;
	if (is_unknown)
		j->stage = WAITS_ITEM; /* the same again, with the script */
	else if (j->stage == WAITS_PAUSE)
		waits_on_pause(j, r);
	else if (j->stage == WAITS_ACT)
		waits_on_act(j, r);
	else
		waits_on_page(j, r, raw);
	if (r->kind == REPLY_ENTRIES)
		entry_batch_free(r->entries);
	control_go_on(j->q);
}

/* ---- the request */

static bool has_service(const struct coord *c, const char *name)
{
	for (uint16_t i = 0; i < c->services.n; i++)
		if (c->services.v[i].rules && !c->services.v[i].is_going &&
			strcmp(c->services.v[i].rules->name, name) == 0)
			return true;
	return false;
}

void control_waits(struct control_req *q)
{
	const struct coord *c = q->d->core;
	const char *service = q->r.service, *what = q->r.stream ? q->r.stream : q->r.id;
	if (q->r.waiting && ctl_has(&q->r, CTL_ARG_STATE)) {
		control_end(q, 64, "--waiting and --state do not go together");
		return;
	}
	bool is_action = q->r.verb == CTL_VERB_DELAYED_NOW || q->r.verb == CTL_VERB_DELAYED_DROP;
	if (is_action && service && !what && !has_service(c, service)) { /* a stream, of whatever service */
		what = service;
		service = NULL;
	}
	if (service && !control_service(q, service))
		return;
	struct waits_job *j = mem_alloc(sizeof *j);
	j->q = q;
	j->is_action = is_action;
	if (what)
		view_match_init(&j->want, what, SERVICE_NONE);
	if (what && what != q->r.id && q->r.id)
		command_id_parse(q->r.id, strlen(q->r.id), &j->walk.only); /* has been looked at */
	j->walk.svcs = mem_array((size_t)c->services.n + 1, sizeof *j->walk.svcs);
	for (uint16_t i = 0; i < c->services.n; i++) {
		const struct coord_service *s = &c->services.v[i];
		if (s->rules && !s->is_going && (!service || strcmp(s->rules->name, service) == 0))
			j->walk.svcs[j->walk.n++] = s->svc;
	}
	control_job(q, waits_step, j, waits_free);
}
