"""That no input makes it fail, hang or grow: on every route, in bare bytes, and from clients that take for ever."""

from __future__ import annotations

import gc
import json
import re
import socket
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import psutil
import pytest
import pytest_twisted
from attrs import frozen
from conftest import CONTOUR, RUNTIMES, SEED, Harness, make_harness, pause, serve_one
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred, gatherResults
from twisted.internet.endpoints import HostnameEndpoint, wrapClientTLS
from twisted.internet.interfaces import IHandshakeListener
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.ssl import Certificate, optionsForClientTLS
from twisted.internet.task import LoopingCall
from twisted.internet.threads import blockingCallFromThread, deferToThread
from twisted.python.failure import Failure
from twisted.web.client import ResponseNeverReceived
from zope.interface import implementer

from twisted_cm.broker.results import ResultBody
from twisted_cm.config.seed import Sidecar
from twisted_cm.config.tls import local_certificate
from twisted_cm.model.faults import FaultKind, FaultPlan
from twisted_cm.model.jobs import JobSource, JobState, Submission
from twisted_cm.model.limits import Limits
from twisted_cm.server.app import emulator_app, sidecar_app
from twisted_cm.server.function_schemas import parse_function_schemas

INFO = "/_emulate/foundry/compute-modules/info"
EXECUTE = f"{CONTOUR}/compute-modules/jobs/execute"


@implementer(IHandshakeListener)
class Wire(Protocol):
    """A client of bare bytes."""

    def __init__(self) -> None:
        self.received = b""
        self.closed = False
        self.secure = False
        self._waiting: list[tuple[Callable[[], Any], Deferred[None]]] = []

    def handshakeCompleted(self) -> None:
        self.secure = True
        self._look()

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
        return [int(status) for status in re.findall(rb"HTTP/1\.[01] (\d{3}) ", self.received)]


@lru_cache
def client_tls(ca_certificate: str) -> Any:
    """Made once for an emulator: it costs more than the rest of a connection."""
    return optionsForClientTLS("localhost", Certificate.loadPEM(ca_certificate))


async def connect(harness: Harness, scheme: str = "http", port: int | None = None) -> Wire:
    """Connect, and shake hands for https; C{port} is the listener's index where it is not the scheme's."""
    service = harness.service
    _, listener = service._ports[port if port is not None else ["http", "https"].index(scheme)]
    endpoint: Any = HostnameEndpoint(reactor, "127.0.0.1", listener.getHost().port)
    if scheme == "https":
        endpoint = wrapClientTLS(client_tls(service.addresses.ca_certificate), endpoint)
    wire: Wire = await endpoint.connect(Factory.forProtocol(Wire))
    await wire.until(lambda: wire.secure or scheme == "http")
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
    "a Host that is no text": (f"GET {INFO} HTTP/1.1\r\nHost: ".encode() + b"\xff\r\n\r\n", 400),
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
    for site in harness.sites():
        site.timeOut = site.head_timeout = site.body_timeout = site.close_timeout = site.stall_timeout = 0.3
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
    unexpected = {
        case: found
        for (case, (sent, status)), found in zip(CASES.items(), answered, strict=True)
        # An answer that comes while much is still being sent can be lost when the connection is closed.
        if found != ([status] if status else []) and (found or len(sent) < 65536)
    }
    assert not unexpected
    await is_well(hasty, scheme)


def execution(query: bytes) -> bytes:
    return b'{"deployedAppRid": "ri.one", "queryType": "f", "query": %b}' % query


#: What is sent as JSON, and what is wrong with it.
BODIES: dict[str, bytes] = {
    "arrays in arrays": b"[" * 100_000 + b"]" * 100_000,
    "objects in objects": b'{"a":' * 100_000,
    "just too deep": execution(b"[" * 200 + b"]" * 200),
    "a depth that can be read": execution(b"[" * 900 + b"]" * 900),
    "a key twice": b'{"queryType": "f", "queryType": "g"}',
    "NaN": execution(b"NaN"),
    "infinity": execution(b"-Infinity"),
    "a number out of range": execution(b"1e999"),
    "a whole number out of range": execution(b"9" * 5000),
    "half a character": execution(b'"\xe2\x82"'),
    "half a pair, not escaped": execution(b'"\xed\xa0\x80"'),
    "NUL": b"\0",
    "a byte order mark": b"\xef\xbb\xbf{}",
    "nothing": b"",
    "two values": b"{} {}",
    "an array": b"[]",
    "a string": b'"x"',
    "null": b"null",
    "fields of other types": b'{"runtimeId": [], "deployedAppRid": {}, "queryType": 1, "id": true, "kind": null}',
    "half a pair in every field": json.dumps(
        dict.fromkeys(("runtimeId", "deployedAppRid", "queryType", "id", "jobHandle", "kind"), "\ud800")
    ).encode(),
}


@pytest_twisted.ensureDeferred
async def test_json_that_is_none_is_refused_by_every_route_that_reads_it(harness: Harness) -> None:
    bearer, token = {"Authorization": "Bearer app-token"}, {"Module_Auth_Token": "token-one"}
    routes: list[tuple[str, str, dict[str, str]]] = [
        ("POST", RUNTIMES, {}),
        ("POST", f"{RUNTIMES}/one/jobs", token),
        ("POST", "/_emulate/foundry/compute-modules/faults", {}),
        ("POST", EXECUTE, bearer),
        ("POST", f"{CONTOUR}/deployed-apps/jobs", bearer),
        ("PUT", f"{CONTOUR}/jobs/status/v2", bearer),
        ("PUT", f"{CONTOUR}/jobs/result/v3", bearer),
        ("DELETE", f"{CONTOUR}/jobs", bearer),
        ("POST", f"{RUNTIMES}/one/schemas", token),
    ]
    for method, path, headers in routes:
        for case, body in BODIES.items():
            status, answer, _ = await harness.call(method, path, body, **headers)
            if path.endswith("/schemas") and case == "an array":
                assert (status, answer) == (200, {})
            else:
                assert (status, answer["error"]) == (400, "invalid_request"), (method, path, case, answer)


@pytest_twisted.ensureDeferred
async def test_the_deepest_query_and_half_a_pair_go_all_the_way(harness: Harness) -> None:
    # The first is handed to a parked poll from within its own submission, the deepest stack there is.
    poll = Deferred.fromCoroutine(harness.module("GET", "/job"))
    await harness.until(lambda: harness.work().parked_polls)
    for query in (b"[" * 198 + b"]" * 198, b'"\\ud800"', b"9" * 4000):
        body = execution(query)
        assert (await harness.call("POST", f"{CONTOUR}/deployed-apps/jobs", body, Authorization="Bearer app-token"))[
            0
        ] == 200
        status, envelope, _ = await poll
        assert (status, envelope["computeModuleJobV1"]["query"]) == (200, json.loads(query))
        assert (await harness.module("GET", f"/jobs/{envelope['computeModuleJobV1']['jobId']}"))[0] == 200
        poll = Deferred.fromCoroutine(harness.module("GET", "/job"))
    poll.cancel()
    await poll.addErrback(lambda failure: failure.trap(CancelledError, ResponseNeverReceived))


# Those who take for ever


SLOW: dict[str, tuple[bytes, bytes]] = {
    "nothing": (b"", b""),
    "half a request line": (b"GET ", b""),
    "half a head": (GET, b""),
    "a request line byte by byte": (b"GET /", b"x"),
    "a head byte by byte": (GET + b"X: ", b"x"),
    "one header after the other": (GET, b"A: b\r\n"),
    "half a body": (head("POST", EXECUTE, BEARER, "Content-Length: 1000") + b"\r\n{", b""),
    "a body byte by byte": (head("POST", EXECUTE, BEARER, "Content-Length: 1000") + b"\r\n", b" "),
    "chunks one after the other": (chunked(b""), b"1\r\n \r\n"),
    "a result without a token": (head("POST", f"{RUNTIMES}/one/results/x", CHUNKED) + b"\r\n", b"1\r\n \r\n"),
    "a result of no job": (
        head("POST", f"{RUNTIMES}/one/results/x", CHUNKED, "Module-Auth-Token: token-one") + b"\r\n",
        b"1\r\n \r\n",
    ),
    "a body that no route reads": (
        head("GET", f"{RUNTIMES}/one/job", "Content-Length: 1000", "Module-Auth-Token: token-one") + b"\r\n",
        b" ",
    ),
    "silence after an answer": (GET + b"\r\n", b""),
    "line ends after an answer": (GET + b"\r\n\r\n", b""),
}


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest_twisted.ensureDeferred
async def test_who_takes_for_ever_is_cut_off(hasty: Harness, scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("twisted_cm.server.transport.request.LINGER", 0.3)

    async def dropped(begun: bytes, more: bytes) -> None:
        wire = await connect(hasty, scheme)
        wire.transport.write(begun)
        dripping = LoopingCall(lambda: wire.transport.write(more))
        dripping.start(0.05)
        try:
            await wire.until_closed()
        finally:
            dripping.stop()

    await gatherResults([Deferred.fromCoroutine(dropped(*slow)) for slow in SLOW.values()])
    await hasty.until(lambda: not hasty.connections())
    await is_well(hasty, scheme)


@pytest_twisted.ensureDeferred
async def test_a_handshake_that_never_ends_is_cut_off(hasty: Harness) -> None:
    hello = bytes.fromhex("16030100c8010000c40303")
    for begun in (b"", hello):
        wire = await connect(hasty, port=1)
        wire.transport.write(begun)
        assert await wire.until_closed() == b""


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest_twisted.ensureDeferred
async def test_who_does_not_let_it_close_is_cut_off(hasty: Harness, scheme: str) -> None:
    (site,) = hasty.sites()
    wire = await connect(hasty, scheme)
    wire.transport.pauseProducing()
    wire.transport.write(head("GET", INFO, "Connection: close") + b"\r\n")
    await hasty.until(lambda: site.channels)
    await hasty.until(lambda: not site.channels)
    wire.transport.abortConnection()


@pytest.mark.parametrize(("scheme", "parting"), [("http", False), ("https", False), ("https", True)])
@pytest_twisted.ensureDeferred
async def test_who_does_not_take_its_answer_is_cut_off(hasty: Harness, scheme: str, parting: bool) -> None:
    job = await hasty.broker.enqueue("one", Submission("f", {}, JobSource.CONTOUR_ASYNC))
    result = ResultBody()
    result.write(b"x" * 30_000_000)
    await hasty.broker.complete(job.job_id, result)
    (site,) = hasty.sites()
    wire = await connect(hasty, scheme)
    wire.transport.write(
        head("GET", f"{CONTOUR}/jobs/{job.job_id}/result", "Authorization: Bearer app-token") + b"\r\n"
    )
    await wire.until(lambda: wire.received)
    wire.transport.pauseProducing()
    if parting:
        # The goodbye of TLS is sent, and what is on its way is not read any more.
        wire.transport.loseConnection()
    await hasty.until(lambda: not site.channels)
    assert not result.readers
    wire.transport.abortConnection()


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest_twisted.ensureDeferred
async def test_whoever_is_parked_is_not_cut_off(hasty: Harness, scheme: str) -> None:
    """A poll, a synchronous caller, and a result in the middle of streaming outlast every limit."""
    caller, other = await connect(hasty, scheme), await connect(hasty, scheme)
    body = execution(b"1")
    other.transport.write(head("GET", f"{RUNTIMES}/two/job", "Module-Auth-Token: token-two") + b"\r\n")
    caller.transport.write(POST + b"Content-Length: %d\r\n\r\n" % len(body) + body)
    await hasty.until(lambda: hasty.work().queued)
    await pause(0.8)
    poll = await connect(hasty, scheme)
    poll.transport.write(head("GET", f"{RUNTIMES}/one/job", "Module-Auth-Token: token-one") + b"\r\n")
    await poll.until(lambda: b"}}" in poll.received)
    (job_id,) = [job.job_id for job in hasty.jobs() if job.state is JobState.RUNNING]
    post = await connect(hasty, scheme)
    post.transport.write(
        head("POST", f"{RUNTIMES}/one/results/{job_id}", "Module-Auth-Token: token-one", CHUNKED) + b"\r\n1\r\na\r\n"
    )
    await caller.until(lambda: b"1\r\na\r\n" in caller.received)
    await pause(0.8)
    assert not caller.closed and not other.closed and not post.closed
    post.transport.write(b"1\r\nb\r\n0\r\n\r\n")
    await caller.until(lambda: caller.received.endswith(b"1\r\nb\r\n0\r\n\r\n"))
    await post.until(lambda: post.statuses == [204])
    assert hasty.work("two").parked_polls


# Requests in front of their answers


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest_twisted.ensureDeferred
async def test_pipelined_requests_are_answered_in_order(harness: Harness, scheme: str) -> None:
    wire = await connect(harness, scheme)
    body = execution(b"1")
    poll = head("GET", f"{RUNTIMES}/one/job", "Module-Auth-Token: token-one") + b"\r\n"
    submit = head("POST", f"{CONTOUR}/deployed-apps/jobs", BEARER, f"Content-Length: {len(body)}") + b"\r\n" + body
    nowhere = head("GET", "/nowhere") + b"\r\n"
    wire.transport.write(submit + poll + nowhere + poll + submit + GET + b"\r\n" + nowhere)
    await wire.until(lambda: len(wire.statuses) == 3)
    assert wire.statuses == [200, 200, 404]
    await harness.until(lambda: harness.work().parked_polls)
    assert (await harness.app("POST", "/deployed-apps/jobs", json.loads(body)))[0] == 200
    await wire.until(lambda: len(wire.statuses) == 7)
    assert wire.statuses == [200, 200, 404, 200, 200, 200, 404]
    wire.transport.write((GET + b"\r\n") * 3000)
    await wire.until(lambda: wire.received.count(b"HTTP/1.1 200 ") == 3005)


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest_twisted.ensureDeferred
async def test_a_flood_behind_a_parked_poll_ends_both(harness: Harness, scheme: str) -> None:
    """Kept whole it would fill the memory; left unread it would hide that the poller has gone."""
    wire = await connect(harness, scheme)
    wire.transport.write(head("GET", f"{RUNTIMES}/one/job", "Module-Auth-Token: token-one") + b"\r\n")
    await harness.until(lambda: harness.work().parked_polls)
    wire.transport.write((GET + b"\r\n") * 10_000)
    await wire.until_closed()
    await harness.until(lambda: not harness.work().parked_polls)
    await is_well(harness, scheme)


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest_twisted.ensureDeferred
async def test_a_flood_behind_an_unread_answer_waits(harness: Harness, scheme: str) -> None:
    _, handle, _ = await harness.app("POST", "/deployed-apps/jobs", json.loads(execution(b"1")))
    await serve_one(harness, b"x" * 30_000_000)
    (site,) = harness.sites()
    former = set(site.channels)
    wire = await connect(harness, scheme)
    wire.transport.pauseProducing()
    wire.transport.write(head("GET", f"{CONTOUR}/jobs/{handle['id']}/result", BEARER) + b"\r\n")
    (channel,) = await harness.until(lambda: site.channels - former)
    await harness.until(lambda: channel.held)
    wire.transport.write((GET + b"\r\n") * 100_000)
    await harness.until(lambda: channel.bytes_ahead)
    await pause(0.5)
    assert channel.bytes_ahead < 200_000
    wire.transport.abortConnection()
    await harness.until(lambda: channel not in site.channels)


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest_twisted.ensureDeferred
async def test_a_connection_is_free_again_after_a_large_envelope(harness: Harness, scheme: str) -> None:
    await harness.app("POST", "/deployed-apps/jobs", json.loads(execution(b'"' + b"x" * 5_000_000 + b'"')))
    (site,) = harness.sites()
    former = set(site.channels)
    wire = await connect(harness, scheme)
    wire.transport.write(head("GET", f"{RUNTIMES}/one/job", "Module-Auth-Token: token-one") + b"\r\n")
    await wire.until(lambda: wire.received.endswith(b"}}"))
    (channel,) = site.channels - former
    await harness.until(lambda: not channel.awaits_flush)
    assert not channel.held
    wire.transport.write(GET + b"\r\n")
    await wire.until(lambda: wire.received.count(b"HTTP/1.1 200 ") == 2)


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest_twisted.ensureDeferred
async def test_a_large_envelope_is_delivered_though_its_connection_is_being_closed(
    harness: Harness, scheme: str
) -> None:
    await harness.app("POST", "/deployed-apps/jobs", json.loads(execution(b'"' + b"x" * 5_000_000 + b'"')))
    (site,) = harness.sites()
    former = set(site.channels)
    wire = await connect(harness, scheme)
    (channel,) = site.channels - former
    wire.transport.pauseProducing()
    wire.transport.write(head("GET", f"{RUNTIMES}/one/job", "Module-Auth-Token: token-one") + b"\r\n")
    await harness.until(lambda: channel.awaits_flush)
    channel.loseConnection()
    wire.transport.resumeProducing()
    assert (await wire.until_closed()).endswith(b"}}")
    await harness.until(lambda: channel not in site.channels)
    assert [job.state for job in harness.jobs()] == [JobState.RUNNING]


@pytest_twisted.ensureDeferred
async def test_a_client_that_does_not_take_a_result_that_is_cut_is_cut_off(harness: Harness) -> None:
    harness.service.faults.add(FaultPlan(FaultKind.CUT_RESULT))
    (site,) = harness.sites()
    site.close_timeout = 0.2
    _, listener = harness.service._ports[0]
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", listener.getHost().port))
        (channel,) = await harness.until(lambda: site.channels)
        channel.transport.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        body = execution(b"1")
        client.sendall(head("POST", EXECUTE, BEARER, f"Content-Length: {len(body)}") + b"\r\n" + body)
        await harness.until(lambda: harness.work().queued)
        await serve_one(harness, b"x" * 120_000)
        assert channel.transport.dataBuffer
        assert channel in site.channels
        await harness.until(lambda: channel not in site.channels)


@pytest_twisted.ensureDeferred
async def test_pipelined_answers_are_whole_and_in_order_though_the_client_is_slow(harness: Harness) -> None:
    """Each is short; the first go to the socket at once, one of them in part, the others as it takes them."""
    ids = []
    for number in range(50):
        query = f'"{number} {"x" * 15_000}"'.encode()
        ids.append((await harness.app("POST", "/deployed-apps/jobs", json.loads(execution(query))))[1]["id"])
    (site,) = harness.sites()
    former = set(site.channels)
    wire = await connect(harness)
    (channel,) = site.channels - former
    channel.transport.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 40_000)
    wire.transport.pauseProducing()
    wire.transport.write(b"".join(head("GET", f"{RUNTIMES}/one/jobs/{each}") + b"\r\n" for each in ids))
    await harness.until(lambda: channel.transport.dataBuffer)
    wire.transport.resumeProducing()
    await wire.until(lambda: wire.received.count(b'"error_message"') == 50)
    assert re.findall(rb'"query":"(\d+) x{15000}"', wire.received) == [b"%d" % number for number in range(50)]


@pytest_twisted.ensureDeferred
async def test_who_is_being_closed_is_not_listened_to(harness: Harness) -> None:
    """Over TLS a client can go on to send after it was refused."""
    wire = await connect(harness, "https")
    wire.transport.pauseProducing()
    wire.transport.write(head("POST", RUNTIMES, "nonsense", "X: y"))
    (channel,) = await harness.until(lambda: harness.sites()[0].channels)
    await harness.until(lambda: channel.transport.disconnecting)
    body = b'{"runtimeId": "smuggled"}'
    for sent in (b"Content-Length: %d\r\n" % len(body), b"\r\n", body):
        wire.transport.write(sent)
        # What is written in another turn is another record, and delivered by itself.
        await pause(0)
    await is_well(harness, "https")
    wire.transport.resumeProducing()
    await wire.until_closed()
    _, runtimes, _ = await harness.call("GET", RUNTIMES, Authorization="Bearer app-token")
    assert "smuggled" not in json.dumps(runtimes)


# Every route


def routes() -> list[tuple[str, str, bool]]:
    """Method, rule, and whether it is a sidecar's, of all that is served."""
    context: Any = None
    return [
        (method, rule.rule, sidecar)
        for app, sidecar in ((emulator_app(context), False), (sidecar_app(context, "one"), True))
        for rule in app.url_map.iter_rules()
        for method in sorted((rule.methods or set()) - {"HEAD"})
    ]


TEXTS = st.text(max_size=20) | st.sampled_from(["", " ", "\0", "\ud800", "../..", "a/b", "%00", "\u202e", "x" * 5000])
NUMBERS = st.integers() | st.just(10**400) | st.floats()
SCALARS = st.none() | st.booleans() | NUMBERS | TEXTS
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4), max_leaves=15
)


def mostly(right: Any, other: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """What a route can do something with, three times out of four: behind a refusal nothing else is tried."""
    return st.integers(0, 3).flatmap(lambda chance: other if chance == 0 else st.just(right))


def json_object(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.integers(0, 3).flatmap(
        lambda chance: st.fixed_dictionaries({}, optional=fields) if chance == 0 else st.fixed_dictionaries(fields)
    )


JOB = mostly("QUEUED", st.sampled_from(["RUNNING", "ENDED", "x"]) | VALUES)
SUBMISSION = json_object(
    deployedAppRid=mostly("ri.one", VALUES),
    deployedAppBranch=mostly("master", VALUES),
    queryType=mostly("f", st.just("g") | VALUES),
    query=st.fixed_dictionaries({"number": NUMBERS, "day": mostly("2024-02-30", TEXTS)}) | VALUES,
)
REFERENCE = json_object(id=JOB, jobHandle=mostly(None, JOB.map(lambda job: json.dumps({"jobId": job})) | VALUES))
DATA_TYPE = st.recursive(
    st.sampled_from([{"type": "string"}, {"type": "date"}, {"type": "double"}, {"type": "none"}]) | VALUES,
    lambda inner: inner.map(lambda each: {"type": "list", "list": {"elementsType": each}}),
    max_leaves=4,
)
JSON_SCHEMA = json_object(
    **{
        "type": VALUES,
        "$ref": mostly("#", TEXTS),
        "$id": VALUES,
        "$schema": mostly("http://json-schema.org/draft-07/schema#", VALUES),
        "properties": VALUES,
        "pattern": TEXTS,
    }
)
SCHEMA = json_object(
    functionName=mostly("f", VALUES),
    inputs=mostly([], VALUES | st.lists(json_object(name=TEXTS, dataType=DATA_TYPE, required=VALUES), max_size=3)),
    output=mostly({"type": "single", "single": {"dataType": {"type": "string"}}}, DATA_TYPE),
)
#: The bodies that routes look for something in, by the end of their rules.
BODIES_OF: dict[str, st.SearchStrategy[Any]] = {
    "/runtimes": json_object(
        runtimeId=mostly("one", VALUES),
        deployedAppRid=mostly("ri.new", VALUES),
        branch=mostly("dev", VALUES),
        displayName=mostly("x", VALUES),
        keepBindings=mostly(True, VALUES),
    ),
    "/schemas": SCHEMA
    | st.lists(SCHEMA | json_object(name=mostly("g", TEXTS), schema=JSON_SCHEMA), max_size=3)
    | st.dictionaries(TEXTS, JSON_SCHEMA, max_size=3),
    "/faults": st.sampled_from([kind.value for kind in FaultKind]).flatmap(
        lambda kind: json_object(kind=mostly(kind, VALUES), probability=SCALARS, count=SCALARS, random_seed=SCALARS)
    ),
    "/execute": SUBMISSION,
    "/deployed-apps/jobs": SUBMISSION,
    "/<id:runtime_id>/jobs": SUBMISSION,
    "": REFERENCE,
}
FORM = st.fixed_dictionaries(
    {
        "grant_type": mostly("client_credentials", TEXTS),
        "client_id": mostly("app", TEXTS),
        "client_secret": mostly("secret", TEXTS),
        "token": TEXTS,
        "scope": TEXTS,
    }
)


def bodies(rule: str) -> st.SearchStrategy[bytes]:
    if "/oauth2/" in rule:
        right = FORM.map(lambda form: urlencode(form, errors="surrogatepass").encode())
    else:
        values = next(values for end, values in BODIES_OF.items() if rule.endswith(end))
        right = values.map(lambda value: json.dumps(value).encode())
    other = st.binary(max_size=200) | VALUES.map(lambda value: json.dumps(value).encode())
    return st.integers(0, 5).flatmap(lambda chance: other if chance == 0 else right)


IDS = st.sampled_from(["one", "x", "%00", "%2f..%2f", "%ff", "%ed%a0%80", "%", "."]) | TEXTS.map(
    lambda text: quote(text.encode("utf-8", "surrogatepass"), safe="") or "x"
)
RIGHT_IDS = {
    "runtime_id": mostly("one", st.just("two") | IDS),
    "job_id": JOB.map(lambda job: quote(str(job).encode("utf-8", "surrogatepass"), safe="") or "x"),
    "rid": mostly("ri.one", IDS),
    "branch": mostly("master", IDS),
    "fault_id": mostly("FAULT", IDS),
    "name": mostly("style.css", IDS),
}
HEADER_BYTES = st.binary(max_size=40).map(lambda value: value.translate(None, b"\r\n\0"))
FORM_TYPE = (b"Content-Type", b"application/x-www-form-urlencoded")
TOKENS = mostly(
    [(b"Authorization", b"Bearer app-token"), (b"Module-Auth-Token", b"token-one")],
    st.sampled_from(
        [
            [],
            [(b"Module-Auth-Token", b"token-one")],
            [(b"Authorization", b"Bearer app-token")],
            [(b"Authorization", b"bearer \xff"), (b"Module-Auth-Token", b"\xf0\x9f")],
            [(b"Authorization", b"Bearer \xc3\xa9"), (b"Module-Auth-Token", b"token-two")],
        ]
    ),
)
BASIC = mostly(
    [], st.sampled_from([[(b"Authorization", b"Basic " + each)] for each in (b"YXBwOnM=", b"\xff", b"/w==")])
)
HEADERS = st.lists(
    st.tuples(
        st.sampled_from(
            [
                b"Authorization",
                b"Module-Auth-Token",
                b"Content-Type",
                b"Prefer",
                b"Origin",
                b"Sec-Fetch-Site",
                b"Cookie",
                b"Accept",
                b"If-None-Match",
                b"Range",
                b"X-Forwarded-Host",
                b"Upgrade",
            ]
        ),
        HEADER_BYTES,
    ),
    max_size=2,
)


@pytest.fixture(scope="module")
def fuzzed(state_dir: Path) -> Iterator[Harness]:
    """An emulator that parks nobody and checks every query."""
    seed = SEED.replace("foundry:\n", "foundry:\n  oauth_clients: [{client_id: app, client_secret: secret}]\n")
    made = make_harness(
        seed.replace("compute_modules:\n", "compute_modules:\n    validate_queries: true\n"),
        certificate=local_certificate(state_dir, "127.0.0.1"),
        limits=Limits(poll_timeout=0.005, sync_timeout=0.005),
        sidecars=(Sidecar("one", 0, 0),),
    )
    for site in made.sites():
        site.head_timeout = site.body_timeout = 2
    yield made
    pytest_twisted.blockon(made.pool.closeCachedConnections())
    pytest_twisted.blockon(made.service.stopService())


@frozen
class Sent:
    """One request to a route."""

    target: bytes
    headers: list[tuple[bytes, bytes]]
    framing: str
    body: bytes


@st.composite
def requests(draw: st.DrawFn, rule: str) -> Sent:
    query = draw(mostly(b"?rid=ri.one", st.sampled_from([b"", b"?rid=%ff", b"?&&=&a&a", b"?" + b"%00" * 500])))
    path = re.sub("<id:([a-z_]+)>", lambda match: draw(RIGHT_IDS[match[1]]), rule)
    tokens = [FORM_TYPE, *draw(BASIC)] if "/oauth2/" in rule else draw(TOKENS)
    framing = draw(mostly("length", st.sampled_from(["chunks", "none"])))
    return Sent(path.encode() + query, tokens + draw(mostly([], HEADERS)), framing, draw(bodies(rule)))


SCHEMA_OF_F = {"f": {"properties": {"number": {"multipleOf": 0.1, "maximum": 1e300}, "day": {"format": "date"}}}}


async def exchange(harness: Harness, method: str, sent: Sent, listener: int) -> tuple[list[int], bytes]:
    """Send one request to an emulator that has one of everything."""
    broker = harness.broker
    await harness.service.reset()
    await broker.put_schemas("one", parse_function_schemas(SCHEMA_OF_F))
    names = {b"FAULT": (await harness.service.faults.add(FaultPlan(FaultKind.DROP_JOB, "two"))).fault_id.encode()}
    for state in (b"ENDED", b"RUNNING", b"QUEUED"):
        job = await broker.enqueue("one", Submission("f", {}, JobSource.CONTOUR_ASYNC))
        names[state] = job.job_id.encode()
        if state != b"QUEUED":
            await broker.poll("one", 0)
        if state == b"ENDED":
            await broker.complete(job.job_id, ResultBody())

    def named(content: bytes) -> bytes:
        for name, value in names.items():
            content = content.replace(name, value)
        return content

    wire = await connect(harness, port=listener)
    head = [method.encode() + b" " + named(sent.target) + b" HTTP/1.1", b"Host: localhost"]
    head += [name + b": " + value for name, value in sent.headers]
    body = named(sent.body)
    if sent.framing == "length":
        head.append(b"Content-Length: %d" % len(body))
    elif sent.framing == "chunks":
        head.append(b"Transfer-Encoding: chunked")
        body = (b"%x\r\n%b\r\n" % (len(body), body) if body else b"") + b"0\r\n\r\n"
    else:
        body = b""
    wire.transport.write(b"\r\n".join([*head, b"Connection: close", b"", b""]) + body)
    # A stream of events has no end.
    await wire.until(lambda: wire.closed or b": connected" in wire.received, 5)
    wire.transport.abortConnection()
    await is_well(harness)
    return wire.statuses, wire.received


@pytest.mark.parametrize(("method", "rule", "sidecar"), routes())
@pytest_twisted.ensureDeferred
async def test_nothing_that_is_sent_to_a_route_makes_it_fail(
    fuzzed: Harness, method: str, rule: str, sidecar: bool
) -> None:
    @settings(max_examples=20, deadline=None, derandomize=True, database=None)
    @given(requests(rule))
    def run(sent: Sent) -> None:
        statuses, received = blockingCallFromThread(
            reactor, lambda: Deferred.fromCoroutine(exchange(fuzzed, method, sent, 2 if sidecar else 0))
        )
        assert len(statuses) == 1, received
        # Nobody serves the one job that may be waited for.
        late = rule.endswith("/execute") and b'"error": "job_timeout"' in received
        assert statuses[0] < 500 or late, received

    await deferToThread(run)


# What is left of it all


@pytest_twisted.ensureDeferred
async def test_nothing_is_left_of_thousands_of_hostile_requests(harness: Harness) -> None:
    """Connections, parked parties and jobs are all gone, and the memory is as before."""
    process = psutil.Process()
    (site,) = harness.sites()
    poll = head("GET", f"{RUNTIMES}/one/job", "Module-Auth-Token: token-one") + b"\r\n"
    body = execution(b'"' + b"x" * 10_000 + b'"')
    body = body.replace(b"ri.one", b"ri.two")
    call = POST + b"Content-Length: %d\r\n\r\n" % len(body) + body
    huge = POST + b"Content-Length: 1000000\r\n\r\n" + b"[" * 100_000
    kinds = [poll, call, huge, poll + GET * 50, poll + (GET + b"\r\n") * 200, *(sent for sent, _ in CASES.values())]

    async def round_of_them() -> None:
        for _ in range(3):
            for scheme in ("http", "https"):
                wires = await gatherResults(Deferred.fromCoroutine(connect(harness, scheme)) for _ in kinds)
                for wire, sent in zip(wires, kinds, strict=True):
                    wire.transport.write(sent)
                await harness.until(lambda: harness.work().parked_polls or not site.channels)
                for wire in wires:
                    if not wire.closed:
                        wire.transport.abortConnection()
                await harness.until(lambda: not site.channels)
        load = harness.load()
        assert (load.parked_polls, load.queued, load.parked_callers) == (0, 0, 0)
        await harness.service.reset()
        assert not harness.jobs()
        gc.collect()

    await round_of_them()
    await round_of_them()
    before = process.memory_info().rss
    for _ in range(3):
        await round_of_them()
    assert process.memory_info().rss - before < 16 * 1024 * 1024
    await is_well(harness)
