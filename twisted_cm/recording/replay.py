"""Answer jobs from a recording."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater

from ..client.api import RuntimeSession
from ..client.records import ModuleJob
from .read import Recording

#: Seconds that one poll of a replay parks, and after which it polls again when the server had an error.
_POLL = 50.0


_AFTER_ERROR = 1.0


class Replay:
    """
    A runtime that answers from a recording.

    What was not recorded fails, with what was recorded nearest.

    @ivar outcomes: how many jobs were answered how.
    """

    def __init__(
        self,
        reactor: IReactorTime,
        session: RuntimeSession,
        recording: Recording,
        timing: bool,
        say: Callable[[str], None],
    ) -> None:
        """
        @param timing: take as long as was recorded.
        @param say: tells whoever looks on, in lines.
        """
        self.outcomes: Counter[str] = Counter()
        self._reactor = reactor
        self._session = session
        self._recording = recording
        self._timing = timing
        self._say = say
        self._running: set[Deferred[None]] = set()

    async def run(self) -> None:
        """
        Take jobs and answer them, until this is canceled.

        @raise twisted_cm.client.ComputeModulesError: the server is gone, or the runtime is somebody else's now.
        """
        from ..client.errors import ApiError

        try:
            while True:
                try:
                    job = await self._session.poll(_POLL)
                except ApiError as error:
                    if error.status < 500:
                        raise
                    self._say(f"The server had an error, and is polled again: {error}")
                    await deferLater(self._reactor, _AFTER_ERROR)
                    continue
                if job is not None:
                    answering: Deferred[None] = Deferred.fromCoroutine(self._answer(job))
                    self._running.add(answering)
                    answering.addBoth(self._answered, answering, job)
        finally:
            for each in list(self._running):
                each.cancel()

    def _answered(self, result: Any, answering: Deferred[None], job: ModuleJob) -> None:
        self._running.discard(answering)
        if result is not None and result.check(CancelledError) is None:
            self.outcomes["not taken"] += 1
            self._say(f"{job.job_id}: nobody took the answer: {result.getErrorMessage()}")

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
            await self._session.post_result(job.job_id, found.content)
            self.outcomes["answered"] += 1

    def summarize(self) -> str:
        """
        @return: how it went.
        """
        counts = ", ".join(f"{count} {outcome}" for outcome, count in sorted(self.outcomes.items())) or "none"
        return f"Jobs: {counts}. Recordings never asked for: {self._recording.unused} of {self._recording.size}."
