"""Where the body of a request is kept while it arrives: first in memory, a long one in a file."""

from __future__ import annotations

import os
from types import TracebackType
from typing import IO, Any

from twisted.internet.interfaces import IConsumer
from typing_extensions import Self
from zope.interface import implementer

from ..nameless_files import nameless_file, write_all

#: A body of more bytes goes to a file. Whoever reads it does so outside of the reactor.
LONG = 256 * 1024


@implementer(IConsumer)
class ReceivedBody:
    """A body as bytes, or as an open file that has no name and that another process can read.

    Close it: a body that was refused would otherwise live as long as the traceback of its error.

    Attributes:
        size: The number of bytes so far.
        file: The file of a long body; ``None`` for a short one.
    """

    def __init__(self) -> None:
        self.size = 0
        self.file: IO[bytes] | None = None
        self._data = bytearray()

    @property
    def data(self) -> bytes:
        """The bytes of a short body."""
        return bytes(self._data)

    def read(self) -> bytes:
        """Return all bytes."""
        return self.data if self.file is None else os.pread(self.file.fileno(), self.size, 0)

    def take_file(self) -> IO[bytes]:
        """Return the file of a long body; from now on the caller closes it."""
        assert self.file is not None
        taken, self.file = self.file, None
        return taken

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        pass

    def unregisterProducer(self) -> None:
        pass

    def write(self, data: bytes) -> None:
        """Append bytes.

        Raises:
            OSError: The file cannot be written.
        """
        self.size += len(data)
        if self.size <= LONG:
            self._data += data
            return
        if self.file is None:
            self.file = nameless_file()
            write_all(self.file, self._data)
            self._data = bytearray()
        write_all(self.file, data)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the bytes, unless the caller of :meth:`take_file` has them."""
        self._data = bytearray()
        if self.file is not None:
            self.file.close()
