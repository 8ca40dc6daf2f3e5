"""When has the operating system taken everything that a connection has written?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.interfaces import IDelayedCall, IPullProducer, IPushProducer, IReactorTime
from zope.interface import implementer

from ...broker.timers import cancel_timer
from .sending import is_quiet
from .tls import tcp_connection


@implementer(IPullProducer)
class FlushWatch:
    """Reports once when a transport has handed everything it holds to the operating system.

    A transport asks a registered pull producer for more when it has nothing left to write. Twisted has no other public
    sign of that. A transport has one producer at a time, so the watch replaces the connection, and registers it again
    before it reports.

    Over TLS, the watch is registered with the TCP connection below. It relies on
    :class:`~twisted.protocols.tls.TLSMemoryBIOProtocol`, which encrypts and passes on each write at once.

    Connections in memory are not file descriptors. They count as flushed in the next turn of the reactor.

    Attributes:
        done: Whether the watch has reported.
    """

    def __init__(self, clock: IReactorTime, transport: Any, connection: IPushProducer, paused: bool) -> None:
        """Start to watch.

        Args:
            clock: The reactor.
            transport: The transport of the connection.
            connection: The producer that is registered with the transport.
            paused: Whether the transport has paused the connection.
        """
        self.done = False
        self._transport = transport
        self._connection: IPushProducer | None = connection
        self._paused = paused
        self._reports: list[Callable[[bool], None]] = []
        self._next_turn: IDelayedCall | None = None
        self._descriptor: Any = tcp_connection(transport)
        if self._descriptor is not None:
            transport.unregisterProducer()
            self._register()
        else:
            self._next_turn = clock.callLater(0, self._finish, True)

    def add(self, report: Callable[[bool], None]) -> None:
        """Call ``report`` with true when everything is flushed, or with false if the connection is lost before."""
        self._reports.append(report)

    def write_now(self) -> None:
        """Write what the transport holds without waiting for the reactor's next turn.

        If this process is suspended in between, what it writes afterwards may be out of date. Nothing is written if
        something has arrived, because that may be the end of the connection: the reactor reads before it writes.
        """
        if self._descriptor is None or self.done or not is_quiet(self._descriptor.socket):
            return
        # If this fails, the reactor tries again and finds out why.
        self._descriptor.doWrite()

    def connection_closes(self) -> None:
        """Continue after ``loseConnection``, which unregisters the producer of the transport, be it the watch."""
        self._connection = None
        if self._descriptor is not None:
            self._descriptor.unregisterProducer()
            self._register()

    def connection_lost(self) -> None:
        """Report that the connection was lost."""
        self._finish(False)

    def _register(self) -> None:
        self._asked = False
        # Calls resumeProducing() before it returns.
        self._descriptor.registerProducer(self, False)
        self._descriptor.startWriting()

    def resumeProducing(self) -> None:
        if not self._asked:
            self._asked = True
            return
        self._descriptor.unregisterProducer()
        if self._connection is not None:
            self._transport.registerProducer(self._connection, True)
            if self._paused:
                self._connection.resumeProducing()
        self._finish(True)

    def stopProducing(self) -> None:
        # The transport is lost. The connection learns of it next and tells the watch.
        pass

    def _finish(self, flushed: bool) -> None:
        if self.done:
            return
        self.done = True
        cancel_timer(self._next_turn)
        for report in self._reports:
            report(flushed)
