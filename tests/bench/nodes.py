"""Measure emulators that share a Redis: their throughput, and whether they lose jobs when one of them is killed.

First, jobs run through an emulator that keeps everything in memory, and through one, two and three that share a Redis.
Then many jobs run through three of them, while one emulator and later Redis are killed; Redis is started again. Clients
and runtimes do what is needed to lose nothing: after a lost connection or a 503 they ask another node again.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import sys
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import click
from emulator import Emulator
from http_client import Connection, ConnectionLost, caller_request, connect, module_request
from redis_server import KEEPS_ALL, RedisServer

CONTOUR_JOBS = "/contour-backend-multiplexer/api/module-group-multiplexer/jobs"

#: Seconds before a request that was answered with 503 is sent again.
RETRY = 0.1


class Party:
    """A client or a runtime, which uses another node when its own does not answer.

    Attributes:
        url: The base URL of the node that it uses.
        lost: The number of requests that were sent again.
    """

    def __init__(self, urls: list[str], first: int) -> None:
        self._turn = itertools.cycle([*urls[first % len(urls) :], *urls[: first % len(urls)]])
        self.url = next(self._turn)
        self._connection: Connection | None = None
        self.lost = 0

    async def try_once(self, request: bytes) -> tuple[int, bytes]:
        """Send a request and return the status and the body of the answer.

        Raises:
            ConnectionLost: There is no answer. The node may have received the request.
        """
        try:
            if self._connection is None:
                self._connection = await connect(self.url)
            return await self._connection.request(request)
        except (OSError, ConnectionLost):
            self.close()
            self.url = next(self._turn)
            raise ConnectionLost from None

    async def request(self, request: bytes) -> tuple[int, bytes]:
        """Send a request until it is answered. Use this only for requests that may be repeated."""
        while True:
            with contextlib.suppress(ConnectionLost):
                status, body = await self.try_once(request)
                if status != 503:
                    return status, body
            self.lost += 1
            await asyncio.sleep(RETRY)

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None


class Run:
    """One run of numbered jobs through several nodes.

    Attributes:
        answered: How many answers each job's caller has got.
        delivered: The job id and the node's URL of each delivery, by the job's number.
        submitted_again: The jobs that were submitted more than once.
        wrong: The number of wrong results.
    """

    def __init__(self, urls: list[str], jobs: int, callers: int, pollers: int) -> None:
        self._urls = urls
        self._jobs = jobs
        self._callers = callers
        self._pollers = pollers
        self._numbers = iter(range(jobs))
        self.answered: Counter[int] = Counter()
        self.delivered: dict[int, list[tuple[str, str]]] = {}
        self.submitted_again: set[int] = set()
        self.wrong = 0

    async def run(self, work: Any, bar: Any = None) -> float:
        """Run all jobs and return how many were done in a second.

        Args:
            work: What each caller does: :meth:`execute` or :meth:`submit`.
            bar: A progress bar to update.
        """
        started = time.perf_counter()
        pollers = [asyncio.create_task(self._poll(Party(self._urls, n))) for n in range(self._pollers)]
        callers = [asyncio.create_task(work(Party(self._urls, n))) for n in range(self._callers)]
        while not all(each.done() for each in callers):
            await asyncio.sleep(0.2)
            if bar is not None:
                bar.update(len(self.answered) - bar.pos)
        for each in callers:
            each.result()
        seconds = time.perf_counter() - started
        for each in pollers:
            each.cancel()
        await asyncio.gather(*pollers, return_exceptions=True)
        return self._jobs / seconds

    async def execute(self, party: Party) -> None:
        """Be a synchronous caller."""
        for number in self._numbers:
            status, body = await party.try_once(caller_request(number))
            self._answer(number, status, body)
        party.close()

    async def submit(self, party: Party) -> None:
        """Be an asynchronous caller."""
        for number in self._numbers:
            status, body = await self._submit(party, number)
            if status != 200:
                self._answer(number, status, body)
                continue
            job_id = json.loads(body)["id"]
            head = "\r\nHost: localhost\r\nAuthorization: Bearer token\r\n"
            while True:
                question = f"GET {CONTOUR_JOBS}/{job_id}/status HTTP/1.1{head}Prefer: wait=10\r\n\r\n"
                _, body = await party.request(question.encode())
                if json.loads(body).get("type") not in ("queued", "running"):
                    break
            status, body = await party.request(f"GET {CONTOUR_JOBS}/{job_id}/result HTTP/1.1{head}\r\n".encode())
            self._answer(number, status, body)
        party.close()

    async def _submit(self, party: Party, number: int) -> tuple[int, bytes]:
        """Submit a job until that is answered; the job may then be executed twice."""
        while True:
            with contextlib.suppress(ConnectionLost):
                status, body = await party.try_once(caller_request(number, "deployed-apps/jobs"))
                if status != 503:
                    return status, body
            self.submitted_again.add(number)
            await asyncio.sleep(RETRY)

    def _answer(self, number: int, status: int, body: bytes) -> None:
        self.answered[number] += 1
        if status != 200 or body != b"result of %d" % number:
            self.wrong += 1

    async def _poll(self, party: Party) -> None:
        """Be a runtime."""
        while True:
            status, body = await party.request(module_request("GET", "/job"))
            if status == 204:
                continue
            job = json.loads(body)["computeModuleJobV1"]
            number = job["query"]
            self.delivered.setdefault(number, []).append((job["jobId"], party.url))
            result = module_request("POST", f"/results/{job['jobId']}", b"result of %d" % number)
            status, _ = await party.request(result)
            if status != 204:
                self.wrong += 1


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
        if number not in run.submitted_again and any(url == urls[1] for _, url in run.delivered[number][:-1])
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


@click.command()
@click.option("--jobs", default=20_000, show_default=True, help="Jobs to run while a node is killed.")
@click.option("--rate-jobs", default=5000, show_default=True, help="Jobs to measure the rate with; 0 for none.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def main(jobs: int, rate_jobs: int, as_json: bool) -> None:
    """Measure the throughput of several nodes, and whether they lose jobs when one of them is killed."""
    figures: dict[str, Any] = {}
    if rate_jobs:
        for nodes in range(4):
            name = f"{nodes} on Redis" if nodes else "one in memory"
            figures.update({f"{name}: {each}": value for each, value in throughput(nodes, rate_jobs).items()})
    with click.progressbar(length=jobs, label="  jobs", file=sys.stderr) as bar:
        figures.update(survive(jobs, bar))
    if as_json:
        click.echo(json.dumps(figures))
    else:
        for name, figure in figures.items():
            click.echo(f"{name:<52}{figure:>10}")
    if figures["lost"] or figures["wrong results"] or figures["done twice for no reason"]:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
