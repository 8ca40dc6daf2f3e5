"""Share the emulators of the tests, on ephemeral ports, and requests to them over real sockets."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import pytest
import pytest_twisted
import treq
from attrs import evolve
from forked_commands import note_starts_in, run_command, start_command
from redis_server import RedisServer
from selection import long_ones_first, on_other_brokers
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread
from twisted.logger import formatEvent, globalLogPublisher
from twisted.python.failure import Failure
from twisted.web.client import Agent, HTTPConnectionPool

from twisted_cm.broker.interface import BrokerLoad, RuntimeSnapshot
from twisted_cm.config.seed import parse_seed
from twisted_cm.config.tls import local_certificate
from twisted_cm.model.jobs import Job, JobFilter
from twisted_cm.model.paths import EMULATOR
from twisted_cm.server.transport.site import EmulatorSite
from twisted_cm.service import EmulatorService, Settings

T = TypeVar("T")

ROOT = Path(__file__).parent.parent
RUNTIMES = "/_emulate/foundry/compute-modules/runtimes"
CONTOUR = "/contour-backend-multiplexer/api/module-group-multiplexer"
BIN = Path(sys.executable).parent

#: Options for the runs of pytest that tests start. Plugins that only the tests of this project need take longer to load
#: than such a run.
FEWER_PLUGINS = ("-p", "no:schemathesis", "-p", "no:hypothesispytest")

SEED = """
tokens: {app-token: {login: jane}}
foundry:
  compute_modules:
    poll_timeout: 30
    sync_timeout: 30
    runtimes:
      - {runtime_id: one, module_auth_token: token-one}
      - {runtime_id: two, module_auth_token: token-two}
    deployed_apps:
      - {deployed_app_rid: ri.one, runtime_id: one}
      - {deployed_app_rid: ri.two, runtime_id: two, branch: dev}
      - {deployed_app_rid: ri.off, runtime_id: two, active: false}
"""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--one-broker",
        action="store_true",
        help="Run tests that have a variant for each kind of broker on one kind: those of tests/broker on Redis, all"
        " others in memory.",
    )


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what ``--one-broker`` leaves out; start long tests first, so that none is left to run alone."""
    if config.getoption("--one-broker"):
        left = set(on_other_brokers(items))
        config.hook.pytest_deselected(items=list(left))
        items[:] = [item for item in items if item not in left]
    items[:] = long_ones_first(items, int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", 1)))


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run a test marked ``beside_the_reactor`` outside the reactor's greenlet, so that it can wait for a Deferred."""
    if pyfuncitem.get_closest_marker("beside_the_reactor") is None:
        return None
    pyfuncitem.obj(**{name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames})
    return True


def result_of(deferred: Deferred[T]) -> T:
    """Return the result of a Deferred that has already fired, or raise its exception.

    A broker in memory answers at once, so a test can look at it without waiting.

    Raises:
        AssertionError: The Deferred has not fired. Await it instead.
    """
    failures: list[Failure] = []
    results: list[T] = []
    deferred.addCallbacks(results.append, failures.append)
    if failures:
        failures[0].raiseException()
    assert results, f"{deferred} has not fired; await it"
    return results[0]


class Harness:
    """One emulator and an HTTP client for it.

    To see what the emulator holds, a test uses :meth:`load`, :meth:`work`, :meth:`jobs`, :meth:`job`,
    :meth:`connections` and :meth:`sites`. All but the last two need a broker in memory.

    Attributes:
        broker: The service's broker.
        pool: The client's connections.
        http: The client.
    """

    def __init__(self, service: EmulatorService) -> None:
        self.service = service
        self.broker: Any = service.broker
        self.pool = HTTPConnectionPool(reactor)
        self.http = treq.client.HTTPClient(Agent(reactor, pool=self.pool))

    def load(self) -> BrokerLoad:
        """Return the totals over all runtimes: ``queued``, ``running``, ``parked_polls`` and ``parked_callers``."""
        load: BrokerLoad = result_of(self.broker.load())
        return load

    def work(self, runtime_id: str = "one") -> RuntimeSnapshot:
        """Return one runtime with its counts: ``queued``, ``running`` and ``parked_polls``."""
        snapshot: RuntimeSnapshot = result_of(self.broker.snapshot(runtime_id))
        return snapshot

    def jobs(self) -> list[Job]:
        """Return the jobs that the broker keeps, the last submitted first."""
        jobs: list[Job] = result_of(self.broker.jobs(JobFilter(), sys.maxsize))
        return jobs

    def job(self, job_id: str) -> Job:
        """Return the job with that id."""
        job: Job = result_of(self.broker.job(job_id))
        return job

    def connections(self) -> int:
        """Return the number of open connections to all listeners."""
        return self.service.connections()

    def sites(self) -> list[EmulatorSite]:
        """Return the protocol factory of the main listeners, then that of each sidecar."""
        return list(self.service.sites)

    async def call(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any, Any]:
        """Send a request; return the status, the body (parsed, if it is JSON) and the headers of the answer."""
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        data = body if isinstance(body, bytes) else None if body is None else json.dumps(body).encode()
        response = await self.http.request(method, self.service.addresses.http + path, headers=sent, data=data)
        content = await response.content()
        if content and response.headers.getRawHeaders("Content-Type", [""])[0].startswith("application/json"):
            content = json.loads(content)
        return response.code, content, response.headers

    async def app(self, method: str, path: str, body: Any = None) -> tuple[int, Any, Any]:
        """Send a request of an application."""
        return await self.call(method, CONTOUR + path, body, Authorization="Bearer app-token")

    async def module(self, method: str, path: str, body: Any = None, runtime: str = "one") -> tuple[int, Any, Any]:
        """Send a request of a runtime."""
        return await self.call(method, f"{RUNTIMES}/{runtime}{path}", body, Module_Auth_Token=f"token-{runtime}")

    def execute(self, query: Any = None, rid: str = "ri.one") -> Deferred[tuple[int, Any, Any]]:
        """Execute a job synchronously; the Deferred fires when the job has ended."""
        body = {"deployedAppRid": rid, "queryType": "f", "query": query}
        return Deferred.fromCoroutine(self.app("POST", "/compute-modules/jobs/execute", body))

    async def until(self, condition: Callable[[], Any]) -> Any:
        """Wait until a condition holds, at most 30 seconds or so; return what it returned."""
        for _ in range(3000):
            found = condition()
            if found:
                return found
            await pause(0.01)
        raise AssertionError(f"never became true: {condition}")


def pause(seconds: float) -> Deferred[None]:
    """Return a Deferred that fires after some seconds of the reactor's time."""
    deferred: Deferred[None] = Deferred()
    reactor.callLater(seconds, deferred.callback, None)
    return deferred


@contextlib.contextmanager
def logged(part: str) -> Iterator[list[str]]:
    """Collect the lines of the log that contain a text."""
    found: list[str] = []

    def observe(event: Any) -> None:
        line = formatEvent(event)
        if part in line:
            found.append(line)

    globalLogPublisher.addObserver(observe)
    try:
        yield found
    finally:
        globalLogPublisher.removeObserver(observe)


def free_port() -> int:
    """Return a port that no process listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def raw(harness: Harness, request: str, scheme: str = "http") -> socket.socket:
    """Send a request over a plain socket, which the test can close at any moment.

    With https, call it outside the reactor's thread: the TLS handshake blocks.
    """
    url = urlsplit(getattr(harness.service.addresses, scheme))
    client = socket.create_connection((url.hostname, url.port))
    if scheme == "https":
        context = ssl.create_default_context(cadata=harness.service.addresses.ca_certificate)
        client = context.wrap_socket(client, server_hostname="localhost")
    client.sendall(request.encode())
    return client


async def raw_poll(harness: Harness, scheme: str = "http") -> socket.socket:
    """Send a job poll over a plain socket."""
    request = f"GET {RUNTIMES}/one/job HTTP/1.1\r\nHost: localhost\r\nModule-Auth-Token: token-one\r\n\r\n"
    client: socket.socket = await deferToThread(raw, harness, request, scheme)
    return client


async def serve_one(harness: Harness, result: bytes, runtime: str = "one") -> dict[str, Any]:
    """Take one job of a runtime and post its result; return the job."""
    status, envelope, _ = await harness.module("GET", "/job", runtime=runtime)
    assert status == 200
    job: dict[str, Any] = envelope["computeModuleJobV1"]
    status, content, _ = await harness.module("POST", f"/results/{job['jobId']}", result, runtime)
    assert (status, content) == (204, b"")
    return job


def raw_caller(harness: Harness, scheme: str = "http") -> socket.socket:
    """Execute a job synchronously over a plain socket."""
    body = '{"deployedAppRid": "ri.one", "queryType": "f"}'
    return raw(
        harness,
        f"POST {CONTOUR}/compute-modules/jobs/execute HTTP/1.1\r\nHost: localhost\r\n"
        f"Authorization: Bearer app-token\r\nContent-Length: {len(body)}\r\n\r\n{body}",
        scheme,
    )


def raw_stream_head(harness: Harness, job_id: str, scheme: str = "http") -> socket.socket:
    """Send the headers of a result that a runtime streams."""
    return raw(
        harness,
        f"POST {RUNTIMES}/one/results/{job_id} HTTP/1.1\r\nHost: localhost\r\nModule-Auth-Token: token-one\r\n"
        "Transfer-Encoding: chunked\r\n\r\n",
        scheme,
    )


def raw_stream(harness: Harness, job_id: str, chunk: str, scheme: str = "http") -> socket.socket:
    """Send the headers and the first chunk of a result that a runtime streams."""
    post = raw_stream_head(harness, job_id, scheme)
    post.sendall(f"{len(chunk):x}\r\n{chunk}\r\n".encode())
    return post


async def receive_until(client: socket.socket, end: bytes | None) -> bytes:
    """Receive up to and including ``end``, or until the connection is closed."""
    client.setblocking(False)
    received = b""
    for _ in range(2000):
        try:
            data = client.recv(65536)
        except (BlockingIOError, ssl.SSLWantReadError):
            await pause(0.005)
            continue
        received += data
        if not data or (end is not None and received.endswith(end)):
            return received
    raise AssertionError(f"only {received!r} arrived")


_parsed = cache(parse_seed)


def make_harness(seed: str = SEED, **settings: Any) -> Harness:
    """Start an emulator that listens; the caller stops its service.

    Args:
        settings: Fields of :class:`Settings` to change.
    """
    base = Settings(seed=_parsed(seed), port=0, tls_port=0)
    base = evolve(base, limits=evolve(base.limits, poll_timeout=30, sync_timeout=30))
    service = EmulatorService(reactor, evolve(base, **settings))
    service.startService()
    return Harness(service)


@pytest.fixture(scope="session", autouse=True)
def started_commands(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Let the workers of this run know which commands one of them has started."""
    base = tmp_path_factory.getbasetemp()
    directory = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "started"
    directory.mkdir(exist_ok=True)
    note_starts_in(directory)


@pytest.fixture(autouse=True)
def no_failure_in_the_log() -> Iterator[list[str]]:
    """Fail a test during which the emulator logs a failure, unless the test expects it and takes it from the list."""
    failures: list[str] = []

    def observe(event: dict[str, Any]) -> None:
        # Twisted's own log calls use the second key.
        failure = event.get("log_failure") or event.get("failure")
        if failure is not None:
            failures.append(failure.getTraceback())

    globalLogPublisher.addObserver(observe)
    yield failures
    globalLogPublisher.removeObserver(observe)
    assert not failures, failures[0]


@pytest.fixture
def harness(state_dir: Path) -> Iterator[Harness]:
    """Start an emulator that listens to HTTP and HTTPS, with the seed ``SEED``."""
    made = make_harness(certificate=local_certificate(state_dir, "127.0.0.1"))
    yield made
    pytest_twisted.blockon(made.pool.closeCachedConnections())
    pytest_twisted.blockon(made.service.stopService())


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """Start a Redis that all tests of the run share, so none may stop it."""
    server = RedisServer()
    yield server
    server.close()


@pytest.fixture(scope="session")
def state_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a state directory with a CA and a certificate in it."""
    directory = tmp_path_factory.mktemp("state")
    local_certificate(directory, "127.0.0.1")
    return directory


class Server:
    """A ``twisted-cm serve`` process on free ports.

    Attributes:
        client_environment: Variables under which ``twisted-cm`` commands use this server.
        environment: A copy of them, which a test may change.
        urls: Base URLs by scheme, ``http`` and ``https``.
        banner: What the server printed while it started.
        log: What the server printed from then on; complete when it has stopped.
    """

    def __init__(self, directory: Path, state: Path, *options: str, seed: str = SEED) -> None:
        self.environment = {**os.environ, "TWISTED_CM_STATE_DIR": str(state)}
        ports = directory / "ports.json"
        self.seed_file = seed_file = directory / "seed.yaml"
        seed_file.write_text(seed, "utf-8")
        command = ["serve", "--seed", str(seed_file), "--port", "0", "--tls-port", "0", "--port-file", str(ports)]
        self.process: subprocess.Popen[str] = start_command(
            [*command, *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=self.environment,
            text=True,
        )
        assert self.process.stdout is not None
        self.banner = self.log = ""
        for line in self.process.stdout:
            self.banner += line
            if "Ctrl-C stops." in line:
                break
        assert ports.exists(), self.banner
        self.urls = json.loads(ports.read_text())
        self.environment["TWISTED_CM_URL"] = self.urls["http"]
        self.environment["TWISTED_CM_TOKEN"] = "app-token"
        self.client_environment = dict(self.environment)

    def cm(self, *arguments: str, **options: Any) -> subprocess.CompletedProcess[bytes]:
        """Run a ``twisted-cm`` command against this server and wait for its end."""
        return run_command(arguments, env=self.environment, **options)

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Start a ``twisted-cm`` command against this server; the caller ends it."""
        return start_command(
            arguments,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def stop(self) -> int:
        """Stop the server, unless it has stopped; return its exit status."""
        if self.process.poll() is None:
            self.process.terminate()
            self.log = self.process.communicate(timeout=10)[0]
        return self.process.returncode


def kill(process: subprocess.Popen[bytes]) -> bytes:
    """Kill a process and its whole process group; return what it printed."""
    if process.returncode is None:
        # The process has not been reaped, so the id cannot belong to another one.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        return process.communicate()[0]
    return b""


@pytest.fixture(scope="session")
def shared_servers(tmp_path_factory: pytest.TempPathFactory, state_dir: Path) -> Iterator[Callable[[], Server]]:
    """Return a function that returns a server that earlier tests have used, as if it were new.

    Its log has warnings only, since nobody reads it.
    """
    kept: list[Server] = []

    def get() -> Server:
        if kept and kept[-1].process.poll() is None:
            reset = Request(f"{kept[-1].urls['http']}{EMULATOR}/reset", b"", {"Authorization": "Bearer app-token"})
            urlopen(reset, timeout=30).close()
        else:
            kept.append(Server(tmp_path_factory.mktemp("server"), state_dir, "--log-level", "warn"))
        kept[-1].environment = dict(kept[-1].client_environment)
        return kept[-1]

    yield get
    for each in kept:
        each.stop()


@pytest.fixture
def server(request: pytest.FixtureRequest, tmp_path: Path, state_dir: Path) -> Iterator[Server]:
    """Start a server; an indirect parameter is an additional line under ``compute_modules`` in its seed.

    Tests that are marked ``shared_server`` get one that other tests have used, unless they have such a line.
    """
    if request.node.get_closest_marker("shared_server") is not None and not hasattr(request, "param"):
        get: Callable[[], Server] = request.getfixturevalue("shared_servers")
        yield get()
        return
    more = getattr(request, "param", "")
    started = Server(tmp_path, state_dir, seed=SEED.replace("poll_timeout: 30\n", f"poll_timeout: 30\n    {more}\n"))
    yield started
    if started.process.poll() is None:
        started.stop()
