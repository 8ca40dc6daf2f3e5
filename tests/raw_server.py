"""A server that sends the answers a test gives it, and loses connections."""

from __future__ import annotations

import json
import re
from typing import Any
from urllib.parse import urlsplit

from client_helpers import until
from conftest import Harness
from twisted.internet import reactor
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.protocols.portforward import ProxyClient, ProxyClientFactory, ProxyFactory, ProxyServer
from twisted.python.failure import Failure


class RawServer(Factory):
    """A server that answers each request with the next of its answers, then closes the connection.

    Attributes:
        answers: The answers that are left, as bytes. ``None`` closes the connection without an answer.
        kept: After how many requests the server begins to close connections.
        made: How many connections were made.
        requests: The first line of each request.
        keys: The idempotency key of each request, or ``None``.
        protocols: The open connections.
        url: The server's base URL.
    """

    noisy = False

    def __init__(self, *answers: bytes | None, port: int = 0, kept: int = 0) -> None:
        self.answers = list(answers)
        self.kept = kept
        self.made = 0
        self.requests: list[bytes] = []
        self.keys: list[bytes | None] = []
        self.protocols: list[Protocol] = []
        self.port = reactor.listenTCP(port, self, interface="127.0.0.1")
        self.url = f"http://127.0.0.1:{self.port.getHost().port}"

    def buildProtocol(self, addr: Any) -> Protocol:
        return RawConnection(self)

    async def __aenter__(self) -> RawServer:  # noqa: PYI034
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.port.stopListening()
        for each in self.protocols:
            each.transport.abortConnection()
        await until(lambda: not self.protocols)


class RawConnection(Protocol):
    """One connection of a :class:`RawServer`."""

    def __init__(self, server: RawServer) -> None:
        self.server = server
        self.received = b""

    def connectionMade(self) -> None:
        self.server.protocols.append(self)
        self.server.made += 1

    def dataReceived(self, data: bytes) -> None:
        self.received += data
        head, separator, body = self.received.partition(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
        chunked = b"chunked" in head
        if not separator or (chunked and b"0\r\n\r\n" not in body) or (length and len(body) < int(length.group(1))):
            return
        self.received = b""
        self.server.requests.append(head.split(b"\r\n")[0])
        key = re.search(rb"idempotency-key: (\S+)", head, re.IGNORECASE)
        self.server.keys.append(None if key is None else key.group(1))
        answer = self.server.answers.pop(0)
        if answer is not None:
            self.transport.write(answer)
        if len(self.server.requests) > self.server.kept:
            self.transport.loseConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.server.protocols.remove(self)


class _Losing(ProxyClient):
    """The side of a :class:`LosingProxy` that is connected to the emulator."""

    def dataReceived(self, data: bytes) -> None:
        proxy: LosingProxy = self.peer.factory
        if proxy.losses:
            proxy.losses -= 1
            self.peer.transport.abortConnection()
        else:
            super().dataReceived(data)


class _LosingFactory(ProxyClientFactory):
    protocol = _Losing
    noisy = False


class _Accepting(ProxyServer):
    clientProtocolFactory = _LosingFactory


class LosingProxy(ProxyFactory):
    """A proxy before an emulator that loses answers, after the emulator has carried out the requests.

    Attributes:
        losses: How many more answers it loses.
        url: The proxy's base URL.
    """

    protocol = _Accepting
    noisy = False

    def __init__(self, harness: Harness, losses: int) -> None:
        super().__init__("127.0.0.1", urlsplit(harness.service.addresses.http).port)
        self.losses = losses
        self.listener = reactor.listenTCP(0, self, interface="127.0.0.1")
        self.url = f"http://127.0.0.1:{self.listener.getHost().port}"

    async def __aenter__(self) -> LosingProxy:  # noqa: PYI034
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.listener.stopListening()


def http(status: int, content: Any = None, **headers: str) -> bytes:
    """Return a whole HTTP answer with a JSON body; ``_`` in a header's name stands for ``-``."""
    body = b"" if content is None else json.dumps(content).encode()
    lines = [f"HTTP/1.1 {status} X", *(f"{name.replace('_', '-')}: {value}" for name, value in headers.items())]
    lines.append("Connection: close")
    if status != 204:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode() + body
