-- Write down why jobs wait. Those that wait for the same thing are a group with one text, so that a number in it
-- changes in one place. No event: this is a view that changes with every other job.
if not leads(arg.term) then return {'NOT_LEADER', ''} end
for group, text in pairs(arg.texts) do redis.call('HSET', 'bj:reasons', group, text) end
for _, item in ipairs(arg.items) do
  local key = job_key(item[1])
  if redis.call('HGET', key, 'state') == 'QUEUED' then redis.call('HSET', key, 'group', item[2]) end
end
for _, group in ipairs(arg.unused) do redis.call('HDEL', 'bj:reasons', group) end
return {'OK'}
