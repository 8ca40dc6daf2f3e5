"""Run the emulator as a process, for tests that run no reactor.

Importing this module imports no reactor.
"""

from __future__ import annotations

import json
import math
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from attrs import NOTHING, fields, frozen
from typing_extensions import Self

from ..client.errors import JobFailed, NotFound
from ..client.records import Result
from ..config.seed import SeedLike, make_seed
from ..model.finite import finite
from ..model.jobs import JobState
from ..model.paths import CONTOUR, EMULATOR, RUNTIMES, job_path, runtime_path
from ..model.types import JSONValue
from .blocking import BlockingServer
from .faults import ActiveFault, Faults
from .interface import EmulatorInterface, no_target, not_ended
from .runtimes import ThreadRuntime

#: Seconds that one request parks for the end of a job; the emulator allows 60.
_LONG_POLL = 50

#: Seconds that the process may take to stop before it is killed.
_GRACE = 10


@frozen
class JobRecord:
    """A job at the time of the request, with attributes named as those of :class:`~twisted_cm.model.jobs.Job`."""

    job_id: str
    runtime_id: str
    state: JobState
    queued_at: int
    started_at: int | None
    completed_at: int | None
    attempts: int
    error_message: str | None


class EmulatorProcess(EmulatorInterface[ThreadRuntime, JobRecord]):
    """A ``twisted-cm serve`` process on free ports, made by :meth:`EmulatorProcess.start`.

    The process ends with the process that started it, even if that is killed: it watches its standard input.

    Attributes:
        ca_path: A file with ``ca_certificate``.
        directory: The state directory of the process.
        seed_file: The seed that the process has read, or ``None``.
    """

    https_url: str
    ca_certificate: str
    faults: Faults[ActiveFault]

    #: The path of the request that resets the emulator.
    _reset_path = f"{EMULATOR}/reset"

    def __init__(
        self, process: subprocess.Popen[str], directory: Path, seed_file: Path | None, token: str, admin_token: str
    ) -> None:
        self._process = process
        self.directory = directory
        self.seed_file = seed_file
        urls = json.loads((directory / "ports.json").read_text("utf-8"))
        self.url = urls["http"]
        self.https_url = urls["https"]
        self.ca_path = directory / "ca.pem"
        self.ca_certificate = self.ca_path.read_text("ascii")
        self.token = token
        self._server = BlockingServer(
            self.url, {"Authorization": f"Bearer {admin_token}", "Content-Type": "application/json"}
        )
        self._runtimes: list[ThreadRuntime] = []
        self.faults = Faults(self._add_fault)

    @classmethod
    def start(cls, seed: SeedLike = None, *, directory: Path) -> Self:
        """Start an emulator, and wait until it listens.

        Args:
            seed: A path, the text of a seed, or the value that such text stands for; by default, a seed with nothing
                but the development token.
            directory: An empty directory for the emulator's certificates and its log.

        Raises:
            InvalidSeed: The seed has errors.
            RuntimeError: The process did not start; the message has its log.
        """
        token = next((each.token for each in make_seed(seed).bearer_tokens), "")
        command = [
            sys.executable,
            "-m",
            "twisted_cm",
            "serve",
            "--no-modules",
            "--stop-with-stdin",
            "--port",
            "0",
            "--tls-port",
            "0",
        ]
        command += ["--state-dir", str(directory), "--port-file", str(directory / "ports.json")]
        file = _seed_file(seed, directory)
        if file is not None:
            command += ["--seed", str(file)]
        admin_token, log = secrets.token_urlsafe(), directory / "log"
        with log.open("wb") as stderr:
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                cwd=directory,
                env={**os.environ, "TWISTED_CM_ADMIN_TOKEN": admin_token},
                text=True,
                # Ctrl-C must not reach the process; the tests stop it when they have ended.
                start_new_session=True,
            )
        assert process.stdout is not None
        with process.stdout as banner:
            started = any("Ctrl-C stops." in line for line in banner)
        if not started:
            process.communicate()
            raise RuntimeError(f"twisted-cm serve did not start: {log.read_text('utf-8', 'replace').strip()}")
        return cls(process, directory, file, token, admin_token)

    def run(self, runtime: ThreadRuntime) -> ThreadRuntime:
        runtime.serve(self.url, self._module_auth_token(runtime))
        self._runtimes.append(runtime)
        return runtime

    def dismiss(self) -> None:
        dismissed, self._runtimes = self._runtimes, []
        for runtime in dismissed:
            runtime.stop()

    def reset(self) -> None:
        for runtime in self._runtimes:
            runtime.stop()
        self._server.request_json("POST", self._reset_path)
        for runtime in self._runtimes:
            runtime.calls.clear()
            runtime.serve(self.url, self._module_auth_token(runtime))

    def stop(self) -> None:
        self.dismiss()
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(_GRACE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def enqueue(
        self,
        query_type: str,
        query: JSONValue = NOTHING,
        *,
        runtime_id: str | None = None,
        deployed_app_rid: str | None = None,
        branch: str | None = None,
    ) -> JobRecord:
        body = {"queryType": query_type, "query": {} if query is NOTHING else query}
        if runtime_id is not None:
            return self.job(self._server.request_json("POST", f"{runtime_path(runtime_id)}/jobs", body)["job_id"])
        if deployed_app_rid is None:
            raise no_target()
        body |= {"deployedAppRid": deployed_app_rid, "deployedAppBranch": branch}
        return self.job(self._server.request_json("POST", f"{CONTOUR}/deployed-apps/jobs", body)["id"])

    def job(self, job_id: str) -> JobRecord:
        names = [each.name for each in fields(JobRecord)]
        page = self._server.request_json("GET", f"{EMULATOR}/jobs?limit=1000")
        while True:
            for job in page["jobs"]:
                if job["job_id"] == job_id:
                    return JobRecord(**{name: job.get(name) for name in names} | {"state": JobState(job["status"])})
            if page["next"] is None:
                raise NotFound.make(f"Unknown job '{job_id}'.", job_id=job_id)
            page = self._server.request_json("GET", f"{EMULATOR}/jobs?limit=1000&before={page['next']}")

    def wait_for(self, job_id: str, timeout: float = 30.0) -> JobRecord:
        finite("timeout", timeout)
        path = f"{job_path(job_id)}/status"
        deadline = time.monotonic() + timeout
        while True:
            wait = min(_LONG_POLL, max(0, math.ceil(deadline - time.monotonic())))
            state = JobState(self._server.request_json("GET", path, Prefer=f"wait={wait}")["type"])
            if state.finished:
                return self.job(job_id)
            if time.monotonic() >= deadline:
                raise not_ended(job_id, state, timeout)

    def result(self, job_id: str) -> bytes:
        return self._server.request("GET", f"{job_path(job_id)}/result")

    def execute(
        self,
        query_type: str,
        query: JSONValue = NOTHING,
        *,
        runtime_id: str | None = None,
        deployed_app_rid: str | None = None,
        branch: str | None = None,
        timeout: float = 30.0,
    ) -> Result:
        """Run a function and wait for its result.

        The arguments are those of :meth:`enqueue` and :meth:`wait_for`. If the function raises an exception, the job
        has succeeded, and :attr:`Result.exception <twisted_cm.client.Result.exception>` says what was raised.

        Raises:
            JobFailed: The job failed or was canceled.
            TimeoutError: The job has not ended in time.
        """
        job = self.enqueue(query_type, query, runtime_id=runtime_id, deployed_app_rid=deployed_app_rid, branch=branch)
        ended = self.wait_for(job.job_id, timeout)
        if ended.state is not JobState.SUCCEEDED:
            raise JobFailed.make(ended.error_message or f"The job was {ended.state.value}.", job_id=job.job_id)
        return Result(job.job_id, self.result(job.job_id))

    def runtimes(self) -> list[dict[str, JSONValue]]:
        return list(self._server.request_json("GET", RUNTIMES))

    def fail_next(
        self, count: int = 1, message: str | None = None, *, runtime_id: str | None = None, function: str | None = None
    ) -> None:
        plan = {"runtime_id": runtime_id, "function": function, "count": count, "message": message}
        given = {name: value for name, value in plan.items() if value is not None}
        self._server.request_json("POST", f"{EMULATOR}/faults", {"kind": "fail_job", **given})

    def _add_fault(self, fields: dict[str, JSONValue]) -> ActiveFault:
        added = self._server.request_json("POST", f"{EMULATOR}/faults", fields)
        return ActiveFault(
            added["fault_id"], lambda fault_id: self._server.request_json("DELETE", f"{EMULATOR}/faults/{fault_id}")
        )

    def _module_auth_token(self, runtime: ThreadRuntime) -> str:
        """Return the token of the existing runtime, if no deployed app is to be bound; open a session otherwise."""
        if runtime.deployed_app_rid is None:
            with suppress(NotFound):
                return str(self._server.request_json("GET", runtime_path(runtime.runtime_id))["module_auth_token"])
        session = {
            "runtimeId": runtime.runtime_id,
            "deployedAppRid": runtime.deployed_app_rid,
            "branch": runtime.branch,
            "displayName": runtime.display_name,
            "keepBindings": True,
        }
        return str(self._server.request_json("POST", RUNTIMES, session)["moduleAuthToken"])


def _seed_file(seed: SeedLike, directory: Path) -> Path | None:
    """Return the file to start a process with; write it, if the seed is not a path."""
    if seed is None:
        return None
    if isinstance(seed, Path):
        return seed.absolute()
    if not isinstance(seed, str | Mapping):
        raise TypeError("the seed of a process must be a path, text or a mapping")
    # JSON is a subset of YAML.
    file = directory / "seed.yaml"
    file.write_text(seed if isinstance(seed, str) else json.dumps(seed), "utf-8")
    return file
