"""Become the program of a module, in a process group of its own.

The supervisor runs this file as a script, in a Python without site packages: ``launch.py PARENT COMMAND...``. It
imports little, because each start of a module waits for it. On Linux, the system kills the module if the supervisor is
killed.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from typing import Any

#: The option of Linux's ``prctl`` that sends a signal to a process when its parent has ended.
_PR_SET_PDEATHSIG = 1


def main(parent: int, command: list[str]) -> None:
    """Run a program in place of this process.

    Args:
        parent: The process that must be alive.
        command: The program and its arguments.
    """
    os.setsid()
    if sys.platform == "linux":
        prctl: Any = ctypes.CDLL(None).prctl
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os.kill(os.getpid(), signal.SIGKILL)
    # In one stream, lines keep their order.
    os.dup2(1, 2)
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        # Python ignores these.
        signal.signal(number, signal.SIG_DFL)
    try:
        os.execvp(command[0], command)
    except OSError as error:
        print(f"Cannot run {command[0]}: {error.strerror}.", flush=True)
        # The exit statuses that a shell uses.
        os._exit(127 if isinstance(error, FileNotFoundError) else 126)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
