"""Clients that receive slowly: only one that receives nothing is cut off."""

from __future__ import annotations

import pytest
import pytest_twisted
from conftest import CONTOUR, RUNTIMES, Harness, pause
from twisted.internet import reactor
from wire import Wire, connect, head

from twisted_cm.broker.results import ResultBody
from twisted_cm.model.jobs import JobSource, Submission
from twisted_cm.model.runtimes import FunctionSchema

#: Seconds between two reads of a slow client.
PACE = 0.005

#: Bytes of a result that a slow client needs longer for than the time limits of ``hasty``.
SIZE = 16 * 1024 * 1024


class SlowWire(Wire):
    """A client that receives one piece at a time, with a pause after each.

    Attributes:
        began: When the first piece arrived.
    """

    began: float | None = None
    _pausing = False

    def dataReceived(self, data: bytes) -> None:
        self.began = self.began or reactor.seconds()
        super().dataReceived(data)
        if not self._pausing:
            self._pausing = True
            self.transport.pauseProducing()
            reactor.callLater(PACE, self._resume)

    def has_all(self) -> bool:
        """Return whether the whole result has arrived."""
        # Counting takes long, and happens after each piece.
        return len(self.received) > SIZE and self.received.count(b"x") >= SIZE

    def _resume(self) -> None:
        self._pausing = False
        if not self.closed:
            self.transport.resumeProducing()


@pytest.mark.long
@pytest.mark.parametrize("connection", ["keep-alive", "close"])
@pytest.mark.parametrize("route", ["result", "inspection", "runtime"])
@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest_twisted.ensureDeferred
async def test_a_slow_reader_is_not_cut_off(hasty: Harness, scheme: str, route: str, connection: str) -> None:
    """The answer takes longer than each time limit, whether it is written at once or piece by piece."""
    job = await hasty.broker.enqueue("one", Submission("f", b"{}", JobSource.CONTOUR_ASYNC))
    result = ResultBody()
    result.write(b"x" * SIZE)
    await hasty.broker.complete(job.job_id, result)
    # A runtime is written at once, with its schemas; the others are written piece by piece.
    await hasty.broker.put_schemas("one", [FunctionSchema("f", {"description": "x" * SIZE}, (), 0)])
    paths = {
        "result": f"{CONTOUR}/jobs/{job.job_id}/result",
        "inspection": f"{RUNTIMES}/one/jobs/{job.job_id}",
        "runtime": f"{RUNTIMES}/one",
    }
    wire = await connect(hasty, scheme, protocol=SlowWire)
    assert isinstance(wire, SlowWire)
    wire.transport.write(
        head("GET", paths[route], "Authorization: Bearer app-token", f"Connection: {connection}") + b"\r\n"
    )
    await wire.until(lambda: wire.closed or wire.has_all(), 60)
    assert wire.received.count(b"x") >= SIZE
    assert wire.began is not None
    (site,) = hasty.sites()
    assert reactor.seconds() - wire.began > 2 * site.stall_timeout
    await wire.until_closed()


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest_twisted.ensureDeferred
async def test_a_limit_on_receiving_ends_with_the_answer(hasty: Harness, scheme: str) -> None:
    """A client that received an answer slowly, and then parks, is not cut off for the answer."""
    job = await hasty.broker.enqueue("one", Submission("f", b"{}", JobSource.CONTOUR_ASYNC))
    result = ResultBody()
    result.write(b"x" * SIZE)
    await hasty.broker.complete(job.job_id, result)
    wire = await connect(hasty, scheme, protocol=SlowWire)
    assert isinstance(wire, SlowWire)
    wire.transport.write(
        head("GET", f"{CONTOUR}/jobs/{job.job_id}/result", "Authorization: Bearer app-token")
        + b"\r\n"
        + head("GET", f"{RUNTIMES}/two/job", "Module-Auth-Token: token-two")
        + b"\r\n"
    )
    await wire.until(lambda: wire.closed or wire.has_all(), 60)
    await hasty.until(lambda: hasty.work("two").parked_polls)
    await pause(0.8)
    assert not wire.closed
    assert hasty.work("two").parked_polls == 1
    wire.transport.abortConnection()
    await hasty.until(lambda: not hasty.connections())
