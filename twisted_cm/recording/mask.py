"""Which values of a job does a recording hide?"""

from __future__ import annotations

import json
import math
import re

from ..model.types import JSONValue

#: Replaces the value of a secret.
MASK = "***"

#: Matches names of fields that hold secrets, in lower case and without separators.
_SECRET = re.compile(
    "passw(or)?d|pwd|passphrase|secret|credential|authorization|authheader|^auth$|bearer|cookie|jwt|sessionid"
    "|(api|access|private|signing|encryption)key"
)

#: Matches names of fields that hold secrets unless the value is a number: ``max_tokens`` is a count.
_SECRET_UNLESS_NUMBER = re.compile("token")

#: The most digits of a whole number that Python reads and writes by default, less some.
_MOST_DIGITS = 4000

_SPACE = re.compile(r"[ \t\r\n]*")


class _Masking:
    """Masks objects while they are parsed; ``masked`` says whether any had a secret."""

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


def is_masked(value: JSONValue) -> bool:
    """Return whether :data:`MASK` stands in place of a secret somewhere in a value."""
    if isinstance(value, dict):
        return any((each == MASK and _is_secret(name, each)) or is_masked(each) for name, each in value.items())
    return isinstance(value, list) and any(map(is_masked, value))


def mask_query(query: JSONValue) -> JSONValue:
    """Return a copy of a query in which :data:`MASK` replaces every secret.

    Raises:
        RecursionError: The query is nested too deeply.
    """
    return mask_json(json.dumps(query))


def mask_json(query: bytes | str) -> JSONValue:
    """Return the value of a query, which is JSON, with :data:`MASK` instead of every secret.

    A number that Python cannot compute with becomes a string.

    Raises:
        RecursionError: The query is nested too deeply.
    """
    return json.loads(query, object_pairs_hook=_Masking(), parse_int=_whole_number, parse_float=_number)


def _whole_number(digits: str) -> int | str:
    return int(digits) if len(digits) <= _MOST_DIGITS else digits


def _number(text: str) -> float | str:
    number = float(text)
    return number if math.isfinite(number) else text


def mask_text(text: str) -> str:
    """Mask the secrets in a text of JSON values, one after another.

    A text that is not JSON, or has no secret, is returned unchanged. Otherwise the result has one value on each line.

    Raises:
        RecursionError: A value is nested too deeply.
    """
    masking = _Masking()
    decoder = json.JSONDecoder(object_pairs_hook=masking)
    values: list[JSONValue] = []
    position = _after_space(text, 0)
    try:
        while position < len(text):
            value, end = decoder.raw_decode(text, position)
            values.append(value)
            position = _after_space(text, end)
    except ValueError:
        return text
    return "\n".join(json.dumps(value, ensure_ascii=False) for value in values) if masking.masked else text


def _after_space(text: str, position: int) -> int:
    space = _SPACE.match(text, position)
    assert space is not None
    return space.end()
