#include "codec/script.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include <openssl/sha.h>

/* held(id): the row of the pending entries list (id, consumer, idle, deliveries), nil, or the server's error. */
#define LUA_HELD                                                                                                       \
	"local function held(id)\n"                                                                                    \
	"  local p = redis.pcall('XPENDING', KEYS[1], ARGV[1], id, id, 1)\n"                                           \
	"  if p.err then return p end\n"                                                                               \
	"  return p[1]\n"                                                                                              \
	"end\n"

/* delivered(): the last id that the group was given; nil: there is no such group. */
#define LUA_DELIVERED                                                                                                  \
	"local function delivered()\n"                                                                                 \
	"  local groups = redis.pcall('XINFO', 'GROUPS', KEYS[1])\n"                                                   \
	"  for _, g in ipairs(groups) do\n"                                                                            \
	"    local name, last\n"                                                                                       \
	"    for i = 1, #g, 2 do\n"                                                                                    \
	"      if g[i] == 'name' then name = g[i + 1] end\n"                                                           \
	"      if g[i] == 'last-delivered-id' then last = g[i + 1] end\n"                                              \
	"    end\n"                                                                                                    \
	"    if name == ARGV[1] then return last end\n"                                                                \
	"  end\n"                                                                                                      \
	"end\n"

/* alive(id): it still counts for its stream: pending for somebody, or in the LBS and not delivered yet (it was
 * requeued). */
#define LUA_ALIVE                                                                                                      \
	LUA_DELIVERED                                                                                                  \
	"local function later(a, b)\n"                                                                                 \
	"  local am, as = string.match(a, '^(%d+)%-(%d+)$')\n"                                                         \
	"  local bm, bs = string.match(b, '^(%d+)%-(%d+)$')\n"                                                         \
	"  if am == bm then am, bm = as, bs end\n"                                                                     \
	"  if #am ~= #bm then return #am > #bm end\n"                                                                  \
	"  return am > bm\n"                                                                                           \
	"end\n"                                                                                                        \
	"local function alive(id)\n"                                                                                   \
	"  if not string.match(id, '^%d+%-%d+$') then return false end\n"                                              \
	"  local p = held(id)\n"                                                                                       \
	"  if p then return not p.err end\n"                                                                           \
	"  local e = redis.pcall('XRANGE', KEYS[1], id, id)\n"                                                         \
	"  if e.err or not e[1] then return false end\n"                                                               \
	"  local last = delivered()\n"                                                                                 \
	"  return last ~= nil and later(e[1][1], last)\n"                                                              \
	"end\n"

/* registered(r): the registry r names this entry as its stream's. A registry of a wrong type is nobody's. */
#define LUA_REGISTERED                                                                                                 \
	"local function registered(r)\n"                                                                               \
	"  return r and redis.pcall('HGET', r, ARGV[4]) == ARGV[2]\n"                                                  \
	"end\n"

/* finish(r, new): the entry leaves the group and the stream; the registry forgets it or follows it to its new id.
 * Answers an error when the server refuses to write at all. */
#define LUA_FINISH                                                                                                     \
	"local function finish(r, new)\n"                                                                              \
	"  local a = redis.pcall('XACK', KEYS[1], ARGV[1], ARGV[2])\n"                                                 \
	"  if type(a) == 'table' then return a end\n"                                                                  \
	"  redis.call('XDEL', KEYS[1], ARGV[2])\n"                                                                     \
	"  if registered(r) then\n"                                                                                    \
	"    if new then redis.pcall('HSET', r, ARGV[4], new) else redis.pcall('HDEL', r, ARGV[4]) end\n"              \
	"  end\n"                                                                                                      \
	"end\n"

/* The checks and the reading that requeue and dead letter begin with. gone = the answer for an entry that is not
 * pending. Leaves the fields in f. Lua can hand 8,000 values to a call, no more. */
#define LUA_READ(registry, gone)                                                                                       \
	"local p = held(ARGV[2])\n"                                                                                    \
	"if not p then return " gone " end\n"                                                                          \
	"if p.err then return p end\n"                                                                                 \
	"if ARGV[3] ~= '' and p[2] ~= ARGV[3] then return 0 end\n"                                                     \
	"if p[3] < tonumber(ARGV[5]) then return 0 end\n"                                                              \
	"local e = redis.pcall('XRANGE', KEYS[1], ARGV[2], ARGV[2])\n"                                                 \
	"if e.err then return e end\n"                                                                                 \
	"if not e[1] then return finish(" registry ") or 2 end\n"                                                      \
	"local f = e[1][2]\n"                                                                                          \
	"if #f > 7900 then return redis.error_reply('ERR the entry has more fields than a script can copy') end\n"

static const char *const texts[SCRIPT_N] = {
	[SCRIPT_SWAP] = "local v = redis.pcall('GET', KEYS[1])\n"
			"if type(v) == 'table' then return v end\n"
			"if v ~= ARGV[1] then return 0 end\n"
			"local px, left = tonumber(ARGV[3]), redis.pcall('PTTL', KEYS[1])\n"
			"if type(left) == 'number' and left > px then px = left end\n"
			"local s = redis.pcall('SET', KEYS[1], ARGV[2], 'PX', px)\n"
			"if s.err then return s end\n"
			"return px\n",

	[SCRIPT_UNLOCK] = "local v = redis.pcall('GET', KEYS[1])\n"
			  "if type(v) == 'table' then return v end\n"
			  "if v ~= ARGV[1] then return 0 end\n"
			  "return redis.pcall('DEL', KEYS[1])\n",

	[SCRIPT_TAKE] = LUA_HELD LUA_ALIVE "local p = held(ARGV[2])\n"
					   "if not p then return 0 end\n"
					   "if p.err then return p end\n"
					   "if p[2] ~= ARGV[3] then return 0 end\n"
					   "if not KEYS[2] then return 1 end\n"
					   "local h = redis.pcall('HGET', KEYS[2], ARGV[4])\n"
					   "if type(h) == 'table' then return h end\n"
					   "if h == ARGV[2] then return 1 end\n"
					   "if h and alive(h) then return later(h, ARGV[2]) and 3 or 2 end\n"
					   "h = redis.pcall('HSET', KEYS[2], ARGV[4], ARGV[2])\n"
					   "if type(h) == 'table' then return h end\n"
					   "return 1\n",

	[SCRIPT_DONE] = LUA_HELD LUA_ALIVE LUA_REGISTERED LUA_FINISH
	"local p = held(ARGV[2])\n"
	"if p and p.err then return p end\n"
	"if p and (ARGV[3] == '' or p[2] == ARGV[3]) then return finish(KEYS[2]) or 1 end\n"
	"if not p and registered(KEYS[2]) and not alive(ARGV[2]) then redis.pcall('HDEL', KEYS[2], ARGV[4]) end\n"
	"return 0\n",

	[SCRIPT_REQUEUE] = LUA_HELD LUA_REGISTERED LUA_FINISH LUA_READ("KEYS[2]",
		"false") "local found = false\n"
			 "for i = 1, #f, 2 do\n"
			 "  if f[i] == '_retry_count' then f[i + 1] = ARGV[6] found = true end\n"
			 "end\n"
			 "if not found and ARGV[6] ~= '0' then f[#f + 1] = '_retry_count' f[#f + 1] = ARGV[6] end\n"
			 "local new = redis.pcall('XADD', KEYS[1], '*', unpack(f))\n"
			 "if type(new) == 'table' then return new end\n"
			 "return finish(KEYS[2], new) or new\n",

	[SCRIPT_DEAD] = LUA_HELD LUA_REGISTERED LUA_FINISH LUA_READ(
		"KEYS[3]", "0") "local own = {'_dlq_reason', ARGV[7], '_dlq_at', ARGV[8], '_dlq_node', ARGV[9], "
				"'_dlq_error', ARGV[10],\n"
				"  '_orig_id', ARGV[2]}\n"
				"local is_own = {}\n"
				"for i = 1, #own, 2 do is_own[own[i]] = true end\n"
				"local a = {KEYS[2]}\n"
				"if ARGV[6] ~= '0' then a = {KEYS[2], 'MAXLEN', '~', ARGV[6]} end\n"
				"a[#a + 1] = '*'\n"
				"for i = 1, #f, 2 do\n"
				"  if not is_own[f[i]] then a[#a + 1] = f[i] a[#a + 1] = f[i + 1] end\n"
				"end\n"
				"for i = 1, #own do a[#a + 1] = own[i] end\n"
				"local new = redis.pcall('XADD', unpack(a))\n"
				"if type(new) == 'table' then return new end\n"
				"return finish(KEYS[3]) or 1\n",

	[SCRIPT_UNREAD] = LUA_DELIVERED "local last = delivered()\n"
					"if not last then return false end\n"
					"local e = redis.pcall('XRANGE', KEYS[1], '(' .. last, '+', 'COUNT', 1)\n"
					"if e.err then return e end\n"
					"return e[1] and e[1][1] or false\n",
};

static char shas[SCRIPT_N][41];
static pthread_once_t shas_once = PTHREAD_ONCE_INIT;

static void shas_init(void)
{
	for (int s = 0; s < SCRIPT_N; s++) {
		unsigned char d[SHA_DIGEST_LENGTH];
		SHA1((const unsigned char *)texts[s], strlen(texts[s]), d);
		for (size_t i = 0; i < SHA_DIGEST_LENGTH; i++)
			snprintf(shas[s] + 2 * i, 3, "%02x", d[i]);
	}
}

const char *script_text(enum script s)
{
	return texts[s];
}

const char *script_sha(enum script s)
{
	pthread_once(&shas_once, shas_init);
	return shas[s];
}
