"""How an application takes a result while the runtime still posts it."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

from ..model.types import JSONValue
from .body import Body


class ResultStream:
    """A result that arrives in chunks: ``async for chunk in stream``.

    The request is sent when the first chunk is read. A slow reader slows down the runtime: the client buffers only
    a few chunks. To stop early, call :meth:`aclose` or drop the stream. Either closes the connection, which cancels
    a job that is still queued; a job that runs continues.
    """

    def __init__(
        self, begin: Callable[[], Awaitable[Body]], within: Callable[[Awaitable[Any]], Awaitable[Any]]
    ) -> None:
        """Make a stream.

        Args:
            begin: Sends the request.
            within: Awaits something, limited to the time that the stream has left.
        """
        self._begin = begin
        self._within = within
        self._body: Body | None = None
        self._closed = False

    @property
    def job_id(self) -> str | None:
        """The job whose result this is. It is known once the first chunk has arrived."""
        return None if self._body is None else self._body.job_id

    @property
    def buffered(self) -> int:
        """Bytes that have arrived and have not been read."""
        return 0 if self._body is None else self._body.buffered

    def __aiter__(self) -> ResultStream:
        return self

    async def __anext__(self) -> bytes:
        """Return the next chunk. Chunks are never empty; their sizes depend on the network.

        Raises:
            ResultBrokenOff: The connection was lost before the end of the result.
        """
        if self._closed:
            raise StopAsyncIteration
        try:
            if self._body is None:
                self._body = await self._within(self._begin())
                if self._closed:
                    # aclose was called while the request was sent.
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
        """Return an async iterator over the JSON values in the result.

        The result holds one value after another, as the SDKs' streaming functions post it.
        """
        return JSONValues(self)

    async def aclose(self) -> None:
        """Stop the stream. If the result is incomplete, close the connection."""
        self._close()

    def _close(self) -> None:
        self._closed = True
        if self._body is not None:
            self._body.close()

    def __del__(self) -> None:
        self._close()


class JSONValues:
    """The JSON values in a stream of bytes, each returned as soon as it is complete.

    Values may be separated by white space or touch each other. A number ends where another value begins or the
    stream ends, regardless of chunks: ``1`` and ``2`` in consecutive chunks are the number ``12``.
    """

    def __init__(self, chunks: ResultStream) -> None:
        # Most clients read no values, and compiling the patterns of values takes 4 ms.
        from .values import ValueParser

        self._chunks = chunks
        self._parser = ValueParser()
        self._found: deque[JSONValue] = deque()
        self._ended = False
        self._error: ValueError | None = None

    def __aiter__(self) -> JSONValues:
        return self

    async def __anext__(self) -> JSONValue:
        """Return the next value.

        Raises:
            ValueError: The next bytes are not JSON in UTF-8.
            ResultBrokenOff: The connection was lost before the end of the result. Every complete value has been
                returned before.
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
            self._error = ValueError("A value is nested too deeply.")
        if self._error is not None:
            self._ended = True
            await self.aclose()

    async def aclose(self) -> None:
        """Stop the stream, as :meth:`ResultStream.aclose` does."""
        await self._chunks.aclose()
