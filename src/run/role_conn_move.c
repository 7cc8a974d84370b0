/* role_conn_move - performs what core/handoff decides: a connection dials its replacement, which takes over. */
#include "base/log.h"
#include "codec/push.h"
#include "run/role_conn_p.h"
#include <stdio.h>
#include <string.h>

/* core/handoff's events go in, its effects are performed. */

enum { REPEAT_MS = 5000, LEFT_SILENT_MS = 250 };

/* ---- events that two subscribers deliver ---- */

bool role_conns_may_repeat(struct role_conns *ls, mono_ms now)
{
	const struct role_link *next = ls->subscriber.next;
	if ((next && redis_is_up(next->conn)) || ls->subscriber.old)
		ls->seen_until = now + REPEAT_MS;
	else if (now >= ls->seen_until && ls->seen) {
		mem_free(ls->seen);
		ls->seen = NULL;
	}
	return ls->seen_until > now;
}

/* What the old one alone delivered before says nothing of what both deliver from now on. */
void role_conns_begin_repeats(struct role_conns *ls)
{
	if (ls->seen)
		memset(ls->seen, 0, sizeof *ls->seen);
}

bool role_conns_is_repeated(struct role_conns *ls, struct slice stream, struct entry_id id, unsigned side)
{
	mono_ms now = mono_now();
	if (!role_conns_may_repeat(ls, now))
		return false;
	if (!ls->seen)
		ls->seen = mem_alloc(sizeof *ls->seen);
	if (!handoff_seen_before(ls->seen, stream, id, side, now))
		return false;
	ls->counters[MR_EVENTS_DROPPED]++;
	return true;
}

/* ---- effects ---- */

static void role_conn_move_dial(struct role_conns *ls, struct role_conn *l, const struct handoff_effect *ef)
{
	struct redis_opts o = ls->o.redis;
	o.is_subscriber = l->role == CONN_SUBSCRIBER;
	o.maint_endpoint_type = redis_endpoint_type(l->cur->conn); /* of the configured address, not of the new one */
	o.times.connect_ms = mono_min(mono_max(o.times.connect_ms, ls->o.rules.relaxed_timeout_ms), ef->limit);
	l->next = role_conn_dial(l, &o, ef->address);
	if (strcmp(l->no_opt_in, ef->address[0] ? ef->address : ls->addr) == 0)
		redis_skip_opt_in(l->next->conn);
}

static void drop_new(struct role_conn *l)
{
	if (l->next)
		role_link_close(l->next);
	l->next = NULL;
}

static void role_conn_switch_over(struct role_conns *ls, struct role_conn *l)
{
	l->cur->next = l->old;
	l->old = l->cur;
	l->cur = l->next;
	l->next = NULL;
	l->no_opt_in[0] = '\0';
	l->has_switched = true;
	redis_set_times(l->cur->conn, &ls->o.redis.times);
	/* Where the old one is silent, its commands are asked again on the new one: leases cannot wait for relaxed
	 * times. A blocking read and a subscription have their own ends. */
	bool is_command = l->role == CONN_COMMAND;
	redis_leave(l->old->conn, is_command ? mono_now() + ls->o.command_timeout_ms : MONO_NEVER,
		is_command ? LEFT_SILENT_MS : 0);
}

static void role_conn_close_old(struct role_conn *l)
{
	while (l->old) {
		struct role_link *lc = l->old;
		l->old = lc->next;
		lc->next = NULL;
		role_conn_say_lost(l, l->role == CONN_SUBSCRIBER ? 0 : lc->n_lost + lc->n_open);
		role_link_close(lc);
	}
	/* What the old one was given and nobody read is found by an audit now. */
	l->has_switched |= l->role == CONN_READER;
}

/* Through the command connection, while it leads to where the reader was. */
static void unblock(struct role_conns *ls, const struct role_conn *l, mono_ms now)
{
	struct role_link *c = ls->command.cur;
	for (const struct role_link *lc = l->old; lc && c; lc = lc->next) {
		int64_t id = redis_client_id(lc->conn);
		const struct redis_addr *a = redis_addr_of(c->conn), *b = redis_addr_of(lc->conn);
		if (lc->n_open == 0 || id <= 0 || !redis_is_up(c->conn) || a->port != b->port ||
			strcmp(a->host, b->host) != 0)
			continue;
		struct cmd cmd = {.kind = CMD_UNBLOCK, .svc = SERVICE_NONE, .as.unblock.client_id = id};
		role_link_send(c, &cmd, (struct inflight){.kind = CMD_UNBLOCK, .is_own = true},
			now + role_conn_timeout(ls, &ls->command, now));
	}
}

static void target(struct role_conn *l, const struct handoff_effect *ef)
{
	struct redis_addr addr;
	struct err err;
	if (redis_addr_parse(ef->address, &addr, &err) == ERR_OK)
		redis_dial_at(l->cur->conn, &addr, ef->until, ef->limit);
}

static void role_conn_relax(struct role_conns *ls, struct role_conn *l, mono_ms until, mono_ms now)
{
	l->relaxed_until = until;
	redis_relax(l->cur->conn, until, l->own_ms + role_conn_timeout(ls, l, now));
}

static void renew_all(struct role_conns *ls)
{
	struct msg m = msg_plain(MSG_RENEW_ALL);
	struct shard_event ev = {.kind = SHARD_MSG, .msg = &m};
	ls->o.step(ls->o.arg, &ev);
}

static void refresh(struct role_conns *ls, int64_t seq)
{
	static const char why[] = "maintenance: slots have moved";
	struct msg m = msg_refresh(
		(struct msg_refresh){.why = text_new(why, sizeof why - 1), .is_announced = true, .seq = seq});
	ls->o.to_coord(ls->o.arg, &m);
}

static void perform_for(struct role_conns *ls, struct role_conn *l, const struct handoff_effect *ef, mono_ms now)
{
	switch (ef->kind) {
	case HANDOFF_DIAL:
		role_conn_move_dial(ls, l, ef);
		break;
	case HANDOFF_DROP_NEW:
		drop_new(l);
		break;
	case HANDOFF_SWITCH:
		role_conn_switch_over(ls, l);
		break;
	case HANDOFF_UNBLOCK:
		unblock(ls, l, now);
		break;
	case HANDOFF_CLOSE_OLD:
		role_conn_close_old(l);
		break;
	case HANDOFF_TARGET:
		target(l, ef);
		break;
	case HANDOFF_RELAX:
		role_conn_relax(ls, l, ef->until, now);
		break;
	case HANDOFF_RENEW_ALL:
	case HANDOFF_REFRESH:
	case HANDOFF_LOG:
		break;
	}
}

static void role_conn_perform(struct role_conns *ls, const struct handoff_effect *ef, mono_ms now)
{
	if (ef->kind == HANDOFF_LOG) {
		log_line(ef->level, "%s", ef->text->bytes);
	} else if (ef->kind == HANDOFF_RENEW_ALL) {
		renew_all(ls);
	} else if (ef->kind == HANDOFF_REFRESH) {
		refresh(ls, ef->seq);
	} else {
		struct role_conn *l = role_conn_by_id(ls, ef->conn);
		if (l)
			perform_for(ls, l, ef, now);
	}
}

/* The core learns that its connection leads elsewhere: it looks who is there, renews, sets flags, audits. */
static void tell_switched(struct role_conns *ls)
{
	for (struct role_conn *l = role_conn_first(ls), *more; l; l = more) {
		more = role_conn_after(ls, l); /* the turn may close a reader */
		if (!l->has_switched || !l->cur)
			continue;
		l->has_switched = false;
		if (l->role == CONN_SUBSCRIBER || !redis_is_up(l->cur->conn))
			continue;
		struct shard_event ev = {.kind = SHARD_CONN,
			.role = l->role,
			.svc = l->svc,
			.up = true,
			.client_id = redis_client_id(l->cur->conn),
			.is_valkey = redis_is_valkey(l->cur->conn),
			.has_pushes = redis_resp(l->cur->conn) == 3};
		ls->o.step(ls->o.arg, &ev);
	}
}

static void check_all_drained(struct role_conns *ls)
{
	for (struct role_conn *l = role_conn_first(ls); l; l = role_conn_after(ls, l))
		if (l->cur && l->old)
			role_conn_check_drained(l);
}

void role_conns_event(struct role_conns *ls, struct handoff_event *ev)
{
	if (ls->is_quitting)
		return;
	struct handoff_effects effects = {.says_moves = log_is_on(LOG_DEBUG)};
	ls->deadline = handoff_step(ls->handoff, ev, &effects);
	bool has_switched = false;
	for (size_t i = 0; i < effects.n; i++) {
		role_conn_perform(ls, &effects.v[i], ev->now);
		has_switched |= effects.v[i].kind == HANDOFF_SWITCH;
	}
	handoff_effects_fini(&effects);
	tell_switched(ls);
	if (has_switched)
		check_all_drained(ls);
	ls->o.on_deadline(ls->o.arg);
}

void role_conn_event(struct role_conn *l, enum handoff_event_kind kind, struct slice text)
{
	struct handoff_event ev = {.kind = kind, .now = mono_now(), .conn = l->id, .role = l->role, .text = text};
	role_conns_event(l->ls, &ev);
}

void role_conn_check_drained(struct role_conn *l)
{
	for (const struct role_link *lc = l->old; lc; lc = lc->next)
		if (lc->n_open > 0)
			return;
	role_conn_event(l, HANDOFF_DRAINED, (struct slice){0});
}

void role_conns_tick(struct role_conns *ls, mono_ms now)
{
	(void)role_conns_may_repeat(ls, now);
	if (now < ls->deadline)
		return;
	struct handoff_event ev = {.kind = HANDOFF_TICK, .now = now, .conn = UINT32_MAX};
	role_conns_event(ls, &ev);
}

mono_ms role_conns_deadline(const struct role_conns *ls)
{
	return ls->deadline;
}

/* ---- seen from outside ---- */

static void add_conn(const struct role_conns *ls, struct snapshot *sn, const struct role_conn *l)
{
	if (!l->cur)
		return;
	struct snapshot_conn *c = &sn->conns[sn->n_conns++];
	*c = (struct snapshot_conn){.role = (uint8_t)l->role,
		.is_up = redis_is_up(l->cur->conn),
		.svc = l->svc,
		.is_relaxed = handoff_is_relaxed(ls->handoff, l->id),
		.handoff = (uint8_t)handoff_state(ls->handoff, l->id),
		.maint = (uint8_t)redis_maint(l->cur->conn)};
	redis_addr_format(redis_addr_of(l->cur->conn), c->endpoint, sizeof c->endpoint);
	redis_peer(l->cur->conn, c->peer, sizeof c->peer);
	snprintf(c->why, sizeof c->why, "%s", handoff_reason(ls->handoff, l->id));
	for (const struct role_link *lc = l->old; lc; lc = lc->next)
		sn->n_in_flight += lc->n_open;
	sn->n_in_flight += l->cur->n_open;
}

size_t role_conns_count(const struct role_conns *ls)
{
	size_t n = 2;
	for (const struct role_conn *l = ls->readers; l; l = l->more)
		n++;
	return n;
}

void role_conns_snapshot(const struct role_conns *ls, struct snapshot *sn)
{
	add_conn(ls, sn, &ls->command);
	add_conn(ls, sn, &ls->subscriber);
	for (const struct role_conn *l = ls->readers; l; l = l->more)
		add_conn(ls, sn, l);
	const char *endpoint;
	struct handoff_gauges g = handoff_gauges(ls->handoff);
	sn->handoff = (struct snapshot_handoff){.n_active = g.n_active,
		.n_queued = g.n_queued,
		.n_relaxed = g.n_relaxed,
		.n_breakers_open = g.n_breakers_open,
		.breaker = (uint8_t)handoff_breaker(ls->handoff, &endpoint)};
	sn->handoff.m = *handoff_metrics(ls->handoff);
	snprintf(sn->handoff.breaker_endpoint, sizeof sn->handoff.breaker_endpoint, "%s", endpoint);
	hist_merge(&sn->redis.h[HR_COMMAND], &ls->command_time);
	for (int i = 0; i < METRIC_REDIS_N; i++)
		sn->redis.c[i] += ls->counters[i];
}

const char *snapshot_conn_word(const struct snapshot_conn *c)
{
	if (c->handoff == HANDOFF_DRAINING)
		return "draining";
	if (c->handoff != HANDOFF_IDLE)
		return "handing-off";
	return c->is_relaxed ? "relaxed" : "idle";
}
