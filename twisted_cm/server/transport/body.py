"""The body of a request, as it arrives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeAlias

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.interfaces import IConsumer

from ..errors import ApiError, payload_too_large
from .incoming import Incoming
from .received import ReceivedBody

#: Bytes of a body that are kept until a route asks for them. Then the connection is paused.
UNCLAIMED_LIMIT = 64 * 1024

#: Called with the last byte of a chunk of chunked encoding, and the size of the body up to there, in bytes.
ChunkEnds: TypeAlias = Callable[[bytes, int], object]


class BodyConnection(Protocol):
    """What a body needs of its connection."""

    @property
    def incoming(self) -> Incoming:
        """What the connection receives, to be paused and resumed."""

    def write(self, data: bytes) -> None:
        """Send bytes to the client."""


class BodyLost(Exception):
    """The client disconnected before the body was complete."""


class RequestBody:
    """The body of one request, as it arrives.

    The channel calls :meth:`deliver`, :meth:`end` and :meth:`lost`; routes call :meth:`begun`, :meth:`pipe` and
    :meth:`receive`.

    Attributes:
        length: The announced size in bytes, or ``None`` for chunked encoding.
        ended: Whether the last byte has arrived.
        received: The number of bytes that have arrived.
        expects_continue: Whether the client waits for ``100 Continue`` before it sends the body.
    """

    # Each parked caller has one.
    __slots__ = (
        "_begun",
        "_chunk_ends",
        "_connection",
        "_consumer",
        "_discarding",
        "_done",
        "_limit",
        "_passed",
        "_unclaimed",
        "ended",
        "expects_continue",
        "length",
        "received",
    )

    def __init__(self, length: int | None, connection: BodyConnection) -> None:
        self.length = length
        self.ended = False
        self.expects_continue = False
        self.received = 0
        self._connection = connection
        # The pieces that no route has asked for yet, each with whether a chunk ends after it.
        self._unclaimed: list[tuple[bytes, bool]] = []
        # The number of bytes that a route has got.
        self._passed = 0
        self._discarding = False
        self._limit: int | None = None
        self._consumer: IConsumer | None = None
        self._chunk_ends: ChunkEnds | None = None
        self._begun: Deferred[None] | None = None
        self._done: Deferred[None] | None = None

    def deliver(self, data: bytes, chunk_ends: bool = False) -> None:
        """Take the next bytes.

        Args:
            chunk_ends: Whether a chunk of chunked encoding ends after them.
        """
        self.received += len(data)
        # A client need not wait for the answer.
        self.expects_continue = False
        if self._discarding:
            return
        if self._consumer is not None:
            try:
                self._write(self._consumer, data, chunk_ends)
            except (ApiError, OSError) as error:
                self._fail(error)
            return
        self._unclaimed.append((data, chunk_ends))
        if self.received > UNCLAIMED_LIMIT:
            # Each time, because the connection may have resumed.
            self._connection.incoming.pauseProducing()
        if self._begun is not None:
            self._report_begun()

    def _write(self, consumer: IConsumer, data: bytes, chunk_ends: bool) -> None:
        self._passed += len(data)
        if self._limit is not None and self._passed > self._limit:
            raise payload_too_large(self._limit)
        if chunk_ends and self._chunk_ends is not None:
            self._chunk_ends(data[-1:], self._passed)
        consumer.write(data)

    def _send_continue(self) -> None:
        if self.expects_continue:
            self.expects_continue = False
            self._connection.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _report_begun(self) -> None:
        begun, self._begun = self._begun, None
        if begun is not None:
            begun.callback(None)

    def end(self) -> None:
        """Complete the body."""
        self.ended = True
        if self._begun is not None:
            self._report_begun()
        # Also without a consumer: only a connection that reads notices that its client disconnects.
        self._release()
        if self._done is not None and not self._discarding:
            done, self._done = self._done, None
            done.callback(None)

    def lost(self) -> None:
        """Fail what waits for the body: the client has disconnected."""
        if not self._discarding:
            self._fail(BodyLost())

    def discard(self) -> None:
        """Throw away what arrives from now on."""
        self._discarding = True
        self._release()
        self._unclaimed.clear()

    def _release(self) -> None:
        if self._consumer is not None:
            self._consumer.unregisterProducer()
            self._consumer = None
        self._resume()

    def _resume(self) -> None:
        """Receive again, whether this body or its consumer has paused the connection."""
        if self._connection.incoming.paused:
            self._connection.incoming.resumeProducing()

    def _fail(self, error: Exception) -> None:
        self.discard()
        for waiting in (self._begun, self._done):
            if waiting is not None:
                waiting.errback(error)
        self._begun = self._done = None

    def begun(self) -> Deferred[None]:
        """Wait for the first byte, or for the end of an empty body.

        Returns:
            A Deferred that fires then, or fails with :class:`BodyLost`. Canceling it discards the body.
        """
        if self.received or self.ended:
            return succeed(None)
        self._send_continue()
        self._begun = Deferred(lambda _: self.discard())
        return self._begun

    def pipe(self, consumer: IConsumer, limit: int, chunk_ends: ChunkEnds | None = None) -> Deferred[None]:
        """Write the body to ``consumer``, as fast as that takes it.

        Args:
            limit: The most bytes to accept.
            chunk_ends: Called for each chunk of chunked encoding whose last byte is about to be written.

        Returns:
            A Deferred that fires after the last byte. It fails with :class:`ApiError` (413) as soon as the body is
            known to be too large, with :class:`BodyLost` if the client disconnects, and with :class:`OSError` if
            ``consumer`` cannot keep the body. Canceling it discards the rest.
        """
        self._limit = limit
        self._chunk_ends = chunk_ends
        if (self.length or 0) > limit:
            self.discard()
            return fail(payload_too_large(limit))
        done: Deferred[None] | None = None
        if not self.ended:
            done = self._done = Deferred(lambda _: self.discard())
            self._consumer = consumer
            self._send_continue()
            consumer.registerProducer(self._connection.incoming, True)
            self._resume()
        unclaimed, self._unclaimed = self._unclaimed, []
        try:
            for data, ends_chunk in unclaimed:
                self._write(consumer, data, ends_chunk)
        except (ApiError, OSError) as error:
            self.discard()
            self._done = None
            return fail(error)
        return succeed(None) if done is None else done

    async def receive(self, limit: int) -> ReceivedBody:
        """Return the whole body; the caller closes it.

        Args:
            limit: The most bytes to accept.

        Raises:
            ApiError: 413 if the body is too large.
            BodyLost: The client disconnected.
            OSError: The body cannot be kept.
        """
        received = ReceivedBody()
        try:
            await self.pipe(received, limit)
        except BaseException:
            received.close()
            raise
        return received
