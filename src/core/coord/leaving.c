/* leaving - a daemon that stops on purpose says so in each service's group, before it falls silent, and takes it back
 * when it is there again: what it leaves behind is then no death, and is not counted as a retry. */
#include "core/coord/coord_p.h"

enum { BACK_AGAIN_MS = 5000 };

static bool send_mark_to(
	struct coord *c, const struct coord_service *s, enum cmd_kind kind, uint16_t shard, bool asking)
{
	if (shard == SHARD_NONE || !c->shards.v[shard].is_on)
		return false;
	struct msg_op op = {.kind = (uint8_t)kind, .slot = s->rules->lbs_slot, .asking = asking};
	struct msg *m = coord_send(c, shard, msg_op(op));
	m->handle = COORD_LEAVING_HANDLE;
	m->svc = s->svc;
	return true;
}

/* To where the map says, also when the reader has followed an ASK: who has left is a key of its own, and a second one
 * behind the ASK would be in MIGRATE's way. */
static bool send_mark(struct coord *c, const struct coord_service *s, enum cmd_kind kind)
{
	return send_mark_to(c, s, kind, topology_shard(&c->topo, s->rules->lbs_slot), false);
}

/* Where it was sent it does not belong: to whom the server named (ASK), or to where the map says meanwhile. */
static bool send_mark_on(struct coord *c, const struct coord_service *s, const struct msg *m)
{
	enum cmd_kind kind = (enum cmd_kind)m->op_result.kind;
	uint16_t asked = m->op_result.asking ? coord_shard_asked(c, m->from, m->op_result.moved_to) : SHARD_NONE;
	if (asked != SHARD_NONE)
		return send_mark_to(c, s, kind, asked, true);
	return topology_shard(&c->topo, s->rules->lbs_slot) != m->from && send_mark(c, s, kind);
}

void coord_leave(struct coord *c)
{
	for (uint16_t i = 0; i < c->services.n;
		i++) /* without an answer the end waits no longer than for anything else */
		if (c->services.v[i].rules && send_mark(c, &c->services.v[i], CMD_LEAVE))
			c->stop.n_leaving++;
}

void coord_is_back(struct coord *c, struct coord_service *s)
{
	s->reader.is_back_late = !c->stop.is_on && !send_mark(c, s, CMD_BACK);
	s->reader.back_again_at = c->now + BACK_AGAIN_MS;
}

void coord_is_still_back(struct coord *c, struct coord_service *s)
{
	if (!s->reader.back_again_at || c->now < s->reader.back_again_at || c->stop.is_on)
		return;
	s->reader.back_again_at = send_mark(c, s, CMD_BACK) ? 0 : s->reader.back_again_at;
}

void coord_on_left(struct coord *c, const struct msg *m)
{
	struct coord_service *s = services_find(&c->services, m->svc);
	if (m->op_result.kind == CMD_LEAVE && c->stop.n_leaving > 0)
		c->stop.n_leaving--;
	if (m->op_result.result != OP_MOVED || !s)
		return;
	bool is_sent = send_mark_on(c, s, m);
	if (m->op_result.kind == CMD_LEAVE) {
		c->stop.n_leaving += is_sent;
	} else if (!is_sent) { /* the slot is on its way, and nobody knows yet where to */
		s->reader.is_back_late = true;
		coord_ask_topology(c, "moved");
	}
}
