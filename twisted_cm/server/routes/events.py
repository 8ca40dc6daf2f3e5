"""Changes of jobs and runtimes, as server-sent events."""

from __future__ import annotations

import json

from twisted.internet.interfaces import IReactorTime

from ...broker.interface import Change
from ...model.jobs import Job
from ...model.types import JSONValue
from ..descriptions import summarize_job
from ..transport.request import EmulatorRequest
from .feed import Feed

#: Seconds for which changes are gathered before the last state of each job is sent.
GATHER = 0.1

#: The most changes that are kept for a client that does not read. Past that it gets one ``reload`` event instead.
MOST_PENDING = 10_000


class EventFeed(Feed):
    """Sends changes to one client, at the client's pace.

    Unsent changes are kept by job and by runtime, so a slow client gets the last state of
    each and not every step.
    """

    def __init__(self, clock: IReactorTime, request: EmulatorRequest) -> None:
        super().__init__(clock, request, GATHER)
        self._jobs: dict[str, Job] = {}
        self._runtimes: dict[str, None] = {}
        self._reload = False
        self._gathering = False

    def connected(self) -> None:
        """Say that from now on no change is missed."""
        self._request.write(b": connected\n\n")

    def changed(self, change: Change) -> None:
        """Take a change from :meth:`~twisted_cm.broker.interface.IBroker.observe`."""
        if change.job is None:
            self._runtimes[change.runtime_id] = None
        else:
            self._jobs[change.job.job_id] = change.job
        if change.forgotten or change.missed or len(self._jobs) + len(self._runtimes) > MOST_PENDING:
            self._jobs.clear()
            self._runtimes.clear()
            self._reload = True
        if not self._gathering and not self.paused:
            self._gathering = True
            self._send_soon()

    def _take(self) -> bytes:
        events = []
        self._gathering = False
        if self._reload:
            events.append(_event("reload", {}))
        events += [_event("runtime", {"runtime_id": each}) for each in self._runtimes]
        events += [_event("job", summarize_job(job)) for job in self._jobs.values()]
        self._reload = False
        self._runtimes.clear()
        self._jobs.clear()
        return b"".join(events) or b": still here\n\n"


def _event(kind: str, data: JSONValue) -> bytes:
    # JSON in ASCII has no line breaks, so nothing in a job can end the event.
    return f"event: {kind}\ndata: {json.dumps(data)}\n\n".encode("ascii")
