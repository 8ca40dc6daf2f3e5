"""A request body that comes from an iterator."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IConsumer
from twisted.web.iweb import UNKNOWN_LENGTH, IBodyProducer
from zope.interface import implementer


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
