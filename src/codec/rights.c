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
	{"set", {"SET", RIGHT_LOCK, "v", "XX", "PX", "0"}, false},
	{"get", {"GET", RIGHT_LOCK}, false},
	{"getex", {"GETEX", RIGHT_LOCK}, false},
	{"pttl", {"PTTL", RIGHT_LOCK}, false},
	{"del", {"DEL", RIGHT_LOCK}, false},
	{"delifeq", {NULL}, true}, /* few servers have it; without, the script does the same */
	/* the load-balancer stream and the dead letters */
	{"xadd", {"XADD", RIGHT_LBS, "no-id", "f", "v"}, false},
	{"xreadgroup", {"XREADGROUP", "GROUP", NOBODY, NOBODY, "COUNT", "1", "STREAMS", RIGHT_LBS, ">"}, false},
	{"xack", {"XACK", RIGHT_LBS, NOBODY, "0-1"}, false},
	{"xclaim", {"XCLAIM", RIGHT_LBS, NOBODY, NOBODY, "0", "no-id"}, false},
	{"xdel", {"XDEL", RIGHT_LBS, "no-id"}, false},
	{"xlen", {"XLEN", RIGHT_LBS}, false},
	{"xrange", {"XRANGE", RIGHT_LBS, "1", "0"}, false},
	{"xrevrange", {"XREVRANGE", RIGHT_LBS, "0", "1"}, false},
	{"xpending", {"XPENDING", RIGHT_LBS, NOBODY}, false},
	{"xgroup|create", {"XGROUP", "CREATE", RIGHT_LBS, NOBODY, "no-id"}, false},
	{"xinfo|consumers", {"XINFO", "CONSUMERS", RIGHT_LBS, NOBODY}, false},
	{"xinfo|groups", {"XINFO", "GROUPS", RIGHT_LBS}, false},
	/* the registry: a stream has a name, and HSET wants pairs */
	{"hget", {"HGET", RIGHT_REGISTRY, ""}, false},
	{"hset", {"HSET", RIGHT_REGISTRY, "f", "v", "f"}, false},
	{"hdel", {"HDEL", RIGHT_REGISTRY, ""}, false},
	/* what waits: for its time, for a running entry of its stream */
	{"hexists", {"HEXISTS", RIGHT_DELAYED_DATA, ""}, false},
	{"hmget", {"HMGET", RIGHT_DELAYED_DATA, ""}, false},
	{"zadd", {"ZADD", RIGHT_DELAYED, "no-number", "m"}, false},
	{"zrem", {"ZREM", RIGHT_DELAYED, ""}, false},
	{"zscore", {"ZSCORE", RIGHT_DELAYED, ""}, false},
	{"zcard", {"ZCARD", RIGHT_DELAYED}, false},
	{"zcount", {"ZCOUNT", RIGHT_DELAYED, "1", "0"}, false},
	{"zrange", {"ZRANGE", RIGHT_DELAYED, "1", "0"}, false},
	{"zrangebyscore", {"ZRANGEBYSCORE", RIGHT_DELAYED, "1", "0"}, false},
	{"zrangebylex", {"ZRANGEBYLEX", RIGHT_PARKED, "[b", "[a"}, false},
	{"zlexcount", {"ZLEXCOUNT", RIGHT_PARKED, "[b", "[a"}, false},
	/* scripts: what they call needs its own rule too */
	{"eval", {"EVAL", "return 1", "1", RIGHT_LOCK}, false},
	{"evalsha", {"EVALSHA", NO_SHA, "1", RIGHT_LOCK}, false},
	/* connections */
	{"ping", {"PING"}, false},
	{"select", {"SELECT", RIGHT_DB}, false},
	{"asking", {"ASKING"}, false},
	{"client|id", {"CLIENT", "ID"}, false},
	{"client|setname", {"CLIENT", "SETNAME", "sluiced-control"}, false},
	{"client|unblock", {"CLIENT", "UNBLOCK", "0"}, false},
	{"client|maint_notifications", {NULL}, true}, /* unknown to most servers, which then refuse the rule */
	{"wait", {"WAIT", "0", "1"}, false},
	/* what the server is */
	{"info", {"INFO", "server"}, false},
	{"role", {"ROLE"}, false},
	{"time", {"TIME"}, false},
	{"cluster|slots", {"CLUSTER", "SLOTS"}, false},
	{"cluster|info", {"CLUSTER", "INFO"}, false},
	{"config|get", {NULL}, true}, /* either shows or changes everything: set the flags on the server instead */
	{"config|set", {NULL}, true},
	{"acl|dryrun", {NULL}, true}, /* doctor tries where it may not ask */
	/* last: a connection that subscribes may do little else on RESP2 */
	{"psubscribe", {"PSUBSCRIBE", RIGHT_CHANNEL}, false},
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
