/* What is known of a master that does not answer: coord keeps since when, and the last reason. */
#include "run/control/down.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

#include "run/control/explain.h"

enum { DAY_MS = 86400000 };

bool down_is_known(const struct daemon *d, uint16_t shard)
{
	const struct coord *c = d->core;
	if (shard >= c->shards.n || shard >= c->topo.n_nodes)
		return false;
	const struct coord_shard *s = &c->shards.v[shard];
	return (s->is_on || s->is_refused) && !s->is_up[CONN_COMMAND] && s->why[0];
}

void down_since(const struct daemon *d, uint16_t shard, char out[static DOWN_SINCE_CAP])
{
	mono_ms for_ms = mono_max(0, mono_now() - d->core->shards.v[shard].down_since);
	time_t t = (time_t)((mono_wall_ms() - for_ms) / 1000);
	struct tm tm = {0};
	char at[32] = "?", age[24];
	if (localtime_r(&t, &tm))
		strftime(at, sizeof at, for_ms < DAY_MS / 2 ? "%H:%M:%S" : "%Y-%m-%d %H:%M:%S", &tm);
	facts_age(age, for_ms);
	snprintf(out, DOWN_SINCE_CAP, "%s (%s)", at, age);
}

bool down_words(const struct daemon *d, uint16_t shard, const char *why, char out[static DOWN_WORDS_CAP])
{
	char since[DOWN_SINCE_CAP];
	out[0] = '\0';
	if (!down_is_known(d, shard))
		return false;
	down_since(d, shard, since);
	snprintf(out, DOWN_WORDS_CAP, "redis %.300s is down since %s: %.200s", d->core->topo.nodes[shard].addr, since,
		why ? why : d->core->shards.v[shard].why);
	return true;
}

const char *down_topology(const struct daemon *d)
{
	return d->topo.why[0] ? d->topo.why : "Redis has not answered yet";
}

uint16_t down_shard_at(const struct daemon *d, const char *addr)
{
	const struct topology *t = &d->core->topo;
	for (uint16_t i = 0; t->is_known && i < t->n_nodes; i++)
		if (t->nodes[i].is_master && strcmp(t->nodes[i].addr, addr) == 0)
			return i;
	return SHARD_NONE;
}
