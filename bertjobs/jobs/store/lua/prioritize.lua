-- Change the priority of a waiting job, and with it its place in the queue.
-- ARGV: id, priority, message.
-- Reply: the job's state.
-- Errors: UNKNOWN, STATE (it does not wait).
local key = job_key(arg.id)
local state, seq, priority = unpack(redis.call('HMGET', key, 'state', 'seq', 'priority'))
if not state then return {'UNKNOWN', arg.id} end
if state ~= 'QUEUED' and state ~= 'HELD' and state ~= 'RETRYING' then return {'STATE', state} end
if tonumber(priority) == arg.priority then return {'OK', state} end
redis.call('HSET', key, 'priority', arg.priority)
-- The score is that of `enter` in common.lua.
if state == 'QUEUED' then redis.call('ZADD', 'bj:queue', seq - arg.priority * 1e12, arg.id) end
touch(arg.id)
event(arg.id, state, 'Prioritized', arg.message)
wake()
return {'OK', state}
