"""What does a recording say about a query?"""

from __future__ import annotations

import difflib
import json
from base64 import b64decode
from collections.abc import Iterator
from pathlib import Path

from attrs import Factory, define, frozen
from jsonschema import Draft202012Validator

from ..config.json_schemas import load_schema
from ..model.jobs import JobState
from ..model.raised import raised_message
from ..model.types import JSONValue
from .mask import mask_query

#: At most this many problems of a file are listed.
_MOST_PROBLEMS = 20

#: At most this many lines of a mismatch are shown.
_MOST_LINES = 60

#: The nearest query is searched among at most this many, by this many of their first characters.
_MOST_CANDIDATES = 500
_COMPARED_CHARACTERS = 2000

#: At most this many lines of the nearest query are compared in full.
_COMPARED_LINES = 1000


class InvalidRecording(Exception):
    """The file is not a recording.

    Attributes:
        problems: What is wrong, each with its line number.
    """

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


@frozen
class Recorded:
    """One job of a recording.

    Attributes:
        key: The function, and its masked query as JSON.
        content: The result; ``None`` if the job has none, or if it was too large to record.
        problem: Why there is no result.
        too_large: Whether the job has a result that was too large to record.
        seconds: How long the runtime took.
        raised: What the function raised, if the result is the report of that.
        ends: Offsets at which chunks of the module's post ended, where the bytes alone do not show that a value ends.
    """

    key: tuple[str, str]
    content: bytes | None
    problem: str
    too_large: bool
    seconds: float
    raised: str | None = None
    ends: tuple[int, ...] = ()

    @property
    def function(self) -> str:
        """The name of the function."""
        return self.key[0]

    @property
    def query(self) -> JSONValue:
        """The masked query."""
        return json.loads(self.key[1])


@define
class _Recordings:
    """The recorded jobs of one query, and how often the query was looked up."""

    jobs: list[Recorded] = Factory(list)
    lookups: int = 0


class Recording:
    """A file of recorded jobs.

    Attributes:
        jobs: The jobs in the order of the file.
        schemas: The last schema of each function for which the runtime had posted one.
        skipped: How many canceled jobs the file has. They are ignored: they do not show what a function does.
    """

    def __init__(self, path: Path) -> None:
        """Read a file.

        Raises:
            InvalidRecording: The file cannot be read, or a line of it is not a job.
        """
        validator = Draft202012Validator(load_schema("recording.json"))
        self.jobs: list[Recorded] = []
        self.schemas: dict[str, JSONValue] = {}
        self.skipped = 0
        self._queries: dict[tuple[str, str], _Recordings] = {}
        problems: list[str] = []
        try:
            with path.open("rb") as lines:
                for number, line in enumerate(lines, 1):
                    problems += [f"{path}:{number}: {problem}" for problem in self._add(line, validator)]
                    if len(problems) >= _MOST_PROBLEMS:
                        problems.append(f"{path}: Later lines were not checked.")
                        break
        except OSError as error:
            raise InvalidRecording([f"{path}: {error.strerror}; name a file that 'serve --record' wrote"]) from None
        if not problems and not self._queries:
            problems.append(f"{path}: no job in it succeeded or failed")
        if problems:
            raise InvalidRecording(problems)

    def _add(self, line: bytes, validator: Draft202012Validator) -> Iterator[str]:
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
        if "schema" in record:
            self.schemas[record["function"]] = record["schema"]
        if record["state"] == JobState.CANCELED.value:
            self.skipped += 1
            return
        try:
            recorded = _recorded(record)
        except ValueError as error:
            yield f"$.result: {error}"
            return
        self.jobs.append(recorded)
        self._queries.setdefault(recorded.key, _Recordings()).jobs.append(recorded)

    @property
    def functions(self) -> list[str]:
        """The names of the recorded functions."""
        return sorted({function for function, _ in self._queries})

    @property
    def size(self) -> int:
        """How many jobs are recorded."""
        return len(self.jobs)

    @property
    def unused(self) -> int:
        """How many recorded jobs no lookup has returned."""
        return sum(max(len(each.jobs) - each.lookups, 0) for each in self._queries.values())

    def find(self, function: str, query: JSONValue) -> Recorded | None:
        """Look up a query.

        Returns:
            Its recorded jobs, one with each call; after the last one, the last one again. ``None`` if there is none.
        """
        recordings = self._queries.get(_key(function, query))
        if recordings is None:
            return None
        recordings.lookups += 1
        return recordings.jobs[min(recordings.lookups, len(recordings.jobs)) - 1]

    def describe_mismatch(self, function: str, query: JSONValue) -> str:
        """Return a message that shows how a query differs from the nearest recorded one."""
        wanted = _pretty(_key(function, query)[1])
        said = f"No recorded job has this query of the function {function}"
        others = [text for name, text in self._queries if name == function][:_MOST_CANDIDATES]
        if not others:
            return f"{said}. Recorded functions: {', '.join(self.functions)}.\nQuery:\n{_shortened(wanted)}"
        matcher = difflib.SequenceMatcher(b=wanted[:_COMPARED_CHARACTERS], autojunk=False)

        def likeness(text: str) -> float:
            matcher.set_seq1(_pretty(text)[:_COMPARED_CHARACTERS])
            return matcher.quick_ratio()

        nearest = _pretty(max(others, key=likeness))
        lines = (nearest.splitlines()[:_COMPARED_LINES], wanted.splitlines()[:_COMPARED_LINES])
        difference = "\n".join(difflib.unified_diff(*lines, "nearest recorded query", "this query", lineterm=""))
        return f"{said}.\n{_shortened(difference)}"


def _key(function: str, query: JSONValue) -> tuple[str, str]:
    return function, json.dumps(mask_query(query), sort_keys=True)


def _pretty(text: str) -> str:
    pretty = json.dumps(json.loads(text), indent=2, ensure_ascii=False)
    return pretty.encode("utf-8", "backslashreplace").decode("utf-8")


def _shortened(text: str) -> str:
    lines = [line[:200] for line in text.splitlines()]
    if len(lines) > _MOST_LINES:
        lines[_MOST_LINES:] = [f"… and {len(lines) - _MOST_LINES} more lines"]
    return "\n".join(lines)


def _recorded(record: dict[str, JSONValue]) -> Recorded:
    """Make the record of one line that fits the schema.

    Raises:
        ValueError: The result is missing, or is not base64.
    """
    content, problem = None, (record["message"] or "").strip() or "The job failed when it was recorded."
    result = record["result"] or {}
    if "text" in result:
        content = result["text"].encode("utf-8")
    elif "base64" in result:
        content = b64decode(result["base64"], validate=True)
    elif "bytes" in result:
        size, digest = result["bytes"], result["sha256"]
        problem = f"The result was too large to record ({size} bytes, SHA-256 {digest})."
    elif record["state"] == JobState.SUCCEEDED.value:
        raise ValueError("missing, but the job succeeded")
    started = record["started_at"]
    seconds = 0.0 if started is None else max(record["completed_at"] - started, 0) / 1000
    raised = None if content is None else raised_message(record.get("job_id", ""), content)
    key, ends = _key(record["function"], record["query"]), tuple(result.get("ends", ()))
    return Recorded(key, content, problem, "bytes" in result, seconds, raised, ends)
