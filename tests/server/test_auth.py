"""Who may use which route, what web pages may do, and that no secret comes to light."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import socket
from base64 import b64encode
from collections.abc import AsyncIterator, Iterator
from collections.abc import Set as AbstractSet
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import pytest_twisted
from attrs import frozen
from conftest import CONTOUR, RUNTIMES, SEED, Harness, Server, make_harness, raw, receive_until, serve_one
from twisted.internet.protocol import Protocol
from twisted.internet.threads import deferToThread

from twisted_cm.broker.results import ResultBody
from twisted_cm.config.seed import Sidecar
from twisted_cm.model.faults import FaultKind, FaultPlan
from twisted_cm.model.jobs import JobSource, Submission
from twisted_cm.model.limits import Limits

EMULATOR = "/_emulate/foundry/compute-modules"
MULTIPASS = "/multipass/api"
SIDECAR = "/interactive-module/api/internal-query"

AUTH_SEED = SEED.replace(
    "foundry:\n",
    "foundry:\n"
    "  oauth_clients:\n"
    "    - {client_id: app, client_secret: secret}\n"
    "    - {client_id: brief, client_secret: secret, token_lifetime: 1}\n",
)


def basic(client_id: str, secret: str) -> dict[str, str]:
    return {"Authorization": "Basic " + b64encode(f"{client_id}:{secret}".encode()).decode()}


#: What a request may carry, by what the tests below call it.
PRESENTED: dict[str, dict[str, str]] = {
    "nothing": {},
    "wrong bearer": {"Authorization": "Bearer wrong"},
    "wrong scheme": {"Authorization": "Token app-token"},
    "no text": {"Authorization": "Bearer \udcff", "Module-Auth-Token": "\udcff"},
    "wrong module token": {"Module-Auth-Token": "wrong"},
    "other module token": {"Module-Auth-Token": "token-two"},
    "module token as bearer": {"Authorization": "Bearer token-one"},
    "bearer as module token": {"Module-Auth-Token": "app-token"},
    "module token": {"Module-Auth-Token": "token-one"},
    "bearer": {"Authorization": "Bearer app-token"},
    "admin": {"Authorization": "Bearer boss"},
    "client": basic("app", "secret"),
    "wrong client": basic("app", "wrong"),
    # Two more, "issued" and "expired", are OAuth tokens that the test gets itself.
}
BEARERS = {"bearer", "issued"}
EVERYTHING = {*PRESENTED, "issued", "expired"}


@frozen(eq=False)
class Guard:
    """
    Who is let past a route's guard, on loopback and beyond it; everybody else gets 401, or 403 where a token is known.

    On loopback without an admin token, any bearer is an administrator and the admin token of these tests is unknown.
    """

    loopback: AbstractSet[str]
    guarded: AbstractSet[str]
    forbidden_loopback: AbstractSet[str] = frozenset()
    forbidden_guarded: AbstractSet[str] = frozenset()

    def status(self, presented: str, guarded: bool, right: int) -> int:
        if presented in (self.guarded if guarded else self.loopback):
            return right
        return 403 if presented in (self.forbidden_guarded if guarded else self.forbidden_loopback) else 401


OPEN = Guard(EVERYTHING, EVERYTHING)
CONTROL = Guard(EVERYTHING, {"admin"}, forbidden_guarded=BEARERS)
ADMIN = Guard(BEARERS, {"admin"}, forbidden_guarded=BEARERS)
BEARER = Guard(BEARERS, {*BEARERS, "admin"})
OTHER = {"other module token"}
MODULE = Guard({"module token"}, {"module token"}, OTHER, OTHER)
MODULE_OR_BEARER = Guard({"module token", *BEARERS}, {"module token", "admin", *BEARERS}, OTHER, OTHER)
INSPECTION = Guard(EVERYTHING, {"module token", "admin", *BEARERS})
METRICS = Guard(EVERYTHING, {"admin", *BEARERS})
CLIENT = Guard({"client"}, {"client"})

SUBMIT = {"deployedAppRid": "ri.one", "queryType": "f"}
BY_ID = {"id": "JOB"}
ONE = f"{RUNTIMES}/<runtime_id>"
APP = "/contour-backend-multiplexer/api/deployed-apps/<rid>/<branch>"
GRANT = b"grant_type=client_credentials"

#: Every route: who may use it, a body that it takes, and the status that then comes.
#: A synchronous caller times out at once here, and every job that is asked about is done.
ROUTES: dict[str, tuple[Guard, Any, int]] = {
    f"GET {EMULATOR}/info": (OPEN, None, 200),
    f"GET {EMULATOR}": (OPEN, None, 308),
    f"GET {EMULATOR}/": (OPEN, None, 200),
    f"GET {EMULATOR}/dashboard/<name>": (OPEN, None, 200),
    "GET /openapi.json": (OPEN, None, 200),
    "GET /metrics": (METRICS, None, 200),
    "GET /healthz": (OPEN, None, 200),
    "GET /readyz": (OPEN, None, 200),
    f"POST {RUNTIMES}": (CONTROL, {"runtimeId": "new"}, 200),
    f"GET {RUNTIMES}": (BEARER, None, 200),
    f"GET {ONE}": (BEARER, None, 200),
    f"DELETE {ONE}": (ADMIN, None, 204),
    f"POST {ONE}/jobs": (MODULE_OR_BEARER, {"queryType": "f"}, 201),
    f"GET {ONE}/jobs/<job_id>": (INSPECTION, None, 200),
    f"GET {ONE}/job": (MODULE, None, 200),
    f"POST {ONE}/schemas": (MODULE, [{"name": "g"}], 200),
    f"POST {ONE}/results/<job_id>": (MODULE, b"result", 204),
    f"POST {ONE}/restart": (MODULE, None, 200),
    f"GET {EMULATOR}/jobs": (BEARER, None, 200),
    f"GET {EMULATOR}/jobs/<job_id>": (BEARER, None, 200),
    f"POST {ONE}/jobs/<job_id>/fail": (MODULE, {"message": "out of luck"}, 204),
    f"GET {EMULATOR}/events": (BEARER, None, 200),
    f"POST {EMULATOR}/reset": (CONTROL, None, 204),
    f"GET {EMULATOR}/faults": (CONTROL, None, 200),
    f"POST {EMULATOR}/faults": (CONTROL, {"kind": "drop_job"}, 201),
    f"DELETE {EMULATOR}/faults": (CONTROL, None, 204),
    f"DELETE {EMULATOR}/faults/<fault_id>": (CONTROL, None, 204),
    f"POST {MULTIPASS}/oauth2/token": (CLIENT, GRANT, 200),
    f"POST {MULTIPASS}/oauth2/revoke_token": (CLIENT, b"token=x", 200),
    f"GET {MULTIPASS}/me": (BEARER, None, 200),
    f"POST {CONTOUR}/compute-modules/jobs/execute": (BEARER, SUBMIT, 504),
    f"POST {CONTOUR}/deployed-apps/jobs/execute": (BEARER, SUBMIT, 504),
    f"POST {CONTOUR}/deployed-apps/jobs": (BEARER, SUBMIT, 200),
    f"GET {CONTOUR}/jobs/<job_id>/status": (BEARER, None, 200),
    f"PUT {CONTOUR}/jobs/status/v2": (BEARER, BY_ID, 200),
    f"PUT {CONTOUR}/jobs/status/v3": (BEARER, BY_ID, 200),
    f"GET {CONTOUR}/jobs/<job_id>/result": (BEARER, None, 200),
    f"PUT {CONTOUR}/jobs/result/v2": (BEARER, BY_ID, 200),
    f"PUT {CONTOUR}/jobs/result/v3": (BEARER, BY_ID, 200),
    f"DELETE {CONTOUR}/jobs/<job_id>": (BEARER, None, 204),
    f"DELETE {CONTOUR}/jobs": (BEARER, BY_ID, 204),
    f"DELETE {CONTOUR}/jobs/v3": (BEARER, BY_ID, 204),
    f"PUT {CONTOUR}/jobs/<job_id>/soft-cancel": (BEARER, None, 204),
    f"GET {CONTOUR}/schemas": (BEARER, None, 200),
    f"GET {APP}/function-schemas": (BEARER, None, 200),
    f"GET {APP}/status": (BEARER, None, 200),
}
SIDECAR_ROUTES: dict[str, tuple[Guard, Any, int]] = {
    f"{method} {prefix}{path}": (MODULE, body, right)
    for prefix in (SIDECAR, "")
    for method, path, body, right in (
        ("GET", "/job", None, 200),
        ("POST", "/schemas", [{"name": "g"}], 200),
        ("POST", "/results/<job_id>", b"result", 204),
        ("POST", "/restart", None, 200),
    )
}


@asynccontextmanager
async def running(**settings: Any) -> AsyncIterator[Harness]:
    limits = Limits(poll_timeout=30, sync_timeout=0.001)
    made = make_harness(AUTH_SEED, sidecars=(Sidecar("one", 0, 0),), limits=limits, **settings)
    try:
        yield made
    finally:
        await made.pool.closeCachedConnections()
        await made.service.stopService()


async def prepare(harness: Harness, route: str) -> dict[str, str]:
    """The seed, a job that is done, one that waits, and a fault; what stands for what in the path of a route."""
    await harness.service.reset()
    job = await harness.broker.enqueue("one", Submission("f", {}, JobSource.RUNTIME_DIRECT))
    await harness.broker.poll("one", 0)
    body = ResultBody()
    body.write(b"result")
    await harness.broker.complete(job.job_id, body)
    waiting = await harness.broker.enqueue("one", Submission("f", {}, JobSource.RUNTIME_DIRECT))
    fault = await harness.service.faults.add(FaultPlan(FaultKind.DROP_JOB, function="never"))
    ends_it = route.startswith("DELETE") or "soft-cancel" in route or route.endswith(("/results/<job_id>", "/fail"))
    return {
        "runtime_id": "one",
        "job_id": waiting.job_id if ends_it else job.job_id,
        "fault_id": fault.fault_id,
        "rid": "ri.one",
        "branch": "master",
        "name": "index.html",
    }


def state(harness: Harness) -> Any:
    """All that a request could have changed."""
    runtimes = harness.broker.registry.runtimes.values()
    return (
        [
            (each.runtime_id, each.module_auth_token, each.connected, each.last_poll_at, each.schemas)
            for each in runtimes
        ],
        harness.broker.registry.bindings(),
        [(job_id, job.state, job.attempts) for job_id, job in harness.broker._jobs.items()],
        list(harness.service.faults._faults),
        set(harness.service.credentials._issued._issued),
    )


class _Leaving(Protocol):
    """Goes away from an answer when its head is there."""

    def connectionMade(self) -> None:
        self.transport.loseConnection()


async def ask(harness: Harness, route: str, body: Any, ids: dict[str, str], **headers: str) -> tuple[int, Any]:
    """A request of one of the routes of the tables, with everything in its place but the headers."""
    method, path = route.split()
    path = re.sub(r"<(\w+)>", lambda name: ids[name.group(1)], path) + ("?rid=ri.one" if "/schemas" in path else "")
    if isinstance(body, bytes):
        data, kind = body, "application/x-www-form-urlencoded"
    else:
        data = None if body is None else json.dumps(body).replace("JOB", ids["job_id"]).encode()
        kind = "application/json"
    service = harness.service
    addresses = service.addresses if route in ROUTES else service.sidecar_addresses["one"]
    sent = {name.encode(): value.encode("utf-8", "surrogateescape") for name, value in headers.items()}
    response = await harness.http.request(
        method,
        addresses.http + path,
        data=data,
        headers={b"Content-Type": kind.encode(), **sent},
        unbuffered=True,
        allow_redirects=False,
    )
    if response.headers.getRawHeaders("Content-Type") == ["text/event-stream"]:
        # It never ends.
        response.original.deliverBody(_Leaving())
        return response.code, b""
    content = await response.content()
    if content and "json" in response.headers.getRawHeaders("Content-Type", [""])[0]:
        content = json.loads(content)
    return response.code, content


def served(harness: Harness, site: int) -> set[str]:
    """The routes of a listener that runs."""
    rules = harness.service._sites[site].resource.app.url_map.iter_rules()
    return {f"{method} {re.sub('<id:', '<', rule.rule)}" for rule in rules for method in rule.methods}


@pytest_twisted.ensureDeferred
async def test_the_tables_hold_every_route() -> None:
    async with running() as harness:
        assert served(harness, 0) == set(ROUTES)
        assert served(harness, 1) == set(SIDECAR_ROUTES)
        assert len(harness.service._sites) == 2


@pytest.mark.parametrize("guarded", [False, True], ids=["loopback", "guarded"])
@pytest_twisted.ensureDeferred
async def test_every_route_knows_who_may_use_it(monkeypatch: pytest.MonkeyPatch, guarded: bool) -> None:
    monkeypatch.setattr("twisted_cm.service.is_loopback", lambda interface: not guarded)
    async with running(admin_token="boss" if guarded else None) as harness:
        credentials = harness.service.credentials
        now = [1000.0]
        credentials._now = lambda: now[0]
        issued, expired = [await credentials.issue(credentials.client(name, "secret"), ()) for name in ("app", "brief")]
        assert await credentials.principal(expired) is not None
        now[0] += 1
        presented = {
            **PRESENTED,
            "issued": {"Authorization": f"Bearer {issued}"},
            "expired": {"Authorization": f"Bearer {expired}"},
        }
        for route, (guard, body, right) in {**ROUTES, **SIDECAR_ROUTES}.items():
            for name, headers in presented.items():
                ids = await prepare(harness, route)
                before = state(harness)
                status, answer = await ask(harness, route, body, ids, **headers)
                expected = guard.status(name, guarded, right)
                assert status == expected, (route, name, answer)
                if expected in (401, 403):
                    assert state(harness) == before, (route, name)
                    error = {"invalid_token", "invalid_module_auth_token", "invalid_client"}
                    assert answer["error"] in (error if expected == 401 else {"forbidden"}), (route, name)


# Web pages

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
    """Status, headers and JSON of the answer to a request with just these headers."""
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


#: What a browser sends along from a page of another site.
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


def changes_state(route: str) -> bool:
    return not route.startswith("GET ") or route.endswith("/job")


@pytest_twisted.ensureDeferred
async def test_pages_of_other_sites_change_nothing() -> None:
    async with running(cors_origins=(SITE,)) as harness:
        pages = [*((page, True) for page in FOREIGN), *((page, False) for page in OWN), ({"Origin": SITE}, False)]
        for route, (guard, body, right) in {**ROUTES, **SIDECAR_ROUTES}.items():
            addresses = harness.service.addresses if route in ROUTES else harness.service.sidecar_addresses["one"]
            permit = {MODULE: "module token", CLIENT: "client"}.get(guard, "bearer")
            for page, foreign in pages:
                ids = await prepare(harness, route)
                before = state(harness)
                headers = {name: value.replace("OWN", addresses.http) for name, value in page.items()}
                status, _ = await ask(harness, route, body, ids, **PRESENTED[permit], **headers)
                refused = foreign and changes_state(route)
                assert status == (403 if refused else right), (route, page)
                if refused:
                    assert state(harness) == before, (route, page)


@pytest_twisted.ensureDeferred
async def test_no_spelling_of_a_poll_is_taken_for_a_read(harness: Harness) -> None:
    foreign = ("Sec-Fetch-Site", "cross-site")
    caller = harness.execute()
    await harness.until(lambda: harness.broker._work["one"].queued)
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
            assert {"authorization", "content-type", "module-auth-token", "prefer"} <= set(allowed)
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
        # A name that was made to point here is not shared with, whatever page it comes from.
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
    await harness.until(lambda: not harness.service._sites[0].channels)


# Logs

#: Whatever must not come to light has the word in it.
HUSH_SEED = """
tokens:
  hush-bearer: {login: jane, scopes: [hush-scope]}
  hush-twice: {login: joe}
  hush-twice: {login: jim}
foundry:
  users: {hush: hush}
  oauth_clients: [{client_id: app, client_secret: hush-secret}]
  compute_modules:
    poll_timeout: 5
    sync_timeout: 5
    job_lease: 1
    max_attempts: 2
    runtimes:
      - {runtime_id: one, module_auth_token: hush-module-token}
      - {runtime_id: one, module_auth_token: hush-other-token}
    deployed_apps: [{deployed_app_rid: ri.one, runtime_id: one}]
"""


class Talker:
    """Says things to a server that it should keep to itself."""

    def __init__(self, server: Server) -> None:
        self.address = urlsplit(server.urls["http"])

    def say(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        """Status and body of the answer; a body that is an iterator is streamed."""
        connection = HTTPConnection(self.address.hostname, self.address.port, timeout=10)
        if not isinstance(body, bytes | Iterator | None):
            body = json.dumps(body).encode()
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        try:
            connection.request(method, path, body, sent)
            response = connection.getresponse()
            content = response.read()
            return response.status, json.loads(content) if content[:1] in (b"{", b"[") else content
        finally:
            connection.close()

    def app(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        return self.say(method, CONTOUR + path, body, Authorization="Bearer hush-bearer")

    def module(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        return self.say(method, f"{RUNTIMES}/one{path}", body, Module_Auth_Token="hush-module-token")

    def submit(self, query_type: str = "f") -> str:
        body = {"deployedAppRid": "ri.one", "queryType": query_type, "query": {"hush-key": "hush-query"}}
        status, handle = self.app("POST", "/deployed-apps/jobs", body)
        assert status == 200
        job_id: str = handle["id"]
        return job_id

    def poll(self) -> str:
        status, envelope = self.module("GET", "/job")
        assert (status, envelope["computeModuleJobV1"]["query"]) == (200, {"hush-key": "hush-query"})
        job_id: str = envelope["computeModuleJobV1"]["jobId"]
        return job_id

    def status(self, job_id: str) -> str:
        kind: str = self.app("GET", f"/jobs/{job_id}/status")[1]["type"]
        return kind


def live(server: Server, talker: Talker, log: list[str]) -> list[str]:
    """A whole life of jobs and of those who have them run; the secrets that the server made up meanwhile."""
    execute = {"deployedAppRid": "ri.one", "queryType": "f", "query": {"hush-key": "hush-query"}}
    # Schemas, good and bad.
    assert talker.module("POST", "/schemas", [{"functionName": "f", "inputs": [], "note": "hush-schema"}])[0] == 200
    assert talker.module("POST", "/schemas", [{"functionName": "f", "type": "hush-schema"}])[0] == 400
    assert talker.module("POST", "/schemas", b"hush-schema")[0] == 400
    # A synchronous job, an asynchronous one, a stream, and results that come late or are different.
    with ThreadPoolExecutor(1) as pool:
        for result in (b"hush-result", iter([b"hush-", b"result"])):
            caller = pool.submit(talker.app, "POST", "/compute-modules/jobs/execute", execute)
            job_id = talker.poll()
            assert talker.module("POST", f"/results/{job_id}", result)[0] == 204
            assert caller.result() == (200, b"hush-result")
    assert talker.module("POST", f"/results/{job_id}", b"hush-other")[0] == 409
    job_id = talker.submit()
    assert talker.module("POST", f"/results/{talker.poll()}", b"hush-result")[0] == 204
    assert talker.app("GET", f"/jobs/{job_id}/result") == (200, b"hush-result")
    assert talker.say("GET", f"{RUNTIMES}/one/jobs/{job_id}")[1]["job"]["result_body_utf8"] == "hush-result"
    # One that fails with its process, one that is canceled, one whose runtime goes silent.
    job_id = talker.submit()
    assert talker.poll() == job_id
    assert talker.module("POST", "/restart") == (200, [job_id])
    job_id = talker.submit()
    assert talker.app("DELETE", f"/jobs/{job_id}")[0] == 204
    assert talker.module("POST", f"/results/{job_id}", b"hush-late")[0] == 204
    job_id = talker.submit()
    assert [talker.poll(), talker.poll()] == [job_id, job_id]
    assert talker.app("PUT", "/jobs/status/v3", {"id": job_id})[1]["type"] == "failed"
    # A stream that breaks off, and a poller that goes away.
    job_id = talker.submit()
    talker.poll()
    with pytest.raises(RuntimeError):
        talker.module("POST", f"/results/{job_id}", breaks_off())
    assert talker.app("PUT", "/jobs/status/v3", {"id": job_id})[1]["type"] == "failed"
    for kind, more in (("delay_dispatch", {"seconds": 60}), ("fail_job", {}), ("cut_result", {}), ("drop_job", {})):
        fault = {"kind": kind, "function": kind, "count": 1, **more}
        assert talker.say("POST", f"{EMULATOR}/faults", fault)[0] == 201
    job_id = talker.submit("delay_dispatch")
    with socket.create_connection((talker.address.hostname, talker.address.port)) as poller:
        head = f"GET {RUNTIMES}/one/job HTTP/1.1\r\nHost: localhost\r\nModule-Auth-Token: hush-module-token\r\n\r\n"
        poller.sendall(head.encode())
        while talker.status(job_id) != "running":
            pass
    assert talker.poll() == job_id
    assert talker.module("POST", f"/results/{job_id}", b"hush-result")[0] == 204
    for kind, expected in (("fail_job", "failed"), ("drop_job", "queued")):
        assert talker.status(talker.submit(kind)) == expected
    # Tokens of clients.
    made_up = []
    form = {"Content_Type": "application/x-www-form-urlencoded"}
    for secret, expected in (("hush-secret", 200), ("hush-wrong", 401)):
        grant = f"grant_type=client_credentials&client_id=app&client_secret={secret}".encode()
        status, answer = talker.say("POST", f"{MULTIPASS}/oauth2/token", grant, **form)
        assert status == expected
        made_up += [answer["access_token"]] if expected == 200 else []
    (token,) = made_up
    assert talker.say("GET", f"{MULTIPASS}/me", Authorization=f"Bearer {token}")[1]["username"] == "app"
    revocation = f"token={token}&client_id=app&client_secret=hush-secret".encode()
    assert talker.say("POST", f"{MULTIPASS}/oauth2/revoke_token", revocation, **form)[0] == 200
    # Sessions, and going back to the seed.
    for _ in range(2):
        made_up.append(talker.say("POST", RUNTIMES, {"runtimeId": "new", "displayName": "hush"})[1]["moduleAuthToken"])
    assert talker.say("DELETE", f"{RUNTIMES}/new", Authorization="Bearer hush-admin")[0] == 204
    assert talker.say("POST", f"{EMULATOR}/reset")[0] == 204
    # What is refused.
    for status, request, headers in (
        (400, ("POST", f"{CONTOUR}/deployed-apps/jobs", b'{"hush'), {"Authorization": "Bearer hush-bearer"}),
        (400, ("POST", RUNTIMES, {"runtimeId": {"hush": 1}}), {}),
        (401, ("GET", RUNTIMES), {"Authorization": "Bearer hush-wrong"}),
        (401, ("GET", f"{RUNTIMES}/one/job"), {"Module-Auth-Token": "hush-wrong"}),
        (401, ("GET", RUNTIMES), {"Authorization": "Basic hush-basic"}),
        (403, ("POST", f"{EMULATOR}/reset"), {"Origin": "https://hush.example"}),
        (403, ("GET", INFO), {"Host": "hush.example"}),
        (404, ("GET", "/nowhere?token=hush-token"), {}),
        (405, ("POST", f"{INFO}?token=hush-token", b"hush-body"), {}),
    ):
        assert talker.say(*request, **headers)[0] == status, request
    # Seeds that are refused.
    for seed, says in (
        ("tokens: {hush-bearer: {login: {hush: 1}}, hush bearer: {}, hush-list: [hush]}", "must be of type object"),
        ("tokens: {hush-bearer", "not YAML"),
        (HUSH_SEED.replace("module_auth_token: hush", "module_auth_token: hush hush"), "must not be blank"),
        (HUSH_SEED.replace("client_secret: hush-secret", "client_secret: [hush]"), "must be of type string"),
        (HUSH_SEED, "seed reloaded"),
    ):
        server.seed_file.write_text(seed)
        server.process.send_signal(signal.SIGHUP)
        log_until(server, says, log)
    return made_up


def breaks_off() -> Iterator[bytes]:
    yield b"hush-part"
    raise RuntimeError("the runtime went away")


def log_until(server: Server, text: str, log: list[str]) -> None:
    for line in server.process.stdout or ():
        log.append(line)
        if text in line:
            return
    raise AssertionError(f"never logged: {text}")


@pytest.mark.parametrize(
    "options", [(), ("--log-format", "json", "--log-level", "debug")], ids=["as it is", "all of it as JSON"]
)
def test_no_token_query_or_result_is_in_the_log(tmp_path: Path, state_dir: Path, options: tuple[str, ...]) -> None:
    server = Server(tmp_path, state_dir, "--admin-token", "hush-admin", *options, seed=HUSH_SEED)
    log = [server.banner]
    try:
        made_up = live(server, Talker(server), log)
    finally:
        server.process.terminate()
        log.append(server.process.communicate(timeout=10)[0])
    for line in "".join(log).splitlines():
        if options and line.startswith("{"):
            assert {"time", "level", "namespace", "message"} <= set(json.loads(line))
        assert not any(secret in line for secret in ("hush", *made_up)), line
    # It had something to say.
    for text in ("jane", "session opened", "deleted", "queued again", "given back", "strikes", "not reloaded", "reset"):
        assert text in "".join(log), text
