/* Shards that come and go under the coordinator: what was meant for one is never lost with it. */
#include "coord_story.h"

static void topology_is(const char *addr)
{
	story_event((struct coord_event){.kind = COORD_TOPOLOGY, .text = {addr, strlen(addr)}});
}

static void not_started(uint16_t shard, const char *why)
{
	story_from_shard(
		(struct msg){.kind = MSG_NOT_STARTED, .from = shard, .not_started.why = text_new(why, strlen(why))});
}

static bool is_on(uint16_t shard)
{
	return W.c->shards.v[shard].is_on;
}

Test(coord_shards, one_that_cannot_start_is_tried_again_for_ever, .init = story_ready, .fini = story_down)
{
	static const mono_ms waits[] = {100, 200, 400, 500, 500, 500, 500};
	topology_is("b:1");
	for (size_t i = 0; i < sizeof waits / sizeof waits[0]; i++) {
		not_started(1, "no thread");
		cr_assert_not(is_on(1));
		cr_assert_str_eq(W.c->shards.v[1].why, "no thread");
		mono_ms at = W.now + waits[i];
		story_until(at - 1);
		cr_assert_not(is_on(1), "%zu", i);
		story_until(at);
		cr_assert(is_on(1), "%zu", i);
	}
	story_from_shard((struct msg){.kind = MSG_CONN, .from = 1, .conn.role = CONN_COMMAND, .conn.is_up = true});
	cr_assert_eq(W.c->shards.v[1].n_tries, 0, "the next trouble begins with a short wait");
}

Test(coord_shards, a_result_waits_for_one_that_cannot_start, .init = story_ready, .fini = story_down)
{
	story_hello(1, 1);
	uint64_t h = story_assigned(7, "s");
	topology_is("b:1");
	story_from_shard((struct msg){
		.kind = MSG_LEASE, .handle = h, .lease.result = LEASE_IS_MOVED, .lease.good_until = 11000});
	not_started(1, "no thread");
	story_clear();
	story_says(1, FRAME_DONE, 7);
	expect_story("");
	story_until(1100);
	expect_story("[ 1100] s done 7-0 retry=0\n"
		     "[ 1100] s credits 0:1\n");
	story_from_shard((struct msg){.kind = MSG_OP_RESULT,
		.from = 1,
		.handle = h,
		.op_result.kind = CMD_DONE,
		.op_result.result = OP_DONE});
	expect_story("[ 1100] w1 ok 7-0 for=0 done\n"
		     "[ 1100] s acquire 1\n"
		     "[ 1100] s release 1\n");
}

Test(coord_shards, a_lease_waits_for_one_that_cannot_start, .init = story_ready, .fini = story_down)
{
	story_hello(1, 1);
	uint64_t h = story_assigned(7, "s");
	topology_is("b:1");
	not_started(1, "no thread");
	story_clear();
	story_from_shard((struct msg){
		.kind = MSG_LEASE, .handle = h, .lease.result = LEASE_IS_MOVED, .lease.good_until = 11000});
	expect_story("");
	story_until(1100);
	expect_story("[ 1100] s acquire 1\n");
}

Test(coord_shards, the_reader_goes_to_one_that_runs_only, .init = story_ready, .fini = story_down)
{
	story_hello(1, 1);
	topology_is("b:1");
	not_started(1, "no thread");
	cr_assert_eq(W.c->services.v[0].reader.shard, SHARD_NONE);
	story_clear();
	story_until(1100);
	cr_assert_eq(W.c->services.v[0].reader.shard, 1);
	expect_story("[ 1100] s credits 0:1\n");
}

Test(coord_shards, an_ask_to_one_that_cannot_start_leaves_nothing, .init = story_ready, .fini = story_down)
{
	struct msg m = {.kind = MSG_MOVED, .moved.slot = 5, .moved.asking = true, .moved.to = text_new("b:1", 3)};
	story_from_shard(m);
	cr_assert(is_on(1));
	not_started(1, "no thread");
	cr_assert_not(is_on(1));
	cr_assert(W.c->topo.nodes[1].is_free);
	story_until(W.now + 5000);
	cr_assert_not(is_on(1), "nothing asks for it");
}

/* Two masters, of which the second gives its slots to the first. */
static void second_leaves(void)
{
	struct slot_range both[] = {
		{.from = 0, .to = 8191, .port = 1, .host = "a"}, {.from = 8192, .to = 16383, .port = 1, .host = "b"}};
	struct slot_range one[] = {{.from = 0, .to = 16383, .port = 1, .host = "a"}};
	story_services(1, 100);
	story_event((struct coord_event){.kind = COORD_TOPOLOGY, .slots = both, .n = 2});
	story_event((struct coord_event){.kind = COORD_TOPOLOGY, .slots = one, .n = 1});
	cr_assert(is_on(1) && W.c->shards.v[1].is_leaving);
}

static void ask_leads_to_second(void)
{
	story_from_shard((struct msg){
		.kind = MSG_MOVED, .from = 0, .moved.slot = 5, .moved.asking = true, .moved.to = text_new("b:1", 3)});
}

Test(coord_shards, a_reader_does_not_stay_at_one_that_stops, .init = story_begin, .fini = story_down)
{
	const struct coord_service *s = &W.c->services.v[0];
	second_leaves();
	ask_leads_to_second();
	cr_assert_eq(s->reader.shard, 1);
	story_from_shard((struct msg){.kind = MSG_EMPTY, .from = 1}); /* it was on its way */
	cr_assert(!is_on(1) && s->reader.shard == 0 && !s->reader.asking);
}

Test(coord_shards, a_reader_that_could_go_nowhere_goes_home, .init = story_begin, .fini = story_down)
{
	const struct coord_service *s = &W.c->services.v[0];
	second_leaves();
	story_from_shard((struct msg){.kind = MSG_EMPTY, .from = 1});
	ask_leads_to_second(); /* which is stopping */
	cr_assert_eq(s->reader.shard, SHARD_NONE);
	story_from_shard((struct msg){.kind = MSG_STOPPED, .from = 1});
	cr_assert_eq(s->reader.shard, 0);
	ask_leads_to_second();
	cr_assert(is_on(1) && s->reader.shard == 1 && s->reader.asking);
	not_started(1, "no thread");
	cr_assert_eq(s->reader.shard, SHARD_NONE);
	struct slot_range one[] = {{.from = 0, .to = 16383, .port = 1, .host = "a"}};
	story_event((struct coord_event){.kind = COORD_TOPOLOGY, .slots = one, .n = 1});
	cr_assert_eq(s->reader.shard, 0, "the map is as it was: nobody reads");
}

/* A dead letter's stream has gone ahead of its slot. */
Test(coord_shards, a_call_that_asks_goes_where_it_was_told, .init = story_ready, .fini = story_down)
{
	struct msg m = {.kind = MSG_LOCK_CALL,
		.lock_call.kind = CMD_DEAD_ADD,
		.lock_call.asking = true,
		.lock_call.moved_to = text_new(":2", 2)};
	story_from_shard(m);
	cr_assert_eq(W.c->topo.n_nodes, 2);
	cr_assert_str_eq(W.c->topo.nodes[1].addr, "a:2");
	m.lock_call.moved_to = text_new("nowhere", 7);
	story_clear();
	story_from_shard(m);
	expect_story("[ 1000] s lock_answer 0 failed\n");
}

/* The slot went away and came back before anybody said so: the map stays as it is. */
Test(coord_shards, that_we_are_back_is_said_again_while_the_map_stays, .init = story_ready, .fini = story_down)
{
	const uint32_t n = W.n_back;
	story_from_shard((struct msg){.kind = MSG_OP_RESULT,
		.handle = COORD_LEAVING_HANDLE,
		.op_result.kind = CMD_BACK,
		.op_result.result = OP_MOVED});
	story_until(W.now + 1000);
	cr_assert(W.c->look_up.is_pending, "nobody asks where the slot is");
	cr_assert_eq(W.n_back, n);
	topology_is("a:1");
	cr_assert_eq(W.n_back, n + 1);
	topology_is("a:1");
	cr_assert_eq(W.n_back, n + 1, "once");
}

static void mark_asks_second(enum cmd_kind kind)
{
	story_from_shard((struct msg){.kind = MSG_OP_RESULT,
		.handle = COORD_LEAVING_HANDLE,
		.op_result.kind = (uint8_t)kind,
		.op_result.result = OP_MOVED,
		.op_result.asking = true,
		.op_result.moved_to = text_new("b:1", 3)});
}

/* Who has left is a key of its own: an ASK for it does not take the reader along. */
Test(coord_shards, that_we_are_back_goes_where_an_ask_says, .init = story_ready, .fini = story_down)
{
	const uint32_t n = W.n_back;
	mark_asks_second(CMD_BACK);
	cr_assert(is_on(1));
	cr_assert_eq(W.n_back, n + 1);
	cr_assert(W.c->services.v[0].reader.shard == 0 && !W.c->services.v[0].reader.asking);
}

/* Its key may not have moved yet: made anew behind the ASK it would be in MIGRATE's way. */
Test(coord_shards, that_we_are_back_is_said_where_the_map_says_first, .init = story_ready, .fini = story_down)
{
	const uint32_t n = W.n_back;
	ask_leads_to_second();
	cr_assert(W.c->services.v[0].reader.asking);
	story_from_shard((struct msg){.kind = MSG_OP_RESULT,
		.handle = COORD_LEAVING_HANDLE,
		.op_result.kind = CMD_BACK,
		.op_result.result = OP_MOVED});
	topology_is("a:1");
	cr_assert(W.c->services.v[0].reader.asking);
	cr_assert_eq(W.n_back, n + 1);
	cr_assert_not(W.back_asks);
	mark_asks_second(CMD_BACK);
	cr_assert(W.n_back == n + 2 && W.back_asks, "Redis says that it is there");
}

Test(coord_shards, one_whose_slots_come_back_while_it_stops_reads_again, .init = story_ready, .fini = story_down)
{
	story_hello(1, 1);
	topology_is("b:1");
	story_from_shard((struct msg){.kind = MSG_EMPTY, .from = 0});
	topology_is("a:1"); /* shard 0 is stopping */
	cr_assert_not(is_on(0));
	story_from_shard((struct msg){.kind = MSG_STOPPED, .from = 0});
	cr_assert(is_on(0));
	cr_assert_eq(W.c->services.v[0].reader.shard, 0);
	cr_assert_not(W.c->topo.nodes[0].is_free);
	story_from_shard((struct msg){.kind = MSG_EMPTY, .from = 1});
	story_from_shard((struct msg){.kind = MSG_STOPPED, .from = 1});
	cr_assert(W.c->topo.nodes[1].is_free);
}

Test(coord_shards, a_redirection_that_leads_nowhere_asks_for_the_topology, .init = story_ready, .fini = story_down)
{
	static const char *const bad[] = {"", "?:7002", "nowhere"};
	story_hello(1, 1);
	uint64_t h = story_assigned(7, "s");
	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
		for (int asking = 0; asking < 2; asking++) {
			W.now += 1000;
			story_event((struct coord_event){.kind = COORD_TOPOLOGY, .text = {"a:1", 3}});
			story_clear();
			struct msg m = {.kind = MSG_LEASE,
				.handle = h,
				.lease.slot = 9,
				.lease.result = LEASE_IS_MOVED,
				.lease.good_until = W.now + 10000,
				.lease.asking = asking != 0,
				.lease.moved_to = text_new(bad[i], strlen(bad[i]))};
			story_from_shard(m);
			expect_story("");
			cr_assert(W.c->look_up.is_pending, "%s", bad[i]);
			m = (struct msg){.kind = MSG_MOVED,
				.moved.slot = 5,
				.moved.asking = asking != 0,
				.moved.to = text_new(bad[i], strlen(bad[i]))};
			story_from_shard(m);
			cr_assert_eq(W.c->topo.n_nodes, 1, "%s", bad[i]);
			story_until(W.now + 100);
			cr_assert(strstr(W.text.data, "s acquire 1\n"), "it is asked again a little later: %s",
				W.text.data);
		}
	}
}

Test(coord_shards, nobody_answers_in_the_place_of_one_that_does_not_run)
{
	struct msg a,
		m = {.kind = MSG_LEASE_ACQUIRE, .handle = 7, .lease_acquire.slot = 9, .lease_acquire.good_until = 5000};
	cr_assert(msg_answer_of_nobody(&m, 3, &a));
	cr_assert(a.kind == MSG_LEASE && a.lease.result == LEASE_IS_MOVED && a.from == 3 && a.handle == 7 &&
		  a.lease.good_until == 5000 && !a.lease.moved_to);
	m = (struct msg){.kind = MSG_OP, .op.kind = CMD_DONE, .handle = 7};
	cr_assert(msg_answer_of_nobody(&m, 3, &a));
	cr_assert(a.kind == MSG_OP_RESULT && a.op_result.result == OP_MOVED && a.op_result.kind == CMD_DONE &&
		  a.handle == 7 && !a.op_result.resent);
	m = (struct msg){.kind = MSG_LOCK_CALL, .lock_call.kind = CMD_PROBE, .from = 1, .lock_call.tag = 12};
	cr_assert(msg_answer_of_nobody(&m, 3, &a));
	cr_assert(a.kind == MSG_LOCK_ANSWER && a.lock_answer.result == OP_FAILED && a.from == 1 &&
		  a.lock_answer.tag == 12);
	m = (struct msg){.kind = MSG_CREDITS};
	cr_assert_not(msg_answer_of_nobody(&m, 3, &a));
}

Test(coord_shards, a_lock_whose_slot_has_no_master_is_answered_by_nobody, .init = story_ready, .fini = story_down)
{
	struct slot_range half = {.from = 0, .to = 8000, .port = 1, .host = "a"};
	story_event((struct coord_event){.kind = COORD_TOPOLOGY, .slots = &half, .n = 1});
	story_clear();
	struct msg m = {.kind = MSG_LOCK_CALL, .from = 0, .lock_call.kind = CMD_PROBE, .lock_call.tag = 12};
	m.lock_call.slot = 8001;
	story_from_shard(m);
	expect_story("[ 1000] s lock_answer 12 failed\n");
}

Test(coord_shards, the_lock_of_a_lease_between_two_shards_is_deleted_where_its_slot_is, .init = story_ready,
	.fini = story_down)
{
	story_hello(1, 1);
	uint64_t h = story_assigned(7, "s");
	story_says(1, FRAME_DONE, 7);
	topology_is("b:1");
	story_from_shard((struct msg){
		.kind = MSG_LEASE, .handle = h, .lease.result = LEASE_IS_MOVED, .lease.good_until = 11000});
	story_clear();
	story_op(h, CMD_DONE, OP_DONE, false);
	expect_story("[ 1000] w1 ok 7-0 for=0 done\n"
		     "[ 1000] s acquire 1\n"
		     "[ 1000] s release 1\n");
}

static void moved_after_its_end(uint64_t h, mono_ms good_until)
{
	story_from_shard((struct msg){.kind = MSG_LEASE,
		.handle = h,
		.svc = 1,
		.lease.result = LEASE_IS_MOVED,
		.lease.good_until = good_until,
		.lease.id = {7, 0},
		.lease.stream = text_new("s", 1)});
}

/* The slot moves while the entry ends: the shard has forgotten the lease that it is told to release. */
Test(coord_shards, the_lock_of_a_lease_that_moved_as_its_entry_ended_is_deleted_where_its_slot_is, .init = story_ready,
	.fini = story_down)
{
	story_hello(1, 1);
	uint64_t h = story_assigned(7, "s");
	story_says(1, FRAME_DONE, 7);
	story_op(h, CMD_DONE, OP_DONE, false);
	story_clear();
	moved_after_its_end(h, 11000);
	expect_story(""); /* nobody else serves it */
	topology_is("b:1");
	story_clear();
	moved_after_its_end(h, W.now);
	expect_story(""); /* it has expired */
	moved_after_its_end(h, 11000);
	expect_story("[ 1000] s acquire 1\n");
	cr_assert(W.last_handle == h && W.last_is_over);
}

Test(coord_shards, more_masters_than_numbers_are_an_error_line_again_and_again, .init = story_ready, .fini = story_down)
{
	struct slot_range *r = mem_array(SHARDS_MAX + 1, sizeof *r);
	for (uint16_t i = 0; i <= SHARDS_MAX; i++)
		r[i] = (struct slot_range){.from = i, .to = i, .port = (uint16_t)(i + 1), .host = "h"};
	for (uint32_t minute = 1; minute <= 3; minute++) {
		for (int i = 0; i < 3; i++)
			story_event((struct coord_event){.kind = COORD_TOPOLOGY, .slots = r, .n = SHARDS_MAX + 1});
		cr_assert_eq(W.n_errors, minute);
		cr_assert(strstr(W.error, "rows of the slot map are left out"), "%s", W.error);
		story_until(W.now + 61000);
	}
	cr_assert_gt(W.c->topo.n_left_out, 0, "it is not ready");
	W.c->look_up.moved_at = W.now;
	story_event((struct coord_event){.kind = COORD_TOPOLOGY, .text = slice_str("other:1")});
	cr_assert_gt(W.c->topo.n_left_out, 0, "nor is a standalone server that finds no number");
	story_event((struct coord_event){.kind = COORD_TOPOLOGY, .slots = r, .n = 2});
	cr_assert_eq(W.c->topo.n_left_out, 0);
	mem_free(r);
}

Test(coord_shards, a_service_whose_slot_has_no_master_says_so_once, .init = story_ready, .fini = story_down)
{
	struct slot_range with = {.from = 0, .to = 16383, .port = 1, .host = "a"};
	struct slot_range without = {.from = 6, .to = 16383, .port = 1, .host = "a"};
	for (int i = 0; i < 3; i++) {
		story_event((struct coord_event){.kind = COORD_TOPOLOGY, .slots = i == 2 ? &with : &without, .n = 1});
		cr_assert_eq(service_has_no_master(&W.c->topo, &W.c->services.v[0]), i < 2);
		cr_assert_eq(W.c->services.v[0].reader.is_uncovered, i < 2);
		cr_assert_eq(W.c->services.v[0].reader.shard, i < 2 ? SHARD_NONE : 0);
	}
}
