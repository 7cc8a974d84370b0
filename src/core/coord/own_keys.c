/* own_keys - names that are no data streams: keys that the daemons keep for themselves. Entries mode would hand out
 * and acknowledge what is in them, and could delete it. */
#include "base/fnv.h"
#include "core/coord/services.h"

#include <stdio.h>
#include <string.h>

static const struct own_key *find_own(const struct service_rules *r, const char *name, size_t len, uint64_t hash)
{
	for (uint32_t i = 0; i < r->own.n; i++)
		if (r->own.v[i].hash == hash && strlen(r->own.v[i].name) == len &&
			memcmp(r->own.v[i].name, name, len) == 0)
			return &r->own.v[i];
	return NULL;
}

/* A worker that is only told names may have to do with dead letters, and with what other services keep. */
static bool is_meant_by(const struct coord_service *s, const struct coord_service *keeper, const struct own_key *k)
{
	return s->rules->entries.is_on || (s == keeper && k->kind != OWN_DEAD_LETTERS);
}

bool services_is_own_key(const struct coord_services *ss, const struct coord_service *s, const struct own_name *name,
	char why[static OWN_WHY_CAP])
{
	static const char *const what[] = {[OWN_LBS] = "the load-balancer stream of",
		[OWN_STATE] = "a key that sluiced keeps for",
		[OWN_DEAD_LETTERS] = "the dead-letter stream of"};
	const uint64_t hash = fnv(name->bytes, name->len);
	if (s->rules->entries.is_on && name->is_position) {
		snprintf(why, OWN_WHY_CAP, "%.*s is the position in another stream, not a data stream",
			(int)text_fit(name->bytes, name->len, 200), name->bytes);
		return true;
	}
	for (uint16_t i = 0; i < ss->n; i++) {
		const struct coord_service *keeper = &ss->v[i];
		const struct own_key *k = keeper->rules ? find_own(keeper->rules, name->bytes, name->len, hash) : NULL;
		if (!k || !is_meant_by(s, keeper, k))
			continue;
		snprintf(why, OWN_WHY_CAP, "%.600s is %s service %s, not a data stream", k->name, what[k->kind],
			keeper->rules->name);
		return true;
	}
	return false;
}
