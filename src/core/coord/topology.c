#include "core/coord/topology.h"
#include <assert.h>
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

static bool is_port(const char *text)
{
	unsigned v = 0;
	size_t n = strspn(text, "0123456789");
	for (size_t i = 0; i < n && i < 5; i++)
		v = 10 * v + (unsigned)(text[i] - '0');
	return n > 0 && n <= 5 && !text[n] && v > 0 && v <= 65535;
}

bool topology_is_addr(const char *addr)
{
	enum { HOST_MAX = 255, PATH_MAX_BYTES = 107 };
	if (strncmp(addr, "unix:", 5) == 0)
		return addr[5] == '/' && strlen(addr + 5) <= PATH_MAX_BYTES;
	bool is_v6 = addr[0] == '[';
	const char *host = addr + is_v6;
	size_t n = strcspn(host, is_v6 ? "]" : ":");
	const char *port = host + n + is_v6;
	if (n == 0 || n > HOST_MAX || !host[n] || *port != ':' || strcspn(host, " \t\r\n/,?") < n)
		return false;
	return is_port(port + 1);
}

bool topology_complete(const struct topology *t, uint16_t node, const char *text, char out[static TOPOLOGY_ADDR])
{
	assert(text);
	int n;
	if (text[0] == ':') {
		if (node >= t->n_nodes || strncmp(t->nodes[node].addr, "unix:", 5) == 0)
			return false;
		const char *from = t->nodes[node].addr, *end = strrchr(from, ':');
		n = snprintf(out, TOPOLOGY_ADDR, "%.*s%s", end ? (int)(end - from) : 0, from, text);
	} else {
		n = snprintf(out, TOPOLOGY_ADDR, "%s", text);
	}
	return n < TOPOLOGY_ADDR && topology_is_addr(out);
}

/* A number that nobody has any more, the lowest; else a new one. */
static uint16_t new_number(struct topology *t)
{
	for (uint16_t i = 0; i < t->n_nodes; i++)
		if (t->nodes[i].is_free && t->now >= t->nodes[i].free_since + TOPOLOGY_REUSE_MS)
			return i;
	if (t->n_nodes == SHARDS_MAX)
		return SHARD_NONE;
	t->nodes = mem_grow(t->nodes, (size_t)t->n_nodes + 1, sizeof *t->nodes);
	return t->n_nodes++;
}

uint16_t topology_node_of(struct topology *t, const char *addr, bool add)
{
	assert(addr);
	for (uint16_t i = 0; i < t->n_nodes; i++) {
		if (strcmp(t->nodes[i].addr, addr) != 0)
			continue;
		if (add)
			t->nodes[i].is_free = false;
		return i;
	}
	if (!add || !topology_is_addr(addr))
		return SHARD_NONE;
	uint16_t node = new_number(t);
	if (node == SHARD_NONE)
		return SHARD_NONE;
	t->nodes[node] = (struct topology_node){.is_master = false};
	snprintf(t->nodes[node].addr, sizeof t->nodes[node].addr, "%s", addr);
	return node;
}

void topology_free(struct topology *t, uint16_t node)
{
	assert(node < t->n_nodes && !t->nodes[node].is_master);
	t->nodes[node].is_free = true;
	t->nodes[node].free_since = t->now;
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
	t->is_patched = false;
	return changed;
}

bool topology_set_standalone(struct topology *t, const char *addr)
{
	assert(addr && *addr);
	uint16_t node = topology_node_of(t, addr, true);
	uint16_t *map = mem_array(SLOTS, sizeof *map);
	for (size_t s = 0; s < SLOTS; s++)
		map[s] = node;
	t->n_left_out = node == SHARD_NONE;
	t->is_cluster = false;
	bool changed = topology_adopt(t, map);
	mem_free(map);
	return changed;
}

static void range_addr(const struct slot_range *r, char *out, size_t cap)
{
	bool v6 = strchr(r->host, ':') != NULL;
	if (r->port == 0)
		snprintf(out, cap, "unix:%s", r->host);
	else
		snprintf(out, cap, v6 ? "[%s]:%u" : "%s:%u", r->host, (unsigned)r->port);
}

bool topology_set_slots(struct topology *t, const struct slot_range *ranges, size_t n)
{
	assert(ranges || n == 0);
	uint16_t *map = mem_array(SLOTS, sizeof *map);
	memset(map, 0xff, SLOTS * sizeof *map);
	t->n_left_out = 0;
	for (size_t i = 0; i < n; i++) {
		char addr[TOPOLOGY_ADDR];
		range_addr(&ranges[i], addr, sizeof addr);
		uint16_t node = topology_node_of(t, addr, true);
		t->n_left_out += node == SHARD_NONE;
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
	if (!t->is_cluster || slot >= SLOTS || node == SHARD_NONE || t->slot_node[slot] == node)
		return false;
	uint16_t old = t->slot_node[slot];
	if (old != SHARD_NONE && --t->nodes[old].n_slots == 0)
		t->nodes[old].is_master = false;
	t->slot_node[slot] = node;
	t->nodes[node].n_slots++;
	t->nodes[node].is_master = true;
	return t->is_patched = true;
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

void topology_check(const struct topology *t)
{
	uint32_t n = 0;
	assert(t->n_nodes <= SHARDS_MAX);
	for (uint16_t i = 0; i < t->n_nodes; i++) {
		const struct topology_node *node = &t->nodes[i];
		assert(node->is_master == (node->n_slots > 0));
		assert(!(node->is_master && node->is_free));
		n += node->n_slots;
	}
	assert(n <= SLOTS);
	assert(!t->is_known || t->is_cluster || n == SLOTS || t->n_left_out); /* one server serves all */
}

bool topology_redirection(
	const struct topology *t, uint16_t from, const struct text *to, char addr[static TOPOLOGY_ADDR])
{
	return to && topology_complete(t, from, to->bytes, addr);
}

void topology_fit(const struct topology *t, struct service_rules *r)
{
	if (t->is_known && !t->is_cluster)
		r->dlq.is_same_slot = true;
}
