/* gauges - what is seen of handoffs from outside: states, addresses, reasons, counters. */
#include "core/handoff/handoff_p.h"

#include <stdio.h>

void handoff_address(const struct handoff *h, mono_ms now, const char *from, char out[HANDOFF_ADDRESS])
{
	if (op_target(h, now, from, out) && !breaker_allows(h, out, now))
		snprintf(out, HANDOFF_ADDRESS, "%s", h->configured);
}

static const struct handoff_conn *role_conn_at(const struct handoff *h, uint32_t conn)
{
	return conn < h->n_role_conns && h->conns[conn].is_open ? &h->conns[conn] : NULL;
}

enum handoff_state handoff_state(const struct handoff *h, uint32_t conn)
{
	const struct handoff_conn *l = role_conn_at(h, conn);
	return l ? (enum handoff_state)l->state : HANDOFF_IDLE;
}

bool handoff_is_relaxed(const struct handoff *h, uint32_t conn)
{
	const struct handoff_conn *l = role_conn_at(h, conn);
	return l && l->relaxed.told_until > 0;
}

const char *handoff_reason(const struct handoff *h, uint32_t conn)
{
	const struct handoff_conn *l = role_conn_at(h, conn);
	return l ? l->why : "";
}

struct handoff_gauges handoff_gauges(const struct handoff *h)
{
	struct handoff_gauges g = {0};
	for (size_t i = 0; i < h->n_role_conns; i++) {
		const struct handoff_conn *l = &h->conns[i];
		if (!l->is_open)
			continue;
		g.n_active += l->state >= HANDOFF_DIALING;
		g.n_queued += l->state == HANDOFF_QUEUED;
		g.n_relaxed += l->relaxed.told_until > 0;
	}
	for (int i = 0; i < BREAKERS; i++)
		g.n_breakers_open += h->breakers[i].state == BREAKER_OPEN;
	return g;
}

const struct metrics_handoff *handoff_metrics(const struct handoff *h)
{
	return &h->metrics;
}
