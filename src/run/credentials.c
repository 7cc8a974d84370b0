#include "run/credentials.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/secret.h"
#include "run/daemon.h"
#include <string.h>

enum { LOOK_EVERY_MS = 1000 };

struct credentials {
	uv_timer_t timer;
	struct daemon *d;
	bool is_bad; /* the last look failed, and was told */
};

static void credentials_tell(struct daemon *d)
{
	struct redis_opts o;
	rules_of_redis(d->config, d->password, d->tls, d->shard_rules.consumer, &o);
	for (uint16_t i = 0; i < d->n_shards; i++) {
		if (!d->shards[i])
			continue;
		struct run_msg m = {.kind = RUN_AUTH};
		m.username = mem_dup(o.username, strlen(o.username));
		m.password = secret_keep(o.password, strlen(o.password));
		m.is_for_next = true;
		shard_thread_send(d->shards[i], &m);
	}
	topology_client_set_next_auth(d->topo, o.username, o.password);
}

static void credentials_look(uv_timer_t *timer)
{
	struct credentials *c = timer->data;
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
	if (d->password && fresh && strcmp(d->password, fresh) == 0) {
		secret_drop(fresh);
		return;
	}
	secret_drop(d->password);
	d->password = fresh;
	credentials_tell(d);
	log_line(LOG_INFO, "redis.password has changed: used from the next connection on");
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
