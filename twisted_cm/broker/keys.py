"""Which job a submission with an idempotency key has made before."""

from __future__ import annotations

from ..model.jobs import Job, Submission
from .interface import IdempotencyKeyReused


class SubmissionKeys:
    """The jobs of one broker that were submitted with a key. A job is known by its key while the broker keeps it."""

    def __init__(self) -> None:
        self._jobs: dict[str, Job] = {}

    def find(self, submission: Submission) -> Job | None:
        """Return the job that was submitted with the key of ``submission``.

        Raises:
            IdempotencyKeyReused: That was another submission.
        """
        job = None if submission.key is None else self._jobs.get(submission.key)
        if job is None or job.never_ran:
            return None
        if job.submission != submission:
            raise IdempotencyKeyReused(job.job_id)
        return job

    def keep(self, job: Job) -> None:
        """Remember a new job, if it has a key."""
        if job.submission.key is not None:
            self._jobs[job.submission.key] = job

    def forget(self, job: Job) -> None:
        """Forget a job, unless its key stands for a later one."""
        key = job.submission.key
        if key is not None and self._jobs.get(key) is job:
            del self._jobs[key]
