-- Give a queued job its next attempt: a number, a token that outdates all earlier ones, and its grant.
-- ARGV: term, id, grant, plan, version, nonce, lease_ms, message, mark, last_mark (as in `changes`; optional).
-- Reply: now, JSON live row of the attempt.
-- Errors: NOT_LEADER, ROLLED_BACK, UNKNOWN, INVALID (a field that no version of ours wrote), STATE (not queued, or the queue is drained), ALIVE (its last attempt).
if not leads(arg.term) then return {'NOT_LEADER', arg.id} end
local key = job_key(arg.id)
local state, n, token = unpack(redis.call('HMGET', key, 'state', 'num_attempts', 'token'))
if state == 'STARTING' and redis.call('HGET', attempt_key(arg.id, n), 'nonce') == arg.nonce then
  return {'OK', now_ms(), cjson.encode(live_row(arg.id, n))}  -- our own call, sent again
end
-- The race: since admission counted what is granted, Redis lost its last seconds. An attempt whose end is lost holds its
-- grant again, and an attempt that was claimed a moment ago may never have been.
if arg.last_mark and redis.call('GET', 'bj:mark') ~= arg.last_mark then return {'ROLLED_BACK', arg.id} end
if not state then return {'UNKNOWN', arg.id} end
-- Checked before the first write: an error further down would leave half an attempt, at every pass.
for _, value in ipairs(redis.call('HMGET', key, 'seq', 'priority', 'num_attempts', 'token', 'used_ms')) do
  if not tonumber(value) then return {'INVALID', arg.id} end
end
-- The races: since admission read the queue, a user may have cancelled or held the job, or drained the queue.
if state ~= 'QUEUED' then return {'STATE', state} end
if redis.call('EXISTS', 'bj:drain') == 1 then return {'STATE', 'held back: the queue is drained'} end
-- Two attempts must never run at once: the last one has to be known to be gone.
if redis.call('SISMEMBER', 'bj:live', arg.id .. ' ' .. n) == 1 then return {'ALIVE', n} end

n, token = redis.call('HINCRBY', key, 'num_attempts', 1), redis.call('HINCRBY', key, 'token', 1)
local now = now_ms()
redis.call('HSETNX', key, 'started_at', now)
redis.call('HDEL', key, 'phase', 'progress')
redis.call('HSET', attempt_key(arg.id, n), 'number', n, 'token', token, 'submission_id', 'bj-' .. arg.id .. '-a' .. n,
  'grant', arg.grant, 'plan', arg.plan, 'version', arg.version, 'nonce', arg.nonce, 'claimed_at', now, 'alive_at', now)
redis.call('SADD', 'bj:live', arg.id .. ' ' .. n)
if arg.last_mark then redis.call('SET', 'bj:mark', arg.mark) end
redis.call('ZADD', 'bj:leases', now + arg.lease_ms, arg.id)
move(arg.id, 'STARTING', 'Admitted', arg.message)
return {'OK', now, cjson.encode(live_row(arg.id, n))}
