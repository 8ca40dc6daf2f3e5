"""Which job did a replica write a line for?"""

from __future__ import annotations

from collections import deque

import msgspec

from ..model.jobs import OUTPUT_KEPT


class _Params(msgspec.Struct):
    job_id: str | None = None


class _LogLine(msgspec.Struct):
    """A line of JSON that names a job, as the log of the Python SDK does: ``{"params": {"job_id": ...}, ...}``."""

    params: _Params | None = None
    job_id: str | None = None
    jobId: str | None = None

    @property
    def job(self) -> str | None:
        return (self.params and self.params.job_id) or self.job_id or self.jobId


_DECODER = msgspec.json.Decoder(_LogLine)


class _Tail:
    """The last lines of a text, with about :data:`.OUTPUT_KEPT` characters."""

    def __init__(self) -> None:
        self._lines: deque[str] = deque()
        self._size = 0

    def append(self, line: str) -> None:
        self._lines.append(f"{line}\n")
        self._size += len(line) + 1
        while self._size - len(self._lines[0]) >= OUTPUT_KEPT:
            self._size -= len(self._lines.popleft())

    def __str__(self) -> str:
        return "".join(self._lines)[-OUTPUT_KEPT:]


class JobOutput:
    """What one replica writes while it has jobs.

    A line belongs to the job that the replica has. If it has several, a line belongs to the job that it names, and a
    line that names none belongs to no job.
    """

    def __init__(self) -> None:
        self._tails: dict[str, _Tail] = {}

    @property
    def job_ids(self) -> list[str]:
        """The jobs that the replica has."""
        return list(self._tails)

    def begin(self, job_id: str) -> None:
        """Note that the replica has a job from now on."""
        self._tails.setdefault(job_id, _Tail())

    def write(self, line: str) -> None:
        """Take a line."""
        if len(self._tails) == 1:
            (tail,) = self._tails.values()
            tail.append(line)
        elif self._tails:
            named = self._tails.get(_job_of(line) or "")
            if named is not None:
                named.append(line)

    def end(self, job_id: str) -> str:
        """Note that the replica has a job no longer; return the last of what it wrote for it."""
        return str(self._tails.pop(job_id, ""))


def _job_of(line: str) -> str | None:
    if not line.startswith("{"):
        return None
    try:
        return _DECODER.decode(line).job
    except (msgspec.DecodeError, UnicodeEncodeError):
        return None
