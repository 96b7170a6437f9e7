-- Put a held job back into the queue, in its old place.
-- ARGV: id.
-- Reply: the job's state.
-- Errors: UNKNOWN, STATE (it is not held).
local state = redis.call('HGET', job_key(arg.id), 'state')
if not state then return {'UNKNOWN', arg.id} end
if state == 'HELD' then
  move(arg.id, 'QUEUED', 'Submitted', 'Released; no dispatcher has looked at the job yet.')
  wake()
elseif state ~= 'QUEUED' then
  return {'STATE', state}
end
return {'OK', 'QUEUED'}
