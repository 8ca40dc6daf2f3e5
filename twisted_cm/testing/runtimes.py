"""Runtimes made of Python callables."""

from __future__ import annotations

import asyncio
import inspect
import json
import logging
import socket
import threading
import traceback
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import closing, suppress
from http.client import HTTPConnection, HTTPException
from typing import Any, TypeAlias, TypeVar, overload
from urllib.parse import quote

from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger

from ..client.api import RuntimeSession
from ..client.errors import ComputeModulesError, InvalidModuleAuthToken, JobAlreadyCompleted, NotFound
from ..client.records import ModuleJob
from ..model.paths import runtime_path
from ..model.types import JSONValue
from .blocking import BlockingServer

T = TypeVar("T")

#: What may be a function: it takes the query and returns its result, at once, later, or bit by bit.
Function: TypeAlias = Callable[[Any], Any]


F = TypeVar("F", bound=Function)


_ANYTHING = {"type": "single", "single": {"dataType": {"type": "string", "string": {}}}}


class CallableRuntime(ABC):
    """
    A runtime whose functions are Python callables.

    A function takes the query.  What it returns is posted as JSON, bytes as
    they are.  A generator or an async generator streams, a value at a time.
    If it raises, the result is C{{"exception": "…"}}, as with Foundry's SDKs.

    @ivar calls: the jobs that it was handed, in their order.
    """

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
        self._functions_changed()
        return function

    @abstractmethod
    def _functions_changed(self) -> None:
        """Post the schemas, if it runs."""

    def _schemas(self) -> JSONValue:
        return [schema for _, schema in self._functions.values()]

    def _invoke(self, job: ModuleJob) -> Any:
        """
        @return: what the function returns, which may have to be awaited.
        """
        if job.query_type not in self._functions:
            known = ", ".join(sorted(self._functions)) or "none"
            raise LookupError(f"runtime {self.runtime_id} has no function {job.query_type}; it has: {known}")
        return self._functions[job.query_type][0](job.query)


def result_content(value: Any) -> bytes | Iterator[bytes] | AsyncIterator[bytes]:
    """
    @param value: what a function returned, awaited.
    @return: what to post; an iterator is to be streamed.
    """
    if inspect.isasyncgen(value):
        return (_encode(each) async for each in value)
    if inspect.isgenerator(value):
        return (_encode(each) for each in value)
    return _encode(value)


def exception_content() -> bytes:
    """
    @return: what to post for a function that has just raised.
    """
    return json.dumps({"exception": traceback.format_exc()}).encode()


def _encode(value: Any) -> bytes:
    return value if isinstance(value, bytes) else json.dumps(value, ensure_ascii=False).encode("utf-8")


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


_log = logging.getLogger(__name__)


class ThreadRuntime(CallableRuntime):
    """
    A runtime in threads of this process::

        runtime = ThreadRuntime("my-runtime", "ri.foundry.main.deployed-app.my-app")

        @runtime.function
        def add(query):
            return query["a"] + query["b"]

        emulator.run(runtime)

    What its functions may be is told at L{CallableRuntime}.  Each job has a
    thread of its own, and a coroutine function an asyncio event loop there.
    """

    _server: BlockingServer | None = None

    def _functions_changed(self) -> None:
        if self._server is not None:
            self._server.request("POST", f"{self._path}/schemas", json.dumps(self._schemas()).encode())

    @property
    def _path(self) -> str:
        return runtime_path(self.runtime_id)

    def serve(self, url: str, module_auth_token: str) -> None:
        """
        Post the schemas, and take jobs from now on.

        @param url: the emulator's base URL.
        """
        if self._server is not None:
            raise RuntimeError(f"runtime {self.runtime_id} runs already")
        server = self._server = BlockingServer(url, {"Module-Auth-Token": module_auth_token})
        self._functions_changed()
        self._polling = HTTPConnection(server.address)
        self._polling.connect()
        self._thread = threading.Thread(target=self._take_jobs, args=(server,), name=self.runtime_id, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Take no more jobs; the results of those that run are nobody's."""
        if self._server is None:
            return
        self._server = None
        with suppress(AttributeError, OSError):
            self._polling.sock.shutdown(socket.SHUT_RDWR)
        self._thread.join()

    def _take_jobs(self, server: BlockingServer) -> None:
        with closing(self._polling):
            while self._server is server:
                try:
                    content = server.exchange(self._polling, "GET", f"{self._path}/job")
                except (OSError, HTTPException, ComputeModulesError) as error:
                    # A server that stops, and a session that was reset, are what a runtime must expect.
                    if self._server is server:
                        _log.info("runtime %s takes no more jobs: %s", self.runtime_id, error)
                    return
                if content:
                    job = json.loads(content)["computeModuleJobV1"]
                    handed = ModuleJob(job["jobId"], job["queryType"], job["query"], job["userId"])
                    self.calls.append(handed)
                    threading.Thread(target=self._answer, args=(server, handed), daemon=True).start()

    def _answer(self, server: BlockingServer, job: ModuleJob) -> None:
        with closing(asyncio.new_event_loop()) as loop:
            content: bytes | Iterator[bytes] | AsyncIterator[bytes]
            try:
                result = self._invoke(job)
                content = result_content(_wait(loop, result) if inspect.isawaitable(result) else result)
            except Exception:
                content = exception_content()
            if isinstance(content, AsyncIterator):
                content = _drain(loop, content)
            path = f"{self._path}/results/{quote(job.job_id, safe='')}"
            try:
                server.request("POST", path, content, **{"Content-Type": "application/octet-stream"})
            except (OSError, HTTPException, ComputeModulesError) as error:
                _log.info("job %s: nobody wants its result any more: %s", job.job_id, error)
            except Exception:
                _log.exception("job %s broke off", job.job_id)


def _wait(loop: asyncio.AbstractEventLoop, awaitable: Awaitable[T]) -> T:
    async def wait() -> T:
        return await awaitable

    return loop.run_until_complete(wait())


def _drain(loop: asyncio.AbstractEventLoop, iterator: AsyncIterator[bytes]) -> Iterator[bytes]:
    with suppress(StopAsyncIteration):
        while True:
            yield _wait(loop, iterator.__anext__())
