"""
The routes of whoever looks on: the jobs there are, and what changes, as it does.

The dashboard and C{twisted-cm jobs} call them.
"""

from __future__ import annotations

import json

from attrs import frozen
from klein import Klein
from twisted.internet.interfaces import IDelayedCall, IPushProducer, IReactorTime
from zope.interface import implementer

from ..broker import Change, JobFilter
from ..jobs import Job, JobState, JSONValue
from . import errors
from .context import Context, query_parameter
from .runtime import PREFIX, describe_job
from .site import EmulatorRequest

#: The most jobs in one answer.
MOST_LISTED = 1000

#: Seconds in which changes are gathered before they are sent, the last of each job.
GATHER = 0.1

#: Seconds after which a connection with nothing to say says so.
HEARTBEAT = 15.0

#: The most changes that are kept for a client that does not read; past that it is told to ask anew.
MOST_PENDING = 10_000


@frozen
class InspectionRoutes:
    """The routes of whoever looks on, over one L{Context}."""

    context: Context

    def register(self, app: Klein) -> None:
        """Put the routes on C{app}."""
        app.route(f"{PREFIX}/jobs", methods=["GET"])(self.list_jobs)
        app.route(f"{PREFIX}/jobs/<id:job_id>", methods=["GET"])(self.show_any_job)
        app.route(f"{PREFIX}/events", methods=["GET"])(self.events)

    async def list_jobs(self, request: EmulatorRequest) -> bytes:
        """C{GET /jobs}: the jobs that are kept, the last submitted first, a page at a time."""
        await self.context.bearer(request)
        wanted = JobFilter(
            query_parameter(request, "runtime"),
            query_parameter(request, "function"),
            _state(request),
            _whole_number(request, "before", 2**53),
        )
        limit = _whole_number(request, "limit", MOST_LISTED) or 100
        found = await self.context.broker.jobs(wanted, limit + 1)
        page = found[:limit]
        return request.json(
            {"jobs": [summarize_job(job) for job in page], "next": page[-1].number if len(found) > limit else None}
        )

    async def show_any_job(self, request: EmulatorRequest, job_id: str) -> bytes:
        """C{GET /jobs/{jobId}}: all that is known of one job."""
        await self.context.bearer(request)
        return request.json(await describe_job(await self.context.broker.job(job_id)))

    async def events(self, request: EmulatorRequest) -> bytes:
        """
        C{GET /events}: what changes, as server-sent events, until the client goes away or the emulator stops.

        C{job} events hold a job as in C{GET /jobs}, C{runtime} events an id to
        ask about; C{reload} says that there was more than could be sent, or
        that jobs are gone: ask for everything anew.
        """
        await self.context.bearer(request)
        request.setHeader("Content-Type", "text/event-stream")
        request.setHeader("Cache-Control", "no-store")
        feed = EventFeed(self.context.reactor, request)
        try:
            await self.context.broker.observe(feed.changed)
        finally:
            feed.close()
        return b""


@implementer(IPushProducer)
class EventFeed:
    """
    Sends changes to one client, at its pace.

    What is not sent yet is kept by job and by runtime, so that a slow client
    gets the last state of each and not every step.
    """

    def __init__(self, clock: IReactorTime, request: EmulatorRequest) -> None:
        self._clock = clock
        self._request = request
        self._jobs: dict[str, Job] = {}
        self._runtimes: dict[str, None] = {}
        self._reload = False
        self._paused = False
        request.registerProducer(self, True)
        request.write(b": connected\n\n")
        self._timer: IDelayedCall = clock.callLater(HEARTBEAT, self._send)
        self._gathering = False

    def changed(self, change: Change) -> None:
        """Something is different now; for L{twisted_cm.broker.IBroker.observe}."""
        if change.job is None:
            self._runtimes[change.runtime_id] = None
        else:
            self._jobs[change.job.job_id] = change.job
        if change.forgotten or len(self._jobs) + len(self._runtimes) > MOST_PENDING:
            self._jobs.clear()
            self._runtimes.clear()
            self._reload = True
        if not self._gathering and not self._paused:
            self._gathering = True
            self._timer.reset(GATHER)

    def _send(self) -> None:
        self._gathering = False
        self._timer = self._clock.callLater(HEARTBEAT, self._send)
        if self._paused:
            return
        events = []
        if self._reload:
            events.append(_event("reload", {}))
        events += [_event("runtime", {"runtime_id": each}) for each in self._runtimes]
        events += [_event("job", summarize_job(job)) for job in self._jobs.values()]
        self._reload = False
        self._runtimes.clear()
        self._jobs.clear()
        self._request.write(b"".join(events) or b": still here\n\n")

    def close(self) -> None:
        """Send nothing more."""
        self._timer.cancel()
        if not self._request.gone:
            self._request.unregisterProducer()

    def pauseProducing(self) -> None:
        """See L{IPushProducer}."""
        self._paused = True

    def resumeProducing(self) -> None:
        """See L{IPushProducer}."""
        self._paused = False
        self._timer.reset(GATHER)

    def stopProducing(self) -> None:
        """See L{IPushProducer}: the client is gone, which cancels the route."""
        self._paused = True


def _event(kind: str, data: JSONValue) -> bytes:
    # ASCII, in one line: what is in a job cannot end the event.
    return f"event: {kind}\ndata: {json.dumps(data)}\n\n".encode("ascii")


def _state(request: EmulatorRequest) -> JobState | None:
    value = query_parameter(request, "status")
    try:
        return None if value is None else JobState(value)
    except ValueError:
        known = ", ".join(each.value for each in JobState)
        raise errors.invalid_request(f"'status' must be one of {known}.", field="status") from None


def _whole_number(request: EmulatorRequest, name: str, most: int) -> int | None:
    value = query_parameter(request, name)
    if value is None:
        return None
    if not (value.isascii() and value.isdigit() and len(value) < 20 and 1 <= int(value) <= most):
        raise errors.invalid_request(f"'{name}' must be a whole number from 1 to {most}.", field=name)
    return int(value)


def summarize_job(job: Job) -> JSONValue:
    """
    @return: a job in a list: without its query and its result.
    """
    return {
        "job_id": job.job_id,
        "runtime_id": job.runtime_id,
        "deployed_app_rid": job.submission.deployed_app_rid,
        "deployed_app_branch": job.submission.branch,
        "query_type": job.submission.query_type,
        "source": job.submission.source.value,
        "status": job.state.value,
        "queued_at": job.queued_at,
        "started_at": job.started_at,
        "completed_at": job.completed_at,
        "attempts": job.attempts,
        "result_bytes": None if job.result is None else job.result.size,
        "error_message": job.error_message,
        "number": job.number,
    }
