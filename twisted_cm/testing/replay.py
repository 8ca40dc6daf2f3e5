"""Send the queries of a recording to a module, and compare its results with the recorded ones."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from attrs import frozen

from ..client.errors import InvalidRequest, NotFound
from ..model.jobs import JobState
from ..model.raised import first_line, raised_message
from ..model.types import JSONValue
from ..recording.mask import is_masked, mask_text
from ..recording.read import Recorded, Recording
from .json_difference import Difference, Ignored, describe, shortened
from .process import EmulatorProcess

#: So many differences are shown.
_MOST_SHOWN = 20


@frozen
class Replayed:
    """What was replayed of a recording.

    Attributes:
        compared: How many jobs were sent, each with the recorded result.
        masked: How many jobs were skipped because a secret of their query is masked.
        too_large: How many jobs were skipped because their results were too large to record.
        canceled: How many jobs were skipped because they were canceled when they were recorded.
    """

    compared: int
    masked: int
    too_large: int
    canceled: int

    @property
    def skipped(self) -> int:
        """How many jobs of the recording were not sent."""
        return self.masked + self.too_large + self.canceled


class NothingToReplay(Exception):
    """No job of the recording can be sent; the message says why."""


class ReplayMismatch(AssertionError):
    """A module did not answer as recorded. The message shows each difference.

    Attributes:
        differences: The jobs that differ, each with its differences.
    """

    def __init__(self, message: str, differences: list[tuple[Recorded, list[Difference]]]) -> None:
        super().__init__(message)
        self.differences = differences


@frozen
class _Outcome:
    """How a job ended.

    Attributes:
        kind: ``raised`` and ``failed`` with a message, ``JSON``, a ``stream`` of JSON values, ``text`` or ``bytes``.
        value: The message or the result.
    """

    kind: str
    value: JSONValue

    def __str__(self) -> str:
        if self.kind in ("raised", "failed"):
            return f"({self.kind}) {shortened(self.value)}"
        if self.kind == "bytes":
            return f"({len(self.value)} bytes) {shortened(self.value.hex())}"
        return describe(self.value)


def replay(
    emulator: EmulatorProcess,
    runtime_id: str,
    path: Path,
    ignore: Sequence[str] = (),
    timeout: float = 30.0,
    check: Callable[[], object] = lambda: None,
) -> Replayed:
    """Send the queries of a recording to a runtime, one after another, and compare the results.

    Results that are JSON are compared as JSON. If a function raised, the first line of what it raised is compared. A
    job that failed has to fail; its message may be another one. Secrets in results are masked before they are compared.

    Args:
        emulator: The emulator.
        runtime_id: The runtime.
        path: A file that ``twisted-cm serve --record`` wrote.
        ignore: JSON pointers to parts of results that may differ; ``*`` matches any member or element.
        timeout: The longest time to wait for one result, in seconds.
        check: Called before each query; raises if the module has ended.

    Raises:
        ReplayMismatch: A result differs.
        NothingToReplay: No job of the recording can be sent.
        InvalidRecording: The file is not a recording.
        ValueError: A pointer is not valid.
        TimeoutError: A job has not ended in time.
    """
    # pytest shows the line of the test instead.
    __tracebackhide__ = True
    ignored = Ignored(ignore)
    recording = Recording(path)
    sent = [each for each in recording.jobs if not each.too_large]
    too_large = recording.size - len(sent)
    sent = [each for each in sent if not is_masked(each.query)]
    replayed = Replayed(len(sent), recording.size - len(sent) - too_large, too_large, recording.skipped)
    if not sent:
        raise NothingToReplay(
            f"No job of {path} can be replayed: {replayed.masked} have a masked secret in the query, and"
            f" {replayed.too_large} have a result that was too large to record."
        )
    differing = []
    for each in sent:
        check()
        differences = list(_differences(_recorded(each), _run(emulator, runtime_id, each, timeout), ignored))
        if differences:
            differing.append((each, differences))
    if differing:
        head = f"{len(differing)} of {len(sent)} replayed jobs differ from {path.name}:"
        raise ReplayMismatch("\n".join([head, *_shown(differing)]), differing)
    return replayed


def _differences(recorded: _Outcome, found: _Outcome, ignored: Ignored) -> Iterator[Difference]:
    if recorded.kind != found.kind:
        yield Difference("", str(recorded), str(found))
    elif recorded.kind in ("JSON", "stream"):
        yield from ignored.differences(recorded.value, found.value)
    elif recorded.kind != "failed" and recorded.value != found.value:
        yield Difference("", str(recorded), str(found))


def _shown(differing: list[tuple[Recorded, list[Difference]]]) -> Iterator[str]:
    shown = 0
    for job, differences in differing:
        if shown >= _MOST_SHOWN:
            break
        yield f"\n{job.function} {describe(job.query)}"
        for each in differences[: _MOST_SHOWN - shown]:
            yield f"  {each.pointer or '(whole result)'}"
            yield f"    recorded: {each.recorded}"
            yield f"    now:      {each.found}"
            shown += 1
    left = sum(len(differences) for _, differences in differing) - shown
    if left:
        yield f"\n… and {left} more differences"


def _recorded(job: Recorded) -> _Outcome:
    if job.content is None:
        return _Outcome("failed", job.problem)
    return _outcome(job.content, job.raised)


def _run(emulator: EmulatorProcess, runtime_id: str, recorded: Recorded, timeout: float) -> _Outcome:
    try:
        job_id = emulator.enqueue(recorded.function, recorded.query, runtime_id=runtime_id).job_id
    except (InvalidRequest, NotFound) as error:
        # The emulator checks queries: the function is gone, or takes something else.
        return _Outcome("failed", str(error))
    job = emulator.wait_for(job_id, timeout)
    if job.state is not JobState.SUCCEEDED:
        return _Outcome("failed", job.error_message or job.state.value)
    content = emulator.result(job_id)
    return _outcome(content, raised_message(job_id, content))


def _outcome(content: bytes, raised: str | None) -> _Outcome:
    if raised is not None:
        return _Outcome("raised", first_line(raised))
    try:
        text = mask_text(content.decode("utf-8"))
    except UnicodeDecodeError:
        return _Outcome("bytes", content)
    try:
        values = list(_values(text))
    except (ValueError, RecursionError):
        return _Outcome("text", text)
    if len(values) == 1:
        return _Outcome("JSON", values[0])
    return _Outcome("stream", values) if values else _Outcome("text", text)


def _values(text: str) -> Iterator[JSONValue]:
    """Yield the JSON values of a text, one after another."""
    decoder = json.JSONDecoder()
    rest = text.lstrip()
    while rest:
        value, end = decoder.raw_decode(rest)
        yield value
        rest = rest[end:].lstrip()
