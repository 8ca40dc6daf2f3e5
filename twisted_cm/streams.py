"""
Bodies that are taken, or sent, while they arrive.

Each holds back the side that brings its bytes while the other side is slow.
"""

from __future__ import annotations

import codecs
import json
import re
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IConsumer
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.web.client import ResponseDone
from twisted.web.iweb import UNKNOWN_LENGTH, IBodyProducer, IResponse
from zope.interface import implementer

from .client_errors import ResultBrokenOff
from .jobs import JSONValue

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


_SPACE = re.compile(r"[ \t\r\n]*")
_STRUCTURE = re.compile(r'["{}\[\]]')
_IN_STRING = re.compile(r'["\\]')

#: What may stand between a number and the end of the text if the number may go on.
_GOES_ON = re.compile(r"(?:\.|[eE][-+]?)?\Z")

_WORDS = ("true", "false", "null", "NaN", "Infinity", "-Infinity")


class ValueParser:
    """
    Finds JSON values in bytes that come bit by bit.

    What is in brackets or quotes is searched for its end once, and only then
    decoded, so that a large value in many chunks costs no more than its size.
    """

    def __init__(self, object_pairs_hook: Callable[[list[tuple[str, JSONValue]]], JSONValue] | None = None) -> None:
        """
        @param object_pairs_hook: makes a value of each object, as for L{json.loads}.
        """
        self._utf8 = codecs.getincrementaldecoder("utf-8")()
        self._json = json.JSONDecoder(object_pairs_hook=object_pairs_hook)
        self._text = ""
        self._start = 0
        self._begin_at(0)

    def _begin_at(self, position: int) -> None:
        """A value, or white space before one, begins there."""
        self._start = self._scanned = position
        self._depth = 0
        self._quoted = False

    def feed(self, data: bytes, final: bool = False) -> Iterator[JSONValue]:
        """
        @param final: whether there is nothing after these bytes.
        @return: the values that are known to be whole now.
        @raise ValueError: what follows them is not JSON in UTF-8, or the last value is not whole.
        """
        self._text = self._text[self._start :] + self._utf8.decode(data, final)
        self._scanned -= self._start
        self._start = 0
        while (end := self._end_of_value(final)) is not None:
            value, _ = self._json.raw_decode(self._text, self._start)
            self._begin_at(end)
            yield value

    def _end_of_value(self, final: bool) -> int | None:
        """Where the value that is next ends, or L{None} while there is none, or its end is not known."""
        text = self._text
        if self._scanned == self._start:
            space = _SPACE.match(text, self._start)
            assert space is not None
            self._begin_at(space.end())
        if self._start == len(text):
            return None
        if text[self._start] in '{["':
            end = self._end_of_structure()
            return len(text) if end is None and final else end
        try:
            value, end = self._json.raw_decode(text, self._start)
        except json.JSONDecodeError:
            if final or not any(word.startswith(text[self._start :]) for word in _WORDS):
                raise
            return None
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return None if number and not final and _GOES_ON.match(text, end) else end

    def _end_of_structure(self) -> int | None:
        position = self._scanned
        while match := (_IN_STRING if self._quoted else _STRUCTURE).search(self._text, position):
            position = match.end()
            found = match.group()
            if found == "\\":
                if position == len(self._text):
                    self._scanned = position - 1
                    return None
                position += 1
            elif found == '"':
                self._quoted = not self._quoted
            else:
                self._depth += 1 if found in "{[" else -1
            if not self._depth and not self._quoted:
                return position
        self._scanned = len(self._text)
        return None


@implementer(IBodyProducer)
class IteratedBody:
    """
    The body of a request whose chunks come from an iterator, at the pace that the connection takes them.

    An exception of the iterator breaks the request off.
    """

    length = UNKNOWN_LENGTH

    def __init__(self, chunks: Iterator[bytes] | AsyncIterator[bytes]) -> None:
        self._chunks = chunks
        self._paused = False
        self._resumed: Deferred[None] | None = None
        self._copying: Deferred[None] | None = None
        self._finished: Deferred[None] | None = None

    def startProducing(self, consumer: IConsumer) -> Deferred[None]:
        """See L{IBodyProducer}."""
        copying = self._copying = Deferred.fromCoroutine(self._copy(consumer))
        finished = self._finished = Deferred(lambda _: copying.cancel())
        copying.addBoth(self._finish)
        return finished

    def _finish(self, result: Any) -> None:
        if self._finished is not None:
            finished, self._finished = self._finished, None
            finished.callback(result)

    async def _copy(self, consumer: IConsumer) -> None:
        if isinstance(self._chunks, AsyncIterator):
            async for chunk in self._chunks:
                await self._write(consumer, chunk)
        else:
            for chunk in self._chunks:
                await self._write(consumer, chunk)

    async def _write(self, consumer: IConsumer, chunk: bytes) -> None:
        if chunk:
            # No bytes would be the last chunk.
            consumer.write(chunk)
        if self._paused:
            self._resumed = Deferred()
            await self._resumed

    def answered(self) -> None:
        """The server wants no more of it."""
        if self._finished is not None:
            self._finish(None)
            assert self._copying is not None
            self._copying.cancel()

    def pauseProducing(self) -> None:
        """See L{IPushProducer}."""
        self._paused = True

    def resumeProducing(self) -> None:
        """See L{IPushProducer}."""
        self._paused = False
        if self._resumed is not None:
            resumed, self._resumed = self._resumed, None
            resumed.callback(None)

    def stopProducing(self) -> None:
        """See L{IBodyProducer}: the connection is gone, and nobody is told of an end."""
        self._finished = None
        if self._copying is not None:
            self._copying.cancel()
