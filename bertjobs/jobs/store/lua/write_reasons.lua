-- Write down why jobs wait. Jobs that wait for the same thing are one group with one text, so that a number in the text
-- changes in one place. Not an event: the reasons change whenever another job changes.
-- ARGV: term, texts (group -> JSON [word, message]), items ({id, group} pairs), unused (groups to delete).
-- Reply: nothing.
-- Errors: NOT_LEADER.
if not leads(arg.term) then return {'NOT_LEADER', ''} end
for group, text in pairs(arg.texts) do redis.call('HSET', 'bj:reasons', group, text) end
for _, item in ipairs(arg.items) do
  local key = job_key(item[1])
  -- The race: the job may have left the queue since the dispatcher read it.
  if redis.call('HGET', key, 'state') == 'QUEUED' then redis.call('HSET', key, 'group', item[2]) end
end
for _, group in ipairs(arg.unused) do redis.call('HDEL', 'bj:reasons', group) end
return {'OK'}
