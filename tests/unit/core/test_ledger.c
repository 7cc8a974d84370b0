#include "core/coord/ledger.h"
#include <criterion/criterion.h>

static struct ledger L;

static void begin(void)
{
	ledger_init(&L, 1);
}

static void end(void)
{
	ledger_fini(&L);
}

static struct entry *add(uint64_t ms)
{
	return ledger_add(&L, 3, (struct entry_id){ms, 0}, ENTRY_LOCKING, 100);
}

Test(ledger, finds_by_service_and_id_and_by_handle, .init = begin, .fini = end)
{
	struct entry *e = add(7);
	cr_assert_eq(ledger_get(&L, 3, (struct entry_id){7, 0}), e);
	cr_assert_null(
		ledger_get(&L, 4, (struct entry_id){7, 0}), "another service's entry of the same id is another one");
	cr_assert_eq(ledger_by_handle(&L, entry_handle(e)), e);
	cr_assert_null(ledger_by_handle(&L, 0));
	cr_assert_null(ledger_by_handle(&L, UINT64_MAX));
}

Test(ledger, a_handle_outlives_its_entry_without_naming_another, .init = begin, .fini = end)
{
	struct entry *e = add(7);
	uint64_t old = entry_handle(e);
	ledger_drop(&L, e);
	struct entry *next = add(8);
	cr_assert_eq((uint32_t)entry_handle(next), (uint32_t)old, "the place is used again");
	cr_assert_null(ledger_by_handle(&L, old));
	cr_assert_eq(entry_handle(next) >> 63, 0, "the top bit is the control door's");
}

Test(ledger, counts_states, .init = begin, .fini = end)
{
	struct entry *a = add(1);
	add(2);
	ledger_move(&L, a, ENTRY_TAKING, 150, MONO_NEVER, NULL, "test");
	cr_assert_eq(L.n, 2);
	cr_assert_eq(L.n_state[ENTRY_LOCKING], 1);
	cr_assert_eq(L.n_state[ENTRY_TAKING], 1);
	cr_assert_eq(a->since, 150);
	ledger_drop(&L, a);
	cr_assert_eq(L.n_state[ENTRY_TAKING], 0);
}

Test(ledger, the_earlier_of_both_deadlines_counts, .init = begin, .fini = end)
{
	struct entry *e = add(1);
	ledger_move(&L, e, ENTRY_BUSY, 100, 500, NULL, "test");
	ledger_arm(&L, e, 300);
	cr_assert_null(ledger_due(&L, 299));
	cr_assert_eq(ledger_due(&L, 300), e);
	cr_assert_null(ledger_due(&L, 9999), "its timer is off afterwards");
	ledger_arm(&L, e, MONO_NEVER);
	cr_assert_eq(ledger_due(&L, 500), e);
}

Test(ledger, a_timer_is_not_moved_back, .init = begin, .fini = end)
{
	struct entry *e = add(1);
	ledger_arm(&L, e, 300);
	ledger_arm(&L, e, 900); /* renewed: it looks early and again */
	cr_assert_eq(ledger_due(&L, 300), e);
	ledger_arm(&L, e, 900);
	ledger_arm(&L, e, 400);
	cr_assert_eq(ledger_due(&L, 400), e);
}

Test(ledger, iterates_over_many_and_survives_growing, .init = begin, .fini = end)
{
	for (uint64_t i = 1; i <= 1000; i++)
		add(i);
	for (uint64_t i = 1; i <= 1000; i += 2)
		ledger_drop(&L, ledger_get(&L, 3, (struct entry_id){i, 0}));
	uint32_t pos = 0, n = 0;
	for (struct entry *e; (e = ledger_next(&L, &pos)); n++)
		cr_assert_eq(e->id.ms % 2, 0);
	cr_assert_eq(n, 500);
	cr_assert_eq(L.n, 500);
}

Test(ledger, states_have_names)
{
	for (int s = 0; s < ENTRY_STATES; s++)
		cr_assert_not_null(entry_state_name((enum entry_state)s));
	cr_assert_str_eq(entry_state_name(ENTRY_LIMBO), "limbo");
}
