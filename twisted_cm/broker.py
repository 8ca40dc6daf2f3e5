"""
Who waits for whom.

A caller parks, a runtime parks, and the broker introduces them.  Everything
parked is a L{Deferred} that belongs to the broker: the broker fires it, and
cancelling it means that whoever parked has gone away.  The broker knows no
HTTP, takes its time from an L{IReactorTime}, and never scans its jobs: what
dispatch and completion cost does not depend on how many there are.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from functools import wraps
from itertools import islice
from typing import Generic, ParamSpec, TypeAlias, TypeVar

from attrs import define, field, frozen
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from zope.interface import Interface, implementer

from .credentials import fingerprint
from .jobs import Job, JobState, Submission, new_job_id
from .logs import debug_is_logged
from .registry import DEFAULT_BRANCH, Binding, FunctionSchema, Registry, Runtime, new_module_auth_token
from .results import IResult, ResultBody


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

P = ParamSpec("P")
R = TypeVar("R")


def _deferred(method: Callable[P, R]) -> Callable[P, Deferred[R]]:
    """Turn what a method returns or raises into the Deferred that the interface promises."""

    @wraps(method)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> Deferred[R]:
        try:
            return succeed(method(*args, **kwargs))
        except BrokerError as error:
            return fail(error)

    return wrapper


@frozen
class SessionRequest:
    """
    What a runtime session is opened with (contract section 1).

    @ivar branch: L{None} means C{master} when a deployed app is named.
    @ivar keep_bindings: leave the runtime's other bindings as they are.
    """

    runtime_id: str
    deployed_app_rid: str | None = None
    branch: str | None = None
    display_name: str | None = None
    keep_bindings: bool = False

    def apply(self, registry: Registry) -> Runtime:
        """
        @return: the runtime of the new session, which is in C{registry} now with its bindings.
        """
        if not self.keep_bindings:
            registry.unbind(self.runtime_id)
        runtime = Runtime(self.runtime_id, new_module_auth_token())
        registry.add(runtime)
        if self.deployed_app_rid is not None:
            branch = self.branch or DEFAULT_BRANCH
            registry.bind(Binding(self.deployed_app_rid, branch, self.runtime_id, self.display_name))
        return runtime


@frozen
class JobLimits:
    """
    How long jobs may run unheard of, and how many are kept.

    @ivar lease: seconds that a dispatched job may go without a word from its
        runtime before it is queued again; L{None} for as long as it likes.
    @ivar max_attempts: how many times a job is dispatched before it fails for want of a result.
    @ivar queue_depth: the most jobs that wait for one runtime.
    @ivar queue_bytes: the most bytes of the queries of all jobs that are not finished.
    @ivar retained_jobs: the most finished jobs that are kept.
    @ivar retained_bytes: the most bytes of their queries and results; the last finished job is kept however large.
    @ivar retained_seconds: how long a finished job is kept.
    """

    lease: float | None = None
    max_attempts: int = 3
    queue_depth: int = 10_000
    queue_bytes: int = 1024 * 1024 * 1024
    retained_jobs: int = 10_000
    retained_bytes: int = 256 * 1024 * 1024
    retained_seconds: float = 3600.0


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


@frozen
class JobFilter:
    """
    Which jobs to list.

    @ivar before: only those whose number is smaller.
    """

    runtime_id: str | None = None
    query_type: str | None = None
    state: JobState | None = None
    before: int | None = None

    def fits(self, job: Job) -> bool:
        """
        @return: whether C{job} is one of them.
        """
        return (
            (self.before is None or job.number < self.before)
            and self.runtime_id in (None, job.runtime_id)
            and self.query_type in (None, job.submission.query_type)
            and self.state in (None, job.state)
        )


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


T = TypeVar("T")


class _Parked(Generic[T]):
    """
    One party that waits: a Deferred on a shelf, with at most one timer.

    The shelf fires it, exactly once; its deadline fires it with C{lapsed};
    cancelling the Deferred takes it off the shelf.
    """

    __slots__ = ("_key", "_shelf", "_shelves", "_timer", "deferred")

    def __init__(
        self,
        clock: IReactorTime,
        shelf: dict[int, _Parked[T]],
        wait: float,
        lapsed: T,
        shelves: dict[str, dict[int, _Parked[T]]] | None = None,
        key: str = "",
    ) -> None:
        """
        @param shelves: what to take C{shelf} out of, under C{key}, once it is empty.
        """
        self.deferred: Deferred[T] = Deferred(self._vanish)
        self._shelf = shelf
        self._shelves = shelves
        self._key = key
        self._timer: IDelayedCall = clock.callLater(wait, self.fire, lapsed)
        shelf[id(self)] = self

    def _vanish(self, deferred: Deferred[T]) -> None:
        self._leave()

    def _leave(self) -> None:
        del self._shelf[id(self)]
        if not self._shelf and self._shelves is not None:
            del self._shelves[self._key]
        if self._timer.active():
            self._timer.cancel()

    def fire(self, value: T) -> None:
        self._leave()
        self.deferred.callback(value)

    def fail(self, error: BrokerError) -> None:
        self._leave()
        self.deferred.errback(error)


_Polls: TypeAlias = "OrderedDict[int, _Parked[Job | None]]"
_Callers: TypeAlias = "dict[int, _Parked[Job]]"


@define(eq=False)
class _Work:
    """What the broker keeps for one runtime: its jobs by where they are, and its parked polls."""

    queued: OrderedDict[str, Job] = field(factory=OrderedDict)
    held: dict[str, Job] = field(factory=dict)
    again: OrderedDict[str, Job] = field(factory=OrderedDict)
    running: dict[str, Job] = field(factory=dict)
    polls: _Polls = field(factory=OrderedDict)
    job_ids: dict[str, None] = field(factory=dict)


@implementer(IBroker)
class MemoryBroker:
    """
    The broker of one process: everything is in its memory and goes with it.

    @ivar registry: the runtimes and bindings, from the start those of the seed.
    """

    _log = Logger()

    def __init__(self, clock: IReactorTime, registry: Registry | None = None, limits: JobLimits | None = None) -> None:
        self._made_up: dict[str, str] = {}
        self._seeded = (registry or Registry()).with_tokens(self._made_up)
        self.registry = self._seeded.copy()
        self.limits = limits or JobLimits()
        self._clock = clock
        self._jobs: dict[str, Job] = {}
        self._leases: dict[str, IDelayedCall] = {}
        self._finished: OrderedDict[str, Job] = OrderedDict()
        self._finished_bytes = 0
        self._unfinished_bytes = 0
        self._forgetting: IDelayedCall | None = None
        self._work: dict[str, _Work] = {}
        self._result_waits: dict[str, _Callers] = {}
        self._end_waits: dict[str, _Callers] = {}
        self._module_tokens: dict[bytes, str] = {}
        self._observers: dict[Deferred[None], Observer] = {}
        self._submitted = 0
        self._stopped = False
        self._debugs = True
        for runtime in self.registry.runtimes.values():
            self._admit(runtime)

    def start(self) -> Deferred[None]:
        """See L{IBroker.start}."""
        self._debugs = debug_is_logged(__name__)
        return succeed(None)

    # Who looks on

    def observe(self, observer: Observer) -> Deferred[None]:
        """See L{IBroker.observe}."""
        if self._stopped:
            return succeed(None)
        observing: Deferred[None] = Deferred(self._observers.__delitem__)
        self._observers[observing] = observer
        return observing

    def _debug(self, message: str, **fields: object) -> None:
        """Log what is of interest to whoever follows a single job; to ask the log each time would cost too much."""
        if self._debugs:
            self._log.debug(message, **fields)

    def _tell(self, runtime_id: str, job: Job | None = None, forgotten: bool = False) -> None:
        if self._observers:
            change = Change(runtime_id, job, forgotten)
            for observer in list(self._observers.values()):
                observer(change)

    # Runtimes and bindings

    def _now(self) -> int:
        return int(self._clock.seconds() * 1000)

    def _admit(self, runtime: Runtime) -> None:
        runtime.opened_at = self._now()
        self._work[runtime.runtime_id] = _Work()
        self._module_tokens[fingerprint(runtime.module_auth_token)] = runtime.runtime_id
        self._tell(runtime.runtime_id)

    def _dismiss(self, runtime_id: str, reason: str) -> Callable[[], None]:
        """
        Forget everything that hangs on a runtime: its jobs, its token, its parked polls.

        @return: answers whoever waited for it, which may ask for more at once:
            to be called when everything else is as it shall be.
        """
        runtime = self.registry.runtimes[runtime_id]
        self._module_tokens.pop(fingerprint(runtime.module_auth_token), None)
        work = self._work.pop(runtime_id)
        for job_id in work.job_ids:
            del self._jobs[job_id]
            if job_id in self._finished:
                self._finished_bytes -= self._finished.pop(job_id).size

        def answer() -> None:
            for job in (*work.queued.values(), *work.held.values(), *work.running.values()):
                self._end(job, JobState.FAILED, reason)
            _fire_all(work.polls, None)
            self._tell(runtime_id, forgotten=True)

        return answer

    def _runtime(self, runtime_id: str) -> Runtime:
        try:
            return self.registry.runtimes[runtime_id]
        except KeyError:
            raise UnknownRuntime(runtime_id) from None

    def _snapshot(self, runtime_id: str) -> RuntimeSnapshot:
        work = self._work[runtime_id]
        return RuntimeSnapshot(
            self.registry.runtimes[runtime_id],
            self.registry.bindings_of(runtime_id),
            len(work.queued) + len(work.held),
            len(work.running),
            len(work.polls),
        )

    @_deferred
    def ping(self) -> None:
        """See L{IBroker.ping}."""
        self._refuse_when_stopped()

    @_deferred
    def load(self) -> BrokerLoad:
        """See L{IBroker.load}."""
        work = self._work.values()
        return BrokerLoad(
            runtimes=len(work),
            connected=sum(runtime.connected for runtime in self.registry.runtimes.values()),
            queued=sum(len(each.queued) + len(each.held) for each in work),
            running=sum(len(each.running) for each in work),
            parked_polls=sum(len(each.polls) for each in work),
            parked_callers=sum(len(each) for each in (*self._result_waits.values(), *self._end_waits.values())),
        )

    @_deferred
    def runtime(self, runtime_id: str) -> Runtime:
        """See L{IBroker.runtime}."""
        return self._runtime(runtime_id)

    @_deferred
    def snapshot(self, runtime_id: str) -> RuntimeSnapshot:
        """See L{IBroker.snapshot}."""
        return self._snapshot(self._runtime(runtime_id).runtime_id)

    @_deferred
    def snapshots(self) -> list[RuntimeSnapshot]:
        """See L{IBroker.snapshots}."""
        return [self._snapshot(runtime_id) for runtime_id in sorted(self._work)]

    @_deferred
    def module_runtime(self, token: str) -> str | None:
        """See L{IBroker.module_runtime}."""
        return self._module_tokens.get(fingerprint(token))

    @_deferred
    def open_session(self, request: SessionRequest) -> Runtime:
        """See L{IBroker.open_session}."""
        self._refuse_when_stopped()
        runtime_id = request.runtime_id
        answer = None
        if runtime_id in self._work:
            answer = self._dismiss(runtime_id, SESSION_RESET)
        runtime = request.apply(self.registry)
        self._admit(runtime)
        self._log.info("runtime {runtime_id}: session opened", runtime_id=runtime_id)
        if answer is not None:
            answer()
        return runtime

    @_deferred
    def delete_runtime(self, runtime_id: str) -> None:
        """See L{IBroker.delete_runtime}."""
        answer = self._dismiss(self._runtime(runtime_id).runtime_id, RUNTIME_DELETED)
        self.registry.remove(runtime_id)
        self._log.info("runtime {runtime_id}: deleted", runtime_id=runtime_id)
        answer()

    @_deferred
    def reset(self, registry: Registry) -> None:
        """See L{IBroker.reset}."""
        self._refuse_when_stopped()
        answers = [self._dismiss(runtime_id, EMULATOR_RESET) for runtime_id in list(self._work)]
        self._seeded = registry.with_tokens(self._made_up)
        self.registry = self._seeded.copy()
        for runtime in self.registry.runtimes.values():
            self._admit(runtime)
        self._log.info("reset to the seed: {count} runtimes", count=len(registry.runtimes))
        for answer in answers:
            answer()

    @_deferred
    def reseed(self, registry: Registry) -> None:
        """See L{IBroker.reseed}."""
        self._refuse_when_stopped()
        former, self._seeded = self._seeded, registry.with_tokens(self._made_up)
        gone = self.registry.gone(former, self._seeded)
        answers = [self._dismiss(each, NO_LONGER_SEEDED) for each in gone]
        for runtime_id in self.registry.reseed(former, self._seeded):
            self._admit(self.registry.runtimes[runtime_id])
        self._log.info("seed reloaded: {count} runtimes", count=len(registry.runtimes))
        for answer in answers:
            answer()

    @_deferred
    def resolve(self, deployed_app_rid: str, branch: str | None) -> Binding:
        """See L{IBroker.resolve}."""
        binding = self.registry.resolve(deployed_app_rid, branch)
        if binding is None:
            raise NotBound(deployed_app_rid, branch)
        return binding

    @_deferred
    def put_schemas(self, runtime_id: str, schemas: list[FunctionSchema]) -> None:
        """See L{IBroker.put_schemas}."""
        self._runtime(runtime_id)
        self.registry.put_schemas(runtime_id, schemas, self._now())
        self._tell(runtime_id)

    # The way of a job

    def _refuse_when_stopped(self) -> None:
        if self._stopped:
            raise BrokerStopped

    @_deferred
    def enqueue(self, runtime_id: str, submission: Submission, held: bool = False) -> Job:
        """See L{IBroker.enqueue}."""
        self._refuse_when_stopped()
        self._runtime(runtime_id)
        work = self._work[runtime_id]
        if len(work.queued) + len(work.held) >= self.limits.queue_depth:
            raise QueueFull(runtime_id, self.limits.queue_depth, "jobs")
        if self._unfinished_bytes + submission.size > self.limits.queue_bytes:
            raise QueueFull(runtime_id, self.limits.queue_bytes, "bytes")
        self._unfinished_bytes += submission.size
        self._submitted += 1
        job = Job(new_job_id(), runtime_id, submission, self._now(), self._submitted)
        self._jobs[job.job_id] = job
        work.job_ids[job.job_id] = None
        (work.held if held else work.queued)[job.job_id] = job
        self._debug(
            "job {job_id}: queued for runtime {runtime_id}, function {query_type}",
            job_id=job.job_id,
            runtime_id=runtime_id,
            query_type=submission.query_type,
        )
        self._tell(runtime_id, job)
        self._introduce(work)
        return job

    def _introduce(self, work: _Work) -> None:
        """Hand the job at the front to the poll that has waited longest, if there are both."""
        while work.polls:
            job = self._next(work)
            if job is None:
                return
            next(iter(work.polls.values())).fire(job)

    def _next(self, work: _Work) -> Job | None:
        """What the next poll is handed, if there is anything."""
        if work.again:
            return work.again.popitem(last=False)[1]
        return self._dispatch(work) if work.queued else None

    def _dispatch(self, work: _Work) -> Job:
        _, job = work.queued.popitem(last=False)
        self._run(work, job)
        self._debug("job {job_id}: dispatched to runtime {runtime_id}", job_id=job.job_id, runtime_id=job.runtime_id)
        return job

    def _run(self, work: _Work, job: Job) -> None:
        job.transition(JobState.RUNNING, self._now())
        work.running[job.job_id] = job
        self._renew_lease(job)
        self._tell(job.runtime_id, job)

    def _renew_lease(self, job: Job) -> None:
        if self.limits.lease is None or self._stopped:
            return
        self._end_lease(job)
        self._leases[job.job_id] = self._clock.callLater(self.limits.lease, self._lease_ran_out, job)
        self._log.debug(
            "job {job_id}: leased to runtime {runtime_id} for {lease:g} seconds",
            job_id=job.job_id,
            runtime_id=job.runtime_id,
            lease=self.limits.lease,
        )

    def _end_lease(self, job: Job) -> None:
        timer = self._leases.pop(job.job_id, None)
        if timer is not None and timer.active():
            timer.cancel()

    def _lease_ran_out(self, job: Job) -> None:
        """No word of a job for the time of its lease: someone else may try, or it has failed."""
        reason = f"no result within the lease of {self.limits.lease:g} seconds"
        if job.attempts >= self.limits.max_attempts:
            tries = "1 attempt" if job.attempts == 1 else f"{job.attempts} attempts"
            self._end(job, JobState.FAILED, f"There was {reason}, in {tries}.", "lease ran out")
            return
        self._log.warn(
            "job {job_id}: queued again, {reason} on runtime {runtime_id}",
            job_id=job.job_id,
            reason=reason,
            runtime_id=job.runtime_id,
        )
        self._queue_again(job, "lease ran out")

    def _queue_again(self, job: Job, outcome: str) -> None:
        """Put a running job at the front of its queue."""
        self._end_lease(job)
        work = self._work[job.runtime_id]
        del work.running[job.job_id]
        work.again.pop(job.job_id, None)
        job.transition(JobState.QUEUED, self._now(), outcome)
        work.queued[job.job_id] = job
        work.queued.move_to_end(job.job_id, last=False)
        self._tell(job.runtime_id, job)
        if not self._stopped:
            self._introduce(work)

    def poll(self, runtime_id: str, wait: float) -> Deferred[Job | None]:
        """See L{IBroker.poll}."""
        if self._stopped:
            return succeed(None)
        try:
            runtime = self._runtime(runtime_id)
        except UnknownRuntime as error:
            return fail(error)
        if not runtime.connected:
            self._log.info("runtime {runtime_id}: connected", runtime_id=runtime_id)
            runtime.connected = True
        runtime.last_poll_at = self._now()
        self._tell(runtime_id)
        work = self._work[runtime_id]
        job = self._next(work)
        if job is not None:
            return succeed(job)
        if wait <= 0:
            return succeed(None)
        return _Parked(self._clock, work.polls, wait, None).deferred

    @_deferred
    def give_back(self, job_id: str, attempt: int) -> None:
        """See L{IBroker.give_back}."""
        job = self._jobs.get(job_id)
        if job is None or job.state is not JobState.RUNNING or job.attempts != attempt or job.result is not None:
            return
        self._log.info(
            "job {job_id}: given back, its poller of runtime {runtime_id} vanished",
            job_id=job_id,
            runtime_id=job.runtime_id,
        )
        self._queue_again(job, "poller vanished")

    def delivered(self, job_id: str, attempt: int) -> Deferred[None]:
        """See L{IBroker.delivered}."""
        return succeed(None)

    @_deferred
    def deliver_again(self, job_id: str) -> None:
        """See L{IBroker.deliver_again}."""
        job = self._job(job_id)
        if job.state is JobState.RUNNING:
            work = self._work[job.runtime_id]
            work.again[job_id] = job
            self._introduce(work)

    def _job(self, job_id: str) -> Job:
        try:
            return self._jobs[job_id]
        except KeyError:
            raise UnknownJob(job_id) from None

    @_deferred
    def job(self, job_id: str) -> Job:
        """See L{IBroker.job}."""
        return self._job(job_id)

    @_deferred
    def jobs(self, wanted: JobFilter, most: int) -> list[Job]:
        """See L{IBroker.jobs}."""
        return list(islice(filter(wanted.fits, reversed(self._jobs.values())), most))

    @_deferred
    def open_result(self, runtime_id: str, job_id: str) -> Job:
        """See L{IBroker.open_result}."""
        job = self._job(job_id)
        if job.runtime_id != runtime_id:
            raise UnknownJob(job_id)
        if job.state is JobState.RUNNING:
            self._renew_lease(job)
        return job

    def new_result(self, job_id: str, content_type: str | None) -> IResult:
        """See L{IBroker.new_result}."""

        def written() -> None:
            lease = self._leases.get(job_id)
            if lease is not None and self.limits.lease is not None:
                lease.reset(self.limits.lease)

        return ResultBody(content_type, written)

    @_deferred
    def begin_result(self, job_id: str, body: IResult) -> bool:
        """See L{IBroker.begin_result}."""
        job = self._job(job_id)
        if job.state.finished or job.result is not None:
            return False
        work = self._work[job.runtime_id]
        if work.queued.pop(job_id, None) is not None or work.held.pop(job_id, None) is not None:
            self._run(work, job)
        # A stream speaks for itself: it may pause, and if it breaks off the job has failed.
        self._end_lease(job)
        job.result = body
        self._log.debug("job {job_id}: result begun on runtime {runtime_id}", job_id=job_id, runtime_id=job.runtime_id)
        _fire_all(self._result_waits.get(job_id), job)
        return True

    @_deferred
    def complete(self, job_id: str, body: IResult) -> None:
        """See L{IBroker.complete}."""
        assert isinstance(body, ResultBody)
        job = self._job(job_id)
        if job.state is JobState.CANCELED:
            return
        if job.state.finished or job.result not in (None, body):
            if job.state is JobState.SUCCEEDED and body.same_as(job.result):
                return
            raise JobAlreadyCompleted(job_id)
        job.result = body
        body.finish()
        self._end(job, JobState.SUCCEEDED, None)

    @_deferred
    def fail_job(self, job_id: str, reason: str) -> bool:
        """See L{IBroker.fail_job}."""
        return self._end(self._job(job_id), JobState.FAILED, reason)

    @_deferred
    def cancel(self, job_id: str, reason: str, only_queued: bool = False) -> bool:
        """See L{IBroker.cancel}."""
        job = self._job(job_id)
        if only_queued and job.state is not JobState.QUEUED:
            return False
        return self._end(job, JobState.CANCELED, reason)

    def _end(self, job: Job, state: JobState, reason: str | None, outcome: str | None = None) -> bool:
        """Bring a job to its end and answer everybody who is parked on it."""
        if job.state.finished:
            return False
        job.transition(state, self._now(), outcome)
        job.error_message = reason
        self._unfinished_bytes -= job.submission.size
        self._end_lease(job)
        work = self._work.get(job.runtime_id)
        if work is not None:
            for place in (work.queued, work.held, work.running, work.again):
                place.pop(job.job_id, None)
        if job.result is not None and not job.result.complete:
            assert isinstance(job.result, ResultBody)
            job.result.abort()
            job.result = None
        self._debug(
            "job {job_id}: {state} on runtime {runtime_id}{reason}",
            job_id=job.job_id,
            state=state.value,
            runtime_id=job.runtime_id,
            reason=f": {reason}" if reason else "",
        )
        if job.job_id in self._jobs:
            self._finished[job.job_id] = job
            self._finished_bytes += job.size
            self._forget()
        self._tell(job.runtime_id, job)
        _fire_all(self._result_waits.get(job.job_id), job)
        _fire_all(self._end_waits.get(job.job_id), job)
        return True

    def _forget(self) -> None:
        """Let go of the jobs that finished first, as far as the limits want it."""
        limits = self.limits
        expired = self._now() - int(limits.retained_seconds * 1000)
        while self._finished:
            oldest = next(iter(self._finished.values()))
            assert oldest.completed_at is not None
            crowded = len(self._finished) > limits.retained_jobs or (
                self._finished_bytes > limits.retained_bytes and len(self._finished) > 1
            )
            if not crowded and oldest.completed_at > expired:
                waiting = self._forgetting is not None and self._forgetting.active()
                if not waiting and not self._stopped:
                    wait = (oldest.completed_at - expired) / 1000
                    self._forgetting = self._clock.callLater(wait, self._forget)
                return
            del self._finished[oldest.job_id]
            self._finished_bytes -= oldest.size
            del self._jobs[oldest.job_id]
            work = self._work.get(oldest.runtime_id)
            if work is not None:
                work.job_ids.pop(oldest.job_id, None)

    def wait_result(self, job_id: str, timeout: float) -> Deferred[Job]:
        """See L{IBroker.wait_result}."""
        return self._wait(job_id, timeout, self._result_waits, lambda job: job.result is not None)

    def wait_end(self, job_id: str, timeout: float) -> Deferred[Job]:
        """See L{IBroker.wait_end}."""
        return self._wait(job_id, timeout, self._end_waits, lambda job: False)

    def _wait(
        self, job_id: str, timeout: float, shelves: dict[str, _Callers], ready: Callable[[Job], bool]
    ) -> Deferred[Job]:
        job = self._jobs.get(job_id)
        if job is None:
            return fail(UnknownJob(job_id))
        if job.state.finished or ready(job) or timeout <= 0:
            return succeed(job)
        if self._stopped:
            return fail(BrokerStopped())
        return _Parked(self._clock, shelves.setdefault(job_id, {}), timeout, job, shelves, job_id).deferred

    @_deferred
    def restart(self, runtime_id: str) -> list[str]:
        """See L{IBroker.restart}."""
        self._runtime(runtime_id)
        lost = list(self._work[runtime_id].running.values())
        for job in lost:
            self._end(job, JobState.FAILED, "runtime restarted")
        self._log.info(
            "runtime {runtime_id}: restarted, {count} running jobs lost", runtime_id=runtime_id, count=len(lost)
        )
        return [job.job_id for job in lost]

    @_deferred
    def stop(self) -> None:
        """See L{IBroker.stop}."""
        self._stopped = True
        for timer in (*self._leases.values(), self._forgetting):
            if timer is not None and timer.active():
                timer.cancel()
        self._leases.clear()
        for work in self._work.values():
            _fire_all(work.polls, None)
        for shelves in (self._result_waits, self._end_waits):
            for shelf in list(shelves.values()):
                for parked in list(shelf.values()):
                    parked.fail(BrokerStopped())
        observing, self._observers = list(self._observers), {}
        for each in observing:
            each.callback(None)

    def close(self) -> Deferred[None]:
        """See L{IBroker.close}."""
        return succeed(None)


def _fire_all(shelf: dict[int, _Parked[T]] | None, value: T) -> None:
    """Answer everybody on a shelf; a shelf that nobody needed does not exist."""
    for parked in list(shelf.values()) if shelf else ():
        parked.fire(value)
