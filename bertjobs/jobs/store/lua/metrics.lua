-- Append one line to the series behind the curves. `line` counts a writer's lines, so that one sent twice is one.
if not holds_lease(arg.id, arg.number, arg.token) then return {'LEASE_LOST', arg.id} end
local key, field = attempt_key(arg.id, arg.number), 'line:' .. arg.writer
if arg.line > tonumber(redis.call('HGET', key, field) or '0') then
  redis.call('HSET', key, field, arg.line)
  redis.call('XADD', job_key(arg.id) .. ':metrics', 'MAXLEN', '~', MAX_METRICS, '*', 'values', arg.values)
end
return {'OK'}
