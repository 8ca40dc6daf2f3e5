"""A Redis for tests and benchmarks, in a process of its own."""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

from cpu import cpu_of

#: The options of a Redis that keeps whatever it has acknowledged.  With the default, to sync its file each second, it
#: may answer before it has written, while a sync is under way.
KEEPS_ALL = ("--appendonly", "yes", "--appendfsync", "always")


class RedisServer:
    """A real Redis on a Unix socket, with files of its own."""

    def __init__(self, *options: str) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="twisted-cm-redis-")
        self._options = options
        self.socket = Path(self._directory.name) / "redis.sock"
        self.url = f"unix://{self.socket}"
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        """Start it, with the files that it had before."""
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
        """The seconds of a core that it has used."""
        assert self._process is not None
        return cpu_of(self._process.pid)

    def command(self, *words: str) -> bytes:
        """The first bytes of an answer, or none where there is no Redis."""
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as client:
            client.connect(str(self.socket))
            client.sendall(" ".join(words).encode() + b"\r\n")
            return client.recv(65536)
        return b""

    def kill(self) -> None:
        """End it as a crash would."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """End it in good order."""
        self._end(signal.SIGTERM)

    def _end(self, how: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(20)
            self._process = None

    def pause(self) -> None:
        """Let it hang."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def close(self) -> None:
        """Stop it and remove its files."""
        self.stop()
        self._directory.cleanup()
