"""Time limits of jobs: a job that runs for longer has failed."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from ..broker.interface import BrokerError, Change, IBroker
from ..broker.timers import cancel_timer
from ..model.jobs import Job, JobFilter, JobState
from ..model.limits import TimeLimits

#: How many running jobs are read at once after changes were missed.
_PAGE = 500

_RAN_TOO_LONG = "The job ran for longer than its time limit"


class JobTimer:
    """Fails the jobs that run for longer than they may."""

    _log = Logger()

    def __init__(
        self, clock: IReactorTime, broker: IBroker, limits: Mapping[str, TimeLimits], expired: Callable[[Job], None]
    ) -> None:
        """Watch nothing yet.

        Args:
            clock: The source of time.
            broker: Has the jobs.
            limits: The limits, by runtime.
            expired: Called with each job that has failed for that reason, in each process that shares the broker.
        """
        self._limits = limits
        self._clock = clock
        self._broker = broker
        self._expired = expired
        self._timers: dict[str, IDelayedCall] = {}
        self._started = False
        self._observing: Deferred[None] | None = None

    def start(self) -> None:
        """Watch the jobs of the broker, those included that run already."""
        self._started = True
        self._watch()

    def replace(self, limits: Mapping[str, TimeLimits]) -> None:
        """Apply other limits from now on, also to the jobs that run already."""
        if limits != self._limits:
            self._limits = limits
            if self._started:
                self._watch()

    def stop(self) -> None:
        """Fail no more jobs."""
        self._started = False
        self._limits = {}
        self._watch()

    def _watch(self) -> None:
        """Watch the jobs if any has a limit: on Redis, each step of a job at another node costs this one a message."""
        self._cancel_timers()
        if not self._limits:
            if self._observing is not None:
                self._observing.cancel()
                self._observing = None
            return
        if self._observing is None:
            self._observing = self._broker.observe(self._changed)
            self._observing.addErrback(lambda failure: failure.trap(CancelledError))
        self._find_running()

    def _cancel_timers(self) -> None:
        for timer in self._timers.values():
            cancel_timer(timer)
        self._timers.clear()

    def _changed(self, change: Change) -> None:
        if change.missed:
            self._find_running()
        elif change.job is not None:
            self._look_at(change.job)
            limit = self._limit_of(change.job)
            # Of the processes that share a broker, one has failed the job, and another may have started its module.
            if limit is not None and change.job.error_message == _message(limit):
                self._expired(change.job)

    def _look_at(self, job: Job) -> None:
        cancel_timer(self._timers.pop(job.job_id, None))
        limit = self._limit_of(job)
        if job.state is JobState.RUNNING and limit is not None and job.started_at is not None:
            left = job.started_at / 1000 + limit - self._clock.seconds()
            self._timers[job.job_id] = self._clock.callLater(max(left, 0), self._expire, job, limit)

    def _limit_of(self, job: Job) -> float | None:
        limits = self._limits.get(job.runtime_id)
        return None if limits is None else limits.of(job.submission.query_type)

    def _find_running(self) -> None:
        finding: Deferred[None] = Deferred.fromCoroutine(self._read_running())
        # The broker says again that changes were missed when it can be reached.
        finding.addErrback(lambda failure: failure.trap(BrokerError))

    async def _read_running(self) -> None:
        before = None
        while page := await self._broker.jobs(JobFilter(state=JobState.RUNNING, before=before), _PAGE):
            before = page[-1].number
            for job in page:
                self._look_at(job)

    def _expire(self, job: Job, limit: float) -> None:
        del self._timers[job.job_id]
        failing: Deferred[None] = Deferred.fromCoroutine(self._fail(job, limit))
        failing.addErrback(lambda failure: failure.trap(BrokerError))

    async def _fail(self, job: Job, limit: float) -> None:
        if await self._broker.fail_job(job.job_id, _message(limit)):
            self._log.warn(
                "job {job_id}: failed, function {function} ran for longer than {limit:g} seconds",
                job_id=job.job_id,
                function=job.submission.query_type,
                limit=limit,
            )


def ran_too_long(job: Job) -> bool:
    """Return whether a job has failed because it ran for longer than it may."""
    return job.state is JobState.FAILED and (job.error_message or "").startswith(_RAN_TOO_LONG)


def _message(limit: float) -> str:
    return f"{_RAN_TOO_LONG} of {limit:g} seconds."
