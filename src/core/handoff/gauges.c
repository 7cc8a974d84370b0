#include "core/handoff/handoff_p.h"

void handoff_address(const struct handoff *h, mono_ms now, const char *from, char out[HANDOFF_ADDRESS])
{
	op_target(h, now, 0, from, out);
}

static const struct lane *lane_at(const struct handoff *h, uint32_t lane)
{
	return lane < h->n_lanes && h->lanes[lane].is_open ? &h->lanes[lane] : NULL;
}

enum handoff_state handoff_state(const struct handoff *h, uint32_t lane)
{
	const struct lane *l = lane_at(h, lane);
	return l ? (enum handoff_state)l->state : HANDOFF_IDLE;
}

bool handoff_is_relaxed(const struct handoff *h, uint32_t lane)
{
	const struct lane *l = lane_at(h, lane);
	return l && l->relaxed_until > 0;
}

struct handoff_gauges handoff_gauges(const struct handoff *h)
{
	struct handoff_gauges g = {0};
	for (size_t i = 0; i < h->n_lanes; i++) {
		const struct lane *l = &h->lanes[i];
		if (!l->is_open)
			continue;
		g.n_active += l->state >= HANDOFF_DIALING;
		g.n_queued += l->state == HANDOFF_QUEUED;
		g.n_relaxed += l->relaxed_until > 0;
	}
	for (int i = 0; i < BREAKERS; i++)
		g.n_breakers_open += h->breakers[i].state == BREAKER_OPEN;
	return g;
}

const struct metrics_handoff *handoff_metrics(const struct handoff *h)
{
	return &h->metrics;
}
