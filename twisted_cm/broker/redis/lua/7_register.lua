-- The functions that nodes call, with the prefix, the operation and its arguments. When its memory is full, Redis refuses
-- the first one. The second one is for operations that need little memory or free some.
local function run(_, args)
  P = args[1]
  return ops[args[2]](unpack(args, 3))
end

redis.register_function('LIBRARY', run)
redis.register_function{function_name = 'LIBRARY_always', callback = run, flags = {'allow-oom'}}
