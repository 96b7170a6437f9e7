-- Prepended to every script. The layout of the keys is the docstring of store.py.
--
-- A script gets one JSON object as ARGV[1] and answers {'OK', ...} or {word, detail}; store.py turns the words
-- into errors. Redis runs a script alone and to its end, so a check followed by a write cannot be raced. A client
-- that got no answer sends the same call again: every script must leave the same state when it runs twice.

local arg = cjson.decode(ARGV[1])

-- Same as TRANSITIONS and REOPENED_BY_RETRY in job.py; a test compares them.
local NEXT = {
  HELD = {QUEUED = 1, CANCELLED = 1},
  QUEUED = {HELD = 1, STARTING = 1, CANCELLED = 1, FAILED = 1},
  RETRYING = {QUEUED = 1, HELD = 1, CANCELLED = 1},
  STARTING = {RUNNING = 1, CANCELLING = 1, RETRYING = 1, SUCCEEDED = 1, FAILED = 1},
  RUNNING = {CANCELLING = 1, RETRYING = 1, SUCCEEDED = 1, FAILED = 1},
  CANCELLING = {CANCELLED = 1, TIMED_OUT = 1, SUCCEEDED = 1},
  SUCCEEDED = {}, FAILED = {}, CANCELLED = {}, TIMED_OUT = {},
}
local REOPENED = {FAILED = 1, CANCELLED = 1, TIMED_OUT = 1}
local TERMINAL = {SUCCEEDED = 1, FAILED = 1, CANCELLED = 1, TIMED_OUT = 1}
local WAITING = {HELD = 1, QUEUED = 1, RETRYING = 1}

local MAX_EVENTS, MAX_METRICS = 1000, 20000

local function now_ms()
  local t = redis.call('TIME')
  return t[1] * 1000 + math.floor(t[2] / 1000)
end

local function job_key(id) return 'bj:job:' .. id end
local function attempt_key(id, n) return 'bj:job:' .. id .. ':a' .. n end

-- The full id that begins with a prefix; else nil and why.
local function find(prefix)
  if prefix == '' then return nil, 'UNKNOWN' end
  if redis.call('EXISTS', job_key(prefix)) == 1 then return prefix end
  local found = redis.call('ZRANGEBYLEX', 'bj:ids', '[' .. prefix, '[' .. prefix .. '\255', 'LIMIT', 0, 2)
  if #found == 1 then return found[1] end
  return nil, #found == 0 and 'UNKNOWN' or 'AMBIGUOUS'
end

-- The word and the sentence that many waiting jobs share; nil where there is none.
local function shared_reason(group)
  local text = group and redis.call('HGET', 'bj:reasons', group)
  if not text then return nil end
  return unpack(cjson.decode(text))
end

-- A job with its attempts and its place in the queue as one JSON document, which a client reads faster than a
-- reply of many small strings.
local function read(id)
  local key, attempts = job_key(id), {}
  local fields = redis.call('HGETALL', key)
  local word, message = shared_reason(redis.call('HGET', key, 'group'))
  if word then  -- what stands later counts
    for _, text in ipairs({'reason', word, 'message', message}) do fields[#fields + 1] = text end
  end
  for n = 1, tonumber(redis.call('HGET', key, 'num_attempts')) do
    attempts[n] = redis.call('HGETALL', attempt_key(id, n))
  end
  return cjson.encode({fields, redis.call('ZRANK', 'bj:queue', id) or -1, attempts})
end

-- What the dispatcher needs of a job in the queue; false in its place for one that is not there.
local WAITING_FIELDS = {'state', 'resources', 'after', 'time_limit_s', 'used_ms', 'num_attempts', 'group', 'user',
  'queued_at'}
local function waiting_row(id)
  local row = redis.call('HMGET', job_key(id), unpack(WAITING_FIELDS))
  if row[1] ~= 'QUEUED' then return {id, false} end
  local pending, broken = false, false
  if row[3] ~= '[]' then
    for _, dependency in ipairs(cjson.decode(row[3])) do
      local state = redis.call('HGET', job_key(dependency), 'state')
      if state ~= 'SUCCEEDED' and not broken then
        pending = dependency
        broken = TERMINAL[state] and state or false
      end
    end
  end
  local alive = redis.call('SISMEMBER', 'bj:live', id .. ' ' .. row[6]) == 1
  return {id, redis.call('ZSCORE', 'bj:queue', id), row[2], row[4], row[5], row[7], row[8], row[9], pending, broken,
    alive}
end

-- What the dispatcher needs of an attempt whose Ray Job is not known to be gone; only a job's last can be such.
local LIVE_FIELDS = {'state', 'storage', 'kind', 'name', 'user', 'time_limit_s', 'used_ms', 'max_retries', 'num_charged',
  'num_faults', 'queued_at'}
local LIVE_ATTEMPT_FIELDS = {'token', 'submission_id', 'grant', 'plan', 'nodes', 'outcome', 'failure', 'submitted_at',
  'claimed_at', 'alive_at', 'heartbeat_at', 'told_at', 'drained_at', 'ended_at'}
local function live_row(id, n)
  return {id, n, redis.call('HMGET', job_key(id), unpack(LIVE_FIELDS)),
    redis.call('HMGET', attempt_key(id, n), unpack(LIVE_ATTEMPT_FIELDS))}
end

local function live_row_of_job(id)
  local n = redis.call('HGET', job_key(id), 'num_attempts')
  return n and redis.call('SISMEMBER', 'bj:live', id .. ' ' .. n) == 1 and live_row(id, n) or false
end

-- All attempts whose Ray Job is not known to be gone, as {id, number}.
local function live_attempts()
  local found = {}
  for i, member in ipairs(redis.call('SMEMBERS', 'bj:live')) do
    found[i] = {string.match(member, '^(.*) (%d+)$')}
  end
  return found
end

local function wake()
  -- One entry is enough: whoever takes it looks at everything.
  if redis.call('LLEN', 'bj:wake') == 0 then redis.call('LPUSH', 'bj:wake', '1') end
end

-- The dispatcher remembers the queue, and reads of it only what was touched since it last did.
local function touch(id)
  redis.call('ZADD', 'bj:changed', redis.call('INCR', 'bj:version'), id)
end

local function event(id, state, reason, message)
  local n = redis.call('HGET', job_key(id), 'num_attempts') or '0'
  redis.call('XADD', job_key(id) .. ':events', 'MAXLEN', '~', MAX_EVENTS, '*',
    'state', state, 'reason', reason, 'message', message, 'attempt', n)
end

-- Put a job into the indexes of its state and say so; `from` is nil for a new job.
local function enter(id, from, to, reason, message)
  local key = job_key(id)
  local seq, priority = unpack(redis.call('HMGET', key, 'seq', 'priority'))
  if from then
    redis.call('ZREM', 'bj:state:' .. from, id)
    if from == 'QUEUED' then redis.call('ZREM', 'bj:queue', id) end
    if from == 'RETRYING' then redis.call('ZREM', 'bj:delay', id) end
  end
  redis.call('ZADD', 'bj:state:' .. to, seq, id)
  if to == 'QUEUED' then
    -- 2^53 leaves room for a thousand priorities over a million million jobs.
    redis.call('ZADD', 'bj:queue', seq - priority * 1e12, id)
    redis.call('HSET', key, 'queued_at', now_ms())
  end
  redis.call('HSET', key, 'state', to, 'reason', reason, 'message', message)
  redis.call('HDEL', key, 'group')
  if TERMINAL[to] then
    local now, keep_ms = now_ms(), redis.call('HGET', key, 'keep_ms')
    redis.call('HSET', key, 'ended_at', now)
    redis.call('ZREM', 'bj:leases', id)
    if keep_ms then redis.call('ZADD', 'bj:expiry', now + keep_ms, id) end
  elseif from and TERMINAL[from] then
    redis.call('ZREM', 'bj:expiry', id)
  end
  if TERMINAL[to] or (from and TERMINAL[from]) then
    for _, follower in ipairs(redis.call('SMEMBERS', key .. ':followers')) do touch(follower) end
  end
  touch(id)
  event(id, to, reason, message)
end

local function move(id, to, reason, message)
  local from = redis.call('HGET', job_key(id), 'state')
  assert(NEXT[from][to], 'no way from ' .. from .. ' to ' .. to)
  enter(id, from, to, reason, message)
end

-- The fence of the dispatcher: only the latest leader writes.
local function leads(term)
  return redis.call('EXISTS', 'bj:leader') == 1 and redis.call('GET', 'bj:term') == tostring(term)
end

-- The fence of the driver: only the attempt that holds the job's latest token writes.
local function holds_lease(id, n, token)
  local current = redis.call('HMGET', attempt_key(id, n), 'token', 'ended_at')
  return current[1] == tostring(token) and not current[2]
end

local function renew(id, n, lease_ms)
  local now = now_ms()
  redis.call('HSET', attempt_key(id, n), 'heartbeat_at', now)
  redis.call('ZADD', 'bj:leases', now + lease_ms, id)
end
