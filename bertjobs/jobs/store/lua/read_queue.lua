-- Read a page of the queue, in queue order.
-- ARGV: after (the score of the last job of the page before, or -inf), limit.
-- Reply: JSON waiting rows, the score of the last one.
-- Errors: none.
-- Pages are by score and not by rank: jobs leave the queue between two pages.
local rows = {}
local page = redis.call('ZRANGEBYSCORE', 'bj:queue', '(' .. arg.after, '+inf', 'WITHSCORES', 'LIMIT', 0, arg.limit)
for i = 1, #page, 2 do rows[#rows + 1] = waiting_row(page[i]) end
return {'OK', #rows == 0 and '[]' or cjson.encode(rows), page[#page] or ''}
