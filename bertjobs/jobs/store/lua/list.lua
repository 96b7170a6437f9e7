-- Read some columns of the newest jobs, newest first. One JSON document, because parsing a reply of 200,000 small
-- strings would take the client longer than writing the document takes Redis.
-- ARGV: columns, limit (-1: all), states, user (both optional).
-- Reply: JSON rows of the columns (false: not set), the place in the queue and the id.
-- Errors: none.
-- With a filter by user, all jobs are candidates.
local last = (arg.user or arg.limit < 0) and -1 or arg.limit - 1
local found = {}
if not arg.states then
  found = redis.call('ZREVRANGE', 'bj:all', 0, last)
else
  local seq_of = {}
  for _, state in ipairs(arg.states) do
    local rows = redis.call('ZREVRANGE', 'bj:state:' .. state, 0, last, 'WITHSCORES')
    for i = 1, #rows, 2 do
      found[#found + 1] = rows[i]
      seq_of[rows[i]] = tonumber(rows[i + 1])
    end
  end
  table.sort(found, function(a, b) return seq_of[a] > seq_of[b] end)
end

local reason_at
for i, column in ipairs(arg.columns) do
  if column == 'reason' then reason_at = i end  -- and the message after it
end
local function columns_of(id)
  local row = redis.call('HMGET', job_key(id), unpack(arg.columns))
  local word, message = shared_reason(redis.call('HGET', job_key(id), 'group'))
  if word then row[reason_at], row[reason_at + 1] = word, message end
  return row
end

local rows = {}
for _, id in ipairs(found) do
  if arg.limit >= 0 and #rows >= arg.limit then break end
  if not arg.user or redis.call('HGET', job_key(id), 'user') == arg.user then
    local row = columns_of(id)
    local rank = redis.call('ZRANK', 'bj:queue', id)
    row[#row + 1] = rank and rank + 1 or false
    row[#row + 1] = id
    rows[#rows + 1] = row
  end
end
if #rows == 0 then return {'OK', '[]'} end
return {'OK', cjson.encode(rows)}
