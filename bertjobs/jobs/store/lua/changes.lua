-- Read the jobs that changed since a version, oldest change first. Always read in full, as they are short: the jobs
-- with an expired lease, the number of jobs in each state, the quotas.
-- ARGV: term, since (a version; -1: return only the version to start with), limit, mark (a new value for each call),
--   last_mark (the one of the call before; where since is not -1).
-- Reply: now, version, JSON rows of {waiting row, live row}, ids of overdue jobs, JSON counts, limits, drained by.
-- Errors: NOT_LEADER, ROLLED_BACK (Redis has lost what it had at the caller's last call).
if not leads(arg.term) then return {'NOT_LEADER', ''} end
-- A Redis that lost its last seconds counts its versions anew: what the caller has cached may never have been, and
-- changes would be missed. The version alone does not show it, once it has grown past the caller's.
local mark = redis.call('GET', 'bj:mark')
local is_first = arg.since < 0 or mark == arg.mark  -- or our own call, sent again
if not is_first and mark ~= arg.last_mark then return {'ROLLED_BACK', ''} end
redis.call('SET', 'bj:mark', arg.mark)
-- Changes that the caller has read are deleted, but for the last ones, which the page's server reads as well.
local version = redis.call('GET', 'bj:version') or '0'
local since = arg.since < 0 and version or tostring(arg.since)
redis.call('ZREMRANGEBYSCORE', 'bj:changed', '-inf', since - KEPT_CHANGES)
local touched = redis.call('ZRANGEBYSCORE', 'bj:changed', '(' .. since, '+inf', 'WITHSCORES', 'LIMIT', 0, arg.limit)
local rows = {}
for i = 1, #touched, 2 do rows[#rows + 1] = {waiting_row(touched[i]), live_row_of_job(touched[i])} end
if #rows == arg.limit then version = touched[#touched] end  -- there may be more: the next call continues here

local counts = {}
for state in pairs(NEXT) do counts[state] = redis.call('ZCARD', 'bj:state:' .. state) end
return {'OK', now_ms(), tonumber(version), #rows == 0 and '[]' or cjson.encode(rows),
  redis.call('ZRANGEBYSCORE', 'bj:leases', '-inf', now_ms(), 'LIMIT', 0, arg.limit), cjson.encode(counts),
  redis.call('HGETALL', 'bj:limits'), redis.call('HGET', 'bj:drain', 'by') or ''}
