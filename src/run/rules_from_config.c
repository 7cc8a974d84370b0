#include "run/rules_from_config.h"
#include "base/fnv.h"
#include "base/mono.h"
#include "base/rng.h"
#include "codec/command.h"
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>

uint16_t rules_service_id(struct rules_ids *ids, const char *name)
{
	for (uint16_t i = 0; i < ids->n; i++)
		if (strcmp(ids->names[i], name) == 0)
			return i;
	ids->names = mem_grow(ids->names, (size_t)ids->n + 1, sizeof *ids->names);
	ids->names[ids->n] = mem_dup(name, strlen(name));
	return ids->n++;
}

void rules_ids_fini(struct rules_ids *ids)
{
	for (uint16_t i = 0; i < ids->n; i++)
		mem_free(ids->names[i]);
	mem_free(ids->names);
	*ids = (struct rules_ids){0};
}

/* What a frame has beside its entries' texts. */
enum { FRAME_ROOM = 256, FRAME_LEAST = 256 };

static void fill_entries(const struct config_service *s, const struct config *c, struct entries_rules *e)
{
	size_t frame = c->workers.max_frame_bytes;
	*e = (struct entries_rules){.is_on = s->entries.enabled,
		.trim = s->entries.on_ack == CONFIG_ON_ACK_TRIM,
		.delete_stream = s->entries.on_done == CONFIG_ON_DONE_DELETE,
		.batch = s->entries.batch,
		.window = s->entries.window,
		.max_retries = s->entries.retry.max_retries,
		.batch_bytes = (uint32_t)s->entries.batch_bytes,
		.entry_bytes = (uint32_t)(frame > FRAME_ROOM + FRAME_LEAST ? frame - FRAME_ROOM : FRAME_LEAST),
		.idle_release_ms = s->entries.idle_release_ms,
		.position_ttl_ms = s->entries.position_ttl_ms,
		.poll_max_ms = s->entries.poll_max_ms,
		.retry_initial_ms = s->entries.retry.initial_ms,
		.retry_max_ms = s->entries.retry.max_ms,
		.retry_factor = s->entries.retry.factor,
		.retry_jitter_pct = s->entries.retry.jitter_pct,
		.dlq_max_len = s->entries.dead_letter.max_len,
		.dlq_slot = command_slot(s->entries.dead_letter.stream, strlen(s->entries.dead_letter.stream))};
	snprintf(e->start, sizeof e->start, "%s", s->entries.start);
	snprintf(e->dlq, sizeof e->dlq, "%s", s->entries.dead_letter.stream);
}

static struct service_rules *alloc_with_own_keys(const struct command_names *n)
{
	const struct {
		enum own_kind kind;
		const char *name;
	} keys[] = {{OWN_LBS, n->lbs}, {OWN_STATE, n->registry}, {OWN_STATE, n->delayed}, {OWN_STATE, n->delayed_data},
		{OWN_STATE, n->parked}, {OWN_STATE, n->left}, {OWN_STATE, n->fleet}, {OWN_DEAD_LETTERS, n->dlq},
		{OWN_DEAD_LETTERS, n->entries_dlq}};
	enum { N = sizeof keys / sizeof keys[0] };
	size_t bytes = 0;
	for (size_t i = 0; i < N; i++)
		bytes += strlen(keys[i].name) + 1;
	struct service_rules *r = mem_alloc(sizeof *r + N * sizeof *r->own.v + bytes);
	struct own_key *own = (struct own_key *)(r + 1);
	char *at = (char *)(own + N);
	for (size_t i = 0; i < N; i++) {
		const size_t len = strlen(keys[i].name);
		own[i] = (struct own_key){.hash = fnv(keys[i].name, len), .kind = keys[i].kind, .name = at};
		memcpy(at, keys[i].name, len + 1);
		at += len + 1;
	}
	r->own.v = own;
	r->own.n = N;
	return r;
}

struct service_rules *rules_of_service(const struct config_service *s, const struct config *c, uint16_t svc)
{
	struct command_names names;
	command_names_init(&names, s->name, s->dead_letter.stream, (enum same_stream)s->same_stream,
		s->dead_letter.max_len, s->group_start);
	command_names_entries(&names, s->name, s->entries.dead_letter.stream, s->entries.dead_letter.max_len);
	struct service_rules *r = alloc_with_own_keys(&names);
	atomic_init(&r->refs, 1);
	r->svc = svc;
	r->same_stream = (enum same_stream)s->same_stream;
	r->recovery.probe = s->recovery.probe;
	r->weight = s->weight;
	r->read_batch = s->read_batch;
	r->max_streams = s->max_streams;
	r->max_retries = s->retry.max_retries;
	r->retry = (struct retry_rules){.initial_ms = s->retry.initial_ms,
		.max_ms = s->retry.max_ms,
		.factor = s->retry.factor,
		.jitter_pct = s->retry.jitter_pct,
		.release_delay_ms = s->retry.release_delay_ms};
	r->wait_replicas = s->wait_replicas;
	r->recovery.scan_page = s->recovery.page;
	r->jitter_pct = s->recovery.jitter_pct;
	r->lease.ttl_ms = s->lease.ttl_ms;
	r->lease.renew_ms = s->lease.renew_every_ms;
	r->lease.stop_margin_ms = s->lease.stop_margin_ms;
	r->recovery.scan_interval_ms = s->recovery.interval_ms;
	r->recovery.min_idle_ms = s->recovery.min_idle_ms;
	r->recovery.forget_consumer_ms = s->recovery.forget_consumer_ms;
	r->hash = fnv(s->name, strlen(s->name));
	r->dlq.max_len = s->dead_letter.max_len;
	fill_entries(s, c, &r->entries);
	snprintf(r->group_start, sizeof r->group_start, "%s", s->group_start);
	snprintf(r->dlq.name, sizeof r->dlq.name, "%s", s->dead_letter.stream);
	snprintf(r->name, sizeof r->name, "%s", s->name);
	r->lbs_slot = names.lbs_slot;
	r->dlq.slot = names.dlq_slot;
	r->dlq.is_same_slot = names.dlq_same_slot || (c->redis.topology == CONFIG_TOPOLOGY_STANDALONE) ||
			      c->redis.topology == CONFIG_TOPOLOGY_SENTINEL;
	command_names_fini(&names);
	return r;
}

uint64_t rules_incarnation(void)
{
	uint16_t low;
	rng_secure(&low, sizeof low);
	return (uint64_t)mono_wall_ms() << 16 | low;
}

/* Debug and sanitizer builds look at every invariant at the end of each turn (Makefile). */
#ifdef SLUICE_CHECKS
enum { IS_CHECKED = true };
#else
enum { IS_CHECKED = false };
#endif

void rules_of_coord(const struct config *c, uint64_t incarnation, struct coord_rules *out)
{
	*out = (struct coord_rules){.max_sessions = c->workers.max_sessions,
		.max_frame_bytes = (uint32_t)c->workers.max_frame_bytes,
		.hello_timeout_ms = c->workers.hello_timeout_ms,
		.ping_ms = c->workers.ping_every_ms,
		.resume_grace_ms = c->workers.resume_grace_ms,
		.progress_timeout_ms = c->workers.progress_timeout_ms,
		.topology_refresh_ms = c->redis.topology_refresh_ms,
		.drain_timeout_ms = c->shutdown.drain_timeout_ms,
		.incarnation = incarnation,
		.is_checked = IS_CHECKED};
	snprintf(out->node, sizeof out->node, "%s", c->node.id);
	rng_secure(&out->seed, sizeof out->seed);
}

void rules_of_shard(const struct config *c, uint64_t incarnation, struct shard_rules *out)
{
	*out = (struct shard_rules){.incarnation = incarnation,
		.command_timeout_ms = c->redis.command_timeout_ms,
		.db = (int)c->redis.db,
		.is_checked = IS_CHECKED};
	for (size_t i = 0; i < c->n_services; i++)
		out->command_timeout_ms = mono_min(out->command_timeout_ms, c->services[i].command_timeout_ms);
	out->events_on = c->redis.keyspace_events != CONFIG_KEYSPACE_OFF;
	out->events_required = c->redis.keyspace_events == CONFIG_KEYSPACE_REQUIRE;
	out->events_merge = out->events_on;
	snprintf(out->consumer, sizeof out->consumer, "redis-consumer-%s", c->node.id);
	snprintf(out->lock_value, sizeof out->lock_value, "%s/%016llx", out->consumer, (unsigned long long)incarnation);
	rng_secure(&out->seed, sizeof out->seed);
}

void rules_of_handoff(const struct config *c, struct handoff_rules *out)
{
	*out = (struct handoff_rules){.relaxed_timeout_ms = c->maintenance.relaxed_timeout_ms,
		.relaxed_cap_ms = c->maintenance.relaxed_cap_ms,
		.post_relaxed_ms = c->maintenance.post_handoff_relaxed_ms,
		.timeout_ms = c->maintenance.handoff_timeout_ms,
		.max_retries = c->maintenance.max_handoff_retries,
		.max_concurrent = c->maintenance.max_concurrent_handoffs,
		.queue = c->maintenance.handoff_queue,
		.breaker_failures = c->maintenance.circuit_breaker.failures,
		.breaker_half_open = c->maintenance.circuit_breaker.half_open,
		.breaker_reset_ms = c->maintenance.circuit_breaker.reset_ms};
}

static enum redis_maint maint_of(const struct config *c)
{
	static const enum redis_maint maint[] = {[CONFIG_MAINTENANCE_DISABLED] = REDIS_MAINT_OFF,
		[CONFIG_MAINTENANCE_ENABLED] = REDIS_MAINT_REQUIRED,
		[CONFIG_MAINTENANCE_AUTO] = REDIS_MAINT_AUTO};
	return maint[c->maintenance.mode];
}

void rules_of_redis(const struct config *c, const char *password, struct redis_tls *tls, const char *client_name,
	struct redis_opts *out)
{
	*out = (struct redis_opts){.tls = tls,
		.username = c->redis.username,
		.password = password ? password : "",
		.client_name = client_name,
		.db = (int)c->redis.db,
		.times = {.connect_ms = c->redis.connect_timeout_ms,
			.backoff_initial_ms = c->redis.reconnect.initial_ms,
			.backoff_max_ms = c->redis.reconnect.max_ms,
			.ping_idle_ms = c->redis.command_timeout_ms},
		.maint = maint_of(c),
		.maint_endpoint_type = c->maintenance.endpoint_type,
		.max_reply_elements = 1u << 20,
		.max_reply_bytes = 1u << 30};
}

enum err_code rules_of_tls(const struct config *c, struct redis_tls **out, struct err *err)
{
	*out = NULL;
	if (!c->redis.tls.enabled)
		return ERR_OK;
	struct redis_tls_files files = {.ca_file = c->redis.tls.ca_file,
		.cert_file = c->redis.tls.cert_file,
		.key_file = c->redis.tls.key_file,
		.server_name = c->redis.tls.server_name};
	enum err_code code = redis_tls_new(&files, out, err);
	if (!code && files.key_file[0])
		prctl(PR_SET_DUMPABLE, 0, 0, 0,
			0); /* our private key is in OpenSSL's memory: no core files, no ptrace */
	return code;
}
