-- Say how many GPUs the jobs of a user may hold together; without `gpus` as many as there are.
if arg.gpus then redis.call('HSET', 'bj:limits', arg.user, arg.gpus) else redis.call('HDEL', 'bj:limits', arg.user) end
wake()
return {'OK'}
