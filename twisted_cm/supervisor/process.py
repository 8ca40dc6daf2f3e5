"""The process of one replica."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.error import ProcessDone
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.protocol import ProcessProtocol, connectionDone
from twisted.python.failure import Failure

from ..broker.timers import cancel_timer
from . import launch
from .guard import Guard
from .lines import LineSplitter

#: Seconds after the end of a process within which the rest of its output is read. A process that it has started and
#: that has left its process group may keep the pipe open.
_REST_OF_OUTPUT = 1.0

#: How often the output is read at most when it is wanted at once.
_READS = 64


class ModuleProcess(ProcessProtocol):
    """A process in a process group of its own, whose output is read line by line.

    Attributes:
        transport: The process for Twisted.
        ended: Fires once with how the process ended, when its output has been read: ``ended with exit status 1``.
    """

    transport: Any

    def __init__(self, reactor: Any, guard: Guard, written: Callable[[str], None]) -> None:
        """Prepare a process.

        Args:
            reactor: Spawns it.
            guard: Kills its process group if this process is killed.
            written: Called with each line that it writes, without the line break.
        """
        self.ended: Deferred[str] = Deferred()
        self._reactor = reactor
        self._guard = guard
        self._lines = LineSplitter(written)
        self._group = 0
        self._how = ""
        self._killing: IDelayedCall | None = None
        self._timer: IDelayedCall | None = None

    def start(self, command: Sequence[str], environment: Mapping[str, str], directory: Path) -> None:
        """Start the process.

        Raises:
            OSError: The system cannot start one, or has no such directory.
        """
        if not directory.is_dir():
            raise NotADirectoryError(f"there is no directory {directory}")
        # It sees the program's directory as the current one, and finds the program as a shell there would.
        launcher = [sys.executable, "-I", "-S", launch.__file__, str(os.getpid()), *command]
        transport = self._reactor.spawnProcess(self, sys.executable, launcher, dict(environment), str(directory))
        self._group = transport.pid
        try:
            self._guard.add(self._group)
        except OSError:
            self.signal(signal.SIGKILL)
            raise

    def connectionMade(self) -> None:
        self.transport.closeStdin()

    def childDataReceived(self, childFD: int, data: bytes) -> None:
        if not self.ended.called:
            self._lines.feed(data)

    def read_now(self) -> None:
        """Read what the process has written so far, without waiting for the reactor."""
        pipe = self.transport.pipes.get(1)
        for _ in range(_READS):
            before = self._lines.fed
            # At the end of the output, the reactor sees the end, too.
            if pipe is None or pipe.doRead() is not None or self._lines.fed == before:
                return

    def signal(self, number: int) -> None:
        """Send a signal to the process group, if there is one."""
        if self._group:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._group, number)

    def stop(self, grace: float) -> None:
        """End the process with SIGTERM, and kill its process group if it has not ended after ``grace`` seconds."""
        if self._group:
            self._killing = self._reactor.callLater(grace, self.signal, signal.SIGKILL)
            self.signal(signal.SIGTERM)

    def processExited(self, reason: Failure) -> None:
        cancel_timer(self._killing)
        self._how = describe_end(reason)
        # What the process has started ends with it; so does the output.
        self.signal(signal.SIGKILL)
        self._guard.remove(self._group)
        self._group = 0
        self._timer = self._reactor.callLater(_REST_OF_OUTPUT, self._end)

    def processEnded(self, reason: Failure = connectionDone) -> None:
        self._end()

    def _end(self) -> None:
        cancel_timer(self._timer)
        if not self.ended.called:
            self._lines.end()
            # What has left the process group may write for ever.
            self.transport.loseConnection()
            self.ended.callback(self._how)


def describe_end(reason: Failure) -> str:
    """Return how a process has ended: ``ended with exit status 1``."""
    if reason.check(ProcessDone):
        return "ended with exit status 0"
    number: int | None = reason.value.signal  # type: ignore[union-attr]
    if number is None:
        return f"ended with exit status {reason.value.exitCode}"  # type: ignore[union-attr]
    try:
        return f"ended with signal {signal.Signals(number).name}"
    except ValueError:
        return f"ended with signal {number}"
