"""How the emulator reads JSON: in UTF-8, with each key once, without NaN, and not nested too deeply."""

from __future__ import annotations

import json
import math

import orjson

from ..model.types import JSONValue
from .errors import invalid_request
from .json_fields import MOST_LEVELS, TOO_DEEP


def parse_json(body: bytes) -> JSONValue:
    """Return the value of a JSON body.

    Raises:
        ApiError: 400; it says what is wrong and where.
    """
    try:
        value = _DECODER.decode(body.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise invalid_request("The request body is not UTF-8.", position=error.start) from None
    except json.JSONDecodeError as error:
        raise invalid_request(
            f"The request body is not JSON: {error.msg}.", line=error.lineno, column=error.colno
        ) from None
    except (RecursionError, ValueError) as error:
        raise invalid_request(f"The request body is not JSON that can be read: {error}.") from None
    if _deeper_than(MOST_LEVELS, value):
        raise invalid_request(TOO_DEEP)
    return value


def to_json(value: JSONValue) -> bytes:
    """Return a value as JSON."""
    try:
        return orjson.dumps(value)
    except TypeError:
        # orjson refuses integers of more than 64 bits and lone surrogates, which JSON can only express escaped.
        return json.dumps(value).encode("ascii")


def _deeper_than(levels: int, value: JSONValue) -> bool:
    """Return whether a value has too many levels. Some values can be parsed, but are too deep to write or check."""
    level: list[JSONValue] = [[value]]
    for _ in range(levels + 1):
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, (dict, list))
        ]
        if not level:
            return False
    return True


def finite_float(text: str) -> float:
    """Read a number with a fraction or an exponent.

    Raises:
        ValueError: It is too large for a float.
    """
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"{text[:20]} is larger than a number can be")
    return number


def _each_key_once(pairs: list[tuple[str, JSONValue]]) -> dict[str, JSONValue]:
    """Refuse an object that has a key twice; one of the values would be lost."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("an object has a key twice")
    return found


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON value")


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant, parse_float=finite_float, object_pairs_hook=_each_key_once)
