"""How the ends of chunks in a result are noted and found again, on each kind of broker."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

import pytest
from broker_fixtures import Driver
from hypothesis import given
from hypothesis import strategies as st
from node_fixtures import Nodes
from twisted.internet.defer import Deferred

from twisted_cm.broker.interface import UnknownJob
from twisted_cm.broker.noted_ends import NotedEnds
from twisted_cm.model.jobs import Job
from twisted_cm.server.stream_values import BrokenOff, ValueStream

pytestmark = pytest.mark.beside_the_reactor

#: Bytes of one part of a result on Redis.
PART = 256 * 1024


class Stream:
    """A result that a module streams, chunk by chunk."""

    def __init__(self, driver: Driver, begun: bool = True) -> None:
        self.driver = driver
        self.job = driver.submit()
        self.body = driver.broker.new_result(self.job.job_id, None)
        if begun:
            assert driver.get(driver.broker.begin_result(self.job.job_id, self.body))

    def post(self, *chunks: bytes) -> None:
        for chunk in chunks:
            self.body.mark(self.body.size + len(chunk))
            self.body.write(chunk)
        self.driver.brokers.settle()

    def complete(self) -> Job:
        self.driver.get(self.driver.broker.complete(self.job.job_id, self.body))
        return self.driver.now(self.job)

    def ends(self, job: Job, start: int = 0, end: int | None = None) -> list[int]:
        assert job.result is not None
        found: list[int] = self.driver.get(job.result.ends(start, job.result.size if end is None else end))
        return found


class Values:
    """The values of a job's result, as one node reads them."""

    def __init__(self, driver: Driver, job: Job) -> None:
        assert job.result is not None
        self.driver = driver
        self.stream = ValueStream(job.result, driver.brokers.clock)

    def ask(self) -> Deferred[Any]:
        asked = Deferred.fromCoroutine(self.stream.next())
        self.driver.brokers.settle()
        return asked

    def next(self) -> bytes | None:
        value: bytes | None = self._wait(self.stream.next())
        return value

    def rest(self) -> list[bytes]:
        """Return all values up to the end."""
        values: list[bytes] = self._wait(self._rest())
        return values

    async def _rest(self) -> list[bytes]:
        found = []
        while (value := await self.stream.next()) is not None:
            found.append(value)
        return found

    def _wait(self, awaited: Coroutine[Any, Any, Any]) -> Any:
        asked = Deferred.fromCoroutine(awaited)
        self.driver.brokers.settle()
        while not asked.called:
            # Other work has its turn.
            self.driver.brokers.advance(0)
        return self.driver.get(asked)


@given(st.lists(st.integers(1, 500)), st.integers(0, 500), st.integers(0, 500))
def test_noted_ends_between_two_offsets_are_found(offsets: list[int], start: int, end: int) -> None:
    noted = NotedEnds()
    for offset in offsets:
        noted.add(offset)
    assert noted.between(start, end) == sorted({each for each in offsets if start < each <= end})
    assert NotedEnds(bytes(noted.bits)).between(0, 1000) == sorted(set(offsets))


def test_ends_are_read_while_a_result_is_posted_and_afterwards(driver: Driver) -> None:
    stream = Stream(driver)
    waiting = driver.broker.wait_end(stream.job.job_id, 1000)
    stream.post(b"3", b"2")
    assert stream.ends(driver.now(stream.job)) == [1, 2]
    stream.post(b"1", b"10")
    job = driver.now(stream.job)
    assert stream.ends(job) == [1, 2, 3, 5]
    assert (stream.ends(job, 1, 4), stream.ends(job, 2, 2), stream.ends(job, 5, 5)) == ([2, 3], [], [])
    whole = stream.complete()
    assert (driver.content(whole), stream.ends(whole), stream.ends(whole, 2)) == (b"32110", [1, 2, 3, 5], [3, 5])
    # The result came with the news that the job has ended, and its ends with it.
    assert stream.ends(driver.get(waiting)) == [1, 2, 3, 5]


def test_a_result_without_notes_has_no_ends(driver: Driver) -> None:
    job = driver.now(driver.finish(b"321"))
    assert job.result is not None and driver.get(job.result.ends(0, 3)) == []


@pytest.mark.parametrize("begun", [False, True])
@pytest.mark.parametrize("size", [1, 64 * 1024, PART - 1, PART, PART + 1])
def test_ends_are_kept_wherever_they_are(driver: Driver, size: int, begun: bool) -> None:
    stream = Stream(driver, begun)
    stream.post(b"x" * size, b"12", b"3", b"y" * PART, b"4")
    whole = stream.complete()
    wanted = [size, size + 2, size + 3, size + 3 + PART, size + 4 + PART]
    assert stream.ends(whole) == wanted
    for position, end in enumerate(wanted):
        assert stream.ends(whole, end - 1, end) == [end]
        assert stream.ends(whole, end) == wanted[position + 1 :]


def test_the_ends_of_a_small_result_outlive_its_job_if_the_result_does(driver: Driver) -> None:
    stream = Stream(driver)
    waiting = driver.broker.wait_end(stream.job.job_id, 1000)
    stream.post(b"1", b"2")
    kept = stream.complete()
    told = driver.get(waiting)
    driver.get(driver.broker.delete_runtime("r"))
    assert (driver.content(told), stream.ends(told)) == (b"12", [1, 2])
    try:
        found = stream.ends(kept)
    except UnknownJob:
        return
    assert found == [1, 2]


def test_nothing_is_left_of_the_ends_of_a_job_that_is_forgotten(driver: Driver) -> None:
    before = driver.brokers.count_entries(driver.broker)
    for broken in (False, True):
        stream = Stream(driver)
        stream.post(b"1", b"2" * PART, b"3")
        if broken:
            driver.get(driver.broker.fail_job(stream.job.job_id, "broke off"))
            assert driver.now(stream.job).result is None
        else:
            stream.complete()
    driver.get(driver.broker.delete_runtime("r"))
    driver.session("r")
    assert driver.brokers.count_entries(driver.broker) <= before + 3


def test_numbers_that_touch_are_told_apart_live_and_afterwards(driver: Driver) -> None:
    stream = Stream(driver)
    values = Values(driver, driver.now(stream.job))
    for chunk in (b"3", b"2", b"10"):
        asked = values.ask()
        assert not asked.called
        stream.post(chunk)
        assert driver.get(asked) == chunk
    asked = values.ask()
    # A second reader, on the other node if there is one.
    second = Values(driver, driver.now(stream.job))
    assert [second.next() for _ in range(3)] == [b"3", b"2", b"10"]
    stream.post(b"5")
    assert driver.get(asked) == b"5"
    asked = values.ask()
    whole = stream.complete()
    assert driver.get(asked) is None
    assert second.rest() == [b"5"]
    assert Values(driver, whole).rest() == [b"3", b"2", b"10", b"5"]
    driver.get(driver.broker.stop())
    assert driver.brokers.timers() == []


def test_many_numbers_that_touch_are_told_apart(driver: Driver) -> None:
    numbers = [b"%d" % number for number in range(60_000)]
    stream = Stream(driver)
    stream.post(*numbers)
    assert sum(map(len, numbers)) > PART
    live = Values(driver, driver.now(stream.job))
    assert live.next() == b"0"
    assert Values(driver, stream.complete()).rest() == numbers
    assert live.rest() == numbers[1:]


def test_a_stream_of_values_that_breaks_off_says_so(driver: Driver) -> None:
    stream = Stream(driver)
    values = Values(driver, driver.now(stream.job))
    stream.post(b"1", b"[2]")
    assert (values.next(), values.next()) == (b"1", b"[2]")
    asked = values.ask()
    driver.get(driver.broker.fail_job(stream.job.job_id, "broke off"))
    with pytest.raises(BrokenOff):
        driver.get(asked)
    assert values.next() is None


def test_ends_that_were_written_before_their_result_was_the_jobs_do_not_expire(nodes: Nodes) -> None:
    stream = Stream(Driver(nodes), begun=False)
    stream.post(b"x" * PART, b"1")
    name = f"twisted-cm:0:ends:{stream.body.body_id}:1"
    command = nodes.server.command
    assert command("TTL", name) == b":3600\r\n"
    stream.complete()
    assert command("TTL", name) == b":-1\r\n"


def test_results_without_notes_cost_redis_nothing_more(nodes: Nodes) -> None:
    job = Driver(nodes).finish(b"321")
    command = nodes.server.command
    assert b"ends" not in command("KEYS", "*") + command("HGETALL", f"twisted-cm:0:job:{job.job_id}")
