"""Share a client that sends and receives plain bytes, and the requests that tests of the transport send with it."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit

from conftest import CONTOUR, Harness
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, wrapClientTLS
from twisted.internet.interfaces import IDelayedCall, IHandshakeListener
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.ssl import Certificate, optionsForClientTLS
from twisted.python.failure import Failure
from zope.interface import implementer

INFO = "/_emulate/foundry/compute-modules/info"
EXECUTE = f"{CONTOUR}/compute-modules/jobs/execute"


@implementer(IHandshakeListener)
class Wire(Protocol):
    """A client of plain bytes.

    Attributes:
        received: The bytes that have arrived.
        closed: Whether the connection is lost.
        secure: Whether the TLS handshake is complete.
    """

    def __init__(self) -> None:
        self.received = bytearray()
        self.closed = False
        self.secure = False
        self._waiting: list[tuple[Callable[[], Any], Deferred[None]]] = []
        self._looking: IDelayedCall | None = None

    def handshakeCompleted(self) -> None:
        self.secure = True
        self._look_soon()

    def dataReceived(self, data: bytes) -> None:
        self.received += data
        self._look_soon()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.closed = True
        self._look_soon()

    def _look_soon(self) -> None:
        # Over TLS, many small pieces can arrive in one turn of the reactor.
        if self._waiting and self._looking is None:
            self._looking = reactor.callLater(0, self._look)

    def _look(self) -> None:
        self._looking = None
        for waiting in list(self._waiting):
            condition, deferred = waiting
            if condition():
                self._waiting.remove(waiting)
                deferred.callback(None)

    async def until(self, condition: Callable[[], Any], seconds: float = 10) -> None:
        """Wait until a condition holds, which is checked whenever something arrives."""
        if not condition():
            deferred: Deferred[None] = Deferred()
            self._waiting.append((condition, deferred))
            await deferred.addTimeout(seconds, reactor)

    async def until_closed(self, seconds: float = 10) -> bytes:
        """Wait until the connection is lost; return what has arrived."""
        await self.until(lambda: self.closed, seconds)
        return bytes(self.received)

    @property
    def statuses(self) -> list[int]:
        """The statuses of the answers that have arrived."""
        return [int(status) for status in re.findall(rb"HTTP/1\.[01] (\d{3}) ", self.received)]


#: So many TLS handshakes are tried: on a busy machine, one can take longer than an emulator with short limits allows.
ATTEMPTS = 5


@lru_cache
def client_tls(ca_certificate: str) -> Any:
    """Return the TLS options of a client, made once for each CA because that is slow."""
    return optionsForClientTLS("localhost", Certificate.loadPEM(ca_certificate))


async def connect(
    harness: Harness, scheme: str = "http", url: str | None = None, handshake: bool = True, protocol: type[Wire] = Wire
) -> Wire:
    """Connect to an emulator.

    Args:
        url: The base URL of another listener than the main one of the scheme.
        handshake: Whether to complete the TLS handshake, over https.
        protocol: The class of the client.
    """
    addresses = harness.service.addresses
    endpoint: Any = TCP4ClientEndpoint(reactor, "127.0.0.1", urlsplit(url or getattr(addresses, scheme)).port)
    tls = scheme == "https" and handshake
    if tls:
        endpoint = wrapClientTLS(client_tls(addresses.ca_certificate), endpoint)
    for _ in range(ATTEMPTS):
        wire: Wire = await endpoint.connect(Factory.forProtocol(protocol))
        await wire.until(lambda wire=wire: wire.secure or wire.closed or not tls)
        if wire.secure or not tls:
            return wire
    raise AssertionError(f"{ATTEMPTS} TLS handshakes failed")


async def is_well(harness: Harness, scheme: str = "http") -> None:
    """Check that a request on a new connection is answered."""
    wire = await connect(harness, scheme)
    wire.transport.write(f"GET {INFO} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
    received = await wire.until_closed()
    assert received.startswith(b"HTTP/1.1 200 "), received


def head(method: str = "GET", path: str = INFO, *headers: str) -> bytes:
    """Return the request line and the headers of a request, without the empty line."""
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: localhost", *headers, ""]).encode()


BEARER = "Authorization: Bearer app-token"
LENGTH = "Content-Length: 2"
CHUNKED = "Transfer-Encoding: chunked"
POST = head("POST", EXECUTE, BEARER)
GET = head()


def chunked(body: bytes) -> bytes:
    """Return a submission with a body that is, or should be, in chunks."""
    return head("POST", EXECUTE, BEARER, CHUNKED) + b"\r\n" + body


def execution(query: bytes) -> bytes:
    """Return the body of a submission."""
    return b'{"deployedAppRid": "ri.one", "queryType": "f", "query": %b}' % query
