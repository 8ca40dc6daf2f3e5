"""Who looks on at a broker: the recorder and the metrics, on each kind of broker, and after a link was lost."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from broker_fixtures import Driver
from hiredis import Reader
from node_fixtures import Nodes, within
from prometheus_client.parser import text_string_to_metric_families
from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred, succeed

from twisted_cm.broker.interface import BrokerUnavailable, Change
from twisted_cm.broker.redis.broker import RedisBroker
from twisted_cm.metrics import Metrics
from twisted_cm.model.jobs import Job, JobSource, Submission
from twisted_cm.model.registry import SessionRequest
from twisted_cm.recording.record import Recorder

pytestmark = pytest.mark.beside_the_reactor


def recorded(file: Path) -> list[tuple[str, Any, str]]:
    """Return id, query and state of each recorded job."""
    found = [json.loads(line) for line in file.read_text().splitlines()]
    return [(each["job_id"], each["query"], each["state"]) for each in found]


def test_jobs_are_recorded_with_their_queries(driver: Driver, tmp_path: Path) -> None:
    recorder = Recorder(reactor, tmp_path / "jobs.jsonl")
    recorder.start(driver.broker)
    driver.brokers.settle()
    done = driver.submit({"n": 1})
    driver.take()
    driver.complete(done)
    canceled = driver.submit(["x"])
    driver.get(driver.broker.cancel(canceled.job_id, "no"))
    driver.get(driver.broker.stop())
    driver.get(Deferred.fromCoroutine(recorder.stop()))
    assert recorded(recorder.path) == [
        (done.job_id, {"n": 1}, "succeeded"),
        (canceled.job_id, ["x"], "canceled"),
    ]


def test_a_job_whose_end_was_not_told_is_recorded_at_the_stop(
    driver: Driver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = driver.submit("before")
    driver.take()
    driver.complete(before)
    driver.brokers.advance(1)
    recorder = Recorder(driver.brokers.clock, tmp_path / "jobs.jsonl")
    monkeypatch.setattr(driver.broker, "observe", lambda observer: succeed(None))
    recorder.start(driver.broker)
    done, waiting = driver.submit({"n": 1}), driver.submit({"n": 2})
    driver.take()
    driver.complete(done)
    driver.get(driver.broker.stop())
    driver.get(Deferred.fromCoroutine(recorder.stop()))
    assert recorded(recorder.path) == [(done.job_id, {"n": 1}, "succeeded")], waiting


def counted(metrics: list[Metrics], broker: Any, driver: Driver) -> dict[str, float]:
    """Return the sums of all samples over some emulators that are not 0."""
    sums: dict[str, float] = {}
    for each in metrics:
        text = each.exposition(driver.get(broker.load()))[0].decode()
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                name = " ".join([sample.name, *sample.labels.values()])
                sums[name] = sums.get(name, 0) + sample.value
    return {name: value for name, value in sums.items() if value}


def test_each_step_of_a_job_is_counted_by_one_emulator(driver: Driver) -> None:
    members = driver.brokers.members(driver.broker)
    metrics = [Metrics(lambda: 0) for _ in members]
    for each, member in zip(metrics, members, strict=True):
        member.observe(each.changed, only_here=True)
    driver.brokers.settle()
    for _ in range(4):
        driver.finish(b"abc")
    for _ in range(3):
        driver.get(driver.broker.cancel(driver.submit().job_id, "no"))
    job = driver.submit()
    driver.take()
    driver.get(driver.broker.give_back(job.job_id, 1))
    found = counted(metrics, driver.broker, driver)
    assert {name: value for name, value in found.items() if "_jobs_" in name} == {
        "twisted_cm_jobs_submitted_total contour-sync": 8,
        "twisted_cm_jobs_finished_total contour-sync succeeded": 4,
        "twisted_cm_jobs_finished_total contour-sync canceled": 3,
        "twisted_cm_jobs_queued_again_total": 1,
    }
    assert found["twisted_cm_job_dispatch_seconds_count"] == 5
    assert (found["twisted_cm_result_size_bytes_count"], found["twisted_cm_result_size_bytes_sum"]) == (4, 12)


def finish(nodes: Nodes, broker: RedisBroker, query: bytes) -> Job:
    """Let one job run to its end at one node."""
    job: Job = nodes.get(broker.enqueue("r", Submission("f", query, JobSource.CONTOUR_ASYNC)))
    taken = nodes.get(broker.poll("r", 0))
    assert taken.job_id == job.job_id
    nodes.get(broker.delivered(job.job_id, taken.attempts))
    body = broker.new_result(job.job_id, None)
    body.write(b"x")
    nodes.get(broker.complete(job.job_id, body))
    return job


def test_observers_look_again_after_the_link_was_lost(
    nodes: Nodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watching, other = nodes.node(), nodes.node()
    nodes.get(watching.open_session(SessionRequest("r")))
    earlier = finish(nodes, other, b"0")
    nodes.advance(1)
    recorder, seen, metrics = Recorder(nodes.clock, tmp_path / "jobs.jsonl"), list[Change](), Metrics(lambda: 0)
    recorder.start(watching)
    watching.observe(seen.append)
    watching.observe(metrics.changed, only_here=True)
    nodes.settle()
    before = finish(nodes, other, b"1")
    assert not any(each.missed for each in seen)
    connection = watching.node.connection
    greet, away = connection.greet, [True]

    async def away_for_a_while(protocol: Any) -> None:
        if away:
            raise BrokerUnavailable("away")
        await greet(protocol)

    monkeypatch.setattr(connection, "greet", away_for_a_while)
    watching.node.drop_link()
    within(5, lambda: not watching.node.up)
    meanwhile = finish(nodes, other, b"2")
    away.clear()
    within(5, lambda: watching.node.up)
    nodes.settle()
    assert [each.job for each in seen if each.missed] == [None]
    after = finish(nodes, other, b"3")
    within(5, lambda: recorder.path.read_bytes().count(b"\n") >= 3)
    watching.stop()
    nodes.get(Deferred.fromCoroutine(recorder.stop()))
    assert earlier.job_id not in recorder.path.read_text()
    assert recorded(recorder.path) == [
        (each.job_id, query, "succeeded") for each, query in ((before, 1), (meanwhile, 2), (after, 3))
    ]
    text = metrics.exposition(nodes.get(other.load()))[0].decode()
    assert "twisted_cm_observation_gaps_total 1.0" in text


def steps(changes: list[Change]) -> list[str]:
    """Return the states of the jobs that changed."""
    return [each.job.state.value for each in changes if each.job is not None]


def published(nodes: Nodes, to: RedisBroker, work: Callable[[], object]) -> list[str]:
    """Return the kinds of what Redis publishes to a node while something is done."""
    channel = f"{to.node.address.prefix}node:{to.node.node_id}"
    with closing(socket.socket(socket.AF_UNIX)) as subscriber:
        subscriber.settimeout(10)
        subscriber.connect(str(nodes.server.socket))
        messages = replies(subscriber)
        subscriber.sendall(f"SUBSCRIBE {channel}\r\n".encode())
        assert next(messages)[0] == b"subscribe"
        work()
        nodes.get(to.node.command("PUBLISH", channel, '["done"]'))
        kinds = list(iter(lambda: json.loads(next(messages)[2])[0], "done"))
    # The fixture and heartbeats publish, too.
    return [each for each in kinds if each not in ("settle", "beat")]


def replies(client: socket.socket) -> Iterator[Any]:
    """Yield what Redis sends to a client."""
    reader = Reader()
    while True:
        while (reply := reader.gets()) is not False:
            yield reply
        reader.feed(client.recv(65536))


def test_nothing_is_published_to_a_node_where_nobody_watches(nodes: Nodes) -> None:
    idle, busy = nodes.node(), nodes.node()
    nodes.get(busy.open_session(SessionRequest("r")))
    own: list[Change] = []
    idle.observe(own.append, only_here=True)
    busy.observe(own.append, only_here=True)

    def work() -> None:
        finish(nodes, busy, b"1")

    assert published(nodes, idle, work) == []
    seen: list[Change] = []
    watching = [idle.observe(seen.append) for _ in range(2)]

    def look_away() -> None:
        watching.pop().addErrback(lambda failure: failure.trap(CancelledError)).cancel()
        nodes.settle()

    nodes.settle()
    assert set(published(nodes, idle, work)) == {"change"}
    look_away()
    assert set(published(nodes, idle, work)) == {"change"}
    look_away()
    own.clear()
    assert published(nodes, idle, work) == []
    assert steps(own) == ["queued", "running", "succeeded"]
    assert published(nodes, busy, work) == []


def test_a_node_that_joins_again_hears_of_the_steps_of_others_only_if_somebody_watches(nodes: Nodes) -> None:
    watching, idle, busy = (nodes.node() for _ in range(3))
    nodes.get(busy.open_session(SessionRequest("r")))
    seen: list[Change] = []
    watching.observe(seen.append)
    own: list[Change] = []
    idle.observe(own.append, only_here=True)
    nodes.settle()
    for each in (watching, idle):
        each.node.drop_link()
    within(5, lambda: any(each.missed for each in seen) and any(each.missed for each in own))
    nodes.settle()
    assert published(nodes, idle, lambda: finish(nodes, busy, b"1")) == []
    seen.clear()
    finish(nodes, busy, b"2")
    assert steps(seen) == ["queued", "running", "succeeded"]


def test_an_observer_that_comes_while_its_node_joins_hears_the_steps_of_others(nodes: Nodes) -> None:
    joining, busy = nodes.node(), nodes.node()
    nodes.get(busy.open_session(SessionRequest("r")))
    seen: list[Change] = []

    async def observe() -> None:
        joining.observe(seen.append)

    joining.node.attached.append(observe)
    joining.node.drop_link()
    within(5, lambda: any(each.missed for each in seen))
    nodes.settle()
    seen.clear()
    finish(nodes, busy, b"1")
    assert steps(seen) == ["queued", "running", "succeeded"]


def test_an_observer_of_one_process_hears_each_step_that_is_taken_there_even_beside_one_that_hears_all(
    driver: Driver,
) -> None:
    members = driver.brokers.members(driver.broker)
    everywhere: list[list[Change]] = [[] for _ in members]
    here: list[list[Change]] = [[] for _ in members]
    for each, seen, own in zip(members, everywhere, here, strict=True):
        each.observe(seen.append)
        each.observe(own.append, only_here=True)
    driver.brokers.settle()
    driver.finish(b"abc")

    def states(changes: list[Change]) -> list[str]:
        # A broker in memory shows the same job in all its changes.
        return sorted("changed" if len(members) == 1 else state for state in steps(changes))

    expected = ["changed"] * 3 if len(members) == 1 else ["queued", "running", "succeeded"]
    assert [states(seen) for seen in everywhere] == [expected] * len(members)
    assert states([change for own in here for change in own]) == expected
