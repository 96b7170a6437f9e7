-- Fail a queued job that can never start.
-- ARGV: term, id, reason, message.
-- Reply: nothing.
-- Errors: NOT_LEADER.
if not leads(arg.term) then return {'NOT_LEADER', arg.id} end
-- The race: a user may have cancelled or held the job meanwhile; then it is left as it is.
if redis.call('HGET', job_key(arg.id), 'state') == 'QUEUED' then
  move(arg.id, 'FAILED', arg.reason, arg.message)
  wake()
end
return {'OK'}
