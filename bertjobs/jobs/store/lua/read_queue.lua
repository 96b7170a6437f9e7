-- Read a page of the queue, in queue order.
-- ARGV: after (the score of the last job of the page before, or -inf), limit.
-- Reply: JSON waiting rows.
-- Errors: none.
-- Pages are by score and not by rank: jobs leave the queue between two pages.
local rows = {}
for _, id in ipairs(redis.call('ZRANGEBYSCORE', 'bj:queue', '(' .. arg.after, '+inf', 'LIMIT', 0, arg.limit)) do
  rows[#rows + 1] = waiting_row(id)
end
return {'OK', #rows == 0 and '[]' or cjson.encode(rows)}
