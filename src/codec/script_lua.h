/* script_lua - the parts that the scripts of codec/script are made of. Each script is given
 * KEYS lbs, registry, delayed, delayed-data, parked [, dlq]; ARGV group, id, consumer, stream, same_stream ("" =
 * allow), and its own. Texts only; any thread. */
#pragma once

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

/* later(a, b): the id a is above b. Compared as text: Lua's numbers lose digits. */
#define LUA_LATER                                                                                                      \
	"local function later(a, b)\n"                                                                                 \
	"  local am, as = string.match(a, '^(%d+)%-(%d+)$')\n"                                                         \
	"  local bm, bs = string.match(b, '^(%d+)%-(%d+)$')\n"                                                         \
	"  if am == bm then am, bm = as, bs end\n"                                                                     \
	"  if #am ~= #bm then return #am > #bm end\n"                                                                  \
	"  return am > bm\n"                                                                                           \
	"end\n"

/* alive(id): it still counts for its stream: pending for somebody, waiting for its time, or in the LBS and not
 * delivered yet (it was requeued). */
#define LUA_ALIVE                                                                                                      \
	LUA_LATER                                                                                                      \
	"local function alive(id)\n"                                                                                   \
	"  if not string.match(id, '^%d+%-%d+$') then return false end\n"                                              \
	"  local p = held(id)\n"                                                                                       \
	"  if p then return not p.err end\n"                                                                           \
	"  if type(redis.pcall('ZSCORE', KEYS[3], id)) == 'string' then return true end\n"                             \
	"  local e = redis.pcall('XRANGE', KEYS[1], id, id)\n"                                                         \
	"  if e.err or not e[1] then return false end\n"                                                               \
	"  local last = delivered()\n"                                                                                 \
	"  return last ~= nil and later(e[1][1], last)\n"                                                              \
	"end\n"

/* pack(t), parts(s): texts, each as <length>:<bytes>, one after the other, and back; nil when s is not that. */
#define LUA_PACK                                                                                                       \
	"local function pack(t)\n"                                                                                     \
	"  local o = {}\n"                                                                                             \
	"  for i = 1, #t do o[i] = #t[i] .. ':' .. t[i] end\n"                                                         \
	"  return table.concat(o)\n"                                                                                   \
	"end\n"                                                                                                        \
	"local function parts(s)\n"                                                                                    \
	"  local t, at = {}, 1\n"                                                                                      \
	"  while at <= #s do\n"                                                                                        \
	"    local colon = string.find(s, ':', at, true)\n"                                                            \
	"    local n = colon and tonumber(string.sub(s, at, colon - 1))\n"                                             \
	"    if not n or colon + n > #s then return nil end\n"                                                         \
	"    t[#t + 1] = string.sub(s, colon + 1, colon + n)\n"                                                        \
	"    at = colon + n + 1\n"                                                                                     \
	"  end\n"                                                                                                      \
	"  return t\n"                                                                                                 \
	"end\n"

/* add(f): XADD of these fields. Lua can hand 8,000 values to a call, no more. counted(f, n): with that retry
 * count. marked(f, s): says that a worker died with it (s = "1"), or not ("").
 */
#define LUA_ADD                                                                                                        \
	"local function add(f)\n"                                                                                      \
	"  if #f > 7950 then return redis.error_reply('ERR the entry has more fields than a script can copy') end\n"   \
	"  return redis.pcall('XADD', KEYS[1], '*', unpack(f))\n"                                                      \
	"end\n"                                                                                                        \
	"local function counted(f, n)\n"                                                                               \
	"  local found = false\n"                                                                                      \
	"  for i = 1, #f, 2 do\n"                                                                                      \
	"    if f[i] == '_retry_count' then f[i + 1] = n found = true end\n"                                           \
	"  end\n"                                                                                                      \
	"  if not found and n ~= '0' then f[#f + 1] = '_retry_count' f[#f + 1] = n end\n"                              \
	"  return f\n"                                                                                                 \
	"end\n"                                                                                                        \
	"local function marked(f, is_suspect)\n"                                                                       \
	"  local o = {}\n"                                                                                             \
	"  for i = 1, #f, 2 do\n"                                                                                      \
	"    if f[i] ~= '_suspect' then o[#o + 1] = f[i] o[#o + 1] = f[i + 1] end\n"                                   \
	"  end\n"                                                                                                      \
	"  if is_suspect ~= '' then o[#o + 1] = '_suspect' o[#o + 1] = is_suspect end\n"                               \
	"  return o\n"                                                                                                 \
	"end\n"

/* What waits for a running stream. Serialize: the entry itself, still in the LBS but pending for nobody, as member
 * "<length>:<stream>:<id, padded>" of KEYS[5]. Coalesce: one wish, its id and fields in the registry under
 * wish_of(stream), and the member "<length>:<stream>:w". */
#define LUA_WAITS                                                                                                      \
	"local function prefix(stream)\n"                                                                              \
	"  return #stream .. ':' .. stream .. ':'\n"                                                                   \
	"end\n"                                                                                                        \
	"local function member(stream, id)\n"                                                                          \
	"  local ms, seq = string.match(id, '^(%d+)%-(%d+)$')\n"                                                       \
	"  return prefix(stream) .. string.rep('0', 20 - #ms) .. ms .. '-' .. string.rep('0', 20 - #seq) .. seq\n"     \
	"end\n"                                                                                                        \
	"local function wish_of(stream)\n"                                                                             \
	"  return '\\0wish:' .. stream\n"                                                                              \
	"end\n"                                                                                                        \
	"local function first(stream)\n"                                                                               \
	"  local p = prefix(stream)\n"                                                                                 \
	"  local m = redis.pcall('ZRANGEBYLEX', KEYS[5], '[' .. p, '(' .. p .. ':', 'LIMIT', 0, 1)\n"                  \
	"  return m[1], m[1] and string.gsub(string.gsub(string.sub(m[1], #p + 1), '^0+(%d)', '%1'), '%-0+(%d)', "     \
	"'-%1')\n"                                                                                                     \
	"end\n"

/* advance(stream, heir, than): nobody runs the stream any more, the oldest of what waits for it goes on. Newer than
 * `than` and given an heir: it is the heir's at once, its id is returned. Else it goes to the LBS' end; one that
 * somebody has (the group was made again) is the stream's. What cannot be written now waits on. */
#define LUA_ADVANCE                                                                                                    \
	"local function advance(stream, heir, than)\n"                                                                 \
	"  local w = redis.pcall('HGET', KEYS[2], wish_of(stream))\n"                                                  \
	"  local t = type(w) == 'string' and parts(w)\n"                                                               \
	"  for _ = 1, 100 do\n"                                                                                        \
	"    local m, id = first(stream)\n"                                                                            \
	"    if t and not (m and id ~= 'w' and later(t[1], id)) then\n"                                                \
	"      table.remove(t, 1)\n"                                                                                   \
	"      local new = add(counted(t, '0'))\n"                                                                     \
	"      if type(new) == 'table' then break end\n"                                                               \
	"      redis.pcall('HSET', KEYS[2], stream, new)\n"                                                            \
	"      redis.pcall('HDEL', KEYS[2], wish_of(stream))\n"                                                        \
	"      redis.pcall('ZREM', KEYS[5], prefix(stream) .. 'w')\n"                                                  \
	"      return\n"                                                                                               \
	"    end\n"                                                                                                    \
	"    local e = m and redis.pcall('XRANGE', KEYS[1], id, id)\n"                                                 \
	"    if not m or e.err then break end\n"                                                                       \
	"    local p = e[1] and held(id)\n"                                                                            \
	"    if p and not p.err then\n"                                                                                \
	"      if type(redis.pcall('HSET', KEYS[2], stream, id)) == 'table' then break end\n"                          \
	"      redis.pcall('ZREM', KEYS[5], m)\n"                                                                      \
	"      return\n"                                                                                               \
	"    end\n"                                                                                                    \
	"    if e[1] and heir ~= '' and later(id, than) then\n"                                                        \
	"      local c = redis.pcall('XCLAIM', KEYS[1], ARGV[1], heir, 0, id, 'FORCE', 'JUSTID')\n"                    \
	"      if not c.err and c[1] then\n"                                                                           \
	"        redis.pcall('HSET', KEYS[2], stream, id)\n"                                                           \
	"        redis.pcall('ZREM', KEYS[5], m)\n"                                                                    \
	"        return id\n"                                                                                          \
	"      end\n"                                                                                                  \
	"    end\n"                                                                                                    \
	"    if e[1] then\n"                                                                                           \
	"      local new = add(e[1][2])\n"                                                                             \
	"      if type(new) == 'table' then break end\n"                                                               \
	"      redis.pcall('HSET', KEYS[2], stream, new)\n"                                                            \
	"      redis.pcall('XDEL', KEYS[1], id)\n"                                                                     \
	"      redis.pcall('ZREM', KEYS[5], m)\n"                                                                      \
	"      return\n"                                                                                               \
	"    end\n"                                                                                                    \
	"    redis.pcall('ZREM', KEYS[5], m)\n"                                                                        \
	"  end\n"                                                                                                      \
	"  redis.pcall('HDEL', KEYS[2], stream)\n"                                                                     \
	"end\n"

/* registered(): the registry names this entry as its stream's; one of a wrong type is nobody's. finish(new, heir):
 * the entry leaves the group and the stream; the registry follows it to its new id, or what waits for the stream
 * goes on: returns its id when it is the heir's now, else nil; an error when the server refuses to write at all. */
#define LUA_FINISH                                                                                                     \
	"local function registered()\n"                                                                                \
	"  return ARGV[5] ~= '' and redis.pcall('HGET', KEYS[2], ARGV[4]) == ARGV[2]\n"                                \
	"end\n"                                                                                                        \
	"local function finish(new, heir)\n"                                                                           \
	"  local a = redis.pcall('XACK', KEYS[1], ARGV[1], ARGV[2])\n"                                                 \
	"  if type(a) == 'table' then return a end\n"                                                                  \
	"  redis.call('XDEL', KEYS[1], ARGV[2])\n"                                                                     \
	"  if not registered() then return end\n"                                                                      \
	"  if new then redis.pcall('HSET', KEYS[2], ARGV[4], new) else return advance(ARGV[4], heir or '', ARGV[2]) "  \
	"end\n"                                                                                                        \
	"end\n"

/* The checks and the reading that requeue, later and dead letter begin with. gone: nil = the answer for an entry
 * that is not pending. Leaves the fields in f. */
#define LUA_READ(gone)                                                                                                 \
	"local p = held(ARGV[2])\n"                                                                                    \
	"if not p then return " gone " end\n"                                                                          \
	"if p.err then return p end\n"                                                                                 \
	"if ARGV[3] ~= '' and p[2] ~= ARGV[3] then return 0 end\n"                                                     \
	"if p[3] < tonumber(ARGV[6]) then return 0 end\n"                                                              \
	"local e = redis.pcall('XRANGE', KEYS[1], ARGV[2], ARGV[2])\n"                                                 \
	"if e.err then return e end\n"                                                                                 \
	"if not e[1] then\n"                                                                                           \
	"  local a = finish()\n"                                                                                       \
	"  return type(a) == 'table' and a or 2\n"                                                                     \
	"end\n"                                                                                                        \
	"local f = e[1][2]\n"                                                                                          \
	"if #f > 7900 then return redis.error_reply('ERR the entry has more fields than a script can copy') end\n"

/* park(stream, id): the entry waits for its stream, pending for nobody. merge(stream, id): its fields become the
 * stream's wish, unless there is a newer one. Both answer an error with nothing changed. */
#define LUA_PARK                                                                                                       \
	"local function park(stream, id)\n"                                                                            \
	"  local z = redis.pcall('ZADD', KEYS[5], 0, member(stream, id))\n"                                            \
	"  if type(z) == 'table' then return z end\n"                                                                  \
	"  redis.pcall('XACK', KEYS[1], ARGV[1], id)\n"                                                                \
	"end\n"                                                                                                        \
	"local function merge(stream, id, fields)\n"                                                                   \
	"  local w = redis.pcall('HGET', KEYS[2], wish_of(stream))\n"                                                  \
	"  local t = type(w) == 'string' and parts(w)\n"                                                               \
	"  if not t or later(id, t[1]) then\n"                                                                         \
	"    if #fields > 7900 then return redis.error_reply('ERR the entry has more fields than a script can copy') " \
	"end\n"                                                                                                        \
	"    local v = {id}\n"                                                                                         \
	"    for i = 1, #fields do v[i + 1] = fields[i] end\n"                                                         \
	"    local z = redis.pcall('ZADD', KEYS[5], 0, prefix(stream) .. 'w')\n"                                       \
	"    if type(z) == 'table' then return z end\n"                                                                \
	"    z = redis.pcall('HSET', KEYS[2], wish_of(stream), pack(v))\n"                                             \
	"    if type(z) == 'table' then return z end\n"                                                                \
	"  end\n"                                                                                                      \
	"  redis.pcall('XACK', KEYS[1], ARGV[1], id)\n"                                                                \
	"  redis.pcall('XDEL', KEYS[1], id)\n"                                                                         \
	"end\n"

/* move(id): what waited for its time goes back to the LBS: returns its new id; nil: it is not there; an error with
 * nothing changed. */
#define LUA_MOVE                                                                                                       \
	"local function move(id)\n"                                                                                    \
	"  local d = redis.pcall('HGET', KEYS[4], id)\n"                                                               \
	"  if type(d) == 'table' then return d end\n"                                                                  \
	"  local t = d and parts(d)\n"                                                                                 \
	"  if not t or #t < 5 then\n"                                                                                  \
	"    redis.pcall('ZREM', KEYS[3], id)\n"                                                                       \
	"    return\n"                                                                                                 \
	"  end\n"                                                                                                      \
	"  local stream = t[1]\n"                                                                                      \
	"  local new = add({unpack(t, 4)})\n"                                                                          \
	"  if type(new) == 'table' then return new end\n"                                                              \
	"  if ARGV[5] ~= '' and stream ~= '' and redis.pcall('HGET', KEYS[2], stream) == id then\n"                    \
	"    redis.pcall('HSET', KEYS[2], stream, new)\n"                                                              \
	"  end\n"                                                                                                      \
	"  redis.pcall('ZREM', KEYS[3], id)\n"                                                                         \
	"  redis.pcall('HDEL', KEYS[4], id)\n"                                                                         \
	"  return new\n"                                                                                               \
	"end\n"

/* clock(): the server's, Unix ms. */
#define LUA_CLOCK                                                                                                      \
	"local function clock()\n"                                                                                     \
	"  local t = redis.call('TIME')\n"                                                                             \
	"  return t[1] * 1000 + math.floor(t[2] / 1000)\n"                                                             \
	"end\n"

/* What all scripts on the LBS share. */
#define LUA_LBS LUA_HELD LUA_DELIVERED LUA_ALIVE LUA_PACK LUA_ADD LUA_WAITS LUA_ADVANCE

/* take(): what ARGV's entry may do: 1 it is its stream's, 2 waits, 4 merged, 0 gone; or an error. */
#define LUA_TAKE                                                                                                       \
	"local function take()\n"                                                                                      \
	"  local p = held(ARGV[2])\n"                                                                                  \
	"  if not p then return 0 end\n"                                                                               \
	"  if p.err then return p end\n"                                                                               \
	"  if p[2] ~= ARGV[3] then return 0 end\n"                                                                     \
	"  if ARGV[5] == '' then return 1 end\n"                                                                       \
	"  local stream, only_look = ARGV[4], ARGV[6] == '1'\n"                                                        \
	"  local h = redis.pcall('HGET', KEYS[2], stream)\n"                                                           \
	"  if type(h) == 'table' then return h end\n"                                                                  \
	"  if h == ARGV[2] then return 1 end\n"                                                                        \
	"  local is_busy, older = h and alive(h), false\n"                                                             \
	"  if not is_busy then\n"                                                                                      \
	"    local m, id = first(stream)\n"                                                                            \
	"    older = m and id ~= 'w' and id ~= ARGV[2] and later(ARGV[2], id)\n"                                       \
	"  end\n"                                                                                                      \
	"  if is_busy or older then\n"                                                                                 \
	"    if only_look then return 2 end\n"                                                                         \
	"    if ARGV[5] == 'coalesce' and is_busy then\n"                                                              \
	"      local e = redis.pcall('XRANGE', KEYS[1], ARGV[2], ARGV[2])\n"                                           \
	"      if e.err then return e end\n"                                                                           \
	"      if not e[1] then\n"                                                                                     \
	"        redis.pcall('XACK', KEYS[1], ARGV[1], ARGV[2])\n"                                                     \
	"        return 0\n"                                                                                           \
	"      end\n"                                                                                                  \
	"      return merge(stream, ARGV[2], e[1][2]) or 4\n"                                                          \
	"    end\n"                                                                                                    \
	"    local z = park(stream, ARGV[2])\n"                                                                        \
	"    if z then return z end\n"                                                                                 \
	"    if older then advance(stream, '', '') end\n"                                                              \
	"    return 2\n"                                                                                               \
	"  end\n"                                                                                                      \
	"  h = redis.pcall('HSET', KEYS[2], stream, ARGV[2])\n"                                                        \
	"  if type(h) == 'table' then return h end\n"                                                                  \
	"  redis.pcall('ZREM', KEYS[5], member(stream, ARGV[2]))\n"                                                    \
	"  local w = redis.pcall('HGET', KEYS[2], wish_of(stream))\n"                                                  \
	"  local t = type(w) == 'string' and parts(w)\n"                                                               \
	"  if t and later(ARGV[2], t[1]) then\n"                                                                       \
	"    redis.pcall('HDEL', KEYS[2], wish_of(stream))\n"                                                          \
	"    redis.pcall('ZREM', KEYS[5], prefix(stream) .. 'w')\n"                                                    \
	"  end\n"                                                                                                      \
	"  return 1\n"                                                                                                 \
	"end\n"

/* done(): ARGV's entry leaves: 1, or the id of the heir's next; 0 it is not the consumer's; or an error. */
#define LUA_DONE                                                                                                       \
	"local function done()\n"                                                                                      \
	"  local p = held(ARGV[2])\n"                                                                                  \
	"  if p and p.err then return p end\n"                                                                         \
	"  if p and (ARGV[3] == '' or p[2] == ARGV[3]) then return finish(nil, ARGV[6]) or 1 end\n"                    \
	"  if not p and registered() and not alive(ARGV[2]) then advance(ARGV[4], '', '') end\n"                       \
	"  return 0\n"                                                                                                 \
	"end\n"

/* How the scripts on many entries begin. mine: those that are pending for the consumer, as far as one look at the
 * range of ids has told: other entries of ours in between may fill it, so one that is not there is asked for alone.
 * registered_as: what each one's stream has in the registry, false = nothing. is_calm: nothing waits for any stream.
 * out: the answers; slow: which go through the script for one. Numbers stay far below what unpack can hand on. */
#define LUA_MANY                                                                                                       \
	"local n = (#ARGV - 8) / 2\n"                                                                                  \
	"local p = redis.pcall('XPENDING', KEYS[1], ARGV[1], ARGV[2], ARGV[7], 2 * n + 8, ARGV[3])\n"                  \
	"if p.err then return p end\n"                                                                                 \
	"local mine, out, slow, is_calm, registered_as = {}, {}, {}, false, {}\n"                                      \
	"for i = 1, #p do mine[p[i][1]] = true end\n"                                                                  \
	"if ARGV[5] ~= '' then\n"                                                                                      \
	"  local streams = {}\n"                                                                                       \
	"  for i = 1, n do streams[i] = ARGV[8 + 2 * i] end\n"                                                         \
	"  registered_as = redis.pcall('HMGET', KEYS[2], unpack(streams))\n"                                           \
	"  is_calm = not registered_as.err and redis.pcall('ZCARD', KEYS[5]) == 0\n"                                   \
	"  if registered_as.err then registered_as = {} end\n"                                                         \
	"end\n"

/* write_to_table(key, pairs): HSET of many. Redis keeps a small hash as a list and looks through all of it each time:
 * 6 us a stream when 500 run. A value of more than 64 bytes makes it a table, and it stays one when that is gone. */
#define LUA_TABLE                                                                                                      \
	"local function write_to_table(key, pairs)\n"                                                                  \
	"  local is_worth_it, last = #pairs >= 32, #pairs\n"                                                           \
	"  if is_worth_it then pairs[last + 1] = '\\0table' pairs[last + 2] = string.rep('.', 65) end\n"               \
	"  local h = redis.pcall('HSET', key, unpack(pairs))\n"                                                        \
	"  if is_worth_it and type(h) == 'number' then redis.pcall('HDEL', key, '\\0table') end\n"                     \
	"  return h\n"                                                                                                 \
	"end\n"

/* And how they end: the rest goes one by one. */
#define LUA_ONE_BY_ONE(fn)                                                                                             \
	"for _, i in ipairs(slow) do\n"                                                                                \
	"  ARGV[2], ARGV[4] = ARGV[7 + 2 * i], ARGV[8 + 2 * i]\n"                                                      \
	"  out[i] = " fn "()\n"                                                                                        \
	"end\n"

/* unlocked(answer, key, value, locks): what done answered; when it is done the lock goes too, if that is its value:
 * its key comes to locks. unlock(locks): deletes them. */
#define LUA_UNLOCKED                                                                                                   \
	"local function unlocked(answer, key, value, locks)\n"                                                         \
	"  if answer ~= 1 and type(answer) ~= 'string' then return answer end\n"                                       \
	"  if redis.pcall('GET', key) == value then\n"                                                                 \
	"    locks[#locks + 1] = key\n"                                                                                \
	"    return answer\n"                                                                                          \
	"  end\n"                                                                                                      \
	"  return answer == 1 and 3 or answer\n"                                                                       \
	"end\n"                                                                                                        \
	"local function unlock(locks)\n"                                                                               \
	"  if locks[1] then redis.pcall('DEL', unpack(locks)) end\n"                                                   \
	"end\n"
