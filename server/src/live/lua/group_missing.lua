-- The terminal that speaks found nobody who has some chunks. ARGV[7] how many bytes the origin may still send again, ARGV[8] how many as first
-- copies, ARGV[9] how many of those to be sent again it may spend on what a live terminal has; ARGV[10] 1 if a member of a group that the origin feeds
-- is connected; then (chunk, 1 if the receipts of a live terminal that it is linked to contain it). The rest of the answer: (chunk, 'c' refused because a member should have it | 'b' because the budget is spent).
local word = open_table()
if word ~= 'ready' then return answer(word) end
if stranger() then return answer('stranger') end
sweep()
join(caller)
local again_budget, first_budget, doubled_budget, refused = tonumber(ARGV[7]), tonumber(ARGV[8]), tonumber(ARGV[9]), {}
-- What was never sent is for the groups that the origin feeds while one of their members fetches: the chunk comes down from there.
local fed = tonumber(redis.call('GET', swarm_key('fed')) or '0')
local feeding = not state.root and ARGV[10] == '1' and now - math.max(state.opens, fed) < FEEDING_MS
local function refuse(chunk, why)
  refused[#refused + 1] = whole(chunk)
  refused[#refused + 1] = why
end
for index = 11, #ARGV, 2 do
  local chunk, receipted = tonumber(ARGV[index]), ARGV[index + 1] == '1'
  redis.call('SETBIT', held_key(caller), bit_of(chunk), 0)
  local lease = lease_of(chunk)
  local elsewhere = receipted or live_holder(chunk, caller) ~= nil or (lease ~= nil and lease.terminal ~= caller)
  local asked = tonumber(redis.call('HGET', K.asked, chunk) or '0')
  local again = was_sent(chunk)
  -- What somebody has is sent again only out of a part of the budget: the rest is for what nobody has.
  local patient = now - asked >= PATIENCE_MS and now - asked < PATIENCE_FORGOTTEN_MS and (not again or length_of(chunk) <= doubled_budget)
  if lease and lease.terminal == caller and lease.phase == 'l' then
    -- The grant did not reach it: say it again.
    grants[#grants + 1] = {terminal = caller, chunk = chunk, kind = lease.kind}
  elseif feeding and not again then
    refuse(chunk, 'c')
  elseif benched(caller) or (lease and lease.phase == 'l') or (elsewhere and not patient) then
    if elsewhere and now - asked >= PATIENCE_FORGOTTEN_MS then redis.call('HSET', K.asked, chunk, now) end
    refuse(chunk, 'c')
  elseif not elsewhere and chunk >= state.next then
    refuse(chunk, 'c')
  elseif length_of(chunk) > (again and again_budget or first_budget) then
    refuse(chunk, 'b')
  else
    first_budget = first_budget - length_of(chunk)
    if again then again_budget = again_budget - length_of(chunk) end
    if elsewhere and again then doubled_budget = doubled_budget - length_of(chunk) end
    if lease then drop_lease(chunk, lease) end
    redis.call('HDEL', K.asked, chunk)
    local first = redis.call('ZREM', K.returned, chunk) == 1
    grant(chunk, caller, first and 'f' or 'p')
  end
end
allocate()
return answer('ready', refused)
