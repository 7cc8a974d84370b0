/* What people write: durations, near misses of words, and characters. */
#include "base/duration.h"
#include "base/suggest.h"
#include "base/utf8.h"

#include <criterion/criterion.h>
#include <string.h>

Test(duration, is_a_whole_number_and_a_unit)
{
	static const struct {
		const char *text;
		int64_t ms; /* -1 = refused */
	} cases[] = {{"500ms", 500}, {"10s", 10000}, {"5m", 300000}, {"2h", 7200000}, {"1d", 86400000}, {"0", 0},
		{"0s", 0}, {"10", -1}, {"", -1}, {"s", -1}, {"1 s", -1}, {"-1s", -1}, {"1.5s", -1}, {"1sx", -1},
		{"999999999999999999d", -1}, {"9999999999999999999ms", -1}};
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		int64_t ms = -1;
		cr_expect_eq(duration_parse(cases[i].text, &ms), cases[i].ms >= 0, "%s", cases[i].text);
		cr_expect_eq(ms, cases[i].ms, "%s", cases[i].text);
	}
}

static size_t edits(const char *a, const char *b)
{
	return suggest_distance(a, strlen(a), b, strlen(b));
}

Test(suggest, counts_edits_and_swaps_and_ignores_case)
{
	cr_expect_eq(edits("drain", "drain"), 0);
	cr_expect_eq(edits("DRAIN", "drain"), 0);
	cr_expect_eq(edits("max-len", "max_len"), 0);
	cr_expect_eq(edits("drian", "drain"), 1);
	cr_expect_eq(edits("", "abc"), 3);
	cr_expect_eq(edits("kitten", "sitting"), 3);
	char endless[SUGGEST_MAX + 1];
	memset(endless, 'x', sizeof endless);
	cr_expect_eq(suggest_distance(endless, sizeof endless, "x", 1), SUGGEST_MAX);
	cr_expect(suggest_is_near(1, 3) && !suggest_is_near(2, 3) && suggest_is_near(2, 6) && suggest_is_near(3, 7));
	cr_expect(!suggest_is_near(1, 1), "a word of one letter is near to everything");
}

Test(utf8, tells_characters_from_bytes)
{
	static const struct {
		const char *bytes;
		size_t want;
	} cases[] = {{"a", 1}, {"\xc3\xa9", 2}, {"\xe2\x82\xac", 3}, {"\xf0\x9f\x98\x80", 4}, {"\xc3", 0},
		{"\xc0\x80", 0}, {"\xe0\x80\x80", 0}, {"\xed\xa0\x80", 0}, {"\xf4\x90\x80\x80", 0},
		{"\xf0\x80\x80\x80", 0}, {"\xff", 0}, {"\x80", 0}};
	for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
		cr_expect_eq(utf8_len(cases[i].bytes, strlen(cases[i].bytes)), cases[i].want, "%zu", i);
	cr_expect_eq(utf8_len("\xe2\x82\xac", 2), 0, "cut off");
}

Test(utf8, knows_control_characters)
{
	static const struct {
		const char *bytes;
		size_t want;
	} cases[] = {{"", 1}, {"\n", 1}, {"\x1f", 1}, {" ", 0}, {"~", 0}, {"\x7f", 1}, {"\xc2\x80", 2}, {"\xc2\x9b", 2},
		{"\xc2\x9f", 2}, {"\xc2\xa0", 0}, {"\xc2", 0}, {"\xc3\x9b", 0}, {"\x9b", 0}};
	for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
		cr_expect_eq(utf8_control(cases[i].bytes), cases[i].want, "%zu", i);
}
