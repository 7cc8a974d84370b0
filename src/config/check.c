#include "config/check.h"
#include <errno.h>
#include <grp.h>
#include <string.h>
#include <unistd.h>
#include "base/hash_tag.h"
#include "base/mem.h"
#include "config/endpoint.h"
#include "config/env.h"
#include "config/raw.h"
#include "config/text.h"

/* From this TTL on the defaults fit, so what was written must fit them; shorter leases get a shorter command
 * timeout. */
enum { DEFAULTS_FIT_MS = 7000 };
enum { LEAST_COMMAND_MS = 100, MAX_NODE_ID = 128 };

static const char SEPARATOR[] = "<MUTEX_KEY_SEP>";

static struct place global(enum option_id id)
{
	return (struct place){.id = id, .item = RAW_WHOLE};
}

static struct place in_service(enum option_id id, size_t service)
{
	return (struct place){.id = id, .service = service, .item = RAW_WHOLE};
}

static int64_t min64(int64_t a, int64_t b)
{
	return a < b ? a : b;
}

static int64_t max64(int64_t a, int64_t b)
{
	return a > b ? a : b;
}

enum err_code check_services(const struct raw *raw, struct err *err)
{
	if (raw->n_services == 0) {
		bool is_there = raw->services_from.kind == ORIGIN_FILE;
		return err_set(err, ERR_INVALID, "%s:%u:%u: %s at least one service is needed", raw->name,
			is_there ? raw->services_from.line : 1, is_there ? raw->services_from.column : 1,
			raw->is_empty ? "yaml: the file is empty;" : "services:");
	}
	for (size_t i = 0; i < raw->n_services; i++) {
		struct place at = in_service(OPT_SERVICE_NAME, i);
		if (!raw_is_set(raw, OPT_SERVICE_NAME, i))
			return raw_fail(raw, &at, err, ERR_INVALID, "is required");
	}
	return ERR_OK;
}

/* ---- leases: the inequalities of sluiced.yaml(5) */

/* Fills in what was left 0. Leaves a third of the time before stop_margin for the command at least. */
static void derive_lease(struct config_service *s)
{
	int64_t ttl = s->lease.ttl_ms;
	if (s->lease.stop_margin_ms == 0)
		s->lease.stop_margin_ms = max64(1000, ttl / 5);
	if (s->lease.renew_every_ms == 0)
		s->lease.renew_every_ms = max64(1, min64(ttl / 3, (ttl - s->lease.stop_margin_ms) * 2 / 3));
}

/* The most that one command may take: renew_every + command_timeout < ttl - stop_margin. */
static int64_t command_room_ms(const struct config_service *s)
{
	return s->lease.ttl_ms - s->lease.stop_margin_ms - s->lease.renew_every_ms - 1;
}

unsigned config_leases_per_core(const struct config_service *s)
{
	enum { PER_MS = 20 }; /* a renewal takes 5.1 us: a tenth of a millisecond renews so many */
	const int64_t room = command_room_ms(s);
	return room > 0 ? (unsigned)(room * PER_MS) : 1;
}

static bool is_explicit(const struct config *c, enum option_id id, size_t i, int64_t written)
{
	return raw_is_set(c->raw, id, i) && written != 0;
}

/* The setting to blame for a lease without room: one that was written. */
static struct place tightest(const struct config *c, size_t i, bool has_renew, bool has_margin)
{
	if (has_renew)
		return in_service(OPT_SERVICE_LEASE_RENEW_EVERY, i);
	if (has_margin)
		return in_service(OPT_SERVICE_LEASE_STOP_MARGIN, i);
	bool has_ttl = raw_is_set(c->raw, OPT_SERVICE_LEASE_TTL, i);
	return has_ttl ? in_service(OPT_SERVICE_LEASE_TTL, i) : global(OPT_REDIS_COMMAND_TIMEOUT);
}

static enum err_code check_command_room(struct config *c, size_t i, bool has_renew, bool has_margin, struct err *err)
{
	struct config_service *s = &c->services[i];
	int64_t room = command_room_ms(s), timeout = c->redis.command_timeout_ms;
	bool has_timeout = raw_is_set(c->raw, OPT_REDIS_COMMAND_TIMEOUT, 0);
	s->command_timeout_ms = min64(timeout, room);
	if (timeout <= room || (!has_timeout && s->lease.ttl_ms < DEFAULTS_FIT_MS && room >= LEAST_COMMAND_MS))
		return ERR_OK;
	struct place at = tightest(c, i, has_renew, has_margin);
	if (has_timeout && !has_renew && !has_margin)
		at = global(OPT_REDIS_COMMAND_TIMEOUT);
	return raw_fail(c->raw, &at, err, ERR_RANGE,
		"renew_every + command_timeout must be below ttl - stop_margin in services[%zu]: %lldms + %lldms, "
		"%lldms - %lldms",
		i, (long long)s->lease.renew_every_ms,
		(long long)(has_timeout || s->lease.ttl_ms >= DEFAULTS_FIT_MS ? timeout : LEAST_COMMAND_MS),
		(long long)s->lease.ttl_ms, (long long)s->lease.stop_margin_ms);
}

static enum err_code check_lease(struct config *c, size_t i, struct err *err)
{
	struct config_service *s = &c->services[i];
	bool has_renew = is_explicit(c, OPT_SERVICE_LEASE_RENEW_EVERY, i, s->lease.renew_every_ms);
	bool has_margin = is_explicit(c, OPT_SERVICE_LEASE_STOP_MARGIN, i, s->lease.stop_margin_ms);
	int64_t ttl = s->lease.ttl_ms;
	derive_lease(s);
	struct place margin = in_service(OPT_SERVICE_LEASE_STOP_MARGIN, i);
	struct place renew = in_service(OPT_SERVICE_LEASE_RENEW_EVERY, i);
	if (s->lease.stop_margin_ms >= ttl)
		return raw_fail(c->raw, &margin, err, ERR_RANGE, "%lldms must be below lease.ttl, %lldms",
			(long long)s->lease.stop_margin_ms, (long long)ttl);
	if (s->lease.renew_every_ms * 2 >= ttl)
		return raw_fail(c->raw, &renew, err, ERR_RANGE, "%lldms must be below half of lease.ttl, %lldms",
			(long long)s->lease.renew_every_ms, (long long)ttl);
	return check_command_room(c, i, has_renew, has_margin, err);
}

static enum err_code check_min_idle(struct config *c, size_t i, struct err *err)
{
	struct config_service *s = &c->services[i];
	int64_t least = 2 * s->lease.ttl_ms;
	struct place at = in_service(OPT_SERVICE_RECOVERY_MIN_IDLE, i);
	if (!raw_is_set(c->raw, at.id, i))
		s->recovery.min_idle_ms = max64(s->recovery.min_idle_ms, least);
	if (s->recovery.min_idle_ms < least)
		return raw_fail(c->raw, &at, err, ERR_RANGE, "%lldms must be at least 2 * lease.ttl, %lldms",
			(long long)s->recovery.min_idle_ms, (long long)least);
	return ERR_OK;
}

/* Settings of the workers' socket against the shortest lease. */
static enum err_code check_worker_times(struct config *c, struct err *err)
{
	int64_t ttl = c->services[0].lease.ttl_ms;
	for (size_t i = 1; i < c->n_services; i++)
		ttl = min64(ttl, c->services[i].lease.ttl_ms);
	struct place grace = global(OPT_WORKERS_RESUME_GRACE), ping = global(OPT_WORKERS_PING_EVERY);
	if (!raw_is_set(c->raw, grace.id, 0))
		c->workers.resume_grace_ms = min64(c->workers.resume_grace_ms, ttl / 2);
	if (c->workers.ping_every_ms == 0)
		c->workers.ping_every_ms = ttl / 3;
	if (c->workers.resume_grace_ms >= ttl)
		return raw_fail(c->raw, &grace, err, ERR_RANGE, "%lldms must be below the shortest lease.ttl, %lldms",
			(long long)c->workers.resume_grace_ms, (long long)ttl);
	if (c->workers.ping_every_ms >= ttl)
		return raw_fail(c->raw, &ping, err, ERR_RANGE, "%lldms must be below the shortest lease.ttl, %lldms",
			(long long)c->workers.ping_every_ms, (long long)ttl);
	return ERR_OK;
}

/* ---- services: names */

static const char *name_problem(const char *name)
{
	if (strpbrk(name, " \"\\"))
		return "must not contain spaces, quotes or backslashes";
	if (strstr(name, SEPARATOR))
		return "must not contain <MUTEX_KEY_SEP>";
	const char *open = strchr(name, '{'), *close = strchr(name, '}');
	if (!open && !close)
		return NULL;
	if (!open || !close || close < open + 2 || strchr(open + 1, '{') || strchr(close + 1, '}'))
		return "braces must hold one tag, like {orders}";
	return NULL;
}

static bool is_lbs(const struct config *c, const char *stream)
{
	size_t len = strlen(stream);
	if (len < 6 || strcmp(stream + len - 6, "-input") != 0)
		return false;
	for (size_t i = 0; i < c->n_services; i++) {
		if (strlen(c->services[i].name) == len - 6 && memcmp(c->services[i].name, stream, len - 6) == 0)
			return true;
	}
	return false;
}

/* Does key end so, with something before it? *left = the bytes before it. */
static bool ends_in(const char *key, size_t len, const char *end, size_t *left)
{
	const size_t n = strlen(end);
	*left = len > n ? len - n : 0;
	return len > n && memcmp(key + *left, end, n) == 0;
}

/* The service whose registry, delayed set and so on has this name, whether or not it is of this configuration:
 * "{a-input}-active", "{t}a-input-active". 0: it is none of them; else the length of its name, at *service. */
static size_t keeper_of(const char *key, const char **service)
{
	static const char *const kinds[] = {"-active", "-delayed", "-delayed-data", "-parked", "-left", "-fleet"};
	size_t lbs, name, tag;
	for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
		if (!ends_in(key, strlen(key), kinds[i], &lbs))
			continue;
		*service = key;
		if (ends_in(key, lbs, "-input", &name) && hash_tag_find(key, name, &tag))
			return name;
		*service = key + 1;
		if (*key == '{' && ends_in(key + 1, lbs - 1, "-input}", &name) && !memchr(key + 1, '}', name))
			return name;
	}
	return 0;
}

/* Dead letters go to a stream of their own. What is no stream would refuse each of them, for ever. */
static enum err_code check_dead_letter_key(
	const struct config *c, const struct place *dlq, const char *key, struct err *err)
{
	const char *service;
	size_t left, tag;
	if (is_lbs(c, key))
		return raw_fail(c->raw, dlq, err, ERR_INVALID, "is the load-balancer stream of a service");
	const size_t n_service = keeper_of(key, &service);
	if (n_service > 0)
		return raw_fail(c->raw, dlq, err, ERR_INVALID, "%.300s is a key that sluiced keeps for service %.*s",
			key, (int)n_service, service);
	if (ends_in(key, strlen(key), "-sluice", &left) && hash_tag_find(key, left, &tag))
		return raw_fail(c->raw, dlq, err, ERR_INVALID,
			"%.300s is a key that sluiced keeps, the position in a stream", key);
	if (strstr(key, SEPARATOR))
		return raw_fail(c->raw, dlq, err, ERR_INVALID, "%.300s has the form of a lock's key", key);
	return ERR_OK;
}

static enum err_code check_names(struct config *c, size_t i, struct err *err)
{
	struct config_service *s = &c->services[i];
	struct place name = in_service(OPT_SERVICE_NAME, i), dlq = in_service(OPT_SERVICE_DEAD_LETTER_STREAM, i);
	const char *problem = name_problem(s->name);
	if (problem)
		return raw_fail(c->raw, &name, err, ERR_INVALID, "%s", problem);
	for (size_t j = 0; j < i; j++) {
		if (strcmp(c->services[j].name, s->name) == 0)
			return raw_fail(c->raw, &name, err, ERR_INVALID,
				"\"%.80s\" is the name of services[%zu] already", s->name, j);
	}
	if (!*s->dead_letter.stream) {
		mem_free(s->dead_letter.stream);
		s->dead_letter.stream = mem_printf("%s-input-dlq", s->name);
	}
	return check_dead_letter_key(c, &dlq, s->dead_letter.stream, err);
}

/* Two owners of one stream name would fence each other. */
static enum err_code check_entries(struct config *c, size_t i, struct err *err)
{
	struct config_service *s = &c->services[i];
	struct place same = in_service(OPT_SERVICE_SAME_STREAM, i);
	struct place dlq = in_service(OPT_SERVICE_ENTRIES_DEAD_LETTER_STREAM, i);
	struct place initial = in_service(OPT_SERVICE_ENTRIES_RETRY_INITIAL, i);
	if (!*s->entries.dead_letter.stream) {
		mem_free(s->entries.dead_letter.stream);
		s->entries.dead_letter.stream = mem_printf("%s-entries-dlq", s->name);
	}
	if (check_dead_letter_key(c, &dlq, s->entries.dead_letter.stream, err) != ERR_OK)
		return err->code;
	if (strcmp(s->entries.dead_letter.stream, s->dead_letter.stream) == 0)
		return raw_fail(c->raw, &dlq, err, ERR_INVALID, "is the service's dead_letter.stream");
	if (s->entries.enabled && s->same_stream == CONFIG_SAME_STREAM_ALLOW)
		return raw_fail(c->raw, &same, err, ERR_INVALID,
			"entries.enabled needs serialize or coalesce: two owners of one stream would fence each other");
	if (s->entries.retry.initial_ms > s->entries.retry.max_ms) {
		if (!raw_is_set(c->raw, initial.id, i))
			initial.id = OPT_SERVICE_ENTRIES_RETRY_MAX;
		return raw_fail(c->raw, &initial, err, ERR_RANGE, "retry.initial must not be above retry.max");
	}
	return ERR_OK;
}

static enum err_code check_each_service(struct config *c, struct err *err)
{
	for (size_t i = 0; i < c->n_services; i++) {
		enum err_code rc = check_names(c, i, err);
		if (rc == ERR_OK)
			rc = check_lease(c, i, err);
		if (rc == ERR_OK)
			rc = check_min_idle(c, i, err);
		if (rc == ERR_OK)
			rc = check_entries(c, i, err);
		if (rc != ERR_OK)
			return rc;
	}
	return check_worker_times(c, err);
}

/* ---- redis */

static enum err_code check_sentinel(const struct config *c, struct err *err)
{
	const struct place topology = global(OPT_REDIS_TOPOLOGY); /* what is not written has no place of its own */
	if (!*c->redis.sentinel.master)
		return raw_fail(c->raw, &topology, err, ERR_INVALID,
			"sentinel needs redis.sentinel.master, the name the Sentinels know the master by");
	if (!raw_is_set(c->raw, OPT_REDIS_ENDPOINTS, 0))
		return raw_fail(c->raw, &topology, err, ERR_INVALID,
			"sentinel needs redis.endpoints, the addresses of the Sentinels, such as 10.0.0.1:26379");
	return ERR_OK;
}

static enum err_code check_cluster(const struct config *c, struct err *err)
{
	if (c->redis.topology == CONFIG_TOPOLOGY_SENTINEL)
		return check_sentinel(c, err);
	if (c->redis.topology != CONFIG_TOPOLOGY_CLUSTER)
		return ERR_OK;
	struct place at = global(OPT_REDIS_DB);
	if (c->redis.db != 0)
		return raw_fail(c->raw, &at, err, ERR_INVALID, "a cluster has database 0 only");
	at.id = OPT_REDIS_ENDPOINTS;
	for (at.item = 0; at.item < c->redis.endpoints.n; at.item++) {
		if (endpoint_path(c->redis.endpoints.items[at.item]))
			return raw_fail(
				c->raw, &at, err, ERR_INVALID, "a cluster cannot be reached through a unix socket");
	}
	return ERR_OK;
}

static enum err_code check_tls(const struct config *c, struct err *err)
{
	bool has_cert = *c->redis.tls.cert_file, has_key = *c->redis.tls.key_file;
	struct place cert = global(OPT_REDIS_TLS_CERT_FILE), key = global(OPT_REDIS_TLS_KEY_FILE);
	if (has_cert && !has_key)
		return raw_fail(c->raw, &cert, err, ERR_INVALID, "needs redis.tls.key_file");
	if (has_key && !has_cert)
		return raw_fail(c->raw, &key, err, ERR_INVALID, "needs redis.tls.cert_file");
	return ERR_OK;
}

/* first: the row of its .file; those of .credential and .env stand behind it. */
static enum err_code check_password(
	const struct config *c, const struct config_secret *p, enum option_id first, struct err *err)
{
	struct place file = global(first), credential = global(first + 1), env = global(first + 2);
	if ((*p->file != 0) + (*p->credential != 0) + (*p->env != 0) > 1)
		return raw_fail(c->raw, *p->env ? &env : &credential, err, ERR_INVALID,
			"only one of file, credential and env can be given");
	if (*p->file && *p->file != '/')
		return raw_fail(c->raw, &file, err, ERR_INVALID, "is not an absolute path");
	if (strchr(p->credential, '/') || strcmp(p->credential, "..") == 0 || strcmp(p->credential, ".") == 0)
		return raw_fail(c->raw, &credential, err, ERR_INVALID, "is not the name of a credential");
	if (strchr(p->env, '='))
		return raw_fail(c->raw, &env, err, ERR_INVALID, "is not the name of a variable");
	return ERR_OK;
}

static enum err_code check_redis(const struct config *c, struct err *err)
{
	struct place initial = global(OPT_REDIS_RECONNECT_INITIAL);
	if (!raw_is_set(c->raw, initial.id, 0))
		initial.id = OPT_REDIS_RECONNECT_MAX;
	if (c->redis.reconnect.initial_ms > c->redis.reconnect.max_ms)
		return raw_fail(c->raw, &initial, err, ERR_RANGE, "reconnect.initial must not be above reconnect.max");
	enum err_code rc = check_cluster(c, err);
	if (rc == ERR_OK)
		rc = check_tls(c, err);
	if (rc == ERR_OK)
		rc = check_password(c, &c->redis.password, OPT_REDIS_PASSWORD_FILE, err);
	return rc ? rc : check_password(c, &c->redis.sentinel.password, OPT_REDIS_SENTINEL_PASSWORD_FILE, err);
}

/* ---- sockets */

static enum err_code check_group(const struct config *c, enum option_id id, const char *group, struct err *err)
{
	struct place at = global(id);
	char shown[TEXT_SHOWN];
	if (*group && !getgrnam(group))
		return raw_fail(
			c->raw, &at, err, ERR_INVALID, "there is no group %s", text_show(group, strlen(group), shown));
	return ERR_OK;
}

static enum err_code check_socket_path(const struct config *c, enum option_id id, const char *path, struct err *err)
{
	struct place at = global(id);
	if (!*path)
		return raw_fail(c->raw, &at, err, ERR_INVALID, "must not be empty");
	if (path[strlen(path) - 1] == '/')
		return raw_fail(c->raw, &at, err, ERR_INVALID, "is the path of a directory");
	return ERR_OK;
}

static enum err_code check_sockets(const struct config *c, struct err *err)
{
	enum err_code rc = check_socket_path(c, OPT_WORKERS_SOCKET, c->workers.socket, err);
	if (rc == ERR_OK)
		rc = check_socket_path(c, OPT_CONTROL_SOCKET, c->control.socket, err);
	if (rc == ERR_OK)
		rc = check_group(c, OPT_WORKERS_GROUP, c->workers.group, err);
	if (rc == ERR_OK)
		rc = check_group(c, OPT_CONTROL_GROUP, c->control.group, err);
	if (rc != ERR_OK)
		return rc;
	struct place control = global(OPT_CONTROL_SOCKET);
	if (!raw_is_set(c->raw, control.id, 0))
		control.id = OPT_WORKERS_SOCKET;
	if (strcmp(c->workers.socket, c->control.socket) == 0)
		return raw_fail(
			c->raw, &control, err, ERR_INVALID, "workers.socket and control.socket are the same path");
	return ERR_OK;
}

static enum err_code check_metrics(const struct config *c, struct err *err)
{
	struct place at = global(OPT_METRICS_LISTEN);
	if (!*c->metrics.listen)
		return ERR_OK;
	enum err_code rc = endpoint_check(c->metrics.listen, true, err);
	if (rc != ERR_OK)
		return raw_blame(c->raw, &at, err);
	const char *path = endpoint_path(c->metrics.listen);
	if (path && (strcmp(path, c->workers.socket) == 0 || strcmp(path, c->control.socket) == 0))
		return raw_fail(c->raw, &at, err, ERR_INVALID, "is the path of another socket of the daemon");
	return ERR_OK;
}

/* ---- node id */

static bool is_node_id(const char *id)
{
	static const char bytes[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._:@-";
	size_t n = strlen(id);
	return n >= 1 && n <= MAX_NODE_ID && strspn(id, bytes) == n;
}

/* Takes the id from a variable or the host name; `source` says which in messages. */
static enum err_code adopt_id(struct config *c, const char *id, const char *source, struct err *err)
{
	char shown[TEXT_SHOWN];
	if (!is_node_id(id))
		return err_set(err, ERR_INVALID, "environment: %s: node.id: %s cannot be a node id; set node.id",
			source, text_show(id, strlen(id), shown));
	mem_free(c->node.id);
	c->node.id = mem_dup(id, strlen(id));
	return ERR_OK;
}

static enum err_code resolve_node_id(struct config *c, char *const *env, struct err *err)
{
	static const char *const variables[] = {"POD_NAME", "POD_IP"};
	struct place at = global(OPT_NODE_ID);
	char host[256] = "";
	if (*c->node.id && !is_node_id(c->node.id))
		return raw_fail(c->raw, &at, err, ERR_INVALID, "may have letters, digits and . _ : @ - only");
	c->node.id_is_chosen = *c->node.id != '\0';
	if (c->node.id_is_chosen)
		return ERR_OK;
	for (size_t i = 0; i < 2; i++) {
		const char *id = env_get(env, variables[i]);
		if (!id || !*id)
			continue;
		c->raw->node_id_from =
			(struct origin){.kind = ORIGIN_ENV, .env = mem_dup(variables[i], strlen(variables[i]))};
		return adopt_id(c, id, variables[i], err);
	}
	if (gethostname(host, sizeof host - 1) != 0)
		return err_set(err, ERR_IO, "the host has no name: %s; set node.id", strerror(errno));
	return adopt_id(c, host, "host name", err);
}

enum err_code check_config(struct config *c, char *const *env, struct err *err)
{
	enum err_code rc = resolve_node_id(c, env, err);
	if (rc == ERR_OK)
		rc = check_redis(c, err);
	if (rc == ERR_OK)
		rc = check_each_service(c, err);
	if (rc == ERR_OK)
		rc = check_sockets(c, err);
	return rc ? rc : check_metrics(c, err);
}
