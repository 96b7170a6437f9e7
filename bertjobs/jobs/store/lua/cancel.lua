-- End a waiting job at once, or tell the driver of an active one to stop. An ended job is left as it is.
-- ARGV: id, target (the state that the job ends in), reason, message; term where the dispatcher calls.
-- Reply: the job's state.
-- Errors: UNKNOWN, NOT_LEADER.
if arg.term and not leads(arg.term) then return {'NOT_LEADER', arg.id} end
local key = job_key(arg.id)
local state = redis.call('HGET', key, 'state')
if not state then return {'UNKNOWN', arg.id} end
if WAITING[state] then
  move(arg.id, arg.target, arg.reason, arg.message)
  wake()
elseif state == 'STARTING' or state == 'RUNNING' then
  local n = redis.call('HGET', key, 'num_attempts')
  -- The race: the driver may end the attempt before it reads the command. `end_attempt` then lets SUCCEEDED win, and
  -- takes every other end as the end that is asked for here.
  redis.call('HSET', key, 'stop_as', arg.target, 'stop_reason', arg.reason, 'stop_message', arg.message)
  redis.call('HSET', attempt_key(arg.id, n), 'command', 'cancel', 'told_at', now_ms())
  move(arg.id, 'CANCELLING', arg.reason, arg.message)
  wake()
end
return {'OK', redis.call('HGET', key, 'state')}
