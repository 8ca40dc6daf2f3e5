"""Two functions for the official Python SDK, which starts to serve them when the script ends."""

import time
from collections.abc import Iterable
from dataclasses import dataclass

from compute_modules.annotations import function


@dataclass
class AddInput:
    """The query of ``add``."""

    a: int
    b: int


@dataclass
class CountdownInput:
    """The query of ``countdown``."""

    start: int


@function
def add(context, event: AddInput) -> int:  # type: ignore[no-untyped-def]
    """Add two numbers."""
    return event.a + event.b


@function(streaming=True)
def countdown(context, event: CountdownInput) -> Iterable[int]:  # type: ignore[no-untyped-def]
    """Stream the numbers down to one, five a second."""
    for number in range(event.start, 0, -1):
        yield number
        time.sleep(0.2)
