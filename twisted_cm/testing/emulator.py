"""
The emulator inside people's own tests.

L{Emulator} runs in the reactor that the tests run in, on ports of its own or
with no socket at all, and leaves nothing behind in the reactor when it is
stopped.  L{FakeRuntime} stands in for a module, L{ComputeModules} for an
application, and L{EmulatorMixin} brings the emulator to trial.
"""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from attrs import NOTHING, evolve
from twisted.web.client import Agent, HTTPConnectionPool
from twisted.web.iweb import IAgent

from ..broker.interface import UnknownRuntime
from ..client.api import ComputeModules, EmulatorControl, RuntimeSession
from ..config.seed import SeedLike, make_seed
from ..config.settings import Settings, limits_of
from ..config.tls import local_certificate
from ..model.faults import FaultKind, FaultPlan
from ..model.jobs import Job, JobSource, Submission
from ..model.types import JSONValue
from ..service import EmulatorService
from .runtimes import FakeRuntime
from .transport import MemoryNetwork

#: What the URL of an emulator without a socket begins with.
MEMORY_URL = "http://localhost"


class Emulator:
    """
    An emulator in the reactor that its user runs; made by L{Emulator.start}.

    @ivar service: the service itself.
    @ivar agent: what requests to it go through; for the emulator without a socket, the only way to it.
    @ivar url: its base URL.
    @ivar https_url: its base URL over TLS, or L{None}.
    @ivar ca_certificate: what to verify that with, in PEM, or L{None}.
    @ivar token: a bearer token that is valid.
    """

    def __init__(self, reactor: Any, service: EmulatorService) -> None:
        self.reactor = reactor
        self.service = service
        self._pool = HTTPConnectionPool(reactor)
        self.url = service.addresses.http or MEMORY_URL
        self.https_url = service.addresses.https
        self.ca_certificate = service.addresses.ca_certificate
        self.token = next((each.token for each in service.settings.seed.bearer_tokens), "")
        self._runtimes: list[FakeRuntime] = []
        self._network = MemoryNetwork(reactor, service.site)
        self.agent: IAgent = self._network.agent(self._pool)
        if service.settings.listen:
            self.agent = Agent(reactor, pool=self._pool)

    @classmethod
    async def start(
        cls, seed: SeedLike = None, *, in_memory: bool = False, tls: bool = False, reactor: Any = None, **settings: Any
    ) -> Emulator:
        """
        Start an emulator.

        @param seed: the seed; by default there is nothing but the development token.
        @param in_memory: use no socket; it is reached through its C{agent} only.
        @param tls: listen to HTTPS too, with a certificate made for this.
        @param reactor: the one that runs, by default the global one.
        @param settings: fields of L{twisted_cm.service.Settings}, and of its
            C{limits} (L{twisted_cm.http.context.Limits}), to have otherwise.
        """
        if reactor is None:
            from twisted.internet import reactor as installed

            reactor = installed
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
        """
        @param token: a bearer token, by default C{self.token}.
        @return: a client that submits jobs to this emulator.
        """
        return ComputeModules(self.url, token or self.token, reactor=self.reactor, agent=self.agent)

    def control(self) -> EmulatorControl:
        """
        @return: a client that does what an administrator may.
        """
        token = self.service.settings.admin_token or self.token
        return EmulatorControl(self.url, token, reactor=self.reactor, agent=self.agent)

    async def run(self, runtime: FakeRuntime) -> FakeRuntime:
        """
        Have a runtime take jobs, until it or the emulator is stopped; it is back after a L{reset}.

        A runtime that is there already, such as a seeded one, is joined with all that waits for it.

        @return: C{runtime}.
        """
        await runtime.serve(await self._session(runtime))
        self._runtimes.append(runtime)
        return runtime

    async def dismiss(self) -> None:
        """Have every runtime that L{run} here take no more jobs; a L{reset} does not bring it back."""
        dismissed, self._runtimes = self._runtimes, []
        for runtime in dismissed:
            await runtime.stop()

    async def _session(self, runtime: FakeRuntime) -> RuntimeSession:
        ways: dict[str, Any] = {"reactor": self.reactor, "agent": self.agent}
        try:
            if runtime.deployed_app_rid is None:
                there = await self.service.broker.runtime(runtime.runtime_id)
                return RuntimeSession.join(self.url, there.runtime_id, there.module_auth_token, **ways)
        except UnknownRuntime:
            pass
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

    async def stop(self) -> None:
        """Answer whoever is parked, close every connection, and leave nothing in the reactor."""
        await self.dismiss()
        # Once for those that are idle, and once for those that are not, but will be.
        await self._pool.closeCachedConnections()
        await self.service.stopService()
        await self._pool.closeCachedConnections()
        await self._network.close()

    async def reset(self) -> None:
        """
        Go back to the seed: no jobs, no schemas, no other faults, and of the
        other runtimes those that L{run} here. Whoever is parked is answered.
        """
        for runtime in self._runtimes:
            await runtime.stop()
        await self.service.reset()
        for runtime in self._runtimes:
            runtime.calls.clear()
            await runtime.serve(await self._session(runtime))

    async def enqueue(
        self,
        query_type: str,
        query: JSONValue = NOTHING,
        *,
        runtime_id: str | None = None,
        deployed_app_rid: str | None = None,
        branch: str | None = None,
    ) -> Job:
        """
        Queue a job, without a request.

        @param query: any JSON value; an empty object by default.
        @param runtime_id: the runtime to run it, or else
        @param deployed_app_rid: the deployed app whose runtime runs it.
        @raise twisted_cm.broker.BrokerError: there is no such runtime or deployed app, or its queue is full.
        """
        source = JobSource.RUNTIME_DIRECT
        if runtime_id is None:
            if deployed_app_rid is None:
                raise TypeError("name a runtime_id or a deployed_app_rid")
            binding = await self.service.broker.resolve(deployed_app_rid, branch)
            runtime_id, branch, source = binding.runtime_id, binding.branch, JobSource.CONTOUR_ASYNC
        query = {} if query is NOTHING else query
        await self.service.context.check_query(runtime_id, query_type, query)
        submission = Submission(query_type, query, source, deployed_app_rid, branch, size=len(json.dumps(query)))
        return await self.service.context.submit(runtime_id, submission)

    async def job(self, job_id: str) -> Job:
        """
        @return: the job as it is now.
        @raise twisted_cm.broker.UnknownJob: there is none.
        """
        return await self.service.broker.job(job_id)

    async def wait_for(self, job_id: str, timeout: float = 30.0) -> Job:
        """
        Park until a job has ended.

        @param timeout: the longest to park, in seconds.
        @return: the job, which has ended.
        @raise TimeoutError: it has not.
        """
        job = await self.service.broker.wait_end(job_id, timeout)
        if not job.state.finished:
            raise TimeoutError(f"job {job_id} is {job.state.value} after {timeout:g} seconds")
        return job

    async def result(self, job_id: str) -> bytes:
        """
        @return: the bytes of a job's result.
        @raise LookupError: it has none.
        """
        result = (await self.job(job_id)).result
        if result is None or not result.complete:
            raise LookupError(f"job {job_id} has no result")
        return await result.read(0, result.size)

    async def runtimes(self) -> list[dict[str, JSONValue]]:
        """
        @return: every runtime, as inspection shows it.
        """
        return await self.control().runtimes()

    async def fail_next(
        self, count: int = 1, message: str | None = None, *, runtime_id: str | None = None, function: str | None = None
    ) -> None:
        """
        Have the next jobs fail without a runtime having had them.

        @param count: how many.
        @param message: what they fail with.
        """
        plan = FaultPlan(FaultKind.FAIL_JOB, runtime_id, function, count, message=message)
        await self.service.faults.add(plan)
