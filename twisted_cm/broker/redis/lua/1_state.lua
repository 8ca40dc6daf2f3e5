-- The state of a job, the steps that it may take, and the publications about them. The other files build on this one.
--
-- Every operation is one call of one function, so it happens as a whole or not at all. Times are arguments, in
-- milliseconds since the epoch. The keys, each with the prefix P:
--
--   job:J          the record of job J; query:J its query; output:J what its module wrote; body:B:N part N of result B,
--                  256 KiB each; ends:B:N the noted ends of chunks in that part, a bit for each byte up to the last one
--   key:K          the job that was submitted with the key K
--   jobs, jobs:R   the ids of all jobs, and of the jobs of runtime R, by number
--   q:R            the queued jobs, by place; held:R the jobs that are never dispatched; running:R the running jobs;
--                  again:R the running jobs that the next poll gets a second time
--   replicas:R     the ids of the replicas of R that are open, or that were and are remembered
--   replica:X      the limit of replica X while it is open, and what it has done; X is a runtime and a replica, see place
--   on:X           the unfinished jobs on X, by number
--   polls:X        the parked polls of X, each a node and a number on that node, the longest wait first
--   ready:R        the replicas of R that have room and a parked poll, by the number of that poll, so that dispatch
--                  need not look at those that are full
--   finished       the jobs that have ended, in the order of their ends
--   watch:J        the nodes that are told what becomes of J
--   rt:R           when runtime R was opened, polled and posted its functions; schemas:R these functions
--   nodes, beat:N  the nodes; the heartbeat of node N, which expires
--   handing:N      the jobs that N has taken for a poll and not delivered; streams:N those whose results it receives
--   leases:N       the leases whose timers N keeps, by their ends; parking:N the replicas that have polls on N
--   job_key        the key of the tokens of jobs
--   grant:G        what a user granted by signing in, with the fingerprints of its code and its refresh token; expires
--   grants:codes   the grants whose codes were not redeemed; grants:redeemed the others; both by their ends
--   observing      the nodes that are told of the steps that others take
--   form           the form of what the nodes publish
--   registry, version, limits, counts, faults…, issued…

local P = ''
-- The node that calls the operation.
local CALLER = ''
-- What that node hears of the steps that the operation takes. It comes with the reply.
local HEARD = {}
-- The job whose record that node hears in the last change among them.
local TOLD = false
local function call(...)
  return redis.call(...)
end
local ops = {}

-- The attempts that are kept of a job, the bytes of a part of a result, and the bytes that a publication may carry.
local ATTEMPTS_KEPT = 20
local PART = 262144
local SMALL = 65536

-- Seconds for which the pieces of a query or a result are kept that belong to no job, because they are not complete.
local ABANDONED = 3600

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

-- What the record of a job has, in the order in which records.py reads it. Its other attempts follow.
local RECORD = {'id', 'runtime', 'number', 'type', 'meta', 'size', 'key', 'rights', 'state', 'queued_at', 'started_at',
  'completed_at', 'replica', 'error', 'raised', 'body', 'content_type', 'result_size', 'whole', 'ends_size', 'attempts',
  'a1'}

local function record(id)
  local job = P .. 'job:' .. id
  local found = call('HMGET', job, unpack(RECORD))
  local attempts = tonumber(found[#RECORD - 1])
  for number = math.max(2, attempts - ATTEMPTS_KEPT + 1), attempts do
    found[#found + 1] = call('HGET', job, 'a' .. number)
  end
  return found
end

local function get(id, ...)
  return call('HMGET', P .. 'job:' .. id, ...)
end

-- Return the record of a job that has not changed since tell, or true if the change before has it for that node already.
local function record_for(node, id)
  return node == CALLER and id == TOLD or record(id)
end

local function publish(node, message)
  if node == CALLER then
    HEARD[#HEARD + 1] = message
  else
    call('PUBLISH', P .. 'node:' .. node, cjson.encode(message))
  end
end

-- Return whether a node hears what is published to it. A killed node is not subscribed, long before its heartbeat
-- expires.
local function listens(node)
  return node == CALLER or call('PUBSUB', 'NUMSUB', P .. 'node:' .. node)[2] > 0
end

-- The error of an operation that a node calls which is not one of the nodes.
local NOT_A_MEMBER = 'NOTMEMBER this node is not one of the nodes'

local function is_member(node)
  return call('SISMEMBER', P .. 'nodes', node) == 1
end

-- Return whether a node may be given work. A suspended node is subscribed, but its heartbeat expires.
local function is_alive(node)
  return is_member(node) and call('EXISTS', P .. 'beat:' .. node) == 1
end

-- Publish a change of the registry or the faults. Every node loads both, then tells the node that made the change.
local function publish_version(node)
  local version = call('INCR', P .. 'version')
  return {version, call('PUBLISH', P .. 'all', cjson.encode({'version', version, node}))}
end

-- Tell the node that takes a step of it, and the nodes that observe the steps of others.
local function tell(runtime, id, forgotten)
  local message = {'change', runtime, id and record(id) or false, forgotten or false}
  publish(CALLER, message)
  TOLD = id or TOLD
  for _, node in ipairs(call('SMEMBERS', P .. 'observing')) do
    if node ~= CALLER then
      publish(node, {message[1], message[2], message[3], message[4], CALLER})
    end
  end
end

local function tell_watchers(id, message)
  for _, node in ipairs(call('SMEMBERS', P .. 'watch:' .. id)) do
    publish(node, message)
  end
end

-- Change the state of a job. No other function does. A job that begins to run does so on a replica.
local function transition(id, to, now, outcome, replica)
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
  if to == 'running' then
    attempts = attempts + 1
    call('HSET', job, 'state', to, 'started_at', now, 'attempts', attempts, 'a' .. attempts, now, 'replica', replica)
    if attempts > ATTEMPTS_KEPT then
      call('HDEL', job, 'a' .. (attempts - ATTEMPTS_KEPT))
    end
  elseif to == 'queued' then
    call('HSET', job, 'state', to)
    call('HDEL', job, 'started_at', 'replica')
  else
    call('HSET', job, 'state', to, 'completed_at', now)
  end
end

local function is_over(state)
  return state == 'succeeded' or state == 'failed' or state == 'canceled'
end
