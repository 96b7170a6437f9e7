-- Take or renew the leadership of the dispatchers.
-- ARGV: owner, lease_ms, only_renew (optional: do not take it), drivers (optional: how the owner starts drivers).
-- Reply: the term (0: another dispatcher leads), the leader.
-- Errors: none.
local leader = redis.call('GET', 'bj:leader')
if leader == arg.owner then
  redis.call('PEXPIRE', 'bj:leader', arg.lease_ms)
elseif not leader and not arg.only_renew then
  redis.call('SET', 'bj:leader', arg.owner, 'PX', arg.lease_ms)
  if arg.drivers then redis.call('SET', 'bj:drivers', arg.drivers) end
  redis.call('INCR', 'bj:term')  -- from here on the writes of every earlier leader are refused
else
  return {'OK', 0, leader or ''}
end
return {'OK', tonumber(redis.call('GET', 'bj:term')), arg.owner}
