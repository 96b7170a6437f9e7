-- Write down why jobs wait. No event: this is a view that changes with every other job.
if not leads(arg.term) then return {'NOT_LEADER', ''} end
for _, item in ipairs(arg.items) do
  local key = job_key(item[1])
  if redis.call('HGET', key, 'state') == 'QUEUED' then redis.call('HSET', key, 'reason', item[2], 'message', item[3]) end
end
return {'OK'}
