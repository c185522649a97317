-- A WebSocket of the terminal ARGV[4] begins, named by the token ARGV[5]; ARGV[6] is how long the presence holds. A newer one replaces an older one,
-- whose instance is woken to see it. Answers {epoch, offset} of the terminal's pushes.
redis.call('SET', presence_key(ARGV[4]), ARGV[5], 'PX', ARGV[6])
local epoch, offset = position_of(ARGV[4])
redis.call('PEXPIRE', position_key(ARGV[4]), PUSH_KEEP_MS)
redis.call('PEXPIRE', stream_key(ARGV[4]), PUSH_KEEP_MS)
redis.call('PUBLISH', ns .. ':wake:' .. ARGV[4], '')
return {epoch, offset}
