"""Start modules for the tests of whole systems."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator

import pytest
from conftest import ROOT, RUNTIMES, Server, kill
from sdk_processes import SDK_PYTHON, Launch, get, until


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


@pytest.fixture
def typed_module(server: Server, launch: Launch) -> None:
    """Start the module with the typed functions, four tasks at a time."""
    # The SDK takes times without a zone for local ones.
    server.environment["TZ"] = "UTC"
    module = launch(SDK_PYTHON, str(ROOT / "tests/sdk/typed_module.py"), options=("--max-concurrent-tasks", "4"))
    until(lambda: get(server, f"{RUNTIMES}/one")["schemas"], module)
