"""Read a recording."""

from __future__ import annotations

import difflib
import json
from base64 import b64decode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from attrs import Factory, define, frozen

from ..config.json_schemas import load_schema
from ..model.jobs import JobState
from ..model.types import JSONValue
from .mask import mask_query

#: The most problems of a file that are listed, lines of a mismatch that are shown, and queries it is compared with.
_MOST_PROBLEMS = 20


_MOST_LINES = 60


_MOST_CANDIDATES = 500


#: Characters of a query by which the nearest one is found, and lines that are compared then.
_COMPARED_CHARACTERS = 2000


_COMPARED_LINES = 1000


class InvalidRecording(Exception):
    """
    The file is no recording.

    @ivar problems: what is wrong, with line numbers.
    """

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


@frozen
class Recorded:
    """
    One line of a recording.

    @ivar key: what is asked for: the function, and its query as JSON, masked.
    @ivar content: the result, or L{None} where there is none, or not more than its size.
    @ivar problem: why the job ended without a result, or why the recording does not have it.
    @ivar too_large: whether there was a result that is not in the recording.
    @ivar seconds: how long its runtime took.
    """

    key: tuple[str, str]
    content: bytes | None
    problem: str
    too_large: bool
    seconds: float


@define
class _Asked:
    """The recordings of one query, and how many of them have been asked for."""

    recorded: list[Recorded] = Factory(list)
    count: int = 0


class Recording:
    """
    A file of recorded jobs, to be asked for them.

    @ivar skipped: how many canceled jobs are in it; they say nothing of what a function does.
    """

    def __init__(self, path: Path) -> None:
        """
        @raise InvalidRecording: it cannot be read, or not every line of it is a job.
        """
        from jsonschema import Draft202012Validator

        validator = Draft202012Validator(load_schema("recording.json"))
        self.skipped = 0
        self._queries: dict[tuple[str, str], _Asked] = {}
        problems: list[str] = []
        try:
            with path.open("rb") as lines:
                for number, line in enumerate(lines, 1):
                    problems += [f"{path}:{number}: {problem}" for problem in self._add(line, validator)]
                    if len(problems) >= _MOST_PROBLEMS:
                        problems.append(f"{path}: the lines after that were not read")
                        break
        except OSError as error:
            raise InvalidRecording([f"{path}: {error.strerror}; name a file that 'serve --record' wrote"]) from None
        if not problems and not self._queries:
            problems.append(f"{path}: no job in it has ended with a result or a failure")
        if problems:
            raise InvalidRecording(problems)

    def _add(self, line: bytes, validator: Any) -> Iterator[str]:
        if not line.endswith(b"\n"):
            yield "the line is cut off"
            return
        try:
            record = json.loads(line)
            errors = sorted(validator.iter_errors(record), key=lambda error: list(map(str, error.absolute_path)))
        except (ValueError, RecursionError) as error:
            yield f"not JSON: {error}"
            return
        if errors:
            yield from (f"{error.json_path}: {error.message[:200]}" for error in errors)
            return
        if record["state"] == JobState.CANCELED.value:
            self.skipped += 1
            return
        try:
            recorded = _recorded(record)
        except ValueError as error:
            yield f"$.result: {error}"
            return
        self._queries.setdefault(recorded.key, _Asked()).recorded.append(recorded)

    @property
    def functions(self) -> list[str]:
        """The names of the functions there are."""
        return sorted({function for function, _ in self._queries})

    @property
    def size(self) -> int:
        """How many jobs there are."""
        return sum(len(asked.recorded) for asked in self._queries.values())

    @property
    def unused(self) -> int:
        """How many of them have not been asked for."""
        return sum(max(len(asked.recorded) - asked.count, 0) for asked in self._queries.values())

    def find(self, function: str, query: JSONValue) -> Recorded | None:
        """
        @return: what was recorded for that query: the first time the first, then the next, and the last from then on.
            L{None} if there is nothing.
        """
        asked = self._queries.get(_key(function, query))
        if asked is None:
            return None
        asked.count += 1
        return asked.recorded[min(asked.count, len(asked.recorded)) - 1]

    def describe_mismatch(self, function: str, query: JSONValue) -> str:
        """
        @return: what was asked, and how the nearest that was recorded differs.
        """
        wanted = _pretty(_key(function, query)[1])
        said = f"Nothing is recorded for this query of function {function}"
        others = [text for name, text in self._queries if name == function][:_MOST_CANDIDATES]
        if not others:
            return f"{said}; only these functions are: {', '.join(self.functions)}.\nAsked:\n{_shortened(wanted)}"
        matcher = difflib.SequenceMatcher(b=wanted[:_COMPARED_CHARACTERS], autojunk=False)

        def likeness(text: str) -> float:
            matcher.set_seq1(_pretty(text)[:_COMPARED_CHARACTERS])
            return matcher.quick_ratio()

        nearest = _pretty(max(others, key=likeness))
        lines = (nearest.splitlines()[:_COMPARED_LINES], wanted.splitlines()[:_COMPARED_LINES])
        difference = "\n".join(difflib.unified_diff(*lines, "recorded, the nearest", "asked", lineterm=""))
        return f"{said}.\n{_shortened(difference)}"


def _key(function: str, query: JSONValue) -> tuple[str, str]:
    return function, json.dumps(mask_query(query), sort_keys=True)


def _pretty(text: str) -> str:
    pretty = json.dumps(json.loads(text), indent=2, ensure_ascii=False)
    return pretty.encode("utf-8", "backslashreplace").decode("utf-8")


def _shortened(text: str) -> str:
    lines = [line[:200] for line in text.splitlines()]
    if len(lines) > _MOST_LINES:
        lines[_MOST_LINES:] = [f"… and {len(lines) - _MOST_LINES} lines more"]
    return "\n".join(lines)


def _recorded(record: dict[str, JSONValue]) -> Recorded:
    """
    @raise ValueError: the result is not what it says.
    """
    content, problem = None, (record["message"] or "").strip() or "The job failed when it was recorded."
    result = record["result"] or {}
    if "text" in result:
        content = result["text"].encode("utf-8")
    elif "base64" in result:
        content = b64decode(result["base64"], validate=True)
    elif "bytes" in result:
        size, digest = result["bytes"], result["sha256"]
        problem = f"The result is not in the recording, only its size, {size} bytes, and SHA-256, {digest}."
    elif record["state"] == JobState.SUCCEEDED.value:
        raise ValueError("a job that succeeded has one")
    started = record["started_at"]
    seconds = 0.0 if started is None else max(record["completed_at"] - started, 0) / 1000
    return Recorded(_key(record["function"], record["query"]), content, problem, "bytes" in result, seconds)
