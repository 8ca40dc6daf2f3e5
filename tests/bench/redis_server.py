"""A Redis process for tests and benchmarks."""

from __future__ import annotations

import contextlib
import re
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

from cpu import cpu_of

#: The options of a Redis that keeps everything that it has acknowledged. By default, it syncs its file each second, and
#: during a sync it may answer before it has written.
KEEPS_ALL = ("--appendonly", "yes", "--appendfsync", "always")


class RedisServer:
    """A Redis on a Unix socket, in a directory of its own.

    Attributes:
        socket: The path of the socket.
        url: The URL for ``--broker``.
    """

    def __init__(self, *options: str) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="twisted-cm-redis-")
        self._options = options
        self.socket = Path(self._directory.name) / "redis.sock"
        self.url = f"unix://{self.socket}"
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        """Start Redis, with its former files."""
        command = ["redis-server", "--port", "0", "--unixsocket", str(self.socket), "--dir", self._directory.name]
        self._process = subprocess.Popen([*command, "--save", "", *self._options], stdout=subprocess.DEVNULL)
        for _ in range(1000):
            if self.command("PING").startswith((b"+PONG", b"-NOAUTH")):
                return
            assert self._process.poll() is None, "redis-server did not start"
            time.sleep(0.01)
        self.stop()
        raise AssertionError("redis-server does not answer")

    def cpu(self) -> float:
        """Return the CPU seconds that Redis has used."""
        assert self._process is not None
        return cpu_of(self._process.pid)

    def operations(self) -> int:
        """Return how many functions have been called."""
        found = re.search(rb"cmdstat_fcall:calls=(\d+)", self.command("INFO", "commandstats"))
        return int(found[1]) if found else 0

    def command(self, *words: str) -> bytes:
        """Run a command; return the first bytes of the answer, or none if Redis is not there."""
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as client:
            client.connect(str(self.socket))
            client.sendall(" ".join(words).encode() + b"\r\n")
            return client.recv(65536)
        return b""

    def kill(self) -> None:
        """Kill Redis."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """Let Redis shut down."""
        self._end(signal.SIGTERM)

    def _end(self, how: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(20)
            self._process = None

    def pause(self) -> None:
        """Suspend Redis, so that it hangs."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Resume a suspended Redis."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def close(self) -> None:
        """Stop Redis and remove its files."""
        self.stop()
        self._directory.cleanup()
