-- Limit the GPUs that the jobs of a user may hold together; without `gpus` remove the limit.
-- ARGV: user, gpus.
-- Reply: nothing.
-- Errors: none.
if arg.gpus then redis.call('HSET', 'bj:limits', arg.user, arg.gpus) else redis.call('HDEL', 'bj:limits', arg.user) end
wake()
return {'OK'}
