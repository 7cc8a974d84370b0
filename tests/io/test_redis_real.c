/* The same connection against a real redis-server, so that the scripted one does not drift. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

#include "lib/real_redis.h"
#include "lib/redis_rig.h"

static struct rig R;
static struct real_redis *server;

static void start(const char *const *extra)
{
	rig_init(&R);
	server = real_redis_start(extra);
	R.opts.addr = (struct redis_addr){.port = 0};
	snprintf(R.opts.addr.host, sizeof(R.opts.addr.host), "%s", real_redis_socket(server));
	R.opts.client_name = "sluiced-test";
}

static void up(void)
{
	start(NULL);
}

static void up_with_password(void)
{
	start((const char *const[]){"--requirepass", "right", NULL});
}

static void down(void)
{
	rig_fini(&R);
	real_redis_stop(server);
}

Test(redis_real, greets_and_works, .init = up, .fini = down)
{
	R.opts.maint = REDIS_MAINT_AUTO;
	R.opts.db = 2;
	rig_open(&R);
	cr_assert(rig_until(&R, "up\n"));
	cr_assert(redis_resp(R.c) == 3 && redis_client_id(R.c) > 0);
	cr_assert(redis_maint(R.c) == REDIS_MAINT_REFUSED);
	cr_assert_str_eq(redis_endpoint_type(R.c), "none");
	rig_send(&R, 1, "SET a 1", 2000);
	rig_send(&R, 2, "GET a", 2000);
	rig_send(&R, 3, "LPUSH a x", 2000);
	rig_send(&R, 4, "CLIENT GETNAME", 2000);
	rig_send(&R, 5, "XADD s * f v", 2000);
	cr_assert(rig_until(&R, "reply 5"));
	cr_assert(strstr(R.story.data, "up\nreply 1 +OK\nreply 2 1\nreply 3 -WRONGTYPE ") == R.story.data, "%s",
		R.story.data);
	cr_assert(strstr(R.story.data, "reply 4 sluiced-test\n"), "%s", R.story.data);
}

Test(redis_real, subscribes, .init = up, .fini = down)
{
	R.opts.is_subscriber = true;
	R.opts.times.ping_idle_ms = 20;
	rig_open(&R);
	cr_assert(rig_until(&R, "up\n"));
	rig_send(&R, 1, "CONFIG SET notify-keyspace-events Kx", 2000);
	rig_send(&R, 2, "PSUBSCRIBE __keyspace@0__:*lock* other", 2000);
	rig_send(&R, 3, "SET a-lock 1 PX 1", 2000);
	cr_assert(rig_until(&R, "expired"));
	cr_assert(strstr(R.story.data,
			  "push psubscribe __keyspace@0__:*lock* +1\npush psubscribe other +2\nreply 2 [3]\n"),
		"%s", R.story.data);
	rig_run_for(&R, 100);
	cr_assert(redis_is_up(R.c), "our own PINGs do no harm on a subscriber");
	rig_send(&R, 4, "PUNSUBSCRIBE other", 2000);
	cr_assert(rig_until(&R, "reply 4"));
}

Test(redis_real, a_blocking_read_waits_without_pings, .init = up, .fini = down)
{
	R.opts.times.ping_idle_ms = 20;
	R.opts.times.connect_ms = 200; /* a PING behind the read would be late */
	rig_open(&R);
	cr_assert(rig_until(&R, "up\n"));
	rig_send(&R, 1, "XREAD BLOCK 500 STREAMS s $", 3000);
	cr_assert(rig_until(&R, "reply 1 nil"), "%s", R.story.data);
	cr_assert_str_eq(R.story.data, "up\nreply 1 nil\n");
}

Test(redis_real, a_wrong_password_then_the_right_one, .init = up_with_password, .fini = down)
{
	R.opts.password = "wrong";
	rig_open(&R);
	cr_assert(rig_until(&R, "down"));
	cr_assert(strstr(R.story.data, "authentication refused: WRONGPASS "), "%s", R.story.data);
	redis_set_auth(R.c, "", "");
	cr_assert(rig_until(&R, "authentication refused: NOAUTH Redis wants a password, redis.password is not set"));
	redis_set_auth(R.c, "", "right");
	cr_assert(rig_until(&R, "up\n"));
	redis_set_auth(R.c, "default", "right");
	rig_send(&R, 1, "ECHO on", 2000);
	cr_assert(rig_until(&R, "reply 1 on\n"));
}

Test(redis_real, new_credentials_wait_behind_a_blocking_read, .init = up_with_password, .fini = down)
{
	R.opts.password = "right";
	R.opts.times.connect_ms = 200;
	rig_open(&R);
	cr_assert(rig_until(&R, "up\n"));
	rig_send(&R, 1, "XREAD BLOCK 600 STREAMS s $", 3000);
	redis_set_auth(R.c, "", "wrong");
	redis_set_auth(R.c, "", "right");
	rig_send(&R, 2, "ECHO on", 3000);
	cr_assert(rig_until(&R, "reply 2"));
	cr_assert_str_eq(R.story.data, "up\nreply 1 nil\nreply 2 on\n");
}

Test(redis_real, a_server_that_pauses_is_noticed_and_used_again, .init = up, .fini = down)
{
	rig_open(&R);
	cr_assert(rig_until(&R, "up\n"));
	real_redis_command(server, "CLIENT PAUSE 300");
	rig_send(&R, 1, "ECHO a", 50);
	cr_assert(rig_until(&R, "no answer to ECHO"));
	cr_assert(rig_until(&R, "waiting)\nup\n"));
}
