-- The bytes of results.

-- Keep the parts of a result that is whole. Return the size of its noted ends.
local function persist(body, size)
  local ends_size = 0
  for part = 0, math.floor(size / PART) do
    local ends = P .. 'ends:' .. body .. ':' .. part
    call('PERSIST', P .. 'body:' .. body .. ':' .. part)
    call('PERSIST', ends)
    ends_size = ends_size + call('STRLEN', ends)
  end
  return ends_size
end

-- Note a word of a replica. A node that has given it a job need not ask for the job when its result is posted.
function ops.hear(now, node, runtime, replica)
  hear(runtime, replica, now)
  return 1
end

function ops.open_result(now, node, runtime, replica, id)
  local its_runtime, state, body = unpack(get(id, 'runtime', 'state', 'body'))
  if its_runtime ~= runtime then
    return 'unknown job'
  end
  hear(runtime, replica, now)
  if state == 'running' and not body then
    renew(id, node, now)
  end
  return record(id)
end

function ops.begin(now, node, id, body, content_type, replica)
  local state, runtime, former, its_node = unpack(get(id, 'state', 'runtime', 'body', 'node'))
  if not state then
    return 'unknown job'
  end
  if is_over(state) or former and former ~= body then
    return 0
  end
  if state == 'queued' then
    leave_places(id, state, runtime)
    run(id, runtime, is_open(runtime, replica) and replica or DEFAULT, node, now)
  end
  local job = P .. 'job:' .. id
  -- A stream has no lease: it may pause, and if it breaks off, the job fails.
  let_go(id, runtime, unpack(get(id, 'node', 'attempts')))
  call('SADD', P .. 'streams:' .. node, id)
  call('HSET', job, 'body', body, 'result_size', 0, 'node', node)
  if content_type ~= '' then
    call('HSET', job, 'content_type', content_type)
  end
  tell_watchers(id, {'begun', id, record(id)})
  return 1
end

-- Note a word of the replica that runs a job.
local function hear_of(id, now)
  local runtime, replica = unpack(get(id, 'runtime', 'replica'))
  if replica then
    hear(runtime, replica, now)
  end
end

-- Keep bytes of a result, within one part. Return 0 if the job has ended. A repeated call changes nothing. If ends are
-- noted in these bytes, bits are a piece of the part's noted ends, from the byte first on.
function ops.write(now, node, id, body, offset, data, first, bits)
  local its_body, state = unpack(get(id, 'body', 'state'))
  hear_of(id, now)
  local name = body .. ':' .. math.floor(offset / PART)
  local part, ends = P .. 'body:' .. name, P .. 'ends:' .. name
  if its_body == body and state ~= 'running' then
    return 0
  end
  if bits then
    call('SETRANGE', ends, first, bits)
  end
  if its_body == body then
    call('SETRANGE', part, offset % PART, data)
    local size = offset + #data
    call('HSET', P .. 'job:' .. id, 'result_size', size)
    tell_watchers(id, {'grown', id, size})
    return 1
  end
  call('SETRANGE', part, offset % PART, data)
  call('EXPIRE', part, ABANDONED)
  if bits then
    call('EXPIRE', ends, ABANDONED)
  end
  if state == 'running' and not its_body then
    renew(id, node, now)
  end
  return 1
end

-- Return a piece of the noted ends of a part, or false if the part has been forgotten.
function ops.ends(now, node, body, part, first, last)
  local name = body .. ':' .. part
  return call('EXISTS', P .. 'body:' .. name) == 1 and call('GETRANGE', P .. 'ends:' .. name, first, last)
end

function ops.renew(now, node, id)
  hear_of(id, now)
  local state, body = unpack(get(id, 'state', 'body'))
  if state == 'running' and not body then
    renew(id, node, now)
  end
  return 1
end

local function same(one, other, size)
  for part = 0, math.floor(size / PART) do
    if call('GET', P .. 'body:' .. one .. ':' .. part) ~= call('GET', P .. 'body:' .. other .. ':' .. part) then
      return false
    end
  end
  return true
end

-- End a job with a whole result. A small result is in data, a large one in parts that were written before. If the
-- result reports that the function raised, raised is what. If the node has not told that the job was delivered, handed is
-- what it would tell.
function ops.complete(now, node, id, body, size, content_type, handed, data, raised)
  if handed ~= '' then
    call('SREM', P .. 'handing:' .. node, handed)
  end
  local state, its_body, its_size = unpack(get(id, 'state', 'body', 'result_size'))
  local job = P .. 'job:' .. id
  if state == 'succeeded' and its_body == body then
    return 1
  end
  if data ~= '' then
    call('SET', P .. 'body:' .. body .. ':0', data)
  end
  if state and not is_over(state) and (not its_body or its_body == body) then
    local ends_size = data == '' and persist(body, size) or 0
    if ends_size > 0 then
      call('HSET', job, 'ends_size', ends_size)
    end
    call('HSET', job, 'body', body, 'result_size', size, 'whole', 1)
    if content_type ~= '' then
      call('HSET', job, 'content_type', content_type)
    end
    if raised then
      call('HSET', job, 'raised', raised)
    end
    return end_job(id, 'succeeded', now)
  end
  local accepted = state == 'canceled'
    or state == 'succeeded' and its_size == size and same(its_body, body, tonumber(size))
  drop_body(body, size)
  if not state then
    return 'unknown job'
  end
  return accepted and 1 or 'completed'
end
