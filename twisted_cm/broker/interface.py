"""What a broker does, and what it refuses."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from attrs import frozen
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IConsumer
from zope.interface import Attribute, Interface

from ..model.jobs import Job, JobFilter, Submission
from ..model.registry import Registry, SessionRequest
from ..model.runtimes import Binding, FunctionSchema, Runtime


class BrokerError(Exception):
    """What the broker refuses, each kind with a class of its own; C{args} name what was asked for."""


class UnknownRuntime(BrokerError):
    """No runtime has that id, the one argument."""


class UnknownJob(BrokerError):
    """No job has that id, the one argument, or it belongs to another runtime."""


class NotBound(BrokerError):
    """No active runtime is bound to the deployed app; its rid and branch (or L{None}) are the arguments."""


class JobAlreadyCompleted(BrokerError):
    """A different result for a job that has one; its id is the one argument."""


class QueueFull(BrokerError):
    """As much waits for the runtime as may; its id, the limit and its unit, jobs or bytes, are the arguments."""


class BrokerStopped(BrokerError):
    """The broker is shutting down and takes no more work."""


class BrokerUnavailable(BrokerError):
    """What the broker is kept in cannot be reached now; the one argument says why."""


#: Why jobs end whose runtime goes.
SESSION_RESET = "The session of the job's compute-module runtime was reset."


RUNTIME_DELETED = "The job's compute-module runtime was deleted."


EMULATOR_RESET = "The emulator was reset."


NO_LONGER_SEEDED = "The job's compute-module runtime is no longer in the seed."


@frozen
class RuntimeSnapshot:
    """
    One runtime as inspection shows it.

    @ivar queued: jobs that wait for a poll.
    @ivar running: jobs handed out and not finished.
    """

    runtime: Runtime
    bindings: list[Binding]
    queued: int
    running: int
    parked_polls: int


@frozen
class BrokerLoad:
    """
    How much there is of what a broker keeps.

    @ivar runtimes: all of them.
    @ivar connected: those that have polled.
    @ivar queued: jobs that wait for a poll.
    @ivar running: jobs handed out and not finished.
    @ivar parked_polls: those that wait in this process.
    @ivar parked_callers: those that wait in this process.
    """

    runtimes: int
    connected: int
    queued: int
    running: int
    parked_polls: int
    parked_callers: int


@frozen
class Change:
    """
    Something that is different now.

    @ivar runtime_id: the runtime that it is about, or, with C{job}, the job's.
    @ivar job: the job whose state has changed; L{None} where the runtime itself
        was opened or deleted, has polled or has posted schemas.
    @ivar forgotten: the runtime was deleted or reset, and its jobs are no longer kept.
    """

    runtime_id: str
    job: Job | None = None
    forgotten: bool = False


Observer: TypeAlias = Callable[[Change], None]


class IBroker(Interface):
    """
    Everything the routes need of a broker.

    Each method returns a L{Deferred}, since an implementation may have to ask
    another process.  Errors are subclasses of L{BrokerError}.
    """

    def start() -> Deferred[None]:
        """
        Begin.  The Deferred fires when there is a broker to ask, or there is
        none for now; then everything fails with L{BrokerUnavailable}, as it
        may at any time.
        """

    def ping() -> Deferred[None]:
        """
        Fires when the broker can be used; fails with a L{BrokerError} if it cannot.
        """

    def load() -> Deferred[BrokerLoad]:
        """
        How much there is of everything, for metrics: asked often, so it looks at no single job.
        """

    def runtime(runtime_id: str) -> Deferred[Runtime]:
        """
        The runtime with that id; L{UnknownRuntime} if there is none.
        """

    def snapshot(runtime_id: str) -> Deferred[RuntimeSnapshot]:
        """
        One runtime for inspection; L{UnknownRuntime}.
        """

    def snapshots() -> Deferred[list[RuntimeSnapshot]]:
        """
        Every runtime for inspection, sorted by id.
        """

    def module_runtime(token: str) -> Deferred[str | None]:
        """
        The id of the runtime that a module auth token belongs to.
        """

    def open_session(request: SessionRequest) -> Deferred[Runtime]:
        """
        Create a runtime, or reset the one with that id: its jobs fail, its
        parked polls are answered with no job, and it gets a new token.
        """

    def delete_runtime(runtime_id: str) -> Deferred[None]:
        """
        Remove a runtime; its jobs end as after a session reset.
        """

    def resolve(deployed_app_rid: str, branch: str | None) -> Deferred[Binding]:
        """
        The active binding of a deployed app; L{NotBound}.
        """

    def reset(registry: Registry) -> Deferred[None]:
        """
        Go back to the runtimes and bindings of C{registry}, a seed: every job
        ends as after a session reset, and is forgotten.  A runtime without a
        token gets one that is made up, each time the same.
        """

    def reseed(registry: Registry) -> Deferred[None]:
        """
        Make what differs from the last seed take effect: runtimes that are no
        longer there are deleted, new ones added, one with another token is
        reset, and bindings are as in C{registry}.  Everything else stays.
        """

    def put_schemas(runtime_id: str, schemas: list[FunctionSchema]) -> Deferred[None]:
        """
        Keep the schemas that a runtime posted.
        """

    def enqueue(runtime_id: str, submission: Submission, held: bool = False) -> Deferred[Job]:
        """
        Queue a job, or hand it to a parked poll at once; L{QueueFull}.  A
        C{held} job is never dispatched.
        """

    def poll(runtime_id: str, wait: float) -> Deferred[Job | None]:
        """
        Park until there is a job, for at most C{wait} seconds; then L{None}.
        The job is C{running} when it is handed out.  Cancelling the Deferred
        takes the poll out of the queue.
        """

    def give_back(job_id: str, attempt: int) -> Deferred[None]:
        """
        The poller that was handed the job never had it: put it at the front
        of its queue, unless anything else has happened to it since that attempt.
        """

    def delivered(job_id: str, attempt: int) -> Deferred[None]:
        """
        The poller that was handed the job has it.  Whoever polls says this, or L{give_back}.
        """

    def deliver_again(job_id: str) -> Deferred[None]:
        """
        Hand a running job to the next poll as well, as if its delivery had been repeated on the way.
        """

    def open_result(runtime_id: str, job_id: str) -> Deferred[Job]:
        """
        The job that a runtime is about to post a result for; L{UnknownJob}
        also if it is another runtime's.  Its lease begins anew.
        """

    def new_result(job_id: str, content_type: str | None) -> IResult:
        """
        Where the bytes of a result are to be written.  It is not the job's
        until it has begun or is complete, but each write renews the job's lease.
        """

    def begin_result(job_id: str, body: IResult) -> Deferred[bool]:
        """
        A streamed result has begun: callers may read along.  L{False} if the
        job is finished or another stream has begun; C{body} is then the
        poster's own business.
        """

    def complete(job_id: str, body: IResult) -> Deferred[None]:
        """
        A whole result has arrived.  The same bytes twice are accepted, a
        result for a canceled job is discarded; L{JobAlreadyCompleted} else.
        """

    def fail_job(job_id: str, reason: str) -> Deferred[bool]:
        """
        End a job as failed; L{False} if it had ended before.
        """

    def cancel(job_id: str, reason: str, only_queued: bool = False) -> Deferred[bool]:
        """
        End a job as canceled; L{False} if it had ended before, or, with
        C{only_queued}, if it already runs.
        """

    def job(job_id: str) -> Deferred[Job]:
        """
        The job with that id; L{UnknownJob}.
        """

    def jobs(wanted: JobFilter, most: int) -> Deferred[list[Job]]:
        """
        At most C{most} of the jobs that are kept, the last submitted first.
        As in each L{Change}, and after a wait, their queries may be left out.
        """

    def observe(observer: Observer) -> Deferred[None]:
        """
        Call C{observer} with each L{Change} from now on.  The Deferred fires
        when the broker stops; cancelling it ends the observation.
        """

    def wait_result(job_id: str, timeout: float) -> Deferred[Job]:
        """
        Park until the job has ended or its result has begun to stream, for at
        most C{timeout} seconds: whatever the job's state is then, it is
        returned.  Cancelling means that the caller has gone away.
        """

    def wait_end(job_id: str, timeout: float) -> Deferred[Job]:
        """
        Like L{wait_result}, but a stream that has begun is not an end.
        """

    def restart(runtime_id: str) -> Deferred[list[str]]:
        """
        The runtime process has come up afresh: what was running there fails.
        The ids of those jobs are returned; queued jobs stay.
        """

    def stop() -> Deferred[None]:
        """
        Answer every parked party and take no more work: callers get
        L{BrokerStopped}, polls no job.
        """

    def close() -> Deferred[None]:
        """
        Let go of everything, after L{stop} and when each job that was handed
        out has been delivered or given back.
        """


class IResult(IConsumer):
    """
    One result.  Its bytes are written to it as to any L{IConsumer}; a broker
    makes it, and is told when they are all there or when there will be no more.
    """

    content_type: str | None = Attribute("As posted by the runtime.")
    size: int = Attribute("Bytes written so far.")
    complete: bool = Attribute("Whether the last byte has arrived.")

    def read(offset: int, size: int) -> Deferred[bytes]:
        """
        At most C{size} of the bytes that are there from C{offset} on; none at the end.
        """

    def deliver(consumer: IConsumer) -> Deferred[bool]:
        """
        Write it all to C{consumer}, at its pace, following the result while it
        is still being written.  The Deferred fires with L{True} after the last
        byte, with L{False} if the result ends before it is whole.  Cancelling
        it means that the consumer has gone away; if the consumer says so itself,
        by C{stopProducing}, it never fires.
        """
