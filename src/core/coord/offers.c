/* offers - what the workers of each service take, as its reader's shard knows it: it tells the other daemons, and while
 * no credit is free it looks at who waits, if there are workers at all and idle streams that may give theirs up. */
#include "core/coord/coord_p.h"

struct msg_fleet coord_offer(const struct coord *c, uint16_t pos)
{
	struct msg_fleet offer = {0};
	offer.credits = credits_offered(&c->place, pos, &offer.n_workers);
	offer.may_get_more = offer.credits > 0 && credits_may_get_more(&c->place, pos);
	return offer;
}

void coord_tell_offers(struct coord *c)
{
	if (!c->services.has_new_offers && !c->place.has_new_offers)
		return;
	c->services.has_new_offers = c->place.has_new_offers = false;
	for (uint16_t i = 0; i < c->services.n; i++) {
		struct coord_service *s = &c->services.v[i];
		if (!s->rules || s->is_going || !shards_is_on(&c->shards, s->reader.shard))
			continue;
		const struct msg_fleet is = coord_offer(c, i);
		const struct service_offer offer = {
			.shard = s->reader.shard, .has_credits = is.credits > 0, .may_get_more = is.may_get_more};
		if (offer.shard == s->offer.shard && offer.has_credits == s->offer.has_credits &&
			offer.may_get_more == s->offer.may_get_more)
			continue;
		s->offer = offer;
		coord_send(c, offer.shard, msg_fleet(is))->svc = s->svc;
	}
}
