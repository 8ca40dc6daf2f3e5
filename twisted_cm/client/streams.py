"""
Bodies that are taken, or sent, while they arrive.

Each holds back the side that brings its bytes while the other side is slow.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.web.client import ResponseDone
from twisted.web.iweb import IResponse

from ..model.types import JSONValue
from .errors import ResultBrokenOff
from .values import ValueParser

#: Bytes that are kept for a consumer which does not take them; past that, the connection is paused.
HIGH_WATER = 64 * 1024


class Body(Protocol):
    """
    The body of an answer, for one consumer that takes it chunk by chunk.

    @ivar job_id: the job that the answer is about, as its header says.
    """

    transport: Any

    def __init__(self, response: IResponse) -> None:
        header = response.headers.getRawHeaders("X-Job-Id")
        self.job_id: str | None = header[0] if header else None
        self._chunks: deque[bytes] = deque()
        self._held = 0
        self._paused = False
        self._closed = False
        self._ended: Failure | None = None
        self._waiting: Deferred[bytes] | None = None
        response.deliverBody(self)

    def dataReceived(self, data: bytes) -> None:
        """More bytes are there."""
        if self._closed:
            return
        if self._waiting is not None:
            waiting, self._waiting = self._waiting, None
            waiting.callback(data)
            return
        self._chunks.append(data)
        self._held += len(data)
        if self._held > HIGH_WATER and not self._paused:
            self._paused = True
            self.transport.pauseProducing()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The last byte was there, or the connection is gone."""
        self._ended = reason
        if self._waiting is not None:
            waiting, self._waiting = self._waiting, None
            self._answer_end(waiting)

    def _answer_end(self, waiting: Deferred[bytes]) -> None:
        if self._closed or self._ended is None or self._ended.check(ResponseDone):
            waiting.callback(b"")
        else:
            waiting.errback(ResultBrokenOff("The answer broke off: the result is not whole.", self.job_id))

    def next(self) -> Deferred[bytes]:
        """
        @return: fires with the next chunk, with no bytes at the end, or with L{ResultBrokenOff}.  Cancelling it closes
            the connection.
        """
        if self._waiting is not None:
            raise RuntimeError("only one may wait for the next chunk")
        if self._chunks:
            chunk = self._chunks.popleft()
            self._held -= len(chunk)
            if self._paused and not self._chunks:
                self._paused = False
                self.transport.resumeProducing()
            return succeed(chunk)
        waiting: Deferred[bytes] = Deferred(self._canceled)
        if self._ended is not None or self._closed:
            self._answer_end(waiting)
        else:
            self._waiting = waiting
        return waiting

    def _canceled(self, waiting: Deferred[bytes]) -> None:
        self._waiting = None
        self.close()

    async def read(self) -> bytes:
        """
        @return: what is left of the body.
        @raise ResultBrokenOff: it is not whole.
        """
        chunks = []
        while chunk := await self.next():
            chunks.append(chunk)
        return b"".join(chunks)

    def close(self) -> None:
        """Nobody wants the rest: close the connection."""
        if self._closed:
            return
        self._closed = True
        self._chunks.clear()
        if self._waiting is not None:
            waiting, self._waiting = self._waiting, None
            waiting.callback(b"")
        if self._ended is None:
            # What a response has for a transport can only part politely, which over TLS takes a peer that reads; what
            # is behind it can abort.
            behind = getattr(self.transport, "_producer", None)
            getattr(behind, "abortConnection", self.transport.loseConnection)()


class ResultStream:
    """
    A result while it arrives: C{async for chunk in stream}.

    The request is sent when the first chunk is asked for.  While nobody takes
    chunks, few are kept and the server is held back.  Whoever stops early, with
    C{aclose} or by dropping the stream, closes the connection: a job that is
    still queued is canceled by that, one that runs runs on.
    """

    def __init__(
        self, begin: Callable[[], Awaitable[Body]], within: Callable[[Awaitable[Any]], Awaitable[Any]]
    ) -> None:
        """
        @param begin: sends the request.
        @param within: awaits something for as long as the stream may take.
        """
        self._begin = begin
        self._within = within
        self._body: Body | None = None
        self._closed = False

    @property
    def job_id(self) -> str | None:
        """The job that this is the result of, known once the first chunk is there."""
        return None if self._body is None else self._body.job_id

    def __aiter__(self) -> ResultStream:
        return self

    async def __anext__(self) -> bytes:
        """
        @return: the next chunk, as large as it happens to arrive; never empty.
        @raise ResultBrokenOff: the result ended before its end.
        """
        if self._closed:
            raise StopAsyncIteration
        try:
            if self._body is None:
                self._body = await self._within(self._begin())
                if self._closed:
                    # By somebody else, meanwhile.
                    self._body.close()
            chunk: bytes = await self._within(self._body.next())
        except BaseException:
            self._close()
            raise
        if not chunk:
            self._closed = True
            raise StopAsyncIteration
        return chunk

    def values(self) -> JSONValues:
        """
        @return: an async iterator over the JSON values of a result that holds one after another, as the SDKs' streaming
            functions post it.
        """
        return JSONValues(self)

    async def aclose(self) -> None:
        """Take no more of it: close the connection, if there is still something to come."""
        self._close()

    def _close(self) -> None:
        self._closed = True
        if self._body is not None:
            self._body.close()

    def __del__(self) -> None:
        self._close()


class JSONValues:
    """
    The JSON values in a stream of bytes, each as soon as it is known to be whole.

    Values may stand apart (white space) or touch.  A number ends only where
    something else begins or the stream ends, however it came in chunks: one that
    touches the next is one number with it.
    """

    def __init__(self, chunks: ResultStream) -> None:
        self._chunks = chunks
        self._parser = ValueParser()
        self._found: deque[JSONValue] = deque()
        self._ended = False
        self._error: ValueError | None = None

    def __aiter__(self) -> JSONValues:
        return self

    async def __anext__(self) -> JSONValue:
        """
        @return: the next value.
        @raise ValueError: what comes next is not JSON in UTF-8.
        @raise ResultBrokenOff: the result ended before its end; every value that was whole has been returned.
        """
        while not self._found:
            if self._error is not None:
                error, self._error = self._error, None
                raise error
            if self._ended:
                raise StopAsyncIteration
            await self._parse_more()
        return self._found.popleft()

    async def _parse_more(self) -> None:
        try:
            chunk = await self._chunks.__anext__()
        except StopAsyncIteration:
            self._ended, chunk = True, b""
        except BaseException:
            self._ended = True
            raise
        try:
            for value in self._parser.feed(chunk, self._ended):
                self._found.append(value)
        except ValueError as error:
            self._error = error
        except RecursionError:
            self._error = ValueError("a value is nested too deeply")
        if self._error is not None:
            self._ended = True
            await self.aclose()

    async def aclose(self) -> None:
        """Take no more of it, as with the stream itself."""
        await self._chunks.aclose()
