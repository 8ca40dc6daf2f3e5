"""The broker of one process."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from zope.interface import implementer

from ..logs import debug_is_logged
from ..model.jobs import OUTPUT_KEPT, Job, JobFilter, JobState, Submission, new_job_id
from ..model.limits import JobLimits
from ..model.queries import PostedFunction
from ..model.registry import Registry, SessionRequest
from ..model.replicas import DEFAULT_REPLICA, ModuleIdentity, Replica, ReplicaRequest
from ..model.runtimes import Binding, FunctionSchema, Runtime
from .callers import Callers
from .dispatch import Dispatch
from .immediate import immediate
from .interface import (
    EMULATOR_RESET,
    NO_LONGER_SEEDED,
    REPLICA_STOPPED,
    RUNTIME_DELETED,
    RUNTIME_RESTARTED,
    SESSION_RESET,
    BrokerError,
    BrokerLoad,
    BrokerStopped,
    IBroker,
    IResult,
    JobAlreadyCompleted,
    Observer,
    QueueFull,
    ReplicaSnapshot,
    RuntimeSnapshot,
    UnknownJob,
    UnknownRuntime,
)
from .keys import SubmissionKeys
from .leases import Leases
from .observers import Observers
from .overview import describe_runtime, load_of, snapshot_of
from .parked import fire_all
from .results import ResultBody
from .retention import FinishedJobs
from .runtimes import Runtimes
from .work import Work


@implementer(IBroker)
class MemoryBroker:
    """The broker of one process. It keeps everything in memory.

    This class moves jobs from state to state. Its collaborators each answer one question: which runtimes there are,
    how jobs get to polls, which callers wait, which leases run, which finished jobs are kept, and who observes.

    Attributes:
        limits: The limits on jobs.
    """

    _log = Logger()

    def __init__(self, clock: IReactorTime, registry: Registry | None = None, limits: JobLimits | None = None) -> None:
        """Create a broker.

        Args:
            clock: The source of time.
            registry: The runtimes and bindings of the seed.
            limits: The limits on jobs.
        """
        self.limits = limits or JobLimits()
        self._clock = clock
        self._runtimes = Runtimes(registry or Registry())
        self._callers = Callers(clock)
        self._leases = Leases(clock, self.limits.lease, self._lease_expired)
        self._finished = FinishedJobs(clock, self.limits, self._forget)
        self._observers = Observers()
        self._dispatch = Dispatch(clock, self._leases, self._observers, self._debug)
        self._keys = SubmissionKeys()
        self._jobs: dict[str, Job] = {}
        self._work: dict[str, Work] = {}
        self._submitted = 0
        self._unfinished_bytes = 0
        # Asking the log for each event whether it is wanted costs too much.
        self._logs_debug = True
        for runtime in self.registry.runtimes.values():
            self._admit(runtime)

    @property
    def registry(self) -> Registry:
        """The runtimes and bindings."""
        return self._runtimes.registry

    def start(self) -> Deferred[None]:
        self._logs_debug = debug_is_logged(__name__)
        return succeed(None)

    @immediate
    def stop(self) -> None:
        self._dispatch.stopped = True
        self._leases.stop()
        self._finished.stop()
        for replica in [each for work in self._work.values() for each in work.replicas.values()]:
            fire_all(replica.polls, None)
        self._callers.stop()
        self._observers.end()

    def close(self) -> Deferred[None]:
        return succeed(None)

    def _refuse_when_stopped(self) -> None:
        if self._dispatch.stopped:
            raise BrokerStopped

    def _now(self) -> int:
        return int(self._clock.seconds() * 1000)

    def _debug(self, message: str, **fields: object) -> None:
        if self._logs_debug:
            self._log.debug(message, **fields)

    # Inspection

    @immediate
    def ping(self) -> None:
        self._refuse_when_stopped()

    def observe(self, observer: Observer, only_here: bool = False) -> Deferred[None]:
        return succeed(None) if self._dispatch.stopped else self._observers.add(observer)

    @immediate
    def load(self) -> BrokerLoad:
        return load_of(self._work.values(), self._now(), len(self._callers))

    @immediate
    def runtime(self, runtime_id: str) -> Runtime:
        return describe_runtime(self._work_of(runtime_id), self._now())

    @immediate
    def snapshot(self, runtime_id: str) -> RuntimeSnapshot:
        return snapshot_of(self._work_of(runtime_id), self.registry, self._now())

    @immediate
    def snapshots(self) -> list[RuntimeSnapshot]:
        now = self._now()
        return [snapshot_of(self._work[runtime_id], self.registry, now) for runtime_id in sorted(self._work)]

    def _work_of(self, runtime_id: str) -> Work:
        try:
            return self._work[runtime_id]
        except KeyError:
            raise UnknownRuntime(runtime_id) from None

    @immediate
    def job(self, job_id: str) -> Job:
        return self._job(job_id)

    def _job(self, job_id: str) -> Job:
        try:
            return self._jobs[job_id]
        except KeyError:
            raise UnknownJob(job_id) from None

    @immediate
    def jobs(self, wanted: JobFilter, most: int) -> list[Job]:
        return list(islice(filter(wanted.fits, reversed(self._jobs.values())), most))

    # Runtimes

    @immediate
    def module_runtime(self, token: str) -> ModuleIdentity | None:
        return self._runtimes.with_token(token)

    @immediate
    def resolve(self, deployed_app_rid: str, branch: str | None) -> Binding:
        return self._runtimes.resolve(deployed_app_rid, branch)

    @immediate
    def functions(self, name: str, runtime_id: str | None = None) -> list[PostedFunction]:
        return self.registry.functions(name, runtime_id)

    @immediate
    def put_schemas(self, runtime_id: str, schemas: list[FunctionSchema]) -> None:
        self._runtimes.get(runtime_id)
        self.registry.put_schemas(runtime_id, schemas, self._now())
        self._observers.notify(runtime_id)

    @immediate
    def open_session(self, request: SessionRequest) -> Runtime:
        self._refuse_when_stopped()
        runtime_id = request.runtime_id
        answer_waiting = None
        if runtime_id in self._work:
            answer_waiting = self._dismiss(runtime_id, SESSION_RESET)
        runtime = request.apply(self.registry)
        self._admit(runtime)
        self._log.info("runtime {runtime_id}: session opened", runtime_id=runtime_id)
        if answer_waiting is not None:
            answer_waiting()
        return runtime

    @immediate
    def delete_runtime(self, runtime_id: str) -> None:
        answer_waiting = self._dismiss(runtime_id, RUNTIME_DELETED)
        self.registry.remove(runtime_id)
        self._log.info("runtime {runtime_id}: deleted", runtime_id=runtime_id)
        answer_waiting()

    @immediate
    def reset(self, registry: Registry) -> None:
        self._refuse_when_stopped()
        dismissed = [self._dismiss(runtime_id, EMULATOR_RESET) for runtime_id in list(self._work)]
        self._runtimes.reset(registry)
        for runtime in self.registry.runtimes.values():
            self._admit(runtime)
        self._log.info("reset to the seed: {count} runtimes", count=len(registry.runtimes))
        for answer_waiting in dismissed:
            answer_waiting()

    @immediate
    def reseed(self, registry: Registry) -> None:
        self._refuse_when_stopped()
        dismissed = [self._dismiss(each, NO_LONGER_SEEDED) for each in self._runtimes.dropped_by(registry)]
        for runtime_id in self._runtimes.change_seed(registry):
            self._admit(self.registry.runtimes[runtime_id])
        self._log.info("seed reloaded: {count} runtimes", count=len(registry.runtimes))
        for answer_waiting in dismissed:
            answer_waiting()

    def _admit(self, runtime: Runtime) -> None:
        """Begin to take jobs for a runtime of the registry, and to accept its token."""
        runtime.opened_at = self._now()
        self._work[runtime.runtime_id] = Work(runtime)
        self._runtimes.accept_token(runtime)
        self._observers.notify(runtime.runtime_id)

    def _dismiss(self, runtime_id: str, reason: str) -> Callable[[], None]:
        """Forget the jobs, the replicas, the tokens and the parked polls of a runtime.

        Returns:
            A function that fails the runtime's unfinished jobs and answers everyone who waits. Call it when the
            broker's state is consistent again, because those who are answered may call the broker at once.
        """
        self._runtimes.revoke_tokens(self._runtimes.get(runtime_id))
        work = self._work.pop(runtime_id)
        for job_id in work.job_ids:
            self._keys.forget(self._jobs.pop(job_id))
            self._finished.discard(job_id)

        def answer_waiting() -> None:
            for job in (*work.queued.values(), *work.held.values(), *work.running.values()):
                self._end(job, JobState.FAILED, reason)
            for replica in work.replicas.values():
                fire_all(replica.polls, None)
            self._observers.notify(runtime_id, forgotten=True)

        return answer_waiting

    # Replicas

    @immediate
    def open_replica(self, request: ReplicaRequest) -> Replica:
        self._refuse_when_stopped()
        replica, added = self._runtimes.open_replica(request, self._now())
        if added is not None:
            self._admit(added)
        self._work[replica.runtime_id].open(replica)
        self._observers.notify(replica.runtime_id)
        return replica

    @immediate
    def replicas(self, runtime_id: str) -> list[ReplicaSnapshot]:
        return snapshot_of(self._work_of(runtime_id), self.registry, self._now()).replicas

    @immediate
    def close_replica(self, runtime_id: str, replica_id: str, reason: str = REPLICA_STOPPED) -> None:
        work = self._work_of(runtime_id)
        self._runtimes.close_replica(runtime_id, replica_id, reason, self._now())
        closed, lost = work.close(replica_id)
        for job in lost:
            self._end(job, JobState.FAILED, reason)
        fire_all(closed.polls, None)
        self._observers.notify(runtime_id)

    @immediate
    def drain_replica(self, runtime_id: str, replica_id: str) -> None:
        self._work_of(runtime_id).drain(replica_id)
        self._observers.notify(runtime_id)

    # From submission to dispatch

    @immediate
    def enqueue(self, runtime_id: str, submission: Submission, held: bool = False) -> Job:
        self._refuse_when_stopped()
        work = self._work_of(runtime_id)
        former = self._keys.find(submission)
        if former is not None:
            return former
        if work.waiting >= self.limits.queue_depth:
            raise QueueFull(runtime_id, self.limits.queue_depth, "jobs")
        if self._unfinished_bytes + submission.size > self.limits.queue_bytes:
            raise QueueFull(runtime_id, self.limits.queue_bytes, "bytes")
        self._unfinished_bytes += submission.size
        self._submitted += 1
        job = Job(new_job_id(), runtime_id, submission, self._now(), self._submitted)
        self._jobs[job.job_id] = job
        self._keys.keep(job)
        work.job_ids[job.job_id] = None
        (work.held if held else work.queued)[job.job_id] = job
        self._debug(
            "job {job_id}: queued for runtime {runtime_id}, function {query_type}",
            job_id=job.job_id,
            runtime_id=runtime_id,
            query_type=submission.query_type,
        )
        self._observers.notify(runtime_id, job)
        self._dispatch.serve(work)
        return job

    @immediate
    def submitted(self, submission: Submission) -> Job | None:
        return self._keys.find(submission)

    def poll(self, runtime_id: str, wait: float, replica_id: str = DEFAULT_REPLICA) -> Deferred[Job | None]:
        if self._dispatch.stopped:
            return succeed(None)
        try:
            work = self._work_of(runtime_id)
            replica = work.replica(replica_id)
        except BrokerError as error:
            return fail(error)
        return self._dispatch.poll(work, replica, wait)

    def holds(self, job_id: str, attempt: int) -> Deferred[bool]:
        return succeed(True)

    def delivered(self, job_id: str, attempt: int) -> Deferred[None]:
        return succeed(None)

    @immediate
    def deliver_again(self, job_id: str) -> None:
        job = self._job(job_id)
        if job.state is JobState.RUNNING:
            self._dispatch.repeat(self._work[job.runtime_id], job)

    @immediate
    def give_back(self, job_id: str, attempt: int) -> None:
        job = self._jobs.get(job_id)
        if job is None or job.state is not JobState.RUNNING or job.attempts != attempt or job.result is not None:
            return
        self._dispatch.give_back(self._work[job.runtime_id], job)

    def _lease_expired(self, job: Job) -> None:
        """Queue a job again, or fail it after its last attempt."""
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
        self._dispatch.queue_again(self._work[job.runtime_id], job, "lease ran out")

    @immediate
    def restart(self, runtime_id: str, replica_id: str = DEFAULT_REPLICA) -> list[str]:
        work = self._work_of(runtime_id)
        lost = work.replica(replica_id).own_jobs
        work.heard(replica_id, self._now())
        for job in lost:
            self._end(job, JobState.FAILED, RUNTIME_RESTARTED)
        self._log.info(
            "runtime {runtime_id}: restarted, {count} running jobs lost", runtime_id=runtime_id, count=len(lost)
        )
        return [job.job_id for job in lost]

    # From the result to the end

    @immediate
    def open_result(self, runtime_id: str, job_id: str, replica_id: str = DEFAULT_REPLICA) -> Job:
        job = self._job(job_id)
        if job.runtime_id != runtime_id:
            raise UnknownJob(job_id)
        self._work[runtime_id].heard(replica_id, self._now())
        if job.state is JobState.RUNNING and job.result is None:
            self._leases.begin(job)
        return job

    def new_result(self, job_id: str, content_type: str | None) -> IResult:
        def written() -> None:
            self._leases.renew(job_id)
            job = self._jobs.get(job_id)
            if job is not None and job.replica_id is not None:
                self._work[job.runtime_id].heard(job.replica_id, self._now())

        return ResultBody(content_type, written)

    @immediate
    def begin_result(self, job_id: str, body: IResult, replica_id: str = DEFAULT_REPLICA) -> bool:
        job = self._job(job_id)
        if job.state.finished or job.result is not None:
            return False
        work = self._work[job.runtime_id]
        if work.take(job_id):
            replicas = work.replicas
            self._dispatch.run(work, job, replicas.get(replica_id) or replicas[DEFAULT_REPLICA])
        # A stream may pause without limit. If it breaks off, the job fails.
        self._leases.end(job_id)
        job.result = body
        self._log.debug("job {job_id}: result begun on runtime {runtime_id}", job_id=job_id, runtime_id=job.runtime_id)
        self._callers.result_begun(job)
        return True

    @immediate
    def complete(self, job_id: str, body: IResult, raised: str | None = None) -> None:
        assert isinstance(body, ResultBody)
        job = self._job(job_id)
        if job.state is JobState.CANCELED:
            return
        if job.state.finished or job.result not in (None, body):
            if job.state is JobState.SUCCEEDED and body.same_as(job.result):
                return
            raise JobAlreadyCompleted(job_id)
        job.result, job.raised = body, raised
        body.finish()
        self._end(job, JobState.SUCCEEDED, None)

    @immediate
    def fail_job(self, job_id: str, reason: str) -> bool:
        return self._end(self._job(job_id), JobState.FAILED, reason)

    @immediate
    def keep_output(self, job_id: str, output: str) -> None:
        job = self._job(job_id)
        size, job.output = job.size, output[-OUTPUT_KEPT:]
        self._finished.grew(job, size)

    @immediate
    def cancel(self, job_id: str, reason: str, only_queued: bool = False, later: bool = False) -> bool:
        job = self._job(job_id)
        if only_queued and job.state is not JobState.QUEUED:
            return False
        return self._end(job, JobState.CANCELED, reason)

    def _end(self, job: Job, state: JobState, reason: str | None, outcome: str | None = None) -> bool:
        """Finish a job and answer everyone who waits for it. Return ``False`` if it had finished before."""
        if job.state.finished:
            return False
        job.transition(state, self._now(), outcome)
        job.error_message = reason
        self._unfinished_bytes -= job.submission.size
        self._leases.end(job.job_id)
        work = self._work.get(job.runtime_id)
        if work is not None:
            work.remove(job)
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
        # A job whose runtime was dismissed is not kept.
        if job.job_id in self._jobs:
            self._finished.keep(job)
        self._observers.notify(job.runtime_id, job)
        self._callers.ended(job)
        if work is not None:
            # The replica of the job has room again.
            self._dispatch.serve(work)
        return True

    def _forget(self, job: Job) -> None:
        del self._jobs[job.job_id]
        self._keys.forget(job)
        work = self._work.get(job.runtime_id)
        if work is not None:
            work.job_ids.pop(job.job_id, None)

    def wait_result(self, job_id: str, timeout: float) -> Deferred[Job]:
        job = self._jobs.get(job_id)
        return fail(UnknownJob(job_id)) if job is None else self._callers.wait_result(job, timeout)

    def wait_end(self, job_id: str, timeout: float) -> Deferred[Job]:
        job = self._jobs.get(job_id)
        return fail(UnknownJob(job_id)) if job is None else self._callers.wait_end(job, timeout)
