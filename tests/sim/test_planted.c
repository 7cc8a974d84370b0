/* test_planted - tests of the test: bugs planted by translating what passes through the world must be found each time.
 * One seed shows a bug now and then; any block of seeds must show it. */
#include "sim/world_run.h"
#include <criterion/criterion.h>

enum { SEEDS = 2000, BLOCKS = 5, BLOCKS_OF_RARE = 1 };

static void must_be_found_in(enum world_bug bug, uint64_t blocks)
{
	run_watch(60);
	for (uint64_t block = 0; block < blocks; block++) {
		bool found = false;
		uint64_t first = 5000000 + block * SEEDS / blocks;
		for (uint64_t seed = first; seed < first + SEEDS / blocks && !found; seed++)
			found = !run_seed(seed, WORLD_SHORT, bug, false);
		cr_assert(found, "seeds %llu and on do not show bug %d", (unsigned long long)first, bug);
	}
}

static void must_be_found(enum world_bug bug)
{
	must_be_found_in(bug, BLOCKS);
}

Test(planted, a_refused_lock_is_treated_as_held)
{
	must_be_found(BUG_LOCK_UNCHECKED);
}

Test(planted, xack_before_xadd_and_a_death_between)
{
	must_be_found(BUG_ACK_FIRST);
}

Test(planted, a_renewal_counts_from_its_reply)
{
	must_be_found(BUG_RENEW_FROM_REPLY);
}

Test(planted, what_is_due_is_forgotten_before_it_is_added)
{
	must_be_found(BUG_DUE_FORGETS_FIRST);
}

Test(planted, a_wish_is_dropped_when_its_stream_is_done)
{
	must_be_found(BUG_WISH_DROPPED);
}

Test(planted, a_death_among_several_streams_is_counted)
{
	must_be_found(BUG_SUSPECT_COUNTED);
}

Test(planted, who_is_back_has_still_left)
{
	must_be_found(BUG_LEFT_FOR_EVER);
}

/* ---- entries mode ---- */

Test(planted, an_ack_does_not_compare_the_token)
{
	must_be_found_in(BUG_ACK_UNFENCED, BLOCKS_OF_RARE);
}

Test(planted, an_open_takes_the_position_of_a_newer_token)
{
	must_be_found_in(BUG_OPEN_UNFENCED, BLOCKS_OF_RARE);
}

Test(planted, a_read_loses_its_first_entry)
{
	must_be_found(BUG_READ_SKIPS);
}

Test(planted, what_is_behind_a_nacked_entry_goes_on)
{
	must_be_found(BUG_NACK_FORGOTTEN);
}

Test(planted, the_position_moves_before_the_dead_letter_is_written)
{
	must_be_found(BUG_DEAD_LATER);
}

Test(planted, the_pause_before_a_try_is_forgotten_with_its_owner)
{
	must_be_found(BUG_PAUSE_FORGOTTEN);
}

Test(planted, none_of_these_seeds_fails_without_a_bug)
{
	run_watch(60);
	for (uint64_t seed = 5000000; seed < 5000000 + SEEDS; seed++)
		cr_assert(run_seed(seed, WORLD_SHORT, BUG_NONE, false), "seed %llu", (unsigned long long)seed);
}
