-- Store a new job and queue it, or find the job that its user submitted with the same idempotency key.
-- ARGV: id, nonce, fields, after, uses, hold, idempotency_key (optional).
-- Reply: 1 (new) or 0 (found), the JSON document of the job.
-- Errors: INVALID (not an id), TAKEN (another job has this id), UNKNOWN (a job in `after` or `uses`).
if not is_job_id(arg.id) then return {'INVALID', arg.id} end
local key = job_key(arg.id)
local nonce = redis.call('HGET', key, 'nonce')
if nonce then
  if nonce == arg.nonce then return {'OK', 1, read(arg.id)} end  -- our own call, sent again
  return {'TAKEN', arg.id}
end
if arg.idempotency_key then
  -- Until 0.1 keys did not name their user: what is found under such a key counts for the user of its job only.
  for _, field in ipairs({idempotency_field(arg.fields.user, arg.idempotency_key), arg.idempotency_key}) do
    local first = redis.call('HGET', 'bj:idempotency', field)
    if first and redis.call('HGET', job_key(first), 'user') == arg.fields.user then return {'OK', 0, read(first)} end
  end
end
for _, others in ipairs({arg.after, arg.uses}) do
  for _, other in ipairs(others) do
    if not is_job_id(other) or redis.call('EXISTS', job_key(other)) == 0 then return {'UNKNOWN', other} end
  end
end

local seq = redis.call('INCR', 'bj:seq')
redis.call('HSET', key, 'id', arg.id, 'seq', seq, 'nonce', arg.nonce, 'submitted_at', now_ms(), 'num_attempts', 0, 'token', 0,
  'num_charged', 0, 'num_faults', 0, 'used_ms', 0)
for field, others in pairs({after = arg.after, uses = arg.uses}) do
  redis.call('HSET', key, field, #others == 0 and '[]' or cjson.encode(others))  -- cjson writes an empty list as {}
  for _, other in ipairs(others) do redis.call('SADD', job_key(other) .. ':followers', arg.id) end
end
for name, value in pairs(arg.fields) do redis.call('HSET', key, name, value) end
if arg.idempotency_key then
  redis.call('HSET', key, 'idempotency_key', arg.idempotency_key)
  redis.call('HSET', 'bj:idempotency', idempotency_field(arg.fields.user, arg.idempotency_key), arg.id)
end
redis.call('ZADD', 'bj:all', seq, arg.id)
redis.call('ZADD', 'bj:ids', 0, arg.id)
if arg.hold then
  enter(arg.id, nil, 'HELD', 'Held', 'Held at submission; `bertjobs release` puts it into the queue.')
else
  enter(arg.id, nil, 'QUEUED', 'Submitted', 'No dispatcher has looked at the job yet.')
  wake()
end
return {'OK', 1, read(arg.id)}
