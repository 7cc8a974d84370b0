/* explain for what this daemon does not hold: service by service, the load-balancer stream, then the dead letters.
 *
 * Happy path, first pass: where the group stands -> what the registry calls running -> pages of what is not read yet.
 * Second pass, when no service had it there: pages of what others have. Found: XPENDING tells its owner, the lock
 * whether it lives. Failure: Redis does not answer: the next service is looked through; found nowhere: exit 1 with the
 * server's words. It gives up after SEEK_MAX entries of a stream, and says so. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "run/control/down.h"
#include "run/control/explain_remote_p.h"

enum { SEEK_PAGE_FIRST = 8, SEEK_PAGE = 500, SEEK_MAX = 50000 };

static void drop_service(struct seek *j)
{
	control_redis_close(j->conn);
	j->conn = NULL;
	if (j->has_names) {
		command_names_fini(&j->lbs);
		command_names_fini(&j->dlq);
	}
	j->has_names = false;
	text_unref(j->stream);
	j->stream = NULL;
	mem_free(j->consumer);
	j->consumer = NULL;
	mem_free(j->packed);
	j->packed = NULL;
}

static void remote_job_free(void *job)
{
	struct seek *j = job;
	drop_service(j);
	missing_fini(&j->walk.missing);
	mem_free(j->walk.svcs);
	mem_free(j->walk.unread);
	mem_free(j->walk.all_ours);
	mem_free(j);
}

const struct coord_service *seek_service(const struct seek *j)
{
	return services_find(&j->q->d->core->services, j->walk.svcs[j->walk.at]);
}

static void next_service(struct seek *j)
{
	drop_service(j);
	j->walk.has_active = false;
	j->walk.active = (struct entry_id){0, 0};
	j->n_before = j->found.n;
	j->walk.at++;
	if (j->walk.at < j->walk.n || j->walk.is_second || j->found.n)
		return;
	j->walk.is_second = true;
	j->walk.at = 0;
}

/* ---- questions */

static void remote_on_answer(void *arg, struct reply *r, const redisReply *raw);

/* The service cannot be looked through: the others are. addr: of the master that did not answer; NULL = another
 * reason. */
static void seek_miss(struct seek *j, const char *addr, const char *why)
{
	const struct coord_service *s = seek_service(j);
	missing_add(&j->walk.missing, s ? s->rules->name : "?", addr, why);
	next_service(j);
}

/* A connection to the master of that slot; false: there is none, the next service is looked through. */
static bool remote_connect_to(struct seek *j, uint16_t slot)
{
	const bool is_lock = j->stage == SEEK_LOCK;
	const char *addr, *key = is_lock ? "its lock" : j->lbs.lbs;
	struct err err = {0};
	char words[DOWN_WORDS_CAP];
	const char *why = missing_master(&j->walk.missing, j->q->d, key, slot, &addr, words);
	if (!why && control_redis_to(j->q->d, addr, remote_on_answer, j, &j->conn, &err) == ERR_OK)
		return true;
	why = why ? why : err.text;
	if (is_lock) /* its owner is known all the same */
		found_elsewhere(j, &(struct reply){.kind = REPLY_NONE}, why);
	else
		seek_miss(j, addr, why);
	return false;
}

static void ask_words(struct seek *j, uint16_t slot, const char *const *words)
{
	if (!remote_connect_to(j, slot))
		return;
	j->is_waiting = true;
	control_redis_words(j->conn, words);
}

static void remote_ask(struct seek *j, uint16_t slot, const struct cmd *c, const struct command_names *names)
{
	if (!remote_connect_to(j, slot))
		return;
	j->is_waiting = true;
	control_redis_send(j->conn, c, names);
}

/* Its member there, as codec/script_lua has it. */
static void ask_parked(struct seek *j, uint16_t slot)
{
	char *member = mem_printf("%u:%s:%020llu-%020llu", (unsigned)j->stream->len, j->stream->bytes,
		(unsigned long long)j->id.ms, (unsigned long long)j->id.seq);
	ask_words(j, slot, (const char *const[]){"ZSCORE", j->lbs.parked, member, NULL});
	mem_free(member);
}

static void ask_delayed(struct seek *j, uint16_t slot)
{
	char id[COMMAND_ID_CAP];
	command_id_format(id, j->id);
	if (j->stage == SEEK_DELAYED)
		ask_words(j, slot, (const char *const[]){"HGET", j->lbs.delayed_data, id, NULL});
	else
		ask_words(j, slot, (const char *const[]){"ZSCORE", j->lbs.delayed, id, NULL});
}

static void begin_stream(struct seek *j, enum seek_stage stage)
{
	static const struct entry_id first = {0, 0};
	j->stage = stage;
	j->from = stage == SEEK_UNREAD ? j->walk.unread[j->walk.at] : j->want.by_id ? j->want.id : first;
	j->walk.n_seen = 0;
	j->walk.page_n = SEEK_PAGE_FIRST;
}

void seek_go_on(struct seek *j)
{
	if (!j->walk.has_active) {
		next_service(j);
		return;
	}
	j->walk.has_active = false;
	begin_stream(j, SEEK_UNREAD);
}

static void begin_service(struct seek *j, const struct service_rules *r)
{
	command_names_init(&j->dlq, r->name, r->dlq.name, r->same_stream, 0, r->group_start);
	command_names_init(&j->lbs, r->name, j->dlq.lbs, r->same_stream, 0, r->group_start);
	j->has_names = true;
	begin_stream(j, !j->walk.is_second ? SEEK_GROUP : j->walk.all_ours[j->walk.at] ? SEEK_DLQ : SEEK_LBS);
}

static void seek_is_over(struct seek *j)
{
	if (j->found.n && j->want.by_id)
		control_end(j->q, 0, NULL);
	else if (!j->found.n && j->walk.is_cut)
		control_end(j->q, 1,
			"%s is not among the first %d entries of each stream; its entry's id finds it further back",
			j->q->r.stream, SEEK_MAX);
	else {
		struct control_req *q = j->q;
		struct missing missing = j->walk.missing;
		const struct explain_found found = j->found;
		j->walk.missing = (struct missing){0};
		remote_job_free(j);
		control_explain_aside(q, &missing, found);
	}
}

static mono_ms seek_step(struct control_req *q, mono_ms now)
{
	struct seek *j = q->job;
	if (j->is_waiting)
		return MONO_NEVER;
	const struct coord_service *s = j->walk.at < j->walk.n ? seek_service(j) : NULL;
	if (j->walk.at == j->walk.n) {
		seek_is_over(j);
		return MONO_NEVER;
	}
	if (!s) { /* removed meanwhile */
		next_service(j);
		return 0;
	}
	if (!j->has_names)
		begin_service(j, s->rules);
	bool is_one = j->want.by_id || j->stage == SEEK_NAMED;
	struct cmd page = {.kind = CMD_DLQ_RANGE, .id = j->from, .as.read.count = is_one ? 1 : (int64_t)j->walk.page_n};
	switch (j->stage) {
	case SEEK_GROUP:
	case SEEK_LOOSE:
		ask_words(j, s->rules->lbs_slot, (const char *const[]){"XINFO", "GROUPS", j->lbs.lbs, NULL});
		break;
	case SEEK_LENGTH:
		ask_words(j, s->rules->lbs_slot, (const char *const[]){"XLEN", j->lbs.lbs, NULL});
		break;
	case SEEK_ACTIVE:
		ask_words(j, s->rules->lbs_slot, (const char *const[]){"HGET", j->lbs.registry, j->q->r.stream, NULL});
		break;
	case SEEK_UNREAD:
	case SEEK_NAMED:
	case SEEK_LBS:
		remote_ask(j, s->rules->lbs_slot, &page, &j->lbs);
		break;
	case SEEK_PENDING:
		remote_ask(j, s->rules->lbs_slot,
			&(struct cmd){.kind = CMD_PENDING, .id = j->id, .as.pending.count = 1}, &j->lbs);
		break;
	case SEEK_LOCK:
		remote_ask(j, j->lock_slot,
			&(struct cmd){.kind = CMD_LOCK_GET, .stream = {j->stream->bytes, j->stream->len}, .id = j->id},
			&j->lbs);
		break;
	case SEEK_PARKED:
		ask_parked(j, s->rules->lbs_slot);
		break;
	case SEEK_DELAYED:
	case SEEK_DUE:
		ask_delayed(j, s->rules->lbs_slot);
		break;
	case SEEK_DLQ:
		remote_ask(j, s->rules->dlq.slot, &page, &j->dlq);
		break;
	}
	return j->is_waiting ? MONO_NEVER : now; /* or that service is passed over */
}

/* ---- answers */

static bool is_wanted(const struct seek *j, const struct entry_in *e)
{
	if (j->want.by_id && entry_id_cmp(e->id, j->want.id) == 0)
		return true;
	return e->stream && e->stream->len == j->want.len && memcmp(e->stream->bytes, j->want.stream, j->want.len) == 0;
}

static bool remote_is_text(const redisReply *r, const char *text)
{
	return r->type == REDIS_REPLY_STRING && r->len == strlen(text) && memcmp(r->str, text, r->len) == 0;
}

static const redisReply *remote_value_of(const redisReply *map, const char *key)
{
	for (size_t k = 0; k + 1 < map->elements; k += 2)
		if (remote_is_text(map->element[k], key))
			return map->element[k + 1];
	return NULL;
}

/* The group's row of XINFO GROUPS; NULL: there is none. */
static const redisReply *our_group(const struct seek *j, const redisReply *groups)
{
	for (size_t i = 0; groups && i < groups->elements; i++) {
		const redisReply *name = remote_value_of(groups->element[i], "name");
		if (name && remote_is_text(name, j->lbs.group))
			return groups->element[i];
	}
	return NULL;
}

static bool is_all_ours(const struct seek *j, const redisReply *pending)
{
	const struct coord *c = j->q->d->core;
	long long n = 0;
	uint32_t pos = 0;
	for (const struct entry *e; (e = ledger_next(&c->ledger, &pos));)
		n += e->svc == j->walk.svcs[j->walk.at] && e->state != ENTRY_FINISHING;
	return pending && pending->type == REDIS_REPLY_INTEGER && pending->integer <= n;
}

static void on_group(struct seek *j, const redisReply *groups)
{
	const redisReply *g = our_group(j, groups), *last = g ? remote_value_of(g, "last-delivered-id") : NULL;
	const redisReply *pending = g ? remote_value_of(g, "pending") : NULL;
	const bool all_ours = j->walk.all_ours[j->walk.at] = is_all_ours(j, pending);
	struct entry_id id;
	j->walk.n_pending = all_ours ? pending->integer : 0;
	if (last && last->type == REDIS_REPLY_STRING && command_id_parse(last->str, last->len, &id)) {
		j->walk.unread[j->walk.at] = entry_id_next(id);
		j->stage = all_ours ? SEEK_LENGTH : SEEK_ACTIVE;
	} else {
		next_service(j);
	}
}

/* More than is pending: some are not read, wait for their stream, or are ghosts. */
static void on_length(struct seek *j, const redisReply *length)
{
	j->walk.all_ours[j->walk.at] =
		length && length->type == REDIS_REPLY_INTEGER && length->integer == j->walk.n_pending;
	j->stage = SEEK_ACTIVE;
}

static void on_loose(struct seek *j, const redisReply *groups)
{
	const redisReply *g = our_group(j, groups), *last = g ? remote_value_of(g, "last-delivered-id") : NULL;
	struct entry_id id;
	if (last && last->type == REDIS_REPLY_STRING && command_id_parse(last->str, last->len, &id) &&
		entry_id_cmp(j->id, id) <= 0)
		found_ghost(j);
	else
		found_waiting(j);
}

static void on_active(struct seek *j, const redisReply *id)
{
	j->walk.has_active = id && id->type == REDIS_REPLY_STRING && command_id_parse(id->str, id->len, &j->from);
	if (!j->walk.has_active) {
		begin_stream(j, SEEK_UNREAD);
		return;
	}
	j->walk.active = j->from;
	j->stage = SEEK_NAMED;
}

/* Not in the stream: it may wait for its time. */
static void seek_delayed(struct seek *j)
{
	j->id = j->stage == SEEK_NAMED ? j->from : j->want.id;
	j->stage = SEEK_DELAYED;
}

static void on_parked(struct seek *j, const redisReply *r)
{
	if (r && r->type != REDIS_REPLY_NIL)
		found_parked(j);
	else
		j->stage = SEEK_LOOSE;
}

static void on_delayed(struct seek *j, const redisReply *r)
{
	bool has = r && r->type == REDIS_REPLY_STRING;
	if (j->stage == SEEK_DELAYED && has) {
		mem_free(j->packed);
		j->packed = mem_dup(r->str, r->len);
		j->packed_len = r->len;
		j->stage = SEEK_DUE;
	} else if (j->stage == SEEK_DUE && (has || (r && r->type == REDIS_REPLY_DOUBLE))) {
		found_delayed(j, r->type == REDIS_REPLY_DOUBLE ? (int64_t)r->dval : (int64_t)strtod(r->str, NULL));
	} else if (j->walk.is_second) {
		begin_stream(j, SEEK_DLQ);
	} else {
		seek_go_on(j);
	}
}

/* The page did not have it. */
static void after_page(struct seek *j, const struct entry_batch *b)
{
	const struct entry_id end = b->n ? b->v[b->n - 1].id : (struct entry_id){0, 0};
	bool is_seen = j->stage == SEEK_LBS && j->walk.unread[j->walk.at].ms &&
		       entry_id_cmp(end, j->walk.unread[j->walk.at]) >= 0;
	bool is_full = !j->want.by_id && j->stage != SEEK_NAMED && b->n == j->walk.page_n && !is_seen;
	j->walk.n_seen += b->n;
	j->walk.is_cut = j->walk.is_cut || (is_full && j->walk.n_seen >= SEEK_MAX);
	j->walk.page_n = control_redis_page(j->walk.page_n, SEEK_PAGE, b);
	if (is_full && j->walk.n_seen < SEEK_MAX)
		j->from = entry_id_next(end);
	else if (j->stage == SEEK_NAMED || (j->stage == SEEK_LBS && j->want.by_id))
		seek_delayed(j);
	else if (j->stage == SEEK_LBS)
		begin_stream(j, SEEK_DLQ);
	else
		next_service(j);
}

static void on_page(struct seek *j, struct entry_batch *b)
{
	for (size_t i = 0; i < b->n; i++) {
		struct entry_in *e = &b->v[i];
		if (!is_wanted(j, e) || (j->stage == SEEK_UNREAD && entry_id_cmp(e->id, j->walk.active) == 0))
			continue; /* what goes back is both named by the registry and unread */
		text_unref(j->stream);
		j->stream = text_ref(e->stream);
		j->id = e->id;
		j->lock_slot = e->lock_slot;
		if (j->stage == SEEK_DLQ)
			found_dead(j, e);
		else
			j->stage = SEEK_PENDING;
		return;
	}
	after_page(j, b);
}

static void on_pending(struct seek *j, const struct reply *r)
{
	if (r->n == 0 || entry_id_cmp(r->pending[0].id, j->id) != 0) {
		j->stage = j->stream ? SEEK_PARKED : SEEK_LOOSE;
		return;
	}
	mem_free(j->consumer);
	j->consumer = mem_dup(r->pending[0].consumer.p, r->pending[0].consumer.len);
	j->idle_ms = r->pending[0].idle_ms;
	j->deliveries = (int64_t)r->pending[0].deliveries;
	if (j->stream)
		j->stage = SEEK_LOCK;
	else
		found_elsewhere(j, &(struct reply){.kind = REPLY_NIL}, NULL); /* unreadable: it has no lock */
}

static void remote_on_answer(void *arg, struct reply *r, const redisReply *raw)
{
	struct seek *j = arg;
	j->is_waiting = false;
	bool no_group = r->kind == REPLY_ERROR && r->error == RERR_NOGROUP;
	if (j->stage == SEEK_GROUP && r->kind != REPLY_NONE)
		on_group(j, r->kind == REPLY_OK ? raw : NULL);
	else if (j->stage == SEEK_LENGTH && r->kind != REPLY_NONE)
		on_length(j, r->kind == REPLY_OK ? raw : NULL);
	else if (j->stage == SEEK_LOOSE && r->kind != REPLY_NONE)
		on_loose(j, r->kind == REPLY_OK ? raw : NULL);
	else if (j->stage == SEEK_ACTIVE && r->kind != REPLY_NONE)
		on_active(j, r->kind == REPLY_OK ? raw : NULL);
	else if ((j->stage == SEEK_DELAYED || j->stage == SEEK_DUE) && r->kind != REPLY_NONE)
		on_delayed(j, r->kind == REPLY_OK ? raw : NULL);
	else if (r->kind == REPLY_ENTRIES)
		on_page(j, r->entries);
	else if (j->stage == SEEK_PENDING && r->kind == REPLY_PENDING)
		on_pending(j, r);
	else if (j->stage == SEEK_PARKED && r->kind != REPLY_NONE)
		on_parked(j, r->kind == REPLY_OK ? raw : NULL);
	else if (j->stage == SEEK_PENDING && no_group)
		found_waiting(j);
	else if (j->stage == SEEK_LOCK && (r->kind == REPLY_TEXT || r->kind == REPLY_NIL))
		found_elsewhere(j, r, NULL);
	else if (j->stage == SEEK_LOCK)
		found_elsewhere(j, &(struct reply){.kind = REPLY_NONE}, control_redis_why(j->conn));
	else
		seek_miss(j, r->kind == REPLY_NONE ? control_redis_addr(j->conn) : NULL, control_redis_why(j->conn));
	if (r->kind == REPLY_ENTRIES)
		entry_batch_free(r->entries);
	control_go_on(j->q);
}

void control_explain_remote(struct control_req *q)
{
	const struct coord *c = q->d->core;
	struct seek *j = mem_alloc(sizeof *j);
	j->q = q;
	j->walk.svcs = mem_array((size_t)c->services.n + 1, sizeof *j->walk.svcs);
	j->walk.unread = mem_array((size_t)c->services.n + 1, sizeof *j->walk.unread);
	j->walk.all_ours = mem_array((size_t)c->services.n + 1, sizeof *j->walk.all_ours);
	view_match_init(&j->want, q->r.stream, SERVICE_NONE);
	j->walk.is_second = j->want.by_id; /* that is quick */
	for (uint16_t i = 0; i < c->services.n; i++) {
		const struct coord_service *s = &c->services.v[i];
		if (s->rules && !s->is_going && (!q->r.service || strcmp(s->rules->name, q->r.service) == 0))
			j->walk.svcs[j->walk.n++] = s->svc;
	}
	control_job(q, seek_step, j, remote_job_free);
}
