"""The states of jobs and of replicas.

The client needs nothing else of either, and importing all that the emulator knows about them takes 10 ms.
"""

from __future__ import annotations

import enum


class JobState(enum.Enum):
    """The state of a job. The values are used on the wire (contract section 3)."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELED = "canceled"

    # That of an Enum is a function in Python, and each step of a job looks up several states.
    __hash__ = object.__hash__

    @property
    def finished(self) -> bool:
        """Whether the state is final."""
        return not LEGAL_TRANSITIONS[self]


#: The states that may follow each state. A running job is queued again when its poller vanishes during the handover.
#: It may then succeed while it is queued, because the poller may have received it.
LEGAL_TRANSITIONS: dict[JobState, frozenset[JobState]] = {
    JobState.QUEUED: frozenset({JobState.RUNNING, JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELED}),
    JobState.RUNNING: frozenset({JobState.QUEUED, JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELED}),
    JobState.SUCCEEDED: frozenset(),
    JobState.FAILED: frozenset(),
    JobState.CANCELED: frozenset(),
}


class ReplicaState(enum.Enum):
    """What a replica does. The values are used on the wire."""

    #: It is open and has not polled.
    STARTING = "starting"
    #: It has room for another job.
    RESPONSIVE = "responsive"
    #: It runs as many jobs as it may, or it gets no more jobs because it is about to be closed.
    BUSY = "busy"
    #: No poll of it is parked, and nothing has been heard of it for longer than it should take.
    SILENT = "silent"
    #: It was closed.
    GONE = "gone"

    @property
    def connected(self) -> bool:
        """Whether there is a process that takes jobs."""
        return self in (ReplicaState.RESPONSIVE, ReplicaState.BUSY)
