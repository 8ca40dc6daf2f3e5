"""Values of parameters and results on their way between the public API and a module (functions API, section 2).

On their way in, values are checked: what does not fit its type is refused. On their way out, a value that does not fit
stays as it is, because the SDKs post a type even for a function that declares none.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date, datetime, timezone
from typing import Any, TypeAlias

from attrs import frozen
from typing_extensions import Self

from ...model.types import JSONValue
from ..json_body import to_json
from ..violations import pointer_step

#: Converts a value. On its way in, it raises :class:`Unfit`.
Convert: TypeAlias = Callable[[JSONValue], JSONValue]

_LONG = re.compile(r"-?[0-9]{1,19}", re.ASCII)
_DATE = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_DECIMAL = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?", re.ASCII)
_TIMESTAMP = re.compile(r"(\d{4}-\d\d-\d\d)[Tt](\d\d:\d\d)(:\d\d)?(\.\d{1,9})?([Zz]|[+-]\d\d:?\d\d)", re.ASCII)
_NOT_FINITE = ("NaN", "Infinity", "-Infinity")

#: The most characters of a value that an error repeats.
_SHOWN = 60


class Unfit(Exception):
    """A value that is not of its type.

    Attributes:
        why: What is wrong, as a sentence without its subject.
        pointer: Where in the value, as a JSON pointer.
    """

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why
        self.pointer = ""


class ExactNumber(float):
    """A number with a fraction, and how it was written: a decimal may have more digits than a float.

    Attributes:
        text: The number, as JSON.
    """

    text: str

    def __new__(cls, text: str) -> Self:
        """Read a number of JSON."""
        made = super().__new__(cls, text)
        made.text = text
        return made


@frozen
class Conversion:
    """How the values of one type are converted.

    Attributes:
        inward: Checks a value of the API, and returns it as the module reads it.
        outward: Returns a value of the module as the API has it.
        same: Whether the module and the API write the values alike.
        looks_right: Returns whether a value of the module may be of the type, by its kind alone: that of the first
            element of an array, and so on.
        is_exact: Whether there are decimals in it, whose numbers have to be read as :class:`ExactNumber`.
    """

    inward: Convert
    outward: Convert
    same: bool
    looks_right: Callable[[JSONValue], bool]
    is_exact: bool = False


def conversion(data_type: JSONValue) -> Conversion:
    """Return how the values of a type are converted.

    Args:
        data_type: The type as a module posts it, in Foundry's form.
    """
    kind = data_type["type"]
    simple = _SIMPLE.get(kind)
    if simple is not None:
        return simple
    if kind in ("list", "set"):
        return array_of(conversion(data_type[kind]["elementsType"]))
    if kind == "map":
        keys, values = data_type["map"]["keysType"], data_type["map"]["valuesType"]
        return _entries(conversion(keys), keys["type"], conversion(values))
    if kind == "optionalType":
        return _optional(conversion(data_type["optionalType"]["wrappedType"]))
    if kind == "anonymousCustomType":
        fields = data_type["anonymousCustomType"]["fields"]
        optional = {name for name, each in fields.items() if each["type"] == "optionalType"}
        return _struct({name: conversion(each) for name, each in fields.items()}, optional)
    return ANY


def _refuse(value: JSONValue, expected: str) -> Unfit:
    shown = to_json(value).decode("utf-8", "replace")
    return Unfit(f"must be {expected}, not {shown if len(shown) <= _SHOWN else shown[:_SHOWN] + '…'}")


@contextmanager
def _below(step: int | str) -> Iterator[None]:
    """Have errors say that they are about a part of a value."""
    try:
        yield
    except Unfit as error:
        error.pointer = pointer_step(step) + error.pointer
        raise


# Simple types


def _as_it_is(value: JSONValue) -> JSONValue:
    return value


def _of_kind(kind: type, expected: str) -> Conversion:
    def inward(value: JSONValue) -> JSONValue:
        if type(value) is not kind:
            raise _refuse(value, expected)
        return value

    return Conversion(inward, _as_it_is, True, lambda value: type(value) is kind)


def _whole(bits: int, name: str) -> Conversion:
    least, most = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1

    def inward(value: JSONValue) -> JSONValue:
        if type(value) is not int or not least <= value <= most:
            raise _refuse(value, f"{name} from {least} to {most}")
        return value

    return Conversion(inward, _as_it_is, True, _is_whole)


def _is_whole(value: JSONValue) -> bool:
    return type(value) is int


def _long_inward(value: JSONValue) -> JSONValue:
    number = value
    if isinstance(value, str) and _LONG.fullmatch(value):
        number = int(value)
    if type(number) is not int or not -(2**63) <= number < 2**63:
        raise _refuse(value, f"a long, which is a string of digits from {-(2**63)} to {2**63 - 1}")
    return number


def _long_outward(value: JSONValue) -> JSONValue:
    return str(value) if type(value) is int else value


def _is_plain_number(value: JSONValue) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _number_inward(value: JSONValue) -> JSONValue:
    if not _is_number(value):
        raise _refuse(value, "a number")
    return value


def _number_outward(value: JSONValue) -> JSONValue:
    """Write what JSON has no number for, but Python's writer has, as the API does."""
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


def _is_number(value: JSONValue) -> bool:
    return _is_plain_number(value) or (isinstance(value, str) and value in _NOT_FINITE)


def _decimal_inward(value: JSONValue) -> JSONValue:
    text = _decimal_outward(value)
    if not isinstance(text, str) or _DECIMAL.fullmatch(text) is None:
        raise _refuse(value, "a decimal number in a string")
    return text


def _decimal_outward(value: JSONValue) -> JSONValue:
    if isinstance(value, ExactNumber):
        return value.text
    return str(value) if _is_plain_number(value) else value


def _date_inward(value: JSONValue) -> JSONValue:
    try:
        if isinstance(value, str) and _DATE.fullmatch(value):
            date.fromisoformat(value)
            return value
    except ValueError:
        pass
    raise _refuse(value, "a date such as 2021-05-01")


def _timestamp_inward(value: JSONValue) -> JSONValue:
    """Return the time in UTC, in the two forms that the Python SDK reads: with a fraction of a second, or without."""
    found = _TIMESTAMP.fullmatch(value) if isinstance(value, str) else None
    try:
        if found is not None:
            day, minute, second, fraction, zone = found.groups()
            zone = "+00:00" if zone in "Zz" else zone if ":" in zone else f"{zone[:3]}:{zone[3:]}"
            time = datetime.fromisoformat(f"{day}T{minute}{second or ':00'}{zone}").astimezone(timezone.utc)
            return f"{time:%Y-%m-%dT%H:%M:%S}".rjust(19, "0") + f"{(fraction or '')[:7]}Z"
    except (ValueError, OverflowError):
        pass
    raise _refuse(value, "a time such as 2021-05-01T05:00:00Z")


def _is_text(value: JSONValue) -> bool:
    return isinstance(value, str)


#: For types that nobody can check, and for functions that declare none.
ANY = Conversion(_as_it_is, _number_outward, True, lambda value: True)

_NUMBER = Conversion(_number_inward, _number_outward, True, _is_number)
_TEXT = _of_kind(str, "a string")

_SIMPLE: dict[str, Conversion] = {
    "boolean": _of_kind(bool, "true or false"),
    "byte": _whole(8, "a byte"),
    "short": _whole(16, "a short"),
    "integer": _whole(32, "an integer"),
    "long": Conversion(_long_inward, _long_outward, False, _is_whole),
    "float": _NUMBER,
    "double": _NUMBER,
    "decimal": Conversion(
        _decimal_inward, _decimal_outward, False, lambda value: _is_number(value) or _is_text(value), is_exact=True
    ),
    "string": _TEXT,
    "binary": _TEXT,
    "date": Conversion(_date_inward, _as_it_is, True, _is_text),
    "timestamp": Conversion(_timestamp_inward, _as_it_is, False, _is_text),
}


# Types that hold others


def _optional(wrapped: Conversion) -> Conversion:
    def inward(value: JSONValue) -> JSONValue:
        return None if value is None else wrapped.inward(value)

    def outward(value: JSONValue) -> JSONValue:
        return None if value is None else wrapped.outward(value)

    return Conversion(
        inward, outward, wrapped.same, lambda value: value is None or wrapped.looks_right(value), wrapped.is_exact
    )


def array_of(element: Conversion) -> Conversion:
    """Return how arrays are converted whose elements have a type."""

    def inward(value: JSONValue) -> JSONValue:
        if not isinstance(value, list):
            raise _refuse(value, "an array")
        found = []
        try:
            for each in value:
                found.append(element.inward(each))
        except Unfit as error:
            error.pointer = pointer_step(len(found)) + error.pointer
            raise
        return found

    def outward(value: JSONValue) -> JSONValue:
        return [element.outward(each) for each in value] if isinstance(value, list) else value

    def looks_right(value: JSONValue) -> bool:
        return isinstance(value, list) and all(map(element.looks_right, value[:1]))

    return Conversion(inward, outward, element.same, looks_right, element.is_exact)


def _struct(fields: dict[str, Conversion], optional: set[str]) -> Conversion:
    required = fields.keys() - optional

    def inward(value: JSONValue) -> JSONValue:
        if not isinstance(value, dict):
            raise _refuse(value, f"an object with the fields {', '.join(fields)}")
        if not required <= value.keys():
            raise Unfit(f"must have the fields {', '.join(sorted(required - value.keys()))}")
        if not value.keys() <= fields.keys():
            unknown = sorted(value.keys() - fields.keys())
            raise Unfit(f"must not have the fields {', '.join(unknown)[:_SHOWN]}; it may have {', '.join(fields)}")
        found = {}
        for name, each in value.items():
            with _below(name):
                found[name] = fields[name].inward(each)
        return found

    def outward(value: JSONValue) -> JSONValue:
        if not isinstance(value, dict):
            return value
        return {name: fields[name].outward(each) if name in fields else each for name, each in value.items()}

    same = all(each.same for each in fields.values())
    is_exact = any(each.is_exact for each in fields.values())
    return Conversion(inward, outward, same, lambda value: isinstance(value, dict), is_exact)


def _entries(keys: Conversion, key_kind: str, values: Conversion) -> Conversion:
    """Return the conversion of maps: an array of entries in the API, an object for the module."""

    def inward_key(key: JSONValue) -> str:
        if isinstance(key, str) and key_kind in _KEYS:
            # OSDK writes each key as a string.
            try:
                key = _KEYS[key_kind](key)
            except ValueError:
                raise _refuse(key, f"a key of type {key_kind}") from None
        key = keys.inward(key)
        return key if isinstance(key, str) else to_json(key).decode("ascii")

    def inward(value: JSONValue) -> JSONValue:
        if isinstance(value, dict):
            value = [{"key": key, "value": each} for key, each in value.items()]
        if not isinstance(value, list):
            raise _refuse(value, "an array of entries with key and value")
        found: dict[str, JSONValue] = {}
        for index, entry in enumerate(value):
            with _below(index):
                if not isinstance(entry, dict) or entry.keys() != {"key", "value"}:
                    raise _refuse(entry, "an object with key and value")
                with _below("key"):
                    key = inward_key(entry["key"])
                if key in found:
                    raise Unfit(f"must not have the key {key[:_SHOWN]} twice")
                with _below("value"):
                    found[key] = values.inward(entry["value"])
        return found

    def outward(value: JSONValue) -> JSONValue:
        if not isinstance(value, dict):
            return value
        return [{"key": outward_key(key), "value": values.outward(each)} for key, each in value.items()]

    def outward_key(name: str) -> JSONValue:
        read = _KEYS.get(key_kind)
        try:
            return name if read is None else keys.outward(read(name))
        except ValueError:
            return name

    is_exact = keys.is_exact or values.is_exact
    return Conversion(inward, outward, False, lambda value: isinstance(value, dict), is_exact)


def _truth(name: str) -> bool:
    if name.lower() not in ("true", "false"):
        raise ValueError(name)
    return name.lower() == "true"


def _whole_number(name: str) -> int:
    if _LONG.fullmatch(name) is None:
        raise ValueError(name)
    return int(name)


def _number(name: str) -> float | str:
    if name in _NOT_FINITE:
        return name
    if _DECIMAL.fullmatch(name) is None or not math.isfinite(float(name)):
        raise ValueError(name)
    return float(name)


#: How the keys of an object are read that are no strings in the API.
_KEYS: dict[str, Callable[[str], Any]] = {
    "boolean": _truth,
    "byte": _whole_number,
    "short": _whole_number,
    "integer": _whole_number,
    "float": _number,
    "double": _number,
}
