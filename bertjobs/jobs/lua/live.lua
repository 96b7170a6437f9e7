-- Read the attempts whose Ray Job is not known to be gone, with what is needed of their jobs.
local rows = {}
for _, member in ipairs(redis.call('SMEMBERS', 'bj:live')) do
  local id, n = string.match(member, '^(.*) (%d+)$')
  rows[#rows + 1] = {
    id,
    redis.call('HMGET', job_key(id), 'state', 'storage', 'time_limit_s', 'used_ms', 'max_retries', 'num_charged', 'num_faults'),
    redis.call('HGETALL', attempt_key(id, n)),
  }
end
return {'OK', now_ms(), rows}
