"""How to find JSON values in a stream of bytes, as the bytes that they are.

Values may be separated by white space or touch each other. What ``json.loads`` accepts is a value, so ``NaN``,
``Infinity`` and ``-Infinity`` are values, too.
"""

# ijson 3.6 does not replace this: none of its backends accepts Infinity, and integers beyond 64 bits overflow in
# yajl2_c with use_float, so tests/client/test_values.py::test_values_are_found_however_they_are_cut fails.

from __future__ import annotations

import codecs
import enum
import json
import math
import re
from collections import deque
from collections.abc import Iterable

#: The most characters that are kept of a number whose end has not arrived. Python's parser refuses shorter ones.
LONGEST_NUMBER = 64 * 1024

#: Times that one call of :meth:`ValueScanner.find` parses a value as a whole that then turns out to be incomplete.
_MOST_FAILURES = 8

_SPACES = r"[ \t\n\r]*"
_IN_STRING = r'[^"\\\x00-\x1f]*(?:\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4})[^"\\\x00-\x1f]*)*'
_STRING = f'"{_IN_STRING}"'
_NUMBER = r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?"
_WORDS = ("true", "false", "null", "NaN", "Infinity", "-Infinity")
_SIMPLE = rf"(?:{_STRING}|{_NUMBER}|\[{_SPACES}\]|{{{_SPACES}}}|{'|'.join(_WORDS)})"

_SPACE = re.compile(_SPACES)
_COMMA = re.compile(f"{_SPACES},{_SPACES}")
_TEXT = re.compile(_IN_STRING)
_NUMBER_OR_WORD = re.compile(f"({_NUMBER})|{'|'.join(_WORDS)}")

#: Many values of an array, and many members of an object, that hold no others.
_ELEMENTS = re.compile(f"(?:{_SIMPLE}{_SPACES},{_SPACES})+")
_MEMBERS = re.compile(f"(?:{_STRING}{_SPACES}:{_SPACES}{_SIMPLE}{_SPACES},{_SPACES})+")

#: A number or word that is followed by white space, as in a stream of lines.
_LINE = re.compile(rf"({_SPACES})(?:{_NUMBER}|{'|'.join(_WORDS)})(?=[ \t\n\r])")

#: The key of a member, up to its value.
_TO_VALUE = re.compile(f"{_STRING}{_SPACES}:{_SPACES}")

#: What follows a number if later characters can still extend the number.
_GOES_ON = re.compile(r"\.|[eE][-+]?")

#: The beginning of an escape sequence.
_ESCAPE_BEGUN = re.compile(r"\\(?:u[0-9a-fA-F]{0,3})?")

_CLOSING = {"[": "]", "{": "}"}
_STRUCTURED = frozenset('"[{')
_NUMERIC = frozenset("-0123456789")

#: Parses a value to find its end. It keeps numbers as text, because numbers of many digits take long to convert.
_PARSER = json.JSONDecoder(parse_int=str, parse_float=str)


def runs_on(last: bytes) -> bool:
    """Return whether later bytes could extend a value that ends with this byte: whether it is a digit.

    All other values have a visible end. Only after a digit does it matter where the writer ended a value.
    """
    return last.isdigit()


class Wants(enum.Enum):
    """What a :class:`ValueScanner` needs before it can find the next value.

    ``BYTES``: more bytes, or the word that no more follow. ``ENDS``: the noted ends after
    :attr:`ValueScanner.ends_wanted`.
    """

    BYTES = "bytes"
    ENDS = "ends"


class _State(enum.Enum):
    """What may come next."""

    OUTSIDE = "a value that is in no other"
    VALUE = "a value"
    FIRST_VALUE = "a value, or the end of the array"
    KEY = "a key"
    FIRST_KEY = "a key, or the end of the object"
    COLON = "a colon"
    NEXT = "a comma, or the end of the array or object"


class ValueScanner:
    """Find JSON values in bytes that arrive in pieces, and check that they are JSON in UTF-8.

    One call of :meth:`find` takes time that is proportional to the size of the last piece, however large the value is.

    Attributes:
        received: The number of bytes that have been added.
        final: Whether no more follow.
    """

    def __init__(self, marked: bool = False) -> None:
        """Begin without bytes.

        Args:
            marked: Whether the writer has noted ends of values.
        """
        self.received = 0
        self.final = False
        self._marked = marked
        self._ends_known: float = 0 if marked else math.inf
        self._ends: deque[int] = deque()
        self._utf8 = codecs.getincrementaldecoder("utf-8")()
        self._error: UnicodeDecodeError | None = None
        # What has not been looked at begins at the position; what has been, and is part of a value, at the start.
        self._text = ""
        self._start = 0
        self._position = 0
        # What is not in the text any more of the current value, and where in the stream the value begins.
        self._kept: list[bytes] = []
        self._offset = 0
        self._state = _State.OUTSIDE
        self._quoted = False
        self._after_string = _State.OUTSIDE
        # The brackets that have to come, the innermost last.
        self._closing: list[str] = []
        self._failures = 0

    def add(self, data: bytes, final: bool = False) -> None:
        """Add bytes. Call this when :meth:`find` has returned ``BYTES``.

        Args:
            final: Whether no more bytes follow.
        """
        self._keep(self._position)
        self.received += len(data)
        self.final = final
        try:
            text = self._utf8.decode(data, final)
        except UnicodeDecodeError as error:
            # The values before it are found first.
            self._error = error
            text = error.object[: error.start].decode("utf-8")
        self._text = self._text[self._position :] + text
        self._start = self._position = 0

    def _keep(self, end: int) -> None:
        if self._start < end:
            self._kept.append(self._text[self._start : end].encode("utf-8"))
            self._start = end

    @property
    def ends_wanted(self) -> int:
        """The offset in the stream after which noted ends matter and are not known."""
        return int(max(self._ends_known, self._offset))

    def note_ends(self, ends: Iterable[int], known: int) -> None:
        """Add noted ends.

        Args:
            ends: Offsets in the stream, in order, all of them after :attr:`ends_wanted`.
            known: The offset up to which these are all noted ends.
        """
        self._ends.extend(ends)
        self._ends_known = known

    def find(self) -> bytes | Wants:
        """Return the next value, or what is needed to find it.

        A number at the end of the bytes is complete if its end is noted, or if no more bytes follow. When no more
        follow, the answer after the last value is ``BYTES``.

        Raises:
            ValueError: What follows the values that have been returned is not JSON in UTF-8, or the last value is
                incomplete.
        """
        self._failures = 0
        if self._state is _State.OUTSIDE and not self._quoted:
            if not self._marked and (line := _LINE.match(self._text, self._position)):
                self._start = line.end(1)
                self._offset += self._start - self._position
                return self._take(line.end())
            position = self._after_space()
            self._offset += position - self._start
            self._start = position
            if position == len(self._text):
                return self._starved()
            first = self._text[position]
            if first not in _STRUCTURED:
                return self._find_scalar(first)
            end = self._end_of_whole(position)
            if end is not None:
                return self._take(end)
            self._enter(first, _State.OUTSIDE)
        while True:
            complete = self._step_in_string() if self._quoted else self._step()
            if complete is None:
                return self._starved()
            if complete:
                return self._take(self._position)

    def _after_space(self) -> int:
        """Skip white space, and return the position after it."""
        space = _SPACE.match(self._text, self._position)
        assert space is not None
        self._position = space.end()
        return self._position

    def _take(self, end: int) -> bytes:
        """Return the value that ends at a position of the text."""
        value = self._text[self._start : end].encode("utf-8")
        if self._kept:
            value = b"".join([*self._kept, value])
            self._kept.clear()
        self._offset += len(value)
        self._start = self._position = end
        self._state = _State.OUTSIDE
        return value

    def _starved(self) -> Wants:
        """Return that more bytes are needed, if there can be more."""
        if self._error is not None:
            raise self._error
        if self.final and (self._kept or self._start < len(self._text)):
            raise ValueError("The last JSON value is incomplete.")
        return Wants.BYTES

    def _not_json(self) -> ValueError:
        where = self._text[self._position : self._position + 20]
        return ValueError(f"This is not JSON, in the value at offset {self._offset}: {where!r}")

    # Numbers and words

    def _find_scalar(self, first: str) -> bytes | Wants:
        """Find a number or word outside of arrays and objects."""
        if first not in _NUMERIC:
            end = self._end_of_scalar()
            return self._starved() if end is None else self._take(end)
        # The number consists of ASCII characters, so that its length is the same in characters and bytes.
        to_text = self._position - self._offset
        while self._ends and self._ends[0] <= self._offset:
            self._ends.popleft()
        if self._ends and self._ends[0] + to_text <= len(self._text):
            found = _NUMBER_OR_WORD.match(self._text, self._position, self._ends[0] + to_text)
            if found is not None:
                return self._take(found.end())
        end = self._end_of_scalar()
        if self._ends_known < (len(self._text) if end is None else end) - to_text:
            return Wants.ENDS
        if end is None:
            self._refuse_long_number()
            return self._starved()
        return self._take(end)

    def _end_of_scalar(self) -> int | None:
        """Return where a number or word ends, or ``None`` if its end has not arrived."""
        text, position = self._text, self._position
        last = self.final and self._error is None
        found = _NUMBER_OR_WORD.match(text, position)
        if found is None:
            if last or not any(word.startswith(text[position : position + 10]) for word in _WORDS):
                raise self._not_json()
            return None
        end = found.end()
        if found.group(1) is None or last:
            return end
        return None if end == len(text) or _GOES_ON.fullmatch(text, end) else end

    def _refuse_long_number(self) -> None:
        """Refuse a number or word whose end has not arrived if it is too long to be looked at again each time."""
        if len(self._text) - self._position > LONGEST_NUMBER:
            raise ValueError(f"A number has more than {LONGEST_NUMBER} characters.")

    # Strings, arrays and objects

    def _end_of_whole(self, position: int) -> int | None:
        """Return where a value ends that is complete and not too deep for Python's parser."""
        if self._failures == _MOST_FAILURES:
            return None
        try:
            return _PARSER.raw_decode(self._text, position)[1]
        except (json.JSONDecodeError, RecursionError):
            self._failures += 1
            return None

    def _enter(self, first: str, after: _State) -> None:
        """Enter a string, an array or an object.

        Args:
            first: Its first character.
            after: What may come after it if it is a string.
        """
        self._position += 1
        if first == '"':
            self._quoted, self._after_string = True, after
        else:
            self._closing.append(_CLOSING[first])
            self._state = _State.FIRST_VALUE if first == "[" else _State.FIRST_KEY

    def _step_in_string(self) -> bool | None:
        """Go on to the end of a string. Return as :meth:`_step` does."""
        text = _TEXT.match(self._text, self._position)
        assert text is not None
        position = self._position = text.end()
        if position == len(self._text) or _ESCAPE_BEGUN.fullmatch(self._text, position):
            return None
        if self._text[position] != '"':
            raise self._not_json()
        self._position += 1
        self._quoted, self._state = False, self._after_string
        return self._state is _State.OUTSIDE

    def _step(self) -> bool | None:
        """Go on by one token, or by many values at once.

        Returns:
            Whether the outermost value ends there; ``None`` if more bytes are needed.
        """
        position = self._after_space()
        if position == len(self._text):
            return None
        state, found, closing = self._state, self._text[position], self._closing[-1]
        if found == closing and state in (_State.NEXT, _State.FIRST_VALUE, _State.FIRST_KEY):
            self._closing.pop()
            self._go(position + 1, _State.NEXT)
            return not self._closing
        if state is _State.NEXT and found == ",":
            self._go(position + 1, _State.VALUE if closing == "]" else _State.KEY)
        elif state is _State.COLON and found == ":":
            self._go(position + 1, _State.VALUE)
        elif state in (_State.KEY, _State.FIRST_KEY) and found == '"':
            members = _MEMBERS.match(self._text, position)
            if members is not None:
                self._go(members.end(), _State.KEY)
            elif key := _TO_VALUE.match(self._text, position):
                self._go(key.end(), _State.VALUE)
            else:
                self._enter(found, _State.COLON)
        elif state in (_State.VALUE, _State.FIRST_VALUE):
            return self._step_to_value(found)
        else:
            raise self._not_json()
        return False

    def _step_to_value(self, first: str) -> bool | None:
        """Go on by a value in an array or object, by many, or into one. Return as :meth:`_step` does."""
        position = self._position
        if self._closing[-1] == "]" and (elements := _ELEMENTS.match(self._text, position)):
            self._go(elements.end(), _State.VALUE)
            return False
        if first not in _STRUCTURED:
            end = self._end_of_scalar()
            if end is None:
                self._refuse_long_number()
                return None
        elif (end := self._end_of_whole(position)) is None:
            self._enter(first, _State.NEXT)
            return False
        if comma := _COMMA.match(self._text, end):
            self._go(comma.end(), _State.VALUE if self._closing[-1] == "]" else _State.KEY)
        else:
            self._go(end, _State.NEXT)
        return False

    def _go(self, position: int, state: _State) -> None:
        self._position, self._state = position, state
