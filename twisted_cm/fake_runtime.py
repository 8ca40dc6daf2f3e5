"""A runtime whose functions are Python callables, for the tests of an application."""

from __future__ import annotations

import inspect
import json
import traceback
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, TypeAlias, TypeVar, overload

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
from .jobs import JSONValue

#: What may be a function: it takes the query and returns its result, at once, later, or bit by bit.
Function: TypeAlias = Callable[[Any], Any]

F = TypeVar("F", bound=Function)

_ANYTHING = {"type": "single", "single": {"dataType": {"type": "string", "string": {}}}}


class FakeRuntime:
    """
    A runtime in this process::

        runtime = FakeRuntime("my-runtime", "ri.foundry.main.deployed-app.my-app")

        @runtime.function
        def add(query):
            return query["a"] + query["b"]

        await emulator.run(runtime)

    A function takes the query.  What it returns is posted as JSON, bytes as
    they are; a coroutine function may await Deferreds.  A generator or an
    async generator streams, a value at a time.  If it raises, the result is
    C{{"exception": "…"}}, as with Foundry's SDKs.

    @ivar calls: the jobs that it was handed, in their order.
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
        """
        @param deployed_app_rid: the deployed app to bind it to; L{None} leaves its bindings as they are.
        @param branch: of the deployed app; L{None} for C{master}.
        """
        self.runtime_id = runtime_id
        self.deployed_app_rid = deployed_app_rid
        self.branch = branch
        self.display_name = display_name
        self.calls: list[ModuleJob] = []
        self._functions: dict[str, tuple[Function, JSONValue]] = {}
        self._session: RuntimeSession | None = None
        self._running: set[Deferred[None]] = set()

    @overload
    def function(self, function: F) -> F: ...

    @overload
    def function(self, *, name: str | None = None, schema: JSONValue = None) -> Callable[[F], F]: ...

    def function(self, function: F | None = None, *, name: str | None = None, schema: JSONValue = None) -> Any:
        """
        Decorate a function of the runtime, before it runs or while it does.

        @param name: the query type; the function's own name by default.
        @param schema: its schema, as a runtime posts it; by default it takes anything.
        """
        if function is None:
            return lambda decorated: self._register(decorated, name, schema)
        return self._register(function, name, schema)

    def _register(self, function: F, name: str | None, schema: JSONValue) -> F:
        name = name or function.__name__
        self._functions[name] = (
            function,
            {"functionName": name, "inputs": [], "output": _ANYTHING, **(schema or {})},
        )
        if self._session is not None:
            self._do(self._session.post_schemas(self._schemas()))
        return function

    def _schemas(self) -> JSONValue:
        return [schema for _, schema in self._functions.values()]

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
        running.addErrback(lambda failure: self._log.failure("runtime {id}", failure, id=self.runtime_id))

    async def _take_jobs(self, session: RuntimeSession) -> None:
        while True:
            job = await session.poll()
            if job is not None:
                self.calls.append(job)
                self._do(self._answer(session, job))

    async def _answer(self, session: RuntimeSession, job: ModuleJob) -> None:
        try:
            content = await self._call(job)
        except Exception:
            content = json.dumps({"exception": traceback.format_exc()}).encode()
        try:
            await session.post_result(job.job_id, content)
        except (NotFound, JobAlreadyCompleted, InvalidModuleAuthToken):
            self._log.info("job {job_id}: nobody wants its result any more", job_id=job.job_id)

    async def _call(self, job: ModuleJob) -> bytes | Iterator[bytes] | AsyncIterator[bytes]:
        if job.query_type not in self._functions:
            known = ", ".join(sorted(self._functions)) or "none"
            raise LookupError(f"runtime {self.runtime_id} has no function {job.query_type}; it has: {known}")
        result = self._functions[job.query_type][0](job.query)
        if inspect.isawaitable(result):
            result = await result
        if inspect.isasyncgen(result):
            return (_encode(value) async for value in result)
        if inspect.isgenerator(result):
            return (_encode(value) for value in result)
        return _encode(result)


def _encode(value: Any) -> bytes:
    return value if isinstance(value, bytes) else json.dumps(value, ensure_ascii=False).encode("utf-8")
