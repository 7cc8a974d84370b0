/* The control protocol's requests: what is accepted, and the sentence when it is not. */
#include "base/mem.h"
#include "codec/ctl.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static struct ctl_request R;
static struct err E;

static void up(void)
{
	alarm(20);
}

static enum err_code decode(const char *line)
{
	E = (struct err){0};
	return ctl_decode(line, strlen(line), &R, &E);
}

/* Decodes `line`, which must be wrong, and compares the sentence. */
static void expect_refused(const char *line, enum err_code code, const char *sentence)
{
	memset(&R, 0x55, sizeof(R));
	struct ctl_request before = R;
	cr_expect_eq(decode(line), code, "%s", line);
	cr_expect_str_eq(E.text, sentence);
	cr_expect(memcmp(&before, &R, sizeof(R)) == 0, "%s: the request was changed", line);
}

static char *encoded(const struct ctl_request *r)
{
	struct buf b;
	buf_init(&b);
	cr_assert_eq(ctl_encode(&b, r, &E), ERR_OK, "%s", E.text);
	return buf_take(&b);
}

Test(ctl, decodes_a_request_with_every_kind_of_argument, .init = up)
{
	cr_assert_eq(decode("{\"v\":1,\"verb\":\"ls\",\"args\":{\"service\":\"orders\",\"state\":\"limbo\",\"older_"
			    "than_ms\":60000,"
			    "\"limit\":5}}\n"),
		ERR_OK, "%s", E.text);
	cr_expect_eq(R.verb, CTL_VERB_LS);
	cr_expect_str_eq(R.service, "orders");
	cr_expect_eq(R.state, CTL_STATE_LIMBO);
	cr_expect_eq(R.older_than_ms, 60000);
	cr_expect_eq(R.limit, 5);
	cr_expect_null(R.stream);
	cr_expect(ctl_has(&R, CTL_ARG_SERVICE) && !ctl_has(&R, CTL_ARG_STREAM));
	ctl_request_fini(&R);

	cr_assert_eq(
		decode("{\"v\":1,\"verb\":\"dlq purge\",\"args\":{\"service\":\"s\",\"id\":\"17-0\",\"rate_per_s\":9,"
		       "\"reason\":\"too_large\",\"dry_run\":true}}"),
		ERR_OK, "%s", E.text);
	cr_expect_eq(R.verb, CTL_VERB_DLQ_PURGE);
	cr_expect_str_eq(R.id, "17-0");
	cr_expect_str_eq(R.reason, "too_large");
	cr_expect_eq(R.rate_per_s, 9);
	cr_expect(R.dry_run);
	ctl_request_fini(&R);
	ctl_request_fini(&R); /* twice is fine */
}

Test(ctl, what_is_not_given_has_its_default, .init = up)
{
	cr_assert_eq(decode("{\"v\":1,\"verb\":\"add\",\"args\":{\"service\":\"s\",\"stream\":\"a:1\"}}"), ERR_OK);
	cr_expect_eq(R.count, 1);
	cr_expect_eq(R.state, CTL_STATE_N);
	cr_expect_null(R.info);
	ctl_request_fini(&R);
	cr_assert_eq(decode("{\"verb\":\"status\",\"v\":1}"), ERR_OK);
	cr_expect(!R.ready);
	ctl_request_fini(&R);
}

Test(ctl, info_keeps_its_value_exactly, .init = up)
{
	const char *info =
		"{\"n\":123456789012345678901234567890,\"x\":1.10,\"e\":1e-400,\"a\":1,\"a\":2,\"s\":\"\xc3\xa9\"}";
	char line[512];
	snprintf(line, sizeof(line),
		"{\"v\":1,\"verb\":\"add\",\"args\":{\"service\":\"s\",\"stream\":\"t\",\"info\": %s }}", info);
	cr_assert_eq(decode(line), ERR_OK, "%s", E.text);
	cr_expect_str_eq(R.info, info);
	ctl_request_fini(&R);
	ctl_request_init(&R, CTL_VERB_ADD);
	cr_assert_eq(ctl_request_set(&R, CTL_ARG_INFO, "{\n \"n\": 123456789012345678901234567890\n}", &E), ERR_OK);
	cr_expect_str_eq(R.info, "{\"n\":123456789012345678901234567890}", "one line, or it breaks the protocol");
	ctl_request_fini(&R);
}

Test(ctl, refuses_what_is_no_request, .init = up)
{
	expect_refused("[]", ERR_INVALID, "the request is not a JSON object");
	expect_refused("{\"v\":1}", ERR_INVALID, "verb must be a string");
	expect_refused("{\"v\":1,\"verb\":7}", ERR_INVALID, "verb must be a string");
	expect_refused(
		"{\"verb\":\"ls\"}", ERR_INVALID, "this daemon speaks version 1 of the control protocol: v must be 1");
	expect_refused("{\"v\":2,\"verb\":\"ls\"}", ERR_INVALID,
		"this daemon speaks version 1 of the control protocol: v must be 1");
	expect_refused("{\"v\":1,\"verb\":\"lss\"}", ERR_INVALID, "unknown verb \"lss\"");
	expect_refused("{\"v\":1,\"verb\":\"ls\\u0000\"}", ERR_INVALID, "unknown verb \"ls\"");
	expect_refused("{\"v\":1,\"verb\":\"ls\",\"verb\":\"ls\"}", ERR_INVALID, "verb is given twice");
	expect_refused("{\"v\":1,\"verb\":\"ls\",\"arg\":{}}", ERR_INVALID, "unknown key \"arg\" in the request");
	expect_refused("{\"v\":1,\"verb\":\"ls\",\"args\":[]}", ERR_INVALID, "args must be an object");
	cr_expect_eq(decode("{\"v\":1,\"verb\":\"ls\"} x"), ERR_INVALID);
	cr_expect_eq(decode(""), ERR_INVALID);
	cr_expect_eq(decode("{\"v\":1,\"verb\":\"\xff\"}"), ERR_INVALID);
}

Test(ctl, refuses_arguments_with_a_sentence_that_names_them, .init = up)
{
	static const struct {
		const char *verb, *args, *sentence;
		enum err_code code;
	} cases[] = {
		{"ls", "\"colour\":1", "ls: unknown argument \"colour\"", ERR_INVALID},
		{"ls", "\"ready\":true", "ls does not take ready", ERR_INVALID},
		{"status", "\"ready\":1", "status: ready must be true or false", ERR_INVALID},
		{"ls", "\"service\":1", "ls: service must be a string", ERR_INVALID},
		{"ls", "\"service\":\"\"", "ls: service is empty", ERR_INVALID},
		{"ls", "\"service\":\"a\\u0000b\"", "ls: service has a NUL byte in it", ERR_INVALID},
		{"ls", "\"service\":\"a\",\"service\":\"b\"", "ls: service is given twice", ERR_INVALID},
		{"ls", "\"limit\":1.5", "ls: limit must be a whole number", ERR_INVALID},
		{"ls", "\"limit\":-1", "ls: limit must be a whole number", ERR_INVALID},
		{"ls", "\"limit\":\"1\"", "ls: limit must be a whole number", ERR_INVALID},
		{"ls", "\"limit\":0", "ls: limit must be between 1 and 1000000000", ERR_RANGE},
		{"ls", "\"limit\":99999999999999999999", "ls: limit must be a whole number", ERR_INVALID},
		{"add", "\"service\":\"s\"", "add: stream is missing", ERR_INVALID},
		{"scan", "", "scan: service is missing", ERR_INVALID},
		{"dlq ls", "\"service\":\"s\",\"id\":\"17\"",
			"dlq ls: id must be an entry id like 1700000000000-0, not \"17\"", ERR_INVALID},
		{"add", "\"service\":\"s\",\"stream\":\"x\",\"at\":\"tomorrow\"",
			"add: at must be a time like 2026-11-30T10:00:00, with Z or +02:00 at its end if need be, or "
			"@SECONDS, not \"tomorrow\"",
			ERR_INVALID},
		{"dlq purge", "\"service\":\"s\",\"reason\":\"to_large\"",
			"dlq purge: reason must be one of max_retries_exceeded, unparseable, too_large, rejected, "
			"operator, wrong_type, bad_name, not \"to_large\"",
			ERR_INVALID},
		{"ls", "\"state\":\"asigned\"",
			"ls: state must be one of locking, parked, ready, assigned, revoking, limbo, finishing, lost, "
			"blocked, not \"asigned\"",
			ERR_INVALID},
	};
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		char line[256];
		snprintf(line, sizeof(line), "{\"v\":1,\"verb\":\"%s\",\"args\":{%s}}", cases[i].verb, cases[i].args);
		expect_refused(line, cases[i].code, cases[i].sentence);
	}
}

Test(ctl, a_request_over_64_kib_is_refused_on_both_sides, .init = up)
{
	char *big = mem_alloc(CTL_REQUEST_MAX + 2);
	struct buf b;
	memset(big, 'x', CTL_REQUEST_MAX + 1);
	expect_refused(big, ERR_RANGE, "the request is longer than 65536 bytes");
	ctl_request_init(&R, CTL_VERB_SHOW);
	cr_assert_eq(ctl_request_set(&R, CTL_ARG_STREAM, big, &E), ERR_OK);
	buf_init(&b);
	cr_expect_eq(ctl_encode(&b, &R, &E), ERR_RANGE);
	cr_expect_eq(b.len, 0);
	buf_fini(&b);
	ctl_request_fini(&R);
	mem_free(big);
}

Test(ctl, command_line_text_becomes_typed, .init = up)
{
	ctl_request_init(&R, CTL_VERB_DLQ_REPLAY);
	cr_expect_eq(ctl_request_set(&R, CTL_ARG_OLDER_THAN, "2h", &E), ERR_OK);
	cr_expect_eq(R.older_than_ms, 2 * 3600 * 1000);
	cr_expect_eq(ctl_request_set(&R, CTL_ARG_RATE, "100/s", &E), ERR_OK);
	cr_expect_eq(R.rate_per_s, 100);
	cr_expect_eq(ctl_request_set(&R, CTL_ARG_RATE, "7", &E), ERR_INVALID);
	cr_expect_str_eq(E.text, "dlq replay: --rate is given twice");
	cr_expect_eq(ctl_request_set(&R, CTL_ARG_LIMIT, "12x", &E), ERR_INVALID);
	cr_expect_str_eq(E.text, "dlq replay: --limit must be a whole number, not \"12x\"");
	cr_expect_eq(ctl_request_set(&R, CTL_ARG_REASON, "a\xc3", &E), ERR_INVALID);
	cr_expect_str_eq(E.text, "dlq replay: --reason is not UTF-8");
	cr_expect_eq(ctl_request_set(&R, CTL_ARG_READY, NULL, &E), ERR_INVALID);
	cr_expect_str_eq(E.text, "dlq replay does not take --ready");
	cr_expect_eq(ctl_request_check(&R, &E), ERR_INVALID);
	cr_expect_str_eq(E.text, "dlq replay: SERVICE is missing");
	ctl_request_fini(&R);
	ctl_request_init(&R, CTL_VERB_ADD);
	cr_expect_eq(ctl_request_set(&R, CTL_ARG_INFO, "{x", &E), ERR_INVALID);
	cr_expect(strstr(E.text, "add: --info is not JSON: ") == E.text, "%s", E.text);
	ctl_request_fini(&R);
}

Test(ctl, entry_ids, .init = up)
{
	cr_expect(ctl_is_entry_id("1700000000000-0") && ctl_is_entry_id("18446744073709551615-18446744073709551615"));
	cr_expect(!ctl_is_entry_id("orders:7") && !ctl_is_entry_id("17") && !ctl_is_entry_id("17-") &&
		  !ctl_is_entry_id("-0") && !ctl_is_entry_id("17-0x") && !ctl_is_entry_id("184467440737095516150-0"));
}

Test(ctl, what_is_encoded_decodes_to_the_same, .init = up)
{
	for (unsigned v = 0; v < CTL_VERB_N; v++) {
		const struct ctl_verb_info *verb = ctl_verb_info((enum ctl_verb)v);
		struct ctl_request r;
		uint32_t bits = verb->options;
		ctl_request_init(&r, (enum ctl_verb)v);
		for (unsigned i = 0; i < verb->n_positional; i++)
			bits |= 1u << verb->positional[i];
		for (unsigned a = 0; a < CTL_ARG_N; a++) {
			static const char *const texts[] = {[CTL_TYPE_TEXT] = "a\"b\\ \n\xc3\xa9",
				[CTL_TYPE_ID] = "17-3",
				[CTL_TYPE_TIME] = "2026-11-30 10:00:00.5+02:00",
				[CTL_TYPE_STATE] = "parked",
				[CTL_TYPE_REASON] = "bad_name",
				[CTL_TYPE_JSON] = "[1, \"x\"]",
				[CTL_TYPE_DURATION] = "3s",
				[CTL_TYPE_NUMBER] = "4",
				[CTL_TYPE_RATE] = "5/s",
				[CTL_TYPE_FLAG] = ""};
			if (bits >> a & 1u)
				cr_expect_eq(ctl_request_set(&r, (enum ctl_arg)a,
						     texts[ctl_arg_info((enum ctl_arg)a)->type], &E),
					ERR_OK, "%s", E.text);
		}
		cr_expect_eq(ctl_request_check(&r, &E), ERR_OK, "%s", E.text);
		char *line = encoded(&r);
		cr_expect_eq(strchr(line, '\n')[1], 0, "one line");
		cr_assert_eq(decode(line), ERR_OK, "%s: %s", line, E.text);
		char *again = encoded(&R);
		cr_expect_str_eq(line, again);
		cr_expect_eq(R.verb, v);
		cr_expect_eq(R.given, bits);
		mem_free(line);
		mem_free(again);
		ctl_request_fini(&R);
		ctl_request_fini(&r);
	}
}

Test(ctl, names_round_trip, .init = up)
{
	for (unsigned v = 0; v < CTL_VERB_N; v++) {
		enum ctl_verb back;
		cr_expect(ctl_verb_parse(ctl_verb_info((enum ctl_verb)v)->name, &back) && back == v);
	}
	for (unsigned s = 0; s < CTL_STATE_N; s++) {
		enum ctl_state back;
		cr_expect(ctl_state_parse(ctl_state_name((enum ctl_state)s), &back) && back == s);
	}
	for (unsigned a = 0; a < CTL_ARG_N; a++)
		cr_expect_not_null(ctl_arg_info((enum ctl_arg)a)->name, "argument %u has no row", a);
}

Test(ctl, the_final_line, .init = up)
{
	struct buf b;
	buf_init(&b);
	ctl_encode_end(&b, &(struct ctl_end){.exit = 0});
	ctl_encode_end(&b, &(struct ctl_end){.exit = 1, .error = "no stream \"x\""});
	cr_expect_str_eq(
		b.data, "{\"end\":true,\"exit\":0}\n{\"end\":true,\"exit\":1,\"error\":\"no stream \\\"x\\\"\"}\n");
	buf_fini(&b);
}
