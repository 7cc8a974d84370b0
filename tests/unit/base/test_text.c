#include "base/text.h"

#include <criterion/criterion.h>

Test(text, is_cut_between_characters)
{
	static const char long_one[] = "a\xc3\xa9\xf0\x9f\x98\x80z"; /* 1, 2, 4 and 1 bytes */
	static const size_t kept[] = {0, 1, 1, 3, 3, 3, 3, 7, 8, 8};
	for (size_t max = 0; max < sizeof kept / sizeof kept[0]; max++)
		cr_assert_eq(text_fit(long_one, sizeof long_one - 1, max), kept[max], "%zu", max);
}

Test(text, that_is_no_utf8_is_cut_where_it_must)
{
	cr_assert_eq(text_fit("\x80\x80\x80\x80\x80\x80", 6, 5), 5);
	cr_assert_eq(text_fit("", 0, 5), 0);
}
