"""
Many jobs from the lines of a file: C{twisted-cm submit --jobs}.

So many run at a time, and results are printed in the order of the lines.  One
that comes before its turn is kept for it, but only so many: then no more lines
are started until the slow one is there.
"""

from __future__ import annotations

import json
import sys
import tempfile
from base64 import b64encode
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from attrs import define, frozen
from twisted.internet.defer import CancelledError, Deferred

from ..client.api import ComputeModules
from ..client.errors import CannotConnect, ComputeModulesError, Forbidden, InvalidToken, TimedOut
from ..client.records import Result
from ..model.jobs import JobState
from ..model.types import JSONValue

#: The most results that are kept until it is their turn, for each job that runs at a time, and the most bytes of them.
KEPT_PER_JOB = 32


KEPT_BYTES = 64 * 1024 * 1024


#: The most bad lines that are listed.
_MOST_LISTED = 20


_FIELDS = frozenset(("rid", "branch", "function", "query"))


class BadLines(Exception):
    """Some lines are no jobs; the message lists them."""


@frozen
class Line:
    """One line of the file: a job to submit."""

    number: int
    rid: str
    function: str
    query: JSONValue
    branch: str | None


class JobFile:
    """
    A file of jobs, which is read twice: once to check it, and once to submit it.

    @ivar count: how many jobs are in it.
    """

    def __init__(self, path: Path, rid: str | None, function: str | None, branch: str | None) -> None:
        """
        @param path: C{-} for standard input.
        @param rid: where the jobs go that do not say so.
        @param function: each line is a query of this function; L{None} if each says which.
        @param branch: of the deployed app, where a line does not say so.
        @raise BadLines: some lines are no jobs.
        @raise OSError: the file cannot be read.
        """
        self._rid, self._function, self._branch = rid, function, branch
        source: IO[bytes] = sys.stdin.buffer if str(path) == "-" else path.open("rb")
        self._kept: IO[bytes] | None = None
        if not source.seekable():
            self._kept = tempfile.TemporaryFile(prefix="twisted-cm-jobs-")  # noqa: SIM115 - closed with the process
        self.count = 0
        problems = []
        for number, text in enumerate(source, 1):
            if self._kept is not None:
                self._kept.write(text)
            try:
                self.count += self._parse(number, text) is not None
            except ValueError as error:
                problems.append(f"line {number}: {error}")
                if len(problems) == _MOST_LISTED:
                    problems.append("the lines after that were not read")
                    break
        if problems:
            raise BadLines("\n".join(problems))
        self._lines = self._kept or source

    def __iter__(self) -> Iterator[Line]:
        self._lines.seek(0)
        for number, text in enumerate(self._lines, 1):
            line = self._parse(number, text)
            if line is not None:
                yield line

    def _parse(self, number: int, text: bytes) -> Line | None:
        """
        @return: L{None} for a blank line.
        @raise ValueError: it is no job.
        """
        if not text.strip():
            return None
        try:
            value = json.loads(text)
        except RecursionError:
            raise ValueError("nested too deeply") from None
        except json.JSONDecodeError as error:
            raise ValueError(f"not JSON: {error.msg} at character {error.pos + 1}") from None
        except UnicodeDecodeError as error:
            raise ValueError(f"not JSON in UTF-8: {error.reason} at byte {error.start + 1}") from None
        if self._function is not None:
            assert self._rid is not None
            return Line(number, self._rid, self._function, value, self._branch)
        if not isinstance(value, dict):
            raise ValueError(
                'not an object as in {"function": "add", "query": {"a": 1}}; name a function to send queries'
            )
        unknown = sorted(value.keys() - _FIELDS)
        if unknown:
            raise ValueError(f"unknown field {unknown[0]!r}; there are {', '.join(sorted(_FIELDS))}")
        texts = {"rid": self._rid, "branch": self._branch, "function": None}
        for name in texts:
            texts[name] = value.get(name, texts[name])
            if texts[name] is None and name == "branch":
                continue
            if not isinstance(texts[name], str) or not str(texts[name]).strip():
                raise ValueError(f"{name!r} is missing, or no text")
        return Line(number, str(texts["rid"]), str(texts["function"]), value.get("query", {}), texts["branch"])


@define
class _Outcome:
    """
    How one line went.

    @ivar fields: what is printed of it.
    """

    fields: dict[str, JSONValue]
    size: int


class Batch:
    """
    Submits the jobs of a file, and prints how each went, in their order.

    A job is queued and waited for, so that it may take as long as it likes.

    @ivar counts: how many lines went how.
    @ivar stopped: why no more lines were started, if something is wrong that would be wrong with all of them.
    """

    def __init__(
        self,
        modules: ComputeModules,
        lines: Iterator[Line],
        concurrency: int,
        timeout: float | None,
        emit: Callable[[dict[str, JSONValue]], None],
    ) -> None:
        """
        @param concurrency: how many jobs at a time.
        @param timeout: seconds for each job.
        @param emit: takes what is to be printed of a line.
        """
        self.counts: Counter[str] = Counter()
        self.stopped: str | None = None
        self._modules = modules
        self._lines = lines
        self._concurrency = concurrency
        self._timeout = timeout
        self._emit = emit
        self._started = self._printed = 0
        self._early: dict[int, _Outcome] = {}
        self._early_bytes = 0
        self._running: set[int] = set()
        self._waits: set[Deferred[Any]] = set()
        self._interrupted = False
        self._done: Deferred[None] = Deferred(lambda _: self._interrupt())

    async def run(self) -> None:
        """
        Submit the lines, until the last has ended or this is canceled.

        Then no more lines are started and the jobs that are still queued are canceled; what is done by then is printed.

        @raise CancelledError: it was canceled.
        """
        self._fill()
        try:
            await self._done
        except BaseException:
            # Those that have begun come to their end yet; to cancel it again leaves that, too.
            self._done = Deferred()
            if self._running:
                await self._done
            raise

    def _fill(self) -> None:
        while self._may_start():
            line = next(self._lines, None)
            if line is None:
                break
            position = self._started
            self._started += 1
            self._running.add(position)
            ended: Deferred[_Outcome] = Deferred.fromCoroutine(self._submit(line))
            ended.addCallback(self._ended, position).addErrback(self._broken)
        if not self._running and not self._done.called:
            self._done.callback(None)

    def _may_start(self) -> bool:
        return (
            not self._interrupted
            and self.stopped is None
            and len(self._running) < self._concurrency
            and self._started - self._printed < self._concurrency * KEPT_PER_JOB
            and self._early_bytes < KEPT_BYTES
        )

    def _ended(self, outcome: _Outcome, position: int) -> None:
        self._running.discard(position)
        self._early[position] = outcome
        self._early_bytes += outcome.size
        while self._printed in self._early:
            ready = self._early.pop(self._printed)
            self._early_bytes -= ready.size
            self._printed += 1
            self.counts[ready.fields["status"]] += 1
            self._emit(ready.fields)
        self._fill()

    def _broken(self, failure: Any) -> None:
        """Nothing can be printed any more, or something is wrong here."""
        self._emit = lambda fields: None
        self._interrupt()
        if not self._done.called:
            self._done.errback(failure)

    def _interrupt(self) -> None:
        self._interrupted = True
        for each in list(self._waits):
            each.cancel()

    async def _submit(self, line: Line) -> _Outcome:
        fields: dict[str, JSONValue] = {"line": line.number, "job_id": None, "status": "error"}
        try:
            handle = await self._modules.submit(line.rid, line.function, line.query, branch=line.branch)
            fields["job_id"] = handle.id
            try:
                ended = await self._await_end(handle.id)
            except (CancelledError, TimedOut) as error:
                await self._modules.cancel(handle.id, only_queued=isinstance(error, CancelledError))
                ended = await self._modules.status(handle.id)
                fields["status"] = ended.state.value
                fields["error"] = "interrupted" if isinstance(error, CancelledError) else str(error)
                return _Outcome(fields, 0)
            fields["status"] = ended.state.value
            if ended.state is not JobState.SUCCEEDED:
                fields["error"] = ended.message
                return _Outcome(fields, 0)
            result = await self._modules.result(handle.id)
        except ComputeModulesError as error:
            if isinstance(error, CannotConnect | InvalidToken | Forbidden):
                self.stopped = str(error)
            return _Outcome({**fields, "error": str(error)}, 0)
        if result.exception is not None:
            return _Outcome({**fields, "status": "raised", "error": result.exception}, len(result.content))
        return _Outcome({**fields, **_shown(result)}, len(result.content))

    async def _await_end(self, job_id: str) -> Any:
        if self._interrupted:
            raise CancelledError
        waiting: Deferred[Any] = Deferred.fromCoroutine(self._modules.wait(job_id, self._timeout))
        self._waits.add(waiting)
        try:
            return await waiting
        finally:
            self._waits.discard(waiting)


def _shown(result: Result) -> dict[str, JSONValue]:
    try:
        text = result.text()
    except UnicodeDecodeError:
        return {"result_base64": b64encode(result.content).decode("ascii")}
    try:
        return {"result": json.loads(text)}
    except (ValueError, RecursionError):
        return {"result_text": text}
