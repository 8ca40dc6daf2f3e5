-- Faults, issued tokens and the grants of users.

local function add_fault(id, plan)
  call('HSET', P .. 'faults', id, plan)
  call('ZADD', P .. 'faults:order', count('faults', 1), id)
end

local function clear_faults()
  call('UNLINK', P .. 'faults', P .. 'faults:order', P .. 'faults:struck', P .. 'faults:drawn')
end

function ops.add_fault(now, node, id, plan)
  add_fault(id, plan)
  return publish_version(node)
end

function ops.remove_fault(now, node, id)
  if call('HDEL', P .. 'faults', id) == 0 then
    return false
  end
  call('ZREM', P .. 'faults:order', id)
  return publish_version(node)
end

-- seeded describes the faults of a seed. If those of the last seed were the same, nothing happens.
function ops.replace_faults(now, node, seeded, ...)
  if seeded ~= '' then
    if call('GET', P .. 'faults:seeded') == seeded then
      return false
    end
    call('SET', P .. 'faults:seeded', seeded)
  end
  clear_faults()
  local plans = {...}
  for at = 1, #plans, 2 do
    add_fault(plans[at], plans[at + 1])
  end
  return publish_version(node)
end

function ops.struck()
  return call('HGETALL', P .. 'faults:struck')
end

-- Return the first fault that strikes. Each comes with its maximum count, its probability and its random seed.
function ops.draw(now, node, ...)
  local plans = {...}
  for at = 1, #plans, 4 do
    local id, most, probability, seed = plans[at], tonumber(plans[at + 1]), tonumber(plans[at + 2]), plans[at + 3]
    local struck = tonumber(call('HGET', P .. 'faults:struck', id) or 0)
    if call('HEXISTS', P .. 'faults', id) == 1 and not (most and struck >= most) then
      local strikes = probability >= 1
      if not strikes then
        local number = call('HINCRBY', P .. 'faults:drawn', id, 1)
        strikes = tonumber(string.sub(redis.sha1hex(seed .. ':' .. number), 1, 8), 16) < probability * 4294967296
      end
      if strikes then
        call('HINCRBY', P .. 'faults:struck', id, 1)
        return id
      end
    end
  end
  return false
end

function ops.put_token(now, node, digest, token, most)
  if call('HSET', P .. 'issued', digest, token) == 1 then
    call('ZADD', P .. 'issued:order', count('issued', 1), digest)
  end
  while call('ZCARD', P .. 'issued:order') > tonumber(most) do
    call('HDEL', P .. 'issued', call('ZPOPMIN', P .. 'issued:order')[1])
  end
  return 1
end

function ops.get_token(now, node, digest)
  local token = call('HGET', P .. 'issued', digest)
  -- cjson refuses half a surrogate pair, which an id of a client may have. In a string, the quotes are escaped.
  local grant = token and string.match(token, '"grant_id":"(%x+)"')
  if grant and call('EXISTS', P .. 'grant:' .. grant) == 0 then
    return false
  end
  return token
end

function ops.delete_token(now, node, digest)
  call('ZREM', P .. 'issued:order', digest)
  return call('HDEL', P .. 'issued', digest)
end

-- Those whose codes were not redeemed, and the others, each with the seconds at which it expires.
local CODES, REDEEMED = 'grants:codes', 'grants:redeemed'

local function end_grant(id)
  call('ZREM', P .. CODES, id)
  call('ZREM', P .. REDEEMED, id)
  return call('DEL', P .. 'grant:' .. id)
end

-- Put a grant into one of the two sets. If the set is full, the grants in it that expire first end.
local function list_grant(set, now, id, expires_at, most)
  call('ZREMRANGEBYSCORE', P .. set, '-inf', string.format('%.3f', now / 1000))
  while call('ZCARD', P .. set) >= tonumber(most) do
    call('DEL', P .. 'grant:' .. call('ZPOPMIN', P .. set)[1])
  end
  call('ZADD', P .. set, expires_at, id)
end

function ops.put_grant(now, node, id, grant, expires_at, code, lifetime, most)
  list_grant(CODES, now, id, expires_at, most)
  call('HSET', P .. 'grant:' .. id, 'grant', grant, 'expires_at', expires_at, 'code', code)
  return call('PEXPIRE', P .. 'grant:' .. id, lifetime)
end

function ops.get_grant(now, node, id)
  return call('HMGET', P .. 'grant:' .. id, 'grant', 'expires_at')
end

-- Return whether this is the code of a grant, and was not redeemed before. A code that is redeemed again may have been
-- stolen, so it ends the grant.
function ops.redeem_grant(now, node, id, code, refresh, expires_at, lifetime, most)
  local key = P .. 'grant:' .. id
  if call('HGET', key, 'code') ~= code then
    return 0
  end
  if call('HSETNX', key, 'redeemed', 1) == 0 then
    end_grant(id)
    return 0
  end
  call('ZREM', P .. CODES, id)
  list_grant(REDEEMED, now, id, expires_at, most)
  call('HSET', key, 'refresh', refresh, 'expires_at', expires_at)
  return call('PEXPIRE', key, lifetime)
end

-- Return whether the old refresh token was the last one, and is replaced.
function ops.rotate_grant(now, node, id, old, new, expires_at, lifetime)
  local key = P .. 'grant:' .. id
  if call('HGET', key, 'refresh') ~= old then
    return 0
  end
  call('ZADD', P .. REDEEMED, expires_at, id)
  call('HSET', key, 'refresh', new, 'expires_at', expires_at)
  return call('PEXPIRE', key, lifetime)
end

function ops.end_grant(now, node, id)
  return end_grant(id)
end
