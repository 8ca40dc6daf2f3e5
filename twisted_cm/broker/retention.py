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
        self._forget_excess()
        if self._timer is None:
            self._forget_expired()

    def grew(self, job: Job, size: int) -> None:
        """Count that a job, if it is here, has become larger than ``size`` bytes, and forget the oldest ones."""
        if job.job_id in self._jobs:
            self._bytes += job.size - size
            self._forget_excess()

    def discard(self, job_id: str) -> None:
        """Remove a job, if it is here, without a call to ``forget``."""
        job = self._jobs.pop(job_id, None)
        if job is not None:
            self._bytes -= job.size

    def stop(self) -> None:
        """Stop the timer. Jobs stay until others replace them."""
        self._stopped = True
        cancel_timer(self._timer)

    def _forget_excess(self) -> None:
        """Forget the oldest jobs until there are no more of them and no larger ones than may be kept."""
        limits = self._limits
        while len(self._jobs) > limits.retained_jobs or (self._bytes > limits.retained_bytes and len(self._jobs) > 1):
            self._forget_oldest()

    def _forget_expired(self) -> None:
        """Forget the jobs that have been kept for long enough, and do so again when the next one has been."""
        self._timer = None
        expired = int(self._clock.seconds() * 1000) - int(self._limits.retained_seconds * 1000)
        while self._jobs:
            oldest = next(iter(self._jobs.values()))
            assert oldest.completed_at is not None
            if oldest.completed_at > expired:
                if not self._stopped:
                    self._timer = self._clock.callLater((oldest.completed_at - expired) / 1000, self._forget_expired)
                return
            self._forget_oldest()

    def _forget_oldest(self) -> None:
        _, oldest = self._jobs.popitem(last=False)
        self._bytes -= oldest.size
        self._forget(oldest)
