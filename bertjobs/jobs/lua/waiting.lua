-- Read what admission needs of each job in the queue, in queue order, as one JSON document.
-- A job whose last attempt is not known to be gone is left out: two attempts must never live at once.
local rows = {}
for _, id in ipairs(redis.call('ZRANGE', 'bj:queue', arg.first, arg.last)) do
  local row = redis.call('HMGET', job_key(id), 'resources', 'after', 'time_limit_s', 'used_ms', 'reason', 'message', 'num_attempts')
  local after = cjson.decode(row[2])
  local pending, broken = false, false
  for _, dependency in ipairs(after) do
    local state = redis.call('HGET', job_key(dependency), 'state')
    if state ~= 'SUCCEEDED' and not broken then
      pending = dependency
      broken = TERMINAL[state] and state or false
    end
  end
  local alive = redis.call('SISMEMBER', 'bj:live', id .. ' ' .. row[7]) == 1
  rows[#rows + 1] = {id, row[1], row[3], row[4], row[5], row[6], pending, broken, alive}
end
if #rows == 0 then return {'OK', '[]'} end
return {'OK', cjson.encode(rows)}
