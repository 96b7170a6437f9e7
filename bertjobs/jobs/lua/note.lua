-- Write down what the dispatcher did or saw of an attempt; `gone` ends its claim on the cluster.
if not leads(arg.term) then return {'NOT_LEADER', arg.id} end
local key = attempt_key(arg.id, arg.number)
for _, name in ipairs(arg.stamps) do redis.call('HSETNX', key, name, now_ms()) end
if arg.gone then
  redis.call('SREM', 'bj:live', arg.id .. ' ' .. arg.number)
  wake()
end
return {'OK'}
