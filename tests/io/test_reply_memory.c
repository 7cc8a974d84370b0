/* The same bytes through hiredis' own objects and through ours: what they say must be the same, for each kind of reply,
 * wherever the bytes are cut, and however many replies have used the memory before. */
#include "base/buf.h"
#include "base/mem.h"
#include "io/redis/reply_memory.h"

#include <criterion/criterion.h>
#include <stdbool.h>
#include <string.h>

static const char *const replies[] = {"+OK\r\n", "-ERR no\r\n", ":42\r\n", ":-1\r\n", "$-1\r\n", "*-1\r\n", "_\r\n",
	"#t\r\n", "#f\r\n", ",1.5\r\n", ",-inf\r\n", "(3492890328409238509324850943850943825024385\r\n",
	"=15\r\ntxt:Some string\r\n", "=4\r\ntxt:\r\n", "$0\r\n\r\n", "$5\r\na\0b\r\n\r\n", "*0\r\n", "%0\r\n",
	"~0\r\n", ">2\r\n+message\r\n$1\r\nx\r\n", "%2\r\n+a\r\n:1\r\n+b\r\n*2\r\n,2\r\n_\r\n",
	"~3\r\n#t\r\n:1\r\n$1\r\nx\r\n",
	"*2\r\n*2\r\n$15\r\n1526919030474-0\r\n*2\r\n$1\r\nn\r\n$3\r\nabc\r\n*2\r\n$1\r\n2\r\n*0\r\n", "$-1\r\n"};
static const size_t lens[sizeof replies / sizeof *replies] = {[15] = 11}; /* the one with a NUL */

static void describe(struct buf *b, const redisReply *r)
{
	buf_printf(b, "<%d %lld %g %zu:", r->type, r->integer, r->type == REDIS_REPLY_DOUBLE ? r->dval : 0, r->len);
	if (r->str)
		buf_add(b, r->str, r->len + 1);
	if (r->type == REDIS_REPLY_VERB)
		buf_str(b, r->vtype);
	for (size_t i = 0; i < r->elements; i++)
		describe(b, r->element[i]);
	buf_str(b, ">");
}

static size_t length(size_t i)
{
	return lens[i] ? lens[i] : strlen(replies[i]);
}

/* Reads one reply, cut at `cut`. */
static redisReply *parse(redisReader *r, size_t i, size_t cut)
{
	void *reply = NULL;
	cr_assert_eq(redisReaderFeed(r, replies[i], cut), REDIS_OK);
	cr_assert_eq(redisReaderGetReply(r, &reply), REDIS_OK, "%s: %s", replies[i], r->errstr);
	cr_assert(!reply || cut == length(i));
	redisReaderFeed(r, replies[i] + cut, length(i) - cut);
	if (!reply)
		cr_assert_eq(redisReaderGetReply(r, &reply), REDIS_OK, "%s", replies[i]);
	cr_assert_not_null(reply, "%s", replies[i]);
	return reply;
}

Test(reply_memory, its_objects_say_what_those_of_hiredis_say)
{
	struct reply_memory *m = reply_memory_new(0);
	redisReader *ours = reply_memory_reader(m), *theirs = redisReaderCreate();
	struct buf a, b;
	buf_init(&a);
	buf_init(&b);
	for (size_t i = 0; i < sizeof replies / sizeof *replies; i++)
		for (size_t cut = 0; cut <= length(i); cut++) {
			buf_clear(&a);
			buf_clear(&b);
			redisReply *r = parse(theirs, i, cut);
			describe(&a, r);
			freeReplyObject(r);
			describe(&b, parse(ours, i, cut));
			reply_memory_clear(m);
			cr_assert(a.len == b.len && memcmp(a.data, b.data, a.len) == 0, "%s: %s, not %s", replies[i],
				b.data, a.data);
		}
	cr_expect_null(reply_memory_refused(m));
	buf_fini(&a);
	buf_fini(&b);
	redisReaderFree(theirs);
	redisReaderFree(ours);
	reply_memory_free(m);
}

/* hiredis' own objects lose what it was: a nil is an answer, a push of nil length is none. */
Test(reply_memory, a_push_of_nil_length_is_still_a_push)
{
	static const struct {
		const char *bytes;
		int type;
	} rows[] = {{">-1\r\n", REDIS_REPLY_PUSH}, {">0\r\n", REDIS_REPLY_PUSH}, {"~-1\r\n", REDIS_REPLY_NIL},
		{"%-1\r\n", REDIS_REPLY_NIL}, {"*-1\r\n", REDIS_REPLY_NIL}, {"$-1\r\n", REDIS_REPLY_NIL},
		{"_\r\n", REDIS_REPLY_NIL}};
	struct reply_memory *m = reply_memory_new(0);
	redisReader *reader = reply_memory_reader(m);
	for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
		void *reply = NULL;
		cr_assert_eq(redisReaderFeed(reader, rows[i].bytes, strlen(rows[i].bytes)), REDIS_OK);
		cr_assert_eq(redisReaderGetReply(reader, &reply), REDIS_OK);
		cr_assert_not_null(reply);
		const redisReply *r = reply;
		cr_expect(r->type == rows[i].type && r->elements == 0, "%s is of type %d", rows[i].bytes, r->type);
		reply_memory_clear(m);
	}
	redisReaderFree(reader);
	reply_memory_free(m);
}

/* A reply of so many strings of so many bytes. */
static void expect_strings(struct reply_memory *m, redisReader *r, size_t n, size_t len)
{
	struct buf b;
	buf_init(&b);
	buf_printf(&b, "*%zu\r\n", n);
	for (size_t i = 0; i < n; i++) {
		buf_printf(&b, "$%zu\r\n", len);
		memset(buf_room(&b, len), 'a' + (int)(i % 26), len);
		buf_added(&b, len);
		buf_str(&b, "\r\n");
	}
	void *reply = NULL;
	cr_assert_eq(redisReaderFeed(r, b.data, b.len), REDIS_OK);
	cr_assert_eq(redisReaderGetReply(r, &reply), REDIS_OK);
	redisReply *list = reply;
	cr_assert(list && list->elements == n);
	for (size_t i = 0; i < n; i++) {
		const redisReply *s = list->element[i];
		cr_assert(s->len == len && strlen(s->str) == len);
		for (size_t k = 0; k < len; k++)
			cr_assert_eq(s->str[k], 'a' + (int)(i % 26), "string %zu of %zu", i, n);
	}
	reply_memory_clear(m);
	buf_fini(&b);
}

Test(reply_memory, replies_of_all_sizes_use_it_one_after_the_other)
{
	struct reply_memory *m = reply_memory_new(0);
	redisReader *r = reply_memory_reader(m);
	static const size_t sizes[][2] = {
		{1, 1}, {3, 5000}, {1000, 3}, {1, 300000}, {2000, 200}, {10, 10}, {0, 0}, {7, 70000}};
	for (size_t i = 0; i < 3 * sizeof sizes / sizeof *sizes; i++) {
		const size_t *s = sizes[i % (sizeof sizes / sizeof *sizes)];
		expect_strings(m, r, s[0], s[1]);
	}
	redisReaderFree(r);
	reply_memory_free(m);
}

/* n lists of ten lists of ten numbers. */
static void expect_lists(size_t n, bool is_taken)
{
	struct reply_memory *m = reply_memory_new(10);
	redisReader *r = reply_memory_reader(m);
	struct buf b;
	buf_init(&b);
	buf_printf(&b, "*%zu\r\n", n);
	for (size_t i = 0; i < n; i++) {
		buf_str(&b, "*10\r\n");
		for (int k = 0; k < 10; k++)
			buf_str(&b, "*10\r\n:0\r\n:1\r\n:2\r\n:3\r\n:4\r\n:5\r\n:6\r\n:7\r\n:8\r\n:9\r\n");
	}
	void *reply = NULL;
	redisReaderFeed(r, b.data, b.len);
	cr_expect_eq(redisReaderGetReply(r, &reply) == REDIS_OK && reply, is_taken, "%zu", n);
	cr_expect_eq(reply_memory_refused(m) == NULL, is_taken);
	redisReaderFree(r);
	reply_memory_free(m);
	buf_fini(&b);
}

Test(reply_memory, arrays_that_are_too_long_together_are_refused)
{
	expect_lists(1, true);
	expect_lists(2, false);
}
