-- The terminal that speaks found nobody who has some chunks. ARGV[7] how many bytes the origin may still send again, ARGV[8] how many as first
-- copies, ARGV[9] how many it may send again in all, from the beginning on, of what a live terminal has; ARGV[10] 1 if a member of a group that the origin feeds
-- is connected; then (chunk, 1 if the receipts of a live terminal that it can get it from contain it). The rest of the answer: (chunk, 'c' refused because a member should have it | 'b' because the budget is spent).
local word = open_table()
if word ~= 'ready' then return answer(word) end
if stranger() then return answer('stranger') end
sweep()
join(caller)
local again_budget, first_budget, doubled_max, refused = tonumber(ARGV[7]), tonumber(ARGV[8]), tonumber(ARGV[9]), {}
-- What was never sent is for the groups that the origin feeds while one of their members fetches: the chunk comes down from there.
local fed = tonumber(redis.call('GET', swarm_key('fed')) or '0')
local feeding = not state.root and ARGV[10] == '1' and now - math.max(state.opens, fed) < FEEDING_MS
local function refuse(chunk, why)
  refused[#refused + 1] = whole(chunk)
  refused[#refused + 1] = why
end
for index = 11, #ARGV, 2 do
  local chunk, receipted = tonumber(ARGV[index]), ARGV[index + 1] == '1'
  write('SETBIT', held_key(caller), bit_of(chunk), 0)
  local lease = lease_of(chunk)
  local others = lease ~= nil and lease.terminal ~= caller
  local elsewhere = receipted or others or live_holder(chunk, caller) ~= nil or is_sent_directly(chunk, caller)
  local waited = now - tonumber(redis.call('HGET', K.asked, chunk) or '0')
  local long = waited >= PATIENCE_MS and waited < PATIENCE_FORGOTTEN_MS
  local again, length = was_sent(chunk), length_of(chunk)
  -- What somebody has is sent again only out of a part of the budget: the rest is for what nobody has.
  local doubles, room = elsewhere and again, again and again_budget or first_budget
  if doubles then room = math.min(room, math.max(0, doubled_max - tonumber(redis.call('GET', swarm_key('doubled')) or '0'))) end
  if lease and lease.phase == 'l' and not others then
    -- The grant did not reach it: say it again.
    grants[#grants + 1] = {terminal = caller, chunk = chunk, kind = lease.kind == 'e' and 'p' or lease.kind}
  elseif direct_of(chunk, caller) then
    grants[#grants + 1] = {terminal = caller, chunk = chunk, kind = 'd'}
  elseif feeding and not again then
    refuse(chunk, 'c')
  elseif benched(caller) or (lease and lease.phase == 'l') or (elsewhere and not long) then
    if elsewhere and waited >= PATIENCE_FORGOTTEN_MS then write('HSET', K.asked, chunk, now) end
    refuse(chunk, 'c')
  elseif not elsewhere and never_given(chunk) then
    refuse(chunk, 'c')
  elseif length > room then
    refuse(chunk, 'b')
  else
    first_budget = math.max(0, first_budget - length)
    if again then again_budget = math.max(0, again_budget - length) end
    if lease then drop_lease(chunk, lease) end
    if doubles then write('INCRBY', swarm_key('doubled'), length) end
    redis.call('HDEL', K.asked, chunk)
    local came_back = redis.call('ZREM', K.returned, chunk) == 1
    grant(chunk, caller, came_back and not elsewhere and 'f' or (doubles and 'e' or 'p'))
  end
end
allocate()
return answer('ready', refused)
