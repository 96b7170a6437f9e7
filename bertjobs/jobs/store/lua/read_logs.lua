-- Read the attempts whose drivers are gone while their logs are not copied to the end.
-- ARGV: nothing.
-- Reply: JSON rows of {id, number, storage}.
-- Errors: none.
local rows = {}
for _, attempt in ipairs(attempts_in('bj:logs')) do
  local id, n = unpack(attempt)
  rows[#rows + 1] = {id, n, redis.call('HGET', job_key(id), 'storage')}
end
return {'OK', #rows == 0 and '[]' or cjson.encode(rows)}
