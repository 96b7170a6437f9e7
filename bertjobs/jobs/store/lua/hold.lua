-- Take a waiting job out of the queue until it is released.
-- ARGV: id, message.
-- Reply: the job's state.
-- Errors: UNKNOWN, STATE (it does not wait).
local state = redis.call('HGET', job_key(arg.id), 'state')
if not state then return {'UNKNOWN', arg.id} end
if state == 'HELD' then return {'OK', state} end
if not NEXT[state].HELD then return {'STATE', state} end
move(arg.id, 'HELD', 'Held', arg.message)
return {'OK', 'HELD'}
