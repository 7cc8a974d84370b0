#include "codec/reply_sentinel.h"
#include <criterion/criterion.h>
#include <hiredis/hiredis.h>
#include <stdio.h>
#include <string.h>

static redisReply *parsed;

static const redisReply *read_reply(const char *text)
{
	redisReader *r = redisReaderCreate();
	if (parsed)
		freeReplyObject(parsed);
	void *out = NULL;
	cr_assert_eq(redisReaderFeed(r, text, strlen(text)), REDIS_OK);
	cr_assert_eq(redisReaderGetReply(r, &out), REDIS_OK);
	cr_assert_not_null(out, "incomplete: %s", text);
	redisReaderFree(r);
	return parsed = out;
}

static void down(void)
{
	freeReplyObject(parsed);
}

Test(sentinel, names_the_master, .fini = down)
{
	char addr[SENTINEL_ADDR];
	cr_expect(sentinel_decode_addr(read_reply("*2\r\n$8\r\n10.0.0.1\r\n$4\r\n6379\r\n"), addr));
	cr_expect_str_eq(addr, "10.0.0.1:6379");
	cr_expect(sentinel_decode_addr(read_reply("*2\r\n$3\r\n::1\r\n$4\r\n6379\r\n"), addr));
	cr_expect_str_eq(addr, "[::1]:6379");
	cr_expect_not(sentinel_decode_addr(read_reply("*-1\r\n"), addr), "no such master");
	cr_expect_not(sentinel_decode_addr(read_reply("-NOAUTH x\r\n"), addr));
	cr_expect_not(sentinel_decode_addr(read_reply("*2\r\n$0\r\n\r\n$4\r\n6379\r\n"), addr));
	cr_expect_not(sentinel_decode_addr(read_reply("*2\r\n$1\r\na\r\n:6379\r\n"), addr));
	cr_expect_not(sentinel_decode_addr(read_reply("*1\r\n$1\r\na\r\n"), addr));
}

Test(sentinel, tells_its_epoch_and_its_peers, .fini = down)
{
	cr_expect_eq(
		sentinel_decode_epoch(read_reply("*4\r\n$2\r\nip\r\n$1\r\na\r\n$12\r\nconfig-epoch\r\n$2\r\n17\r\n")),
		17);
	cr_expect_eq(sentinel_decode_epoch(read_reply("%1\r\n$12\r\nconfig-epoch\r\n$1\r\n3\r\n")), 3);
	cr_expect_eq(sentinel_decode_epoch(read_reply("-ERR No such master\r\n")), 0);
	char peers[2][SENTINEL_ADDR];
	const char *three = "*3\r\n"
			    "%2\r\n$2\r\nip\r\n$1\r\na\r\n$4\r\nport\r\n$5\r\n26379\r\n"
			    "*4\r\n$4\r\nport\r\n$1\r\n7\r\n$2\r\nip\r\n$1\r\nb\r\n"
			    "*4\r\n$4\r\nport\r\n$1\r\n7\r\n$2\r\nip\r\n$1\r\nc\r\n";
	cr_assert_eq(sentinel_decode_peers(read_reply(three), peers, 2), 2);
	cr_expect_str_eq(peers[0], "a:26379");
	cr_expect_str_eq(peers[1], "b:7");
	cr_expect_eq(sentinel_decode_peers(read_reply("*1\r\n*2\r\n$2\r\nip\r\n$1\r\na\r\n"), peers, 2), 0);
	cr_expect_eq(sentinel_decode_peers(read_reply("-ERR x\r\n"), peers, 2), 0);
}

Test(sentinel, a_switch_is_about_one_master, .fini = down)
{
	static const char push[] = ">3\r\n$7\r\nmessage\r\n$14\r\n+switch-master\r\n$17\r\nmy a 1 b 2 xxxxxx\r\n";
	cr_expect(sentinel_is_switch(read_reply(push), "my"));
	cr_expect_not(sentinel_is_switch(read_reply(push), "m"));
	cr_expect_not(sentinel_is_switch(read_reply(push), "mys"));
	cr_expect_not(sentinel_is_switch(read_reply(">3\r\n$9\r\nsubscribe\r\n$14\r\n+switch-master\r\n:1\r\n"), "my"));
}

Test(sentinel, a_role_and_an_error_in_words, .fini = down)
{
	char role[SENTINEL_ROLE];
	sentinel_decode_role(read_reply("*3\r\n$6\r\nmaster\r\n:1\r\n*0\r\n"), role);
	cr_expect_str_eq(role, "master");
	sentinel_decode_role(read_reply("*0\r\n"), role);
	cr_expect_str_eq(role, "");
	cr_expect_str_eq(sentinel_error(read_reply("-NOAUTH x\r\n")), "NOAUTH x");
	cr_expect_null(sentinel_error(read_reply("*0\r\n")));
}
