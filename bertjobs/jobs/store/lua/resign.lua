-- Give up the leadership, so that the next dispatcher need not wait until it expires.
-- ARGV: owner.
-- Reply: nothing.
-- Errors: none.
if redis.call('GET', 'bj:leader') == arg.owner then redis.call('DEL', 'bj:leader') end
return {'OK'}
