"""
What the log looks like: a line for each event, for people or for programs.

Of an event's fields only its message and the ids in it are written, so that
what an event carries besides does not come to light.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterable
from datetime import datetime, timezone
from typing import IO, Any, TypeAlias

import click
from twisted.logger import (
    FileLogObserver,
    FilteringLogObserver,
    ILogObserver,
    InvalidLogLevelError,
    LogEvent,
    LogLevel,
    LogLevelFilterPredicate,
    formatEvent,
    globalLogBeginner,
)
from twisted.python.failure import Failure

#: How the log may look, the first by default.
FORMATS = ("text", "json")


#: Where more of C{--log-level} may stand, separated by spaces.
LEVELS_VARIABLE = "TWISTED_CM_LOG_LEVEL"


#: What is logged unless more or less is asked for, by namespace.
_DEFAULT_LEVELS = (("", LogLevel.info), ("twisted", LogLevel.warn), ("log_legacy", LogLevel.warn))


#: A logger of a class has its name at the end of the namespace.
_CLASS = re.compile(r"\._?[A-Z]\w*$")


_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")


#: A namespace, empty for all of them, and the lowest of the levels of L{LogLevel} that is logged there.
Level: TypeAlias = tuple[str, Any]


def parse_level(value: str) -> Level:
    """
    @param value: a C{--log-level}: C{LEVEL}, or C{NAMESPACE=LEVEL}.
    @raise click.BadParameter: there is no such level.
    """
    namespace, _, level = value.rpartition("=")
    try:
        return namespace, LogLevel.levelWithName(level)
    except InvalidLogLevelError:
        known = ", ".join(each.name for each in LogLevel.iterconstants())
        raise click.BadParameter(f"{level!r} is no level; there are {known}.") from None


def log_observer(written: IO[Any], kind: str, levels: Iterable[Level] = ()) -> ILogObserver:
    """
    @param written: what the lines are written to.
    @param kind: one of L{FORMATS}.
    @param levels: in place of the default ones.
    @return: writes events as lines.
    """
    line = json_line if kind == "json" else text_line
    return FilteringLogObserver(FileLogObserver(written, line), [_predicate(levels)])


def _predicate(levels: Iterable[Level]) -> LogLevelFilterPredicate:
    predicate = LogLevelFilterPredicate()
    for namespace, level in (*_DEFAULT_LEVELS, *levels):
        predicate.setLogLevelForNamespace(namespace, level)
    return predicate


#: The levels of this process's own log, where it has one.
_own_levels: list[LogLevelFilterPredicate] = []


def debug_is_logged(namespace: str) -> bool:
    """
    @return: whether anybody may want events of level debug: not so where the
        log is this module's and has them left out.
    """
    return not _own_levels or _own_levels[-1].logLevelForNamespace(namespace) <= LogLevel.debug


def begin_log(written: IO[Any], kind: str, levels: Iterable[Level] = ()) -> None:
    """Write the log of this process, as L{log_observer} does, to C{written}."""
    levels = tuple(levels)
    _own_levels.append(_predicate(levels))
    globalLogBeginner.beginLoggingTo([log_observer(written, kind, levels)], redirectStandardIO=False)


def json_log() -> ILogObserver:
    """
    @return: writes the log to standard output as JSON; for C{twistd --logger}.
    """
    levels = map(parse_level, os.environ.get(LEVELS_VARIABLE, "").split())
    return log_observer(sys.stdout, "json", levels)


def text_line(event: LogEvent) -> str:
    """
    @return: the event for people: one line, and its traceback below if it has one.
    """
    time = datetime.fromtimestamp(event["log_time"]).isoformat(" ", "milliseconds")
    namespace = _CLASS.sub("", event["log_namespace"].removeprefix("twisted_cm."))
    message = _CONTROL.sub(lambda found: repr(found[0])[1:-1], formatEvent(event))
    line = f"{time} {event['log_level'].name:8} {namespace}: {message}\n"
    return line + "".join(f"    {each}\n" for each in (_traceback(event) or "").splitlines())


def json_line(event: LogEvent) -> str:
    """
    @return: the event for programs: a JSON object in one line.
    """
    written = {
        "time": datetime.fromtimestamp(event["log_time"], timezone.utc).isoformat(timespec="milliseconds"),
        "level": event["log_level"].name,
        "namespace": event["log_namespace"],
        "message": formatEvent(event),
        "job_id": event.get("job_id"),
        "runtime_id": event.get("runtime_id"),
        "traceback": _traceback(event),
    }
    return json.dumps({name: value for name, value in written.items() if value is not None}) + "\n"


def _traceback(event: LogEvent) -> str | None:
    failure = event.get("log_failure")
    return failure.getTraceback() if isinstance(failure, Failure) else None
