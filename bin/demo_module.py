"""The compute module of the demo: two functions on the official Python SDK, which runs them when the script ends."""

import time
from collections.abc import Iterable
from dataclasses import dataclass

from compute_modules.annotations import function


@dataclass
class AddInput:
    """What C{add} takes."""

    a: int
    b: int


@dataclass
class CountdownInput:
    """What C{countdown} takes."""

    start: int


@function
def add(context, event: AddInput) -> int:  # type: ignore[no-untyped-def]
    """Add two numbers."""
    return event.a + event.b


@function(streaming=True)
def countdown(context, event: CountdownInput) -> Iterable[int]:  # type: ignore[no-untyped-def]
    """Count down to one, slowly, a number at a time."""
    for number in range(event.start, 0, -1):
        yield number
        time.sleep(0.2)
