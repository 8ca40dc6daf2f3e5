"""The unfinished jobs of one runtime, the replicas that they are on, and the parked polls."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import OrderedDict
from collections.abc import Iterable
from operator import itemgetter

from attrs import define, field
from twisted.internet.interfaces import IReactorTime

from ..model.jobs import Job
from ..model.replicas import DEFAULT_REPLICA, Replica
from ..model.runtimes import Runtime
from .interface import ReplicaSnapshot, UnknownReplica
from .parked import Parked


@define(eq=False)
class ReplicaWork:
    """The unfinished jobs on one replica, and its polls that wait.

    Attributes:
        polls: Its parked polls, the one that has waited longest first.
        jobs: The unfinished jobs that it was handed, by id. They count against its limit.
        place: Its place in ``Work.ready``, or ``None`` if it has none.
    """

    replica: Replica
    polls: OrderedDict[int, Parked[Job | None]] = field(factory=OrderedDict)
    jobs: dict[str, Job] = field(factory=dict)
    place: int | None = None

    @property
    def has_room(self) -> bool:
        """Whether it may get another job."""
        return self.replica.has_room(len(self.jobs))

    @property
    def own_jobs(self) -> list[Job]:
        """The jobs that it runs. Copies of jobs that other replicas run are not among them."""
        return [job for job in self.jobs.values() if job.replica_id == self.replica.replica_id]

    def snapshot(self, now: int) -> ReplicaSnapshot:
        """Return what inspection shows at ``now``, in milliseconds since the epoch."""
        state = self.replica.state(len(self.jobs), len(self.polls), now)
        return ReplicaSnapshot(self.replica, state, list(self.jobs), len(self.polls))


@define(eq=False)
class Work:
    """The jobs of one runtime, its replicas, and the polls that wait for jobs.

    Each unfinished job is in one of ``queued``, ``held`` and ``running``. Their keys are job ids.

    Attributes:
        runtime: The runtime.
        queued: Jobs that wait for a poll, the next one first.
        held: Jobs that are never dispatched.
        running: Jobs that are dispatched.
        repeated: Running jobs that the next poll gets once more.
        copies: The replicas whose polls got a running job beyond the first poll, if there are any.
        replicas: The replicas that are open, by id.
        ready: The replicas that have room and a parked poll, each with the number of its first poll, the one that has
            waited longest first. Full replicas are not here, so that dispatch need not look at them.
        job_ids: All jobs of the runtime that the broker keeps, finished ones too.
    """

    runtime: Runtime
    queued: OrderedDict[str, Job] = field(factory=OrderedDict)
    held: dict[str, Job] = field(factory=dict)
    running: dict[str, Job] = field(factory=dict)
    repeated: OrderedDict[str, Job] = field(factory=OrderedDict)
    copies: dict[str, list[ReplicaWork]] = field(factory=dict)
    replicas: dict[str, ReplicaWork] = field(init=False)
    ready: list[tuple[int, ReplicaWork]] = field(factory=list)
    job_ids: dict[str, None] = field(factory=dict)
    _polls_parked: int = 0

    def __attrs_post_init__(self) -> None:
        runtime = self.runtime
        default = Replica(runtime.runtime_id, DEFAULT_REPLICA, runtime.module_auth_token, opened_at=runtime.opened_at)
        self.replicas = {DEFAULT_REPLICA: ReplicaWork(default)}

    @property
    def waiting(self) -> int:
        """The number of jobs that wait, held ones too."""
        return len(self.queued) + len(self.held)

    @property
    def parked_polls(self) -> int:
        """The number of polls that wait."""
        return sum(len(each.polls) for each in self.replicas.values())

    def connected(self, now: int) -> bool:
        """Return whether any replica is responsive or busy at ``now``, in milliseconds since the epoch."""
        return any(
            each.replica.state(len(each.jobs), len(each.polls), now).connected for each in self.replicas.values()
        )

    def replica(self, replica_id: str) -> ReplicaWork:
        """Return the replica with that id.

        Raises:
            UnknownReplica: There is none, or it is gone.
        """
        try:
            return self.replicas[replica_id]
        except KeyError:
            raise UnknownReplica(self.runtime.runtime_id, replica_id) from None

    def open(self, replica: Replica) -> None:
        """Add a replica."""
        self.replicas[replica.replica_id] = ReplicaWork(replica)

    def drain(self, replica_id: str) -> None:
        """Give a replica no more jobs.

        Raises:
            UnknownReplica: There is none that can be drained.
        """
        replica = self.replica(replica_id)
        if replica_id == DEFAULT_REPLICA:
            raise UnknownReplica(self.runtime.runtime_id, replica_id)
        replica.replica.draining = True
        self.arrange(replica)

    def heard(self, replica_id: str, now: int) -> None:
        """Note a word of a replica at ``now``, in milliseconds since the epoch; do nothing if it is gone."""
        if replica_id in self.replicas:
            self.replicas[replica_id].replica.last_heard_at = now

    def snapshots(self, opened: Iterable[Replica], now: int) -> list[ReplicaSnapshot]:
        """Return what inspection shows of the default replica and of all that were opened.

        Args:
            opened: The replicas that were opened, those that are gone included.
            now: Milliseconds since the epoch.
        """
        found = [self.replicas[DEFAULT_REPLICA]]
        for each in opened:
            found.append(ReplicaWork(each) if each.gone else self.replicas[each.replica_id])
        return [each.snapshot(now) for each in found]

    def next_number(self) -> int:
        """Return the number of a poll that is about to park. Later polls have larger numbers."""
        self._polls_parked += 1
        return self._polls_parked

    def arrange(self, replica: ReplicaWork) -> None:
        """Put a replica in its place in ``ready``, after its polls or its jobs have changed."""
        place = next(iter(replica.polls)) if replica.polls and replica.has_room else None
        if place == replica.place:
            return
        if replica.place is not None:
            del self.ready[bisect_left(self.ready, replica.place, key=itemgetter(0))]
        if place is not None:
            insort(self.ready, (place, replica), key=itemgetter(0))
        replica.place = place

    def take(self, job_id: str) -> bool:
        """Remove a job that waits. Return whether it was waiting."""
        return self.queued.pop(job_id, None) is not None or self.held.pop(job_id, None) is not None

    def take_repeated(self, replica: ReplicaWork) -> Job:
        """Take the first job of ``repeated`` for a poll of a replica."""
        job_id, job = self.repeated.popitem(last=False)
        self.copies.setdefault(job_id, []).append(replica)
        replica.jobs[job_id] = job
        self.arrange(replica)
        return job

    def drop_copy(self, job: Job) -> bool:
        """Take note that one of several polls that got a job does not have it. Return whether another still has it.

        Which of the polls that is, is not known; the last one counts as the one.
        """
        copies = self.copies.get(job.job_id)
        if copies is None:
            return False
        replica = copies.pop()
        if not copies:
            del self.copies[job.job_id]
        if replica.replica.replica_id != job.replica_id and replica not in copies:
            self._leave(job, replica)
        return True

    def run(self, job: Job, replica: ReplicaWork) -> None:
        """Put a job on a replica."""
        self.running[job.job_id] = replica.jobs[job.job_id] = job
        self.arrange(replica)

    def remove(self, job: Job) -> None:
        """Remove a job that is finished; it stays in ``job_ids``."""
        job_id = job.job_id
        self.queued.pop(job_id, None)
        self.held.pop(job_id, None)
        self.running.pop(job_id, None)
        self.repeated.pop(job_id, None)
        if job.replica_id in self.replicas:
            self._leave(job, self.replicas[job.replica_id])
        for replica in self.copies.pop(job_id, ()):
            self._leave(job, replica)

    def _leave(self, job: Job, replica: ReplicaWork) -> None:
        if replica.jobs.pop(job.job_id, None) is not None:
            self.arrange(replica)

    def requeue(self, job: Job) -> None:
        """Move a running job to the front of the queue."""
        self.remove(job)
        self.queued[job.job_id] = job
        self.queued.move_to_end(job.job_id, last=False)

    def close(self, replica_id: str) -> tuple[ReplicaWork, list[Job]]:
        """Remove a replica that is gone.

        Returns:
            The replica, and the jobs that it ran.
        """
        replica = self.replicas.pop(replica_id)
        self.arrange(replica)
        own = replica.own_jobs
        for job_id in replica.jobs.keys() - {job.job_id for job in own}:
            others = [each for each in self.copies.pop(job_id) if each is not replica]
            if others:
                self.copies[job_id] = others
        return replica, own


class ParkedPoll(Parked["Job | None"]):
    """A poll that waits for a job of its runtime."""

    __slots__ = ("_clock", "_replica", "_work")

    def __init__(self, clock: IReactorTime, work: Work, replica: ReplicaWork, wait: float) -> None:
        """Park a poll of a replica for up to ``wait`` seconds."""
        self._clock = clock
        self._work = work
        self._replica = replica
        super().__init__(clock, replica.polls, wait, None, number=work.next_number())
        work.arrange(replica)

    def _leave(self) -> None:
        super()._leave()
        self._replica.replica.last_heard_at = int(self._clock.seconds() * 1000)
        self._work.arrange(self._replica)
