-- Read some columns of the newest jobs, newest first, in pages: each call looks at no more than `slice` jobs, so that
-- Redis answers others in between. One JSON document, because parsing a reply of many small strings would take the
-- client longer than writing the document takes Redis.
-- ARGV: columns, slice, limit (of rows; -1: none), states, user, before (all optional; `before`: the cursor of the page
--   before).
-- Reply: JSON rows of the columns (false: not set), the place in the queue and the id; the cursor of the next page, ''
--   where nothing is left.
-- Errors: none.
-- Pages are by seq, which no job changes: one that changes its state between two pages is seen once at most.
local found, seq_of = {}, {}
local function add(index)
  local rows = redis.call('ZRANGE', index, arg.before and '(' .. arg.before or '+inf', '-inf', 'BYSCORE', 'REV',
    'LIMIT', 0, arg.slice, 'WITHSCORES')
  for i = 1, #rows, 2 do
    found[#found + 1] = rows[i]
    seq_of[rows[i]] = tonumber(rows[i + 1])
  end
end
for _, state in ipairs(arg.states or {}) do add('bj:state:' .. state) end
if arg.states then
  -- The newest `slice` of each state contain the newest `slice` of all.
  table.sort(found, function(a, b) return seq_of[a] > seq_of[b] end)
else
  add('bj:all')
end

local rows, last = {}, nil
for i = 1, math.min(#found, arg.slice) do
  if arg.limit >= 0 and #rows >= arg.limit then break end
  local id = found[i]
  last = seq_of[id]
  if not arg.user or redis.call('HGET', job_key(id), 'user') == arg.user then
    rows[#rows + 1] = listed_row(id, arg.columns)
  end
end
local is_last = #found < arg.slice or (arg.limit >= 0 and #rows >= arg.limit)
-- A double that is written with %.17g is read as the same one.
return {'OK', #rows == 0 and '[]' or cjson.encode(rows), not is_last and string.format('%.17g', last) or ''}
