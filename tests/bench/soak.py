"""The emulator's memory over many jobs, once it keeps the most finished jobs.

A few connections submit jobs and run them, one after another. The memory is read at regular steps and printed as a
curve.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import time
from contextlib import closing

import click
from emulator import MIB, Emulator
from http_client import caller_request, connect, module_request

STEPS = 40
BAR = 0.05


class Soak:
    """One run and the memory at each step."""

    def __init__(self, emulator: Emulator, jobs: int) -> None:
        self._emulator = emulator
        self._jobs = jobs
        self._done = 0
        self.curve = [emulator.memory("VmRSS")]

    async def run(self, connections: int) -> None:
        """Run all jobs."""
        with click.progressbar(length=self._jobs, label="  jobs", file=sys.stderr) as bar:
            await asyncio.gather(*(self._work(bar) for _ in range(connections)))

    async def _work(self, bar: click._termui_impl.ProgressBar[int]) -> None:
        connection = await connect(self._emulator.urls["http"])
        result = b"x" * 1000
        while self._done < self._jobs:
            self._done += 1
            number = self._done
            status, _ = await connection.request(caller_request(number, "deployed-apps/jobs"))
            assert status == 200, status
            _, body = await connection.request(module_request("GET", "/job"))
            job_id = json.loads(body)["computeModuleJobV1"]["jobId"]
            status, _ = await connection.request(module_request("POST", f"/results/{job_id}", result))
            assert status == 204, status
            if number % (self._jobs // STEPS) == 0:
                self.curve.append(self._emulator.memory("VmRSS"))
                bar.update(number - bar.pos)
        connection.close()


@click.command()
@click.option("--jobs", default=200_000, show_default=True, help="Jobs in all.")
@click.option("--connections", default=8, show_default=True, help="Connections at once.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def main(jobs: int, connections: int, as_json: bool) -> None:
    """Measure the memory over many jobs, with the default retention."""
    started = time.perf_counter()
    with closing(Emulator()) as emulator:
        soak = Soak(emulator, jobs)
        asyncio.run(soak.run(connections))
    curve = [round(each / MIB, 1) for each in soak.curve]
    quarter = STEPS // 4
    third, last = (statistics.mean(soak.curve[-2 * quarter : -quarter]), statistics.mean(soak.curve[-quarter:]))
    if as_json:
        click.echo(json.dumps({"jobs": jobs, "memory, MiB": curve, "last quarter / third": last / third}))
    else:
        for number, memory in enumerate(curve):
            click.echo(f"{number * jobs // STEPS:>9} jobs {memory:>7} MiB {'#' * round(memory * 60 / max(curve))}")
        click.echo(f"last quarter / third: {last / third:.3f} (bar {1 + BAR})")
        click.echo(f"{jobs / (time.perf_counter() - started):.0f} jobs/s")
    if last / third > 1 + BAR:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
