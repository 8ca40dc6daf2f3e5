"""A line in the log for each finished job."""

from __future__ import annotations

from twisted.logger import Logger

from .broker.interface import Change
from .logs import FinishedJob
from .model.raised import RAISED


class JobLines:
    """Logs each job that ends, without its query, its result or its message, which can hold secrets."""

    _log = Logger()

    def __init__(self) -> None:
        # To ask the class for its logger makes another one each time.
        self._info = self._log.info

    def changed(self, change: Change) -> None:
        """Log a job that has ended.

        This is an observer for :meth:`IBroker.observe`. It hears only of steps that are taken through this process, so
        one at most of the processes that share a broker logs a job.
        """
        job = change.job
        if job is None or not job.state.finished or job.completed_at is None:
            return
        since = job.queued_at if job.started_at is None else job.started_at
        self._info(
            "{finished_job}",
            finished_job=FinishedJob(
                job.job_id,
                job.runtime_id,
                job.submission.query_type,
                job.state.value if job.raised is None else RAISED,
                max(job.completed_at - since, 0),
            ),
        )
