"""Callers that are parked until their job has a result."""

from __future__ import annotations

from twisted.internet.defer import CancelledError

from ...model.jobs import Job, Submission
from ..context import Context
from ..submission import submit
from ..transport.request import EmulatorRequest

_CALLER_GONE = "The caller disconnected."


async def submit_and_wait(
    context: Context, request: EmulatorRequest, runtime_id: str, submission: Submission, to_end: bool = False
) -> Job:
    """Queue a job, and park its caller: until its result has begun, or for the longest time that a caller parks.

    A caller that disconnects cancels its job if that is still queued.

    Args:
        context: What the routes share.
        request: The request of the caller. Its answer names the job.
        runtime_id: The runtime that is to run the job.
        submission: What to run.
        to_end: Whether to wait until all of the result is there.

    Returns:
        The job as it is then. It has neither a result nor an end if the caller has waited long enough.

    Raises:
        ApiError: As :func:`.submit`.
        BrokerError: As there, too.
    """
    wait = context.broker.wait_end if to_end else context.broker.wait_result
    while True:
        job = await submit(context, runtime_id, submission, request)
        request.setHeader("X-Job-Id", job.job_id)
        try:
            job = await wait(job.job_id, context.limits.sync_timeout)
        except CancelledError:
            await context.broker.cancel(job.job_id, _CALLER_GONE, only_queued=True, later=True)
            raise
        if submission.key is None or not job.never_ran or job.error_message != _CALLER_GONE:
            return job
        # The connection was lost over which the same was sent before. This caller still waits.
