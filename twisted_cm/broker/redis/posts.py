"""Receiving the results that runtimes post to this node.

The bytes are written to Redis in parts, in order, one write at a time. The post is paused while too many bytes wait.
"""

from __future__ import annotations

import errno
from collections import OrderedDict
from itertools import count
from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.python.failure import Failure

from ...model.jobs import Job
from ..flow import PacedWriter
from ..interface import BrokerUnavailable, IResult, JobAlreadyCompleted, UnknownJob
from ..noted_ends import NotedEnds
from .connection import LinkLost, RedisAway, ignore_outage
from .handovers import Handovers
from .node import RedisNode
from .records import JobRecords
from .results import PART, PATIENCE, Followers, RedisResult

#: A result of no more bytes travels with the publication of its job's end, as in ``lua/1_state.lua``.
SMALL = 64 * 1024

#: The post is paused while so many bytes wait to be acknowledged.
HIGH_WATER = 256 * 1024

#: A node remembers so many of the jobs that it has dispatched last, if their queries have no more bytes than this.
JOBS_REMEMBERED = 1000
QUERY_REMEMBERED = 4096

#: Seconds after which Redis is told again that a replica was heard.
HEARD_FOR = 1.0

#: The results of this process, so that each has an id of its own: a job may be posted again.
_NUMBERS = count()

#: A lease is renewed at most so many times in its length.
RENEWALS = 20


class PostedResult(PacedWriter, RedisResult):
    """A result that is being posted to this node.

    Attributes:
        begun: Whether callers may read along, so that each write must reach Redis at once.
    """

    def __init__(
        self,
        node: RedisNode,
        followers: Followers,
        lease: float | None,
        job_id: str,
        content_type: str | None,
        asked: bool,
    ) -> None:
        """Create an empty result.

        Args:
            asked: Whether Redis was asked for the job before. If not, the first write does not wait for it.
        """
        PacedWriter.__init__(self)
        RedisResult.__init__(
            self, node, followers, job_id, content_type, f"{job_id}:{node.node_id}{next(_NUMBERS):x}", 0, False
        )
        self.begun = False
        self._lease = lease
        self._asked = asked
        self._renewed_at = 0.0
        self._buffer = bytearray()
        # All bytes, as long as they are few, for those who look at them while Redis may be away.
        self._start: bytearray | None = bytearray()
        # The noted ends of each part that Redis does not have completely.
        self._ends: dict[int, NotedEnds] = {}
        self._acknowledged = 0
        self._writing = False
        self._failure: Failure | None = None
        self._flushed: Deferred[None] | None = None

    @property
    def small(self) -> bytes | None:
        """All bytes, if they are few, none has been sent to Redis and no ends are noted; ``None`` otherwise."""
        sent = self._acknowledged or self._writing or self.begun
        return None if sent or self._ends else bytes(self._buffer)

    def write(self, data: bytes) -> None:
        """Append bytes.

        Raises:
            OSError: Redis has refused the bytes, or has been away for more than ``PATIENCE`` seconds.
        """
        if self._failure is not None:
            raise OSError(errno.EIO, self._failure.getErrorMessage())
        if self.aborted:
            return
        self._buffer += data
        self.size += len(data)
        if self._start is not None:
            self._start += data
            if self.size > SMALL:
                self._start = None
        if self.begun or len(self._buffer) > SMALL or self._acknowledged:
            self._pump()
        else:
            self._renew_lease()

    def _renew_lease(self) -> None:
        # Writes renew the lease themselves; bytes that stay in the buffer do not.
        now = self._node.clock.seconds()
        if self._lease is not None and now - self._renewed_at >= self._lease / RENEWALS:
            self._renewed_at = now
            self._node.call("renew", self.job_id).addErrback(ignore_outage)

    def begin(self) -> None:
        """Send all bytes, and from now on each write, to Redis at once."""
        self.begun = True
        self._pump()

    def flush(self) -> Deferred[None]:
        """Return a Deferred that fires when Redis has all bytes."""
        if self._failure is not None:
            return fail(self._failure)
        flushed = self._flushed = Deferred()
        self._pump()
        return flushed

    def mark(self, offset: int) -> None:
        part, last = divmod(offset - 1, PART)
        if part not in self._ends:
            self._ends[part] = NotedEnds()
        self._ends[part].add(last + 1)

    def ends(self, start: int, end: int) -> Deferred[list[int]]:
        if self._start is None:
            return super().ends(start, end)
        return succeed(self._ends[0].between(start, end) if self._ends else [])

    def abandon(self) -> None:
        self.aborted = True
        self._buffer.clear()

    def read(self, offset: int, size: int) -> Deferred[bytes]:
        start = self._start
        return super().read(offset, size) if start is None else succeed(bytes(start[offset : offset + size]))

    def is_behind(self) -> bool:
        return len(self._buffer) >= HIGH_WATER

    def _pump(self) -> None:
        if not self._writing:
            if self._buffer:
                self._writing = True
                room = PART - self._acknowledged % PART
                self._send(bytes(self._buffer[:room]))
            elif self._flushed is not None:
                flushed, self._flushed = self._flushed, None
                flushed.callback(None)
        self.balance()

    def _send(self, data: bytes) -> None:
        args = [self.job_id, self.body_id, str(self._acknowledged), data, *self._ends_in(data)]
        sent = self._node.call("write", *args)
        sent.addCallbacks(self._wrote, self._not_written, (data,), {}, (data,))

    def _ends_in(self, data: bytes) -> list[str | bytes]:
        """Return the arguments that say which ends are noted in the next bytes to be sent; none if there are none."""
        part, start = divmod(self._acknowledged, PART)
        noted = self._ends.get(part)
        if noted is None:
            return []
        # Redis keeps whole bytes of them, so the first one may hold ends that it has.
        bits = bytes(noted.bits[start // 8 : (start + len(data) + 7) // 8])
        return [str(start // 8), bits] if any(bits) else []

    def _wrote(self, wanted: int, data: bytes) -> None:
        self._writing = False
        self._acknowledged += len(data)
        for part in [each for each in self._ends if (each + 1) * PART <= self._acknowledged]:
            del self._ends[part]
        del self._buffer[: len(data)]
        if not wanted:
            self.aborted = True
            self._buffer.clear()
        self._pump()

    def _not_written(self, failure: Failure, data: bytes) -> None:
        started = self._asked or self.begun or self._acknowledged or failure.check(LinkLost)
        if failure.check(RedisAway) and started:
            self._node.when_up(PATIENCE).addCallbacks(self._send_again, self._give_up, (data,))
            return
        # Either Redis is there and does not want the bytes, or this post is the first to find out that it is away.
        failure.trap(BrokerUnavailable)
        self._give_up(failure)

    def _send_again(self, _: None, data: bytes) -> None:
        if self.aborted:
            self._writing = False
        else:
            self._send(data)

    def _give_up(self, failure: Failure) -> None:
        self._failure = failure
        self._writing = False
        self._buffer.clear()
        if self._flushed is not None:
            flushed, self._flushed = self._flushed, None
            flushed.errback(failure)
        self.balance()


class Posts:
    """The results that are being posted to this node, and how their jobs get them."""

    def __init__(self, node: RedisNode, followers: Followers, records: JobRecords, handovers: Handovers) -> None:
        self._node = node
        self._followers = followers
        self._records = records
        self._handovers = handovers
        self._streams: dict[str, PostedResult] = {}
        # The jobs that polls of this node have got last.
        self._expected: OrderedDict[str, Job] = OrderedDict()

    def known(self) -> list[str]:
        """Return the ids of the jobs whose results are being streamed to this node."""
        return list(self._streams)

    def expect(self, job: Job) -> None:
        """Note that a poll of this node has got a job: its result is probably posted here."""
        if job.submission.size <= QUERY_REMEMBERED:
            self._expected[job.job_id] = job
            if len(self._expected) > JOBS_REMEMBERED:
                self._expected.popitem(last=False)

    def attached(self) -> None:
        """Expect no results any more: other nodes may have taken the jobs over."""
        self._expected.clear()

    def open(self, runtime_id: str, job_id: str, replica_id: str) -> Deferred[Job]:
        """Return the job that a replica is about to post a result for: see :meth:`.IBroker.open_result`.

        For a job without a lease that this node has dispatched, Redis is not asked. What became of it meanwhile shows
        when the result is whole.
        """
        job = self._expected.get(job_id)
        if job is not None and job.runtime_id == runtime_id and self._node.in_touch and self._node.job_lease is None:
            # Redis has heard the replica when the job was dispatched. For a quick function, that is enough.
            if replica_id != job.replica_id or self._node.clock.seconds() - (job.started_at or 0) / 1000 > HEARD_FOR:
                self._node.send_soon("hear", runtime_id, replica_id).addErrback(ignore_outage)
            return succeed(job)

        def opened(reply: Any) -> Job:
            if reply == b"unknown job":
                raise UnknownJob(job_id)
            return self._records.job(reply)

        return self._node.call_again("open_result", runtime_id, replica_id, job_id).addCallback(opened)

    def new(self, job_id: str, content_type: str | None) -> PostedResult:
        """Make an empty result."""
        asked = job_id not in self._expected
        return PostedResult(self._node, self._followers, self._node.job_lease, job_id, content_type, asked)

    async def begin(self, job_id: str, body: IResult, replica_id: str) -> bool:
        """Let callers read a result along while it is posted: see :meth:`.IBroker.begin_result`."""
        assert isinstance(body, PostedResult)
        # Before the answer: if the node joins again meanwhile, it must say that it receives this stream.
        self._streams.setdefault(job_id, body)
        begun = False
        try:
            reply = await self._node.call_again("begin", job_id, body.body_id, body.content_type or "", replica_id)
            if reply == b"unknown job":
                raise UnknownJob(job_id)
            begun = bool(reply)
        finally:
            if not begun and self._streams.get(job_id) is body:
                del self._streams[job_id]
        if begun:
            body.begin()
        return begun

    def complete(self, job_id: str, body: IResult, raised: str | None) -> Deferred[None]:
        """Give a job its whole result: see :meth:`.IBroker.complete`."""
        assert isinstance(body, PostedResult)
        data = body.small
        if data is None:
            flushed = Deferred.fromCoroutine(self._flush(job_id, body))
            return flushed.addCallback(lambda _: self._complete(job_id, body, b"", raised))
        return self._complete(job_id, body, data, raised)

    async def _flush(self, job_id: str, body: PostedResult) -> None:
        try:
            await body.flush()
        except BrokerUnavailable as error:
            if body.begun:
                # Callers have read a part of it, so it cannot be posted again.
                await self._node.call_again("fail", job_id, f"The result stream cannot be kept: {error}.")
                self.ended(job_id)
            raise

    def _complete(self, job_id: str, body: PostedResult, data: bytes, raised: str | None) -> Deferred[None]:
        def completed(reply: Any) -> None:
            self.ended(job_id)
            if reply == b"unknown job":
                raise UnknownJob(job_id)
            if reply == b"completed":
                raise JobAlreadyCompleted(job_id)

        def send(handed: str) -> Deferred[Any]:
            result = job_id, body.body_id, str(body.size), body.content_type or "", handed, data
            return self._node.call_again("complete", *result, *_given(raised))

        return self._handovers.tell_with_result(job_id, send).addCallback(completed)

    def ended(self, job_id: str) -> None:
        """Forget a job that has ended, and its stream."""
        self._streams.pop(job_id, None)
        self._expected.pop(job_id, None)


def _given(argument: str | None) -> list[str]:
    return [] if argument is None else [argument]
