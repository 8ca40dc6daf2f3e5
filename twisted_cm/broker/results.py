"""Where a result is kept in this process: first in memory, a large one in a temporary file."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from typing import IO

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IConsumer
from zope.interface import implementer

from .flow import PacedWriter, ResultReader
from .interface import IResult
from .noted_ends import NotedEnds

#: A result of more bytes moves to a temporary file.
MEMORY_LIMIT = 1024 * 1024

#: The writer is paused while a live reader is more bytes behind.
HIGH_WATER = 256 * 1024

#: The number of bytes read at once.
CHUNK = 256 * 1024


@implementer(IResult)
class ResultBody(PacedWriter):
    """One result in this process, append-only.

    One post writes it; any number of readers read it, also while it is being written.

    Attributes:
        content_type: As posted by the runtime.
        size: Bytes written so far.
        complete: Whether the last byte has arrived.
        aborted: Whether the writer went away before the last byte.
        readers: The readers that follow the result and slow its writer down.
    """

    __slots__ = ("_data", "_ends", "_file", "_written", "aborted", "complete", "content_type", "readers", "size")

    def __init__(self, content_type: str | None = None, written: Callable[[], None] = lambda: None) -> None:
        """Start with no bytes.

        Args:
            written: Called after each write.
        """
        super().__init__()
        self.content_type = content_type
        self.size = 0
        self.complete = False
        self.aborted = False
        self.readers: list[BodyReader] = []
        self._written = written
        self._data: bytearray | bytes = b""
        self._file: IO[bytes] | None = None
        self._ends: NotedEnds | None = None

    @property
    def in_file(self) -> bool:
        """Whether the bytes are in a temporary file, and none of them in memory."""
        return self._file is not None

    def write(self, data: bytes) -> None:
        """Append bytes and notify the readers. After :meth:`abort`, drop them.

        Raises:
            OSError: The temporary file cannot be written. Do not write to this result again.
        """
        if self.aborted:
            return
        if self._file is not None or self.size + len(data) > MEMORY_LIMIT:
            self._write_file(data)
        elif not self.size:
            self._data = bytes(data)
        else:
            if isinstance(self._data, bytes):
                self._data = bytearray(self._data)
            self._data += data
        self.size += len(data)
        self._written()
        for reader in list(self.readers):
            reader.pump()
        self.balance()

    def _write_file(self, data: bytes) -> None:
        file = self._file
        if file is None:
            file = tempfile.TemporaryFile(prefix="twisted-cm-result-")  # noqa: SIM115 - closed with the result
            file.write(self._data)
        file.write(data)
        # Readers use the file's descriptor, and a full disk has to be an error of this write, not of a later one.
        file.flush()
        self._file, self._data = file, b""

    def mark(self, offset: int) -> None:
        if self._ends is None:
            self._ends = NotedEnds()
        self._ends.add(offset)

    def ends(self, start: int, end: int) -> Deferred[list[int]]:
        return succeed([] if self._ends is None else self._ends.between(start, end))

    def finish(self) -> None:
        """Mark the result as whole."""
        self._data = bytes(self._data)
        self.complete = True
        for reader in list(self.readers):
            reader.pump()

    def abort(self) -> None:
        """Mark the result as broken off, and end its readers."""
        self.aborted = True
        for reader in list(self.readers):
            reader.pump()

    def abandon(self) -> None:
        """Do nothing: the bytes go with this object."""

    def peek(self, offset: int, size: int) -> bytes:
        """Return at most ``size`` bytes from ``offset`` on; none at the end."""
        if self._file is None:
            return bytes(self._data[offset : offset + size])
        return os.pread(self._file.fileno(), size, offset)

    def read(self, offset: int, size: int) -> Deferred[bytes]:
        return succeed(self.peek(offset, size))

    def deliver(self, consumer: IConsumer) -> Deferred[bool]:
        return BodyReader(self, consumer).start()

    def same_as(self, other: object) -> bool:
        """Return whether both results hold the same bytes."""
        if not isinstance(other, ResultBody) or self.size != other.size:
            return False
        return all(
            self.peek(offset, CHUNK) == other.peek(offset, CHUNK) for offset in range(0, max(self.size, 1), CHUNK)
        )

    def is_behind(self) -> bool:
        return any(self.size - reader.offset > HIGH_WATER for reader in self.readers)


class BodyReader(ResultReader):
    """Copies a :class:`ResultBody` to a consumer."""

    def __init__(self, body: ResultBody, consumer: IConsumer) -> None:
        super().__init__(consumer)
        self._body = body
        self._pumping = False

    def attach(self) -> None:
        self._body.readers.append(self)

    def detach(self) -> None:
        if self in self._body.readers:
            self._body.readers.remove(self)
            self._body.balance()

    def pump(self) -> None:
        # A consumer may call resumeProducing() while it is being written to.
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
        if self._body.aborted:
            self.close(False)
        elif self._body.complete and self.offset == self._body.size:
            self.close(True)
