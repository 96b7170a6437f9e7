-- Prepended to every script. The docstring of job_store.py documents the keys.
--
-- A script gets one JSON object as ARGV[1] (an argument that is None is left out) and replies {'OK', ...} or
-- {error, detail}; connection.py turns the errors into exceptions. `now` is Redis' clock in ms.
--
-- Redis runs a script alone and to its end, so nothing can change between a check and the write after it. A client
-- that got no reply sends the same call again: every script must leave the same state when it runs twice.

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

-- How many changes bj:changed keeps after the dispatcher has read them, for readers beside it (read_changed.lua).
local KEPT_CHANGES = 10000

local function now_ms()
  local t = redis.call('TIME')
  return t[1] * 1000 + math.floor(t[2] / 1000)
end

-- Same as JOB_ID in job.py; a test compares them.
local ID = 'j%-' .. string.rep('[0-9a-z]', 9)
local function is_job_id(id) return type(id) == 'string' and string.match(id, '^' .. ID .. '$') ~= nil end

local function job_key(id) return 'bj:job:' .. id end
local function attempt_key(id, n) return 'bj:job:' .. id .. ':a' .. n end

-- Return the field of bj:idempotency for a key: two users may use the same one.
local function idempotency_field(user, key) return cjson.encode({user or '', key}) end

-- Return the full id that begins with a prefix; otherwise nil and the error.
local function find(prefix)
  if prefix == '' then return nil, 'UNKNOWN' end
  if redis.call('EXISTS', job_key(prefix)) == 1 then return prefix end
  local found = redis.call('ZRANGEBYLEX', 'bj:ids', '[' .. prefix, '[' .. prefix .. '\255', 'LIMIT', 0, 2)
  if #found == 1 then return found[1] end
  return nil, #found == 0 and 'UNKNOWN' or 'AMBIGUOUS'
end

-- Return the word and the message of a group of waiting jobs; nil if it has none.
local function shared_reason(group)
  local text = group and redis.call('HGET', 'bj:reasons', group)
  if not text then return nil end
  return unpack(cjson.decode(text))
end

-- Return a job with its attempts and its rank in the queue as one JSON document, which a client parses faster than
-- a reply of many small strings.
local function read(id)
  local key, attempts = job_key(id), {}
  local fields = redis.call('HGETALL', key)
  local word, message = shared_reason(redis.call('HGET', key, 'group'))
  if word then  -- appended: of two values of a field the later one counts
    for _, text in ipairs({'reason', word, 'message', message}) do fields[#fields + 1] = text end
  end
  for n = 1, tonumber(redis.call('HGET', key, 'num_attempts')) do
    attempts[n] = redis.call('HGETALL', attempt_key(id, n))
  end
  return cjson.encode({fields, redis.call('ZRANK', 'bj:queue', id) or -1, attempts})
end

-- Return columns of a job for a list (false: not set), its place in the queue and its id.
local function listed_row(id, columns)
  local row = redis.call('HMGET', job_key(id), unpack(columns))
  local word, message = shared_reason(redis.call('HGET', job_key(id), 'group'))
  for i, column in ipairs(word and columns or {}) do
    if column == 'reason' then row[i], row[i + 1] = word, message end  -- the message is the next column
  end
  local rank = redis.call('ZRANK', 'bj:queue', id)
  row[#row + 1] = rank and rank + 1 or false
  row[#row + 1] = id
  return row
end

-- Return what the dispatcher needs to know about a job in the queue; {id, false} if it is not queued.
local WAITING_FIELDS = {'state', 'resources', 'after', 'time_limit_s', 'used_ms', 'num_attempts', 'group', 'user',
  'queued_at'}
local function waiting_row(id)
  local row = redis.pcall('HMGET', job_key(id), unpack(WAITING_FIELDS))
  if row[1] ~= 'QUEUED' then return {id, false} end
  if not is_job_id(id) or not row[6] then return {id, 'INVALID'} end
  local pending, broken = false, false
  if row[3] ~= '[]' then
    -- A list that cannot be read is left to the client, which reports it: one bad job must not end the script.
    local is_list, after = pcall(cjson.decode, row[3])
    if not is_list or type(after) ~= 'table' then return {id, 'INVALID'} end
    for _, dependency in ipairs(after) do
      if not is_job_id(dependency) then return {id, 'INVALID'} end
      local state = redis.pcall('HGET', job_key(dependency), 'state')
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

-- Return what the dispatcher needs to know about an attempt whose Ray Job is not known to be gone. Only the last
-- attempt of a job can be one: `claim` makes sure of it.
local LIVE_FIELDS = {'state', 'storage', 'kind', 'name', 'user', 'time_limit_s', 'used_ms', 'max_retries', 'num_charged',
  'num_faults', 'queued_at', 'num_stalls', 'phase'}
local LIVE_ATTEMPT_FIELDS = {'token', 'grant', 'plan', 'nodes', 'outcome', 'failure', 'submitted_at',
  'claimed_at', 'alive_at', 'heartbeat_at', 'told_at', 'drained_at', 'ended_at', 'stalled_at'}
local function live_row(id, n)
  -- pcall: where a key holds something else, the client finds an error in the row and reports it.
  return {id, n, redis.pcall('HMGET', job_key(id), unpack(LIVE_FIELDS)),
    redis.pcall('HMGET', attempt_key(id, n), unpack(LIVE_ATTEMPT_FIELDS))}
end

local function live_row_of_job(id)
  local n = redis.pcall('HGET', job_key(id), 'num_attempts')
  return type(n) == 'string' and redis.call('SISMEMBER', 'bj:live', id .. ' ' .. n) == 1 and live_row(id, n) or false
end

-- Return the attempts in a set, as {id, number}; nothing else that is in it.
local function attempts_in(set)
  local found = {}
  for _, member in ipairs(redis.call('SMEMBERS', set)) do
    local id, n = string.match(member, '^(' .. ID .. ') (%d+)$')
    if id then found[#found + 1] = {id, n} end
  end
  return found
end

-- Return all attempts whose Ray Job is not known to be gone.
local function live_attempts() return attempts_in('bj:live') end

-- Wake the dispatcher. One entry is enough: whoever takes it looks at everything.
local function wake()
  if redis.call('LLEN', 'bj:wake') == 0 then redis.call('LPUSH', 'bj:wake', '1') end
end

-- Mark a job as changed: the dispatcher caches the queue and reads only the jobs that were marked since.
local function touch(id)
  redis.call('ZADD', 'bj:changed', redis.call('INCR', 'bj:version'), id)
end

local function event(id, state, reason, message)
  local n = redis.call('HGET', job_key(id), 'num_attempts') or '0'
  redis.call('XADD', job_key(id) .. ':events', 'MAXLEN', '~', MAX_EVENTS, '*',
    'state', state, 'reason', reason, 'message', message, 'attempt', n)
end

-- Move a job from the indexes of one state into those of another, and append the event; `from` is nil for a new job.
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
    -- A double is exact up to 2^53: room for a thousand priorities times 10^12 jobs.
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
    -- Followers wait for this end, or must wait again.
    for _, follower in ipairs(redis.call('SMEMBERS', key .. ':followers')) do touch(follower) end
  end
  touch(id)
  event(id, to, reason, message)
end

-- Take a job to another state; `enter` without this check is for a new job and for a user's retry.
local function move(id, to, reason, message)
  local from = redis.call('HGET', job_key(id), 'state')
  assert(NEXT[from][to], 'no transition from ' .. from .. ' to ' .. to)
  enter(id, from, to, reason, message)
end

-- The fence of the dispatcher: only the latest leader may write. The term outdates a leader that was suspended
-- while its leadership expired and another one took over.
local function leads(term)
  return redis.call('EXISTS', 'bj:leader') == 1 and redis.call('GET', 'bj:term') == tostring(term)
end

-- The fence of the driver: only an attempt that has not ended may write, under the token that it was given.
local function holds_lease(id, n, token)
  local current = redis.call('HMGET', attempt_key(id, n), 'token', 'ended_at')
  return current[1] == tostring(token) and not current[2]
end

local function renew(id, n, lease_ms)
  local now = now_ms()
  redis.call('HSET', attempt_key(id, n), 'heartbeat_at', now)
  redis.call('ZADD', 'bj:leases', now + lease_ms, id)
end
