/* explain for what this daemon does not hold: service by service, the load-balancer stream, then the dead letters.
 *
 * Happy path, first pass: where the group stands -> pages of what is not read yet -> what the registry calls
 * running. Second pass, when no service had it there: pages of what others have. Found: XPENDING tells its owner,
 * the lock whether it lives. Failure: Redis does not answer: exit 1 with its words. It gives up after SEEK_MAX
 * entries of a stream, and says so. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "codec/packed.h"
#include "run/control/down.h"
#include "run/control/explain.h"
#include "run/control/redis.h"

enum { SEEK_PAGE_FIRST = 8, SEEK_PAGE = 500, SEEK_MAX = 50000 };
enum seek_stage {
	SEEK_GROUP,
	SEEK_UNREAD,
	SEEK_ACTIVE,
	SEEK_NAMED,
	SEEK_LBS,
	SEEK_PENDING,
	SEEK_LOCK,
	SEEK_PARKED,
	SEEK_LOOSE, /* pending for nobody: was it delivered? */
	SEEK_DELAYED,
	SEEK_DUE,
	SEEK_DLQ
};

/* The services that are looked through. */
struct seek_walk {
	uint16_t *svcs;
	size_t n, at;
	size_t n_seen, page_n;   /* entries of the present one; so many are asked for */
	struct entry_id *unread; /* by service: the first that nobody has read; 0-0 = not known */
	bool *all_ours;          /* by service: what has been read is held by this daemon, which did not have it */
	bool is_cut, is_second;  /* there was more than we look through; the second pass */
};

struct seek {
	struct control_req *q;
	struct view_match want;
	struct seek_walk walk;
	enum seek_stage stage;
	struct command_names lbs,
		dlq; /* lbs: the load-balancer stream in the place of the dead letters, to page through it */
	bool has_names, is_waiting;
	struct control_redis *conn;
	struct entry_id from, id;
	struct text *stream;
	uint16_t lock_slot;
	char *consumer;
	int64_t idle_ms, deliveries;
	char *packed; /* what waits for its time */
	size_t packed_len;
	size_t n_found;
};

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
	mem_free(j->walk.svcs);
	mem_free(j->walk.unread);
	mem_free(j->walk.all_ours);
	mem_free(j);
}

static const struct coord_service *service(const struct seek *j)
{
	return services_find(&j->q->d->core->services, j->walk.svcs[j->walk.at]);
}

static void next_service(struct seek *j)
{
	drop_service(j);
	j->walk.at++;
	if (j->walk.at < j->walk.n || j->walk.is_second || j->n_found)
		return;
	j->walk.is_second = true;
	j->walk.at = 0;
}

/* ---- what was found */

static void row_of(struct seek *j, struct facts *f, struct ctl_explain *row)
{
	char id[COMMAND_ID_CAP];
	command_id_format(id, j->id);
	const struct coord_service *s = service(j);
	row->service = s ? s->rules->name : "";
	row->stream = j->stream ? j->stream->bytes : j->q->r.stream;
	row->id = id;
	facts_encode(j->q, f, row);
	facts_fini(f);
	j->n_found++;
}

static void found_waiting(struct seek *j)
{
	struct facts f = {0};
	const struct coord_service *s = service(j);
	char age[24];
	facts_age(age, view_age_ms(mono_wall_ms(), j->id));
	facts_add(&f, "no daemon has read it, it waits in %s for %s", j->lbs.lbs, age);
	if (s)
		facts_service(&f, j->q->d, s);
	facts_next(&f, "the next daemon of the group with a free credit reads it, in order");
	row_of(j, &f, &(struct ctl_explain){.state = "waiting"});
	next_service(j);
}

/* Delivered, and pending for nobody: it waits until the running one of its stream has ended. */
static void found_parked(struct seek *j)
{
	struct facts f = {0};
	char age[24];
	facts_age(age, view_age_ms(mono_wall_ms(), j->id));
	facts_add(&f, "parked: it waits until the running entry of the same stream has ended, for %s", age);
	facts_next(&f, "it begins when all that were added before it have ended");
	row_of(j, &f, &(struct ctl_explain){.state = "parked"});
	next_service(j);
}

/* Delivered, and neither pending nor waiting for its stream. */
static void found_ghost(struct seek *j)
{
	const struct coord_service *s = service(j);
	struct facts f = {0};
	facts_add(&f,
		"it was delivered to a consumer of the group, but nobody has it: that consumer was deleted (XGROUP "
		"DELCONSUMER), or is about to delete the entry");
	facts_next(
		&f, "one of the daemons finds it within recovery.interval and lease.ttl, and puts it back uncounted");
	if (s)
		facts_advice(&f, "sluicectl scan %s", s->rules->name);
	row_of(j, &f, &(struct ctl_explain){.state = "ghost"});
	next_service(j);
}

static void found_delayed(struct seek *j, int64_t due_ms)
{
	struct packed room = {0};
	struct packed_entry e = {.n = 0};
	const struct coord_service *s = service(j);
	struct facts f = {0};
	char in[24];
	facts_age(in, due_ms - mono_wall_ms());
	if (!packed_decode(&room, (struct slice){j->packed, j->packed_len}, &e))
		facts_add(&f, "it waits, next try in %s", in);
	else if (e.why.len == 4 && memcmp(e.why.p, "fail", 4) == 0)
		facts_add(&f, "failed %u of %u times, next try in %s%s%.*s", packed_retries(&e),
			s ? s->rules->max_retries + 1 : 0, in, e.reason.len ? ": " : "", (int)e.reason.len,
			e.reason.len ? e.reason.p : "");
	else if (e.why.len == 7 && memcmp(e.why.p, "release", 7) == 0)
		facts_add(&f, "%.*s%s, next try in %s", (int)e.reason.len, e.reason.len ? e.reason.p : "",
			e.reason.len ? "" : "its worker gave it back", in);
	else
		facts_add(&f, "added for later, due in %s", in);
	facts_next(&f, "it goes back to %s when it is due; nothing of its stream begins before it", j->lbs.lbs);
	if (e.stream.len && !j->stream)
		j->stream = text_new(e.stream.p, e.stream.len);
	row_of(j, &f, &(struct ctl_explain){.state = "delayed"});
	packed_fini(&room);
	next_service(j);
}

static void found_elsewhere(struct seek *j, const struct reply *r)
{
	struct facts f = {0};
	char idle[24];
	bool locked = r->kind == REPLY_TEXT;
	facts_age(idle, j->idle_ms);
	facts_add(&f, "it is pending for consumer %s, read %s ago, %lld deliveries", j->consumer, idle,
		(long long)j->deliveries);
	if (locked)
		facts_add(&f, "lock held by %.*s", (int)r->text.len, r->text.p);
	else
		facts_add(&f, "its lock is missing: the owner is locking it, or has died");
	if (locked)
		facts_next(&f, "its owner runs it; when the lock expires, it goes back to the stream");
	else
		facts_next(&f, "when its owner stays silent, it goes back to the stream");
	row_of(j, &f, &(struct ctl_explain){.state = "elsewhere", .owner = j->consumer, .running = locked});
	next_service(j);
}

static void found_dead(struct seek *j, const struct entry_in *e)
{
	struct facts f = {0};
	char age[24];
	struct slice reason = {"?", 1}, error = {"", 0};
	for (size_t i = 0; e->fields && i < e->fields->n; i++) {
		const struct field *v = &e->fields->v[i];
		if (v->name.len == 11 && memcmp(v->name.p, "_dlq_reason", 11) == 0)
			reason = v->value;
		else if (v->name.len == 10 && memcmp(v->name.p, "_dlq_error", 10) == 0)
			error = v->value;
	}
	j->id = e->id;
	facts_age(age, view_age_ms(mono_wall_ms(), e->id));
	facts_add(&f, "it is a dead letter in %s since %s: %.*s", j->dlq.dlq, age, (int)reason.len, reason.p);
	if (error.len)
		facts_add(&f, "its error: %.*s", (int)mono_min((mono_ms)error.len, 500), error.p);
	const struct coord_service *s = service(j);
	if (s && !j->want.by_id)
		facts_next(&f, "sluicectl dlq ls %s --stream %.300s tells whether there are more", s->rules->name,
			j->q->r.stream);
	if (s)
		facts_advice(&f, "sluicectl dlq replay %s --id %llu-%llu", s->rules->name, (unsigned long long)e->id.ms,
			(unsigned long long)e->id.seq);
	row_of(j, &f, &(struct ctl_explain){.state = "dead"});
	next_service(j);
}

/* ---- questions */

static void remote_on_answer(void *arg, struct reply *r, const redisReply *raw);

/* A connection to the master of that slot; false: there is none, the request has ended. */
static bool remote_connect_to(struct seek *j, uint16_t slot)
{
	const char *addr = view_addr(j->q->d, slot);
	struct err err;
	if (control_redis_to(j->q->d, addr, remote_on_answer, j, &j->conn, &err) == ERR_OK)
		return true;
	if (!addr && j->q->d->core->topo.is_known)
		control_end(j->q, 1, "%s is not held by this daemon, and slot %u has no master to ask", j->q->r.stream,
			slot);
	else if (!addr)
		control_end(j->q, 1, "%s is not held by this daemon, and Redis is not reachable: %s", j->q->r.stream,
			down_topology(j->q->d));
	else
		control_end(j->q, 1, "%s", err.text);
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

static void begin_service(struct seek *j, const struct service_rules *r)
{
	command_names_init(&j->dlq, r->name, r->dlq.name, r->same_stream, 0, r->group_start);
	command_names_init(&j->lbs, r->name, j->dlq.lbs, r->same_stream, 0, r->group_start);
	j->has_names = true;
	begin_stream(j, !j->walk.is_second ? SEEK_GROUP : j->walk.all_ours[j->walk.at] ? SEEK_DLQ : SEEK_LBS);
}

static void not_found(struct seek *j)
{
	if (j->n_found)
		control_end(j->q, 0, NULL);
	else if (j->walk.is_cut)
		control_end(j->q, 1,
			"%s is not among the first %d entries of each stream; its entry's id finds it further back",
			j->q->r.stream, SEEK_MAX);
	else {
		struct control_req *q = j->q;
		remote_job_free(j);
		control_explain_aside(q);
	}
}

static mono_ms seek_step(struct control_req *q, mono_ms now)
{
	struct seek *j = q->job;
	(void)now;
	if (j->is_waiting)
		return MONO_NEVER;
	const struct coord_service *s = j->walk.at < j->walk.n ? service(j) : NULL;
	if (j->walk.at == j->walk.n) {
		not_found(j);
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
	return MONO_NEVER;
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

/* Some are pending for nobody: they are not read, wait for their stream, or are ghosts. */
static bool has_loose(const struct seek *j)
{
	struct view_service *v = view_services(j->q->d);
	const struct coord_service *s = service(j);
	const struct view_service *mine = s ? &v[services_pos(&j->q->d->core->services, s)] : NULL;
	bool has = mine && (mine->parked != 0 || mine->lbs != mine->pending);
	mem_free(v);
	return has;
}

static void on_group(struct seek *j, const redisReply *groups)
{
	const redisReply *g = our_group(j, groups), *last = g ? remote_value_of(g, "last-delivered-id") : NULL;
	struct entry_id id;
	j->walk.all_ours[j->walk.at] = g && !has_loose(j) && is_all_ours(j, remote_value_of(g, "pending"));
	if (last && last->type == REDIS_REPLY_STRING && command_id_parse(last->str, last->len, &id)) {
		j->walk.unread[j->walk.at] = entry_id_next(id);
		begin_stream(j, SEEK_UNREAD);
	} else {
		next_service(j);
	}
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
	if (id && id->type == REDIS_REPLY_STRING && command_id_parse(id->str, id->len, &j->from))
		j->stage = SEEK_NAMED;
	else
		next_service(j);
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
		j->packed = mem_dup(r->str, r->len);
		j->packed_len = r->len;
		j->stage = SEEK_DUE;
	} else if (j->stage == SEEK_DUE && (has || (r && r->type == REDIS_REPLY_DOUBLE))) {
		found_delayed(j, r->type == REDIS_REPLY_DOUBLE ? (int64_t)r->dval : (int64_t)strtod(r->str, NULL));
	} else if (j->walk.is_second) {
		begin_stream(j, SEEK_DLQ);
	} else {
		next_service(j);
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
	else if (j->stage == SEEK_UNREAD)
		j->stage = SEEK_ACTIVE;
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
		if (!is_wanted(j, e))
			continue;
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
		found_elsewhere(j, &(struct reply){.kind = REPLY_NIL}); /* unreadable: it has no lock */
}

static void remote_on_answer(void *arg, struct reply *r, const redisReply *raw)
{
	struct seek *j = arg;
	j->is_waiting = false;
	bool no_group = r->kind == REPLY_ERROR && r->error == RERR_NOGROUP;
	if (j->stage == SEEK_GROUP && r->kind != REPLY_NONE)
		on_group(j, r->kind == REPLY_OK ? raw : NULL);
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
		found_elsewhere(j, r);
	else
		control_end(j->q, 1, "%.200s is not held by this daemon, and %s", j->q->r.stream,
			control_redis_why(j->conn));
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
