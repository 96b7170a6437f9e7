-- Put the jobs whose delay is over back into the queue.
-- ARGV: term.
-- Reply: their number.
-- Errors: NOT_LEADER.
if not leads(arg.term) then return {'NOT_LEADER', ''} end
local due = redis.call('ZRANGEBYSCORE', 'bj:delay', '-inf', now_ms(), 'LIMIT', 0, 1000)
for _, id in ipairs(due) do
  -- One that is no RETRYING job got here by no script of ours, and must not hold up the others.
  local state, seq, priority = unpack(redis.pcall('HMGET', job_key(id), 'state', 'seq', 'priority'))
  if is_job_id(id) and state == 'RETRYING' and tonumber(seq) and tonumber(priority) then
    move(id, 'QUEUED', 'Submitted', 'The delay before the retry is over.')
  else
    redis.call('ZREM', 'bj:delay', id)
  end
end
return {'OK', #due}
