#include "codec/packed.h"

#include <criterion/criterion.h>
#include <string.h>
#include <unistd.h>

#define S(text) ((struct slice){text, sizeof(text) - 1})

static struct packed room;
static struct packed_entry e;

static bool is(struct slice s, struct slice want)
{
	return s.len == want.len && (s.len == 0 || memcmp(s.p, want.p, s.len) == 0);
}

Test(packed, reads_what_the_scripts_write)
{
	alarm(10);
	cr_assert(packed_decode(&room, S("1:s4:fail7:no luck9:lbs-input2:{}3:\0:\n0:"), &e));
	cr_expect(is(e.stream, S("s")) && is(e.why, S("fail")) && is(e.reason, S("no luck")));
	cr_assert_eq(e.n, 2);
	cr_expect(is(e.fields[0].name, S("lbs-input")) && is(e.fields[0].value, S("{}")));
	cr_expect(is(e.fields[1].name, S("\0:\n")) && is(e.fields[1].value, S("")));
	packed_fini(&room);
}

/* Whatever the reason says: a worker may have written it. */
Test(packed, reads_how_often_an_entry_of_the_stream_failed, .timeout = 10)
{
	static const struct {
		struct slice value, why;
		uint32_t tries;
	} c[] = {{S("1:s9:release 30:"), S("release"), 3},
		{S("1:s7:release32:entry 5-0 failed 2 of 4 times: x"), S("release"), 0},
		{S("1:s19:release 429496729610:"), S("release 42949672961"), 0},
		{S("1:s9:release 00:"), S("release 0"), 0}, {S("1:s10:release 030:"), S("release 03"), 0},
		{S("1:s2: 30:"), S(" 3"), 0}, {S("1:s8:release 0:"), S("release "), 0},
		{S("1:s10:release 2x0:"), S("release 2x"), 0}, {S("1:s0:0:"), S(""), 0}};
	for (size_t i = 0; i < sizeof c / sizeof c[0]; i++) {
		cr_assert(packed_decode(&room, c[i].value, &e), "%zu", i);
		cr_expect(is(e.why, c[i].why) && e.tries == c[i].tries, "%zu: %.*s %u", i, (int)e.why.len, e.why.p,
			e.tries);
	}
	packed_fini(&room);
}

Test(packed, says_no_to_anything_else)
{
	alarm(10);
	static const struct slice bad[] = {S(""), S("1"), S("1:"), S("1:s"), S("1:s4:fail"), S("1:s4:fail2:x"),
		S("x:s0:0:"), S("-1:s0:0:"), S("1:s4:fail0:1:a"), S("1:s4:fail0:1:a1:"), S("1:s4:fail0:1:a1:bX"),
		S(":0:0:"), S("9999999999:s0:0:"), S("4294967297:s0:0:")};
	e.n = 77;
	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
		cr_expect(!packed_decode(&room, bad[i], &e), "%zu", i);
	cr_expect_eq(e.n, 77);
	packed_fini(&room);
}
