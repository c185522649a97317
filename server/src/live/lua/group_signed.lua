-- The terminal that speaks has signed for the chunks from ARGV[7], for whichever source.
local word = open_table()
if word ~= 'ready' then return answer(word) end
for index = 7, #ARGV do redis.call('SREM', unsigned_key(caller), ARGV[index]) end
return answer('ready')
