-- The terminal that speaks fetches chunk ARGV[7] from the origin. The rest of the answer: 'none' without a lease; else 'first' if no terminal of the
-- group was sent the chunk before (of the swarm, for a group that the origin does not feed), or 'again', and the marks of sending that were set now: of
-- 'g' the group's, 's' the swarm's. ARGV[8] names marks to take back because the chunk was not sent after all.
local word = open_table()
if word ~= 'ready' then return answer(word) end
local chunk = tonumber(ARGV[7])
if ARGV[8] ~= '' then
  if string.find(ARGV[8], 'g') then redis.call('SETBIT', K.sent, bit_of(chunk), 0) end
  if string.find(ARGV[8], 's') then redis.call('SETBIT', swarm_key('sent'), bit_of(chunk), 0) end
  return answer('ready')
end
sweep()
local lease = lease_of(chunk)
if not lease or lease.terminal ~= caller or lease.phase ~= 'l' then return answer('ready', {'none'}) end
local again = was_sent(chunk)
local group_had = redis.call('SETBIT', K.sent, bit_of(chunk), 1) == 1
-- The overhead counts from the moment of sending, not from the grant before it.
if not group_had then lease.sent = now end
write_lease(chunk, lease, now + LEASE_MS)
local swarm_had = redis.call('SETBIT', swarm_key('sent'), bit_of(chunk), 1) == 1
return answer('ready', {again and 'again' or 'first', (group_had and '' or 'g') .. (swarm_had and '' or 's')})
