-- Leave a command for the driver's next report.
local state, n = unpack(redis.call('HMGET', job_key(arg.id), 'state', 'num_attempts'))
if not state then return {'UNKNOWN', arg.id} end
if state ~= 'STARTING' and state ~= 'RUNNING' then return {'STATE', state} end
-- Draining makes a checkpoint too, and says why.
if redis.call('HGET', attempt_key(arg.id, n), 'command') ~= 'drain' then
  redis.call('HSET', attempt_key(arg.id, n), 'command', arg.command)
end
return {'OK'}
