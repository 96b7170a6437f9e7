-- Append one line to a job's metrics.
-- ARGV: id, number, token, writer, line (counts the lines of a writer), values.
-- Reply: nothing.
-- Errors: LEASE_LOST.
if not holds_lease(arg.id, arg.number, arg.token) then return {'LEASE_LOST', arg.id} end
local key, field = attempt_key(arg.id, arg.number), 'line:' .. arg.writer
-- A line that was sent twice is appended once: lines of a writer arrive in order.
if arg.line > tonumber(redis.call('HGET', key, field) or '0') then
  redis.call('HSET', key, field, arg.line)
  redis.call('XADD', job_key(arg.id) .. ':metrics', 'MAXLEN', '~', MAX_METRICS, '*', 'values', arg.values)
end
return {'OK'}
