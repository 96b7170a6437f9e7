-- Delete everything that is stored about an ended job. If another job follows it or uses its model, only record that
-- its folder has been pruned.
-- ARGV: id; term where the dispatcher calls.
-- Reply: 'forgotten' or 'followed'.
-- Errors: NOT_LEADER, STATE (it has not ended), ALIVE (its driver is not known to be gone).
if arg.term and not leads(arg.term) then return {'NOT_LEADER', arg.id} end
local key = job_key(arg.id)
local state, n, key_given, user = unpack(redis.call('HMGET', key, 'state', 'num_attempts', 'idempotency_key', 'user'))
if not state then return {'OK', 'forgotten'} end  -- our own call, sent again
-- The race: a user may have retried the job since it was listed.
if not TERMINAL[state] then return {'STATE', state} end
if redis.call('SISMEMBER', 'bj:live', arg.id .. ' ' .. n) == 1 then return {'ALIVE', n} end
redis.call('HSETNX', key, 'thinned_at', now_ms())
if redis.call('SCARD', key .. ':followers') > 0 then return {'OK', 'followed'} end

for _, field in ipairs({'after', 'uses'}) do
  for _, other in ipairs(cjson.decode(redis.call('HGET', key, field) or '[]')) do
    redis.call('SREM', job_key(other) .. ':followers', arg.id)
  end
end
for _, index in ipairs({'bj:all', 'bj:ids', 'bj:state:' .. state, 'bj:expiry', 'bj:changed', 'bj:series'}) do
  redis.call('ZREM', index, arg.id)
end
if key_given then
  for _, field in ipairs({idempotency_field(user, key_given), key_given}) do  -- submit.lua explains the second one
    if redis.call('HGET', 'bj:idempotency', field) == arg.id then redis.call('HDEL', 'bj:idempotency', field) end
  end
end
for i = 1, tonumber(n) do
  redis.call('DEL', attempt_key(arg.id, i))
  redis.call('SREM', 'bj:logs', arg.id .. ' ' .. i)
end
redis.call('DEL', key, key .. ':events', key .. ':metrics', key .. ':followers')
return {'OK', 'forgotten'}
