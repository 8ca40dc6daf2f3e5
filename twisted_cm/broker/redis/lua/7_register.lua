-- What is called: prefix, operation, and what the operation takes. Redis refuses the first when it is full; the other is
-- for operations that take little or make room.
local function run(_, args)
  P = args[1]
  return ops[args[2]](unpack(args, 3))
end

redis.register_function('LIBRARY', run)
redis.register_function{function_name = 'LIBRARY_always', callback = run, flags = {'allow-oom'}}
