-- Publish a checkpoint as the one to resume from. Progress resets the count of infrastructure faults.
-- ARGV: id, number, token, name, step.
-- Reply: nothing.
-- Errors: LEASE_LOST.
if not holds_lease(arg.id, arg.number, arg.token) then return {'LEASE_LOST', arg.id} end
local key = job_key(arg.id)
local name, step = unpack(redis.call('HMGET', key, 'checkpoint', 'checkpoint_step'))
-- Both: a search always publishes under the same name, with the number of its ended trials as the step.
if name ~= arg.name or tonumber(step) ~= arg.step then  -- else our own call, sent again
  redis.call('HSET', key, 'checkpoint', arg.name, 'checkpoint_step', arg.step, 'num_faults', 0)
  touch(arg.id)
  event(arg.id, redis.call('HGET', key, 'state'), 'Checkpoint', 'Published ' .. arg.name .. ' at step ' .. arg.step .. '.')
end
return {'OK'}
