"""An emulator in a process, and clients on plain sockets that cost little CPU, for the benchmarks."""

from __future__ import annotations

import json
import os
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from cpu import cpu_of

RUNTIME = "/_emulate/foundry/compute-modules/runtimes/bench"
CONTOUR = "/contour-backend-multiplexer/api/module-group-multiplexer"
MIB = 1024 * 1024

_SEED = """
tokens: {token: {login: bench}}
foundry:
  compute_modules:
    poll_timeout: 30
    sync_timeout: 600
    runtimes: [{runtime_id: bench, module_auth_token: module-token}]
    deployed_apps: [{deployed_app_rid: ri.bench, runtime_id: bench}]
"""


class Emulator:
    """A ``twisted-cm serve`` process on loopback that runs until it is closed."""

    def __init__(
        self,
        *options: str,
        lease: int | None = None,
        retained: int | None = None,
        validate_queries: bool = False,
        package: Path | None = None,
    ) -> None:
        """Start the process.

        Args:
            options: More options of ``serve``.
            lease: Seconds of a job's lease; ``None`` for no lease.
            retained: How many finished jobs are kept; ``None`` for the default.
            validate_queries: Whether queries are checked against the schemas of their functions.
            package: The directory with the ``twisted_cm`` to run; ``None`` for the installed one.
        """
        self._directory = tempfile.TemporaryDirectory(prefix="twisted-cm-bench-")
        directory = Path(self._directory.name)
        seed = _SEED if lease is None else f"{_SEED}    job_lease: {lease}\n"
        if retained is not None:
            seed += f"    retention: {{jobs: {retained}}}\n"
        if validate_queries:
            seed += "    validate_queries: true\n"
        (directory / "seed.yaml").write_text(seed)
        command = [
            str(Path(sys.executable).with_name("twisted-cm")),
            *("serve", "--seed", str(directory / "seed.yaml"), "--state-dir", str(directory / "state")),
            *("--port", "0", "--tls-port", "0", "--port-file", str(directory / "ports.json"), *options),
        ]
        self.log = directory / "log"
        self._log: IO[bytes] = self.log.open("wb")
        environment = os.environ | ({} if package is None else {"PYTHONPATH": str(package)})
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=self._log, env=environment)
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if b"Ctrl-C stops." in line:
                break
        self.urls = json.loads((directory / "ports.json").read_text())
        self.state_dir = directory / "state"
        self._trust = ssl.create_default_context(cafile=str(directory / "state" / "ca.pem"))

    def close(self) -> None:
        """Stop it and remove its files."""
        self.process.terminate()
        self.process.wait(20)
        self._log.close()
        self._directory.cleanup()

    def connect(self, scheme: str) -> socket.socket:
        """Return a connection to the listener of ``scheme``."""
        url = urlsplit(self.urls[scheme])
        assert url.hostname is not None and url.port is not None
        client = socket.create_connection((url.hostname, url.port), timeout=120)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return self._trust.wrap_socket(client, server_hostname="localhost") if scheme == "https" else client

    def caller(self, scheme: str) -> socket.socket:
        """Return a synchronous caller that has submitted a job."""
        client = self.connect(scheme)
        self.call(client)
        return client

    def call(self, client: socket.socket) -> None:
        """Submit a job on ``client`` as a synchronous caller."""
        body = b'{"deployedAppRid": "ri.bench", "queryType": "f"}'
        client.sendall(
            b"POST %s/compute-modules/jobs/execute HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer token\r\n"
            b"Content-Length: %d\r\n\r\n%s" % (CONTOUR.encode(), len(body), body)
        )

    def take(self, client: socket.socket) -> str:
        """Return the id of the next job, polled for on ``client``."""
        client.sendall(
            f"GET {RUNTIME}/job HTTP/1.1\r\nHost: localhost\r\nModule-Auth-Token: module-token\r\n\r\n".encode()
        )
        _, body = read_answer(client)
        envelope: dict[str, Any] = json.loads(body)
        job_id: str = envelope["computeModuleJobV1"]["jobId"]
        return job_id

    def memory(self, field: str) -> int:
        """Return the emulator's memory in bytes.

        Args:
            field: ``VmRSS`` for the memory now, ``VmHWM`` for the peak since :meth:`forget_peak`.
        """
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith(field):
                return int(line.split()[1]) * 1024
        raise AssertionError(field)

    def cpu(self) -> float:
        """Return the seconds of a core that the emulator has used."""
        return cpu_of(self.process.pid)

    def forget_peak(self) -> None:
        """Start to measure the peak memory again."""
        Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")


def read_head(client: socket.socket) -> tuple[bytes, int, bytes]:
    """Return the head of an answer, the length of its body as it says, and what of that has come with it."""
    received = b""
    while b"\r\n\r\n" not in received:
        received += client.recv(65536)
    head, _, begun = received.partition(b"\r\n\r\n")
    length = next(
        (int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length")), 0
    )
    return head, length, begun


def read_answer(client: socket.socket) -> tuple[bytes, bytes]:
    """Return the head and the body of an answer that says its length."""
    head, length, body = read_head(client)
    while len(body) < length:
        body += client.recv(length - len(body))
    return head, body


def receive(client: socket.socket, size: int) -> None:
    """Receive a number of bytes and discard them."""
    buffer = bytearray(min(size, MIB))
    while size:
        received = client.recv_into(buffer, min(size, len(buffer)))
        assert received, "the connection was closed"
        size -= received


def start_and_stop(state_dir: Path) -> float:
    """Return the milliseconds from the command until a connection is accepted.

    Args:
        state_dir: A directory with certificates that an earlier start made.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
        command = [
            str(Path(sys.executable).with_name("twisted-cm")),
            *("serve", "--port", str(port), "--tls-port", "0", "--state-dir", str(state_dir)),
        ]
        started = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while True:
            with suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port)):
                break
            time.sleep(0.002)
        taken = (time.perf_counter() - started) * 1000
        process.terminate()
        process.wait(20)
    return taken
