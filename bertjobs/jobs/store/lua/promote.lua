-- Put the jobs whose delay is over back into the queue.
-- ARGV: term.
-- Reply: their number.
-- Errors: NOT_LEADER.
if not leads(arg.term) then return {'NOT_LEADER', ''} end
local due = redis.call('ZRANGEBYSCORE', 'bj:delay', '-inf', now_ms(), 'LIMIT', 0, 1000)
for _, id in ipairs(due) do move(id, 'QUEUED', 'Submitted', 'The delay before the retry is over.') end
return {'OK', #due}
