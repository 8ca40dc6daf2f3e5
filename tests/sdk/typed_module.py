"""A compute module on the official Python SDK, with a function for each type that the SDK can post.

Functions named after a type return the value that they got. The SDK cannot serialize sets, decimals and bytes, so their
functions return what modules return in their place: lists and strings.
"""

import datetime
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, make_dataclass
from decimal import Decimal
from pathlib import Path

from compute_modules.annotations import function
from compute_modules.function_registry.types import Byte, Double, Long, Short


@dataclass
class Point:
    x: float
    label: str
    id: Long
    seen: datetime.datetime
    note: str | None = None


@dataclass
class Route:
    name: str
    start: Point
    stops: list[Point]
    weights: dict[str, Long]
    end: str | None = None


def echo(name, kind, result=lambda value: value):
    """Register a function that takes a ``value`` of a type, and returns it in a form that the SDK can serialize."""

    def run(context, event):
        return result(event.value)

    run.__name__ = name
    run.__annotations__ = {"event": make_dataclass(name.title(), [("value", kind)]), "return": kind}
    function(run)


echo("boolean", bool)
echo("integer", int)
echo("long", Long)
echo("float", float)
echo("double", Double)
echo("string", str)
echo("date", datetime.date)
echo("timestamp", datetime.datetime)
echo("decimal", Decimal, str)
echo("binary", bytes, bytes.decode)
echo("byte", Byte)
echo("short", Short)
echo("list", list[Long])
echo("set", set[str], sorted)
echo("map", dict[str, Long])
echo("map_of_integers", dict[int, str])
echo("optional", Long | None)
echo("struct", Point)
echo("nested", Route)


@dataclass
class Everything:
    boolean: bool
    integer: int
    long: Long
    double: Double
    string: str
    date: datetime.date
    timestamp: datetime.datetime
    decimal: Decimal
    binary: bytes
    longs: list[Long]
    names: set[str]
    numbers: dict[int, Long]
    point: Point
    nothing: Long | None
    size: int = 3
    tags: list[str] = field(default_factory=list)


@function
def everything(context, event: Everything) -> dict[str, str]:
    """Return what each parameter is to the module."""
    return {name: repr(value) for name, value in vars(event).items()}


@dataclass
class Order:
    size: int
    customer: str
    note: str | None = None
    copies: int = 1


@function
def order(context, event: Order) -> str:
    return f"{event.customer}: {event.copies} x {event.size}, {event.note}"


@function
def nothing(context, event) -> str:
    return "called"


@function
def untyped(context, event):
    return {"echo": event, "user": context["userId"]}


@dataclass
class Count:
    to: int
    gate: str | None = None


def wait_for(path):
    """Wait until a file is there, at most 60 seconds."""
    deadline = time.monotonic() + 60
    while not Path(path).exists():
        assert time.monotonic() < deadline, f"{path} never came"
        time.sleep(0.01)


@function(streaming=True)
def count(context, event: Count) -> Iterable[int]:
    """Yield the numbers up to ``to``; wait for a file after the first, if one is named."""
    for number in range(1, event.to + 1):
        yield number
        if number == 1 and event.gate is not None:
            wait_for(event.gate)


@function(streaming=True)
def long_numbers(context, event: Count) -> Iterable[Long]:
    yield from (2**60 + number for number in range(event.to))


@function(streaming=True)
def points(context, event: Count) -> Iterable[Point]:
    """Yield objects; the SDK serializes no dataclasses in a stream."""
    for number in range(event.to):
        yield asdict(Point(number / 2, f"no {number}", Long(2**60 + number), "2021-05-01T05:00:00Z", None))


@function(streaming=True)
def breaks(context, event: Count) -> Iterable[int]:
    """Yield numbers, wait for a file, if one is named, and yield something that the SDK cannot serialize."""
    yield from range(event.to)
    if event.gate is not None:
        wait_for(event.gate)
    yield object()


@dataclass
class Message:
    message: str


@function
def raises(context, event: Message) -> str:
    raise ValueError(event.message)


@function
def lies(context, event: Message) -> int:
    """Return something else than what the schema says."""
    return event.message


@function(streaming=True)
def silent(context, event) -> int:
    """Yield nothing, although the schema says that a number is returned."""
    yield from ()


class UserFacingError(Exception):
    """An error whose message is for the user, under the name that it has in Foundry's functions."""


@function
def apologizes(context, event: Message) -> str:
    raise UserFacingError(event.message)


@dataclass
class Wait:
    gate: str
    name: str
    started: str | None = None


@function
def waits(context, event: Wait) -> str:
    """Return the name once a file is there."""
    if event.started is not None:
        Path(event.started).touch()
    wait_for(event.gate)
    return event.name
