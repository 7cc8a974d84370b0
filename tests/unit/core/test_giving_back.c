/* A worker that ends with many streams: they go back some in each turn, so that others have theirs in between. */
#include "coord_story.h"

enum { MANY = 600, A_TURN = 256, EVERY_MS = 2, FIRST_ID = 2000 };

static uint64_t handles[MANY];

static void takes_all(uint64_t session, uint64_t first_id)
{
	story_hello(session, MANY);
	for (uint64_t i = 0; i < MANY; i++) {
		char stream[24];
		snprintf(stream, sizeof stream, "s%llu", (unsigned long long)(first_id + i));
		handles[i] = story_assigned(first_id + i, stream);
	}
	story_clear();
}

/* The worker of session 1 has them all. */
static void giving_back_up(void)
{
	story_begin();
	story_services_of(1, 2 * MANY + 100, 10000);
	story_event((struct coord_event){.kind = COORD_TOPOLOGY, .text = {"a:1", 3}});
	story_own(0, 0, "");
	takes_all(1, FIRST_ID);
}

static int n_times(const char *what)
{
	int n = 0;
	for (const char *p = W.text.data; p && (p = strstr(p, what)); p += strlen(what))
		n++;
	return n;
}

static int n_gone_back(void)
{
	return n_times(" s requeue ");
}

static void one_turn_more(void)
{
	story_until(W.now + EVERY_MS);
}

static void all_go_back(void)
{
	for (int n = 0; n < MANY; n += A_TURN) {
		cr_expect_eq(n_gone_back(), n, "%d went back", n_gone_back());
		one_turn_more();
	}
	cr_expect_eq(n_gone_back(), MANY);
	story_until(W.now + 100);
	cr_expect_eq(n_gone_back(), MANY, "each once");
}

static void dies(uint64_t session)
{
	story_event((struct coord_event){.kind = COORD_PEER_DEAD, .session = session});
}

static void connection_ends(uint64_t session)
{
	story_event((struct coord_event){.kind = COORD_END, .session = session});
}

Test(giving_back, of_a_worker_that_died, .init = giving_back_up, .fini = story_down)
{
	connection_ends(1);
	dies(1);
	all_go_back();
	cr_expect_eq(n_times(" retry=0 suspect\n"), MANY, "of several nobody knows the culprit");
	cr_expect_eq(W.c->workers.by_session.n, 0, "it has gone with its last");
}

Test(giving_back, of_one_whose_death_was_seen_first, .init = giving_back_up, .fini = story_down)
{
	dies(1);
	connection_ends(1);
	all_go_back();
	cr_expect_eq(n_times(" retry=0 suspect\n"), MANY);
}

Test(giving_back, of_one_that_said_bye, .init = giving_back_up, .fini = story_down)
{
	story_up(1, (struct frame){.kind = FRAME_BYE});
	cr_expect_eq(n_times("w1 closed"), 1, "at once");
	dies(1);
	all_go_back();
	cr_expect_eq(n_times(" suspect"), 0, "it did not die of them");
	cr_expect_eq(W.c->workers.by_session.n, 0);
}

/* It is not known whether it lives: what it was told last must have run out. */
Test(giving_back, of_one_that_does_not_come_back, .init = giving_back_up, .fini = story_down)
{
	const mono_ms over = mono_max(W.now + 5000, W.now + 10000);
	connection_ends(1);
	story_until(over - 1);
	cr_expect_eq(n_gone_back(), 0);
	story_until(over);
	all_go_back();
}

Test(giving_back, few_go_back_at_once, .init = giving_back_up, .fini = story_down)
{
	for (uint64_t i = A_TURN; i < MANY; i++) {
		story_says(1, FRAME_DONE, FIRST_ID + i);
		story_op(handles[i], CMD_DONE, OP_DONE, false);
	}
	story_clear();
	dies(1);
	cr_expect_eq(n_gone_back(), A_TURN);
}

Test(giving_back, nobody_can_resume_what_goes_back, .init = giving_back_up, .fini = story_down)
{
	connection_ends(1);
	dies(1);
	one_turn_more();
	story_clear();
	story_back(2, FIRST_ID + MANY - 1);
	cr_expect(strstr(W.text.data, "gone="), "%s", W.text.data);
	cr_expect_null(strstr(W.text.data, "resumed="), "%s", W.text.data);
	story_until(W.now + 100);
	cr_expect_eq(n_gone_back(), MANY - A_TURN, "%d", n_gone_back());
}

Test(giving_back, others_have_their_turns_meanwhile, .init = giving_back_up, .fini = story_down)
{
	story_hello(2, 1);
	story_clear();
	connection_ends(1);
	dies(1);
	story_assigned(9000, "other");
	cr_expect(strstr(W.text.data, "w2 assign"), "%s", W.text.data);
	cr_expect_eq(n_gone_back(), 0);
}

/* Nobody works on it, so it waits for its turn like the others. */
Test(giving_back, one_whose_lease_is_lost_meanwhile_goes_back_once, .init = giving_back_up, .fini = story_down)
{
	connection_ends(1);
	dies(1);
	struct msg lost = {.kind = MSG_LEASE, .handle = handles[MANY - 1]};
	lost.lease.result = LEASE_IS_LOST;
	lost.lease.lost = LOST_TAKEN;
	story_from_shard(lost);
	all_go_back();
	cr_expect_eq(n_times(" suspect"), MANY - 1, "that one was taken back");
}

Test(giving_back, two_workers_one_after_the_other, .init = giving_back_up, .fini = story_down)
{
	takes_all(2, FIRST_ID + MANY);
	dies(2);
	dies(1);
	static const int after_each_turn[] = {0, A_TURN, 2 * A_TURN, MANY, MANY + A_TURN, MANY + 2 * A_TURN, 2 * MANY};
	for (size_t i = 0; i < sizeof after_each_turn / sizeof after_each_turn[0]; i++) {
		cr_expect_eq(n_gone_back(), after_each_turn[i], "%d, not %d", n_gone_back(), after_each_turn[i]);
		one_turn_more();
	}
}

Test(giving_back, the_end_of_the_process_waits_for_them, .init = giving_back_up, .fini = story_down)
{
	enum { LISTENS_MS = 50 };
	const mono_ms stop = W.now;
	story_event((struct coord_event){.kind = COORD_STOP});
	story_until(stop + LISTENS_MS - 1);
	connection_ends(1);
	dies(1);
	story_until(stop + LISTENS_MS);
	cr_expect_eq(n_gone_back(), 0);
	story_until(stop + LISTENS_MS + 10);
	cr_expect_eq(n_gone_back(), MANY, "%d", n_gone_back());
	cr_expect_null(strstr(W.text.data, "ends with"), "Redis has not confirmed any");
}
