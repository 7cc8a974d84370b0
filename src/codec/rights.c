#include "codec/rights.h"

#include <string.h>
#include <strings.h>

#include "codec/command.h"

#define NOBODY "sluiced-doctor"
#define NO_SHA "0000000000000000000000000000000000000000"

const char right_lock[] = NOBODY COMMAND_LOCK_SEP "0-0";
const char *const right_key_trial[] = {"EVALSHA", NO_SHA, "1", NULL};

static const struct right rights[] = {
	/* locks */
	{"set", {"SET", RIGHT_LOCK, "v", "XX", "PX", "0"}, false, false},
	{"get", {"GET", RIGHT_LOCK}, false, false},
	{"getex", {"GETEX", RIGHT_LOCK}, false, false},
	{"pttl", {"PTTL", RIGHT_LOCK}, false, false},
	{"del", {"DEL", RIGHT_LOCK}, false, false},
	{"delifeq", {NULL}, true, false}, /* few servers have it; without, the script does the same */
	/* the load-balancer stream and the dead letters */
	{"xadd", {"XADD", RIGHT_LBS, "no-id", "f", "v"}, false, false},
	{"xreadgroup", {"XREADGROUP", "GROUP", NOBODY, NOBODY, "COUNT", "1", "STREAMS", RIGHT_LBS, ">"}, false, false},
	{"xack", {"XACK", RIGHT_LBS, NOBODY, "0-1"}, false, false},
	{"xclaim", {"XCLAIM", RIGHT_LBS, NOBODY, NOBODY, "0", "no-id"}, false, false},
	{"xdel", {"XDEL", RIGHT_LBS, "no-id"}, false, false},
	{"xlen", {"XLEN", RIGHT_LBS}, false, false},
	{"xrange", {"XRANGE", RIGHT_LBS, "1", "0"}, false, false},
	{"xrevrange", {"XREVRANGE", RIGHT_LBS, "0", "1"}, false, false},
	{"xpending", {"XPENDING", RIGHT_LBS, NOBODY}, false, false},
	{"xgroup|create", {"XGROUP", "CREATE", RIGHT_LBS, NOBODY, "no-id"}, false, false},
	{"xinfo|consumers", {"XINFO", "CONSUMERS", RIGHT_LBS, NOBODY}, false, false},
	{"xinfo|groups", {"XINFO", "GROUPS", RIGHT_LBS}, false, false},
	/* the registry: a stream has a name, and HSET wants pairs */
	{"hget", {"HGET", RIGHT_REGISTRY, ""}, false, false},
	{"hset", {"HSET", RIGHT_REGISTRY, "f", "v", "f"}, false, false},
	{"hgetall", {"HGETALL", RIGHT_LEFT}, false, false},
	{"xgroup|delconsumer", {"XGROUP", "DELCONSUMER", RIGHT_LBS, NOBODY, NOBODY}, false, false},
	{"hdel", {"HDEL", RIGHT_REGISTRY, ""}, false, false},
	/* what waits: for its time, for a running entry of its stream */
	{"hexists", {"HEXISTS", RIGHT_DELAYED_DATA, ""}, false, false},
	{"hmget", {"HMGET", RIGHT_DELAYED_DATA, ""}, false, false},
	{"zadd", {"ZADD", RIGHT_DELAYED, "no-number", "m"}, false, false},
	{"zrem", {"ZREM", RIGHT_DELAYED, ""}, false, false},
	{"zscore", {"ZSCORE", RIGHT_DELAYED, ""}, false, false},
	{"zcard", {"ZCARD", RIGHT_DELAYED}, false, false},
	{"zcount", {"ZCOUNT", RIGHT_DELAYED, "1", "0"}, false, false},
	{"zrange", {"ZRANGE", RIGHT_DELAYED, "1", "0"}, false, false},
	{"zrangebyscore", {"ZRANGEBYSCORE", RIGHT_DELAYED, "1", "0"}, false, false},
	{"zrangebylex", {"ZRANGEBYLEX", RIGHT_PARKED, "[b", "[a"}, false, false},
	{"zlexcount", {"ZLEXCOUNT", RIGHT_PARKED, "[b", "[a"}, false, false},
	/* scripts: what they call needs its own rule too */
	{"eval", {"EVAL", "return 1", "1", RIGHT_LOCK}, false, false},
	{"evalsha", {"EVALSHA", NO_SHA, "1", RIGHT_LOCK}, false, false},
	/* entries mode: data streams and their positions */
	{"hincrby", {"HINCRBY", RIGHT_REGISTRY, "f", "no-number"}, false, true},
	{"persist", {"PERSIST", RIGHT_LOCK}, false, true},
	{"pexpire", {"PEXPIRE", RIGHT_LOCK, "no-number"}, false, false},
	{"unlink", {"UNLINK", RIGHT_LOCK}, false, true},
	{"xinfo|stream", {"XINFO", "STREAM", RIGHT_LBS}, false, true},
	{"xtrim", {"XTRIM", RIGHT_LBS, "MINID", "no-id"}, false, true},
	{"client|tracking", {"CLIENT", "TRACKING", "neither"}, false, true},
	{"client|caching", {"CLIENT", "CACHING", "neither"}, false, true},
	/* connections */
	{"ping", {"PING"}, false, false},
	{"select", {"SELECT", RIGHT_DB}, false, false},
	{"asking", {"ASKING"}, false, false},
	{"client|id", {"CLIENT", "ID"}, false, false},
	{"client|setname", {"CLIENT", "SETNAME", "sluiced-control"}, false, false},
	{"client|unblock", {"CLIENT", "UNBLOCK", "0"}, false, false},
	{"client|maint_notifications", {NULL}, true, false}, /* unknown to most servers, which then refuse the rule */
	{"wait", {"WAIT", "0", "1"}, false, false},
	/* what the server is */
	{"info", {"INFO", "server"}, false, false},
	{"role", {"ROLE"}, false, false},
	{"time", {"TIME"}, false, false},
	{"cluster|slots", {"CLUSTER", "SLOTS"}, false, false},
	{"cluster|info", {"CLUSTER", "INFO"}, false, false},
	{"config|get", {NULL}, true,
		false}, /* either shows or changes everything: set the flags on the server instead */
	{"config|set", {NULL}, true, false},
	{"acl|dryrun", {NULL}, true, false}, /* doctor tries where it may not ask */
	/* last: a connection that subscribes may do little else on RESP2 */
	{"psubscribe", {"PSUBSCRIBE", RIGHT_CHANNEL}, false, false},
};

size_t rights_n(void)
{
	return sizeof rights / sizeof rights[0];
}

const struct right *rights_at(size_t i)
{
	return &rights[i];
}

static bool is_word(const char *rule, size_t rule_len, const char *word, size_t len)
{
	return rule_len == len && strncasecmp(rule, word, len) == 0;
}

bool right_is_for(const struct right *r, const char *const *words, const size_t *lens, size_t n)
{
	const size_t name = strcspn(r->rule, "|");
	const char *sub = r->rule[name] ? r->rule + name + 1 : NULL;
	if (n == 0 || !is_word(r->rule, name, words[0], lens[0]))
		return false;
	return !sub || (n > 1 && is_word(sub, strlen(sub), words[1], lens[1]));
}

bool rights_have(const char *const *words, const size_t *lens, size_t n)
{
	for (size_t i = 0; i < rights_n(); i++)
		if (right_is_for(&rights[i], words, lens, n))
			return true;
	return false;
}
