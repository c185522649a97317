-- The terminal that speaks has signed for the chunks from ARGV[8], for whichever source. ARGV[7] is 1 if it did so just now, so that it holds them: then
-- they are not given again as first copies.
local word = open_table()
if word ~= 'ready' then return answer(word) end
if stranger() then return answer('stranger') end
for index = 8, #ARGV do
  redis.call('SREM', unsigned_key(caller), ARGV[index])
  if ARGV[7] == '1' then
    write('SETBIT', held_key(caller), bit_of(tonumber(ARGV[index])), 1)
    redis.call('ZREM', K.returned, ARGV[index])
  end
end
return answer('ready')
