#include "base/rng.h"
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
	if (want >= 0)
		credit_holder_want(&P, &S[i], (uint16_t)want, true);
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
	credit_holder_use(&P, &S[1], 1);
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
	credit_holder_use(&P, &S[2], 1);
	cr_assert_neq(credits_choose(&P, 0), &S[2]);
}

Test(credits, a_session_that_left_gets_nothing, .init = begin)
{
	sit(0, 5, -1);
	credits_join(&P, &S[0]); /* twice is once */
	cr_assert_eq(credits_free(&P, 0), 5);
	credits_leave(&P, &S[0]);
	cr_assert_null(credits_choose(&P, 0));
	credits_leave(&P, &S[0]);
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

/* ---- sums ---- */

static bool wants(const struct credit_holder *h, uint16_t pos)
{
	return h->all_services || h->wanted[pos];
}

static bool is_able(const struct credit_holder *h, uint16_t pos)
{
	return wants(h, pos) && (h->takes_entries || !P.service[pos].is_entries);
}

/* What the sums say, counted holder by holder. */
static void expect_sums(uint16_t pos)
{
	uint32_t free = 0, in_use = 0, offered = 0, n = 0, n_holders;
	bool has_taker = false, is_shared = false, shared[SERVICES_MAX];
	for (int i = 0; i < 4; i++) {
		const struct credit_holder *h = &S[i];
		if (list_empty(&h->ring))
			continue;
		free += is_able(h, pos) ? credit_holder_free(h) : 0;
		in_use += is_able(h, pos) ? h->in_use : 0;
		has_taker |= is_able(h, pos) && h->credits;
		is_shared |= is_able(h, pos) && is_able(h, 1 - pos) && h->credits;
		offered += wants(h, pos) ? h->credits : 0;
		n += wants(h, pos);
	}
	cr_assert_eq(credits_free(&P, pos), free);
	cr_assert_eq(credits_in_use(&P, pos), in_use);
	cr_assert_eq(credits_has_taker(&P, pos), has_taker);
	credits_share(&P, pos, shared);
	cr_assert_eq(shared[1 - pos], is_shared);
	cr_assert_eq(credits_may_get_more(&P, pos),
		P.service[pos].is_entries || (is_shared && P.service[1 - pos].is_entries));
	cr_assert_eq(credits_offered(&P, pos, &n_holders), offered);
	cr_assert_eq(n_holders, n);
}

static void change_one(struct rng *rng)
{
	struct credit_holder *h = &S[rng_below(rng, 4)];
	uint16_t pos = (uint16_t)rng_below(rng, 2);
	switch (rng_below(rng, 9)) {
	case 0:
		credits_leave(&P, h);
		h->all_services = rng_below(rng, 2);
		h->takes_entries = rng_below(rng, 2);
		break;
	case 1:
	case 2:
		credits_join(&P, h);
		break;
	case 3:
		credit_holder_want(&P, h, pos, rng_below(rng, 2));
		break;
	case 4:
		credit_holder_offer(&P, h, (uint32_t)rng_below(rng, 4));
		break;
	case 5:
		credit_holder_use(&P, h, h->in_use && rng_below(rng, 2) ? -1 : 1);
		break;
	case 6:
		credit_holder_set_alone(&P, h, h->in_use && rng_below(rng, 2));
		break;
	case 7:
		if (rng_below(rng, 2))
			credits_keep_empty(&P, h, pos);
		else
			credits_run_one_empty(&P, pos);
		break;
	default:
		credits_stop_emptying(&P, pos);
		P.service[pos].is_entries = rng_below(rng, 2);
		credits_lend(&P, pos, P.service[pos].is_entries);
	}
	if (!h->in_use && h->is_alone)
		credit_holder_set_alone(&P, h, false);
}

Test(credits, sums_are_those_of_the_holders, .init = begin)
{
	struct rng rng;
	rng_seed(&rng, 20261130);
	for (int i = 0; i < 100000; i++) {
		change_one(&rng);
		credits_check(&P);
		for (uint16_t pos = 0; pos < 2; pos++)
			expect_sums(pos);
		uint16_t pos = (uint16_t)rng_below(&rng, 2);
		bool has_free = credits_free(&P, pos) > 0;
		const struct credit_holder *h =
			rng_below(&rng, 4) ? credits_choose(&P, pos) : credits_choose_empty(&P, pos, NULL, NULL);
		cr_assert(!h || (is_able(h, pos) && credit_holder_free(h)));
		cr_assert(!h || has_free || h->in_use == 0);
	}
}

Test(credits, who_left_while_it_ran_empty_works_on_when_it_is_back, .init = begin)
{
	sit(0, 5, 0);
	credits_keep_empty(&P, &S[0], 0);
	credits_leave(&P, &S[0]);
	credits_stop_emptying(&P, 0);
	credits_join(&P, &S[0]);
	credits_stop_emptying(&P, 0);
	cr_assert_eq(credits_free(&P, 0), 5);
}

Test(credits, one_service_is_for_all_in_turn, .init = begin)
{
	P.n_services = 1;
	sit(0, 5, -1);
	sit(1, 5, 0);
	cr_assert_eq(credits_choose(&P, 0), &S[0], "who names it does not come before who takes all");
	cr_assert_eq(credits_choose(&P, 0), &S[1]);
	cr_assert_eq(credits_choose(&P, 0), &S[0]);
}

/* A reload takes a service away, or changes its mode, while workers are there. */
Test(credits, who_may_lend_follows_what_the_service_does, .init = begin)
{
	S[0].takes_entries = true;
	credit_holder_want(&P, &S[0], 0, true);
	sit(0, 3, 1);
	P.service[1].is_entries = true;
	cr_assert(!credits_may_get_more(&P, 0));
	credits_lend(&P, 1, true);
	cr_assert(credits_may_get_more(&P, 0), "its idle streams are there already");
	credit_holder_offer(&P, &S[0], 0);
	cr_assert(!credits_may_get_more(&P, 0), "the only one who takes both has no credits");
	credit_holder_offer(&P, &S[0], 1);
	credits_lend(&P, 1, false);
	cr_assert(!credits_may_get_more(&P, 0));
	credits_check(&P);
}

static void change_services(struct rng *rng)
{
	for (uint16_t i = 0; i < P.n_services; i++) {
		struct credits_service *s = &P.service[i];
		s->is_on = rng_below(rng, 8);
		s->is_paused = !rng_below(rng, 8);
		s->is_reading = rng_below(rng, 2);
		s->was_full = rng_below(rng, 2);
		s->was_empty = !s->was_full && rng_below(rng, 2);
		s->weight = 1 + (uint32_t)rng_below(rng, 3);
		s->granted = s->is_reading ? (uint32_t)rng_below(rng, 2) : 0;
		s->reserved = s->granted + (uint32_t)rng_below(rng, 2);
	}
}

Test(credits, what_is_counted_once_is_what_each_grant_would_count, .init = begin)
{
	struct rng rng;
	rng_seed(&rng, 20261130);
	P.n_services = 6;
	for (uint16_t i = 0; i < 6; i++)
		P.service[i] = (struct credits_service){.svc = i, .max_streams = 100, .read_batch = 4};
	for (int i = 0; i < 4; i++)
		sit(i, 4, i - 1);
	uint32_t n_granted = 0;
	for (int i = 0; i < 20000; i++) {
		change_services(&rng);
		credits_begin_grants(&P);
		for (int k = 0; k < 6; k++) {
			const uint16_t pos = (uint16_t)rng_below(&rng, 6);
			mono_ms block_ms, anew_block_ms;
			const uint32_t n = credits_grant(&P, pos, 1000, &block_ms);
			P.are_rivals_counted = false;
			cr_assert_eq(credits_grant(&P, pos, 1000, &anew_block_ms), n);
			cr_assert_eq(anew_block_ms, block_ms);
			const bool is_kept_out = credits_is_kept_out(&P, pos);
			P.are_rivals_counted = true;
			cr_assert_eq(credits_is_kept_out(&P, pos), is_kept_out);
			if (!n)
				continue;
			P.service[pos].is_reading = true;
			P.service[pos].granted = n;
			P.service[pos].reserved += n;
			credits_granted(&P, pos, 1000);
			n_granted++;
		}
		credits_end_grants(&P);
	}
	cr_assert_gt(n_granted, 10000);
}
