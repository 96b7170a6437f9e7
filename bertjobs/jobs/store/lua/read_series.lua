-- Read the jobs whose metrics are in Redis still and may be moved, those due first.
-- ARGV: limit.
-- Reply: JSON rows of {id, storage, state}.
-- Errors: none.
local rows = {}
for i, id in ipairs(redis.call('ZRANGEBYSCORE', 'bj:series', '-inf', now_ms(), 'LIMIT', 0, arg.limit)) do
  rows[i] = {id, unpack(redis.pcall('HMGET', job_key(id), 'storage', 'state'))}
end
return {'OK', #rows == 0 and '[]' or cjson.encode(rows)}
