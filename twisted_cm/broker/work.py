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
        polls: Parked polls, the one that has waited longest first.
        job_ids: All jobs of the runtime that the broker keeps, finished ones too.
    """

    queued: OrderedDict[str, Job] = field(factory=OrderedDict)
    held: dict[str, Job] = field(factory=dict)
    running: dict[str, Job] = field(factory=dict)
    repeated: OrderedDict[str, Job] = field(factory=OrderedDict)
    polls: OrderedDict[int, Parked[Job | None]] = field(factory=OrderedDict)
    job_ids: dict[str, None] = field(factory=dict)

    @property
    def waiting(self) -> int:
        """The number of jobs that wait, held ones too."""
        return len(self.queued) + len(self.held)

    def take(self, job_id: str) -> bool:
        """Remove a job that waits. Return whether it was waiting."""
        return self.queued.pop(job_id, None) is not None or self.held.pop(job_id, None) is not None

    def remove(self, job_id: str) -> None:
        """Remove a job that is finished; it stays in ``job_ids``."""
        self.queued.pop(job_id, None)
        self.held.pop(job_id, None)
        self.running.pop(job_id, None)
        self.repeated.pop(job_id, None)

    def requeue(self, job: Job) -> None:
        """Move a running job to the front of the queue."""
        del self.running[job.job_id]
        self.repeated.pop(job.job_id, None)
        self.queued[job.job_id] = job
        self.queued.move_to_end(job.job_id, last=False)
