-- The terminal that speaks, if any, is there (ARGV[7]: its credits, '' if it does not say); then chunks are given to open credits.
-- The rest of the answer: if it has fetched too much that it did not sign for, the chunks.
local word = open_table()
if word ~= 'ready' then return answer(word) end
if stranger() then return answer('stranger') end
sweep()
if caller ~= '' then
  join(caller)
  if ARGV[7] == '0' then
    redis.call('HDEL', K.open, caller)
  elseif ARGV[7] ~= '' then
    write('HSET', K.open, caller, ARGV[7] .. ' ' .. whole(now))
  end
end
allocate()
return answer('ready', caller ~= '' and owes_signatures(caller) and redis.call('SMEMBERS', unsigned_key(caller)) or nil)
