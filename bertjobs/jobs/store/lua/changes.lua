-- What the dispatcher does not know yet: the jobs touched since a version (-1: it knows nothing, and begins now),
-- oldest first; and as a whole what is short: whose leases have run out, how many jobs are in each state, the rules
-- of sharing. What it knew already is dropped: only the leader reads this, and a new one begins with the whole queue.
if not leads(arg.term) then return {'NOT_LEADER', ''} end
local version = redis.call('GET', 'bj:version') or '0'
local since = arg.since < 0 and version or tostring(arg.since)
redis.call('ZREMRANGEBYSCORE', 'bj:changed', '-inf', since)
local touched = redis.call('ZRANGEBYSCORE', 'bj:changed', '(' .. since, '+inf', 'WITHSCORES', 'LIMIT', 0, arg.limit)
local rows = {}
for i = 1, #touched, 2 do rows[#rows + 1] = {waiting_row(touched[i]), live_row_of_job(touched[i])} end
if #rows == arg.limit then version = touched[#touched] end  -- there may be more: the next call goes on from here

local counts = {}
for state in pairs(NEXT) do counts[state] = redis.call('ZCARD', 'bj:state:' .. state) end
return {'OK', now_ms(), tonumber(version), #rows == 0 and '[]' or cjson.encode(rows),
  redis.call('ZRANGEBYSCORE', 'bj:leases', '-inf', now_ms(), 'LIMIT', 0, arg.limit), cjson.encode(counts),
  redis.call('HGETALL', 'bj:limits'), redis.call('HGET', 'bj:drain', 'by') or ''}
