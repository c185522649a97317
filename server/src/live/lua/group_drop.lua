-- The group is over: its keys go, and those of the members named from ARGV[7].
redis.call('DEL', G)
for _, key in pairs(K) do redis.call('DEL', key) end
for index = 7, #ARGV do redis.call('DEL', held_key(ARGV[index]), unsigned_key(ARGV[index])) end
return answer('lost')
