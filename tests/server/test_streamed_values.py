"""Test that the chunks of a module's post tell its values apart, over real sockets and with the real Python SDK."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from conftest import BIN, ROOT, RUNTIMES, Harness, kill
from node_fixtures import until
from sdk_processes import SDK_PYTHON
from server.contour_steps import submit, take
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from wire import CHUNKED, Wire, connect, head

from twisted_cm.config.tls import local_certificate
from twisted_cm.model.jobs import Job
from twisted_cm.server.stream_values import BrokenOff, ValueStream

MODULE = ROOT / "tests" / "sdk" / "module.py"


@pytest.fixture
def with_tls(start_anywhere: Callable[..., Harness], state_dir: Path) -> Harness:
    """Start an emulator with a certificate, which the SDK needs, on each kind of broker."""
    return start_anywhere(certificate=local_certificate(state_dir, "127.0.0.1"))


def values_of(job: Job) -> ValueStream:
    assert job.result is not None
    return ValueStream(job.result, reactor)


async def rest(stream: ValueStream) -> list[bytes]:
    """Return all values up to the end."""
    found = []
    while (value := await stream.next()) is not None:
        found.append(value)
    return found


async def post_head(harness: Harness, job_id: str, header: str = CHUNKED, **options: Any) -> Wire:
    """Send the headers of a result."""
    wire = await connect(harness, **options)
    path = f"{RUNTIMES}/one/results/{job_id}"
    wire.transport.write(head("POST", path, "Module-Auth-Token: token-one", header) + b"\r\n")
    return wire


async def job_with(harness: Harness, job_id: str, size: int) -> Job:
    """Wait until a result has so many bytes, which says that the emulator has read what was sent."""
    jobs: list[Job] = []

    async def arrived() -> bool:
        jobs.append(await harness.broker.job(job_id))
        return jobs[-1].result is not None and jobs[-1].result.size == size

    await until(lambda: Deferred.fromCoroutine(arrived()))
    return jobs[-1]


async def ends(job: Job) -> list[int]:
    assert job.result is not None
    return list(await job.result.ends(0, job.result.size))


async def finished(harness: Harness, wire: Wire, job_id: str) -> Job:
    """Wait for the answer to the post of a result."""
    await wire.until(lambda: b"\r\n\r\n" in wire.received)
    assert wire.statuses == [204]
    wire.transport.abortConnection()
    job: Job = await harness.broker.job(job_id)
    return job


@pytest_twisted.ensureDeferred
async def test_only_the_real_end_of_a_chunk_counts(anywhere: Harness) -> None:
    await submit(anywhere)
    job_id = await take(anywhere)
    wire = await post_head(anywhere, job_id)
    size = 0
    # Each of these is read on its own: the next one is sent when the bytes of the last one have arrived. The last byte
    # of a chunk waits for the line break behind it.
    for piece, new in (
        (b"6\r\n12", 1),
        (b"34", 2),
        (b"56\r", 2),
        (b"\n1;x=y\r\n7\r\n2\r\n8", 2),
        (b"9\r\n3\r\n[1]\r\n2\r\n01", 6),
    ):
        wire.transport.write(piece)
        size += new
        job = await job_with(anywhere, job_id, size)
    assert await ends(job) == [6, 7, 9]
    stream = values_of(job)
    assert [await stream.next() for _ in range(4)] == [b"123456", b"7", b"89", b"[1]"]
    stream.close()
    wire.transport.write(b"\r\n0\r\n\r\n")
    job = await finished(anywhere, wire, job_id)
    assert await ends(job) == [6, 7, 9, 14]
    assert await rest(values_of(job)) == [b"123456", b"7", b"89", b"[1]", b"0", b"1"]


@pytest_twisted.ensureDeferred
async def test_each_number_arrives_when_its_chunk_ends(anywhere: Harness) -> None:
    await submit(anywhere)
    job_id = await take(anywhere)
    wire = await post_head(anywhere, job_id)
    wire.transport.write(b"1\r\n3\r\n")
    stream = values_of(await job_with(anywhere, job_id, 1))
    assert await stream.next() == b"3"
    for number in (b"2", b"1", b"10"):
        asked = Deferred.fromCoroutine(stream.next())
        assert not asked.called
        wire.transport.write(b"%x\r\n%b\r\n" % (len(number), number))
        assert await asked == number
    asked = Deferred.fromCoroutine(stream.next())
    # The last chunk has not ended.
    wire.transport.write(b"3\r\n42")
    await job_with(anywhere, job_id, 6)
    assert not asked.called
    wire.transport.abortConnection()
    with pytest.raises(BrokenOff):
        await asked


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest_twisted.ensureDeferred
async def test_chunks_that_come_with_the_headers_have_ends(harness: Harness, scheme: str) -> None:
    await submit(harness)
    job_id = await take(harness)
    wire = await connect(harness, scheme)
    path = f"{RUNTIMES}/one/results/{job_id}"
    chunks = b"".join(b"%x\r\n%d\r\n" % (len(str(number)), number) for number in range(3000))
    headers = head("POST", path, "Module-Auth-Token: token-one", CHUNKED)
    wire.transport.write(headers + b"\r\n" + chunks + b"0\r\n\r\n")
    job = await finished(harness, wire, job_id)
    assert await rest(values_of(job)) == [b"%d" % number for number in range(3000)]


@pytest_twisted.ensureDeferred
async def test_a_post_of_known_length_has_no_chunks(anywhere: Harness) -> None:
    await submit(anywhere)
    job_id = await take(anywhere)
    wire = await post_head(anywhere, job_id, "Content-Length: 4")
    wire.transport.write(b"12")
    wire.transport.write(b"34")
    job = await finished(anywhere, wire, job_id)
    assert await ends(job) == []
    assert await rest(values_of(job)) == [b"1234"]


@pytest_twisted.ensureDeferred
async def test_the_numbers_that_the_python_sdk_streams_are_told_apart(with_tls: Harness) -> None:
    environment = {
        **os.environ,
        "TWISTED_CM_URL": with_tls.service.addresses.http or "",
        "TWISTED_CM_TOKEN": "app-token",
    }
    join = ("exec", "--runtime", "one", "--module-auth-token", "token-one", "--")
    module = subprocess.Popen(
        [str(BIN / "twisted-cm"), *join, SDK_PYTHON, str(MODULE)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        body = {"deployedAppRid": "ri.one", "queryType": "stream", "query": {"n": 12}}
        status, content, headers = await with_tls.app("POST", "/compute-modules/jobs/execute", body)
        assert (status, content) == (200, b"01234567891011")
        (job_id,) = headers.getRawHeaders("X-Job-Id")
        job = await with_tls.broker.job(job_id)
        assert await ends(job) == [*range(1, 11), 12, 14]
        assert await rest(values_of(job)) == [b"%d" % number for number in range(12)]
    finally:
        print(kill(module).decode())


@pytest_twisted.ensureDeferred
async def test_a_post_that_is_not_chunked_as_it_should_be_breaks_the_stream_off(anywhere: Harness) -> None:
    await submit(anywhere)
    job_id = await take(anywhere)
    wire = await post_head(anywhere, job_id)
    wire.transport.write(b"1\r\n1\r\n")
    stream = values_of(await job_with(anywhere, job_id, 1))
    assert await stream.next() == b"1"
    wire.transport.write(b"no chunk\r\n")
    with pytest.raises(BrokenOff):
        await stream.next()
    await wire.until_closed()
