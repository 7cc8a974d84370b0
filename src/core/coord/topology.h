/* topology - which master serves which slot, and which shards start or stop when that changes.
 * Pure. Owner: the coordinator's thread. A shard number belongs to one address until its shard has stopped, so it can
 * stand in messages; it is used again only when no message about the former one can be on its way any more. */
#pragma once
#include "core/cmd.h"
#include "core/rules.h"

enum { TOPOLOGY_ADDR = 280, TOPOLOGY_REUSE_MS = 30000 };

struct topology_node {
	char addr[TOPOLOGY_ADDR]; /* "host:port", "[v6]:port", "unix:/path" */
	bool is_master;           /* serves at least one slot now */
	bool is_free;             /* nobody's: its shard has stopped, at free_since */
	mono_ms free_since;
	uint32_t n_slots;
};

struct topology {
	uint16_t *slot_node; /* [SLOTS]; SHARD_NONE = nobody */
	struct topology_node *nodes;
	uint16_t n_nodes;
	bool is_known;
	bool is_cluster;
	bool is_patched;     /* by redirections, since the last whole map */
	mono_ms now;         /* of the turn; the coordinator sets it */
	uint32_t n_left_out; /* masters of the last answer for which there was no number */
};

/* Nothing known: every slot is nobody's. */
void topology_init(struct topology *t);
/* Frees the map and the addresses. */
void topology_fini(struct topology *t);
/* One standalone server serves all slots. Returns whether anything changed. */
bool topology_set_standalone(struct topology *t, const char *addr);
/* The answer of CLUSTER SLOTS; ranges with an empty host were filled in by the caller. Returns whether anything
 * changed. */
bool topology_set_slots(struct topology *t, const struct slot_range *ranges, size_t n);
/* A MOVED redirection: this slot is there. Returns whether anything changed. */
bool topology_moved(struct topology *t, uint16_t slot, const char *addr);
/* The node's number; adds it (without slots) when `add`; SHARD_NONE when unknown, at the limit of SHARDS_MAX, or when
 * addr is no address (topology_is_addr). */
uint16_t topology_node_of(struct topology *t, const char *addr, bool add);
/* Its shard has stopped, or never ran, and it serves no slot: the number may be used for another address later on. */
void topology_free(struct topology *t, uint16_t node);
/* Can it be dialled? "host:port", "[v6]:port" or "unix:/path"; "?" is no host. */
bool topology_is_addr(const char *addr);
/* The address a redirection means that `node` has sent: one without a host (":7002") means the sender's. False: it
 * cannot be dialled; out is undefined then. */
bool topology_complete(const struct topology *t, uint16_t node, const char *text, char out[static TOPOLOGY_ADDR]);
static inline uint16_t topology_shard(const struct topology *t, uint16_t slot)
{
	return t->slot_node[slot % SLOTS];
}
/* Bitmap of the slots that node serves: SLOTS / 8 bytes, caller frees; NULL = none. */
uint8_t *topology_bits(const struct topology *t, uint16_t node);
/* Asserts what holds between turns: masters are those that serve slots, and their numbers are taken. */
void topology_check(const struct topology *t);
/* Where a redirection by shard `from` leads (to: host:port or NULL); false: its address cannot be dialled, only the
 * topology helps. */
bool topology_redirection(
	const struct topology *t, uint16_t from, const struct text *to, char addr[static TOPOLOGY_ADDR]);
/* On one server every key shares a slot: dead letters go by one script. r must not be known to shards yet. */
void topology_fit(const struct topology *t, struct service_rules *r);
