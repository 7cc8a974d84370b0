/* readiness - is the daemon ready, and what the service manager sees: status, watchdog, state dump.
 *
 * Happy path: READY=1 with the first tick (the sockets listen, the loop runs), STATUS= whenever its text changes,
 * WATCHDOG=1 in each period in which every loop made progress. Failure: a loop that is stuck stops the watchdog's
 * food, said once; the manager does the rest. */
#include "run/readiness.h"

#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "base/log_fields.h"
#include "codec/command.h"
#include "io/notify.h"
#include "run/daemon.h"

enum {
	LOOPS_IDLE_MS = 2500,
	LOOPS_STUCK_MS = 10000,
	DUMP_ENTRIES = 200
}; /* an idle loop still makes a round a second */

mono_ms service_period_ms(void)
{
	mono_ms half = notify_watchdog_ms();
	return half > 0 ? mono_max(mono_min(half, 1000), 10) : 1000;
}

/* ---- status */

static void say_status(struct daemon *d)
{
	const struct coord *c = d->core;
	const uint32_t *n = c->ledger.n_state;
	struct buf why;
	buf_init(&why);
	char text[sizeof d->status.text];
	bool ready = daemon_ready(d, &why);
	const char *end = why.len ? strchr(why.data, '\n') : NULL;
	if (ready)
		snprintf(text, sizeof text, "%s: %u stream%s held, %u in work, %u waiting; %u worker%s",
			c->drain.is_on ? "draining" : "ready", c->ledger.n, text_plural(c->ledger.n),
			n[ENTRY_ASSIGNED] + n[ENTRY_REVOKING], n[ENTRY_READY] + n[ENTRY_PARKED], c->workers.n,
			text_plural(c->workers.n));
	else
		snprintf(text, sizeof text, "not ready: %.*s; %u stream%s held, %u worker%s",
			end ? (int)mono_min(end - why.data, 200) : 0, why.len ? why.data : "", c->ledger.n,
			text_plural(c->ledger.n), c->workers.n, text_plural(c->workers.n));
	buf_fini(&why);
	d->status.was_ready = d->status.is_ready;
	d->status.is_ready = ready;
	if (strcmp(text, d->status.text) == 0)
		return;
	memcpy(d->status.text, text, sizeof text);
	notify_status("%s", text);
}

static void say_readiness(const struct daemon *d)
{
	if (d->status.is_ready && !d->status.was_ready)
		log_line(LOG_NOTICE, "ready");
	else if (!d->status.is_ready && d->status.was_ready && !d->end.is_stopping)
		log_line(LOG_WARN, "%s", d->status.text);
}

void service_begin(struct daemon *d)
{
	if (d->status.has_begun || !coord_knows_own(d->core))
		return;
	say_status(d);
	say_readiness(d);
	d->status.has_begun = d->status.is_ready;
}

/* ---- watchdog */

static bool loops_run(struct daemon *d, mono_ms now, mono_ms limit)
{
	for (uint16_t i = 0; i < d->shards.n; i++) {
		mono_ms since = d->shards.v[i] ? now - shard_thread_last_round(d->shards.v[i]) : 0;
		if (since <= limit)
			continue;
		if (!d->status.is_stuck)
			log_line(LOG_ERROR, "shard=%u loop stuck for_ms=%lld", i, (long long)since);
		return false;
	}
	return true;
}

static void feed_watchdog(struct daemon *d)
{
	mono_ms half = notify_watchdog_ms();
	bool fine = loops_run(d, mono_now(), half > 0 ? mono_max(half, LOOPS_IDLE_MS) : LOOPS_STUCK_MS);
	d->status.is_stuck = !fine;
	if (fine && half > 0)
		notify_send("WATCHDOG=1");
}

void service_tick(struct daemon *d)
{
	notify_again();
	feed_watchdog(d);
	say_status(d);
	say_readiness(d);
	if (d->status.is_told || d->end.is_stopping)
		return;
	d->status.is_told = true;
	notify_send("READY=1");
}

/* ---- dump */

static void dump_services(const struct daemon *d)
{
	const struct coord *c = d->core;
	for (uint16_t i = 0; i < c->services.n; i++) {
		const struct coord_service *s = &c->services.v[i];
		const struct credits_service *p = &c->place.service[i];
		if (s->rules)
			log_asked("dump service=%s owned=%u claims=%u granted=%u free_credits=%u reader_shard=%d "
				  "paused=%d going=%d",
				s->rules->name, p->owned, p->reserved, p->granted, credits_free(&c->place, i),
				s->reader.shard == SHARD_NONE ? -1 : s->reader.shard, p->is_paused, s->is_going);
	}
}

static void dump_shards(const struct daemon *d, mono_ms now)
{
	const struct coord *c = d->core;
	for (uint16_t i = 0; i < c->shards.n; i++) {
		const struct coord_shard *s = &c->shards.v[i];
		const struct snapshot *snap = d->shards.snapshots[i];
		if (s->is_on)
			log_asked("dump shard=%u redis=%s command=%d subscriber=%d leases=%u in_flight=%zu lag_ms=%lld "
				  "snapshot_age_ms=%lld%s%s",
				i, c->topo.nodes[i].addr, s->is_up[CONN_COMMAND], s->is_up[CONN_SUBSCRIBER],
				snap ? snap->n_leases : 0, snap ? snap->n_in_flight : 0,
				snap ? (long long)snap->lag_ms : -1, snap ? (long long)(now - snap->at) : -1,
				s->is_up[CONN_COMMAND] ? "" : " why=", s->is_up[CONN_COMMAND] ? "" : s->why);
	}
}

static void dump_sessions(const struct daemon *d, mono_ms now)
{
	static const char *const states[] = {[SESSION_NEW] = "new",
		[SESSION_HELD] = "held",
		[SESSION_READY] = "ready",
		[SESSION_DETACHED] = "detached"};
	const struct coord *c = d->core;
	size_t n = 0;
	for (struct link *l = c->workers.all.next; l != &c->workers.all; l = l->next) {
		const struct worker *m = LIST_OF(struct worker, all, l);
		if (n++ >= DUMP_ENTRIES)
			continue;
		char name[FIELD_VALUE_CAP];
		log_asked("dump session=%llu worker=%s pid=%lld state=%s credits=%u in_use=%u connected_ms=%lld",
			(unsigned long long)m->s.id, field_value(name, m->s.name, strlen(m->s.name)),
			(long long)m->s.pid, states[m->s.state], m->credit_holder.credits, m->credit_holder.in_use,
			(long long)(now - m->s.connected_at));
	}
	if (n > DUMP_ENTRIES)
		log_asked("dump and %zu worker%s more", n - DUMP_ENTRIES, text_plural((int64_t)(n - DUMP_ENTRIES)));
}

static void dump_entries(struct daemon *d, mono_ms now)
{
	struct coord *c = d->core;
	uint32_t pos = 0, n = 0;
	for (const struct entry *e; n < DUMP_ENTRIES && (e = ledger_next(&c->ledger, &pos)); n++) {
		const struct coord_service *s = services_find(&c->services, e->svc);
		char id[COMMAND_ID_CAP], stream[FIELD_VALUE_CAP];
		command_id_format(id, e->id);
		log_asked("dump service=%s stream=%s id=%s state=%s for_ms=%lld session=%llu retry=%u "
			  "lease_left_ms=%lld",
			s ? s->rules->name : "?",
			e->stream ? field_value(stream, e->stream->bytes, e->stream->len) : "?", id,
			entry_state_name((enum entry_state)e->state), (long long)(now - e->since),
			(unsigned long long)e->owner, e->retry, e->good_until ? (long long)(e->good_until - now) : 0);
	}
	if (c->ledger.n > n)
		log_asked("dump and %u stream%s more", c->ledger.n - n, text_plural(c->ledger.n - n));
}

void service_dump(struct daemon *d)
{
	const struct coord *c = d->core;
	mono_ms now = loop_now(d->loop);
	log_asked("dump version=%s node=%s uptime_ms=%lld entries=%u workers=%u draining=%d stopping=%d status=%s",
		SLUICE_VERSION, d->config->node.id, (long long)(mono_now() - d->clock.started_at), c->ledger.n,
		c->workers.n, c->drain.is_on, d->end.is_stopping, d->status.text);
	dump_services(d);
	dump_shards(d, now);
	dump_sessions(d, now);
	dump_entries(d, now);
}

/* A failover refuses for a moment, too. */
static bool is_refused_for_long(const struct daemon *d, uint16_t shard)
{
	const struct shard_refused *r = view_refused(d, shard);
	return r && mono_now() - r->since >= REFUSED_FOR_MS;
}

bool daemon_ready(struct daemon *d, struct buf *reasons)
{
	const struct coord *c = d->core;
	bool ready = true;
	struct buf none;
	buf_init(&none);
	struct buf *r = reasons ? reasons : &none;
	if (!c->topo.is_known) {
		buf_printf(r, "%s\n", d->topo.why[0] ? d->topo.why : "redis: not connected yet");
		ready = false;
	}
	for (uint16_t i = 0; i < c->shards.n; i++) {
		const struct coord_shard *s = &c->shards.v[i];
		const char *addr = c->topo.nodes[i].addr;
		if (s->is_leaving || !(s->is_on || s->is_refused))
			continue;
		if (!s->is_up[CONN_COMMAND])
			buf_printf(r, "redis %s: %s\n", addr, s->why[0] ? s->why : "not connected yet");
		else if (d->config->redis.keyspace_events == CONFIG_KEYSPACE_REQUIRE && !s->is_up[CONN_SUBSCRIBER])
			buf_printf(r, "redis %s: no keyspace events: %s\n", addr,
				s->why[0] ? s->why : "not subscribed yet");
		else if (is_refused_for_long(d, i))
			buf_printf(r, "redis %s refuses: %s\n", addr, d->shards.snapshots[i]->refused.words);
		else
			continue;
		ready = false;
	}
	if (look_up_is_redirected(&c->look_up, mono_now())) {
		buf_printf(r, "redis answers MOVED: it is one master of a cluster; set redis.topology to auto\n");
		ready = false;
	}
	if (c->topo.n_left_out) {
		buf_printf(r, "topology: more than %d masters, some are left out\n", SHARDS_MAX);
		ready = false;
	}
	for (uint16_t i = 0; i < c->services.n; i++) {
		if (!service_has_no_master(&c->topo, &c->services.v[i]))
			continue;
		buf_printf(r, "service %s: slot %u has no master\n", c->services.v[i].rules->name,
			c->services.v[i].rules->lbs_slot);
		ready = false;
	}
	for (uint16_t i = 0; ready && i < c->services.n; i++) {
		if (c->services.v[i].rules && !c->services.v[i].reader.own_done && !c->services.v[i].is_going) {
			buf_printf(r, "service %s: pending entries not read yet\n", c->services.v[i].rules->name);
			ready = false;
		}
	}
	if (ready && c->look_up.failed_at && mono_now() - c->look_up.failed_at >= REFUSED_FOR_MS) {
		buf_printf(r, "topology: %s\n", d->topo.why);
		ready = false;
	}
	if (d->end.is_stopping) {
		buf_printf(r, "stopping\n");
		ready = false;
	}
	buf_fini(&none);
	return ready;
}
