"""A project with a real module on the official Python SDK, and with tests of it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from conftest import FEWER_PLUGINS, kill
from forked_commands import start_pytest
from sdk_processes import SDK_PYTHON

#: Options for the runs of pytest: their tests use no plugin but those of twisted-cm and pytest-twisted.
ONLY_OURS = (
    *FEWER_PLUGINS,
    *(f"-pno:{plugin}" for plugin in ("anyio", "asyncio", "cacheprovider", "timeout", "xdist")),
)

#: A module on the official SDK.
APP = """
import os, signal, sys, time
from dataclasses import dataclass

from compute_modules.annotations import function
from compute_modules.startup import start_compute_module

@dataclass
class Pair:
    a: int
    b: int

@function
def add(context, event: Pair) -> int:
    print("adding", event.a, event.b)
    return event.a + event.b

@function
def who(context, event):
    return os.getppid()

@function
def name(context, event):
    return os.environ.get("MY_NAME")

@function
def stay(context, event):
    time.sleep(600)

@function
def die(context, event):
    print("about to die in", os.getpid(), flush=True)
    # The parent of the worker is the module.
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(600)

if __name__ == "__main__":
    print("the module starts")
    start_compute_module()
"""


class Project:
    """A project with a module and tests."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.write("app.py", APP)
        self.configure(f"compute_modules_command = {SDK_PYTHON} app.py")

    def configure(self, *lines: str) -> None:
        self.write("pytest.ini", "\n".join(("[pytest]", *lines)))

    def write(self, name: str, content: str) -> None:
        (self.directory / name).write_text(content, "utf-8")

    def start(self, *options: str) -> subprocess.Popen[bytes]:
        """Start pytest; the caller ends it."""
        ours = ("PYTEST_", "COV_", "TWISTED_CM_")
        return start_pytest(
            [*ONLY_OURS, "--basetemp", str(self.directory / "temporary"), *options],
            cwd=self.directory,
            env={name: value for name, value in os.environ.items() if not name.startswith(ours)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def run(self, tests: str, *options: str, status: int = 0) -> str:
        """Run tests to their end, check the exit status, and return what was printed."""
        self.write("test_mine.py", tests)
        process = self.start(*options)
        try:
            printed = process.communicate(timeout=100)[0].decode()
        finally:
            kill(process)
        assert process.returncode == status, printed
        return printed
