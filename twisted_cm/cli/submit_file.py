"""How are many jobs submitted and their results printed in order?

Only a limited number of jobs runs at a time. A result that arrives before its turn is kept, up to a limit; at the
limit, no more jobs start until the slow one has ended.
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections import Counter
from collections.abc import Callable, Iterator

from attrs import frozen
from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure

from ..client.application import ComputeModules
from ..client.errors import CannotConnect, ComputeModulesError, Forbidden, InvalidToken, TimedOut
from ..client.records import JobStatus, Result
from ..model.states import JobState
from ..model.types import JSONValue
from .job_file import Line

#: For each job that may run at a time, this many results are kept until it is their turn.
KEPT_PER_JOB = 32

#: No job starts while the kept results have more bytes than this.
KEPT_BYTES = 64 * 1024 * 1024


@frozen
class _Outcome:
    """How one job ended.

    Attributes:
        fields: What is printed.
        size: The bytes of the result.
    """

    fields: dict[str, JSONValue]
    size: int


class Batch:
    """Submits the jobs of a file and prints how each ended, in the order of the file.

    Each job is queued first and then waited for, so that it may take longer than a synchronous caller may park.

    Attributes:
        counts: How many jobs ended in each way.
        stopped: Why no more jobs were started, if an error would affect all of them.
    """

    def __init__(
        self,
        modules: ComputeModules,
        lines: Iterator[Line],
        concurrency: int,
        timeout: float | None,
        emit: Callable[[dict[str, JSONValue]], None],
    ) -> None:
        """Prepare a batch.

        Args:
            concurrency: How many jobs may run at a time.
            timeout: Seconds for each job; ``None`` for no limit.
            emit: Prints how one job ended.
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
        self._waits: set[Deferred[JobStatus]] = set()
        self._interrupted = False
        self._done: Deferred[None] = Deferred(lambda _: self._interrupt())

    async def run(self) -> None:
        """Submit the jobs and wait until all have ended.

        Cancellation starts no more jobs, cancels those that are still queued, and prints what has ended by then.

        Raises:
            CancelledError: The batch was canceled.
        """
        self._start_jobs()
        try:
            await self._done
        except BaseException:
            # The jobs that have started finish first. Canceling again skips that.
            self._done = Deferred()
            if self._running:
                await self._done
            raise

    def _start_jobs(self) -> None:
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
        self._start_jobs()

    def _broken(self, failure: Failure) -> None:
        """End the batch, because results cannot be printed any more or this class has a bug."""
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
        return _Outcome({**fields, **_result_field(result)}, len(result.content))

    async def _await_end(self, job_id: str) -> JobStatus:
        if self._interrupted:
            raise CancelledError
        waiting: Deferred[JobStatus] = Deferred.fromCoroutine(self._modules.wait(job_id, self._timeout))
        self._waits.add(waiting)
        try:
            return await waiting
        finally:
            self._waits.discard(waiting)


def _result_field(result: Result) -> dict[str, JSONValue]:
    """Return the result under a name that says what it is: JSON, text or other bytes."""
    try:
        text = result.text()
    except UnicodeDecodeError:
        return {"result_base64": b64encode(result.content).decode("ascii")}
    try:
        return {"result": json.loads(text)}
    except (ValueError, RecursionError):
        return {"result_text": text}
