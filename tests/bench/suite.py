"""The speed of the emulator, each figure beside that of a floor measured in the same run.

The floor is the same number of requests of the same sizes to constant Klein routes on the same reactor, in another
process. Both are measured in turn: on a shared machine, only their ratio is meaningful.
"""

from __future__ import annotations

import asyncio
import json
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import click
from cpu import cpu_of_command
from emulator import MIB, Emulator, read_answer, read_head, receive, start_and_stop
from figures import Figure, written
from floor import Floor, floor_request
from http_client import Connection, caller_request, connect, inspect_request, module_request, query_request
from rich.console import Console
from rich.table import Table
from stream import first_byte

T = TypeVar("T")

#: The bytes of a job's envelope, of its result, of a handle and of a status.
ENVELOPE, RESULT, HANDLE, STATUS = 230, 16, 330, 290

_LONG = {"type": "long", "long": {}}

#: The schema of a function whose parameters and result are converted.
ADD = {
    "functionName": "add",
    "inputs": [{"name": name, "required": True, "dataType": _LONG, "constraints": []} for name in ("a", "b")],
    "output": {"type": "single", "single": {"dataType": _LONG}},
}

#: How many times emulator and floor are measured in turn; the median counts.
ROUNDS = 9


class Suite:
    """The scenarios, over one emulator and one floor. Each yields its figures."""

    def __init__(self, emulator: Emulator, floor: Floor, quick: bool) -> None:
        self.emulator, self.floor = emulator, floor
        self.url: str = emulator.urls["http"]
        self.rounds = 1 if quick else ROUNDS
        self.scale = 10 if quick else 1

    # The ceiling of the load generator

    def ceiling(self) -> Iterator[Figure]:
        """Measure what the load generator can do with a server that does almost nothing."""
        with closing(Floor("bare")) as bare:
            for clients in (1, 64):
                requests = [floor_request("GET", 16)]
                times, seconds = timed(partial(constant, bare.url, clients, 30_000 // self.scale, requests))
                yield Figure(f"load generator, clients: {clients}", "requests/s", len(times) / seconds)

    # Jobs

    def sync(self) -> Iterator[Figure]:
        """Measure synchronous jobs, by numbers of clients and runtimes."""
        requests = [
            floor_request("POST", RESULT, body_of(caller_request(1))),
            floor_request("GET", ENVELOPE),
            floor_request("POST", 0, b"x" * RESULT),
        ]
        for clients, runtimes, jobs in ((1, 4, 1500), (16, 4, 3000), (64, 4, 4000), (64, 16, 4000), (256, 16, 4000)):
            jobs //= self.scale
            name = f"sync, clients: {clients}, runtimes: {runtimes}"
            yield from self._in_turn(
                name,
                partial(with_runtimes, runtimes, partial(execute, self.url, clients, jobs), self.url),
                partial(constant, self.floor.url, clients, jobs, requests),
                p50_bar="<=1.5" if clients == 1 else "",
                rate_bar=">=1.2" if clients == 64 and runtimes == 16 else "",
            )

    def asynchronous(self) -> Iterator[Figure]:
        """Measure jobs that are submitted, waited for and fetched."""
        jobs = 2000 // self.scale
        reference = b'{"id": "foundry_job_0123456789abcdef0123456789abcdef"}'
        requests = [
            floor_request("POST", HANDLE, body_of(caller_request(1))),
            floor_request("GET", ENVELOPE),
            floor_request("POST", 0, b"x" * RESULT),
            floor_request("PUT", STATUS, reference),
            floor_request("PUT", RESULT, reference),
        ]
        yield from self._in_turn(
            "async, 16 clients, 4 runtimes",
            partial(with_runtimes, 4, partial(submit_and_fetch, self.url, 16, jobs), self.url),
            partial(constant, self.floor.url, 16, jobs, requests),
        )

    def functions(self) -> Iterator[Figure]:
        """Measure the CPU of a job that is called as a query of the public API, beside the multiplexer's."""
        jobs = 2000 // self.scale
        calls = (
            query_request("add", {"a": "9007199254740993", "b": 2}),
            caller_request({"a": 9007199254740993, "b": 2}),
        )
        asyncio.run(post_schemas(self.url, [ADD]))
        pairs = []
        for _ in range(self.rounds):
            pair = []
            for call in calls:
                before = self.emulator.cpu()
                asyncio.run(with_runtimes(4, partial(execute, self.url, 16, jobs, call), self.url))
                pair.append((self.emulator.cpu() - before) / jobs * 1e6)
            pairs.append(pair)
        yield _median("functions API / multiplexer: CPU of a job", "us", pairs, "<=1.25")

    def _in_turn(
        self,
        name: str,
        emulator: Callable[[], Awaitable[list[float]]],
        floor: Callable[[], Awaitable[list[float]]],
        p50_bar: str = "",
        rate_bar: str = "",
    ) -> Iterator[Figure]:
        pairs = [(timed(emulator), timed(floor)) for _ in range(self.rounds)]
        p50 = [[statistics.median(times) * 1e6 for times, _ in pair] for pair in pairs]
        rate = [[len(times) / seconds for times, seconds in pair] for pair in pairs]
        yield _median(f"{name}: p50", "us", p50, p50_bar)
        yield _median(f"{name}: jobs", "jobs/s", rate, rate_bar)

    # What does nothing

    def parked(self) -> Iterator[Figure]:
        """Measure what parked callers cost while nothing happens."""
        for callers in (1000, 5000):
            callers //= self.scale
            with closing(Emulator()) as emulator, closing(Floor()) as floor:
                yield from asyncio.run(park(emulator, floor, callers))

    def idle_sdk(self) -> Iterator[Figure]:
        """Measure the official Python SDK while it has nothing to do."""
        root = Path(__file__).parent.parent.parent
        command = [
            str(Path(sys.executable).with_name("twisted-cm")),
            *("exec", "--url", self.url, "--runtime", "bench", "--module-auth-token", "module-token"),
            *("--state-dir", str(self.emulator.state_dir), "--"),
            *(str(root / ".venv-sdk" / "bin" / "python"), str(root / "bin" / "demo_module.py")),
        ]
        sdk = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            asyncio.run(until(self.url, lambda runtime: runtime["parked_polls"] >= 1))
            seconds = 10 / self.scale
            emulator, floor = self.emulator.cpu(), self.floor.cpu()
            time.sleep(seconds)
            used = (self.emulator.cpu() - emulator, self.floor.cpu() - floor)
            yield Figure("idle Python SDK", "% of a core", *(each / seconds * 100 for each in used))
        finally:
            sdk.terminate()
            sdk.wait(20)

    # What lasts, and what is large

    def history(self) -> Iterator[Figure]:
        """Measure whether a job costs more after many others."""
        part, parts = 1000 // self.scale, 100

        def cost(emulator: Emulator) -> float:
            before = emulator.cpu()
            asyncio.run(alone(emulator.urls["http"], part))
            return (emulator.cpu() - before) / part * 1e6

        with closing(Emulator()) as old, closing(Emulator()) as new:
            with click.progressbar(length=parts * part, label="  history", file=sys.stderr) as bar:
                for _ in range(parts - 10):
                    cost(old)
                    bar.update(part)
            # The first of another, in turn with the last of this one: the machine may have become slower meanwhile.
            pairs = [[cost(old), cost(new)] for _ in range(10)]
        yield _median(f"history: last {10 * part} of {parts * part} jobs / first: CPU", "us", pairs, "<=1.05")

    def payload(self) -> Iterator[Figure]:
        """Measure results by size, beside an echo of as many bytes."""
        for size, times in ((1024, 300), (65536, 300), (MIB, 60), (16 * MIB, 8)):
            times = max(times // self.scale, 2)
            result = b"x" * size
            pairs = []
            for _ in range(self.rounds):
                with (
                    closing(self.emulator.connect("http")) as caller,
                    closing(self.emulator.connect("http")) as runtime,
                ):
                    started = time.perf_counter()
                    for _ in range(times):
                        self._pass_on(caller, runtime, result)
                    emulator = size * times / MIB / (time.perf_counter() - started)
                with closing(self._echo()) as echo:
                    started = time.perf_counter()
                    for _ in range(times):
                        round_trip(echo, result)
                    pairs.append([emulator, size * times / MIB / (time.perf_counter() - started)])
            yield _median(f"result of {size // 1024} KiB", "MiB/s", pairs, ">=0.6" if size == 16 * MIB else "")

    def _echo(self) -> socket.socket:
        echo = socket.create_connection(self.floor.echo)
        echo.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return echo

    def _pass_on(self, caller: socket.socket, runtime: socket.socket, result: bytes) -> None:
        caller.sendall(caller_request(1))
        job_id = self.emulator.take(runtime)
        posting = threading.Thread(target=runtime.sendall, args=(module_request("POST", f"/results/{job_id}", result),))
        posting.start()
        _, length, begun = read_head(caller)
        assert length == len(result)
        receive(caller, length - len(begun))
        posting.join()
        read_answer(runtime)

    def stream(self) -> Iterator[Figure]:
        """Measure how soon the first chunk of a stream reaches the caller, beside an echo of it."""
        with (
            closing(self.emulator.connect("http")) as runtime,
            closing(socket.create_connection(self.floor.echo)) as echo,
        ):
            pairs = []
            for _ in range(300 // self.scale):
                emulator = first_byte(self.emulator, "http", runtime) * 1e6
                started = time.perf_counter()
                round_trip(echo, b"5\r\nfirst\r\n")
                pairs.append([emulator, (time.perf_counter() - started) * 1e6])
        yield _median("stream: first chunk", "us", pairs)

    def start(self) -> Iterator[Figure]:
        """Measure the time from the command to the first connection, beside a Python that imports the dependencies."""
        pairs = []
        imports = "import twisted.internet.reactor, twisted.web.server, klein, yaml"
        for _ in range(self.rounds):
            started = time.perf_counter()
            subprocess.run([sys.executable, "-c", imports], check=True)
            floor = time.perf_counter() - started
            pairs.append([start_and_stop(self.emulator.state_dir), floor * 1000])
        yield _median("start: until it listens", "ms", pairs, "<=1.5")

    def cli(self) -> Iterator[Figure]:
        """Measure the CPU of a command that submits one job, beside a Python that imports Twisted's HTTP client."""
        floor = [sys.executable, "-c", "import twisted.internet.reactor, twisted.web.client"]
        submit = [
            *(str(Path(sys.executable).with_name("twisted-cm")), "submit", "ri.bench", "f", "1"),
            *("--url", self.url, "--token", "token"),
        ]

        async def run() -> list[list[float]]:
            # Reading the modules from the disk for the first time does not count.
            await asyncio.to_thread(cpu_of_command, submit)
            return [
                [await asyncio.to_thread(cpu_of_command, command) * 1000 for command in (submit, floor)]
                for _ in range(self.rounds)
            ]

        yield _median("submit of one job: CPU", "ms", asyncio.run(with_runtimes(1, run, self.url)), "<=1.15")


def _median(scenario: str, unit: str, pairs: list[list[float]], bar: str = "") -> Figure:
    value, floor = (statistics.median(column) for column in zip(*pairs, strict=True))
    return Figure(scenario, unit, value, floor, statistics.median(a / b for a, b in pairs), bar)


def timed(work: Callable[[], Awaitable[list[float]]]) -> tuple[list[float], float]:
    """Return what the work returns, and the seconds that it took."""

    async def run() -> list[float]:
        return await work()

    started = time.perf_counter()
    times = asyncio.run(run())
    return times, time.perf_counter() - started


def body_of(request: bytes) -> bytes:
    """Return the body of a request."""
    return request.partition(b"\r\n\r\n")[2]


async def many(url: str, clients: int, jobs: int, once: Callable[[Connection], Awaitable[None]]) -> list[float]:
    """Repeat something on several connections at once, one after another on each.

    Returns:
        The seconds that each repetition took.
    """
    times: list[float] = []

    async def client() -> None:
        connection = await connect(url)
        for _ in range(max(jobs // clients, 1)):
            started = time.perf_counter()
            await once(connection)
            times.append(time.perf_counter() - started)
        connection.close()

    await asyncio.gather(*(client() for _ in range(clients)))
    return times


async def constant(url: str, clients: int, jobs: int, requests: list[bytes]) -> list[float]:
    """Send the requests of a job to constant routes."""

    async def once(connection: Connection) -> None:
        for request in requests:
            await connection.request(request)

    return await many(url, clients, jobs, once)


async def execute(url: str, clients: int, jobs: int, request: bytes = caller_request(1)) -> list[float]:
    """Run synchronous jobs."""

    async def once(connection: Connection) -> None:
        status, _ = await connection.request(request)
        assert status == 200, status

    return await many(url, clients, jobs, once)


async def post_schemas(url: str, schemas: list[Any]) -> None:
    """Report the functions of the runtime."""
    connection = await connect(url)
    status, _ = await connection.request(module_request("POST", "/schemas", json.dumps(schemas).encode()))
    assert status == 200, status
    connection.close()


async def submit_and_fetch(url: str, clients: int, jobs: int) -> list[float]:
    """Run asynchronous jobs: submit, wait for the status, fetch the result."""
    request = caller_request(1, "deployed-apps/jobs")

    async def once(connection: Connection) -> None:
        _, handle = await connection.request(request)
        reference = {"id": json.loads(handle)["id"]}
        _, status = await connection.request(caller_request(reference, "jobs/status/v3", "PUT"))
        assert json.loads(status)["type"] == "succeeded", status
        code, _ = await connection.request(caller_request(reference, "jobs/result/v3", "PUT"))
        assert code == 200, code

    return await many(url, clients, jobs, once)


async def serve_jobs(url: str) -> None:
    """Act as a runtime until canceled."""
    connection = await connect(url)
    poll = module_request("GET", "/job")
    try:
        while True:
            status, body = await connection.request(poll)
            if status == 200:
                job_id = json.loads(body)["computeModuleJobV1"]["jobId"]
                await connection.request(module_request("POST", f"/results/{job_id}", b"1" * RESULT))
    finally:
        connection.close()


async def with_runtimes(number: int, work: Callable[[], Awaitable[T]], url: str) -> T:
    """Do some work while runtimes serve jobs."""
    pollers = [asyncio.create_task(serve_jobs(url)) for _ in range(number)]
    try:
        return await work()
    finally:
        for poller in pollers:
            poller.cancel()
        await asyncio.gather(*pollers, return_exceptions=True)


async def alone(url: str, jobs: int) -> None:
    """Act as caller and runtime, one job after another."""
    connection = await connect(url)
    for _ in range(jobs):
        await connection.request(caller_request(1, "deployed-apps/jobs"))
        _, body = await connection.request(module_request("GET", "/job"))
        job_id = json.loads(body)["computeModuleJobV1"]["jobId"]
        await connection.request(module_request("POST", f"/results/{job_id}", b"1" * RESULT))
    connection.close()


async def until(url: str, condition: Callable[[dict[str, Any]], bool]) -> None:
    """Ask for the runtime until a condition holds."""
    inspector = await connect(url)
    for _ in range(600):
        _, body = await inspector.request(inspect_request())
        if condition(json.loads(body)):
            break
        await asyncio.sleep(0.1)
    else:
        raise click.ClickException("the runtime never came to where it should be")
    inspector.close()


async def park(emulator: Emulator, floor: Floor, callers: int) -> list[Figure]:
    """Return the memory of each parked caller, and the CPU of all of them while they wait."""
    url, body = emulator.urls["http"], body_of(caller_request(1))
    cpu, memory = [], []
    for server, base, request in (
        (emulator, url, caller_request(1)),
        (floor, floor.url, floor_request("POST", RESULT, body, "parked")),
    ):
        before = memory_of(server.process.pid)
        connections = [await connect(base) for _ in range(callers)]
        waiting = [asyncio.ensure_future(connection.request(request)) for connection in connections]
        if base == url:
            await until(url, lambda runtime: runtime["queued_jobs"] >= callers)
        else:
            await asyncio.sleep(3)
        memory.append((memory_of(server.process.pid) - before) / callers / 1024)
        used = server.cpu()
        await asyncio.sleep(5)
        cpu.append((server.cpu() - used) / 5 * 100)
        for connection in connections:
            connection.close()
        await asyncio.gather(*waiting, return_exceptions=True)
    return [
        Figure(f"{callers} parked callers: CPU", "% of a core", *cpu, bar="<=0.5"),
        Figure(f"{callers} parked callers: memory each", "KiB", *memory, bar="<=12"),
    ]


def memory_of(pid: int) -> int:
    """Return the resident memory of a process in bytes."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096


def round_trip(echo: socket.socket, content: bytes) -> None:
    """Send bytes to an echo and receive all of them."""
    sending = threading.Thread(target=echo.sendall, args=(content,))
    sending.start()
    receive(echo, len(content))
    sending.join()


SCENARIOS = (
    "ceiling",
    "sync",
    "asynchronous",
    "functions",
    "parked",
    "history",
    "payload",
    "stream",
    "idle_sdk",
    "start",
    "cli",
)


@click.command()
@click.option("--only", multiple=True, type=click.Choice(SCENARIOS), help="This scenario; may be repeated.")
@click.option("--quick", is_flag=True, help="A tenth of everything, once: to see that it runs.")
def main(only: tuple[str, ...], quick: bool) -> None:
    """Measure every figure beside a floor, and say whether it is within its bar.

    The table goes to standard error, the same as JSON to standard output. The exit status is 1 if a bar is missed.
    """
    figures: list[Figure] = []
    with closing(Emulator()) as emulator, closing(Floor()) as floor:
        suite = Suite(emulator, floor, quick)
        for name in only or SCENARIOS:
            click.echo(f"  {name} …", err=True)
            figures += getattr(suite, name)()
    table = Table("scenario", "unit", "emulator", "floor", "ratio", "bar", "kept")
    for each in figures:
        kept = "" if not each.bar else "yes" if each.passed else "NO"
        numbers = (written(number) for number in (each.value, each.floor))
        ratio = "" if each.ratio is None else f"{each.ratio:.2f}"
        table.add_row(each.scenario, each.unit, *numbers, ratio, each.bar, kept)
    Console(width=120, stderr=True).print(table)
    lines = [json.dumps({**each.rounded(), "passed": each.passed}) for each in figures]
    click.echo("[" + ",\n ".join(lines) + "]")
    if not quick and not all(each.passed for each in figures):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
