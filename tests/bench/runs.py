"""Clients and runtimes that run numbered jobs through several emulators.

They use another emulator when theirs does not answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import time
from collections import Counter
from typing import Any

from http_client import Connection, ConnectionLost, caller_request, connect, module_request

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
        delivered: The job id, the node's URL and the time of each delivery, by the job's number.
        submitted_at: When the submission of each job began, by the job's number.
        submitted_again: The jobs that were submitted more than once.
        wrong: The number of wrong results.
    """

    def __init__(self, urls: list[str], jobs: int, callers: int, pollers: int, seconds: float = 0) -> None:
        """Run nothing yet.

        Args:
            seconds: The time over which the jobs are spread; by default they come as fast as they can.
        """
        self._urls = urls
        self._seconds = seconds
        self._started = 0.0
        self._jobs = jobs
        self._callers = callers
        self._pollers = pollers
        self._numbers = iter(range(jobs))
        self.answered: Counter[int] = Counter()
        self.delivered: dict[int, list[tuple[str, str, float]]] = {}
        self.submitted_at: dict[int, float] = {}
        self.submitted_again: set[int] = set()
        self.wrong = 0

    async def run(self, work: Any, bar: Any = None, patience: float | None = None) -> float:
        """Run all jobs and return how many were done in a second.

        Args:
            work: What each caller does: :meth:`execute` or :meth:`submit`.
            bar: A progress bar to update.
            patience: Seconds without an answer after which the run is given up; ``None`` to wait for ever.
        """
        self._started = started = answered_at = time.perf_counter()
        answered = 0
        pollers = [asyncio.create_task(self._poll(Party(self._urls, n))) for n in range(self._pollers)]
        callers = [asyncio.create_task(work(Party(self._urls, n))) for n in range(self._callers)]
        while not all(each.done() for each in callers):
            await asyncio.sleep(0.2)
            if bar is not None:
                bar.update(len(self.answered) - bar.pos)
            if answered < len(self.answered):
                answered, answered_at = len(self.answered), time.perf_counter()
            elif patience is not None and time.perf_counter() - answered_at > patience:
                break
        for each in callers:
            if each.done():
                each.result()
            each.cancel()
        seconds = time.perf_counter() - started
        for each in pollers:
            each.cancel()
        await asyncio.gather(*pollers, *callers, return_exceptions=True)
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
            await asyncio.sleep(self._started + self._seconds * number / self._jobs - time.perf_counter())
            self.submitted_at[number] = time.perf_counter()
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

    def doubled(self) -> dict[int, set[str]]:
        """Return the URLs of the nodes that delivered a job which had several pollers, by the job's number."""
        found = {}
        for number, deliveries in self.delivered.items():
            ids = Counter(job_id for job_id, _, _ in deliveries)
            urls = {url for job_id, url, _ in deliveries if ids[job_id] > 1}
            if urls:
                found[number] = urls
        return found

    async def _poll(self, party: Party) -> None:
        """Be a runtime."""
        try:
            await self._take_jobs(party)
        finally:
            # A poll that stays open would get a job of the next run.
            party.close()

    async def _take_jobs(self, party: Party) -> None:
        while True:
            status, body = await party.request(module_request("GET", "/job"))
            if status == 204:
                continue
            job = json.loads(body)["computeModuleJobV1"]
            number = job["query"]
            self.delivered.setdefault(number, []).append((job["jobId"], party.url, time.perf_counter()))
            result = module_request("POST", f"/results/{job['jobId']}", b"result of %d" % number)
            status, _ = await party.request(result)
            if status != 204:
                self.wrong += 1
