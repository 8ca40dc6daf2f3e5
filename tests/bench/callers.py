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

#: Seconds before each measurement, and for each replica: connections are made, and what is cold becomes warm.
WARM_UP, WARM_UP_REPLICA = 0.3, 0.001

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
    """One measurement: milliseconds of a job, microseconds of the server's CPU for a job, and jobs a second."""

    p50: float
    p99: float
    cpu: float
    rate: float


async def measure(contender: Contender, callers: int, seconds: float) -> Measured:
    """Run jobs for some seconds, and return what they cost. Making the connections does not count."""
    times: list[float] = []
    running = True

    async def call(connection: Connection) -> None:
        while running:
            started = time.perf_counter()
            for request in contender.requests:
                status, _ = await connection.request(request)
                assert status < 300, status
            times.append(time.perf_counter() - started)
        connection.close()

    replicas = [asyncio.create_task(contender.serve(contender.url)) for _ in range(contender.replicas)]
    connections = await asyncio.gather(*(connect(contender.url) for _ in range(callers)))
    calls = asyncio.gather(*map(call, connections))
    try:
        await asyncio.sleep(WARM_UP + WARM_UP_REPLICA * contender.replicas)
        while len(times) < callers:
            await asyncio.sleep(WARM_UP)
        times.clear()
        cpu, started = contender.cpu(), time.perf_counter()
        await asyncio.sleep(seconds)
        while not times:
            await asyncio.sleep(seconds)
        cpu, taken, measured = contender.cpu() - cpu, time.perf_counter() - started, sorted(times)
        # A replica that went with a job would leave its caller waiting.
        running = False
        await calls
    finally:
        for replica in replicas:
            replica.cancel()
        await asyncio.gather(*replicas, return_exceptions=True)
    number = len(measured)
    p50, p99 = (measured[int(share * number)] * 1000 for share in (0.5, 0.99))
    return Measured(p50, p99, cpu / number * 1e6, number / taken)


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

    Args:
        step: Called after each measurement.
    """
    found: dict[str, list[Measured]] = {name: [] for name in servers}
    for number in range(rounds):
        for name in list(servers)[:: 1 if number % 2 else -1]:
            found[name].append(asyncio.run(measure(servers[name], callers, seconds)))
            step()
    return found


def median(measured: list[Measured], figure: str) -> float:
    """Return the median of a figure over all rounds."""
    return statistics.median(getattr(each, figure) for each in measured)


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
