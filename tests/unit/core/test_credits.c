#include "core/coord/credits.h"
#include <criterion/criterion.h>

static struct credits P;
static struct credit_holder S[4];

static void begin(void)
{
	credits_init(&P);
	P.n_services = 2;
	for (int i = 0; i < 2; i++)
		P.service[i] = (struct credits_service){
			.is_on = true, .svc = (uint16_t)i, .max_streams = 100, .read_batch = 50, .weight = 1};
	for (uint64_t i = 0; i < 4; i++)
		credit_holder_init(&S[i], i + 1);
}

/* want: -1 = all services */
static void sit(int i, uint32_t credits, int want)
{
	S[i].credits = credits;
	S[i].all_services = want < 0;
	if (want >= 0) {
		S[i].wanted[want] = true;
		S[i].n_wanted = 1;
	}
	credits_join(&P, &S[i]);
}

static uint32_t grant(uint16_t pos)
{
	mono_ms block_ms;
	return credits_grant(&P, pos, 1000, &block_ms);
}

Test(credits, nobody_no_grant, .init = begin)
{
	cr_assert_eq(grant(0), 0);
	cr_assert_null(credits_choose(&P, 0));
	sit(0, 0, -1);
	cr_assert_eq(grant(0), 0, "without credits entries stay unread");
}

Test(credits, never_grants_more_than_free_credits, .init = begin)
{
	P.n_services = 1;
	sit(0, 5, -1);
	sit(1, 3, -1);
	S[1].in_use = 1;
	cr_assert_eq(grant(0), 7);
	P.service[0].reserved = 6; /* read, not assigned yet */
	cr_assert_eq(grant(0), 1);
	P.service[0].reserved = 9; /* credits went away meanwhile */
	cr_assert_eq(grant(0), 0);
}

Test(credits, limits_of_the_service, .init = begin)
{
	P.n_services = 1;
	sit(0, 1000, -1);
	cr_assert_eq(grant(0), 50, "read_batch");
	P.service[0].owned = 98;
	cr_assert_eq(grant(0), 2, "max_streams");
	P.service[0].owned = 120; /* lowered by a reload */
	cr_assert_eq(grant(0), 0);
	P.service[0].owned = 0;
	P.service[0].is_paused = true;
	cr_assert_eq(grant(0), 0);
	P.service[0].is_paused = false;
	P.service[0].is_reading = true;
	cr_assert_eq(grant(0), 0, "one grant at a time");
	P.service[0].is_reading = false;
	P.is_draining = true;
	cr_assert_eq(grant(0), 0);
}

Test(credits, services_that_compete_share_the_credits, .init = begin)
{
	sit(0, 4, -1);
	uint32_t a = grant(0);
	P.service[0].reserved = a;
	P.service[0].is_reading = true;
	uint32_t b = grant(1);
	cr_assert(a > 0 && b > 0, "%u and %u", a, b);
	cr_assert_leq(a + b, 4);
}

Test(credits, one_credit_for_two_services_goes_round, .init = begin)
{
	sit(0, 1, -1);
	mono_ms block_ms;
	cr_assert_eq(credits_grant(&P, 0, 1000, &block_ms), 1);
	cr_assert_eq(block_ms, 0, "the other may have work: this read keeps its credit");
	P.service[1].was_empty = true;
	cr_assert_eq(credits_grant(&P, 0, 1000, &block_ms), 1);
	cr_assert_eq(block_ms, 0, "it was not looked at for long");
	credits_granted(&P, 0, 980);
	cr_assert_eq(credits_grant(&P, 0, 1000, &block_ms), 1);
	cr_assert_eq(block_ms, 50, "the other is empty: they go round");
	P.service[0].reserved = 1;
	P.service[0].is_reading = true;
	cr_assert_eq(grant(1), 0);
}

Test(credits, a_full_service_leaves_one_credit_to_each_that_waits, .init = begin)
{
	sit(0, 10, -1);
	P.service[0].was_full = true;
	cr_assert_eq(grant(0), 9);
}

Test(credits, only_sessions_that_take_the_service, .init = begin)
{
	sit(0, 5, 1);
	cr_assert_eq(credits_free(&P, 0), 0);
	cr_assert_eq(credits_free(&P, 1), 5);
	cr_assert_null(credits_choose(&P, 0));
	cr_assert_eq(credits_choose(&P, 1), &S[0]);
}

Test(credits, round_robin_and_specialists_first, .init = begin)
{
	sit(0, 5, -1);
	sit(1, 5, -1);
	struct credit_holder *first = credits_choose(&P, 0), *second = credits_choose(&P, 0);
	cr_assert_neq(first, second);
	cr_assert_eq(credits_choose(&P, 0), first);
	sit(2, 1, 0);
	cr_assert_eq(credits_choose(&P, 0), &S[2], "who takes only this service gets it");
	S[2].in_use = 1;
	cr_assert_neq(credits_choose(&P, 0), &S[2]);
}

Test(credits, a_session_that_left_gets_nothing, .init = begin)
{
	sit(0, 5, -1);
	credits_join(&P, &S[0]); /* twice is once */
	cr_assert_eq(credits_free(&P, 0), 5);
	credits_leave(&S[0]);
	cr_assert_null(credits_choose(&P, 0));
	credits_leave(&S[0]);
}

Test(credits, two_backlogs_share_by_weight, .init = begin)
{
	sit(0, 40, -1);
	P.service[0].weight = 3;
	P.service[0].was_full = P.service[1].was_full = true;
	cr_assert_eq(grant(0), 30);
	P.service[0].reserved = 30;
	P.service[0].is_reading = true;
	cr_assert_eq(grant(1), 2, "of what is left: 10 credits, a quarter");
	P.service[1].was_full = false;
	P.service[0].is_reading = false;
	P.service[0].reserved = 0;
	cr_assert_eq(grant(0), 39, "who has no backlog wants one credit, to find out");
}

Test(credits, single_credits_go_round_by_weight, .init = begin)
{
	uint32_t n_read[2] = {0};
	P.service[0].weight = 4;
	for (int i = 0; i < 1000; i++) {
		uint16_t next = P.service[0].pass <= P.service[1].pass ? 0 : 1;
		credits_granted(&P, next, 980);
		credits_read(&P, next, 1);
		n_read[next]++;
	}
	cr_assert_eq(n_read[0], 800);
	cr_assert_eq(n_read[1], 200);
}

Test(credits, a_service_that_paused_has_saved_nothing_up, .init = begin)
{
	credits_granted(&P, 0, 980);
	credits_read(&P, 0, 1000);
	credits_granted(&P, 0, 980);
	credits_granted(&P, 1, 980);
	cr_assert_eq(P.service[1].pass, P.service[0].pass);
}

Test(credits, what_is_known_to_be_empty_keeps_no_credit_from_work, .init = begin)
{
	mono_ms block_ms;
	sit(0, 10, -1);
	P.service[0].was_full = true;
	credits_read(&P, 1, 0);
	cr_assert(P.service[1].was_empty);
	cr_assert_eq(credits_grant(&P, 0, 1000, &block_ms), 10);
	cr_assert_lt(block_ms, CREDITS_BLOCK_MS, "it leaves none for the other");
	cr_assert_eq(credits_grant(&P, 1, 1000, &block_ms), 1, "to find out");
	cr_assert_eq(block_ms, CREDITS_BLOCK_MS, "nine are left");
	P.service[1].is_reading = true;
	P.service[1].reserved = 1;
	P.service[0].reserved = 9;
	cr_assert(credits_is_kept_out(&P, 0), "but for the one that waits for entries");
	P.service[0].reserved = 8;
	cr_assert(!credits_is_kept_out(&P, 0), "one is free");
	P.service[0].reserved = 9;
	P.service[0].was_empty = true;
	cr_assert(!credits_is_kept_out(&P, 0), "it is not known to have work");
}

Test(credits, empty_ones_are_looked_at_in_rounds, .init = begin)
{
	sit(0, 1, -1);
	P.service[0].was_full = true;
	credits_read(&P, 1, 0);
	credits_end_round(&P, 1000);
	cr_assert(!credits_is_in_round(&P, 1, 1019), "those with work come first for a while");
	cr_assert(credits_is_in_round(&P, 1, 1020));
	cr_assert(!credits_is_in_round(&P, 0, 1020), "it has work");
	credits_looked(&P, 1, 1020);
	cr_assert(!credits_is_in_round(&P, 1, 1021), "once a round");
	credits_end_round(&P, 1030);
	cr_assert(!credits_is_in_round(&P, 1, 1069), "a round of 10 ms, 40 ms without");
	cr_assert(credits_is_in_round(&P, 1, 1070));
	credits_looked(&P, 1, 1070);
	credits_end_round(&P, 9000);
	cr_assert(credits_is_in_round(&P, 1, 10000), "it waited for a credit on the way: a second is enough");
}

/* Where nothing can be read, nothing is kept. */
Test(credits, a_service_that_is_away_counts_for_nobody, .init = begin)
{
	mono_ms block_ms;
	sit(0, 1, -1);
	P.service[0].is_away = true;
	cr_assert_eq(grant(0), 0);
	cr_assert(!credits_is_kept_out(&P, 0));
	P.service[1].was_empty = true;
	cr_assert_eq(credits_grant(&P, 1, 1000, &block_ms), 1);
	cr_assert_eq(block_ms, CREDITS_BLOCK_MS);
}
