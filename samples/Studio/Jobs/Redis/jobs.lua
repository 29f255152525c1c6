-- The jobs in Redis. RedisJobStore calls this script with the name of a command and its arguments. Redis runs a script as a whole, so each command is
-- one change that no other process sees half of.
--
-- Keys begin with KEYS[1]. It contains a hash tag, so that a cluster keeps all of them on one node.
--   job:ID             hash      a job
--   preview:ID         hash      the picture of a running job
--   history:OWNER      zset      the jobs of a user by number
--   unfinished:OWNER   zset      those of them that wait or run
--   waiting:OWNER      list      those of them that wait, the next one first
--   turns              list      the users with waiting jobs, the next one first; a user whose job is taken goes to the end
--   running            stream    the running jobs. An entry is pending in the group 'workers' for the process that runs it, and its idle time is
--                                the time since the worker last renewed its lease
--   events             stream    the latest changes
--   unfinished, numbers, leases  counters
--   awake, grace       strings   see 'take'
local prefix = KEYS[1]

local function key(name, id)
  return id and prefix .. ':' .. name .. ':' .. id or prefix .. ':' .. name
end

local function now()
  local time = redis.call('TIME')
  return string.format('%d', time[1] * 1000 + math.floor(time[2] / 1000))
end

local function get(id, ...)
  return unpack(redis.call('HMGET', key('job', id), ...))
end

local function notify(id, owner, is_queue_changed)
  redis.call('XADD', key('events'), 'MAXLEN', '~', 10000, '*', 'id', id, 'owner', owner, 'queue', is_queue_changed and 1 or 0)
end

-- Sets fields of a job.
local function change(id, ...)
  redis.call('HSET', key('job', id), ...)
  redis.call('HINCRBY', key('job', id), 'revision', 1)
end

-- The position of a waiting job. The users with waiting jobs take turns, so before the n-th job of a user run n or n - 1 jobs of each other user,
-- depending on whose turn is first.
local function position(id, owner)
  local own = redis.call('LPOS', key('waiting', owner), id)
  local before, is_own_turn_over = own, false
  for _, user in ipairs(redis.call('LRANGE', key('turns'), 0, -1)) do
    if user == owner then
      is_own_turn_over = true
    else
      before = before + math.min(redis.call('LLEN', key('waiting', user)), is_own_turn_over and own or own + 1)
    end
  end
  return before + 1
end

-- All fields of a job, and the position if it waits; false if it does not exist.
local function view(id)
  local job = redis.call('HGETALL', key('job', id))
  if #job == 0 then
    return false
  end
  local status, owner = get(id, 'status', 'owner')
  if status == 'queued' then
    job[#job + 1] = 'position'
    job[#job + 1] = position(id, owner)
  end
  return job
end

local function enqueue(id, owner, push)
  if redis.call(push, key('waiting', owner), id) == 1 then
    redis.call(push, key('turns'), owner)
  end
end

-- Starts a job, or starts it again after its worker died.
local function start(id, entry)
  redis.call('HINCRBY', key('job', id), 'attempts', 1)
  redis.call('HDEL', key('job', id), 'progress', 'preview_step')
  redis.call('DEL', key('preview', id))
  change(id, 'status', 'running', 'started', now(), 'entry', entry, 'lease', redis.call('INCR', key('leases')))
  notify(id, get(id, 'owner'), true)
  return view(id)
end

-- Removes what only a running job has.
local function leave(id)
  local entry = get(id, 'entry')
  redis.call('XACK', key('running'), 'workers', entry)
  redis.call('XDEL', key('running'), entry)
  redis.call('HDEL', key('job', id), 'entry', 'lease', 'progress', 'preview_step')
  redis.call('DEL', key('preview', id))
end

local function finish(id, is_queue_changed, ...)
  local owner = get(id, 'owner')
  change(id, 'finished', now(), ...)
  redis.call('ZREM', key('unfinished', owner), id)
  redis.call('DECR', key('unfinished'))
  notify(id, owner, is_queue_changed)
end

-- Whether a lease is the latest one of a running job.
local function holds(id, lease)
  local status, current = get(id, 'status', 'lease')
  return status == 'running' and current == lease
end

local function stay_awake(lease_ms)
  if redis.call('EXISTS', key('awake')) == 0 then
    redis.call('SET', key('grace'), 1, 'PX', lease_ms)
  end
  redis.call('SET', key('awake'), 1, 'PX', lease_ms)
end

local commands = {}

function commands.add(id, owner, settings, seed, words, max_jobs, max_jobs_of_user)
  if redis.call('EXISTS', key('job', id)) == 1 then
    return { 'exists', view(id) }
  end
  if tonumber(redis.call('GET', key('unfinished')) or 0) >= tonumber(max_jobs) then
    return { 'server' }
  end
  if redis.call('ZCARD', key('unfinished', owner)) >= tonumber(max_jobs_of_user) then
    return { 'user' }
  end
  local number = redis.call('INCR', key('numbers'))
  redis.call('HSET', key('job', id), 'number', number, 'id', id, 'owner', owner, 'settings', settings, 'seed', seed, 'words', words,
    'status', 'queued', 'created', now(), 'attempts', 0, 'revision', 0)
  redis.call('ZADD', key('history', owner), number, id)
  redis.call('ZADD', key('unfinished', owner), number, id)
  redis.call('INCR', key('unfinished'))
  enqueue(id, owner, 'RPUSH')
  notify(id, owner, true)
  return { 'added', view(id) }
end

commands.find = view

function commands.list(owner, status, before, limit, ...)
  local words = { ... }
  local is_unfinished = status == 'queued' or status == 'running'
  local found, offset = {}, 0
  repeat
    local ids = redis.call('ZREVRANGEBYSCORE', key(is_unfinished and 'unfinished' or 'history', owner), before, '-inf', 'LIMIT', offset, 100)
    for _, id in ipairs(ids) do
      local current, text = get(id, 'status', 'words')
      local is_match = status == '' or status == current
      for _, word in ipairs(words) do
        is_match = is_match and string.find(text, word, 1, true)
      end
      if is_match then
        found[#found + 1] = view(id)
        if #found == tonumber(limit) then
          return found
        end
      end
    end
    offset = offset + 100
  until #ids < 100
  return found
end

function commands.count()
  return tonumber(redis.call('GET', key('unfinished')) or 0) - redis.call('XLEN', key('running'))
end

-- A job is taken over if its lease has not been renewed for its time. Time without Redis does not count: if there was no command for as long, the
-- workers have the same time again to renew their leases.
function commands.take(worker, lease_ms, max_attempts, interrupted)
  local running = key('running')
  if redis.call('EXISTS', running) == 0 then
    redis.call('XGROUP', 'CREATE', running, 'workers', '0', 'MKSTREAM')
  end
  stay_awake(lease_ms)
  local cursor = '0-0'
  while cursor and redis.call('EXISTS', key('grace')) == 0 do
    local answer = redis.call('XAUTOCLAIM', running, 'workers', worker, lease_ms, cursor, 'COUNT', 1)
    cursor = answer[1] ~= '0-0' and answer[1]
    local entry = answer[2][1]
    if entry then
      local id = entry[2][2]
      local attempts, is_canceled = get(id, 'attempts', 'cancel_requested')
      if is_canceled then
        leave(id)
        finish(id, false, 'status', 'canceled')
      elseif tonumber(attempts) >= tonumber(max_attempts) then
        leave(id)
        finish(id, false, 'status', 'failed', 'error', interrupted)
      else
        return start(id, entry[1])
      end
    end
  end

  -- Otherwise the next job of the user whose turn it is.
  local owner = redis.call('LPOP', key('turns'))
  if not owner then
    return false
  end
  local id = redis.call('LPOP', key('waiting', owner))
  if redis.call('EXISTS', key('waiting', owner)) == 1 then
    redis.call('RPUSH', key('turns'), owner)
  end
  redis.call('XADD', running, '*', 'id', id)
  local entry = redis.call('XREADGROUP', 'GROUP', 'workers', worker, 'COUNT', 1, 'STREAMS', running, '>')[1][2][1]
  return start(id, entry[1])
end

function commands.renew(id, lease, worker, lease_ms)
  stay_awake(lease_ms)
  if not holds(id, lease) then
    return 0
  end
  local entry, is_canceled = get(id, 'entry', 'cancel_requested')
  redis.call('XCLAIM', key('running'), 'workers', worker, 0, entry, 'JUSTID')
  return is_canceled and 0 or 1
end

function commands.progress(id, lease, progress)
  if holds(id, lease) then
    redis.call('HSET', key('job', id), 'progress', progress)
    notify(id, get(id, 'owner'), false)
  end
end

function commands.preview(id, lease, step, bytes, content_type)
  local latest = get(id, 'preview_step')
  if holds(id, lease) and tonumber(step) > tonumber(latest or -1) then
    redis.call('HSET', key('job', id), 'preview_step', step)
    redis.call('HSET', key('preview', id), 'bytes', bytes, 'type', content_type)
    notify(id, get(id, 'owner'), false)
  end
end

function commands.picture(id)
  return redis.call('HMGET', key('preview', id), 'bytes', 'type')
end

function commands.finish(id, lease, ...)
  if not holds(id, lease) then
    return false
  end
  leave(id)
  finish(id, false, ...)
  return view(id)
end

function commands.requeue(id, lease)
  if not holds(id, lease) then
    return false
  end
  leave(id)
  redis.call('HINCRBY', key('job', id), 'attempts', -1)
  redis.call('HDEL', key('job', id), 'started')
  change(id, 'status', 'queued')
  local owner = get(id, 'owner')
  enqueue(id, owner, 'LPUSH')
  notify(id, owner, true)
  return view(id)
end

function commands.cancel(id)
  local status, owner = get(id, 'status', 'owner')
  if status == 'queued' then
    redis.call('LREM', key('waiting', owner), 1, id)
    if redis.call('EXISTS', key('waiting', owner)) == 0 then
      redis.call('LREM', key('turns'), 1, owner)
    end
    finish(id, true, 'status', 'canceled', 'cancel_requested', 1)
  elseif status == 'running' then
    change(id, 'cancel_requested', 1)
    notify(id, owner, false)
  else
    return false
  end
  return view(id)
end

function commands.delete(id)
  local owner, finished = get(id, 'owner', 'finished')
  if not finished then
    return 0
  end
  redis.call('ZREM', key('history', owner), id)
  return redis.call('DEL', key('job', id))
end

return commands[ARGV[1]](unpack(ARGV, 2))
