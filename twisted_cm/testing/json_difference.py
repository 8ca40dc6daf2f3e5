"""Find where two JSON values differ."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator

from attrs import frozen

from ..model.types import JSONValue

#: Matches any member or element in a step of a pointer.
ANY = "*"

#: Stands in place of a member or an element that one of the values does not have.
MISSING = object()

_MOST_CHARACTERS = 300


@frozen
class Difference:
    """One place where a value is not the expected one.

    Attributes:
        pointer: The place, as a JSON pointer; empty for the whole value.
        recorded: The expected value, for people.
        found: The value, for people.
    """

    pointer: str
    recorded: str
    found: str


class Ignored:
    """The places that a comparison leaves out: JSON pointers, in which ``*`` matches any member or element."""

    def __init__(self, pointers: Iterable[str]) -> None:
        """Parse the pointers.

        Raises:
            ValueError: A pointer is not valid.
        """
        if isinstance(pointers, str):
            raise ValueError(f"ignore takes a list of JSON pointers; write [{pointers!r}]")
        self._steps = [_steps(each) for each in pointers]

    def differences(self, recorded: JSONValue, found: JSONValue) -> Iterator[Difference]:
        """Compare two values; yield each place where they differ and that is not left out."""
        yield from _compare(recorded, found, "", self._steps)


def _steps(pointer: str) -> list[str]:
    if not pointer.startswith("/"):
        raise ValueError(f"'{pointer}' is not a JSON pointer to a part of the result. It must start with '/'.")
    return [_unescape(each) for each in pointer[1:].split("/")]


def _unescape(step: str) -> str:
    return step.replace("~1", "/").replace("~0", "~")


def _escape(step: str) -> str:
    return step.replace("~", "~0").replace("/", "~1")


def _compare(recorded: JSONValue, found: JSONValue, pointer: str, ignored: list[list[str]]) -> Iterator[Difference]:
    if isinstance(recorded, dict) and isinstance(found, dict):
        # In the order of the recorded value; what is new comes last.
        pairs = [(name, recorded.get(name, MISSING), found.get(name, MISSING)) for name in {**recorded, **found}]
    elif isinstance(recorded, list) and isinstance(found, list):
        length = max(len(recorded), len(found))
        pairs = [(str(index), _element(recorded, index), _element(found, index)) for index in range(length)]
    else:
        if not _same(recorded, found):
            yield Difference(pointer, describe(recorded), describe(found))
        return
    for step, before, after in pairs:
        rest = [each[1:] for each in ignored if each[0] in (ANY, step)]
        if [] not in rest:
            yield from _compare(before, after, f"{pointer}/{_escape(step)}", rest)


def _element(values: list[JSONValue], index: int) -> JSONValue:
    return values[index] if index < len(values) else MISSING


def _same(recorded: JSONValue, found: JSONValue) -> bool:
    if recorded is MISSING or found is MISSING:
        return recorded is found
    if isinstance(recorded, bool) or isinstance(found, bool):
        # To Python, 1 is True.
        return recorded is found
    # NaN is not equal to itself, but is written in the same way.
    return bool(recorded == found) or json.dumps(recorded) == json.dumps(found)


def describe(value: JSONValue) -> str:
    """Return a value on one line, for people."""
    if value is MISSING:
        return "(missing)"
    return shortened(json.dumps(value, ensure_ascii=False))


def shortened(text: str) -> str:
    """Return a text without what is beyond the most characters that are shown."""
    return text if len(text) <= _MOST_CHARACTERS else f"{text[:_MOST_CHARACTERS]}… ({len(text)} characters)"
