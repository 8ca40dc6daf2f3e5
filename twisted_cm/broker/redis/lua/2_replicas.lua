-- Replicas: which of them get jobs.

-- The replica whose routes are those of the runtime itself. It has no limit and is never closed.
local DEFAULT = 'default'

-- Return the end of the keys of a replica. Both ids may contain any character.
local function place(runtime, replica)
  return #runtime .. ':' .. runtime .. ':' .. replica
end

-- Return the runtime and the replica of a place; nil if it is none, because a node of an earlier version wrote it.
local function parse_place(at)
  local size, ids = string.match(at, '^(%d+):(.*)$')
  if not size or string.sub(ids, size + 1, size + 1) ~= ':' then
    return nil
  end
  return string.sub(ids, 1, size), string.sub(ids, size + 2)
end

local function is_open(runtime, replica)
  return replica == DEFAULT or call('HEXISTS', P .. 'replica:' .. place(runtime, replica), 'limit') == 1
end

local function has_room(at, replica)
  if replica == DEFAULT then
    return true
  end
  local most, draining = unpack(call('HMGET', P .. 'replica:' .. at, 'limit', 'draining'))
  return not draining and (not most or call('ZCARD', P .. 'on:' .. at) < tonumber(most))
end

-- Note a word of a replica, if it has polled before.
local function hear(runtime, replica, now)
  local record = P .. 'replica:' .. place(runtime, replica)
  if call('EXISTS', record) == 1 then
    call('HSET', record, 'last_heard_at', now)
  end
end

-- Put a replica in its place among those that are ready, after its polls or its jobs have changed.
local function arrange(runtime, replica)
  local at = place(runtime, replica)
  local first = call('ZRANGE', P .. 'polls:' .. at, 0, 0, 'WITHSCORES')[2]
  if first and has_room(at, replica) then
    call('ZADD', P .. 'ready:' .. runtime, first, replica)
  else
    call('ZREM', P .. 'ready:' .. runtime, replica)
  end
end

-- Do the same after only its jobs have changed, which makes no difference to the default replica.
local function arrange_by_jobs(runtime, replica)
  if replica ~= DEFAULT then
    arrange(runtime, replica)
  end
end

local function put_on(id, number, runtime, replica)
  call('ZADD', P .. 'on:' .. place(runtime, replica), number, id)
  arrange_by_jobs(runtime, replica)
end

local function take_off(id, runtime, replica)
  if call('ZREM', P .. 'on:' .. place(runtime, replica), id) == 1 then
    arrange_by_jobs(runtime, replica)
  end
end

-- Return the replicas whose polls got a job beyond the first poll.
local function copies_of(id)
  local copies = get(id, 'copies')[1]
  return copies and cjson.decode(copies) or {}
end

local function set_copies(id, copies)
  if #copies > 0 then
    call('HSET', P .. 'job:' .. id, 'copies', cjson.encode(copies))
  else
    call('HDEL', P .. 'job:' .. id, 'copies')
  end
end

-- Take one copy of a job from a replica: the last one, or the last one on the replica that is named.
local function drop_copy(id, runtime, from)
  local copies = copies_of(id)
  for at = #copies, 1, -1 do
    if not from or copies[at] == from then
      local replica = table.remove(copies, at)
      set_copies(id, copies)
      local still = replica == get(id, 'replica')[1]
      for _, other in ipairs(copies) do
        still = still or other == replica
      end
      if not still then
        take_off(id, runtime, replica)
      end
      return true
    end
  end
  return false
end

-- Take a job from all replicas that have it: the one that runs it, and those that have copies.
local function leave_replicas(id, runtime, replica, copies)
  if replica then
    take_off(id, runtime, replica)
  end
  if copies then
    for _, other in ipairs(cjson.decode(copies)) do
      take_off(id, runtime, other)
    end
    set_copies(id, {})
  end
end

local function parked_polls(at)
  local parked = 0
  for _, poll in ipairs(call('ZRANGE', P .. 'polls:' .. at, 0, -1)) do
    parked = parked + (listens(string.match(poll, '^%x+')) and 1 or 0)
  end
  return parked
end

-- Answer the polls of a replica with no job.
local function dismiss_polls(runtime, replica)
  local polls = P .. 'polls:' .. place(runtime, replica)
  for _, poll in ipairs(call('ZRANGE', polls, 0, -1)) do
    local node, number = string.match(poll, '^(%x+):(%d+)$')
    publish(node, {'nothing', number})
  end
  call('UNLINK', polls)
  arrange(runtime, replica)
end

-- Remove the polls of a replica that a test on their nodes picks out.
local function drop_polls(runtime, replica, is_dropped)
  local polls = P .. 'polls:' .. place(runtime, replica)
  for _, poll in ipairs(call('ZRANGE', polls, 0, -1)) do
    if is_dropped(string.match(poll, '^%x+')) then
      call('ZREM', polls, poll)
    end
  end
  arrange(runtime, replica)
end

local function forget_replica(runtime, replica)
  local at = place(runtime, replica)
  call('UNLINK', P .. 'replica:' .. at, P .. 'on:' .. at, P .. 'polls:' .. at)
  call('SREM', P .. 'replicas:' .. runtime, replica)
end

-- Let a replica take jobs, up to its limit.
local function open_replica(runtime, replica, most)
  forget_replica(runtime, replica)
  call('HSET', P .. 'replica:' .. place(runtime, replica), 'limit', string.format('%d', most))
  call('SADD', P .. 'replicas:' .. runtime, replica)
  tell(runtime)
end

-- Return of each replica of a runtime: its id, what it has done, the jobs on it, and how many polls are parked.
local function replicas(runtime)
  local found = {}
  for _, replica in ipairs(call('SMEMBERS', P .. 'replicas:' .. runtime)) do
    local at = place(runtime, replica)
    found[#found + 1] = {
      replica, call('HGETALL', P .. 'replica:' .. at), call('ZRANGE', P .. 'on:' .. at, 0, -1), parked_polls(at),
    }
  end
  return found
end

-- Give a replica no more jobs.
function ops.drain(now, node, runtime, replica)
  if call('EXISTS', P .. 'rt:' .. runtime) == 0 then
    return 'unknown runtime'
  end
  if replica == DEFAULT or not is_open(runtime, replica) then
    return 'unknown replica'
  end
  call('HSET', P .. 'replica:' .. place(runtime, replica), 'draining', 1)
  arrange(runtime, replica)
  tell(runtime)
  return 1
end

function ops.replicas(now, node, runtime)
  if call('EXISTS', P .. 'rt:' .. runtime) == 0 then
    return 'unknown runtime'
  end
  return {call('HGET', P .. 'rt:' .. runtime, 'opened_at'), replicas(runtime)}
end
