"""The broker of one node: all state is in Redis, and any node can be asked.

Each step of a job is one operation in Redis (``lua/``). This node keeps who waits here: polls, callers, readers and
observers. Publications wake them; after Redis was away, the node asks again for all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from attrs import asdict
from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from ...model.jobs import OUTPUT_KEPT, Job, JobFilter, Submission, new_job_id
from ...model.limits import JobLimits
from ...model.queries import PostedFunction
from ...model.registry import Registry, SessionRequest
from ...model.replicas import DEFAULT_REPLICA, ModuleIdentity, Replica, ReplicaRequest
from ...model.runtimes import Binding, FunctionSchema, Runtime
from ..interface import (
    EMULATOR_RESET,
    REPLICA_STOPPED,
    RUNTIME_DELETED,
    RUNTIME_RESTARTED,
    SESSION_RESET,
    BrokerLoad,
    BrokerStopped,
    BrokerUnavailable,
    IBroker,
    IResult,
    NotBound,
    Observer,
    ReplicaSnapshot,
    RuntimeSnapshot,
    UnknownJob,
    UnknownRuntime,
)
from .connection import RedisAway
from .handovers import Handovers
from .node import RedisNode
from .observers import NodeObservers
from .polls import Polls
from .posts import Posts
from .queries import PIECE, write_query
from .records import (
    describe_rights,
    describe_schema,
    describe_submission,
    read_functions,
    read_replicas,
    read_runtime,
    refusal,
    unknown,
)
from .registry import Changes, Shared, SharedRegistry
from .replicas import Replicas
from .timers import Timers
from .values import in_pieces, pairs, text, to_json
from .watches import Watches

P = ParamSpec("P")
R = TypeVar("R")


def _deferred(method: Callable[P, Coroutine[Deferred[Any], Any, R]]) -> Callable[P, Deferred[R]]:
    """Turn a coroutine into the Deferred that the interface promises."""

    @wraps(method)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> Deferred[R]:
        return Deferred.fromCoroutine(method(*args, **kwargs))

    return wrapper


@implementer(IBroker)
class RedisBroker:
    """The broker of one node.

    Attributes:
        node: The node, which this broker starts and stops.
        limits: The limits of jobs. Those of the node that joined last apply to all nodes.
    """

    _log = Logger()

    def __init__(self, node: RedisNode, registry: Registry | None = None, limits: JobLimits | None = None) -> None:
        """Connect nothing yet.

        Args:
            registry: The runtimes and bindings of the seed; ``None`` to join with those that the other nodes have.
        """
        self.node = node
        self.limits = limits or JobLimits()
        self._registry = SharedRegistry(node, registry)
        self._watches = Watches(node)
        self._records = self._watches.records
        self._observers = NodeObservers(node, self._records)
        self._timers = Timers(node, self.limits)
        self._handovers = Handovers(node)
        self._posts = Posts(node, self._watches, self._records, self._handovers)
        self._polls = Polls(node, self._records, self._handovers, self._dispatched)
        self._replicas = Replicas(node, self._registry)
        self._to_cancel: dict[str, tuple[str, bool]] = {}
        self._stopped = False
        node.limits = _limits(self.limits)
        node.keeps_limits = registry is None
        node.known = lambda: [*self._handovers.known(), *self._posts.known()]
        node.attached.append(self._attached)
        node.joined += [self._handovers.joined, self._observers.joined, self._polls.joined]
        node.handlers.update(end=self._ended, inherited=self._timers.expire)

    def start(self) -> Deferred[None]:
        self._polls.start()
        return self.node.start()

    async def _attached(self) -> None:
        self._posts.attached()
        await self._registry.attached()
        await self._sweep()
        # Before polls can get these jobs.
        await self._cancel_remembered()
        self._watches.attached()
        await self._timers.attached()

    async def _sweep(self) -> None:
        """Take over what nodes hold that no node knows any more."""
        for ids in in_pieces(list(self._registry.current.runtimes)):
            await self.node.send("sweep", *ids)

    def stop(self) -> Deferred[None]:
        self._stopped = True
        self._timers.stop()
        self._polls.stop()
        self._watches.stop()
        self._observers.end()
        return succeed(None)

    def close(self) -> Deferred[None]:
        self._handovers.stop()
        return self.node.stop()

    def _refuse_when_stopped(self) -> None:
        if self._stopped:
            raise BrokerStopped

    def observe(self, observer: Observer, only_here: bool = False) -> Deferred[None]:
        return succeed(None) if self._stopped else self._observers.add(observer, only_here)

    @_deferred
    async def ping(self) -> None:
        self._refuse_when_stopped()
        await self.node.ready()
        await self.node.command("PING")

    # Runtimes and bindings

    @_deferred
    async def load(self) -> BrokerLoad:
        snapshots = await self.snapshots()
        return BrokerLoad(
            runtimes=len(snapshots),
            connected=sum(each.runtime.connected for each in snapshots),
            queued=sum(each.queued for each in snapshots),
            running=sum(each.running for each in snapshots),
            parked_polls=len(self._polls),
            parked_callers=self._watches.callers,
        )

    @_deferred
    async def runtime(self, runtime_id: str) -> Runtime:
        return (await self._snapshots([runtime_id]))[0].runtime

    @_deferred
    async def snapshot(self, runtime_id: str) -> RuntimeSnapshot:
        return (await self._snapshots([runtime_id]))[0]

    @_deferred
    async def snapshots(self) -> list[RuntimeSnapshot]:
        found = []
        for ids in in_pieces(sorted(self._registry.current.runtimes)):
            found += await self._snapshots(ids)
        return found

    async def _snapshots(self, runtime_ids: Sequence[str]) -> list[RuntimeSnapshot]:
        found = []
        replies = await self.node.call("runtimes", *runtime_ids)
        registry = self._registry.current
        for runtime_id, reply in zip(runtime_ids, replies, strict=True):
            process, schemas, queued, running, stored = reply
            known = registry.runtimes.get(runtime_id)
            if not process or known is None:
                raise UnknownRuntime(runtime_id)
            opened = registry.replicas[runtime_id].values()
            opened_at = int(pairs(process)["opened_at"])
            replicas = read_replicas(known, opened, stored, int(self.node.clock.seconds() * 1000), opened_at)
            runtime = read_runtime(known, process, schemas, any(each.state.connected for each in replicas))
            parked = sum(each.parked_polls for each in replicas)
            bindings = registry.bindings_of(runtime_id)
            found.append(RuntimeSnapshot(runtime, bindings, queued, running, parked, replicas))
        return found

    @_deferred
    async def open_replica(self, request: ReplicaRequest) -> Replica:
        self._refuse_when_stopped()
        return await self._replicas.open(request)

    @_deferred
    async def replicas(self, runtime_id: str) -> list[ReplicaSnapshot]:
        return await self._replicas.all(runtime_id)

    @_deferred
    async def close_replica(self, runtime_id: str, replica_id: str, reason: str = REPLICA_STOPPED) -> None:
        await self._replicas.close(runtime_id, replica_id, reason)
        self._timers.job_ended()

    @_deferred
    async def drain_replica(self, runtime_id: str, replica_id: str) -> None:
        await self._replicas.drain(runtime_id, replica_id)

    def module_runtime(self, token: str) -> Deferred[ModuleIdentity | None]:
        # The copy of the registry counts only while the connection keeps it up to date.
        return succeed(self._registry.module_runtime(token)) if self.node.up else fail(RedisAway())

    @_deferred
    async def open_session(self, request: SessionRequest) -> Runtime:
        self._refuse_when_stopped()
        await self.node.ready()
        runtime_id = request.runtime_id
        opened: list[Runtime] = []

        def change(shared: Shared) -> Changes:
            dismissed = [(runtime_id, SESSION_RESET)] if runtime_id in shared.registry.runtimes else []
            opened[:] = [request.apply(shared.registry)]
            return Changes(dismissed, [runtime_id])

        await self._registry.change(change)
        self._log.info("runtime {runtime_id}: session opened", runtime_id=runtime_id)
        return opened[0]

    @_deferred
    async def delete_runtime(self, runtime_id: str) -> None:
        await self.node.ready()

        def change(shared: Shared) -> Changes:
            if runtime_id not in shared.registry.runtimes:
                raise UnknownRuntime(runtime_id)
            shared.registry.remove(runtime_id)
            return Changes([(runtime_id, RUNTIME_DELETED)])

        await self._registry.change(change)
        self._log.info("runtime {runtime_id}: deleted", runtime_id=runtime_id)

    @_deferred
    async def reset(self, registry: Registry) -> None:
        self._refuse_when_stopped()
        await self.node.ready()
        await self._registry.reset(registry, EMULATOR_RESET)
        self._log.info("reset to the seed: {count} runtimes", count=len(registry.runtimes))

    @_deferred
    async def reseed(self, registry: Registry) -> None:
        self._refuse_when_stopped()
        await self.node.ready()
        await self._registry.reseed(registry)
        self._log.info("seed reloaded: {count} runtimes", count=len(registry.runtimes))

    def resolve(self, deployed_app_rid: str, branch: str | None) -> Deferred[Binding]:
        if not self.node.up:
            return fail(RedisAway())
        binding = self._registry.current.resolve(deployed_app_rid, branch)
        return fail(NotBound(deployed_app_rid, branch)) if binding is None else succeed(binding)

    @_deferred
    async def functions(self, name: str, runtime_id: str | None = None) -> list[PostedFunction]:
        wanted = sorted(self._registry.current.runtimes) if runtime_id is None else [runtime_id]
        found = []
        for ids in in_pieces(wanted):
            found += read_functions(self._registry.current, name, await self.node.call("functions", name, *ids))
        return found

    @_deferred
    async def put_schemas(self, runtime_id: str, schemas: list[FunctionSchema]) -> None:
        now = int(self.node.clock.seconds() * 1000)
        for number, piece in enumerate(in_pieces(schemas) if schemas else [[]]):
            args = []
            for schema in piece:
                args += [schema.function_name, to_json(describe_schema(schema, now))]
            first = "0" if number else "1"
            if await self.node.call("put_schemas", runtime_id, first, *args) == b"unknown runtime":
                raise UnknownRuntime(runtime_id)

    @_deferred
    async def restart(self, runtime_id: str, replica_id: str = DEFAULT_REPLICA) -> list[str]:
        reply = await self.node.call("restart", runtime_id, replica_id, RUNTIME_RESTARTED)
        if isinstance(reply, bytes):
            raise unknown(reply, runtime_id, replica_id)
        self._timers.job_ended()
        self._log.info(
            "runtime {runtime_id}: restarted, {count} running jobs lost", runtime_id=runtime_id, count=len(reply)
        )
        return [text(job_id) for job_id in reply]

    # Submission and inspection

    def enqueue(self, runtime_id: str, submission: Submission, held: bool = False) -> Deferred[Job]:
        if self._stopped:
            return fail(BrokerStopped())
        job_id = new_job_id()
        # A synchronous caller waits next. If Redis reports the job from the start, that takes no further operation.
        watched = submission.source.waited_for
        if watched:
            self._watches.expect(job_id)

        def queue(query: bytes) -> Deferred[Any]:
            return self.node.call_again(
                "enqueue",
                job_id,
                runtime_id,
                submission.query_type,
                describe_submission(submission),
                str(submission.size),
                query,
                "1" if held else "0",
                "1" if watched else "0",
                submission.key or "",
                describe_rights(submission),
            )

        def queued(reply: Any) -> Job:
            if isinstance(reply, bytes):
                raise refusal(reply, runtime_id, self.limits)
            job = self._records.submitted(reply, submission)
            if job.job_id != job_id:
                # This is the job of an earlier submission with the same key.
                self._watches.expect_no_more(job_id)
            return job

        def not_queued(failure: Failure) -> Failure:
            self._watches.expect_no_more(job_id)
            if watched and failure.check(CancelledError):
                # If it never was queued, there is nothing to cancel.
                canceled = self.cancel(job_id, "The caller disconnected.", only_queued=True, later=True)
                canceled.addErrback(lambda failure: failure.trap(UnknownJob))
            return failure

        query = submission.query or b"null"
        asked = queue(query) if len(query) <= PIECE else write_query(self.node, job_id, query).addCallback(queue)
        return asked.addCallback(queued).addErrback(not_queued)

    @_deferred
    async def submitted(self, submission: Submission) -> Job | None:
        if submission.key is None:
            return None
        reply = await self.node.call(
            "submitted",
            submission.key,
            submission.query_type,
            describe_submission(submission),
            submission.query or b"null",
        )
        if isinstance(reply, bytes):
            raise refusal(reply, "", self.limits)
        return self._records.job(reply) if reply else None

    def job(self, job_id: str) -> Deferred[Job]:
        def found(reply: Any) -> Job:
            if reply == b"unknown job":
                raise UnknownJob(job_id)
            record, query, output, data, *ends = reply
            return self._records.finished_job(record, data, b"".join(ends), query, output)

        return self.node.call("job", job_id).addCallback(found)

    @_deferred
    async def jobs(self, wanted: JobFilter, most: int) -> list[Job]:
        found = await self.node.call(
            "list",
            "" if wanted.before is None else str(wanted.before),
            wanted.runtime_id or "",
            wanted.query_type or "",
            "" if wanted.state is None else wanted.state.value,
            "" if wanted.raised is None else str(int(wanted.raised)),
            str(most),
        )
        return [self._records.job(record) for record in found]

    # Dispatch

    def poll(self, runtime_id: str, wait: float, replica_id: str = DEFAULT_REPLICA) -> Deferred[Job | None]:
        return succeed(None) if self._stopped else self._polls.poll(runtime_id, wait, replica_id)

    def holds(self, job_id: str, attempt: int) -> Deferred[bool]:
        return self._handovers.holds(job_id, attempt)

    def _dispatched(self, job: Job) -> None:
        self._timers.lease_taken()
        self._posts.expect(job)

    def give_back(self, job_id: str, attempt: int) -> Deferred[None]:
        return self._handovers.give_back(job_id, attempt)

    def delivered(self, job_id: str, attempt: int) -> Deferred[None]:
        return self._handovers.delivered(job_id, attempt)

    @_deferred
    async def deliver_again(self, job_id: str) -> None:
        if await self.node.call("deliver_again", job_id) == b"unknown job":
            raise UnknownJob(job_id)

    # Results and ends

    def open_result(self, runtime_id: str, job_id: str, replica_id: str = DEFAULT_REPLICA) -> Deferred[Job]:
        return self._posts.open(runtime_id, job_id, replica_id)

    def new_result(self, job_id: str, content_type: str | None) -> IResult:
        return self._posts.new(job_id, content_type)

    @_deferred
    async def begin_result(self, job_id: str, body: IResult, replica_id: str = DEFAULT_REPLICA) -> bool:
        return await self._posts.begin(job_id, body, replica_id)

    def complete(self, job_id: str, body: IResult, raised: str | None = None) -> Deferred[None]:
        return self._posts.complete(job_id, body, raised).addCallback(lambda _: self._timers.job_ended())

    @_deferred
    async def fail_job(self, job_id: str, reason: str) -> bool:
        self._posts.ended(job_id)
        return self._has_ended(job_id, await self.node.call_again("fail", job_id, reason))

    @_deferred
    async def keep_output(self, job_id: str, output: str) -> None:
        if await self.node.call_again("keep_output", job_id, output[-OUTPUT_KEPT:]) == b"unknown job":
            raise UnknownJob(job_id)

    @_deferred
    async def cancel(self, job_id: str, reason: str, only_queued: bool = False, later: bool = False) -> bool:
        args = (job_id, reason, "1" if only_queued else "0")
        if not later or self._stopped:
            return self._has_ended(job_id, await self.node.call_again("cancel", *args))
        try:
            return self._has_ended(job_id, await self.node.call("cancel", *args))
        except BrokerUnavailable:
            # It is not repeated as soon as the node is up: polls that are parked again may get the job before.
            self._to_cancel[job_id] = (reason, only_queued)
            return False

    async def _cancel_remembered(self) -> None:
        """Cancel the jobs that were to be canceled while Redis was away."""
        while self._to_cancel:
            job_id, (reason, only_queued) = next(iter(self._to_cancel.items()))
            await self.node.send("cancel", job_id, reason, "1" if only_queued else "0")
            del self._to_cancel[job_id]

    def _has_ended(self, job_id: str, reply: Any) -> bool:
        if reply == b"unknown job":
            raise UnknownJob(job_id)
        self._timers.job_ended()
        return bool(reply)

    def _ended(self, job_id: bytes | str, record: Any, data: bytes | str | bool | None, ends: bytes | str = "") -> None:
        self._posts.ended(text(job_id))
        self._watches.ended(record, data, ends)

    def wait_result(self, job_id: str, timeout: float) -> Deferred[Job]:
        return self._watches.wait(job_id, timeout, end=False)

    def wait_end(self, job_id: str, timeout: float) -> Deferred[Job]:
        return self._watches.wait(job_id, timeout, end=True)


def _limits(limits: JobLimits) -> dict[str, str]:
    """Return the limits that are set, as text. The lease is part of an error message, so it has no needless digits."""
    set_limits = {name: value for name, value in asdict(limits).items() if value is not None}
    return {name: f"{value:g}" if name == "lease" else str(value) for name, value in set_limits.items()}
