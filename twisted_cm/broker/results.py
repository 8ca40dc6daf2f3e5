"""
The bytes of a result, while they arrive and after.

An L{IResult} is written once, by the runtime's post, and read any number of
times.  L{ResultBody} is the one in this process.  It keeps the first L{MEMORY_LIMIT} bytes in memory and everything in
a temporary file once it grows past that.  A reader that follows it live slows
the writer down: whoever writes registers a push producer, and that is paused
while a live reader is more than L{HIGH_WATER} bytes behind.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from typing import IO, Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IConsumer, IPushProducer
from zope.interface import implementer

from .interface import IResult

#: Bytes kept in memory before a result moves to a temporary file.
MEMORY_LIMIT = 1024 * 1024


#: How far, in bytes, a live reader may fall behind before the writer is paused.
HIGH_WATER = 256 * 1024


#: The most that is read at once, in bytes.
CHUNK = 256 * 1024


@implementer(IResult)
class ResultBody:
    """
    One result in this process, append-only.

    @ivar content_type: as posted by the runtime.
    @ivar size: bytes written so far.
    @ivar complete: whether the last byte has arrived.
    @ivar aborted: whether the writer went away before the last byte.
    """

    __slots__ = (
        "_data",
        "_file",
        "_paused",
        "_producer",
        "_readers",
        "_written",
        "aborted",
        "complete",
        "content_type",
        "size",
    )

    def __init__(self, content_type: str | None = None, written: Callable[[], None] = lambda: None) -> None:
        """
        @param written: called after each write.
        """
        self.content_type = content_type
        self._written = written
        self.size = 0
        self.complete = False
        self.aborted = False
        self._data: bytearray | bytes = b""
        self._file: IO[bytes] | None = None
        self._readers: list[ResultReader] = []
        self._producer: IPushProducer | None = None
        self._paused = False

    def write(self, data: bytes) -> None:
        """
        Append bytes and pass them on to whoever reads along.  What comes after L{abort} is dropped.

        @raise OSError: the temporary file cannot be written.
        """
        if self.aborted:
            return
        if self._file is not None:
            _write_at(self._file, data, self.size)
        elif self.size + len(data) > MEMORY_LIMIT:
            file = tempfile.TemporaryFile(prefix="twisted-cm-result-", buffering=0)  # noqa: SIM115 - closed with the result
            _write_at(file, self._data, 0)
            _write_at(file, data, self.size)
            self._file, self._data = file, b""
        elif not self.size:
            self._data = bytes(data)
        else:
            if isinstance(self._data, bytes):
                self._data = bytearray(self._data)
            self._data += data
        self.size += len(data)
        self._written()
        for reader in list(self._readers):
            reader.notify()
        self.balance()

    def finish(self) -> None:
        """The last byte has been written."""
        self._data = bytes(self._data)
        self.complete = True
        for reader in list(self._readers):
            reader.notify()

    def abort(self) -> None:
        """The writer is gone before its last byte: readers learn that theirs is no whole result."""
        self.aborted = True
        for reader in list(self._readers):
            reader.notify()

    def peek(self, offset: int, size: int) -> bytes:
        """
        @param offset: where to start, in bytes.
        @param size: the most to return, in bytes.
        @return: what is there, empty at the end.
        """
        if self._file is None:
            return bytes(self._data[offset : offset + size])
        return os.pread(self._file.fileno(), size, offset)

    def read(self, offset: int, size: int) -> Deferred[bytes]:
        """See L{IResult.read}."""
        return succeed(self.peek(offset, size))

    def deliver(self, consumer: IConsumer) -> Deferred[bool]:
        """See L{IResult.deliver}."""
        done: Deferred[bool] = Deferred(lambda _: reader.stopProducing())
        reader = ResultReader(self, consumer, done.callback)
        reader.start()
        return done

    def same_as(self, other: object) -> bool:
        """
        @return: whether both hold the same bytes.
        """
        if not isinstance(other, ResultBody) or self.size != other.size:
            return False
        return all(
            self.peek(offset, CHUNK) == other.peek(offset, CHUNK) for offset in range(0, max(self.size, 1), CHUNK)
        )

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        """
        See L{IConsumer}.  The producer is what brings the bytes, usually the transport of the runtime's post.
        """
        self._producer = producer
        self._paused = False

    def unregisterProducer(self) -> None:
        """See L{IConsumer}."""
        self._producer = None

    def attach(self, reader: ResultReader) -> None:
        """From now on C{reader} is notified of every write, and slows the writer down."""
        self._readers.append(reader)

    def detach(self, reader: ResultReader) -> None:
        """Forget C{reader}; the writer no longer waits for it."""
        if reader in self._readers:
            self._readers.remove(reader)
            self.balance()

    def balance(self) -> None:
        """Pause the writer if a live reader is too far behind, resume it once none is."""
        if self._producer is None:
            return
        behind = any(self.size - reader.offset > HIGH_WATER for reader in self._readers)
        if behind and not self._paused:
            self._paused = True
            self._producer.pauseProducing()
        elif self._paused and not behind:
            self._paused = False
            self._producer.resumeProducing()


def _write_at(file: IO[bytes], data: bytes | bytearray, offset: int) -> None:
    """Write all of C{data}; the system may take it in parts."""
    left = memoryview(data)
    while left:
        written = os.pwrite(file.fileno(), left, offset)
        offset += written
        left = left[written:]


@implementer(IPushProducer)
class ResultReader:
    """
    Copies a L{ResultBody} into an L{IConsumer}, as fast as both sides go.

    C{done} is called once: with L{True} after the last byte, with L{False} if
    the result was aborted.  It is not called after L{stopProducing}, which is
    how the consumer says that it went away.
    """

    def __init__(self, body: ResultBody, consumer: IConsumer, done: Callable[[bool], None]) -> None:
        self.offset = 0
        self._body = body
        self._consumer = consumer
        self._done = done
        self._paused = False
        self._closed = False
        self._pumping = False

    def start(self) -> None:
        """Begin to copy; to be called once."""
        self._body.attach(self)
        self._consumer.registerProducer(self, True)
        self.notify()

    def notify(self) -> None:
        """There may be more to copy, or an end to report."""
        if self._pumping or self._closed:
            return
        self._pumping = True
        try:
            while not self._paused and not self._closed and self.offset < self._body.size:
                data = self._body.peek(self.offset, CHUNK)
                self.offset += len(data)
                self._consumer.write(data)
        finally:
            self._pumping = False
        self._body.balance()
        if self._closed:
            return
        if self._body.aborted:
            self._close(False)
        elif self._body.complete and self.offset == self._body.size:
            self._close(True)

    def _close(self, whole: bool) -> None:
        self.stopProducing()
        self._consumer.unregisterProducer()
        self._done(whole)

    def pauseProducing(self) -> None:
        """See L{IPushProducer}."""
        self._paused = True

    def resumeProducing(self) -> None:
        """See L{IPushProducer}."""
        self._paused = False
        self.notify()

    def stopProducing(self) -> None:
        """See L{IPushProducer}."""
        self._closed = True
        self._body.detach(self)
