-- Remove the metrics of an ended job, which are in storage up to the entry `last`. Without it, where there are newer
-- entries, or where the job has not ended, leave them and try again later.
-- ARGV: term, id, last (optional), retry_ms.
-- Reply: nothing.
-- Errors: NOT_LEADER.
if not leads(arg.term) then return {'NOT_LEADER', arg.id} end
local key = job_key(arg.id)
local newest = redis.call('XREVRANGE', key .. ':metrics', '+', '-', 'COUNT', 1)[1]
if not newest then
  redis.call('ZREM', 'bj:series', arg.id)  -- our own call, sent again, or the job was forgotten
-- The race: a user may have retried the job since it was read.
elseif TERMINAL[redis.call('HGET', key, 'state')] and newest[1] == arg.last then
  redis.call('HSET', key, 'series_at', now_ms())
  redis.call('DEL', key .. ':metrics')
  redis.call('ZREM', 'bj:series', arg.id)
else
  redis.call('ZADD', 'bj:series', now_ms() + arg.retry_ms, arg.id)
end
return {'OK'}
