"""The answer to an application that reads the values of a function as they come (functions API, section 4)."""

from __future__ import annotations

import json
from contextlib import suppress

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IPushProducer
from zope.interface import implementer

from ...broker.interface import BrokerError, UnknownJob
from ...model.jobs import Job, JobState
from ...model.raised import raised_message
from ...model.types import JSONValue
from ..errors import ApiError
from ..queries import errors
from ..queries.catalog import Query
from ..queries.signature import NotAValue
from ..refusals import refusal
from ..stream_values import BrokenOff, ValueStream
from ..transport.request import EmulatorRequest
from .calls import Calls

EVENTS = "text/event-stream"
LINES = "application/octet-stream"


#: Seconds after the last byte of a result, or after it broke off, in which its job has ended.
_SOON = 5


@implementer(IPushProducer)
class EventWriter:
    """Writes messages to one client, at the client's pace: as server-sent events, or one on a line."""

    def __init__(self, request: EmulatorRequest) -> None:
        self._request = request
        self._as_events = EVENTS in (request.header("Accept") or "")
        self._waiting: Deferred[None] | None = None
        self._paused = False
        request.setHeader("Content-Type", EVENTS if self._as_events else LINES)
        request.setHeader("Cache-Control", "no-store")
        request.registerProducer(self, True)

    async def send(self, message: bytes) -> None:
        """Write a message, which is JSON without line breaks, once the client has read enough of what went before."""
        if self._paused:
            self._waiting = Deferred()
            await self._waiting
        self._request.write(b"data: %b\n\n" % message if self._as_events else message + b"\n")

    def close(self) -> None:
        """Write no more."""
        if not self._request.gone:
            self._request.unregisterProducer()

    def pauseProducing(self) -> None:
        self._paused = True

    def resumeProducing(self) -> None:
        self._paused = False
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting.callback(None)

    def stopProducing(self) -> None:
        # The client is gone, so the route is canceled.
        self._paused = True


async def send_values(calls: Calls, request: EmulatorRequest, query: Query, job: Job) -> None:
    """Answer with the values of a job, each as soon as it is there, and with an error if the job does not end well.

    Args:
        calls: The API.
        request: The request to answer.
        query: The query that the job runs.
        job: The job. Its result has begun, or it has ended, or its caller has waited long enough.
    """
    writer = EventWriter(request)
    try:
        try:
            await _send_values(calls, writer, query, job)
        except (ApiError, BrokerError) as error:
            await writer.send(_error(refusal(error)))
    finally:
        writer.close()


async def send_constant(request: EmulatorRequest, value: bytes) -> None:
    """Answer with one value."""
    writer = EventWriter(request)
    try:
        await writer.send(_data(value))
    finally:
        writer.close()


async def _send_values(calls: Calls, writer: EventWriter, query: Query, job: Job) -> None:
    if job.state is not JobState.RUNNING or job.result is None:
        await calls.refuse_unless_returned(query, job)
    assert job.result is not None
    query = await calls.with_schema(query)
    values = ValueStream(job.result, calls.context.reactor)

    async def send_one(value: bytes) -> None:
        await writer.send(_data(b"[%b]" % await calls.convert_result(query, value, of_stream=True)))

    try:
        first = await values.next()
        if first is None:
            await _send_nothing(calls, query)
            return
        second = None
        is_whole = query.signature.is_whole(first)
        if is_whole or raised_message(job.job_id, first) is not None:
            # Whether this is all that the function returned, or what it raised, shows with the next value or the end.
            try:
                second = await values.next()
            except (BrokenOff, ValueError):
                await send_one(first)
                raise
            if second is None:
                if not job.state.finished:
                    await _refuse_if_raised(calls, query, job)
                if is_whole:
                    await writer.send(_data(await calls.convert_result(query, first)))
                    return
        while first is not None:
            await send_one(first)
            first, second = (await values.next(), None) if second is None else (second, None)
    except BrokenOff:
        raise errors.failed(query.rid, await _why_broken(calls, job)) from None
    except NotAValue as error:
        raise calls.invalid_output(query, str(error)) from None
    except ValueError:
        raise calls.invalid_output(query, "something that is not JSON") from None
    finally:
        values.close()


async def _refuse_if_raised(calls: Calls, query: Query, job: Job) -> None:
    """Raise the error for a function that has raised, which shows once its job has ended."""
    with suppress(UnknownJob):
        ended = await calls.context.broker.wait_end(job.job_id, _SOON)
        if ended.state.finished:
            await calls.refuse_unless_returned(query, ended)


async def _send_nothing(calls: Calls, query: Query) -> None:
    """Refuse an empty result, unless the function streams and there was nothing to stream."""
    if query.signature.output is query.signature.elements:
        raise calls.invalid_output(query, "nothing")


async def _why_broken(calls: Calls, job: Job) -> str:
    try:
        ended = await calls.context.broker.wait_end(job.job_id, _SOON)
    except UnknownJob:
        return "The job is no longer kept."
    return ended.error_message or "The result broke off."


def _data(value: bytes) -> bytes:
    """Return a message with a value. A line break in JSON is white space; in a string it is escaped."""
    return b'{"type":"data","value":%b}' % value.replace(b"\n", b" ").replace(b"\r", b" ")


def _error(error: ApiError) -> bytes:
    described: dict[str, JSONValue] = json.loads(error.body())
    return json.dumps({"type": "error", **described}).encode("ascii")
