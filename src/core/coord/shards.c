/* shards - topology and shards: which start and stop, where readers go, what passes between them. */
#include "base/fnv.h"
#include "core/coord/coord.h"
#include "core/coord/coord_p.h"
#include <assert.h>
#include <stdio.h>
#include <string.h>

enum { REDIRECTED_MS = 15000, SAY_REDIRECTED_MS = 60000 };

static void grow_shards(struct coord *c)
{
	if (c->shards.n >= c->topo.n_nodes)
		return;
	c->shards.v = mem_grow(c->shards.v, c->topo.n_nodes, sizeof *c->shards.v);
	memset(c->shards.v + c->shards.n, 0, (size_t)(c->topo.n_nodes - c->shards.n) * sizeof *c->shards.v);
	c->shards.n = c->topo.n_nodes;
}

static void start_shard(struct coord *c, uint16_t node)
{
	assert(node < c->topo.n_nodes);
	grow_shards(c);
	struct coord_shard *s = &c->shards.v[node];
	if (s->is_on || s->is_stopping || s->start_at > c->now) /* stopping: it starts again when it has stopped */
		return;
	const bool is_again = s->is_refused;
	*s = (struct coord_shard){.is_on = true,
		.since = c->now,
		.down_since = is_again ? s->down_since : c->now,
		.n_tries = is_again ? s->n_tries : 0,
		.said_at = is_again ? s->said_at : 0};
	const char *addr = c->topo.nodes[node].addr;
	struct effect *ef = effects_add(c->out, EFF_SHARD_START);
	ef->to = node;
	ef->address = text_new(addr, strlen(addr));
	effects_log(c->out, is_again ? LOG_DEBUG : LOG_NOTICE, "shard=%u redis=%s started", node, addr);
	for (uint16_t i = 0; i < c->services.n; i++) {
		if (!c->services.v[i].rules)
			continue;
		coord_send(
			c, node, msg_service((struct msg_service){.rules = service_rules_ref(c->services.v[i].rules)}))
			->svc = c->services.v[i].svc;
	}
}

static void give_number_back(struct coord *c, uint16_t node)
{
	assert(!c->shards.v[node].is_on);
	c->shards.v[node] = (struct coord_shard){.is_on = false};
	topology_free(&c->topo, node);
}

uint16_t coord_shard_at(struct coord *c, const char *addr)
{
	uint16_t node = topology_node_of(&c->topo, addr, true);
	if (node != SHARD_NONE)
		start_shard(c, node);
	return node;
}

uint16_t coord_shard_asked(struct coord *c, uint16_t from, const struct text *to)
{
	char addr[TOPOLOGY_ADDR];
	return topology_redirection(&c->topo, from, to, addr) ? coord_shard_at(c, addr) : SHARD_NONE;
}

void coord_start_shards(struct coord *c)
{
	grow_shards(c);
	for (uint16_t i = 0; i < c->topo.n_nodes; i++) {
		struct coord_shard *s = &c->shards.v[i];
		bool master = c->topo.nodes[i].is_master, is_new = !s->is_on;
		if (master)
			start_shard(c, i);
		else if (!s->is_on && !s->is_stopping && !c->topo.nodes[i].is_free)
			give_number_back(c, i); /* another row took its slots before it ran */
		if (!s->is_on)
			continue;
		s->is_leaving = !master;
		coord_send(c, i,
			msg_slots((struct msg_slots){
				.bits = topology_bits(&c->topo, i), .was_elsewhere = is_new && c->shards.had_any}));
	}
}

static void reader_to(struct coord *c, struct coord_service *s, uint16_t shard, bool asking)
{
	assert(shard == SHARD_NONE || shard < c->shards.n);
	if (shard != SHARD_NONE && !c->shards.v[shard].is_on) /* it comes here again when that shard runs */
		shard = SHARD_NONE;
	if (s->reader.shard == shard && s->reader.asking == asking)
		return;
	if (s->reader.shard != SHARD_NONE && s->reader.shard != shard && c->shards.v[s->reader.shard].is_on) {
		coord_send(c, s->reader.shard, msg_service((struct msg_service){.rules = service_rules_ref(s->rules)}))
			->svc = s->svc;
	}
	coord_end_grant(c, s);
	s->reader.shard = shard;
	s->offer.shard = SHARD_NONE; /* its reader knows nothing yet */
	c->services.has_new_offers = true;
	s->reader.asking = asking;
	if (shard == SHARD_NONE)
		return;
	coord_send(c, shard,
		msg_service((struct msg_service){
			.rules = service_rules_ref(s->rules), .is_read = !s->is_going, .asking = asking}))
		->svc = s->svc;
	if (s->reader.is_back_late)
		coord_is_back(c, s);
	services_mark(&c->services, s);
}

static void say_coverage(struct coord *c, struct coord_service *s)
{
	bool is_uncovered = service_has_no_master(&c->topo, s);
	if (is_uncovered == s->reader.is_uncovered)
		return;
	s->reader.is_uncovered = is_uncovered;
	if (is_uncovered)
		effects_log(c->out, LOG_WARN, "service=%s slot %u has no master: nothing is read until it has",
			s->rules->name, s->rules->lbs_slot);
	else
		effects_log(
			c->out, LOG_NOTICE, "service=%s slot %u is served again", s->rules->name, s->rules->lbs_slot);
}

void coord_route_readers(struct coord *c)
{
	for (uint16_t i = 0; i < c->services.n; i++) {
		struct coord_service *s = &c->services.v[i];
		if (!s->rules)
			continue;
		reader_to(c, s, topology_shard(&c->topo, s->rules->lbs_slot), false);
		say_coverage(c, s);
	}
}

void coord_reroute(struct coord *c)
{
	coord_start_shards(c);
	c->shards.had_any = true;
	coord_route_readers(c);
	entry_reroute(c);
}

static void say_back_late(struct coord *c)
{
	for (uint16_t i = 0; i < c->services.n; i++)
		if (c->services.v[i].rules && c->services.v[i].reader.is_back_late)
			coord_is_back(c, &c->services.v[i]);
}

/* Readers that are at this shard, or with SHARD_NONE nowhere, go where the map says: nothing else would move them. */
static void readers_home(struct coord *c, uint16_t from)
{
	for (uint16_t i = 0; i < c->services.n; i++) {
		struct coord_service *s = &c->services.v[i];
		if (s->rules && s->reader.shard == from)
			reader_to(c, s, topology_shard(&c->topo, s->rules->lbs_slot), false);
	}
}

/* An ASK led to a node that no map names and nobody answers at: it is given up, what was asked there comes back. */
static void leave_lost_shards(struct coord *c)
{
	for (uint16_t i = 0; i < c->shards.n; i++) {
		struct coord_shard *sh = &c->shards.v[i];
		bool is_new = c->now - sh->since < LOST_SHARD_MS;
		if (!sh->is_on || sh->is_leaving || c->topo.nodes[i].is_master || sh->is_up[CONN_COMMAND] || is_new)
			continue;
		readers_home(c, i);
		sh->is_leaving = true;
		coord_send(c, i, msg_plain(MSG_SLOTS)); /* none */
	}
}

bool look_up_is_redirected(const struct coord_look_up *l, mono_ms now)
{
	return l->moved_at && now - l->moved_at < REDIRECTED_MS;
}

/* It has been asked since, and it still serves all, by what is configured: only a hand can mend that. */
static void say_redirected(struct coord *c)
{
	struct coord_look_up *l = &c->look_up;
	if (c->topo.is_cluster)
		l->moved_at = l->moved_said = 0;
	if (c->topo.n_left_out) /* no number was free for it */
		return;
	if (!look_up_is_redirected(l, c->now) || (l->moved_said && c->now - l->moved_said < SAY_REDIRECTED_MS))
		return;
	l->moved_said = c->now;
	effects_log(c->out, LOG_ERROR,
		"redis=%s answers MOVED: it is one master of a cluster, and what others have waits; set redis.topology "
		"to auto (now standalone)",
		c->topo.nodes[c->topo.slot_node[0]].addr);
}

/* More masters than numbers: those that have stopped leave theirs within half a minute, so it is asked again soon. */
static void say_left_out(struct coord *c)
{
	if (!c->topo.n_left_out) {
		c->look_up.left_out_said = 0;
		return;
	}
	c->look_up.next = mono_min(c->look_up.next, c->now + TOPO_FULL_MS);
	if (c->look_up.left_out_said && c->now < c->look_up.left_out_said + SAY_AGAIN_MS)
		return;
	c->look_up.left_out_said = c->now;
	effects_log(c->out, LOG_ERROR,
		"topology: %u rows of the slot map are left out: a daemon serves at most %d addresses of masters at a "
		"time",
		c->topo.n_left_out, SHARDS_MAX);
}

void coord_on_topology(struct coord *c, const struct coord_event *ev)
{
	bool changed, is_first = !c->topo.is_known;
	if (ev->slots) {
		changed = topology_set_slots(&c->topo, ev->slots, ev->n);
	} else {
		char addr[TOPOLOGY_ADDR];
		snprintf(addr, sizeof addr, "%.*s", (int)ev->text.len, ev->text.p);
		changed = topology_set_standalone(&c->topo, addr);
	}
	c->look_up.next = c->now + (c->look_up.is_again ? TOPO_APART_MS : c->rules.topology_refresh_ms);
	c->look_up.is_pending = c->look_up.is_again = false;
	c->look_up.failed_at = 0;
	memset(c->look_up.said, 0, sizeof c->look_up.said);
	c->m[MP_TOPO_PERIODIC_OK + 2 * c->look_up.reason]++;
	say_left_out(c);
	say_redirected(c);
	if (!changed) {
		leave_lost_shards(c);
		readers_home(c, SHARD_NONE);
		say_back_late(c); /* the slot that was away may be where it was */
		return;
	}
	uint32_t n_masters = 0;
	for (uint16_t i = 0; i < c->topo.n_nodes; i++)
		n_masters += c->topo.nodes[i].is_master;
	for (uint16_t i = 0; is_first && i < c->services.n; i++)
		if (c->services.v[i].rules)
			topology_fit(&c->topo, c->services.v[i].rules);
	effects_log(
		c->out, LOG_NOTICE, "topology %s masters=%u", c->topo.is_cluster ? "cluster" : "standalone", n_masters);
	coord_reroute(c);
}

/* Without digits: times and counts in it do not make it another. */
static uint64_t reason_hash(struct slice why)
{
	uint64_t h = FNV_START;
	for (size_t i = 0; i < why.len; i++)
		if (why.p[i] < '0' || why.p[i] > '9')
			h = fnv_byte(h, why.p[i]);
	return h | 1;
}

/* True once for each of the first few reasons: a refused password must not hide behind "connection refused". */
static bool is_new_reason(struct coord_look_up *l, struct slice why)
{
	const uint64_t h = reason_hash(why);
	for (size_t i = 0; i < TOPO_REASONS; i++) {
		if (l->said[i] == h)
			return false;
		if (l->said[i])
			continue;
		l->said[i] = h;
		return true;
	}
	return false;
}

void coord_on_topology_failed(struct coord *c, struct slice why)
{
	c->look_up.is_pending = c->look_up.is_again = false;
	c->look_up.next = c->now + 500;
	c->m[MP_TOPO_PERIODIC_ERROR + 2 * c->look_up.reason]++;
	c->look_up.next_reason = c->look_up.reason; /* the same look-up, tried again */
	if (!c->look_up.failed_at)
		c->look_up.failed_at = c->now;
	if (is_new_reason(&c->look_up, why))
		effects_log(c->out, LOG_WARN, "%s: %.*s; trying again",
			c->topo.is_known ? "topology cannot be read, the last one stays" : "waiting for Redis",
			(int)why.len, why.p);
}

/* ASK: the slot is on its way, this key is there already. Its reader follows; the map stays. */
static void on_ask(struct coord *c, const struct msg *m)
{
	uint16_t there = coord_shard_asked(c, m->from, m->moved.to);
	for (uint16_t i = 0; there != SHARD_NONE && i < c->services.n; i++)
		if (c->services.v[i].rules && c->services.v[i].rules->lbs_slot == m->moved.slot)
			reader_to(c, &c->services.v[i], there, true);
}

/* The map had it right: a reader that had followed an ASK is not wanted there any more (the slot went back). */
static void go_home(struct coord *c, const struct msg *m)
{
	for (uint16_t i = 0; i < c->services.n; i++) {
		struct coord_service *s = &c->services.v[i];
		if (s->rules && s->rules->lbs_slot == m->moved.slot && s->reader.asking && s->reader.shard == m->from)
			reader_to(c, s, topology_shard(&c->topo, m->moved.slot), false);
	}
}

void coord_on_moved(struct coord *c, const struct msg *m)
{
	if (m->moved.to && c->topo.is_known && !c->topo.is_cluster) /* a shard that leaves says moved, too, of itself */
		c->look_up.moved_at = c->now;
	if (m->moved.asking) {
		on_ask(c, m);
		coord_ask_topology(c, "ask");
		return;
	}
	char addr[TOPOLOGY_ADDR];
	if (topology_redirection(&c->topo, m->from, m->moved.to, addr) && topology_moved(&c->topo, m->moved.slot, addr))
		coord_reroute(c);
	else
		go_home(c, m);
	coord_ask_topology(c, "moved");
}

void coord_on_conn(struct coord *c, const struct msg *m)
{
	if (m->from >= c->shards.n)
		return;
	struct coord_shard *s = &c->shards.v[m->from];
	if (m->conn.role == CONN_COMMAND && s->is_up[m->conn.role] && !m->conn.is_up)
		s->down_since = c->now;
	s->is_up[m->conn.role] = m->conn.is_up;
	if (m->conn.role == CONN_COMMAND) { /* what its services may read is others', or theirs again */
		s->was_up = s->was_up || m->conn.is_up;
		services_mark_all(&c->services);
	}
	if (m->conn.is_up && m->conn.role == CONN_COMMAND && s->n_tries) {
		effects_log(c->out, LOG_NOTICE, "shard=%u redis=%s started after %u attempts", m->from,
			c->topo.nodes[m->from].addr, s->n_tries + 1u);
		s->n_tries = 0;
	}
	if (m->conn.is_up)
		return;
	if (m->conn.why)
		snprintf(s->why, sizeof s->why, "%s", m->conn.why->bytes);
	if (m->conn.role == CONN_COMMAND)
		coord_ask_topology(c, "connection lost");
}

/* Every connection of every shard hears of a slot move. */
bool coord_is_news(struct coord *c, int64_t seq)
{
	size_t n = sizeof c->look_up.announced / sizeof c->look_up.announced[0];
	for (size_t i = 0; i < n; i++)
		if (c->look_up.announced[i].until > c->now && c->look_up.announced[i].seq == seq)
			return false;
	c->look_up.announced[c->look_up.n_announced % n].seq = seq;
	c->look_up.announced[c->look_up.n_announced++ % n].until = c->now + ANNOUNCED_MS;
	return true;
}

/* Nothing is left in a shard without slots. What was sent to it meanwhile comes back before MSG_STOPPED does. */
void coord_on_empty(struct coord *c, const struct msg *m)
{
	struct coord_shard *s = m->from < c->shards.n ? &c->shards.v[m->from] : NULL;
	if (!s || !s->is_on || !s->is_leaving)
		return;
	coord_send(c, m->from, msg_plain(MSG_STOP));
	s->is_on = false;
	s->is_stopping = true;
	readers_home(c, m->from); /* an ASK may have sent one there while the word was on its way */
}

void coord_on_stopped(struct coord *c, const struct msg *m)
{
	struct coord_shard *s = m->from < c->shards.n ? &c->shards.v[m->from] : NULL;
	if (!s || !s->is_stopping)
		return;
	s->is_stopping = false;
	effects_add(c->out, EFF_SHARD_STOP)->to = m->from;
	entry_shard_gone(c, m->from, true);
	effects_log(c->out, LOG_NOTICE, "shard=%u redis=%s stopped", m->from, c->topo.nodes[m->from].addr);
	if (c->topo.nodes[m->from].is_master)
		coord_reroute(c);
	else
		give_number_back(c, m->from);
	readers_home(c, SHARD_NONE); /* of which an ASK led here */
}

static void say_not_started(struct coord *c, uint16_t shard)
{
	struct coord_shard *s = &c->shards.v[shard];
	if (s->said_at && c->now < s->said_at + SAY_AGAIN_MS)
		return;
	s->said_at = c->now;
	effects_log(c->out, LOG_ERROR, "shard=%u redis=%s not started: %s; trying again", shard,
		c->topo.nodes[shard].addr, s->why);
}

/* No thread, say. What it was asked is asked again when it runs, or of whoever serves the slot by then. */
void coord_on_not_started(struct coord *c, const struct msg *m)
{
	struct coord_shard *s = m->from < c->shards.n ? &c->shards.v[m->from] : NULL;
	if (!s || !s->is_on)
		return;
	s->is_on = s->is_leaving = false;
	s->is_refused = true;
	snprintf(s->why, sizeof s->why, "%s", m->not_started.why ? m->not_started.why->bytes : "not started");
	say_not_started(c, m->from);
	s->start_at =
		c->now + mono_min((mono_ms)START_AGAIN_MS << (s->n_tries < 8 ? s->n_tries : 8), START_AGAIN_MAX_MS);
	if (s->n_tries < UINT8_MAX)
		s->n_tries++;
	for (uint16_t i = 0; i < c->services.n; i++)
		if (c->services.v[i].rules && c->services.v[i].reader.shard == m->from)
			reader_to(c, &c->services.v[i], SHARD_NONE, false);
	entry_shard_gone(c, m->from, false);
	if (c->topo.nodes[m->from].is_master)
		c->shards.start_again = mono_min(c->shards.start_again, s->start_at);
	else
		give_number_back(c, m->from);
}

/* A shard's recovery asks for an operation on a lock elsewhere, or is answered. .from is the asker's number, in the
 * call and in the answer. A slot may have no master: nobody answers then. */
void coord_relay(struct coord *c, struct msg *m)
{
	uint16_t to = m->kind == MSG_LOCK_CALL ? topology_shard(&c->topo, m->lock_call.slot) : m->from;
	if (m->kind == MSG_LOCK_CALL && m->lock_call.asking)
		to = coord_shard_asked(c, to, m->lock_call.moved_to);
	if (to != SHARD_NONE && to < c->shards.n && c->shards.v[to].is_on) {
		coord_send(c, to, *m);
		*m = msg_plain(MSG_N); /* moved */
		return;
	}
	struct msg answer;
	if (m->kind == MSG_LOCK_CALL && m->from < c->shards.n && c->shards.v[m->from].is_on &&
		msg_answer_of_nobody(m, to, &answer))
		coord_send(c, m->from, answer);
}

/* The group is made again at the stream's beginning: what is held will be delivered once more and recognised by its id,
 * so it is read beyond the free credits, and nothing is called "not pending" until that has happened. */
void coord_on_group_lost(struct coord *c, const struct msg *m)
{
	struct coord_service *s = services_find(&c->services, m->svc);
	if (!s)
		return;
	s->audit.hold = c->now + s->rules->lease.ttl_ms / 2;
	if (!m->group_lost.is_remade)
		s->audit.gone_at = c->now;
	s->grant.again = m->group_lost.is_remade ? c->place.service[services_pos(&c->services, s)].owned : 0;
	services_mark(&c->services, s);
}

/* A lock expired somewhere: whoever reads a service may know its entry. */
void coord_spread_expired(struct coord *c, const struct msg *m)
{
	for (uint16_t i = 0; i < c->shards.n; i++) {
		bool reads = false;
		for (uint16_t k = 0; k < c->services.n && !reads; k++)
			reads = c->services.v[k].rules && c->services.v[k].reader.shard == i;
		if (!reads || !c->shards.v[i].is_on)
			continue;
		coord_send(c, i,
			msg_expired((struct msg_expired){.id = m->expired.id, .stream = text_ref(m->expired.stream)}));
	}
}

bool shards_is_on(const struct coord_shards *ss, uint16_t shard)
{
	return shard != SHARD_NONE && shard < ss->n && ss->v[shard].is_on;
}
