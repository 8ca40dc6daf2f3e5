"""Measure an emulator with several workers beside one with one worker, both on a Redis, in turn.

Jobs have synchronous callers. Callers and pollers keep their connections, so a worker has the load of the connections
that it has taken. Each round makes all connections again.

On two cores, the workers compete with Redis and with the clients of this benchmark. So the jobs in a second say less
than the *capacity*: the jobs in a second of CPU time of the busiest process of the emulator. That is the rate at which
this process would be full if it had a core to itself and everything else were fast enough.

There are enough callers to keep the workers busy. With 48, each of two workers often finds one job at a time to do, and
uses a fifth more CPU for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import click
from attrs import define, field
from cpu import cpu_of
from emulator import Emulator
from http_client import connect, inspect_request
from redis_server import RedisServer
from runs import Run

#: The least that the capacity with two workers must be, as a multiple of that with one.
BAR = 1.6

#: Seconds without an answer after which a round is given up.
PATIENCE = 20.0


@define
class Contender:
    """One of the emulators that are compared.

    Attributes:
        workers: How many workers it has.
        processes: The process ids, by name: ``parent``, or the number of a worker.
        figures: The figures of each round, by name.
    """

    workers: int
    emulator: Emulator
    redis: RedisServer
    processes: dict[str, int] = field(factory=dict)
    figures: dict[str, list[float]] = field(factory=dict)

    def find_processes(self) -> None:
        """Wait until all processes have joined the nodes."""
        main = self.emulator.process.pid
        wanted = 1 if self.workers == 1 else self.workers + 1
        for _ in range(600):
            if self.emulator.log.read_text().count("joined the nodes") >= wanted:
                break
            time.sleep(0.05)
        children = Path(f"/proc/{main}/task/{main}/children").read_text().split()
        workers = [int(each) for each in children if b"serving.worker" in Path(f"/proc/{each}/cmdline").read_bytes()]
        self.processes = {"emulator" if self.workers == 1 else "parent": main}
        self.processes |= {f"worker {number}": pid for number, pid in enumerate(sorted(workers), 1)}
        assert len(self.processes) == wanted, "a worker did not start"

    def run(self, jobs: int, callers: int, pollers: int) -> None:
        """Run jobs, and keep the figures of this round."""
        url = self.emulator.urls["http"]
        run = Run([url], jobs, callers=callers, pollers=pollers)
        before = {name: cpu_of(pid) for name, pid in self.processes.items()}
        redis, client, operations = self.redis.cpu(), cpu_of(os.getpid()), self.redis.operations()
        rate = asyncio.run(run.run(run.execute, patience=PATIENCE))
        assert not run.wrong, f"{run.wrong} results are wrong"
        assert len(run.answered) == jobs, f"{jobs - len(run.answered)} jobs were not answered"
        used = {name: cpu_of(pid) - before[name] for name, pid in self.processes.items()}
        workers = sorted(value for name, value in used.items() if name != "parent")
        self._note("jobs/s", rate)
        self._note("capacity, jobs/s of the busiest process", jobs / max(used.values()))
        self._note("jobs per CPU second of all processes", jobs / sum(used.values()))
        self._note("ms of CPU for a job, workers", sum(workers) * 1000 / jobs)
        if "parent" in used:
            self._note("ms of CPU for a job, parent", used["parent"] * 1000 / jobs)
        self._note("ms of CPU for a job, Redis", (self.redis.cpu() - redis) * 1000 / jobs)
        self._note("ms of CPU for a job, clients of the benchmark", (cpu_of(os.getpid()) - client) * 1000 / jobs)
        self._note("operations in Redis for a job", (self.redis.operations() - operations) / jobs)
        asyncio.run(self._no_polls())
        if len(workers) > 1:
            self._note("share of the load of the busiest worker, %", workers[-1] / sum(workers) * 100)

    async def _no_polls(self) -> None:
        """Wait until the polls of the last round have gone, so that they get no jobs of the next one."""
        connection = await connect(self.emulator.urls["http"])
        for _ in range(400):
            _, body = await connection.request(inspect_request())
            if not json.loads(body)["parked_polls"]:
                break
            await asyncio.sleep(0.05)
        connection.close()

    def _note(self, name: str, value: float) -> None:
        self.figures.setdefault(name, []).append(value)


def compare(counts: list[int], jobs: int, rounds: int, callers: int, pollers: int) -> dict[str, dict[str, list[float]]]:
    """Return the figures of each round, by emulator and name."""
    with contextlib.ExitStack() as stack:
        contenders = []
        for workers in counts:
            redis = stack.enter_context(contextlib.closing(RedisServer("--appendonly", "yes")))
            options = ("--broker", redis.url, "--workers", str(workers))
            emulator = stack.enter_context(contextlib.closing(Emulator(*options)))
            contenders.append(Contender(workers, emulator, redis))
        for each in contenders:
            each.find_processes()
            # The first jobs find everything cold.
            each.run(max(jobs // 10, 1), callers, pollers)
            each.figures.clear()
        with click.progressbar(length=rounds * len(contenders), label="  rounds", file=sys.stderr) as bar:
            for _ in range(rounds):
                for each in contenders:
                    each.run(jobs, callers, pollers)
                    bar.update(1)
    return {"one worker" if each.workers == 1 else f"{each.workers} workers": each.figures for each in contenders}


@click.command()
@click.option("--workers", default=2, show_default=True, type=click.IntRange(2), help="Workers beside one.")
@click.option("--jobs", default=8000, show_default=True, help="Jobs of each emulator in a round.")
@click.option("--rounds", default=7, show_default=True, help="Rounds; the median of them counts.")
@click.option("--callers", default=128, show_default=True, help="Callers, each with a connection.")
@click.option("--pollers", default=64, show_default=True, help="Pollers, each with a connection.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def main(workers: int, jobs: int, rounds: int, callers: int, pollers: int, as_json: bool) -> None:
    """Measure an emulator with several workers beside one with one worker, in turn.

    Example: bin/bench workers --rounds 3
    """
    found = compare([1, workers], jobs, rounds, callers, pollers)
    figures: dict[str, Any] = {
        f"{emulator}: {name}": round(statistics.median(values), 2)
        for emulator, by_name in found.items()
        for name, values in by_name.items()
    }
    one, several = found.values()
    for name in ("jobs/s", "capacity, jobs/s of the busiest process"):
        ratios = [each / alone for each, alone in zip(several[name], one[name], strict=True)]
        figures[f"{workers} workers to one: {name}"] = round(statistics.median(ratios), 2)
    spread = several["share of the load of the busiest worker, %"]
    figures["worst share of the busiest worker, %"] = round(max(spread), 1)
    if as_json:
        click.echo(json.dumps(figures))
    else:
        for name, figure in figures.items():
            click.echo(f"{name:<76}{figure:>10}")
    if figures[f"{workers} workers to one: capacity, jobs/s of the busiest process"] < BAR:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
