-- Read what admission needs of the jobs in the queue, in queue order, from a score on, as one JSON document. By score
-- and not by rank: jobs leave the queue between two pages.
local rows = {}
for _, id in ipairs(redis.call('ZRANGEBYSCORE', 'bj:queue', '(' .. arg.after, '+inf', 'LIMIT', 0, arg.limit)) do
  rows[#rows + 1] = waiting_row(id)
end
return {'OK', #rows == 0 and '[]' or cjson.encode(rows)}
