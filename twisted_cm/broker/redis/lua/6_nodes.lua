-- Nodes. Each is responsible for the jobs that it delivers, the streams that it receives and the timers of its leases.

-- Give back the jobs that a node was delivering, and end the jobs whose results were streamed to it. The heir keeps the
-- jobs that it knows: then both are the same process, which has connected again.
local function release(dead, heir, now, known)
  -- First, so that no job that is given back goes to a poll of the dead node.
  for _, at in ipairs(call('SMEMBERS', P .. 'parking:' .. dead)) do
    local runtime, replica = parse_place(at)
    if runtime then
      drop_polls(runtime, replica, function(node)
        return node == dead
      end)
    end
  end
  for _, member in ipairs(call('SMEMBERS', P .. 'handing:' .. dead)) do
    local id, attempt = string.match(member, '^(.*):(%d+)$')
    if known[member] and call('EXISTS', P .. 'job:' .. id) == 1 then
      call('SADD', P .. 'handing:' .. heir, member)
      call('HSET', P .. 'job:' .. id, 'node', heir)
    else
      give_back(id, attempt, now)
    end
  end
  for _, id in ipairs(call('SMEMBERS', P .. 'streams:' .. dead)) do
    if known[id] then
      call('SADD', P .. 'streams:' .. heir, id)
      call('HSET', P .. 'job:' .. id, 'node', heir)
    else
      finish(id, 'failed', now, 'The node was lost that received the result stream.')
    end
  end
  call('UNLINK', P .. 'handing:' .. dead, P .. 'streams:' .. dead, P .. 'parking:' .. dead, P .. 'beat:' .. dead)
  call('SREM', P .. 'observing', dead)
end

local function reclaim(dead, heir, now, known)
  release(dead, heir, now, known)
  local leases = call('ZRANGE', P .. 'leases:' .. dead, 0, -1, 'WITHSCORES')
  for at = 1, #leases, 2 do
    call('ZADD', P .. 'leases:' .. heir, leases[at + 1], leases[at])
    call('HSET', P .. 'job:' .. leases[at], 'node', heir)
  end
  call('UNLINK', P .. 'leases:' .. dead)
  call('SREM', P .. 'nodes', dead)
  return #leases > 0
end

local function set_of(values)
  local set = {}
  for _, each in ipairs(values) do
    set[each] = true
  end
  return set
end

-- The form of what the nodes publish. A version that changes it cannot share a Redis with an earlier one.
local FORM = '2'

-- Return whether other nodes use another form.
local function speak_otherwise(former)
  if call('GET', P .. 'form') == FORM then
    return false
  end
  local own = set_of(former)
  for _, each in ipairs(call('SMEMBERS', P .. 'nodes')) do
    if not own[each] and is_alive(each) then
      return true
    end
  end
  return false
end

-- Let a node join, with its limits unless it keeps those that there are. Return the lease of jobs, and the key of their
-- tokens, which is that of the first node.
function ops.join(now, node, former, lease, limits, known, keeps_limits, job_key)
  if speak_otherwise(cjson.decode(former)) then
    return redis.error_reply('OTHERFORM Emulators of another version use it. Stop them, or choose another database.')
  end
  call('SET', P .. 'form', FORM)
  local is_known = set_of(cjson.decode(known))
  call('SADD', P .. 'nodes', node)
  call('SET', P .. 'beat:' .. node, 1, 'PX', lease)
  if keeps_limits == '0' or call('EXISTS', P .. 'limits') == 0 then
    call('DEL', P .. 'limits')
    for name, value in pairs(cjson.decode(limits)) do
      call('HSET', P .. 'limits', name, value)
    end
    call('PUBLISH', P .. 'all', cjson.encode({'lease', call('HGET', P .. 'limits', 'lease')}))
  end
  for _, each in ipairs(cjson.decode(former)) do
    reclaim(each, node, now, is_known)
  end
  call('SET', P .. 'job_key', job_key, 'NX')
  return {call('HGET', P .. 'limits', 'lease'), call('GET', P .. 'job_key')}
end

-- Take over what nodes hold that are not nodes any more, and forget their polls. Return 2 if leases were taken over.
function ops.sweep(now, node, ...)
  local result = 1
  for _, runtime in ipairs({...}) do
    for _, replica in ipairs(call('SMEMBERS', P .. 'replicas:' .. runtime)) do
      drop_polls(runtime, replica, function(holder)
        return not is_member(holder)
      end)
    end
    for _, id in ipairs(call('ZRANGE', P .. 'running:' .. runtime, 0, -1)) do
      local holder = get(id, 'node')[1]
      local held = P .. 'handing:' .. holder
      if not is_member(holder) and call('EXISTS', held, P .. 'streams:' .. holder, P .. 'leases:' .. holder) > 0 then
        result = reclaim(holder, node, now, {}) and 2 or result
      end
    end
  end
  return result
end

-- Note that this node is alive. Return 0 if it has to join again, 2 if it took over leases of a dead node.
function ops.beat(now, node, lease, sweeps)
  -- If the heartbeat was over, the polls of this node have been passed over, even if no node has taken over yet.
  if not is_alive(node) then
    return 0
  end
  call('SET', P .. 'beat:' .. node, 1, 'PX', lease)
  -- This shows the node that it still hears publications.
  call('PUBLISH', P .. 'node:' .. node, cjson.encode({'beat'}))
  local result = 1
  if sweeps == '1' then
    for _, other in ipairs(call('SMEMBERS', P .. 'nodes')) do
      if call('EXISTS', P .. 'beat:' .. other) == 0 and reclaim(other, node, now, {}) then
        result = 2
      end
    end
  end
  return result
end

-- Let this node leave: its undelivered jobs go back, and the node that reacts first takes over its timers.
function ops.leave(now, node)
  release(node, node, now, {})
  return call('PUBLISH', P .. 'all', cjson.encode({'left', node}))
end

function ops.inherit(now, node, other)
  if is_member(other) and call('EXISTS', P .. 'beat:' .. other) == 0 then
    return reclaim(other, node, now, {}) and 2 or 1
  end
  return 1
end

-- Tell this node of the steps that others take, too, or no longer.
function ops.observe(now, node, observes)
  return call(observes == '1' and 'SADD' or 'SREM', P .. 'observing', node)
end

-- Tell the node that made a change that this node acts on it.
function ops.seen(now, node, version, writer)
  publish(writer, {'seen', tonumber(version)})
  return 1
end
