#include "codec/frame.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <criterion/criterion.h>

#include "base/mem.h"

static struct frame_decoder *d;
static struct frame f;
static struct err err;

static void up(void)
{
	alarm(60);
	d = frame_decoder_new();
}

static void down(void)
{
	frame_decoder_free(d);
}

TestSuite(frame_decode, .init = up, .fini = down);

static enum err_code decode(const char *line)
{
	char *copy = mem_dup(line, strlen(line));
	enum err_code rc = frame_decode(d, copy, strlen(line), &f, &err);
	mem_free(copy); /* what was decoded must not point into the line */
	return rc;
}

static bool is(struct slice s, const char *text)
{
	return s.p && s.len == strlen(text) && memcmp(s.p, text, s.len) == 0;
}

static void expect_problem(const char *line, enum frame_problem problem, const char *text)
{
	cr_assert_eq(decode(line), ERR_OK, "%s: %s", line, err.text);
	cr_assert_eq(f.problem, problem, "%s: problem %d", line, f.problem);
	if (text)
		cr_assert_str_eq(f.bad_field, text, "%s", line);
	else
		cr_assert_null(f.bad_field);
}

Test(frame_decode, reads_when_to_come_back)
{
	static const char *const kinds[] = {"fail", "release"};
	static const char *const bad[] = {
		"-1", "86400001", "1.0", "\"7\"", "true", "[]", "18446744073709551615", "99999999999999999999999999"};
	char line[120];
	for (size_t k = 0; k < 2; k++) {
		snprintf(line, sizeof line, "{\"t\":\"%s\",\"lease\":\"L\",\"retry_ms\":86400000}", kinds[k]);
		expect_problem(line, FRAME_PROBLEM_NONE, NULL);
		cr_assert(f.has_retry_ms && f.retry_ms == 86400000);
		snprintf(line, sizeof line, "{\"t\":\"%s\",\"lease\":\"L\",\"retry_ms\":null}", kinds[k]);
		expect_problem(line, FRAME_PROBLEM_NONE, NULL);
		cr_assert(!f.has_retry_ms);
		for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
			snprintf(line, sizeof line, "{\"t\":\"%s\",\"lease\":\"L\",\"retry_ms\":%s}", kinds[k], bad[i]);
			expect_problem(line, FRAME_PROBLEM_FIELD, "retry_ms: must be an integer, 0 to 86400000");
		}
	}
	expect_problem("{\"t\":\"done\",\"lease\":\"L\",\"retry_ms\":-1}", FRAME_PROBLEM_NONE, NULL);
}

Test(frame_decode, reads_a_full_hello)
{
	expect_problem(
		"{\"t\":\"hello\",\"v\":1,\"name\":\"w1\",\"credits\":10,\"services\":[\"a\",\"b\"],\"session\":\"s9\","
		"\"resume\":[\"L1\",\"L2\",\"L3\"],\"later\":{\"x\":[1]}}",
		FRAME_PROBLEM_NONE, NULL);
	cr_assert_eq(f.kind, FRAME_HELLO);
	cr_assert_eq(f.hello.v, 1);
	cr_assert_eq(f.credits, 10);
	cr_assert(is(f.type, "hello") && is(f.hello.name, "w1") && is(f.hello.session, "s9"));
	cr_assert(f.hello.has_services);
	cr_assert_eq(f.hello.n_services, 2);
	cr_assert(is(f.hello.services[0], "a") && is(f.hello.services[1], "b"));
	cr_assert_eq(f.hello.n_resume, 3);
	cr_assert(is(f.hello.resume[0], "L1") && is(f.hello.resume[2], "L3"));
}

Test(frame_decode, a_short_hello_has_no_optional_fields)
{
	expect_problem("{\"t\":\"hello\",\"v\":1,\"name\":\"\",\"credits\":0}", FRAME_PROBLEM_NONE, NULL);
	cr_assert_not(f.hello.has_services);
	cr_assert_null(f.hello.session.p);
	cr_assert_eq(f.hello.n_resume, 0);
	expect_problem(
		"{\"t\":\"hello\",\"v\":1,\"name\":\"x\",\"credits\":0,\"services\":[]}", FRAME_PROBLEM_NONE, NULL);
	cr_assert(f.hello.has_services);
	cr_assert_eq(f.hello.n_services, 0);
}

Test(frame_decode, another_version_is_told_beside_any_problem)
{
	expect_problem("{\"t\":\"hello\",\"v\":2}", FRAME_PROBLEM_FIELD, "name: missing");
	cr_assert_eq(f.hello.v, 2);
}

Test(frame_decode, hello_is_strict)
{
	static const struct {
		const char *line, *text;
	} cases[] = {
		{"{\"t\":\"hello\",\"name\":\"w\",\"credits\":1}", "v: missing"},
		{"{\"t\":\"hello\",\"v\":\"1\",\"name\":\"w\",\"credits\":1}", "v: must be an integer"},
		{"{\"t\":\"hello\",\"v\":1.0,\"name\":\"w\",\"credits\":1}", "v: must be an integer"},
		{"{\"t\":\"hello\",\"v\":1,\"credits\":1}", "name: missing"},
		{"{\"t\":\"hello\",\"v\":1,\"name\":7,\"credits\":1}", "name: must be a string"},
		{"{\"t\":\"hello\",\"v\":1,\"name\":null,\"credits\":1}", "name: must be a string"},
		{"{\"t\":\"hello\",\"v\":1,\"name\":\"w\"}", "credits: missing"},
		{"{\"t\":\"hello\",\"v\":1,\"name\":\"w\",\"credits\":\"1\"}", "credits: must be an integer"},
		{"{\"t\":\"hello\",\"v\":1,\"name\":\"w\",\"credits\":1.5}", "credits: must be an integer"},
		{"{\"t\":\"hello\",\"v\":1,\"name\":\"w\",\"credits\":1e3}", "credits: must be an integer"},
		{"{\"t\":\"hello\",\"v\":1,\"name\":\"w\",\"credits\":true}", "credits: must be an integer"},
		{"{\"t\":\"hello\",\"v\":1,\"name\":\"w\",\"credits\":1,\"services\":\"a\"}",
			"services: must be an array of strings"},
		{"{\"t\":\"hello\",\"v\":1,\"name\":\"w\",\"credits\":1,\"services\":{}}",
			"services: must be an array of strings"},
		{"{\"t\":\"hello\",\"v\":1,\"name\":\"w\",\"credits\":1,\"services\":[\"a\",1]}",
			"services: must be an array of strings"},
		{"{\"t\":\"hello\",\"v\":1,\"name\":\"w\",\"credits\":1,\"session\":1}", "session: must be a string"},
		{"{\"t\":\"hello\",\"v\":1,\"name\":\"w\",\"credits\":1,\"resume\":[[]]}",
			"resume: must be an array of strings of 1 to 64 bytes"},
		{"{\"t\":\"hello\",\"v\":1,\"name\":\"w\",\"credits\":1,\"resume\":[\"\"]}",
			"resume: must be an array of strings of 1 to 64 bytes"},
	};
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
		expect_problem(cases[i].line, FRAME_PROBLEM_FIELD, cases[i].text);
}

Test(frame_decode, credits_have_limits)
{
	expect_problem("{\"t\":\"credits\",\"n\":10000}", FRAME_PROBLEM_NONE, NULL);
	cr_assert_eq(f.credits, 10000);
	expect_problem("{\"t\":\"credits\",\"n\":0}", FRAME_PROBLEM_NONE, NULL);
	cr_assert_eq(f.credits, 0);
	static const char *const out[] = {"10001", "-1", "9223372036854775807", "9223372036854775808",
		"18446744073709551615", "99999999999999999999999", "-99999999999999999999999"};
	for (size_t i = 0; i < sizeof(out) / sizeof(out[0]); i++) {
		char line[128];
		snprintf(line, sizeof(line), "{\"t\":\"credits\",\"n\":%s}", out[i]);
		expect_problem(line, FRAME_PROBLEM_LIMIT, "credits: must be 0 to 10000");
		snprintf(line, sizeof(line), "{\"t\":\"hello\",\"v\":1,\"name\":\"w\",\"credits\":%s}", out[i]);
		expect_problem(line, FRAME_PROBLEM_LIMIT, "credits: must be 0 to 10000");
	}
	expect_problem("{\"t\":\"credits\"}", FRAME_PROBLEM_FIELD, "n: missing");
	expect_problem("{\"t\":\"credits\",\"n\":1.0}", FRAME_PROBLEM_FIELD, "n: must be an integer");
	expect_problem("{\"t\":\"credits\",\"n\":1e999}", FRAME_PROBLEM_FIELD, "n: must be an integer");
}

Test(frame_decode, a_lease_is_1_to_64_bytes)
{
	static const char *const types[] = {"done", "fail", "release", "progress", "ack", "nack", "revoked"};
	char line[256], lease[80];
	for (size_t i = 0; i < sizeof(types) / sizeof(types[0]); i++) {
		memset(lease, 'x', sizeof(lease));
		lease[64] = '\0';
		snprintf(line, sizeof(line), "{\"t\":\"%s\",\"lease\":\"%s\",\"id\":\"1-0\"}", types[i], lease);
		expect_problem(line, FRAME_PROBLEM_NONE, NULL);
		cr_assert(is(f.lease, lease));
		cr_assert_eq(f.kind, FRAME_DONE + (enum frame_kind)i);
		snprintf(line, sizeof(line), "{\"t\":\"%s\",\"lease\":\"%sy\"}", types[i], lease);
		expect_problem(line, FRAME_PROBLEM_FIELD, "lease: must be a string of 1 to 64 bytes");
		snprintf(line, sizeof(line), "{\"t\":\"%s\",\"lease\":\"\"}", types[i]);
		expect_problem(line, FRAME_PROBLEM_FIELD, "lease: must be a string of 1 to 64 bytes");
		snprintf(line, sizeof(line), "{\"t\":\"%s\",\"lease\":7}", types[i]);
		expect_problem(line, FRAME_PROBLEM_FIELD, "lease: must be a string of 1 to 64 bytes");
		snprintf(line, sizeof(line), "{\"t\":\"%s\"}", types[i]);
		expect_problem(line, FRAME_PROBLEM_FIELD, "lease: missing");
		cr_assert_null(f.lease.p);
	}
}

Test(frame_decode, fail_and_progress_carry_text)
{
	expect_problem("{\"lease\":\"L\",\"t\":\"fail\",\"reason\":\"caf\\u00e9 \\\"x\\\"\",\"dead\":true}",
		FRAME_PROBLEM_NONE, NULL);
	cr_assert(is(f.reason, "caf\xc3\xa9 \"x\""));
	cr_assert(f.dead);
	expect_problem("{\"t\":\"fail\",\"lease\":\"L\",\"dead\":false}", FRAME_PROBLEM_NONE, NULL);
	cr_assert_not(f.dead);
	cr_assert_null(f.reason.p);
	expect_problem(
		"{\"t\":\"fail\",\"lease\":\"L\",\"dead\":1}", FRAME_PROBLEM_FIELD, "dead: must be true or false");
	expect_problem(
		"{\"t\":\"fail\",\"lease\":\"L\",\"reason\":{}}", FRAME_PROBLEM_FIELD, "reason: must be a string");
	expect_problem("{\"t\":\"progress\",\"lease\":\"L\",\"note\":\"half\"}", FRAME_PROBLEM_NONE, NULL);
	cr_assert(is(f.note, "half"));
	expect_problem(
		"{\"t\":\"progress\",\"lease\":\"L\",\"note\":[]}", FRAME_PROBLEM_FIELD, "note: must be a string");
}

Test(frame_decode, ping_pong_bye)
{
	expect_problem("{\"t\":\"ping\"}", FRAME_PROBLEM_NONE, NULL);
	cr_assert_not(f.has_n);
	expect_problem("{\"t\":\"pong\",\"n\":-9223372036854775808}", FRAME_PROBLEM_NONE, NULL);
	cr_assert(f.has_n && f.n == INT64_MIN);
	expect_problem("{\"t\":\"ping\",\"n\":9223372036854775808}", FRAME_PROBLEM_FIELD, "n: must be an integer");
	expect_problem("{\"t\":\"pong\",\"n\":\"7\"}", FRAME_PROBLEM_FIELD, "n: must be an integer");
	expect_problem(" { \"t\" : \"bye\" } ", FRAME_PROBLEM_NONE, NULL);
	cr_assert_eq(f.kind, FRAME_BYE);
}

Test(frame_decode, an_unknown_type_is_no_error)
{
	expect_problem("{\"t\":\"dance\",\"lease\":7}", FRAME_PROBLEM_NONE, NULL);
	cr_assert_eq(f.kind, FRAME_UNKNOWN);
	cr_assert(is(f.type, "dance"));
	expect_problem("{\"t\":\"\"}", FRAME_PROBLEM_NONE, NULL);
	cr_assert_eq(f.kind, FRAME_UNKNOWN);
	expect_problem("{\"t\":\"bye\\u0000\"}", FRAME_PROBLEM_NONE, NULL);
	cr_assert_eq(f.kind, FRAME_UNKNOWN);
}

Test(frame_decode, the_first_of_duplicate_keys_wins)
{
	expect_problem("{\"t\":\"done\",\"t\":\"bye\",\"lease\":\"a\",\"lease\":\"b\"}", FRAME_PROBLEM_NONE, NULL);
	cr_assert_eq(f.kind, FRAME_DONE);
	cr_assert(is(f.lease, "a"));
}

Test(frame_decode, unknown_fields_may_hold_any_number)
{
	expect_problem("{\"t\":\"bye\",\"x\":1e999,\"y\":123456789012345678901234567890}", FRAME_PROBLEM_NONE, NULL);
}

Test(frame_decode, refuses_what_is_no_frame)
{
	static const char *const bad[] = {"", " ", "x", "[]", "\"t\"", "7", "null", "{}", "{\"t\":7}", "{\"t\":null}",
		"{\"t\":\"bye\"", "{\"t\":\"bye\"}}", "{\"t\":\"bye\"} {}", "{\"t\":\"bye\",}", "{'t':'bye'}",
		"{\"t\":\"b\xff\"}", "{\"t\":\"\xc0\xaf\"}", "{\"t\":\"\xed\xa0\x80\"}", "{\"t\":\"\\ud8\"}",
		"{\"t\":\"b\x01\"}", "{\"t\":\"bye\",\"x\":NaN}", "\xef\xbb\xbf{\"t\":\"bye\"}",
		"{\"t\":\"bye\"} // x"};
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		f.kind = FRAME_N;
		err.text[0] = '\0';
		cr_assert_eq(decode(bad[i]), ERR_INVALID, "%s", bad[i]);
		cr_assert_eq(f.kind, FRAME_N, "outputs change only on success");
		cr_assert(err.text[0], "%s", bad[i]);
	}
	cr_assert_eq(frame_decode(d, "{\"t\":\"bye\"\0}", 12, &f, &err), ERR_INVALID);
}

static enum err_code decode_nested(int depth, char open, char close)
{
	char line[256];
	int at = snprintf(line, sizeof(line), "{\"t\":\"bye\",\"x\":");
	for (int i = 1; i < depth; i++)
		at += snprintf(line + at, 8, "%c%s", open, open == '{' && i < depth - 1 ? "\"k\":" : "");
	for (int i = 1; i < depth; i++)
		line[at++] = close;
	snprintf(line + at, 2, "}");
	return decode(line);
}

Test(frame_decode, nesting_stops_at_16)
{
	cr_assert_eq(decode_nested(16, '[', ']'), ERR_OK, "%s", err.text);
	cr_assert_eq(decode_nested(17, '[', ']'), ERR_INVALID);
	cr_assert_str_eq(err.text, "nested more than 16 deep");
	cr_assert_eq(decode_nested(16, '{', '}'), ERR_OK, "%s", err.text);
	cr_assert_eq(decode_nested(17, '{', '}'), ERR_INVALID);
	cr_assert_eq(decode("{\"t\":\"bye\",\"x\":\"[[[[[[[[[[[[[[[[[[[[[[[\\\"[[[[[[\"}"), ERR_OK);
	size_t len = 1 << 20;
	char *deep = mem_alloc(len + 1);
	memset(deep, '[', len);
	cr_assert_eq(decode(deep), ERR_INVALID);
	mem_free(deep);
}

Test(frame_decode, a_long_frame_then_a_short_one)
{
	struct buf b;
	buf_init(&b);
	buf_str(&b, "{\"t\":\"hello\",\"v\":1,\"name\":\"w\",\"credits\":1,\"resume\":[");
	for (int i = 0; i < 10000; i++)
		buf_printf(&b, "%s\"lease-%d\"", i ? "," : "", i);
	buf_str(&b, "]}");
	expect_problem(b.data, FRAME_PROBLEM_NONE, NULL);
	cr_assert_eq(f.hello.n_resume, 10000);
	cr_assert(is(f.hello.resume[9999], "lease-9999"));
	buf_fini(&b);
	expect_problem(
		"{\"t\":\"hello\",\"v\":1,\"name\":\"w\",\"credits\":1,\"resume\":[\"a\"]}", FRAME_PROBLEM_NONE, NULL);
	cr_assert(f.hello.n_resume == 1 && is(f.hello.resume[0], "a"));
}

Test(frame_decode, null_for_an_optional_field_is_left_out)
{
	expect_problem("{\"t\":\"hello\",\"v\":1,\"name\":\"w\",\"credits\":1,\"session\":null,\"services\":null,"
		       "\"resume\":null}",
		FRAME_PROBLEM_NONE, NULL);
	cr_expect(!f.hello.session.p && !f.hello.has_services && f.hello.n_services == 0 && f.hello.n_resume == 0);
	expect_problem("{\"t\":\"fail\",\"lease\":\"L\",\"reason\":null,\"dead\":null}", FRAME_PROBLEM_NONE, NULL);
	cr_expect(!f.reason.p && !f.dead);
	expect_problem("{\"t\":\"progress\",\"lease\":\"L\",\"note\":null}", FRAME_PROBLEM_NONE, NULL);
	cr_expect(!f.note.p);
	expect_problem("{\"t\":\"ping\",\"n\":null}", FRAME_PROBLEM_NONE, NULL);
	cr_expect(!f.has_n);
	expect_problem(
		"{\"t\":\"done\",\"lease\":null}", FRAME_PROBLEM_FIELD, "lease: must be a string of 1 to 64 bytes");
	expect_problem("{\"t\":\"credits\",\"n\":null}", FRAME_PROBLEM_FIELD, "n: must be an integer");
}

/* "s" as it comes, and what becomes of it in UTF-8. */
Test(frame_decode, lone_surrogates_become_the_replacement_character)
{
	static const struct {
		const char *s, *text;
	} cases[] = {
		{"\\ud800", "\xef\xbf\xbd"},
		{"a\\uDFFFb", "a\xef\xbf\xbd"
			      "b"},
		{"\\ud83d\\ude00", "\xf0\x9f\x98\x80"}, /* a pair is none */
		{"\\ud83d\\ud83d\\ude00", "\xef\xbf\xbd\xf0\x9f\x98\x80"},
		{"\\ude00\\ud83d", "\xef\xbf\xbd\xef\xbf\xbd"},
		{"\\\\ud800", "\\ud800"}, /* an escaped backslash, then text */
		{"\\ud800\\u0041", "\xef\xbf\xbd"
				   "A"},
		{"\\ud800\\n", "\xef\xbf\xbd\n"},
		{"\\ud7ff", "\xed\x9f\xbf"},
	};
	for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
		char line[128];
		snprintf(line, sizeof line, "{\"t\":\"fail\",\"lease\":\"L\",\"reason\":\"%s\"}", cases[i].s);
		expect_problem(line, FRAME_PROBLEM_NONE, NULL);
		cr_expect(is(f.reason, cases[i].text), "%s", cases[i].s);
	}
	expect_problem("{\"t\":\"hello\",\"v\":1,\"name\":\"\\udc00\",\"credits\":1}", FRAME_PROBLEM_NONE, NULL);
	expect_problem("{\"t\":\"progress\",\"lease\":\"L\",\"note\":\"\\udc00\"}", FRAME_PROBLEM_NONE, NULL);
	cr_expect_eq(decode("{\"t\":\"fail\",\"lease\":\"L\",\"reason\":\"\\ud8"), ERR_INVALID);
	cr_expect_eq(decode("{\"t\":\"fail\",\"lease\":\"L\",\"reason\":\"\\"), ERR_INVALID);
}
