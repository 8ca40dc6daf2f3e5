"""What web pages may do."""

from __future__ import annotations

import contextlib
import json
from http.client import HTTPConnection
from typing import Any
from urllib.parse import urlsplit

import pytest
import pytest_twisted
from conftest import CONTOUR, RUNTIMES, Harness, raw, receive_until, serve_one
from every_route import (
    BARE,
    BARE_REPLICA,
    CLIENT,
    EMULATOR,
    MODULE,
    PRESENTED,
    REPLICA,
    ROUTES,
    SIDECAR_MODULE,
    SIDECAR_ROUTES,
    ask,
    prepare,
    running,
    state,
)
from twisted.internet.threads import deferToThread

INFO = f"{EMULATOR}/info"
SITE = "https://app.example"


def _browse(harness: Harness, method: str, path: str, headers: list[tuple[str, str]], body: bytes | None) -> Any:
    address = urlsplit(harness.service.addresses.http)
    connection = HTTPConnection(address.hostname, address.port, timeout=10)
    try:
        connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
        for name, value in headers if body is None else [*headers, ("Content-Length", str(len(body)))]:
            connection.putheader(name, value.encode("utf-8", "surrogateescape"))
        connection.endheaders(body)
        response = connection.getresponse()
        content = response.read()
        return response.status, response.headers, json.loads(content) if content else None
    finally:
        connection.close()


async def browse(harness: Harness, *headers: tuple[str, str], method: str = "GET", path: str = INFO) -> Any:
    """Send a request with exactly these headers; return the status, the headers and the JSON of the answer."""
    return await deferToThread(_browse, harness, method, path, list(headers), None)


HOST = ("Host", "localhost")
OWN_NAMES = ["localhost", "LocalHost", "localhost.", "app.localhost", "127.0.0.1", "[::1]", "host.docker.internal"]
GIVEN_NAMES = ["emulator", "cm.example"]
OTHER_NAMES = [
    *("evil.example", "localhost.evil.example", "evil-localhost", "127.0.0.1.evil.example", "cm.example.evil.example"),
    *("", "[::1", "[evil]"),
]


@pytest_twisted.ensureDeferred
async def test_on_loopback_only_names_of_this_machine_are_answered() -> None:
    settings = {"allowed_hosts": ("Emulator",), "base_url": "https://cm.example:8443/x"}
    async with running(**settings) as given, running() as plain:
        for name in OWN_NAMES:
            for harness in (given, plain):
                for host in (name, f"{name}:4000"):
                    assert (await browse(harness, ("Host", host)))[0] == 200, host
        for name in GIVEN_NAMES:
            for host in (name, f"{name}:4000"):
                assert (await browse(given, ("Host", host)))[0] == 200, host
                assert (await browse(plain, ("Host", host)))[0] == 403, host
        for name in OTHER_NAMES:
            for host in (name, f"{name}:4000"):
                status, headers, answer = await browse(given, ("Host", host))
                assert (status, answer["error"]) == (403, "forbidden"), host
                assert "Access-Control-Allow-Origin" not in headers


@pytest_twisted.ensureDeferred
async def test_beyond_loopback_it_may_have_any_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("twisted_cm.service.is_loopback", lambda interface: False)
    async with running(admin_token="boss") as harness:
        for name in ("evil.example", "localhost"):
            assert (await browse(harness, ("Host", name)))[0] == 200, name
        for headers in ((), (HOST, HOST), (("Host", "\udcff"),)):
            assert (await browse(harness, *headers))[0] == 400


@pytest.mark.parametrize(
    "hosts",
    [[], [HOST, HOST], [HOST, ("Host", "evil.example")], [("Host", "\udcff")]],
    ids=["none", "two", "other", "no text"],
)
@pytest_twisted.ensureDeferred
async def test_a_request_names_its_host_once(harness: Harness, hosts: list[tuple[str, str]]) -> None:
    status, _, answer = await browse(harness, *hosts)
    assert (status, answer["error"]) == (400, "invalid_request")


@pytest_twisted.ensureDeferred
async def test_http_1_0_needs_no_host(harness: Harness) -> None:
    for headers, status in (("", b" 200 "), ("Host: evil.example\r\n", b" 403 "), ("Origin: null\r\n", b" 200 ")):
        client = raw(harness, f"GET {INFO} HTTP/1.0\r\n{headers}\r\n")
        assert status in (await receive_until(client, None)).split(b"\r\n")[0]
        client.close()
    client = raw(harness, f"POST {EMULATOR}/reset HTTP/1.0\r\nOrigin: null\r\n\r\n")
    assert b" 403 " in (await receive_until(client, None)).split(b"\r\n")[0]
    client.close()


#: What a browser sends with a request of a page of another site.
FOREIGN = [
    {"Origin": "https://evil.example"},
    {"Origin": "http://localhost:1"},
    {"Origin": "null"},
    {"Origin": ""},
    {"Origin": "http://["},
    {"Origin": "\udcff"},
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},
    {"Origin": "OWN", "Sec-Fetch-Site": "cross-site"},
]
OWN = [{"Origin": "OWN"}, {"Sec-Fetch-Site": "same-origin"}, {"Sec-Fetch-Site": "none"}, {}]


#: What a request carries to be let in by a guard; by others, a bearer token.
PERMITS = {
    MODULE: "module token",
    SIDECAR_MODULE: "module token",
    BARE: "module token",
    REPLICA: "replica token",
    BARE_REPLICA: "replica token",
    CLIENT: "client",
}


def changes_state(route: str) -> bool:
    return not route.startswith("GET ") or route.endswith("/job")


@pytest_twisted.ensureDeferred
async def test_pages_of_other_sites_change_nothing() -> None:
    async with running(cors_origins=(SITE,)) as harness:
        pages = [*((page, True) for page in FOREIGN), *((page, False) for page in OWN), ({"Origin": SITE}, False)]
        for route, (guard, body, right) in {**ROUTES, **SIDECAR_ROUTES}.items():
            addresses = harness.service.addresses if route in ROUTES else harness.service.sidecar_addresses["one"]
            permit = PERMITS.get(guard, "bearer")
            for page, foreign in pages:
                ids = await prepare(harness, route)
                before = state(harness)
                headers = {name: value.replace("OWN", addresses.http) for name, value in page.items()}
                status, _ = await ask(harness, route, body, ids, **PRESENTED[permit], **headers)
                refused = changes_state(route) and (
                    foreign or (("Origin", SITE) in page.items() and "authorize" in route)
                )
                assert status == (403 if refused else right), (route, page)
                if refused:
                    assert state(harness) == before, (route, page)


@pytest_twisted.ensureDeferred
async def test_no_spelling_of_a_poll_is_taken_for_a_read(harness: Harness) -> None:
    foreign = ("Sec-Fetch-Site", "cross-site")
    caller = harness.execute()
    await harness.until(lambda: harness.work().queued)
    for path in ("job?", "job?x=/y", "job/", "jo%62", "./job", "job;x", "/job", "job#x", "jobs/../job"):
        request = (HOST, foreign, ("Module-Auth-Token", "token-one"))
        assert (await browse(harness, *request, path=f"{RUNTIMES}/one/{path}"))[0] in (403, 404), path
    await serve_one(harness, b"ok")
    assert (await caller)[1] == b"ok"


def shared(headers: Any) -> dict[str, str]:
    return {name: value for name, value in headers.items() if name.lower().startswith("access-control-")}


PREFLIGHT = (("Access-Control-Request-Method", "POST"), ("Access-Control-Request-Headers", "authorization"))


@pytest_twisted.ensureDeferred
async def test_no_answer_is_shared_with_a_page_unless_its_origin_is_allowed() -> None:
    async with running() as plain, running(cors_origins=(SITE,)) as sharing:
        for harness, origin in (
            *((plain, each) for each in (SITE, "null", plain.service.addresses.http)),
            *((sharing, each) for each in ("https://evil.example", "http://app.example", f"{SITE}:444", "null", "*")),
        ):
            status, headers, _ = await browse(harness, HOST, ("Origin", origin))
            assert (status, shared(headers)) == (200, {}), origin
            status, headers, _ = await browse(harness, HOST, ("Origin", origin), *PREFLIGHT, method="OPTIONS")
            assert (status, shared(headers)) == (403, {}), origin
        own = ("Host", plain.service.addresses.http.partition("://")[2])
        status, headers, _ = await browse(plain, own, ("Origin", f"http://{own[1]}"), method="OPTIONS")
        assert (status, shared(headers)) == (405, {})


@pytest_twisted.ensureDeferred
async def test_a_page_of_an_allowed_origin_may_call() -> None:
    async with running(cors_origins=("https://other.example", SITE)) as harness:
        origin = (HOST, ("Origin", SITE), ("Sec-Fetch-Site", "cross-site"))
        submit = f"{CONTOUR}/deployed-apps/jobs"
        for path in (submit, f"{RUNTIMES}/one/job"):
            status, headers, answer = await browse(harness, *origin, *PREFLIGHT, method="OPTIONS", path=path)
            assert (status, answer) == (204, None)
            assert headers["Access-Control-Allow-Origin"] == SITE
            assert set(headers["Access-Control-Allow-Methods"].split(", ")) == {"GET", "POST", "PUT", "DELETE"}
            allowed = headers["Access-Control-Allow-Headers"].lower().split(", ")
            assert {
                *("authorization", "content-type", "module-auth-token", "prefer", "idempotency-key"),
                "fetch-user-agent",
                "x-osdk-request-context",
                *("attribution", "traceparent", "tracestate"),
            } <= set(allowed)
            assert "Access-Control-Allow-Credentials" not in headers
        bearer = ("Authorization", "Bearer app-token")
        for path, credentials, expected in (
            (RUNTIMES, [bearer], 200),
            (RUNTIMES, [], 401),
            ("/nowhere", [], 404),
            (f"{CONTOUR}/jobs/none/result", [bearer], 404),
            (submit, [bearer], 405),
        ):
            status, headers, _ = await browse(harness, *origin, *credentials, path=path)
            assert (status, headers["Access-Control-Allow-Origin"], headers["Vary"]) == (expected, SITE, "Origin")
            assert "X-Job-Id" in headers["Access-Control-Expose-Headers"]
        # A name that was made to point here is refused, even for a page of an allowed origin.
        status, headers, _ = await browse(harness, ("Host", "evil.example"), ("Origin", SITE))
        assert (status, shared(headers)) == (403, {})


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("framing", ["Content-Length: 5000000", "Transfer-Encoding: chunked"])
@pytest_twisted.ensureDeferred
async def test_a_refused_request_is_answered_before_its_body_and_the_connection_lives_on(
    harness: Harness, scheme: str, framing: str
) -> None:
    reset = f"POST {EMULATOR}/reset HTTP/1.1\r\nHost: localhost\r\n"
    client = await deferToThread(raw, harness, f"{reset}Origin: null\r\n{framing}\r\n\r\n", scheme)
    try:
        assert b" 403 " in await receive_until(client, b"}}")
        body = b"x" * 5_000_000
        if framing.startswith("Transfer"):
            body = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
        client.setblocking(True)
        client.settimeout(10)
        await deferToThread(client.sendall, body + f"{reset}\r\n".encode())
        assert b" 204 " in await receive_until(client, b"\r\n\r\n")
    finally:
        client.close()


@pytest_twisted.ensureDeferred
async def test_a_refused_request_whose_body_never_comes_is_cut_off(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("twisted_cm.server.transport.request.LINGER", 0.1)
    client = raw(harness, f"POST {EMULATOR}/reset HTTP/1.1\r\nHost: evil.example\r\nContent-Length: 1000\r\n\r\nx")
    assert b" 403 " in await receive_until(client, b"}}")
    with contextlib.suppress(ConnectionResetError):
        assert await receive_until(client, None) == b""
    client.close()
    await harness.until(lambda: not harness.sites()[0].channels)
