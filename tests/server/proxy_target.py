"""A server that requests are passed on to, whose bytes a test sees and chooses."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from conftest import SEED, Harness, make_harness, pause
from twisted.internet import reactor
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class Target(Factory):
    """A server that answers each request with the same bytes.

    Attributes:
        answer: The bytes; ``b""`` to answer nothing.
        connections: The connections, open and closed.
        url: The server's base URL.
    """

    noisy = False

    def __init__(self, answer: bytes = OK, certificate: Any = None) -> None:
        self.answer = answer
        self.connections: list[TargetConnection] = []
        if certificate is None:
            self.port = reactor.listenTCP(0, self, interface="127.0.0.1")
        else:
            self.port = reactor.listenSSL(0, self, certificate.options(), interface="127.0.0.1")
        scheme = "http" if certificate is None else "https"
        self.host = f"127.0.0.1:{self.port.getHost().port}"
        self.url = f"{scheme}://{self.host}"

    def buildProtocol(self, addr: Any) -> Protocol:
        return TargetConnection(self)

    @property
    def last(self) -> TargetConnection:
        """The connection that was made last."""
        return self.connections[-1]

    async def __aenter__(self) -> Target:  # noqa: PYI034
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.port.stopListening()
        for each in self.connections:
            if not each.lost:
                each.transport.abortConnection()


class TargetConnection(Protocol):
    """A connection to a :class:`Target`, which has one request.

    Attributes:
        received: All bytes that have arrived.
        lost: Whether the connection is closed.
    """

    transport: Any

    def __init__(self, target: Target) -> None:
        self.received = b""
        self.lost = False
        self._target = target
        self._answered = False

    def connectionMade(self) -> None:
        self._target.connections.append(self)

    def dataReceived(self, data: bytes) -> None:
        self.received += data
        head, separator, body = self.received.partition(b"\r\n\r\n")
        length = re.search(rb"\r\ncontent-length: (\d+)", head, re.IGNORECASE)
        chunked = b"chunked" in head
        whole = body.endswith(b"0\r\n\r\n") if chunked else len(body) >= (int(length.group(1)) if length else 0)
        if separator and whole and not self._answered:
            self._answered = True
            self.transport.write(self._target.answer)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.lost = True

    @property
    def line(self) -> str:
        """The first line of the request."""
        return self.received.partition(b"\r\n")[0].decode()

    @property
    def headers(self) -> dict[str, list[str]]:
        """The headers of the request, by their names in lower case."""
        found: dict[str, list[str]] = {}
        for line in self.received.partition(b"\r\n\r\n")[0].decode("latin-1").split("\r\n")[1:]:
            name, _, value = line.partition(": ")
            found.setdefault(name.lower(), []).append(value)
        return found

    @property
    def body(self) -> bytes:
        """The bytes after the headers, chunks as they arrived."""
        return self.received.partition(b"\r\n\r\n")[2]


def proxy_seed(proxy: dict[str, Any]) -> str:
    """Return the seed of the tests with proxies."""
    return SEED.replace("foundry:\n", f"foundry:\n  proxy: {json.dumps(proxy)}\n")


@asynccontextmanager
async def passing(proxy: dict[str, Any], **settings: Any) -> AsyncIterator[Harness]:
    """Run an emulator that passes requests on."""
    made = make_harness(proxy_seed(proxy), **settings)
    try:
        yield made
    finally:
        await made.pool.closeCachedConnections()
        await made.service.stopService()
        # An aborted connection is closed in the next turn of the reactor.
        await pause(0)
