-- Read ended jobs that may be cleaned up: those that ended at least older_than_ms ago, or without it those whose own
-- time to be kept is over, and the oldest of those beyond max_ended.
-- ARGV: older_than_ms, limit (applies only without older_than_ms), max_ended (optional).
-- Reply: JSON rows of {id, storage, checkpoint, metrics, thinned_at, number of followers}.
-- Errors: none.
local ids, is_listed = {}, {}
if arg.older_than_ms then
  local before = now_ms() - arg.older_than_ms
  for state in pairs(TERMINAL) do
    for _, id in ipairs(redis.call('ZRANGE', 'bj:state:' .. state, 0, -1)) do
      local ended_at = is_job_id(id) and tonumber(redis.call('HGET', job_key(id), 'ended_at'))
      if ended_at and ended_at <= before then ids[#ids + 1] = id end
    end
  end
else
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', 'bj:expiry', '-inf', now_ms())) do
    -- One that was pruned and still has followers is skipped: nothing can be done about it yet.
    local storage, done = unpack(redis.pcall('HMGET', job_key(id), 'storage', 'thinned_at'))
    local is_stuck = done and redis.call('SCARD', job_key(id) .. ':followers') > 0
    if is_job_id(id) and storage and #ids < arg.limit and not is_stuck then
      ids[#ids + 1] = id
      is_listed[id] = true
    end
  end
  local num_ended, oldest = 0, {}
  for state in pairs(TERMINAL) do num_ended = num_ended + redis.call('ZCARD', 'bj:state:' .. state) end
  local excess = arg.max_ended and math.min(num_ended - arg.max_ended, arg.limit - #ids) or 0
  if excess > 0 then
    -- The oldest `limit` of each state contain the oldest of all.
    for state in pairs(TERMINAL) do
      local page = redis.call('ZRANGE', 'bj:state:' .. state, 0, arg.limit - 1, 'WITHSCORES')
      for i = 1, #page, 2 do oldest[#oldest + 1] = {page[i], tonumber(page[i + 1])} end
    end
    table.sort(oldest, function(a, b) return a[2] < b[2] end)
  end
  for _, job in ipairs(oldest) do
    local id = job[1]
    local storage = redis.pcall('HGET', job_key(id), 'storage')
    -- One that others follow stays, whatever the limit.
    local is_free = is_job_id(id) and not is_listed[id] and redis.call('SCARD', job_key(id) .. ':followers') == 0
    if excess > 0 and is_free and type(storage) == 'string' then
      ids[#ids + 1] = id
      excess = excess - 1
    end
  end
end
local rows = {}
for i, id in ipairs(ids) do
  local row = redis.call('HMGET', job_key(id), 'storage', 'checkpoint', 'metrics', 'thinned_at')
  rows[i] = {id, row[1], row[2], row[3], row[4], redis.call('SCARD', job_key(id) .. ':followers')}
end
return {'OK', #rows == 0 and '[]' or cjson.encode(rows)}
