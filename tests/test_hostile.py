"""That no input makes it fail, hang or grow: every route, bare bytes on both listeners, and clients that take for ever."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest
import pytest_twisted
from conftest import CONTOUR, RUNTIMES, Harness
from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.endpoints import HostnameEndpoint, connectProtocol, wrapClientTLS
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.ssl import Certificate, optionsForClientTLS
from twisted.python.failure import Failure

INFO = "/_emulate/foundry/compute-modules/info"
EXECUTE = f"{CONTOUR}/compute-modules/jobs/execute"


class Wire(Protocol):
    """A client of bare bytes."""

    def __init__(self) -> None:
        self.received = b""
        self.closed = False
        self._waiting: list[tuple[Callable[[], Any], Deferred[None]]] = []

    def dataReceived(self, data: bytes) -> None:
        self.received += data
        self._look()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.closed = True
        self._look()

    def _look(self) -> None:
        for waiting in list(self._waiting):
            condition, deferred = waiting
            if condition():
                self._waiting.remove(waiting)
                deferred.callback(None)

    async def until(self, condition: Callable[[], Any], seconds: float = 10) -> None:
        """Wait for something to arrive."""
        if not condition():
            deferred: Deferred[None] = Deferred()
            self._waiting.append((condition, deferred))
            await deferred.addTimeout(seconds, reactor)

    async def until_closed(self, seconds: float = 10) -> bytes:
        await self.until(lambda: self.closed, seconds)
        return self.received

    @property
    def statuses(self) -> list[int]:
        return [int(status) for status in re.findall(rb"^HTTP/1\.[01] (\d{3}) ", self.received, re.MULTILINE)]


async def connect(harness: Harness, scheme: str = "http") -> Wire:
    service = harness.service
    port = service._ports[0 if scheme == "http" else 1].getHost().port
    endpoint: Any = HostnameEndpoint(reactor, "127.0.0.1", port)
    if scheme == "https":
        authority = Certificate.loadPEM(service.addresses.ca_certificate)
        endpoint = wrapClientTLS(optionsForClientTLS("localhost", authority), endpoint)
    wire: Wire = await connectProtocol(endpoint, Wire())
    return wire


async def is_well(harness: Harness, scheme: str = "http") -> None:
    """The next request on a new connection works."""
    wire = await connect(harness, scheme)
    wire.transport.write(f"GET {INFO} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
    received = await wire.until_closed()
    assert received.startswith(b"HTTP/1.1 200 "), received


def head(method: str = "GET", path: str = INFO, *headers: str) -> bytes:
    """The head of a request, without its end."""
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: localhost", *headers, ""]).encode()


BEARER = "Authorization: Bearer app-token"
LENGTH = "Content-Length: 2"
CHUNKED = "Transfer-Encoding: chunked"
POST = head("POST", EXECUTE, BEARER)
GET = head()


def chunked(body: bytes) -> bytes:
    return head("POST", EXECUTE, BEARER, CHUNKED) + b"\r\n" + body


#: What is sent, and the one status that it is answered with; 0 where the connection is closed without a word.
CASES: dict[str, tuple[bytes, int]] = {
    "a header of a megabyte": (GET + b"X: " + b"x" * 1048576 + b"\r\n\r\n", 400),
    "a request line of a megabyte": (b"GET /" + b"x" * 1048576 + b" HTTP/1.1\r\n\r\n", 400),
    "a megabyte with no end of line": (b"x" * 1048576, 400),
    "thousands of headers": (GET + b"".join(b"X-%d: y\r\n" % n for n in range(5000)) + b"\r\n", 400),
    "thousands of short headers": (GET + b"A:\r\n" * 5000 + b"\r\n", 400),
    "no colon": (GET + b"Nonsense\r\n\r\n", 400),
    "no header name": (GET + b": x\r\n\r\n", 400),
    "whitespace before the colon": (POST + b"Content-Length : 2\r\n\r\n{}", 400),
    "a header value with NUL": (GET + b"X: a\0b\r\n\r\n", 400),
    "a header name with NUL": (GET + b"X\0: a\r\n\r\n", 400),
    "header bytes that are no text": (GET + b"Authorization: Bearer \xff\xfe\r\nPrefer: \xff\r\n\r\n", 200),
    "a token that is no text": (head("GET", RUNTIMES) + b"Authorization: Bearer \xff\r\n\r\n", 401),
    "a module token that is no text": (head("GET", f"{RUNTIMES}/one/job") + b"Module-Auth-Token: \xff\r\n\r\n", 401),
    "an origin that is no text": (head("POST", RUNTIMES) + b"Origin: \xff\r\nContent-Length: 2\r\n\r\n{}", 403),
    "a preference that is no text": (
        head("GET", f"{RUNTIMES}/one/job") + b"Module-Auth-Token: token-one\r\nPrefer: wait=0, \xff\r\n\r\n",
        204,
    ),
    "a folded header": (GET + b"X: a\r\n b\r\n\r\n", 200),
    "a folded first header": (b"GET / HTTP/1.1\r\n Host: localhost\r\n\r\n", 400),
    "a folded length": (POST + b"Content-Length:\r\n 2\r\n\r\n{}", 400),
    "line ends without CR": (f"GET {INFO} HTTP/1.1\nHost: localhost\n\n".encode(), 0),
    "a bare CR": (GET + b"X: a\rY: b\r\n\r\n", 400),
    "two Hosts": (GET + b"Host: localhost\r\n\r\n", 400),
    "two other Hosts": (GET + b"Host: example.com\r\n\r\n", 400),
    "no Host": (f"GET {INFO} HTTP/1.1\r\n\r\n".encode(), 400),
    "an empty Host": (f"GET {INFO} HTTP/1.1\r\nHost:\r\n\r\n".encode(), 403),
    "a Host that is no text": (f"GET {INFO} HTTP/1.1\r\nHost: ".encode() + b"\xff\r\n\r\n", 403),
    "a Host with an empty label": (f"GET {INFO} HTTP/1.1\r\nHost: a..localhost\r\n\r\n".encode(), 200),
    "a Host with a long label": (f"GET {INFO} HTTP/1.1\r\nHost: {'a' * 70}.localhost\r\n\r\n".encode(), 200),
    "a Host with a bracket": (f"GET {INFO} HTTP/1.1\r\nHost: [::1\r\n\r\n".encode(), 403),
    "a Host with a bad port": (f"GET {INFO} HTTP/1.1\r\nHost: localhost:x\r\n\r\n".encode(), 200),
    "a Host with a huge port": (f"GET {INFO} HTTP/1.1\r\nHost: localhost:{'9' * 5000}\r\n\r\n".encode(), 200),
    "two lengths that differ": (POST + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}", 400),
    "two lengths in one": (POST + b"Content-Length: 2, 2\r\n\r\n{}", 400),
    "a length and chunks": (POST + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "chunks and a length": (POST + b"Transfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n0\r\n\r\n", 400),
    "an unknown encoding": (POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", 400),
    "chunks and identity": (POST + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n", 400),
    "chunks twice": (POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "a vertical tab before chunked": (POST + b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n", 400),
    "a length with a sign": (POST + b"Content-Length: +2\r\n\r\n{}", 400),
    "a length with a space": (POST + b"Content-Length: 2 2\r\n\r\n{}", 400),
    "a negative length": (POST + b"Content-Length: -2\r\n\r\n{}", 400),
    "a length in other digits": (POST + "Content-Length: \u0662\r\n\r\n{}".encode(), 400),
    "a length with an exponent": (POST + b"Content-Length: 5e1\r\n\r\n{}", 400),
    "a length with an underscore": (POST + b"Content-Length: 1_0\r\n\r\n{}", 400),
    "a length in hexadecimal": (POST + b"Content-Length: 0x2\r\n\r\n{}", 400),
    "a length of nothing": (POST + b"Content-Length:\r\n\r\n{}", 400),
    "a length of five thousand digits": (POST + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n{}", 400),
    "a length of a hundred digits": (POST + b"Content-Length: " + b"9" * 100 + b"\r\n\r\n{}", 413),
    "a chunk size that is none": (chunked(b"x\r\n"), 400),
    "a negative chunk size": (chunked(b"-1\r\n{}\r\n0\r\n\r\n"), 400),
    "a chunk size with a prefix": (chunked(b"0x2\r\n{}\r\n0\r\n\r\n"), 400),
    "a huge chunk size": (chunked(b"f" * 1000 + b"\r\n" + b"x" * 100), 0),
    "an endless chunk size": (chunked(b"0" * 100_000), 400),
    "a chunk without its end": (chunked(b"2\r\n{}0\r\n\r\n"), 400),
    "a huge chunk extension": (chunked(b"2;" + b"x" * 1048576 + b"\r\n{}\r\n0\r\n\r\n"), 400),
    "a chunk extension with a line feed": (chunked(b"2;a\nb\r\n{}\r\n0\r\n\r\n"), 400),
    "trailers of a megabyte": (chunked(b"2\r\n{}\r\n0\r\n" + b"X: y\r\n" * 180_000 + b"\r\n"), 400),
    "one trailer of a megabyte": (chunked(b"2\r\n{}\r\n0\r\nX: " + b"y" * 1048576 + b"\r\n\r\n"), 400),
    "a bad chunk after an answer": (head("POST", EXECUTE, CHUNKED) + b"\r\nx\r\n", 401),
    "an absolute URI": (f"GET http://localhost{INFO} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode(), 400),
    "an absolute URI elsewhere": (b"GET http://example.com/ HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
    "an authority": (b"CONNECT localhost:80 HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
    "an asterisk": (b"OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
    "no slash": (b"GET info HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
    "two slashes": (f"GET /{INFO} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode(), 200),
    "dots": (b"GET /_emulate/../../etc/passwd HTTP/1.1\r\nHost: localhost\r\n\r\n", 404),
    "a request line with NUL": (b"GET /\0 HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
    "a path that is no text": (b"GET /\x80\xb0 HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
    "a query that is no text": (head("GET", f"{CONTOUR}/schemas?rid=%ff&branch=%00", BEARER) + b"\r\n", 400),
    "an id with NUL": (head("GET", f"{RUNTIMES}/%00/jobs/%00") + b"\r\n", 404),
    "an id with a slash": (head("GET", f"{RUNTIMES}/..%2f..%2F/jobs/%2f") + b"\r\n", 404),
    "an id of dots": (head("GET", f"{RUNTIMES}/../jobs/%2e%2e") + b"\r\n", 404),
    "an id that is half a character": (head("GET", f"{RUNTIMES}/%e2%82/jobs/x") + b"\r\n", 404),
    "an id that is half a pair": (head("GET", f"{RUNTIMES}/%ed%a0%80/jobs/x") + b"\r\n", 404),
    "percent signs": (head("GET", f"{RUNTIMES}/%/jobs/%zz") + b"\r\n", 404),
    "HTTP/1.0": (f"GET {INFO} HTTP/1.0\r\n\r\n".encode(), 200),
    "HTTP/1.0 with chunks": (f"POST {EXECUTE} HTTP/1.0\r\n{CHUNKED}\r\n\r\n0\r\n\r\n".encode(), 401),
    "HTTP/0.9": (b"GET /\r\n", 400),
    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0", 400),
    "HTTP/9": (b"GET / HTTP/9.9\r\nHost: localhost\r\n\r\n", 400),
    "no version": (b"GET / \r\n\r\n", 400),
    "spaces": (b"GET  /  HTTP/1.1\r\n\r\n", 400),
    "a method that is no token": (b"G(T / HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
    "a method nobody knows": (head("BREW") + b"\r\n", 405),
    "a method in small letters": (head("get") + b"\r\n", 200),
    "a TLS client hello": (bytes.fromhex("16030100c8010000c40303") + bytes(189), 0),
    "zeros": (bytes(100_000), 400),
    "line ends": (b"\r\n" * 100_000, 400),
    "random bytes": (bytes(range(256)) * 100 + b"\r\n\r\n", 400),
}


@pytest.fixture
def hasty(harness: Harness) -> Harness:
    """An emulator that waits for nobody."""
    for site in harness.service._sites:
        site.timeOut = site.head_timeout = site.body_timeout = site.close_timeout = 0.3
    return harness


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest_twisted.ensureDeferred
async def test_bytes_that_are_no_request_are_refused(hasty: Harness, scheme: str) -> None:
    async def statuses(sent: bytes) -> list[int]:
        wire = await connect(hasty, scheme)
        wire.transport.write(sent)
        await wire.until_closed()
        return wire.statuses

    answered = await gatherResults([Deferred.fromCoroutine(statuses(sent)) for sent, _ in CASES.values()])
    expected = {case: [status] if status else [] for case, (_, status) in CASES.items()}
    assert dict(zip(CASES, answered, strict=True)) == expected
    await is_well(hasty, scheme)
