"""Where a command writes a result: bytes as they are, or text that is safe for a terminal."""

from __future__ import annotations

import codecs
import sys
from typing import IO, Protocol

import click

from ..client.streams import ResultStream
from ..model.printable import printable
from ..model.raised import MOST_BYTES, first_line, raised_message


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


def standard_output() -> ResultOutput:
    """Return what writes a result to standard output."""
    return TerminalOutput(sys.stdout) if sys.stdout.isatty() else BytesOutput(sys.stdout.buffer)


async def print_stream(stream: ResultStream) -> str | None:
    """Print a result while it arrives; return what the function raised, if its result reports that."""
    output = standard_output()
    start = b""
    try:
        async for chunk in stream:
            output.write(chunk)
            if len(start) <= MOST_BYTES:
                start += chunk
    finally:
        output.close()
    return raised_message(stream.job_id or "", start)


def report_raised(function: str, raised: str | None) -> None:
    """End the command with an error if a function raised.

    Raises:
        click.ClickException: The function raised.
    """
    if raised is not None:
        raise click.ClickException(printable(f"{function} raised: {first_line(raised)}"))
