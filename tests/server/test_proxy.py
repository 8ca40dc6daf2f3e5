"""Requests that are passed on to the servers that the seed names."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
import trustme
from conftest import RUNTIMES, Harness, free_port, make_harness, pause, raw, receive_until
from server.proxy_target import OK, Target, passing, proxy_seed
from twisted.internet.defer import Deferred

from twisted_cm.config.seed import parse_seed
from twisted_cm.config.tls import local_certificate, user_certificate
from twisted_cm.model.paths import OWN_SEGMENTS
from twisted_cm.server.passing import patience


async def exchange(harness: Harness, request: str) -> tuple[bytes, bytes]:
    """Send a request as it is, but with ``Connection: close``; return the head and the body of the answer."""
    head, _, body = request.partition("\r\n\r\n")
    close = "" if "\r\nConnection: " in head else "\r\nConnection: close"
    client = raw(harness, f"{head}{close}\r\n\r\n{body}")
    answer = await receive_until(client, None)
    client.close()
    top, _, content = answer.partition(b"\r\n\r\n")
    return top, content


def status_of(head: bytes) -> int:
    return int(head.split(b" ")[1])


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND"])
@pytest_twisted.ensureDeferred
async def test_a_request_goes_to_the_same_path_at_the_server(method: str) -> None:
    async with Target() as target, passing({"/stream-proxy": f"{target.url}/base/"}) as harness:
        path = "/stream-proxy/a%2Fb//c;d/?q=%20&r"
        status, content, _ = await harness.call(method, path, b"body" if method == "POST" else None)
        assert (status, content) == (200, b"ok")
        assert target.last.line == f"{method} /base{path} HTTP/1.1"
        assert target.last.headers["host"] == [target.host]
        assert target.last.body == (b"body" if method == "POST" else b"")
        assert (await harness.call(method, "/stream-proxy"))[0] == 200
        assert target.last.line == f"{method} /base/stream-proxy HTTP/1.1"
        assert (await harness.call(method, "/stream-proxy/"))[0] == 200
        assert (await harness.call(method, "/stream-proxy-2/a"))[0] == 404
        assert (await harness.call(method, "/stream"))[0] == 404
        assert len(target.connections) == 3


@pytest_twisted.ensureDeferred
async def test_the_longest_prefix_counts() -> None:
    async with Target() as one, Target() as two, passing({"/a": one.url, "/a/b": two.url}) as harness:
        for path in ("/a/bc", "/a/b/c", "/a/b", "/a/c"):
            assert (await harness.call("GET", path))[0] == 200
        assert [each.line.split(" ")[1] for each in one.connections] == ["/a/bc", "/a/c"]
        assert [each.line.split(" ")[1] for each in two.connections] == ["/a/b/c", "/a/b"]


@pytest.mark.parametrize("all_headers", [False, True])
@pytest_twisted.ensureDeferred
async def test_credentials_are_passed_on_only_if_the_seed_says_so(all_headers: bool) -> None:
    answer = (
        b"HTTP/1.1 207 Many\r\nContent-Type: text/x\r\nX-One: 1\r\nX-One: 2\r\nSet-Cookie: a=b\r\n"
        b"Keep-Alive: timeout=5\r\nProxy-Authenticate: Basic\r\nAccess-Control-Allow-Origin: *\r\nUpgrade: h2c\r\n"
        b"Content-Length: 3\r\n\r\nyes"
    )
    async with (
        Target(answer) as target,
        passing({"/x": {"url": target.url, "all_headers": all_headers}}) as harness,
    ):
        head, body = await exchange(
            harness,
            "POST /x HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer app-token\r\nCookie: c=d\r\n"
            "Module-Auth-Token: t\r\nX-Other: o\r\nAccept: text/x\r\nAccept-Encoding: br\r\n"
            "Content-Type: text/y\r\nUser-Agent: me\r\nRange: bytes=0-1\r\nIf-None-Match: e\r\nTE: trailers\r\n"
            "Keep-Alive: 5\r\nProxy-Authorization: Basic x\r\nUpgrade: websocket\r\nX-Hop: h\r\nVia: 1.0 fred\r\n"
            "Connection: X-Hop, close\r\nContent-Length: 4\r\n\r\nbody",
        )
    assert body == b"yes"
    sent = target.last.headers
    harmless = {"accept", "accept-encoding", "content-type", "user-agent", "range", "if-none-match"}
    written = {"host", "content-length", "connection", "via"}
    personal = {"authorization", "cookie", "module-auth-token", "x-other"}
    assert set(sent) == harmless | written | (personal if all_headers else set())
    assert (sent["accept-encoding"], sent["content-length"], sent["connection"]) == (["br"], ["4"], ["close"])
    assert sent["via"][0] == "1.0 fred"
    assert re.fullmatch(r"1\.1 twisted-cm-[0-9a-f]{16}", sent["via"][1])
    lines = head.split(b"\r\n")
    assert lines[0] == b"HTTP/1.1 207 Many"
    assert [each for each in lines if each.startswith(b"X-One")] == [b"X-One: 1", b"X-One: 2"]
    assert (b"Set-Cookie: a=b" in lines) is all_headers
    assert b"Content-Type: text/x" in lines
    for name in (b"Keep-Alive", b"Proxy-Authenticate", b"Access-Control-Allow-Origin", b"Upgrade"):
        assert name.lower() not in head.lower()


@pytest_twisted.ensureDeferred
async def test_headers_that_an_answer_names_for_its_connection_are_dropped() -> None:
    answer = OK.replace(
        b"Content-Length",
        b"X-Hop: h\r\n folded\r\nX-Kept: k\r\nconnection: close, X-HOP ,Content-Length\r\nX-Other: h\r\n"
        b"Connection: X-Other\r\nContent-Length",
    )
    answer = b"HTTP/1.1 103 Hints\r\nConnection: X-Kept\r\n\r\n" + answer
    async with Target(b"") as target, passing({"/x": target.url}) as harness:
        for count, size in enumerate((1, 7, len(answer)), 1):
            asking = Deferred.fromCoroutine(harness.call("GET", "/x"))
            await harness.until(lambda count=count: len(target.connections) == count and target.last.received)
            for start in range(0, len(answer), size):
                target.last.transport.write(answer[start : start + size])
                await pause(0)
            _, content, headers = await asking
            assert content == b"ok"
            assert {name for name, _ in headers.getAllRawHeaders()} - {b"Content-Encoding"} == {b"X-Kept", b"Date"}


@pytest.mark.parametrize(
    ("answer", "method", "status", "content"),
    [
        (b"HTTP/1.1 204 None\r\nX-One: 1\r\n\r\n", "GET", 204, b""),
        (b"HTTP/1.1 304 Same\r\nETag: e\r\n\r\n", "GET", 304, b""),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n", "HEAD", 200, b""),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", "GET", 200, b""),
        (b"HTTP/1.1 100 Continue\r\n\r\n" + OK, "GET", 200, b"ok"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", "GET", 200, b"ok"),
        (b"HTTP/1.1 302 Go\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 2\r\n\r\nok", "GET", 302, b"ok"),
        (b"HTTP/1.1 503 Out\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\nok", "GET", 503, b"ok"),
        (b"HTTP/1.1 999 Odd\r\nContent-Length: 2\r\n\r\nok", "GET", 999, b"ok"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_an_answer_is_passed_back_as_it_is(answer: bytes, method: str, status: int, content: bytes) -> None:
    async with Target(answer) as target, passing({"/x": target.url}) as harness:
        head, body = await exchange(harness, f"{method} /x HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert status_of(head) == status
        if b"chunked" in answer:
            assert body == b"2\r\nok\r\n0\r\n\r\n"
        else:
            assert body == content
        for line in answer.rpartition(b"HTTP/1.1")[2].partition(b"\r\n\r\n")[0].split(b"\r\n")[1:]:
            assert line in head
        # Twisted would add a type of its own.
        assert b"Content-Type" not in head
        assert len(target.connections) == 1


@pytest_twisted.ensureDeferred
async def test_an_answer_without_length_ends_with_its_connection() -> None:
    async with Target(b"HTTP/1.0 200 OK\r\n\r\n") as target, passing({"/x": target.url}) as harness:
        answer = Deferred.fromCoroutine(harness.call("GET", "/x"))
        await harness.until(lambda: target.connections and target.last.received)
        target.last.transport.write(b"all of it")
        target.last.transport.loseConnection()
        assert (await answer)[1] == b"all of it"


# Where requests may not go


@pytest.mark.parametrize(
    "path",
    [
        "/x/../y",
        "/x/..",
        "/x/%2e%2e/y",
        "/x/.%2E",
        "/x/a/..%2fy",
        "/x/%2e%2e%5cy",
        "/x/..\\y",
        "/x/%252e%252e/y",
        "/x/..;a/y",
        "/x/a#b",
    ],
)
@pytest_twisted.ensureDeferred
async def test_no_path_leaves_its_prefix(path: str) -> None:
    async with Target() as target, passing({"/x": target.url}) as harness:
        head, body = await exchange(harness, f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert status_of(head) == 400, body
        assert b'"invalid_request"' in body
        assert target.connections == []


@pytest_twisted.ensureDeferred
async def test_neither_target_nor_host_changes_where_a_request_goes() -> None:
    async with Target() as target, Target() as other, passing({"/x": target.url}) as harness:
        head, _ = await exchange(harness, f"GET {other.url}/x/a?b HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert status_of(head) == 200
        assert target.last.line == "GET /x/a?b HTTP/1.1"
        head, _ = await exchange(harness, f"GET /x HTTP/1.1\r\nHost: {other.host}\r\n\r\n")
        assert status_of(head) == 200
        assert target.last.headers["host"] == [target.host]
        for line, host, status in (
            ("GET http://evil.example/x", "localhost", 403),
            ("GET /x", "evil.example", 403),
            (f"GET /x@{other.host}/", "localhost", 404),
            ("GET //x", "localhost", 404),
            ("G(T /x", "localhost", 400),
            ("GET /x/\x7f", "localhost", 400),
        ):
            head, body = await exchange(harness, f"{line} HTTP/1.1\r\nHost: {host}\r\n\r\n")
            assert status_of(head) == status, (line, body)
        assert (len(target.connections), len(other.connections)) == (2, 0)


@pytest_twisted.ensureDeferred
async def test_a_web_page_of_another_site_may_not_send_through_it() -> None:
    async with Target() as target, passing({"/x": target.url}) as harness:
        answer = await harness.call("POST", "/x", b"", Origin="https://evil.example")
        assert (answer[0], answer[1]["error"]) == (403, "forbidden")
        assert target.connections == []


@pytest_twisted.ensureDeferred
async def test_beyond_loopback_a_caller_needs_a_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("twisted_cm.service.is_loopback", lambda interface: False)
    async with Target() as target, passing({"/x": target.url}, admin_token="boss") as harness:
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Module_Auth_Token": "token-one"}):
            answer = await harness.call("GET", "/x", **headers)
            assert (answer[0], answer[1]["error"]) == (401, "invalid_token")
        assert target.connections == []
        await harness.call("POST", f"{RUNTIMES}/one/jobs", {"queryType": "f"}, Authorization="Bearer app-token")
        job = (await harness.module("GET", "/job"))[1]["computeModuleJobV1"]
        for token in ("Bearer app-token", "Bearer boss", job["authHeader"]):
            assert (await harness.call("GET", "/x", Authorization=token))[0] == 200
            assert "authorization" not in target.last.headers


@pytest_twisted.ensureDeferred
async def test_a_request_that_comes_back_is_refused() -> None:
    port = free_port()
    async with passing({"/x": f"http://127.0.0.1:{port}"}, port=port) as harness:
        status, answer, _ = await harness.call("GET", "/x/a")
        assert (status, answer["error"], answer["parameters"]) == (508, "loop_detected", {"prefix": "/x"})
    # Two emulators that name each other are found out, too; one that names the other is none of that.
    other = free_port()
    seed = {"/x": f"http://127.0.0.1:{other}"}
    async with passing(seed, port=port) as one, Target() as target:
        async with passing({"/x": f"http://127.0.0.1:{port}"}, port=other):
            assert (await one.call("GET", "/x"))[0] == 508
        async with passing({"/x": target.url}, port=other):
            assert (await one.call("GET", "/x"))[:2] == (200, b"ok")
            assert len(target.last.headers["via"]) == 2


# What may fail


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (b"closes", "closed the connection before it answered"),
        (b"HTTP/1.1 200 OK\r\nContent-", "closed the connection before it answered"),
        (b"SSH-2.0-hush\r\n\r\n", "closed the connection before it answered"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_a_server_that_does_not_answer_in_http(answer: bytes, says: str) -> None:
    async with Target(b"" if answer == b"closes" else answer) as target, passing({"/x": target.url}) as harness:
        asking = Deferred.fromCoroutine(harness.call("GET", "/x"))
        await harness.until(lambda: target.connections and target.last.received)
        target.last.transport.loseConnection()
        _is_bad_gateway(await asking, says)


def _is_bad_gateway(answer: tuple[int, Any, Any], says: str) -> None:
    status, body, _ = answer
    assert (status, body["error"], body["parameters"]) == (502, "bad_gateway", {"prefix": "/x"})
    assert body["error_description"] == (
        f"The server that the seed names for '/x' {says}. Check 'foundry.proxy' in the seed."
    )


@pytest_twisted.ensureDeferred
async def test_a_server_that_cannot_be_reached() -> None:
    async with passing({"/x": f"http://127.0.0.1:{free_port()}"}) as harness:
        _is_bad_gateway(await harness.call("GET", "/x"), "refused the connection")
        _is_bad_gateway(await harness.call("POST", "/x", b"x" * 300_000), "refused the connection")
    async with passing({"/x": "http://no-such-host.invalid"}) as harness:
        _is_bad_gateway(await harness.call("GET", "/x"), "has a name that cannot be resolved")


@pytest_twisted.ensureDeferred
async def test_a_certificate_is_verified(state_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    certificate = local_certificate(state_dir, "127.0.0.1")
    async with Target(certificate=certificate) as target, passing({"/x": target.url}) as harness:
        _is_bad_gateway(await harness.call("GET", "/x"), "has no certificate that is trusted")
        monkeypatch.setenv("SSL_CERT_FILE", str(state_dir / "ca.pem"))
        assert (await harness.call("GET", "/x"))[:2] == (200, b"ok")
    authority = trustme.CA()
    issued = authority.issue_cert("other.example")
    issued.private_key_and_cert_chain_pem.write_to_path(tmp_path / "server.pem")
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    other = user_certificate(tmp_path / "server.pem", None, tmp_path / "ca.pem")
    async with Target(certificate=other) as target, passing({"/x": target.url}) as harness:
        _is_bad_gateway(await harness.call("GET", "/x"), "has no certificate that is trusted")


@pytest_twisted.ensureDeferred
async def test_plain_http_at_an_https_port_and_the_reverse(state_dir: Path) -> None:
    async with Target() as plain, Target(certificate=local_certificate(state_dir, "127.0.0.1")) as tls:
        async with passing({"/x": plain.url.replace("http", "https")}) as harness:
            asking = Deferred.fromCoroutine(harness.call("GET", "/x"))
            await harness.until(lambda: plain.connections and plain.last.received)
            plain.last.transport.write(b"HTTP/1.1 400 Bad\r\n\r\n")
            assert (await asking)[1]["error"] == "bad_gateway"
        async with passing({"/x": tls.url.replace("https", "http")}) as harness:
            assert (await harness.call("GET", "/x"))[1]["error"] == "bad_gateway"


@pytest_twisted.ensureDeferred
async def test_a_server_that_takes_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    async with Target(b"") as target, passing({"/x": target.url}) as harness:
        slow = Deferred.fromCoroutine(harness.call("GET", "/x"))
        await harness.until(lambda: target.connections and target.last.received)
        # It blocks nobody else.
        assert (await harness.call("GET", "/healthz"))[0] == 200
        target.answer = OK
        assert (await harness.call("GET", "/x"))[0] == 200
        target.answer = b""
        monkeypatch.setattr(patience, "ANSWER_TIMEOUT", 0.2)
        monkeypatch.setattr("twisted_cm.server.passing.sender.ANSWER_TIMEOUT", 0.2)
        for body in (None, b"body"):
            _is_bad_gateway(await harness.call("POST", "/x", body), "did not answer within 0.2 seconds")
            await harness.until(lambda: target.last.lost)
        target.connections[0].transport.write(OK)
        assert (await slow)[1] == b"ok"


@pytest_twisted.ensureDeferred
async def test_a_server_that_does_not_take_the_body(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "ANSWER_TIMEOUT", 0.5)
    async with Target(b"") as target, passing({"/x": target.url}) as harness:
        asking = Deferred.fromCoroutine(harness.call("POST", "/x", b"x" * 50_000_000))
        await harness.until(lambda: target.connections)
        target.last.transport.pauseProducing()
        status, answer, _ = await asking
        assert (status, answer["error"]) == (502, "bad_gateway")


# The seed


@pytest_twisted.ensureDeferred
async def test_a_new_seed_changes_what_is_passed_on() -> None:
    async with Target() as one, Target(b"") as two, passing({"/x": one.url}) as harness:
        assert (await harness.call("GET", "/x"))[0] == 200
        await harness.service.reseed(parse_seed(proxy_seed({"/x": two.url, "/y": one.url})))
        asking = Deferred.fromCoroutine(harness.call("GET", "/x"))
        await harness.until(lambda: two.connections and two.last.received)
        assert (await harness.call("GET", "/y"))[0] == 200
        await harness.service.reseed(parse_seed(proxy_seed({})))
        for path in ("/x", "/y"):
            assert (await harness.call("GET", path))[0] == 404
        # What was on its way comes back.
        two.last.transport.write(OK)
        assert (await asking)[1] == b"ok"
        assert (await harness.module("POST", "/restart"))[0] == 200


@pytest_twisted.ensureDeferred
async def test_no_prefix_can_hide_a_route_of_the_emulator() -> None:
    harness = make_harness()
    try:
        rules = harness.sites()[0].answerer.app.url_map.iter_rules()
        assert {rule.rule.split("/")[1] for rule in rules} <= OWN_SEGMENTS
    finally:
        await harness.service.stopService()
