"""Measure the CPU of a job beside an earlier commit of this project, in turn, and beside the floor of constant routes.

On a machine that other programs use, only the ratios are meaningful. Each round runs every contender once, with the
same number of jobs, in another order.
"""

from __future__ import annotations

import contextlib
import io
import json
import statistics
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import click
from attrs import frozen
from emulator import Emulator
from figures import written
from floor import Floor, floor_request
from http_client import caller_request
from redis_server import RedisServer
from rich.console import Console
from rich.table import Table
from suite import ENVELOPE, HANDLE, RESULT, STATUS, body_of, constant, execute, submit_and_fetch, timed, with_runtimes

ROOT = Path(__file__).parent.parent.parent

SUBMISSION = body_of(caller_request(1))

#: The requests of a synchronous job and of an asynchronous one, to constant routes.
SYNC = [
    floor_request("POST", RESULT, SUBMISSION),
    floor_request("GET", ENVELOPE),
    floor_request("POST", 0, b"x" * RESULT),
]
REFERENCE = b'{"id": "foundry_job_0123456789abcdef0123456789abcdef"}'
ASYNC = [
    floor_request("POST", HANDLE, SUBMISSION),
    *SYNC[1:],
    floor_request("PUT", STATUS, REFERENCE),
    floor_request("PUT", RESULT, REFERENCE),
]

NOW, BEFORE, FLOOR = "now", "before", "floor"


@frozen
class Load:
    """What clients do.

    Attributes:
        jobs: The jobs of a round.
        run: Runs jobs at a URL.
        requests: The requests of a job, to constant routes.
    """

    name: str
    clients: int
    jobs: int
    run: Callable[[str, int, int], Awaitable[list[float]]]
    requests: list[bytes]


LOADS = (
    Load("sync, 1 client", 1, 1500, execute, SYNC),
    Load("sync, 64 clients", 64, 4000, execute, SYNC),
    Load("async, 64 clients", 64, 3000, submit_and_fetch, ASYNC),
)


@frozen
class Measured:
    """One round of one contender: CPU of a job in microseconds, and jobs a second."""

    cpu: float
    rate: float


def measure(server: Emulator | Floor, load: Load) -> Measured:
    """Run one round."""
    if isinstance(server, Floor):
        work = partial(constant, server.url, load.clients, load.jobs, load.requests)
    else:
        url = server.urls["http"]
        work = partial(with_runtimes, 16, partial(load.run, url, load.clients, load.jobs), url)
    before = server.cpu()
    times, seconds = timed(work)
    return Measured((server.cpu() - before) / len(times) * 1e6, len(times) / seconds)


@contextlib.contextmanager
def package_of(commit: str) -> Iterator[Path]:
    """Yield a directory with the package of a commit."""
    done = subprocess.run(["git", "-C", str(ROOT), "archive", commit, "twisted_cm"], capture_output=True, check=False)
    if done.returncode:
        raise click.ClickException(f"git cannot read commit '{commit}': {done.stderr.decode().strip()}")
    with tempfile.TemporaryDirectory(prefix="twisted-cm-bench-") as directory:
        with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
            archive.extractall(directory, filter="data")
        yield Path(directory)


def ratio(above: list[Measured], below: list[Measured], figure: str = "cpu") -> float:
    """Return the median of the ratios of all rounds."""
    return statistics.median(getattr(a, figure) / getattr(b, figure) for a, b in zip(above, below, strict=True))


def compare(servers: dict[str, Any], loads: list[Load], rounds: int) -> dict[str, dict[str, list[Measured]]]:
    """Return what each contender took in each round, by load."""
    found: dict[str, dict[str, list[Measured]]] = {load.name: {name: [] for name in servers} for load in loads}
    with click.progressbar(length=rounds * len(loads), label="  rounds", file=sys.stderr) as bar:
        for load in loads:
            for server in servers.values():
                # The first jobs find everything cold.
                measure(server, load)
            for number in range(rounds):
                order = list(servers)[:: 1 if number % 2 else -1]
                for name in order:
                    found[load.name][name].append(measure(servers[name], load))
                bar.update(1)
    return found


@click.command()
@click.argument("commit")
@click.option("--rounds", default=9, show_default=True, type=click.IntRange(1), help="Rounds; the median counts.")
@click.option("--redis", is_flag=True, help="Measure jobs on a Redis, too.")
@click.option("--only", multiple=True, type=click.Choice([each.name for each in LOADS]), help="Only this load.")
def main(commit: str, rounds: int, redis: bool, only: tuple[str, ...]) -> None:
    """Measure the CPU of a job beside COMMIT, in turn.

    Example: bin/bench beside v0.1.0 --redis
    """
    loads = [each for each in LOADS if not only or each.name in only]
    with contextlib.ExitStack() as stack:
        before = stack.enter_context(package_of(commit))
        servers: dict[str, Any] = {
            NOW: Emulator(package=ROOT),
            BEFORE: Emulator(package=before),
            FLOOR: Floor(),
        }
        if redis:
            for name, package in ((NOW, ROOT), (BEFORE, before)):
                server = stack.enter_context(contextlib.closing(RedisServer()))
                servers[f"{name}, Redis"] = Emulator("--broker", server.url, package=package)
        for each in servers.values():
            stack.enter_context(contextlib.closing(each))
        found = compare(servers, loads, rounds)
    table = Table("load", "contender", "CPU of a job, us", "jobs/s", "CPU / before", "rate / floor", "CPU / memory")
    lines = []
    for load, by_name in found.items():
        for name, measured in by_name.items():
            own, _, kind = name.partition(", ")
            figures = {
                "load": load,
                "contender": name,
                "cpu": statistics.median(each.cpu for each in measured),
                "rate": statistics.median(each.rate for each in measured),
                "cpu_to_before": ratio(measured, by_name[f"{BEFORE}, {kind}" if kind else BEFORE]),
                "rate_to_floor": ratio(measured, by_name[FLOOR], "rate"),
                "cpu_to_memory": ratio(measured, by_name[own]) if kind else None,
            }
            ratios = (figures[each] for each in ("cpu_to_before", "rate_to_floor", "cpu_to_memory"))
            table.add_row(load, name, *(written(figures[each]) for each in ("cpu", "rate")), *map(written, ratios))
            lines.append(json.dumps(figures))
    Console(width=120, stderr=True).print(table)
    click.echo("[" + ",\n ".join(lines) + "]")


if __name__ == "__main__":
    main()
