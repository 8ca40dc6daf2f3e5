-- Runtimes. A node writes the registry as a whole, and only if it has read the last version.

-- Forget everything that belongs to a runtime.
local function dismiss(runtime, reason, now)
  for _, id in ipairs(call('ZRANGE', P .. 'jobs:' .. runtime, 0, -1)) do
    finish(id, 'failed', now, reason)
    if call('ZREM', P .. 'finished', id) == 1 then
      count('finished_bytes', -kept_size(id))
    end
    remove(id)
  end
  for _, poll in ipairs(call('ZRANGE', P .. 'polls:' .. runtime, 0, -1)) do
    local node, number = string.match(poll, '^(%x+):(%d+)$')
    publish(node, {'nothing', number})
  end
  for _, place in ipairs({'rt:', 'schemas:', 'polls:', 'jobs:', 'q:', 'held:', 'running:', 'again:'}) do
    call('UNLINK', P .. place .. runtime)
  end
  tell(runtime, nil, true)
end

-- changes is a JSON array of two arrays: the runtimes to dismiss, each with a reason, and the runtimes to admit.
function ops.commit(now, node, version, registry, changes)
  if (call('GET', P .. 'version') or '0') ~= version then
    return 'stale'
  end
  call('SET', P .. 'registry', registry)
  local dismissed, admitted = unpack(cjson.decode(changes))
  for _, each in ipairs(dismissed) do
    dismiss(each[1], each[2], now)
  end
  for _, runtime in ipairs(admitted) do
    call('HSET', P .. 'rt:' .. runtime, 'opened_at', now)
    tell(runtime)
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

function ops.put_schemas(now, node, runtime, ...)
  if call('EXISTS', P .. 'rt:' .. runtime) == 0 then
    return 'unknown runtime'
  end
  local schemas = {...}
  for at = 1, #schemas, 2 do
    call('HSET', P .. 'schemas:' .. runtime, schemas[at], schemas[at + 1])
  end
  call('HSET', P .. 'rt:' .. runtime, 'last_schema_post_at', now)
  tell(runtime)
  return 1
end

function ops.runtimes(now, node, ...)
  local found = {}
  for at, runtime in ipairs({...}) do
    local parked = 0
    for _, poll in ipairs(call('ZRANGE', P .. 'polls:' .. runtime, 0, -1)) do
      parked = parked + (listens(string.match(poll, '^%x+')) and 1 or 0)
    end
    found[at] = {
      call('HGETALL', P .. 'rt:' .. runtime),
      call('HGETALL', P .. 'schemas:' .. runtime),
      call('ZCARD', P .. 'q:' .. runtime) + call('ZCARD', P .. 'held:' .. runtime),
      call('ZCARD', P .. 'running:' .. runtime),
      parked,
    }
  end
  return found
end
