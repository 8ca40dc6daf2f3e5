-- What a job is, which steps it may take, and who is told of them: what everything below is made of.
--
-- Every operation is one call of one function, so it happens as a whole or not at all. Times come in as arguments, in
-- milliseconds since the epoch. Keys, all behind the prefix P:
--
--   job:J          the job's record; query:J its query; body:B:N the parts of the result B, 256 KiB each
--   jobs, jobs:R   the ids of all jobs, and of those of runtime R, by number
--   q:R            the jobs that wait, by place; held:R those that are never dispatched; running:R; again:R
--   polls:R        the parked polls, each a node and a number of its own, the one that waited longest first
--   finished       the jobs that have ended, in that order
--   watch:J        the nodes on which somebody waits for J
--   rt:R           what a runtime's process has said; schemas:R its functions
--   nodes, beat:N  the nodes, and that N is alive
--   handing:N      the jobs that N has taken for a poll and not delivered; streams:N those whose result it receives
--   leases:N       the leases whose timers N keeps, by their end
--   registry, version, limits, counts, observing, faults…, issued…

local P = ''
local function call(...)
  return redis.call(...)
end
local ops = {}

-- How many attempts of a job are remembered, how large a part of a result is, and how much travels in a publication.
local ATTEMPTS_KEPT = 20
local PART = 262144
local SMALL = 65536

local LEGAL = {
  queued = {running = true, succeeded = true, failed = true, canceled = true},
  running = {queued = true, succeeded = true, failed = true, canceled = true},
  succeeded = {},
  failed = {},
  canceled = {},
}

local function limit(name)
  return tonumber(call('HGET', P .. 'limits', name))
end

local function count(name, by)
  return call('HINCRBY', P .. 'counts', name, string.format('%d', by))
end

local function record(id)
  return call('HGETALL', P .. 'job:' .. id)
end

local function get(id, ...)
  return call('HMGET', P .. 'job:' .. id, ...)
end

local function publish(node, message)
  return call('PUBLISH', P .. 'node:' .. node, cjson.encode(message))
end

-- Whether a node listens: one that was killed does not, long before its heartbeat is missed.
local function listens(node)
  return call('PUBSUB', 'NUMSUB', P .. 'node:' .. node)[2] > 0
end

-- Tell every node: each loads the registry and the faults anew and says so to the node that changed them.
local function publish_version(node)
  local version = call('INCR', P .. 'version')
  return {version, call('PUBLISH', P .. 'all', cjson.encode({'version', version, node}))}
end

local function tell(runtime, id, forgotten)
  local observers = call('SMEMBERS', P .. 'observing')
  if #observers == 0 then
    return
  end
  local message = {'change', runtime, id and record(id) or false, forgotten or false}
  for _, node in ipairs(observers) do
    publish(node, message)
  end
end

local function tell_watchers(id, message)
  for _, node in ipairs(call('SMEMBERS', P .. 'watch:' .. id)) do
    publish(node, message)
  end
end

-- The one place where the state of a job changes.
local function transition(id, to, now, outcome)
  local job = P .. 'job:' .. id
  local state, attempts = unpack(call('HMGET', job, 'state', 'attempts'))
  assert(LEGAL[state][to], 'job ' .. id .. ' cannot go from ' .. state .. ' to ' .. to)
  if state == 'running' then
    local attempt = call('HGET', job, 'a' .. attempts)
    if attempt then
      local started = string.match(attempt, '^%d+')
      call('HSET', job, 'a' .. attempts, started .. ' ' .. now .. ' ' .. (outcome or to))
    end
  end
  call('HSET', job, 'state', to)
  if to == 'running' then
    attempts = attempts + 1
    call('HSET', job, 'started_at', now, 'attempts', attempts, 'a' .. attempts, now)
    call('HDEL', job, 'a' .. (attempts - ATTEMPTS_KEPT))
  elseif to == 'queued' then
    call('HDEL', job, 'started_at')
  else
    call('HSET', job, 'completed_at', now)
  end
end

local function is_over(state)
  return state == 'succeeded' or state == 'failed' or state == 'canceled'
end
