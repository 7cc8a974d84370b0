/* Attributes are taken out of the stream, wherever they stand and however it is cut. */
#include "io/redis/attributes.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

#include "base/buf.h"
#include "lib/redis_rig.h"

static void collect(void *arg, const char *bytes, size_t len)
{
	buf_add(arg, bytes, len);
}

/* Fed in pieces of `step` bytes. */
static bool feed(const char *text, size_t step, struct buf *out)
{
	struct attributes a = {0};
	bool is_good = true;
	for (size_t at = 0, len = strlen(text); at < len && is_good; at += step)
		is_good = attributes_feed(&a, text + at, len - at < step ? len - at : step, collect, out);
	buf_add(out, "", 1);
	return is_good;
}

static void expect(const char *text, const char *want)
{
	for (size_t step = 1; step <= strlen(text); step++) {
		struct buf out;
		buf_init(&out);
		cr_assert(feed(text, step, &out), "%s", text);
		cr_assert_str_eq(out.data, want, "in pieces of %zu: \"%s\"", step, out.data);
		buf_fini(&out);
	}
}

#define ATTR "|1\r\n+ttl\r\n:3600\r\n"

Test(redis_attributes, are_taken_out)
{
	expect("+OK\r\n", "+OK\r\n");
	expect(ATTR "+OK\r\n", "+OK\r\n");
	expect(":1\r\n" ATTR ATTR "$3\r\n|1\r\r\n:2\r\n", ":1\r\n$3\r\n|1\r\r\n:2\r\n");
	expect("*2\r\n" ATTR ":1\r\n*1\r\n" ATTR "_\r\n", "*2\r\n:1\r\n*1\r\n_\r\n");
	expect("|2\r\n+a\r\n*2\r\n%1\r\n+k\r\n$2\r\n\r\n\r\n~0\r\n+b\r\n|1\r\n+x\r\n+y\r\n#t\r\n>2\r\n+m\r\n+n\r\n",
		">2\r\n+m\r\n+n\r\n");
	expect("|0\r\n*-1\r\n$-1\r\n$0\r\n\r\n", "*-1\r\n$-1\r\n$0\r\n\r\n");
	expect("+|1\r\n-ERR |1\r\n=5\r\ntxt:|\r\n", "+|1\r\n-ERR |1\r\n=5\r\ntxt:|\r\n");
}

#define HUGE_NUMBER "99999999999999999999999"

/* The library would end the connection at a number that it cannot read. */
Test(redis_attributes, values_of_a_push_become_texts)
{
	expect(">3\r\n+MOVING\r\n:0\r\n:" HUGE_NUMBER "\r\n:1\r\n",
		">3\r\n+MOVING\r\n+0\r\n+" HUGE_NUMBER "\r\n:1\r\n");
	expect(">5\r\n:x\r\n,y\r\n#z\r\n(1.5\r\n_\r\n,1.5\r\n", ">5\r\n+x\r\n+y\r\n+z\r\n+1.5\r\n_\r\n,1.5\r\n");
	expect(">2\r\n*2\r\n:1\r\n%1\r\n:2\r\n~1\r\n:3\r\n:4\r\n:5\r\n",
		">2\r\n*2\r\n+1\r\n%1\r\n+2\r\n~1\r\n+3\r\n+4\r\n:5\r\n");
	expect(">3\r\n$2\r\n:7\r\n=6\r\ntxt::8\r\n$-1\r\n:9\r\n", ">3\r\n$2\r\n:7\r\n=6\r\ntxt::8\r\n$-1\r\n:9\r\n");
	expect(">2\r\n" ATTR "*-1\r\n" ATTR ":1\r\n" ATTR ":2\r\n", ">2\r\n*-1\r\n+1\r\n:2\r\n");
	expect(">0\r\n:1\r\n>-1\r\n:2\r\n>1\r\n*0\r\n:3\r\n", ">0\r\n:1\r\n>-1\r\n:2\r\n>1\r\n*0\r\n:3\r\n");
	expect(":" HUGE_NUMBER "\r\n*2\r\n:1\r\n,2\r\n", ":" HUGE_NUMBER "\r\n*2\r\n:1\r\n,2\r\n");
}

Test(redis_attributes, what_makes_no_sense)
{
	static const char *const bad[] = {
		"|x\r\n", "|\r\n", "|99999999999\r\n", "|1\r\n$x\r\n", "|1111111111111111111111111111\r\n"};
	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
		struct buf out;
		buf_init(&out);
		cr_assert(!feed(bad[i], 1, &out), "%s", bad[i]);
		buf_fini(&out);
	}
	expect("*x\r\n|1\r\n+a\r\n", "*x\r\n|1\r\n+a\r\n"); /* the library says what is wrong */
}

static struct rig R;

static void up(void)
{
	rig_init(&R);
}

static void down(void)
{
	rig_fini(&R);
}

/* And the replies around it belong to their commands. */
Test(redis_attributes, a_push_with_a_huge_number_costs_nothing, .init = up, .fini = down)
{
	rig_serve(&R, (const char *const[]){"hello\nexpect GET\ntrickle >2\\r\\n+p\\r\\n:" HUGE_NUMBER
					    "\\r\\n:1\\r\\n>2\\r\\n"
					    ":-" HUGE_NUMBER
					    "\\r\\n#x\\r\\n\nexpect GET\nsend :2\\r\\n\nexpect GET\nsend :" HUGE_NUMBER
					    "\\r\\n\nserve",
			      NULL});
	rig_open(&R);
	cr_assert(rig_until(&R, "up\n"));
	rig_send(&R, 1, "GET a", 2000);
	rig_send(&R, 2, "GET a", 2000);
	cr_assert(rig_until(&R, "reply 2 :2\n"), "%s", R.story.data);
	cr_assert(strstr(R.story.data, "push +p +" HUGE_NUMBER "\nreply 1 :1\npush +-" HUGE_NUMBER " +x\nreply 2 :2\n"),
		"%s", R.story.data);
	rig_send(&R, 3, "GET a", 2000); /* in a reply it is an error, not another number */
	cr_assert(rig_until(&R, "Bad integer value"), "%s", R.story.data);
}

Test(redis_attributes, before_replies_and_pushes_of_a_connection, .init = up, .fini = down)
{
	rig_serve(&R, (const char *const[]){
			      "hello\nexpect GET\ntrickle |1\\r\\n+a\\r\\n%1\\r\\n+b\\r\\n:1\\r\\n$1\\r\\nx\\r\\n\n"
			      "expect GET\nsend "
			      "|1\\r\\n+a\\r\\n:1\\r\\n>2\\r\\n+p\\r\\n|1\\r\\n+a\\r\\n:1\\r\\n+q\\r\\n:5\\r\\n\n"
			      "expect GET\nsend |x\\r\\n\nserve",
			      NULL});
	rig_open(&R);
	cr_assert(rig_until(&R, "up\n"));
	rig_send(&R, 1, "GET a", 2000);
	cr_assert(rig_until(&R, "reply 1 x\n"), "%s", R.story.data);
	rig_send(&R, 2, "GET a", 2000);
	cr_assert(rig_until(&R, "push +p +q\nreply 2 :5\n"), "%s", R.story.data);
	rig_send(&R, 3, "GET a", 2000);
	cr_assert(rig_until(&R, "an attribute that makes no sense"), "%s", R.story.data);
}
