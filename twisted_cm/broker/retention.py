"""Retention of finished jobs."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from ..model.jobs import Job
from ..model.limits import JobLimits
from .timers import cancel_timer


class FinishedJobs:
    """The finished jobs that a broker keeps, the oldest first."""

    def __init__(self, clock: IReactorTime, limits: JobLimits, forget: Callable[[Job], None]) -> None:
        """Begin without jobs.

        Args:
            clock: The source of time.
            limits: How many jobs and bytes are kept, and for how long.
            forget: Called with each job that is no longer kept.
        """
        self._clock = clock
        self._limits = limits
        self._forget = forget
        self._jobs: OrderedDict[str, Job] = OrderedDict()
        self._bytes = 0
        self._timer: IDelayedCall | None = None
        self._stopped = False

    def keep(self, job: Job) -> None:
        """Add a job that has just finished, and forget the oldest ones beyond the limits."""
        self._jobs[job.job_id] = job
        self._bytes += job.size
        self._forget_oldest()

    def grew(self, job: Job, size: int) -> None:
        """Count that a job, if it is here, has become larger than ``size`` bytes, and forget the oldest ones."""
        if job.job_id in self._jobs:
            self._bytes += job.size - size
            self._forget_oldest()

    def discard(self, job_id: str) -> None:
        """Remove a job, if it is here, without a call to ``forget``."""
        job = self._jobs.pop(job_id, None)
        if job is not None:
            self._bytes -= job.size

    def stop(self) -> None:
        """Stop the timer. Jobs stay until others replace them."""
        self._stopped = True
        cancel_timer(self._timer)

    def _forget_oldest(self) -> None:
        limits = self._limits
        expired = int(self._clock.seconds() * 1000) - int(limits.retained_seconds * 1000)
        while self._jobs:
            oldest = next(iter(self._jobs.values()))
            assert oldest.completed_at is not None
            too_many = len(self._jobs) > limits.retained_jobs
            too_large = self._bytes > limits.retained_bytes and len(self._jobs) > 1
            if not too_many and not too_large and oldest.completed_at > expired:
                self._wait((oldest.completed_at - expired) / 1000)
                return
            self.discard(oldest.job_id)
            self._forget(oldest)

    def _wait(self, seconds: float) -> None:
        """Forget again when the oldest job expires, unless a timer runs already."""
        if not self._stopped and (self._timer is None or not self._timer.active()):
            self._timer = self._clock.callLater(seconds, self._forget_oldest)
