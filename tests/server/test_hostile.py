"""That bytes that are not HTTP, bad JSON and slow clients make the emulator neither fail nor hang nor grow."""

from __future__ import annotations

import gc
import json

import psutil
import pytest
import pytest_twisted
from conftest import CONTOUR, RUNTIMES, Harness, pause
from twisted.internet.defer import CancelledError, Deferred, DeferredSemaphore, gatherResults
from twisted.internet.task import LoopingCall
from twisted.web.client import ResponseNeverReceived
from wire import BEARER, CHUNKED, EXECUTE, GET, INFO, POST, chunked, connect, execution, head, is_well

from twisted_cm.broker.results import ResultBody
from twisted_cm.model.jobs import JobSource, JobState, Submission

#: What is sent, and the status of the only answer; 0 where the connection is closed without one.
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
    "a folded header": (GET + b"X: a\r\n b\r\n\r\n", 400),
    "a folded first header": (b"GET / HTTP/1.1\r\n Host: localhost\r\n\r\n", 400),
    "a folded length": (POST + b"Content-Length:\r\n 2\r\n\r\n{}", 400),
    "line ends without CR": (f"GET {INFO} HTTP/1.1\nHost: localhost\n\n".encode(), 400),
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
    "a length of a hundred digits": (POST + b"Content-Length: " + b"9" * 100 + b"\r\n\r\n{}", 400),
    "a chunk size that is none": (chunked(b"x\r\n"), 400),
    "a negative chunk size": (chunked(b"-1\r\n{}\r\n0\r\n\r\n"), 400),
    "a chunk size with a prefix": (chunked(b"0x2\r\n{}\r\n0\r\n\r\n"), 400),
    "a huge chunk size": (chunked(b"f" * 1000 + b"\r\n" + b"x" * 100), 400),
    "an endless chunk size": (chunked(b"0" * 100_000), 400),
    "a chunk without its end": (chunked(b"2\r\n{}0\r\n\r\n"), 400),
    "a huge chunk extension": (chunked(b"2;" + b"x" * 1048576 + b"\r\n{}\r\n0\r\n\r\n"), 400),
    "a chunk extension with a line feed": (chunked(b"2;a\nb\r\n{}\r\n0\r\n\r\n"), 400),
    "trailers of a megabyte": (chunked(b"2\r\n{}\r\n0\r\n" + b"X: y\r\n" * 180_000 + b"\r\n"), 400),
    "one trailer of a megabyte": (chunked(b"2\r\n{}\r\n0\r\nX: " + b"y" * 1048576 + b"\r\n\r\n"), 400),
    "a bad chunk after an answer": (head("POST", EXECUTE, CHUNKED) + b"\r\nx\r\n", 401),
    "an absolute URI": (f"GET http://localhost{INFO} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode(), 200),
    "an absolute URI elsewhere": (b"GET http://example.com/ HTTP/1.1\r\nHost: localhost\r\n\r\n", 403),
    "an absolute URI of another scheme": (b"GET ftp://localhost/ HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
    "an absolute URI without a host": (b"GET http:///x HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
    "an absolute URI and no Host": (b"GET http://localhost/x HTTP/1.1\r\n\r\n", 400),
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
    "HTTP/0.9": (b"GET /\r\n\r\n", 400),
    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0", 400),
    "HTTP/9": (b"GET / HTTP/9.9\r\nHost: localhost\r\n\r\n", 400),
    "no version": (b"GET / \r\n\r\n", 400),
    "spaces": (b"GET  /  HTTP/1.1\r\n\r\n", 400),
    "a method that is no token": (b"G(T / HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
    "a method nobody knows": (head("BREW") + b"\r\n", 400),
    "a method in small letters": (head("get") + b"\r\n", 400),
    "a TLS client hello": (bytes.fromhex("16030100c8010000c40303") + bytes(189), 400),
    "zeros": (bytes(100_000), 400),
    "line ends": (b"\r\n" * 100_000, 400),
    "random bytes": (bytes(range(256)) * 100 + b"\r\n\r\n", 400),
}


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest_twisted.ensureDeferred
async def test_bytes_that_are_no_request_are_refused(hasty: Harness, scheme: str) -> None:
    # More at once could take longer than the time limits.
    some = DeferredSemaphore(4 if scheme == "http" else 2)

    async def statuses(sent: bytes) -> list[int]:
        # On a busy machine, a TLS handshake alone can take longer than the time limits.
        for _ in range(3 if scheme == "https" else 1):
            wire = await connect(hasty, scheme)
            wire.transport.write(sent)
            await wire.until_closed()
            if wire.statuses:
                break
        return wire.statuses

    answered = await gatherResults(
        [some.run(lambda sent: Deferred.fromCoroutine(statuses(sent)), sent) for sent, _ in CASES.values()]
    )
    unexpected = {
        case: found
        for (case, (sent, status)), found in zip(CASES.items(), answered, strict=True)
        # An answer that comes while much is still being sent can be lost when the connection is closed.
        if found != ([status] if status else []) and (found or len(sent) < 65536)
    }
    assert not unexpected
    await is_well(hasty, scheme)


#: What is sent as JSON, by what is wrong with it.
BODIES: dict[str, bytes] = {
    "arrays in arrays": b"[" * 100_000 + b"]" * 100_000,
    "objects in objects": b'{"a":' * 100_000,
    "just too deep": execution(b"[" * 200 + b"]" * 200),
    "a depth that can be read": execution(b"[" * 900 + b"]" * 900),
    "a key twice": b'{"queryType": "f", "queryType": "g"}',
    "NaN": execution(b"NaN"),
    "infinity": execution(b"-Infinity"),
    "half a character": execution(b'"\xe2\x82"'),
    "half a pair, not escaped": execution(b'"\xed\xa0\x80"'),
    "a number that is cut off": execution(b"1."),
    "an escape that is none": execution(b'"\\x"'),
    "a trailing comma": execution(b"[1,]"),
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


#: What routes refuse that read all of a body, and those pass that take a query as it is.
UNREADABLE = {
    "a number out of range": execution(b"1e999"),
    "a whole number out of range": execution(b"9" * 5000),
    "a key twice inside": execution(b'{"a": 1, "a": 2}'),
}


@pytest_twisted.ensureDeferred
async def test_numbers_and_keys_that_nobody_can_keep_are_refused_outside_of_queries(harness: Harness) -> None:
    for case, body in UNREADABLE.items():
        status, answer, _ = await harness.call("POST", RUNTIMES, body)
        assert (status, answer["error"]) == (400, "invalid_request"), (case, answer)
        sent = await harness.call("POST", f"{CONTOUR}/deployed-apps/jobs", body, Authorization="Bearer app-token")
        assert sent[0] == 200, (case, sent)


@pytest_twisted.ensureDeferred
async def test_the_deepest_query_and_half_a_pair_go_all_the_way(harness: Harness) -> None:
    # Submitting the first job answers the parked poll from within, which makes the deepest stack.
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


# Slow clients


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
        wire = await connect(hasty, "https", handshake=False)
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
    job = await hasty.broker.enqueue("one", Submission("f", b"{}", JobSource.CONTOUR_ASYNC))
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
        # The client sends the close alert of TLS and does not read the rest.
        wire.transport.loseConnection()
    await hasty.until(lambda: not site.channels)
    assert not result.readers
    wire.transport.abortConnection()


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest_twisted.ensureDeferred
async def test_whoever_is_parked_is_not_cut_off(hasty: Harness, scheme: str) -> None:
    """A poll, a synchronous caller and the post of a streamed result outlast every limit."""
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


# What remains


@pytest.mark.long
@pytest_twisted.ensureDeferred
async def test_nothing_is_left_of_thousands_of_hostile_requests(harness: Harness) -> None:
    """No connection, parked request or job remains, and the memory does not grow."""
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
