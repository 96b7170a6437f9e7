-- Read the jobs that ended before a time, or without one those whose own time to be kept is over.
local ids = {}
if arg.before_ms then
  for state in pairs(TERMINAL) do
    for _, id in ipairs(redis.call('ZRANGE', 'bj:state:' .. state, 0, -1)) do
      if tonumber(redis.call('HGET', job_key(id), 'ended_at')) <= arg.before_ms then ids[#ids + 1] = id end
    end
  end
else
  ids = redis.call('ZRANGEBYSCORE', 'bj:expiry', '-inf', now_ms(), 'LIMIT', 0, arg.limit)
end
local rows = {}
for i, id in ipairs(ids) do
  local row = redis.call('HMGET', job_key(id), 'storage', 'checkpoint', 'metrics', 'thinned_at')
  rows[i] = {id, row[1], row[2], row[3], row[4], redis.call('SCARD', job_key(id) .. ':followers')}
end
return {'OK', now_ms(), #rows == 0 and '[]' or cjson.encode(rows)}
