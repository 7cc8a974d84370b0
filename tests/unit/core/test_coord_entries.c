/* Entries mode in the coordinator: whom a death is counted against, the load-balancer entry, the data stream's, nobody. */
#include "coord_story.h"

static void entries_up(void)
{
	story_entries = (struct entries_rules){.is_on = true, .batch = 10, .max_retries = 3};
	story_ready();
	story_accept(1);
	story_up(1, (struct frame){.kind = FRAME_HELLO,
			    .hello.v = 1,
			    .credits = 5,
			    .hello.name = {"w", 1},
			    .hello.takes_entries = true});
	story_clear();
}

static void feed_says(uint64_t handle, struct msg_feed feed)
{
	struct msg m = msg_feed(feed);
	m.handle = handle;
	story_from_shard(m);
}

static uint64_t opened(struct entry_in as, const char *stream, struct msg_feed open)
{
	struct entry_batch *b = story_batch(as.id.ms, stream);
	b->v[0].retry = as.retry;
	b->v[0].is_suspect = as.is_suspect;
	b->v[0].was_alone = as.was_alone;
	story_from_shard(msg_entries((struct msg_entries){.source = SOURCE_NEW, .n_asked = 1, .batch = b}));
	uint64_t handle = W.last_handle;
	story_lease(handle, LEASE_IS_HELD, W.now + 60000, false);
	story_op(handle, CMD_TAKE, OP_DONE, false);
	open.result = FEED_IS_OPEN;
	feed_says(handle, open);
	return handle;
}

/* Somebody with that token has its position. */
static void refused_at(uint32_t retry, struct entry_id id, struct entry_id newer)
{
	struct entry_batch *b = story_batch(id.ms, "a");
	b->v[0].retry = retry;
	story_from_shard(msg_entries((struct msg_entries){.source = SOURCE_NEW, .n_asked = 1, .batch = b}));
	uint64_t handle = W.last_handle;
	story_lease(handle, LEASE_IS_HELD, W.now + 60000, false);
	story_op(handle, CMD_TAKE, OP_DONE, false);
	story_clear();
	feed_says(handle, (struct msg_feed){.result = FEED_IS_REFUSED, .id = newer});
}

static void refused(struct entry_id id, struct entry_id newer)
{
	refused_at(0, id, newer);
}

static uint64_t assigned(uint64_t id, const char *stream)
{
	return opened((struct entry_in){.id = {id, 0}}, stream, (struct msg_feed){0});
}

static void told(uint64_t handle, uint64_t id)
{
	feed_says(handle,
		(struct msg_feed){.result = FEED_HAS_ENTRIES, .epoch = 1, .id = {id, 0}, .json = text_new("[]", 2)});
}

static void acked(uint64_t handle, uint64_t id)
{
	feed_says(handle, (struct msg_feed){.result = FEED_HAS_ACKED, .id = {id, 0}});
}

static void died(void)
{
	story_clear();
	story_event((struct coord_event){.kind = COORD_PEER_DEAD, .session = 1});
}

static void closed(uint64_t handle)
{
	feed_says(handle, (struct msg_feed){.result = FEED_IS_CLOSED});
}

Test(coord_entries, a_death_with_one_stream_is_counted_against_its_entry, .init = entries_up, .fini = story_down)
{
	uint64_t a = assigned(2000, "a");
	told(a, 7);
	acked(a, 7);
	told(a, 9);
	died();
	closed(a);
	expect_story("[ 1000] s feed_close 1 death\n"
		     "[ 1000] s credits 0:0\n"
		     "[ 1000] s requeue 2000-0 retry=0 suspect\n");
}

/* The shard counts the nack's try. */
Test(coord_entries, a_worker_that_says_nack_and_dies_costs_one_try, .init = entries_up, .fini = story_down)
{
	uint64_t a = assigned(2000, "a");
	told(a, 7);
	char text[SESSION_LEASE_CAP];
	story_up(1, (struct frame){.kind = FRAME_NACK, .lease = story_text(2000, text), .entry = {7, 0}});
	died();
	closed(a);
	cr_expect(strstr(W.text.data, "feed_close 1 keep\n"), "%s", W.text.data);
	cr_expect(strstr(W.text.data, "requeue 2000-0 retry=1 suspect\n"), "%s", W.text.data);
}

/* What its worker has not read of what it was told: the latest frames. */
static void died_unread(size_t n)
{
	story_clear();
	story_event((struct coord_event){.kind = COORD_END, .session = 1, .n = n});
	story_event((struct coord_event){.kind = COORD_PEER_DEAD, .session = 1});
}

static void says_ack(uint64_t lease, uint64_t entry)
{
	char text[SESSION_LEASE_CAP];
	story_up(1, (struct frame){.kind = FRAME_ACK, .lease = story_text(lease, text), .entry = {entry, 0}});
}

/* It has done the stream's first entry. */
static uint64_t assigned_and_acked(void)
{
	uint64_t a = assigned(2000, "a");
	told(a, 7);
	says_ack(2000, 7);
	acked(a, 7);
	return a;
}

Test(coord_entries, nobody_dies_of_entries_that_it_has_not_read, .init = entries_up, .fini = story_down)
{
	uint64_t a = assigned_and_acked();
	W.now += 100;
	told(a, 9);
	died_unread(1);
	closed(a);
	cr_expect(strstr(W.text.data, "feed_close 1 keep\n"), "%s", W.text.data);
	cr_expect(strstr(W.text.data, "requeue 2000-0 retry=0\n"), "%s", W.text.data);
}

Test(coord_entries, one_of_two_frames_was_read, .init = entries_up, .fini = story_down)
{
	uint64_t a = assigned_and_acked();
	W.now += 100;
	told(a, 9);
	told(a, 11);
	died_unread(1);
	closed(a);
	cr_expect(strstr(W.text.data, "feed_close 1 death\n"), "%s", W.text.data);
}

/* It may have died of the assign, whatever it has read of the entries behind that. */
Test(coord_entries, unread_entries_do_not_excuse_their_assign, .init = entries_up, .fini = story_down)
{
	uint64_t a = assigned(2000, "a");
	told(a, 7);
	died_unread(1);
	closed(a);
	cr_expect(strstr(W.text.data, "requeue 2000-0 retry=1 suspect\n"), "%s", W.text.data);
	cr_expect(strstr(W.text.data, "feed_close 1 death\n"), "%s", W.text.data);
}

static void ends_behind_ack(mono_ms ack_to_told, mono_ms told_to_end, const char *becomes)
{
	uint64_t a = assigned_and_acked();
	W.now += ack_to_told;
	told(a, 9);
	W.now += told_to_end;
	died_unread(0);
	closed(a);
	cr_expect(strstr(W.text.data, becomes), "%s", W.text.data);
}

Test(coord_entries, a_worker_that_ends_behind_an_ack_has_no_known_culprit, .init = entries_up, .fini = story_down)
{
	ends_behind_ack(50, 999, "feed_close 1 keep\n");
}

Test(coord_entries, one_that_was_told_more_much_later_has, .init = entries_up, .fini = story_down)
{
	ends_behind_ack(51, 0, "feed_close 1 death\n");
}

Test(coord_entries, one_that_took_its_time_with_more_has, .init = entries_up, .fini = story_down)
{
	ends_behind_ack(0, 1000, "feed_close 1 death\n");
}

/* What it acknowledges singly of a batch is not the end of its work. */
Test(coord_entries, one_that_dies_in_the_middle_of_a_batch_has, .init = entries_up, .fini = story_down)
{
	uint64_t a = assigned(2000, "a");
	told(a, 9);
	says_ack(2000, 7);
	acked(a, 7);
	died_unread(0);
	closed(a);
	cr_expect(strstr(W.text.data, "feed_close 1 death\n"), "%s", W.text.data);
}

Test(coord_entries, a_death_with_several_is_counted_against_nobody, .init = entries_up, .fini = story_down)
{
	uint64_t a = assigned(2000, "a"), b = assigned(2001, "b");
	told(a, 7);
	told(b, 7);
	died();
	closed(a);
	closed(b);
	expect_story("[ 1000] s feed_close 1 keep\n"
		     "[ 1000] s feed_close 2 keep\n"
		     "[ 1000] s credits 0:0\n"
		     "[ 1000] s requeue 2000-0 retry=0 suspect\n"
		     "[ 1000] s requeue 2001-0 retry=0 suspect\n");
}

Test(coord_entries, an_idle_stream_that_went_well_is_above_suspicion, .init = entries_up, .fini = story_down)
{
	uint64_t a = assigned(2000, "a"), b = assigned(2001, "b");
	told(a, 7);
	acked(a, 7);
	told(b, 7);
	died();
	closed(a);
	closed(b);
	expect_story("[ 1000] s feed_close 1 keep\n"
		     "[ 1000] s feed_close 2 death\n"
		     "[ 1000] s credits 0:0\n"
		     "[ 1000] s requeue 2000-0 retry=0\n"
		     "[ 1000] s requeue 2001-0 retry=1 suspect\n");
}

Test(coord_entries, a_death_before_any_entry_is_counted_against_the_run, .init = entries_up, .fini = story_down)
{
	uint64_t a = assigned(2000, "a");
	died();
	closed(a);
	expect_story("[ 1000] s feed_close 1 keep\n"
		     "[ 1000] s credits 0:0\n"
		     "[ 1000] s requeue 2000-0 retry=1 suspect\n");
}

/* What comes to its stream later would reach nobody. */
Test(coord_entries, deaths_of_workers_make_no_dead_letter_of_a_stream, .init = entries_up, .fini = story_down)
{
	uint64_t a = opened((struct entry_in){.id = {2000, 0}, .retry = 1}, "a", (struct msg_feed){0});
	died(); /* max_retries is 1 */
	closed(a);
	expect_story("[ 1000] s feed_close 1 keep\n"
		     "[ 1000] s credits 0:0\n"
		     "[ 1000] s requeue 2000-0 retry=1 suspect\n");
}

static void dies_idle_after(mono_ms ms, const char *becomes)
{
	uint64_t a = assigned(2000, "a");
	feed_says(a, (struct msg_feed){.result = FEED_IS_READ});
	W.now += ms;
	died();
	closed(a);
	cr_expect(strstr(W.text.data, becomes), "%s", W.text.data);
}

Test(coord_entries, a_stream_that_is_read_to_its_end_may_kill_by_its_assign, .init = entries_up, .fini = story_down)
{
	dies_idle_after(999, "requeue 2000-0 retry=1 suspect\n");
}

Test(coord_entries, a_stream_that_is_read_to_its_end_is_above_suspicion_soon, .init = entries_up, .fini = story_down)
{
	dies_idle_after(1000, "requeue 2000-0 retry=0\n");
}

Test(coord_entries, an_entry_to_blame_has_tries_of_its_own, .init = entries_up, .fini = story_down)
{
	uint64_t a = opened((struct entry_in){.id = {2000, 0}, .retry = 1}, "a", (struct msg_feed){0});
	told(a, 7);
	died();
	closed(a);
	expect_story("[ 1000] s feed_close 1 death\n"
		     "[ 1000] s credits 0:0\n"
		     "[ 1000] s requeue 2000-0 retry=1 suspect\n");
}

Test(coord_entries, a_worker_that_had_a_stream_taken_from_it_has_no_culprit, .init = entries_up, .fini = story_down)
{
	uint64_t a = assigned(2000, "a");
	told(a, 7);
	story_event((struct coord_event){
		.kind = COORD_CTL, .ctl = &(struct coord_ctl){.kind = CTL_GIVE_BACK, .handle = a}});
	died();
	closed(a);
	expect_story("[ 1000] s feed_close 1 keep\n"
		     "[ 1000] s credits 0:0\n"
		     "[ 1000] s requeue 2000-0 retry=0\n");
}

Test(coord_entries, a_suspect_is_alone_until_it_is_cleared, .init = entries_up, .fini = story_down)
{
	uint64_t a = opened((struct entry_in){.id = {2000, 0}, .is_suspect = true}, "a", (struct msg_feed){0});
	assigned(2001, "b");
	cr_expect(strstr(W.text.data, "s feed_open 1 suspect\n"), "%s", W.text.data);
	cr_expect(strstr(W.text.data, "s feed_start 1 0-0 suspect\n"), "%s", W.text.data);
	cr_expect_null(strstr(W.text.data, "assign 2001-0"), "%s", W.text.data);
	told(a, 7);
	acked(a, 7);
	story_clear();
	feed_says(a, (struct msg_feed){.result = FEED_IS_CLEARED});
	cr_expect(strstr(W.text.data, "s feed_share 1\n"), "%s", W.text.data);
	cr_expect(strstr(W.text.data, "assign 2001-0 b"), "%s", W.text.data);
	story_clear();
	story_says(1, FRAME_RELEASE, 2000);
	closed(a);
	cr_expect(strstr(W.text.data, "requeue 2000-0 retry=0\n"), "%s", W.text.data);
}

Test(coord_entries, the_position_may_say_that_it_is_suspect, .init = entries_up, .fini = story_down)
{
	opened((struct entry_in){.id = {2000, 0}}, "a", (struct msg_feed){.is_suspect = true});
	assigned(2001, "b");
	cr_expect(strstr(W.text.data, "s feed_start 1 0-0 suspect\n"), "%s", W.text.data);
	cr_expect_null(strstr(W.text.data, "assign 2001-0"), "%s", W.text.data);
}

Test(coord_entries, an_owner_that_died_with_it_alone_is_counted_by_the_open, .init = entries_up, .fini = story_down)
{
	opened((struct entry_in){.id = {2000, 0}, .retry = 1, .is_suspect = true, .was_alone = true}, "a",
		(struct msg_feed){.tries = 1});
	cr_expect(strstr(W.text.data, "s feed_open 1 suspect counts\n"), "%s", W.text.data);
}

Test(coord_entries, deaths_of_owners_leave_an_entry_its_tries, .init = entries_up, .fini = story_down)
{
	opened((struct entry_in){.id = {2000, 0}, .retry = 6}, "a",
		(struct msg_feed){.tries = 4, .before.is_unknown = true, .before.n_ends = 6}); /* 1 + 3 + 2 */
	cr_expect(strstr(W.text.data, "assign 2000-0 a"), "%s", W.text.data);
	story_clear();
	uint64_t b = opened((struct entry_in){.id = {2001, 0}}, "b",
		(struct msg_feed){.before.is_unknown = true, .before.n_ends = 7});
	cr_expect(strstr(W.text.data, "close 2 done"), "%s", W.text.data);
	closed(b);
	cr_expect(strstr(W.text.data, "dead 2001-0"), "%s", W.text.data);
	story_clear();
	opened((struct entry_in){.id = {2002, 0}, .retry = 7}, "c",
		(struct msg_feed){.before.had_progress = true, .before.is_unknown = true});
	cr_expect(strstr(W.text.data, "assign 2002-0 c"), "%s", W.text.data);
}

/* Each recovery adds to what the load-balancer stream counts, and nobody takes it back there. */
Test(coord_entries, deaths_of_owners_between_which_all_was_done_count_nothing, .init = entries_up, .fini = story_down)
{
	uint64_t a = opened((struct entry_in){.id = {2000, 0}, .retry = 40}, "a",
		(struct msg_feed){.is_at_end = true, .before.is_unknown = true});
	cr_expect(strstr(W.text.data, "assign 2000-0 a"), "%s", W.text.data);
	story_says(1, FRAME_FAIL, 2000);
	closed(a);
	cr_expect(strstr(W.text.data, "2000-0 retry=1"), "%s", W.text.data);
	opened((struct entry_in){.id = {2001, 0}, .retry = 40}, "b", (struct msg_feed){0}); /* nobody has died */
	cr_expect(strstr(W.text.data, "assign 2001-0 b"), "%s", W.text.data);
}

Test(coord_entries, quiet_streams_wait_while_a_suspect_is_tried, .init = entries_up, .fini = story_down)
{
	uint64_t a = assigned(2000, "a");
	told(a, 7);
	acked(a, 7);
	story_clear();
	uint64_t b = opened((struct entry_in){.id = {2001, 0}, .is_suspect = true}, "b", (struct msg_feed){0});
	cr_expect(strstr(W.text.data, "s feed_hold 1\n"), "%s", W.text.data);
	cr_expect(strstr(W.text.data, "assign 2001-0 b"), "%s", W.text.data);
	story_clear();
	told(a, 8); /* it was on its way: comes again */
	expect_story("");
	feed_says(b, (struct msg_feed){.result = FEED_IS_CLEARED});
	expect_story("[ 1000] s feed_share 2\n"
		     "[ 1000] s feed_start 1 7-0\n");
}

Test(coord_entries, a_suspect_waits_until_all_is_quiet, .init = entries_up, .fini = story_down)
{
	uint64_t a = assigned(2000, "a");
	told(a, 7);
	opened((struct entry_in){.id = {2001, 0}, .is_suspect = true}, "b", (struct msg_feed){0});
	cr_expect_null(strstr(W.text.data, "assign 2001-0"), "%s", W.text.data);
	story_clear();
	acked(a, 7);
	cr_expect(strstr(W.text.data, "assign 2001-0 b"), "%s", W.text.data);
}

Test(coord_entries, a_suspect_beside_endless_streams_waits_half_a_minute, .init = entries_up, .fini = story_down)
{
	uint64_t a = assigned(2000, "a");
	told(a, 7);
	opened((struct entry_in){.id = {2001, 0}, .is_suspect = true}, "b", (struct msg_feed){0});
	story_clear();
	while (W.now < 30000) {
		story_until(W.now + 1000);
		story_says(1, FRAME_PONG, 0);
	}
	cr_expect_null(strstr(W.text.data, "assign 2001-0"), "%s", W.text.data);
	story_until(34000);
	cr_expect(strstr(W.text.data, "assign 2001-0 b"), "%s", W.text.data);
	cr_expect_null(strstr(W.text.data, "s feed_start 2 0-0 suspect"), "%s", W.text.data);
}

Test(coord_entries, a_hanging_worker_costs_the_entry_it_has_a_try, .init = entries_up, .fini = story_down)
{
	W.rules.progress_timeout_ms = 5000;
	coord_free(W.c);
	W.c = coord_new(&W.rules);
	story_services(1, 100);
	story_event((struct coord_event){.kind = COORD_TOPOLOGY, .text = {"a:1", 3}});
	story_own(0, 0, "");
	story_accept(1);
	story_up(1, (struct frame){.kind = FRAME_HELLO,
			    .hello.v = 1,
			    .credits = 5,
			    .hello.name = {"w", 1},
			    .hello.takes_entries = true});
	uint64_t a = assigned(2000, "a");
	told(a, 7);
	acked(a, 7);
	told(a, 9);
	story_until(6000);
	cr_expect(strstr(W.text.data, "revoke 2000-0 timeout"), "%s", W.text.data);
	story_clear();
	story_says(1, FRAME_REVOKED, 2000);
	closed(a);
	cr_expect(strstr(W.text.data, "s feed_close 1 death\n"), "%s", W.text.data);
	cr_expect(strstr(W.text.data, "requeue 2000-0 retry=0\n"), "%s", W.text.data);
}

/* A failover to a master whose clock is behind: a later id is a later token, and nobody has failed. */
Test(coord_entries, who_finds_a_newer_token_waits_until_ids_are_later_and_is_not_counted, .fini = story_down)
{
	const uint64_t now = 1700000001000;
	story_retry = (struct retry_rules){.initial_ms = 2000, .factor = 8, .max_ms = 60000};
	entries_up();
	refused((struct entry_id){2000, 0}, (struct entry_id){now + 500, 0}); /* soon over: the pause of a failure */
	expect_story("[ 1000] s later 2000-0 retry=0 delay=2000\n");
	refused((struct entry_id){2001, 0}, (struct entry_id){now + 7000, 7});
	expect_story("[ 1000] s later 2001-0 retry=0 delay=7001\n");
	refused((struct entry_id){now + 9000, 0}, (struct entry_id){now + 12000, 0}); /* our clock is behind */
	expect_story("[ 1000] s later 1700000010000-0 retry=0 delay=3001\n");
	refused((struct entry_id){2002, 0}, (struct entry_id){9999999999999, 0}); /* never: looked at now and then */
	expect_story("[ 1000] s later 2002-0 retry=0 delay=60000\n");
	refused((struct entry_id){2003, 0}, (struct entry_id){0}); /* no token of ours */
	expect_story("[ 1000] s later 2003-0 retry=0 delay=2000\n");
	refused_at(2, (struct entry_id){2004, 0}, (struct entry_id){0}); /* what failed before is not to blame for it */
	expect_story("[ 1000] s later 2004-0 retry=2 delay=2000\n");
}

Test(coord_entries, who_finds_a_newer_token_waits_even_where_failures_do_not, .init = entries_up, .fini = story_down)
{
	refused((struct entry_id){2000, 0}, (struct entry_id){0});
	expect_story("[ 1000] s later 2000-0 retry=0 delay=1000\n");
}
