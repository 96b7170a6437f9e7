-- Drain the queue: nothing starts, and running jobs are told to write a checkpoint and go back into the queue. Or open
-- it again: attempts that have not read the command by then continue.
-- ARGV: is_on, by (who drains).
-- Reply: the number of attempts that have been told.
-- Errors: none.
if arg.is_on then
  redis.call('HSETNX', 'bj:drain', 'at', now_ms())
  redis.call('HSETNX', 'bj:drain', 'by', arg.by)
else
  redis.call('DEL', 'bj:drain')
end
local num_told = 0
for _, attempt in ipairs(live_attempts()) do
  local key = attempt_key(unpack(attempt))
  local command, ended = unpack(redis.call('HMGET', key, 'command', 'ended_at'))
  -- `cancel` takes precedence: a job that is cancelled must not go back into the queue.
  if arg.is_on and command ~= 'cancel' and not ended then
    redis.call('HSET', key, 'command', 'drain')
    redis.call('HSETNX', key, 'drained_at', now_ms())
    num_told = num_told + 1
  elseif not arg.is_on and command == 'drain' then
    redis.call('HDEL', key, 'command', 'drained_at')
  end
end
wake()
return {'OK', num_told}
