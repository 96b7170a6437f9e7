-- Read the GPU limits, the grants of all live attempts, and who drained the queue when.
-- ARGV: nothing.
-- Reply: limits, {user, grant} pairs, {drained by, drained at}.
-- Errors: none.
local held = {}
for i, attempt in ipairs(live_attempts()) do
  held[i] = {redis.call('HGET', job_key(attempt[1]), 'user'), redis.call('HGET', attempt_key(unpack(attempt)), 'grant')}
end
return {'OK', redis.call('HGETALL', 'bj:limits'), held, redis.call('HMGET', 'bj:drain', 'by', 'at')}
