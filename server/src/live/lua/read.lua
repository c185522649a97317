-- ARGV[4] the terminal, ARGV[5] and ARGV[6] the epoch and offset up to which its pushes are known, ARGV[7] the most to read.
-- Answers {epoch, offset of the end, 1 if the pushes right after the stated position are there, {offset, push, offset, push, …}, whose WebSocket
-- stands for the terminal}.
local terminal, after = ARGV[4], tonumber(ARGV[6])
local epoch, last = position_of(terminal)
local list, owner = {}, redis.call('GET', presence_key(terminal)) or ''
if epoch ~= ARGV[5] or after > last then return {epoch, last, 0, list, owner} end
local entries = redis.call('XRANGE', stream_key(terminal), string.format('(%.0f-0', after), '+', 'COUNT', tonumber(ARGV[7]))
for _, entry in ipairs(entries) do
  list[#list + 1] = string.match(entry[1], '^%d+')
  list[#list + 1] = entry[2][2]
end
local whole = after == last or tonumber(list[1]) == after + 1
return {epoch, last, whole and 1 or 0, list, owner}
