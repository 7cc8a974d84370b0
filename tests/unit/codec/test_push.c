/* Bytes of pushes in, notifications out: as captured from real servers, and every shape that may come instead. */
#include "codec/push.h"

#include <criterion/criterion.h>
#include <hiredis/hiredis.h>
#include <stdio.h>

static struct note note;

static enum push_class read_push(const char *bytes)
{
	redisReader *reader = redisReaderCreate();
	void *out = NULL;
	redisReaderFeed(reader, bytes, strlen(bytes));
	cr_assert_eq(redisReaderGetReply(reader, &out), REDIS_OK, "%s", reader->errstr);
	cr_assert(out, "incomplete: %s", bytes);
	enum push_class class = push_decode(out, &note, NULL);
	freeReplyObject(out);
	redisReaderFree(reader);
	return class;
}

#define IS_NOTE(bytes, k, s, sec, end)                                                                                 \
	do {                                                                                                           \
		cr_assert_eq(read_push(bytes), PUSH_IS_NOTE, "%s", bytes);                                             \
		cr_assert_eq(note.kind, k);                                                                            \
		cr_assert_eq(note.seq, s);                                                                             \
		cr_assert_eq(note.seconds, sec);                                                                       \
		cr_assert_str_eq(note.endpoint, end);                                                                  \
	} while (0)

Test(push, as_captured)
{
	IS_NOTE(">4\r\n$6\r\nMOVING\r\n:0\r\n:15\r\n_\r\n", NOTE_MOVING, 0, 15, "");
	IS_NOTE(">4\r\n$6\r\nMOVING\r\n:3\r\n:15\r\n$14\r\n10.0.0.1:12000\r\n", NOTE_MOVING, 3, 15, "10.0.0.1:12000");
	IS_NOTE(">4\r\n$9\r\nMIGRATING\r\n:0\r\n:2\r\n$6\r\n[\"27\"]\r\n", NOTE_MIGRATING, 0, 2, "");
	IS_NOTE(">3\r\n$8\r\nMIGRATED\r\n:1\r\n$6\r\n[\"27\"]\r\n", NOTE_MIGRATED, 1, 0, "");
	IS_NOTE(">4\r\n$12\r\nFAILING_OVER\r\n:0\r\n:2\r\n$6\r\n[\"21\"]\r\n", NOTE_FAILING_OVER, 0, 2, "");
	IS_NOTE(">3\r\n$11\r\nFAILED_OVER\r\n:1\r\n$6\r\n[\"21\"]\r\n", NOTE_FAILED_OVER, 1, 0, "");
	IS_NOTE(">3\r\n$10\r\nSMIGRATING\r\n:18\r\n$9\r\n8892-8991\r\n", NOTE_SMIGRATING, 18, 0, "");
	IS_NOTE(">3\r\n$9\r\nSMIGRATED\r\n:19\r\n*1\r\n*3\r\n$20\r\n10.129.228.140:13486\r\n$18\r\n10.252.90.18:"
		"13486\r\n"
		"$9\r\n8892-8991\r\n",
		NOTE_SMIGRATED, 19, 0, "");
}

Test(push, leniently)
{
	IS_NOTE(">4\r\n+moving\r\n$1\r\n7\r\n+15\r\n+h:1\r\n", NOTE_MOVING, 7, 15, "h:1");
	IS_NOTE(">2\r\n+Migrating\r\n:5\r\n", NOTE_MIGRATING, 5, 0, "");
	IS_NOTE(">3\r\n+MIGRATING\r\n:5\r\n$6\r\n[\"27\"]\r\n", NOTE_MIGRATING, 5, 0, "");
	IS_NOTE(">3\r\n+MOVING\r\n:5\r\n:1\r\n", NOTE_MOVING, 5, 1, "");
	IS_NOTE(">6\r\n+MOVING\r\n:5\r\n:1\r\n+h:1\r\n+more\r\n*1\r\n:1\r\n", NOTE_MOVING, 5, 1, "h:1");
	IS_NOTE(">4\r\n+MOVING\r\n:5\r\n:-3\r\n+h:1\r\n", NOTE_MOVING, 5, 0, "h:1");
	IS_NOTE(">5\r\n+SMIGRATING\r\n:5\r\n+1\r\n+2-3\r\n+4\r\n", NOTE_SMIGRATING, 5, 0, "");
	IS_NOTE(">3\r\n+SMIGRATED\r\n:5\r\n*2\r\n:1\r\n*1\r\n+x\r\n", NOTE_SMIGRATED, 5, 0, "");
	cr_assert_eq(read_push(">4\r\n+MOVING\r\n:5\r\n+99999999999999999999999\r\n+h:1\r\n"), PUSH_IS_NOTE);
	cr_assert_gt(note.seconds, 1000000);
	IS_NOTE(">4\r\n+MOVING\r\n+9223372036854775806\r\n+-7\r\n+h:1\r\n", NOTE_MOVING, INT64_MAX - 1, 0, "h:1");
	IS_NOTE(">2\r\n+MIGRATING\r\n+1795999647331123456\r\n", NOTE_MIGRATING, 1795999647331123456, 0, "");
	IS_NOTE(">4\r\n+MOVING\r\n+9223372036854775808\r\n+-9223372036854775809\r\n+h:1\r\n", NOTE_MOVING, INT64_MAX, 0,
		"h:1");
}

Test(push, endpoints)
{
	static const struct {
		const char *in, *out;
	} rows[] = {{"h:1", "h:1"}, {"10.0.0.1:65535", "10.0.0.1:65535"},
		{"a-b.c_d.example:6379", "a-b.c_d.example:6379"}, {"h.example.:1", "h.example.:1"},
		{"[::1]:6379", "[::1]:6379"}, {"2001:db8::7:6379", "[2001:db8::7]:6379"}, {"", ""}, {"null", ""},
		{"?:6379", ""}, {":6379", ""}, {"host", ""}, {"host:", ""}, {"host:0", ""}, {"host:65536", ""},
		{"host:-1", ""}, {"host:+1", ""}, {"host:12x", ""}, {"host:000001", ""}, {"a b:1", ""}, {"[::1]", ""},
		{"[]:1", ""}, {"[x]:1", ""}, {"[::1:1", ""}, {"a:b:1", ""}, {"::1", ""}, {"h/x:1", ""}, {"unix:1", ""},
		{"unix.example:1", "unix.example:1"}};
	for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
		char out[HANDOFF_ADDRESS];
		bool is = push_endpoint(rows[i].in, strlen(rows[i].in), out);
		cr_assert_str_eq(out, rows[i].out, "%s -> %s", rows[i].in, out);
		cr_assert_eq(is, rows[i].out[0] != '\0');
	}
	IS_NOTE(">4\r\n+MOVING\r\n:5\r\n:1\r\n$-1\r\n", NOTE_MOVING, 5, 1, "");
	IS_NOTE(">4\r\n+MOVING\r\n:5\r\n:1\r\n$0\r\n\r\n", NOTE_MOVING, 5, 1, "");
	IS_NOTE(">4\r\n+MOVING\r\n:5\r\n:1\r\n:17\r\n", NOTE_MOVING, 5, 1, "");
	char longer[600];
	char out[HANDOFF_ADDRESS];
	memset(longer, 'h', sizeof longer);
	memcpy(longer + 590, ":1", 3);
	cr_assert(!push_endpoint(longer, strlen(longer), out));
}

Test(push, broken)
{
	cr_assert_eq(read_push(">2\r\n+WHATEVER\r\n:1\r\n"), PUSH_IS_BROKEN);
	cr_assert_eq(note.kind, NOTE_KINDS);
	cr_assert_eq(read_push(">1\r\n+MOVING\r\n"), PUSH_IS_BROKEN);
	cr_assert_eq(note.kind, NOTE_MOVING);
	cr_assert_eq(read_push(">2\r\n+MOVING\r\n:1\r\n"), PUSH_IS_BROKEN); /* neither where nor when */
	cr_assert_eq(read_push(">4\r\n+MOVING\r\n:1\r\n_\r\n_\r\n"), PUSH_IS_BROKEN);
	cr_assert_eq(read_push(">3\r\n+MOVING\r\n:1\r\n:9\r\n"), PUSH_IS_NOTE);
	cr_assert_eq(read_push(">4\r\n+MOVING\r\n:1\r\n_\r\n+b:2\r\n"), PUSH_IS_NOTE);
	cr_assert_eq(read_push(">2\r\n+MIGRATED\r\n+x\r\n"), PUSH_IS_BROKEN);
	cr_assert_eq(read_push(">2\r\n+MIGRATED\r\n:-1\r\n"), PUSH_IS_BROKEN);
	cr_assert_eq(read_push(">1\r\n:1\r\n"), PUSH_IS_BROKEN);
	cr_assert_eq(read_push(">0\r\n"), PUSH_IS_BROKEN);
	cr_assert_eq(read_push(">4\r\n+pmessage\r\n+a\r\n+b\r\n+c\r\n"), PUSH_IS_PUBSUB);
	cr_assert_eq(read_push(">3\r\n+psubscribe\r\n+a\r\n:1\r\n"), PUSH_IS_PUBSUB);
	cr_assert_eq(push_decode(NULL, &note, NULL), PUSH_IS_BROKEN);
}
