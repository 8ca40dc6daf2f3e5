"""How the body of an answer is read while it arrives."""

from __future__ import annotations

from collections import deque
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.web.client import ResponseDone
from twisted.web.iweb import IResponse

from .errors import ResultBrokenOff

#: Bytes that a body buffers for a slow reader. Beyond that, it pauses the connection.
HIGH_WATER = 64 * 1024


class Body(Protocol):
    """The body of an answer, for one reader that takes it chunk by chunk.

    Attributes:
        job_id: The job that the answer's ``X-Job-Id`` header names, or ``None``.
        buffered: Bytes that have arrived and have not been read.
    """

    transport: Any

    def __init__(self, response: IResponse) -> None:
        header = response.headers.getRawHeaders("X-Job-Id")
        self.job_id: str | None = header[0] if header else None
        self.buffered = 0
        self._chunks: deque[bytes] = deque()
        self._paused = False
        self._closed = False
        self._ended: Failure | None = None
        self._waiting: Deferred[bytes] | None = None
        response.deliverBody(self)

    def dataReceived(self, data: bytes) -> None:
        if self._closed:
            return
        if self._waiting is not None:
            waiting, self._waiting = self._waiting, None
            waiting.callback(data)
            return
        self._chunks.append(data)
        self.buffered += len(data)
        if self.buffered > HIGH_WATER and not self._paused:
            self._paused = True
            self.transport.pauseProducing()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._ended = reason
        if self._waiting is not None:
            waiting, self._waiting = self._waiting, None
            self._fire_end(waiting)

    def _fire_end(self, waiting: Deferred[bytes]) -> None:
        if self._closed or self._ended is None or self._ended.check(ResponseDone):
            waiting.callback(b"")
        else:
            waiting.errback(ResultBrokenOff("The connection was lost before the end of the answer.", self.job_id))

    def next(self) -> Deferred[bytes]:
        """Read the next chunk.

        Returns:
            A Deferred that fires with the chunk, or with ``b""`` at the end of the body. It fails with
            :class:`~twisted_cm.client.ResultBrokenOff` if the connection is lost. Cancel it to close the connection.

        Raises:
            RuntimeError: The Deferred of an earlier call has not fired.
        """
        if self._waiting is not None:
            raise RuntimeError("Another call is already waiting for the next chunk.")
        if self._chunks:
            chunk = self._chunks.popleft()
            self.buffered -= len(chunk)
            if self._paused and not self._chunks:
                self._paused = False
                self.transport.resumeProducing()
            return succeed(chunk)
        waiting: Deferred[bytes] = Deferred(self._canceled)
        if self._ended is not None or self._closed:
            self._fire_end(waiting)
        else:
            self._waiting = waiting
        return waiting

    def _canceled(self, waiting: Deferred[bytes]) -> None:
        self._waiting = None
        self.close()

    async def read(self) -> bytes:
        """Return the rest of the body.

        Raises:
            ResultBrokenOff: The connection was lost before the end.
        """
        chunks = []
        while chunk := await self.next():
            chunks.append(chunk)
        return b"".join(chunks)

    def close(self) -> None:
        """Discard the rest of the body and close the connection."""
        if self._closed:
            return
        self._closed = True
        self.buffered = 0
        self._chunks.clear()
        if self._waiting is not None:
            waiting, self._waiting = self._waiting, None
            waiting.callback(b"")
        if self._ended is None:
            # Unlike loseConnection, this does not wait for the peer; see OpenConnection.stopProducing.
            self.transport.stopProducing()
