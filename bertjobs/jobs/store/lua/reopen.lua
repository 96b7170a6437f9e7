-- Retry on a user's request: put an ended job that did not succeed back into the queue with fresh limits; its
-- checkpoint stays, so the next attempt resumes from it. Put a RETRYING job back without further delay.
-- ARGV: id, nonce.
-- Reply: the job's state.
-- Errors: UNKNOWN, STATE (it has succeeded, or has not ended).
local key = job_key(arg.id)
local state, nonce = unpack(redis.call('HMGET', key, 'state', 'reopen_nonce'))
if not state then return {'UNKNOWN', arg.id} end
if nonce == arg.nonce then return {'OK', state} end  -- our own call, sent again
if state == 'RETRYING' then
  move(arg.id, 'QUEUED', 'Submitted', 'Retried before its delay was over.')
elseif REOPENED[state] then
  redis.call('HDEL', key, 'thinned_at', 'ended_at', 'stop_as', 'stop_reason', 'stop_message', 'progress', 'phase', 'metrics')
  redis.call('HSET', key, 'num_charged', 0, 'num_faults', 0, 'num_stalls', 0, 'used_ms', 0)
  enter(arg.id, state, 'QUEUED', 'Submitted', 'Retried; no dispatcher has looked at the job yet.')
else
  return {'STATE', state}
end
redis.call('HSET', key, 'reopen_nonce', arg.nonce)
wake()
return {'OK', 'QUEUED'}
