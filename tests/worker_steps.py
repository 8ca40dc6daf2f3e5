"""An emulator with several workers, over real sockets."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import ssl
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
import pytest
from conftest import CONTOUR, RUNTIMES, SEED, Server
from redis_server import RedisServer

APP = {"Authorization": "Bearer app-token"}
MODULE = {"Module-Auth-Token": "token-one"}


def until(condition: Callable[[], Any], seconds: float = 30) -> Any:
    """Wait until a condition holds; return what it returned."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = condition()
        if found:
            return found
        time.sleep(0.05)
    raise AssertionError("never became true")


def alive(pid: int) -> bool:
    """Return whether a process runs."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


class Client:
    """A connection that one worker serves."""

    def __init__(self, connection: http.client.HTTPConnection) -> None:
        self.connection = connection

    def send(self, method: str, path: str, body: Any = None, **headers: str) -> None:
        """Send a request."""
        sent = {name.replace("_", "-"): value for name, value in headers.items()} or APP
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        self.connection.request(method, path, data, sent)

    def receive(self) -> tuple[int, bytes]:
        """Return the status and the body of the answer."""
        answer = self.connection.getresponse()
        return answer.status, answer.read()

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, bytes]:
        """Send a request and return the status and the body of its answer."""
        self.send(method, path, body, **headers)
        return self.receive()

    def submit(self, query: Any = None) -> str:
        """Submit a job asynchronously and return its id."""
        body = {"deployedAppRid": "ri.one", "queryType": "f", "query": query}
        status, content = self.ask("POST", f"{CONTOUR}/deployed-apps/jobs", body)
        assert status == 200, content
        job_id: str = json.loads(content)["id"]
        return job_id

    def poll(self) -> Any:
        """Take a job."""
        status, content = self.ask("GET", f"{RUNTIMES}/one/job", None, **MODULE)
        assert status == 200, (status, content)
        return json.loads(content)["computeModuleJobV1"]

    def finish(self, job_id: str, result: bytes) -> None:
        """Post the result of a job."""
        assert self.ask("POST", f"{RUNTIMES}/one/results/{job_id}", result, **MODULE) == (204, b"")

    def result(self, job_id: str) -> bytes:
        """Return the result of a job."""
        status, content = self.ask("GET", f"{CONTOUR}/jobs/{job_id}/result")
        assert status == 200, content
        return content


class WorkersServer(Server):
    """A server with two workers."""

    def __init__(self, directory: Path, state: Path, redis: RedisServer, *options: str, seed: str = SEED) -> None:
        assert redis.command("FLUSHALL") == b"+OK\r\n"
        super().__init__(directory, state, "--broker", redis.url, "--workers", "2", *options, seed=seed)
        self.state = state
        self.clients: list[http.client.HTTPConnection] = []

    def workers(self) -> list[int]:
        """Return the processes of the workers that serve connections."""
        children = psutil.Process(self.process.pid).children()
        found = []
        for each in children:
            with contextlib.suppress(psutil.NoSuchProcess):
                if any("serving.worker" in word for word in each.cmdline()) and each.net_connections("tcp"):
                    found.append(each.pid)
        return sorted(found)

    def counts(self) -> Path:
        """Return the directory in which all processes count for the metrics."""
        mapped = (Path(each.path) for each in psutil.Process(self.process.pid).memory_maps())
        return next(each.parent for each in mapped if each.parent.name.startswith("twisted-cm-metrics-"))

    def both(self, scheme: str = "http") -> list[Client]:
        """Return a client of each worker, once there are two."""

        def made() -> list[Client] | None:
            pids = self.workers()
            return [self.client(pid, scheme) for pid in pids] if len(pids) == 2 else None

        found: list[Client] = until(made)
        return found

    def client(self, pid: int, scheme: str = "http") -> Client:
        """Return a client of one worker."""
        for _ in range(300):
            connection = self.connect(scheme)
            port = connection.sock.getsockname()[1]
            # The answer shows that a worker has taken the connection.
            connection.request("GET", "/healthz")
            connection.getresponse().read()
            if any(each.raddr and each.raddr.port == port for each in psutil.Process(pid).net_connections("tcp")):
                return Client(connection)
            self.clients.remove(connection)
            connection.close()
        raise AssertionError("the worker gets no connections")

    def connect(self, scheme: str) -> http.client.HTTPConnection:
        url = urlsplit(self.urls[scheme])
        if scheme == "https":
            context = ssl.create_default_context(cafile=str(self.state / "ca.pem"))
            made: Any = http.client.HTTPSConnection(url.hostname, url.port, timeout=60, context=context)
        else:
            made = http.client.HTTPConnection(url.hostname, url.port, timeout=60)
        made.connect()
        self.clients.append(made)
        connection: http.client.HTTPConnection = made
        return connection

    def ask(self, method: str, path: str) -> tuple[int, bytes]:
        """Send a request on a new connection, which any worker may serve, and return the status and the body."""
        client = Client(self.connect("http"))
        try:
            return client.ask(method, path)
        finally:
            client.connection.close()

    def close_clients(self) -> None:
        """Close all connections to the server."""
        for each in self.clients:
            each.close()

    def close(self) -> None:
        """Stop the server, and kill what is left of it."""
        self.close_clients()
        processes = [self.process.pid]
        with contextlib.suppress(psutil.NoSuchProcess):
            processes += [each.pid for each in psutil.Process(self.process.pid).children(recursive=True)]
        if self.process.poll() is None:
            self.process.terminate()
            self.log += self.process.communicate(timeout=20)[0]
        left = [each for each in processes if alive(each)]
        for each in left:
            os.kill(each, signal.SIGKILL)


@pytest.fixture
def start(tmp_path: Path, state_dir: Path, redis_server: RedisServer) -> Iterator[Callable[..., WorkersServer]]:
    """Return a function that starts a server with two workers."""
    started: list[WorkersServer] = []

    def make(*options: str, seed: str = SEED) -> WorkersServer:
        directory = tmp_path / f"server-{len(started)}"
        directory.mkdir()
        started.append(WorkersServer(directory, state_dir, redis_server, *options, seed=seed))
        return started[-1]

    yield make
    for each in started:
        each.close()
