"""
The broker of many processes: everything is in Redis, and any node may be asked.

What happens to a job happens there, as a whole (C{lua/}); here are those who
wait for it on this node.  They are woken by what is published to the node, and
ask again when the connection has been lost and is back.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine, Iterable
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from attrs import asdict, define, evolve
from twisted.internet.defer import CancelledError, Deferred, DeferredLock, fail, succeed
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from ...model.jobs import Attempt, Job, JobFilter, JobSource, JobState, Submission, new_job_id
from ...model.limits import JobLimits
from ...model.registry import Registry, SessionRequest
from ...model.runtimes import Binding, FunctionSchema, Runtime
from ...model.tokens import fingerprint
from ..interface import (
    EMULATOR_RESET,
    NO_LONGER_SEEDED,
    RUNTIME_DELETED,
    SESSION_RESET,
    BrokerLoad,
    BrokerStopped,
    BrokerUnavailable,
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
from .node import RedisNode, text, to_json
from .registry import Changes, Shared, after
from .results import PostedResult, RedisResult, ResultReader

P = ParamSpec("P")


R = TypeVar("R")


#: How many values are passed to one operation at most.
_MOST_VALUES = 1000


def _deferred(method: Callable[P, Coroutine[Deferred[Any], Any, R]]) -> Callable[P, Deferred[R]]:
    """Turn a coroutine into the Deferred that the interface promises."""

    @wraps(method)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> Deferred[R]:
        return Deferred.fromCoroutine(method(*args, **kwargs))

    return wrapper


@define(eq=False)
class _Poll:
    """
    A poll that waits on this node.

    @ivar parks: whether it does, or only asks once.
    """

    number: int
    runtime_id: str
    parks: bool
    deferred: Deferred[Job | None]
    timer: IDelayedCall | None = None


@define(eq=False)
class _Waiter:
    """
    A caller that waits on this node.

    @ivar end: whether a result that has begun is not enough.
    """

    job_id: str
    end: bool
    deferred: Deferred[Job]
    timer: IDelayedCall | None = None


@implementer(IBroker)
class RedisBroker:
    """
    The broker of one node.

    @ivar node: the connection, which is this broker's to start and stop.
    @ivar limits: those of all nodes; the one that joined last decides.
    """

    _log = Logger()

    def __init__(self, node: RedisNode, registry: Registry | None = None, limits: JobLimits | None = None) -> None:
        """
        @param registry: the seed.
        """
        self.node = node
        self.limits = limits or JobLimits()
        self._clock = node.clock
        self._seed: Registry | None = registry or Registry()
        self._shared = Shared()
        self._stored: bytes | None = None
        self._module_tokens: dict[bytes, str] = {}
        self._changing = DeferredLock()
        self._polls: dict[int, _Poll] = {}
        self._numbered = 0
        self._handing: set[str] = set()
        self._delivered: set[str] = set()
        self._streams: dict[str, PostedResult] = {}
        self._waiters: dict[str, list[_Waiter]] = {}
        self._readers: dict[str, list[ResultReader]] = {}
        self._watched: dict[str, Job | None] = {}
        self._observers: dict[Deferred[None], Observer] = {}
        self._expiring: IDelayedCall | None = None
        self._forgetting: IDelayedCall | None = None
        self._stopped = False
        node.limits = {name: f"{value:g}" if name == "lease" else str(value) for name, value in self._limits()}
        node.known = lambda: [*self._handing, *self._delivered, *self._streams]
        node.loaded.append(self._loaded)
        node.attached.append(self._attached)
        node.handlers.update(
            job=self._dispatched,
            nothing=self._nothing,
            begun=self._begun,
            grown=self._grown,
            end=self._ended,
            change=self._changed,
            inherited=self._expire,
        )

    def _limits(self) -> Iterable[tuple[str, float]]:
        return ((name, value) for name, value in asdict(self.limits).items() if value is not None)

    # Being a node

    def start(self) -> Deferred[None]:
        """See L{IBroker.start}."""
        return self.node.start()

    async def _attached(self) -> None:
        """The connection is there anew: whoever is parked here asks again."""
        self._watched.clear()
        if self._seed is not None or self._stored is None:
            await self._reseed(self._seed or self._shared.seeded)
            self._seed = None
        for handed in list(self._delivered):
            await self._confirm(handed)
        if self._observers:
            await self.node.send("observe", "1")
        for poll in list(self._polls.values()):
            self._ask(poll)
        for job_id in {*self._waiters, *self._readers}:
            self._look(job_id)
        ends_at = await self.node.send("expire")
        if ends_at is not None:
            self._schedule_expiry(ends_at)
        wait = await self.node.send("forget")
        if wait is not None:
            self._schedule_forgetting(wait)

    def stop(self) -> Deferred[None]:
        """See L{IBroker.stop}."""
        self._stopped = True
        for timer in (self._expiring, self._forgetting):
            if timer is not None and timer.active():
                timer.cancel()
        for poll in list(self._polls.values()):
            self._unpark(poll)
            self._answer(poll, None)
        for waiter in [each for waiting in self._waiters.values() for each in waiting]:
            self._leave(waiter)
            waiter.deferred.errback(BrokerStopped())
        observing, self._observers = list(self._observers), {}
        for each in observing:
            each.callback(None)
        return succeed(None)

    def close(self) -> Deferred[None]:
        """See L{IBroker.close}."""
        return self.node.stop()

    def _refuse_when_stopped(self) -> None:
        if self._stopped:
            raise BrokerStopped

    # Who looks on

    def observe(self, observer: Observer) -> Deferred[None]:
        """See L{IBroker.observe}."""
        if self._stopped:
            return succeed(None)
        observing: Deferred[None] = Deferred(self._no_longer_observed)
        if not self._observers:
            self._say("observe", "1")
        self._observers[observing] = observer
        return observing

    def _no_longer_observed(self, observing: Deferred[None]) -> None:
        del self._observers[observing]
        if not self._observers:
            self._say("observe", "0")

    def _changed(self, runtime_id: str, record: list[str] | None, forgotten: bool) -> None:
        change = Change(text(runtime_id), self._job(record) if record else None, forgotten)
        for observer in list(self._observers.values()):
            observer(change)

    def _say(self, operation: str, *args: str) -> None:
        """Have something done that is of no matter if Redis is away."""
        self.node.call(operation, *args).addErrback(lambda failure: failure.trap(BrokerUnavailable))

    # Runtimes and bindings

    def _loaded(self, stored: bytes | None, faults: list[bytes]) -> None:
        if stored is None and self._stored is not None:
            # Redis has come back with nothing: it is seeded once more.
            self._seed = self._seed or self._shared.seeded
        if stored == self._stored:
            return
        self._stored, self._shared = stored, Shared.parse(stored)
        self._module_tokens = {
            fingerprint(each.module_auth_token): each.runtime_id for each in self._shared.registry.runtimes.values()
        }

    async def _change(self, change: Callable[[Shared], Changes]) -> None:
        """
        Change the registry, on what every node has last seen of it.

        @param change: makes it in a copy, and says what becomes of runtimes.
        """
        await self._changing.acquire()
        try:
            while True:
                shared, version = Shared.parse(self._stored), self.node.version
                changes = change(shared)
                reply = await self.node.send("commit", version, shared.dump(), to_json(changes))
                if reply != b"stale":
                    break
                await self.node.load()
        finally:
            self._changing.release()
        await self.node.noticed(reply)

    async def _reseed(self, registry: Registry) -> None:
        def change(shared: Shared) -> Changes:
            former, shared.seeded = shared.seeded, registry.with_generated_tokens(shared.made_up)
            gone = shared.registry.dropped_by_seed(former, shared.seeded)
            added = shared.registry.apply_seed_change(former, shared.seeded)
            return [(each, NO_LONGER_SEEDED) for each in gone], added

        unchanged = Shared.parse(self._stored)
        if self._stored is None or unchanged.dump() != after(unchanged, change):
            await self._change(change)

    @_deferred
    async def ping(self) -> None:
        """See L{IBroker.ping}."""
        self._refuse_when_stopped()
        await self._need()
        await self.node.command("PING")

    @_deferred
    async def load(self) -> BrokerLoad:
        """See L{IBroker.load}."""
        snapshots = await self.snapshots()
        return BrokerLoad(
            runtimes=len(snapshots),
            connected=sum(each.runtime.connected for each in snapshots),
            queued=sum(each.queued for each in snapshots),
            running=sum(each.running for each in snapshots),
            parked_polls=len(self._polls),
            parked_callers=sum(map(len, self._waiters.values())),
        )

    @_deferred
    async def runtime(self, runtime_id: str) -> Runtime:
        """See L{IBroker.runtime}."""
        return (await self._snapshots([runtime_id]))[0].runtime

    @_deferred
    async def snapshot(self, runtime_id: str) -> RuntimeSnapshot:
        """See L{IBroker.snapshot}."""
        return (await self._snapshots([runtime_id]))[0]

    @_deferred
    async def snapshots(self) -> list[RuntimeSnapshot]:
        """See L{IBroker.snapshots}."""
        ids = sorted(self._shared.registry.runtimes)
        found = []
        for start in range(0, len(ids), _MOST_VALUES):
            found += await self._snapshots(ids[start : start + _MOST_VALUES])
        return found

    async def _snapshots(self, runtime_ids: list[str]) -> list[RuntimeSnapshot]:
        found = []
        for runtime_id, reply in zip(runtime_ids, await self.node.call("runtimes", *runtime_ids), strict=True):
            said, schemas, queued, running, parked = reply
            known = self._shared.registry.runtimes.get(runtime_id)
            if not said or known is None:
                raise UnknownRuntime(runtime_id)
            registry = self._shared.registry
            runtime = _runtime(known, _pairs(said), _pairs(schemas))
            found.append(RuntimeSnapshot(runtime, registry.bindings_of(runtime_id), queued, running, parked))
        return found

    @_deferred
    async def module_runtime(self, token: str) -> str | None:
        """See L{IBroker.module_runtime}."""
        await self._need()
        return self._module_tokens.get(fingerprint(token))

    def _need(self) -> Deferred[None]:
        """What is kept here counts only while it is kept up."""
        return succeed(None) if self.node.up else fail(BrokerUnavailable("Redis cannot be reached"))

    @_deferred
    async def open_session(self, request: SessionRequest) -> Runtime:
        """See L{IBroker.open_session}."""
        self._refuse_when_stopped()
        await self._need()
        runtime_id = request.runtime_id
        opened: list[Runtime] = []

        def change(shared: Shared) -> Changes:
            dismissed = [(runtime_id, SESSION_RESET)] if runtime_id in shared.registry.runtimes else []
            opened[:] = [request.apply(shared.registry)]
            return dismissed, [runtime_id]

        await self._change(change)
        self._log.info("runtime {runtime_id}: session opened", runtime_id=runtime_id)
        return opened[0]

    @_deferred
    async def delete_runtime(self, runtime_id: str) -> None:
        """See L{IBroker.delete_runtime}."""
        await self._need()

        def change(shared: Shared) -> Changes:
            if runtime_id not in shared.registry.runtimes:
                raise UnknownRuntime(runtime_id)
            shared.registry.remove(runtime_id)
            return [(runtime_id, RUNTIME_DELETED)], []

        await self._change(change)
        self._log.info("runtime {runtime_id}: deleted", runtime_id=runtime_id)

    @_deferred
    async def reset(self, registry: Registry) -> None:
        """See L{IBroker.reset}."""
        self._refuse_when_stopped()
        await self._need()

        def change(shared: Shared) -> Changes:
            dismissed = [(each, EMULATOR_RESET) for each in shared.registry.runtimes]
            shared.seeded = registry.with_generated_tokens(shared.made_up)
            shared.registry = shared.seeded.copy()
            return dismissed, list(shared.registry.runtimes)

        await self._change(change)
        self._log.info("reset to the seed: {count} runtimes", count=len(registry.runtimes))

    @_deferred
    async def reseed(self, registry: Registry) -> None:
        """See L{IBroker.reseed}."""
        self._refuse_when_stopped()
        await self._need()
        await self._reseed(registry)
        self._log.info("seed reloaded: {count} runtimes", count=len(registry.runtimes))

    @_deferred
    async def resolve(self, deployed_app_rid: str, branch: str | None) -> Binding:
        """See L{IBroker.resolve}."""
        await self._need()
        binding = self._shared.registry.resolve(deployed_app_rid, branch)
        if binding is None:
            raise NotBound(deployed_app_rid, branch)
        return binding

    @_deferred
    async def put_schemas(self, runtime_id: str, schemas: list[FunctionSchema]) -> None:
        """See L{IBroker.put_schemas}."""
        now = int(self._clock.seconds() * 1000)
        for start in range(0, max(len(schemas), 1), _MOST_VALUES):
            args = []
            for schema in schemas[start : start + _MOST_VALUES]:
                content = {"payload": schema.payload, "issues": schema.issues, "posted_at": now}
                args += [schema.function_name, to_json(content)]
            if await self.node.call("put_schemas", runtime_id, *args) == b"unknown runtime":
                raise UnknownRuntime(runtime_id)

    # The way of a job

    def _job(self, record: Iterable[bytes | str], query: bytes | str | None = None) -> Job:
        fields = _pairs(record)
        meta = json.loads(fields["meta"])
        submission = Submission(
            fields["type"],
            None if query is None else json.loads(query),
            JobSource(meta["source"]),
            meta["deployed_app_rid"],
            meta["branch"],
            meta["submitter"],
            int(fields["size"]),
        )
        job = Job(fields["id"], fields["runtime"], submission, int(fields["queued_at"]), int(fields["number"]))
        job.state = JobState(fields["state"])
        job.attempts = int(fields["attempts"])
        job.started_at = int(fields["started_at"]) if "started_at" in fields else None
        job.completed_at = int(fields["completed_at"]) if "completed_at" in fields else None
        job.error_message = fields.get("error")
        job.attempt_log = [
            _attempt(fields[f"a{number}"]) for number in range(1, job.attempts + 1) if f"a{number}" in fields
        ]
        if "body" in fields:
            size, whole = int(fields["result_size"]), "whole" in fields
            job.result = RedisResult(self, job.job_id, fields.get("content_type"), fields["body"], size, whole)
        return job

    def _finished_job(self, record: Iterable[bytes | str], data: bytes | str | bool | None) -> Job:
        job = self._job(record)
        # A small result comes with the job.
        if isinstance(job.result, RedisResult) and data is not None and not isinstance(data, bool):
            job.result.data = data.encode("utf-8", "surrogateescape") if isinstance(data, str) else data
        return job

    @_deferred
    async def enqueue(self, runtime_id: str, submission: Submission, held: bool = False) -> Job:
        """See L{IBroker.enqueue}."""
        self._refuse_when_stopped()
        job_id = new_job_id()
        # A synchronous caller is about to wait, and need not ask how things stand then.
        watched = submission.source is JobSource.CONTOUR_SYNC
        if watched:
            self._watched[job_id] = None
        meta = {
            "source": submission.source.value,
            "deployed_app_rid": submission.deployed_app_rid,
            "branch": submission.branch,
            "submitter": submission.submitter,
        }
        try:
            reply = await self.node.call_again(
                "enqueue",
                job_id,
                runtime_id,
                submission.query_type,
                to_json(meta),
                str(submission.size),
                to_json(submission.query),
                "1" if held else "0",
                "1" if watched else "0",
            )
            if reply == b"unknown runtime":
                raise UnknownRuntime(runtime_id)
            if reply == b"too many jobs":
                raise QueueFull(runtime_id, self.limits.queue_depth, "jobs")
            if reply == b"too many bytes":
                raise QueueFull(runtime_id, self.limits.queue_bytes, "bytes")
        except BaseException as error:
            self._watched.pop(job_id, None)
            if watched and isinstance(error, CancelledError):
                self._say("cancel", job_id, "The caller disconnected.", "1")
            raise
        job = self._job(reply)
        job.submission = submission
        return job

    def poll(self, runtime_id: str, wait: float) -> Deferred[Job | None]:
        """See L{IBroker.poll}."""
        if self._stopped:
            return succeed(None)
        if not self.node.up:
            return fail(BrokerUnavailable("Redis cannot be reached"))
        self._numbered += 1
        poll = _Poll(self._numbered, runtime_id, wait > 0, Deferred(lambda _: self._vanish(poll)))
        self._polls[poll.number] = poll
        if poll.parks:
            poll.timer = self._clock.callLater(wait, self._poll_expired, poll)
        self._ask(poll)
        return poll.deferred

    def _ask(self, poll: _Poll) -> None:
        parks = "1" if poll.parks else "0"
        asked = self.node.send("poll", poll.runtime_id, str(poll.number), parks)
        asked.addCallbacks(self._polled, self._not_polled, (poll,), {}, (poll,))

    def _polled(self, reply: Any, poll: _Poll) -> None:
        if reply == b"unknown runtime":
            if poll.number in self._polls:
                self._take_off(poll)
                poll.deferred.errback(UnknownRuntime(poll.runtime_id))
        elif reply is not None:
            record, query = reply
            self._hand(poll.number, self._job(record, query))
        elif not poll.parks and poll.number in self._polls:
            self._answer(poll, None)

    def _not_polled(self, failure: Failure, poll: _Poll) -> None:
        failure.trap(BrokerUnavailable)
        if not poll.parks and poll.number in self._polls:
            self._take_off(poll)
            poll.deferred.errback(failure)

    def _dispatched(self, number: str, record: list[str], query: str | bool) -> None:
        job = self._job(record, query if isinstance(query, str) else None)
        if isinstance(query, str):
            self._hand(int(number), job)
            return
        # A large query is not in the publication.
        asked = self.node.call("job", job.job_id)
        asked.addCallbacks(lambda reply: self._hand(int(number), self._job(record, reply[1])), _ignore)

    def _hand(self, number: int, job: Job) -> None:
        poll = self._polls.get(number)
        self._schedule_expiry()
        if poll is None:
            self._say("give_back", job.job_id, str(job.attempts))
            return
        self._handing.add(f"{job.job_id}:{job.attempts}")
        self._log.debug(
            "job {job_id}: dispatched to runtime {runtime_id}", job_id=job.job_id, runtime_id=job.runtime_id
        )
        self._answer(poll, job)

    def _nothing(self, number: str) -> None:
        poll = self._polls.get(int(number))
        if poll is not None:
            self._answer(poll, None)

    def _answer(self, poll: _Poll, job: Job | None) -> None:
        self._take_off(poll)
        poll.deferred.callback(job)

    def _take_off(self, poll: _Poll) -> None:
        del self._polls[poll.number]
        if poll.timer is not None and poll.timer.active():
            poll.timer.cancel()

    def _unpark(self, poll: _Poll) -> None:
        self._say("unpark", poll.runtime_id, str(poll.number))

    def _vanish(self, poll: _Poll) -> None:
        self._take_off(poll)
        if poll.parks:
            self._unpark(poll)

    def _poll_expired(self, poll: _Poll) -> None:
        # A job may be on its way to it; then it waits for that.
        poll.parks = False

        def unparked(was_there: int) -> None:
            if was_there and poll.number in self._polls:
                self._answer(poll, None)

        if self.node.up:
            self.node.call("unpark", poll.runtime_id, str(poll.number)).addCallbacks(unparked, _ignore)
        else:
            self._answer(poll, None)

    @_deferred
    async def give_back(self, job_id: str, attempt: int) -> None:
        """See L{IBroker.give_back}."""
        self._handing.discard(f"{job_id}:{attempt}")
        if await self.node.call("give_back", job_id, str(attempt)):
            self._log.info("job {job_id}: given back, its poller vanished", job_id=job_id)

    @_deferred
    async def delivered(self, job_id: str, attempt: int) -> None:
        """See L{IBroker.delivered}."""
        handed = f"{job_id}:{attempt}"
        if handed in self._handing:
            self._handing.remove(handed)
            # Until Redis knows: it may be away just now, and the job must not go to anybody else when it is back.
            self._delivered.add(handed)
            await self._confirm(handed)

    async def _confirm(self, handed: str) -> None:
        await self.node.send("delivered", *handed.rsplit(":", 1))
        self._delivered.discard(handed)

    @_deferred
    async def deliver_again(self, job_id: str) -> None:
        """See L{IBroker.deliver_again}."""
        if await self.node.call("deliver_again", job_id) == b"unknown job":
            raise UnknownJob(job_id)

    @_deferred
    async def open_result(self, runtime_id: str, job_id: str) -> Job:
        """See L{IBroker.open_result}."""
        reply = await self.node.call_again("open_result", runtime_id, job_id)
        if reply == b"unknown job":
            raise UnknownJob(job_id)
        return self._job(reply)

    def new_result(self, job_id: str, content_type: str | None) -> IResult:
        """See L{IBroker.new_result}."""
        return PostedResult(self, job_id, content_type)

    @_deferred
    async def begin_result(self, job_id: str, body: IResult) -> bool:
        """See L{IBroker.begin_result}."""
        assert isinstance(body, PostedResult)
        # From now on, since this node may be connected anew before it has the answer.
        self._streams.setdefault(job_id, body)
        begun = False
        try:
            reply = await self.node.call_again("begin", job_id, body.body_id, body.content_type or "")
            if reply == b"unknown job":
                raise UnknownJob(job_id)
            begun = bool(reply)
        finally:
            if not begun and self._streams.get(job_id) is body:
                del self._streams[job_id]
        if begun:
            body.begin()
        return begun

    @_deferred
    async def complete(self, job_id: str, body: IResult) -> None:
        """See L{IBroker.complete}."""
        assert isinstance(body, PostedResult)
        data = body.small
        if data is None:
            await body.flush()
        reply = await self.node.call_again(
            "complete", job_id, body.body_id, str(body.size), body.content_type or "", data or b""
        )
        self._streams.pop(job_id, None)
        self._schedule_forgetting()
        if reply == b"unknown job":
            raise UnknownJob(job_id)
        if reply == b"completed":
            raise JobAlreadyCompleted(job_id)

    @_deferred
    async def fail_job(self, job_id: str, reason: str) -> bool:
        """See L{IBroker.fail_job}."""
        self._streams.pop(job_id, None)
        return await self._end("fail", job_id, reason)

    @_deferred
    async def cancel(self, job_id: str, reason: str, only_queued: bool = False) -> bool:
        """See L{IBroker.cancel}."""
        return await self._end("cancel", job_id, reason, "1" if only_queued else "0")

    async def _end(self, operation: str, job_id: str, *args: str) -> bool:
        reply = await self.node.call_again(operation, job_id, *args)
        if reply == b"unknown job":
            raise UnknownJob(job_id)
        self._schedule_forgetting()
        return bool(reply)

    @_deferred
    async def restart(self, runtime_id: str) -> list[str]:
        """See L{IBroker.restart}."""
        reply = await self.node.call("restart", runtime_id)
        if reply == b"unknown runtime":
            raise UnknownRuntime(runtime_id)
        self._schedule_forgetting()
        self._log.info(
            "runtime {runtime_id}: restarted, {count} running jobs lost", runtime_id=runtime_id, count=len(reply)
        )
        return [text(job_id) for job_id in reply]

    @_deferred
    async def job(self, job_id: str) -> Job:
        """See L{IBroker.job}."""
        reply = await self.node.call("job", job_id)
        if reply == b"unknown job":
            raise UnknownJob(job_id)
        return self._job(*reply)

    @_deferred
    async def jobs(self, wanted: JobFilter, most: int) -> list[Job]:
        """See L{IBroker.jobs}."""
        found = await self.node.call(
            "list",
            "" if wanted.before is None else str(wanted.before),
            wanted.runtime_id or "",
            wanted.query_type or "",
            "" if wanted.state is None else wanted.state.value,
            str(most),
        )
        return [self._job(record) for record in found]

    # Who waits for a job

    def wait_result(self, job_id: str, timeout: float) -> Deferred[Job]:
        """See L{IBroker.wait_result}."""
        return self._wait(job_id, timeout, False)

    def wait_end(self, job_id: str, timeout: float) -> Deferred[Job]:
        """See L{IBroker.wait_end}."""
        return self._wait(job_id, timeout, True)

    def _wait(self, job_id: str, timeout: float, end: bool) -> Deferred[Job]:
        if timeout <= 0:
            return Deferred.fromCoroutine(self._look_once(job_id))
        if self._stopped:
            return fail(BrokerStopped())
        if not self.node.up:
            return fail(BrokerUnavailable("Redis cannot be reached"))
        waiter = _Waiter(job_id, end, Deferred(lambda _: self._leave(waiter)))
        self._waiters.setdefault(job_id, []).append(waiter)
        waiter.timer = self._clock.callLater(timeout, self._wait_expired, waiter)
        if job_id not in self._watched:
            self._look(job_id)
        else:
            job = self._watched.pop(job_id)
            if job is not None:
                self._told(job)
        return waiter.deferred

    async def _look_once(self, job_id: str) -> Job:
        reply = await self.node.call("look", job_id, "0")
        if reply == b"unknown job":
            raise UnknownJob(job_id)
        return self._finished_job(*reply)

    def _look(self, job_id: str) -> None:
        """Have this node told what becomes of a job, and see what has become of it already."""
        self.node.send("look", job_id, "1").addCallbacks(self._looked, _ignore, (job_id,))

    def _looked(self, reply: Any, job_id: str) -> None:
        if reply != b"unknown job":
            self._told(self._finished_job(*reply))
            return
        for waiter in list(self._waiters.get(job_id, ())):
            self._leave(waiter)
            waiter.deferred.errback(UnknownJob(job_id))
        for reader in list(self._readers.get(job_id, ())):
            reader.ended(None)

    def _leave(self, waiter: _Waiter) -> None:
        waiting = self._waiters.get(waiter.job_id, [])
        if waiter in waiting:
            waiting.remove(waiter)
            if not waiting:
                del self._waiters[waiter.job_id]
        if waiter.timer is not None and waiter.timer.active():
            waiter.timer.cancel()

    def _wait_expired(self, waiter: _Waiter) -> None:
        self._leave(waiter)

        def looked(result: Any) -> None:
            # Whoever waited may have gone away by now.
            if not waiter.deferred.called:
                waiter.deferred.callback(result)

        Deferred.fromCoroutine(self._look_once(waiter.job_id)).addBoth(looked)

    def _told(self, job: Job) -> None:
        """Answer whoever waits for what has become of a job."""
        if job.job_id in self._watched:
            self._watched[job.job_id] = job
        ended = job.state.finished
        for waiter in list(self._waiters.get(job.job_id, ())):
            if ended or (job.result is not None and not waiter.end):
                self._leave(waiter)
                waiter.deferred.callback(job)
        for reader in list(self._readers.get(job.job_id, ())):
            if ended:
                reader.ended(job.result)
            elif job.result is not None:
                reader.grown(job.result.size)

    def _begun(self, job_id: str, record: list[str]) -> None:
        self._told(self._job(record))

    def _ended(self, job_id: str, record: list[str], data: str) -> None:
        self._streams.pop(job_id, None)
        self._told(self._finished_job(record, data))

    def _grown(self, job_id: str, size: int) -> None:
        for reader in list(self._readers.get(job_id, ())):
            reader.grown(int(size))

    def follow(self, job_id: str, reader: ResultReader) -> None:
        """From now on C{reader} is told how the job's result grows, and how it ends."""
        self._readers.setdefault(job_id, []).append(reader)
        self._look(job_id)

    def unfollow(self, job_id: str, reader: ResultReader) -> None:
        """Tell C{reader} no more."""
        readers = self._readers.get(job_id, [])
        if reader in readers:
            readers.remove(reader)
            if not readers:
                del self._readers[job_id]

    # Timers

    def _schedule_expiry(self, ends_at: bytes | None = None) -> None:
        """Keep a timer for the leases of this node: the first that ends, at a time in milliseconds, or a new one."""
        lease = self.limits.lease
        if self._stopped or lease is None or (self._expiring is not None and self._expiring.active()):
            return
        wait = lease if ends_at is None else max(0.0, float(ends_at) / 1000 - self._clock.seconds())
        self._expiring = self._clock.callLater(wait, self._expire)

    def _expire(self) -> None:
        if self._expiring is not None and self._expiring.active():
            self._expiring.cancel()

        def expired(ends_at: bytes | None) -> None:
            if ends_at is not None:
                self._schedule_expiry(ends_at)
            self._schedule_forgetting()

        self.node.call("expire").addCallbacks(expired, _ignore)

    def _schedule_forgetting(self, wait: int | None = None) -> None:
        """Keep a timer for the jobs that are kept by their age: the next is due in so many milliseconds."""
        if self._stopped or (self._forgetting is not None and self._forgetting.active()):
            return
        seconds = self.limits.retained_seconds if wait is None else wait / 1000
        self._forgetting = self._clock.callLater(seconds, self._forget)

    def _forget(self) -> None:
        def forgotten(wait: int | None) -> None:
            if wait is not None:
                self._schedule_forgetting(wait)

        self.node.call("forget").addCallbacks(forgotten, _ignore)


def _pairs(flat: Iterable[bytes | str]) -> dict[str, str]:
    parts = iter(map(text, flat))
    return dict(zip(parts, parts, strict=True))


def _attempt(stored: str) -> Attempt:
    started, _, rest = stored.partition(" ")
    ended, _, outcome = rest.partition(" ")
    return Attempt(int(started), int(ended) if ended else None, outcome or None)


def _runtime(known: Runtime, said: dict[str, str], schemas: dict[str, str]) -> Runtime:
    posted_at = said.get("last_schema_post_at")
    found = {}
    for name, stored in schemas.items():
        content = json.loads(stored)
        found[name] = FunctionSchema(name, content["payload"], tuple(content["issues"]), content["posted_at"])
    return evolve(
        known,
        opened_at=int(said["opened_at"]),
        connected="last_poll_at" in said,
        last_poll_at=int(said["last_poll_at"]) if "last_poll_at" in said else None,
        last_schema_post_at=None if posted_at is None else int(posted_at),
        schemas=None if posted_at is None else found,
    )


def _ignore(failure: Failure) -> None:
    """Redis is away, and all is asked anew when it is back."""
    failure.trap(BrokerUnavailable)
