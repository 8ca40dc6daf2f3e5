"""A connection to another server, from whose answer the headers are taken that concern only the connection.

Twisted's client hides the ``Connection`` header of an answer, so the headers that it names are dropped here, before the
client reads the answer.
"""

from __future__ import annotations

import re
from typing import Any

from attrs import frozen
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IProtocol, IProtocolFactory, IStreamClientEndpoint
from twisted.internet.protocol import connectionDone
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory
from twisted.python.failure import Failure
from zope.interface import implementer

from ...client.pool import ConnectionPool
from .headers import nominated

#: The most bytes of an answer's headers that are looked at. Longer ones stay as they are.
LONGEST_HEAD = 64 * 1024

#: Matches the end of the headers. Twisted's client takes a line feed alone for the end of a line, too.
_END = re.compile(rb"\n\r?\n")

_INFORMATIONAL = re.compile(rb"\S+ 1\d\d\b")

#: The headers that stay, whatever ``Connection`` names: without them, the answer would be read wrongly.
_STAYING = frozenset({b"connection", b"content-length", b"transfer-encoding"})


class _AnsweringConnection(ProtocolWrapper):
    """A connection that carries one answer."""

    def __init__(self, factory: Any, wrappedProtocol: IProtocol) -> None:
        super().__init__(factory, wrappedProtocol)
        self._head: bytes | None = b""

    def dataReceived(self, data: bytes) -> None:
        if self._head is not None:
            data = self._after_looking(self._head + data)
        if data:
            super().dataReceived(data)  # type: ignore[no-untyped-call]

    def _after_looking(self, received: bytes) -> bytes:
        """Return what may be read of the bytes that have been received and not been read."""
        ready = b""
        while (end := _END.search(received)) is not None:
            head, received = received[: end.end()], received[end.end() :]
            if _INFORMATIONAL.match(head) is None:
                self._head = None
                return ready + without_nominated(head) + received
            ready += head
        if len(received) > LONGEST_HEAD:
            self._head = None
            return ready + received
        self._head = received
        return ready

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self._head:
            super().dataReceived(self._head)  # type: ignore[no-untyped-call]
        super().connectionLost(reason)  # type: ignore[no-untyped-call]


def without_nominated(head: bytes) -> bytes:
    """Return the head of an answer without the headers that its ``Connection`` header names."""
    lines = head.split(b"\n")
    dropped = nominated(line.partition(b":")[2] for line in lines if line[:11].lower() == b"connection:") - _STAYING
    kept, keeping = [], True
    for line in lines:
        # A line that begins with white space continues the header before it.
        if line[:1] not in (b" ", b"\t"):
            keeping = line.partition(b":")[0].strip().lower() not in dropped
        if keeping:
            kept.append(line)
    return b"\n".join(kept)


class _Answering(WrappingFactory):
    protocol = _AnsweringConnection
    # Twisted would log the start and the stop of each.
    noisy = False


@implementer(IStreamClientEndpoint)
@frozen
class _AnsweringEndpoint:
    """Connects as another endpoint does."""

    endpoint: IStreamClientEndpoint

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        connecting: Deferred[Any] = self.endpoint.connect(_Answering(protocolFactory))
        return connecting.addCallback(lambda connection: connection.wrappedProtocol)


class AnsweringPool(ConnectionPool):
    """Connections that carry one answer each.

    A server may close a connection that was kept just when the next request is sent, which cannot always be repeated.
    """

    def __init__(self, reactor: Any) -> None:
        super().__init__(reactor)
        self.persistent = False

    def getConnection(self, key: Any, endpoint: IStreamClientEndpoint) -> Deferred[Any]:
        return super().getConnection(key, _AnsweringEndpoint(endpoint))
