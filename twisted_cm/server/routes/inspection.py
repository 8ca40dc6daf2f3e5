"""
The routes of whoever looks on: the jobs there are, and what changes, as it does.

The dashboard and C{twisted-cm jobs} call them.
"""

from __future__ import annotations

from attrs import frozen
from klein import Klein

from ...model.jobs import JobFilter, JobState
from ...model.paths import EMULATOR
from .. import errors
from ..context import Context
from ..descriptions import describe_job, summarize_job
from ..parsing import query_parameter
from ..transport.request import EmulatorRequest
from .events import EventFeed

#: The most jobs in one answer.
MOST_LISTED = 1000


@frozen
class InspectionRoutes:
    """The routes of whoever looks on, over one L{Context}."""

    context: Context

    def register(self, app: Klein) -> None:
        """Put the routes on C{app}."""
        app.route(f"{EMULATOR}/jobs", methods=["GET"])(self.list_jobs)
        app.route(f"{EMULATOR}/jobs/<id:job_id>", methods=["GET"])(self.show_any_job)
        app.route(f"{EMULATOR}/events", methods=["GET"])(self.events)

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
