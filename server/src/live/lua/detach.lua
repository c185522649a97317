-- The WebSocket ARGV[5] of the terminal ARGV[4] has ended. Answers whether the terminal is gone with it: not if a newer one has taken its place.
local owner = redis.call('GET', presence_key(ARGV[4]))
if owner and owner ~= ARGV[5] then return 0 end
redis.call('DEL', presence_key(ARGV[4]))
return 1
