"""
The emulator's state on Redis, which any number of emulator processes share.

L{node} connects a process, L{broker} is the broker over it, L{results} the
bytes of results, and L{stores} the faults and issued tokens.  What must happen
as a whole is in C{lua/}.
"""
