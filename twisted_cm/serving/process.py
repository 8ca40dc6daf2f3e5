"""The process of one worker, as the parent sees it."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.protocol import ProcessProtocol, connectionDone
from twisted.protocols.amp import AMP
from twisted.python.failure import Failure

from ..broker.timers import cancel_timer
from ..config.seed import Seed
from ..server.module_output import OutputLine
from ..server.supervision import Supervision
from ..supervisor import launch
from ..supervisor.guard import Guard
from ..supervisor.process import describe_end
from .messages import (
    CHANNEL,
    ChangeSeed,
    Channel,
    Describe,
    Restart,
    ShowOutput,
    Stop,
    WorkerSetup,
    parts_of,
    write_line,
)

# What is imported stays. The garbage collector would search it again and again, for a quarter of the time of the start.
_CODE = (
    "import gc, sys; gc.disable(); sys.path[:] = sys.argv[1:];"
    " from twisted_cm.serving.worker import main; gc.freeze(); gc.enable(); main()"
)

#: Seconds that a worker may take to end, besides those that its connections may take.
_END_PATIENCE = 1.5


class _Parent(AMP):
    """The parent's end of the channel to a worker."""

    def __init__(self, supervision: Supervision) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._supervision = supervision

    @Describe.responder
    def describe(self, runtime_id: str) -> Deferred[dict[str, Any]]:
        described = self._supervision.describe(runtime_id)
        return described.addCallback(lambda found: {"described": json.dumps(found)})

    @Restart.responder
    def restart(self, runtime_id: str) -> Deferred[dict[str, Any]]:
        return self._supervision.restart(runtime_id).addCallback(lambda done: {"done": done})


class WorkerProcess(ProcessProtocol):
    """One process of a worker, in a process group of its own.

    It writes its log to the standard error of the parent.

    Attributes:
        number: The worker's number.
        ended: Fires once with how the process has ended: ``ended with exit status 1``.
    """

    transport: Any

    def __init__(self, reactor: Any, guard: Guard, supervision: Supervision, number: int) -> None:
        """Prepare a process.

        Args:
            reactor: Spawns it.
            guard: Kills it if this process is killed.
            supervision: Starts the modules, and answers the worker's questions about them.
            number: The worker's number.
        """
        self.number = number
        self.ended: Deferred[str] = Deferred()
        self._reactor = reactor
        self._guard = guard
        self._supervision = supervision
        self._channel = _Parent(supervision)
        self._killing: IDelayedCall | None = None
        self._pid = 0
        self._unread: Callable[[], None] | None = None

    def start(self, setup: WorkerSetup, sockets: tuple[socket.socket, ...], lines: list[OutputLine]) -> None:
        """Start the process.

        Args:
            setup: What it is told.
            sockets: What it listens on.
            lines: What modules have written so far.

        Raises:
            OSError: The system cannot start one.
        """
        ours, theirs = socket.socketpair()
        with ours, theirs:
            descriptors = {0: "w", 1: 2, 2: 2, CHANNEL: theirs.fileno()}
            descriptors |= {CHANNEL + 1 + at: each.fileno() for at, each in enumerate(sockets)}
            worker = [sys.executable, "-c", _CODE, *sys.path]
            launcher = [sys.executable, "-I", "-S", launch.__file__, str(os.getpid()), *worker]
            self._reactor.spawnProcess(self, sys.executable, launcher, os.environ, childFDs=descriptors)
            self._pid = self.transport.pid
            self._reactor.adoptStreamConnection(ours.fileno(), socket.AF_UNIX, Channel(self._channel))
        self.transport.writeToChild(0, setup.pickled())
        self.transport.closeChildFD(0)
        for line in lines:
            self._show(line)
        self._unread = self._supervision.output.read(self._show)
        try:
            self._guard.add(self._pid)
        except OSError:
            self.kill()
            raise

    def _show(self, line: OutputLine) -> None:
        self._tell(ShowOutput, line=write_line(line))

    def _tell(self, command: Any, **arguments: Any) -> None:
        told: Deferred[Any] | None = self._channel.callRemote(command, **arguments)
        if told is not None:
            # A worker that ends does not answer.
            told.addErrback(lambda _: None)

    def reseed(self, seed: Seed) -> None:
        """Have the worker apply another seed."""
        for part in parts_of(seed):
            self._tell(ChangeSeed, **part)

    def stop(self, grace: float) -> None:
        """Let the worker answer all that is parked and stop, and kill it if it has not ended soon after.

        Args:
            grace: Seconds that its connections may take to end.
        """
        self._killing = self._reactor.callLater(grace + _END_PATIENCE, self.kill)
        self._tell(Stop, grace=grace)

    def kill(self) -> None:
        """End the process at once."""
        # It may not have its process group yet.
        for end in (os.kill, os.killpg):
            with suppress(ProcessLookupError, PermissionError):
                if self._pid:
                    end(self._pid, signal.SIGKILL)

    def processEnded(self, reason: Failure = connectionDone) -> None:
        cancel_timer(self._killing)
        if self._unread is not None:
            self._unread()
        if self._channel.transport is not None:
            self._channel.transport.loseConnection()
        self.ended.callback(describe_end(reason))

    def processExited(self, reason: Failure) -> None:
        pid, self._pid = self._pid, 0
        # What the worker has started ends with it.
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGKILL)
        self._guard.remove(pid)
