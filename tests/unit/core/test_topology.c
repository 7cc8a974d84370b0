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
	cr_assert_eq(topology_shard(&T, 8192), 1, "the same address has the same number");
}

Test(topology, moved_slots, .init = begin, .fini = end)
{
	struct slot_range r[] = {range(0, 0, "a", 1), range(1, 16383, "b", 2)};
	topology_set_slots(&T, r, 2);
	cr_assert(topology_moved(&T, 0, "c:3"));
	cr_assert(T.is_patched, "the next whole map has to agree");
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

Test(topology, the_number_of_a_shard_that_has_stopped_is_used_again, .init = begin, .fini = end)
{
	char addr[32];
	for (int i = 0; i < 3 * SHARDS_MAX; i++) { /* one at a time, each for 200 ms */
		T.now = i * 200;
		snprintf(addr, sizeof addr, "h%d:1", i);
		uint16_t node = topology_node_of(&T, addr, true);
		cr_assert_neq(node, SHARD_NONE, "%s", addr);
		cr_assert_str_eq(T.nodes[node].addr, addr);
		T.now += 100;
		topology_free(&T, node);
	}
	cr_assert_leq(T.n_nodes, 200, "%u numbers: those of half a minute", T.n_nodes);
}

Test(topology, not_while_a_message_about_its_former_owner_may_be_on_its_way, .init = begin, .fini = end)
{
	T.now = 1000;
	cr_assert_eq(topology_node_of(&T, "a:1", true), 0);
	topology_free(&T, 0);
	T.now += TOPOLOGY_REUSE_MS - 1;
	cr_assert_eq(topology_node_of(&T, "b:1", true), 1);
	cr_assert_eq(topology_node_of(&T, "a:1", true), 0, "the same address: the same number at any time");
	topology_free(&T, 0);
	T.now += TOPOLOGY_REUSE_MS;
	cr_assert_eq(topology_node_of(&T, "c:1", true), 0);
	cr_assert_eq(topology_node_of(&T, "a:1", false), SHARD_NONE);
}

Test(topology, rows_beyond_the_limit_are_counted, .init = begin, .fini = end)
{
	struct slot_range *r = mem_array(SHARDS_MAX + 1, sizeof *r);
	for (uint16_t i = 0; i <= SHARDS_MAX; i++)
		r[i] = range(i, i, "h", (uint16_t)(i + 1));
	topology_set_slots(&T, r, SHARDS_MAX + 1);
	cr_assert_eq(T.n_left_out, 1);
	cr_assert_eq(topology_shard(&T, SHARDS_MAX), SHARD_NONE);
	topology_set_slots(&T, r, 2);
	cr_assert_eq(T.n_left_out, 0);
	topology_set_slots(&T, r, SHARDS_MAX + 1);
	topology_set_standalone(&T, "other:1");
	cr_assert_eq(T.n_left_out, 1, "no number is free for it yet");
	topology_set_standalone(&T, "h:1");
	cr_assert_eq(T.n_left_out, 0, "what the map before left out is over");
	mem_free(r);
}

Test(topology, what_cannot_be_dialled_gets_no_number, .init = begin, .fini = end)
{
	static const char *const bad[] = {"", ":7002", "?:7002", "host", "host:", "host:0", "host:70000", "host:port",
		"/run/x.sock:7002", "a b:1", "[::1", "[::1]", "[]:1", "unix:run/x", "unix:"};
	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
		cr_assert_eq(topology_node_of(&T, bad[i], true), SHARD_NONE, "%s", bad[i]);
	cr_assert_eq(T.n_nodes, 0);
	cr_assert_eq(topology_node_of(&T, "[::1]:7002", true), 0);
	cr_assert_eq(topology_node_of(&T, "a_b.example.:65535", true), 1);
}

Test(topology, a_redirection_without_a_host_means_the_senders, .init = begin, .fini = end)
{
	char addr[TOPOLOGY_ADDR];
	topology_node_of(&T, "10.0.0.1:7001", true);
	topology_node_of(&T, "[fd00::1]:7001", true);
	topology_node_of(&T, "unix:/run/redis.sock", true);
	cr_assert(topology_complete(&T, 0, ":7002", addr));
	cr_assert_str_eq(addr, "10.0.0.1:7002");
	cr_assert(topology_complete(&T, 1, ":7002", addr));
	cr_assert_str_eq(addr, "[fd00::1]:7002");
	cr_assert_not(topology_complete(&T, 2, ":7002", addr), "a path is no host");
	cr_assert_not(topology_complete(&T, 0, "?:7002", addr));
	cr_assert_not(topology_complete(&T, 0, "", addr));
	cr_assert_not(topology_complete(&T, 9, ":7002", addr));
	cr_assert(topology_complete(&T, 9, "b:7002", addr));
	cr_assert_str_eq(addr, "b:7002");
}
