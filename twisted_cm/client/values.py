"""JSON values out of a stream of bytes."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Callable, Iterator

from ..model.types import JSONValue

_SPACE = re.compile(r"[ \t\r\n]*")


_STRUCTURE = re.compile(r'["{}\[\]]')


_IN_STRING = re.compile(r'["\\]')


#: What may stand between a number and the end of the text if the number may go on.
_GOES_ON = re.compile(r"(?:\.|[eE][-+]?)?\Z")


_WORDS = ("true", "false", "null", "NaN", "Infinity", "-Infinity")


class ValueParser:
    """
    Finds JSON values in bytes that come bit by bit.

    What is in brackets or quotes is searched for its end once, and only then
    decoded, so that a large value in many chunks costs no more than its size.
    """

    def __init__(self, object_pairs_hook: Callable[[list[tuple[str, JSONValue]]], JSONValue] | None = None) -> None:
        """
        @param object_pairs_hook: makes a value of each object, as for L{json.loads}.
        """
        self._utf8 = codecs.getincrementaldecoder("utf-8")()
        self._json = json.JSONDecoder(object_pairs_hook=object_pairs_hook)
        self._text = ""
        self._start = 0
        self._begin_at(0)

    def _begin_at(self, position: int) -> None:
        """A value, or white space before one, begins there."""
        self._start = self._scanned = position
        self._depth = 0
        self._quoted = False

    def feed(self, data: bytes, final: bool = False) -> Iterator[JSONValue]:
        """
        @param final: whether there is nothing after these bytes.
        @return: the values that are known to be whole now.
        @raise ValueError: what follows them is not JSON in UTF-8, or the last value is not whole.
        """
        self._text = self._text[self._start :] + self._utf8.decode(data, final)
        self._scanned -= self._start
        self._start = 0
        while (end := self._end_of_value(final)) is not None:
            value, _ = self._json.raw_decode(self._text, self._start)
            self._begin_at(end)
            yield value

    def _end_of_value(self, final: bool) -> int | None:
        """Where the value that is next ends, or L{None} while there is none, or its end is not known."""
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
