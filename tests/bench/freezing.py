"""Measure whether emulators that share a Redis lose jobs, or dispatch them twice, while some cannot be reached.

One emulator runs all the time. For each time there are two more. While jobs come in, they are suspended, or their links
to Redis are cut without being closed. One goes on afterwards, the other is killed. Clients and runtimes have no time
limits, so some wait at an emulator that does not answer.
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
from link import Link
from redis_server import KEEPS_ALL, RedisServer
from runs import Run

#: Seconds of load before the first emulator is suspended.
LEAD = 1.0

#: Seconds until a run without any progress is given up, after the last emulator went on.
PATIENCE = 60.0


@define
class Victim:
    """An emulator that is suspended or cut off.

    Attributes:
        emulator: The emulator.
        link: Its link to Redis, if that is cut. Otherwise the emulator is suspended.
        seconds: For how long.
        killed: Whether the emulator is killed at the end of that time.
        began_at: When it began.
    """

    emulator: Emulator
    link: Link | None
    seconds: float
    killed: bool
    began_at: float = 0.0

    async def suffer(self, delay: float) -> None:
        """Be suspended or cut off after ``delay`` seconds, then go on or end."""
        await asyncio.sleep(delay)
        suspended = (self.link or self.emulator).process
        os.kill(suspended.pid, signal.SIGSTOP)
        self.began_at = time.perf_counter()
        await asyncio.sleep(self.seconds)
        if self.killed:
            self.emulator.process.kill()
        # What the emulator has sent into a link that was cut arrives at Redis only now.
        suspended.send_signal(signal.SIGCONT)


def freeze(jobs: int, times: list[float], cuts: list[float], lease: int | None, bar: Any = None) -> dict[str, Any]:
    """Run jobs with asynchronous callers while emulators are suspended or cut off.

    Args:
        jobs: The number of jobs. They come in as long as emulators are suspended or cut off.
        times: For how many seconds emulators are suspended.
        cuts: For how many seconds the links of emulators to Redis are cut.
        lease: Seconds of a job's lease; ``None`` for no lease.
        bar: A progress bar to update.

    Returns:
        How many jobs were lost, still run, or were dispatched twice.
    """
    with contextlib.ExitStack() as stack:
        redis = stack.enter_context(contextlib.closing(RedisServer(*KEEPS_ALL)))

        def start(url: str) -> Emulator:
            # A caller that waits at a suspended emulator asks for its result late.
            emulator = Emulator("--broker", url, lease=lease, retained=2 * jobs)
            return stack.enter_context(contextlib.closing(emulator))

        def victim(seconds: float, killed: bool, cut: bool) -> Victim:
            link = stack.enter_context(contextlib.closing(Link(redis))) if cut else None
            found = Victim(start(link.url if link else redis.url), link, seconds, killed)
            stack.callback(_resume, found.emulator)
            return found

        living = start(redis.url)
        victims = [
            victim(seconds, killed, cut)
            for cut, spans in ((False, times), (True, cuts))
            for seconds in spans
            for killed in (False, True)
        ]
        longest = max(times + cuts)
        urls = [each.urls["http"] for each in (living, *(each.emulator for each in victims))]
        run = Run(urls, jobs, callers=12 * len(urls), pollers=6 * len(urls), seconds=LEAD + longest)

        async def both() -> float:
            suffering = [asyncio.create_task(each.suffer(LEAD + 0.1 * n)) for n, each in enumerate(victims)]
            rate = await run.run(run.submit, bar, patience=PATIENCE + longest)
            await asyncio.gather(*suffering)
            return rate

        rate = asyncio.run(both())
        left = [int(redis.command("ZCARD", f"twisted-cm:0:{each}:bench")[1:]) for each in ("q", "running")]
    began_at = {each.emulator.urls["http"]: each.began_at for each in victims}
    doubled = run.doubled()
    # With a lease, jobs whose results wait at a suspended emulator are dispatched again.
    figures: dict[str, Any] = {"at two pollers": len(doubled)}
    # An envelope that was on its way out when its emulator was suspended or cut off. No later job may leave twice.
    in_the_moment = sum(
        any(0 < began_at.get(url, 0) - run.submitted_at[number] < LEAD for url in urls)
        for number, urls in doubled.items()
    )
    if lease is None:
        figures = {
            "at two pollers, written in the moment of the suspension or cut": in_the_moment,
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
