"""How values are written to Redis and read back."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeVar

from ...model.types import JSONValue

T = TypeVar("T")

#: The number of values passed to one operation at most.
MOST_VALUES = 1000


def in_pieces(values: Sequence[T]) -> Iterator[Sequence[T]]:
    """Yield the values, as many at a time as one operation takes."""
    for start in range(0, len(values), MOST_VALUES):
        yield values[start : start + MOST_VALUES]


def text(value: bytes | str) -> str:
    """Return as text what Redis returned (bytes) or published (a string with surrogate escapes)."""
    if isinstance(value, str):
        if value.isascii():
            return value
        value = value.encode("utf-8", "surrogateescape")
    return value.decode("utf-8", "surrogatepass")


def content(value: bytes | str) -> bytes:
    """Return as bytes what Redis returned (bytes) or published (a string with surrogate escapes)."""
    return value.encode("utf-8", "surrogateescape") if isinstance(value, str) else value


def raw_pairs(flat: Sequence[bytes | str]) -> dict[bytes, bytes]:
    """Return the fields of a hash like :func:`pairs`, as bytes."""
    parts: Iterator[Any] = iter(flat) if flat and isinstance(flat[0], bytes) else map(content, flat)
    return dict(zip(parts, parts, strict=True))


def pairs(flat: Iterable[bytes | str]) -> dict[str, str]:
    """Return the fields of a hash, which Redis returns as a flat list of names and values."""
    parts = iter(map(text, flat))
    return dict(zip(parts, parts, strict=True))


def to_json(value: JSONValue) -> str:
    """Return JSON in ASCII, in which a lone surrogate can be written too."""
    return json.dumps(value, separators=(",", ":"))
