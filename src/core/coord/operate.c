/* operate - what an operator asks for: pause, drain, give back, add. */
#include "core/coord/coord_p.h"

#include <stdio.h>

static void operate_answer(struct effects *out, uint32_t request, enum op_result result, struct text *text)
{
	struct effect *ef = effects_add(out, EFF_CTL);
	ef->ctl = (struct effect_ctl){.request = request, .result = result};
	ef->text = text;
}

static void pause(struct coord *c, uint16_t svc, bool paused)
{
	for (uint16_t i = 0; i < c->services.n; i++) {
		struct coord_service *s = &c->services.v[i];
		if (!s->rules || (svc != SERVICE_NONE && s->svc != svc))
			continue;
		c->place.service[i].is_paused = paused;
		effects_log(c->out, LOG_NOTICE, "service=%s %s", s->rules->name, paused ? "paused" : "resumed");
		services_mark(&c->services, s);
	}
}

static void operate_give_back(struct coord *c, struct entry *e, enum requeue_why why)
{
	switch ((enum entry_state)e->state) {
	case ENTRY_ASSIGNED:
		entry_revoke(c, e, REVOKE_OPERATOR, REVOKE_GRACE_MS);
		break;
	case ENTRY_LOCKING:
		if (e->is_start) /* a worker of the former process may hold it */
			break;
		entry_requeue(c, e, why, false);
		break;
	case ENTRY_TAKING:
	case ENTRY_PARKED:
	case ENTRY_READY:
		entry_requeue(c, e, why, false);
		break;
	case ENTRY_BUSY:  /* not ours to give: its owner has the lock */
	case ENTRY_LIMBO: /* a worker may still hold it: its own deadline gives it back */
	case ENTRY_FETCHING:
	case ENTRY_REVOKING:
	case ENTRY_FINISHING:
	case ENTRY_STATES:
		break;
	}
}

/* What Redis keeps of the pause is for the next owner. */
static void operate_try_now(struct coord *c, struct entry *e)
{
	struct entry_feed *f = e->feed;
	if (!entry_feed_is_blocked(e, c->now) || f->shard == SHARD_NONE || !c->shards.v[f->shard].is_on)
		return;
	struct msg *m = coord_send(c, f->shard, msg_plain(MSG_FEED_TRY));
	m->handle = entry_handle(e);
	m->svc = e->svc;
	entry_troubled(f)->blocked_until = c->now;
}

static void operate_add(struct coord *c, const struct coord_ctl *ctl)
{
	struct coord_service *s = services_find(&c->services, ctl->svc);
	uint16_t shard = s ? s->reader.shard : SHARD_NONE;
	if (s && service_has_no_master(&c->topo, s)) {
		char why[sizeof s->rules->name + 60];
		int n = snprintf(
			why, sizeof why, "service %s: slot %u has no master", s->rules->name, s->rules->lbs_slot);
		operate_answer(c->out, ctl->request, OP_FAILED, text_new(why, (size_t)n));
		return;
	}
	if (shard == SHARD_NONE || !c->shards.v[shard].is_on || !c->shards.v[shard].is_up[CONN_COMMAND]) {
		char why[sizeof c->shards.v->why + 40];
		bool has_why = shard != SHARD_NONE && c->shards.v[shard].why[0];
		int n = snprintf(why, sizeof why, "Redis is not reachable%s%s", has_why ? ": " : "",
			has_why ? c->shards.v[shard].why : "");
		operate_answer(c->out, ctl->request, OP_FAILED, text_new(why, (size_t)n));
		return;
	}
	struct msg_op op = {.kind = ctl->delay_ms || ctl->at_ms ? CMD_ADD_LATER : CMD_ADD,
		.slot = s->rules->lbs_slot,
		.stream = text_new(ctl->stream.p, ctl->stream.len),
		.info = ctl->info.p ? text_new(ctl->info.p, ctl->info.len) : NULL,
		.delay_ms = ctl->delay_ms,
		.at_ms = ctl->at_ms};
	struct msg *m = coord_send(c, shard, msg_op(op));
	m->handle = COORD_CTL_HANDLE | ctl->request;
	m->svc = s->svc;
}

/* An address alone would tell nobody what has happened. */
static struct text *why_moved(struct coord *c, const struct msg *m)
{
	const struct coord_service *s = services_find(&c->services, m->svc);
	const char *from = m->from < c->topo.n_nodes ? c->topo.nodes[m->from].addr : "?";
	const char *to = m->op_result.moved_to && m->op_result.moved_to->len ? m->op_result.moved_to->bytes : NULL;
	char why[sizeof s->rules->name + 2 * TOPOLOGY_ADDR + 100];
	int n = snprintf(why, sizeof why,
		"redis %.280s does not serve slot %u of %s-input%s%.280s; the topology is asked for", from,
		m->op_result.slot, s ? s->rules->name : "?", to ? " any more: it says that it is at " : "",
		to ? to : "");
	return text_new(why, n < (int)sizeof why ? (size_t)n : sizeof why - 1);
}

void coord_on_ctl_result(struct coord *c, const struct msg *m)
{
	struct effect *ef = effects_add(c->out, EFF_CTL);
	ef->ctl = (struct effect_ctl){.request = (uint32_t)m->handle,
		.result = (enum op_result)m->op_result.result,
		.id = m->op_result.new_id};
	if (m->op_result.result == OP_MOVED)
		ef->text = why_moved(c, m);
	else
		ef->text = text_ref(m->op_result.error);
}

void coord_drain(struct coord *c, bool stop_after)
{
	c->drain.stop_after = c->drain.stop_after || stop_after;
	if (stop_after)
		c->drain.end = c->now + c->rules.drain_timeout_ms;
	if (!c->drain.is_on) {
		effects_log(c->out, LOG_NOTICE, "draining: no new work; held=%u", c->ledger.n);
		c->drain.is_on = c->place.is_draining = true;
		c->drain.began = c->now;
		worker_say_drain_to_all(c);
	}
	uint32_t pos = 0;
	for (struct entry *e; (e = ledger_next(&c->ledger, &pos));) {
		entry_feed_drain(c, e, true);
		if (e->state != ENTRY_ASSIGNED && e->state != ENTRY_REVOKING &&
			e->state != ENTRY_LOCKING) /* given back when it is known to be ours */
			operate_give_back(c, e, WHY_DRAIN);
	}
	for (uint16_t i = 0; i < c->services.n; i++)
		if (c->services.v[i].rules)
			services_mark(&c->services, &c->services.v[i]);
}

void coord_undrain(struct coord *c)
{
	if (c->drain.stop_after)
		return; /* on its way out */
	c->drain.is_on = c->place.is_draining = false;
	c->drain.end = MONO_NEVER;
	effects_log(c->out, LOG_NOTICE, "drain ended: reading again");
	uint32_t pos = 0;
	for (struct entry *e; (e = ledger_next(&c->ledger, &pos));)
		entry_feed_drain(c, e, false);
	for (uint16_t i = 0; i < c->services.n; i++)
		if (c->services.v[i].rules)
			services_mark(&c->services, &c->services.v[i]);
}

void coord_on_ctl(struct coord *c, const struct coord_ctl *ctl)
{
	struct entry *e;
	struct worker *m;
	struct coord_service *s;
	switch (ctl->kind) {
	case CTL_PAUSE:
	case CTL_RESUME:
		pause(c, ctl->svc, ctl->kind == CTL_PAUSE);
		break;
	case CTL_GIVE_BACK:
		e = ledger_by_handle(&c->ledger, ctl->handle);
		if (e)
			operate_give_back(c, e, WHY_OPERATOR);
		break;
	case CTL_TRY_NOW:
		e = ledger_by_handle(&c->ledger, ctl->handle);
		if (e)
			operate_try_now(c, e);
		break;
	case CTL_REVOKE:
		m = workers_find(&c->workers, ctl->session);
		if (m)
			worker_revoke_all(c, m);
		break;
	case CTL_ADD:
		operate_add(c, ctl);
		break;
	case CTL_DRAIN:
		coord_drain(c, false);
		break;
	case CTL_UNDRAIN:
		coord_undrain(c);
		break;
	case CTL_REFRESH:
		coord_ask_topology(c, "operator");
		break;
	case CTL_SCAN:
		s = services_find(&c->services, ctl->svc);
		if (s && s->reader.shard != SHARD_NONE)
			coord_send(c, s->reader.shard, msg_plain(MSG_SCAN))->svc = s->svc;
		break;
	}
}

/* An operator's drain has no end; the setting's time is told then, too. */
void worker_say_drain(struct coord *c, const struct worker *m)
{
	mono_ms left = c->drain.over == MONO_NEVER ? c->rules.drain_timeout_ms : 0;
	worker_frame(c->out, m, OUT_DRAIN)->frame.grace_ms = c->drain.end == MONO_NEVER ? left : c->drain.end - c->now;
}

void worker_say_drain_to_all(struct coord *c)
{
	for (struct link *l = c->workers.all.next; l != &c->workers.all; l = l->next) {
		struct worker *m = LIST_OF(struct worker, all, l);
		if (m->s.state == SESSION_READY)
			worker_say_drain(c, m);
	}
}

void worker_revoke_all(struct coord *c, struct worker *m)
{
	for (struct link *l = m->entries.next, *next; l != &m->entries; l = next) {
		next = l->next;
		struct entry *e = LIST_OF(struct entry, peers, l);
		if (e->state == ENTRY_ASSIGNED)
			entry_revoke(c, e, REVOKE_OPERATOR, REVOKE_GRACE_MS);
	}
}
