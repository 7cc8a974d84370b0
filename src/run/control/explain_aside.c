/* explain for a stream that this daemon does not hold: what was put aside for later, unless it is known already where
 * it is, and the dead letters of its entries, service by service; and what is unread in it, for nobody may have named
 * it.
 *
 * Happy path: pages of the delayed set, soonest first, each with its data -> in entries mode pages of the entries'
 * dead letters, counted to the end -> when nobody is going to run it the position, and the first entry behind it.
 * Failure: Redis does not answer: the next service is looked through; found nowhere: exit 1 with the server's words. It
 * gives up after ASIDE_MAX of each, and says so. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "codec/packed.h"
#include "run/control/down.h"
#include "run/control/explain.h"
#include "run/control/missing.h"
#include "run/control/redis.h"

enum { ASIDE_PAGE_FIRST = 8, ASIDE_PAGE = 200, ASIDE_MAX = 50000 };
enum aside_stage { ASIDE_BEGIN, ASIDE_IDS, ASIDE_DATA, ASIDE_DEAD, ASIDE_POSITION, ASIDE_BEHIND, ASIDE_OVER };

/* The services that are looked through. */
struct aside_walk {
	uint16_t *svcs;
	size_t n, at;
	size_t n_seen, page_n; /* of the present one; so many are asked for */
	bool is_cut;           /* there was more than we look through */
};

/* A page of the delayed set: the next one begins at .from, behind so many of the same. */
struct aside_page {
	double from, due[ASIDE_PAGE];
	struct entry_id ids[ASIDE_PAGE];
	size_t n, n_same;
};

/* Dead entries of the stream. */
struct aside_dead {
	struct entry_id next, last;
	size_t n;
	char *orig_id, *reason; /* of the last one; owned */
};

/* The data stream itself: it is the same for every service. */
struct aside_stream {
	char pos[COMMAND_ID_CAP]; /* "": it has no position */
	bool is_done;             /* nothing is behind its position */
	size_t n_entries;         /* services that are looked through, in entries mode */
	uint16_t svc;             /* the last one of them */
};

struct aside {
	struct control_req *q;
	struct aside_walk walk;
	struct explain_found found;
	enum aside_stage stage;
	bool is_waiting, has_names;
	struct control_redis *conn;
	struct command_names names; /* dlq: the entries' dead letters */
	struct aside_page page;
	struct aside_dead dead;
	struct aside_stream data;
	struct missing missing;
};

static void aside_drop(struct aside *j)
{
	control_redis_close(j->conn);
	j->conn = NULL;
	if (j->has_names)
		command_names_fini(&j->names);
	j->has_names = false;
	mem_free(j->dead.orig_id);
	mem_free(j->dead.reason);
	j->dead.orig_id = j->dead.reason = NULL;
	j->dead.n = j->walk.n_seen = 0;
}

static void aside_free(void *job)
{
	struct aside *j = job;
	aside_drop(j);
	missing_fini(&j->missing);
	mem_free(j->walk.svcs);
	mem_free(j);
}

static const struct coord_service *aside_service(const struct aside *j)
{
	return services_find(&j->q->d->core->services, j->walk.svcs[j->walk.at]);
}

static void aside_next(struct aside *j)
{
	aside_drop(j);
	j->walk.at++;
	j->stage = ASIDE_BEGIN;
}

static void aside_row(struct aside *j, struct facts *f, const char *state, struct entry_id id)
{
	const struct coord_service *s = aside_service(j);
	char text[COMMAND_ID_CAP];
	command_id_format(text, id);
	facts_encode(j->q, f,
		&(struct ctl_explain){
			.service = s ? s->rules->name : "", .stream = j->q->r.stream, .id = text, .state = state});
	facts_fini(f);
	j->found.n++;
}

/* ---- questions */

static void aside_on_answer(void *arg, struct reply *r, const redisReply *raw);

/* What is being looked at cannot be: the service, the others are; or behind them the stream itself. */
static void aside_miss(struct aside *j, const char *addr, const char *why)
{
	const struct coord_service *s = j->walk.at < j->walk.n ? aside_service(j) : NULL;
	if (j->walk.at == j->walk.n) {
		if (j->found.n)
			control_end(j->q, 0, NULL);
		else
			control_end(j->q, 1, "%.200s is not held by this daemon, and %s", j->q->r.stream, why);
		return;
	}
	missing_add(&j->missing, s ? s->rules->name : "?", addr, why);
	aside_next(j);
}

static bool aside_connect(struct aside *j, uint16_t slot, const char *key)
{
	const char *addr;
	struct err err = {0};
	char words[DOWN_WORDS_CAP];
	const char *why = missing_master(&j->missing, j->q->d, key, slot, &addr, words);
	if (!why && control_redis_to(j->q->d, addr, aside_on_answer, j, &j->conn, &err) == ERR_OK)
		return true;
	aside_miss(j, addr, why ? why : err.text);
	return false;
}

static void aside_ask_ids(struct aside *j)
{
	control_redis_delayed(j->conn, j->names.delayed, j->page.from, j->page.n_same, j->walk.page_n);
}

static void aside_ask_data(struct aside *j)
{
	struct slice w[2 + ASIDE_PAGE];
	char ids[ASIDE_PAGE][COMMAND_ID_CAP];
	w[0] = (struct slice){"HMGET", 5};
	w[1] = (struct slice){j->names.delayed_data, strlen(j->names.delayed_data)};
	for (size_t i = 0; i < j->page.n; i++)
		w[2 + i] = (struct slice){ids[i], (size_t)command_id_format(ids[i], j->page.ids[i])};
	control_redis_bytes(j->conn, w, 2 + j->page.n);
}

static void aside_begin(struct aside *j, const struct service_rules *r)
{
	char *dead = r->entries.dlq[0] ? mem_dup(r->entries.dlq, strlen(r->entries.dlq))
				       : mem_printf("%s-entries-dlq", r->name);
	command_names_init(&j->names, r->name, dead, r->same_stream, 0, r->group_start);
	mem_free(dead);
	j->has_names = true;
	j->stage = j->found.is_coming ? ASIDE_DEAD : ASIDE_IDS;
	j->page.from = 0;
	j->page.n_same = 0;
	j->walk.page_n = ASIDE_PAGE_FIRST;
	j->dead.next = (struct entry_id){0, 0};
}

/* The group of one of the services was gone: that may be why. */
static bool aside_group_gone(const struct aside *j, char out[static FACTS_GONE_CAP])
{
	out[0] = '\0';
	for (size_t i = 0; i < j->walk.n && !out[0]; i++) {
		const struct coord_service *s = services_find(&j->q->d->core->services, j->walk.svcs[i]);
		if (s)
			explain_group_gone(out, j->q->d, s);
	}
	return out[0];
}

/* Than the group that was gone: its entries may have gone with it. */
static bool aside_position_is_older(const struct aside *j)
{
	const struct coord_service *s = services_find(&j->q->d->core->services, j->data.svc);
	struct entry_id pos = {0, 0};
	command_id_parse(j->data.pos, strlen(j->data.pos), &pos);
	return s && s->audit.gone_at &&
	       (mono_ms)pos.ms <= mono_wall_ms() - (loop_now(j->q->d->loop) - s->audit.gone_at);
}

static void aside_end(struct aside *j)
{
	char prefix[260], gone[FACTS_GONE_CAP];
	snprintf(prefix, sizeof prefix, "%.200s is not held by this daemon, and ", j->q->r.stream);
	if (j->found.n)
		control_end(j->q, 0, NULL);
	else if (j->missing.n_services)
		missing_end(j->q, &j->missing, j->walk.n, prefix);
	else if (j->walk.is_cut)
		control_end(j->q, 1,
			"%.300s is not among the first %d of what waits and of the dead entries; "
			"sluicectl delayed ls and entries-dlq ls tell more",
			j->q->r.stream, ASIDE_MAX);
	else if (j->data.is_done && aside_position_is_older(j) && aside_group_gone(j, gone))
		control_end(j->q, 1, "nothing in %.200s is behind its position %s, and nothing names it; %s",
			j->q->r.stream, j->data.pos, gone);
	else if (j->data.is_done && strcmp(j->data.pos, "0-0") == 0)
		control_end(j->q, 1, "%.300s has finished: its last run found nothing in it", j->q->r.stream);
	else if (j->data.is_done)
		control_end(j->q, 1, "%.300s has finished: nothing in it is behind its position %s", j->q->r.stream,
			j->data.pos);
	else if (aside_group_gone(j, gone))
		control_end(j->q, 1, "%.200s is not known here, in Redis or among the dead letters; %s", j->q->r.stream,
			gone);
	else
		control_end(j->q, 1,
			"%.300s is not known here, in Redis or among the dead letters: it has finished, which leaves "
			"nothing behind, or was never added to a service that this daemon has; sluicectl fleet and "
			"the logs of its daemons tell more",
			j->q->r.stream);
}

static void aside_ask_position(struct aside *j)
{
	char *key = command_position_key(j->q->r.stream);
	control_redis_words(j->conn, (const char *const[]){"HGET", key, "pos", NULL});
	mem_free(key);
}

static void aside_ask_behind(struct aside *j)
{
	char from[COMMAND_ID_CAP + 1];
	snprintf(from, sizeof from, "(%s", j->data.pos);
	control_redis_words(j->conn,
		(const char *const[]){"XRANGE", j->q->r.stream, j->data.pos[0] ? from : "-", "+", "COUNT", "1", NULL});
}

/* Nothing that will run it is known, and nothing could not be looked at. Its own entries tell, if it may be one of
 * entries mode: also behind its dead letters. */
static bool aside_needs_stream(const struct aside *j)
{
	return j->stage != ASIDE_OVER && !j->found.is_coming && !j->missing.n_services && !j->walk.is_cut &&
	       j->data.n_entries > 0;
}

/* A key of the daemons' own: the request has ended with that word. */
static bool aside_is_own_key(struct aside *j)
{
	struct coord_services *ss = &j->q->d->core->services;
	const struct coord_service *s = services_find(ss, j->data.svc);
	const char *name = j->q->r.stream;
	const size_t len = strlen(name);
	char why[OWN_WHY_CAP];
	bool is_own =
		s && services_is_own_key(ss, s, &(struct own_name){name, len, command_is_position_key(name, len)}, why);
	if (is_own)
		control_end(j->q, 1, "%s", why);
	return is_own;
}

static mono_ms aside_step_stream(struct aside *j)
{
	if (!aside_needs_stream(j)) {
		aside_end(j);
		return MONO_NEVER;
	}
	if (j->stage != ASIDE_BEHIND && !j->found.n && aside_is_own_key(j))
		return MONO_NEVER;
	if (!aside_connect(j, command_slot(j->q->r.stream, strlen(j->q->r.stream)), j->q->r.stream))
		return MONO_NEVER;
	j->is_waiting = true;
	if (j->stage == ASIDE_BEHIND) {
		aside_ask_behind(j);
	} else {
		j->stage = ASIDE_POSITION;
		aside_ask_position(j);
	}
	return MONO_NEVER;
}

static mono_ms aside_step(struct control_req *q, mono_ms now)
{
	struct aside *j = q->job;
	if (j->is_waiting)
		return MONO_NEVER;
	if (j->walk.at == j->walk.n)
		return aside_step_stream(j);
	const struct coord_service *s = aside_service(j);
	if (!s) { /* removed meanwhile */
		aside_next(j);
		return now;
	}
	if (j->stage == ASIDE_BEGIN && j->found.is_coming && !s->rules->entries.is_on) {
		aside_next(j);
		return now;
	}
	if (j->stage == ASIDE_BEGIN)
		aside_begin(j, s->rules);
	const bool is_dead = j->stage == ASIDE_DEAD;
	const char *key = is_dead ? j->names.dlq : j->names.lbs;
	if (!aside_connect(j, command_slot(key, strlen(key)), key))
		return now;
	j->is_waiting = true;
	if (j->stage == ASIDE_IDS)
		aside_ask_ids(j);
	else if (j->stage == ASIDE_DATA)
		aside_ask_data(j);
	else
		control_redis_send(j->conn,
			&(struct cmd){
				.kind = CMD_DLQ_RANGE, .id = j->dead.next, .as.read.count = (int64_t)j->walk.page_n},
			&j->names);
	return MONO_NEVER;
}

/* ---- answers */

static void aside_to_dead(struct aside *j)
{
	const struct coord_service *s = aside_service(j);
	if (!s || !s->rules->entries.is_on) {
		aside_next(j);
		return;
	}
	j->stage = ASIDE_DEAD;
	j->walk.n_seen = 0;
	j->walk.page_n = ASIDE_PAGE_FIRST;
}

/* Pairs: one after the other, or each a list of its own, as the server's protocol has it. */
static void aside_on_ids(struct aside *j, const redisReply *raw)
{
	const bool is_list = raw && raw->type == REDIS_REPLY_ARRAY;
	const bool is_nested = is_list && raw->elements && raw->element[0]->type == REDIS_REPLY_ARRAY;
	const size_t n = !is_list ? 0 : is_nested ? raw->elements : raw->elements / 2;
	j->page.n = 0;
	for (size_t i = 0; i < n && i < ASIDE_PAGE; i++) {
		redisReply *const *pair = is_nested ? raw->element[i]->element : raw->element + 2 * i;
		const redisReply *id = pair[0], *due = pair[1];
		const double at = due->type == REDIS_REPLY_DOUBLE ? due->dval : strtod(due->str ? due->str : "0", NULL);
		j->page.n_same = at == j->page.from ? j->page.n_same + 1 : 1;
		j->page.from = at;
		j->page.due[j->page.n] = at;
		if (id->type == REDIS_REPLY_STRING && command_id_parse(id->str, id->len, &j->page.ids[j->page.n]))
			j->page.n++;
	}
	if (j->page.n)
		j->stage = ASIDE_DATA;
	else
		aside_to_dead(j);
}

static void found_aside(struct aside *j, size_t i, const struct packed_entry *e)
{
	const struct coord_service *s = aside_service(j);
	struct facts f = {0};
	char in[24];
	facts_age(in, (mono_ms)j->page.due[i] - mono_wall_ms());
	if (e->why.len == 4 && memcmp(e->why.p, "fail", 4) == 0)
		facts_add(&f, "failed %u of %u times, next try in %s", packed_retries(e),
			s ? s->rules->max_retries + 1 : 0, in);
	else
		facts_add(&f, "it was put aside (%.*s), due in %s", (int)e->why.len, e->why.p, in);
	if (s)
		explain_service(&f, j->q->d, s);
	facts_next(&f, "it goes back to %s when it is due", j->names.lbs);
	if (s)
		facts_delayed_now(&f, s->rules->name, j->q->r.stream);
	j->found.is_coming = true;
	aside_row(j, &f, "delayed", j->page.ids[i]);
}

static void aside_on_data(struct aside *j, const redisReply *raw)
{
	struct packed room = {0};
	const size_t len = strlen(j->q->r.stream);
	size_t bytes = 1;
	bool is_found = false;
	for (size_t i = 0; raw && raw->type == REDIS_REPLY_ARRAY && i < raw->elements && i < j->page.n; i++) {
		const redisReply *r = raw->element[i];
		struct packed_entry e = {.n = 0};
		bytes += r->len;
		if (is_found || r->type != REDIS_REPLY_STRING ||
			!packed_decode(&room, (struct slice){r->str, r->len}, &e))
			continue;
		is_found = e.stream.len == len && memcmp(e.stream.p, j->q->r.stream, len) == 0;
		if (is_found)
			found_aside(j, i, &e);
	}
	packed_fini(&room);
	j->walk.n_seen += j->page.n;
	j->walk.is_cut = j->walk.is_cut || (!is_found && j->walk.n_seen >= ASIDE_MAX);
	const bool is_last = j->page.n < j->walk.page_n;
	const size_t fit = ((size_t)1 << 20) * j->page.n / bytes; /* about 1 MiB a page */
	j->walk.page_n = fit < 4 * j->walk.page_n ? fit : 4 * j->walk.page_n;
	j->walk.page_n = j->walk.page_n < 1 ? 1 : j->walk.page_n > ASIDE_PAGE ? ASIDE_PAGE : j->walk.page_n;
	if (is_found || is_last || j->walk.n_seen >= ASIDE_MAX)
		aside_to_dead(j);
	else
		j->stage = ASIDE_IDS;
}

static bool aside_is_field(const struct field *f, const char *name)
{
	return f->name.len == strlen(name) && memcmp(f->name.p, name, f->name.len) == 0;
}

static void look_at_dead(struct aside *j, const struct entry_in *e)
{
	const struct field *orig = NULL, *reason = NULL;
	bool is_ours = false;
	for (size_t i = 0; e->fields && i < e->fields->n; i++) {
		const struct field *f = &e->fields->v[i];
		if (aside_is_field(f, "_dlq_stream"))
			is_ours = f->value.len == strlen(j->q->r.stream) &&
				  memcmp(f->value.p, j->q->r.stream, f->value.len) == 0;
		else if (aside_is_field(f, "_orig_id"))
			orig = f;
		else if (aside_is_field(f, "_dlq_reason"))
			reason = f;
	}
	if (!is_ours)
		return;
	j->dead.n++;
	j->dead.last = e->id;
	mem_free(j->dead.orig_id);
	mem_free(j->dead.reason);
	j->dead.orig_id = orig ? mem_dup(orig->value.p, orig->value.len) : NULL;
	j->dead.reason = reason ? mem_dup(reason->value.p, reason->value.len) : NULL;
}

static void found_dead_entries(struct aside *j)
{
	const struct coord_service *s = aside_service(j);
	struct facts f = {0};
	char age[24];
	facts_age(age, view_age_ms(mono_wall_ms(), j->dead.last));
	facts_add(&f, "%s%zu of its entries %s in %s, the last one %s since %s: %s",
		j->found.is_coming ? "" : "nobody runs it; ", j->dead.n,
		j->dead.n == 1 ? "is a dead letter" : "are dead letters", j->names.dlq,
		j->dead.orig_id ? j->dead.orig_id : "?", age, j->dead.reason ? j->dead.reason : "?");
	char word[FACTS_WORD_CAP];
	if (s)
		facts_advice(&f, "sluicectl entries-dlq show %s --stream %s", s->rules->name,
			facts_word(word, j->q->r.stream));
	aside_row(j, &f, "dead", j->dead.last);
}

static void aside_on_dead(struct aside *j, const struct entry_batch *b)
{
	for (size_t i = 0; i < b->n; i++)
		look_at_dead(j, &b->v[i]);
	j->walk.n_seen += b->n;
	const bool is_full = b->n == j->walk.page_n;
	if (is_full && j->walk.n_seen < ASIDE_MAX) {
		j->dead.next = entry_id_next(b->v[b->n - 1].id);
		j->walk.page_n = control_redis_page(j->walk.page_n, ASIDE_PAGE, b);
		return;
	}
	j->walk.is_cut = j->walk.is_cut || is_full;
	if (j->dead.n)
		found_dead_entries(j);
	aside_next(j);
}

/* raw: NULL = an error. */
static void aside_on_position(struct aside *j, const redisReply *raw)
{
	struct entry_id pos;
	const bool has = raw && raw->type == REDIS_REPLY_STRING && command_id_parse(raw->str, raw->len, &pos);
	if (has)
		command_id_format(j->data.pos, pos);
	j->data.is_done =
		has && pos.ms == UINT64_MAX && pos.seq == UINT64_MAX; /* no id is higher: Redis would refuse */
	const bool may_be_more = has ? !j->data.is_done : raw && raw->type == REDIS_REPLY_NIL;
	j->stage = may_be_more ? ASIDE_BEHIND : ASIDE_OVER;
}

/* id: of the first entry that nobody works on. */
static void unnamed_facts(const struct aside *j, struct facts *f, const char *service, const char *id, const char *age,
	bool may_be_leases)
{
	if (j->data.pos[0])
		facts_add(f,
			"nobody runs it, and no entry of %s-input names it: its entry %s, of %s ago, is not worked on; "
			"it is up to %s",
			service, id, age, j->data.pos);
	else
		facts_add(f, "nobody runs it, and no entry of %s-input names it; its first entry is %s, of %s ago",
			service, id, age);
	if (may_be_leases)
		facts_add(f, "a service without entries mode may have finished it: that leaves nothing behind");
	facts_next(f,
		"in entries mode it is run when it is named: a producer adds the entry first, then the name to "
		"%s-input",
		service);
}

/* The service is known when there is only one that it may be of. */
static void found_unnamed(struct aside *j, struct entry_id first)
{
	const struct coord_service *s =
		j->data.n_entries == 1 ? services_find(&j->q->d->core->services, j->data.svc) : NULL;
	const char *name = s ? s->rules->name : "<service>";
	const bool is_passed = !j->data.pos[0] && s && strcmp(s->rules->entries.start, "$") == 0;
	const bool may_be_leases = !j->data.pos[0] && j->walk.n > j->data.n_entries;
	struct facts f = {0};
	char age[24], id[COMMAND_ID_CAP], word[FACTS_WORD_CAP];
	facts_age(age, view_age_ms(mono_wall_ms(), first));
	command_id_format(id, first);
	unnamed_facts(j, &f, name, id, age, may_be_leases);
	if (is_passed)
		facts_add(&f, "with entries.start $ a run begins behind what is in it now");
	else if (!may_be_leases)
		facts_advice(&f, "sluicectl add %s %s", name, facts_word(word, j->q->r.stream));
	facts_encode(j->q, &f,
		&(struct ctl_explain){
			.service = s ? name : "", .stream = j->q->r.stream, .id = id, .state = "unnamed"});
	facts_fini(&f);
	j->found.n++;
}

static void aside_on_behind(struct aside *j, const redisReply *raw)
{
	const redisReply *e = raw && raw->type == REDIS_REPLY_ARRAY && raw->elements ? raw->element[0] : NULL;
	struct entry_id first;
	if (e && e->type == REDIS_REPLY_ARRAY && e->elements && e->element[0]->type == REDIS_REPLY_STRING &&
		command_id_parse(e->element[0]->str, e->element[0]->len, &first))
		found_unnamed(j, first);
	else
		j->data.is_done = !e && j->data.pos[0];
	j->stage = ASIDE_OVER;
}

static void aside_on_answer(void *arg, struct reply *r, const redisReply *raw)
{
	struct aside *j = arg;
	j->is_waiting = false;
	const bool needs_answer = j->stage == ASIDE_DEAD || j->stage == ASIDE_BEHIND;
	if (r->kind == REPLY_NONE || (r->kind == REPLY_ERROR && needs_answer))
		aside_miss(j, r->kind == REPLY_NONE ? control_redis_addr(j->conn) : NULL, control_redis_why(j->conn));
	else if (j->stage == ASIDE_IDS)
		aside_on_ids(j, r->kind == REPLY_OK ? raw : NULL);
	else if (j->stage == ASIDE_DATA)
		aside_on_data(j, r->kind == REPLY_OK ? raw : NULL);
	else if (j->stage == ASIDE_POSITION)
		aside_on_position(j, r->kind == REPLY_OK ? raw : NULL);
	else if (j->stage == ASIDE_BEHIND)
		aside_on_behind(j, r->kind == REPLY_OK ? raw : NULL);
	else if (r->kind == REPLY_ENTRIES)
		aside_on_dead(j, r->entries);
	else
		aside_next(j);
	if (r->kind == REPLY_ENTRIES)
		entry_batch_free(r->entries);
	control_go_on(j->q);
}

static void aside_walks(struct aside *j, const struct coord_service *s)
{
	j->walk.svcs[j->walk.n++] = s->svc;
	if (!s->rules->entries.is_on)
		return;
	j->data.svc = s->svc;
	j->data.n_entries++;
}

void control_explain_aside(struct control_req *q, const struct missing *missing, struct explain_found found)
{
	const struct coord *c = q->d->core;
	struct aside *j = mem_alloc(sizeof *j);
	j->q = q;
	j->missing = *missing;
	j->found = found;
	j->walk.svcs = mem_array((size_t)c->services.n + 1, sizeof *j->walk.svcs);
	for (uint16_t i = 0; i < c->services.n; i++) {
		const struct coord_service *s = &c->services.v[i];
		if (s->rules && !s->is_going && (!q->r.service || strcmp(s->rules->name, q->r.service) == 0))
			aside_walks(j, s);
	}
	control_job(q, aside_step, j, aside_free);
}
