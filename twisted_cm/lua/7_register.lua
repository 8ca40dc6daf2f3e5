-- The one function that is called: prefix, operation, and what the operation takes.
redis.register_function('LIBRARY', function(_, args)
  P = args[1]
  return ops[args[2]](unpack(args, 3))
end)
