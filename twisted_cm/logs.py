"""The format and the levels of the log.

Each event becomes a line of text or a JSON object. Of an event's fields, only those that :func:`json_line` names are
written. Other fields may hold secrets. A finished job has a short line of its own.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterable
from datetime import datetime, timezone
from functools import lru_cache, partial
from typing import IO, Any, NamedTuple, TypeAlias

import click
from twisted.logger import (
    FileLogObserver,
    ILogObserver,
    InvalidLogLevelError,
    LogEvent,
    LogLevel,
    LogLevelFilterPredicate,
    formatEvent,
    globalLogBeginner,
)
from twisted.python.failure import Failure
from zope.interface import implementer

from .model.printable import printable
from .model.short_ids import short_id

#: A namespace, or ``""`` for all of them, and the lowest level that is logged there, a constant of ``LogLevel``.
Level: TypeAlias = tuple[str, Any]

#: The formats of the log. The first one is the default.
FORMATS = ("text", "json")
#: The environment variable with levels like those of ``--log-level``, separated by spaces.
LEVELS_VARIABLE = "TWISTED_CM_LOG_LEVEL"

#: The colors of the states in which a job ends.
STATE_COLORS = {"succeeded": "green", "failed": "red", "raised": "red", "canceled": "yellow"}

#: How many pairs of level and namespace are remembered with whether they are logged. A process has fewer loggers.
_REMEMBERED = 1024

_DEFAULT_LEVELS: tuple[Level, ...] = (("", LogLevel.info), ("twisted", LogLevel.warn), ("log_legacy", LogLevel.warn))
# The logger of a class has the class name at the end of its namespace.
_CLASS = re.compile(r"\._?[A-Z]\w*$")
# The levels of this process's log, if begin_log started it.
_own_levels: list[LogLevelFilterPredicate] = []


class FinishedJob(NamedTuple):
    """A job that has ended, as the log shows it: the field ``finished_job`` of an event.

    Attributes:
        state: The value of its state, or ``raised``.
        duration: Milliseconds since it was last dispatched; since it was submitted, if it never ran.
    """

    job_id: str
    runtime_id: str
    function: str
    state: str
    duration: int

    def __str__(self) -> str:
        return self.line(self.state)

    def line(self, state: str) -> str:
        """Return the job on one line, with its state shown as ``state``."""
        milliseconds = self.duration
        took = f"{milliseconds} ms" if milliseconds < 10_000 else f"{milliseconds / 1000:.1f} s"
        # Names could otherwise end the line, control the terminal or reverse the writing direction.
        function, runtime_id = printable(self.function), printable(self.runtime_id)
        return f"{function} {state} {took} {runtime_id} {short_id(self.job_id)}"


def parse_level(value: str) -> Level:
    """Parse the value of a ``--log-level``: ``LEVEL`` or ``NAMESPACE=LEVEL``.

    Raises:
        click.BadParameter: There is no such level.
    """
    namespace, _, level = value.rpartition("=")
    try:
        return namespace, LogLevel.levelWithName(level)
    except InvalidLogLevelError:
        known = ", ".join(each.name for each in LogLevel.iterconstants())
        raise click.BadParameter(f"There is no level {level!r}. Use one of {known}.") from None


def log_observer(written: IO[Any], kind: str, levels: Iterable[Level] = (), worker: int | None = None) -> ILogObserver:
    """Return an observer that writes events as lines.

    Args:
        written: The file that the lines are written to.
        kind: One of :data:`FORMATS`.
        levels: Levels that replace or refine the default ones.
        worker: The number of this worker, which each line then shows; ``None`` if the emulator has one process.
    """
    line = (
        partial(json_line, worker=worker)
        if kind == "json"
        else partial(text_line, colored=written.isatty(), worker=worker)
    )
    return _LevelFilter(FileLogObserver(written, line), _predicate(levels))


@implementer(ILogObserver)
class _LevelFilter:
    """Passes on the events whose level is logged in their namespace.

    Twisted's ``FilteringLogObserver`` searches the levels again for each event.
    """

    def __init__(self, observer: ILogObserver, predicate: LogLevelFilterPredicate) -> None:
        def is_logged(level: Any, namespace: str) -> bool:
            return bool(level and namespace) and level >= predicate.logLevelForNamespace(namespace)

        self._observer = observer
        self._is_logged = lru_cache(_REMEMBERED)(is_logged)

    def __call__(self, event: LogEvent) -> None:
        if self._is_logged(event.get("log_level"), event.get("log_namespace")):
            self._observer(event)


def _predicate(levels: Iterable[Level]) -> LogLevelFilterPredicate:
    predicate = LogLevelFilterPredicate()
    for namespace, level in (*_DEFAULT_LEVELS, *levels):
        predicate.setLogLevelForNamespace(namespace, level)
    return predicate


def debug_is_logged(namespace: str) -> bool:
    """Return whether the log may include events of level ``debug`` from a namespace.

    If :func:`begin_log` did not start the log, other observers may want them, so the answer is ``True``.
    """
    return not _own_levels or _own_levels[-1].logLevelForNamespace(namespace) <= LogLevel.debug


def begin_log(written: IO[Any], kind: str, levels: Iterable[Level] = (), worker: int | None = None) -> None:
    """Start the log of this process, with an observer as :func:`log_observer` makes it."""
    levels = tuple(levels)
    _own_levels.append(_predicate(levels))
    globalLogBeginner.beginLoggingTo([log_observer(written, kind, levels, worker)], redirectStandardIO=False)


def json_log() -> ILogObserver:
    """Return an observer that writes JSON to standard output, for ``twistd --logger``."""
    levels = map(parse_level, os.environ.get(LEVELS_VARIABLE, "").split())
    return log_observer(sys.stdout, "json", levels)


def text_line(event: LogEvent, colored: bool = False, worker: int | None = None) -> str:
    """Return an event as a line of text. If the event has a traceback, it follows on indented lines.

    Args:
        colored: Whether the state of a finished job is colored.
        worker: The number of the worker that writes the line. The line of a finished job does not show it.
    """
    job = event.get("finished_job")
    if isinstance(job, FinishedJob):
        state = click.style(job.state, fg=STATE_COLORS.get(job.state)) if colored else job.state
        return f"{_time_of_day(int(event['log_time']))} {job.line(state)}\n"
    time = datetime.fromtimestamp(event["log_time"]).isoformat(" ", "milliseconds")
    namespace = _CLASS.sub("", event["log_namespace"].removeprefix("twisted_cm."))
    # Job data could otherwise end the line, control the terminal or reverse the writing direction.
    message = printable(formatEvent(event))
    writer = "" if worker is None else f"[{worker}] "
    line = f"{time} {event['log_level'].name:8} {writer}{namespace}: {message}\n"
    return line + "".join(f"    {each}\n" for each in (_traceback(event) or "").splitlines())


@lru_cache(1)
def _time_of_day(second: int) -> str:
    """Return the local time at a second since the epoch, in which many jobs may end."""
    return f"{datetime.fromtimestamp(second):%H:%M:%S}"


def json_line(event: LogEvent, worker: int | None = None) -> str:
    """Return an event as a JSON object on one line."""
    job = event.get("finished_job")
    finished = {}
    if isinstance(job, FinishedJob):
        finished = {
            "job_id": job.job_id,
            "runtime_id": job.runtime_id,
            "function": job.function,
            "state": job.state,
            "duration_ms": job.duration,
        }
    written = {
        "time": datetime.fromtimestamp(event["log_time"], timezone.utc).isoformat(timespec="milliseconds"),
        "level": event["log_level"].name,
        "worker": worker,
        "namespace": event["log_namespace"],
        "message": formatEvent(event),
        "job_id": event.get("job_id"),
        "runtime_id": event.get("runtime_id"),
        "traceback": _traceback(event),
        **finished,
    }
    return json.dumps({name: value for name, value in written.items() if value is not None}) + "\n"


def _traceback(event: LogEvent) -> str | None:
    failure = event.get("log_failure")
    return failure.getTraceback() if isinstance(failure, Failure) else None
