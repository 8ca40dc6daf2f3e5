"""
Traffic, recorded and played back.

A L{Recorder} appends each job that ends to a file, as one line of JSON; a
L{Recording} is such a file read again, and L{Replay} a runtime that answers
from one.  What fields of queries and results hold whose names are secrets' is
masked before it is written, and queries are compared masked in the same way.
"""

from __future__ import annotations

import difflib
import errno
import fcntl
import json
import os
import re
from base64 import b64decode, b64encode
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import Factory, define, frozen
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger

from .broker import Change, IBroker
from .jobs import Job, JobState, JSONValue
from .packaged import load_schema
from .results import CHUNK, IResult

if TYPE_CHECKING:
    from .client import ModuleJob, RuntimeSession

#: The largest result, in bytes, that is recorded itself; of a larger one its size and SHA-256 are.
RESULT_LIMIT = 1024 * 1024

#: What stands in a recording for the value of a secret.
MASK = "***"

#: Names of fields whose values are secrets, in lower case and without what separates words.
_SECRET = re.compile(
    "passw(or)?d|pwd|passphrase|secret|credential|authorization|authheader|^auth$|bearer|cookie|jwt|sessionid"
    "|(api|access|private|signing|encryption)key"
)

#: Numbers under such a name are counts, as in C{max_tokens}.
_SECRET_UNLESS_NUMBER = re.compile("token")

#: The most problems of a file that are listed, lines of a mismatch that are shown, and queries it is compared with.
_MOST_PROBLEMS = 20
_MOST_LINES = 60
_MOST_CANDIDATES = 500

#: Characters of a query by which the nearest one is found, and lines that are compared then.
_COMPARED_CHARACTERS = 2000
_COMPARED_LINES = 1000

#: Seconds that one poll of a replay parks, and after which it polls again when the server had an error.
_POLL = 50.0
_AFTER_ERROR = 1.0


class CannotRecord(Exception):
    """The file cannot be written to; the message says why."""


class InvalidRecording(Exception):
    """
    The file is no recording.

    @ivar problems: what is wrong, with line numbers.
    """

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


# What is left out


class _Masking:
    """Masks objects while they are parsed."""

    def __init__(self) -> None:
        self.masked = False

    def __call__(self, pairs: list[tuple[str, JSONValue]]) -> dict[str, JSONValue]:
        fields = dict(pairs)
        for name, value in fields.items():
            if value not in (None, MASK) and _is_secret(name, value):
                fields[name] = MASK
                self.masked = True
        return fields


def _is_secret(name: str, value: JSONValue) -> bool:
    plain = re.sub(r"[\W_]", "", name.lower())
    if _SECRET.search(plain):
        return True
    return bool(_SECRET_UNLESS_NUMBER.search(plain)) and not isinstance(value, int | float)


def mask_query(query: JSONValue) -> JSONValue:
    """
    @return: the same, with L{MASK} for every value under the name of a secret.
    @raise RecursionError: it is nested too deeply.
    """
    return json.loads(json.dumps(query), object_pairs_hook=_Masking())


def mask_text(text: str) -> str:
    """
    @param text: JSON values, one after another, or anything else.
    @return: the text as it is if it is no JSON or has no secret, else JSON anew, a value on each line.
    @raise RecursionError: it is nested too deeply.
    """
    # A server that records nothing starts without it.
    from .streams import ValueParser

    masking = _Masking()
    try:
        values = list(ValueParser(masking).feed(text.encode("utf-8"), True))
    except ValueError:
        return text
    return "\n".join(json.dumps(value, ensure_ascii=False) for value in values) if masking.masked else text


# Recording


class Recorder:
    """
    Appends each job that ends to a file, in the order in which they do.

    A line is there whole or not at all, and when the write has returned.  If it
    cannot be written, that is logged once, until one can be again; jobs do not
    care.
    """

    _log = Logger()

    def __init__(self, reactor: IReactorTime, path: Path) -> None:
        """
        @param path: made if it is not there, readable by this user only; else it must be a recording.
        @raise CannotRecord: it cannot be written, or is something else.
        """
        self.path = path
        self._reactor = reactor
        self._waiting: deque[Job] = deque()
        self._writing: Deferred[None] = succeed(None)
        self._busy = False
        self._missed = 0
        try:
            self._file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise CannotRecord(
                f"cannot record to {path}: {error.strerror}; choose another file with --record"
            ) from None
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            problem = None if self._fits() else "it is no recording that could be continued"
        except BlockingIOError:
            problem = "another emulator records to it"
        except OSError as error:
            problem = str(error.strerror)
        if problem is not None:
            os.close(self._file)
            raise CannotRecord(f"cannot record to {path}: {problem}; choose another file with --record")

    def _fits(self) -> bool:
        size = os.fstat(self._file).st_size
        return not size or (
            os.pread(self._file, 13, 0) == b'{"recording":' and os.pread(self._file, 1, size - 1) == b"\n"
        )

    def start(self, broker: IBroker) -> None:
        """Record what ends from now on; to be called once."""
        broker.observe(self._changed)

    def _changed(self, change: Change) -> None:
        if change.job is None or not change.job.state.finished:
            return
        self._waiting.append(change.job)
        if not self._busy:
            self._busy = True
            self._writing = Deferred.fromCoroutine(self._write_waiting())

    async def _write_waiting(self) -> None:
        while self._waiting:
            job = self._waiting.popleft()
            try:
                self._append(await self._line(job))
            except RecursionError:
                self._log.warn("job {job_id} is not recorded: it is nested too deeply", job_id=job.job_id)
            except Exception:
                self._log.failure("job {job_id} is not recorded", job_id=job.job_id)
        self._busy = False

    async def _line(self, job: Job) -> bytes:
        submission = job.submission
        record = {
            "recording": 1,
            "job_id": job.job_id,
            "function": submission.query_type,
            "query": mask_query(submission.query),
            "state": job.state.value,
            "result": None if job.result is None else await self._result(job.result),
            "message": job.error_message,
            "runtime": job.runtime_id,
            "deployed_app_rid": submission.deployed_app_rid,
            "branch": submission.branch,
            "queued_at": job.queued_at,
            "started_at": job.started_at,
            "completed_at": job.completed_at,
            "attempts": job.attempts,
        }
        # ASCII, so that there are no other ends of lines in it.
        return json.dumps(record, separators=(",", ":")).encode("ascii") + b"\n"

    async def _result(self, result: IResult) -> JSONValue:
        if result.size > RESULT_LIMIT:
            digest = sha256()
            offset = 0
            while chunk := await result.read(offset, CHUNK):
                digest.update(chunk)
                offset += len(chunk)
                # Others have their turn: a result may be as large as one likes.
                await deferLater(self._reactor, 0)
            return {"bytes": offset, "sha256": digest.hexdigest()}
        content = await result.read(0, result.size)
        try:
            return {"text": mask_text(content.decode("utf-8"))}
        except UnicodeDecodeError:
            return {"base64": b64encode(content).decode("ascii")}

    def _append(self, line: bytes) -> None:
        size = os.fstat(self._file).st_size
        try:
            if os.write(self._file, line) < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            # What is no file has no size.
            with suppress(OSError):
                os.ftruncate(self._file, size)
            if not self._missed:
                self._log.error(
                    "cannot record to {path}: {reason}; jobs go on, and are missing there from now on",
                    path=self.path,
                    reason=error.strerror,
                )
            self._missed += 1
            return
        if self._missed:
            self._log.warn("recording to {path} again; {count} jobs are missing", path=self.path, count=self._missed)
            self._missed = 0

    def stop(self) -> Deferred[None]:
        """
        To be called when the broker has stopped.

        @return: fires when all that had ended by then is in the file, and it is closed.
        """
        return self._writing.addBoth(lambda _: os.close(self._file))


# Reading


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


# Playing back


class Replay:
    """
    A runtime that answers from a recording.

    What was not recorded fails, with what was recorded nearest.

    @ivar outcomes: how many jobs were answered how.
    """

    def __init__(
        self,
        reactor: IReactorTime,
        session: RuntimeSession,
        recording: Recording,
        timing: bool,
        say: Callable[[str], None],
    ) -> None:
        """
        @param timing: take as long as was recorded.
        @param say: tells whoever looks on, in lines.
        """
        self.outcomes: Counter[str] = Counter()
        self._reactor = reactor
        self._session = session
        self._recording = recording
        self._timing = timing
        self._say = say
        self._running: set[Deferred[None]] = set()

    async def run(self) -> None:
        """
        Take jobs and answer them, until this is canceled.

        @raise twisted_cm.client.ComputeModulesError: the server is gone, or the runtime is somebody else's now.
        """
        from .client import ApiError

        try:
            while True:
                try:
                    job = await self._session.poll(_POLL)
                except ApiError as error:
                    if error.status < 500:
                        raise
                    self._say(f"The server had an error, and is polled again: {error}")
                    await deferLater(self._reactor, _AFTER_ERROR)
                    continue
                if job is not None:
                    answering: Deferred[None] = Deferred.fromCoroutine(self._answer(job))
                    self._running.add(answering)
                    answering.addBoth(self._answered, answering, job)
        finally:
            for each in list(self._running):
                each.cancel()

    def _answered(self, result: Any, answering: Deferred[None], job: ModuleJob) -> None:
        self._running.discard(answering)
        if result is not None and result.check(CancelledError) is None:
            self.outcomes["not taken"] += 1
            self._say(f"{job.job_id}: nobody took the answer: {result.getErrorMessage()}")

    async def _answer(self, job: ModuleJob) -> None:
        found = self._recording.find(job.query_type, job.query)
        if found is None or found.too_large:
            problem = self._recording.describe_mismatch(job.query_type, job.query) if found is None else found.problem
            self.outcomes["not recorded"] += 1
            self._say(f"{job.job_id}: {problem}")
            await self._session.fail_job(job.job_id, problem)
            return
        if self._timing:
            await deferLater(self._reactor, found.seconds)
        if found.content is None:
            await self._session.fail_job(job.job_id, found.problem)
            self.outcomes["failed as recorded"] += 1
        else:
            await self._session.post_result(job.job_id, found.content)
            self.outcomes["answered"] += 1

    def summarize(self) -> str:
        """
        @return: how it went.
        """
        counts = ", ".join(f"{count} {outcome}" for outcome, count in sorted(self.outcomes.items())) or "none"
        return f"Jobs: {counts}. Recordings never asked for: {self._recording.unused} of {self._recording.size}."
