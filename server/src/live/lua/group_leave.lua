-- The terminal that speaks is gone. With ARGV[7] > 0 it was removed: it is given nothing for so many ms although it may speak again.
local word = open_table()
if word ~= 'ready' then return answer(word) end
sweep()
if tonumber(ARGV[7]) > 0 then redis.call('HSET', K.benched, caller, now + tonumber(ARGV[7])) end
leave(caller)
allocate()
return answer('ready')
