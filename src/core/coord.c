#include "core/coord.h"
#include "core/coord_state.h"
#include <stdio.h>
#include <string.h>

static bool same_stream(const void *value, const void *key, size_t len)
{
	const struct entry *e = value;
	return e->stream->len == len && memcmp(e->stream->bytes, key, len) == 0;
}

static bool same_session(const void *value, const void *key, size_t len)
{
	const struct member *m = value;
	return len == sizeof m->s.id && memcmp(&m->s.id, key, len) == 0;
}

struct coord *coord_new(const struct coord_rules *rules)
{
	struct coord *c = mem_alloc(sizeof *c);
	c->rules = *rules;
	rng_seed(&c->rng, rules->seed);
	ledger_init(&c->ledger, rng_next(&c->rng));
	topology_init(&c->topo);
	placement_init(&c->place);
	list_init(&c->members);
	map_init(&c->by_session, same_session, rng_next(&c->rng));
	list_init(&c->dirty);
	list_init(&c->turns);
	list_init(&c->gone);
	heap_init(&c->session_timers);
	c->reroute_at = c->drain_end = c->drain_over = c->stop_at = MONO_NEVER;
	c->next_turn = MONO_NEVER - STALL_MS;
	c->shortest_ttl = 10000;
	c->started_at = -1;
	return c;
}

void coord_free(struct coord *c)
{
	if (!c)
		return;
	while (!list_empty(&c->members))
		member_free(c, LIST_OF(struct member, all, c->members.next));
	map_fini(&c->by_session);
	ledger_fini(&c->ledger);
	for (uint16_t i = 0; i < c->n_positions; i++) {
		if (!c->services[i].rules)
			continue;
		map_fini(&c->services[i].active);
		service_rules_unref(c->services[i].rules);
	}
	topology_fini(&c->topo);
	heap_fini(&c->session_timers);
	mem_free(c->shards);
	mem_free(c);
}

struct coord_service *coord_service(struct coord *c, uint16_t svc)
{
	for (uint16_t i = 0; i < c->n_positions; i++)
		if (c->services[i].rules && c->services[i].svc == svc)
			return &c->services[i];
	return NULL;
}

uint16_t coord_pos(const struct coord *c, const struct coord_service *s)
{
	return (uint16_t)(s - c->services);
}

mono_ms coord_ping_ms(const struct coord *c)
{
	return c->rules.ping_ms ? c->rules.ping_ms : c->shortest_ttl / 3;
}

struct member *coord_member(struct coord *c, uint64_t session)
{
	struct member *m = map_get(&c->by_session, &session, sizeof session);
	return m && !m->is_gone ? m : NULL;
}

struct msg *coord_send(struct coord *c, uint16_t shard, enum msg_kind kind)
{
	return effects_msg(c->out, kind, shard);
}

void coord_mark(struct coord *c, struct coord_service *s)
{
	s->is_dirty = c->is_dirty = true;
}

void coord_ask_topology(struct coord *c, const char *why)
{
	if (c->topo_pending || (c->topo.is_known && c->now - c->topo_asked < 100)) {
		c->topo_next = mono_min(c->topo_next, c->now + 100);
		return;
	}
	c->topo_pending = true;
	c->topo_asked = c->now;
	effects_add(c->out, EFF_TOPOLOGY)->text = text_new(why, strlen(why));
}

/* ---- shards ---- */

static void grow_shards(struct coord *c)
{
	if (c->n_shards >= c->topo.n_nodes)
		return;
	c->shards = mem_grow(c->shards, c->topo.n_nodes, sizeof *c->shards);
	memset(c->shards + c->n_shards, 0, (size_t)(c->topo.n_nodes - c->n_shards) * sizeof *c->shards);
	c->n_shards = c->topo.n_nodes;
}

static void start_shard(struct coord *c, uint16_t node)
{
	grow_shards(c);
	struct coord_shard *s = &c->shards[node];
	if (s->is_on || s->is_stopping) /* stopping: it starts again when it has stopped */
		return;
	*s = (struct coord_shard){.is_on = true, .since = c->now};
	const char *addr = c->topo.nodes[node].addr;
	struct effect *ef = effects_add(c->out, EFF_SHARD_START);
	ef->to = node;
	ef->text = text_new(addr, strlen(addr));
	effects_say(c->out, SAY_NOTICE, "shard=%u redis=%s started", node, addr);
	for (uint16_t i = 0; i < c->n_positions; i++) {
		if (!c->services[i].rules)
			continue;
		struct msg *m = coord_send(c, node, MSG_SERVICE);
		m->svc = c->services[i].svc;
		m->rules = service_rules_ref(c->services[i].rules);
	}
}

uint16_t coord_shard_at(struct coord *c, const char *addr)
{
	uint16_t node = topology_node_of(&c->topo, addr, true);
	if (node != SHARD_NONE)
		start_shard(c, node);
	return node;
}

void coord_start_shards(struct coord *c)
{
	grow_shards(c);
	for (uint16_t i = 0; i < c->topo.n_nodes; i++) {
		struct coord_shard *s = &c->shards[i];
		bool master = c->topo.nodes[i].is_master, is_new = !s->is_on;
		if (master)
			start_shard(c, i);
		if (!s->is_on)
			continue;
		s->is_leaving = !master;
		struct msg *m = coord_send(c, i, MSG_SLOTS);
		m->bits = topology_bits(&c->topo, i);
		m->flag = is_new && c->had_shards;
	}
}

static void reader_to(struct coord *c, struct coord_service *s, uint16_t shard, bool asking)
{
	if (s->reader_shard == shard && s->reader_asking == asking)
		return;
	if (s->reader_shard != SHARD_NONE && s->reader_shard != shard && c->shards[s->reader_shard].is_on) {
		struct msg *m = coord_send(c, s->reader_shard, MSG_SERVICE);
		m->svc = s->svc;
		m->rules = service_rules_ref(s->rules);
	}
	struct placement_service *ps = &c->place.service[coord_pos(c, s)];
	ps->claims -= ps->granted; /* an unanswered read of the old reader brings nothing any more; audits find the rest */
	ps->granted = 0;
	ps->is_reading = false;
	s->reader_shard = shard;
	s->reader_asking = asking;
	if (shard == SHARD_NONE)
		return;
	struct msg *m = coord_send(c, shard, MSG_SERVICE);
	m->svc = s->svc;
	m->rules = service_rules_ref(s->rules);
	m->flag = !s->is_going;
	m->asking = asking;
	coord_mark(c, s);
}

void coord_route_readers(struct coord *c)
{
	for (uint16_t i = 0; i < c->n_positions; i++) {
		struct coord_service *s = &c->services[i];
		if (s->rules)
			reader_to(c, s, topology_shard(&c->topo, s->rules->lbs_slot), false);
	}
}

static void topology_changed(struct coord *c)
{
	coord_start_shards(c);
	c->had_shards = true;
	coord_route_readers(c);
	entry_reroute(c);
}

static void fit_to_topology(const struct coord *c, struct service_rules *r);

/* An ASK led to a node that no map names and nobody answers at: it is given up, what was asked there comes back. */
static void leave_lost_shards(struct coord *c)
{
	for (uint16_t i = 0; i < c->n_shards; i++) {
		struct coord_shard *sh = &c->shards[i];
		bool is_new = c->now - sh->since < LOST_SHARD_MS;
		if (!sh->is_on || sh->is_leaving || c->topo.nodes[i].is_master || sh->is_up[CONN_COMMAND] || is_new)
			continue;
		for (uint16_t k = 0; k < c->n_positions; k++) {
			struct coord_service *s = &c->services[k];
			if (s->rules && s->reader_shard == i)
				reader_to(c, s, topology_shard(&c->topo, s->rules->lbs_slot), false);
		}
		sh->is_leaving = true;
		coord_send(c, i, MSG_SLOTS); /* none */
	}
}

static void on_topology(struct coord *c, const struct coord_event *ev)
{
	bool changed, is_first = !c->topo.is_known;
	if (ev->slots) {
		changed = topology_set_slots(&c->topo, ev->slots, ev->n);
	} else {
		char addr[TOPOLOGY_ADDR];
		snprintf(addr, sizeof addr, "%.*s", (int)ev->text.len, ev->text.p);
		changed = topology_set_standalone(&c->topo, addr);
	}
	c->topo_pending = c->topo_failed_said = false;
	c->topo_next = c->now + c->rules.topology_refresh_ms;
	c->m[MP_TOPO_OTHER_OK]++;
	if (!changed) {
		leave_lost_shards(c);
		return;
	}
	uint32_t n_masters = 0;
	for (uint16_t i = 0; i < c->topo.n_nodes; i++)
		n_masters += c->topo.nodes[i].is_master;
	for (uint16_t i = 0; is_first && i < c->n_positions; i++)
		if (c->services[i].rules)
			fit_to_topology(c, c->services[i].rules);
	effects_say(c->out, SAY_NOTICE, "topology %s masters=%u", c->topo.is_cluster ? "cluster" : "standalone", n_masters);
	topology_changed(c);
}

static void on_topology_failed(struct coord *c, struct slice why)
{
	c->topo_pending = false;
	c->topo_next = c->now + 500;
	c->m[MP_TOPO_OTHER_ERROR]++;
	if (!c->topo_failed_said)
		effects_say(c->out, SAY_WARN, "topology not known: %.*s; trying again", (int)why.len, why.p);
	c->topo_failed_said = true;
}

/* ASK: the slot is on its way, this key is there already. Its reader follows; the map stays. */
static void on_ask(struct coord *c, const struct msg *m)
{
	uint16_t there = coord_shard_at(c, m->text->bytes);
	for (uint16_t i = 0; there != SHARD_NONE && i < c->n_positions; i++)
		if (c->services[i].rules && c->services[i].rules->lbs_slot == m->slot)
			reader_to(c, &c->services[i], there, true);
}

/* The map had it right: a reader that had followed an ASK is not wanted there any more (the slot went back). */
static void go_home(struct coord *c, const struct msg *m)
{
	for (uint16_t i = 0; i < c->n_positions; i++) {
		struct coord_service *s = &c->services[i];
		if (s->rules && s->rules->lbs_slot == m->slot && s->reader_asking && s->reader_shard == m->from)
			reader_to(c, s, topology_shard(&c->topo, m->slot), false);
	}
}

static void on_moved(struct coord *c, const struct msg *m)
{
	if (m->asking && m->text && m->text->len) {
		on_ask(c, m);
		coord_ask_topology(c, "ask");
		return;
	}
	if (m->text && m->text->len && topology_moved(&c->topo, m->slot, m->text->bytes)) {
		c->m[MP_TOPO_MOVED_OK]++;
		topology_changed(c);
	} else {
		go_home(c, m);
	}
	coord_ask_topology(c, "moved");
}

static void on_conn(struct coord *c, const struct msg *m)
{
	if (m->from >= c->n_shards)
		return;
	struct coord_shard *s = &c->shards[m->from];
	s->is_up[m->conn] = m->flag;
	if (m->flag)
		return;
	if (m->text)
		snprintf(s->why, sizeof s->why, "%s", m->text->bytes);
	if (m->conn == CONN_COMMAND)
		coord_ask_topology(c, "connection lost");
}

/* Every connection of every shard hears of a slot move. */
static bool is_news(struct coord *c, int64_t seq)
{
	size_t n = sizeof c->announced / sizeof c->announced[0];
	for (size_t i = 0; i < n; i++)
		if (c->announced[i].until > c->now && c->announced[i].seq == seq)
			return false;
	c->announced[c->n_announced % n].seq = seq;
	c->announced[c->n_announced++ % n].until = c->now + ANNOUNCED_MS;
	return true;
}

/* Nothing is left in a shard without slots. What was sent to it meanwhile comes back before MSG_STOPPED does. */
static void on_empty(struct coord *c, const struct msg *m)
{
	struct coord_shard *s = m->from < c->n_shards ? &c->shards[m->from] : NULL;
	if (!s || !s->is_on || !s->is_leaving)
		return;
	coord_send(c, m->from, MSG_STOP);
	s->is_on = false;
	s->is_stopping = true;
}

static void on_stopped(struct coord *c, const struct msg *m)
{
	struct coord_shard *s = m->from < c->n_shards ? &c->shards[m->from] : NULL;
	if (!s || !s->is_stopping)
		return;
	s->is_stopping = false;
	effects_add(c->out, EFF_SHARD_STOP)->to = m->from;
	entry_shard_gone(c, m->from);
	effects_say(c->out, SAY_NOTICE, "shard=%u redis=%s stopped", m->from, c->topo.nodes[m->from].addr);
	if (c->topo.nodes[m->from].is_master)
		topology_changed(c);
}

/* A shard's recovery asks for an operation on a lock elsewhere, or is answered. */
static void relay(struct coord *c, const struct msg *m)
{
	/* .from is the asker's number, in the call and in the answer */
	uint16_t to = m->kind == MSG_LOCK_CALL ? topology_shard(&c->topo, m->slot) : m->from;
	struct msg copy = *m;
	if (to != SHARD_NONE && to < c->n_shards && c->shards[to].is_on) {
		*coord_send(c, to, m->kind) = copy;
		return;
	}
	if (m->kind == MSG_LOCK_CALL && m->from < c->n_shards && c->shards[m->from].is_on) {
		struct msg *a = coord_send(c, m->from, MSG_LOCK_ANSWER);
		a->from = m->from;
		a->tag = m->tag;
		a->op = m->op;
		a->result = OP_FAILED;
	}
	msg_fini(&copy);
}

/* The group is made again at the stream's beginning: what is held will be delivered once more and recognised by its id,
 * so it is read beyond the free credits, and nothing is called "not pending" until that has happened. */
static void on_group_lost(struct coord *c, const struct msg *m)
{
	struct coord_service *s = coord_service(c, m->svc);
	if (!s)
		return;
	s->audit_hold = c->now + s->rules->ttl_ms / 2;
	s->regrant = m->flag ? c->place.service[coord_pos(c, s)].owned : 0;
	coord_mark(c, s);
}

/* A lock expired somewhere: whoever reads a service may know its entry. */
static void spread_expired(struct coord *c, const struct msg *m)
{
	for (uint16_t i = 0; i < c->n_shards; i++) {
		bool reads = false;
		for (uint16_t k = 0; k < c->n_positions && !reads; k++)
			reads = c->services[k].rules && c->services[k].reader_shard == i;
		if (!reads || !c->shards[i].is_on)
			continue;
		struct msg *copy = coord_send(c, i, MSG_EXPIRED);
		copy->stream = text_ref(m->stream);
		copy->id = m->id;
	}
}

/* ---- services ---- */

static uint16_t free_position(struct coord *c)
{
	for (uint16_t i = 0; i < c->n_positions; i++)
		if (!c->services[i].rules)
			return i;
	return c->n_positions < SERVICES_MAX ? c->n_positions++ : SERVICE_NONE;
}

static void service_to_shards(struct coord *c, struct coord_service *s)
{
	for (uint16_t i = 0; i < c->n_shards; i++) {
		if (!c->shards[i].is_on)
			continue;
		struct msg *m = coord_send(c, i, MSG_SERVICE);
		m->svc = s->svc;
		m->rules = service_rules_ref(s->rules);
		m->flag = i == s->reader_shard && !s->is_going;
		m->asking = m->flag && s->reader_asking;
	}
}

/* On one server every key shares a slot: dead letters go by one script. r is ours alone until shards hear of it. */
static void fit_to_topology(const struct coord *c, struct service_rules *r)
{
	if (c->topo.is_known && !c->topo.is_cluster)
		r->dlq_same_slot = true;
}

static void service_set(struct coord *c, struct service_rules *r)
{
	fit_to_topology(c, r);
	struct coord_service *s = coord_service(c, r->svc);
	if (!s) {
		uint16_t pos = free_position(c);
		if (pos == SERVICE_NONE) {
			service_rules_unref(r);
			return;
		}
		s = &c->services[pos];
		*s = (struct coord_service){.svc = r->svc, .reader_shard = SHARD_NONE};
		list_push(&c->turns, &s->turn);
		list_init(&s->ready);
		list_init(&s->parked);
		map_init(&s->active, same_stream, rng_next(&c->rng));
		c->place.service[pos] = (struct placement_service){.is_on = true, .svc = r->svc};
		if (c->place.n_services < c->n_positions)
			c->place.n_services = c->n_positions;
	} else {
		service_rules_unref(s->rules);
	}
	s->rules = r;
	s->is_going = false;
	struct placement_service *ps = &c->place.service[coord_pos(c, s)];
	ps->is_on = true;
	ps->max_streams = r->max_streams;
	ps->read_batch = r->read_batch;
	service_to_shards(c, s);
	coord_mark(c, s);
}

static void on_services(struct coord *c, const struct coord_event *ev)
{
	for (uint16_t i = 0; i < c->n_positions; i++) {
		struct coord_service *s = &c->services[i];
		bool kept = !s->rules;
		for (size_t k = 0; k < ev->n && !kept; k++)
			kept = ev->services[k]->svc == s->svc;
		if (kept)
			continue;
		s->is_going = true;
		c->place.service[i].is_on = false;
		service_to_shards(c, s);
	}
	c->shortest_ttl = MONO_NEVER;
	for (size_t k = 0; k < ev->n; k++) {
		c->shortest_ttl = mono_min(c->shortest_ttl, ev->services[k]->ttl_ms);
		service_set(c, ev->services[k]);
	}
	if (c->topo.is_known)
		coord_route_readers(c);
}

/* A removed service whose last entry has gone. */
static void sweep_services(struct coord *c)
{
	for (uint16_t i = 0; i < c->n_positions; i++) {
		struct coord_service *s = &c->services[i];
		if (!s->rules || !s->is_going || c->place.service[i].owned)
			continue;
		for (uint16_t k = 0; k < c->n_shards; k++)
			if (c->shards[k].is_on)
				coord_send(c, k, MSG_SERVICE_GONE)->svc = s->svc;
		effects_say(c->out, SAY_NOTICE, "service=%s removed", s->rules->name);
		map_fini(&s->active);
		list_remove(&s->turn);
		service_rules_unref(s->rules);
		*s = (struct coord_service){.rules = NULL};
	}
}

/* ---- credits ---- */

static void grant(struct coord *c, struct coord_service *s)
{
	uint16_t pos = coord_pos(c, s);
	struct placement_service *ps = &c->place.service[pos];
	if (s->reader_shard == SHARD_NONE || !c->shards[s->reader_shard].is_on || !s->own_done)
		return;
	if (ps->is_reading) { /* credits may have gone meanwhile: take the grant back */
		bool stop = c->place.is_draining || ps->is_paused || !ps->is_on ||
			ps->claims > placement_free(&c->place, pos);
		if (stop && ps->granted && s->granted) {
			struct msg *m = coord_send(c, s->reader_shard, MSG_CREDITS);
			m->svc = s->svc;
			s->granted = 0;
		}
		return;
	}
	bool contended;
	uint32_t n = placement_grant(&c->place, pos, &contended), extra = s->regrant;
	if (!n && !extra)
		return;
	s->regrant = 0;
	ps->is_reading = true;
	ps->granted = n;
	ps->claims += n;
	s->granted = n;
	list_remove(&s->turn); /* the others first next time */
	list_push(&c->turns, &s->turn);
	struct msg *m = coord_send(c, s->reader_shard, MSG_CREDITS);
	m->svc = s->svc;
	m->n = n + extra;
	m->ms = contended ? 50 : 2000;
}

static void assign_ready(struct coord *c, struct coord_service *s)
{
	uint16_t pos = coord_pos(c, s);
	while (!list_empty(&s->ready) && !c->place.is_draining) {
		struct seat *seat = placement_choose(&c->place, pos);
		if (!seat)
			return;
		struct entry *e = LIST_OF(struct entry, peers, list_pop(&s->ready));
		if (entry_is_late(c, e)) { /* we were stopped on its way: nobody starts on it now */
			entry_on_due(c, e);
			continue;
		}
		entry_assign(c, e, LIST_OF(struct member, seat, seat));
	}
}

static void pump(struct coord *c)
{
	if (!c->is_dirty)
		return;
	c->is_dirty = false;
	for (uint16_t i = 0; i < c->n_positions; i++)
		if (c->services[i].rules && c->services[i].is_dirty)
			assign_ready(c, &c->services[i]);
	/* those that were granted longest ago first, so that few credits go round */
	struct link *end = c->turns.prev, *next;
	for (struct link *l = c->turns.next; l != &c->turns; l = next) {
		next = l->next;
		struct coord_service *s = LIST_OF(struct coord_service, turn, l);
		bool is_last = l == end;
		if (s->is_dirty)
			grant(c, s);
		s->is_dirty = false;
		if (is_last)
			break;
	}
}

/* ---- the turn ---- */

static void on_msg(struct coord *c, const struct msg *m)
{
	switch ((enum msg_kind)m->kind) {
	case MSG_CONN:
		on_conn(c, m);
		text_unref(m->text);
		break;
	case MSG_LEASE:
		entry_on_lease(c, m);
		text_unref(m->text);
		break;
	case MSG_RENEWED:
		entry_on_renewed(c, m->renewed);
		mem_free(m->renewed);
		break;
	case MSG_ENTRIES:
		entry_on_batch(c, m);
		entry_batch_free(m->batch);
		break;
	case MSG_OWN_IDS:
		entry_on_own_ids(c, m);
		mem_free(m->ids);
		break;
	case MSG_OP_RESULT:
		if (m->handle & COORD_CTL_HANDLE)
			coord_on_ctl_result(c, m);
		else
			entry_on_op(c, m);
		if (msg_has_batch(m))
			entry_batch_free(m->batch);
		else
			text_unref(m->text);
		break;
	case MSG_MOVED:
		on_moved(c, m);
		text_unref(m->text);
		break;
	case MSG_REFRESH:
		if (!m->flag || is_news(c, m->n))
			coord_ask_topology(c, m->text ? m->text->bytes : "asked");
		text_unref(m->text);
		break;
	case MSG_REPLACED: {
		struct effect *ef = effects_add(c->out, EFF_FATAL);
		ef->n = 78;
		ef->text = m->text;
		break;
	}
	case MSG_GROUP_LOST:
		on_group_lost(c, m);
		break;
	case MSG_LOCK_CALL:
	case MSG_LOCK_ANSWER:
		relay(c, m);
		break;
	case MSG_EXPIRED:
		spread_expired(c, m);
		text_unref(m->stream);
		break;
	case MSG_EMPTY:
		on_empty(c, m);
		break;
	case MSG_STOPPED:
		on_stopped(c, m);
		break;
	case MSG_SLOTS:
	case MSG_SERVICE:
	case MSG_SERVICE_GONE:
	case MSG_CREDITS:
	case MSG_LEASE_ACQUIRE:
	case MSG_LEASE_RELEASE:
	case MSG_LEASE_FORGET:
	case MSG_LEASE_RENEW:
	case MSG_OP:
	case MSG_SCAN:
	case MSG_HURRY:
	case MSG_STOP:
	case MSG_N:
		break;
	}
}

static void due(struct coord *c)
{
	for (struct entry *e; (e = ledger_due(&c->ledger, c->now));)
		entry_on_due(c, e);
	for (struct heap_node *n; (n = heap_top(&c->session_timers)) && n->at <= c->now;) {
		heap_remove(&c->session_timers, n);
		member_on_due(c, LIST_OF(struct member, s, LIST_OF(struct session, timer, n)));
	}
	if (c->reroute_at <= c->now) {
		c->reroute_at = MONO_NEVER;
		entry_reroute(c);
	}
	if (c->topo_next <= c->now && !c->topo_pending) {
		c->topo_next = c->now + c->rules.topology_refresh_ms;
		coord_ask_topology(c, "periodic");
	}
	if (c->drain_end <= c->now) {
		c->drain_end = MONO_NEVER;
		c->drain_over = c->now + DRAIN_OVER_MS;
		uint32_t pos = 0;
		for (struct entry *e; (e = ledger_next(&c->ledger, &pos));)
			if (e->state == ENTRY_ASSIGNED)
				entry_revoke(c, e, REVOKE_SHUTDOWN, 2000);
	}
}

/* Reads nothing more, tells nobody to stop, leaves every lock; results that are on their way to Redis may arrive. */
static void hand_over(struct coord *c)
{
	c->place.is_draining = true;
	c->stop_at = c->now + STOP_WAIT_MS;
	for (uint16_t i = 0; i < c->n_positions; i++)
		if (c->services[i].rules)
			coord_mark(c, &c->services[i]);
}

static void handle(struct coord *c, const struct coord_event *ev)
{
	struct member *m = ev->session ? coord_member(c, ev->session) : NULL;
	switch (ev->kind) {
	case COORD_TICK:
		break;
	case COORD_SERVICES:
		on_services(c, ev);
		break;
	case COORD_LIMITS:
		c->rules = *ev->rules;
		break;
	case COORD_TOPOLOGY:
		on_topology(c, ev);
		break;
	case COORD_TOPOLOGY_FAILED:
		on_topology_failed(c, ev->text);
		break;
	case COORD_MSG:
		on_msg(c, ev->msg);
		break;
	case COORD_ACCEPT:
		member_on_accept(c, ev);
		break;
	case COORD_ADOPT:
		member_on_adopt(c, ev);
		break;
	case COORD_FRAME:
		if (m)
			member_on_frame(c, m, ev->frame);
		break;
	case COORD_BAD_INPUT:
		if (m)
			member_on_bad_input(c, m, ev->error, ev->text.p ? ev->text.p : "");
		break;
	case COORD_END:
		if (m)
			member_on_end(c, m);
		break;
	case COORD_PEER_DEAD:
		if (m)
			member_on_dead(c, m);
		break;
	case COORD_CTL:
		coord_on_ctl(c, ev->ctl);
		break;
	case COORD_STOP:
		c->is_stopping = true;
		if (ev->flag)
			coord_drain(c, true);
		else
			hand_over(c);
		break;
	}
}

static void finish_turn(struct coord *c)
{
	pump(c);
	while (!list_empty(&c->dirty)) {
		struct member *m = LIST_OF(struct member, dirty, list_pop(&c->dirty));
		member_send_until(c, m);
	}
	sweep_services(c);
	while (!list_empty(&c->gone))
		member_free(c, LIST_OF(struct member, all, c->gone.next));
	if (c->stop_at != MONO_NEVER && (c->stop_at <= c->now || (!c->is_draining && c->ledger.n_state[ENTRY_FINISHING] == 0))) {
		c->stop_at = MONO_NEVER;
		effects_add(c->out, EFF_FATAL);
	}
	/* what is busy is not ours to give; what Redis does not take in time stays for the next process */
	if (c->stop_after_drain && (c->ledger.n == c->ledger.n_state[ENTRY_BUSY] || c->drain_over <= c->now)) {
		c->stop_after_drain = false;
		c->drain_over = MONO_NEVER;
		c->stop_at = c->now + UNLOCK_WAIT_MS; /* the last locks are being deleted */
	}
}

mono_ms coord_step(struct coord *c, const struct coord_event *ev, struct effects *out)
{
	c->now = ev->now;
	c->wall_ms = ev->wall_ms;
	c->out = out;
	if (c->started_at < 0) {
		c->started_at = ev->now;
		c->topo_next = ev->now;
	}
	if (ev->now > c->next_turn + STALL_MS)
		member_after_stall(c);
	due(c);
	handle(c, ev);
	finish_turn(c);
	mono_ms at = mono_min(heap_deadline(&c->ledger.timers), heap_deadline(&c->session_timers));
	at = mono_min(at, mono_min(c->reroute_at, mono_min(c->drain_end, c->stop_at)));
	at = mono_min(at, c->drain_over);
	if (!c->topo_pending)
		at = mono_min(at, c->topo_next);
	c->next_turn = at < MONO_NEVER - STALL_MS ? at : MONO_NEVER - STALL_MS;
	c->out = NULL;
	return at;
}
