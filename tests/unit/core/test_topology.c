#include "base/mem.h"
#include "core/coord/topology.h"
#include <criterion/criterion.h>
#include <stdio.h>

static struct topology T;

static void begin(void)
{
	topology_init(&T);
}

static void end(void)
{
	topology_fini(&T);
}

static struct slot_range range(uint16_t from, uint16_t to, const char *host, uint16_t port)
{
	struct slot_range r = {.from = from, .to = to, .port = port};
	snprintf(r.host, sizeof r.host, "%s", host);
	return r;
}

Test(topology, nothing_is_known_at_first, .init = begin, .fini = end)
{
	cr_assert_not(T.is_known);
	cr_assert_eq(topology_shard(&T, 5), SHARD_NONE);
}

Test(topology, one_server_has_all_slots, .init = begin, .fini = end)
{
	cr_assert(topology_set_standalone(&T, "unix:/run/redis.sock"));
	cr_assert_not(topology_set_standalone(&T, "unix:/run/redis.sock"), "the same again is no change");
	cr_assert_eq(topology_shard(&T, 0), 0);
	cr_assert_eq(topology_shard(&T, 16383), 0);
	cr_assert_not(T.is_cluster);
	cr_assert(topology_set_standalone(&T, "b:1"));
	cr_assert_eq(topology_shard(&T, 0), 1);
	cr_assert_not(T.nodes[0].is_master);
}

Test(topology, a_cluster_and_its_changes, .init = begin, .fini = end)
{
	struct slot_range r[] = {range(0, 8191, "a", 1), range(8192, 16383, "::1", 2)};
	cr_assert(topology_set_slots(&T, r, 2));
	cr_assert_str_eq(T.nodes[1].addr, "[::1]:2");
	cr_assert_eq(topology_shard(&T, 8192), 1);
	cr_assert_not(topology_set_slots(&T, r, 2));
	struct slot_range without[] = {range(0, 8191, "a", 1)};
	cr_assert(topology_set_slots(&T, without, 1));
	cr_assert_eq(topology_shard(&T, 8192), SHARD_NONE, "nobody serves it");
	cr_assert_not(T.nodes[1].is_master);
	cr_assert(topology_set_slots(&T, r, 2));
	cr_assert_eq(topology_shard(&T, 8192), 1, "a number belongs to one address for ever");
}

Test(topology, moved_slots, .init = begin, .fini = end)
{
	struct slot_range r[] = {range(0, 0, "a", 1), range(1, 16383, "b", 2)};
	topology_set_slots(&T, r, 2);
	cr_assert(topology_moved(&T, 0, "c:3"));
	cr_assert_not(topology_moved(&T, 0, "c:3"));
	cr_assert_eq(topology_shard(&T, 0), 2);
	cr_assert_not(T.nodes[0].is_master, "it has lost its last slot");
	cr_assert(T.nodes[2].is_master);
	cr_assert_not(topology_moved(&T, 20000, "c:3"));
}

Test(topology, bits, .init = begin, .fini = end)
{
	struct slot_range r[] = {range(0, 9, "a", 1), range(10, 16383, "b", 2)};
	topology_set_slots(&T, r, 2);
	uint8_t *bits = topology_bits(&T, 0);
	cr_assert_eq(bits[0], 0xff);
	cr_assert_eq(bits[1], 0x03);
	cr_assert_eq(bits[2], 0);
	mem_free(bits);
	cr_assert_null(topology_bits(&T, 7));
}

Test(topology, there_is_a_limit_of_nodes, .init = begin, .fini = end)
{
	char addr[32];
	for (int i = 0; i < SHARDS_MAX; i++) {
		snprintf(addr, sizeof addr, "h%d:1", i);
		cr_assert_eq(topology_node_of(&T, addr, true), i);
	}
	cr_assert_eq(topology_node_of(&T, "one:more", true), SHARD_NONE);
	cr_assert_eq(topology_node_of(&T, "h7:1", false), 7);
	cr_assert_eq(topology_node_of(&T, "unknown:1", false), SHARD_NONE);
}
