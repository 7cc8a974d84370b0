/* topology - which master serves which slot, and which shards start or stop when that changes.
 * Pure. Owner: the coordinator. A shard number belongs to one address for the life of the process, so it can
 * stand in messages. */
#pragma once
#include "core/cmd.h"
#include "core/rules.h"

enum { TOPOLOGY_ADDR = 280 };

struct topology_node {
	char addr[TOPOLOGY_ADDR]; /* "host:port", "[v6]:port", "unix:/path" */
	bool is_master;           /* serves at least one slot now */
	uint32_t n_slots;
};

struct topology {
	uint16_t *slot_node; /* [SLOTS]; SHARD_NONE = nobody */
	struct topology_node *nodes;
	uint16_t n_nodes;
	bool is_known;
	bool is_cluster;
};

void topology_init(struct topology *t);
void topology_fini(struct topology *t);
/* One standalone server serves all slots. Returns whether anything changed. */
bool topology_set_standalone(struct topology *t, const char *addr);
/* The answer of CLUSTER SLOTS; ranges with an empty host were filled in by the caller. Returns whether anything
 * changed. */
bool topology_set_slots(struct topology *t, const struct slot_range *ranges, size_t n);
/* A MOVED redirection: this slot is there. Returns whether anything changed. */
bool topology_moved(struct topology *t, uint16_t slot, const char *addr);
/* The node's number; adds it (without slots) when `add`; SHARD_NONE when unknown or at the limit of SHARDS_MAX. */
uint16_t topology_node_of(struct topology *t, const char *addr, bool add);
static inline uint16_t topology_shard(const struct topology *t, uint16_t slot)
{
	return t->slot_node[slot % SLOTS];
}
/* Bitmap of the slots that node serves: SLOTS / 8 bytes, caller frees; NULL = none. */
uint8_t *topology_bits(const struct topology *t, uint16_t node);
