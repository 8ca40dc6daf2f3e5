"""The interface of all brokers; the records and errors that it names can be imported from here, too."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IConsumer
from zope.interface import Attribute, Interface

from ..model.jobs import Job, JobFilter, Submission
from ..model.queries import PostedFunction
from ..model.registry import Registry, SessionRequest
from ..model.replicas import DEFAULT_REPLICA, ModuleIdentity, Replica, ReplicaRequest
from ..model.runtimes import Binding, FunctionSchema, Runtime
from .errors import BrokerError as BrokerError
from .errors import BrokerStopped as BrokerStopped
from .errors import BrokerUnavailable as BrokerUnavailable
from .errors import IdempotencyKeyReused as IdempotencyKeyReused
from .errors import JobAlreadyCompleted as JobAlreadyCompleted
from .errors import NotBound as NotBound
from .errors import QueueFull as QueueFull
from .errors import ReplicaExists as ReplicaExists
from .errors import TokenInUse as TokenInUse
from .errors import UnknownJob as UnknownJob
from .errors import UnknownReplica as UnknownReplica
from .errors import UnknownRuntime as UnknownRuntime
from .snapshots import BrokerLoad as BrokerLoad
from .snapshots import ReplicaSnapshot as ReplicaSnapshot
from .snapshots import RuntimeSnapshot as RuntimeSnapshot

#: Why jobs fail when their runtime is reset or removed.
SESSION_RESET = "The session of the job's compute-module runtime was reset."
RUNTIME_DELETED = "The job's compute-module runtime was deleted."
EMULATOR_RESET = "The emulator was reset."
NO_LONGER_SEEDED = "The job's compute-module runtime is no longer in the seed."

#: Why jobs fail when their replica is closed or says that its process has restarted.
REPLICA_STOPPED = "replica stopped"
RUNTIME_RESTARTED = "runtime restarted"


class Change(NamedTuple):
    """A change of a job or of a runtime.

    Attributes:
        runtime_id: The runtime, or the job's runtime.
        job: The job whose state changed; ``None`` if the runtime was opened or deleted, polled or posted schemas, or if
            one of its replicas was opened or closed.
        forgotten: Whether the runtime was deleted or reset, so that its jobs are no longer kept.
        missed: Whether changes may have been missed, so that observers have to look at everything again. Then
            ``runtime_id`` is empty.
    """

    runtime_id: str
    job: Job | None = None
    forgotten: bool = False
    missed: bool = False


Observer: TypeAlias = Callable[[Change], None]


class IBroker(Interface):
    """Hands jobs to polls and results to callers, and knows the runtimes.

    Every method except :meth:`new_result` returns a Deferred, because a broker may keep its state in another process.
    It fails with a subclass of :class:`BrokerError`: those that a method names, and :class:`BrokerUnavailable`.
    """

    def start() -> Deferred[None]:
        """Start the broker.

        The Deferred fires when the broker can be used, or when it is known that it cannot be used yet. Until it can,
        all methods fail with :class:`BrokerUnavailable`.
        """

    def stop() -> Deferred[None]:
        """Answer everyone who waits and accept no more work. Callers get :class:`BrokerStopped`; polls get no job."""

    def close() -> Deferred[None]:
        """Release all resources.

        Call it after :meth:`stop`, when each dispatched job has been reported as delivered or given back.
        """

    def ping() -> Deferred[None]:
        """Check that the broker can be used; fail with a :class:`BrokerError` if it cannot."""

    def load() -> Deferred[BrokerLoad]:
        """Return the numbers of runtimes, jobs, polls and callers.

        Metrics ask for it often, so its cost does not depend on the number of jobs.
        """

    def observe(observer: Observer, only_here: bool = False) -> Deferred[None]:
        """Call ``observer`` with each :class:`Change` from now on.

        The Deferred fires when the broker stops. To cancel it ends the observation.

        Args:
            only_here: Whether to pass on only steps that were taken through this process, and missed changes. Each
                step is taken through one of the processes that share a broker; it is passed on by none if that process
                lost its connection at that moment. Each step of another process costs a message.
        """

    def runtime(runtime_id: str) -> Deferred[Runtime]:
        """Return a runtime.

        Raises:
            UnknownRuntime: There is none with that id.
        """

    def snapshot(runtime_id: str) -> Deferred[RuntimeSnapshot]:
        """Return a runtime with its counts.

        Raises:
            UnknownRuntime: There is none with that id.
        """

    def snapshots() -> Deferred[list[RuntimeSnapshot]]:
        """Return all runtimes with their counts, sorted by id."""

    def module_runtime(token: str) -> Deferred[ModuleIdentity | None]:
        """Return the runtime and the replica that a module auth token belongs to, or ``None``.

        The token of a runtime is that of its default replica. The token of a replica that is gone belongs to none.
        """

    def open_session(request: SessionRequest) -> Deferred[Runtime]:
        """Create a runtime, or reset the one with that id.

        A reset fails the runtime's jobs, answers its parked polls with no job, forgets its replicas, and gives it a new
        token.

        Raises:
            BrokerStopped: The broker is shutting down.
        """

    def open_replica(request: ReplicaRequest) -> Deferred[Replica]:
        """Open a replica, and create its runtime if that is not there. Nothing is reset.

        If the request names a deployed app that the runtime does not serve yet, it is taken over. The id of a replica
        that is gone may be used again.

        Raises:
            ReplicaExists: A replica with that id is open.
            TokenInUse: The token belongs to a runtime, or to a replica that is open.
            BrokerStopped: The broker is shutting down.
        """

    def replicas(runtime_id: str) -> Deferred[list[ReplicaSnapshot]]:
        """Return the replicas of a runtime: the default one, then the others in the order in which they were opened.

        The last :data:`~twisted_cm.model.replicas.GONE_KEPT` that are gone are among them.

        Raises:
            UnknownRuntime: There is none with that id.
        """

    def close_replica(runtime_id: str, replica_id: str, reason: str = REPLICA_STOPPED) -> Deferred[None]:
        """Close a replica. The jobs on it fail, its parked polls get no job, and its token is no longer valid.

        Args:
            runtime_id: The runtime.
            replica_id: The replica. The default one lasts as long as its runtime, so it counts as unknown here.
            reason: Why it ends. Its jobs fail with the same reason.

        Raises:
            UnknownRuntime: There is no such runtime.
            UnknownReplica: It has no such replica.
        """

    def drain_replica(runtime_id: str, replica_id: str) -> Deferred[None]:
        """Give a replica no more jobs. It finishes those that it runs.

        Raises:
            UnknownRuntime: There is no such runtime.
            UnknownReplica: It has no such replica. The default one cannot be drained.
        """

    def delete_runtime(runtime_id: str) -> Deferred[None]:
        """Remove a runtime. Its jobs and polls end as after a session reset.

        Raises:
            UnknownRuntime: There is none with that id.
        """

    def resolve(deployed_app_rid: str, branch: str | None) -> Deferred[Binding]:
        """Return the active binding of a deployed app. Without a branch, any active binding will do.

        Raises:
            NotBound: There is none.
        """

    def reset(registry: Registry) -> Deferred[None]:
        """Go back to the runtimes and bindings of a seed.

        All jobs and polls end as after a session reset. A runtime without a token in the seed gets the same generated
        token each time.

        Raises:
            BrokerStopped: The broker is shutting down.
        """

    def reseed(registry: Registry) -> Deferred[None]:
        """Apply the differences between the last seed and a new one.

        Runtimes that are no longer in the seed are deleted, new ones are added, and one with another token is reset.
        Bindings that differ are changed. Everything else stays, replicas of the other runtimes too.

        Raises:
            BrokerStopped: The broker is shutting down.
        """

    def functions(name: str, runtime_id: str | None = None) -> Deferred[list[PostedFunction]]:
        """Return the functions of that name that runtimes have posted, sorted by the ids of the runtimes.

        Each query of an application asks for it.

        Args:
            name: The name under which the runtimes have registered it.
            runtime_id: The only runtime to look at; ``None`` for all.
        """

    def put_schemas(runtime_id: str, schemas: list[FunctionSchema]) -> Deferred[None]:
        """Keep the schemas that a runtime posted, in place of those that it posted before.

        Raises:
            UnknownRuntime: There is none with that id.
        """

    def enqueue(runtime_id: str, submission: Submission, held: bool = False) -> Deferred[Job]:
        """Queue a job, or hand it to a parked poll at once.

        If a kept job was submitted with the same key, return that job instead, in the state it is in. The key of a job
        that was canceled before it was dispatched is free again.

        Args:
            runtime_id: The runtime that is to run it.
            submission: What to run.
            held: Whether to keep the job in the queue and never dispatch it.

        Raises:
            UnknownRuntime: There is no such runtime.
            IdempotencyKeyReused: The job of that key was submitted otherwise.
            QueueFull: A limit on queued jobs is reached.
            BrokerStopped: The broker is shutting down.
        """

    def submitted(submission: Submission) -> Deferred[Job | None]:
        """Return the job that :meth:`enqueue` would return instead of a new one, or ``None``.

        Raises:
            IdempotencyKeyReused: The job of that key was submitted otherwise.
        """

    def poll(runtime_id: str, wait: float, replica_id: str = DEFAULT_REPLICA) -> Deferred[Job | None]:
        """Take the next job of a runtime for one of its replicas.

        If there is none, or if the replica has as many unfinished jobs as it may, park for up to ``wait`` seconds. Of
        the replicas that have room, the one whose poll has waited longest gets the next job. The result is the job, now
        ``running``, or ``None``. The caller must then report :meth:`delivered` or :meth:`give_back`. To cancel the
        Deferred removes the parked poll.

        Raises:
            UnknownRuntime: There is no such runtime.
            UnknownReplica: It has no such replica.
        """

    def holds(job_id: str, attempt: int) -> Deferred[bool]:
        """Return whether a job that was handed to a poller may still be written to it.

        It may not if this process was suspended or cut off for so long that another one has given the job to another
        poller. Ask immediately before the job is written.
        """

    def delivered(job_id: str, attempt: int) -> Deferred[None]:
        """Report that a poller has received the job it was handed.

        Returns:
            A Deferred that fires when the broker will not forget it, even if this process is killed.
        """

    def give_back(job_id: str, attempt: int) -> Deferred[None]:
        """Report that a poller vanished before it received the job it was handed.

        The job goes back to the front of its queue, unless something else has happened to it since that attempt.
        """

    def deliver_again(job_id: str) -> Deferred[None]:
        """Hand a running job to the next poll as well, to emulate a repeated delivery.

        The job is then on both replicas, and counts on each.

        Raises:
            UnknownJob: There is no such job.
        """

    def restart(runtime_id: str, replica_id: str = DEFAULT_REPLICA) -> Deferred[list[str]]:
        """Fail the jobs that a replica runs whose process has restarted. All other jobs stay.

        Returns:
            The ids of the failed jobs.

        Raises:
            UnknownRuntime: There is no such runtime.
            UnknownReplica: It has no such replica.
        """

    def open_result(runtime_id: str, job_id: str, replica_id: str = DEFAULT_REPLICA) -> Deferred[Job]:
        """Return the job that a replica is about to post a result for, and renew its lease.

        The job may be on another replica of the runtime: a job whose lease ran out may be posted late.

        Raises:
            UnknownJob: There is no such job, or it belongs to another runtime.
        """

    def new_result(job_id: str, content_type: str | None) -> IResult:
        """Return an empty result to write to.

        It becomes the job's with :meth:`begin_result` or :meth:`complete`. Each write renews the job's lease.
        """

    def begin_result(job_id: str, body: IResult, replica_id: str = DEFAULT_REPLICA) -> Deferred[bool]:
        """Make a result that is still being written the job's, so that callers can read it.

        Args:
            job_id: The job. If it is queued again, it runs from now on.
            body: The result.
            replica_id: The replica that writes it, on which a job runs that was queued.

        Returns:
            ``False`` if the job has finished or has another result; the broker then ignores ``body``.

        Raises:
            UnknownJob: There is no such job.
        """

    def complete(job_id: str, body: IResult, raised: str | None = None) -> Deferred[None]:
        """Finish a job with a complete result.

        The same bytes posted again are accepted. A result for a canceled job is discarded.

        Args:
            job_id: The job.
            body: The result.
            raised: What the function raised, if the result reports that.

        Raises:
            JobAlreadyCompleted: The job has finished with another result.
            UnknownJob: There is no such job.
        """

    def fail_job(job_id: str, reason: str) -> Deferred[bool]:
        """Finish a job as failed. The result is ``False`` if it had finished before.

        Raises:
            UnknownJob: There is no such job.
        """

    def keep_output(job_id: str, output: str) -> Deferred[None]:
        """Keep what a module wrote while it ran a job, in place of what was kept before.

        Args:
            job_id: The job, finished or not.
            output: At most :data:`~twisted_cm.model.jobs.OUTPUT_KEPT` characters; more are cut off at the start.

        Raises:
            UnknownJob: There is no such job.
        """

    def cancel(job_id: str, reason: str, only_queued: bool = False, later: bool = False) -> Deferred[bool]:
        """Finish a job as canceled.

        Args:
            job_id: The job.
            reason: The job's error message.
            only_queued: Whether to leave a running job alone.
            later: Whether to remember this until the broker can be reached, if it cannot be reached now.

        Returns:
            ``False`` if the job had finished before, was left alone, or is canceled later.

        Raises:
            UnknownJob: There is no such job.
        """

    def job(job_id: str) -> Deferred[Job]:
        """Return a job.

        Raises:
            UnknownJob: There is no such job.
        """

    def jobs(wanted: JobFilter, most: int) -> Deferred[list[Job]]:
        """Return up to ``most`` jobs, the last submitted first.

        Their queries may be missing, as in each :class:`Change` and after a wait.
        """

    def wait_result(job_id: str, timeout: float) -> Deferred[Job]:
        """Park until the job has finished or its result has begun, for up to ``timeout`` seconds.

        The result is the job in the state it then has. To cancel the Deferred removes the parked caller.

        Raises:
            UnknownJob: There is no such job.
            BrokerStopped: The broker is shutting down.
        """

    def wait_end(job_id: str, timeout: float) -> Deferred[Job]:
        """Do the same as :meth:`wait_result`, but do not return when a result has only begun."""


class IResult(IConsumer):
    """A result. A broker creates it, and its bytes are written to it as to any ``IConsumer``."""

    content_type: str | None = Attribute("The content type that the runtime posted.")
    size: int = Attribute("The number of bytes written so far.")
    complete: bool = Attribute("Whether the last byte has arrived.")

    def mark(offset: int) -> None:
        """Note that a chunk of the post ends at ``offset``.

        Call it before the last byte up to there is written, so that whoever reads that byte finds its end. Note only
        the ends that matter: see :func:`~twisted_cm.model.json_values.runs_on`.
        """

    def abandon() -> None:
        """Give up writing it: the post broke off. Bytes that are still on their way are dropped."""

    def read(offset: int, size: int) -> Deferred[bytes]:
        """Return up to ``size`` of the bytes written so far, from ``offset`` on; ``b""`` at the end.

        Raises:
            UnknownJob: The broker has forgotten the job, and its result with it.
        """

    def ends(start: int, end: int) -> Deferred[list[int]]:
        """Return the noted ends of chunks that are greater than ``start`` and at most ``end``, in order.

        Ends after bytes that have not been delivered or read yet may be missing.

        Raises:
            UnknownJob: The broker has forgotten the job, and its result with it.
        """

    def deliver(consumer: IConsumer) -> Deferred[bool]:
        """Write the whole result to ``consumer``, at the consumer's pace.

        If the result is still being written, the delivery follows it. To cancel the Deferred stops the delivery. If the
        consumer itself calls ``stopProducing``, the Deferred never fires.

        Returns:
            ``True`` after the last byte; ``False`` if the result ends before it is complete.
        """
