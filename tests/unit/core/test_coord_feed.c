/* What the coordinator makes of a feed: a nack, and a slot that moves at the same time. */
#include "coord_story.h"

static uint64_t H;

static void feed_says(enum feed_result r, uint64_t seq)
{
	story_from_shard(
		(struct msg){.kind = MSG_FEED, .handle = H, .feed.result = (uint8_t)r, .feed.id = {seq ? 8 : 0, seq}});
}

/* Entries 8-1 … 8-last are told, as one frame. */
static void feed_tells(uint64_t last, uint32_t epoch)
{
	struct msg_feed feed = {.result = FEED_HAS_ENTRIES, .id = {8, last}, .epoch = epoch, .json = text_new("…", 3)};
	story_from_shard((struct msg){.kind = MSG_FEED, .handle = H, .feed = feed});
}

static void says_of_entry(enum frame_kind kind, uint64_t seq)
{
	char text[SESSION_LEASE_CAP];
	story_up(1, (struct frame){.kind = kind, .lease = story_text(7, text), .entry = {8, seq}});
}

/* Its stream's slot goes to another master, and is there again. */
static void feed_moves(void)
{
	feed_says(FEED_IS_MOVED, 0);
	story_event((struct coord_event){.kind = COORD_TOPOLOGY, .text = {"a:1", 3}});
	story_until(1500);
}

/* Stream x is with worker 1, 8-1 to 8-5 are told. */
static void feed_up(void)
{
	story_entries.is_on = true;
	story_ready();
	story_accept(1);
	story_up(1, (struct frame){.kind = FRAME_HELLO,
			    .hello.v = 1,
			    .credits = 1,
			    .hello.name = {"w", 1},
			    .hello.takes_entries = true});
	H = story_assigned(7, "x");
	feed_says(FEED_IS_OPEN, 0);
	feed_tells(5, 1);
	story_clear();
}

Test(coord_feed, what_was_told_before_a_move_is_not_told_again, .init = feed_up, .fini = story_down)
{
	feed_moves();
	feed_says(FEED_IS_OPEN, 0);
	expect_story("[ 1500] s feed_start 1 8-5\n");
}

/* A look at the load-balancer stream: streams wait, and adds for running ones were merged. */
static void look_says(uint32_t n, uint32_t n_merged)
{
	story_from_shard((struct msg){.kind = MSG_WAITING, .waiting.n = n, .waiting.n_merged = n_merged});
}

Test(coord_feed, while_streams_wait_and_no_credit_is_free_shards_hear_of_it, .init = feed_up, .fini = story_down)
{
	look_says(0, 4);
	expect_story("");
	cr_expect_eq(services_find(&W.c->services, 0)->m.c[M_MERGED], 4);
	look_says(3, 0);
	expect_story("[ 1000] s waiting 0:3\n");
	feed_says(FEED_IS_IDLE, 0); /* as after idle_release */
	expect_story("[ 1000] s feed_close 1 done\n");
}

/* One credit became free after all, and the next stream has it. */
static void another_begins(uint64_t entry, const char *stream)
{
	story_up(1, (struct frame){.kind = FRAME_CREDITS, .credits = (int64_t)entry - 6});
	story_clear();
	story_read(0, entry, stream);
}

Test(coord_feed, who_begins_where_streams_had_to_wait_makes_room_for_the_next, .init = feed_up, .fini = story_down)
{
	another_begins(8, "y");
	cr_expect_not(strstr(W.text.data, "waiting"), "%s", W.text.data); /* nobody had to */
	look_says(3, 0);
	another_begins(9, "z");
	cr_expect(strstr(W.text.data, "s waiting 0:1 ahead\n"), "%s", W.text.data);
	W.now += 60000;
	another_begins(10, "z2");
	cr_expect_not(strstr(W.text.data, "waiting"), "%s", W.text.data); /* that was long ago */
}

Test(coord_feed, while_a_credit_is_free_there_is_room, .init = feed_up, .fini = story_down)
{
	look_says(3, 0);
	story_up(1, (struct frame){.kind = FRAME_CREDITS, .credits = 3});
	story_clear();
	story_read(0, 8, "y");
	cr_expect_not(strstr(W.text.data, "waiting"), "%s", W.text.data);
}

static void credits_are(int64_t n)
{
	story_up(1, (struct frame){.kind = FRAME_CREDITS, .credits = n});
}

Test(coord_feed, readers_hear_of_the_first_worker_and_of_the_last_at_once, .init = feed_up, .fini = story_down)
{
	W.is_fleet_shown = true;
	credits_are(0);
	credits_are(1);
	expect_story("[ 1000] s fleet 0:0 by 1\n[ 1000] s fleet 0:1 by 1 more\n");
	credits_are(2); /* numbers are told by the tick */
	expect_story("[ 1000] s credits 0:1\n");
}

static void two_services(bool first_is_entries, bool takes_entries)
{
	story_entries.is_on = true;
	story_begin();
	story_services(2, 100);
	services_find(&W.c->services, 0)->rules->entries.is_on = first_is_entries;
	W.c->place.service[0].is_entries = first_is_entries;
	credits_lend(&W.c->place, 0, first_is_entries);
	story_event((struct coord_event){.kind = COORD_TOPOLOGY, .text = {"a:1", 3}});
	story_own(0, 0, "");
	story_own(1, 0, "");
	story_accept(1);
	story_clear();
	W.is_fleet_shown = true;
	story_up(1, (struct frame){.kind = FRAME_HELLO,
			    .hello.v = 1,
			    .credits = 1,
			    .hello.name = {"w", 1},
			    .hello.takes_entries = takes_entries});
}

Test(coord_feed, a_service_without_entries_mode_may_get_credits_of_one_with_the_same_workers, .fini = story_down)
{
	two_services(false, true);
	expect_story("[ 1000] w1 welcome until=10500\n"
		     "[ 1000] s fleet 0:1 by 1 more\n"
		     "[ 1000] s fleet 1:1 by 1 more\n"
		     "[ 1000] s credits 0:1\n");
	story_read(0, 1, "x"); /* it has the credit: the other one's idle streams are asked, its own are none */
	story_clear();
	look_says(3, 0);
	expect_story("[ 1000] s waiting 1:3\n");
}

Test(coord_feed, where_workers_take_no_entries_there_is_nothing_to_get, .fini = story_down)
{
	two_services(false, false);
	expect_story("[ 1000] w1 welcome until=10500\n"
		     "[ 1000] s fleet 0:1 by 1\n"
		     "[ 1000] s fleet 1:1 by 1 more\n"
		     "[ 1000] s credits 0:1\n");
}

Test(coord_feed, a_stream_that_waits_for_its_next_try_makes_room_and_comes_again_then, .init = feed_up,
	.fini = story_down)
{
	says_of_entry(FRAME_NACK, 1);
	look_says(1, 0);
	story_clear();
	struct msg_feed feed = {.result = FEED_IS_PUT_OFF, .bad = {8, 1}, .tries = 2, .wait_ms = 7900};
	story_from_shard((struct msg){.kind = MSG_FEED, .handle = H, .feed = feed});
	expect_story("[ 1000] s feed_close 1 keep\n"); /* the position keeps its tries */
	feed_says(FEED_IS_CLOSED, 0);
	expect_story("[ 1000] s later 7-0 retry=0 delay=7900 tries=2\n");
	story_op(H, CMD_LATER, OP_DONE, false);
	expect_story("[ 1000] w1 ended 7-0 outcome=1\n[ 1000] s release 1\n[ 1000] s credits 0:1\n");
}

/* Idle, and Redis confirms nothing: the lease ends, somebody else may have the stream then. */
Test(coord_feed, a_worker_hears_that_an_idle_stream_has_ended_before_anybody_else_may_have_it, .init = feed_up,
	.fini = story_down)
{
	says_of_entry(FRAME_ACK, 5);
	feed_says(FEED_HAS_ACKED, 5);
	feed_says(FEED_IS_IDLE, 5);
	feed_says(FEED_IS_CLOSED, 0);
	story_clear();
	story_until(8999);
	story_clear();
	story_until(9000);
	expect_story("[ 9000] s forget 1\n"
		     "[ 9000] w1 ended 7-0 outcome=3\n"
		     "[ 9000] w1 ping until=18500\n"
		     "[ 9000] s credits 0:1\n");
	says_of_entry(FRAME_DONE, 0); /* it crossed that */
	story_op(H, CMD_DONE, OP_DONE, false);
	expect_story("[ 9000] w1 err not_owner 7-0\n");
}

Test(coord_feed, a_worker_that_lets_go_of_an_idle_stream_while_it_ends_is_answered, .init = feed_up, .fini = story_down)
{
	says_of_entry(FRAME_ACK, 5);
	feed_says(FEED_HAS_ACKED, 5);
	feed_says(FEED_IS_IDLE, 5);
	story_clear();
	says_of_entry(FRAME_RELEASE, 0);
	expect_story("");
	feed_says(FEED_IS_CLOSED, 0);
	story_clear();
	story_op(H, CMD_DONE, OP_DONE, false);
	expect_story("[ 1000] w1 ok 7-0 for=2 done\n[ 1000] s release 1\n[ 1000] s credits 0:1\n");
}

Test(coord_feed, what_waits_for_a_drain_or_is_read_at_once_takes_nobodys_credit, .init = feed_up, .fini = story_down)
{
	story_up(1, (struct frame){.kind = FRAME_CREDITS, .credits = 2});
	story_clear();
	look_says(3, 0);
	expect_story("");
	story_up(1, (struct frame){.kind = FRAME_CREDITS, .credits = 1});
	services_find(&W.c->services, 0)->is_dirty = false;
	W.c->place.is_draining = true;
	story_clear();
	look_says(3, 0);
	expect_story("");
}

/* The feed's next shard has found the position behind 8-last, after so many tries of the entry behind it. */
static void feed_opens(uint64_t last, uint32_t tries, mono_ms wait_ms)
{
	struct msg_feed feed = {.result = FEED_IS_OPEN, .id = {8, last}, .tries = tries, .wait_ms = wait_ms};
	if (wait_ms)
		feed.bad = (struct entry_id){8, last + 1};
	story_from_shard((struct msg){.kind = MSG_FEED, .handle = H, .feed = feed});
}

static void nacked_waits(mono_ms wait_ms)
{
	struct msg_feed feed = {.result = FEED_HAS_NACKED, .id = {8, 3}, .tries = 1, .wait_ms = wait_ms};
	story_from_shard((struct msg){.kind = MSG_FEED, .handle = H, .feed = feed});
}

Test(coord_feed, a_nack_that_a_move_overtook_is_done_by_the_next_shard, .init = feed_up, .fini = story_down)
{
	says_of_entry(FRAME_NACK, 3);
	expect_story("[ 1000] s feed_nack 1 8-3\n");
	feed_moves();
	feed_says(FEED_IS_OPEN, 0);
	nacked_waits(1000);
	expect_story("[ 1500] s feed_nack 1 8-3 again\n" /* what was told behind it is void */
		     "[ 1500] s feed_start 1 0-0\n"
		     "[ 1500] w1 ok 7-0 for=4 waits 8-3\n");
}

Test(coord_feed, a_nack_while_it_moves_is_done_by_the_next_shard, .init = feed_up, .fini = story_down)
{
	feed_opens(2, 0, 0);
	story_clear();
	feed_moves();
	says_of_entry(FRAME_NACK, 3);
	says_of_entry(FRAME_ACK, 5); /* of what is void */
	feed_opens(2, 2, 0);         /* no shard has heard of this one: the tries are older */
	expect_story("[ 1500] s feed_nack 1 8-3 again\n[ 1500] s feed_start 1 0-0\n");
}

Test(coord_feed, a_nack_that_was_counted_before_the_move_is_not_counted_again, .init = feed_up, .fini = story_down)
{
	says_of_entry(FRAME_NACK, 3);
	story_clear();
	feed_moves();
	feed_opens(2, 1, 700);
	expect_story("[ 1500] s feed_nack 1 8-3 again counted\n[ 1500] s feed_start 1 0-0\n");
}

Test(coord_feed, a_nack_whose_entry_is_a_dead_letter_by_now_is_answered_so, .init = feed_up, .fini = story_down)
{
	says_of_entry(FRAME_NACK, 3);
	story_clear();
	feed_moves();
	feed_opens(3, 0, 0);
	expect_story("[ 1500] w1 ok 7-0 for=4 dead 8-3\n[ 1500] s feed_start 1 0-0\n");
}

Test(coord_feed, an_ack_that_was_refused_is_not_made_after_a_move, .init = feed_up, .fini = story_down)
{
	says_of_entry(FRAME_ACK, 9);
	feed_says(FEED_BAD_ACK, 9);
	story_clear();
	feed_moves();
	feed_says(FEED_IS_OPEN, 0);
	expect_story("[ 1500] s feed_start 1 8-5\n");
}

Test(coord_feed, a_nack_of_what_nobody_was_given_voids_nothing, .init = feed_up, .fini = story_down)
{
	says_of_entry(FRAME_NACK, 9);
	struct msg_feed refused = {.result = FEED_BAD_ACK, .id = {8, 9}, .is_nack = true};
	story_from_shard((struct msg){.kind = MSG_FEED, .handle = H, .feed = refused});
	story_clear();
	feed_moves();
	feed_says(FEED_IS_OPEN, 0);
	expect_story("[ 1500] s feed_start 1 8-5\n");
}

/* The worker is told, and the first one goes on as if nothing had come behind it, whatever moves. */
Test(coord_feed, a_nack_behind_an_unanswered_one_is_refused_at_once, .init = feed_up, .fini = story_down)
{
	says_of_entry(FRAME_NACK, 3);
	story_clear();
	says_of_entry(FRAME_NACK, 4);
	expect_story("[ 1000] w1 err bad_field 7-0\n");
	feed_moves();
	feed_opens(2, 0, 0);
	nacked_waits(1000);
	cr_expect(strstr(W.text.data, "s feed_nack 1 8-3 again\n"), "%s", W.text.data);
	cr_expect(strstr(W.text.data, "w1 ok 7-0 for=4 waits 8-3\n"), "%s", W.text.data);
}

Test(coord_feed, the_reason_of_a_nack_that_is_refused_is_nobodys, .init = feed_up, .fini = story_down)
{
	char text[SESSION_LEASE_CAP];
	struct frame f = {.kind = FRAME_NACK, .lease = story_text(7, text), .entry = {8, 3}, .reason = {"first", 5}};
	story_up(1, f);
	nacked_waits(1000);
	f.reason = (struct slice){"second", 6};
	f.entry.seq = 9;
	story_up(1, f);
	struct msg_feed refused = {.result = FEED_BAD_ACK, .id = {8, 9}, .is_nack = true};
	story_from_shard((struct msg){.kind = MSG_FEED, .handle = H, .feed = refused});
	const struct entry *e = ledger_by_handle(&W.c->ledger, H);
	cr_assert(e && e->note);
	cr_expect_str_eq(e->note->bytes, "first");
	cr_expect_eq(e->feed->trouble->bad.seq, 3, "the one that waits");
}

/* ASK without a host means the host that said it. */
Test(coord_feed, follows_an_ask_without_a_host, .init = feed_up, .fini = story_down)
{
	story_from_shard((struct msg){.kind = MSG_FEED,
		.handle = H,
		.feed = {.result = FEED_IS_MOVED, .asking = true, .moved_to = text_new(":2", 2)}});
	cr_assert_eq(W.c->topo.n_nodes, 2);
	cr_assert_str_eq(W.c->topo.nodes[1].addr, "a:2");
}
