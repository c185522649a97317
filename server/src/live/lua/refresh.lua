-- The WebSocket ARGV[5] of the terminal ARGV[4] is still there for ARGV[6] ms. Answers {1, epoch, offset}, or {0, …} if a newer one has taken its place.
local owner = redis.call('GET', presence_key(ARGV[4]))
local epoch, offset = position_of(ARGV[4])
if owner and owner ~= ARGV[5] then return {0, epoch, offset} end
redis.call('SET', presence_key(ARGV[4]), ARGV[5], 'PX', ARGV[6])
redis.call('PEXPIRE', position_key(ARGV[4]), PUSH_KEEP_MS)
redis.call('PEXPIRE', stream_key(ARGV[4]), PUSH_KEEP_MS)
return {1, epoch, offset}
