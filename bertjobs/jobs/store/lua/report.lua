-- Renew an attempt's lease, with or without news. The job becomes RUNNING at its first step.
-- ARGV: id, number, token, lease_ms; optional: phase, progress, step, step_ms (median time between reports of steps),
--   nodes, is_alive (work that has no number to report has advanced), is_stalled (no progress for too long),
--   driver (a name of its process: of several drivers started for one attempt the first one to say its name has the lease).
-- Reply: the command for the driver ('cancel', 'drain', 'ended' or ''), ms since the last progress, step_ms or '', the
--   phase.
-- Errors: LEASE_LOST.
if not holds_lease(arg.id, arg.number, arg.token) then
  local ended = redis.call('HMGET', attempt_key(arg.id, arg.number), 'token', 'ended_by')
  -- The race: the heartbeat process of a driver that has just ended its attempt may report once more. That driver must
  -- not be stopped like one that lost its lease.
  if ended[1] == tostring(arg.token) and ended[2] == 'driver' then return {'OK', 'ended', 0, '', ''} end
  return {'LEASE_LOST', arg.id}
end
local key, attempt = job_key(arg.id), attempt_key(arg.id, arg.number)
if arg.driver then
  -- The race: a Ray that was restarted has forgotten a driver that had not reported yet and lives on; the dispatcher has
  -- started another one for the same attempt, under the same token.
  local first = redis.call('HGET', attempt, 'driver')
  if first and first ~= arg.driver then return {'LEASE_LOST', arg.id} end
  redis.call('HSET', attempt, 'driver', arg.driver)
end
renew(arg.id, arg.number, arg.lease_ms)
if arg.phase then redis.call('HSET', key, 'phase', arg.phase) end
if arg.progress then redis.call('HSET', key, 'progress', arg.progress) end
if arg.nodes then
  redis.call('HSET', attempt, 'nodes', arg.nodes)
  touch(arg.id)
end
if arg.step_ms then redis.call('HSET', attempt, 'step_ms', arg.step_ms) end
if arg.is_stalled then redis.call('HSET', attempt, 'stalled_at', now_ms()) end
if arg.phase or arg.progress or arg.is_alive then redis.call('HSET', attempt, 'alive_at', now_ms()) end
if arg.step and arg.step >= 1 and redis.call('HGET', key, 'state') == 'STARTING' then
  redis.call('HSET', attempt, 'started_at', now_ms())
  move(arg.id, 'RUNNING', 'Stepping', 'The first step has been reported.')
end
local command, alive_at, step_ms = unpack(redis.call('HMGET', attempt, 'command', 'alive_at', 'step_ms'))
return {'OK', command or '', now_ms() - (alive_at or now_ms()), step_ms or '', redis.call('HGET', key, 'phase') or ''}
