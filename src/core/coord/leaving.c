/* leaving - a daemon that stops on purpose says so in each service's group, before it falls silent, and takes it back
 * when it is there again: what it leaves behind is then no death, and is not counted as a retry. */
#include "core/coord/coord_p.h"

enum { BACK_AGAIN_MS = 5000 };

static bool send_mark(struct coord *c, const struct coord_service *s, enum cmd_kind kind)
{
	if (s->reader.shard == SHARD_NONE || !c->shards.v[s->reader.shard].is_on)
		return false;
	struct msg_op op = {.kind = (uint8_t)kind, .slot = s->rules->lbs_slot, .asking = s->reader.asking};
	struct msg *m = coord_send(c, s->reader.shard, msg_op(op));
	m->handle = COORD_LEAVING_HANDLE;
	m->svc = s->svc;
	return true;
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
	bool is_sent = s->reader.shard != m->from && send_mark(c, s, (enum cmd_kind)m->op_result.kind);
	if (m->op_result.kind == CMD_LEAVE) {
		c->stop.n_leaving += is_sent;
	} else if (!is_sent) { /* the slot is on its way, and nobody knows yet where to */
		s->reader.is_back_late = true;
		coord_ask_topology(c, "moved");
	}
}
