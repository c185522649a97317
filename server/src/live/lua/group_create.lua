-- A new group: ARGV[7] swarm, ARGV[8] chunks, ARGV[9] '1' for a root, ARGV[10] opens, ARGV[11] keep, ARGV[12] lengths, ARGV[15] the bytes of a chunk
-- in the mean, ARGV[16] and ARGV[17] the chunks that are given first and last, as "chunk chunk …", then from ARGV[18] (terminal, overhead) for each member. ARGV[13] is how long to ask the members what they hold: 0 if nobody can hold anything yet. ARGV[14] is the bitmap of what the members'
-- receipts contain: it was sent. A table or a rebuild that is there is left alone.
-- ARGV[12] is empty on the first try: the lengths of a large edition are long, and the swarm's other groups have brought them. Then the answer may be
-- 'lengths': come again with them.
if load() or redis.call('EXISTS', K.rebuild) == 1 then return answer('exists') end
local lengths = ns .. ':swarm:' .. ARGV[7] .. ':lengths'
if ARGV[12] ~= '' then
  write('SET', lengths, ARGV[12])
elseif redis.call('EXISTS', lengths) == 0 then
  return answer('lengths')
end
local wait = tonumber(ARGV[13])
redis.call('DEL', G)
for _, key in pairs(K) do redis.call('DEL', key) end
write('HSET', K.rebuild, 'swarm', ARGV[7], 'chunks', ARGV[8], 'root', ARGV[9], 'opens', ARGV[10], 'keep', ARGV[11], 'mean', ARGV[15],
  'until', now + wait)
if ARGV[14] ~= '' then
  write('SET', K.sent, ARGV[14])
end
for index, list in ipairs({K.first, K.last}) do
  for chunk in string.gmatch(ARGV[15 + index], '%d+') do write('ZADD', list, chunk, chunk) end
end
for index = 18, #ARGV, 2 do
  write('HSET', K.members, ARGV[index], math.min(OVERHEAD_MAX, math.max(1, tonumber(ARGV[index + 1]))))
  redis.call('DEL', held_key(ARGV[index]), unsigned_key(ARGV[index]))
end
lapse(ARGV[11])
if wait == 0 then return answer(finish_rebuild() and 'ready' or 'lost') end
for index = 18, #ARGV, 2 do push(ARGV[index], string.format('{"type":"report_holdings","swarm_id":"%s"}', ARGV[7])) end
return answer('rebuilding')
