#include "base/buf.h"
#include "base/mem.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static struct buf b;

static void up(void)
{
	alarm(20);
	buf_init(&b);
}

static void down(void)
{
	buf_fini(&b);
}

Test(buf, starts_without_memory, .init = up, .fini = down)
{
	cr_assert_null(b.data);
	buf_add(&b, NULL, 0);
	cr_assert_str_eq(b.data, "");
}

Test(buf, grows_and_stays_terminated, .init = up, .fini = down)
{
	for (size_t i = 1; i <= 1000; i++) {
		buf_add(&b, "x", 1);
		cr_assert_eq(b.len, i);
		cr_assert_eq(b.data[i], '\0');
	}
}

Test(buf, printf_appends_at_every_fill_level, .init = up, .fini = down)
{
	for (size_t fill = 0; fill < 200; fill++) {
		buf_fini(&b);
		for (size_t i = 0; i < fill; i++)
			buf_str(&b, ".");
		buf_printf(&b, "%s:%d", "orders", 7);
		cr_assert_eq(b.len, fill + 8);
		cr_assert_str_eq(b.data + fill, "orders:7");
	}
	buf_printf(&b, "%s", "");
	cr_assert_eq(b.len, 199 + 8);
}

Test(buf, printf_of_nothing_into_nothing, .init = up, .fini = down)
{
	buf_printf(&b, "%s", "");
	cr_assert_eq(b.len, 0);
	cr_assert_str_eq(b.data, "");
}

Test(buf, u64_ends, .init = up, .fini = down)
{
	buf_u64(&b, 0);
	buf_str(&b, " ");
	buf_u64(&b, UINT64_MAX);
	cr_assert_str_eq(b.data, "0 18446744073709551615");
}

Test(buf, consume_keeps_the_rest, .init = up, .fini = down)
{
	buf_consume(&b, 0);
	buf_str(&b, "hello world");
	buf_consume(&b, 6);
	cr_assert_str_eq(b.data, "world");
	buf_consume(&b, 5);
	cr_assert_str_eq(b.data, "");
	cr_assert_eq(b.len, 0);
}

Test(buf, clear_keeps_the_memory, .init = up, .fini = down)
{
	buf_clear(&b);
	buf_str(&b, "hello");
	char *data = b.data;
	buf_clear(&b);
	buf_str(&b, "x");
	cr_assert_eq(b.data, data);
	cr_assert_str_eq(b.data, "x");
}

Test(buf, take_gives_the_string_away, .init = up, .fini = down)
{
	buf_str(&b, "hello");
	char *s = buf_take(&b);
	cr_assert_str_eq(s, "hello");
	mem_free(s);
	cr_assert_null(b.data);
	s = buf_take(&b);
	cr_assert_str_eq(s, "");
	mem_free(s);
}

static void expect_json(const char *in, size_t len, const char *want)
{
	buf_clear(&b);
	buf_json_str(&b, in, len);
	cr_assert_str_eq(b.data, want, "got %s, want %s", b.data, want);
}

Test(buf, json_escapes, .init = up, .fini = down)
{
	expect_json("", 0, "\"\"");
	expect_json("plain", 5, "\"plain\"");
	expect_json("a\"b\\c", 5, "\"a\\\"b\\\\c\"");
	expect_json("\n\r\t\b\f\x01\x1f", 7, "\"\\n\\r\\t\\b\\f\\u0001\\u001f\"");
	expect_json("a\0b", 3, "\"a\\u0000b\"");
	expect_json("\x7f/", 2, "\"\x7f/\"");
}

Test(buf, json_keeps_utf8, .init = up, .fini = down)
{
	expect_json("\xC3\xA4|\xE2\x82\xAC|\xF0\x9F\x98\x80", 11, "\"\xC3\xA4|\xE2\x82\xAC|\xF0\x9F\x98\x80\"");
	expect_json("\xED\x9F\xBF\xF4\x8F\xBF\xBF", 7, "\"\xED\x9F\xBF\xF4\x8F\xBF\xBF\"");
}

#define FFFD "\xEF\xBF\xBD"

Test(buf, json_replaces_what_is_not_utf8, .init = up, .fini = down)
{
	expect_json("\xFF", 1, "\"" FFFD "\"");
	expect_json("a\x80z", 3, "\"a" FFFD "z\"");
	expect_json("\xC0\xAF", 2, "\"" FFFD FFFD "\"");          /* overlong */
	expect_json("\xE0\x80\x80", 3, "\"" FFFD FFFD FFFD "\""); /* overlong */
	expect_json("\xF0\x80\x80\x80", 4, "\"" FFFD FFFD FFFD FFFD "\"");
	expect_json("\xED\xA0\x80", 3, "\"" FFFD FFFD FFFD "\""); /* surrogate */
	expect_json("\xF4\x90\x80\x80", 4, "\"" FFFD FFFD FFFD FFFD "\"");
	expect_json("\xE2\x82", 2, "\"" FFFD FFFD "\""); /* cut off */
	expect_json("\xE2\x82\xAC", 2, "\"" FFFD FFFD "\"");
	expect_json("\xC3\"", 2, "\"" FFFD "\\\"\"");
}

/* Plain text is taken sixteen bytes at a time: what is not plain is found at each place, whatever stands before and behind. */
Test(buf, each_byte_is_seen_at_each_place_of_a_longer_text, .init = up, .fini = down)
{
	for (unsigned c = 0; c < 256; c++)
		for (size_t at = 0; at < 40; at++) {
			char in[41], want[64], one[9];
			memset(in, 'x', sizeof in);
			in[at] = (char)c;
			buf_clear(&b);
			buf_json_str(&b, in + at, 1); /* alone: byte by byte */
			snprintf(one, sizeof one, "%.*s", (int)b.len - 2, b.data + 1);
			snprintf(want, sizeof want, "\"%.*s%s%.*s\"", (int)at, in, one, (int)(40 - at), in + at + 1);
			expect_json(in, sizeof in, want);
			cr_assert_eq(buf_is_utf8(in, sizeof in), c < 0x80, "%#x at %zu", c, at);
		}
}

Test(buf, characters_of_several_bytes_are_whole_across_sixteen, .init = up, .fini = down)
{
	static const char *const chars[] = {"\xC3\xA4", "\xE2\x82\xAC", "\xF0\x9F\x98\x80"};
	for (size_t k = 0; k < 3; k++)
		for (int at = 0; at < 36; at++) {
			char in[64], want[80];
			int n = snprintf(in, sizeof in, "%.*s%s%s", at, "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
				chars[k], "1234567890123456");
			snprintf(want, sizeof want, "\"%s\"", in);
			expect_json(in, (size_t)n, want);
			cr_assert(buf_is_utf8(in, (size_t)n));
			cr_assert(!buf_is_utf8(in, (size_t)at + 1)); /* cut off */
		}
}
