"""Callers that wait for jobs."""

from __future__ import annotations

from typing import TypeAlias

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.interfaces import IReactorTime

from ..model.jobs import Job
from .interface import BrokerStopped
from .parked import Parked, fire_all

_Shelves: TypeAlias = "dict[str, dict[int, Parked[Job]]]"


class Callers:
    """The callers that wait for a job's result or for its end, by job."""

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._for_results: _Shelves = {}
        self._for_ends: _Shelves = {}
        self._stopped = False

    def __len__(self) -> int:
        return sum(len(shelf) for shelves in (self._for_results, self._for_ends) for shelf in shelves.values())

    def wait_result(self, job: Job, timeout: float) -> Deferred[Job]:
        """Park a caller until the result begins, the job ends, or ``timeout`` seconds have passed."""
        return succeed(job) if job.result is not None else self._wait(job, timeout, self._for_results)

    def wait_end(self, job: Job, timeout: float) -> Deferred[Job]:
        """Park a caller until the job ends or ``timeout`` seconds have passed."""
        return self._wait(job, timeout, self._for_ends)

    def _wait(self, job: Job, timeout: float, shelves: _Shelves) -> Deferred[Job]:
        if job.state.finished or timeout <= 0:
            return succeed(job)
        if self._stopped:
            return fail(BrokerStopped())
        shelf = shelves.setdefault(job.job_id, {})
        return Parked(self._clock, shelf, timeout, job, shelves, job.job_id).deferred

    def result_begun(self, job: Job) -> None:
        """Answer the callers that wait for the job's result."""
        fire_all(self._for_results.get(job.job_id), job)

    def ended(self, job: Job) -> None:
        """Answer all callers that wait for the job."""
        fire_all(self._for_results.get(job.job_id), job)
        fire_all(self._for_ends.get(job.job_id), job)

    def stop(self) -> None:
        """Answer every caller, and those that come later, with :class:`BrokerStopped`."""
        self._stopped = True
        for shelves in (self._for_results, self._for_ends):
            for shelf in list(shelves.values()):
                for parked in list(shelf.values()):
                    parked.fail(BrokerStopped())
