"""What is wrong in a JSON body, and where."""

from __future__ import annotations

from collections.abc import Iterable

from attrs import frozen
from jsonschema import ValidationError

#: The most characters of a message; jsonschema repeats the value that is wrong.
_LONGEST_MESSAGE = 300


@frozen
class Violation:
    """One thing that is wrong in a JSON body.

    Attributes:
        pointer: Where, as a JSON pointer (RFC 6901).
        message: What.
    """

    pointer: str
    message: str

    def __str__(self) -> str:
        return f"{self.pointer or '/'}: {self.message}"


def pointer_to(path: Iterable[str | int]) -> str:
    """Return the JSON pointer (RFC 6901) for a path into a JSON value."""
    return "".join(pointer_step(part) for part in path)


def pointer_step(part: str | int) -> str:
    """Return one step of a JSON pointer: a slash and an escaped key or index."""
    return "/" + str(part).replace("~", "~0").replace("/", "~1")


def violation_of(error: ValidationError) -> Violation:
    """Return what jsonschema found as a violation."""
    return Violation(pointer_to(error.absolute_path), error.message[:_LONGEST_MESSAGE])
