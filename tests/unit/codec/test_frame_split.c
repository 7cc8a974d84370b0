#include "codec/frame.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <criterion/criterion.h>

static struct frame_splitter s;
static char *line;
static size_t len;
static enum err_code code;

static void up(void)
{
	alarm(60);
	frame_splitter_init(&s, 10);
}

static void down(void)
{
	frame_splitter_fini(&s);
}

TestSuite(frame_split, .init = up, .fini = down);

static void feed(const char *bytes)
{
	frame_splitter_feed(&s, bytes, strlen(bytes));
}

static void expect_line(const char *text)
{
	cr_assert(frame_splitter_next(&s, &line, &len, &code), "no line, expected %s", text);
	cr_assert_str_eq(line, text);
	cr_assert_eq(len, strlen(text));
}

static void expect_none(enum err_code why)
{
	cr_assert_not(frame_splitter_next(&s, &line, &len, &code));
	cr_assert_eq(code, why);
}

Test(frame_split, lf_and_crlf_end_a_line)
{
	expect_none(ERR_OK);
	feed("one\ntwo\r\n\n\r\nthr");
	expect_line("one");
	expect_line("two");
	expect_none(ERR_OK);
	feed("ee\r");
	expect_none(ERR_OK);
	feed("\nx\ry\n");
	expect_line("three");
	expect_line("x\ry");
	expect_none(ERR_OK);
}

Test(frame_split, a_line_of_max_frame_passes_and_one_more_byte_does_not)
{
	feed("0123456789");
	expect_none(ERR_OK);
	feed("\r");
	expect_none(ERR_OK);
	feed("\n0123456789\n");
	expect_line("0123456789");
	expect_line("0123456789");
	feed("short\n01234567890\nnever\n");
	expect_line("short");
	expect_none(ERR_RANGE);
	expect_none(ERR_RANGE);
	feed("still\n");
	expect_none(ERR_RANGE);
}

Test(frame_split, an_endless_line_is_told_before_its_end)
{
	feed("0123456789x");
	expect_none(ERR_RANGE);
}

Test(frame_split, a_cr_inside_an_endless_line_does_not_help)
{
	feed("0123456789\rx");
	expect_none(ERR_RANGE);
}

Test(frame_split, any_cut_gives_the_same_lines)
{
	static const char text[] = "{\"a\":1}\r\n\n{\"b\"}\nx\r\r\n0123456789\r\nlast\n";
	static const char *const want[] = {"{\"a\":1}", "{\"b\"}", "x\r", "0123456789", "last"};
	for (size_t cut = 1; cut < sizeof(text); cut++) {
		size_t n = 0;
		for (size_t at = 0; at < sizeof(text) - 1; at += cut) {
			size_t left = sizeof(text) - 1 - at;
			frame_splitter_feed(&s, text + at, left < cut ? left : cut);
			while (frame_splitter_next(&s, &line, &len, &code))
				cr_assert_str_eq(line, want[n++], "cut %zu", cut);
			cr_assert_eq(code, ERR_OK);
		}
		cr_assert_eq(n, sizeof(want) / sizeof(want[0]));
	}
}
