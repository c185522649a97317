-- The terminal that speaks fetches chunk ARGV[7] from the origin. The rest of the answer: 'none' without a lease that may still be fetched; else 'first'
-- if no terminal of the swarm was sent the chunk before, else 'direct' for a direct copy or 'again', and the marks that were set now: of 'g' the group's and 's' the swarm's of sending,
-- 'u' that the terminal owes a signature. Or 'unsigned' and all chunks that it owes one for: it must sign first.
-- ARGV[8] is 'fetch'; 'renew' while the chunk is on its way, which is no fetch of its own; or 'undo' and the marks to take back, because the chunk was not
-- sent after all, with 'd' if the lease is to go because the budget does not have the bytes: the chunk can still be asked for as missing.
local word = open_table()
if word ~= 'ready' then return answer(word) end
local chunk, wish = tonumber(ARGV[7]), ARGV[8]
sweep()
local lease = lease_of(chunk)
local own = lease and lease.terminal == caller and lease.phase == 'l'
local direct = not own and direct_of(chunk, caller) or nil
if string.sub(wish, 1, 4) == 'undo' then
  local marks = string.sub(wish, 5)
  if string.find(marks, 'g') then write('SETBIT', K.sent, bit_of(chunk), 0) end
  if string.find(marks, 's') then write('SETBIT', swarm_key('sent'), bit_of(chunk), 0) end
  if string.find(marks, 'u') then redis.call('SREM', unsigned_key(caller), chunk) end
  local ends = string.find(marks, 'd')
  if own then
    lease.fetches = math.max(0, lease.fetches - 1)
    if ends then drop_lease(chunk, lease) else record_lease(chunk, lease) end
  elseif direct and ends then
    drop_direct(chunk, caller)
    give_to_others(chunk)
  elseif direct then
    local until_ms = tonumber(string.match(redis.call('HGET', K.directs, whole(chunk) .. ' ' .. caller), '^%d+'))
    direct.fetches = math.max(0, direct.fetches - 1)
    write_direct(direct, until_ms)
  end
  return answer('ready')
end
if wish == 'renew' then
  if own then write_lease(chunk, lease, now + LEASE_MS) elseif direct then write_direct(direct, now + LEASE_MS) end
  return answer('ready')
end
local right = own and lease or direct
if not right or right.fetches >= FETCHES_MAX then return answer('ready', {'none'}) end
if redis.call('SISMEMBER', unsigned_key(caller), chunk) == 0 and owes_signatures(caller) then
  return answer('ready', {'unsigned', unpack(redis.call('SMEMBERS', unsigned_key(caller)))})
end
local again, marks = was_sent(chunk), ''
if write('SADD', unsigned_key(caller), chunk) == 1 then marks = 'u' end
if state.root and not again then write('SET', swarm_key('fed'), now) end
local group_had = write('SETBIT', K.sent, bit_of(chunk), 1) == 1
right.fetches = right.fetches + 1
if own then
  -- The overhead counts from the moment of sending, not from the grant before it.
  if not group_had then lease.sent = now end
  write_lease(chunk, lease, now + LEASE_MS)
else
  write_direct(direct, now + LEASE_MS)
end
local swarm_had = write('SETBIT', swarm_key('sent'), bit_of(chunk), 1) == 1
local part = not again and 'first' or (own and 'again' or 'direct')
return answer('ready', {part, marks .. (group_had and '' or 'g') .. (swarm_had and '' or 's')})
