"""What do the tests of the command line share? A terminal, and requests that need no command."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import struct
import subprocess
import termios
from typing import Any
from urllib.request import Request, urlopen

from conftest import BIN, RUNTIMES, Server


class Terminal:
    """A command that writes to a terminal of its own, or only its errors."""

    def __init__(self, server: Server, *arguments: str, stderr_only: bool = False, columns: int = 400) -> None:
        self.master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
        # These would take precedence over the size of the terminal.
        environment = {name: value for name, value in server.environment.items() if name not in ("COLUMNS", "LINES")}
        self.process = subprocess.Popen(
            [str(BIN / "twisted-cm"), *arguments],
            env={**environment, "TERM": "xterm"},
            stdin=slave,
            stdout=subprocess.PIPE if stderr_only else slave,
            stderr=slave,
            start_new_session=True,
        )
        os.close(slave)
        self.seen = b""

    def _read(self) -> bytes:
        try:
            return os.read(self.master, 65536)
        except OSError:
            # The other end is closed.
            return b""

    def until(self, text: bytes) -> None:
        """Read until the text has been shown."""
        while text not in self.seen:
            more = self._read()
            assert more, self.seen
            self.seen += more

    def end(self) -> str:
        """Wait for the end, and return everything that was shown."""
        while more := self._read():
            self.seen += more
        os.close(self.master)
        self.process.wait(timeout=10)
        return self.seen.decode()


def enqueue(server: Server, function: str, query: Any = None, runtime: str = "one") -> str:
    """Queue a job and return its id."""
    body = json.dumps({"queryType": function, "query": query}).encode()
    headers = {"Authorization": "Bearer app-token"}
    with urlopen(Request(f"{server.urls['http']}{RUNTIMES}/{runtime}/jobs", body, headers), timeout=10) as answer:
        job_id: str = json.load(answer)["job_id"]
        return job_id


def module(server: Server, runtime: str, path: str, body: bytes | None = None) -> bytes:
    """Send a request of a runtime."""
    url = f"{server.urls['http']}{RUNTIMES}/{runtime}{path}"
    with urlopen(Request(url, body, {"Module-Auth-Token": f"token-{runtime}"}), timeout=10) as answer:
        content: bytes = answer.read()
        return content


def cells(printed: bytes) -> list[list[str]]:
    """Split lines with tabs into cells."""
    return [line.split("\t") for line in printed.decode().splitlines()]
