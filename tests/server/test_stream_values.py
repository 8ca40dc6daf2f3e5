"""Test how the values of a result are read one at a time."""

from __future__ import annotations

from typing import Any

import pytest
from conftest import result_of
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from twisted_cm.broker.results import ResultBody
from twisted_cm.server.stream_values import ValueStream


class Reading:
    """A result that a test writes, and the stream of its values."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.body = ResultBody()
        self.stream = ValueStream(self.body, self.clock)

    def post(self, chunk: bytes) -> None:
        """Write one chunk, and note where it ends if it ends with a digit."""
        if chunk[-1:].isdigit():
            self.body.mark(self.body.size + len(chunk))
        self.body.write(chunk)

    def next(self) -> Deferred[Any]:
        asked = Deferred.fromCoroutine(self.stream.next())
        self.turn()
        return asked

    def turn(self) -> None:
        while self.clock.getDelayedCalls():
            self.clock.advance(0)

    def rest(self) -> list[bytes]:
        """Return all values up to the end."""
        found = []
        while (value := result_of(self.next())) is not None:
            found.append(value)
        return found


@pytest.fixture
def reading() -> Reading:
    return Reading()


def test_numbers_that_touch_are_told_apart_as_soon_as_they_come(reading: Reading) -> None:
    for chunk in (b"3", b"2", b"10"):
        asked = reading.next()
        assert not asked.called
        reading.post(chunk)
        assert result_of(asked) == chunk
    asked = reading.next()
    reading.body.finish()
    assert result_of(asked) is None
    assert result_of(reading.next()) is None
