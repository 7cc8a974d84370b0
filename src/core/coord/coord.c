#include "core/coord/coord.h"
#include "core/coord/coord_p.h"
#include <assert.h>
#include <stdio.h>
#include <string.h>

static bool same_session(const void *value, const void *key, size_t len)
{
	const struct worker *m = value;
	return len == sizeof m->s.id && memcmp(&m->s.id, key, len) == 0;
}

struct coord *coord_new(const struct coord_rules *rules)
{
	struct coord *c = mem_alloc(sizeof *c);
	c->rules = *rules;
	rng_seed(&c->rng, rules->seed);
	ledger_init(&c->ledger, rng_next(&c->rng));
	topology_init(&c->topo);
	credits_init(&c->place);
	list_init(&c->workers.all);
	map_init(&c->workers.by_session, same_session, rng_next(&c->rng));
	list_init(&c->workers.dirty);
	list_init(&c->workers.giving_back);
	c->workers.give_back_at = MONO_NEVER;
	list_init(&c->services.turns);
	list_init(&c->workers.gone);
	heap_init(&c->workers.timers);
	c->services.lost_at = MONO_NEVER;
	c->reroute_at = c->shards.start_again = c->drain.end = c->drain.over = c->stop.at = MONO_NEVER;
	c->next_turn = MONO_NEVER - STALL_MS;
	c->services.shortest_ttl = 10000;
	c->started_at = -1;
	return c;
}

void coord_free(struct coord *c)
{
	if (!c)
		return;
	while (!list_empty(&c->workers.all))
		worker_free(&c->workers, &c->place, LIST_OF(struct worker, all, c->workers.all.next));
	map_fini(&c->workers.by_session);
	ledger_fini(&c->ledger);
	for (uint16_t i = 0; i < c->services.n; i++) {
		if (!c->services.v[i].rules)
			continue;
		map_fini(&c->services.v[i].active);
		service_rules_unref(c->services.v[i].rules);
	}
	topology_fini(&c->topo);
	heap_fini(&c->workers.timers);
	mem_free(c->shards.v);
	mem_free(c);
}

mono_ms coord_ping_ms(const struct coord *c)
{
	return c->rules.ping_ms ? c->rules.ping_ms : c->services.shortest_ttl / 3;
}

struct msg *coord_send(struct coord *c, uint16_t shard, struct msg m)
{
	assert(shard < c->shards.n);
	return effects_msg(c->out, shard, m);
}

static enum topo_reason topo_reason_of(const struct coord_look_up *l, const char *why)
{
	if (strcmp(why, "moved") == 0 || strcmp(why, "ask") == 0)
		return TOPO_MOVED;
	return strcmp(why, "periodic") == 0 ? l->next_reason : TOPO_OTHER;
}

void coord_ask_topology(struct coord *c, const char *why)
{
	assert(why && *why);
	enum topo_reason reason = topo_reason_of(&c->look_up, why);
	if (c->look_up.is_pending || (c->topo.is_known && c->now - c->look_up.asked < TOPO_APART_MS)) {
		/* the answer may have left before what we were told of now */
		c->look_up.is_again = c->look_up.is_pending;
		c->look_up.next = mono_min(c->look_up.next, c->now + TOPO_APART_MS);
		c->look_up.next_reason = reason;
		return;
	}
	c->look_up.reason = reason;
	c->look_up.next_reason = TOPO_PERIODIC;
	c->look_up.is_pending = true;
	c->look_up.asked = c->now;
	effects_add(c->out, EFF_TOPOLOGY)->text = text_new(why, strlen(why));
}

/* ---- the turn ---- */

enum { EXIT_REPLACED = 78 }; /* a wrong configuration, as sysexits.h has it */

static void on_refresh(struct coord *c, const struct msg_refresh *r)
{
	if (!r->is_announced || coord_is_news(c, r->seq))
		coord_ask_topology(c, r->why ? r->why->bytes : "asked");
}

static void on_replaced(struct effects *out, struct msg_replaced *r)
{
	struct effect *ef = effects_add(out, EFF_FATAL);
	ef->exit_code = EXIT_REPLACED;
	ef->text = r->why;
	r->why = NULL;
}

static void on_op_result(struct coord *c, const struct msg *m)
{
	if (m->handle == COORD_LEAVING_HANDLE)
		coord_on_left(c, m);
	else if (m->handle & COORD_CTL_HANDLE)
		coord_on_ctl_result(c, m);
	else
		entry_on_op(c, m);
}

/* What m owns is freed, unless a handler has taken it. */
static void coord_on_msg(struct coord *c, struct msg m)
{
	switch ((enum msg_kind)m.kind) {
	case MSG_CONN:
		coord_on_conn(c, &m);
		break;
	case MSG_LEASE:
		entry_on_lease(c, &m);
		break;
	case MSG_RENEWED:
		entry_on_renewed(c, m.from, m.renewed.list);
		break;
	case MSG_ENTRIES:
		entry_on_batch(c, &m);
		break;
	case MSG_FEED:
		entry_on_feed(c, &m);
		break;
	case MSG_OWN_IDS:
		entry_on_own_ids(c, &m);
		break;
	case MSG_OP_RESULT:
		on_op_result(c, &m);
		break;
	case MSG_MOVED:
		coord_on_moved(c, &m);
		break;
	case MSG_REFRESH:
		on_refresh(c, &m.refresh);
		break;
	case MSG_REPLACED:
		on_replaced(c->out, &m.replaced);
		break;
	case MSG_GROUP_LOST:
		coord_on_group_lost(c, &m);
		break;
	case MSG_LOCK_CALL:
	case MSG_LOCK_ANSWER:
		coord_relay(c, &m);
		break;
	case MSG_EXPIRED:
		coord_spread_expired(c, &m);
		break;
	case MSG_WAITING:
		coord_on_waiting(c, &m);
		break;
	case MSG_EMPTY:
		coord_on_empty(c, &m);
		break;
	case MSG_STOPPED:
		coord_on_stopped(c, &m);
		break;
	case MSG_NOT_STARTED:
		coord_on_not_started(c, &m);
		break;
	case MSG_SLOTS:
	case MSG_SERVICE:
	case MSG_SERVICE_GONE:
	case MSG_CREDITS:
	case MSG_LEASE_ACQUIRE:
	case MSG_LEASE_RELEASE:
	case MSG_LEASE_FORGET:
	case MSG_LEASE_RENEW:
	case MSG_FEED_OPEN:
	case MSG_FEED_START:
	case MSG_FEED_HOLD:
	case MSG_FEED_SHARE:
	case MSG_FEED_TRY:
	case MSG_FEED_ACK:
	case MSG_FEED_NACK:
	case MSG_FEED_CLOSE:
	case MSG_OP:
	case MSG_SCAN:
	case MSG_FLEET:
	case MSG_RENEW_ALL:
	case MSG_STOP:
	case MSG_N:
		break;
	}
	msg_fini(&m);
}

static void coord_due(struct coord *c)
{
	for (struct entry *e; (e = ledger_due(&c->ledger, c->now));)
		entry_on_due(c, e);
	for (struct heap_node *n; (n = heap_due(&c->workers.timers, c->now));) {
		heap_remove(&c->workers.timers, n);
		worker_on_due(c, LIST_OF(struct worker, s, LIST_OF(struct session, timer, n)));
	}
	worker_give_more_back(c);
	if (c->reroute_at <= c->now) {
		c->reroute_at = MONO_NEVER;
		entry_reroute(c);
	}
	if (c->shards.start_again <= c->now) {
		c->shards.start_again = MONO_NEVER;
		coord_reroute(c);
	}
	if (c->look_up.next <= c->now && !c->look_up.is_pending) {
		c->look_up.next = c->now + c->rules.topology_refresh_ms;
		coord_ask_topology(c, "periodic");
	}
	if (c->drain.end <= c->now) {
		c->drain.end = MONO_NEVER;
		c->drain.over = c->now + DRAIN_OVER_MS;
		uint32_t pos = 0;
		for (struct entry *e; (e = ledger_next(&c->ledger, &pos));)
			if (e->state == ENTRY_ASSIGNED)
				entry_revoke(c, e, REVOKE_SHUTDOWN, SHUTDOWN_GRACE_MS);
	}
}

/* Reads nothing more, tells nobody to stop, leaves every lock; results that are on their way to Redis, or come from
 * workers that leave too, may arrive. */
static void hand_over(struct coord *c)
{
	c->place.is_draining = true;
	c->stop.at = c->now + STOP_WAIT_MS;
	c->stop.listen_end = c->now + STOP_LISTEN_MS;
	for (uint16_t i = 0; i < c->services.n; i++)
		if (c->services.v[i].rules)
			services_mark(&c->services, &c->services.v[i]);
}

static void handle(struct coord *c, const struct coord_event *ev)
{
	struct worker *m = ev->session ? workers_find(&c->workers, ev->session) : NULL;
	switch (ev->kind) {
	case COORD_TICK:
		break;
	case COORD_SERVICES:
		coord_on_services(c, ev);
		break;
	case COORD_LIMITS:
		c->rules = *ev->rules;
		worker_after_limits(c);
		break;
	case COORD_TOPOLOGY:
		coord_on_topology(c, ev);
		break;
	case COORD_TOPOLOGY_FAILED:
		coord_on_topology_failed(c, ev->text);
		break;
	case COORD_MSG:
		coord_on_msg(c, *ev->msg);
		break;
	case COORD_ACCEPT:
		worker_on_accept(c, ev);
		break;
	case COORD_ADOPT:
		worker_on_adopt(c, ev);
		break;
	case COORD_FRAME:
		if (m)
			worker_on_frame(c, m, ev->frame);
		break;
	case COORD_BAD_INPUT:
		if (m)
			worker_on_bad_input(c, m, ev->error, ev->text.p ? ev->text.p : "");
		break;
	case COORD_END:
		if (m)
			worker_on_end(c, m, (uint32_t)ev->n);
		break;
	case COORD_PEER_DEAD:
		if (m)
			worker_on_dead(c, m);
		break;
	case COORD_CTL:
		coord_on_ctl(c, ev->ctl);
		break;
	case COORD_STOP:
		c->stop.is_on = true;
		coord_leave(c);
		if (ev->flag)
			coord_drain(c, true);
		else
			hand_over(c);
		break;
	}
}

/* Ends at the same time as we do, and holds something yet: with no credits, what it says next is a result. */
static bool is_some_worker_leaving(const struct coord_workers *ws)
{
	for (const struct link *l = ws->all.next; l != &ws->all; l = l->next) {
		const struct worker *w = LIST_OF(const struct worker, all, l);
		if (w->is_connected && !w->credit_holder.credits && !list_empty(&w->entries))
			return true;
	}
	return false;
}

static bool is_handed_over(const struct coord *c)
{
	return !c->drain.is_on && c->stop.listen_end <= c->now && c->stop.n_leaving == 0 &&
	       c->ledger.n_state[ENTRY_FINISHING] == 0 && list_empty(&c->workers.giving_back) &&
	       !is_some_worker_leaving(&c->workers);
}

static void finish_turn(struct coord *c)
{
	coord_pump(c);
	while (!list_empty(&c->workers.dirty)) {
		struct worker *m = LIST_OF(struct worker, dirty, list_pop(&c->workers.dirty));
		worker_send_until(c, m);
	}
	coord_sweep_services(c);
	while (!list_empty(&c->workers.gone))
		worker_free(&c->workers, &c->place, LIST_OF(struct worker, all, c->workers.gone.next));
	if (c->stop.at != MONO_NEVER && (c->stop.at <= c->now || is_handed_over(c))) {
		c->stop.at = MONO_NEVER;
		effects_add(c->out, EFF_FATAL);
	}
	/* what is busy is not ours to give; what Redis does not take in time stays for the next process */
	if (c->drain.stop_after && (c->ledger.n == c->ledger.n_state[ENTRY_BUSY] || c->drain.over <= c->now)) {
		c->drain.stop_after = false;
		c->drain.over = MONO_NEVER;
		c->stop.at = c->now + UNLOCK_WAIT_MS; /* the last locks are being deleted */
	}
}

/* Nobody was silent: we did not listen. */
static void after_stall(struct coord *c)
{
	worker_after_stall(c);
	for (uint16_t i = 0; i < c->shards.n; i++)
		c->shards.v[i].heard_at = c->now;
}

mono_ms coord_step(struct coord *c, const struct coord_event *ev, struct effects *out)
{
	assert(!c->out && ev->now >= c->now);
	c->now = ev->now;
	c->wall_ms = ev->wall_ms;
	c->out = out;
	c->topo.now = c->now;
	if (c->started_at < 0) {
		c->started_at = ev->now;
		c->look_up.next = ev->now;
		c->look_up.next_reason = TOPO_OTHER;
	}
	if (ev->now > c->next_turn + STALL_MS)
		after_stall(c);
	coord_due(c);
	handle(c, ev);
	finish_turn(c);
	entry_warn_lost(c);
	mono_ms at = mono_min(heap_deadline(&c->ledger.timers), heap_deadline(&c->workers.timers));
	at = mono_min(at, mono_min(c->reroute_at, mono_min(c->drain.end, c->stop.at)));
	at = mono_min(at, mono_min(c->drain.over, c->shards.start_again));
	at = mono_min(at, mono_min(c->services.lost_at, c->workers.give_back_at));
	if (c->stop.at != MONO_NEVER && c->stop.listen_end > c->now)
		at = mono_min(at, c->stop.listen_end);
	if (!c->look_up.is_pending)
		at = mono_min(at, c->look_up.next);
	c->next_turn = at < MONO_NEVER - STALL_MS ? at : MONO_NEVER - STALL_MS;
	c->out = NULL;
	if (c->rules.is_checked && c->n_turns++ % (1 + c->ledger.n / 256) == 0) /* the more there is, the rarer */
		coord_check(c);
	return at;
}
