-- One segment of what the terminal that speaks holds: ARGV[7] its number, ARGV[8] its 512 bytes, ARGV[9] '1' on the last one; then the leases it has.
-- Those count only while the table of a group that the origin feeds is being rebuilt, and CLAIMS_MAX of them at most: nobody else knows of them then. A table that is there knows its
-- leases, and whatever else a terminal names would be a chunk that it picked for itself.
local word = open_table()
local segment, bytes = tonumber(ARGV[7]), ARGV[8]
if word == 'lost' then return answer(word) end
if stranger() then return answer('stranger') end
write('SETRANGE', held_key(caller), segment * 512, bytes)
if word == 'rebuilding' then
  if redis.call('HGET', K.rebuild, 'root') == '1' then
    local claimed = 0
    for _, terminal in ipairs(redis.call('HVALS', K.claims)) do
      if terminal == caller then claimed = claimed + 1 end
    end
    for index = 10, #ARGV do
      if claimed < CLAIMS_MAX then claimed = claimed + write('HSETNX', K.claims, ARGV[index], caller) end
    end
  end
  if ARGV[9] == '1' then write('SADD', K.answered, caller) end
  lapse(redis.call('HGET', K.rebuild, 'keep'))
  word = open_table()
  if word == 'ready' then allocate() end
  return answer(word)
end
sweep()
join(caller)
for _, text in ipairs(redis.call('ZRANGEBYSCORE', K.returned, segment * 4096, segment * 4096 + 4095)) do
  if live_holder(tonumber(text)) then redis.call('ZREM', K.returned, text) end
end
allocate()
return answer('ready')
