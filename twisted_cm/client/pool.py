"""Which connections to the emulator are open, and how they are closed."""

from __future__ import annotations

from typing import Any

from attrs import frozen
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.interfaces import IProtocol, IProtocolFactory, IStreamClientEndpoint
from twisted.internet.protocol import connectionDone
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory
from twisted.python.failure import Failure
from twisted.web.client import HTTPConnectionPool
from zope.interface import implementer

#: Seconds that an idle connection is kept. The emulator keeps it longer, so it does not close one that is in use again.
IDLE_TIMEOUT = 30


class OpenConnection(ProtocolWrapper):
    """A connection between an HTTP protocol and its transport that its pool can abort.

    Attributes:
        lost: Fires when the connection is closed.
    """

    transport: Any

    def __init__(self, factory: Any, wrappedProtocol: IProtocol) -> None:
        super().__init__(factory, wrappedProtocol)
        self.lost: Deferred[None] = Deferred()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        super().connectionLost(reason)  # type: ignore[no-untyped-call]
        self.lost.callback(None)

    def stopProducing(self) -> None:
        """Abort the connection, since the reader of the body does not want the rest.

        A polite close can wait forever: over TLS it needs an answer from the peer, and a paused connection never
        reads one.
        """
        self.transport.abortConnection()


class _OpenConnections(WrappingFactory):
    """Makes an :class:`OpenConnection` for each connection of an endpoint, and keeps the open ones in a set."""

    protocol = OpenConnection
    # Twisted would log the start and the stop of each.
    noisy = False

    def __init__(self, wrapped: IProtocolFactory, connections: set[OpenConnection]) -> None:
        super().__init__(wrapped)  # type: ignore[no-untyped-call]
        self._connections = connections

    def registerProtocol(self, p: OpenConnection) -> None:
        super().registerProtocol(p)  # type: ignore[no-untyped-call]
        self._connections.add(p)

    def unregisterProtocol(self, p: OpenConnection) -> None:
        super().unregisterProtocol(p)  # type: ignore[no-untyped-call]
        self._connections.discard(p)


@implementer(IStreamClientEndpoint)
@frozen
class _PoolEndpoint:
    """Connects as another endpoint does, and keeps the open connections in a set."""

    endpoint: IStreamClientEndpoint
    connections: set[OpenConnection]

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        connecting: Deferred[Any] = self.endpoint.connect(_OpenConnections(protocolFactory, self.connections))
        return connecting.addCallback(lambda connection: connection.wrappedProtocol)


class ConnectionPool(HTTPConnectionPool):
    """Persistent connections that can all be closed, including those that are in use.

    The pool does not repeat requests by itself, as Twisted's does for some methods; see
    :class:`~twisted_cm.client.Retries`.
    """

    cachedConnectionTimeout = IDLE_TIMEOUT
    retryAutomatically = False

    def __init__(self, reactor: Any) -> None:
        super().__init__(reactor)  # type: ignore[no-untyped-call]
        self._open: set[OpenConnection] = set()

    @property
    def open_connections(self) -> int:
        """The number of connections that are open, idle or in use."""
        return len(self._open)

    def getConnection(self, key: Any, endpoint: IStreamClientEndpoint) -> Deferred[Any]:
        return super().getConnection(key, _PoolEndpoint(endpoint, self._open))

    async def close(self) -> None:
        """Close every connection; return when all are closed."""
        closing = [self.closeCachedConnections(), *(each.lost for each in self._open)]
        for connection in list(self._open):
            connection.abortConnection()
        # Cancellation ends the wait, and not the closing of the connections.
        closed: Deferred[None] = Deferred()
        DeferredList(closing).addCallback(lambda _: closed.callback(None))
        await closed
