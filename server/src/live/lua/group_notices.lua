-- What became of chunks at the terminal that speaks: from ARGV[7], (chunk, when its copies were done or '').
-- The rest of the answer are the overheads measured, in ns per byte.
local word = open_table()
if word ~= 'ready' then return answer(word) end
if stranger() then return answer('stranger') end
sweep()
join(caller)
local samples = {}
for index = 7, #ARGV, 2 do
  local chunk, done = tonumber(ARGV[index]), tonumber(ARGV[index + 1])
  write('SETBIT', held_key(caller), bit_of(chunk), 1)
  redis.call('ZREM', K.returned, chunk)
  drop_direct(chunk, caller)
  local lease = lease_of(chunk)
  if lease and lease.terminal == caller then
    if lease.phase == 'l' then
      state.inflight = math.max(0, state.inflight - length_of(chunk))
      lease.phase = 'r'
      write_lease(chunk, lease, now + COPIES_MS)
    end
    if done then
      -- The time is the terminal's word: it cannot be before the grant or after this message. It is divided by all that the terminal had to copy
      -- then, because the wait behind earlier chunks is a part of it.
      local spent = math.min(math.max(done, lease.sent), math.max(now, lease.sent)) - lease.sent
      local sample = math.min(OVERHEAD_MAX, math.max(1, math.floor(spent * 1000000 / lease.out)))
      local overhead = tonumber(redis.call('HGET', K.members, caller))
      -- Who has become slow is believed sooner than who has become fast: what the slow one is given is what everybody waits for.
      local weight = sample > overhead and 2 or 4
      write('HSET', K.members, caller, math.max(1, math.floor(((weight - 1) * overhead + sample) / weight)))
      samples[#samples + 1] = whole(sample)
      drop_lease(chunk, lease)
    end
  end
end
allocate()
return answer('ready', samples)
