"""How the jobs of a broker in memory go from their queues to the polls of replicas, and back."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from ..model.jobs import Job, JobState
from ..model.replicas import SILENT_AFTER, ReplicaState
from .leases import Leases
from .observers import Observers
from .work import ParkedPoll, ReplicaWork, Work


class Dispatch:
    """Hands jobs to polls, in memory.

    Attributes:
        stopped: Whether the broker is stopping, so that no poll waits any more.
    """

    _log = Logger()

    def __init__(self, clock: IReactorTime, leases: Leases, observers: Observers, debug: Callable[..., None]) -> None:
        """Hand out nothing yet.

        Args:
            clock: The source of time.
            leases: The leases of dispatched jobs.
            observers: Are told of each step.
            debug: Logs a message for debugging.
        """
        self.stopped = False
        self._clock = clock
        self._leases = leases
        self._observers = observers
        self._debug = debug

    def _now(self) -> int:
        return int(self._clock.seconds() * 1000)

    def poll(self, work: Work, replica: ReplicaWork, wait: float) -> Deferred[Job | None]:
        """Return the next job for a replica, or park a poll for up to ``wait`` seconds."""
        now = self._now()
        self._note_poll(work, replica, now)
        work.runtime.last_poll_at = replica.replica.last_poll_at = replica.replica.last_heard_at = now
        self._observers.notify(work.runtime.runtime_id)
        # Jobs wait only while no replica with room has a poll parked, so no other poll has waited longer.
        if (work.repeated or work.queued) and replica.has_room:
            return succeed(self._next(work, replica))
        return ParkedPoll(self._clock, work, replica, wait).deferred if wait > 0 else succeed(None)

    def _note_poll(self, work: Work, replica: ReplicaWork, now: int) -> None:
        """Log that a replica polls that was not connected before."""
        record = replica.replica
        heard = record.last_heard_at
        if heard is not None and now - heard <= SILENT_AFTER * 1000 and record.last_poll_at is not None:
            return
        state = record.state(len(replica.jobs), len(replica.polls), now)
        if state in (ReplicaState.STARTING, ReplicaState.SILENT):
            which = "" if record.limit is None else f" as replica {record.replica_id}"
            self._log.info("runtime {runtime_id}: connected{which}", runtime_id=work.runtime.runtime_id, which=which)

    def serve(self, work: Work) -> None:
        """Hand jobs to parked polls, as long as there are jobs, and polls of replicas that have room."""
        while work.ready and (work.queued or work.repeated):
            replica = work.ready[0][1]
            poll = next(iter(replica.polls.values()))
            poll.fire(self._next(work, replica))

    def _next(self, work: Work, replica: ReplicaWork) -> Job:
        """Take the job for the next poll, which is one of a replica."""
        if work.repeated:
            return work.take_repeated(replica)
        job = work.queued.popitem(last=False)[1]
        self.run(work, job, replica)
        self._debug("job {job_id}: dispatched to runtime {runtime_id}", job_id=job.job_id, runtime_id=job.runtime_id)
        return job

    def run(self, work: Work, job: Job, replica: ReplicaWork) -> None:
        """Let a job that was queued run on a replica."""
        job.transition(JobState.RUNNING, self._now(), replica_id=replica.replica.replica_id)
        work.run(job, replica)
        self._leases.begin(job)
        self._observers.notify(job.runtime_id, job)

    def repeat(self, work: Work, job: Job) -> None:
        """Hand a running job to the next poll as well."""
        work.repeated[job.job_id] = job
        self.serve(work)

    def give_back(self, work: Work, job: Job) -> None:
        """Take back a job whose poller does not have it. Queue it again, unless another poller has it, too."""
        if work.drop_copy(job):
            self.serve(work)
            return
        self._log.info(
            "job {job_id}: given back, because its poller of runtime {runtime_id} vanished",
            job_id=job.job_id,
            runtime_id=job.runtime_id,
        )
        self.queue_again(work, job, "poller vanished")

    def queue_again(self, work: Work, job: Job, outcome: str) -> None:
        """Put a running job at the front of its queue.

        Args:
            work: The work of its runtime.
            job: The job.
            outcome: Why its attempt ended.
        """
        self._leases.end(job.job_id)
        work.requeue(job)
        job.transition(JobState.QUEUED, self._now(), outcome)
        self._observers.notify(job.runtime_id, job)
        if not self.stopped:
            self.serve(work)
