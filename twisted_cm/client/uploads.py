"""The bodies of results that a runtime posts."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IConsumer
from twisted.web.iweb import UNKNOWN_LENGTH, IBodyProducer
from zope.interface import implementer

from ..model.types import JSONValue


def result_bytes(content: JSONValue) -> bytes:
    """Return bytes as they are, text as UTF-8, and any other value as JSON."""
    if isinstance(content, bytes | bytearray | memoryview):
        return bytes(content)
    return (content if isinstance(content, str) else json.dumps(content)).encode("utf-8")


@implementer(IBodyProducer)
class IteratedBody:
    """The body of a request, with chunks that come from an iterator at the pace of the connection.

    If the iterator raises an exception, the request breaks off and fails with that exception.
    """

    length = UNKNOWN_LENGTH

    def __init__(self, chunks: Iterator[bytes] | AsyncIterator[bytes]) -> None:
        self._chunks = chunks
        self._paused = False
        self._resumed: Deferred[None] | None = None
        self._copying: Deferred[None] | None = None
        self._finished: Deferred[None] | None = None

    def startProducing(self, consumer: IConsumer) -> Deferred[None]:
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
            # In chunked encoding, an empty chunk ends the body.
            consumer.write(chunk)
        if self._paused:
            self._resumed = Deferred()
            await self._resumed

    def answered(self) -> None:
        """Stop the iterator: the server has answered and does not need the rest of the body."""
        if self._finished is not None:
            self._finish(None)
            assert self._copying is not None
            self._copying.cancel()

    def pauseProducing(self) -> None:
        self._paused = True

    def resumeProducing(self) -> None:
        self._paused = False
        if self._resumed is not None:
            resumed, self._resumed = self._resumed, None
            resumed.callback(None)

    def stopProducing(self) -> None:
        # The connection is lost. IBodyProducer forbids firing the Deferred of startProducing now.
        self._finished = None
        if self._copying is not None:
            self._copying.cancel()
