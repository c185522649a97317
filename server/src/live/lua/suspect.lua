-- ARGV[4] the swarm, ARGV[5] the suspected terminal, ARGV[6] who reports it, ARGV[7] how long a report counts in ms.
-- Answers {how many different terminals have reported it within that time, 1 if it is connected}.
local key = ns .. ':suspect:' .. ARGV[4] .. ':' .. ARGV[5]
redis.call('ZADD', key, now, ARGV[6])
redis.call('ZREMRANGEBYSCORE', key, '-inf', now - tonumber(ARGV[7]) - 1)
redis.call('PEXPIRE', key, ARGV[7])
return {redis.call('ZCARD', key), redis.call('EXISTS', presence_key(ARGV[5]))}
