"""Run the emulator in the reactor of the tests."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from attrs import NOTHING, evolve
from twisted.internet import reactor as installed_reactor
from twisted.web.client import Agent, HTTPConnectionPool
from twisted.web.iweb import IAgent

from ..broker.interface import UnknownRuntime
from ..client.api import ComputeModules, EmulatorControl, RuntimeSession
from ..config.seed import SeedLike, make_seed
from ..config.settings import Settings, limits_of
from ..config.tls import local_certificate
from ..model.faults import FaultKind, FaultPlan
from ..model.finite import finite
from ..model.jobs import Job, JobSource, Submission
from ..model.tokens import DEVELOPMENT_TOKEN
from ..model.types import JSONValue
from ..server.submission import submit
from ..service import EmulatorService
from .faults import ActiveFaultInReactor, Faults, FaultToAdd
from .interface import EmulatorInterface, no_target, not_ended
from .runtimes import FakeRuntime
from .transport import MemoryNetwork

#: The URL of an emulator without sockets; only its agent can resolve it.
MEMORY_URL = "http://localhost"


class Emulator(EmulatorInterface[FakeRuntime, Job]):
    """An emulator in a reactor, made by :meth:`Emulator.start`.

    When it has stopped, it leaves nothing behind in the reactor.

    Attributes:
        reactor: The reactor that the emulator runs in.
        service: The service itself.
        agent: The agent for requests to the emulator. Without sockets, no other agent can reach it.
    """

    faults: Faults[FaultToAdd]

    def __init__(self, reactor: Any, service: EmulatorService) -> None:
        self.reactor = reactor
        self.service = service
        self._pool = HTTPConnectionPool(reactor)
        self.url = service.addresses.http or MEMORY_URL
        self.https_url = service.addresses.https
        self.ca_certificate = service.addresses.ca_certificate
        tokens = service.settings.seed.tokens
        self.token = tokens[0].token if tokens else DEVELOPMENT_TOKEN if service.development_token else ""
        self._runtimes: list[FakeRuntime] = []
        self._network = MemoryNetwork(reactor, service.site)
        self.agent: IAgent = self._network.agent(self._pool)
        if service.settings.listen:
            self.agent = Agent(reactor, pool=self._pool)
        self.faults = Faults(lambda fields: FaultToAdd(lambda: self._add_fault(fields)))

    @classmethod
    async def start(
        cls, seed: SeedLike = None, *, in_memory: bool = False, tls: bool = False, reactor: Any = None, **settings: Any
    ) -> Emulator:
        """Start an emulator.

        Args:
            seed: A path, the text of a seed, or the value that such text stands for; by default, a seed with nothing
                but the development token.
            in_memory: Use no sockets; requests must go through the ``agent``.
            tls: Listen to HTTPS as well, with a new certificate.
            reactor: The reactor to run in; by default, the global one.
            settings: Fields of :class:`~twisted_cm.service.Settings` to change, and ``poll_timeout``,
                ``sync_timeout`` and ``max_body`` of its limits.
        """
        reactor = installed_reactor if reactor is None else reactor
        checked = make_seed(seed)
        limits = {name: settings.pop(name) for name in ("poll_timeout", "sync_timeout", "max_body") if name in settings}
        made = Settings(checked, not in_memory, port=0, tls_port=0, limits=limits_of(checked, **limits))
        made = evolve(made, **settings)
        if tls:
            with TemporaryDirectory(prefix="twisted-cm-") as directory:
                made = evolve(made, certificate=local_certificate(Path(directory), made.interface))
        service = EmulatorService(reactor, made)
        service.startService()
        return cls(reactor, service)

    def application(self, token: str | None = None) -> ComputeModules:
        """Return a client that submits jobs to this emulator.

        Args:
            token: A bearer token; by default, ``self.token``.
        """
        return ComputeModules(self.url, token or self.token, reactor=self.reactor, agent=self.agent)

    def control(self) -> EmulatorControl:
        """Return a client with the rights of an administrator."""
        token = self.service.settings.admin_token or self.token
        return EmulatorControl(self.url, token, reactor=self.reactor, agent=self.agent)

    async def run(self, runtime: FakeRuntime) -> FakeRuntime:
        await runtime.serve(await self._session(runtime))
        self._runtimes.append(runtime)
        return runtime

    async def dismiss(self) -> None:
        dismissed, self._runtimes = self._runtimes, []
        for runtime in dismissed:
            await runtime.stop()

    async def reset(self) -> None:
        for runtime in self._runtimes:
            await runtime.stop()
        await self.service.reset()
        for runtime in self._runtimes:
            runtime.calls.clear()
            await runtime.serve(await self._session(runtime))

    async def stop(self) -> None:
        await self.dismiss()
        # The first call closes the idle connections, the second those that the stop of the service made idle.
        await self._pool.closeCachedConnections()
        await self.service.stopService()
        await self._pool.closeCachedConnections()
        await self._network.close()

    async def enqueue(
        self,
        query_type: str,
        query: JSONValue = NOTHING,
        *,
        runtime_id: str | None = None,
        deployed_app_rid: str | None = None,
        branch: str | None = None,
    ) -> Job:
        source = JobSource.RUNTIME_DIRECT
        if runtime_id is None:
            if deployed_app_rid is None:
                raise no_target()
            binding = await self.service.broker.resolve(deployed_app_rid, branch)
            runtime_id, branch, source = binding.runtime_id, binding.branch, JobSource.CONTOUR_ASYNC
        sent = json.dumps({} if query is NOTHING else query, allow_nan=False).encode("ascii")
        submission = Submission(query_type, sent, source, deployed_app_rid, branch)
        return await submit(self.service.context, runtime_id, submission)

    async def job(self, job_id: str) -> Job:
        return await self.service.broker.job(job_id)

    async def wait_for(self, job_id: str, timeout: float = 30.0) -> Job:
        finite("timeout", timeout)
        job = await self.service.broker.wait_end(job_id, timeout)
        if not job.state.finished:
            raise not_ended(job_id, job.state, timeout)
        return job

    async def result(self, job_id: str) -> bytes:
        result = (await self.job(job_id)).result
        if result is None or not result.complete:
            raise LookupError(f"job {job_id} has no result")
        return await result.read(0, result.size)

    async def runtimes(self) -> list[dict[str, JSONValue]]:
        return await self.control().runtimes()

    async def fail_next(
        self, count: int = 1, message: str | None = None, *, runtime_id: str | None = None, function: str | None = None
    ) -> None:
        plan = FaultPlan(FaultKind.FAIL_JOB, runtime_id, function, count, message=message)
        await self.service.faults.add(plan)

    async def _add_fault(self, fields: dict[str, JSONValue]) -> ActiveFaultInReactor:
        control = self.control()
        return ActiveFaultInReactor((await control.add_fault(**fields))["fault_id"], control.remove_fault)

    async def _session(self, runtime: FakeRuntime) -> RuntimeSession:
        """Join the existing runtime with that id, if no deployed app is to be bound; open a session otherwise."""
        ways: dict[str, Any] = {"reactor": self.reactor, "agent": self.agent}
        if runtime.deployed_app_rid is None:
            with suppress(UnknownRuntime):
                known = await self.service.broker.runtime(runtime.runtime_id)
                return RuntimeSession.join(self.url, known.runtime_id, known.module_auth_token, **ways)
        return await RuntimeSession.open(
            self.url,
            runtime.runtime_id,
            runtime.deployed_app_rid,
            branch=runtime.branch,
            display_name=runtime.display_name,
            keep_bindings=True,
            admin_token=self.service.settings.admin_token,
            **ways,
        )
