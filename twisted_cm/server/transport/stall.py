"""Does the client of a connection still take what was written to it?"""

from __future__ import annotations

import fcntl
import struct
import termios
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from ...broker.timers import cancel_timer
from .tls import tcp_connection

#: How often a watch looks within its time limit.
LOOKS = 4


def unacknowledged(descriptor: int) -> int:
    """Return the bytes that the operating system holds for a socket and that the peer has not acknowledged.

    An operating system that does not tell counts as one that holds none.
    """
    with suppress(OSError):
        (size,) = struct.unpack("i", fcntl.ioctl(descriptor, termios.TIOCOUTQ, bytes(4)))
        return int(size)
    return 0


class StallWatch:
    """Aborts a connection whose client takes nothing for some time. A client that takes its answer slowly may go on.

    The client takes bytes when fewer are left in the buffers of Twisted and of the operating system together. The
    buffer of the operating system alone can hold more than a slow client takes within the time limit.

    Connections in memory are not file descriptors. They are aborted after the time limit in any case.
    """

    def __init__(self, clock: IReactorTime, transport: Any, abort: Callable[[], None]) -> None:
        """Do not watch yet.

        Args:
            clock: The reactor.
            transport: The transport of the connection.
            abort: Aborts the connection.
        """
        self._abort = abort
        self._clock = clock
        self._transport = transport
        self._left: int | None = None
        self._looks = 0
        self._next: IDelayedCall | None = None

    def start(self, seconds: float) -> None:
        """Abort the connection once its client has taken nothing for ``seconds``."""
        self.stop()
        self._left, self._looks = self._bytes_left(), 0
        self._wait(seconds)

    def stop(self) -> None:
        """Stop to watch."""
        cancel_timer(self._next)

    def _wait(self, seconds: float) -> None:
        self._next = self._clock.callLater(seconds / LOOKS, self._look, seconds)

    def _look(self, seconds: float) -> None:
        before, self._left = self._left, self._bytes_left()
        self._looks = self._looks + 1 if self._left == before else 0
        if self._looks >= LOOKS:
            self._abort()
        else:
            self._wait(seconds)

    def _bytes_left(self) -> int | None:
        descriptor = tcp_connection(self._transport)
        if descriptor is None or descriptor.fileno() < 0:
            return None
        return len(descriptor.dataBuffer) - descriptor.offset + unacknowledged(descriptor.fileno())
