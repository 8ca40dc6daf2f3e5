"""The list of jobs, and the events."""

from __future__ import annotations

import json
import socket
from typing import Any

import pytest
import pytest_twisted
from conftest import Harness, make_harness, raw, receive_until, serve_one
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from twisted_cm.broker.interface import Change, Observer
from twisted_cm.model.jobs import Job, JobSource, JobState, Submission
from twisted_cm.server.routes import events
from twisted_cm.server.routes.events import EventFeed
from twisted_cm.server.routes.feed import HEARTBEAT

BASE = "/_emulate/foundry/compute-modules"


async def listed(harness: Harness, query: str = "") -> Any:
    status, answer, _ = await harness.call("GET", f"{BASE}/jobs{query}", Authorization="Bearer app-token")
    assert status == 200, answer
    return answer


@pytest_twisted.ensureDeferred
async def test_jobs_are_listed_by_page_and_by_what_they_are(harness: Harness) -> None:
    ids = []
    for n in range(5):
        runtime = "one" if n % 2 else "two"
        _, job, _ = await harness.module("POST", "/jobs", {"queryType": f"f{n}"}, runtime)
        ids.append(job["job_id"])
    await serve_one(harness, b"12345")
    first = await listed(harness, "?limit=2")
    assert [each["job_id"] for each in first["jobs"]] == [ids[4], ids[3]]
    second = await listed(harness, f"?limit=3&before={first['next']}")
    assert [each["job_id"] for each in second["jobs"]] == [ids[2], ids[1], ids[0]]
    assert second["next"] is None
    (done,) = (await listed(harness, "?status=succeeded"))["jobs"]
    assert (done["job_id"], done["result_bytes"], done["attempts"]) == (ids[1], 5, 1)
    assert [each["job_id"] for each in (await listed(harness, "?runtime=one&status=queued"))["jobs"]] == [ids[3]]
    assert [each["job_id"] for each in (await listed(harness, "?function=f4"))["jobs"]] == [ids[4]]


@pytest.mark.parametrize(
    "query", ["?limit=0", "?limit=1001", "?limit=-1", "?before=x", "?status=done", "?limit=%D9%A1"]
)
@pytest_twisted.ensureDeferred
async def test_a_list_that_cannot_be_made_is_refused(harness: Harness, query: str) -> None:
    status, answer, _ = await harness.call("GET", f"{BASE}/jobs{query}", Authorization="Bearer app-token")
    assert (status, answer["error"]) == (400, "invalid_request")
    assert answer["parameters"]["field"] in query


def listen(harness: Harness) -> socket.socket:
    return raw(harness, f"GET {BASE}/events HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer app-token\r\n\r\n")


def parsed(received: bytes) -> list[tuple[str, Any]]:
    """Return the events in a chunked answer."""
    lines = received.decode().replace("\r\n", "\n").split("\n")
    return [
        (lines[at][len("event: ") :], json.loads(lines[at + 1][len("data: ") :]))
        for at in range(len(lines))
        if lines[at].startswith("event: ")
    ]


@pytest_twisted.ensureDeferred
async def test_changes_arrive_as_they_happen(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    observe, observing = harness.broker.observe, []

    def watched(observer: Observer, only_here: bool = False) -> Deferred[None]:
        observing.append(observe(observer))
        return observing[-1]

    monkeypatch.setattr(harness.broker, "observe", watched)
    client = listen(harness)
    await receive_until(client, b": connected\n\n\r\n")
    caller = harness.execute({"a": "</script>\n\nevent: job"})
    await harness.until(lambda: harness.work().queued)
    ((kind, job),) = parsed(await receive_until(client, b"}\n\n\r\n"))
    assert (kind, job["status"], job["runtime_id"]) == ("job", "queued", "one")
    await serve_one(harness, b"ok")
    await caller
    events = parsed(await receive_until(client, b"}\n\n\r\n"))
    assert events[0] == ("runtime", {"runtime_id": "one"})
    assert [(kind, each["job_id"], each["status"]) for kind, each in events[1:]] == [
        ("job", job["job_id"], "succeeded")
    ]
    client.close()
    (feed,) = observing
    await harness.until(lambda: feed.called)


@pytest_twisted.ensureDeferred
async def test_a_stop_ends_the_events() -> None:
    stopped = make_harness()
    client = listen(stopped)
    await receive_until(client, b": connected\n\n\r\n")
    await stopped.service.stopService()
    assert (await receive_until(client, None)).endswith(b"0\r\n\r\n")
    client.close()


class Client:
    """Stands in for a request, and keeps what is written to it."""

    def __init__(self) -> None:
        self.written = b""
        self.gone = False

    def setHeader(self, name: str, value: str) -> None:
        pass

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        assert streaming

    def unregisterProducer(self) -> None:
        pass

    def write(self, data: bytes) -> None:
        self.written += data


@pytest.fixture
def clock() -> Clock:
    return Clock()


def numbered(n: int) -> Change:
    return Change("r", Job(str(n), "r", Submission("f", b"null", JobSource.CONTOUR_ASYNC), 0, n))


def test_a_client_that_does_not_read_gets_the_last_state_or_is_told_to_ask(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    client: Any = Client()
    feed = EventFeed(clock, client)
    feed.connected()
    feed.pauseProducing()
    change = numbered(1)
    feed.changed(change)
    assert change.job is not None
    change.job.transition(JobState.RUNNING, 1)
    feed.changed(change)
    clock.advance(HEARTBEAT)
    assert client.written == b": connected\n\n"
    feed.resumeProducing()
    clock.advance(events.GATHER)
    assert [(kind, each["status"]) for kind, each in parsed(client.written)] == [("job", "running")]
    monkeypatch.setattr(events, "MOST_PENDING", 3)
    client.written = b""
    for n in range(5):
        feed.changed(numbered(n))
    clock.advance(events.GATHER)
    assert [kind for kind, _ in parsed(client.written)] == ["reload", "job"]
    # Changes of jobs that are gone are not sent.
    client.written = b""
    feed.changed(numbered(5))
    feed.changed(Change("one", forgotten=True))
    clock.advance(events.GATHER)
    assert [kind for kind, _ in parsed(client.written)] == ["reload"]
    client.written = b""
    clock.advance(HEARTBEAT)
    assert client.written == b": still here\n\n"
    feed.close()
    assert not clock.getDelayedCalls()
