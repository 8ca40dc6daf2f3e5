"""Reading a result that is kept on Redis.

Its parts are read one after another, at the pace of the consumer, so no node holds a large result as a whole.
"""

from __future__ import annotations

from typing import Any, Protocol

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IConsumer
from twisted.python.failure import Failure
from zope.interface import implementer

from ...model.jobs import JobResult
from ..flow import ResultReader
from ..interface import BrokerUnavailable, IResult, UnknownJob
from ..noted_ends import NotedEnds
from .node import RedisNode

#: Bytes of one part, as in ``lua/1_state.lua``.
PART = 256 * 1024

#: Seconds that bytes on their way wait for a Redis that is away.
PATIENCE = 30.0


class Followers(Protocol):
    """Calls readers when a result grows or its job ends."""

    def follow(self, job_id: str, reader: RedisReader) -> None:
        """Call :meth:`RedisReader.grown` and :meth:`RedisReader.ended` from now on."""

    def unfollow(self, job_id: str, reader: RedisReader) -> None:
        """Call ``reader`` no more."""


@implementer(IResult)
class RedisResult:
    """One result on Redis.

    Attributes:
        content_type: As posted by the runtime.
        size: Bytes known to be there.
        complete: Whether the last byte has arrived.
        aborted: Whether the result broke off.
        job_id: The job that it belongs to.
        body_id: The id under which its parts are kept.
        data: All bytes of a small result, if they came with the job.
        noted: The noted ends of a small result that came with the job; ``None`` if there are none.
        unmarked: Whether it is known that no ends are noted.
    """

    def __init__(
        self,
        node: RedisNode,
        followers: Followers,
        job_id: str,
        content_type: str | None,
        body_id: str,
        size: int,
        complete: bool,
    ) -> None:
        self.content_type = content_type
        self.size = size
        self.complete = complete
        self.aborted = False
        self.job_id = job_id
        self.body_id = body_id
        self.data: bytes | None = None
        self.noted: NotedEnds | None = None
        self.unmarked = False
        self._node = node
        self._followers = followers

    def read(self, offset: int, size: int) -> Deferred[bytes]:
        if self.data is not None:
            return succeed(self.data[offset : offset + size])
        return Deferred.fromCoroutine(self._read(offset, min(offset + size, self.size)))

    async def _read(self, offset: int, end: int) -> bytes:
        pieces = []
        while offset < end:
            piece = await self.piece(offset, end - offset)
            if not piece:
                # The job, and its result with it, has been forgotten.
                raise UnknownJob(self.job_id)
            pieces.append(piece)
            offset += len(piece)
        return b"".join(pieces)

    def piece(self, offset: int, size: int) -> Deferred[bytes]:
        """Read at most ``size`` bytes from ``offset`` on, all of them within one part."""
        part, start = divmod(offset, PART)
        return self._node.get(f"body:{self.body_id}:{part}", start, min(start + size, PART) - 1)

    def ends(self, start: int, end: int) -> Deferred[list[int]]:
        if self.unmarked:
            return succeed([])
        if self.data is not None:
            return succeed([] if self.noted is None else self.noted.between(start, end))
        return Deferred.fromCoroutine(self._read_ends(start, end))

    async def _read_ends(self, start: int, end: int) -> list[int]:
        found: list[int] = []
        while start < end:
            part = start // PART
            # Of what follows, the offsets in the bits count from here.
            base = start // 8 * 8
            stop = min(end, (part + 1) * PART)
            bits = await self._bits(part, base % PART // 8, (stop - 1) % PART // 8)
            found += [base + each for each in NotedEnds(bits).between(start - base, stop - base)]
            start = stop
        return found

    async def _bits(self, part: int, first: int, last: int) -> bytes:
        """Read a piece of the noted ends of a part. Wait while Redis is away, as the bytes themselves do."""
        while True:
            try:
                bits: bytes | None = await self._node.call("ends", self.body_id, str(part), str(first), str(last))
            except BrokerUnavailable:
                await self._node.connection.when_usable(Failure(), PATIENCE)
            else:
                if bits is None:
                    raise UnknownJob(self.job_id)
                return bits

    def deliver(self, consumer: IConsumer) -> Deferred[bool]:
        return RedisReader(self._node, self._followers, self, consumer).start()

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        raise NotImplementedError("this result is for reading")

    def unregisterProducer(self) -> None:
        """Do nothing, as there is never a producer."""

    def write(self, data: bytes) -> None:
        raise NotImplementedError("this result is for reading")

    def mark(self, offset: int) -> None:
        raise NotImplementedError("this result is for reading")

    def abandon(self) -> None:
        raise NotImplementedError("this result is for reading")


class RedisReader(ResultReader):
    """Copies a :class:`RedisResult` to a consumer."""

    def __init__(self, node: RedisNode, followers: Followers, result: RedisResult, consumer: IConsumer) -> None:
        super().__init__(consumer)
        self._node = node
        self._followers = followers
        self._result = result
        self._reading = False

    def attach(self) -> None:
        if not self._result.complete:
            self._followers.follow(self._result.job_id, self)

    def detach(self) -> None:
        self._followers.unfollow(self._result.job_id, self)

    def grown(self, size: int) -> None:
        """Note that the result has ``size`` bytes now."""
        self._result.size = max(size, self._result.size)
        self.pump()

    def ended(self, result: JobResult | None) -> None:
        """Note that the job has ended.

        Args:
            result: Its result, if it has one. A result that is not whole has broken off.
        """
        if result is not None and result.complete:
            self._result.size, self._result.complete = result.size, True
        else:
            self._result.aborted = True
        self.pump()

    def pump(self) -> None:
        if self._paused or self._closed or self._reading:
            return
        result = self._result
        if result.aborted:
            self.close(False)
        elif self.offset < result.size:
            self._reading = True
            piece = result.piece(self.offset, result.size - self.offset)
            piece.addCallbacks(self._got, self._missed)
        elif result.complete:
            self.close(True)

    def _got(self, data: bytes) -> None:
        self._reading = False
        if self._closed:
            return
        if not data:
            # The job, and its result with it, has been forgotten.
            self.close(False)
            return
        self.offset += len(data)
        self._consumer.write(data)
        self.pump()

    def _missed(self, failure: Failure) -> None:
        failure.trap(BrokerUnavailable)
        self._node.connection.when_usable(failure, PATIENCE).addCallbacks(self._read_again, lambda _: self.close(False))

    def _read_again(self, _: None) -> None:
        self._reading = False
        self.pump()
