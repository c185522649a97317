-- The terminal that speaks is gone. With ARGV[7] > 0 it was removed: it is given nothing for so many ms although it may speak again. The rest of the
-- answer: 'again' if it was removed already and its time is not over.
local word = open_table()
if word ~= 'ready' then return answer(word) end
sweep()
local again = benched(caller)
if tonumber(ARGV[7]) > 0 then write('HSET', K.benched, caller, now + tonumber(ARGV[7])) end
leave(caller)
allocate()
return answer('ready', again and {'again'} or nil)
