"""
The bytes of results on Redis.

Parts of L{PART} bytes are written in order, one at a time; whoever writes is
paused while L{HIGH_WATER} bytes are not acknowledged.  A reader asks for one
piece after another, at the pace of its consumer, so no node ever holds a large
body as a whole.
"""

from __future__ import annotations

import errno
import secrets
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IConsumer, IPushProducer
from twisted.python.failure import Failure
from zope.interface import implementer

from ...model.jobs import JobResult
from ..interface import BrokerUnavailable, IResult

if TYPE_CHECKING:
    from .broker import RedisBroker

#: Bytes of one part, as in C{lua/}.
PART = 256 * 1024


#: A result of no more bytes travels with the news of it, as in C{lua/}.
SMALL = 64 * 1024


#: Bytes that wait to be acknowledged before the writer is paused.
HIGH_WATER = 256 * 1024


#: Seconds that bytes on their way wait for a Redis that is away.
PATIENCE = 30.0


#: A lease is not renewed more often than so many times in its length.
RENEWALS = 20


@implementer(IResult)
class RedisResult:
    """
    One result.

    @ivar body_id: what its parts are kept under.
    @ivar aborted: whether there will be no more of it.
    """

    def __init__(
        self, broker: RedisBroker, job_id: str, content_type: str | None, body_id: str, size: int, complete: bool
    ) -> None:
        self.content_type = content_type
        self.size = size
        self.complete = complete
        self.aborted = False
        self.job_id = job_id
        self.body_id = body_id
        self.data: bytes | None = None
        self._broker = broker

    def _key(self, part: int) -> str:
        return f"body:{self.body_id}:{part}"

    def read(self, offset: int, size: int) -> Deferred[bytes]:
        """See L{IResult.read}."""
        if self.data is not None:
            return succeed(self.data[offset : offset + size])
        return Deferred.fromCoroutine(self._read(offset, min(offset + size, self.size)))

    async def _read(self, offset: int, end: int) -> bytes:
        pieces = []
        while offset < end:
            piece = await self.piece(offset, end - offset)
            if not piece:
                break
            pieces.append(piece)
            offset += len(piece)
        return b"".join(pieces)

    def piece(self, offset: int, size: int) -> Deferred[bytes]:
        """
        @return: fires with at most C{size} bytes, within one part.
        """
        part, start = divmod(offset, PART)
        return self._broker.node.get(self._key(part), start, min(start + size, PART) - 1)

    def deliver(self, consumer: IConsumer) -> Deferred[bool]:
        """See L{IResult.deliver}."""
        done: Deferred[bool] = Deferred(lambda _: reader.stopProducing())
        reader = ResultReader(self._broker, self, consumer, done.callback)
        reader.start()
        return done

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        """See L{IConsumer}."""
        raise NotImplementedError("this result is for reading")

    def unregisterProducer(self) -> None:
        """See L{IConsumer}."""

    def write(self, data: bytes) -> None:
        """See L{IConsumer}."""
        raise NotImplementedError("this result is for reading")


class PostedResult(RedisResult):
    """
    A result that is being posted to this node.

    @ivar begun: whether it is the job's already, so that what is written must get out at once.
    """

    def __init__(self, broker: RedisBroker, job_id: str, content_type: str | None) -> None:
        super().__init__(broker, job_id, content_type, f"{job_id}:{secrets.token_hex(4)}", 0, False)
        self.begun = False
        self._buffer = bytearray()
        self._acknowledged = 0
        self._writing = False
        self._failed = False
        self._producer: IPushProducer | None = None
        self._paused = False
        self._flushed: Deferred[None] | None = None
        self._renewed = 0.0

    @property
    def small(self) -> bytes | None:
        """All of it, if there is so little that none has been written yet."""
        return None if self._acknowledged or self._writing or self.begun else bytes(self._buffer)

    def write(self, data: bytes) -> None:
        """
        See L{IConsumer}.

        @raise OSError: Redis has been away for too long.
        """
        if self._failed:
            raise OSError(errno.EIO, "Redis cannot be reached")
        if self.aborted:
            return
        self._buffer += data
        self.size += len(data)
        if self.begun or len(self._buffer) > SMALL or self._acknowledged:
            self._pump()
        else:
            self._renew()

    def _renew(self) -> None:
        lease, now = self._broker.limits.lease, self._broker.node.clock.seconds()
        if lease is not None and now - self._renewed >= lease / RENEWALS:
            self._renewed = now
            self._broker.node.call("renew", self.job_id).addErrback(lambda failure: failure.trap(BrokerUnavailable))

    def begin(self) -> None:
        """It is the job's from now on."""
        self.begun = True
        self._pump()

    def _pump(self) -> None:
        """Send what is next, unless something is on its way."""
        if not self._writing:
            if self._buffer:
                self._writing = True
                room = PART - self._acknowledged % PART
                self._send(bytes(self._buffer[:room]))
            elif self._flushed is not None:
                flushed, self._flushed = self._flushed, None
                flushed.callback(None)
        self._balance()

    def _send(self, data: bytes) -> None:
        sent = self._broker.node.call("write", self.job_id, self.body_id, str(self._acknowledged), data)
        sent.addCallbacks(self._wrote, self._not_written, (data,), {}, (data,))

    def _wrote(self, wanted: int, data: bytes) -> None:
        self._writing = False
        self._acknowledged += len(data)
        del self._buffer[: len(data)]
        if not wanted:
            self.aborted = True
            self._buffer.clear()
        self._pump()

    def _not_written(self, failure: Failure, data: bytes) -> None:
        failure.trap(BrokerUnavailable)
        self._broker.node.when_up(PATIENCE).addCallbacks(lambda _: self._send(data), self._give_up)

    def _give_up(self, failure: Failure) -> None:
        self._failed = True
        self._buffer.clear()
        if self._flushed is not None:
            flushed, self._flushed = self._flushed, None
            flushed.errback(failure)
        self._balance()

    def flush(self) -> Deferred[None]:
        """
        @return: fires when everything that was written is kept.
        """
        self._flushed = Deferred()
        flushed = self._flushed
        self._pump()
        return flushed

    def _balance(self) -> None:
        if self._producer is None:
            return
        behind = len(self._buffer) >= HIGH_WATER
        if behind and not self._paused:
            self._paused = True
            self._producer.pauseProducing()
        elif self._paused and not behind:
            self._paused = False
            self._producer.resumeProducing()

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        """See L{IConsumer}."""
        self._producer = producer
        self._paused = False

    def unregisterProducer(self) -> None:
        """See L{IConsumer}."""
        self._producer = None


@implementer(IPushProducer)
class ResultReader:
    """
    Copies a result into an L{IConsumer}, as fast as both sides go, and follows it while it is being posted.

    C{done} is called once, as in L{IResult.deliver}; not after L{stopProducing}.
    """

    def __init__(
        self, broker: RedisBroker, result: RedisResult, consumer: IConsumer, done: Callable[[bool], None]
    ) -> None:
        self._broker = broker
        self._result = result
        self._consumer = consumer
        self._done = done
        self._offset = 0
        self._reading = False
        self._paused = False
        self._closed = False

    def start(self) -> None:
        """Begin to copy; to be called once."""
        self._consumer.registerProducer(self, True)
        if not self._result.complete:
            self._broker.follow(self._result.job_id, self)
        self._pump()

    def grown(self, size: int) -> None:
        """There is more."""
        self._result.size = max(size, self._result.size)
        self._pump()

    def ended(self, result: JobResult | None) -> None:
        """The job has ended; C{result} is what came of it, if it is whole."""
        if result is not None and result.complete:
            self._result.size, self._result.complete = result.size, True
        else:
            self._result.aborted = True
        self._pump()

    def _pump(self) -> None:
        if self._paused or self._closed or self._reading:
            return
        result = self._result
        if result.aborted:
            self._close(False)
        elif self._offset < result.size:
            self._reading = True
            piece = result.piece(self._offset, result.size - self._offset)
            piece.addCallbacks(self._got, self._missed)
        elif result.complete:
            self._close(True)

    def _got(self, data: bytes) -> None:
        self._reading = False
        if self._closed:
            return
        if not data:
            # The job has been forgotten meanwhile.
            self._close(False)
            return
        self._offset += len(data)
        self._consumer.write(data)
        self._pump()

    def _missed(self, failure: Failure) -> None:
        failure.trap(BrokerUnavailable)
        self._broker.node.when_up(PATIENCE).addCallbacks(self._again, lambda _: self._close(False))

    def _again(self, _: None) -> None:
        self._reading = False
        self._pump()

    def _close(self, whole: bool) -> None:
        if not self._closed:
            self.stopProducing()
            self._consumer.unregisterProducer()
            self._done(whole)

    def pauseProducing(self) -> None:
        """See L{IPushProducer}."""
        self._paused = True

    def resumeProducing(self) -> None:
        """See L{IPushProducer}."""
        self._paused = False
        self._pump()

    def stopProducing(self) -> None:
        """See L{IPushProducer}."""
        self._closed = True
        self._broker.unfollow(self._result.job_id, self)
