/* Points in time as people have them. */
#include "base/instant.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <time.h>

/* 2026-11-30T10:00:00Z */
#define TEN 1796032800000

static void up(void)
{
	setenv("TZ", "XST-3", 1); /* three hours east of UTC */
	tzset();
}

static void expect(const char *text, int64_t unix_ms)
{
	int64_t ms = -1;
	cr_expect_eq(instant_parse(text, &ms), unix_ms >= 0, "%s", text);
	cr_expect_eq(ms, unix_ms, "%s: %lld", text, (long long)ms);
}

Test(instant, is_what_rfc_3339_and_date_write, .init = up)
{
	expect("2026-11-30T10:00:00Z", TEN);
	expect("2026-11-30t10:00:00z", TEN);
	expect("2026-11-30T10:00Z", TEN);
	expect("2026-11-30T10:00:00+00:00", TEN);
	expect("2026-11-30T10:00:00-00:00", TEN);
	expect("2026-11-30T12:00:00+02:00", TEN);
	expect("2026-11-30T04:30:00-05:30", TEN);
	expect("2026-12-01T00:00:00+14:00", TEN);
	expect("2026-11-30 12:00:00+02:00", TEN);
	expect("2026-11-30 12:00:00 +0200", TEN);
	expect("2026-11-30T12:00+02", TEN);
	expect("2026-11-30 10:00:00 Z", TEN);
}

Test(instant, without_a_zone_is_local, .init = up)
{
	expect("2026-11-30T13:00:00", TEN);
	expect("2026-11-30T13:00", TEN);
	expect("2026-11-30 13:00:00", TEN);
}

Test(instant, may_have_a_fraction_of_a_second, .init = up)
{
	expect("2026-11-30T10:00:00.5Z", TEN + 500);
	expect("2026-11-30T10:00:00,25Z", TEN + 250);
	expect("2026-11-30T12:00:00.123456789+02:00", TEN + 123);
	expect("2026-11-30T13:00:00.001", TEN + 1);
	expect("@1796032800", TEN);
	expect("@1796032800.75", TEN + 750);
}

Test(instant, is_nothing_else, .init = up)
{
	static const char *const wrong[] = {"", "@", "@x", "@0", "@-5", "@1x", "@1.", "@9999999999999999", "tomorrow",
		"1796032800", "10:00", "2026-11-30", "2026-11-30T", "2026-11-30T10", "2026-11-30T25:00",
		"2026-11-30T10:60", "2026-11-30T10:00:", "2026-11-30T10:00:00.", "2026-11-30T10:00:00.Z",
		"2026-11-30T10:00.5Z", "2026-11-30T10:00:00X", "2026-11-30T10:00:00ZZ", "2026-11-30T10:00:00+",
		"2026-11-30T10:00:00+2", "2026-11-30T10:00:00+02:", "2026-11-30T10:00:00+02:0",
		"2026-11-30T10:00:00+02:60", "2026-11-30T10:00:00+24:00", "2026-11-30T10:00:00+02:00x",
		"2026-11-30T10:00:00  Z", "2026-11-30T10:00:00 ", "2026-11-30x10:00:00", "2026-11-3010:00:00",
		"2026-02-30T10:00:00", "2026-13-01T10:00:00", "1969-12-31T10:00:00Z"};
	for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++)
		expect(wrong[i], -1);
}
