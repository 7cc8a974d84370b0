/* The page of sluice-metrics(7): counters of the coordinator and the shards' last snapshots added up, gauges from
 * the ledger. Coordinator thread. Rows of one name stand together, as the format asks. */
#include "run/metrics/page.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "codec/frame.h"
#include "run/control/control.h"

struct row {
	const char *name, *label, *help;
};

#define ROW(id, name, label, help) {name, label, help},
static const struct row service_rows[] = {METRIC_SERVICE_COUNTERS(ROW)};
static const struct row redis_rows[] = {METRIC_REDIS_COUNTERS(ROW)};
static const struct row handoff_rows[] = {METRIC_HANDOFF_COUNTERS(ROW)};
static const struct row process_rows[] = {METRIC_PROCESS_COUNTERS(ROW)};
static const struct row service_hists[] = {METRIC_SERVICE_HISTS(ROW)};
static const struct row redis_hists[] = {METRIC_REDIS_HISTS(ROW)};

struct page_redis { /* what has the label redis */
	const char *addr;
	const struct snapshot *snap; /* never NULL */
	const uint64_t *refused;     /* by the topology's connection, by enum refusal; NULL = none */
};

struct page_text {
	struct daemon *d;
	struct page_redis *redis;
	size_t n_redis;
	struct buf *out;
	struct metrics_service *sums; /* by position */
	struct view_service *views;
	const char *last; /* name whose HELP was written */
};

static bool is_served(const struct page_text *p, uint16_t i)
{
	return p->d->core->services.v[i].rules != NULL;
}

static const char *service_name(const struct page_text *p, uint16_t i)
{
	return p->d->core->services.v[i].rules->name;
}

static void head(struct page_text *p, const struct row *r, const char *type)
{
	if (p->last && strcmp(p->last, r->name) == 0)
		return;
	p->last = r->name;
	metrics_head(p->out, r->name, type, r->help);
}

/* ---- sums */

static void add_service(struct metrics_service *into, const struct metrics_service *from)
{
	for (int i = 0; i < METRIC_SERVICE_N; i++)
		into->c[i] += from->c[i];
	for (int i = 0; i < METRIC_SERVICE_HIST_N; i++)
		hist_merge(&into->h[i], &from->h[i]);
}

static void add_handoffs(struct metrics_handoff *into, const struct metrics_handoff *from)
{
	for (int i = 0; i < METRIC_HANDOFF_N; i++)
		into->c[i] += from->c[i];
	hist_merge(&into->duration, &from->duration);
}

void metrics_keep(struct daemon *d, uint16_t shard)
{
	const struct snapshot *s = d->shards.snapshots[shard];
	for (size_t i = 0; s && i < s->n_services; i++) {
		struct coord_service *svc = services_find(&d->core->services, s->services[i].svc);
		if (svc)
			add_service(&svc->m, &s->services[i].m);
	}
	if (s)
		add_handoffs(&d->shards.gone_handoffs, &s->handoff.m);
}

static struct metrics_service *sum_services(struct daemon *d)
{
	struct coord *c = d->core;
	struct metrics_service *sums = mem_array((size_t)c->services.n + 1, sizeof *sums);
	for (uint16_t i = 0; i < c->services.n; i++)
		if (c->services.v[i].rules)
			sums[i] = c->services.v[i].m;
	for (uint16_t k = 0; k < d->shards.n; k++) {
		const struct snapshot *s = d->shards.snapshots[k];
		for (size_t i = 0; s && i < s->n_services; i++) {
			const struct coord_service *svc = services_find(&c->services, s->services[i].svc);
			if (svc)
				add_service(&sums[services_pos(&c->services, svc)], &s->services[i].m);
		}
	}
	return sums;
}

/* ---- tables */

static void services(struct page_text *p)
{
	const uint16_t n = p->d->core->services.n;
	for (size_t r = 0; r < METRIC_SERVICE_N; r++) {
		head(p, &service_rows[r], "counter");
		for (uint16_t i = 0; i < n; i++)
			if (is_served(p, i))
				metrics_u64(p->out, service_rows[r].name, "service", service_name(p, i),
					service_rows[r].label, p->sums[i].c[r]);
	}
	for (size_t r = 0; r < METRIC_SERVICE_HIST_N; r++) {
		head(p, &service_hists[r], "histogram");
		for (uint16_t i = 0; i < n; i++)
			if (is_served(p, i))
				metrics_hist(p->out, service_hists[r].name, "service", service_name(p, i),
					service_hists[r].label, &p->sums[i].h[r]);
	}
}

/* A master of which nothing has been heard yet: every series is there all the same. */
static const struct snapshot nothing_yet;

static struct page_redis *find_redis(struct page_text *p, const char *addr)
{
	for (size_t i = 0; i < p->n_redis; i++)
		if (strcmp(p->redis[i].addr, addr) == 0)
			return &p->redis[i];
	return NULL;
}

/* The masters; while none is known, the configured endpoints. */
static void collect_redis(struct page_text *p)
{
	const struct daemon *d = p->d;
	const struct coord *c = d->core;
	const struct config_list none = {0}, *endpoints = d->config ? &d->config->redis.endpoints : &none;
	p->redis = mem_array((size_t)c->shards.n + endpoints->n + 1, sizeof *p->redis);
	for (uint16_t k = 0; k < c->shards.n && k < SHARDS_MAX; k++)
		if (c->shards.v[k].is_on || d->shards.snapshots[k])
			p->redis[p->n_redis++] = (struct page_redis){.addr = c->topo.nodes[k].addr,
				.snap = d->shards.snapshots[k] ? d->shards.snapshots[k] : &nothing_yet};
	for (size_t i = 0; i < endpoints->n && i < DAEMON_ENDPOINTS; i++) {
		struct page_redis *r = find_redis(p, endpoints->items[i]);
		if (!r && !c->topo.is_known) {
			r = &p->redis[p->n_redis++];
			*r = (struct page_redis){.addr = endpoints->items[i], .snap = &nothing_yet};
		}
		if (r)
			r->refused = d->topo.refused[i];
	}
}

static uint64_t redis_count(const struct page_redis *r, size_t row)
{
	static_assert(MR_REFUSED_OTHER + 1 == METRIC_REDIS_N, "refusals are the last rows");
	uint64_t n = r->snap->redis.c[row];
	if (row >= MR_REFUSED_OOM && r->refused)
		n += r->refused[REFUSAL_OOM + (row - MR_REFUSED_OOM)];
	return n;
}

static void redis(struct page_text *p)
{
	for (size_t r = 0; r < METRIC_REDIS_N; r++) {
		head(p, &redis_rows[r], "counter");
		for (size_t k = 0; k < p->n_redis; k++)
			metrics_u64(p->out, redis_rows[r].name, "redis", p->redis[k].addr, redis_rows[r].label,
				redis_count(&p->redis[k], r));
	}
	for (size_t r = 0; r < METRIC_REDIS_HIST_N; r++) {
		head(p, &redis_hists[r], "histogram");
		for (size_t k = 0; k < p->n_redis; k++)
			metrics_hist(p->out, redis_hists[r].name, "redis", p->redis[k].addr, redis_hists[r].label,
				&p->redis[k].snap->redis.h[r]);
	}
}

static void process(struct page_text *p)
{
	const struct coord *c = p->d->core;
	for (size_t r = 0; r < METRIC_PROCESS_N; r++) {
		head(p, &process_rows[r], "counter");
		metrics_u64(p->out, process_rows[r].name, "", "", process_rows[r].label, c->m[r]);
	}
	metrics_head(p->out, "sluice_log_lines_lost_total", "counter", "Lines of the log that could not be written");
	metrics_u64(p->out, "sluice_log_lines_lost_total", "", "", "", log_n_dropped());
	metrics_head(p->out, "sluice_worker_errors_total", "counter", "Error frames sent to workers");
	for (unsigned i = 0; i < FERR_N; i++)
		metrics_u64(p->out, "sluice_worker_errors_total", "code", frame_error_name((enum frame_error)i), "",
			c->workers.errors[i]);
}

/* ---- gauges */

static void owned(struct page_text *p)
{
	metrics_head(p->out, "sluice_streams_owned", "gauge", "Streams this daemon holds, by state");
	for (uint16_t i = 0; i < p->d->core->services.n; i++) {
		for (unsigned s = 0; is_served(p, i) && s < CTL_STATE_N; s++) {
			char state[48];
			snprintf(state, sizeof state, "state=\"%s\"", ctl_state_name((enum ctl_state)s));
			metrics_u64(p->out, "sluice_streams_owned", "service", service_name(p, i), state,
				(uint64_t)p->views[i].n[s]);
		}
	}
}

/* One gauge per service; what is not known yet is 0, so that a rule finds it: sluice_ready tells. */
static void gauge(struct page_text *p, const char *name, const char *help, size_t field)
{
	metrics_head(p->out, name, "gauge", help);
	for (uint16_t i = 0; i < p->d->core->services.n; i++) {
		int64_t v;
		memcpy(&v, (const char *)&p->views[i] + field, sizeof v);
		if (is_served(p, i))
			metrics_u64(p->out, name, "service", service_name(p, i), "", v > 0 ? (uint64_t)v : 0);
	}
}

static void age(struct page_text *p, const char *name, const char *help, size_t field)
{
	int64_t wall_ms = mono_wall_ms();
	metrics_head(p->out, name, "gauge", help);
	for (uint16_t i = 0; i < p->d->core->services.n; i++) {
		uint64_t ms;
		memcpy(&ms, (const char *)&p->views[i] + field, sizeof ms);
		if (is_served(p, i))
			metrics_seconds(p->out, name, "service", service_name(p, i),
				ms == UINT64_MAX ? 0
						 : (double)view_age_ms(wall_ms, (struct entry_id){.ms = ms}) / 1000.0);
	}
}

static void backlog(struct page_text *p)
{
	owned(p);
	gauge(p, "sluice_credits", "Streams the connected workers would take at once",
		offsetof(struct view_service, credits));
	gauge(p, "sluice_credits_in_use", "How many of them they have", offsetof(struct view_service, in_use));
	metrics_head(p->out, "sluice_workers", "gauge", "Connected workers");
	metrics_u64(p->out, "sluice_workers", "", "", "", p->d->core->workers.n);
	gauge(p, "sluice_lbs_length", "Entries in the load-balancer stream", offsetof(struct view_service, lbs));
	gauge(p, "sluice_lbs_pending", "Entries some consumer has", offsetof(struct view_service, pending));
	gauge(p, "sluice_streams_wanted", "Entries that a free worker could begin with now, whichever daemon it is at",
		offsetof(struct view_service, wanted));
	gauge(p, "sluice_streams_delayed", "Entries that wait for their time", offsetof(struct view_service, delayed));
	gauge(p, "sluice_streams_parked", "Entries that wait until a running one of their stream has ended",
		offsetof(struct view_service, parked));
	gauge(p, "sluice_dlq_length", "Dead letters", offsetof(struct view_service, dlq));
	gauge(p, "sluice_entries_dlq_length", "Dead entries of data streams",
		offsetof(struct view_service, entries_dlq));
	gauge(p, "sluice_entries_lag",
		"Entries of data streams read here and not acknowledged; what is unread is not counted",
		offsetof(struct view_service, feeds.behind));
	gauge(p, "sluice_streams_blocked", "Streams with an entry that waits for its retry",
		offsetof(struct view_service, feeds.blocked));
	gauge(p, "sluice_streams_idle", "Streams with a worker and without an entry for it",
		offsetof(struct view_service, feeds.idle));
	age(p, "sluice_unassigned_oldest_age_seconds", "Age of the oldest entry without a worker",
		offsetof(struct view_service, oldest_unassigned_ms));
	age(p, "sluice_owned_oldest_age_seconds", "Age of the oldest entry held here",
		offsetof(struct view_service, oldest_ms));
}

static void connections(struct page_text *p)
{
	static const char *const roles[CONN_ROLES] = {
		[CONN_COMMAND] = "command", [CONN_READER] = "reader", [CONN_SUBSCRIBER] = "subscriber"};
	metrics_head(p->out, "sluice_redis_connections", "gauge", "Connections to Redis, by role and state");
	for (size_t k = 0; k < p->n_redis; k++) {
		uint64_t n[CONN_ROLES][2] = {{0}};
		const struct snapshot *s = p->redis[k].snap;
		for (size_t i = 0; i < s->n_conns; i++)
			if (s->conns[i].role < CONN_ROLES)
				n[s->conns[i].role][s->conns[i].is_up]++;
		for (unsigned r = 0; r < CONN_ROLES; r++) {
			for (unsigned up = 0; up < 2; up++) {
				char more[64];
				snprintf(more, sizeof more, "role=\"%s\",state=\"%s\"", roles[r],
					up ? "ready" : "connecting");
				metrics_u64(
					p->out, "sluice_redis_connections", "redis", p->redis[k].addr, more, n[r][up]);
			}
		}
	}
	enum sentinel_heard heard;
	const char *addr;
	for (size_t i = 0; (addr = topology_client_sentinel(p->d->topo.client, i, &heard)); i++) {
		metrics_u64(p->out, "sluice_redis_connections", "redis", addr, "role=\"sentinel\",state=\"connecting\"",
			heard == SENTINEL_SILENT || heard == SENTINEL_REFUSES);
		metrics_u64(p->out, "sluice_redis_connections", "redis", addr, "role=\"sentinel\",state=\"ready\"",
			heard == SENTINEL_ANSWERS);
	}
	uint64_t n_subscribed = 0;
	for (uint16_t i = 0; i < p->d->core->shards.n; i++)
		n_subscribed += p->d->core->shards.v[i].is_on && p->d->core->shards.v[i].is_up[CONN_SUBSCRIBER];
	metrics_head(p->out, "sluice_keyspace_subscriptions", "gauge", "Masters whose expiry events arrive");
	metrics_u64(p->out, "sluice_keyspace_subscriptions", "", "", "", n_subscribed);
}

static void handoff_counters(struct page_text *p)
{
	struct metrics_handoff sum = p->d->shards.gone_handoffs;
	for (size_t k = 0; k < p->n_redis; k++)
		add_handoffs(&sum, &p->redis[k].snap->handoff.m);
	for (size_t r = 0; r < METRIC_HANDOFF_N; r++) {
		head(p, &handoff_rows[r], "counter");
		metrics_u64(p->out, handoff_rows[r].name, "", "", handoff_rows[r].label, sum.c[r]);
	}
	metrics_head(p->out, "sluice_handoff_duration_seconds", "histogram",
		"Notification until the new connection serves, each connection");
	metrics_hist(p->out, "sluice_handoff_duration_seconds", "", "", "", &sum.duration);
}

static void maintenance(struct page_text *p)
{
	static const struct {
		const char *name, *help;
		size_t field;
	} gauges[] = {
		{"sluice_relaxed_connections", "Connections with relaxed timeouts",
			offsetof(struct snapshot_handoff, n_relaxed)},
		{"sluice_handoff_queue", "Handoffs that wait for a place", offsetof(struct snapshot_handoff, n_queued)},
		{"sluice_handoffs_active", "Connections that are moving", offsetof(struct snapshot_handoff, n_active)},
	};
	handoff_counters(p);
	for (size_t i = 0; i < sizeof gauges / sizeof gauges[0]; i++) {
		uint64_t sum = 0;
		for (size_t k = 0; k < p->n_redis; k++) {
			uint32_t n;
			memcpy(&n, (const char *)&p->redis[k].snap->handoff + gauges[i].field, sizeof n);
			sum += n;
		}
		metrics_head(p->out, gauges[i].name, "gauge", gauges[i].help);
		metrics_u64(p->out, gauges[i].name, "", "", "", sum);
	}
	metrics_head(p->out, "sluice_circuit_breaker_open", "gauge", "Addresses to which no connection is tried");
	for (size_t k = 0; k < p->n_redis; k++)
		metrics_u64(p->out, "sluice_circuit_breaker_open", "redis", p->redis[k].addr, "",
			p->redis[k].snap->handoff.n_breakers_open);
}

static void lag(struct page_text *p)
{
	metrics_head(p->out, "sluice_event_loop_lag_seconds", "histogram", "How late turns come");
	metrics_hist(p->out, "sluice_event_loop_lag_seconds", "loop", "coordinator", "", &p->d->clock.lag);
	for (size_t k = 0; k < p->n_redis; k++)
		if (p->redis[k].snap != &nothing_yet)
			metrics_hist(p->out, "sluice_event_loop_lag_seconds", "loop", p->redis[k].addr, "",
				&p->redis[k].snap->lag);
}

/* The state that a rule asks for before it looks at anything else. */
static void operation(struct page_text *p)
{
	struct daemon *d = p->d;
	metrics_head(p->out, "sluice_ready", "gauge", "1 while the daemon is ready, as /readyz says");
	metrics_u64(p->out, "sluice_ready", "", "", "", d->config && daemon_ready(d, NULL));
	metrics_head(p->out, "sluice_draining", "gauge", "1 while no new work is taken, to leave");
	metrics_u64(p->out, "sluice_draining", "", "", "", d->core->drain.is_on);
	metrics_head(p->out, "sluice_paused", "gauge", "1 while an operator has paused the service here");
	for (uint16_t i = 0; i < d->core->services.n; i++)
		if (is_served(p, i))
			metrics_u64(p->out, "sluice_paused", "service", service_name(p, i), "",
				d->core->place.service[i].is_paused);
	metrics_head(p->out, "sluice_config_reload_success", "gauge", "0 when the last reload was rejected");
	metrics_u64(p->out, "sluice_config_reload_success", "", "", "", !d->reload.is_bad);
	metrics_head(p->out, "sluice_clock_offset_seconds", "gauge", "The server's clock minus this host's");
	for (size_t k = 0; k < p->n_redis; k++)
		metrics_seconds(p->out, "sluice_clock_offset_seconds", "redis", p->redis[k].addr,
			(double)p->redis[k].snap->clock_offset_ms / 1000.0);
}

void metrics_page(struct daemon *d, struct buf *out)
{
	struct page_text p = {.d = d, .out = out, .sums = sum_services(d), .views = view_services(d)};
	metrics_head(out, "sluice_build_info", "gauge", "Always 1; the version is a label");
	metrics_u64(out, "sluice_build_info", "version", SLUICE_VERSION, "", 1);
	collect_redis(&p);
	operation(&p);
	backlog(&p);
	services(&p);
	connections(&p);
	redis(&p);
	process(&p);
	maintenance(&p);
	lag(&p);
	metrics_process(out, d->clock.started_wall_ms);
	mem_free(p.redis);
	mem_free(p.sums);
	mem_free(p.views);
}

int metrics_http(void *arg, const char *path, struct buf *body, const char **content_type)
{
	struct daemon *d = arg;
	*content_type = "text/plain; charset=utf-8";
	if (strcmp(path, "/metrics") == 0) {
		*content_type = "text/plain; version=0.0.4; charset=utf-8";
		metrics_page(d, body);
		return 200;
	}
	if (strcmp(path, "/livez") == 0) {
		buf_str(body, d->status.is_stuck ? "a loop is stuck\n" : "ok\n");
		return d->status.is_stuck ? 503 : 200;
	}
	if (strcmp(path, "/readyz") == 0) {
		if (!daemon_ready(d, body))
			return 503;
		buf_str(body, "ready\n");
		return 200;
	}
	buf_str(body, "not found: /metrics /livez /readyz\n");
	return 404;
}
