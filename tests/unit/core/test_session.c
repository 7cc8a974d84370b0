#include "core/coord/session.h"
#include <criterion/criterion.h>
#include <string.h>

static struct slice text(const char *s)
{
	return (struct slice){s, strlen(s)};
}

Test(session, lease_strings_go_there_and_back)
{
	char out[SESSION_LEASE_CAP];
	struct entry_id id;
	uint64_t hash;
	int n = session_lease_format(out, (struct entry_id){1700000000000, 12}, 0xabcdef);
	cr_assert_str_eq(out, "1700000000000-12.0000000000abcdef");
	cr_assert(session_lease_parse((struct slice){out, (size_t)n}, &id, &hash));
	cr_assert_eq(id.ms, 1700000000000);
	cr_assert_eq(id.seq, 12);
	cr_assert_eq(hash, 0xabcdef);
	n = session_lease_format(out, (struct entry_id){UINT64_MAX, UINT64_MAX}, UINT64_MAX);
	cr_assert_leq(n, FRAME_LEASE_MAX);
	cr_assert(session_lease_parse((struct slice){out, (size_t)n}, &id, &hash));
	cr_assert_eq(id.seq, UINT64_MAX);
	cr_assert_not(session_lease_is_marked((struct slice){out, (size_t)n}));
	n = session_lease_mark(out, n);
	cr_assert(n <= FRAME_LEASE_MAX && strlen(out) == (size_t)n);
	cr_assert(session_lease_is_marked((struct slice){out, (size_t)n}));
	cr_assert(session_lease_parse((struct slice){out, (size_t)n}, &id, &hash));
	cr_assert(id.seq == UINT64_MAX && hash == UINT64_MAX);
}

static const char *token(uint64_t ms, uint64_t seq)
{
	static char out[SESSION_TOKEN_CAP];
	cr_expect_eq(session_token_format(out, (struct entry_id){ms, seq}), 19);
	return out;
}

Test(session, tokens_have_nineteen_digits_and_rise)
{
	cr_expect_str_eq(token(1700000000123, 7), "1700000000123000007");
	cr_expect_str_eq(token(1700000000123, 1000007), "1700000000124000007"); /* a clock that stands still */
	cr_expect_str_eq(token(5, 0), "0000000000005000000");
	cr_expect_str_eq(token(UINT64_MAX, UINT64_MAX), "9999999999999999999");
}

/* A producer's own number behind the dash: what goes back gets an id of the server's clock, and a higher token. */
Test(session, tokens_leave_out_a_sequence_number_that_is_none)
{
	cr_expect_str_eq(token(1, UINT64_MAX), "0000000000001999999");
	cr_expect_str_eq(token(1700000000123, UINT64_MAX), "1700000000123999999");
	cr_expect_str_eq(token(1700000000124, 0), "1700000000124000000");
	cr_expect_str_eq(token(1700000000123, 999999999), "1700000001122999999"); /* a clock that stands still */
	cr_expect_str_eq(token(1700000000123456, UINT64_MAX), "1700000000123456999");
	cr_expect_str_eq(token(1700000000123456789, UINT64_MAX), "1700000000123456789");
}

/* A producer that names ids itself, in micro- or nanoseconds: a requeue has the next sequence number, and a higher token. */
Test(session, tokens_of_other_units_rise_too)
{
	cr_expect_str_eq(token(1700000000123456, 7), "1700000000123456007");
	cr_expect_str_eq(token(1700000000123456789, 0), "1700000000123456789");
	cr_expect_str_eq(token(1700000000123456789, 1), "1700000000123456790");
	char before[SESSION_TOKEN_CAP];
	static const struct entry_id rising[] = {{1700000000123, 0}, {1700000000123, 999}, {1700000001000, 0},
		{1700000002000000, 0}, {1700000002000000, 1}, {1700000002000001, 0}, {1700000003000000000, 0},
		{1700000003000000000, 1}, {1700000003000000000, 2}, {1700000003000005000, 0},
		{9200000000000000000u, 5}};
	strcpy(before, "");
	for (size_t i = 0; i < sizeof rising / sizeof rising[0]; i++) {
		cr_expect(strcmp(before, token(rising[i].ms, rising[i].seq)) < 0, "%zu: %s", i, before);
		strcpy(before, token(rising[i].ms, rising[i].seq));
	}
}

Test(session, what_is_no_lease_is_refused)
{
	static const char *const bad[] = {"", "1", "1-", "-1.a", "1-2", "1-2.", "1-2.xyz", "1-2.a ", "1.2-a",
		"99999999999999999999-0.a", "1-2.fffffffffffffffff", "a-b.c", ".e", "1-2.e", "1-2.a.e.e", "1-2.a.f"};
	struct entry_id id;
	uint64_t hash;
	for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
		cr_expect_not(session_lease_parse(text(bad[i]), &id, &hash), "%s", bad[i]);
	cr_expect_not(session_lease_parse((struct slice){NULL, 0}, &id, &hash));
}

Test(session, hello_errors)
{
	const char *why;
	struct frame f = {.kind = FRAME_PING};
	cr_assert_eq(session_check_hello(&f, &why), FERR_BAD_FRAME);
	f = (struct frame){.kind = FRAME_HELLO, .hello.v = 2};
	cr_assert_eq(session_check_hello(&f, &why), FERR_BAD_VERSION);
	f = (struct frame){.kind = FRAME_HELLO, .hello.v = 1, .problem = FRAME_PROBLEM_LIMIT};
	cr_assert_eq(session_check_hello(&f, &why), FERR_BAD_HELLO);
	f = (struct frame){
		.kind = FRAME_HELLO, .hello.v = 1, .problem = FRAME_PROBLEM_FIELD, .bad_field = "name: missing"};
	cr_assert_eq(session_check_hello(&f, &why), FERR_BAD_HELLO);
	cr_assert_str_eq(why, "name: missing");
	f = (struct frame){.kind = FRAME_HELLO, .hello.v = 1, .hello.name = text("")};
	cr_assert_eq(session_check_hello(&f, &why), FERR_BAD_HELLO);
	f.hello.name = text("w");
	cr_assert_eq(session_check_hello(&f, &why), FERR_N);
}

static struct session_outcome outcome(uint64_t ms, enum gone_outcome what)
{
	return (struct session_outcome){.id = {ms, 0}, .service = 1, .outcome = (uint8_t)what};
}

Test(session, remembers_outcomes_as_many_as_its_credits_need)
{
	struct session s;
	session_init(&s, 1, 100);
	cr_assert_null(session_recall(&s, 1, (struct entry_id){1, 0}));
	for (uint64_t i = 1; i <= 1000; i++)
		session_remember(&s, 400, outcome(i, GONE_DONE));
	cr_assert_eq(s.n_outcomes, 800);
	cr_assert_not_null(session_recall(&s, 1, (struct entry_id){1000, 0}));
	cr_assert_not_null(session_recall(&s, 1, (struct entry_id){300, 0}));
	cr_assert_null(session_recall(&s, 1, (struct entry_id){1, 0}), "the oldest are forgotten");
	cr_assert_null(session_recall(&s, 2, (struct entry_id){1000, 0}), "another service");
	session_fini(&s);
}

Test(session, the_newest_outcome_counts)
{
	struct session s;
	session_init(&s, 1, 100);
	session_remember(&s, 1, outcome(5, GONE_LOST));
	session_remember(&s, 1, outcome(5, GONE_DONE));
	cr_assert_eq(session_recall(&s, 1, (struct entry_id){5, 0})->outcome, GONE_DONE);
	session_fini(&s);
}

Test(session, deadlines)
{
	struct session s;
	session_init(&s, 1, 100);
	s.deadline = 5000;
	cr_assert_eq(session_deadline(&s, 1000), 5000, "hello_timeout");
	s.state = SESSION_READY;
	s.deadline = MONO_NEVER;
	cr_assert_eq(session_deadline(&s, 1000), 1100, "the next ping");
	s.last_ping = 9000;
	cr_assert_eq(session_deadline(&s, 1000), 3101, "the end of silence");
	cr_assert_not(session_is_silent(&s, 1000, 3100));
	cr_assert(session_is_silent(&s, 1000, 3101));
}
