"""Where the fields of a JSON object are in its bytes, without a Python object for each value in it.

The worker processes import this module, so it imports little.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Mapping
from itertools import accumulate
from typing import TypeAlias

import msgspec
import orjson

#: The most levels of arrays and objects in a JSON body.
MOST_LEVELS = 200

#: What is said of a body with more levels.
TOO_DEEP = f"The request body is nested more than {MOST_LEVELS} levels deep."

#: Bytes of text that are checked for UTF-8 in one step.
_STEP = 1024 * 1024

#: How many levels of brackets are removed at once before the rest is counted one by one.
_LEVELS_AT_ONCE = 8

#: The fields of an object: where the value of each begins and ends.
Spans: TypeAlias = dict[str, tuple[int, int]]

_DECODER = msgspec.json.Decoder(dict[str, msgspec.Raw])

#: A member of an object up to its value, in a text that is known to be JSON.
_TO_VALUE = re.compile(rb'[ \t\n\r]*[{,][ \t\n\r]*"[^"\\]*(?:\\.[^"\\]*)*"[ \t\n\r]*:[ \t\n\r]*')
_STRING = re.compile(rb'"[^"]*"')
_MEMBERS_END = re.compile(rb"[ \t\n\r]*\}[ \t\n\r]*\Z")

#: Begins an escape of half a surrogate pair. JSON may have one alone, but msgspec refuses that.
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")

#: Where in the text msgspec found an error.
_POSITION = re.compile(r" \(byte (\d+)\)$")

#: Deletes everything but brackets and quotes, and makes all brackets square.
_SQUARE = bytes.maketrans(b"{}", b"[]")
_NO_BRACKETS = bytes(set(range(256)) - set(b'[]{}"'))


class NotReadable(Exception):
    """A text that is not JSON, or that nobody would want to read.

    Attributes:
        parameters: Where it is wrong.
    """

    def __init__(self, message: str, parameters: Mapping[str, int] | None = None) -> None:
        super().__init__(message)
        self.parameters = dict(parameters or {})


def find_fields(text: bytes) -> Spans:
    """Check a JSON object, and find the value of each of its fields.

    Values may have repeated keys and numbers of any size; the keys of the object itself are unique.

    Raises:
        NotReadable: The text is not a JSON object in UTF-8, has a key twice, or is nested more than
            :data:`MOST_LEVELS` levels deep.
    """
    _check_utf_8(text)
    if _is_deeper(text, MOST_LEVELS):
        raise NotReadable(TOO_DEEP)
    try:
        return _spans(text, _decode(text))
    except RecursionError:
        raise NotReadable(TOO_DEEP) from None
    except msgspec.ValidationError:
        raise NotReadable("The request body must be a JSON object.") from None
    except msgspec.DecodeError as error:
        raise _malformed(text, str(error)) from None


def _check_utf_8(text: bytes) -> None:
    if text.isascii():
        return
    # One string of all the text could take four times as much memory as the text.
    decoder = codecs.getincrementaldecoder("utf-8")()
    for start in range(0, len(text), _STEP):
        kept = len(decoder.getstate()[0])
        try:
            decoder.decode(text[start : start + _STEP], start + _STEP >= len(text))
        except UnicodeDecodeError as error:
            raise NotReadable("The request body is not UTF-8.", {"position": start - kept + error.start}) from None


def _is_deeper(text: bytes, levels: int) -> bool:
    """Return whether arrays and objects are nested more than ``levels`` deep in a text, which may not be JSON."""
    if text.count(b"[") + text.count(b"{") <= levels:
        return False
    # In this order: a backslash that is escaped itself does not escape a quote.
    brackets = text.replace(b"\\\\", b"").replace(b'\\"', b"").translate(_SQUARE, _NO_BRACKETS)
    brackets = _STRING.sub(b"", brackets)
    for _ in range(_LEVELS_AT_ONCE):
        if len(brackets) <= 2 * levels:
            return False
        brackets = brackets.replace(b"[]", b"")
        levels -= 1
    return max(accumulate(1 if each == 0x5B else -1 for each in brackets), default=0) > levels


def _decode(text: bytes) -> dict[str, msgspec.Raw]:
    try:
        return _DECODER.decode(text)
    except msgspec.ValidationError:
        raise
    except msgspec.DecodeError:
        # Escapes of other characters take their place. The text keeps its length, so that positions stay true.
        paired = _SURROGATE.sub(rb"\\u00", text)
        if paired == text:
            raise
    return _DECODER.decode(paired)


def _spans(text: bytes, values: dict[str, msgspec.Raw]) -> Spans:
    """Find where in the text the values are.

    The text is known to be a JSON object. If it has a key twice, it has more members than there are values.
    """
    found: Spans = {}
    position = 0
    for key, raw in values.items():
        member = _TO_VALUE.match(text, position)
        if member is None:
            break
        start = member.end()
        position = start + memoryview(raw).nbytes
        found[key] = (start, position)
    if values and _MEMBERS_END.match(text, position) is None:
        raise NotReadable("The request body is not JSON that can be read: an object has a key twice.")
    return found


def _malformed(text: bytes, problem: str) -> NotReadable:
    """Describe an error of msgspec, with the line and the column where it found it."""
    found = _POSITION.search(problem)
    position = int(found[1]) if found else len(text)
    what = problem[: found.start()] if found else "it ends too early"
    line_start = text.rfind(b"\n", 0, position) + 1
    column = len(text[line_start:position].decode("utf-8", "replace")) + 1
    return NotReadable(
        f"The request body is not JSON: {what.removeprefix('JSON is malformed: ')}.",
        {"line": text.count(b"\n", 0, position) + 1, "column": column},
    )


def text_value(raw: bytes) -> str | bool | None:
    """Return a JSON value that should be a string; ``False`` stands for one of any other type but null."""
    if raw[:1] == b'"':
        try:
            value: str = orjson.loads(raw)
        except orjson.JSONDecodeError:
            # orjson refuses half a surrogate pair.
            value = json.loads(raw)
        return value
    return None if raw == b"null" else False
