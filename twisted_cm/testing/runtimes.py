"""Make compute modules of Python callables."""

from __future__ import annotations

import asyncio
import inspect
import json
import logging
import socket
import threading
import traceback
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import closing, contextmanager, suppress
from http.client import HTTPConnection, HTTPException
from typing import Any, ClassVar, Generic, TypeAlias, TypeVar, overload
from urllib.parse import quote

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from ..client.api import RuntimeSession
from ..client.errors import ComputeModulesError
from ..client.records import ModuleJob, parse_module_job
from ..model.paths import runtime_path
from ..model.types import JSONValue
from .blocking import BlockingServer

T = TypeVar("T")
ConnectionT = TypeVar("ConnectionT")

#: A function of a runtime: takes the query and returns its result, an awaitable for it, or a generator of its parts.
Function: TypeAlias = Callable[[Any], Any]
FunctionT = TypeVar("FunctionT", bound=Function)

#: What to post as a result; an iterator is streamed.
Content: TypeAlias = bytes | Iterator[bytes] | AsyncIterator[bytes]

#: Seconds until a runtime polls again after the emulator refused a poll.
POLL_PAUSE = 0.5

#: The output of a function without a schema of its own.
_ANY_OUTPUT = {"type": "single", "single": {"dataType": {"type": "string", "string": {}}}}


class CallableRuntime(ABC, Generic[ConnectionT]):
    """A runtime whose functions are Python callables.

    A function takes the query. Its return value becomes the result: bytes as they are, anything else as JSON. A
    generator or an async generator streams its values. If a function raises, the result is
    ``{"exception": "(the traceback)"}``, as with Foundry's Python SDK.

    Attributes:
        runtime_id: The id of the runtime.
        deployed_app_rid: The deployed app to bind the runtime to, or ``None`` to keep its bindings.
        branch: The branch of the deployed app, or ``None`` for ``master``.
        display_name: The name of the deployed app for people.
        calls: The jobs that the runtime was given, oldest first.
    """

    #: Errors of requests to an emulator that stops, is reset, or no longer wants a result.
    _refusals: ClassVar[tuple[type[Exception], ...]] = (ComputeModulesError,)

    def __init__(
        self,
        runtime_id: str,
        deployed_app_rid: str | None = None,
        *,
        branch: str | None = None,
        display_name: str | None = None,
    ) -> None:
        self.runtime_id = runtime_id
        self.deployed_app_rid = deployed_app_rid
        self.branch = branch
        self.display_name = display_name
        self.calls: list[ModuleJob] = []
        self._functions: dict[str, tuple[Function, JSONValue]] = {}
        # None while the runtime is stopped.
        self._connection: ConnectionT | None = None

    @overload
    def function(self, function: FunctionT) -> FunctionT: ...

    @overload
    def function(self, *, name: str | None = None, schema: JSONValue = None) -> Callable[[FunctionT], FunctionT]: ...

    def function(self, function: FunctionT | None = None, *, name: str | None = None, schema: JSONValue = None) -> Any:
        """Add a function to the runtime, as a decorator. The runtime may be running already.

        Args:
            name: The query type; by default, the name of the callable.
            schema: The schema to post; by default, one without inputs.
        """
        if function is None:
            return lambda decorated: self._add(decorated, name, schema)
        return self._add(function, name, schema)

    def _add(self, function: FunctionT, name: str | None, schema: JSONValue) -> FunctionT:
        name = name or function.__name__
        complete = {"functionName": name, "inputs": [], "output": _ANY_OUTPUT, **(schema or {})}
        self._functions[name] = (function, complete)
        if self._connection is not None:
            self._post_schemas_again(self._connection)
        return function

    @abstractmethod
    def _post_schemas_again(self, connection: ConnectionT) -> None:
        """Post the schemas of a runtime that is running."""

    @abstractmethod
    def _inform(self, message: str) -> None:
        """Log something that is not an error."""

    def _begin(self, connection: ConnectionT) -> None:
        if self._connection is not None:
            raise RuntimeError(f"runtime {self.runtime_id} is running already; stop it first")
        self._connection = connection

    def _schemas(self) -> JSONValue:
        return [schema for _, schema in self._functions.values()]

    def _call(self, job: ModuleJob) -> Content | Awaitable[Content]:
        """Call the function of a job; return what to post, or an awaitable for it."""
        try:
            if job.query_type not in self._functions:
                known = ", ".join(sorted(self._functions)) or "none"
                raise LookupError(f"runtime {self.runtime_id} has no function {job.query_type}; it has: {known}")
            result = self._functions[job.query_type][0](job.query)
            return _content_later(result) if inspect.isawaitable(result) else _content(result)
        except Exception:
            return _exception_content()

    @contextmanager
    def _posting(self, job: ModuleJob) -> Iterator[None]:
        """Expect that the emulator refuses the result of a job, because the job has ended or the emulator stops."""
        try:
            yield
        except self._refusals as error:
            self._inform(f"job {job.job_id}: the emulator did not take the result: {error}")


async def _content_later(result: Awaitable[Any]) -> Content:
    try:
        return _content(await result)
    except Exception:
        return _exception_content()


def _content(value: Any) -> Content:
    if inspect.isasyncgen(value):
        return (_encode(each) async for each in value)
    if inspect.isgenerator(value):
        return (_encode(each) for each in value)
    return _encode(value)


def _encode(value: Any) -> bytes:
    return value if isinstance(value, bytes) else json.dumps(value, ensure_ascii=False).encode("utf-8")


def _exception_content() -> bytes:
    """Return what to post for a function that raised the exception that is being handled."""
    return json.dumps({"exception": traceback.format_exc()}).encode()


class FakeRuntime(CallableRuntime[RuntimeSession]):
    """A runtime in the reactor, for tests that run in it.

    A coroutine function may await Deferreds::

        runtime = FakeRuntime("my-runtime", "ri.foundry.main.deployed-app.my-app")

        @runtime.function
        def add(query):
            return query["a"] + query["b"]

        await emulator.run(runtime)
    """

    _log = Logger()
    _tasks: set[Deferred[None]]

    def _post_schemas_again(self, connection: RuntimeSession) -> None:
        self._start(connection.post_schemas(self._schemas()))

    def _inform(self, message: str) -> None:
        self._log.info("{message}", message=message)

    async def serve(self, session: RuntimeSession) -> None:
        """Post the schemas and start to take jobs.

        Args:
            session: The session to use; :meth:`stop` closes it.

        Raises:
            RuntimeError: The runtime is running already.
        """
        self._begin(session)
        self._tasks = set()
        await session.post_schemas(self._schemas())
        self._start(self._take_jobs(session))

    async def stop(self) -> None:
        """Stop taking jobs, and cancel the functions that are running."""
        session, self._connection = self._connection, None
        if session is not None:
            for task in list(self._tasks):
                task.cancel()
            await session.close()

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        """Run a coroutine until it ends or the runtime is stopped."""
        task: Deferred[None] = Deferred.fromCoroutine(work)
        self._tasks.add(task)

        def done(result: T) -> T:
            self._tasks.discard(task)
            return result

        def failed(failure: Failure) -> None:
            if failure.check(CancelledError, *self._refusals) is None:
                self._log.failure("runtime {runtime_id}", failure, runtime_id=self.runtime_id)

        task.addBoth(done)
        task.addErrback(failed)

    async def _take_jobs(self, session: RuntimeSession) -> None:
        while True:
            try:
                job = await session.poll()
            except ComputeModulesError as error:
                self._inform(f"runtime {self.runtime_id} polls again in {POLL_PAUSE:g} s: {error}")
                await deferLater(session.reactor, POLL_PAUSE)
                continue
            if job is not None:
                self.calls.append(job)
                self._start(self._answer(session, job))

    async def _answer(self, session: RuntimeSession, job: ModuleJob) -> None:
        called = self._call(job)
        content = await called if inspect.isawaitable(called) else called
        # A function that is canceled, because the runtime was stopped, has no result.
        if self._connection is session:
            with self._posting(job):
                await session.post_result(job.job_id, content)


class ThreadRuntime(CallableRuntime[BlockingServer]):
    """A runtime in threads, for tests that run no reactor.

    Each job has its own thread, in which a coroutine function runs in an asyncio event loop::

        runtime = ThreadRuntime("my-runtime", "ri.foundry.main.deployed-app.my-app")

        @runtime.function
        def add(query):
            return query["a"] + query["b"]

        emulator.run(runtime)
    """

    _refusals = (ComputeModulesError, OSError, HTTPException)
    # pytest shows what is logged here beside a test that fails.
    _log = logging.getLogger(__name__)

    @property
    def _path(self) -> str:
        return runtime_path(self.runtime_id)

    def _post_schemas_again(self, connection: BlockingServer) -> None:
        connection.request("POST", f"{self._path}/schemas", json.dumps(self._schemas()).encode())

    def _inform(self, message: str) -> None:
        self._log.info("%s", message)

    def serve(self, url: str, module_auth_token: str) -> None:
        """Post the schemas and start to take jobs.

        Args:
            url: The base URL of the emulator.
            module_auth_token: The token of the runtime.

        Raises:
            RuntimeError: The runtime is running already.
        """
        server = BlockingServer(url, {"Module-Auth-Token": module_auth_token})
        self._begin(server)
        self._post_schemas_again(server)
        self._stopping = threading.Event()
        self._polling = HTTPConnection(server.address)
        self._polling.connect()
        self._thread = threading.Thread(target=self._take_jobs, args=(server,), name=self.runtime_id, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop taking jobs. Functions that are running run on; their results are lost."""
        server, self._connection = self._connection, None
        if server is not None:
            self._stopping.set()
            with suppress(AttributeError, OSError):
                self._polling.sock.shutdown(socket.SHUT_RDWR)
            self._thread.join()

    def _take_jobs(self, server: BlockingServer) -> None:
        with closing(self._polling):
            while self._connection is server:
                try:
                    content = server.request_on(self._polling, "GET", f"{self._path}/job")
                except self._refusals as error:
                    if self._connection is server:
                        self._inform(f"runtime {self.runtime_id} polls again in {POLL_PAUSE:g} s: {error}")
                    self._polling.close()
                    self._stopping.wait(POLL_PAUSE)
                    continue
                if content:
                    job = parse_module_job(json.loads(content))
                    self.calls.append(job)
                    threading.Thread(target=self._answer, args=(server, job), daemon=True).start()

    def _answer(self, server: BlockingServer, job: ModuleJob) -> None:
        with closing(asyncio.new_event_loop()) as loop:
            called = self._call(job)
            content = _wait(loop, called) if inspect.isawaitable(called) else called
            if isinstance(content, AsyncIterator):
                content = _drain(loop, content)
            path = f"{self._path}/results/{quote(job.job_id, safe='')}"
            try:
                with self._posting(job):
                    server.request("POST", path, content, **{"Content-Type": "application/octet-stream"})
            except Exception:
                self._log.exception("job %s: the function raised while its result was streamed", job.job_id)


def _wait(loop: asyncio.AbstractEventLoop, awaitable: Awaitable[T]) -> T:
    async def wait() -> T:
        return await awaitable

    return loop.run_until_complete(wait())


def _drain(loop: asyncio.AbstractEventLoop, iterator: AsyncIterator[bytes]) -> Iterator[bytes]:
    """Return the items of an async iterator one by one, without reading ahead."""
    with suppress(StopAsyncIteration):
        while True:
            yield _wait(loop, iterator.__anext__())
