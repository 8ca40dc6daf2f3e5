"""Connect an HTTP client to a site in the same process, without sockets.

The protocols on both sides are the real ones, and so is back-pressure.
"""

from __future__ import annotations

from collections import deque
from typing import Any

from attrs import frozen
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, execute, succeed
from twisted.internet.error import ConnectionAborted, ConnectionDone
from twisted.internet.interfaces import (
    IAddress,
    IConsumer,
    IDelayedCall,
    IProtocol,
    IProtocolFactory,
    IPushProducer,
    IReactorTime,
    IStreamClientEndpoint,
    ITransport,
)
from twisted.python.failure import Failure
from twisted.web.client import URI, Agent, HTTPConnectionPool
from twisted.web.iweb import IAgentEndpointFactory
from zope.interface import implementer

#: Once more bytes than this are on the way to one side, the producer of the other side is paused.
HIGH_WATER = 64 * 1024


@implementer(ITransport, IConsumer, IPushProducer)
class MemoryTransport:
    """One side of a connection. Bytes that it writes reach the other side in a later turn of the reactor."""

    disconnecting = False

    def __init__(self, network: MemoryNetwork, address: IAddress, peer_address: IAddress) -> None:
        self._network = network
        self._address, self._peer_address = address, peer_address
        self._peer: MemoryTransport
        self._protocol: IProtocol
        self._arriving: deque[bytes] = deque()
        self._arriving_bytes = 0
        self._ended: Exception | None = None
        self._paused = False
        self._delivery: IDelayedCall | None = None
        self._connected = True
        self._producer: Any = None
        self._streaming = False
        self._producer_paused = False

    def join(self, peer: MemoryTransport, protocol: IProtocol) -> None:
        """Set the other side, and the protocol of this side."""
        self._peer, self._protocol = peer, protocol

    # Calls of this side's protocol

    def write(self, data: bytes) -> None:
        if data and self._connected and not self.disconnecting:
            self._peer._arrive(data)
            if self._producer is not None and self._streaming and self._peer._full() and not self._producer_paused:
                self._producer_paused = True
                self._producer.pauseProducing()

    def writeSequence(self, data: Any) -> None:
        self.write(b"".join(data))

    def loseConnection(self) -> None:
        if self._connected and not self.disconnecting:
            self.disconnecting = True
            if self._producer is None:
                self._end()

    def abortConnection(self) -> None:
        """End the connection at once; bytes on the way are lost."""
        if self._connected:
            for each in (self._peer, self):
                each._arriving.clear()
                each._arriving_bytes = 0
                each._ended = ConnectionAborted()
                each._schedule()

    def getPeer(self) -> IAddress:
        return self._peer_address

    def getHost(self) -> IAddress:
        return self._address

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        self._producer, self._streaming, self._producer_paused = producer, streaming, False
        if not streaming:
            producer.resumeProducing()

    def unregisterProducer(self) -> None:
        self._producer = None
        if self.disconnecting and self._connected:
            self._end()

    # Flow control of what this side's protocol reads

    def pauseProducing(self) -> None:
        self._paused = True

    def resumeProducing(self) -> None:
        self._paused = False
        self._schedule()

    def stopProducing(self) -> None:
        self.loseConnection()

    # Delivery to this side's protocol

    def _full(self) -> bool:
        return self._arriving_bytes > HIGH_WATER

    def _arrive(self, data: bytes) -> None:
        self._arriving.append(data)
        self._arriving_bytes += len(data)
        self._schedule()

    def _end(self) -> None:
        self._finish(ConnectionDone())
        self._peer._finish(ConnectionDone())

    def _finish(self, reason: Exception) -> None:
        if self._ended is None:
            self._ended = reason
            self._schedule()

    def _schedule(self) -> None:
        if self._delivery is None and self._connected:
            self._delivery = self._network.reactor.callLater(0, self._deliver)

    def _deliver(self) -> None:
        self._delivery = None
        while self._arriving and not self._paused and self._connected:
            data = self._arriving.popleft()
            self._arriving_bytes -= len(data)
            self._protocol.dataReceived(data)
        if not self._full():
            self._peer._drained()
        if self._ended is not None and self._connected and (not self._arriving or self.disconnecting):
            self._connected = False
            if self._delivery is not None:
                self._delivery.cancel()
            if self._producer is not None:
                self._producer.stopProducing()
            self._protocol.connectionLost(Failure(self._ended))
            self._network.left(self)

    def _drained(self) -> None:
        if self._producer is None or not self._connected:
            return
        if not self._streaming:
            self._producer.resumeProducing()
        elif self._producer_paused:
            self._producer_paused = False
            self._producer.resumeProducing()


_CLIENT, _SERVER = (IPv4Address("TCP", "127.0.0.1", port) for port in (0, 80))


@implementer(IStreamClientEndpoint)
@frozen
class _MemoryEndpoint:
    """Connect clients over a network."""

    network: MemoryNetwork

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        return execute(self.network.connect, protocolFactory)


@implementer(IAgentEndpointFactory)
class MemoryNetwork:
    """The connections to one server, to which every URI leads.

    Attributes:
        reactor: The clock of all deliveries.
    """

    def __init__(self, reactor: IReactorTime, server: IProtocolFactory) -> None:
        self.reactor = reactor
        self._server = server
        self._transports: set[MemoryTransport] = set()
        self._closed: Deferred[None] | None = None

    def agent(self, pool: HTTPConnectionPool) -> Agent:
        """Return an agent that sends every request to the server, on connections of a pool."""
        agent: Agent = Agent.usingEndpointFactory(self.reactor, self, pool)
        return agent

    def endpointForURI(self, uri: URI) -> IStreamClientEndpoint:
        endpoint: IStreamClientEndpoint = _MemoryEndpoint(self)
        return endpoint

    def connect(self, client_factory: IProtocolFactory) -> IProtocol:
        """Return a new protocol of the client, connected to a new one of the server."""
        server, client = self._server.buildProtocol(_CLIENT), client_factory.buildProtocol(_SERVER)
        assert server is not None and client is not None
        here, there = MemoryTransport(self, _CLIENT, _SERVER), MemoryTransport(self, _SERVER, _CLIENT)
        self._transports |= {here, there}
        here.join(there, client)
        there.join(here, server)
        server.makeConnection(there)
        client.makeConnection(here)
        return client

    def left(self, transport: MemoryTransport) -> None:
        """Forget one side of a connection, which has been told that the connection is lost."""
        self._transports.discard(transport)
        if not self._transports and self._closed is not None:
            closed, self._closed = self._closed, None
            closed.callback(None)

    def close(self) -> Deferred[None]:
        """Abort all connections; the Deferred fires when both sides of each have been told."""
        if not self._transports:
            return succeed(None)
        self._closed = Deferred()
        closed = self._closed
        for transport in list(self._transports):
            transport.abortConnection()
        return closed
