"""Leases of running jobs."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from ..model.jobs import Job


class Leases:
    """The leases of one broker: timers that start when a job is dispatched and expire if its runtime sends no news."""

    _log = Logger()

    def __init__(self, clock: IReactorTime, seconds: float | None, expired: Callable[[Job], None]) -> None:
        """Create the leases.

        Args:
            clock: The source of time.
            seconds: The length of a lease; ``None`` if jobs have no lease.
            expired: Called with the job whose lease expires.
        """
        self._clock = clock
        self._seconds = seconds
        self._expired = expired
        self._timers: dict[str, IDelayedCall] = {}

    def begin(self, job: Job) -> None:
        """Give a job a new lease, in place of the one it may have."""
        if self._seconds is None:
            return
        self.end(job.job_id)
        self._timers[job.job_id] = self._clock.callLater(self._seconds, self._expire, job)
        self._log.debug(
            "job {job_id}: leased to runtime {runtime_id} for {lease:g} seconds",
            job_id=job.job_id,
            runtime_id=job.runtime_id,
            lease=self._seconds,
        )

    def renew(self, job_id: str) -> None:
        """Start the lease of a job again, if it has one."""
        timer = self._timers.get(job_id)
        if timer is not None:
            assert self._seconds is not None
            timer.reset(self._seconds)

    def end(self, job_id: str) -> None:
        """End the lease of a job, if it has one."""
        timer = self._timers.pop(job_id, None)
        if timer is not None:
            timer.cancel()

    def stop(self) -> None:
        """End all leases, and give no new ones."""
        self._seconds = None
        for job_id in list(self._timers):
            self.end(job_id)

    def _expire(self, job: Job) -> None:
        del self._timers[job.job_id]
        self._expired(job)
