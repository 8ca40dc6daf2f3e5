"""What replicas, parked callers and megabytes cost."""

from __future__ import annotations

import asyncio
import json
import resource
import time
from collections.abc import Callable
from contextlib import closing
from urllib.parse import urlsplit

from beside import ROOT, ratio
from callers import REPLICAS, Contender, Measured, cpu, in_turn
from emulator import Emulator
from figures import written
from floor import Floor
from http_client import Connection, connect, module_request
from suite import RESULT, Suite, park, until

#: Replicas that poll at the same time, and callers that wait at the same time.
REPLICA_COUNTS = (REPLICAS, 256, 1000)
PARKED = 5000

CALLERS = 64

#: Rounds of results of each size.
PAYLOAD_ROUNDS = 3


class _Replica:
    """A replica of its own, with its own token."""

    def __init__(self, connection: Connection, description: bytes) -> None:
        opened = json.loads(description)
        self._connection = connection
        self._head = f"HTTP/1.1\r\nHost: localhost\r\nModule-Auth-Token: {opened['moduleAuthToken']}\r\n"
        self._job, self._results = (urlsplit(opened[key]).path for key in ("getJobUri", "postResultUri"))

    @classmethod
    async def open(cls, url: str) -> _Replica:
        """Open a replica."""
        connection = await connect(url)
        status, body = await connection.request(module_request("POST", "/replicas", b"{}"))
        assert status == 201, body
        return cls(connection, body)

    async def serve(self) -> None:
        """Poll as often as with the default poll timeout, and post results, until canceled."""
        try:
            while True:
                poll = f"GET {self._job} {self._head}Prefer: wait=2\r\n\r\n"
                status, body = await self._connection.request(poll.encode())
                if status == 200:
                    job_id = json.loads(body)["computeModuleJobV1"]["jobId"]
                    result = f"POST {self._results}/{job_id} {self._head}Content-Length: {RESULT}\r\n\r\n"
                    await self._connection.request(result.encode() + b"1" * RESULT)
        finally:
            self._connection.close()


async def serve_as_replica(url: str) -> None:
    """Be a replica of its own until canceled."""
    await (await _Replica.open(url)).serve()


async def idle(emulator: Emulator, replicas: int, seconds: float) -> float:
    """Return the share of a core that the emulator uses while replicas poll and nobody submits a job."""
    polls = [asyncio.create_task(serve_as_replica(emulator.urls["http"])) for _ in range(replicas)]
    # A few are between two polls.
    await until(emulator.urls["http"], lambda runtime: runtime["parked_polls"] >= 0.9 * replicas)
    used, started = emulator.cpu(), time.perf_counter()
    await asyncio.sleep(seconds)
    share = (emulator.cpu() - used) / (time.perf_counter() - started)
    for each in polls:
        each.cancel()
    await asyncio.gather(*polls, return_exceptions=True)
    return share


def replicas(rounds: int, seconds: float, idle_seconds: float, step: Callable[[], None]) -> list[list[str]]:
    """Return rows on jobs that are served by many replicas, and on replicas that wait."""
    emulators = [Emulator(package=ROOT) for _ in REPLICA_COUNTS]
    try:
        servers = {
            str(number): Contender(each.urls["http"], each.cpu, replicas=number, serve=serve_as_replica)
            for number, each in zip(REPLICA_COUNTS, emulators, strict=True)
        }
        found: dict[str, list[Measured]] = in_turn(servers, CALLERS, rounds, seconds, step)
    finally:
        for each in emulators:
            each.close()
    with closing(Emulator(package=ROOT)) as emulator:
        share = asyncio.run(idle(emulator, REPLICA_COUNTS[-1], idle_seconds))
        step()
    first = found[str(REPLICAS)]
    return [
        *(
            [
                f"{int(number):,} replicas, {CALLERS} callers: CPU of a job",
                f"{written(cpu(measured))} µs",
                f"{ratio(measured, first):.2f} of that with {REPLICAS}",
            ]
            for number, measured in found.items()
        ),
        [f"{REPLICA_COUNTS[-1]:,} replicas that wait, polls of 2 s: CPU", f"{share * 100:.1f} % of a core", ""],
    ]


def callers_and_results(rounds: int, quick: bool, step: Callable[[], None]) -> list[list[str]]:
    """Return rows on callers that wait, and on large results."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with closing(Emulator(package=ROOT)) as emulator, closing(Floor()) as floor:
        parked = PARKED // 50 if quick else PARKED
        idle_cpu, memory = asyncio.run(park(emulator, floor, parked))
        step()
    wait = f"{parked:,} callers that wait"
    table = [
        [f"{wait}: memory of each", f"{memory.value:.1f} KiB", f"{memory.floor:.1f} KiB in Klein alone"],
        [f"{wait}: CPU", f"{idle_cpu.value:.2f} % of a core", f"{idle_cpu.floor:.2f} % in Klein alone"],
    ]
    with closing(Emulator(package=ROOT)) as emulator, closing(Floor()) as floor:
        suite = Suite(emulator, floor, quick)
        suite.rounds = rounds
        for each in suite.payload():
            load = f"R{each.scenario[1:]}, one after another"
            table.append([load, f"{written(each.value)} MiB/s", f"{each.ratio:.2f} of an echo"])
        step()
    return table


def rows(rounds: int, seconds: float, idle_seconds: float, quick: bool, step: Callable[[], None]) -> list[list[str]]:
    """Return the whole table.

    Args:
        seconds: The length of one measurement in a round.
        idle_seconds: The length of the measurement of replicas that wait.
        quick: Whether fewer callers wait, and fewer results are passed on.
    """
    return [
        ["Load", "Emulator", "Beside"],
        *replicas(rounds, seconds, idle_seconds, step),
        *callers_and_results(min(rounds, PAYLOAD_ROUNDS), quick, step),
    ]


def steps(rounds: int) -> int:
    """Return how many steps :func:`rows` has."""
    return len(REPLICA_COUNTS) * rounds + 3
