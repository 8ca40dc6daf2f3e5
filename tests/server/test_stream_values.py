"""Test how the values of a result are read one at a time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
from conftest import result_of
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock

from twisted_cm.broker.results import HIGH_WATER, MEMORY_LIMIT, ResultBody
from twisted_cm.server.stream_values import SLICE, BrokenOff, ValueStream


class Reading:
    """A result that a test writes, and the stream of its values."""

    def __init__(self) -> None:
        self.clock = Turns()
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


def test_values_that_have_a_visible_end_come_without_one_noted(reading: Reading) -> None:
    reading.body.write(b'{"a": 1} [2]"b"tr')
    assert [result_of(reading.next()) for _ in range(3)] == [b'{"a": 1}', b"[2]", b'"b"']
    asked = reading.next()
    reading.body.write(b"ue12 ")
    assert result_of(asked) == b"true"
    assert result_of(reading.next()) == b"12"
    reading.body.finish()
    assert reading.rest() == []


@pytest.mark.parametrize("size", [0, 10, SLICE, MEMORY_LIMIT + 1])
def test_a_complete_result_is_read_to_its_end(size: int) -> None:
    reading = Reading()
    reading.stream.close()
    value = b'["%b"]' % (b"x" * size)
    reading.post(value)
    for chunk in (b"1", b"2"):
        reading.post(chunk)
    reading.body.finish()
    reading.stream = ValueStream(reading.body, reading.clock)
    assert reading.rest() == [value, b"1", b"2"]
    assert reading.body.readers == []


def test_an_empty_result_has_no_values(reading: Reading) -> None:
    asked = reading.next()
    reading.body.finish()
    assert result_of(asked) is None


def test_nothing_is_delivered_while_no_value_is_asked_for(reading: Reading) -> None:
    producer = Producer()
    reading.body.registerProducer(producer, True)
    value = b'["%b"]' % (b"x" * 1000)
    reading.body.write(value * (HIGH_WATER // 500))
    assert producer.paused
    assert result_of(reading.next()) == value
    assert producer.paused
    while producer.paused:
        assert result_of(reading.next()) == value


def test_a_result_that_breaks_off_says_so_after_its_values(reading: Reading) -> None:
    reading.body.write(b"[1] [2")
    assert result_of(reading.next()) == b"[1]"
    asked = reading.next()
    reading.body.abort()
    with pytest.raises(BrokenOff):
        result_of(asked)
    assert result_of(reading.next()) is None


@pytest.mark.parametrize("content", [b"[1] x", b"[1] [2", b'[1] "\xff"'])
def test_what_is_not_json_is_refused_after_the_values_before_it(reading: Reading, content: bytes) -> None:
    reading.body.write(content)
    assert result_of(reading.next()) == b"[1]"
    asked = reading.next()
    reading.body.finish()
    with pytest.raises(ValueError):  # noqa: PT011 - of the scanner or of the decoder
        result_of(asked)
    assert reading.body.readers == []


def test_to_cancel_closes_the_stream(reading: Reading) -> None:
    asked = reading.next()
    asked.cancel()
    with pytest.raises(CancelledError):
        result_of(asked)
    assert reading.body.readers == []
    reading.body.write(b"[1]")
    assert result_of(reading.next()) is None


def test_to_cancel_while_other_work_has_its_turn_leaves_no_timer(reading: Reading) -> None:
    reading.body.write(b"[" + b"[]," * SLICE)
    asked = Deferred.fromCoroutine(reading.stream.next())
    assert reading.clock.getDelayedCalls()
    asked.cancel()
    with pytest.raises(CancelledError):
        result_of(asked)
    assert not reading.clock.getDelayedCalls()
    assert reading.body.readers == []


def test_to_close_ends_a_call_that_waits(reading: Reading) -> None:
    asked = reading.next()
    reading.stream.close()
    assert result_of(asked) is None
    assert reading.body.readers == []
    reading.stream.close()


@pytest.mark.parametrize(
    "values",
    [[b"[" + b",".join([b"[]"] * 1_000_000) + b"]"], [b"%d" % number for number in range(100_000)]],
    ids=["one large value", "many numbers that touch"],
)
def test_other_work_has_its_turn_while_a_long_result_is_read(values: list[bytes]) -> None:
    reading = Reading()
    for value in values:
        reading.post(value)
    reading.body.finish()
    asked = Deferred.fromCoroutine(read_all(reading.stream))
    reading.turn()
    assert result_of(asked) == values
    assert len(reading.clock.turns) >= reading.body.size // SLICE
    # A turn takes some milliseconds; the limit is what a slow machine may need.
    assert max(reading.clock.turns) < 0.2


class Turns(Clock):
    """A clock that notes how much time each turn takes.

    Attributes:
        turns: The seconds of each.
    """

    def __init__(self) -> None:
        super().__init__()
        self.turns: list[float] = []

    def callLater(self, when: float, what: Callable[..., object], *args: Any, **kwargs: Any) -> Any:
        def timed() -> None:
            begun = time.thread_time()
            what(*args, **kwargs)
            self.turns.append(time.thread_time() - begun)

        return super().callLater(when, timed)


async def read_all(stream: ValueStream) -> list[bytes]:
    found = []
    while (value := await stream.next()) is not None:
        found.append(value)
    return found


class Producer:
    """The transport of a module's post."""

    paused = False

    def pauseProducing(self) -> None:
        self.paused = True

    def resumeProducing(self) -> None:
        self.paused = False

    def stopProducing(self) -> None:
        raise AssertionError("the result must not stop the post")
