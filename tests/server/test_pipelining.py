"""What happens to requests that are sent before the answer to the last one is taken."""

from __future__ import annotations

import json
import re
import socket
from urllib.parse import urlsplit

import pytest
import pytest_twisted
from conftest import CONTOUR, RUNTIMES, Harness, pause, serve_one
from wire import BEARER, EXECUTE, GET, connect, execution, head, is_well

from twisted_cm.model.faults import FaultKind, FaultPlan
from twisted_cm.model.jobs import JobState


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest_twisted.ensureDeferred
async def test_pipelined_requests_are_answered_in_order(harness: Harness, scheme: str) -> None:
    wire = await connect(harness, scheme)
    body = execution(b"1")
    poll = head("GET", f"{RUNTIMES}/one/job", "Module-Auth-Token: token-one") + b"\r\n"
    submit = head("POST", f"{CONTOUR}/deployed-apps/jobs", BEARER, f"Content-Length: {len(body)}") + b"\r\n" + body
    nowhere = head("GET", "/nowhere") + b"\r\n"
    wire.transport.write(submit + poll + nowhere + poll + submit + GET + b"\r\n" + nowhere)
    await wire.until(lambda: len(wire.statuses) == 3)
    assert wire.statuses == [200, 200, 404]
    await harness.until(lambda: harness.work().parked_polls)
    assert (await harness.app("POST", "/deployed-apps/jobs", json.loads(body)))[0] == 200
    await wire.until(lambda: len(wire.statuses) == 7)
    assert wire.statuses == [200, 200, 404, 200, 200, 200, 404]
    wire.transport.write((GET + b"\r\n") * 3000)
    await wire.until(lambda: wire.received.count(b"HTTP/1.1 200 ") == 3005)


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest_twisted.ensureDeferred
async def test_a_flood_behind_a_parked_poll_ends_both(harness: Harness, scheme: str) -> None:
    """Keeping the flood would fill the memory; not reading it would hide that the client disconnects."""
    wire = await connect(harness, scheme)
    wire.transport.write(head("GET", f"{RUNTIMES}/one/job", "Module-Auth-Token: token-one") + b"\r\n")
    await harness.until(lambda: harness.work().parked_polls)
    wire.transport.write((GET + b"\r\n") * 10_000)
    await wire.until_closed()
    await harness.until(lambda: not harness.work().parked_polls)
    await is_well(harness, scheme)


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest_twisted.ensureDeferred
async def test_a_flood_behind_an_unread_answer_waits(harness: Harness, scheme: str) -> None:
    _, handle, _ = await harness.app("POST", "/deployed-apps/jobs", json.loads(execution(b"1")))
    await serve_one(harness, b"x" * 30_000_000)
    (site,) = harness.sites()
    former = set(site.channels)
    wire = await connect(harness, scheme)
    wire.transport.pauseProducing()
    wire.transport.write(head("GET", f"{CONTOUR}/jobs/{handle['id']}/result", BEARER) + b"\r\n")
    (channel,) = await harness.until(lambda: site.channels - former)
    await harness.until(lambda: channel.held)
    wire.transport.write((GET + b"\r\n") * 100_000)
    await harness.until(lambda: channel.bytes_ahead)
    await pause(0.5)
    assert channel.bytes_ahead < 200_000
    wire.transport.abortConnection()
    await harness.until(lambda: channel not in site.channels)


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest_twisted.ensureDeferred
async def test_a_connection_is_free_again_after_a_large_envelope(harness: Harness, scheme: str) -> None:
    await harness.app("POST", "/deployed-apps/jobs", json.loads(execution(b'"' + b"x" * 5_000_000 + b'"')))
    (site,) = harness.sites()
    former = set(site.channels)
    wire = await connect(harness, scheme)
    wire.transport.write(head("GET", f"{RUNTIMES}/one/job", "Module-Auth-Token: token-one") + b"\r\n")
    await wire.until(lambda: wire.received.endswith(b"}}"))
    (channel,) = site.channels - former
    await harness.until(lambda: not channel.awaits_flush)
    assert not channel.held
    wire.transport.write(GET + b"\r\n")
    await wire.until(lambda: wire.received.count(b"HTTP/1.1 200 ") == 2)


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest_twisted.ensureDeferred
async def test_a_large_envelope_is_delivered_though_its_connection_is_being_closed(
    harness: Harness, scheme: str
) -> None:
    await harness.app("POST", "/deployed-apps/jobs", json.loads(execution(b'"' + b"x" * 1_000_000 + b'"')))
    (site,) = harness.sites()
    former = set(site.channels)
    wire = await connect(harness, scheme)
    (channel,) = site.channels - former
    channel.transport.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 40_000)
    wire.transport.pauseProducing()
    wire.transport.write(head("GET", f"{RUNTIMES}/one/job", "Module-Auth-Token: token-one") + b"\r\n")
    await harness.until(lambda: channel.awaits_flush)
    channel.loseConnection()
    wire.transport.resumeProducing()
    assert (await wire.until_closed()).endswith(b"}}")
    await harness.until(lambda: channel not in site.channels)
    assert [job.state for job in harness.jobs()] == [JobState.RUNNING]


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest_twisted.ensureDeferred
async def test_a_job_whose_long_envelope_is_cut_off_is_queued_again(harness: Harness, scheme: str) -> None:
    await harness.app("POST", "/deployed-apps/jobs", json.loads(execution(b'"' + b"x" * 20_000_000 + b'"')))
    wire = await connect(harness, scheme)
    wire.transport.write(head("GET", f"{RUNTIMES}/one/job", "Module-Auth-Token: token-one") + b"\r\n")
    await wire.until(lambda: len(wire.received) > 100_000)
    wire.transport.abortConnection()
    await harness.until(lambda: [job.state for job in harness.jobs()] == [JobState.QUEUED])
    polled = await serve_one(harness, b"done")
    assert len(polled["query"]) == 20_000_000


@pytest_twisted.ensureDeferred
async def test_a_client_that_does_not_take_a_result_that_is_cut_is_cut_off(harness: Harness) -> None:
    harness.service.faults.add(FaultPlan(FaultKind.CUT_RESULT))
    (site,) = harness.sites()
    site.close_timeout = 0.2
    assert harness.service.addresses.http is not None
    port = urlsplit(harness.service.addresses.http).port
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", port))
        (channel,) = await harness.until(lambda: site.channels)
        channel.transport.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        body = execution(b"1")
        client.sendall(head("POST", EXECUTE, BEARER, f"Content-Length: {len(body)}") + b"\r\n" + body)
        await harness.until(lambda: harness.work().queued)
        await serve_one(harness, b"x" * 120_000)
        assert channel.transport.dataBuffer
        assert channel in site.channels
        await harness.until(lambda: channel not in site.channels)


@pytest_twisted.ensureDeferred
async def test_pipelined_answers_are_whole_and_in_order_though_the_client_is_slow(harness: Harness) -> None:
    """Together the answers exceed what the socket takes at once."""
    ids = []
    for number in range(50):
        query = f'"{number} {"x" * 15_000}"'.encode()
        ids.append((await harness.app("POST", "/deployed-apps/jobs", json.loads(execution(query))))[1]["id"])
    (site,) = harness.sites()
    former = set(site.channels)
    wire = await connect(harness)
    (channel,) = site.channels - former
    channel.transport.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 40_000)
    wire.transport.pauseProducing()
    wire.transport.write(b"".join(head("GET", f"{RUNTIMES}/one/jobs/{each}") + b"\r\n" for each in ids))
    await harness.until(lambda: channel.held)
    wire.transport.resumeProducing()
    await wire.until(lambda: wire.received.count(b'x"') == 50)
    assert re.findall(rb'"query":"(\d+) x{15000}"', wire.received) == [b"%d" % number for number in range(50)]


@pytest_twisted.ensureDeferred
async def test_who_is_being_closed_is_not_listened_to(harness: Harness) -> None:
    """Over TLS, data arrives until the client agrees to close, even after a 400."""
    wire = await connect(harness, "https")
    wire.transport.pauseProducing()
    wire.transport.write(head("POST", RUNTIMES, "nonsense", "X: y"))
    (channel,) = await harness.until(lambda: harness.sites()[0].channels)
    await harness.until(lambda: channel.transport.disconnecting)
    body = b'{"runtimeId": "smuggled"}'
    for sent in (b"Content-Length: %d\r\n" % len(body), b"\r\n", body):
        wire.transport.write(sent)
        # What is written in another turn of the reactor arrives as a TLS record of its own.
        await pause(0)
    await is_well(harness, "https")
    wire.transport.resumeProducing()
    await wire.until_closed()
    _, runtimes, _ = await harness.call("GET", RUNTIMES, Authorization="Bearer app-token")
    assert "smuggled" not in json.dumps(runtimes)
