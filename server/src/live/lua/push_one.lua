-- ARGV[4] the terminal, ARGV[5] the push, ARGV[6] '1' to push only to a terminal that is connected. Answers whether it was pushed.
if ARGV[6] == '1' and redis.call('EXISTS', presence_key(ARGV[4])) == 0 then return 0 end
push(ARGV[4], ARGV[5])
return 1
