"""What HTTP itself asks of a server: targets, HEAD, 100 Continue and reason phrases."""

from __future__ import annotations

import json

import pytest
import pytest_twisted
from conftest import CONTOUR, RUNTIMES, SEED, Harness, make_harness, raw, receive_until
from twisted.internet.threads import deferToThread

INFO = "/_emulate/foundry/compute-modules/info"
EXECUTE = f"{CONTOUR}/compute-modules/jobs/execute"


async def exchange(harness: Harness, request: str, end: bytes | None = b"\r\n\r\n") -> bytes:
    """Send a request on a connection of its own, and return what arrives up to ``end``."""
    client = await deferToThread(raw, harness, request)
    received = await receive_until(client, end)
    client.close()
    return received


@pytest_twisted.ensureDeferred
async def test_an_absolute_target_names_the_host(harness: Harness) -> None:
    session = json.dumps({"runtimeId": "new"})
    request = (
        f"POST http://127.0.0.1:4711{RUNTIMES} HTTP/1.1\r\nHost: ignored.example\r\nConnection: close\r\n"
        f"Content-Length: {len(session)}\r\n\r\n{session}"
    )
    head, _, body = (await exchange(harness, request, None)).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert json.loads(body)["getJobUri"] == f"http://127.0.0.1:4711{RUNTIMES}/new/job"


@pytest.mark.parametrize("path", [INFO, "/healthz", "/readyz", "/metrics", "/openapi.json", RUNTIMES])
@pytest_twisted.ensureDeferred
async def test_head_answers_like_get_without_the_body(harness: Harness, path: str) -> None:
    answers = []
    for method in ("GET", "HEAD"):
        request = (
            f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer app-token\r\n"
            "Connection: close\r\n\r\n"
        )
        head, _, body = (await exchange(harness, request, None)).partition(b"\r\n\r\n")
        answers.append((head.split(b"\r\n")[0], body))
    assert answers[0][0] == answers[1][0] == b"HTTP/1.1 200 OK"
    assert answers[0][1]
    assert answers[1][1] == b""


@pytest_twisted.ensureDeferred
async def test_head_of_the_stream_of_events_ends(harness: Harness) -> None:
    path = "/_emulate/foundry/compute-modules/events"
    status, content, headers = await harness.call("HEAD", path, Authorization="Bearer app-token")
    assert (status, content) == (200, b"")
    assert headers.getRawHeaders("Content-Type") == ["text/event-stream"]


@pytest_twisted.ensureDeferred
async def test_head_takes_no_job(harness: Harness) -> None:
    caller = harness.execute()
    await harness.until(lambda: harness.work().queued)
    assert (await harness.module("HEAD", "/job"))[0] == 405
    assert harness.work().queued == 1
    caller.cancel()
    caller.addErrback(lambda _: None)


def expecting(size: int, authorization: str = "Bearer app-token") -> str:
    return (
        f"POST {EXECUTE} HTTP/1.1\r\nHost: localhost\r\nAuthorization: {authorization}\r\n"
        f"Expect: 100-continue\r\nContent-Length: {size}\r\n\r\n"
    )


@pytest_twisted.ensureDeferred
async def test_a_body_is_asked_for_only_if_it_will_be_read(harness: Harness) -> None:
    refused = await exchange(harness, expecting(10, "Bearer wrong"), b"}")
    assert refused.startswith(b"HTTP/1.1 401 ")
    assert b"\r\nConnection: close\r\n" in refused
    limited = make_harness(SEED, limits=harness.service.settings.limits)
    try:
        too_large = await exchange(limited, expecting(10**12), b"}")
        assert too_large.startswith(b"HTTP/1.1 413 ")
    finally:
        await limited.pool.closeCachedConnections()
        await limited.service.stopService()


@pytest_twisted.ensureDeferred
async def test_a_body_that_will_be_read_is_asked_for_once(harness: Harness) -> None:
    body = b'{"deployedAppRid": "ri.none", "queryType": "f"}'
    client = await deferToThread(raw, harness, expecting(len(body)))
    assert await receive_until(client, b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    client.setblocking(True)
    client.sendall(body)
    assert (await receive_until(client, b"}")).startswith(b"HTTP/1.1 404 Not Found\r\n")
    # The connection goes on.
    client.setblocking(True)
    client.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert (await receive_until(client, b"ok\n")).startswith(b"HTTP/1.1 200 OK\r\n")
    client.close()


@pytest_twisted.ensureDeferred
async def test_a_client_that_does_not_wait_is_not_asked(harness: Harness) -> None:
    body = '{"deployedAppRid": "ri.none", "queryType": "f"}'
    answer = await exchange(harness, expecting(len(body)) + body, b"}")
    assert answer.startswith(b"HTTP/1.1 404 ") or answer.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 404 ")


@pytest_twisted.ensureDeferred
async def test_an_old_client_gets_no_100(harness: Harness) -> None:
    body = '{"deployedAppRid": "ri.none", "queryType": "f"}'
    request = expecting(len(body)).replace("HTTP/1.1", "HTTP/1.0")
    client = await deferToThread(raw, harness, request)
    client.sendall(body.encode())
    assert (await receive_until(client, b"}")).split(b" ")[1] == b"404"
    client.close()


@pytest_twisted.ensureDeferred
async def test_429_has_its_reason_phrase() -> None:
    harness = make_harness(SEED.replace("poll_timeout: 30\n", "poll_timeout: 30\n    queue_depth: 1\n"))
    try:
        body = '{"deployedAppRid": "ri.one", "queryType": "f"}'
        request = (
            f"POST {CONTOUR}/deployed-apps/jobs HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer app-token\r\n"
            f"Content-Length: {len(body)}\r\n\r\n{body}"
        )
        assert (await exchange(harness, request, b"}}")).startswith(b"HTTP/1.1 200 OK\r\n")
        assert (await exchange(harness, request, b"}}")).startswith(b"HTTP/1.1 429 Too Many Requests\r\n")
    finally:
        await harness.pool.closeCachedConnections()
        await harness.service.stopService()
