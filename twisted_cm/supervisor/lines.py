"""The lines that a process writes."""

from __future__ import annotations

from codecs import getincrementaldecoder
from collections.abc import Callable

#: A longer line is cut into lines of this many characters.
LONGEST_LINE = 8192


class LineSplitter:
    """Cuts bytes into lines of text.

    Attributes:
        fed: The number of bytes so far.
    """

    def __init__(self, written: Callable[[str], None]) -> None:
        """Begin with no text.

        Args:
            written: Called with each line, without its line break.
        """
        self.fed = 0
        self._written = written
        self._decoder = getincrementaldecoder("utf-8")("replace")
        self._rest = ""

    def feed(self, data: bytes) -> None:
        """Take more bytes. Bytes that are not UTF-8 become replacement characters."""
        self.fed += len(data)
        *lines, self._rest = (self._rest + self._decoder.decode(data)).split("\n")
        for line in lines:
            self._write(line)
        while len(self._rest) > LONGEST_LINE:
            self._written(self._rest[:LONGEST_LINE])
            self._rest = self._rest[LONGEST_LINE:]

    def end(self) -> None:
        """Take the end of the bytes; a line without a line break is a line, too."""
        rest, self._rest = self._rest + self._decoder.decode(b"", final=True), ""
        if rest:
            self._write(rest)

    def _write(self, line: str) -> None:
        line = line.removesuffix("\r")
        for start in range(0, max(len(line), 1), LONGEST_LINE):
            self._written(line[start : start + LONGEST_LINE])
