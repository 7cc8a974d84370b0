/* key=value in log lines. */
#include "base/log_fields.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

static void expect_fields(const char *text, const char *want)
{
	struct buf b;
	buf_init(&b);
	log_fields_json(&b, text, strlen(text));
	cr_expect_str_eq(b.data ? b.data : "", want, "%s\n got %s\nwant %s", text, b.data ? b.data : "", want);
	buf_fini(&b);
}

static void expect_value(const char *s, const char *want)
{
	char out[FIELD_VALUE_CAP];
	cr_expect_str_eq(field_value(out, s, strlen(s)), want, "%s: %s", s, out);
}

Test(log_fields, words_and_numbers_become_members)
{
	expect_fields("shard=2 stream=orders:7 lease lost after_ms=28000",
		",\"shard\":2,\"stream\":\"orders:7\",\"after_ms\":28000");
	expect_fields("nothing to see", "");
	expect_fields("", "");
	expect_fields("id=1700000000000-0 n=-5 x=007 y=1234567890123456 z=",
		",\"id\":\"1700000000000-0\",\"n\":-5,\"x\":\"007\",\"y\":\"1234567890123456\",\"z\":\"\"");
	expect_fields("a=b=c", ",\"a\":\"b=c\"");
	expect_fields("xa=1 Ab=2 a-b=3 =4 a =5", ",\"xa\":1");
}

Test(log_fields, quoted_values)
{
	expect_fields("stream=\"a b\" id=1-0", ",\"stream\":\"a b\",\"id\":\"1-0\"");
	expect_fields("stream=\"a \\\"b\\\\\" n=1", ",\"stream\":\"a \\\"b\\\\\",\"n\":1");
	expect_fields("stream=\"5\"", ",\"stream\":\"5\"");
	expect_fields("stream=\"no end n=1", ",\"stream\":\"\\\"no\",\"n\":1");
	expect_fields("stream=\"\" n=1", ",\"stream\":\"\",\"n\":1");
}

/* A stream is called what its producer likes. */
Test(log_fields, nothing_can_be_forged)
{
	char out[FIELD_VALUE_CAP], line[600];
	snprintf(line, sizeof line, "service=orders stream=%s id=1-0", field_value(out, "x level=error id=9", 18));
	expect_fields(line, ",\"service\":\"orders\",\"stream\":\"x level=error id=9\",\"id\":\"1-0\"");
	expect_fields("level=error time=now msg=x a=1", ",\"a\":1");
	expect_fields("a=1 a=2", ",\"a\":1");
}

Test(log_fields, values_are_quoted_when_they_must_be)
{
	expect_value("orders:7", "orders:7");
	expect_value("", "\"\"");
	expect_value("a b", "\"a b\"");
	expect_value("say \"hi\" \\", "\"say \\\"hi\\\" \\\\\"");
	expect_value("a\nb", "\"a?b\"");
	expect_value("caf\xc3\xa9", "caf\xc3\xa9");
}

Test(log_fields, long_values_are_cut_at_a_character)
{
	char s[400], out[FIELD_VALUE_CAP];
	memset(s, '"', sizeof s);
	cr_expect_eq(strlen(field_value(out, s, sizeof s)), 2 * FIELD_VALUE_MAX + 2);
	memset(s, 'a', sizeof s);
	memcpy(s + FIELD_VALUE_MAX - 1, "\xc3\xa9", 2);
	cr_expect_eq(strlen(field_value(out, s, sizeof s)), FIELD_VALUE_MAX - 1);
}

Test(log_fields, many_are_enough)
{
	char text[1024] = "";
	for (int i = 0; i < 40; i++)
		snprintf(text + strlen(text), 32, "k%d=%d ", i, i);
	struct buf b;
	buf_init(&b);
	log_fields_json(&b, text, strlen(text));
	cr_expect(strstr(b.data, "\"k23\":23") && !strstr(b.data, "\"k24\""));
	buf_fini(&b);
}
