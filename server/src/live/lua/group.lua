-- The lease table of one group; rules/src/lease_table.rs is the same in Rust, and a change is made in both. ARGV[4] the group, ARGV[5] the terminal
-- that speaks ('' for the server itself), ARGV[6] three limits, "bytes chunks bytes": the most bytes that may be leased and not yet received (0: any), the
-- most chunks that a terminal may fetch without having signed for them, and what the budget has for direct copies.
--
--   group:G            hash   swarm, chunks, root, opens, keep, next (of the chunks that are in neither list, the first one never given), led and trailed (how many of
--                             group:G:first and group:G:last were given or passed over), inflight (leased bytes that have not arrived),
--                             mean (bytes of a chunk), given (when a first copy was last given), direct (the chunk that the origin sends to every member itself)
--   group:G:members    hash   terminal -> overhead in ns per byte, for every planned member
--   group:G:live       set    members that can be given chunks
--   group:G:open       hash   terminal -> "credits time"
--   group:G:out        hash   terminal -> granted bytes whose copies are not done
--   group:G:leases     hash   chunk -> "terminal sent outstanding kind phase fetches"; sent: when it was fetched, until then granted; phase l: not received yet, r: received, copies not done; fetches: how often the origin began to send it under this lease
--                             kind f: first copy, p: repair, e: repair of what somebody has
--   group:G:directs    hash   "chunk terminal" -> "until fetches": a copy of the direct chunk on its way, which nobody relays
--   group:G:handed     set    members that were given the direct chunk
--   group:G:expiry     zset   chunk by the time when its lease ends
--   group:G:first      zset   the chunks that are given first, each with itself as its score, if the origin feeds the group
--   group:G:last       zset   those that are given last
--   group:G:returned   zset   chunks that were given and came back
--   group:G:held:T     string bitmap of what T has said that it holds, least significant bit first within a byte
--   group:G:sent       string the same for what the origin began to send to this group; swarm:S:sent for the whole swarm
--   group:G:unsigned:T set   chunks that T has fetched from the origin and is not known to have signed for
--   group:G:benched    hash   terminal -> until when it is given nothing
--   group:G:asked      hash   chunk -> when a repair for it was first refused because another member should have it
--   swarm:S:lengths    string chunk lengths, 4 bytes each
--   swarm:S:doubled    string bytes that were given again although somebody has them
--   swarm:S:fed        string when a member of a group that the origin feeds last began to fetch
local G = ns .. ':group:' .. ARGV[4]
local caller = ARGV[5]
local inflight_text, unsigned_text, direct_text = string.match(ARGV[6], '^(%d+) (%d+) (%d+)$')
local inflight_max, unsigned_max, direct_room = tonumber(inflight_text), tonumber(unsigned_text), tonumber(direct_text)
local KEYS_OF = {'members', 'live', 'open', 'out', 'leases', 'expiry', 'returned', 'sent', 'benched', 'asked', 'rebuild', 'answered', 'claims', 'union', 'directs',
  'handed', 'first', 'last'}
local K = {}
for _, name in ipairs(KEYS_OF) do K[name] = G .. ':' .. name end

-- A lease that brought no chunk by then goes to somebody else; fetching renews it.
local LEASE_MS = 15000
-- Copies that were not reported done by then no longer count against the terminal that owes them.
local COPIES_MS = 60000
-- How often one lease may be fetched: what is sent again comes out of the repair budget, which is everybody's.
local FETCHES_MAX = 3
-- Credits are repeated twice a second while they are wanted; older ones are of a terminal that has stopped asking.
local CREDIT_LIFE_MS = 1600
-- The most grants in one call, so that no call holds up Redis for long; what is open stays open for the next one.
local GRANTS_MAX = 256
-- A member that asks this long for a chunk that another one should have is given it: the other one lies or cannot be reached.
local PATIENCE_MS, PATIENCE_FORGOTTEN_MS = 5000, 60000
-- How long the members that the origin feeds may fetch nothing before another group is given what was never sent: as long as one of them may keep a
-- lease without using it.
local FEEDING_MS = LEASE_MS
-- How long a chunk may be kept from a relay that would be the last to finish, for one that has no credits yet.
local HOLD_BACK_MS = 1000
-- Direct copies that one member may have on their way: as many as make one follow the other.
local DIRECT_MAX = 2
-- The most leases that a terminal can claim after a loss: as many as it asks for at a time.
local CLAIMS_MAX = 32
-- How much longer than the others a connected member may take to tell what it holds, after a loss.
local ANSWER_MS = 4000
-- Overheads are whole nanoseconds per byte up to 8 kbit/s, so that overhead times bytes stays exact.
local OVERHEAD_MAX = 1000000

-- `returned`: leases that ended without their chunk, as {chunk, terminal, why}, why: x its time was over, g the terminal is gone.
local state, live, returned, grants = nil, {}, {}, {}

-- The keys that this call writes to. Each lapses when the release is long over, and has to be told so when it was empty before; telling all keys in
-- each call was 15 of some 70 commands.
local written = {}
local function write(command, key, ...)
  written[key] = true
  return redis.call(command, key, ...)
end
local function lapse(keep)
  for key in pairs(written) do redis.call('PEXPIREAT', key, keep) end
end

local function bit_of(chunk) return chunk - chunk % 8 + 7 - chunk % 8 end
local function held_key(terminal) return G .. ':held:' .. terminal end
local function unsigned_key(terminal) return G .. ':unsigned:' .. terminal end
local function swarm_key(name) return ns .. ':swarm:' .. state.swarm .. ':' .. name end
local function holds(terminal, chunk) return redis.call('GETBIT', held_key(terminal), bit_of(chunk)) == 1 end
local function whole(number) return string.format('%.0f', number) end

local function length_of(chunk)
  return (struct.unpack('<I4', redis.call('GETRANGE', swarm_key('lengths'), 4 * chunk, 4 * chunk + 3)))
end

local function load()
  local m = redis.call('HMGET', G, 'swarm', 'chunks', 'root', 'opens', 'keep', 'next', 'inflight', 'mean', 'given', 'direct', 'led', 'trailed')
  if not m[1] then return false end
  state = {swarm = m[1], chunks = tonumber(m[2]), root = m[3] == '1', opens = tonumber(m[4]), keep = m[5], next = tonumber(m[6]),
    inflight = tonumber(m[7]), mean = tonumber(m[8]), given = tonumber(m[9]), direct = tonumber(m[10]), led = tonumber(m[11]),
    trailed = tonumber(m[12])}
  if redis.call('EXISTS', swarm_key('lengths')) == 0 then
    state = nil
    return false
  end
  live = redis.call('SMEMBERS', K.live)
  table.sort(live)
  return true
end

local function save()
  write('HSET', G, 'next', state.next, 'led', state.led, 'trailed', state.trailed, 'inflight', state.inflight, 'given', whole(state.given), 'direct', state.direct or '')
  lapse(state.keep)
end

local function live_holder(chunk, except)
  for _, terminal in ipairs(live) do
    if terminal ~= except and holds(terminal, chunk) then return terminal end
  end
  return nil
end

-- Whether the origin has begun to send the chunk before, to whichever terminal of the swarm.
local function was_sent(chunk) return redis.call('GETBIT', swarm_key('sent'), bit_of(chunk)) == 1 end

-- Whether the terminal has fetched so much without signing that it is given nothing more.
local function owes_signatures(terminal) return redis.call('SCARD', unsigned_key(terminal)) >= unsigned_max end

local function lease_of(chunk)
  local record = redis.call('HGET', K.leases, chunk)
  if not record then return nil end
  local terminal, sent, out, kind, phase, fetches = string.match(record, '^(%S+) (%d+) (%d+) (%a) (%a) (%d+)$')
  return {terminal = terminal, sent = tonumber(sent), out = tonumber(out), kind = kind, phase = phase, fetches = tonumber(fetches)}
end

local function record_lease(chunk, lease)
  write('HSET', K.leases, chunk,
    table.concat({lease.terminal, whole(lease.sent), whole(lease.out), lease.kind, lease.phase, whole(lease.fetches)}, ' '))
end

local function write_lease(chunk, lease, until_ms)
  record_lease(chunk, lease)
  write('ZADD', K.expiry, until_ms, chunk)
end

local function outstanding(terminal) return tonumber(redis.call('HGET', K.out, terminal) or '0') end

local function drop_lease(chunk, lease)
  local length = length_of(chunk)
  redis.call('HDEL', K.leases, chunk)
  redis.call('ZREM', K.expiry, chunk)
  write('HSET', K.out, lease.terminal, math.max(0, outstanding(lease.terminal) - length))
  if lease.phase == 'l' then state.inflight = math.max(0, state.inflight - length) end
  if lease.kind == 'e' and lease.fetches == 0 then
    write('SET', swarm_key('doubled'), whole(math.max(0, tonumber(redis.call('GET', swarm_key('doubled')) or '0') - length)))
  end
end

-- The copies that the origin sends to members itself, as {chunk, terminal, until, fetches}.
local function directs()
  local list, fields = {}, redis.call('HGETALL', K.directs)
  for index = 1, #fields, 2 do
    local chunk, terminal = string.match(fields[index], '^(%d+) (%S+)$')
    local until_ms, fetches = string.match(fields[index + 1], '^(%d+) (%d+)$')
    list[#list + 1] = {chunk = tonumber(chunk), terminal = terminal, until_ms = tonumber(until_ms), fetches = tonumber(fetches)}
  end
  return list
end

local function direct_of(chunk, terminal)
  local record = redis.call('HGET', K.directs, whole(chunk) .. ' ' .. terminal)
  if not record then return nil end
  return {chunk = chunk, terminal = terminal, fetches = tonumber(string.match(record, '%d+$'))}
end

local function write_direct(direct, until_ms)
  write('HSET', K.directs, whole(direct.chunk) .. ' ' .. direct.terminal, whole(until_ms) .. ' ' .. whole(direct.fetches))
end

-- Whether the origin sends the chunk to somebody but `except`, for good.
local function is_sent_directly(chunk, except)
  for _, direct in ipairs(directs()) do
    if direct.chunk == chunk and direct.terminal ~= except then return true end
  end
  return false
end

-- A lease ended without the chunk: somebody else gets it, unless a live member has it after all, or is sent it by the origin.
local function give_to_others(chunk)
  local coming = redis.call('HEXISTS', K.leases, chunk) == 1 or is_sent_directly(chunk, nil)
  if state.root and not coming and not live_holder(chunk) then write('ZADD', K.returned, chunk, chunk) end
end

-- The same, and the answer says so.
local function give_back(chunk, terminal, why)
  give_to_others(chunk)
  returned[#returned + 1] = whole(chunk)
  returned[#returned + 1] = terminal
  returned[#returned + 1] = why
end

-- A direct copy is not on its way any more. Says whether it was.
local function drop_direct(chunk, terminal)
  if redis.call('HDEL', K.directs, whole(chunk) .. ' ' .. terminal) == 0 then return false end
  state.inflight = math.max(0, state.inflight - length_of(chunk))
  return true
end

local function leave(terminal)
  redis.call('SREM', K.live, terminal)
  redis.call('HDEL', K.open, terminal)
  for index, name in ipairs(live) do
    if name == terminal then
      table.remove(live, index)
      break
    end
  end
  for _, text in ipairs(redis.call('HKEYS', K.leases)) do
    local chunk = tonumber(text)
    local lease = lease_of(chunk)
    if lease.terminal == terminal then
      drop_lease(chunk, lease)
      if lease.phase == 'l' then give_back(chunk, terminal, 'g') end
    end
  end
  redis.call('HDEL', K.out, terminal)
  for _, direct in ipairs(directs()) do
    if direct.terminal == terminal and drop_direct(direct.chunk, terminal) then give_back(direct.chunk, terminal, 'g') end
  end
end

-- Leases whose time is over, and members whose WebSocket is gone without anybody having said so.
local function sweep()
  for _, text in ipairs(redis.call('ZRANGEBYSCORE', K.expiry, '-inf', now)) do
    local chunk = tonumber(text)
    local lease = lease_of(chunk)
    drop_lease(chunk, lease)
    if lease.phase == 'l' then give_back(chunk, lease.terminal, 'x') end
  end
  for _, direct in ipairs(directs()) do
    if direct.until_ms <= now and drop_direct(direct.chunk, direct.terminal) then give_back(direct.chunk, direct.terminal, 'x') end
  end
  local gone = {}
  for _, terminal in ipairs(live) do
    if terminal ~= caller and redis.call('EXISTS', presence_key(terminal)) == 0 then gone[#gone + 1] = terminal end
  end
  for _, terminal in ipairs(gone) do leave(terminal) end
end

local function benched(terminal) return now < tonumber(redis.call('HGET', K.benched, terminal) or '0') end

-- Whether somebody speaks who is no planned member.
local function stranger() return caller ~= '' and redis.call('HEXISTS', K.members, caller) == 0 end

-- Whoever speaks is there.
local function join(terminal)
  if not benched(terminal) and write('SADD', K.live, terminal) == 1 then
    live[#live + 1] = terminal
    table.sort(live)
  end
end

local function grant(chunk, terminal, kind)
  local length = length_of(chunk)
  local out = outstanding(terminal) + length
  write('HSET', K.out, terminal, out)
  state.inflight = state.inflight + length
  write_lease(chunk, {terminal = terminal, sent = now, out = out, kind = kind, phase = 'l', fetches = 0}, now + LEASE_MS)
  grants[#grants + 1] = {terminal = terminal, chunk = chunk, kind = kind == 'e' and 'p' or kind}
end

-- The first chunk from `chunk` on, a multiple of 8, that no live member alone holds the whole byte of: who has another edition holds long runs, and a call
-- per chunk would hold up Redis. A bitmap of nothing but ones has its first zero behind its end.
local function behind_run(chunk)
  local byte = chunk / 8
  for _, terminal in ipairs(live) do
    local zero = redis.call('BITPOS', held_key(terminal), 0, byte)
    if zero > 0 then byte = math.max(byte, math.floor(zero / 8)) end
  end
  return 8 * byte
end

local function is_free(chunk) return not lease_of(chunk) and not live_holder(chunk) end
local function place_in(list, chunk) return redis.call('ZRANK', K[list], chunk) or nil end
local function in_between(chunk) return not place_in('first', chunk) and not place_in('last', chunk) end

-- The first one from the place `from` on that is free, and its place.
local function free_in(list, from)
  while true do
    local chunk = tonumber(redis.call('ZRANGE', K[list], from, from)[1])
    if not chunk or is_free(chunk) then return chunk, from end
    from = from + 1
  end
end

-- How many chunks were given or passed over, whether they came back or not.
local function passed()
  local below = '(' .. whole(state.next)
  return state.next - redis.call('ZCOUNT', K.first, '-inf', below) - redis.call('ZCOUNT', K.last, '-inf', below) + state.led + state.trailed
end

local function never_given(chunk)
  local first, last = place_in('first', chunk), place_in('last', chunk)
  if first then return first >= state.led end
  if last then return last >= state.trailed end
  return chunk >= state.next
end

-- What take() has answered is given.
local function note_given(chunk)
  if redis.call('ZREM', K.returned, chunk) == 1 then return end
  if place_in('first', chunk) then
    state.led = state.led + 1
  elseif place_in('last', chunk) then
    state.trailed = state.trailed + 1
  else
    state.next = chunk + 1
  end
end

-- The chunk to be given next: returned ones first, then in the order of giving. Never one that a live member holds or leases, or is sent by the origin.
local function take()
  while true do
    local chunk = tonumber(redis.call('ZRANGE', K.returned, 0, 0)[1])
    if not chunk then break end
    if is_free(chunk) and not is_sent_directly(chunk, nil) then return chunk end
    redis.call('ZREM', K.returned, chunk)
  end
  local chunk
  chunk, state.led = free_in('first', state.led)
  if chunk then return chunk end
  while state.next < state.chunks do
    local behind = state.next % 8 == 0 and behind_run(state.next) or state.next
    if behind > state.next then
      state.next = math.min(behind, state.chunks)
    elseif in_between(state.next) and is_free(state.next) then
      return state.next
    else
      state.next = state.next + 1
    end
  end
  chunk, state.trailed = free_in('last', state.trailed)
  return chunk
end

-- Bytes that a relay with this overhead copies to everybody in a second.
local function speed(overhead) return math.max(1, math.floor(1000000000 / overhead)) end

-- When a relay would have copied so many bytes more to everybody, in ms from now.
local function finish_ms(relay, length) return math.floor(relay.overhead * (relay.out + length) / 1000000) end

-- How long a relay may take for a chunk without being the one that everybody waits for at the end: as long as all relays together need for what is
-- owed and what was not given, or as the first of them to finish.
local function worthwhile_ms(relays, length)
  local total, speeds, first = state.mean * (redis.call('ZCARD', K.returned) + state.chunks - passed()), 0, nil
  for _, relay in ipairs(relays) do
    total, speeds = total + relay.out, speeds + speed(relay.overhead)
    local finish = finish_ms(relay, length)
    if not first or finish < first then first = finish end
  end
  return math.max(math.floor(total * 1000 / math.max(1, speeds)), first or 0)
end

-- Gives first copies to open credits, each to the terminal that is expected to have copied it to everybody first.
local function give_first_copies()
  local candidates, relays = {}, {}
  for _, terminal in ipairs(live) do
    local open, at = string.match(redis.call('HGET', K.open, terminal) or '0 0', '^(%d+) (%d+)$')
    local asks = tonumber(open) > 0 and now - tonumber(at) <= CREDIT_LIFE_MS
    local out = outstanding(terminal)
    if (asks or out > 0) and not owes_signatures(terminal) then
      local relay = {terminal = terminal, open = tonumber(open), at = at, overhead = tonumber(redis.call('HGET', K.members, terminal)), out = out}
      relays[#relays + 1] = relay
      if asks then candidates[#candidates + 1] = relay end
    end
  end
  for _ = 1, GRANTS_MAX do
    if #candidates == 0 then break end
    local chunk = take()
    if not chunk then break end
    local length = length_of(chunk)
    if inflight_max > 0 and state.inflight > 0 and state.inflight + length > inflight_max then break end
    local best, least
    for index, candidate in ipairs(candidates) do
      local finish = candidate.overhead * (candidate.out + length)
      if not best or finish < least then best, least = index, finish end
    end
    local chosen = candidates[best]
    if now - state.given < HOLD_BACK_MS and finish_ms(chosen, length) > worthwhile_ms(relays, length) then break end
    note_given(chunk)
    state.given = now
    grant(chunk, chosen.terminal, 'f')
    chosen.out, chosen.open = chosen.out + length, chosen.open - 1
    write('HSET', K.open, chosen.terminal, chosen.open .. ' ' .. chosen.at)
    if chosen.open == 0 then table.remove(candidates, best) end
  end
end

-- The chunk that the origin sends to every member itself: the one begun, or the next one if the budget has it for all that are planned. Members need a
-- chunk each to copy on before that.
local function direct_chunk(room)
  if state.direct then return state.direct end
  if #live < 2 or room < state.mean or passed() < #live then return nil end
  local chunk = take()
  if not chunk or length_of(chunk) * redis.call('HLEN', K.members) > room then return nil end
  note_given(chunk)
  state.direct = chunk
  redis.call('DEL', K.handed)
  return chunk
end

-- Gives direct copies while the origin's line has room that no relay asks for, and the budget bytes that no first copy and no repair needs.
local function give_directly()
  local room = direct_room
  if room == 0 then return end
  for _, direct in ipairs(directs()) do
    if direct.fetches == 0 then room = math.max(0, room - length_of(direct.chunk)) end
  end
  for _ = 1, GRANTS_MAX do
    local chunk = direct_chunk(room)
    if not chunk then return end
    local length = length_of(chunk)
    -- Half of what may be on its way: a relay that asks for a first copy does not wait long behind these.
    if length > room or (inflight_max > 0 and state.inflight > 0 and state.inflight + length > inflight_max / 2) then return end
    local coming, lease, chosen, wanted = {}, lease_of(chunk), nil, false
    for _, direct in ipairs(directs()) do coming[direct.terminal] = (coming[direct.terminal] or 0) + 1 end
    for _, terminal in ipairs(live) do
      if redis.call('SISMEMBER', K.handed, terminal) == 0 and not holds(terminal, chunk) then
        wanted = true
        local free = (coming[terminal] or 0) < DIRECT_MAX and not (lease and lease.terminal == terminal)
        if not chosen and free and not owes_signatures(terminal) then chosen = terminal end
      end
    end
    if chosen then
      room, state.inflight = room - length, state.inflight + length
      write_direct({chunk = chunk, terminal = chosen, fetches = 0}, now + LEASE_MS)
      write('SADD', K.handed, chosen)
      grants[#grants + 1] = {terminal = chosen, chunk = chunk, kind = 'd'}
    elseif wanted then
      return
    else
      state.direct = nil
    end
  end
end

local function allocate()
  if not state.root or now < state.opens then return end
  give_first_copies()
  give_directly()
end

local KIND_NAMES = {f = 'first_copy', p = 'repair', d = 'direct'}

-- Tells the terminals of their grants in the same step in which they were made: a lease that nobody knows of would cost its chunk 15 seconds.
local function announce()
  local lists, order = {}, {}
  for _, given in ipairs(grants) do
    local key = given.terminal .. ' ' .. given.kind
    if not lists[key] then
      lists[key] = {}
      order[#order + 1] = {key = key, terminal = given.terminal, kind = given.kind}
    end
    table.insert(lists[key], whole(given.chunk))
  end
  for _, entry in ipairs(order) do
    push(entry.terminal, string.format('{"type":"grant","swarm_id":"%s","kind":"%s","chunks":[%s],"expires_at":%s}', state.swarm,
      KIND_NAMES[entry.kind], table.concat(lists[entry.key], ','), whole(now + LEASE_MS)))
  end
end

local function mark_out_of_line(bit)
  for _, list in ipairs({K.first, K.last}) do
    for _, text in ipairs(redis.call('ZRANGE', list, 0, -1)) do write('SETBIT', K.union, bit_of(tonumber(text)), bit) end
  end
end

-- From the bitmap of all that is held: the next chunk is the one after the last held or leased, and what is missing before it has come back; those that are
-- given first or last stay in their lists. Read byte by byte here, because a call per chunk of a large edition would hold up Redis for a quarter of a second.
local function find_holes()
  for _, text in ipairs(redis.call('ZRANGE', K.last, 0, -1)) do
    if redis.call('GETBIT', K.union, bit_of(tonumber(text))) == 1 or lease_of(tonumber(text)) then state.next = state.chunks end
  end
  mark_out_of_line(0)
  local bytes = redis.call('GET', K.union) or ''
  local last = #bytes
  while last > 0 and string.byte(bytes, last) == 0 do last = last - 1 end
  if last > 0 then
    local top, byte = 0, string.byte(bytes, last)
    while byte > 0 do top, byte = top + 1, math.floor(byte / 2) end
    state.next = math.max(state.next, math.min(state.chunks, 8 * (last - 1) + top))
  end
  mark_out_of_line(1)
  bytes = redis.call('GET', K.union) or ''
  for first = 0, state.next - 1, 8 do
    local byte = string.byte(bytes, first / 8 + 1) or 0
    for chunk = first, byte == 255 and -1 or math.min(first + 7, state.next - 1) do
      if math.floor(byte / 2 ^ (chunk - first)) % 2 == 0 and redis.call('HEXISTS', K.leases, chunk) == 0 then
        write('ZADD', K.returned, chunk, chunk)
      end
    end
  end
end

-- Builds the table from what the members have told after a loss.
local function finish_rebuild()
  local r = redis.call('HMGET', K.rebuild, 'swarm', 'chunks', 'root', 'opens', 'keep', 'mean')
  local chunks, root = tonumber(r[2]), r[3] == '1'
  write('HSET', G, 'swarm', r[1], 'chunks', r[2], 'root', r[3], 'opens', r[4], 'keep', r[5], 'next', root and 0 or chunks, 'inflight', 0,
    'mean', r[6], 'given', 0, 'direct', '', 'led', 0, 'trailed', 0)
  for _, terminal in ipairs(redis.call('SMEMBERS', K.answered)) do
    write('SADD', K.live, terminal)
    redis.call('BITOP', 'OR', K.union, K.union, held_key(terminal))
  end
  if not load() then return false end
  -- What members say that they hold is their word; that a chunk was sent is told by receipts.
  redis.call('BITOP', 'OR', swarm_key('sent'), swarm_key('sent'), K.sent)
  written[swarm_key('sent')] = true
  write('SET', swarm_key('fed'), now)
  local claims = redis.call('HGETALL', K.claims)
  for index = 1, #claims, 2 do
    local chunk, terminal = tonumber(claims[index]), claims[index + 1]
    if not live_holder(chunk) then
      local out = outstanding(terminal) + length_of(chunk)
      write('HSET', K.out, terminal, out)
      state.inflight = state.inflight + length_of(chunk)
      write_lease(chunk, {terminal = terminal, sent = now, out = out, kind = 'f', phase = 'l', fetches = 0}, now + LEASE_MS)
    end
    if root and in_between(chunk) and chunk >= state.next then state.next = chunk + 1 end
  end
  if root then find_holes() end
  redis.call('DEL', K.rebuild, K.answered, K.claims, K.union)
  return true
end

-- 'ready' with the table loaded, 'rebuilding' while members are being asked, 'lost' if nobody has begun to.
local function open_table()
  if load() then return 'ready' end
  local until_ms = tonumber(redis.call('HGET', K.rebuild, 'until'))
  if not until_ms then return 'lost' end
  local silent, connected = 0, 0
  for _, terminal in ipairs(redis.call('HKEYS', K.members)) do
    if redis.call('SISMEMBER', K.answered, terminal) == 0 then
      silent = silent + 1
      connected = connected + redis.call('EXISTS', presence_key(terminal))
    end
  end
  -- Whoever is connected is waited for a little longer: what it holds must not be given again.
  if (silent > 0 and now < until_ms) or (connected > 0 and now < until_ms + ANSWER_MS) then return 'rebuilding' end
  return finish_rebuild() and 'ready' or 'lost'
end

-- The answer of every group script: {state, leases that came back as {chunk, terminal, why, …}, grants as {terminal, chunk, kind, …}, what else the script says}.
local function answer(word, rest)
  local list = {}
  if word == 'ready' then
    save()
    announce()
    for _, given in ipairs(grants) do
      list[#list + 1] = given.terminal
      list[#list + 1] = whole(given.chunk)
      list[#list + 1] = given.kind
    end
  end
  return {word, returned, list, rest or {}}
end
