#include "base/log.h"
#include "codec/push.h"
#include "run/role_conn_p.h"
#include <stdio.h>
#include <string.h>

/* core/handoff's events go in, its effects are performed. */

enum { REPEAT_MS = 5000 };

/* ---- events that two subscribers deliver ---- */

bool lanes_may_repeat(struct lanes *ls, mono_ms now)
{
	if (ls->subscriber.next || ls->subscriber.old)
		ls->seen_until = now + REPEAT_MS;
	else if (now >= ls->seen_until && ls->seen) {
		mem_free(ls->seen);
		ls->seen = NULL;
	}
	return ls->seen_until > now;
}

bool lanes_is_repeated(struct lanes *ls, struct slice stream, struct entry_id id)
{
	if (!lanes_may_repeat(ls, mono_now()))
		return false;
	if (!ls->seen)
		ls->seen = mem_alloc(sizeof *ls->seen);
	if (!handoff_seen_before(ls->seen, stream, id))
		return false;
	ls->counters[MR_EVENTS_DROPPED]++;
	return true;
}

/* ---- effects ---- */

static void dial(struct lanes *ls, struct lane *l, const struct handoff_effect *ef)
{
	struct redis_opts o = ls->o.redis;
	o.is_subscriber = l->role == CONN_SUBSCRIBER;
	o.maint_endpoint_type = redis_endpoint_type(l->cur->conn); /* of the configured address, not of the new one */
	o.times.connect_ms = mono_max(o.times.connect_ms, ls->o.rules.relaxed_timeout_ms);
	l->next = lane_dial(l, &o, ef->address);
}

static void drop_new(struct lane *l)
{
	if (l->next)
		lane_conn_close(l->next);
	l->next = NULL;
}

static void switch_over(struct lanes *ls, struct lane *l)
{
	l->cur->next = l->old;
	l->old = l->cur;
	l->cur = l->next;
	l->next = NULL;
	l->has_switched = true;
	redis_set_times(l->cur->conn, &ls->o.redis.times);
}

static void close_old(struct lane *l)
{
	while (l->old) {
		struct lane_conn *lc = l->old;
		l->old = lc->next;
		lc->next = NULL;
		lane_say_lost(l, l->role == CONN_SUBSCRIBER ? 0 : lc->n_lost + lc->n_open);
		lane_conn_close(lc);
	}
	/* What the old one was given and nobody read is found by an audit now. */
	l->has_switched |= l->role == CONN_READER;
}

/* Through the command connection, while it leads to where the reader was. */
static void unblock(struct lanes *ls, const struct lane *l, mono_ms now)
{
	struct lane_conn *c = ls->command.cur;
	for (const struct lane_conn *lc = l->old; lc && c; lc = lc->next) {
		int64_t id = redis_client_id(lc->conn);
		const struct redis_addr *a = redis_addr_of(c->conn), *b = redis_addr_of(lc->conn);
		if (lc->n_open == 0 || id <= 0 || !redis_is_up(c->conn) || a->port != b->port ||
			strcmp(a->host, b->host) != 0)
			continue;
		struct cmd cmd = {.kind = CMD_UNBLOCK, .svc = SERVICE_NONE, .count = id};
		lane_conn_send(c, &cmd, (struct flight){.kind = CMD_UNBLOCK, .is_own = true},
			now + lane_timeout(ls, &ls->command, now));
	}
}

static void target(struct lane *l, const struct handoff_effect *ef)
{
	struct redis_addr addr;
	struct err err;
	if (redis_addr_parse(ef->address, &addr, &err) == ERR_OK)
		redis_redial(l->cur->conn, &addr, "its endpoint has moved");
}

static void relax(struct lanes *ls, struct lane *l, mono_ms until, mono_ms now)
{
	l->relaxed_until = until;
	redis_relax(l->cur->conn, until, l->own_ms + lane_timeout(ls, l, now));
}

static void hurry(struct lanes *ls)
{
	struct msg m = {.kind = MSG_HURRY};
	struct shard_event ev = {.kind = SHARD_MSG, .msg = &m};
	ls->o.step(ls->o.arg, &ev);
}

static void refresh(struct lanes *ls, int64_t seq)
{
	static const char why[] = "maintenance: slots have moved";
	struct msg m = {.kind = MSG_REFRESH, .flag = true, .n = seq, .text = text_new(why, sizeof why - 1)};
	ls->o.to_coord(ls->o.arg, &m);
}

static void say(const struct handoff_effect *ef)
{
	static const enum log_level levels[] = {[SAY_ERROR] = LOG_ERROR,
		[SAY_WARN] = LOG_WARN,
		[SAY_NOTICE] = LOG_NOTICE,
		[SAY_INFO] = LOG_INFO,
		[SAY_DEBUG] = LOG_DEBUG};
	log_line(levels[ef->level], "%s", ef->text->bytes);
}

static void perform_for(struct lanes *ls, struct lane *l, const struct handoff_effect *ef, mono_ms now)
{
	switch (ef->kind) {
	case HANDOFF_DIAL:
		dial(ls, l, ef);
		break;
	case HANDOFF_DROP_NEW:
		drop_new(l);
		break;
	case HANDOFF_SWITCH:
		switch_over(ls, l);
		break;
	case HANDOFF_UNBLOCK:
		unblock(ls, l, now);
		break;
	case HANDOFF_CLOSE_OLD:
		close_old(l);
		break;
	case HANDOFF_TARGET:
		target(l, ef);
		break;
	case HANDOFF_RELAX:
		relax(ls, l, ef->until, now);
		break;
	case HANDOFF_HURRY:
	case HANDOFF_REFRESH:
	case HANDOFF_SAY:
		break;
	}
}

static void perform(struct lanes *ls, const struct handoff_effect *ef, mono_ms now)
{
	if (ef->kind == HANDOFF_SAY) {
		say(ef);
	} else if (ef->kind == HANDOFF_HURRY) {
		hurry(ls);
	} else if (ef->kind == HANDOFF_REFRESH) {
		refresh(ls, ef->seq);
	} else {
		struct lane *l = lane_by_id(ls, ef->lane);
		if (l)
			perform_for(ls, l, ef, now);
	}
}

/* The core learns that its connection leads elsewhere: it looks who is there, renews, sets flags, audits. */
static void tell_switched(struct lanes *ls)
{
	for (struct lane *l = lane_first(ls), *more; l; l = more) {
		more = lane_after(ls, l); /* the turn may close a reader */
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
			.is_valkey = redis_is_valkey(l->cur->conn)};
		ls->o.step(ls->o.arg, &ev);
	}
}

static void check_all_drained(struct lanes *ls)
{
	for (struct lane *l = lane_first(ls); l; l = lane_after(ls, l))
		if (l->cur && l->old)
			lane_check_drained(l);
}

void lanes_event(struct lanes *ls, struct handoff_event *ev)
{
	if (ls->is_quitting)
		return;
	struct handoff_effects effects = {0};
	ls->deadline = handoff_step(ls->handoff, ev, &effects);
	bool has_switched = false;
	for (size_t i = 0; i < effects.n; i++) {
		perform(ls, &effects.v[i], ev->now);
		has_switched |= effects.v[i].kind == HANDOFF_SWITCH;
	}
	handoff_effects_fini(&effects);
	tell_switched(ls);
	if (has_switched)
		check_all_drained(ls);
	ls->o.on_deadline(ls->o.arg);
}

void lane_event(struct lane *l, enum handoff_event_kind kind, struct slice text)
{
	struct handoff_event ev = {.kind = kind, .now = mono_now(), .lane = l->id, .role = l->role, .text = text};
	lanes_event(l->ls, &ev);
}

void lane_check_drained(struct lane *l)
{
	for (const struct lane_conn *lc = l->old; lc; lc = lc->next)
		if (lc->n_open > 0)
			return;
	lane_event(l, HANDOFF_DRAINED, (struct slice){0});
}

void lanes_tick(struct lanes *ls, mono_ms now)
{
	(void)lanes_may_repeat(ls, now);
	if (now < ls->deadline)
		return;
	struct handoff_event ev = {.kind = HANDOFF_TICK, .now = now, .lane = UINT32_MAX};
	lanes_event(ls, &ev);
}

mono_ms lanes_deadline(const struct lanes *ls)
{
	return ls->deadline;
}

/* ---- seen from outside ---- */

static void add_conn(const struct lanes *ls, struct snapshot *sn, const struct lane *l)
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
	for (const struct lane_conn *lc = l->old; lc; lc = lc->next) {
		c->n_old++;
		sn->n_in_flight += lc->n_open;
	}
	sn->n_in_flight += l->cur->n_open;
}

size_t lanes_count(const struct lanes *ls)
{
	size_t n = 2;
	for (const struct lane *l = ls->readers; l; l = l->more)
		n++;
	return n;
}

void lanes_snapshot(const struct lanes *ls, struct snapshot *sn)
{
	add_conn(ls, sn, &ls->command);
	add_conn(ls, sn, &ls->subscriber);
	for (const struct lane *l = ls->readers; l; l = l->more)
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
