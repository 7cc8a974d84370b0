/* reload - a new configuration file under a running daemon.
 *
 * Happy path: load and check -> password, certificates, listener -> what needs a restart keeps its running value
 * -> apply.
 * Failure: anything wrong before "apply": nothing changed, one sentence. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/secret.h"
#include "config/options.h"
#include "io/notify.h"
#include "run/daemon.h"

struct fresh { /* all that was prepared; ours until it is applied */
	struct config *config;
	const char *password;
	struct redis_tls *tls;
	struct http *http;
	bool http_changed;
};

static size_t size_of(enum option_type type)
{
	switch (type) {
	case OPTION_BOOL:
		return sizeof(bool);
	case OPTION_DURATION:
		return sizeof(int64_t);
	case OPTION_SIZE:
		return sizeof(size_t);
	case OPTION_PERCENT:
	case OPTION_INT:
	case OPTION_MODE:
		return sizeof(unsigned);
	case OPTION_ENUM:
		return sizeof(enum config_topology);
	case OPTION_STRING:
	case OPTION_PATH:
	case OPTION_SECRET:
	case OPTION_WORD:
		return sizeof(char *);
	case OPTION_ENDPOINTS:
		return sizeof(struct config_list);
	case OPTION_UIDS:
		return sizeof(struct config_uids);
	}
	return 0;
}

/* What needs a restart goes on with its running value, so that the next reload reports it again. */
static void swap_restart_values(struct config *a, struct config *b)
{
	for (enum option_id id = 0; id < N_OPTIONS; id++) {
		const struct option *o = &options[id];
		if (o->class != OPTION_RESTART || option_is_service(id))
			continue;
		char kept[sizeof(struct config_list) + sizeof(struct config_uids)];
		size_t n = size_of(o->type);
		memcpy(kept, (char *)a + o->field, n);
		memcpy((char *)a + o->field, (char *)b + o->field, n);
		memcpy((char *)b + o->field, kept, n);
	}
}

static bool reload_same_text(const char *a, const char *b)
{
	return strcmp(a ? a : "", b ? b : "") == 0;
}

_Static_assert((int)OPTION_MAX_SERVICES == (int)SERVICES_MAX, "what may be configured, the core has places for");

static bool reload_is_named(const struct config *c, const char *name)
{
	for (size_t i = 0; i < c->n_services; i++)
		if (strcmp(c->services[i].name, name) == 0)
			return true;
	return false;
}

/* A service that is left out keeps its place until its last stream has ended. */
static enum err_code check_places(const struct daemon *d, const struct config *c, struct err *err)
{
	size_t n = c->n_services;
	for (uint16_t i = 0; i < d->core->services.n; i++) {
		const struct service_rules *r = d->core->services.v[i].rules;
		n += r && !reload_is_named(c, r->name);
	}
	if (n <= SERVICES_MAX)
		return ERR_OK;
	return err_set(err, ERR_RANGE, "%s: services: %zu with those that are still to end, at most %d: take out first",
		d->reload.path, n, SERVICES_MAX);
}

static bool reload_same_port(const char *a, const char *b)
{
	const char *p = strrchr(a, ':'), *q = strrchr(b, ':');
	return p && q && p[1] != '/' && strcmp(p, q) == 0;
}

/* 127.0.0.1:9438 becomes 0.0.0.0:9438: we have the port ourselves. Comes last of what can fail; after a failure we
 * listen where we did. */
static enum err_code listen_instead(struct daemon *d, struct fresh *f, struct err *err)
{
	http_close(d->http);
	d->http = NULL;
	enum err_code code = http_open(loop_uv(d->loop), f->config->metrics.listen, metrics_http, d, &f->http, err);
	struct err again;
	if (code && http_open(loop_uv(d->loop), d->config->metrics.listen, metrics_http, d, &d->http, &again))
		log_line(LOG_ERROR, "metrics.listen: %s; no metrics until the next reload", again.text);
	return code;
}

/* Everything that can fail. f->config holds the running values of what needs a restart. */
static enum err_code prepare(struct daemon *d, struct fresh *f, struct err *err)
{
	enum err_code code = check_places(d, f->config, err);
	if (code)
		return code;
	code = config_password(f->config, &f->password, err);
	if (!code)
		code = rules_of_tls(f->config, &f->tls, err);
	if (code)
		config_place(f->config, err);
	const char *listen = f->config->metrics.listen;
	f->http_changed = strcmp(d->config->metrics.listen, listen) != 0 || (listen[0] && !d->http);
	if (code || !f->http_changed || !listen[0])
		return code;
	code = http_open(loop_uv(d->loop), listen, metrics_http, d, &f->http, err);
	if (code == ERR_BUSY && d->http && reload_same_port(d->config->metrics.listen, listen))
		code = listen_instead(d, f, err);
	return code ? err_prefix(err, "metrics.listen") : code;
}

static void fresh_fini(struct fresh *f)
{
	if (f->http)
		http_close(f->http);
	redis_tls_unref(f->tls);
	secret_drop(f->password);
	config_free(f->config);
}

/* ---- apply */

/* opts: those of new connections. */
static void to_shards(struct daemon *d, enum run_msg_kind kind, const struct redis_opts *opts)
{
	for (uint16_t i = 0; i < d->shards.n; i++) {
		if (!d->shards.v[i])
			continue;
		struct run_msg m = {.kind = kind};
		if (kind == RUN_AUTH) {
			m.username = mem_dup(opts->username, strlen(opts->username));
			m.password = secret_keep(opts->password, strlen(opts->password));
		} else if (kind == RUN_TLS) {
			m.tls = redis_tls_ref(d->login.tls);
		} else if (kind == RUN_MAINT) {
			rules_of_handoff(d->config, &m.maint.rules);
			m.maint.mode = opts->maint;
			snprintf(m.maint.endpoint_type, sizeof m.maint.endpoint_type, "%s", opts->maint_endpoint_type);
		} else {
			m.times.command_timeout_ms = d->shards.rules.command_timeout_ms;
			m.times.redis = opts->times;
		}
		shard_thread_send(d->shards.v[i], &m);
	}
}

static void apply_services(struct daemon *d)
{
	const struct config *c = d->config;
	struct service_rules **rules = mem_array(c->n_services, sizeof(struct service_rules *));
	for (size_t i = 0; i < c->n_services; i++)
		rules[i] = rules_of_service(&c->services[i], c, rules_service_id(&d->self.ids, c->services[i].name));
	struct coord_event ev = {.kind = COORD_SERVICES, .services = rules, .n = c->n_services};
	daemon_step(d, &ev);
	mem_free(rules);
}

static void apply_limits(struct daemon *d)
{
	struct coord_rules rules;
	rules_of_coord(d->config, d->self.incarnation, &rules);
	struct coord_event ev = {.kind = COORD_LIMITS, .rules = &rules};
	daemon_step(d, &ev);
	worker_socket_limits(d->workers, d->config);
	log_open(d->config->log.level, d->config->log.format);
	struct shard_rules shard;
	rules_of_shard(d->config, d->self.incarnation, &shard);
	shard.seed = d->shards.rules.seed;
	d->shards.rules = shard;
}

static void apply_redis(struct daemon *d, bool new_auth)
{
	struct redis_opts o;
	rules_of_redis(d->config, d->login.password, d->login.tls, d->shards.rules.consumer, &o);
	if (d->login.tls) {
		to_shards(d, RUN_TLS, &o);
		topology_client_set_tls(d->topo.client, d->login.tls);
	}
	if (new_auth) {
		to_shards(d, RUN_AUTH, &o);
		topology_client_set_auth(d->topo.client, o.username, o.password);
	}
	to_shards(d, RUN_TIMES, &o);
	to_shards(d, RUN_MAINT, &o);
	topology_client_set_rules(d->topo.client, d->config, &o);
}

/* Takes what f prepared; the old things end. */
static void reload_apply(struct daemon *d, struct fresh *f, bool new_auth)
{
	struct config *old = d->config;
	d->config = f->config;
	secret_drop(d->login.password);
	d->login.password = f->password;
	redis_tls_unref(d->login.tls);
	d->login.tls = f->tls;
	if (f->http_changed) {
		if (d->http)
			http_close(d->http);
		d->http = f->http;
	}
	*f = (struct fresh){0};
	apply_limits(d);
	apply_redis(d, new_auth);
	apply_services(d);
	config_free(old);
}

static void say_reloading(void)
{
	char text[96];
	snprintf(text, sizeof text, "RELOADING=1\nMONOTONIC_USEC=%lld", (long long)mono_now_us());
	notify_send(text);
}

static enum err_code reload(struct daemon *d, reload_row_fn *fn, void *arg, struct err *err)
{
	struct fresh f = {0};
	enum err_code code = config_load(d->reload.path, &f.config, err);
	if (code)
		return code;
	struct config_change *changes = NULL;
	size_t n = config_diff(d->config, f.config, &changes);
	swap_restart_values(d->config, f.config);
	code = prepare(d, &f, err);
	if (code) {
		swap_restart_values(d->config, f.config);
		goto out;
	}
	bool new_secret = !reload_same_text(d->login.password, f.password);
	bool new_files = d->login.tls && f.tls && !redis_tls_same_files(d->login.tls, f.tls);
	bool new_auth = new_secret || strcmp(d->config->redis.username, f.config->redis.username) != 0;
	reload_apply(d, &f, new_auth);
	for (size_t i = 0; i < n; i++)
		fn(arg, changes[i].path, changes[i].before, changes[i].after,
			changes[i].needs_restart ? "needs restart" : "applied");
	if (new_secret)
		fn(arg, "redis.password", "***", "***", "applied");
	if (new_files)
		fn(arg, "redis.tls", "old files", "new files", "applied");
	log_line(LOG_NOTICE, "reloaded file=%s changes=%zu", d->reload.path, n + new_secret + new_files);
out:
	config_changes_free(changes, n);
	fresh_fini(&f);
	return code;
}

enum err_code daemon_reload(struct daemon *d, reload_row_fn *fn, void *arg, struct err *err)
{
	if (d->end.is_stopping)
		return err_set(err, ERR_BUSY, "the daemon is stopping");
	say_reloading();
	enum err_code code = reload(d, fn, arg, err);
	d->reload.is_bad = code != ERR_OK;
	notify_send("READY=1");
	return code;
}
