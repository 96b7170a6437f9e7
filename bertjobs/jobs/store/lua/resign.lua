-- Give the leadership up, so that the next dispatcher need not wait for it to lapse.
if redis.call('GET', 'bj:leader') == arg.owner then redis.call('DEL', 'bj:leader') end
return {'OK'}
