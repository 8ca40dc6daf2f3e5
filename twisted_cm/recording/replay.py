"""How does a runtime answer jobs from a recording?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from itertools import pairwise

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.python.failure import Failure

from ..client.api import RuntimeSession
from ..client.errors import ApiError
from ..client.records import ModuleJob
from ..model.raised import raised_message
from .read import Recorded, Recording

#: Seconds that one poll parks.
_POLL = 50.0

#: Seconds to wait before the next poll after the server had an error.
_AFTER_ERROR = 1.0


class Replay:
    """A runtime that answers jobs from a recording.

    A job whose query was not recorded fails; the message shows the nearest recorded query.

    Attributes:
        outcomes: How many jobs ended in each way.
    """

    def __init__(
        self,
        reactor: IReactorTime,
        session: RuntimeSession,
        recording: Recording,
        timing: bool,
        say: Callable[[str], None],
    ) -> None:
        """Prepare a replay.

        Args:
            session: The runtime to be.
            timing: Wait before each answer as long as the recorded job took.
            say: Shows a message of one or more lines to the user.
        """
        self.outcomes: Counter[str] = Counter()
        self._reactor = reactor
        self._session = session
        self._recording = recording
        self._timing = timing
        self._say = say
        self._running: set[Deferred[None]] = set()

    async def report(self) -> None:
        """Post the recorded schemas, so that applications find the functions. Without any, nothing is posted."""
        schemas = self._recording.schemas
        if schemas:
            await self._session.post_schemas([{"functionName": name, "schema": each} for name, each in schemas.items()])

    async def run(self) -> None:
        """Poll for jobs and answer them until this is canceled.

        Raises:
            twisted_cm.client.ComputeModulesError: The server stopped, or another session took over the runtime.
        """
        try:
            while True:
                try:
                    job = await self._session.poll(_POLL)
                except ApiError as error:
                    if error.status < 500:
                        raise
                    self._say(f"The server had an error; polling again: {error}")
                    await deferLater(self._reactor, _AFTER_ERROR)
                    continue
                if job is not None:
                    answering: Deferred[None] = Deferred.fromCoroutine(self._answer(job))
                    self._running.add(answering)
                    answering.addBoth(self._answered, answering, job)
        finally:
            for each in list(self._running):
                each.cancel()

    def _answered(self, result: Failure | None, answering: Deferred[None], job: ModuleJob) -> None:
        self._running.discard(answering)
        if result is not None and result.check(CancelledError) is None:
            self.outcomes["not delivered"] += 1
            self._say(f"{job.job_id}: The answer was not delivered: {result.getErrorMessage()}")

    async def _answer(self, job: ModuleJob) -> None:
        found = self._recording.find(job.query_type, job.query)
        if found is None or found.too_large:
            problem = self._recording.describe_mismatch(job.query_type, job.query) if found is None else found.problem
            self.outcomes["not recorded"] += 1
            self._say(f"{job.job_id}: {problem}")
            await self._session.fail_job(job.job_id, problem)
            return
        if self._timing:
            await deferLater(self._reactor, found.seconds)
        if found.content is None:
            await self._session.fail_job(job.job_id, found.problem)
            self.outcomes["failed as recorded"] += 1
        else:
            await self._session.post_result(job.job_id, _chunks(found) if found.ends else found.content)
            raised = raised_message(job.job_id, found.content)
            self.outcomes["answered" if raised is None else "raised as recorded"] += 1

    def summarize(self) -> str:
        """Return one line that says how many jobs ended in each way."""
        counts = ", ".join(f"{count} {outcome}" for outcome, count in sorted(self.outcomes.items())) or "none"
        return f"Jobs: {counts}. Recorded jobs never requested: {self._recording.unused} of {self._recording.size}."


def _chunks(recorded: Recorded) -> Iterator[bytes]:
    """Return a result in chunks that end where the recorded ones did."""
    content = recorded.content or b""
    offsets = sorted({0, len(content), *(each for each in recorded.ends if each < len(content))})
    return (content[start:end] for start, end in pairwise(offsets))
