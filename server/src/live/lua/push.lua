-- Arguments of every script: ARGV[1] the namespace before every key, ARGV[2] the epoch of push streams that begin now, ARGV[3] the time in ms.
local ns, seed, now = ARGV[1], ARGV[2], tonumber(ARGV[3])

-- The most pushes kept for a terminal that is away: a second of the busiest traffic, many times over. Older ones are cut off and the terminal reloads.
local PUSH_MAX = 512
-- How long a stream outlives its last push: a terminal that is away for longer starts from fresh plans anyway.
local PUSH_KEEP_MS = 600000

local function presence_key(terminal) return ns .. ':presence:' .. terminal end
local function position_key(terminal) return ns .. ':position:' .. terminal end
local function stream_key(terminal) return ns .. ':push:' .. terminal end

-- The epoch and offset where a terminal's stream ends; begins a new epoch if there is none.
local function position_of(terminal)
  local at = redis.call('HMGET', position_key(terminal), 'epoch', 'offset')
  if at[1] then return at[1], tonumber(at[2]) end
  redis.call('DEL', stream_key(terminal))
  redis.call('HSET', position_key(terminal), 'epoch', seed, 'offset', 0)
  redis.call('PEXPIRE', position_key(terminal), PUSH_KEEP_MS)
  return seed, 0
end

-- Appends a push and wakes whoever holds the terminal's WebSocket.
local function push(terminal, json)
  local epoch, offset = position_of(terminal)
  offset = offset + 1
  redis.call('HSET', position_key(terminal), 'offset', offset)
  redis.call('XADD', stream_key(terminal), 'MAXLEN', PUSH_MAX, string.format('%.0f-0', offset), 'm', json)
  redis.call('PEXPIRE', position_key(terminal), PUSH_KEEP_MS)
  redis.call('PEXPIRE', stream_key(terminal), PUSH_KEEP_MS)
  redis.call('PUBLISH', ns .. ':wake:' .. terminal, '')
  return epoch, offset
end
