-- Close the queue: nothing starts, and what runs is told to write a checkpoint and go back; or open it again. Those
-- that have not heard it by then go on as if nothing had been said.
if arg.is_on then
  redis.call('HSETNX', 'bj:drain', 'at', now_ms())
  redis.call('HSETNX', 'bj:drain', 'by', arg.by)
else
  redis.call('DEL', 'bj:drain')
end
local told = 0
for _, attempt in ipairs(live_attempts()) do
  local key = attempt_key(unpack(attempt))
  local command, ended = unpack(redis.call('HMGET', key, 'command', 'ended_at'))
  if arg.is_on and command ~= 'cancel' and not ended then
    redis.call('HSET', key, 'command', 'drain')
    redis.call('HSETNX', key, 'drained_at', now_ms())
    told = told + 1
  elseif not arg.is_on and command == 'drain' then
    redis.call('HDEL', key, 'command', 'drained_at')
  end
end
wake()
return {'OK', told}
