"""The routes of the dashboard and of ``twisted-cm jobs``: list jobs, show one, and follow changes."""

from __future__ import annotations

from contextlib import suppress

from attrs import frozen
from twisted.internet.defer import CancelledError

from ...broker.interface import BrokerError
from ...model.jobs import JobFilter, JobState
from ...model.paths import EMULATOR
from ...model.raised import RAISED
from .. import errors
from ..auth import require_bearer
from ..context import Context
from ..descriptions import describe_job, summarize_job
from ..parsing import query_parameter, whole_number
from ..routing import App, add_routes
from ..transport.request import EmulatorRequest
from .events import EventFeed

#: The most jobs in one answer.
MOST_LISTED = 1000


@frozen
class InspectionRoutes:
    """The routes of inspection."""

    context: Context

    def register(self, app: App) -> None:
        """Put the routes on ``app``."""
        add_routes(
            app,
            [
                ("GET", f"{EMULATOR}/jobs", self.list_jobs),
                ("GET", f"{EMULATOR}/jobs/<id:job_id>", self.show_job),
                ("GET", f"{EMULATOR}/events", self.events),
            ],
        )

    async def list_jobs(self, request: EmulatorRequest) -> bytes:
        """Answer ``GET /jobs`` with a page of the jobs that are kept, newest first."""
        await require_bearer(self.context, request)
        state, raised = _status(request)
        wanted = JobFilter(
            query_parameter(request, "runtime"),
            query_parameter(request, "function"),
            state,
            whole_number(request, "before", 2**53),
            raised,
        )
        limit = whole_number(request, "limit", MOST_LISTED) or 100
        found = await self.context.broker.jobs(wanted, limit + 1)
        page = found[:limit]
        return request.json(
            {"jobs": [summarize_job(job) for job in page], "next": page[-1].number if len(found) > limit else None}
        )

    async def show_job(self, request: EmulatorRequest, job_id: str) -> bytes:
        """Answer ``GET /jobs/{jobId}`` with everything about one job."""
        await require_bearer(self.context, request)
        parts = await describe_job(await self.context.broker.job(job_id))
        return await request.answer_in_parts(parts, "application/json")

    async def events(self, request: EmulatorRequest) -> bytes:
        """Answer ``GET /events`` with changes, as server-sent events.

        The events are:

        - ``job``: a job, as in ``GET /jobs``.
        - ``runtime``: the id of a runtime that changed.
        - ``reload``: there were too many changes to send, or jobs are gone; the client should load everything again.

        The answer ends when the client disconnects or the emulator stops.
        """
        await require_bearer(self.context, request)
        request.setHeader("Content-Type", "text/event-stream")
        request.setHeader("Cache-Control", "no-store")
        if request.method == b"HEAD":
            return b""
        feed = EventFeed(self.context.reactor, request)
        observing = self.context.broker.observe(feed.changed)
        try:
            with suppress(BrokerError):
                # The client asks next what there is, maybe at another emulator on the same Redis. Only when Redis has
                # answered does it tell this one of each change. If it has gone away, a "reload" follows its return.
                await self.context.broker.ping()
            feed.connected()
            await observing
        finally:
            observing.addErrback(lambda failure: failure.trap(CancelledError)).cancel()
            feed.close()
        return b""


def _status(request: EmulatorRequest) -> tuple[JobState | None, bool | None]:
    """Return the state that the jobs are to be in, and whether their functions are to have raised."""
    value = query_parameter(request, "status")
    if value == RAISED:
        return JobState.SUCCEEDED, True
    try:
        state = None if value is None else JobState(value)
    except ValueError:
        known = ", ".join([*(each.value for each in JobState), RAISED])
        raise errors.invalid_request(f"'status' must be one of {known}, not '{value}'.", field="status") from None
    return state, False if state is JobState.SUCCEEDED else None
