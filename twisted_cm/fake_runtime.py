"""A runtime in the reactor whose functions are Python callables, for the tests of an application."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Iterator
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger

from .client import (
    ComputeModulesError,
    InvalidModuleAuthToken,
    JobAlreadyCompleted,
    ModuleJob,
    NotFound,
    RuntimeSession,
)
from .functions import CallableRuntime, exception_content, result_content


class FakeRuntime(CallableRuntime):
    """
    A runtime in this process::

        runtime = FakeRuntime("my-runtime", "ri.foundry.main.deployed-app.my-app")

        @runtime.function
        def add(query):
            return query["a"] + query["b"]

        await emulator.run(runtime)

    What its functions may be is told at L{CallableRuntime}; a coroutine function may await Deferreds.
    """

    _log = Logger()

    def __init__(
        self,
        runtime_id: str,
        deployed_app_rid: str | None = None,
        *,
        branch: str | None = None,
        display_name: str | None = None,
    ) -> None:
        """See L{CallableRuntime}."""
        super().__init__(runtime_id, deployed_app_rid, branch=branch, display_name=display_name)
        self._session: RuntimeSession | None = None
        self._running: set[Deferred[None]] = set()

    def _functions_changed(self) -> None:
        if self._session is not None:
            self._do(self._session.post_schemas(self._schemas()))

    async def serve(self, session: RuntimeSession) -> None:
        """
        Post the schemas, and take jobs from now on.

        @param session: what to do that with; it is closed by L{stop}.
        """
        if self._session is not None:
            raise RuntimeError(f"runtime {self.runtime_id} runs already")
        self._session = session
        await session.post_schemas(self._schemas())
        self._do(self._take_jobs(session))

    async def stop(self) -> None:
        """Take no more jobs, and drop those that run."""
        session, self._session = self._session, None
        for each in list(self._running):
            each.cancel()
        if session is not None:
            await session.close()

    def _do(self, work: Any) -> None:
        running: Deferred[None] = Deferred.fromCoroutine(work)
        self._running.add(running)

        def done(result: Any) -> Any:
            self._running.discard(running)
            return result

        running.addBoth(done)
        # A session that was reset and a server that stops are what a runtime must expect.
        running.addErrback(lambda failure: failure.trap(CancelledError, ComputeModulesError) and None)
        running.addErrback(
            lambda failure: self._log.failure("runtime {runtime_id}", failure, runtime_id=self.runtime_id)
        )

    async def _take_jobs(self, session: RuntimeSession) -> None:
        while True:
            job = await session.poll()
            if job is not None:
                self.calls.append(job)
                self._do(self._answer(session, job))

    async def _answer(self, session: RuntimeSession, job: ModuleJob) -> None:
        content: bytes | Iterator[bytes] | AsyncIterator[bytes]
        try:
            result = self._invoke(job)
            content = result_content(await result if inspect.isawaitable(result) else result)
        except Exception:
            if self._session is not session:
                # It was dropped.
                raise
            content = exception_content()
        try:
            await session.post_result(job.job_id, content)
        except (NotFound, JobAlreadyCompleted, InvalidModuleAuthToken):
            self._log.info(
                "job {job_id}: nobody wants its result any more", job_id=job.job_id, runtime_id=self.runtime_id
            )
