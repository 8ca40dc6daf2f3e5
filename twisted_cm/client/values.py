"""How to find JSON values in a stream of bytes.

Values may be separated by white space or touch each other. What ``json.loads`` accepts is a value.
"""

# ijson 3.6 does not replace this: none of its backends accepts Infinity, and integers beyond 64 bits overflow in
# yajl2_c with use_float, so tests/client/test_values.py::test_values_are_found_however_they_are_cut fails.

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Callable, Iterator

from ..model.types import JSONValue

_SPACE = re.compile(r"[ \t\r\n]*")
_STRUCTURE = re.compile(r'["{}\[\]]')
_IN_STRING = re.compile(r'["\\]')
_WORDS = ("true", "false", "null", "NaN", "Infinity", "-Infinity")

#: Matches the text after a number if later text can still extend the number.
_GOES_ON = re.compile(r"(?:\.|[eE][-+]?)?\Z")


class ValueParser:
    """Find JSON values in bytes that arrive in chunks.

    The parser searches an object, array or string once for its end and decodes it only then. A large value in many
    chunks therefore takes time proportional to its size.
    """

    def __init__(self, object_pairs_hook: Callable[[list[tuple[str, JSONValue]]], JSONValue] | None = None) -> None:
        """Make a parser.

        Args:
            object_pairs_hook: Makes the value of each object, as in ``json.loads``.
        """
        self._utf8 = codecs.getincrementaldecoder("utf-8")()
        self._json = json.JSONDecoder(object_pairs_hook=object_pairs_hook)
        self._text = ""
        self._start = 0
        self._begin_at(0)

    def _begin_at(self, position: int) -> None:
        """Expect the next value, or white space before it, at a position in the text."""
        self._start = self._scanned = position
        self._depth = 0
        self._quoted = False

    def feed(self, data: bytes, final: bool = False) -> Iterator[JSONValue]:
        """Yield the values that are complete after these bytes.

        A number at the end of the bytes is complete only if ``final`` is set.

        Args:
            final: Whether no more bytes follow.

        Raises:
            ValueError: What follows the yielded values is not JSON in UTF-8, or the last value is incomplete.
        """
        self._text = self._text[self._start :] + self._utf8.decode(data, final)
        self._scanned -= self._start
        self._start = 0
        while (end := self._end_of_value(final)) is not None:
            value, _ = self._json.raw_decode(self._text, self._start)
            self._begin_at(end)
            yield value

    def _end_of_value(self, final: bool) -> int | None:
        """Return where the next value ends, or ``None`` if there is no value or its end is not known."""
        text = self._text
        if self._scanned == self._start:
            space = _SPACE.match(text, self._start)
            assert space is not None
            self._begin_at(space.end())
        if self._start == len(text):
            return None
        if text[self._start] in '{["':
            end = self._end_of_structure()
            return len(text) if end is None and final else end
        try:
            value, end = self._json.raw_decode(text, self._start)
        except json.JSONDecodeError:
            if final or not any(word.startswith(text[self._start :]) for word in _WORDS):
                raise
            return None
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return None if number and not final and _GOES_ON.match(text, end) else end

    def _end_of_structure(self) -> int | None:
        """Return where the object, array or string ends, or ``None`` if its end has not arrived."""
        position = self._scanned
        while match := (_IN_STRING if self._quoted else _STRUCTURE).search(self._text, position):
            position = match.end()
            found = match.group()
            if found == "\\":
                if position == len(self._text):
                    self._scanned = position - 1
                    return None
                position += 1
            elif found == '"':
                self._quoted = not self._quoted
            else:
                self._depth += 1 if found in "{[" else -1
            if not self._depth and not self._quoted:
                return position
        self._scanned = len(self._text)
        return None
