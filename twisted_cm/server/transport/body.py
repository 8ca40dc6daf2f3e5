"""The body of a request, as it arrives."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IConsumer, IPushProducer
from zope.interface import implementer

from ..errors import payload_too_large

#: Bytes of a body that are kept while no route has asked for them.
UNCLAIMED_LIMIT = 64 * 1024


class BodyLost(Exception):
    """The client went away before its body was complete."""


class RequestBody:
    """
    The body of one request, as it arrives.

    @ivar length: the announced size in bytes, or L{None} for chunked encoding.
    @ivar ended: whether the last byte has arrived.
    @ivar received: the bytes that have arrived.
    """

    # Each parked caller has one.
    __slots__ = (
        "_begun",
        "_consumer",
        "_discarding",
        "_done",
        "_limit",
        "_paused",
        "_transport",
        "_unclaimed",
        "ended",
        "length",
        "received",
    )

    def __init__(self, length: int | None, transport: IPushProducer) -> None:
        self.length = length
        self.ended = False
        self._transport = transport
        self._unclaimed = bytearray()
        self._paused = False
        self._discarding = False
        self.received = 0
        self._limit: int | None = None
        self._consumer: IConsumer | None = None
        self._begun: Deferred[None] | None = None
        self._done: Deferred[None] | None = None

    def deliver(self, data: bytes) -> None:
        """More bytes are there."""
        self.received += len(data)
        if self._discarding:
            return
        if self._consumer is not None:
            self._write(self._consumer, data)
            return
        self._unclaimed += data
        if len(self._unclaimed) > UNCLAIMED_LIMIT:
            # Again if need be: the channel resumes what it paused itself.
            self._paused = True
            self._transport.pauseProducing()
        self._report_begun()

    def _write(self, consumer: IConsumer, data: bytes) -> None:
        if self._limit is not None and self.received > self._limit:
            self._fail(payload_too_large(self._limit))
            return
        try:
            consumer.write(data)
        except OSError as error:
            self._fail(error)

    def _report_begun(self) -> None:
        if self._begun is not None:
            begun, self._begun = self._begun, None
            begun.callback(None)

    def end(self) -> None:
        """The last byte has been there."""
        self.ended = True
        self._report_begun()
        if self._done is not None and not self._discarding:
            self._release()
            done, self._done = self._done, None
            done.callback(None)

    def lost(self) -> None:
        """The client is gone."""
        if not self._discarding:
            self._fail(BodyLost())

    def discard(self) -> None:
        """Nobody wants the rest."""
        self._discarding = True
        self._release()
        self._unclaimed.clear()
        self._resume()

    def _release(self) -> None:
        if self._consumer is not None:
            self._consumer.unregisterProducer()
            self._consumer = None

    def _resume(self) -> None:
        if self._paused:
            self._paused = False
            self._transport.resumeProducing()

    def _fail(self, error: Exception) -> None:
        self.discard()
        for waiting in (self._begun, self._done):
            if waiting is not None:
                waiting.errback(error)
        self._begun = self._done = None

    def begun(self) -> Deferred[None]:
        """
        @return: fires when the first byte is there, or none will come; with
            L{BodyLost} if the client goes away before.
        """
        if self.received or self.ended:
            return succeed(None)
        self._begun = Deferred(lambda _: self.discard())
        return self._begun

    def pipe(self, consumer: IConsumer, limit: int) -> Deferred[None]:
        """
        Write everything to C{consumer}, at its pace.

        @param limit: the most bytes to accept.
        @return: fires after the last byte; with L{ApiError} (413) as soon as
            the body is known to be too large, with L{BodyLost} if the client
            goes away, with L{OSError} if C{consumer} cannot keep it.
            Cancelling it throws the rest away.
        """
        done: Deferred[None] = Deferred(lambda _: self.discard())
        self._limit = limit
        self._done = done
        if max(self.length or 0, self.received) > limit:
            self._fail(payload_too_large(limit))
            return done
        self._consumer = consumer
        consumer.registerProducer(self._transport, True)
        self._resume()
        if self._unclaimed:
            data = bytes(self._unclaimed)
            self._unclaimed.clear()
            self._write(consumer, data)
        if self.ended:
            self.end()
        return done

    async def read(self, limit: int) -> bytes:
        """
        @param limit: the most bytes to accept.
        @return: the whole body.
        @raise ApiError: 413, as with L{pipe}.
        @raise BodyLost: the client went away.
        """
        buffer = _Buffer()
        await self.pipe(buffer, limit)
        return bytes(buffer.data)


@implementer(IConsumer)
class _Buffer:
    """An L{IConsumer} that keeps what it gets."""

    def __init__(self) -> None:
        self.data = bytearray()

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        pass

    def unregisterProducer(self) -> None:
        pass

    def write(self, data: bytes) -> None:
        self.data += data
