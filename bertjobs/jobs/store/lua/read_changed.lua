-- Read which jobs changed since a version, oldest change first, for readers beside the dispatcher.
-- ARGV: since (a version; -1: return only the version to start with), limit.
-- Reply: version (of the last change in the reply), whether nothing was missed (1 or 0), the ids, the number of all
--   jobs, JSON counts by state.
-- Errors: none.
local version = tonumber(redis.call('GET', 'bj:version') or '0')
-- A smaller version than the caller's: Redis has lost its last seconds, or was emptied.
local is_whole = arg.since >= 0 and arg.since <= version and arg.since >= version - KEPT_CHANGES
local ids = {}
if is_whole and arg.since < version then
  local touched = redis.call('ZRANGEBYSCORE', 'bj:changed', '(' .. arg.since, '+inf', 'WITHSCORES', 'LIMIT', 0, arg.limit)
  for i = 1, #touched, 2 do ids[#ids + 1] = touched[i] end
  if #ids == arg.limit then version = tonumber(touched[#touched]) end
end
local counts = {}
for state in pairs(NEXT) do counts[state] = redis.call('ZCARD', 'bj:state:' .. state) end
return {'OK', version, is_whole and 1 or 0, ids, redis.call('ZCARD', 'bj:all'), cjson.encode(counts)}
