-- The functions that nodes call, with the prefix, the operation and its arguments. When its memory is full, Redis refuses
-- the first one. The second one is for operations that need little memory or free some.
local FOR_STRANGERS = {join = true, load = true, beat = true}

local function run(_, args)
  P = args[1]
  CALLER = args[4]
  -- The others have considered this node dead and given its work to other nodes. It has to join again.
  if not FOR_STRANGERS[args[2]] and not is_member(args[4]) then
    return redis.error_reply(NOT_A_MEMBER)
  end
  HEARD = {}
  TOLD = false
  local reply = ops[args[2]](unpack(args, 3))
  if type(reply) == 'table' and reply.err then
    return reply
  end
  return {reply or false, HEARD}
end

redis.register_function('LIBRARY', run)
redis.register_function{function_name = 'LIBRARY_always', callback = run, flags = {'allow-oom'}}
