"""Measure emulators that share a Redis: their throughput, and whether they lose jobs when one of them is killed.

First, jobs run through an emulator that keeps everything in memory, and through one, two and three that share a Redis.
Then many jobs run through three of them, while one emulator and later Redis are killed; Redis is started again. Clients
and runtimes do what is needed to lose nothing: after a lost connection or a 503 they ask another node again.

With ``--freeze`` and ``--cut``, emulators are suspended or cut off instead: see ``freezing.py``.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import Callable
from typing import Any

import click
from emulator import Emulator
from freezing import freeze
from redis_server import KEEPS_ALL, RedisServer
from runs import Run


def throughput(nodes: int, jobs: int) -> dict[str, float]:
    """Run jobs, each with a synchronous caller.

    Args:
        nodes: The number of nodes that share a Redis; 0 for one emulator without a Redis.
        jobs: The number of jobs.

    Returns:
        The jobs in a second, and the CPU time that a job takes in all nodes together and in Redis.
    """
    with contextlib.ExitStack() as stack:
        options = []
        if nodes:
            redis = stack.enter_context(contextlib.closing(RedisServer("--appendonly", "yes")))
            options = ["--broker", redis.url]
        emulators = [stack.enter_context(contextlib.closing(Emulator(*options))) for _ in range(nodes or 1)]
        run = Run([each.urls["http"] for each in emulators], jobs, callers=48, pollers=24)
        used: dict[str, Callable[[], float]] = {"nodes": lambda: sum(each.cpu() for each in emulators)}
        if nodes:
            used["Redis"] = redis.cpu
        before = {name: cpu() for name, cpu in used.items()}
        figures = {"jobs/s": round(asyncio.run(run.run(run.execute)))}
        assert not run.wrong, f"{run.wrong} results are wrong"
        for name, cpu in used.items():
            figures[f"ms of processor for a job, {name}"] = round((cpu() - before[name]) * 1000 / jobs, 2)
        return figures


def survive(jobs: int, bar: Any = None) -> dict[str, Any]:
    """Run jobs through three nodes, while one of them and Redis are killed.

    Returns:
        How many jobs were lost, and how many were executed twice, by reason.
    """
    with contextlib.ExitStack() as stack:
        redis = stack.enter_context(contextlib.closing(RedisServer(*KEEPS_ALL)))
        emulators = [Emulator("--broker", redis.url) for _ in range(3)]
        for each in emulators:
            stack.callback(each.close)
        urls = [each.urls["http"] for each in emulators]
        run = Run(urls, jobs, callers=48, pollers=24)
        victim = emulators[1]

        async def havoc() -> None:
            while len(run.answered) < jobs // 3:
                await asyncio.sleep(0.01)
            victim.process.kill()
            while len(run.answered) < 2 * jobs // 3:
                await asyncio.sleep(0.01)
            redis.kill()
            await asyncio.sleep(1)
            await asyncio.to_thread(redis.start)

        async def both() -> float:
            killing = asyncio.create_task(havoc())
            rate = await run.run(run.submit, bar)
            await killing
            return rate

        rate = asyncio.run(both())
    doubled = [number for number, times in run.delivered.items() if len(times) > 1]
    # A job may be executed twice if its submission was not answered, or if the killed node delivered it last.
    submitted = [number for number in doubled if number in run.submitted_again]
    handed_out = [
        number
        for number in doubled
        if number not in run.submitted_again and any(url == urls[1] for _, url, _ in run.delivered[number][:-1])
    ]
    return {
        "jobs": jobs,
        "jobs/s": round(rate),
        "lost": jobs - len(run.answered),
        "wrong results": run.wrong,
        "submitted again": len(run.submitted_again),
        "done twice, submitted again": len(submitted),
        "done twice, handed out by the killed node": len(handed_out),
        "done twice for no reason": len(doubled) - len(submitted) - len(handed_out),
    }


def _freeze(jobs: int, times: list[float], cuts: list[float], job_lease: int, as_json: bool) -> None:
    """Run jobs while nodes do not answer, once without a lease and once with one, and fail if jobs suffered."""
    figures: dict[str, Any] = {}
    faults = 0
    for name, lease in (("no lease", None), (f"lease of {job_lease} s", job_lease)):
        with click.progressbar(length=jobs, label=f"  jobs, {name}", file=sys.stderr) as bar:
            found = freeze(jobs, times, cuts, lease, bar)
        figures.update({f"{name}: {each}": value for each, value in found.items()})
        faults += sum(found[each] for each in ("lost", "wrong results", "left queued", "left running"))
        if lease is None:
            faults += found["at two pollers for no reason"]
    _report(figures, as_json)
    if faults:
        raise SystemExit(1)


def _report(figures: dict[str, Any], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(figures))
    else:
        for name, figure in figures.items():
            click.echo(f"{name:<76}{figure:>10}")


@click.command()
@click.option("--jobs", default=20_000, show_default=True, help="Jobs to run while a node is killed.")
@click.option("--rate-jobs", default=5000, show_default=True, help="Jobs to measure the rate with; 0 for none.")
@click.option(
    "--freeze",
    "times",
    type=float,
    multiple=True,
    metavar="SECONDS",
    help="Instead, suspend two nodes for that time while jobs run. One goes on, one is killed. May be repeated.",
)
@click.option(
    "--cut",
    "cuts",
    type=float,
    multiple=True,
    metavar="SECONDS",
    help="Like --freeze, but cut the links of two nodes to Redis, without closing them.",
)
@click.option(
    "--job-lease", default=5, show_default=True, help="Seconds of a job's lease in the second run of --freeze or --cut."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def main(
    jobs: int, rate_jobs: int, times: tuple[float, ...], cuts: tuple[float, ...], job_lease: int, as_json: bool
) -> None:
    """Measure the throughput of several nodes, and whether they lose jobs when some are killed, suspended or cut off.

    Example: bin/bench nodes --freeze 3 --freeze 10 --cut 10
    """
    if times or cuts:
        _freeze(jobs, list(times), list(cuts), job_lease, as_json)
        return
    figures: dict[str, Any] = {}
    if rate_jobs:
        for nodes in range(4):
            name = f"{nodes} on Redis" if nodes else "one in memory"
            figures.update({f"{name}: {each}": value for each, value in throughput(nodes, rate_jobs).items()})
    with click.progressbar(length=jobs, label="  jobs", file=sys.stderr) as bar:
        figures.update(survive(jobs, bar))
    _report(figures, as_json)
    if figures["lost"] or figures["wrong results"] or figures["done twice for no reason"]:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
