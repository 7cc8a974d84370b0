#include "core/coord/slot_vote.h"
#include <criterion/criterion.h>
#include <stdio.h>

enum { OLD = 7, NEW = 8 };

static struct slot_range row(uint16_t from, uint16_t to, const char *host, const char *id)
{
	struct slot_range r = {.from = from, .to = to, .port = 1};
	snprintf(r.host, sizeof r.host, "%s", host);
	snprintf(r.node_id, sizeof r.node_id, "%s", id);
	return r;
}

Test(slot_vote, the_same_map_has_the_same_number)
{
	struct slot_range a[] = {row(0, 99, "a", "x"), row(100, 16383, "b", "y")};
	struct slot_range cut[] = {row(100, 200, "b", "y"), row(0, 99, "a", "x"), row(201, 16383, "b", "y")};
	struct slot_range renamed[] = {row(0, 99, "elsewhere", "x"), row(100, 16383, "b", "y")};
	struct slot_range moved[] = {row(0, 100, "a", "x"), row(101, 16383, "b", "y")};
	struct slot_range failed_over[] = {row(0, 99, "a", "z"), row(100, 16383, "b", "y")};
	struct slot_range less[] = {row(0, 99, "a", "x"), row(100, 16382, "b", "y")};
	cr_expect_eq(slot_map_of(a, 2), slot_map_of(cut, 3));
	cr_expect_eq(slot_map_of(a, 2), slot_map_of(renamed, 2), "each node names the others as it knows them");
	cr_expect_neq(slot_map_of(a, 2), slot_map_of(moved, 2));
	cr_expect_neq(slot_map_of(a, 2), slot_map_of(failed_over, 2));
	cr_expect_neq(slot_map_of(a, 2), slot_map_of(less, 2));
}

Test(slot_vote, without_ids_addresses_tell_masters_apart)
{
	struct slot_range a[] = {row(0, 16383, "a", "")}, b[] = {row(0, 16383, "b", "")};
	cr_expect_neq(slot_map_of(a, 1), slot_map_of(b, 1));
	b[0] = a[0];
	cr_expect_eq(slot_map_of(a, 1), slot_map_of(b, 1));
	b[0].port = 2;
	cr_expect_neq(slot_map_of(a, 1), slot_map_of(b, 1));
}

Test(slot_vote, two_that_agree_decide)
{
	struct slot_vote t = {.n = 0};
	cr_expect_eq(slot_vote_add(&t, 1, NEW), SLOT_VOTE_NONE);
	cr_expect_eq(slot_vote_add(&t, 1, NEW), 0);
}

Test(slot_vote, one_that_lies_is_outvoted)
{
	struct slot_vote t = {.n = 0};
	slot_vote_add(&t, 66, NEW);
	cr_expect_eq(slot_vote_add(&t, 1, NEW), SLOT_VOTE_NONE);
	cr_expect_eq(slot_vote_add(&t, 1, NEW), 1);
}

Test(slot_vote, those_behind_do_not_count)
{
	struct slot_vote t = {.n = 0};
	slot_vote_add(&t, 1, OLD);
	cr_expect_eq(slot_vote_add(&t, 2, NEW), SLOT_VOTE_NONE);
	cr_expect_eq(slot_vote_add(&t, 1, OLD), SLOT_VOTE_NONE, "two of yesterday are not one of today");
	cr_expect_eq(slot_vote_end(&t), 1);
}

Test(slot_vote, one_alone_decides_when_nobody_else_answers)
{
	struct slot_vote t = {.n = 0};
	cr_expect_eq(slot_vote_end(&t), SLOT_VOTE_NONE);
	slot_vote_add(&t, 1, NEW);
	cr_expect_eq(slot_vote_end(&t), 0);
	slot_vote_add(&t, 2, NEW);
	cr_expect_eq(slot_vote_end(&t), SLOT_VOTE_NONE, "they do not agree");
}
