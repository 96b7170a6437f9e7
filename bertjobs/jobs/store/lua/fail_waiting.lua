-- End a queued job that can never start.
if not leads(arg.term) then return {'NOT_LEADER', arg.id} end
if redis.call('HGET', job_key(arg.id), 'state') == 'QUEUED' then
  move(arg.id, 'FAILED', arg.reason, arg.message)
  wake()
end
return {'OK'}
