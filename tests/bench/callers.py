"""What a synchronous job costs with more and more callers, in the emulator and elsewhere, measured in turn."""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from attrs import field, frozen
from beside import ROOT, SYNC
from elsewhere import Elsewhere
from emulator import Emulator
from floor import Floor
from http_client import Connection, caller_request, connect
from suite import serve_jobs

#: The numbers of callers, and how many replicas poll.
CALLERS = (1, 4, 16, 64, 256)
REPLICAS = 16

#: Seconds before the first round, and more of them for each replica: what is cold becomes warm.
WARM_UP, WARM_UP_REPLICA = 0.3, 0.002

EMULATOR, KLEIN, NODE, TIMER = "emulator", "klein", "node", "timer"

#: How each contender is called on the page.
LABELS = {
    EMULATOR: "twisted-cm",
    KLEIN: "constant answers, Klein",
    NODE: "constant answers, Node.js",
    TIMER: "timer of 10 ms, Node.js",
}


@frozen
class Contender:
    """A server that is measured.

    Attributes:
        cpu: Returns the seconds of a core that it has used.
        requests: What a caller sends for one job, one request after the other.
        replicas: How many replicas poll, or 0 if the caller's requests are all.
        serve: Acts as a replica until canceled.
    """

    url: str
    cpu: Callable[[], float]
    requests: Sequence[bytes] = field(factory=lambda: [caller_request(1)])
    replicas: int = REPLICAS
    serve: Callable[[str], Any] = serve_jobs


@frozen
class Measured:
    """One round of one contender.

    Attributes:
        times: The milliseconds of each job.
        cpu: The microseconds of the server's CPU for a job.
        rate: The jobs in a second.
    """

    times: Sequence[float]
    cpu: float
    rate: float


class Load:
    """The connections of callers and replicas to one contender, kept from round to round."""

    def __init__(self, contender: Contender) -> None:
        self._contender = contender
        self._replicas: list[asyncio.Task[None]] = []
        self._connections: list[Connection] = []

    async def open(self, callers: int) -> None:
        """Connect, and run the first jobs."""
        contender = self._contender
        self._replicas = [asyncio.create_task(contender.serve(contender.url)) for _ in range(contender.replicas)]
        self._connections = [await connect(contender.url) for _ in range(callers)]
        await asyncio.sleep(WARM_UP_REPLICA * contender.replicas)
        await self.run(WARM_UP)

    async def run(self, seconds: float) -> Measured:
        """Run jobs for some seconds, at least one for each caller, and return what they cost."""
        times: list[float] = []
        cpu, begun = self._contender.cpu(), time.perf_counter()
        await asyncio.gather(*(self._call(each, begun + seconds, times) for each in self._connections))
        cpu, taken = self._contender.cpu() - cpu, time.perf_counter() - begun
        return Measured(times, cpu / len(times) * 1e6, len(times) / taken)

    async def _call(self, connection: Connection, end: float, times: list[float]) -> None:
        started = time.perf_counter()
        while True:
            for request in self._contender.requests:
                status, _ = await connection.request(request)
                assert status < 300, status
            finished = time.perf_counter()
            times.append((finished - started) * 1000)
            if finished > end:
                return
            started = finished

    async def close(self) -> None:
        """Close all connections."""
        for replica in self._replicas:
            replica.cancel()
        await asyncio.gather(*self._replicas, return_exceptions=True)
        for connection in self._connections:
            connection.close()


@contextlib.contextmanager
def contenders() -> Iterator[dict[str, Contender]]:
    """Start all contenders, and stop them in the end."""
    with contextlib.ExitStack() as stack:

        def start(server: Any) -> Any:
            return stack.enter_context(contextlib.closing(server))

        emulator, klein = start(Emulator(package=ROOT)), start(Floor())
        node, timer = start(Elsewhere("constant")), start(Elsewhere("timer"))
        yield {
            EMULATOR: Contender(emulator.urls["http"], emulator.cpu),
            KLEIN: Contender(klein.url, klein.cpu, SYNC, replicas=0),
            NODE: Contender(node.url, node.cpu, SYNC, replicas=0),
            TIMER: Contender(timer.url, timer.cpu),
        }


def in_turn(
    servers: dict[str, Contender], callers: int, rounds: int, seconds: float, step: Callable[[], None]
) -> dict[str, list[Measured]]:
    """Measure each server once in each round, in another order.

    Many short rounds are better than few long ones: other programs of the machine then disturb all servers alike.

    Args:
        seconds: The length of one measurement.
        step: Called after each measurement.
    """

    async def run() -> dict[str, list[Measured]]:
        loads = {name: Load(server) for name, server in servers.items()}
        found: dict[str, list[Measured]] = {name: [] for name in servers}
        try:
            for load in loads.values():
                await load.open(callers)
            for number in range(rounds):
                for name in list(loads)[:: 1 if number % 2 else -1]:
                    found[name].append(await loads[name].run(seconds))
                    step()
        finally:
            for load in loads.values():
                await load.close()
        return found

    return asyncio.run(run())


def quantile(measured: Sequence[Measured], share: float) -> float:
    """Return the milliseconds in which a share of the jobs of all rounds ended."""
    times = sorted(time for each in measured for time in each.times)
    return times[min(int(share * len(times)), len(times) - 1)]


def cpu(measured: Sequence[Measured]) -> float:
    """Return the median of the microseconds of CPU for a job."""
    return statistics.median(each.cpu for each in measured)


def rate(measured: Sequence[Measured]) -> float:
    """Return the median of the jobs in a second."""
    return statistics.median(each.rate for each in measured)


def figures(measured: Sequence[Measured]) -> tuple[float, float, float, float]:
    """Return the median and the 99th percentile of a job's milliseconds, its CPU, and the jobs in a second."""
    return quantile(measured, 0.5), quantile(measured, 0.99), cpu(measured), rate(measured)


def measure_all(rounds: int, seconds: float, step: Callable[[], None]) -> dict[str, dict[int, list[Measured]]]:
    """Return the measurements of each contender, by number of callers."""
    with contenders() as servers:
        found: dict[str, dict[int, list[Measured]]] = {name: {} for name in servers}
        for callers in CALLERS:
            for name, measured in in_turn(servers, callers, rounds, seconds, step).items():
                found[name][callers] = measured
    return found


def steps(rounds: int) -> int:
    """Return how many measurements :func:`measure_all` makes."""
    return len(CALLERS) * len(LABELS) * rounds
