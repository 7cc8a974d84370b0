#include "codec/frame.h"

#include <string.h>
#include <unistd.h>

#include <criterion/criterion.h>
#include <yyjson.h>

static struct buf b;

static void up(void)
{
	alarm(60);
	buf_init(&b);
}

static void down(void)
{
	buf_fini(&b);
}

TestSuite(frame_encode, .init = up, .fini = down);

static struct slice text(const char *s)
{
	return (struct slice){.p = s, .len = strlen(s)};
}

static void expect(const struct out_frame *f, const char *line)
{
	buf_clear(&b);
	frame_encode(&b, f);
	cr_assert_str_eq(b.data, line);
	cr_assert_eq(b.len, strlen(line));
}

Test(frame_encode, welcome)
{
	struct slice resumed[] = {text("L1"), text("L2")};
	struct gone gone[] = {
		{text("G1"), GONE_DONE}, {text("G2"), GONE_REQUEUED}, {text("G3"), GONE_DEAD}, {text("G4"), GONE_LOST}};
	struct out_frame f = {.kind = OUT_WELCOME,
		.welcome.server = text("sluiced/0.1"),
		.welcome.node = text("n\"1"),
		.welcome.session = text("s"),
		.welcome.lease_ms = 10000,
		.welcome.ping_ms = 3333,
		.welcome.resume_ms = 5000,
		.welcome.max_frame = 1048576,
		.until_ms = 123456,
		.welcome.now_ms = 113456};
	expect(&f, "{\"t\":\"welcome\",\"v\":1,\"server\":\"sluiced/"
		   "0.1\",\"node\":\"n\\\"1\",\"session\":\"s\",\"lease_ms\":10000,"
		   "\"ping_ms\":3333,\"resume_ms\":5000,\"max_frame\":1048576,\"until_ms\":123456,"
		   "\"now_ms\":113456,\"resumed\":[],"
		   "\"gone\":[]}\n");
	f.welcome.resumed = resumed;
	f.welcome.n_resumed = 2;
	f.welcome.gone = gone;
	f.welcome.n_gone = 4;
	f.until_ms = MONO_NEVER;
	expect(&f,
		"{\"t\":\"welcome\",\"v\":1,\"server\":\"sluiced/"
		"0.1\",\"node\":\"n\\\"1\",\"session\":\"s\",\"lease_ms\":10000,"
		"\"ping_ms\":3333,\"resume_ms\":5000,\"max_frame\":1048576,\"until_ms\":9007199254740991,"
		"\"now_ms\":113456,\"resumed\":["
		"\"L1\","
		"\"L2\"],\"gone\":[{\"lease\":\"G1\",\"outcome\":\"done\"},{\"lease\":\"G2\",\"outcome\":\"requeued\"},"
		"{\"lease\":\"G3\",\"outcome\":\"dead\"},{\"lease\":\"G4\",\"outcome\":\"lost\"}]}\n");
	f.welcome.n_resumed = f.welcome.n_gone = 0;
	f.welcome.not_served = resumed;
	f.welcome.n_not_served = 2;
	expect(&f, "{\"t\":\"welcome\",\"v\":1,\"server\":\"sluiced/"
		   "0.1\",\"node\":\"n\\\"1\",\"session\":\"s\",\"lease_ms\":10000,"
		   "\"ping_ms\":3333,\"resume_ms\":5000,\"max_frame\":1048576,\"until_ms\":9007199254740991,"
		   "\"now_ms\":113456,\"resumed\":[],\"gone\":[],\"not_served\":[\"L1\",\"L2\"]}\n");
}

Test(frame_encode, assign_passes_info_on_as_it_is)
{
	struct out_frame f = {.kind = OUT_ASSIGN,
		.lease = text("L1"),
		.assign.service = text("orders"),
		.assign.stream = text("orders:7"),
		.assign.id = text("1700000000000-0"),
		.assign.token = text("1700000000000000000"),
		.assign.retry = 2,
		.until_ms = 99,
		.info = text("{\"n\":12345678901234567890123, \"x\":1.10}")};
	expect(&f, "{\"t\":\"assign\",\"lease\":\"L1\",\"service\":\"orders\",\"stream\":\"orders:7\",\"id\":"
		   "\"1700000000000-0\","
		   "\"token\":\"1700000000000000000\",\"retry\":2,\"info\":{\"n\":12345678901234567890123, "
		   "\"x\":1.10},\"until_ms\":99}\n");
	f.info = text("{\r\n\t\"a\": [\n1]\n}\n");
	expect(&f, "{\"t\":\"assign\",\"lease\":\"L1\",\"service\":\"orders\",\"stream\":\"orders:7\",\"id\":"
		   "\"1700000000000-0\","
		   "\"token\":\"1700000000000000000\",\"retry\":2,\"info\":{  \t\"a\": [ 1] } ,\"until_ms\":99}\n");
	f.info = (struct slice){0};
	f.assign.retry = -1;
	expect(&f, "{\"t\":\"assign\",\"lease\":\"L1\",\"service\":\"orders\",\"stream\":\"orders:7\",\"id\":"
		   "\"1700000000000-0\","
		   "\"token\":\"1700000000000000000\",\"retry\":-1,\"info\":null,\"until_ms\":99}\n");
}

Test(frame_encode, the_small_ones)
{
	expect(&(struct out_frame){.kind = OUT_OK, .lease = text("L"), .ok_for = OK_FOR_FAIL, .outcome = GONE_DEAD},
		"{\"t\":\"ok\",\"lease\":\"L\",\"for\":\"fail\",\"outcome\":\"dead\"}\n");
	expect(&(struct out_frame){.kind = OUT_REVOKE, .lease = text("L"), .reason = REVOKE_OPERATOR, .grace_ms = 1500},
		"{\"t\":\"revoke\",\"lease\":\"L\",\"reason\":\"operator\",\"grace_ms\":1500}\n");
	expect(&(struct out_frame){.kind = OUT_DRAIN, .grace_ms = 60000}, "{\"t\":\"drain\",\"grace_ms\":60000}\n");
	expect(&(struct out_frame){.kind = OUT_PING, .has_n = true, .n = 4, .until_ms = 77},
		"{\"t\":\"ping\",\"n\":4,\"until_ms\":77}\n");
	expect(&(struct out_frame){.kind = OUT_PONG}, "{\"t\":\"pong\"}\n");
	expect(&(struct out_frame){.kind = OUT_PONG, .has_n = true, .n = INT64_MIN},
		"{\"t\":\"pong\",\"n\":-9223372036854775808}\n");
	expect(&(struct out_frame){.kind = OUT_ERR, .error = FERR_BAD_FIELD, .msg = text("lease: missing")},
		"{\"t\":\"err\",\"code\":\"bad_field\",\"msg\":\"lease: missing\",\"fatal\":false}\n");
	expect(&(struct out_frame){.kind = OUT_ERR, .error = FERR_TOO_BIG, .msg = text("x"), .lease = text("L")},
		"{\"t\":\"err\",\"code\":\"too_big\",\"msg\":\"x\",\"lease\":\"L\",\"fatal\":true}\n");
}

Test(frame_encode, every_name_is_there)
{
	for (int e = 0; e < FERR_N; e++) {
		cr_assert_not_null(frame_error_name((enum frame_error)e));
		cr_assert_eq(frame_error_fatal((enum frame_error)e), e <= FERR_TOO_MANY_SESSIONS);
	}
	for (int r = 0; r < REVOKE_N; r++)
		cr_assert_not_null(frame_revoke_name((enum revoke_reason)r));
	cr_assert_str_eq(frame_outcome_name(GONE_LOST), "lost");
}

/* Any ASCII bytes, control characters too, come back as they were, through an independent reader and through ours. */
Test(frame_encode, what_we_write_we_can_read)
{
	uint64_t x = 88172645463325252u;
	struct frame_decoder *d = frame_decoder_new();
	for (int round = 0; round < 2000; round++) {
		char lease[40];
		size_t n = 1 + (size_t)((x >> 33) % sizeof(lease));
		for (size_t i = 0; i < n; i++) {
			x = x * 6364136223846793005u + 1442695040888963407u;
			lease[i] = (char)(x >> 57);
		}
		buf_clear(&b);
		frame_encode(&b, &(struct out_frame){.kind = OUT_OK, .lease = {lease, n}});
		cr_assert_eq(memchr(b.data, '\n', b.len), b.data + b.len - 1);
		yyjson_doc *doc = yyjson_read(b.data, b.len - 1, 0);
		cr_assert_not_null(doc);
		yyjson_val *read = yyjson_obj_get(yyjson_doc_get_root(doc), "lease");
		cr_assert_eq(yyjson_get_len(read), n);
		cr_assert_arr_eq(yyjson_get_str(read), lease, n);
		yyjson_doc_free(doc);
		struct frame f;
		struct err err;
		buf_clear(&b);
		buf_str(&b, "{\"t\":\"done\",\"lease\":");
		buf_json_str(&b, lease, n);
		buf_str(&b, "}");
		cr_assert_eq(frame_decode(d, b.data, b.len, &f, &err), ERR_OK, "%s", err.text);
		cr_assert_eq(f.lease.len, n);
		cr_assert_arr_eq(f.lease.p, lease, n);
	}
	frame_decoder_free(d);
}
