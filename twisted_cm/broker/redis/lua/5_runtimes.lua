-- Runtimes and their replicas. A node writes the registry as a whole, and only if it has read the last version.

-- Forget everything that belongs to a runtime.
local function dismiss(runtime, reason, now)
  -- First, so that no job goes to a poll that is about to be answered.
  for _, replica in ipairs(call('SMEMBERS', P .. 'replicas:' .. runtime)) do
    dismiss_polls(runtime, replica)
    forget_replica(runtime, replica)
  end
  for _, id in ipairs(call('ZRANGE', P .. 'jobs:' .. runtime, 0, -1)) do
    finish(id, 'failed', now, reason)
    if call('ZREM', P .. 'finished', id) == 1 then
      count('finished_bytes', -kept_size(id))
    end
    remove(id)
  end
  for _, key in ipairs({'rt:', 'schemas:', 'jobs:', 'q:', 'held:', 'running:', 'again:', 'ready:'}) do
    call('UNLINK', P .. key .. runtime)
  end
  tell(runtime, nil, true)
end

-- Close a replica. What it has done stays known.
local function close_replica(runtime, replica, reason, now)
  local at = place(runtime, replica)
  call('HDEL', P .. 'replica:' .. at, 'limit')
  dismiss_polls(runtime, replica)
  fail_jobs_on(runtime, replica, reason, now)
  for _, id in ipairs(call('ZRANGE', P .. 'on:' .. at, 0, -1)) do
    while drop_copy(id, runtime, replica) do
    end
  end
  tell(runtime)
end

-- changes is a JSON object, see Changes in registry.py.
function ops.commit(now, node, version, registry, changes)
  if (call('GET', P .. 'version') or '0') ~= version then
    return 'stale'
  end
  call('SET', P .. 'registry', registry)
  changes = cjson.decode(changes)
  for _, each in ipairs(changes.dismissed) do
    dismiss(each[1], each[2], now)
  end
  for _, runtime in ipairs(changes.admitted) do
    call('HSET', P .. 'rt:' .. runtime, 'opened_at', now)
    tell(runtime)
  end
  for _, each in ipairs(changes.closed) do
    close_replica(each[1], each[2], each[3], now)
  end
  for _, each in ipairs(changes.forgotten) do
    forget_replica(each[1], each[2])
  end
  for _, each in ipairs(changes.opened) do
    open_replica(each[1], each[2], each[3])
  end
  if #changes.closed > 0 then
    forget(now)
  end
  return publish_version(node)
end

function ops.load()
  local faults = {}
  for _, id in ipairs(call('ZRANGE', P .. 'faults:order', 0, -1)) do
    faults[#faults + 1] = id
    faults[#faults + 1] = call('HGET', P .. 'faults', id)
  end
  return {call('GET', P .. 'version') or '0', call('GET', P .. 'registry'), faults}
end

-- Keep schemas, in place of the former ones if these are the first of a report.
function ops.put_schemas(now, node, runtime, is_first, ...)
  if call('EXISTS', P .. 'rt:' .. runtime) == 0 then
    return 'unknown runtime'
  end
  if is_first == '1' then
    call('UNLINK', P .. 'schemas:' .. runtime)
  end
  local schemas = {...}
  for at = 1, #schemas, 2 do
    call('HSET', P .. 'schemas:' .. runtime, schemas[at], schemas[at + 1])
  end
  call('HSET', P .. 'rt:' .. runtime, 'last_schema_post_at', now)
  tell(runtime)
  return 1
end

-- The runtimes that have posted a function, each with its schema.
function ops.functions(now, node, name, ...)
  local found = {}
  for _, runtime in ipairs({...}) do
    local schema = call('HGET', P .. 'schemas:' .. runtime, name)
    if schema then
      found[#found + 1] = runtime
      found[#found + 1] = schema
    end
  end
  return found
end

function ops.runtimes(now, node, ...)
  local found = {}
  for at, runtime in ipairs({...}) do
    found[at] = {
      call('HGETALL', P .. 'rt:' .. runtime),
      call('HGETALL', P .. 'schemas:' .. runtime),
      call('ZCARD', P .. 'q:' .. runtime) + call('ZCARD', P .. 'held:' .. runtime),
      call('ZCARD', P .. 'running:' .. runtime),
      replicas(runtime),
    }
  end
  return found
end
