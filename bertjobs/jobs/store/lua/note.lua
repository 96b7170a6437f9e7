-- Write down what the dispatcher did or saw of attempts; `gone` ends their claim on the cluster.
if not leads(arg.term) then return {'NOT_LEADER', ''} end
for _, attempt in ipairs(arg.attempts) do
  local id, n = unpack(attempt)
  redis.call('HSETNX', attempt_key(id, n), arg.stamp, now_ms())
  if arg.gone then
    redis.call('SREM', 'bj:live', id .. ' ' .. n)
    touch(id)  -- it may start again
    wake()
  end
end
return {'OK'}
