#include "core/coord/topology.h"
#include <stdio.h>
#include <string.h>

void topology_init(struct topology *t)
{
	*t = (struct topology){.slot_node = mem_array(SLOTS, sizeof *t->slot_node)};
	memset(t->slot_node, 0xff, SLOTS * sizeof *t->slot_node);
}

void topology_fini(struct topology *t)
{
	mem_free(t->slot_node);
	mem_free(t->nodes);
}

uint16_t topology_node_of(struct topology *t, const char *addr, bool add)
{
	for (uint16_t i = 0; i < t->n_nodes; i++)
		if (strcmp(t->nodes[i].addr, addr) == 0)
			return i;
	if (!add || t->n_nodes == SHARDS_MAX)
		return SHARD_NONE;
	t->nodes = mem_grow(t->nodes, (size_t)t->n_nodes + 1, sizeof *t->nodes);
	struct topology_node *n = &t->nodes[t->n_nodes];
	*n = (struct topology_node){.is_master = false};
	snprintf(n->addr, sizeof n->addr, "%s", addr);
	return t->n_nodes++;
}

/* Takes a new slot map over; counts slots per node. */
static bool topology_adopt(struct topology *t, const uint16_t *map)
{
	bool changed = memcmp(t->slot_node, map, SLOTS * sizeof *map) != 0 || !t->is_known;
	memcpy(t->slot_node, map, SLOTS * sizeof *map);
	for (uint16_t i = 0; i < t->n_nodes; i++)
		t->nodes[i].n_slots = 0;
	for (size_t s = 0; s < SLOTS; s++)
		if (map[s] != SHARD_NONE)
			t->nodes[map[s]].n_slots++;
	for (uint16_t i = 0; i < t->n_nodes; i++)
		t->nodes[i].is_master = t->nodes[i].n_slots > 0;
	t->is_known = true;
	return changed;
}

bool topology_set_standalone(struct topology *t, const char *addr)
{
	uint16_t node = topology_node_of(t, addr, true);
	uint16_t *map = mem_array(SLOTS, sizeof *map);
	for (size_t s = 0; s < SLOTS; s++)
		map[s] = node;
	t->is_cluster = false;
	bool changed = topology_adopt(t, map);
	mem_free(map);
	return changed;
}

static void range_addr(const struct slot_range *r, char *out, size_t cap)
{
	bool v6 = strchr(r->host, ':') != NULL;
	snprintf(out, cap, v6 ? "[%s]:%u" : "%s:%u", r->host, (unsigned)r->port);
}

bool topology_set_slots(struct topology *t, const struct slot_range *ranges, size_t n)
{
	uint16_t *map = mem_array(SLOTS, sizeof *map);
	memset(map, 0xff, SLOTS * sizeof *map);
	for (size_t i = 0; i < n; i++) {
		char addr[TOPOLOGY_ADDR];
		range_addr(&ranges[i], addr, sizeof addr);
		uint16_t node = topology_node_of(t, addr, true);
		for (uint32_t s = ranges[i].from; s <= ranges[i].to && s < SLOTS; s++)
			map[s] = node;
	}
	t->is_cluster = true;
	bool changed = topology_adopt(t, map);
	mem_free(map);
	return changed;
}

bool topology_moved(struct topology *t, uint16_t slot, const char *addr)
{
	uint16_t node = topology_node_of(t, addr, true);
	if (slot >= SLOTS || node == SHARD_NONE || t->slot_node[slot] == node)
		return false;
	uint16_t old = t->slot_node[slot];
	if (old != SHARD_NONE && --t->nodes[old].n_slots == 0)
		t->nodes[old].is_master = false;
	t->slot_node[slot] = node;
	t->nodes[node].n_slots++;
	t->nodes[node].is_master = true;
	return true;
}

uint8_t *topology_bits(const struct topology *t, uint16_t node)
{
	uint8_t *bits = NULL;
	for (size_t s = 0; s < SLOTS; s++) {
		if (t->slot_node[s] != node)
			continue;
		if (!bits)
			bits = mem_alloc(SLOTS / 8);
		bits[s / 8] = (uint8_t)(bits[s / 8] | 1u << (s % 8));
	}
	return bits;
}
