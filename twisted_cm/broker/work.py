"""The unfinished jobs and the parked polls of one runtime."""

from __future__ import annotations

from collections import OrderedDict

from attrs import define, field

from ..model.jobs import Job
from .parked import Parked


@define(eq=False)
class Work:
    """The jobs of one runtime, and the polls that wait for them.

    Each unfinished job is in one of ``queued``, ``held`` and ``running``. Their keys are job ids.

    Attributes:
        queued: Jobs that wait for a poll, the next one first.
        held: Jobs that are never dispatched.
        running: Jobs that are dispatched.
        repeated: Running jobs that the next poll gets once more.
        copies: How many polls beyond the first got a running job, if any did.
        polls: Parked polls, the one that has waited longest first.
        job_ids: All jobs of the runtime that the broker keeps, finished ones too.
    """

    queued: OrderedDict[str, Job] = field(factory=OrderedDict)
    held: dict[str, Job] = field(factory=dict)
    running: dict[str, Job] = field(factory=dict)
    repeated: OrderedDict[str, Job] = field(factory=OrderedDict)
    copies: dict[str, int] = field(factory=dict)
    polls: OrderedDict[int, Parked[Job | None]] = field(factory=OrderedDict)
    job_ids: dict[str, None] = field(factory=dict)

    @property
    def waiting(self) -> int:
        """The number of jobs that wait, held ones too."""
        return len(self.queued) + len(self.held)

    def take(self, job_id: str) -> bool:
        """Remove a job that waits. Return whether it was waiting."""
        return self.queued.pop(job_id, None) is not None or self.held.pop(job_id, None) is not None

    def take_repeated(self) -> Job:
        """Take the first job of ``repeated`` for a poll."""
        job_id, job = self.repeated.popitem(last=False)
        self.copies[job_id] = self.copies.get(job_id, 0) + 1
        return job

    def drop_copy(self, job_id: str) -> bool:
        """Take note that one of several polls that got a job does not have it. Return whether another still has it."""
        left = self.copies.get(job_id, 0)
        if left > 1:
            self.copies[job_id] = left - 1
        else:
            self.copies.pop(job_id, None)
        return left > 0

    def remove(self, job_id: str) -> None:
        """Remove a job that is finished; it stays in ``job_ids``."""
        self.queued.pop(job_id, None)
        self.held.pop(job_id, None)
        self.running.pop(job_id, None)
        self.repeated.pop(job_id, None)
        self.copies.pop(job_id, None)

    def requeue(self, job: Job) -> None:
        """Move a running job to the front of the queue."""
        del self.running[job.job_id]
        self.repeated.pop(job.job_id, None)
        self.copies.pop(job.job_id, None)
        self.queued[job.job_id] = job
        self.queued.move_to_end(job.job_id, last=False)
