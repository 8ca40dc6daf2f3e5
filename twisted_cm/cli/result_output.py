"""Where a command writes a result: bytes as they are, or text that is safe for a terminal."""

from __future__ import annotations

import codecs
from typing import IO, Protocol

from ..model.printable import printable


class ResultOutput(Protocol):
    """Takes a result in chunks."""

    def write(self, chunk: bytes) -> None:
        """Write a chunk of the result."""

    def close(self) -> None:
        """Write what is left at the end of the result."""


class BytesOutput:
    """Writes the bytes of a result exactly, for a pipe or a file."""

    def __init__(self, written: IO[bytes]) -> None:
        self._written = written

    def write(self, chunk: bytes) -> None:
        self._written.write(chunk)
        self._written.flush()

    def close(self) -> None:
        pass


class TerminalOutput:
    """Writes a result to a terminal: escapes what could control it, and ends with a newline."""

    def __init__(self, written: IO[str]) -> None:
        self._written = written
        self._decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")
        self._last = "\n"

    def write(self, chunk: bytes) -> None:
        self._print(self._decoder.decode(chunk))

    def close(self) -> None:
        self._print(self._decoder.decode(b"", True))
        if self._last != "\n":
            self._print("\n")

    def _print(self, text: str) -> None:
        if text:
            self._last = text[-1]
            self._written.write(printable(text, "\n\t"))
            self._written.flush()
