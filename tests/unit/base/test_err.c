#include "base/err.h"

#include <criterion/criterion.h>
#include <string.h>
#include <unistd.h>

static void up(void)
{
	alarm(20);
}

Test(err, set_returns_the_code_and_keeps_the_sentence, .init = up)
{
	struct err e = {0};
	cr_assert(err_set(&e, ERR_RANGE, "port %d: too big", 70000) == ERR_RANGE);
	cr_assert(e.code == ERR_RANGE);
	cr_assert_str_eq(e.text, "port 70000: too big");
}

Test(err, null_is_allowed, .init = up)
{
	cr_assert(err_set(NULL, ERR_IO, "x") == ERR_IO);
	cr_assert(err_prefix(NULL, "x") == ERR_OK);
}

Test(err, prefix_goes_before, .init = up)
{
	struct err e;
	err_set(&e, ERR_IO, "broken");
	cr_assert(err_prefix(&e, "shard=%d", 2) == ERR_IO);
	cr_assert_str_eq(e.text, "shard=2: broken");
}

Test(err, arguments_may_come_from_the_same_err, .init = up)
{
	struct err e;
	err_set(&e, ERR_IO, "broken");
	err_set(&e, ERR_IO, "a %s b", e.text);
	cr_assert_str_eq(e.text, "a broken b");
	err_prefix(&e, "%s", e.text);
	cr_assert_str_eq(e.text, "a broken b: a broken b");
}

Test(err, stays_one_line, .init = up)
{
	struct err e;
	err_set(&e, ERR_IO, "a\nb\rc\x1b");
	cr_assert_str_eq(e.text, "a b c ");
}

Test(err, long_text_is_cut_between_characters, .init = up)
{
	struct err e;
	char text[2000];
	for (size_t i = 0; i < sizeof(text) - 2; i += 2)
		memcpy(text + i, "\xC3\xA4", 3);
	err_set(&e, ERR_IO, "%s", text);
	cr_assert_eq(strlen(e.text), sizeof(e.text) - 2);
	err_set(&e, ERR_IO, "x%s", text);
	cr_assert_eq(strlen(e.text), sizeof(e.text) - 1);
	err_prefix(&e, "%s", text);
	cr_assert_eq((unsigned char)e.text[strlen(e.text) - 1], 0xA4);
	cr_assert_eq(strlen(e.text), sizeof(e.text) - 2);
}
