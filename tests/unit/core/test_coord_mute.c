/* One master of several does not answer any more: its leases end together, the others' streams go on. */
#include "coord_story.h"

enum { MUTE = 1, WELL = 0 };

/* Slots 0 to 8, the load-balancer stream's among them, are shard 0's; those of the locks from 9 on are shard 1's. */
static void up(void)
{
	story_begin();
	story_services(1, 100);
	struct slot_range r[] = {
		{.from = 0, .to = 8, .port = 1, .host = "a"}, {.from = 9, .to = 16383, .port = 1, .host = "b"}};
	story_event((struct coord_event){.kind = COORD_TOPOLOGY, .slots = r, .n = 2});
	story_own(0, 0, "");
	story_clear();
}

/* Read; its lock is on that shard. */
static uint64_t entered(uint64_t id, uint16_t shard)
{
	char stream[8];
	snprintf(stream, sizeof stream, "s%d", (int)id);
	struct entry_batch *b = story_batch(id, stream);
	b->v[0].lock_slot = shard == MUTE ? 9 : 5;
	story_from_shard((struct msg){
		.kind = MSG_ENTRIES, .entries.source = SOURCE_NEW, .entries.n_asked = 1, .entries.batch = b});
	return W.last_handle;
}

/* Assigned; its lock is on that shard, held until 10 s from now. */
static uint64_t assigned(uint64_t id, uint16_t shard)
{
	uint64_t h = entered(id, shard);
	story_from_shard((struct msg){.kind = MSG_LEASE,
		.from = shard,
		.handle = h,
		.lease.result = LEASE_IS_HELD,
		.lease.good_until = W.now + 10000});
	story_op(h, CMD_TAKE, OP_DONE, false);
	return h;
}

static void renewed(uint16_t shard, uint64_t handle)
{
	struct renewed *r = mem_alloc(sizeof *r + sizeof r->v[0]);
	r->n = 1;
	r->v[0].handle = handle;
	r->v[0].good_until = W.now + 10000;
	story_from_shard((struct msg){.kind = MSG_RENEWED, .from = shard, .renewed.list = r});
}

static void pong(uint64_t session)
{
	story_up(session, (struct frame){.kind = FRAME_PONG});
}

Test(coord_mute, leases_of_a_master_that_does_not_answer_end_together, .init = up, .fini = story_down)
{
	story_hello(1, 10);
	story_hello(2, 10);
	assigned(1, MUTE); /* until 11000: stops at 9000 */
	uint64_t well = assigned(3, WELL);
	W.now = 2500;
	assigned(2, MUTE); /* until 12500 */
	assigned(4, MUTE);
	for (mono_ms t = 4000; t < 9000; t += 1500) {
		story_until(t);
		renewed(WELL, well);
		pong(1);
		pong(2);
	}
	story_until(8999);
	story_clear();
	story_until(9000);
	expect_story("[ 9000] s forget 1\n"
		     "[ 9000] w1 revoke 1-0 lost grace=1500\n"
		     "[ 9000] s forget 3\n"
		     "[ 9000] w1 revoke 2-0 lost grace=1500\n"
		     "[ 9000] s forget 4\n"
		     "[ 9000] w2 revoke 4-0 lost grace=1500\n"
		     "[ 9000] w1 ping until=18500\n" /* holds nothing any more */
		     "[ 9000] w2 ping until=18000\n");
}

Test(coord_mute, a_shard_that_says_so_first_means_the_same, .init = up, .fini = story_down)
{
	story_hello(1, 10);
	uint64_t first = assigned(1, MUTE), well = assigned(3, WELL);
	W.now = 2500;
	assigned(2, MUTE);
	for (mono_ms t = 4000; t < 9000; t += 1500) {
		story_until(t);
		renewed(WELL, well);
		pong(1);
	}
	story_until(8999);
	story_clear();
	story_from_shard((struct msg){.kind = MSG_LEASE,
		.from = MUTE,
		.handle = first,
		.lease.result = LEASE_IS_LOST,
		.lease.lost = LOST_EXPIRED});
	expect_story("[ 8999] w1 revoke 1-0 lost grace=1500\n"
		     "[ 8999] s forget 3\n"
		     "[ 8999] w1 revoke 2-0 lost grace=1500\n"
		     "[ 8999] w1 ping until=18000\n");
}

Test(coord_mute, one_lease_that_is_not_renewed_ends_alone_when_others_there_are, .init = up, .fini = story_down)
{
	story_hello(1, 10);
	assigned(1, MUTE);
	uint64_t other = assigned(2, MUTE);
	for (mono_ms t = 4000; t < 9000; t += 3600) {
		story_until(t);
		renewed(MUTE, other); /* a busy master, or one key that it refuses */
		pong(1);
	}
	story_until(8999);
	story_clear();
	story_until(9000);
	expect_story("[ 9000] s forget 1\n"
		     "[ 9000] w1 revoke 1-0 lost grace=1500\n"
		     "[ 9000] w1 ping until=17100\n");
}

Test(coord_mute, our_own_stall_is_no_silence, .init = up, .fini = story_down)
{
	story_hello(1, 10);
	assigned(1, MUTE); /* until 11000 */
	W.now = 2500;
	assigned(2, MUTE); /* until 12500 */
	story_clear();
	W.now = 9500; /* stopped and continued: the second may still be renewed */
	story_event((struct coord_event){.kind = COORD_TICK});
	expect_story("[ 9500] s forget 1\n"
		     "[ 9500] w1 revoke 1-0 lost grace=1500\n"
		     "[ 9500] w1 ping until=12000\n");
}

static void connected(uint16_t shard, bool is_up)
{
	story_from_shard((struct msg){.kind = MSG_CONN, .from = shard, .conn.role = CONN_COMMAND, .conn.is_up = is_up});
}

Test(coord_mute, what_waits_for_a_lock_there_is_put_off, .init = up, .fini = story_down)
{
	const struct credits_service *cs = &W.c->place.service[0];
	story_hello(1, 1);
	connected(WELL, true);
	connected(MUTE, true);
	uint64_t h = entered(1, MUTE);
	story_until(W.now + 1999);
	cr_assert_eq(cs->reserved, 1);
	story_clear();
	story_until(W.now + 1);
	cr_assert(strstr(W.text.data, "s later 1-0 retry=0"), "%s", W.text.data);
	cr_assert_eq(ledger_by_handle(&W.c->ledger, h)->state, ENTRY_FINISHING);
	cr_assert_eq(cs->reserved, cs->granted, "its credit is for others");
	connected(MUTE, false);
	story_until(W.now + 5000);
	story_clear();
	entered(2, MUTE); /* that one is away is known by now */
	story_until(W.now);
	cr_assert(strstr(W.text.data, "s later 2-0 retry=0"), "%s", W.text.data);
}

Test(coord_mute, what_waits_for_a_lock_beside_its_stream_waits_on, .init = up, .fini = story_down)
{
	story_hello(1, 1);
	uint64_t h = entered(1, WELL); /* nothing could be given back there either */
	story_until(W.now + 60000);
	cr_assert_eq(ledger_by_handle(&W.c->ledger, h)->state, ENTRY_LOCKING);
}
