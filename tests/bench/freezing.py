"""Measure whether emulators that share a Redis lose jobs, or dispatch them twice, while some of them are suspended.

One emulator runs all the time. For each time there are two more, which are suspended while jobs come in: one goes on
afterwards, the other is killed. Clients and runtimes have no time limits, so some wait at a suspended emulator.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from typing import Any

from attrs import define
from emulator import Emulator
from redis_server import KEEPS_ALL, RedisServer
from runs import Run

#: Seconds of load before the first emulator is suspended.
LEAD = 1.0

#: Seconds until a run without any progress is given up, after the last emulator went on.
PATIENCE = 60.0


@define
class Victim:
    """An emulator that is suspended.

    Attributes:
        emulator: The emulator.
        seconds: How long it is suspended.
        end: What it gets then: SIGCONT or SIGKILL.
        suspended_at: When it was suspended.
    """

    emulator: Emulator
    seconds: float
    end: signal.Signals
    suspended_at: float = 0.0

    async def suffer(self, delay: float) -> None:
        """Be suspended after ``delay`` seconds, and go on or end."""
        await asyncio.sleep(delay)
        os.kill(self.emulator.process.pid, signal.SIGSTOP)
        self.suspended_at = time.perf_counter()
        await asyncio.sleep(self.seconds)
        os.kill(self.emulator.process.pid, self.end)


def freeze(jobs: int, times: list[float], lease: int | None, bar: Any = None) -> dict[str, Any]:
    """Run jobs with asynchronous callers while emulators are suspended.

    Args:
        jobs: The number of jobs. They come in as long as emulators are suspended.
        times: For how many seconds emulators are suspended.
        lease: Seconds of a job's lease; ``None`` for no lease.
        bar: A progress bar to update.

    Returns:
        How many jobs were lost, still run, or were dispatched twice.
    """
    with contextlib.ExitStack() as stack:
        redis = stack.enter_context(contextlib.closing(RedisServer(*KEEPS_ALL)))

        def start() -> Emulator:
            # A caller that waits at a suspended emulator asks for its result late.
            emulator = Emulator("--broker", redis.url, lease=lease, retained=2 * jobs)
            return stack.enter_context(contextlib.closing(emulator))

        living = start()
        victims = [Victim(start(), each, end) for each in times for end in (signal.SIGCONT, signal.SIGKILL)]
        for each in victims:
            stack.callback(_resume, each.emulator)
        urls = [each.urls["http"] for each in (living, *(each.emulator for each in victims))]
        run = Run(urls, jobs, callers=12 * len(urls), pollers=6 * len(urls), seconds=LEAD + max(times))

        async def both() -> float:
            suffering = [asyncio.create_task(each.suffer(LEAD + 0.1 * n)) for n, each in enumerate(victims)]
            rate = await run.run(run.submit, bar, patience=PATIENCE + max(times))
            await asyncio.gather(*suffering)
            return rate

        rate = asyncio.run(both())
        left = [int(redis.command("ZCARD", f"twisted-cm:0:{each}:bench")[1:]) for each in ("q", "running")]
    suspended_at = {each.emulator.urls["http"]: each.suspended_at for each in victims}
    doubled = run.doubled()
    # With a lease, jobs whose results wait at a suspended emulator are dispatched again.
    figures: dict[str, Any] = {"at two pollers": len(doubled)}
    # An envelope that was on its way out when its emulator was suspended. A job that came later must not leave twice.
    in_the_moment = sum(
        any(0 < suspended_at.get(url, 0) - run.submitted_at[number] < LEAD for url in urls)
        for number, urls in doubled.items()
    )
    if lease is None:
        figures = {
            "at two pollers, written in the moment of the suspension": in_the_moment,
            "at two pollers for no reason": len(doubled) - in_the_moment,
        }
    return {
        "jobs": jobs,
        "jobs/s": round(rate),
        "lost": jobs - len(run.answered),
        "wrong results": run.wrong,
        "left queued": left[0],
        "left running": left[1],
        "submitted again": len(run.submitted_again),
        **figures,
    }


def _resume(emulator: Emulator) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(emulator.process.pid, signal.SIGCONT)
