"""The broker of one process."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from functools import wraps
from itertools import islice
from typing import ParamSpec, TypeAlias, TypeVar

from attrs import define, field
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from zope.interface import implementer

from ..logs import debug_is_logged
from ..model.jobs import Job, JobFilter, JobState, Submission, new_job_id
from ..model.limits import JobLimits
from ..model.registry import Registry, SessionRequest
from ..model.runtimes import Binding, FunctionSchema, Runtime
from ..model.tokens import fingerprint
from .interface import (
    EMULATOR_RESET,
    NO_LONGER_SEEDED,
    RUNTIME_DELETED,
    SESSION_RESET,
    BrokerError,
    BrokerLoad,
    BrokerStopped,
    Change,
    IBroker,
    IResult,
    JobAlreadyCompleted,
    NotBound,
    Observer,
    QueueFull,
    RuntimeSnapshot,
    UnknownJob,
    UnknownRuntime,
)
from .parked import Parked, fire_all
from .results import ResultBody

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


_Polls: TypeAlias = "OrderedDict[int, Parked[Job | None]]"


_Callers: TypeAlias = "dict[int, Parked[Job]]"


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
        self._seeded = (registry or Registry()).with_generated_tokens(self._made_up)
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
            fire_all(work.polls, None)
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
        self._seeded = registry.with_generated_tokens(self._made_up)
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
        former, self._seeded = self._seeded, registry.with_generated_tokens(self._made_up)
        gone = self.registry.dropped_by_seed(former, self._seeded)
        answers = [self._dismiss(each, NO_LONGER_SEEDED) for each in gone]
        for runtime_id in self.registry.apply_seed_change(former, self._seeded):
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
        return Parked(self._clock, work.polls, wait, None).deferred

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
        fire_all(self._result_waits.get(job_id), job)
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
        fire_all(self._result_waits.get(job.job_id), job)
        fire_all(self._end_waits.get(job.job_id), job)
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
        return Parked(self._clock, shelves.setdefault(job_id, {}), timeout, job, shelves, job_id).deferred

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
            fire_all(work.polls, None)
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
