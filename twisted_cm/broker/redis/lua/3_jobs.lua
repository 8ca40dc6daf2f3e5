-- What happens to a job: it is queued, dispatched, ended and forgotten.

-- Let the lease of a running job begin again. Its node keeps the timer; if that node is gone, this one does.
local function renew(id, node, now)
  local lease = limit('lease')
  if not lease then
    return
  end
  local keeper = get(id, 'node')[1]
  if not is_member(keeper) then
    keeper = node
    call('HSET', P .. 'job:' .. id, 'node', keeper)
    publish(keeper, {'inherited'})
  end
  call('ZADD', P .. 'leases:' .. keeper, now + lease * 1000, id)
end

-- Make a node responsible for a running job: it keeps the timer of its lease.
local function give_to(id, node, now)
  call('HSET', P .. 'job:' .. id, 'node', node)
  renew(id, node, now)
end

local function run(id, runtime, replica, node, now)
  transition(id, 'running', now, nil, replica)
  local number = get(id, 'number')[1]
  call('ZADD', P .. 'running:' .. runtime, number, id)
  put_on(id, number, runtime, replica)
  give_to(id, node, now)
  tell(runtime, id)
end

-- Return the job for the next poll of a replica, if there is one, and make the poll's node responsible for delivering it.
local function take(runtime, replica, node, now)
  local id = call('LPOP', P .. 'again:' .. runtime)
  if not id then
    id = call('ZPOPMIN', P .. 'q:' .. runtime)[1]
    if not id then
      return nil
    end
    run(id, runtime, replica, node, now)
  else
    local copies = copies_of(id)
    copies[#copies + 1] = replica
    set_copies(id, copies)
    put_on(id, get(id, 'number')[1], runtime, replica)
  end
  call('SADD', P .. 'handing:' .. node, id .. ':' .. get(id, 'attempts')[1])
  return id
end

-- Give the job at the front of the queue to the poll that has waited longest, while there are both.
local function introduce(runtime, now)
  while call('EXISTS', P .. 'q:' .. runtime, P .. 'again:' .. runtime) > 0 do
    local replica = call('ZRANGE', P .. 'ready:' .. runtime, 0, 0)[1]
    if not replica then
      return
    end
    local at = place(runtime, replica)
    local poll = call('ZPOPMIN', P .. 'polls:' .. at)[1]
    local node, number = string.match(poll, '^(%x+):(%d+)$')
    arrange(runtime, replica)
    if listens(node) and is_alive(node) then
      local id = take(runtime, replica, node, now)
      call('HSET', P .. 'replica:' .. at, 'last_heard_at', now)
      local query = P .. 'query:' .. id
      query = call('STRLEN', query) <= SMALL and call('GET', query)
      publish(node, {'job', number, record_for(node, id), query})
    end
  end
end

-- Let a node deliver a job no longer, keep the timer of its lease no longer, and receive its result no longer.
local function let_go(id, runtime, node, attempts)
  call('LREM', P .. 'again:' .. runtime, 0, id)
  if node then
    call('ZREM', P .. 'leases:' .. node, id)
    call('SREM', P .. 'handing:' .. node, id .. ':' .. attempts)
    call('SREM', P .. 'streams:' .. node, id)
  end
end

local function leave_places(id, state, runtime, node, attempts, replica, copies)
  for _, key in ipairs(state == 'running' and {'running:'} or {'q:', 'held:'}) do
    call('ZREM', P .. key .. runtime, id)
  end
  leave_replicas(id, runtime, replica, copies)
  let_go(id, runtime, node, attempts)
end

-- Put a running job at the front of its queue.
local function queue_again(id, outcome, now)
  local runtime, number, node, attempts, replica, copies =
    unpack(get(id, 'runtime', 'number', 'node', 'attempts', 'replica', 'copies'))
  leave_places(id, 'running', runtime, node, attempts, replica, copies)
  transition(id, 'queued', now, outcome)
  local first = call('ZRANGE', P .. 'q:' .. runtime, 0, 0, 'WITHSCORES')[2]
  call('ZADD', P .. 'q:' .. runtime, first and math.min(first - 1, number) or number, id)
  tell(runtime, id)
  introduce(runtime, now)
end

local function drop_body(body, size)
  for part = 0, math.floor(size / PART) do
    call('UNLINK', P .. 'body:' .. body .. ':' .. part, P .. 'ends:' .. body .. ':' .. part)
  end
end

local function remove(id)
  local runtime, body, size, key = unpack(get(id, 'runtime', 'body', 'result_size', 'key'))
  if body then
    drop_body(body, size)
  end
  if key and call('GET', P .. 'key:' .. key) == id then
    call('UNLINK', P .. 'key:' .. key)
  end
  call('UNLINK', P .. 'job:' .. id, P .. 'query:' .. id, P .. 'output:' .. id, P .. 'watch:' .. id)
  call('ZREM', P .. 'jobs', id)
  call('ZREM', P .. 'jobs:' .. runtime, id)
end

local function kept_size(id)
  local size, result_size, ends_size, output_size = unpack(get(id, 'size', 'result_size', 'ends_size', 'output_size'))
  return size + (result_size or 0) + (ends_size or 0) + (output_size or 0)
end

-- Forget the jobs that finished first, until the limits are met. Return the milliseconds until the next one is due.
local function forget(now)
  local expired = now - math.floor(limit('retained_seconds') * 1000)
  while true do
    local oldest = call('ZRANGE', P .. 'finished', 0, 0)[1]
    if not oldest then
      return nil
    end
    local kept = call('ZCARD', P .. 'finished')
    local crowded = kept > limit('retained_jobs')
      or kept > 1 and tonumber(call('HGET', P .. 'counts', 'finished_bytes')) > limit('retained_bytes')
    local completed = tonumber(get(oldest, 'completed_at')[1])
    if not crowded and completed > expired then
      return completed - expired
    end
    call('ZREM', P .. 'finished', oldest)
    count('finished_bytes', -kept_size(oldest))
    remove(oldest)
  end
end

-- Return the bytes of a result that is whole and small enough for a publication, or false. If ends are noted in it,
-- return these, too.
local function small_result(id)
  local body, size, whole, ends_size = unpack(get(id, 'body', 'result_size', 'whole', 'ends_size'))
  if not whole or tonumber(size) > SMALL then
    return false
  end
  return call('GET', P .. 'body:' .. body .. ':0') or '', ends_size and call('GET', P .. 'ends:' .. body .. ':0') or nil
end

-- End a job, and tell the nodes that watch it.
local function finish(id, state, now, reason, outcome)
  local before, runtime, size, node, attempts, body, body_size, whole, replica, copies =
    unpack(get(id, 'state', 'runtime', 'size', 'node', 'attempts', 'body', 'result_size', 'whole', 'replica', 'copies'))
  if is_over(before) then
    return false
  end
  transition(id, state, now, outcome)
  if reason then
    call('HSET', P .. 'job:' .. id, 'error', reason)
  end
  count('unfinished_bytes', -size)
  leave_places(id, before, runtime, node, attempts, replica, copies)
  if body and not whole then
    drop_body(body, body_size)
    call('HDEL', P .. 'job:' .. id, 'body', 'result_size', 'content_type')
  end
  call('ZADD', P .. 'finished', count('finished', 1), id)
  count('finished_bytes', kept_size(id))
  tell(runtime, id)
  for _, node in ipairs(call('SMEMBERS', P .. 'watch:' .. id)) do
    publish(node, {'end', id, record_for(node, id), small_result(id)})
  end
  call('UNLINK', P .. 'watch:' .. id)
  -- The replica of the job has room again.
  introduce(runtime, now)
  return true
end

local function end_job(id, state, now, reason, outcome)
  local ended = finish(id, state, now, reason, outcome)
  forget(now)
  return ended and 1 or 0
end

-- Return the record of the job that was submitted with a key before, 'other' and its id if that was another submission,
-- or false. The key of a job that was canceled before it was dispatched is free.
local function submitted(key, query_type, meta, query)
  local id = key ~= '' and call('GET', P .. 'key:' .. key)
  if not id then
    return false
  end
  local its_type, its_meta, state, attempts = unpack(get(id, 'type', 'meta', 'state', 'attempts'))
  if state == 'canceled' and attempts == '0' then
    return false
  end
  if its_type ~= query_type or its_meta ~= meta or call('GET', P .. 'query:' .. id) ~= query then
    return 'other ' .. id
  end
  return record(id)
end

function ops.submitted(now, node, key, query_type, meta, query)
  return submitted(key, query_type, meta, query)
end

-- Keep a piece of a long query, whose job is queued next.
function ops.put_query(now, node, id, start, piece)
  if call('EXISTS', P .. 'job:' .. id) == 0 then
    call('SETRANGE', P .. 'query:' .. id, start, piece)
    call('EXPIRE', P .. 'query:' .. id, ABANDONED)
  end
  return 1
end

function ops.drop_query(now, node, id)
  return call('EXISTS', P .. 'job:' .. id) == 0 and call('UNLINK', P .. 'query:' .. id) or 0
end

-- Return why a job cannot be queued, or the job that was submitted before in its place, or false.
local function instead(runtime, query_type, meta, size, query, key)
  if call('EXISTS', P .. 'rt:' .. runtime) == 0 then
    return 'unknown runtime'
  end
  local former = submitted(key, query_type, meta, query)
  if former then
    return former
  end
  local depth = call('ZCARD', P .. 'q:' .. runtime) + call('ZCARD', P .. 'held:' .. runtime)
  if depth >= limit('queue_depth') then
    return 'too many jobs'
  end
  if (tonumber(call('HGET', P .. 'counts', 'unfinished_bytes')) or 0) + size > limit('queue_bytes') then
    return 'too many bytes'
  end
  return false
end

-- Queue a job. A long query was put before, and query is empty. A node repeats this if it lost the answer, so the second
-- call with an id must change nothing.
function ops.enqueue(now, node, id, runtime, query_type, meta, size, query, held, watched, key, rights)
  local job = P .. 'job:' .. id
  if call('EXISTS', job) == 1 then
    return record(id)
  end
  local put = query == ''
  if put and call('STRLEN', P .. 'query:' .. id) ~= tonumber(size) then
    return 'lost query'
  end
  if put and key ~= '' then
    query = call('GET', P .. 'query:' .. id)
  end
  local found = instead(runtime, query_type, meta, size, query, key)
  if found then
    call('UNLINK', P .. 'query:' .. id)
    return found
  end
  count('unfinished_bytes', size)
  local number = count('submitted', 1)
  call('HSET', job, 'id', id, 'runtime', runtime, 'number', number, 'type', query_type, 'meta', meta, 'size', size,
    'state', 'queued', 'queued_at', now, 'attempts', 0)
  if rights ~= '' then
    call('HSET', job, 'rights', rights)
  end
  if put then
    call('PERSIST', P .. 'query:' .. id)
  else
    call('SET', P .. 'query:' .. id, query)
  end
  if key ~= '' then
    call('HSET', job, 'key', key)
    call('SET', P .. 'key:' .. key, id)
  end
  call('ZADD', P .. 'jobs', number, id)
  call('ZADD', P .. 'jobs:' .. runtime, number, id)
  if watched == '1' then
    call('SADD', P .. 'watch:' .. id, node)
  end
  call('ZADD', P .. (held == '1' and 'held:' or 'q:') .. runtime, number, id)
  tell(runtime, id)
  introduce(runtime, now)
  return record_for(node, id)
end

function ops.poll(now, node, runtime, replica, number, parks)
  if call('EXISTS', P .. 'beat:' .. node) == 0 then
    return redis.error_reply(NOT_A_MEMBER)
  end
  local rt, at = P .. 'rt:' .. runtime, place(runtime, replica)
  if call('EXISTS', rt) == 0 then
    return 'unknown runtime'
  end
  if not is_open(runtime, replica) then
    return 'unknown replica'
  end
  call('HSET', rt, 'last_poll_at', now)
  if call('HSET', P .. 'replica:' .. at, 'last_poll_at', now, 'last_heard_at', now) > 0 then
    -- This is the first poll of a default replica, or of one that is in the set already.
    call('SADD', P .. 'replicas:' .. runtime, replica)
  end
  tell(runtime)
  -- Jobs wait only while no replica with room has a poll parked, so no other poll has waited longer.
  local id = has_room(at, replica) and take(runtime, replica, node, now)
  if id then
    return {record_for(node, id), call('GET', P .. 'query:' .. id)}
  end
  if parks == '1' then
    call('ZADD', P .. 'polls:' .. at, count('parked', 1), node .. ':' .. number)
    call('SADD', P .. 'parking:' .. node, at)
    arrange(runtime, replica)
  end
  return false
end

-- Take a poll back. Return 0 if it was given a job before.
function ops.unpark(now, node, runtime, replica, number)
  local removed = call('ZREM', P .. 'polls:' .. place(runtime, replica), node .. ':' .. number)
  if removed == 1 then
    hear(runtime, replica, now)
    arrange(runtime, replica)
  end
  return removed
end

local function give_back(id, attempt, now)
  local state, attempts, body, runtime = unpack(get(id, 'state', 'attempts', 'body', 'runtime'))
  if state == 'running' and attempts == attempt and not body then
    if drop_copy(id, runtime) then
      -- Another poll has the job, too.
      introduce(runtime, now)
      return 0
    end
    queue_again(id, 'poller vanished', now)
    return 1
  end
  return 0
end

function ops.give_back(now, node, id, attempt)
  call('SREM', P .. 'handing:' .. node, id .. ':' .. attempt)
  return give_back(id, attempt, now)
end

-- Note that jobs were delivered, each given as in handing:N.
function ops.delivered(now, node, ...)
  return call('SREM', P .. 'handing:' .. node, ...)
end

-- Return whether a node that has been away still has to deliver a job. Its heartbeat is fresh for a while.
function ops.holds(now, node, id, attempt)
  if not is_alive(node) then
    return redis.error_reply(NOT_A_MEMBER)
  end
  return call('SISMEMBER', P .. 'handing:' .. node, id .. ':' .. attempt)
end

function ops.deliver_again(now, node, id)
  local runtime, state = unpack(get(id, 'runtime', 'state'))
  if not state then
    return 'unknown job'
  end
  if state == 'running' then
    call('LREM', P .. 'again:' .. runtime, 0, id)
    call('RPUSH', P .. 'again:' .. runtime, id)
    introduce(runtime, now)
  end
  return 1
end

function ops.fail(now, node, id, reason)
  if call('EXISTS', P .. 'job:' .. id) == 0 then
    return 'unknown job'
  end
  return end_job(id, 'failed', now, reason)
end

-- Keep what a module wrote while it ran a job.
function ops.keep_output(now, node, id, output)
  local state, before = unpack(get(id, 'state', 'output_size'))
  if not state then
    return 'unknown job'
  end
  call('SET', P .. 'output:' .. id, output)
  call('HSET', P .. 'job:' .. id, 'output_size', #output)
  if is_over(state) then
    count('finished_bytes', #output - (before or 0))
    forget(now)
  end
  return 1
end

function ops.cancel(now, node, id, reason, only_queued)
  local state = get(id, 'state')[1]
  if not state then
    return 'unknown job'
  end
  if only_queued == '1' and state ~= 'queued' then
    return 0
  end
  return end_job(id, 'canceled', now, reason)
end

function ops.job(now, node, id)
  if call('EXISTS', P .. 'job:' .. id) == 0 then
    return 'unknown job'
  end
  return {record(id), call('GET', P .. 'query:' .. id), call('GET', P .. 'output:' .. id), small_result(id)}
end

-- Return the record of a job. With watched, tell this node when the result begins or grows, and when the job ends.
function ops.look(now, node, id, watched)
  local state = get(id, 'state')[1]
  if not state then
    return 'unknown job'
  end
  if watched == '1' and not is_over(state) then
    call('SADD', P .. 'watch:' .. id, node)
  end
  return {record(id), small_result(id)}
end

function ops.list(now, node, before, runtime, query_type, state, raised, most)
  local found = {}
  local index = P .. (runtime == '' and 'jobs' or 'jobs:' .. runtime)
  local from = before == '' and '+inf' or '(' .. before
  local at = 0
  while true do
    local ids = call('ZREVRANGEBYSCORE', index, from, '-inf', 'LIMIT', at, 200)
    for _, id in ipairs(ids) do
      local its_type, its_state, its_raised = unpack(get(id, 'type', 'state', 'raised'))
      if (query_type == '' or query_type == its_type) and (state == '' or state == its_state)
        and (raised == '' or raised == (its_raised and '1' or '0')) then
        if #found == tonumber(most) then
          return found
        end
        found[#found + 1] = record(id)
      end
    end
    if #ids < 200 then
      return found
    end
    at = at + 200
  end
end

-- End the jobs that a replica runs, but not the copies of those that others run. Return their ids.
local function fail_jobs_on(runtime, replica, reason, now)
  local lost = {}
  for _, id in ipairs(call('ZRANGE', P .. 'on:' .. place(runtime, replica), 0, -1)) do
    if get(id, 'replica')[1] == replica then
      lost[#lost + 1] = id
    end
  end
  for _, id in ipairs(lost) do
    finish(id, 'failed', now, reason)
  end
  return lost
end

function ops.restart(now, node, runtime, replica, reason)
  if call('EXISTS', P .. 'rt:' .. runtime) == 0 then
    return 'unknown runtime'
  end
  if not is_open(runtime, replica) then
    return 'unknown replica'
  end
  hear(runtime, replica, now)
  local lost = fail_jobs_on(runtime, replica, reason, now)
  forget(now)
  return lost
end

-- End the leases of this node that have run out: queue these jobs again, or let them fail after their last attempt.
-- Return when the next lease ends.
function ops.expire(now, node)
  local leases = P .. 'leases:' .. node
  for _, id in ipairs(call('ZRANGEBYSCORE', leases, '-inf', now)) do
    local attempts = tonumber(get(id, 'attempts')[1])
    if attempts >= limit('max_attempts') then
      local tries = attempts == 1 and '1 attempt' or attempts .. ' attempts'
      local lease = call('HGET', P .. 'limits', 'lease')
      finish(id, 'failed', now, 'There was no result within the lease of ' .. lease .. ' seconds, in ' .. tries .. '.',
        'lease ran out')
    else
      queue_again(id, 'lease ran out', now)
    end
  end
  forget(now)
  return call('ZRANGE', leases, 0, 0, 'WITHSCORES')[2] or false
end

function ops.forget(now)
  return forget(now) or false
end
