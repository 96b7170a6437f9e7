-- Who may hold how many GPUs, the grants that are held, and since when the queue is drained, by whom.
local held = {}
for i, attempt in ipairs(live_attempts()) do
  held[i] = {redis.call('HGET', job_key(attempt[1]), 'user'), redis.call('HGET', attempt_key(unpack(attempt)), 'grant')}
end
return {'OK', redis.call('HGETALL', 'bj:limits'), held, redis.call('HMGET', 'bj:drain', 'by', 'at')}
