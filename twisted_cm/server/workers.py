"""Work that may take long, in processes of its own, with a time limit.

Python runs one thread at a time, so work on a long text in a thread would still hold up the reactor. The text goes to a
worker process as an open file: it is neither copied nor sent.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, TypeVar

from twisted.internet.defer import Deferred, fail
from twisted.internet.threads import deferToThreadPool
from twisted.python.threadpool import ThreadPool

from ..model.runtimes import FunctionSchema
from .errors import ApiError
from .nameless_files import nameless_file, write_all
from .queries.signature import NotAValue
from .query_validation import UncheckableQuery
from .violations import Violation
from .worker import LENGTH, receive

T = TypeVar("T")

#: Seconds that one piece of work may take.
TIME_LIMIT = 30.0

#: Seconds that the check of one query against the schema of its function may take.
CHECK_LIMIT = 5.0

#: The most pieces of work that are done at once.
MOST_WORKERS = 4

#: Seconds that a worker process may take to start.
_START_LIMIT = 30.0

_CODE = "import sys; sys.path[:] = sys.argv[1:]; from twisted_cm.server.worker import main; main()"


class WorkFailed(Exception):
    """A worker could not do its work; the message says why."""


class TookTooLong(Exception):
    """The work was given up because its time was over.

    Attributes:
        limit: The time that it had, in seconds.
    """

    def __init__(self, limit: float) -> None:
        super().__init__(f"the time limit of {limit:g} seconds is over")
        self.limit = limit


class Refused(Exception):
    """The work found that the request is not valid.

    Attributes:
        parameters: Where it is wrong.
    """

    def __init__(self, message: str, parameters: dict[str, Any]) -> None:
        super().__init__(message)
        self.parameters = parameters


class _Worker:
    """The emulator's side of one worker process."""

    def __init__(self) -> None:
        """Start the process, and wait until it is ready.

        Raises:
            OSError: It cannot be started.
        """
        self._prepared = False
        self._socket, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        package = str(Path(__file__).parents[2])
        with other:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-c", _CODE, *filter(None, sys.path), package],
                stdin=other.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        try:
            self._socket.settimeout(_START_LIMIT)
            receive(self._socket, LENGTH.size)
        except Exception:
            self.end()
            raise

    def ask(self, file: IO[bytes], wanted: dict[str, Any]) -> dict[str, Any]:
        """Have the process do some work.

        Raises:
            TimeoutError: Its time is over.
            OSError: The process has ended.
        """
        message = json.dumps(wanted).encode("ascii")
        self._socket.settimeout(wanted["limit"])
        socket.send_fds(self._socket, [LENGTH.pack(len(message))], [file.fileno()])
        self._socket.sendall(message)
        answer: dict[str, Any] = json.loads(receive(self._socket, LENGTH.unpack(receive(self._socket, LENGTH.size))[0]))
        return answer

    def prepare(self, file: IO[bytes]) -> None:
        """Have the process import what most work needs: this does not count as time of the work."""
        if not self._prepared:
            self.ask(file, {"work": "prepare", "limit": _START_LIMIT})
            self._prepared = True

    def interrupt(self) -> None:
        """Make the thread that waits for the process go on."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def end(self) -> None:
        """End the process."""
        self._socket.close()
        self._process.kill()
        self._process.wait()


def _described(schema: FunctionSchema) -> dict[str, Any]:
    return {"schema": schema.payload, "issues": schema.issues}


class Workers:
    """The worker processes of one emulator. The first one starts when there is work for it."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._pool: ThreadPool | None = None
        self._idle: list[_Worker] = []
        self._all: set[_Worker] = set()
        self._stopped = False

    def read_fields(self, file: IO[bytes], names: list[str]) -> Deferred[dict[str, bytes]]:
        """Check that a text is a JSON object, and return the values of some of its fields, as they are in the text.

        Args:
            file: Holds the text, and is closed in any case.

        Returns:
            A Deferred that fires with the values. It fails with :class:`Refused`, :class:`TookTooLong` or
            :class:`WorkFailed`.
        """

        def read() -> dict[str, bytes]:
            spans = self._ask(file, {"work": "find fields", "names": names, "limit": TIME_LIMIT})["spans"]
            # The thread lets the reactor run while it reads.
            return {name: os.pread(file.fileno(), end - start, start) for name, (start, end) in spans.items()}

        return self._run(file, read)

    def violations(self, schema: FunctionSchema, query: bytes) -> Deferred[list[Violation]]:
        """Check a query against the schema of its function: see :func:`.check_query`.

        Returns:
            A Deferred that fires with what is wrong. It fails with :class:`.UncheckableQuery`, :class:`TookTooLong` or
            :class:`WorkFailed`.
        """
        file = nameless_file()
        wanted = {"work": "check query", "limit": CHECK_LIMIT, **_described(schema)}

        def check() -> list[Violation]:
            write_all(file, query)
            answer = self._ask(file, wanted)
            if "uncheckable" in answer:
                raise UncheckableQuery(answer["uncheckable"])
            return [Violation(pointer, message) for pointer, message in answer["violations"]]

        return self._run(file, check)

    def convert_parameters(self, schema: FunctionSchema, parameters: bytes, in_ontology: bool) -> Deferred[bytes]:
        """Check the parameters of a query, and convert them: see :meth:`.Signature.query_of`.

        Returns:
            A Deferred that fires with the query. It fails with :class:`.ApiError`, :class:`Refused`,
            :class:`TookTooLong` or :class:`WorkFailed`.
        """
        wanted = {"work": "convert parameters", "in_ontology": in_ontology, **_described(schema)}
        return self._convert(parameters, wanted)

    def convert_result(
        self, schema: FunctionSchema | None, result: bytes, ends: Sequence[int], of_stream: bool
    ) -> Deferred[bytes]:
        """Convert a result: see :func:`~twisted_cm.server.queries.results.convert_result`.

        Args:
            schema: The schema of the function, if that is known.
            result: As there.
            ends: As there.
            of_stream: As there.

        Returns:
            A Deferred that fires with one JSON value. It fails with :class:`.NotAValue`, :class:`Refused`,
            :class:`TookTooLong` or :class:`WorkFailed`.
        """
        described = {"schema": None} if schema is None else _described(schema)
        wanted = {"work": "convert result", "ends": list(ends), "of_stream": of_stream, **described}
        return self._convert(result, wanted)

    def _convert(self, text: bytes, wanted: dict[str, Any]) -> Deferred[bytes]:
        file = nameless_file()
        wanted["limit"] = TIME_LIMIT

        def convert() -> bytes:
            write_all(file, text)
            answer = self._ask(file, wanted)
            if "error" in answer:
                raise ApiError(*answer["error"])
            if "not a value" in answer:
                raise NotAValue(answer["not a value"])
            return os.pread(file.fileno(), os.fstat(file.fileno()).st_size, 0)

        return self._run(file, convert)

    def _run(self, file: IO[bytes], work: Callable[[], T]) -> Deferred[T]:
        if self._stopped:
            file.close()
            return fail(WorkFailed("the emulator is stopping"))
        if self._pool is None:
            self._pool = ThreadPool(0, MOST_WORKERS, "workers")
            self._pool.start()
        canceled: list[bool] = []

        def run() -> T | None:
            with file:
                return None if canceled else work()

        wanted: Deferred[T] = Deferred(lambda _: canceled.append(True))

        def done(result: Any) -> None:
            if not canceled:
                wanted.callback(result)

        deferToThreadPool(self._reactor, self._pool, run).addBoth(done)
        return wanted

    def _ask(self, file: IO[bytes], wanted: dict[str, Any]) -> dict[str, Any]:
        """Have some worker do some work, and wait for it. Call this in a thread.

        Raises:
            Refused: The request is not valid.
            TookTooLong: The work took too long.
            WorkFailed: The work cannot be done.
        """
        worker: _Worker | None = None
        try:
            worker = self._idle.pop() if self._idle else self._start()
            if wanted["work"] != "find fields":
                worker.prepare(file)
            answer = worker.ask(file, wanted)
        except TimeoutError:
            self._end(worker)
            raise TookTooLong(wanted["limit"]) from None
        except OSError as error:
            self._end(worker)
            raise WorkFailed(str(error)) from None
        self._idle.append(worker)
        if "refused" in answer:
            raise Refused(answer["refused"], answer["parameters"])
        if "failed" in answer:
            raise WorkFailed(answer["failed"])
        return answer

    def _start(self) -> _Worker:
        worker = _Worker()
        self._all.add(worker)
        if self._stopped:
            raise ConnectionAbortedError("the emulator is stopping")
        return worker

    def _end(self, worker: _Worker | None) -> None:
        if worker is not None:
            self._all.discard(worker)
            worker.end()

    def stop(self) -> None:
        """End all processes. Work that is under way fails."""
        pool, self._pool = self._pool, None
        self._stopped = True
        if pool is None:
            return
        for worker in list(self._all):
            worker.interrupt()
        pool.stop()
        for worker in list(self._all):
            self._end(worker)
        self._idle.clear()
