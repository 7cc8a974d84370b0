/* fleet - all daemons of a service as any of them sees it: the group's consumers, what each said of itself, who left on
 * purpose. And the other side: what we say of ourselves.
 *
 * Happy path: XINFO CONSUMERS -> who left -> {<lbs>}-fleet -> rows by name, service by service. Failure: Redis does not
 * answer: exit 1 with its words, behind the rows of the other services. A daemon that may not write that key, an older
 * one or another client is a row too, with what the group knows of it. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "codec/json.h"
#include "run/control/control.h"
#include "run/control/down.h"
#include "run/control/missing.h"
#include "run/control/redis.h"

enum { FLEET_AGAIN_MS = 10000, FLEET_LEFT_SLACK_MS = 500 };
enum fleet_stage { FLEET_NEXT, FLEET_CONSUMERS, FLEET_LEFT, FLEET_SAID };

/* ---- what we say */

struct fleet_told {
	struct msg_fleet has;
	uint16_t shard;
	mono_ms at;
};

void control_fleet_tick(struct daemon *d, mono_ms now)
{
	const struct coord *c = d->core;
	if (d->fleet.n < c->services.n) {
		d->fleet.told = mem_grow(d->fleet.told, c->services.n, sizeof *d->fleet.told);
		memset(d->fleet.told + d->fleet.n, 0, (size_t)(c->services.n - d->fleet.n) * sizeof *d->fleet.told);
		d->fleet.n = c->services.n;
	}
	for (uint16_t i = 0; i < c->services.n; i++) {
		const struct coord_service *s = &c->services.v[i];
		struct fleet_told *was = &d->fleet.told[i];
		const uint16_t shard = s->reader.shard;
		if (!s->rules || s->is_going || shard >= d->shards.n || !d->shards.v[shard])
			continue;
		const struct msg_fleet has = coord_offer(c, i);
		if (was->at && was->has.credits == has.credits && was->has.n_workers == has.n_workers &&
			was->has.may_get_more == has.may_get_more && was->shard == shard &&
			now - was->at < FLEET_AGAIN_MS)
			continue;
		*was = (struct fleet_told){.has = has, .shard = shard, .at = now};
		struct run_msg m = {.kind = RUN_CORE, .core = msg_fleet(has)};
		m.core.svc = s->svc;
		shard_thread_send(d->shards.v[shard], &m);
	}
}

/* ---- what all have */

struct fleet_row {
	char *consumer, *version; /* owned */
	int64_t owned, idle_ms, credits, workers;
	bool has_left;
};

struct fleet_job {
	struct control_req *q;
	uint16_t *svcs;
	size_t n_svcs, at;
	struct control_redis *conn;
	const struct service_rules *rules; /* a reference */
	struct command_names names;
	enum fleet_stage stage;
	bool is_waiting, use_eval;
	struct fleet_row *rows;
	size_t n_rows;
	struct missing missing;
};

static void fleet_leave_service(struct fleet_job *j)
{
	control_redis_close(j->conn);
	j->conn = NULL;
	for (size_t i = 0; i < j->n_rows; i++) {
		mem_free(j->rows[i].consumer);
		mem_free(j->rows[i].version);
	}
	mem_free(j->rows);
	j->rows = NULL;
	j->n_rows = 0;
	if (!j->rules)
		return;
	command_names_fini(&j->names);
	service_rules_unref((struct service_rules *)(uintptr_t)j->rules);
	j->rules = NULL;
}

static void fleet_free(void *job)
{
	struct fleet_job *j = job;
	fleet_leave_service(j);
	missing_fini(&j->missing);
	mem_free(j->svcs);
	mem_free(j);
}

static void fleet_next(struct fleet_job *j)
{
	fleet_leave_service(j);
	j->at++;
	j->stage = FLEET_NEXT;
}

/* addr: of the master that did not answer; NULL = another reason. */
static void fleet_miss(struct fleet_job *j, const char *addr, const char *why)
{
	missing_add(&j->missing, j->rules->name, addr, why);
	fleet_next(j);
}

static struct fleet_row *fleet_row_of(struct fleet_job *j, const char *name, size_t len)
{
	for (size_t i = 0; i < j->n_rows; i++)
		if (strlen(j->rows[i].consumer) == len && memcmp(j->rows[i].consumer, name, len) == 0)
			return &j->rows[i];
	return NULL;
}

static int by_consumer(const void *a, const void *b)
{
	return strcmp(((const struct fleet_row *)a)->consumer, ((const struct fleet_row *)b)->consumer);
}

static void fleet_take_consumers(struct fleet_job *j, const struct reply *r)
{
	j->rows = mem_array(r->n + 1, sizeof *j->rows);
	for (size_t i = 0; i < r->n; i++)
		j->rows[j->n_rows++] =
			(struct fleet_row){.consumer = mem_dup(r->consumers[i].name.p, r->consumers[i].name.len),
				.owned = (int64_t)r->consumers[i].n_pending,
				.idle_ms = r->consumers[i].idle_ms,
				.credits = -1,
				.workers = -1};
	qsort(j->rows, j->n_rows, sizeof j->rows[0], by_consumer);
}

static void fleet_take_left(struct fleet_job *j, const struct reply *r)
{
	for (size_t i = 0; i < r->n; i++) {
		struct fleet_row *row = fleet_row_of(j, r->consumers[i].name.p, r->consumers[i].name.len);
		/* what spoke to the group after that is another process of the same name */
		if (row && row->idle_ms + FLEET_LEFT_SLACK_MS >= r->consumers[i].idle_ms)
			row->has_left = true;
	}
}

static void fleet_take_said(struct fleet_job *j, const redisReply *name, const redisReply *said)
{
	bool is_text = name->type == REDIS_REPLY_STRING && said->type == REDIS_REPLY_STRING;
	struct fleet_row *row = is_text ? fleet_row_of(j, name->str, name->len) : NULL;
	yyjson_doc *doc = row ? yyjson_read_opts(said->str, said->len, 0, &json_alc, NULL) : NULL;
	if (!doc)
		return;
	yyjson_val *root = yyjson_doc_get_root(doc), *version = yyjson_obj_get(root, "version");
	yyjson_val *credits = yyjson_obj_get(root, "credits"), *workers = yyjson_obj_get(root, "workers");
	if (yyjson_is_str(version) && !row->version)
		row->version = mem_dup(yyjson_get_str(version), yyjson_get_len(version));
	row->credits = yyjson_is_int(credits) ? yyjson_get_sint(credits) : -1;
	row->workers = yyjson_is_int(workers) ? yyjson_get_sint(workers) : -1;
	yyjson_doc_free(doc);
}

static void fleet_take_all(struct fleet_job *j, const redisReply *raw)
{
	bool is_pairs = raw && (raw->type == REDIS_REPLY_ARRAY || raw->type == REDIS_REPLY_MAP);
	for (size_t i = 0; is_pairs && i + 1 < raw->elements; i += 2)
		fleet_take_said(j, raw->element[i], raw->element[i + 1]);
}

/* Ours are fresh. */
static void fleet_take_own(struct fleet_job *j, struct fleet_row *row)
{
	const struct coord *c = j->q->d->core;
	const struct coord_service *s = services_find(&((struct coord *)(uintptr_t)c)->services, j->svcs[j->at]);
	if (!s)
		return;
	const struct msg_fleet has = coord_offer(c, services_pos(&c->services, s));
	row->has_left = row->has_left && c->stop.is_on; /* who answers here runs: a namesake has left */
	row->credits = has.credits;
	row->workers = has.n_workers;
	mem_free(row->version);
	row->version = mem_dup(SLUICE_VERSION, strlen(SLUICE_VERSION));
}

static void fleet_rows(struct fleet_job *j)
{
	static const char prefix[] = "redis-consumer-";
	for (size_t i = 0; i < j->n_rows; i++) {
		struct fleet_row *row = &j->rows[i];
		bool is_self = strcmp(row->consumer, j->q->d->shards.rules.consumer) == 0;
		bool is_named = strncmp(row->consumer, prefix, sizeof prefix - 1) == 0;
		if (is_self)
			fleet_take_own(j, row);
		struct ctl_fleet out = {.service = j->rules->name,
			.consumer = row->consumer,
			.node = is_named ? row->consumer + sizeof prefix - 1 : NULL,
			.state = row->has_left                           ? "left"
				 : row->idle_ms > j->rules->lease.ttl_ms ? "silent"
									 : "alive",
			.owned = row->owned,
			.credits = row->credits,
			.workers = row->workers,
			.idle_ms = row->idle_ms,
			.version = row->version,
			.self = is_self};
		ctl_encode_fleet(&j->q->out, &out);
	}
	fleet_next(j);
}

/* ---- questions and answers */

static void fleet_on_answer(void *arg, struct reply *r, const redisReply *raw);

static bool fleet_begin_service(struct fleet_job *j)
{
	const struct coord_service *s = services_find(&j->q->d->core->services, j->svcs[j->at]);
	struct err err;
	if (!s || !s->rules) { /* removed meanwhile */
		j->at++;
		return false;
	}
	const struct service_rules *r = s->rules;
	j->rules = service_rules_ref((struct service_rules *)(uintptr_t)r);
	command_names_init(&j->names, r->name, r->dlq.name, r->same_stream, r->dlq.max_len, r->group_start);
	const char *addr;
	char words[DOWN_WORDS_CAP];
	const char *why = missing_master(&j->missing, j->q->d, j->names.lbs, r->lbs_slot, &addr, words);
	if (why)
		fleet_miss(j, addr, why);
	else if (control_redis_open(j->q->d, addr, fleet_on_answer, j, &j->conn, &err) != ERR_OK)
		fleet_miss(j, NULL, err.text);
	return j->conn;
}

static void fleet_ask(struct fleet_job *j, enum fleet_stage stage)
{
	j->stage = stage;
	j->is_waiting = true;
	if (stage == FLEET_SAID)
		control_redis_words(j->conn, (const char *const[]){"HGETALL", j->names.fleet, NULL});
	else
		control_redis_send(j->conn,
			&(struct cmd){.kind = stage == FLEET_LEFT ? CMD_LEFT : CMD_CONSUMERS, .use_eval = j->use_eval},
			&j->names);
}

static mono_ms fleet_step(struct control_req *q, mono_ms now)
{
	struct fleet_job *j = q->job;
	while (!j->is_waiting && !q->is_ended) {
		if (control_is_full(q))
			return now + 5;
		if (j->at == j->n_svcs)
			missing_end(q, &j->missing, j->n_svcs, "");
		else if (fleet_begin_service(j))
			fleet_ask(j, FLEET_CONSUMERS);
	}
	return MONO_NEVER;
}

static void fleet_on_answer(void *arg, struct reply *r, const redisReply *raw)
{
	struct fleet_job *j = arg;
	bool is_unknown = r->kind == REPLY_ERROR && r->error == RERR_NOSCRIPT && !j->use_eval;
	j->is_waiting = false;
	j->use_eval = is_unknown;
	if (is_unknown) {
		fleet_ask(j, j->stage);
	} else if (j->stage == FLEET_CONSUMERS && (r->kind == REPLY_CONSUMERS || r->error == RERR_NOGROUP)) {
		if (r->kind == REPLY_CONSUMERS)
			fleet_take_consumers(j, r);
		fleet_ask(j, FLEET_LEFT);
	} else if (j->stage == FLEET_LEFT && r->kind == REPLY_CONSUMERS) {
		fleet_take_left(j, r);
		fleet_ask(j, FLEET_SAID);
	} else if (j->stage == FLEET_SAID && r->kind != REPLY_NONE) { /* refused: what the group knows */
		fleet_take_all(j, r->kind == REPLY_OK ? raw : NULL);
		fleet_rows(j);
	} else {
		const char *why = control_redis_why(j->conn);
		fleet_miss(j, r->kind == REPLY_NONE ? control_redis_addr(j->conn) : NULL,
			why[0] ? why : "unexpected answer from Redis");
	}
	control_go_on(j->q);
}

void control_fleet(struct control_req *q)
{
	const struct coord *c = q->d->core;
	if (q->r.service && !control_service(q, q->r.service))
		return;
	struct fleet_job *j = mem_alloc(sizeof *j);
	j->q = q;
	j->svcs = mem_array((size_t)c->services.n + 1, sizeof *j->svcs);
	for (uint16_t i = 0; i < c->services.n; i++) {
		const struct coord_service *s = &c->services.v[i];
		if (s->rules && !s->is_going && (!q->r.service || strcmp(s->rules->name, q->r.service) == 0))
			j->svcs[j->n_svcs++] = s->svc;
	}
	control_job(q, fleet_step, j, fleet_free);
}
