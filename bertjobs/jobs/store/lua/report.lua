-- Renew an attempt's lease, with or without news. The job becomes RUNNING at its first step.
-- ARGV: id, number, token, lease_ms; optional: phase, progress, step, nodes.
-- Reply: the command for the driver ('cancel', 'drain', 'ended' or '').
-- Errors: LEASE_LOST.
if not holds_lease(arg.id, arg.number, arg.token) then
  local ended = redis.call('HMGET', attempt_key(arg.id, arg.number), 'token', 'ended_by')
  -- The race: the heartbeat process of a driver that has just ended its attempt may report once more. That driver must
  -- not be stopped like one that lost its lease.
  if ended[1] == tostring(arg.token) and ended[2] == 'driver' then return {'OK', 'ended'} end
  return {'LEASE_LOST', arg.id}
end
local key, attempt = job_key(arg.id), attempt_key(arg.id, arg.number)
renew(arg.id, arg.number, arg.lease_ms)
if arg.phase then redis.call('HSET', key, 'phase', arg.phase) end
if arg.progress then redis.call('HSET', key, 'progress', arg.progress) end
if arg.nodes then
  redis.call('HSET', attempt, 'nodes', arg.nodes)
  touch(arg.id)
end
if arg.phase or arg.progress then redis.call('HSET', attempt, 'alive_at', now_ms()) end
if arg.step and arg.step >= 1 and redis.call('HGET', key, 'state') == 'STARTING' then
  redis.call('HSET', attempt, 'started_at', now_ms())
  move(arg.id, 'RUNNING', 'Stepping', 'The first step has been reported.')
end
return {'OK', redis.call('HGET', attempt, 'command') or ''}
