-- Record what the dispatcher did or observed: set a time on attempts. With `gone` they no longer hold anything.
-- ARGV: term, attempts ({id, number} pairs), stamp (name of the field), gone (optional).
-- Reply: nothing.
-- Errors: NOT_LEADER.
if not leads(arg.term) then return {'NOT_LEADER', ''} end
for _, attempt in ipairs(arg.attempts) do
  local id, n = unpack(attempt)
  -- The race: Redis lost its last seconds since the caller looked, and with them the attempt or its end. It is stamped
  -- after the caller has looked again.
  local token, ended = unpack(redis.call('HMGET', attempt_key(id, n), 'token', 'ended_at'))
  if token and (ended or not arg.gone) then
    redis.call('HSETNX', attempt_key(id, n), arg.stamp, now_ms())
    if arg.gone then
      redis.call('SREM', 'bj:live', id .. ' ' .. n)
      -- What it held is free now; its log may take longer.
      if redis.call('HSETNX', attempt_key(id, n), 'log', 'pending') == 1 then
        redis.call('SADD', 'bj:logs', id .. ' ' .. n)
      end
      -- If its job has ended, its metrics can be moved to storage; otherwise that is tried again later.
      if redis.call('EXISTS', job_key(id) .. ':metrics') == 1 then redis.call('ZADD', 'bj:series', now_ms(), id) end
      touch(id)  -- a retried job may start again now
      wake()
    end
  end
end
return {'OK'}
