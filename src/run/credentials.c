#include "run/credentials.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/secret.h"
#include "run/daemon.h"
#include <string.h>
#include <sys/stat.h>

enum {
	LOOK_EVERY_MS = 1000,
	LOGIN_TRIES = 3, /* the server may learn of the new password after the file has it */
	TLS_FILES = 3,
	PATIENT_LOOKS = 2 /* certificate and key are not written in one moment */
};

struct tls_file { /* as it was when it was looked at */
	dev_t dev;
	ino_t ino;
	off_t size;
	struct timespec changed;
};

struct credentials {
	uv_timer_t timer;
	struct daemon *d;
	bool is_bad;       /* the last look failed, and was told */
	unsigned n_logins; /* connections that are up have still to log in so often */
	mono_ms login_at;
	struct tls_file files[TLS_FILES];
	unsigned n_bad_tls; /* looks in a row that found files which cannot be used */
};

/* is_for_next: connections that are up stay who they are. */
static void credentials_tell(struct daemon *d, bool is_for_next)
{
	struct redis_opts o;
	rules_of_redis(d->config, d->login.password, d->login.tls, d->shards.rules.consumer, &o);
	for (uint16_t i = 0; i < d->shards.n; i++) {
		if (!d->shards.v[i])
			continue;
		struct run_msg m = {.kind = RUN_AUTH};
		m.username = mem_dup(o.username, strlen(o.username));
		m.password = secret_keep(o.password, strlen(o.password));
		m.is_for_next = is_for_next;
		shard_thread_send(d->shards.v[i], &m);
	}
	if (is_for_next)
		topology_client_set_next_auth(d->topo.client, o.username, o.password);
	else
		topology_client_set_auth(d->topo.client, o.username, o.password);
}

static void look_at_password(struct credentials *c)
{
	struct daemon *d = c->d;
	const struct config_secret *p = &d->config->redis.password;
	if (!*p->file && !*p->credential)
		return; /* an environment does not change */
	const char *fresh;
	struct err err;
	if (config_password(d->config, &fresh, &err) != ERR_OK) {
		if (!c->is_bad)
			log_line(LOG_WARN, "%s; the password that was read before stays", err.text);
		c->is_bad = true;
		return;
	}
	c->is_bad = false;
	if (d->login.password && fresh && strcmp(d->login.password, fresh) == 0) {
		secret_drop(fresh);
		return;
	}
	secret_drop(d->login.password);
	d->login.password = fresh;
	c->n_logins = LOGIN_TRIES;
	credentials_tell(d, true);
	log_line(LOG_INFO, "redis.password has changed: used from the next connection on");
}

/* Connections that are up log in with the new password before the old one ends. */
static void log_in_anew(struct credentials *c, mono_ms now)
{
	const mono_ms every = c->d->config->redis.password_refresh_ms;
	if (every == 0 || now < c->login_at)
		return;
	c->login_at = now + every;
	if (c->n_logins == 0)
		return;
	c->n_logins--;
	credentials_tell(c->d, false);
}

/* True: they are not as they were. */
static bool look_at_files(struct credentials *c)
{
	const struct config *g = c->d->config;
	const char *const paths[TLS_FILES] = {g->redis.tls.ca_file, g->redis.tls.cert_file, g->redis.tls.key_file};
	bool is_new = false;
	for (size_t i = 0; i < TLS_FILES; i++) {
		struct stat st = {0};
		if (*paths[i] && stat(paths[i], &st) != 0)
			memset(&st, 0, sizeof st);
		const struct tls_file *old = &c->files[i];
		is_new = is_new || st.st_ino != old->ino || st.st_dev != old->dev || st.st_size != old->size ||
			 st.st_mtim.tv_sec != old->changed.tv_sec || st.st_mtim.tv_nsec != old->changed.tv_nsec;
		c->files[i] = (struct tls_file){st.st_dev, st.st_ino, st.st_size, st.st_mtim};
	}
	return is_new;
}

static void use_tls(struct daemon *d, struct redis_tls *fresh)
{
	redis_tls_unref(d->login.tls);
	d->login.tls = fresh;
	for (uint16_t i = 0; i < d->shards.n; i++) {
		if (!d->shards.v[i])
			continue;
		struct run_msg m = {.kind = RUN_TLS};
		m.tls = redis_tls_ref(fresh);
		shard_thread_send(d->shards.v[i], &m);
	}
	topology_client_set_tls(d->topo.client, fresh);
	log_line(LOG_INFO, "redis.tls: new certificates are used from the next connection on");
}

static void look_at_tls(struct credentials *c)
{
	struct daemon *d = c->d;
	if (!d->login.tls)
		return;
	const bool is_new = look_at_files(c);
	if (!is_new && c->n_bad_tls == 0)
		return;
	struct redis_tls *fresh;
	struct err err;
	if (rules_of_tls(d->config, &fresh, &err) != ERR_OK) {
		if (++c->n_bad_tls == PATIENT_LOOKS)
			log_line(LOG_WARN, "%s; what was read before stays", err.text);
		return;
	}
	c->n_bad_tls = 0;
	if (redis_tls_same_files(d->login.tls, fresh))
		redis_tls_unref(fresh);
	else
		use_tls(d, fresh);
}

static void credentials_look(uv_timer_t *timer)
{
	struct credentials *c = timer->data;
	look_at_password(c);
	log_in_anew(c, mono_now());
	look_at_tls(c);
}

struct credentials *credentials_open(struct daemon *d)
{
	struct credentials *c = mem_alloc(sizeof *c);
	c->d = d;
	uv_timer_init(loop_uv(d->loop), &c->timer);
	c->timer.data = c;
	uv_timer_start(&c->timer, credentials_look, LOOK_EVERY_MS, LOOK_EVERY_MS);
	return c;
}

static void credentials_on_closed(uv_handle_t *h)
{
	mem_free(h->data);
}

void credentials_close(struct credentials *c)
{
	if (c)
		uv_close((uv_handle_t *)&c->timer, credentials_on_closed);
}
