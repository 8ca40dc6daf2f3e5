"""Who waits on this node for what becomes of a job?

Callers wait for the end of a job, or for the beginning of its result. Readers follow a result that is being posted.
"""

from __future__ import annotations

from typing import Any

from attrs import define
from twisted.internet.defer import Deferred, fail
from twisted.internet.interfaces import IDelayedCall

from ...model.jobs import Job
from ..interface import BrokerStopped, UnknownJob
from ..timers import cancel_timer
from .connection import RedisAway, ignore_outage
from .node import RedisNode
from .records import JobRecords
from .results import RedisReader
from .values import text


@define(eq=False)
class _Waiter:
    """A caller that waits.

    Attributes:
        job_id: The job that it waits for.
        end: Whether it waits for the job's end; otherwise the beginning of the result suffices.
        deferred: Fires with the job.
        timer: Fires when it has waited long enough.
    """

    job_id: str
    end: bool
    deferred: Deferred[Job]
    timer: IDelayedCall | None = None


class Watches:
    """The callers and readers that wait on this node.

    Attributes:
        records: Reads jobs, whose results are followed here.
    """

    def __init__(self, node: RedisNode) -> None:
        self.records = JobRecords(node, self)
        self._node = node
        self._waiters: dict[str, list[_Waiter]] = {}
        self._readers: dict[str, list[RedisReader]] = {}
        # Jobs that Redis already reports to this node, with the last report that arrived before a caller waits.
        self._expected: dict[str, Job | None] = {}
        self._stopped = False
        node.handlers.update(begun=self._begun, grown=self._grown)

    @property
    def callers(self) -> int:
        """The number of callers that wait."""
        return sum(map(len, self._waiters.values()))

    def attached(self) -> None:
        """Ask again how all jobs stand for which callers or readers wait."""
        self._expected.clear()
        for job_id in {*self._waiters, *self._readers}:
            self._look(job_id)

    def stop(self) -> None:
        """Answer all callers with :class:`BrokerStopped`."""
        self._stopped = True
        for waiter in [each for waiting in self._waiters.values() for each in waiting]:
            self._leave(waiter)
            waiter.deferred.errback(BrokerStopped())

    # Callers

    def expect(self, job_id: str) -> None:
        """Note that a caller is about to wait for a job that is being enqueued, and that Redis is to report it."""
        self._expected[job_id] = None

    def expect_no_more(self, job_id: str) -> None:
        """Undo :meth:`expect`: the job was not enqueued."""
        self._expected.pop(job_id, None)

    def wait(self, job_id: str, timeout: float, end: bool) -> Deferred[Job]:
        """Wait for a job.

        Args:
            job_id: The job.
            timeout: Seconds to wait at most.
            end: Whether to wait for its end; otherwise the beginning of its result suffices.
        """
        if timeout <= 0:
            return Deferred.fromCoroutine(self._look_once(job_id))
        if self._stopped:
            return fail(BrokerStopped())
        if not self._node.up:
            return fail(RedisAway())
        waiter = _Waiter(job_id, end, Deferred(lambda _: self._leave(waiter)))
        self._waiters.setdefault(job_id, []).append(waiter)
        waiter.timer = self._node.clock.callLater(timeout, self._wait_expired, waiter)
        if job_id not in self._expected:
            self._look(job_id)
        else:
            job = self._expected.pop(job_id)
            if job is not None:
                self._report(job)
        return waiter.deferred

    def _leave(self, waiter: _Waiter) -> None:
        _remove(self._waiters, waiter.job_id, waiter)
        cancel_timer(waiter.timer)

    def _wait_expired(self, waiter: _Waiter) -> None:
        self._leave(waiter)

        def looked(result: Any) -> None:
            # The caller may have gone away meanwhile.
            if not waiter.deferred.called:
                waiter.deferred.callback(result)

        Deferred.fromCoroutine(self._look_once(waiter.job_id)).addBoth(looked)

    # Readers

    def follow(self, job_id: str, reader: RedisReader) -> None:
        """Report to ``reader`` how the job's result grows, and how the job ends."""
        self._readers.setdefault(job_id, []).append(reader)
        self._look(job_id)

    def unfollow(self, job_id: str, reader: RedisReader) -> None:
        """Report no more to ``reader``."""
        _remove(self._readers, job_id, reader)

    # What becomes of jobs

    async def _look_once(self, job_id: str) -> Job:
        reply = await self._node.call("look", job_id, "0")
        if reply == b"unknown job":
            raise UnknownJob(job_id)
        return self.records.finished_job(*reply)

    def _look(self, job_id: str) -> None:
        """Ask how a job stands, and have Redis report to this node what becomes of it."""
        self._node.send("look", job_id, "1").addCallbacks(self._looked, ignore_outage, (job_id,))

    def _looked(self, reply: Any, job_id: str) -> None:
        if reply != b"unknown job":
            self._report(self.records.finished_job(*reply))
            return
        for waiter in list(self._waiters.get(job_id, ())):
            self._leave(waiter)
            waiter.deferred.errback(UnknownJob(job_id))
        for reader in list(self._readers.get(job_id, ())):
            reader.ended(None)

    def _report(self, job: Job) -> None:
        """Answer those who wait for what has become of a job."""
        if job.job_id in self._expected:
            self._expected[job.job_id] = job
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

    def _begun(self, job_id: bytes | str, record: Any) -> None:
        self._report(self.records.job(record))

    def _grown(self, job_id: bytes | str, size: int) -> None:
        for reader in list(self._readers.get(text(job_id), ())):
            reader.grown(int(size))

    def ended(self, record: Any, data: bytes | str | bool | None, ends: bytes | str = "") -> None:
        """Answer those who wait for a job whose end was published."""
        self._report(self.records.finished_job(record, data, ends))


def _remove(table: dict[str, list[Any]], key: str, item: Any) -> None:
    found = table.get(key, [])
    if item in found:
        found.remove(item)
        if not found:
            del table[key]
