"""Start modules for the tests of whole systems."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator

import pytest
from conftest import RUNTIMES, Server, kill
from sdk_processes import get, until


@pytest.fixture
def launch(server: Server) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Return a function that starts a module with ``twisted-cm exec`` and waits for its poll; end the modules later."""
    started: list[subprocess.Popen[bytes]] = []

    def start(*command: str, runtime: str = "one", options: tuple[str, ...] = ()) -> subprocess.Popen[bytes]:
        join = ("--runtime", runtime, "--module-auth-token", f"token-{runtime}", *options)
        process = server.start("exec", *join, "--", *command)
        started.append(process)
        before = get(server, f"{RUNTIMES}/{runtime}")["last_poll_at"]
        until(lambda: get(server, f"{RUNTIMES}/{runtime}")["last_poll_at"] != before, process)
        return process

    yield start
    for process in started:
        kill(process)
