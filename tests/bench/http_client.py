"""An HTTP/1.1 client that costs little CPU: it sends bytes and reads one answer at a time."""

from __future__ import annotations

import asyncio
import json
import ssl
from typing import Any
from urllib.parse import urlsplit

from emulator import CONTOUR, RUNTIME


class ConnectionLost(Exception):
    """The server closed the connection before its answer was complete."""


class Connection(asyncio.Protocol):
    """One connection, kept alive."""

    def __init__(self) -> None:
        self._received = b""
        self._answer: asyncio.Future[tuple[int, bytes]] | None = None
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(ConnectionLost())

    def data_received(self, data: bytes) -> None:
        received = self._received = self._received + data if self._received else data
        end = received.find(b"\r\n\r\n")
        if end < 0 or self._answer is None or self._answer.done():
            return
        body = received[end + 4 :]
        at = received.find(b"\r\nContent-Length: ", 0, end)
        if at >= 0:
            at += 18
            if len(body) < int(received[at : received.find(b"\r", at, end + 2)]):
                return
        elif received.find(b"\r\nTransfer-Encoding: chunked", 0, end) >= 0 and not body.endswith(b"0\r\n\r\n"):
            return
        self._received = b""
        self._answer.set_result((int(received[9:12]), body))

    async def request(self, request: bytes) -> tuple[int, bytes]:
        """Return the status and the body of the answer.

        Args:
            request: The whole request.

        Raises:
            ConnectionLost: The connection was closed before the answer was complete.
        """
        if self._transport is None:
            raise ConnectionLost
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._answer

    def close(self) -> None:
        """Abort the connection."""
        if self._transport is not None:
            self._transport.abort()


async def connect(url: str) -> Connection:
    """Connect to a server.

    Args:
    url: The base URL of a listener on this machine. Its certificate is not verified.
    """
    where = urlsplit(url)
    trust = None
    if where.scheme == "https":
        trust = ssl.create_default_context()
        trust.check_hostname, trust.verify_mode = False, ssl.CERT_NONE
    loop = asyncio.get_running_loop()
    _, connection = await loop.create_connection(Connection, where.hostname, where.port, ssl=trust)
    return connection


def caller_request(query: Any, route: str = "compute-modules/jobs/execute", method: str = "POST") -> bytes:
    """Return a request of an application.

    Args:
        query: The query of a job to submit; with ``PUT``, the whole body.
    """
    content = query if method == "PUT" else {"deployedAppRid": "ri.bench", "queryType": "f", "query": query}
    body = json.dumps(content).encode()
    head = f"{method} {CONTOUR}/{route} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer token\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def query_request(name: str, parameters: Any) -> bytes:
    """Return a request of an application that calls a query of the public API."""
    body = json.dumps({"parameters": parameters}).encode()
    head = (
        f"POST /api/v2/functions/queries/{name}/execute HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer token\r\n"
    )
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def module_request(method: str, path: str, body: bytes = b"") -> bytes:
    """Return a request of the runtime."""
    head = f"{method} {RUNTIME}{path} HTTP/1.1\r\nHost: localhost\r\nModule-Auth-Token: module-token\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def inspect_request() -> bytes:
    """Return the request that shows the runtime with its queue."""
    return f"GET {RUNTIME} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer token\r\n\r\n".encode()
