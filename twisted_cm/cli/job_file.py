"""Which jobs are in the file of ``twisted-cm submit --jobs``?"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from attrs import frozen

from ..model.types import JSONValue

#: At most this many bad lines are listed.
_MOST_LISTED = 20

_FIELDS = frozenset(("rid", "branch", "function", "query"))


class BadLines(Exception):
    """Some lines of a file are not valid jobs; the message lists them.

    Attributes:
        count: How many lines, for example ``"2 lines"`` or ``"at least 20 lines"``.
    """

    def __init__(self, problems: list[str], complete: bool) -> None:
        lines = "1 line" if len(problems) == 1 else f"{len(problems)} lines"
        self.count = lines if complete else f"at least {lines}"
        super().__init__("\n".join(problems if complete else [*problems, "Later lines were not checked."]))


@frozen
class Line:
    """One line of the file: a job to submit."""

    number: int
    rid: str
    function: str
    query: JSONValue
    branch: str | None


class JobFile:
    """A file of jobs. It is read twice: once to check it, and once to submit its jobs.

    Attributes:
        count: How many jobs the file has.
    """

    def __init__(self, path: Path, rid: str | None, function: str | None, branch: str | None) -> None:
        """Check every line.

        Args:
            path: ``-`` for standard input.
            rid: The deployed app of jobs that do not name one.
            function: If given, each line is a query of this function; otherwise each line names its function.
            branch: The branch of jobs that do not name one.

        Raises:
            BadLines: Some lines are not valid jobs.
            OSError: The file cannot be read.
        """
        self._rid, self._function, self._branch = rid, function, branch
        source: IO[bytes] = sys.stdin.buffer if str(path) == "-" else path.open("rb")
        copy: IO[bytes] | None = None
        if not source.seekable():
            # A pipe can be read only once.
            copy = tempfile.TemporaryFile(prefix="twisted-cm-jobs-")  # noqa: SIM115 - closed with the process
        self.count = 0
        problems: list[str] = []
        for number, text in enumerate(source, 1):
            if copy is not None:
                copy.write(text)
            try:
                self.count += self._parse(number, text) is not None
            except ValueError as error:
                problems.append(f"line {number}: {error}")
                if len(problems) == _MOST_LISTED:
                    break
        if problems:
            raise BadLines(problems, len(problems) < _MOST_LISTED)
        self._lines = copy or source

    def __iter__(self) -> Iterator[Line]:
        self._lines.seek(0)
        for number, text in enumerate(self._lines, 1):
            line = self._parse(number, text)
            if line is not None:
                yield line

    def _parse(self, number: int, text: bytes) -> Line | None:
        """Parse one line; a blank line is ``None``.

        Raises:
            ValueError: The line is not a valid job.
        """
        if not text.strip():
            return None
        try:
            value = json.loads(text)
        except RecursionError:
            raise ValueError("nested too deeply") from None
        except json.JSONDecodeError as error:
            raise ValueError(f"not JSON: {error.msg} at character {error.pos + 1}") from None
        except UnicodeDecodeError as error:
            raise ValueError(f"not JSON in UTF-8: {error.reason} at byte {error.start + 1}") from None
        if self._function is not None:
            assert self._rid is not None
            return Line(number, self._rid, self._function, value, self._branch)
        if not isinstance(value, dict):
            raise ValueError(
                'not an object like {"function": "add", "query": {"a": 1}}; to send plain queries, name a FUNCTION'
            )
        unknown = sorted(value.keys() - _FIELDS)
        if unknown:
            raise ValueError(f"unknown field {unknown[0]!r}; known fields are {', '.join(sorted(_FIELDS))}")
        rid = _text(value, "rid", self._rid)
        branch = value.get("branch", self._branch)
        if branch is not None:
            branch = _text(value, "branch", self._branch)
        return Line(number, rid, _text(value, "function", None), value.get("query", {}), branch)


def _text(job: dict[str, JSONValue], name: str, default: str | None) -> str:
    value = job.get(name, default)
    if value is None:
        raise ValueError(f"{name!r} is missing")
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{name!r} must be text that is not blank")
    return value
