-- Read a job, its place in the queue and its attempts.
local id, word = find(arg.prefix)
if not id then return {word, arg.prefix} end
local job, attempts = redis.call('HGETALL', job_key(id)), {}
for n = 1, tonumber(redis.call('HGET', job_key(id), 'num_attempts')) do
  attempts[n] = redis.call('HGETALL', attempt_key(id, n))
end
return {'OK', job, redis.call('ZRANK', 'bj:queue', id) or -1, attempts}
