-- End an attempt and take its job to the decided state: by the driver under its token, or by the dispatcher under its
-- term. From here on the token is refused.
-- ARGV: id, number, token, nonce, target, reason, failure, message, delay_ms, charged, is_free, metrics, artifacts;
--   term where the dispatcher calls.
-- Reply: the job's new state.
-- Errors: NOT_LEADER, LEASE_LOST.
local key, attempt = job_key(arg.id), attempt_key(arg.id, arg.number)
local nonce = redis.call('HGET', attempt, 'end_nonce')
if nonce and nonce == arg.nonce then return {'OK', redis.call('HGET', key, 'state')} end  -- our own call, sent again
if arg.term and not leads(arg.term) then return {'NOT_LEADER', arg.id} end
-- The race: driver and dispatcher may both want to end the attempt. The first call ends it, the second is refused.
if not holds_lease(arg.id, arg.number, arg.token) then return {'LEASE_LOST', arg.id} end

local state, target, reason, message = redis.call('HGET', key, 'state'), arg.target, arg.reason, arg.message
-- A driver that was done before it read the cancel command has succeeded; its artefacts are there.
if state == 'CANCELLING' and target ~= 'SUCCEEDED' then
  target, reason, message = unpack(redis.call('HMGET', key, 'stop_as', 'stop_reason', 'stop_message'))
end
local now = now_ms()
redis.call('HSET', attempt, 'ended_at', now, 'end_nonce', arg.nonce, 'outcome', target, 'reason', arg.reason,
  'failure', arg.failure, 'message', arg.message, 'ended_by', arg.term and 'dispatcher' or 'driver')
redis.call('HINCRBY', key, 'used_ms', now - redis.call('HGET', attempt, 'claimed_at'))
redis.call('ZREM', 'bj:leases', arg.id)
if arg.failure == 'Stalled' then redis.call('HINCRBY', key, 'num_stalls', 1) end
if arg.metrics then redis.call('HSET', key, 'metrics', arg.metrics) end
if arg.artifacts then redis.call('HSET', key, 'artifacts', arg.artifacts) end
move(arg.id, target, reason, message)
if target == 'RETRYING' then
  if not arg.is_free then redis.call('HINCRBY', key, arg.charged and 'num_charged' or 'num_faults', 1) end
  redis.call('ZADD', 'bj:delay', now + arg.delay_ms, arg.id)
end
wake()
return {'OK', target}
