/* doctor: preflight of each master over a connection of its own, question by question.
 *
 * Happy path: for each master: INFO -> CONFIG -> rights -> rows. Then what the daemon itself knows.
 * Failure: a question that is not permitted gives a skipped or warn row; an unreachable master one fail row. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "codec/reply.h"
#include "run/control/control.h"
#include "run/control/doctor_advice.h"
#include "run/control/doctor_own.h"
#include "run/control/facts.h"
#include "run/control/redis.h"
#include "run/control/rights.h"

struct doctor;
typedef void question_fn(struct doctor *j, const redisReply *raw); /* raw NULL: refused, words in why */

struct question {
	const char *words[6]; /* TRIAL_KEY stands for the key of the trial write */
	question_fn *fn;
	bool cluster_only;
};

static const char TRIAL_KEY[] = "%trial";

/* What is asked about each load-balancer stream that lives on the master. */
enum doctor_stream { STREAM_TYPES, STREAM_GROUP, STREAM_OLDEST, STREAM_DATA, STREAM_STILL };

struct doctor {
	struct control_req *q;
	char (*addrs)[300];
	size_t n_addrs, at;
	size_t question;
	struct control_redis *conn;
	bool is_asking, has_failed;
	char *trial_key; /* in a slot of this master */
	size_t service;  /* whose stream is looked at */
	enum doctor_stream stream;
	size_t key;                 /* STREAM_TYPES: which of its keys */
	struct command_names names; /* of it, while has_names */
	bool has_names, has_seen_stream, is_trimmed;
	char oldest[COMMAND_ID_CAP]; /* pending */
	struct control_rights rights;
};

/* ---- rows and texts */

static void doctor_say(struct doctor *j, const char *check, const char *result, const char *found, const char *advice)
{
	struct ctl_doctor row = {.check = check,
		.redis = j->conn ? control_redis_addr(j->conn) : NULL,
		.result = result,
		.found = found,
		.advice = advice};
	j->has_failed = j->has_failed || strcmp(result, "fail") == 0;
	ctl_encode_doctor(&j->q->out, &row);
}

static void say_own(void *arg, const char *check, const char *result, const char *found, const char *advice)
{
	doctor_say(arg, check, result, found, advice);
}

/* The value of "name:value\r\n" in INFO. */
static bool info_value(const redisReply *raw, const char *name, char *out, size_t cap)
{
	if (!raw || !raw->str)
		return false;
	const size_t n = strlen(name);
	for (const char *p = raw->str; p; p = strchr(p, '\n') ? strchr(p, '\n') + 1 : NULL) {
		if (strncmp(p, name, n) != 0 || p[n] != ':')
			continue;
		snprintf(out, cap, "%.*s", (int)strcspn(p + n + 1, "\r\n"), p + n + 1);
		return true;
	}
	return false;
}

static const char *config_value(const redisReply *raw)
{
	return raw && raw->elements >= 2 && raw->element[1]->str ? raw->element[1]->str : NULL;
}

/* ---- questions */

static void on_server(struct doctor *j, const redisReply *raw)
{
	char version[64] = "", found[128];
	bool valkey = info_value(raw, "valkey_version", version, sizeof version);
	if (!valkey && !info_value(raw, "redis_version", version, sizeof version)) {
		doctor_say(j, "version", "skipped", raw ? "INFO names no version" : control_redis_why(j->conn), NULL);
		return;
	}
	snprintf(found, sizeof found, "%s %s", valkey ? "Valkey" : "Redis", version);
	char *end;
	long major = strtol(version, &end, 10), minor = *end == '.' ? strtol(end + 1, NULL, 10) : 0;
	bool old = !valkey && (major < 6 || (major == 6 && minor < 2));
	doctor_say(
		j, "version", old ? "fail" : "ok", found, old ? "upgrade to Redis 6.2 or later, or to Valkey" : NULL);
}

static void on_memory(struct doctor *j, const redisReply *raw)
{
	char policy[64] = "";
	if (!info_value(raw, "maxmemory_policy", policy, sizeof policy)) {
		doctor_say(j, "eviction", "skipped", raw ? "INFO names no policy" : control_redis_why(j->conn), NULL);
		return;
	}
	if (strncmp(policy, "allkeys-", 8) == 0)
		doctor_say(j, "eviction", "fail", policy,
			"streams and locks may be evicted: set maxmemory-policy noeviction");
	else if (strncmp(policy, "volatile-", 9) == 0)
		doctor_say(j, "eviction", "warn", policy,
			"locks may be evicted, then leases are lost: set maxmemory-policy noeviction");
	else
		doctor_say(j, "eviction", "ok", policy, NULL);
}

static void on_persistence(struct doctor *j, const redisReply *raw)
{
	char aof[8] = "", rdb[16] = "", write[16] = "ok";
	if (!info_value(raw, "aof_enabled", aof, sizeof aof)) {
		doctor_say(j, "persistence", "skipped", raw ? "INFO does not tell" : control_redis_why(j->conn), NULL);
		return;
	}
	info_value(raw, "rdb_last_bgsave_status", rdb, sizeof rdb);
	info_value(raw, "aof_last_write_status", write, sizeof write);
	if (strcmp(write, "ok") != 0 || strcmp(rdb, "err") == 0)
		doctor_say(j, "persistence", "fail", "the last save failed", "look at the disk and the log of Redis");
	else if (strcmp(aof, "1") == 0)
		doctor_say(j, "persistence", "ok", "append-only file", NULL);
	else
		doctor_say(j, "persistence", "warn", "no append-only file",
			"what was added since the last snapshot is lost when Redis crashes: set appendonly yes");
}

static void on_replication(struct doctor *j, const redisReply *raw)
{
	char role[16] = "", replicas[16] = "", found[64];
	if (!info_value(raw, "role", role, sizeof role)) {
		doctor_say(j, "role", "skipped", raw ? "INFO does not tell" : control_redis_why(j->conn), NULL);
		return;
	}
	info_value(raw, "connected_slaves", replicas, sizeof replicas);
	unsigned wanted = 0;
	for (size_t i = 0; i < j->q->d->config->n_services; i++)
		if (j->q->d->config->services[i].wait_replicas > wanted)
			wanted = j->q->d->config->services[i].wait_replicas;
	snprintf(found, sizeof found, "%s, %s replicas", role, replicas[0] ? replicas : "0");
	if (strcmp(role, "master") != 0)
		doctor_say(j, "role", "fail", found, "the daemon must talk to masters: look at redis.endpoints");
	else if (strtoul(replicas, NULL, 10) < wanted)
		doctor_say(j, "role", "fail", found, "fewer replicas than wait_replicas asks for");
	else
		doctor_say(j, "role", "ok", found, NULL);
}

static void on_events(struct doctor *j, const redisReply *raw)
{
	enum config_keyspace mode = j->q->d->config->redis.keyspace_events;
	const char *flags = config_value(raw);
	if (mode == CONFIG_KEYSPACE_OFF) {
		doctor_say(j, "keyspace events", "skipped", "redis.keyspace_events is off", NULL);
		return;
	}
	if (!flags) {
		doctor_say(j, "keyspace events", mode == CONFIG_KEYSPACE_REQUIRE ? "fail" : "warn",
			raw ? "not known" : control_redis_why(j->conn),
			"allow CONFIG GET, or set notify-keyspace-events Kx on the server");
		return;
	}
	bool good = strchr(flags, 'K') && (strchr(flags, 'x') || strchr(flags, 'A'));
	doctor_say(j, "keyspace events",
		good                              ? "ok"
		: mode == CONFIG_KEYSPACE_REQUIRE ? "fail"
						  : "warn",
		flags[0] ? flags : "none",
		good ? NULL : "set notify-keyspace-events to have K and x; without, recovery relies on probes");
}

static void on_node_timeout(struct doctor *j, const redisReply *raw)
{
	const char *text = config_value(raw);
	char found[160];
	if (!text) {
		doctor_say(j, "timing", "skipped",
			raw ? "cluster-node-timeout is not known" : control_redis_why(j->conn), NULL);
		return;
	}
	int64_t timeout_ms = strtoll(text, NULL, 10);
	const struct config *c = j->q->d->config;
	const struct config_service *shortest = &c->services[0];
	for (size_t i = 1; i < c->n_services; i++)
		if (c->services[i].lease.ttl_ms < shortest->lease.ttl_ms)
			shortest = &c->services[i];
	snprintf(found, sizeof found, "cluster-node-timeout %lld ms, shortest lease %lld ms (%.60s)",
		(long long)timeout_ms, (long long)shortest->lease.ttl_ms, shortest->name);
	if (shortest->lease.ttl_ms < 2 * timeout_ms + 2000)
		doctor_say(j, "timing", "warn", found,
			"leases end during a failover: make ttl at least 2 x cluster-node-timeout + 2s");
	else
		doctor_say(j, "timing", "ok", found, NULL);
}

static void on_cluster(struct doctor *j, const redisReply *raw)
{
	char state[32] = "";
	if (!info_value(raw, "cluster_state", state, sizeof state))
		doctor_say(
			j, "cluster", "skipped", raw ? "CLUSTER INFO does not tell" : control_redis_why(j->conn), NULL);
	else if (strcmp(state, "ok") == 0)
		doctor_say(j, "cluster", "ok", "cluster_state ok", NULL);
	else
		doctor_say(j, "cluster", "fail", state, "see CLUSTER INFO: slots without a master are not served");
}

static void on_time(struct doctor *j, const redisReply *raw)
{
	if (!raw || raw->elements < 2 || !raw->element[0]->str || !raw->element[1]->str) {
		doctor_say(j, "clock", "skipped", raw ? "TIME does not tell" : control_redis_why(j->conn), NULL);
		return;
	}
	int64_t theirs =
		strtoll(raw->element[0]->str, NULL, 10) * 1000 + strtoll(raw->element[1]->str, NULL, 10) / 1000;
	int64_t off = theirs - mono_wall_ms(), margin = INT64_MAX;
	const struct config *c = j->q->d->config;
	for (size_t i = 0; i < c->n_services; i++)
		margin = mono_min(margin, c->services[i].lease.stop_margin_ms);
	char found[80];
	snprintf(found, sizeof found, "%lld ms from this host's", (long long)off);
	bool far = off > margin || off < -margin;
	doctor_say(j, "clock", far ? "warn" : "ok", found,
		far ? "keep the clocks of all servers within stop_margin: run NTP" : NULL);
}

/* A real write to a key of our own, which is deleted at once and would expire by itself. */
static void on_write(struct doctor *j, const redisReply *raw)
{
	const char *why = control_redis_why(j->conn);
	bool is_elsewhere = !raw && (strstr(why, ": MOVED ") || strstr(why, ": ASK ")); /* slots not known, or moving */
	if (is_elsewhere || (!raw && reply_refusal_in(why) == REFUSAL_NOPERM)) {
		doctor_say(j, "write", "skipped", why, is_elsewhere ? NULL : "see permissions below");
		return;
	}
	doctor_say(j, "write", raw ? "ok" : "fail", raw ? "a trial write was taken" : why,
		raw ? NULL : doctor_write_advice(why));
}

static void on_unwrite(struct doctor *j, const redisReply *raw)
{
	(void)j; /* what could not be written needs no deletion */
	(void)raw;
}

/* Where one of our load-balancer streams lives, in its slot; else in any slot of this master. */
static char *make_trial_key(const struct doctor *j)
{
	const struct config *c = j->q->d->config;
	const char *addr = j->addrs[j->at];
	char base[300];
	for (size_t i = 0; i < c->n_services + 20 * SLOTS; i++) {
		if (i < c->n_services)
			snprintf(base, sizeof base, "%s-input", c->services[i].name);
		else
			snprintf(base, sizeof base, "sluiced-%zu", i - c->n_services);
		const char *there = view_addr(j->q->d, command_slot(base, strlen(base)));
		if (!j->q->d->core->topo.is_cluster || (there && strcmp(there, addr) == 0))
			break;
	}
	return command_trial_key(base);
}

static const struct question questions[] = {
	{{"INFO", "server", NULL}, on_server, false},
	{{"INFO", "memory", NULL}, on_memory, false},
	{{"INFO", "persistence", NULL}, on_persistence, false},
	{{"INFO", "replication", NULL}, on_replication, false},
	{{"CONFIG", "GET", "notify-keyspace-events", NULL}, on_events, false},
	{{"TIME", NULL}, on_time, false},
	{{"SET", TRIAL_KEY, "trial", "PX", "1000", NULL}, on_write, false},
	{{"DEL", TRIAL_KEY, NULL}, on_unwrite, false},
	{{"CLUSTER", "INFO", NULL}, on_cluster, true},
	{{"CONFIG", "GET", "cluster-node-timeout", NULL}, on_node_timeout, true},
};
enum { N_QUESTIONS = sizeof questions / sizeof questions[0] };

/* ---- the load-balancer streams: nothing may be trimmed while it is held, and ids are times */

static void end_stream(struct doctor *j)
{
	if (j->has_names)
		command_names_fini(&j->names);
	j->has_names = false;
	j->stream = STREAM_TYPES;
	j->key = 0;
	j->service++;
}

/* The next one that lives here; false: none is left. */
static bool find_stream(struct doctor *j)
{
	const struct config *c = j->q->d->config;
	for (; !j->has_names && j->service < c->n_services; j->service++) {
		const struct config_service *s = &c->services[j->service];
		command_names_init(&j->names, s->name, s->dead_letter.stream, SAME_STREAM_SERIALIZE, 0, s->group_start);
		command_names_entries(&j->names, s->name, s->entries.dead_letter.stream, 0);
		const char *there = view_addr(j->q->d, j->names.lbs_slot);
		j->has_names = !j->q->d->core->topo.is_cluster || (there && strcmp(there, j->addrs[j->at]) == 0);
		if (j->has_names)
			break;
		command_names_fini(&j->names);
	}
	if (!j->has_names && j->has_seen_stream && !j->is_trimmed)
		doctor_say(j, "streams", "ok", "no entry was trimmed while it was held",
			"never use XTRIM, XDEL or XADD MAXLEN on a load-balancer stream");
	j->has_seen_stream = j->has_names;
	return j->has_names;
}

/* The key number j->key of the service, what it has to be, and a question that only such a key answers; false: no more.
 */
static bool key_at(const struct doctor *j, const char **key, const char **type, const char *words[static 4])
{
	const struct command_names *n = &j->names;
	const struct {
		const char *key, *type, *question, *arg;
	} keys[] = {{n->lbs, "stream", "XLEN", NULL}, {n->dlq, "stream", "XLEN", NULL},
		{j->q->d->config->services[j->service].entries.enabled ? n->entries_dlq : NULL, "stream", "XLEN", NULL},
		{n->registry, "hash", "HGET", ""}, {n->delayed, "sorted set", "ZCARD", NULL},
		{n->delayed_data, "hash", "HGET", ""}, {n->parked, "sorted set", "ZCARD", NULL},
		{n->left, "hash", "HGET", ""}, {n->fleet, "hash", "HGET", ""}};
	if (j->key == sizeof keys / sizeof keys[0])
		return false;
	*key = keys[j->key].key;
	*type = keys[j->key].type;
	words[0] = keys[j->key].question;
	words[1] = *key ? *key : n->lbs; /* without entries mode: asked once more, for nothing */
	words[2] = *key ? keys[j->key].arg : NULL;
	words[3] = NULL;
	if (!*key)
		words[0] = "XLEN";
	return true;
}

/* Another program may have made a key of ours: everything that touches it fails. */
static void on_key_type(struct doctor *j, const char *error)
{
	const char *key, *type, *words[4];
	char found[400];
	if (key_at(j, &key, &type, words) && error && strstr(error, "WRONGTYPE") && key) {
		snprintf(found, sizeof found, "%.300s is not a %s: WRONGTYPE", key, type);
		doctor_say(j, "keys", key == j->names.fleet ? "warn" : "fail", found,
			"another program made that key: rename or delete it, it is made anew when it is needed");
	}
	j->key++;
	if (!key_at(j, &key, &type, words))
		j->stream = STREAM_GROUP;
}

static void ask_stream(struct doctor *j)
{
	const char *lbs = j->names.lbs, *group = j->names.group, *id = j->oldest, *key, *type, *question[4];
	if (j->stream == STREAM_TYPES && key_at(j, &key, &type, question)) {
		control_redis_words(j->conn, question);
		return;
	}
	const char *const words[][8] = {[STREAM_GROUP] = {"XINFO", "GROUPS", lbs},
		[STREAM_OLDEST] = {"XPENDING", lbs, group},
		[STREAM_DATA] = {"XRANGE", lbs, id, id},
		[STREAM_STILL] = {"XPENDING", lbs, group, id, id, "1"}};
	control_redis_words(j->conn, words[j->stream]);
}

static const char *doctor_text_of(const redisReply *r)
{
	return r && r->str ? r->str : "";
}

/* A clock was wrong, and its ids stay: Redis gives later ones only. */
static void say_id_ahead(struct doctor *j, const char *id, int64_t ahead_ms)
{
	enum { AHEAD_MS = 60000 };
	char found[240], age[24];
	if (ahead_ms < AHEAD_MS)
		return;
	facts_age(age, ahead_ms);
	snprintf(found, sizeof found, "%.100s: id %.60s is %s ahead of the clock", j->names.lbs, id, age);
	doctor_say(j, "ids", "warn", found,
		"until then ages are 0 and alerts on them silent: a clock was wrong, or a producer makes the ids");
}

/* The last id that the group was given, of XINFO GROUPS. */
static void on_groups(struct doctor *j, const redisReply *raw)
{
	char found[200];
	for (size_t g = 0; g < raw->elements; g++) {
		const redisReply *group = raw->element[g];
		const char *name = "", *last = "";
		for (size_t i = 0; i + 1 < group->elements; i += 2) {
			if (strcmp(doctor_text_of(group->element[i]), "name") == 0)
				name = doctor_text_of(group->element[i + 1]);
			else if (strcmp(doctor_text_of(group->element[i]), "last-delivered-id") == 0)
				last = doctor_text_of(group->element[i + 1]);
		}
		struct entry_id id;
		if (strcmp(name, j->names.group) != 0 || !command_id_parse(last, strlen(last), &id))
			continue;
		if (id.ms < SESSION_ID_US && id.seq < SESSION_ID_SEQ) {
			say_id_ahead(j, last, (int64_t)id.ms - mono_wall_ms());
			continue;
		}
		snprintf(found, sizeof found, "%.100s: id %.60s is no time in milliseconds", j->names.lbs, last);
		doctor_say(j, "ids", "warn", found, "let Redis make the ids: XADD with *");
	}
}

/* True: there is more to ask about this stream. */
static bool on_stream(struct doctor *j, const redisReply *raw)
{
	char found[300];
	if (!raw || raw->type == REDIS_REPLY_NIL)
		return false; /* not there yet, or not permitted: a row of its own says so */
	switch (j->stream) {
	case STREAM_TYPES: /* not here */
		return true;
	case STREAM_GROUP:
		on_groups(j, raw);
		break;
	case STREAM_OLDEST:
		if (raw->elements < 2 || raw->element[1]->type != REDIS_REPLY_STRING)
			return false;
		snprintf(j->oldest, sizeof j->oldest, "%s", doctor_text_of(raw->element[1]));
		break;
	case STREAM_DATA:
		if (raw->elements > 0)
			return false;
		break;
	case STREAM_STILL:
		if (raw->elements == 0) /* finished meanwhile */
			return false;
		j->is_trimmed = true;
		snprintf(found, sizeof found, "%.100s: entry %s is held and was trimmed from the stream", j->names.lbs,
			j->oldest);
		doctor_say(j, "streams", "fail", found,
			"what is trimmed while it is held is lost: never use XTRIM, XDEL or XADD MAXLEN on that "
			"stream");
		return false;
	}
	j->stream++;
	return true;
}

/* ---- permissions */

/* Without {<lbs>}-fleet all works; other daemons are told nothing of our workers. */
static bool is_for_display(const char *missing)
{
	static const char *const ends[] = {"-input}-fleet", "-input-fleet"};
	const size_t len = strlen(missing);
	for (size_t i = 0; i < sizeof ends / sizeof ends[0]; i++) {
		const size_t n = strlen(ends[i]);
		if (missing[0] == '~' && len > n && strcmp(missing + len - n, ends[i]) == 0)
			return true;
	}
	return false;
}

/* True when there is more to ask. */
static bool on_permission(struct doctor *j, const struct reply *r, const redisReply *raw)
{
	const char *error = r->kind == REPLY_ERROR ? control_redis_why(j->conn) : NULL;
	const char *missing = control_rights_answer(&j->rights, error, !error && raw ? raw->str : NULL);
	char found[640], advice[960];
	if (missing) {
		snprintf(found, sizeof found, "missing: %s", missing);
		snprintf(advice, sizeof advice, "ACL SETUSER %s '%s', see sluiced(8)", j->rights.user, missing);
		doctor_say(j, "permissions", is_for_display(missing) ? "warn" : "fail", found, advice);
	}
	if (control_rights_next(&j->rights, j->q->d->config))
		return true;
	if (!j->rights.n_missing)
		doctor_say(j, "permissions", "ok", "all commands, keys and the channel", NULL);
	return false;
}

/* ---- the walk */

static void doctor_job_free(void *job)
{
	struct doctor *j = job;
	control_redis_close(j->conn);
	if (j->has_names)
		command_names_fini(&j->names);
	mem_free(j->trial_key);
	mem_free(j->addrs);
	mem_free(j);
}

static void next_master(struct doctor *j)
{
	control_redis_close(j->conn);
	j->conn = NULL;
	if (j->has_names)
		end_stream(j);
	j->has_seen_stream = j->is_trimmed = false;
	j->at++;
	j->question = 0;
	j->service = 0;
	mem_free(j->trial_key);
	j->trial_key = NULL;
	control_rights_init(&j->rights, j->q->d->config);
}

static void doctor_on_answer(void *arg, struct reply *r, const redisReply *raw)
{
	struct doctor *j = arg;
	j->is_asking = false;
	if (r->kind == REPLY_NONE) {
		doctor_say(j, "connection", "fail", control_redis_why(j->conn),
			doctor_connection_advice(control_redis_why(j->conn)));
		next_master(j);
	} else if (j->question < N_QUESTIONS) {
		questions[j->question++].fn(j, r->kind == REPLY_OK ? raw : NULL);
	} else if (j->has_names && j->stream == STREAM_TYPES) {
		on_key_type(j, r->kind == REPLY_ERROR ? control_redis_why(j->conn) : NULL);
	} else if (j->has_names) {
		if (!on_stream(j, r->kind == REPLY_OK ? raw : NULL))
			end_stream(j);
	} else if (!on_permission(j, r, raw)) {
		next_master(j);
	}
	control_go_on(j->q);
}

static void ask_question(struct doctor *j)
{
	const struct question *qu = &questions[j->question];
	const char *words[sizeof qu->words / sizeof qu->words[0]];
	if (!j->trial_key)
		j->trial_key = make_trial_key(j);
	for (size_t i = 0; i < sizeof words / sizeof words[0]; i++)
		words[i] = qu->words[i] && strcmp(qu->words[i], TRIAL_KEY) == 0 ? j->trial_key : qu->words[i];
	control_redis_words(j->conn, words);
}

static mono_ms doctor_step(struct control_req *q, mono_ms now)
{
	struct doctor *j = q->job;
	struct err err;
	if (j->is_asking)
		return MONO_NEVER;
	if (j->at == j->n_addrs) {
		doctor_own(q->d, say_own, j);
		control_end(q, j->has_failed, j->has_failed ? "%s" : NULL, "a check failed");
		return MONO_NEVER;
	}
	if (!j->conn && control_redis_open(q->d, j->addrs[j->at], doctor_on_answer, j, &j->conn, &err) != ERR_OK) {
		doctor_say(j, "connection", "fail", err.text, "look at redis.endpoints");
		next_master(j);
		return now;
	}
	while (j->question < N_QUESTIONS && questions[j->question].cluster_only && !q->d->core->topo.is_cluster)
		j->question++;
	j->is_asking = true;
	if (j->question < N_QUESTIONS)
		ask_question(j);
	else if (find_stream(j))
		ask_stream(j);
	else
		control_redis_words(j->conn, control_rights_next(&j->rights, j->q->d->config));
	return MONO_NEVER;
}

void control_doctor(struct control_req *q)
{
	const struct coord *c = q->d->core;
	const struct config_list *configured = &q->d->config->redis.endpoints;
	struct doctor *j = mem_alloc(sizeof *j);
	j->q = q;
	j->addrs = mem_array((size_t)c->topo.n_nodes + configured->n + 1, sizeof *j->addrs);
	for (uint16_t i = 0; i < c->topo.n_nodes; i++)
		if (c->topo.nodes[i].is_master)
			snprintf(j->addrs[j->n_addrs++], sizeof *j->addrs, "%s", c->topo.nodes[i].addr);
	const bool are_servers = q->d->config->redis.topology != CONFIG_TOPOLOGY_SENTINEL;
	for (size_t i = 0; are_servers && !c->topo.is_known && i < configured->n; i++)
		snprintf(j->addrs[j->n_addrs++], sizeof *j->addrs, "%s", configured->items[i]);
	control_rights_init(&j->rights, q->d->config);
	control_job(q, doctor_step, j, doctor_job_free);
}
