/* Bytes of RESP2 and RESP3 in, struct reply out. */
#include "codec/reply.h"

#include <criterion/criterion.h>
#include <hiredis/hiredis.h>
#include <string.h>

#include "base/buf.h"

#define S(text) ((struct slice){text, sizeof(text) - 1})

static struct reply_decoder *decoder;
static redisReply *raw;
static struct reply reply;

static void up(void)
{
	decoder = reply_decoder_new();
}

static void down(void)
{
	if (reply.kind == REPLY_ENTRIES)
		entry_batch_free(reply.entries);
	if (raw)
		freeReplyObject(raw);
	reply_decoder_free(decoder);
}

TestSuite(reply, .init = up, .fini = down);

static void parse(const char *bytes, size_t len)
{
	if (raw)
		freeReplyObject(raw);
	raw = NULL;
	redisReader *reader = redisReaderCreate();
	cr_assert_eq(redisReaderFeed(reader, bytes, len), REDIS_OK);
	void *out = NULL;
	cr_assert_eq(redisReaderGetReply(reader, &out), REDIS_OK, "%s", reader->errstr);
	cr_assert(out, "incomplete: %s", bytes);
	raw = out;
	redisReaderFree(reader);
}

static void decode(enum cmd_kind kind, const char *bytes)
{
	if (reply.kind == REPLY_ENTRIES)
		entry_batch_free(reply.entries);
	parse(bytes, strlen(bytes));
	reply_decode(decoder, kind, raw, &reply);
}

static bool slice_is(struct slice s, const char *text)
{
	return s.p && s.len == strlen(text) && memcmp(s.p, text, s.len) == 0;
}

static bool text_is(const struct text *t, const char *text)
{
	return t && slice_is((struct slice){t->bytes, t->len}, text);
}

static void expect_bad(enum cmd_kind kind, const char *bytes)
{
	decode(kind, bytes);
	cr_expect_eq(reply.kind, REPLY_ERROR, "%s", bytes);
	cr_expect_eq(reply.error, RERR_BAD, "%s", bytes);
}

Test(reply, nothing_came)
{
	reply_decode(decoder, CMD_LOCK, NULL, &reply);
	cr_expect_eq(reply.kind, REPLY_NONE);
}

Test(reply, single_values)
{
	decode(CMD_LOCK, "+OK\r\n");
	cr_expect_eq(reply.kind, REPLY_OK);
	decode(CMD_LOCK, "$-1\r\n");
	cr_expect_eq(reply.kind, REPLY_NIL);
	decode(CMD_LOCK, "_\r\n");
	cr_expect_eq(reply.kind, REPLY_NIL);
	decode(CMD_RENEW, "$4\r\nme/1\r\n");
	cr_expect(reply.kind == REPLY_TEXT && slice_is(reply.text, "me/1"));
	decode(CMD_RENEW, "_\r\n");
	cr_expect_eq(reply.kind, REPLY_NIL);
	decode(CMD_PROBE, ":-2\r\n");
	cr_expect(reply.kind == REPLY_INT && reply.integer == -2);
	decode(CMD_ADD, "$3\r\n7-1\r\n");
	cr_expect(reply.kind == REPLY_ID && reply.id.ms == 7 && reply.id.seq == 1);
	decode(CMD_PING, "+PONG\r\n");
	cr_expect_eq(reply.kind, REPLY_OK);
	expect_bad(CMD_LOCK, ":1\r\n");
	expect_bad(CMD_TAKE, "+OK\r\n");
	expect_bad(CMD_ADD, "$3\r\nx-1\r\n");
	expect_bad(CMD_RENEW, "*0\r\n");
}

Test(reply, many_answers_have_one_each)
{
	decode(CMD_TAKE_MANY, "*3\r\n:1\r\n-WRONGTYPE of this one\r\n:2\r\n");
	cr_assert(reply.kind == REPLY_MANY && reply.n == 3);
	cr_expect(reply.many[0].kind == REPLY_INT && reply.many[0].integer == 1);
	cr_expect(reply.many[1].kind == REPLY_ERROR && reply.many[1].error == RERR_OPERATOR);
	cr_expect(reply.many[2].kind == REPLY_INT && reply.many[2].integer == 2);
	decode(CMD_DONE_MANY, "*2\r\n$3\r\n7-1\r\n:0\r\n");
	cr_assert(reply.kind == REPLY_MANY && reply.n == 2);
	cr_expect(reply.many[0].kind == REPLY_ID && reply.many[0].id.ms == 7);
	decode(CMD_DONE_MANY, "-NOSCRIPT No matching script\r\n");
	cr_expect_eq(reply.error, RERR_NOSCRIPT);
	expect_bad(CMD_TAKE_MANY, ":1\r\n");
	expect_bad(CMD_TAKE_MANY, "*1\r\n$-1\r\n");
	expect_bad(CMD_TAKE_MANY, "*1\r\n*0\r\n");
	struct buf b;
	buf_init(&b);
	buf_printf(&b, "*%d\r\n", CMD_MANY_MAX + 1);
	for (int i = 0; i <= CMD_MANY_MAX; i++)
		buf_str(&b, ":1\r\n");
	buf_add(&b, "", 1);
	expect_bad(CMD_TAKE_MANY, b.data);
	buf_fini(&b);
}

Test(reply, requeue_has_three_shapes)
{
	decode(CMD_REQUEUE, "$3\r\n7-1\r\n");
	cr_expect_eq(reply.kind, REPLY_ID);
	decode(CMD_REQUEUE, "$-1\r\n");
	cr_expect_eq(reply.kind, REPLY_NIL);
	decode(CMD_REQUEUE, ":2\r\n");
	cr_expect(reply.kind == REPLY_INT && reply.integer == 2);
	expect_bad(CMD_REQUEUE, "*0\r\n");
}

Test(reply, server_facts)
{
	decode(CMD_ROLE, "*3\r\n$6\r\nmaster\r\n:1\r\n*0\r\n");
	cr_expect(slice_is(reply.text, "master"));
	decode(CMD_RUN_ID, "$46\r\n# Server\r\nredis_version:7\r\nrun_id:abc\r\ntcp:1\r\n\r\n");
	cr_expect(slice_is(reply.text, "abc"));
	decode(CMD_RUN_ID, "=23\r\ntxt:# Server\r\nrun_id:ab\r\n");
	cr_expect(slice_is(reply.text, "ab"));
	expect_bad(CMD_RUN_ID, "$3\r\nabc\r\n");
	decode(CMD_CONFIG_GET_EVENTS, "*2\r\n$1\r\nn\r\n$2\r\nKx\r\n");
	cr_expect(slice_is(reply.text, "Kx"));
	decode(CMD_CONFIG_GET_EVENTS, "%1\r\n$1\r\nn\r\n$0\r\n\r\n");
	cr_expect(reply.kind == REPLY_TEXT && slice_is(reply.text, ""));
	decode(CMD_CONFIG_GET_EVENTS, "*0\r\n");
	cr_expect_eq(reply.kind, REPLY_NIL);
	decode(CMD_PENDING_SUM, "*4\r\n:0\r\n$-1\r\n$-1\r\n*-1\r\n");
	cr_expect(reply.kind == REPLY_INT && reply.integer == 0);
}

/* ---- entries */

#define GOOD_JSON "$39\r\n{\"DataStreamName\":\"s:7\",\"Info\":{\"a\":1}}\r\n"
#define GOOD_ENTRY "*2\r\n$3\r\n5-1\r\n*2\r\n$9\r\nlbs-input\r\n" GOOD_JSON

static void expect_one_entry(void)
{
	cr_assert_eq(reply.kind, REPLY_ENTRIES);
	cr_assert_eq(reply.entries->n, 1);
	const struct entry_in *e = &reply.entries->v[0];
	cr_expect(e->id.ms == 5 && e->id.seq == 1);
	cr_expect_eq(e->problem, ENTRY_GOOD);
	cr_expect(text_is(e->stream, "s:7"));
	cr_expect(text_is(e->info, "{\"a\":1}"));
}

Test(reply, reads_come_as_map_or_array)
{
	decode(CMD_READ, "*1\r\n*2\r\n$1\r\nl\r\n*1\r\n" GOOD_ENTRY);
	expect_one_entry();
	decode(CMD_READ, "%1\r\n$1\r\nl\r\n*1\r\n" GOOD_ENTRY);
	expect_one_entry();
	decode(CMD_FETCH, "*1\r\n" GOOD_ENTRY);
	expect_one_entry();
	cr_expect_null(reply.entries->v[0].fields);
	const char *none[] = {"*-1\r\n", "$-1\r\n", "_\r\n", "*0\r\n", "%0\r\n", "*1\r\n*2\r\n$1\r\nl\r\n*0\r\n"};
	for (size_t i = 0; i < sizeof none / sizeof none[0]; i++) {
		decode(CMD_READ, none[i]);
		cr_expect(reply.kind == REPLY_ENTRIES && reply.entries->n == 0, "%s", none[i]);
	}
}

Test(reply, odd_reads_are_bad)
{
	expect_bad(CMD_READ, ":1\r\n");
	expect_bad(CMD_READ, "*1\r\n$1\r\nl\r\n");
	expect_bad(CMD_READ, "*1\r\n*1\r\n$1\r\nl\r\n");
	expect_bad(CMD_READ, "%1\r\n$1\r\nl\r\n:1\r\n");
	expect_bad(CMD_READ, "%2\r\n$1\r\nl\r\n*0\r\n$1\r\nm\r\n*0\r\n");
	expect_bad(CMD_FETCH, "*2\r\n" GOOD_ENTRY ":1\r\n"); /* the first one is freed */
	expect_bad(CMD_FETCH, "*1\r\n*2\r\n$1\r\n5\r\n*0\r\n");
	expect_bad(CMD_FETCH, "*1\r\n*2\r\n$3\r\n5-1\r\n*1\r\n$1\r\na\r\n");
	expect_bad(CMD_FETCH, "*1\r\n*2\r\n$3\r\n5-1\r\n*2\r\n$1\r\na\r\n:1\r\n");
}

Test(reply, an_entry_deleted_while_pending_is_marked)
{
	decode(CMD_READ_OWN, "*1\r\n*2\r\n$1\r\nl\r\n*2\r\n*2\r\n$3\r\n5-1\r\n*-1\r\n*2\r\n$3\r\n6-0\r\n_\r\n");
	cr_assert_eq(reply.kind, REPLY_ENTRIES);
	cr_assert_eq(reply.entries->n, 2);
	cr_expect_eq(reply.entries->v[0].problem, ENTRY_DELETED);
	cr_expect_eq(reply.entries->v[1].problem, ENTRY_DELETED);
	cr_expect_eq(reply.entries->v[1].id.ms, 6);
}

Test(reply, dead_letters_keep_every_field_byte_exact)
{
	const char bytes[] = "*1\r\n*2\r\n$3\r\n5-1\r\n*6\r\n$1\r\n\0\r\n$0\r\n\r\n$12\r\n_retry_count\r\n$1\r\n3\r\n"
			     "$0\r\n\r\n$4\r\n\r\n\xff\0\r\n";
	parse(bytes, sizeof bytes - 1);
	reply_decode(decoder, CMD_DLQ_RANGE, raw, &reply);
	cr_assert_eq(reply.kind, REPLY_ENTRIES);
	const struct entry_in *e = &reply.entries->v[0];
	cr_expect_eq(e->problem, ENTRY_NO_INPUT);
	cr_expect_eq(e->retry, 3);
	cr_assert_eq(e->fields->n, 3);
	cr_expect(e->fields->v[0].name.len == 1 && e->fields->v[0].name.p[0] == 0 && e->fields->v[0].value.len == 0);
	cr_expect(e->fields->v[2].name.len == 0 && e->fields->v[2].value.len == 4);
	cr_expect_eq(memcmp(e->fields->v[2].value.p, "\r\n\xff\0", 4), 0);
}

/* ---- lbs-input */

static struct entry_in entry;

static enum entry_problem input(const char *json, size_t len, const char *retry)
{
	text_unref(entry.stream);
	text_unref(entry.info);
	text_unref(entry.trace);
	entry = (struct entry_in){.id = {5, 1}};
	struct lbs_fields f = {.input = {json, len}, .retry = {retry, retry ? strlen(retry) : 0}};
	reply_read_input(&entry, &f);
	if (entry.problem != ENTRY_GOOD)
		cr_expect(!entry.stream && !entry.info, "%s", json);
	return entry.problem;
}

static void expect_info(const char *json, const char *info)
{
	cr_expect_eq(input(json, strlen(json), NULL), ENTRY_GOOD, "%s", json);
	cr_expect(text_is(entry.info, info), "%s -> %s", json, entry.info ? entry.info->bytes : "none");
}

static void input_down(void)
{
	input("", 0, NULL);
}

static void read_fields(const char *const fields[][2], size_t n)
{
	input("", 0, NULL);
	struct lbs_fields f = {0};
	reply_lbs_field(&f, (struct slice){"lbs-input", 9}, (struct slice){"{\"DataStreamName\":\"s\"}", 22});
	for (size_t i = 0; i < n; i++)
		reply_lbs_field(&f, (struct slice){fields[i][0], strlen(fields[i][0])},
			(struct slice){fields[i][1], strlen(fields[i][1])});
	reply_read_input(&entry, &f);
	cr_assert_eq(entry.problem, ENTRY_GOOD);
}

Test(lbs_input, the_trace_it_belongs_to, .fini = input_down)
{
	read_fields(
		(const char *const[][2]){{"tracestate", "a=\"1\""}, {"traceparent", "00-ab-cd-01"}, {"other", "x"}}, 3);
	cr_expect(text_is(entry.trace, "{\"traceparent\":\"00-ab-cd-01\",\"tracestate\":\"a=\\\"1\\\"\"}"), "%s",
		entry.trace->bytes);
	read_fields((const char *const[][2]){{"baggage", "k=\xff"}}, 1);
	cr_expect(text_is(entry.trace, "{\"baggage\":\"k=\xEF\xBF\xBD\"}"), "%s", entry.trace->bytes);
	read_fields((const char *const[][2]){{"traceparent", ""}}, 1);
	cr_expect_null(entry.trace);
	static char endless[LBS_TRACE_MAX + 2];
	memset(endless, 'x', sizeof endless - 1);
	read_fields((const char *const[][2]){{"baggage", endless}, {"traceparent", "p"}}, 2);
	cr_expect(text_is(entry.trace, "{\"traceparent\":\"p\"}"));
}

Test(lbs_input, whether_a_worker_died_with_it, .fini = input_down)
{
	read_fields((const char *const[][2]){{"_suspect", "1"}}, 1);
	cr_expect(entry.is_suspect);
	read_fields(NULL, 0);
	cr_expect_not(entry.is_suspect);
}

Test(lbs_input, info_is_value_exact, .fini = input_down)
{
	expect_info("{\"DataStreamName\":\"s\"}", "{}");
	expect_info("{\"DataStreamName\":\"s\",\"Info\":null}", "null");
	expect_info(
		" {\"Info\" : [ 1.0, 1e400, -0, 123456789012345678901234567890, 0.10 ], \"DataStreamName\":\"s\"}\n",
		"[1.0,1e400,-0,123456789012345678901234567890,0.10]");
	expect_info("{\"DataStreamName\":\"s\",\"Info\":{\"a\":1,\"a\":2,\"\\u0000\":\"\\n\\u00e9\"}}",
		"{\"a\":1,\"a\":2,\"\\u0000\":\"\\n\xc3\xa9\"}");
	expect_info("{\"DataStreamName\":\"s\",\"Info\":1,\"Info\":{\"last\":true}}", "{\"last\":true}");
	expect_info("{\"DataStreamName\":\"s\",\"info\":1}", "1");
	expect_info("{\"datastreamname\":\"s\",\"Info\":1,\"INFO\":2}", "2");
	expect_info("{\"DataStreamName\":\"s\",\"Info\":7}", "7");
}

Test(lbs_input, the_name_counts, .fini = input_down)
{
	const char twice[] = "{\"DataStreamName\":\"a\",\"DataStreamName\":\"b{t}\"}";
	cr_expect_eq(input(twice, sizeof twice - 1, NULL), ENTRY_GOOD);
	cr_expect(text_is(entry.stream, "b{t}"));
	cr_expect_eq(entry.lock_slot, 15891); /* of "t" */
	const char *no_name[] = {"{}", "{\"DataStreamName\":\"\"}", "{\"DataStreamName\":7}",
		"{\"DataStreamName\":null}", "{\"datastream_name\":\"s\"}", "{\"DataStreamName\":\"a\\u0000b\"}"};
	for (size_t i = 0; i < sizeof no_name / sizeof no_name[0]; i++)
		cr_expect_eq(input(no_name[i], strlen(no_name[i]), NULL), ENTRY_NO_NAME, "%s", no_name[i]);
	cr_expect_eq(input(NULL, 0, NULL), ENTRY_NO_INPUT);
}

/* What is wrong with it is told as exactly as it is known. */
Test(lbs_input, why_nobody_can_read_it, .fini = input_down)
{
	static const struct {
		const char *json;
		enum entry_problem problem;
	} rows[] = {{"", ENTRY_BAD_JSON}, {"{", ENTRY_BAD_JSON}, {"{\"DataStreamName\":\"s\"} x", ENTRY_BAD_JSON},
		{"{\"DataStreamName\":\"s\",}", ENTRY_BAD_JSON},
		{"{\"DataStreamName\":\"s\",\"Info\":01}", ENTRY_BAD_JSON}, {"\xef\xbb\xbf{}", ENTRY_BAD_JSON},
		{"{\"DataStreamName\":\"\\x\"}", ENTRY_BAD_JSON}, {"{\"DataStreamName\":\"\\u12\"}", ENTRY_BAD_JSON},
		{"{\"a\":\"\n\"}", ENTRY_BAD_JSON}, {"[]", ENTRY_NO_OBJECT}, {"\"s\"", ENTRY_NO_OBJECT},
		{"7", ENTRY_NO_OBJECT}, {"null", ENTRY_NO_OBJECT}, {"{\"DataStreamName\":\"\xff\"}", ENTRY_BAD_UTF8},
		{"{\"DataStreamName\":\"s\",\"Info\":\"\xed\xa0\x80\"}", ENTRY_BAD_UTF8}, {"\xff", ENTRY_BAD_UTF8},
		{"{\"DataStreamName\":\"\\ud800\"}", ENTRY_HALF_CHARACTER},
		{"{\"DataStreamName\":\"s\",\"Info\":{\"u\":\"\\uD83D\"}}", ENTRY_HALF_CHARACTER},
		{"{\"DataStreamName\":\"s\",\"Info\":{\"\\ude00\\ud83d\":1}}", ENTRY_HALF_CHARACTER},
		{"{\"DataStreamName\":\"s\",\"Info\":\"\\ud83d\\ude00\"", ENTRY_BAD_JSON}, /* a pair is a character */
		{"{\"DataStreamName\":\"s\" \"Info\":\"\\ud800\"}", ENTRY_BAD_JSON}}; /* the parser stopped before it */
	for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
		const enum entry_problem problem = input(rows[i].json, strlen(rows[i].json), NULL);
		cr_expect_eq(problem, rows[i].problem, "%s: %s", rows[i].json, entry_problem_text(problem));
	}
}

Test(lbs_input, names_end_at_64_kib, .fini = input_down)
{
	struct buf b;
	buf_init(&b);
	for (size_t extra = 0; extra < 2; extra++) {
		buf_clear(&b);
		buf_str(&b, "{\"DataStreamName\":\"");
		for (size_t i = 0; i < REPLY_STREAM_MAX + extra; i++)
			buf_str(&b, "x");
		buf_str(&b, "\"}");
		cr_expect_eq(input(b.data, b.len, NULL), extra ? ENTRY_NO_NAME : ENTRY_GOOD);
	}
	buf_fini(&b);
}

Test(lbs_input, retry_counts_have_one_to_nine_digits, .fini = input_down)
{
	const struct {
		const char *text;
		uint32_t retry;
		bool bad;
	} rows[] = {{NULL, 0, false}, {"0", 0, false}, {"7", 7, false}, {"007", 7, false},
		{"999999999", 999999999, false}, {"1000000000", 0, true}, {"", 0, true}, {"-1", 0, true},
		{"1x", 0, true}, {" 1", 0, true}, {"1.0", 0, true}};
	for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
		input("{\"DataStreamName\":\"s\"}", 22, rows[i].text);
		cr_expect_eq(entry.retry, rows[i].retry, "%s", rows[i].text);
		cr_expect_eq(entry.bad_retry, rows[i].bad, "%s", rows[i].text);
	}
	input(NULL, 0, "3"); /* counted even when the rest cannot be read */
	cr_expect_eq(entry.retry, 3);
}

/* ---- rows */

Test(reply, pending_rows)
{
	decode(CMD_PENDING,
		"*2\r\n*4\r\n$3\r\n5-1\r\n$2\r\nc1\r\n:70\r\n:1\r\n*4\r\n$3\r\n6-0\r\n$2\r\nc2\r\n:0\r\n:9\r\n");
	cr_assert(reply.kind == REPLY_PENDING && reply.n == 2);
	cr_expect(reply.pending[0].idle_ms == 70 && reply.pending[1].deliveries == 9);
	cr_expect(slice_is(reply.pending[1].consumer, "c2"));
	decode(CMD_PENDING, "*0\r\n");
	cr_expect(reply.kind == REPLY_PENDING && reply.n == 0);
	expect_bad(CMD_PENDING, "*1\r\n*3\r\n$3\r\n5-1\r\n$2\r\nc1\r\n:70\r\n");
	expect_bad(CMD_PENDING, "*1\r\n*4\r\n$3\r\n5-1\r\n$2\r\nc1\r\n:70\r\n:-1\r\n");
}

Test(reply, consumers_come_as_maps_or_arrays)
{
	decode(CMD_CONSUMERS,
		"*1\r\n%4\r\n$4\r\nname\r\n$1\r\na\r\n$7\r\npending\r\n:2\r\n$4\r\nidle\r\n:9\r\n$8\r\ninactive\r\n"
		":-1\r\n");
	cr_assert(reply.kind == REPLY_CONSUMERS && reply.n == 1);
	cr_expect(slice_is(reply.consumers[0].name, "a") && reply.consumers[0].n_pending == 2 &&
		  reply.consumers[0].idle_ms == 9);
	decode(CMD_CONSUMERS, "*1\r\n*6\r\n$4\r\nidle\r\n:9\r\n$4\r\nname\r\n$1\r\na\r\n$7\r\npending\r\n:0\r\n");
	cr_expect(reply.kind == REPLY_CONSUMERS && reply.n == 1);
	expect_bad(CMD_CONSUMERS, "*1\r\n*4\r\n$4\r\nidle\r\n:9\r\n$4\r\nname\r\n$1\r\na\r\n");
}

Test(reply, slots_name_masters)
{
	decode(CMD_SLOTS,
		"*2\r\n"
		"*4\r\n:0\r\n:100\r\n*3\r\n$4\r\nhost\r\n:6379\r\n$2\r\nid\r\n*3\r\n$1\r\nr\r\n:1\r\n$1\r\nx\r\n"
		"*3\r\n:101\r\n:16383\r\n*4\r\n$-1\r\n:6380\r\n$2\r\nid\r\n*0\r\n");
	cr_assert(reply.kind == REPLY_SLOTS && reply.n == 2);
	cr_expect_str_eq(reply.slots[0].host, "host");
	cr_expect(reply.slots[0].from == 0 && reply.slots[0].to == 100 && reply.slots[0].port == 6379);
	cr_expect_str_eq(reply.slots[0].node_id, "id");
	cr_expect_str_eq(reply.slots[1].host, "");
	decode(CMD_SLOTS, "*1\r\n*3\r\n:0\r\n:1\r\n*4\r\n$1\r\n?\r\n:1\r\n$1\r\ni\r\n*2\r\n$2\r\nip\r\n$3\r\n1.2\r\n");
	cr_expect_str_eq(reply.slots[0].host, "1.2");
	expect_bad(CMD_SLOTS, "$1\r\nx\r\n");
}

static void expect_odd(const char *row, const char *named)
{
	char text[300];
	snprintf(text, sizeof text, "*2\r\n%s*3\r\n:0\r\n:9\r\n*2\r\n$1\r\nh\r\n:1\r\n", row);
	decode(CMD_SLOTS, text);
	cr_assert(reply.kind == REPLY_SLOTS && reply.n == 1, "%s", row);
	cr_expect(reply.integer == 1 && slice_is(reply.text, named), "%.*s", (int)reply.text.len, reply.text.p);
	cr_expect_str_eq(reply.slots[0].host, "h");
}

Test(reply, an_odd_row_is_named_and_the_others_are_used)
{
	expect_odd("*3\r\n:5\r\n:1\r\n*2\r\n$1\r\nx\r\n:1\r\n", "slots 5-1 at x:1");
	expect_odd("*3\r\n:0\r\n:16384\r\n*2\r\n$1\r\nx\r\n:1\r\n", "slots 0-16384 at x:1");
	expect_odd("*3\r\n:0\r\n:1\r\n*2\r\n$1\r\nx\r\n:70000\r\n", "slots 0-1 at x:70000");
	expect_odd("*3\r\n:0\r\n:1\r\n*2\r\n$1\r\n?\r\n:7\r\n", "slots 0-1 at ?:7");
	expect_odd("*3\r\n:0\r\n:1\r\n$1\r\nx\r\n", "slots 0-1");
	expect_odd("*2\r\n:0\r\n:1\r\n", "a row of unknown shape");
}

Test(reply, a_row_may_mean_what_was_asked)
{
	decode(CMD_SLOTS, "*1\r\n*3\r\n:0\r\n:1\r\n*4\r\n$0\r\n\r\n:0\r\n$1\r\ni\r\n*2\r\n$2\r\nip\r\n$3\r\n1.2\r\n");
	cr_assert(reply.kind == REPLY_SLOTS && reply.n == 1 && reply.integer == 0);
	cr_expect_str_eq(reply.slots[0].host, "");
	cr_expect_str_eq(reply.slots[0].alt, "1.2");
	cr_expect_eq(reply.slots[0].port, 0);
}

Test(reply, what_a_node_says_of_its_cluster)
{
	decode(CMD_CLUSTER_INFO, "$51\r\ncluster_state:fail\r\ncluster_current_epoch:12\r\nx:1\r\n\r\n");
	cr_assert(reply.kind == REPLY_TEXT && slice_is(reply.text, "fail") && reply.integer == 12);
	decode(CMD_CLUSTER_INFO, "$16\r\ncluster_state:ok\r\n");
	cr_assert(reply.kind == REPLY_TEXT && slice_is(reply.text, "ok") && reply.integer == 0);
	expect_bad(CMD_CLUSTER_INFO, "$3\r\nabc\r\n");
	decode(CMD_CLUSTER_INFO, "-ERR This instance has cluster support disabled\r\n");
	cr_expect(reply.kind == REPLY_ERROR && reply.error == RERR_NO_CLUSTER);
}

/* ---- errors */

static void expect_error(const char *text, enum reply_error error)
{
	reply_set_error(CMD_READ, (struct slice){text, strlen(text)}, &reply);
	cr_expect_eq(reply.kind, REPLY_ERROR, "%s", text);
	cr_expect_eq(reply.error, error, "%s", text);
}

Test(reply, errors_say_what_to_do)
{
	expect_error("LOADING Redis is loading the dataset in memory", RERR_RETRY);
	expect_error("BUSY Redis is busy running a script.", RERR_RETRY);
	expect_error("TRYAGAIN Multiple keys request during rehashing of slot", RERR_RETRY);
	expect_error("NOREPLICAS Not enough good replicas to write.", RERR_RETRY);
	expect_error("OOM command not allowed when used memory > 'maxmemory'.", RERR_RETRY);
	expect_error("MISCONF Redis is configured to save RDB snapshots", RERR_RETRY);
	expect_error("ERR max number of clients reached", RERR_RETRY);
	expect_error("ERR max number of clients + cluster connections reached", RERR_RETRY);
	expect_error("READONLY You can't write against a read only replica.", RERR_REFRESH);
	expect_error("MASTERDOWN Link with MASTER is down", RERR_REFRESH);
	expect_error("CLUSTERDOWN The cluster is down", RERR_REFRESH);
	expect_error("UNBLOCKED force unblock from blocking operation", RERR_REFRESH);
	expect_error("NOSCRIPT No matching script.", RERR_NOSCRIPT);
	expect_error("NOGROUP No such key 'x' or consumer group", RERR_NOGROUP);
	expect_error("ERR This instance has cluster support disabled", RERR_NO_CLUSTER);
	expect_error("WRONGTYPE Operation against a key", RERR_OPERATOR);
	expect_error("NOPERM this user has no permissions", RERR_OPERATOR);
	expect_error("NOAUTH Authentication required.", RERR_OPERATOR);
	expect_error("WRONGPASS invalid username-password pair", RERR_OPERATOR);
	expect_error("ERR unknown command 'GETEX'", RERR_OPERATOR);
	expect_error("BUSYGROUP Consumer Group name already exists", RERR_OPERATOR);
	expect_error("BUSYKEY Target key name already exists.", RERR_OPERATOR);
	expect_error("", RERR_OPERATOR);
	cr_expect(slice_is(reply.text, ""));
	expect_error("OOM", RERR_RETRY);
}

Test(reply, redirections_carry_slot_and_address)
{
	expect_error("MOVED 3999 127.0.0.1:6381", RERR_MOVED);
	cr_expect(reply.moved_slot == 3999 && slice_is(reply.text, "127.0.0.1:6381"));
	expect_error("ASK 16383 ::1:6381", RERR_ASK);
	cr_expect(reply.moved_slot == 16383 && slice_is(reply.text, "::1:6381"));
	expect_error("MOVED 1 :6381", RERR_MOVED);
	cr_expect(slice_is(reply.text, ":6381"));
	const char *bad[] = {"MOVED", "MOVED ", "MOVED x 1:1", "MOVED 16384 a:1", "MOVED 1", "MOVED 1 ", "MOVED 1 a",
		"ASK 123456 a:1"};
	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
		expect_error(bad[i], RERR_BAD);
}

Test(reply, some_errors_depend_on_the_command)
{
	decode(CMD_GROUP_CREATE, "-BUSYGROUP Consumer Group name already exists\r\n");
	cr_expect_eq(reply.kind, REPLY_OK);
	decode(CMD_CONSUMERS, "-ERR no such key\r\n");
	cr_expect_eq(reply.error, RERR_NOGROUP);
	decode(CMD_LENGTH, "-ERR no such key\r\n");
	cr_expect_eq(reply.error, RERR_OPERATOR);
}

/* ---- pushes */

static struct push pushed(const char *bytes)
{
	parse(bytes, strlen(bytes));
	struct push p;
	reply_decode_push(raw, &p);
	return p;
}

#define KEY "$38\r\n__keyspace@0__:s<MUTEX_KEY_SEP>1700-12\r\n"

Test(reply, expired_locks_are_recognised)
{
	struct push p = pushed(">4\r\n$8\r\npmessage\r\n$1\r\n*\r\n" KEY "$7\r\nexpired\r\n");
	cr_expect_eq(p.kind, PUSH_LOCK_EXPIRED);
	cr_expect(slice_is(p.stream, "s") && p.id.ms == 1700 && p.id.seq == 12);
	p = pushed("*3\r\n$7\r\nmessage\r\n" KEY "$7\r\nexpired\r\n");
	cr_expect_eq(p.kind, PUSH_LOCK_EXPIRED);
	p = pushed(">4\r\n$8\r\npmessage\r\n$1\r\n*\r\n" KEY "$3\r\nset\r\n");
	cr_expect_eq(p.kind, PUSH_OTHER);
	cr_expect(slice_is(p.name, "pmessage"));
	p = pushed(">4\r\n$8\r\npmessage\r\n$1\r\n*\r\n$16\r\n__keyspace@0__:s\r\n$7\r\nexpired\r\n");
	cr_expect_eq(p.kind, PUSH_OTHER);
	cr_expect_eq(pushed(">1\r\n$8\r\npmessage\r\n").kind, PUSH_OTHER);
}

Test(reply, other_pushes)
{
	cr_expect_eq(pushed(">3\r\n$10\r\npsubscribe\r\n$1\r\n*\r\n:1\r\n").kind, PUSH_SUBSCRIBED);
	struct push p = pushed(">3\r\n$6\r\nMOVING\r\n:1\r\n:15\r\n");
	cr_expect_eq(p.kind, PUSH_OTHER);
	cr_expect(slice_is(p.name, "MOVING"));
	cr_expect_eq(pushed(">0\r\n").kind, PUSH_OTHER);
	cr_expect_eq(pushed("+OK\r\n").kind, PUSH_OTHER);
	reply_decode_push(NULL, &p);
	cr_expect_eq(p.kind, PUSH_OTHER);
}

Test(reply, the_clock_of_a_server)
{
	decode(CMD_TIME, "*2\r\n$10\r\n1700000000\r\n$6\r\n123999\r\n");
	cr_expect(reply.kind == REPLY_INT && reply.integer == 1700000000123);
	expect_bad(CMD_TIME, "*1\r\n$10\r\n1700000000\r\n");
	expect_bad(CMD_TIME, "*2\r\n$2\r\n1x\r\n$1\r\n0\r\n");
	expect_bad(CMD_TIME, "*2\r\n$18\r\n999999999999999999\r\n$1\r\n0\r\n");
	expect_bad(CMD_TIME, ":1\r\n");
}

static enum refusal refusal_of(const char *text)
{
	reply_set_error(CMD_LOCK, (struct slice){text, strlen(text)}, &reply);
	return reply.refusal;
}

Test(reply, refusals_have_the_name_that_the_metric_has)
{
	cr_expect_eq(refusal_of("OOM command not allowed when used memory > 'maxmemory'."), REFUSAL_OOM);
	cr_expect_eq(refusal_of("MISCONF Redis is configured to save RDB snapshots"), REFUSAL_MISCONF);
	cr_expect_eq(refusal_of("NOREPLICAS Not enough good replicas to write."), REFUSAL_NOREPLICAS);
	cr_expect_eq(refusal_of("READONLY You can't write against a read only replica."), REFUSAL_READONLY);
	cr_expect_eq(refusal_of("NOPERM User x has no permissions"), REFUSAL_NOPERM);
	cr_expect_eq(refusal_of("ERR The user executing the script can't run this command"), REFUSAL_NOPERM);
	cr_expect_eq(refusal_of("WRONGTYPE Operation against a key"), REFUSAL_WRONGTYPE);
	cr_expect_eq(refusal_of("ERR max number of clients reached"), REFUSAL_MAXCLIENTS);
	cr_expect_eq(refusal_of("ERR something new"), REFUSAL_OTHER);
	cr_expect_eq(refusal_of("TRYAGAIN Multiple keys request"), REFUSAL_TRYAGAIN);
	cr_expect_eq(refusal_of("MOVED 1 a:1"), REFUSAL_NONE);
	cr_expect_eq(refusal_of("NOSCRIPT No matching script."), REFUSAL_NONE);
	cr_expect_eq(refusal_of("NOGROUP No such key"), REFUSAL_NONE);
}

Test(reply, a_refusal_is_found_in_our_own_sentence)
{
	cr_expect_eq(
		reply_refusal_in("redis 10.0.0.1:6379: authentication refused: WRONGPASS invalid username-password"),
		REFUSAL_WRONGPASS);
	cr_expect_eq(reply_refusal_in("authentication refused: NOAUTH Redis wants a password"), REFUSAL_NOAUTH);
	cr_expect_eq(reply_refusal_in("redis unix:/run/OOM: connection refused"), REFUSAL_NONE);
	cr_expect_eq(reply_refusal_in("LOADING Redis is loading"), REFUSAL_LOADING);
	cr_expect_eq(reply_refusal_in(""), REFUSAL_NONE);
}

Test(reply, a_number_of_entries_that_no_stream_can_have_is_not_known)
{
	decode(CMD_FEED_OPEN, "*8\r\n$3\r\n5-0\r\n:0\r\n:0\r\n:0\r\n$0\r\n\r\n:7\r\n:0\r\n:0\r\n");
	cr_assert_eq(reply.kind, REPLY_POSITION);
	cr_expect_eq(reply.n_added, 7);
	decode(CMD_FEED_OPEN, "*8\r\n$3\r\n5-0\r\n:0\r\n:0\r\n:0\r\n$0\r\n\r\n:9223372036854775807\r\n:0\r\n:0\r\n");
	cr_assert_eq(reply.kind, REPLY_POSITION);
	cr_expect_eq(reply.n_added, -1, "what comes behind is counted from it");
}

Test(reply, entries_that_are_not_in_order_are_no_answer)
{
	static const char *const ids[] = {"5-0", "4-9"};
	decode(CMD_FEED_READ, "*2\r\n*2\r\n$3\r\n5-0\r\n*0\r\n*2\r\n$3\r\n5-1\r\n*0\r\n");
	cr_assert_eq(reply.kind, REPLY_FEED);
	mem_free(reply.feed);
	for (size_t i = 0; i < sizeof ids / sizeof *ids; i++) {
		char text[96];
		snprintf(text, sizeof text, "*2\r\n*2\r\n$3\r\n5-0\r\n*0\r\n*2\r\n$3\r\n%s\r\n*0\r\n", ids[i]);
		decode(CMD_FEED_READ, text);
		cr_expect_eq(reply.kind, REPLY_ERROR, "%s behind 5-0", ids[i]);
	}
}
