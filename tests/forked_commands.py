"""Starts ``twisted-cm`` commands, ``twistd`` and pytest as forks of a process that has imported all of them.

To start Python and to import takes most of the time of a command: half a second for ``serve``. In a run of the tests,
the first start of each command is one as a user does it. On Linux, later starts are forks.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from multiprocessing import forkserver
from multiprocessing.reduction import DupFd
from operator import methodcaller
from pathlib import Path
from threading import Thread
from typing import IO, Any, AnyStr, NoReturn

import pytest
import twisted.internet
from twisted.scripts import twistd

from twisted_cm.cli.main import COMMANDS, main

#: The scripts of the commands, of twistd, and of pytest.
TWISTED_CM = str(Path(sys.executable).parent / "twisted-cm")
TWISTD = str(Path(sys.executable).parent / "twistd")
PYTEST = str(Path(sys.executable).parent / "pytest")

_context = multiprocessing.get_context("forkserver")

# This directory has a file for each command that has been started.
_started: Path


def note_starts_in(directory: Path) -> None:
    """Note in a directory which commands have been started. All workers of pytest use the same one."""
    global _started
    _started = directory


def start_command(arguments: Sequence[str], **options: Any) -> subprocess.Popen[Any]:
    """Start ``twisted-cm`` with some arguments.

    Args:
        options: Those of :class:`subprocess.Popen` that :class:`ForkedCommand` has.
    """
    return _start(arguments[0], [TWISTED_CM, *arguments], options)


def start_twistd(arguments: Sequence[str], **options: Any) -> subprocess.Popen[Any]:
    """Start ``twistd`` with some arguments, so that it stays in the foreground.

    Args:
        options: Those of :class:`subprocess.Popen` that :class:`ForkedCommand` has.
    """
    return _start("twistd", [TWISTD, "-n", *arguments], options)


def start_pytest(
    arguments: Sequence[str], script: bool = False, forked: bool = True, **options: Any
) -> subprocess.Popen[Any]:
    """Start pytest with some arguments.

    Args:
        script: Whether to run ``pytest``, and not ``python -m pytest``, which can import from the working directory.
        forked: Whether it may be a fork, which has imported twisted-cm before it runs pytest.
        options: Those of :class:`subprocess.Popen` that :class:`ForkedCommand` has.
    """
    name, program = ("pytest", [PYTEST]) if script else ("python-m-pytest", [sys.executable, "-m", "pytest"])
    command = [*program, *arguments]
    return _start(name, command, options) if forked else subprocess.Popen(command, **options)


def _start(name: str, command: list[str], options: dict[str, Any]) -> subprocess.Popen[Any]:
    """Start a command: as a user does if no test has started it before, and else as a fork."""
    try:
        (_started / name).touch(exist_ok=False)
    except FileExistsError:
        if sys.platform == "linux":
            return ForkedCommand(command, **options)
    return subprocess.Popen(command, **options)


def run_command(
    arguments: Sequence[str],
    input: bytes | None = None,
    timeout: float = 60,
    start: Callable[..., subprocess.Popen[Any]] = start_command,
    **options: Any,
) -> subprocess.CompletedProcess[Any]:
    """Run a command, and return what it printed.

    Args:
        start: Starts the command: :func:`start_command` or :func:`start_twistd`.
        options: Those of :class:`subprocess.Popen` that :class:`ForkedCommand` has.

    Raises:
        subprocess.TimeoutExpired: It runs for longer than ``timeout`` seconds. It is killed.
    """
    stdin = None if input is None else subprocess.PIPE
    process = start(arguments, stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options)
    try:
        stdout, stderr = process.communicate(input, timeout)
    except BaseException:
        process.kill()
        process.communicate()
        raise
    return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)


@cache
def _start_forking() -> None:
    """Start the process that is forked, and let it import the commands from where this process would."""
    # Each fork of pytest imports its plugins itself, because pytest rewrites their assertions.
    commands = {f"twisted_cm.cli.{module}" for module, _, _ in COMMANDS.values()}
    # Each fork imports this module, too.
    needed = ["pytest", "forked_commands", "compiled_routes", "twisted_cm.twistd", *sorted(commands)]
    _context.set_forkserver_preload(needed)
    directory, path = os.getcwd(), os.environ.get("PYTHONPATH")
    # It looks first in its own directory, which would be that of the clone.
    os.chdir(Path(sys.executable).parent)
    os.environ["PYTHONPATH"] = os.pathsep.join(sys.path)
    try:
        forkserver.ensure_running()
    finally:
        os.chdir(directory)
        if path is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = path


class _Descriptor:
    """A file descriptor to pass to a fork, which gets the number that it has there."""

    def __init__(self, number: int) -> None:
        self._number = number

    def __reduce__(self) -> Any:
        # multiprocessing pickles the arguments of a process while it starts it.
        return methodcaller("detach"), (DupFd(self._number),)


class ForkedCommand(subprocess.Popen[AnyStr]):
    """A ``twisted-cm`` command, ``twistd`` or pytest that is a fork.

    Of its base class, it has only what is defined here. Variables that Python itself reads when it starts, such as
    ``PYTHONUTF8``, have no effect on it.
    """

    def __init__(
        self,
        command: Sequence[str],
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        stdin: int | None = None,
        stdout: int | IO[Any] | None = None,
        stderr: int | IO[Any] | None = None,
        text: bool = False,
        start_new_session: bool = False,
    ) -> None:
        _start_forking()
        self.args = command
        self.returncode: Any = None
        self.stdin = self.stdout = self.stderr = None
        mode = "" if text else "b"
        numbers = [0, 1, 2]
        given: list[int] = []
        if stdin == subprocess.PIPE:
            numbers[0], ours = os.pipe()
            self.stdin = os.fdopen(ours, "w" + mode)
            given.append(numbers[0])
        elif stdin == subprocess.DEVNULL:
            numbers[0] = os.open(os.devnull, os.O_RDONLY)
            given.append(numbers[0])
        if stdout == subprocess.PIPE:
            ours, numbers[1] = os.pipe()
            self.stdout = os.fdopen(ours, "r" + mode)
            given.append(numbers[1])
        elif stdout is not None and not isinstance(stdout, int):
            numbers[1] = stdout.fileno()
        if stderr == subprocess.PIPE:
            ours, numbers[2] = os.pipe()
            self.stderr = os.fdopen(ours, "r" + mode)
            given.append(numbers[2])
        elif stderr == subprocess.STDOUT:
            numbers[2] = numbers[1]
        elif stderr is not None and not isinstance(stderr, int):
            numbers[2] = stderr.fileno()
        prepared, preparing = os.pipe()
        given.append(preparing)
        descriptors = [_Descriptor(each) for each in (*numbers, preparing)]
        limits = [(each, resource.getrlimit(each)) for each in (resource.RLIMIT_FSIZE, resource.RLIMIT_NOFILE)]
        # Unlike others, a daemon does not hold up the end of this process.
        self._process = _context.Process(
            target=_run,
            args=(
                list(command),
                dict(os.environ if env is None else env),
                str(cwd or os.getcwd()),
                limits,
                start_new_session,
                descriptors,
            ),
            daemon=True,
        )
        self._process.start()
        for each in given:
            os.close(each)
        # From now on, the process has its own session.
        os.read(prepared, 1)
        os.close(prepared)
        assert self._process.pid is not None
        self.pid = self._process.pid

    def poll(self) -> Any:
        self.returncode = self._process.exitcode
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self.poll() is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0)
        return self._process.exitcode or 0

    def communicate(self, input: AnyStr | None = None, timeout: float | None = None) -> Any:
        end = None if timeout is None else time.monotonic() + timeout
        output: dict[Any, AnyStr] = {}

        def write() -> None:
            assert self.stdin is not None
            # The command need not read its input.
            with contextlib.suppress(BrokenPipeError), self.stdin:
                if input is not None:
                    self.stdin.write(input)

        def read(stream: IO[AnyStr]) -> None:
            output[stream] = stream.read()

        threads = [Thread(target=read, args=(each,), daemon=True) for each in (self.stdout, self.stderr) if each]
        if self.stdin is not None:
            threads.append(Thread(target=write, daemon=True))
        for each in threads:
            each.start()
        for each in threads:
            each.join(None if end is None else max(end - time.monotonic(), 0))
            if each.is_alive():
                raise subprocess.TimeoutExpired(self.args, timeout or 0)
        self.wait(None if end is None else max(end - time.monotonic(), 0))
        return output.get(self.stdout), output.get(self.stderr)

    def send_signal(self, number: int) -> None:
        # The process may have ended, and its status may not be here yet.
        with contextlib.suppress(ProcessLookupError):
            if self.poll() is None:
                os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def _run(
    command: list[str],
    environment: dict[str, str],
    directory: str,
    limits: list[tuple[int, tuple[int, int]]],
    session: bool,
    descriptors: Any,
) -> None:
    """Run a command in the fork, as the interpreter, and the script or the module of the command would."""
    *numbers, preparing = descriptors
    for number, each in enumerate(numbers):
        os.dup2(each, number)
    for each in numbers:
        os.close(each)
    if session:
        os.setsid()
    for number, limit in limits:
        resource.setrlimit(number, limit)
    os.chdir(directory)
    os.environ.clear()
    os.environ.update(environment)
    time.tzset()
    sys.argv = command
    sys.stdin = os.fdopen(0, closefd=False)
    sys.stdout = os.fdopen(1, "w", closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, errors="backslashreplace", closefd=False)
    # multiprocessing says nothing if it cannot import them.
    assert {"compiled_routes", "twisted_cm.cli.serve", "twisted_cm.twistd"} <= {*sys.modules}, "They are not imported."
    # Klein installs a reactor when it is imported. Each process needs its own: reactors of several processes that share
    # their descriptors would wake each other.
    sys.modules.pop("twisted.internet.reactor", None)
    vars(twisted.internet).pop("reactor", None)
    os.close(preparing)
    if command[0] == TWISTED_CM:
        main()
    elif command[0] == TWISTD:
        twistd.run()
    elif command[0] == PYTEST:
        _run_pytest([str(Path(PYTEST).parent)], command[1:])
    else:
        _run_pytest([os.getcwd()], command[3:])


def _run_pytest(first: list[str], arguments: list[str]) -> NoReturn:
    """Run pytest with ``first`` at the beginning of its import path."""
    tests = str(Path(__file__).parent)
    sys.path[:] = [*first, *(each for each in sys.path if not each.startswith(tests))]
    # pytest cannot rewrite what this process has imported, and need not.
    ignored = "ignore:Module already imported:pytest.PytestAssertRewriteWarning"
    sys.exit(pytest.main(["-W", ignored, *arguments]))
