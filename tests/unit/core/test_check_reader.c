/* As test_check_shard.c, for a reader and for connections that move; apart because of their private headers. */
#include "core/handoff/handoff_p.h"
#include "core/shard/reader_p.h"
#include "unit/core/shard_story.h"
#include <signal.h>

static struct shard_rules rules = {
	.consumer = "redis-consumer-me", .lock_value = "redis-consumer-me/20", .command_timeout_ms = 3000};
static struct shard_ctx C;
static struct effects out;

static void begin(void)
{
	alarm(60);
	effects_init(&out);
	ctx_init(&C, &rules, 0);
	ctx_begin(&C, 1000, 1700000001000, &out);
	ctx_service_put(&C, story_rules())->is_read = true;
}

static void end(void)
{
	ctx_fini(&C);
	effects_fini(&out);
}

#define DIES(name) Test(check_reader, name, .init = begin, .fini = end, .signal = SIGABRT)

DIES(a_grant_is_used_by_one_read)
{
	struct readers *rs = readers_new();
	reader_service(rs, &C, 1);
	reader_check(rs, &C); /* all is well */
	rs->v[1]->grant.asked = 5;
	reader_check(rs, &C);
}

DIES(a_replacement_belongs_to_an_operation)
{
	static const struct handoff_rules maintenance = {.max_retries = 3, .max_concurrent = 1};
	struct handoff *h = handoff_new(&maintenance, "shard=0", "a:1", 1);
	struct handoff_conn conn = {.is_open = true};
	h->conns = &conn;
	h->n_role_conns = 1;
	handoff_check(h); /* all is well */
	conn.state = HANDOFF_DIALING;
	handoff_check(h);
}
