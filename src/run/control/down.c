/* What is known of a master that does not answer: coord keeps since when, and the last reason. */
#include "run/control/down.h"

#include <stdio.h>
#include <string.h>

#include "run/control/facts.h"

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
	facts_since(out, mono_now() - d->core->shards.v[shard].down_since);
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

bool down_all(const struct daemon *d, char out[static DOWN_WORDS_CAP])
{
	const struct topology *t = &d->core->topo;
	size_t n = 0, len;
	out[0] = '\0';
	for (uint16_t i = 0; t->is_known && i < t->n_nodes; i++) {
		if (!t->nodes[i].is_master)
			continue;
		if (!down_is_known(d, i)) {
			out[0] = '\0';
			return false;
		}
		if (n++ == 0)
			down_words(d, i, NULL, out);
	}
	len = strlen(out);
	if (n > 1)
		snprintf(out + len, DOWN_WORDS_CAP - len, "; so are the %zu other masters", n - 1);
	return n > 0;
}

const char *down_topology(const struct daemon *d)
{
	return d->topo.why[0] ? d->topo.why : "Redis has not answered yet";
}

const char *down_no_master(const struct daemon *d, const char *key, uint16_t slot, char out[static DOWN_WORDS_CAP])
{
	if (d->core->topo.is_known)
		snprintf(out, DOWN_WORDS_CAP, "slot %u of %.300s has no master", slot, key);
	else
		snprintf(out, DOWN_WORDS_CAP, "Redis is not reachable: %.500s", down_topology(d));
	return out;
}

uint16_t down_shard_at(const struct daemon *d, const char *addr)
{
	const struct topology *t = &d->core->topo;
	for (uint16_t i = 0; t->is_known && i < t->n_nodes; i++)
		if (t->nodes[i].is_master && strcmp(t->nodes[i].addr, addr) == 0)
			return i;
	return SHARD_NONE;
}
