"""Thousands of parked callers and polls, and jobs for all of them.

The polls park first, then the callers, until inspection shows all of them. Then the jobs run: each caller submits its
next job when it has the result of the last. Every caller must receive its own result, and no job may be lost or run
twice.
"""

from __future__ import annotations

import asyncio
import json
import resource
import sys
import time
from contextlib import closing
from typing import Any

import click
from emulator import MIB, Emulator
from http_client import Connection, caller_request, connect, inspect_request, module_request


class Load:
    """One run and its figures."""

    def __init__(self, emulator: Emulator, callers: int, pollers: int, jobs: int) -> None:
        self._emulator = emulator
        self._url: str = emulator.urls["http"]
        self._callers, self._pollers, self._jobs = callers, pollers, jobs
        self._delivered: list[str] = []
        self._go = asyncio.Event()
        self._wrong = 0
        self._answered = 0

    async def run(self) -> dict[str, Any]:
        """Return the figures of the run."""
        idle = self._emulator.memory("VmRSS")
        inspector = await connect(self._url)
        pollers = [asyncio.create_task(self._poll(await connect(self._url))) for _ in range(self._pollers)]
        await self._until(inspector, "parked_polls", self._pollers)
        share = self._jobs // self._callers
        callers = [
            asyncio.create_task(self._call(await connect(self._url), range(n * share, (n + 1) * share)))
            for n in range(self._callers)
        ]
        await self._until(inspector, "queued_jobs", self._callers - self._pollers)
        parked = self._emulator.memory("VmRSS") - idle
        self._go.set()
        started = time.perf_counter()
        with click.progressbar(length=self._jobs, label="  jobs", file=sys.stderr) as bar:
            while not all(each.done() for each in callers):
                await asyncio.sleep(0.5)
                bar.update(self._answered - bar.pos)
        seconds = time.perf_counter() - started
        for each in callers:
            each.result()
        for each in pollers:
            each.cancel()
        await asyncio.gather(*pollers, return_exceptions=True)
        inspector.close()
        return {
            "parked callers": self._callers,
            "parked polls": self._pollers,
            "jobs": self._jobs,
            "jobs/s": round(self._jobs / seconds),
            "lost": self._jobs - self._answered,
            "doubled": len(self._delivered) - len(set(self._delivered)),
            "wrong results": self._wrong,
            "memory of each parked caller, KiB": round(parked / self._callers / 1024, 1),
            "peak memory over idle, MiB": round((self._emulator.memory("VmHWM") - idle) / MIB),
        }

    async def _until(self, inspector: Connection, field: str, number: int) -> None:
        for _ in range(1200):
            _, body = await inspector.request(inspect_request())
            if json.loads(body)[field] >= number:
                return
            await asyncio.sleep(0.1)
        raise click.ClickException(f"{field} never came to {number}")

    async def _call(self, connection: Connection, numbers: range) -> None:
        for number in numbers:
            status, body = await connection.request(caller_request(number))
            if status != 200 or body != b"result of %d" % number:
                self._wrong += 1
            self._answered += 1
        connection.close()

    async def _poll(self, connection: Connection) -> None:
        while True:
            status, body = await connection.request(module_request("GET", "/job"))
            if status == 204:
                continue
            job = json.loads(body)["computeModuleJobV1"]
            self._delivered.append(job["jobId"])
            await self._go.wait()
            answer = b"result of %d" % job["query"]
            status, _ = await connection.request(module_request("POST", f"/results/{job['jobId']}", answer))
            if status != 204:
                self._wrong += 1


@click.command()
@click.option("--callers", default=5000, show_default=True, help="Callers that park at once.")
@click.option("--pollers", default=200, show_default=True, help="Polls that park at once.")
@click.option("--jobs", default=20_000, show_default=True, help="Jobs in all.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def main(callers: int, pollers: int, jobs: int, as_json: bool) -> None:
    """Park thousands of callers and polls, run jobs, and check that none is lost or run twice."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if hard < callers + pollers + 100:
        raise click.ClickException(f"only {hard} files may be open; raise that with ulimit -Hn, or take fewer callers")
    with closing(Emulator()) as emulator:
        figures = asyncio.run(Load(emulator, callers, pollers, jobs).run())
    if as_json:
        click.echo(json.dumps(figures))
    else:
        for name, figure in figures.items():
            click.echo(f"{name:<36}{figure:>10}")
    if figures["lost"] or figures["doubled"] or figures["wrong results"]:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
