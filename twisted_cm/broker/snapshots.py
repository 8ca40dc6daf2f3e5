"""What a broker holds, as inspection shows it."""

from __future__ import annotations

from attrs import frozen

from ..model.replicas import Replica, ReplicaState
from ..model.runtimes import Binding, Runtime


@frozen
class ReplicaSnapshot:
    """One replica as inspection shows it.

    Attributes:
        state: Its state now.
        job_ids: The unfinished jobs that are on it.
        parked_polls: The number of its polls that wait for a job.
    """

    replica: Replica
    state: ReplicaState
    job_ids: list[str]
    parked_polls: int


@frozen
class RuntimeSnapshot:
    """One runtime as inspection shows it.

    Attributes:
        queued: The number of jobs that wait for a poll.
        running: The number of jobs that are dispatched and not finished.
        parked_polls: The number of polls that wait for a job.
        replicas: Its replicas, as :meth:`IBroker.replicas` returns them.
    """

    runtime: Runtime
    bindings: list[Binding]
    queued: int
    running: int
    parked_polls: int
    replicas: list[ReplicaSnapshot]


@frozen
class BrokerLoad:
    """The numbers of runtimes, jobs, polls and callers of a broker.

    Attributes:
        runtimes: All runtimes.
        connected: Runtimes of which a replica is responsive or busy.
        queued: Jobs that wait for a poll.
        running: Jobs that are dispatched and not finished.
        parked_polls: Polls that wait in this process.
        parked_callers: Callers that wait in this process.
    """

    runtimes: int
    connected: int
    queued: int
    running: int
    parked_polls: int
    parked_callers: int
