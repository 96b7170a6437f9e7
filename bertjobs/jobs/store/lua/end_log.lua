-- Record that the log of an attempt was copied to its end, or that this was given up.
-- ARGV: term, id, number, outcome ('complete' or 'incomplete').
-- Reply: nothing.
-- Errors: NOT_LEADER.
if not leads(arg.term) then return {'NOT_LEADER', arg.id} end
redis.call('SREM', 'bj:logs', arg.id .. ' ' .. arg.number)
-- The race: the job may have been forgotten meanwhile.
local attempt = attempt_key(arg.id, arg.number)
if redis.call('EXISTS', attempt) == 1 then redis.call('HSET', attempt, 'log', arg.outcome) end
return {'OK'}
