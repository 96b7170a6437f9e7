-- Find the ids that begin with a prefix; two are enough to say that it is ambiguous.
if redis.call('EXISTS', job_key(arg.prefix)) == 1 then return {'OK', arg.prefix} end
return {'OK', unpack(redis.call('ZRANGEBYLEX', 'bj:ids', '[' .. arg.prefix, '[' .. arg.prefix .. '\255', 'LIMIT', 0, 2))}
