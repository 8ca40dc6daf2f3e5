"""
The emulator as a process of its own, for tests that run no reactor.

L{EmulatorProcess} is to such tests what L{twisted_cm.testing.Emulator} is to
those that run in the reactor, under the same names, with methods that block;
L{ThreadRuntime} stands in for a module.  No reactor is imported here.
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
from typing import TypeVar

from attrs import fields, frozen

from ..client.errors import NotFound
from ..config.seed import SeedLike, make_seed
from ..model.jobs import JobState
from ..model.paths import CONTOUR, EMULATOR, RUNTIMES, job_path, runtime_path
from ..model.types import JSONValue
from .blocking import BlockingServer
from .runtimes import ThreadRuntime

T = TypeVar("T")


#: Seconds that one request for a status parks while a job is waited for; the emulator allows 60.
_LONG_POLL = 50


#: Seconds that the process has to end; at the end of a test run nobody is parked any more.
_GRACE = 10


@frozen
class JobRecord:
    """A job as the emulator told of it, by the names that L{twisted_cm.jobs.Job} has."""

    job_id: str
    runtime_id: str
    state: JobState
    queued_at: int
    started_at: int | None
    completed_at: int | None
    attempts: int
    error_message: str | None


class EmulatorProcess:
    """
    A C{twisted-cm serve} process on ports of its own; made by L{EmulatorProcess.start}.

    It ends with this process, however that does.

    @ivar url: its base URL.
    @ivar https_url: its base URL over TLS.
    @ivar ca_certificate: what to verify that with, in PEM.
    @ivar ca_path: the same as a file.
    @ivar token: a bearer token that is valid.
    """

    def __init__(self, process: subprocess.Popen[str], directory: Path, token: str, admin_token: str) -> None:
        self._process = process
        urls = json.loads((directory / "ports.json").read_text("utf-8"))
        self.url: str = urls["http"]
        self.https_url: str = urls["https"]
        self.ca_path = directory / "ca.pem"
        self.ca_certificate = self.ca_path.read_text("ascii")
        self.token = token
        self._server = BlockingServer(
            self.url, {"Authorization": f"Bearer {admin_token}", "Content-Type": "application/json"}
        )
        self._runtimes: list[ThreadRuntime] = []

    @classmethod
    def start(cls, seed: SeedLike = None, *, directory: Path) -> EmulatorProcess:
        """
        Start an emulator, and wait until it listens.

        @param seed: the seed; by default there is nothing but the development token.
        @param directory: for its certificates and its log; nobody else uses it.
        @raise twisted_cm.seed.InvalidSeed: something in the seed is wrong.
        @raise RuntimeError: it did not start; the message says why.
        """
        token = next((each.token for each in make_seed(seed).bearer_tokens), "")
        command = [sys.executable, "-m", "twisted_cm", "serve", "--stop-with-stdin", "--port", "0", "--tls-port", "0"]
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
                # Ctrl-C is for the tests, which end it in their own time.
                start_new_session=True,
            )
        assert process.stdout is not None
        with process.stdout as banner:
            started = any("Ctrl-C stops." in line for line in banner)
        if not started:
            process.communicate()
            raise RuntimeError(f"twisted-cm serve did not start: {log.read_text('utf-8', 'replace').strip()}")
        return cls(process, directory, token, admin_token)

    def run(self, runtime: ThreadRuntime) -> ThreadRuntime:
        """
        Have a runtime take jobs, until it or the emulator is stopped; it is back after a L{reset}.

        A runtime that is there already, such as a seeded one, is joined with all that waits for it.

        @return: C{runtime}.
        """
        runtime.serve(self.url, self._module_auth_token(runtime))
        self._runtimes.append(runtime)
        return runtime

    def dismiss(self) -> None:
        """Have every runtime that L{run} here take no more jobs; a L{reset} does not bring it back."""
        dismissed, self._runtimes = self._runtimes, []
        for runtime in dismissed:
            runtime.stop()

    def _module_auth_token(self, runtime: ThreadRuntime) -> str:
        with suppress(NotFound):
            if runtime.deployed_app_rid is None:
                return str(self._server.ask("GET", runtime_path(runtime.runtime_id))["module_auth_token"])
        session = {
            "runtimeId": runtime.runtime_id,
            "deployedAppRid": runtime.deployed_app_rid,
            "branch": runtime.branch,
            "displayName": runtime.display_name,
            "keepBindings": True,
        }
        return str(self._server.ask("POST", f"{RUNTIMES}", session)["moduleAuthToken"])

    def stop(self) -> None:
        """Answer whoever is parked, and end the process."""
        self.dismiss()
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(_GRACE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def reset(self) -> None:
        """
        Go back to the seed: no jobs, no schemas, no other faults, and of the
        other runtimes those that L{run} here. Whoever is parked is answered.
        """
        for runtime in self._runtimes:
            runtime.stop()
        self._server.ask("POST", f"{EMULATOR}/reset")
        for runtime in self._runtimes:
            runtime.calls.clear()
            runtime.serve(self.url, self._module_auth_token(runtime))

    def enqueue(
        self,
        query_type: str,
        query: JSONValue = None,
        *,
        runtime_id: str | None = None,
        deployed_app_rid: str | None = None,
        branch: str | None = None,
    ) -> JobRecord:
        """
        Queue a job.

        @param query: any JSON value; L{None} for an empty object.
        @param runtime_id: the runtime to run it, or else
        @param deployed_app_rid: the deployed app whose runtime runs it.
        @raise twisted_cm.client.ApiError: there is no such runtime or deployed app, or its queue is full.
        """
        body = {"queryType": query_type, "query": {} if query is None else query}
        if runtime_id is not None:
            return self.job(self._server.ask("POST", f"{runtime_path(runtime_id)}/jobs", body)["job_id"])
        if deployed_app_rid is None:
            raise TypeError("name a runtime_id or a deployed_app_rid")
        body |= {"deployedAppRid": deployed_app_rid, "deployedAppBranch": branch}
        return self.job(self._server.ask("POST", f"{CONTOUR}/deployed-apps/jobs", body)["id"])

    def job(self, job_id: str) -> JobRecord:
        """
        @return: the job as it is now.
        @raise twisted_cm.client.NotFound: there is none.
        """
        names = [each.name for each in fields(JobRecord)]
        page = self._server.ask("GET", f"{EMULATOR}/jobs?limit=1000")
        while True:
            for job in page["jobs"]:
                if job["job_id"] == job_id:
                    return JobRecord(**{name: job.get(name) for name in names} | {"state": JobState(job["status"])})
            if page["next"] is None:
                raise NotFound(404, "not_found", f"Unknown job '{job_id}'.", job_id=job_id)
            page = self._server.ask("GET", f"{EMULATOR}/jobs?limit=1000&before={page['next']}")

    def wait_for(self, job_id: str, timeout: float = 30.0) -> JobRecord:
        """
        Park until a job has ended.

        @param timeout: the longest to park, in seconds, in whole ones rounded up.
        @return: the job, which has ended.
        @raise TimeoutError: it has not.
        """
        path = f"{job_path(job_id)}/status"
        deadline = time.monotonic() + timeout
        while True:
            wait = min(_LONG_POLL, max(0, math.ceil(deadline - time.monotonic())))
            state = JobState(self._server.ask("GET", path, Prefer=f"wait={wait}")["type"])
            if state.finished:
                return self.job(job_id)
            if time.monotonic() >= deadline:
                raise TimeoutError(f"job {job_id} is {state.value} after {timeout:g} seconds")

    def result(self, job_id: str) -> bytes:
        """
        @return: the bytes of a job's result.
        @raise twisted_cm.client.ApiError: it has none.
        """
        return self._server.request("GET", f"{job_path(job_id)}/result")

    def runtimes(self) -> list[dict[str, JSONValue]]:
        """
        @return: every runtime, as inspection shows it.
        """
        return list(self._server.ask("GET", f"{RUNTIMES}"))

    def fail_next(
        self, count: int = 1, message: str | None = None, *, runtime_id: str | None = None, function: str | None = None
    ) -> None:
        """
        Have the next jobs fail without a runtime having had them.

        @param count: how many.
        @param message: what they fail with.
        """
        plan = {"runtime_id": runtime_id, "function": function, "count": count, "message": message}
        given = {name: value for name, value in plan.items() if value is not None}
        self._server.ask("POST", f"{EMULATOR}/faults", {"kind": "fail_job", **given})


def _seed_file(seed: SeedLike, directory: Path) -> Path | None:
    if seed is None:
        return None
    if isinstance(seed, Path):
        return seed.absolute()
    if not isinstance(seed, str | Mapping):
        raise TypeError("a process reads its seed: give it a file, text, or what such text stands for")
    # JSON is YAML, too.
    file = directory / "seed.yaml"
    file.write_text(seed if isinstance(seed, str) else json.dumps(seed), "utf-8")
    return file
