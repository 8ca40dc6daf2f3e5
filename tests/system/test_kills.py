"""Kill or stop one process, a runtime or the emulator, and check what happens to the others."""

from __future__ import annotations

import http.client
import json
import os
import signal
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from conftest import CONTOUR, ROOT, RUNTIMES, SEED, Server, kill
from sdk_processes import SDK_PYTHON, Launch, contour, execute, get, submission, until

MODULE = (SDK_PYTHON, str(ROOT / "tests/sdk/module.py"))
EXECUTE = f"{CONTOUR}/compute-modules/jobs/execute"


# Ending the process of a runtime


def test_jobs_of_a_runtime_that_was_killed_while_parked_go_to_the_next(server: Server, launch: Launch) -> None:
    first = launch(*MODULE)
    until(lambda: get(server, f"{RUNTIMES}/one")["parked_polls"], first)
    kill(first)
    with ThreadPoolExecutor(5) as pool:
        callers = [pool.submit(execute, server, "typed", {"a": n, "b": 2}) for n in range(5)]
        while get(server, f"{RUNTIMES}/one")["queued_jobs"] < 5:
            assert not any(caller.done() for caller in callers)
        launch(*MODULE)
        assert [caller.result(timeout=10) for caller in callers] == [b"0", b"2", b"4", b"6", b"8"]


@pytest.mark.parametrize("server", ["job_lease: 1"], indirect=True)
def test_a_job_of_a_runtime_that_was_killed_at_work_goes_to_the_next_once_its_lease_is_out(
    server: Server, launch: Launch, tmp_path: Path
) -> None:
    first = launch(*MODULE)
    room = tmp_path / "room"
    room.mkdir()
    with ThreadPoolExecutor(1) as pool:
        caller = pool.submit(execute, server, "together", {"n": 7, "size": 2, "room": str(room)})
        until(lambda: list(room.iterdir()), first)
        kill(first)
        while get(server, f"{RUNTIMES}/one")["queued_jobs"] == 0:
            assert not caller.done()
        launch(*MODULE)
        assert json.loads(caller.result(timeout=10)) == {"n": 7, "seen": 2}


def test_a_runtime_that_is_killed_as_it_streams_breaks_its_callers_answer_off(server: Server, launch: Launch) -> None:
    first = launch(*MODULE)
    address = urlsplit(server.urls["http"])
    connection = http.client.HTTPConnection(address.hostname, address.port, timeout=30)
    headers = {"Authorization": "Bearer app-token"}
    connection.request("POST", EXECUTE, json.dumps(submission("stream", {"n": 10**9})), headers)
    answer = connection.getresponse()
    assert (answer.status, answer.read(10)) == (200, b"0123456789")
    kill(first)
    with pytest.raises(http.client.IncompleteRead):
        answer.read()
    connection.close()
    job = get(server, f"{RUNTIMES}/one/jobs/{answer.headers['X-Job-Id']}")["job"]
    assert (job["status"], job["error_message"]) == (
        "failed",
        "The runtime's connection was lost while it streamed the result.",
    )
    launch(*MODULE)
    assert execute(server, "typed", {"a": 6, "b": 7}) == b"42"


# Ending the process of the emulator


class Clients:
    """Many clients of one server, each in a thread.

    Attributes:
        outcomes: How many requests of each kind of client ended in which way: with a status, ``refused`` without a
            connection, or ``cut`` with a connection and without a whole answer.
    """

    def __init__(self, server: Server) -> None:
        self.urls = server.urls
        self.ca = server.environment["TWISTED_CM_STATE_DIR"] + "/ca.pem"
        self.outcomes: Counter[tuple[str, object]] = Counter()
        self._threads: list[threading.Thread] = []
        self._context = ssl.create_default_context(cafile=self.ca)

    def add(self, count: int, name: str, client: Callable[[Callable[..., Any]], None], scheme: str = "http") -> None:
        """Start clients that send requests, each on its own connection, until one gets no answer or 503."""

        def run() -> None:
            connection: http.client.HTTPConnection | None = None

            def ask(method: str, path: str, body: Any = None, fresh: bool = False, **headers: str) -> Any:
                nonlocal connection
                sent = {name.replace("_", "-"): value for name, value in headers.items()}
                if connection is None or connection.sock is None or fresh:
                    connection = self._connect(scheme, name)
                try:
                    connection.request(method, path, body, sent)
                    answer = connection.getresponse()
                    content = answer.read()
                except (OSError, http.client.HTTPException) as error:
                    self.outcomes[name, "cut"] += 1
                    raise _Over from error
                self.outcomes[name, answer.status] += 1
                if answer.status == 503:
                    assert json.loads(content)["error"] == "unavailable"
                    raise _Over
                return answer.status, content

            try:
                client(ask)
            except _Over:
                pass
            finally:
                if connection is not None:
                    connection.close()

        for _ in range(count):
            thread = threading.Thread(target=run, daemon=True)
            thread.start()
            self._threads.append(thread)

    def _connect(self, scheme: str, name: str) -> http.client.HTTPConnection:
        url = urlsplit(self.urls[scheme])
        if scheme == "https":
            made: Any = http.client.HTTPSConnection(url.hostname, url.port, timeout=30, context=self._context)
        else:
            made = http.client.HTTPConnection(url.hostname, url.port, timeout=30)
        try:
            made.connect()
        except OSError as error:
            # A connection that is reset during the TLS handshake did exist.
            self.outcomes[name, "refused" if isinstance(error, ConnectionRefusedError) else "cut"] += 1
            raise _Over from error
        return made

    def join(self) -> None:
        """Wait until all clients have ended."""
        for thread in self._threads:
            thread.join(timeout=20)
            assert not thread.is_alive()


class _Over(Exception):
    """The server has gone."""


def caller(rid: str) -> Callable[..., None]:
    """Return a client that executes jobs synchronously."""

    def run(ask: Callable[..., Any]) -> None:
        while True:
            ask("POST", EXECUTE, json.dumps(submission("f", {}, rid)), Authorization="Bearer app-token")

    return run


def submitter(fresh: bool) -> Callable[..., None]:
    """Return a client that submits jobs, each on a new connection if ``fresh``."""
    body = json.dumps(submission("f", {}, "ri.three"))

    def run(ask: Callable[..., Any]) -> None:
        while True:
            ask("POST", f"{CONTOUR}/deployed-apps/jobs", body, fresh, Authorization="Bearer app-token")

    return run


def runtime(ask: Callable[..., Any]) -> None:
    """Take jobs, and stream their results in small parts."""
    token = {"Module_Auth_Token": "token-one"}
    while True:
        status, content = ask("GET", f"{RUNTIMES}/one/job", **token)
        if status == 200:
            job_id = json.loads(content)["computeModuleJobV1"]["jobId"]
            ask("POST", f"{RUNTIMES}/one/results/{job_id}", trickle(), **token)


def trickle() -> Iterator[bytes]:
    """Return the parts of a result that takes 0.4 seconds."""
    for _ in range(20):
        time.sleep(0.02)
        yield b"part"


def poller(ask: Callable[..., Any]) -> None:
    """Poll for jobs of a runtime that has none."""
    while True:
        ask("GET", f"{RUNTIMES}/two/job", Module_Auth_Token="token-two")


LOAD_SEED = SEED.replace(
    "    deployed_apps:\n",
    "    deployed_apps:\n"
    "      - {deployed_app_rid: ri.three, runtime_id: three}\n"
    "      - {deployed_app_rid: ri.idle, runtime_id: idle}\n",
).replace("poll_timeout: 30\n", "poll_timeout: 30\n    queue_depth: 1000000\n")


def test_whoever_has_asked_is_answered_when_the_emulator_is_to_end(tmp_path: Path, state_dir: Path) -> None:
    server = Server(tmp_path, state_dir, seed=LOAD_SEED)
    clients = Clients(server)
    try:
        for scheme in ("http", "https"):
            clients.add(20, "parked caller", caller("ri.idle"), scheme)
            clients.add(5, "poller", poller, scheme)
            clients.add(4, "caller of a stream", caller("ri.one"), scheme)
            clients.add(4, "runtime", runtime, scheme)
            clients.add(4, "submitter", submitter(False), scheme)
            clients.add(4, "new submitter", submitter(True), scheme)
        while min(get(server, f"{RUNTIMES}/idle")["queued_jobs"], clients.outcomes["caller of a stream", 200]) < 8:
            time.sleep(0.05)
        started = time.monotonic()
        server.process.terminate()
        output = server.process.communicate(timeout=10)[0]
        took = time.monotonic() - started
        clients.join()
    finally:
        kill_server(server)
    assert (server.process.returncode, "Traceback" in output) == (0, False), output
    assert took < 5
    assert not [each for each in clients.outcomes if each[1] == "cut"], clients.outcomes
    assert clients.outcomes["parked caller", 503] == 40
    assert clients.outcomes["poller", 204] >= 10


def kill_server(server: Server) -> None:
    """Kill a server that is still running."""
    if server.process.poll() is None:
        server.process.kill()
        server.process.communicate()


class Insistent:
    """Clients that repeat their requests until they have all results, even if the server is killed meanwhile."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self.results: dict[int, bytes] = {}
        self.again = 0
        self._deadline = time.monotonic() + 40

    def want(self, number: int) -> None:
        """Submit a job, and repeat that until there is a result."""
        while number not in self.results:
            assert time.monotonic() < self._deadline
            try:
                self.results[number] = (self._sync if number % 2 else self._async)({"a": number, "b": 2})
            except (OSError, http.client.HTTPException):
                self.again += 1
                time.sleep(0.2)

    def _sync(self, query: Any) -> bytes:
        return execute(self._server, "typed", query)

    def _async(self, query: Any) -> bytes:
        job = json.loads(contour(self._server, "POST", "/deployed-apps/jobs", submission("typed", query)))
        while json.loads(contour(self._server, "PUT", "/jobs/status/v3", {"id": job["id"]}))["type"] != "succeeded":
            pass
        return contour(self._server, "GET", f"/jobs/{job['id']}/result")


def test_clients_that_insist_lose_nothing_when_the_emulator_is_killed(tmp_path: Path, state_dir: Path) -> None:
    servers = [Server(tmp_path, state_dir)]
    ports = [str(urlsplit(servers[0].urls[scheme]).port) for scheme in ("http", "https")]
    module = servers[0].start("exec", "--runtime", "one", "--module-auth-token", "token-one", "--", *MODULE)
    # The module logs much while there is no server; a full pipe would block it.
    reader = threading.Thread(target=module.communicate)
    reader.start()
    insistent = Insistent(servers[0])
    try:
        with ThreadPoolExecutor(10) as pool:
            wanted = [pool.submit(insistent.want, number) for number in range(400)]
            for done in (50, 200):
                until(lambda done=done: len(insistent.results) >= done, servers[-1].process)
                kill_server(servers[-1])
                assert len(insistent.results) < 400
                servers.append(Server(tmp_path, state_dir, "--port", ports[0], "--tls-port", ports[1]))
            for each in wanted:
                each.result()
        assert insistent.results == {number: str(number * 2).encode() for number in range(400)}
        assert insistent.again >= 20
        # The process of the SDK survived without a restart.
        assert module.poll() is None
    finally:
        for server in servers:
            kill_server(server)
        if module.poll() is None:
            os.killpg(module.pid, signal.SIGKILL)
        reader.join()
