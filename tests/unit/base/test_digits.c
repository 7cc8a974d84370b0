#include "base/digits.h"

#include <criterion/criterion.h>
#include <inttypes.h>
#include <stdio.h>

static void expect_as_printf(uint64_t v)
{
	char out[32], want[32];
	for (int least = 0; least <= DIGITS_U64; least++) {
		size_t n = digits_put(out, v, (size_t)least);
		snprintf(want, sizeof want, "%0*" PRIu64, least, v);
		cr_expect(n == strlen(want) && memcmp(out, want, n) == 0, "%.*s %s", (int)n, out, want);
	}
	snprintf(want, sizeof want, "%016" PRIx64, v);
	cr_expect(digits_put_hex(out, v) == 16 && memcmp(out, want, 16) == 0, "%.16s %s", out, want);
}

Test(digits, are_those_of_printf)
{
	for (uint64_t v = 0; v < 11000; v++) /* each pair, at an even and at an odd place */
		expect_as_printf(v);
	for (uint64_t v = 1; v <= UINT64_MAX / 10; v *= 10) {
		expect_as_printf(v - 1);
		expect_as_printf(v);
		expect_as_printf(v + 7);
	}
	expect_as_printf(UINT64_MAX);
}
