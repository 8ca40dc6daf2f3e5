"""Run the real compute module of a project against an emulator, as a process.

Importing this module imports no reactor.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlencode

from attrs import NOTHING, frozen

from ..client.records import Result
from ..config.seed import Seed, SeedLike, make_seed
from ..model.paths import EMULATOR, replica_path, runtime_path
from ..model.replicas import DEFAULT_REPLICA
from ..model.types import JSONValue
from .process import EmulatorProcess
from .process_output import ProcessOutput

#: The runtime and the deployed app of the module, if there is no seed.
RUNTIME_ID = "pytest-module"
DEPLOYED_APP_RID = "ri.foundry.main.deployed-app.pytest-module"

#: Seconds that a module may take to connect.
_PATIENCE = 60

#: Seconds after a reset within which a module polls again. SDKs do it at once.
_POLLS_AGAIN = 5

#: Seconds that a module may take to stop before it is killed. ``exec`` kills it a little earlier.
_GRACE = 15

#: The last lines of its output that an error shows.
_SHOWN_LINES = 20

#: Runs the command line. The modules of the project must not hide those of the standard library from it.
_EXEC = """
import sys
sys.path[:] = filter(None, sys.path)
from twisted_cm.cli import main
main(prog_name="twisted-cm")
"""


class UnusableModule(Exception):
    """It is not clear how to start the module; the message says what to do."""


class ModuleEnded(Exception):
    """The process of the module has ended; the message has its exit status and its last lines."""


@frozen
class ModulePlan:
    """How to start a module.

    Attributes:
        seed: The seed of the emulator.
        runtime_id: The runtime that the module serves.
        deployed_app_rid: A deployed app of the runtime, or ``None`` if it has none.
        command: The program and its arguments.
        directory: The working directory.
    """

    seed: SeedLike
    runtime_id: str
    deployed_app_rid: str | None
    command: tuple[str, ...]
    directory: Path

    @classmethod
    def make(cls, seed: SeedLike, command_line: str, runtime_id: str, directory: Path) -> ModulePlan:
        """Return the plan for a project.

        Args:
            seed: The seed of the project, or ``None`` for one with nothing but the module's runtime.
            command_line: The command as in a shell; empty for that of the seed.
            runtime_id: The runtime; empty for the only one of the seed.
            directory: The directory of the project.

        Raises:
            InvalidSeed: The seed has errors.
            UnusableModule: There is no command, or it is not clear which runtime the module serves.
        """
        try:
            command = tuple(shlex.split(command_line))
        except ValueError as error:
            raise UnusableModule(f"The ini option compute_modules_command is not valid: {error}.") from None
        if seed is None:
            runtime_id = runtime_id or RUNTIME_ID
            deployed_app = {"deployed_app_rid": DEPLOYED_APP_RID, "runtime_id": runtime_id}
            runtimes = {"runtimes": [{"runtime_id": runtime_id}], "deployed_apps": [deployed_app]}
            seed = {"foundry": {"compute_modules": runtimes}}
        parsed = make_seed(seed)
        runtime_id = _runtime_of(parsed, runtime_id)
        process = next(each.process for each in parsed.runtimes if each.runtime_id == runtime_id)
        if not command and process is not None:
            command = process.command
            directory /= process.directory
        if not command:
            raise UnusableModule(
                "No command starts the module. Add one to pytest.ini: compute_modules_command = python app.py"
            )
        return cls(seed, runtime_id, parsed.deployed_app_of(runtime_id), command, directory)


def _runtime_of(seed: Seed, named: str) -> str:
    names = [each.runtime_id for each in seed.runtimes]
    if not names:
        raise UnusableModule("The seed has no runtime for the module to serve. Add one under 'runtimes'.")
    if named in names or (not named and len(names) == 1):
        return named or names[0]
    problem = f"The seed has no runtime '{named}'" if named else "The seed has several runtimes"
    raise UnusableModule(
        f"{problem}. Name one of them with the ini option compute_modules_runtime: {', '.join(names)}."
    )


class ModuleEmulator(EmulatorProcess):
    """An emulator for a real module: a reset keeps the module connected, with its schemas."""

    _reset_path = f"{EMULATOR}/reset?keep=replicas"

    def may_be_busy(self, runtime_id: str) -> bool:
        """Return whether the module of a runtime may still run a job: one that it was given and did not answer.

        A job that was canceled or that failed may still run in the module, because nothing tells an SDK to stop.
        """
        for status in ("running", "canceled", "failed"):
            path = f"{EMULATOR}/jobs?" + urlencode({"runtime": runtime_id, "status": status, "limit": 1000})
            if any(each["started_at"] is not None for each in self._server.request_json("GET", path)["jobs"]):
                return True
        return False

    def open_replica(self, runtime_id: str) -> str | None:
        """Return the id of the replica that was opened last for the module of a runtime, or ``None`` if it is gone."""
        replicas = self._server.request_json("GET", f"{runtime_path(runtime_id)}/replicas")
        opened = [each["replica_id"] for each in replicas if each["ended_at"] is None]
        return opened[-1] if opened[-1:] != [DEFAULT_REPLICA] else None

    def wait_connected(self, runtime_id: str, replica_id: str, timeout: int) -> bool:
        """Wait until a replica polls or is gone; return whether it polls."""
        path = f"{replica_path(runtime_id, replica_id)}?until=connected"
        state = self._server.request_json("GET", path, Prefer=f"wait={timeout}")["state"]
        return state in ("responsive", "busy")


class ComputeModuleProcess:
    """The real module of a project, as a process that serves a runtime of an emulator.

    ``twisted-cm exec`` runs the module. It ends with the process that started it, even if that is killed.

    Attributes:
        emulator: The emulator.
        runtime_id: The runtime that the module serves.
        deployed_app_rid: A deployed app of the runtime, or ``None`` if the seed has none.
        command: The program of the module and its arguments.
    """

    def __init__(self, emulator: ModuleEmulator, plan: ModulePlan) -> None:
        """Prepare a module; :meth:`start` starts it."""
        self.emulator = emulator
        self.runtime_id = plan.runtime_id
        self.deployed_app_rid = plan.deployed_app_rid
        self.command = plan.command
        self._directory = plan.directory
        self._earlier = b""
        self._running: ProcessOutput | None = None

    @property
    def output(self) -> str:
        """What the module has written until now to standard output and standard error."""
        return self.output_from(0)

    @property
    def output_size(self) -> int:
        """The number of bytes of the output until now."""
        return len(self._output())

    def output_from(self, start: int) -> str:
        """Return the output without its first bytes.

        Args:
            start: The number of bytes to leave out.
        """
        return self._output()[start:].decode("utf-8", "replace")

    def _output(self) -> bytes:
        written = b"" if self._running is None else self._running.content()
        # What the command says when all is well is not what the module wrote.
        mark = f"^twisted-cm: {re.escape(self.runtime_id)}: (connected, .*|stopped)\n".encode()
        return self._earlier + re.sub(mark, b"", written, flags=re.MULTILINE)

    def start(self) -> None:
        """Start the module, and wait until it is connected.

        Raises:
            ModuleEnded: It ended before that, or took too long.
        """
        emulator = self.emulator
        assert emulator.seed_file is not None
        options = ["--runtime", self.runtime_id, "--seed", str(emulator.seed_file), "--url", emulator.url]
        options += ["--state-dir", str(emulator.directory), "--stop-with-stdin"]
        process = subprocess.Popen(
            [sys.executable, "-c", _EXEC, "exec", *options, "--", *self.command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=self._directory,
            # Otherwise the output of a module in Python arrives long after it was written.
            env={"PYTHONUNBUFFERED": "1", **os.environ},
            start_new_session=True,
        )
        self._running = ProcessOutput(process)
        connected = f"twisted-cm: {self.runtime_id}: connected, ".encode()
        if self._running.wait_until(lambda written: connected in written, _PATIENCE):
            return
        status = self._running.status
        self.stop()
        if status is not None:
            raise ModuleEnded(self._describe_end(status, " before it was connected"))
        raise ModuleEnded(
            f"The compute module '{shlex.join(self.command)}' is not connected after {_PATIENCE} seconds."
            f"{self._last_lines()}"
        )

    def check(self) -> None:
        """Check that the module runs.

        Raises:
            ModuleEnded: It has ended.
        """
        if self._running is None:
            raise ModuleEnded(f"The compute module '{shlex.join(self.command)}' is not started.")
        status = self._running.status
        if status is not None:
            raise ModuleEnded(self._describe_end(status, ""))

    def _describe_end(self, status: int, when: str) -> str:
        said = f"The compute module '{shlex.join(self.command)}' ended with exit status {status}{when}."
        return said + self._last_lines()

    def _last_lines(self) -> str:
        lines = self.output.splitlines()
        if not lines:
            return " It printed nothing."
        shown = lines[-_SHOWN_LINES:]
        return "\n".join([f" Its last {len(shown)} lines:" if len(shown) > 1 else " Its last line:", *shown])

    def stop(self) -> None:
        """Stop the module with SIGTERM, as Foundry stops a container; if it takes too long, kill it."""
        if self._running is None:
            return
        stdin = self._running.process.stdin
        assert stdin is not None
        with suppress(BrokenPipeError):
            stdin.close()
        if not self._running.wait_for_exit(_GRACE):
            self._running.kill()
            self._running.wait_for_exit(_GRACE)
        self._earlier = self._output()
        self._running.close()
        self._running = None

    def restart(self) -> None:
        """Stop the module and start it again. Jobs that it runs fail.

        Raises:
            ModuleEnded: It ended before it was connected.
        """
        self.stop()
        self.start()

    def reset(self) -> None:
        """Reset the emulator to its seed; the module stays connected.

        If the module may still run a job, it is started again: that job could hold up the next ones.

        Raises:
            ModuleEnded: It has ended.
        """
        replica_id = self._check_replica()
        if self.emulator.may_be_busy(self.runtime_id):
            self.stop()
            self.emulator.reset()
            self.start()
            return
        self.emulator.reset()
        if not self.emulator.wait_connected(self.runtime_id, replica_id, _POLLS_AGAIN):
            self._check_replica()
            self.restart()

    def _check_replica(self) -> str:
        """Return the id of the module's replica. Its command deletes it just before it ends."""
        self.check()
        replica_id = self.emulator.open_replica(self.runtime_id)
        if replica_id is None:
            assert self._running is not None
            self._running.wait_for_exit(_GRACE)
            self.check()
            raise ModuleEnded(f"The replica of the compute module '{shlex.join(self.command)}' is gone.")
        return replica_id

    def execute(self, function: str, query: JSONValue = NOTHING, *, timeout: float = 30.0) -> Result:
        """Run a function of the module and wait for its result.

        Args:
            function: The name of the function.
            query: Any JSON value; an empty object by default.
            timeout: The longest time to wait, in seconds.

        Raises:
            ModuleEnded: The module has ended.
            JobFailed: The job failed or was canceled.
            TimeoutError: The job has not ended in time.
        """
        self.check()
        target = {"runtime_id": self.runtime_id}
        if self.deployed_app_rid is not None:
            target = {"deployed_app_rid": self.deployed_app_rid}
        return self.emulator.execute(function, query, timeout=timeout, **target)


def start_module(plan: ModulePlan, directory: Path) -> ComputeModuleProcess:
    """Start an emulator and a module that serves one of its runtimes.

    Args:
        plan: How to start the module.
        directory: An empty directory for the emulator.

    Raises:
        ModuleEnded: The module ended before it was connected.
    """
    emulator = ModuleEmulator.start(plan.seed, directory=directory)
    module = ComputeModuleProcess(emulator, plan)
    try:
        module.start()
    except ModuleEnded:
        emulator.stop()
        raise
    return module


def stop_module(module: ComputeModuleProcess) -> None:
    """Stop a module and its emulator."""
    module.stop()
    module.emulator.stop()
