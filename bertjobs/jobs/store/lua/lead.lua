-- Take or keep the dispatcher's leadership. Answers the term, or 0 while another one leads.
local leader = redis.call('GET', 'bj:leader')
if leader == arg.owner then
  redis.call('PEXPIRE', 'bj:leader', arg.lease_ms)
elseif not leader then
  redis.call('SET', 'bj:leader', arg.owner, 'PX', arg.lease_ms)
  redis.call('INCR', 'bj:term')
else
  return {'OK', 0, leader}
end
return {'OK', tonumber(redis.call('GET', 'bj:term')), arg.owner}
