"""End a command when the program that started it is gone."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time

#: Seconds that a module may take to end before it is killed.
_PATIENCE = 10.0


def interrupt_at_end_of_input() -> None:
    """Send this process SIGINT when its standard input ends, and SIGINT again if it runs on for 10 seconds.

    The input is taken from the process: children that are started later find the null device in its place, so they
    cannot keep the input open or read from it.
    """
    null = os.open(os.devnull, os.O_RDONLY)
    if sys.stdin is None:
        # It was closed from the start. Descriptor 0 may belong to something else by now.
        own = null
    else:
        own = os.dup(0)
        os.dup2(null, 0)
        os.close(null)
    # A thread of the reactor would hold up the end of the process.
    threading.Thread(target=_interrupt_at_end, args=(own,), daemon=True).start()


def _interrupt_at_end(descriptor: int) -> None:
    while os.read(descriptor, 4096):
        pass
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(_PATIENCE)
    os.kill(os.getpid(), signal.SIGINT)
