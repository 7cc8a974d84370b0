#include "codec/script.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include <openssl/sha.h>

#include "codec/script_lua.h"

/* last_id(): the last id the stream has ever had, nil where there is no stream, or the server's error. With it: how
 * many entries were ever added (nil before Redis 7), how many there are, the id of the first one. */
#define LUA_LAST_ID                                                                                                    \
	"local function last_id()\n"                                                                                   \
	"  local s = redis.pcall('XINFO', 'STREAM', KEYS[2])\n"                                                        \
	"  if s.err then return not string.find(s.err, 'no such key', 1, true) and s or nil end\n"                     \
	"  local v = {}\n"                                                                                             \
	"  for i = 1, #s, 2 do v[s[i]] = s[i + 1] end\n"                                                               \
	"  return v['last-generated-id'], v['entries-added'], v.length, v['first-entry'] and v['first-entry'][1]\n"    \
	"end\n"

/* The position as {token, pos, tries, run, not_before, pause, n}. run: 1 = somebody has it open, 2 = and has
 * acknowledged something; 3, 4 = the same, and its worker has nothing else; missing after a close. Whoever knows how a
 * run ended closes it and says so; one that did not close has ended for a reason that nobody knows. not_before: the
 * server's Unix ms of the next try, pause ms after the one before. n: "pos:count", so many entries were ever added up
 * to pos; of another pos (an older daemon moved it), or "": not known. A WRONGTYPE says whether it is this key's.
 * Somebody may have written there by hand: a pos that no entry can have is none, and of what whole() reads anything
 * but a number counts as 0. */
#define LUA_OWNER                                                                                                      \
	LUA_LATER                                                                                                      \
	"local highest = '18446744073709551615-18446744073709551615'\n"                                                \
	"local function whole(v)\n"                                                                                    \
	"  local n = tonumber(v or '') or 0\n"                                                                         \
	"  return n >= 1 and math.floor(math.min(n, 1000000000)) or 0\n"                                               \
	"end\n"                                                                                                        \
	"local h = redis.pcall('HMGET', KEYS[1], 'token', 'pos', 'tries', 'run', 'not_before', 'pause', 'n')\n"        \
	"if h.err and string.find(h.err, 'WRONGTYPE', 1, true) then h.err = h.err .. ' (position)' end\n"              \
	"if h.err then return h end\n"                                                                                 \
	"if h[2] and (not string.match(h[2], '^%d+%-%d+$') or later(h[2], highest)) then h[2] = false end\n"

/* behind(pos): the first entry of KEYS[2] behind it, as XRANGE says it, or the error. */
#define LUA_BEHIND                                                                                                     \
	"local function behind(pos)\n"                                                                                 \
	"  if pos == highest then return {} end\n"                                                                     \
	"  return redis.pcall('XRANGE', KEYS[2], '(' .. pos, '+', 'COUNT', 1)\n"                                       \
	"end\n"

/* pause(tries, a): a try was counted: the next one has to wait, as ARGV[a] to ARGV[a + 3] say: first ms, factor, most
 * ms, permille. Returns how long, ms. Once something else was written it cannot be refused. */
#define LUA_PAUSE                                                                                                      \
	LUA_CLOCK                                                                                                      \
	"local function pause(tries, a)\n"                                                                             \
	"  local ms, factor, most = tonumber(ARGV[a]), tonumber(ARGV[a + 1]), tonumber(ARGV[a + 2])\n"                 \
	"  for i = 2, ms > 0 and factor > 1 and tries or 1 do\n"                                                       \
	"    if ms >= most then break end\n"                                                                           \
	"    ms = ms * factor\n"                                                                                       \
	"  end\n"                                                                                                      \
	"  ms = math.floor(math.min(ms, most) * tonumber(ARGV[a + 3]) / 1000)\n"                                       \
	"  local at = string.format('%.0f', clock() + ms)\n"                                                           \
	"  redis.call('HSET', KEYS[1], 'not_before', at, 'pause', ms)\n"                                               \
	"  return ms\n"                                                                                                \
	"end\n"

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

	[SCRIPT_TAKE] = LUA_LBS LUA_PARK LUA_TAKE "return take()\n",

	[SCRIPT_TAKE_MANY] = LUA_LBS LUA_PARK LUA_TAKE LUA_MANY LUA_TABLE
	"local set, seen = {}, {}\n"
	"for i = 1, n do\n"
	"  local id, stream = ARGV[7 + 2 * i], ARGV[8 + 2 * i]\n"
	"  if not mine[id] then\n"
	"    slow[#slow + 1] = i\n"
	"  elseif ARGV[5] == '' or registered_as[i] == id then\n"
	"    out[i] = 1\n"
	"  elseif registered_as[i] or not is_calm or seen[stream] then\n"
	"    slow[#slow + 1] = i\n"
	"  else\n"
	"    seen[stream], out[i] = true, 1\n"
	"    set[#set + 1] = stream set[#set + 1] = id\n"
	"  end\n"
	"end\n"
	"if set[1] then\n"
	"  local h = write_to_table(KEYS[2], set)\n"
	"  if type(h) == 'table' then return h end\n"
	"end\n" LUA_ONE_BY_ONE("take") "return out\n",

	[SCRIPT_DONE] = LUA_LBS LUA_FINISH LUA_DONE LUA_UNLOCKED
	"if not ARGV[7] then return done() end\n"
	"local locks = {}\n"
	"local answer = unlocked(done(), KEYS[#KEYS], ARGV[7], locks)\n"
	"unlock(locks)\n"
	"return answer\n",

	[SCRIPT_DONE_MANY] = LUA_LBS LUA_FINISH LUA_DONE LUA_UNLOCKED LUA_MANY
	"local ack, gone = {}, {}\n"
	"for i = 1, n do\n"
	"  local id, stream = ARGV[7 + 2 * i], ARGV[8 + 2 * i]\n"
	"  local is_registered = ARGV[5] ~= '' and registered_as[i] == id\n"
	"  if not mine[id] or (is_registered and not is_calm) then\n"
	"    slow[#slow + 1] = i\n"
	"  else\n"
	"    ack[#ack + 1], out[i], mine[id] = id, 1, nil\n"
	"    if is_registered then gone[#gone + 1] = stream end\n"
	"  end\n"
	"end\n"
	"if ack[1] then\n"
	"  local a = redis.pcall('XACK', KEYS[1], ARGV[1], unpack(ack))\n"
	"  if type(a) == 'table' then return a end\n"
	"  redis.call('XDEL', KEYS[1], unpack(ack))\n"
	"  if gone[1] then redis.pcall('HDEL', KEYS[2], unpack(gone)) end\n"
	"end\n" LUA_ONE_BY_ONE(
		"done") "if ARGV[8] ~= '' then\n"
			"  local locks = {}\n"
			"  for i = 1, n do out[i] = unlocked(out[i], KEYS[#KEYS - n + i], ARGV[8], locks) end\n"
			"  unlock(locks)\n"
			"end\n"
			"return out\n",

	[SCRIPT_REQUEUE] =
		LUA_LBS LUA_FINISH LUA_READ("false") "local new = add(marked(counted(f, ARGV[7]), ARGV[8]))\n"
						     "if type(new) == 'table' then return new end\n"
						     "return finish(new) or new\n",

	[SCRIPT_LATER] = LUA_LBS LUA_FINISH LUA_READ("false") LUA_CLOCK
	"local v = {ARGV[4], ARGV[9], ARGV[10]}\n"
	"f = marked(counted(f, ARGV[7]), ARGV[11])\n"
	"for i = 1, #f do v[i + 3] = f[i] end\n"
	"local h = redis.pcall('HSET', KEYS[4], ARGV[2], pack(v))\n"
	"if type(h) == 'table' then return h end\n"
	"h = redis.pcall('ZADD', KEYS[3], clock() + tonumber(ARGV[8]), ARGV[2])\n"
	"if type(h) == 'table' then\n"
	"  redis.pcall('HDEL', KEYS[4], ARGV[2])\n"
	"  return h\n"
	"end\n"
	"return finish(ARGV[2]) or 1\n",

	[SCRIPT_DEAD] = LUA_LBS LUA_FINISH LUA_READ(
		"0") "local own = {'_dlq_reason', ARGV[8], '_dlq_at', ARGV[9], '_dlq_node', ARGV[10], '_dlq_error', "
		     "ARGV[11], '_orig_id', ARGV[2]}\n"
		     "local is_own = {}\n"
		     "for i = 1, #own, 2 do is_own[own[i]] = true end\n"
		     "local a = {KEYS[#KEYS]}\n"
		     "if ARGV[7] ~= '0' then a = {KEYS[#KEYS], 'MAXLEN', '~', ARGV[7]} end\n"
		     "a[#a + 1] = '*'\n"
		     "for i = 1, #f, 2 do\n"
		     "  if not is_own[f[i]] then a[#a + 1] = f[i] a[#a + 1] = f[i + 1] end\n"
		     "end\n"
		     "for i = 1, #own do a[#a + 1] = own[i] end\n"
		     "local before = redis.pcall('XLEN', KEYS[#KEYS])\n"
		     "local new = redis.pcall('XADD', unpack(a))\n"
		     "if type(new) == 'table' then return new end\n"
		     "local trimmed = before + 1 - redis.call('XLEN', KEYS[#KEYS])\n"
		     "local x = finish()\n"
		     "if type(x) == 'table' then return x end\n"
		     "return {1, trimmed}\n",

	[SCRIPT_BURY] = "local before = redis.pcall('XLEN', KEYS[1])\n"
			"local new = redis.pcall('XADD', KEYS[1], 'MAXLEN', '~', unpack(ARGV))\n"
			"if type(new) == 'table' then return new end\n"
			"return {new, before + 1 - redis.call('XLEN', KEYS[1])}\n",

	[SCRIPT_DUE] = LUA_LBS LUA_MOVE LUA_CLOCK
	"local now, moved, woken = clock(), 0, 0\n"
	"local due = redis.pcall('ZRANGEBYSCORE', KEYS[3], '-inf', now, 'LIMIT', 0, ARGV[6])\n"
	"if due.err then return due end\n"
	"for _, id in ipairs(due) do\n"
	"  local new = move(id)\n"
	"  if type(new) == 'table' then\n"
	"    if moved == 0 then return new end\n"
	"    break\n"
	"  end\n"
	"  moved = moved + 1\n"
	"end\n"
	"local at, n = tonumber(ARGV[7]), redis.pcall('ZCARD', KEYS[5])\n"
	"if type(n) == 'table' then return n end\n"
	"if at >= n then at = 0 end\n"
	"local group = redis.pcall('XPENDING', KEYS[1], ARGV[1])\n"
	"for _ = 1, group.err and 0 or 50 do\n"
	"  local m = redis.pcall('ZRANGE', KEYS[5], at, at)[1]\n"
	"  if not m then break end\n"
	"  local len = tonumber(string.match(m, '^(%d+):'))\n"
	"  local stream = len and string.match(m, '^%d+:(.*)$'):sub(1, len)\n"
	"  local p = stream and prefix(stream)\n"
	"  if not p then\n"
	"    redis.pcall('ZREM', KEYS[5], m)\n"
	"  else\n"
	"    local h = redis.pcall('HGET', KEYS[2], stream)\n"
	"    if ARGV[5] == '' or not (type(h) == 'string' and alive(h)) then\n"
	"      advance(stream, '', '')\n"
	"      local heir = redis.pcall('HGET', KEYS[2], stream)\n"
	"      if type(heir) == 'string' and heir ~= h then woken = woken + 1 end\n"
	"      if ARGV[5] == '' then redis.pcall('HDEL', KEYS[2], stream) end\n"
	"    end\n"
	"    if ARGV[5] ~= '' or redis.pcall('ZRANGE', KEYS[5], at, at)[1] == m then\n" /* all go on at once */
	"      at = redis.pcall('ZLEXCOUNT', KEYS[5], '-', '(' .. p .. '~')\n"
	"    end\n"
	"  end\n"
	"end\n"
	"local next = redis.pcall('ZRANGE', KEYS[3], 0, 0, 'WITHSCORES')\n"
	"local wait = next[2] and math.max(0, math.ceil(next[2]) - now) or -1\n"
	"local delayed, parked = redis.pcall('ZCARD', KEYS[3]), redis.pcall('ZCARD', KEYS[5])\n"
	"local wanted, len = -1, redis.pcall('XLEN', KEYS[1])\n"
	"if not group.err and type(len) == 'number' then\n"
	"  group = redis.pcall('XPENDING', KEYS[1], ARGV[1])\n"
	"  local due = redis.pcall('ZCOUNT', KEYS[3], '-inf', now)\n"
	"  for _, r in ipairs({group, delayed, parked, due}) do if type(r) == 'table' and r.err then return r end end\n"
	"  wanted = math.max(0, len - group[1] - (ARGV[5] == 'coalesce' and 0 or parked)) + due\n"
	"end\n"
	"return {moved, wait, delayed, parked, at, woken, wanted}\n",

	[SCRIPT_SIFT] = LUA_HELD LUA_DELIVERED LUA_ALIVE LUA_PACK LUA_ADD LUA_WAITS LUA_PARK
	"local want, budget = tonumber(ARGV[6]), tonumber(ARGV[7])\n"
	"local out, n_parked, busy = {}, 0, {}\n"
	"local function stream_of(fields)\n"
	"  for i = 1, #fields, 2 do\n"
	"    if fields[i] == 'lbs-input' then return string.match(fields[i + 1], "
	"'^%s*{%s*\"DataStreamName\"%s*:%s*\"([^\"\\\\]*)\"') end\n"
	"  end\n"
	"end\n"
	"local function is_busy(stream, id)\n"
	"  local h = redis.pcall('HGET', KEYS[2], stream)\n"
	"  if h ~= busy[1] or stream ~= busy[2] then busy = {h, stream, type(h) == 'string' and alive(h)} end\n"
	"  return busy[3] and h ~= id\n"
	"end\n"
	"if want == 0 then\n"
	"  local last, seen = delivered(), {}\n"
	"  local page = last and redis.pcall('XRANGE', KEYS[1], '(' .. last, '+', 'COUNT', budget) or {}\n"
	"  if page.err then return page end\n"
	"  for _, e in ipairs(page) do\n"
	"    local stream = stream_of(e[2])\n"
	"    if stream and ARGV[5] ~= '' and is_busy(stream, e[1]) then\n"
	"      if ARGV[5] == 'coalesce' and not merge(stream, e[1], e[2]) then n_parked = n_parked + 1 end\n"
	"    elseif not stream or not seen[stream] then\n"
	"      out[#out + 1] = {e[1], stream and {'lbs-input', '{\"DataStreamName\":\"' .. stream .. '\"}'} or {}}\n"
	"      if stream then seen[stream] = true end\n"
	"    end\n"
	"  end\n"
	"end\n"
	"while #out < want and budget > 0 do\n"
	"  local n = math.min(budget, want - #out)\n"
	"  local r = redis.pcall('XREADGROUP', 'GROUP', ARGV[1], ARGV[3], 'COUNT', n, 'STREAMS', KEYS[1], '>')\n"
	"  if r and r.err then return r end\n"
	"  if not r or not r[1] then break end\n"
	"  for _, e in ipairs(r[1][2]) do\n"
	"    local stream = stream_of(e[2])\n"
	"    local refused = true\n"
	"    if stream and ARGV[5] ~= '' and is_busy(stream, e[1]) then\n"
	"      if ARGV[5] == 'coalesce' then refused = merge(stream, e[1], e[2]) else refused = park(stream, e[1]) "
	"end\n"
	"    end\n"
	"    if refused then out[#out + 1] = e else n_parked = n_parked + 1 end\n"
	"  end\n"
	"  budget = budget - n\n"
	"end\n"
	"return {n_parked, out}\n",

	[SCRIPT_GHOSTS] = LUA_HELD LUA_DELIVERED LUA_WAITS
	"local last = delivered()\n"
	"if not last then return {''} end\n"
	"if ARGV[7] == '$' then return {last} end\n"
	"local group = redis.pcall('XPENDING', KEYS[1], ARGV[1])\n"
	"if group.err then return group end\n"
	"local waiting = ARGV[5] == 'coalesce' and 0 or redis.pcall('ZCARD', KEYS[5])\n"
	"if type(waiting) == 'table' then return waiting end\n"
	"if redis.pcall('XLEN', KEYS[1]) == group[1] + waiting then return {''} end\n"
	"local function waits(fields, id)\n"
	"  for i = 1, #fields, 2 do\n"
	"    local ok, v = pcall(cjson.decode, fields[i] == 'lbs-input' and fields[i + 1] or '')\n"
	"    for name, stream in pairs(ok and type(v) == 'table' and v or {}) do\n"
	"      local is_stream = type(stream) == 'string' and string.lower(name) == 'datastreamname'\n"
	"      if is_stream and redis.pcall('ZSCORE', KEYS[5], member(stream, id)) then return true end\n"
	"    end\n"
	"  end\n"
	"  return false\n"
	"end\n"
	"local page = redis.pcall('XRANGE', KEYS[1], ARGV[2], last, 'COUNT', ARGV[6])\n"
	"if page.err then return page end\n"
	"local out = {#page == tonumber(ARGV[6]) and page[#page][1] or ''}\n"
	"for _, e in ipairs(page) do\n"
	"  local p = held(e[1])\n"
	"  if p and p.err then return p end\n"
	"  if not p and not waits(e[2], e[1]) then out[#out + 1] = e[1] end\n"
	"end\n"
	"return out\n",

	[SCRIPT_GHOST_BACK] =
		LUA_LBS LUA_FINISH "local p = held(ARGV[2])\n"
				   "if p then return p.err and p or 0 end\n"
				   "local e = redis.pcall('XRANGE', KEYS[1], ARGV[2], ARGV[2])\n"
				   "if e.err then return e end\n"
				   "if not e[1] then return false end\n"
				   "local last = delivered()\n"
				   "if not last or later(ARGV[2], last) then return 0 end\n"
				   "if redis.pcall('ZSCORE', KEYS[5], member(ARGV[4], ARGV[2])) then return 0 end\n"
				   "local new = add(e[1][2])\n"
				   "if type(new) == 'table' then return new end\n"
				   "redis.call('XDEL', KEYS[1], ARGV[2])\n"
				   "if registered() then redis.pcall('HSET', KEYS[2], ARGV[4], new) end\n"
				   "return new\n",

	[SCRIPT_ADD_LATER] = LUA_PACK LUA_CLOCK
	"local v, ms = {ARGV[4], ARGV[8], ''}, clock()\n"
	"for i = 9, #ARGV do v[#v + 1] = ARGV[i] end\n"
	"if #v > 7900 then return redis.error_reply('ERR the entry has more fields than a script can copy') end\n"
	"local seq, id = 4294967296\n"
	"repeat\n"
	"  id = string.format('%.0f-%.0f', ms, seq)\n"
	"  seq = seq + 1\n"
	"until redis.pcall('HEXISTS', KEYS[4], id) ~= 1\n"
	"local h = redis.pcall('HSET', KEYS[4], id, pack(v))\n"
	"if type(h) == 'table' then return h end\n"
	"h = redis.pcall('ZADD', KEYS[3], ARGV[7] ~= '' and ARGV[7] or ms + tonumber(ARGV[6]), id)\n"
	"if type(h) == 'table' then\n"
	"  redis.pcall('HDEL', KEYS[4], id)\n"
	"  return h\n"
	"end\n"
	"return id\n",

	[SCRIPT_DELAYED] = LUA_LBS LUA_MOVE
	"if not redis.pcall('ZSCORE', KEYS[3], ARGV[2]) then return 0 end\n"
	"if ARGV[6] == 'now' then return move(ARGV[2]) or 0 end\n"
	"local d = redis.pcall('HGET', KEYS[4], ARGV[2])\n"
	"local t = type(d) == 'string' and parts(d)\n"
	"redis.pcall('ZREM', KEYS[3], ARGV[2])\n"
	"redis.pcall('HDEL', KEYS[4], ARGV[2])\n"
	"if t and t[1] and redis.pcall('HGET', KEYS[2], t[1]) == ARGV[2] then advance(t[1], '', '') end\n"
	"return 1\n",

	[SCRIPT_LEFT] = LUA_CLOCK
	"if ARGV[1] == 'leave' then return redis.pcall('HSET', KEYS[1], ARGV[2], string.format('%.0f', clock())) end\n"
	"if ARGV[1] == 'back' then return redis.pcall('HDEL', KEYS[1], ARGV[2]) end\n"
	"local h, now = redis.pcall('HGETALL', KEYS[1]), clock()\n"
	"if h.err then return h end\n"
	"for i = 2, #h, 2 do h[i] = math.max(0, now - (tonumber(h[i]) or now)) end\n"
	"return h\n",

	[SCRIPT_FORGET] = "local rows = redis.pcall('XINFO', 'CONSUMERS', KEYS[1], ARGV[1])\n"
			  "if rows.err then return rows end\n"
			  "for _, row in ipairs(rows) do\n"
			  "  local c = {}\n"
			  "  for i = 1, #row, 2 do c[row[i]] = row[i + 1] end\n"
			  "  if c.name == ARGV[2] then\n"
			  "    if c.pending ~= 0 or c.idle < tonumber(ARGV[3]) then return 0 end\n"
			  "    local d = redis.pcall('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], ARGV[2])\n"
			  "    if type(d) == 'table' then return d end\n"
			  "    redis.pcall('HDEL', KEYS[2], ARGV[2])\n"
			  "    return 1\n"
			  "  end\n"
			  "end\n"
			  "return 0\n",

	[SCRIPT_FLEET] = LUA_CLOCK "local now = clock()\n"
				   "local v = string.format('{\"at\":%.0f,', now) .. string.sub(ARGV[2], 2)\n"
				   "local h = redis.pcall('HSET', KEYS[1], ARGV[1], v)\n"
				   "if type(h) == 'table' then return h end\n"
				   "h = redis.pcall('HGETALL', KEYS[1])\n"
				   "for i = 1, #h, 2 do\n"
				   "  local at = tonumber(string.match(h[i + 1], '^{\"at\":(%d+),'))\n"
				   "  if not at or now - at > 3600000 then redis.pcall('HDEL', KEYS[1], h[i]) end\n"
				   "end\n"
				   "redis.pcall('PEXPIRE', KEYS[1], 3600000)\n"
				   "return 1\n",

	[SCRIPT_UNREAD] = LUA_DELIVERED "local last = delivered()\n"
					"if not last then return false end\n"
					"local e = redis.pcall('XRANGE', KEYS[1], '(' .. last, '+', 'COUNT', 1)\n"
					"if e.err then return e end\n"
					"return e[1] and e[1][1] or false\n",

	[SCRIPT_FEED_OPEN] = LUA_LAST_ID LUA_OWNER LUA_BEHIND LUA_PAUSE
	"local token, pos, tries, run, mine = h[1], h[2], whole(h[3]), h[4], ARGV[1]\n"
	"if token and (#token > #mine or (#token == #mine and token > mine)) then return token end\n"
	"local last, added, len, first = last_id()\n"
	"if type(last) == 'table' then return last end\n"
	"local flags = 0\n"
	"if not pos then\n"
	"  pos = ARGV[2] == '$' and last or '0-0'\n"
	"elseif last and later(pos, last) then\n"
	"  pos, tries, flags = '0-0', 0, 2\n"
	"end\n"
	"local is_out = run and flags == 0\n" /* somebody may still be at work on what he was told */
	"local has_progress, was_alone = run == '2' or run == '4', run == '3' or run == '4'\n"
	"local at_end = not last or len == 0 or not later(last, pos)\n"
	"if at_end then tries = 0 end\n"                                          /* those of an entry that is gone */
	"local is_paused = tries > 0 and (tonumber(h[5] or '') or 0) > clock()\n" /* nobody was given it again */
	"local died, counts\n"
	"local ends = 0\n"
	"if token ~= mine and run then\n"
	"  died = not has_progress and whole(redis.call('HGET', KEYS[1], 'died')) or 0\n"
	"  flags = flags + 4 + (has_progress and 1 or 0)\n"
	"  ends = (has_progress or at_end) and 0 or whole(redis.call('HGET', KEYS[1], 'ends')) + 1\n"
	"  if at_end or is_paused then\n" /* nothing was there for anybody to die of */
	"    died = 0\n"
	"  elseif flags < 6 and (was_alone or ARGV[3] == 'alone') then\n"
	"    tries, died, flags, counts = tries + 1, 0, flags + 8, true\n"
	"  elseif flags < 6 then\n"
	"    died = died + 1\n"
	"    if died > 1 then flags = flags + 8 end\n"
	"  end\n"
	"end\n"
	"run = (token == mine and has_progress and 2 or 1) + (ARGV[4] == '1' and 2 or 0)\n"
	"local at, n = string.match(h[7] or '', '^(%d+%-%d+):(%d+)$')\n"
	"n = at == pos and #n < 16 and tonumber(n) or nil\n"
	"local left, lost\n"
	"if last and not later(last, pos) then\n"
	"  left = 0\n"
	"elseif last and (len == 0 or later(first, pos)) then\n"
	"  left = len\n"
	"end\n"
	"if added and left and not is_out then\n"
	"  lost, n = n and math.max(0, added - left - n), added - left\n"
	"end\n"
	"local w = redis.pcall('HSET', KEYS[1], 'token', mine, 'pos', pos, 'tries', tries, 'run', run, 'n', "
	"n and string.format('%s:%.0f', pos, n) or '')\n"
	"if type(w) == 'table' then return w end\n"
	"if died then redis.call('HSET', KEYS[1], 'died', died, 'ends', ends) end\n"
	"redis.call('PERSIST', KEYS[1])\n"
	"local wait, bad = 0, ''\n"
	"if counts then\n"
	"  wait = pause(tries, 5)\n"
	"elseif tries > 0 and h[5] then\n"
	"  local most, now = whole(h[6]), clock()\n"
	"  wait = (tonumber(h[5]) or 0) - now\n"
	"  if wait > most then\n" /* the clock was set back: no longer than the pause was meant to be */
	"    wait = most\n"
	"    redis.call('HSET', KEYS[1], 'not_before', string.format('%.0f', now + most))\n"
	"  end\n"
	"end\n"
	"if wait > 0 then\n" /* of what is there: what was deleted meanwhile is not tried again */
	"  local e = behind(pos)\n"
	"  bad = not e.err and e[1] and e[1][1] or ''\n"
	"end\n"
	"return {pos, tries, flags + (at_end and 16 or 0), bad ~= '' and wait or 0, bad, n or -1, lost or 0, ends}\n",

	[SCRIPT_FEED_ACK] = LUA_LAST_ID LUA_OWNER
	"if not h[1] then return -3 end\n"
	"if h[1] ~= ARGV[1] then return -1 end\n"
	"if h[2] and not later(ARGV[2], h[2]) then return 0 end\n"
	"if ARGV[5] == '1' then\n"
	"  local last = last_id()\n"
	"  if type(last) == 'table' then return last end\n"
	"  if last and later(ARGV[2], last) then return -2 end\n"
	"end\n"
	"local run = (h[4] == '3' or h[4] == '4') and 4 or 2\n"
	"local w = redis.pcall('HSET', KEYS[1], 'pos', ARGV[2], 'tries', 0, 'at', ARGV[3], 'run', run, 'n', ARGV[6])\n"
	"if type(w) == 'table' then return w end\n"
	"if h[5] then redis.call('HDEL', KEYS[1], 'not_before', 'pause') end\n"
	"if ARGV[4] == '' then return 1 end\n"
	"local e = redis.pcall('XREVRANGE', KEYS[2], '+', '-', 'COUNT', 1)\n"
	"local last = e[1] and not later(ARGV[2], e[1][1]) and ARGV[2] or last_id()\n"
	"if type(last) == 'string' and not later(ARGV[2], last) then\n" /* else it was made again with lower ids */
	"  redis.pcall('XTRIM', KEYS[2], 'MINID', '=', ARGV[4])\n"
	"end\n"
	"return 1\n",

	[SCRIPT_FEED_FAIL] = LUA_OWNER LUA_PAUSE "if not h[1] then return -3 end\n"
						 "if h[1] ~= ARGV[1] then return false end\n"
						 "local n = tonumber(ARGV[6])\n"
						 "local w = redis.pcall('HSET', KEYS[1], 'tries', n)\n"
						 "if type(w) == 'table' then return w end\n"
						 "return {h[2] or '0-0', n, 0, pause(n, 2), '', -1, 0, 0}\n",

	[SCRIPT_FEED_CLOSE] = LUA_LAST_ID LUA_OWNER LUA_BEHIND LUA_PAUSE
	"if h[1] ~= ARGV[1] then return 0 end\n"
	"if ARGV[2] == 'delete' then\n"
	"  local pos = h[2] or '0-0'\n"
	"  local e, last = behind(pos), last_id()\n"
	"  local is_again = type(last) == 'string' and later(pos, last)\n" /* with lower ids */
	"  if not e.err and not e[1] and not is_again then\n"
	"    local d = redis.pcall('UNLINK', KEYS[2])\n"
	"    if type(d) == 'table' then return d end\n"
	"    redis.call('DEL', KEYS[1])\n"
	"    return 2\n"
	"  end\n"
	"end\n"
	"if ARGV[2] == 'death' and h[4] then\n" /* once */
	"  local w = redis.pcall('HINCRBY', KEYS[1], 'tries', 1)\n"
	"  if type(w) == 'table' then return w end\n"
	"  pause(w, 4)\n"
	"end\n"
	"redis.call('HDEL', KEYS[1], 'run', 'died', 'ends')\n"
	"local is_over = ARGV[2] == 'done' or ARGV[2] == 'delete'\n"
	"if ARGV[2] == 'unused' then is_over = (h[2] == '0-0' and h[3] == '0') or not last_id() end\n"
	"if is_over then redis.call('PEXPIRE', KEYS[1], ARGV[3]) end\n"
	"return 1\n",

	/* XRANGE gives the entries themselves, so they are counted while that costs little: up to 256 KiB. Behind that
	 * the server's own counts have to do. */
	[SCRIPT_FEED_LAG] = LUA_LAST_ID LUA_OWNER
	"if ARGV[1] == highest then return 0 end\n"
	"local n, step, bytes, from, most = 0, 1, 0, ARGV[1], tonumber(ARGV[2])\n"
	"while n < most and bytes < 262144 do\n"
	"  local want = math.min(step, most - n)\n"
	"  local e = redis.pcall('XRANGE', KEYS[2], '(' .. from, '+', 'COUNT', want)\n"
	"  if e.err then return e end\n"
	"  for _, x in ipairs(e) do for _, v in ipairs(x[2]) do bytes = bytes + #v end end\n"
	"  n = n + #e\n"
	"  if #e < want or e[#e][1] == highest then return n end\n"
	"  from = e[#e][1]\n"
	"  step = math.max(1, math.min(step * 8, math.floor(262144 * n / bytes) - n))\n"
	"end\n"
	"if n >= most then return n end\n"
	"local last, added, len, first = last_id()\n"
	"if first and later(first, ARGV[1]) then return math.min(most, len) end\n"
	"local pos, count = string.match(h[7] or '', '^(.*):(%d+)$')\n"
	"return added and pos == ARGV[1] and math.max(n, math.min(most, added - count))\n",

	/* By rank: with an offset behind a score Redis walks past all that is skipped, for each page anew. */
	[SCRIPT_DELAYED_PAGE] = "local n = redis.pcall('ZCOUNT', KEYS[1], '-inf', '(' .. ARGV[1])\n"
				"if type(n) == 'table' then return n end\n"
				"n = n + ARGV[2]\n"
				"return redis.pcall('ZRANGE', KEYS[1], n, n + ARGV[3] - 1, 'WITHSCORES')\n",

	[SCRIPT_FEED_HOLD] =
		LUA_LAST_ID LUA_OWNER "if h[5] then redis.pcall('HDEL', KEYS[1], 'not_before', 'pause') end\n"
				      "if h[2] or ARGV[2] ~= '$' then return 0 end\n"
				      "local last = last_id()\n"
				      "if type(last) == 'table' then return last end\n"
				      "local w = redis.pcall('HSET', KEYS[1], 'pos', last or '0-0')\n"
				      "if type(w) == 'table' then return w end\n"
				      "redis.call('PEXPIRE', KEYS[1], ARGV[1])\n"
				      "return 1\n",
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
