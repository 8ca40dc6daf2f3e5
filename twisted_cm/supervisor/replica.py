"""A replica whose process the supervisor has started."""

from __future__ import annotations

import os
from collections import deque
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from attrs import frozen
from twisted.internet.defer import Deferred

from ..broker.interface import BrokerError, IBroker
from ..model.addresses import Addresses
from ..model.jobs import Job, JobState
from ..model.replicas import ReplicaRequest, new_supervised_replica_id
from ..model.runtimes import new_module_auth_token
from ..server.module_output import ModuleOutput, OutputLine
from .guard import Guard
from .job_output import JobOutput
from .module_env import (
    CannotWriteFiles,
    EmulatorAccess,
    bypass_proxies,
    claimed_directory,
    inherited_environment,
    replica_directory,
    write_environment,
)
from .plan import ProcessPlan
from .process import ModuleProcess

#: How many of the last lines of a process are part of the message of the jobs that fail with it.
LAST_LINES = 20

#: How many characters of a line are part of that message.
_LINE_SHOWN = 500


class CannotStartModule(Exception):
    """A process cannot be started; the message says why: ``cannot be started: ...``."""


@frozen
class Workplace:
    """What all processes of a supervisor share.

    Attributes:
        reactor: Spawns processes and tells the time.
        broker: Has the replicas.
        addresses: Where the emulator listens.
        sidecar_ports: The ports of plain sidecar listeners, by runtime.
        state_dir: The directory for the files of replicas.
        output: Gets what processes write.
        guard: Kills the processes if this one is killed.
    """

    reactor: Any
    broker: IBroker
    addresses: Addresses
    sidecar_ports: dict[str, int]
    state_dir: Path
    output: ModuleOutput
    guard: Guard


class SupervisedReplica:
    """A replica and its process.

    Attributes:
        replica_id: Its id.
        opened: Whether the broker has known it.
        connected: Whether the process has polled.
        drained: Whether it gets no more jobs.
        since: When it was made, in seconds.
        ended: Fires when its process has ended and the replica is closed, with how: ``ended with exit status 1``.
    """

    def __init__(self, workplace: Workplace, plan: ProcessPlan) -> None:
        """Prepare a replica with an id and a token of its own."""
        self.replica_id = new_supervised_replica_id()
        self.opened = False
        self.connected = False
        self.drained = False
        self.since = workplace.reactor.seconds()
        self.ended: Deferred[str] = Deferred()
        self._workplace = workplace
        self._plan = plan
        self._token = new_module_auth_token()
        self._files = ExitStack()
        self._job_output = JobOutput()
        self._last_lines: deque[str] = deque(maxlen=LAST_LINES)
        self._process = ModuleProcess(workplace.reactor, workplace.guard, self._written)
        self._stopping: str | None = None
        self._started = False

    @property
    def job_ids(self) -> list[str]:
        """The jobs that it runs, as far as it is known."""
        return self._job_output.job_ids

    @property
    def stopping(self) -> bool:
        """Whether it was told to stop."""
        return self._stopping is not None

    async def start(self) -> None:
        """Open the replica and start its process.

        Raises:
            CannotStartModule: The process cannot be started.
            BrokerError: The replica cannot be opened.
        """
        await self.open()
        if self._stopping is not None:
            await self._close(self._stopping)
            raise CannotStartModule("was stopped")
        try:
            self._process.start(self._plan.command, self._environment(), self._plan.directory)
        except Exception as error:
            how = f"cannot be started: {error}"
            # First of all, so that nobody takes the closed replica for one that was deleted.
            self._stopping = f"The module's process {how}."
            await self._close(self._stopping)
            if isinstance(error, OSError | CannotWriteFiles):
                raise CannotStartModule(how) from None
            raise
        self._started = True
        self._process.ended.addCallback(lambda how: Deferred.fromCoroutine(self._process_ended(how)))

    async def open(self) -> None:
        """Open the replica at the broker, for the first time or after the broker has forgotten it."""
        await self._workplace.broker.open_replica(
            ReplicaRequest(self._plan.runtime_id, self.replica_id, self._plan.limit, token=self._token)
        )
        self.opened = True

    def _environment(self) -> dict[str, str]:
        plan, workplace = self._plan, self._workplace
        url = workplace.addresses.http or workplace.addresses.https
        assert url is not None
        access = EmulatorAccess(
            plan.runtime_id,
            self.replica_id,
            self._token,
            plan.limit,
            url,
            workplace.addresses.https,
            workplace.addresses.ca_certificate,
            plan.deployed_app_rid,
            workplace.sidecar_ports.get(plan.runtime_id),
        )
        directory = replica_directory(workplace.state_dir, plan.runtime_id, self.replica_id)
        self._files.enter_context(claimed_directory(directory))
        variables = write_environment(access, plan.settings, plan.application, directory)
        # Without this, Python writes its output to a pipe long after it was printed.
        unbuffered = {"PYTHONUNBUFFERED": "1"}
        return unbuffered | inherited_environment(os.environ) | bypass_proxies(variables, os.environ)

    def _written(self, text: str) -> None:
        self._last_lines.append(text)
        self._job_output.write(text)
        now = int(self._workplace.reactor.seconds() * 1000)
        self._workplace.output.write(OutputLine(self._plan.runtime_id, self.replica_id, now, text))

    def job_changed(self, job: Job) -> None:
        """Take a change of a job of the runtime."""
        if job.state is JobState.RUNNING and job.replica_id == self.replica_id:
            self._job_output.begin(job.job_id)
        elif job.job_id in self._job_output.job_ids:
            self.job_ended(job.job_id)

    def job_ended(self, job_id: str) -> None:
        """Note that the replica has a job no longer, and keep what was written for it."""
        # What the module wrote before it posted the result is in the pipe.
        self._process.read_now()
        keeping: Deferred[None] = Deferred.fromCoroutine(self._keep_output(job_id))
        keeping.addErrback(lambda failure: failure.trap(BrokerError))

    async def _keep_output(self, job_id: str) -> None:
        output = self._job_output.end(job_id)
        if output:
            await self._workplace.broker.keep_output(job_id, output)

    async def drain(self) -> None:
        """Take no more jobs."""
        await self._workplace.broker.drain_replica(self._plan.runtime_id, self.replica_id)
        self.drained = True

    def stop(self, reason: str) -> None:
        """End the process; its jobs fail with ``reason``, as far as they have not ended."""
        if self._stopping is None:
            self._stopping = reason
            if self._started:
                self._process.stop(self._plan.grace)

    async def _process_ended(self, how: str) -> None:
        self._stopping = self._stopping or self._explain(how)
        try:
            await self._close(self._stopping)
        finally:
            self.ended.callback(how)

    def _explain(self, how: str) -> str:
        reason = f"The module's process {how}."
        lines = [line[:_LINE_SHOWN] for line in self._last_lines]
        return "\n".join([f"{reason} It wrote last:", *lines]) if lines else f"{reason} It wrote nothing."

    async def _close(self, reason: str) -> None:
        self._files.close()
        try:
            for job_id in self.job_ids:
                await self._keep_output(job_id)
            await self._workplace.broker.close_replica(self._plan.runtime_id, self.replica_id, reason)
        except BrokerError:
            # The replica or its runtime was removed, or the broker cannot be reached: then the replica becomes silent.
            return
