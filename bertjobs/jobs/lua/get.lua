-- Read a job, its place in the queue and its attempts.
local job = redis.call('HGETALL', job_key(arg.id))
if #job == 0 then return {'UNKNOWN', arg.id} end
local attempts = {}
for n = 1, tonumber(redis.call('HGET', job_key(arg.id), 'num_attempts')) do
  attempts[n] = redis.call('HGETALL', attempt_key(arg.id, n))
end
return {'OK', job, redis.call('ZRANK', 'bj:queue', arg.id) or -1, attempts}
