"""The routes of applications (contract section 3).

An application submits a job, asks for its status, fetches its result or cancels it.
"""

from __future__ import annotations

import json

from attrs import frozen
from twisted.internet.defer import Deferred

from ...broker.interface import UnknownJob
from ...model.faults import FaultKind
from ...model.jobs import Job, JobResult, JobSource, JobState, Submission
from ...model.paths import CONTOUR
from ...model.tokens import Principal
from ...model.types import JSONValue
from .. import errors
from ..auth import require_bearer
from ..calls.waiting import submit_and_wait
from ..context import Context
from ..foundry_descriptions import describe_foundry_status, describe_handle, describe_status
from ..idempotency import submission_key
from ..not_connected import why_nothing_runs
from ..parsing import preferred_wait, required_text
from ..routing import App, add_routes
from ..submission import submit
from ..submitted import SubmittedBody, read_submission
from ..transport.request import EmulatorRequest

#: The largest result, in bytes, that is written in one piece.
WRITTEN_AT_ONCE = 64 * 1024

_CANCELED = "The job was canceled."


@frozen
class ContourRoutes:
    """The Contour routes."""

    context: Context

    def register(self, app: App) -> None:
        """Put the routes on ``app``."""
        add_routes(
            app,
            [
                ("POST", f"{CONTOUR}/compute-modules/jobs/execute", self.execute),
                ("POST", f"{CONTOUR}/deployed-apps/jobs/execute", self.execute),
                ("POST", f"{CONTOUR}/deployed-apps/jobs", self.submit),
                ("POST", f"{CONTOUR}/jobs", self.submit_to_module_group),
                ("GET", f"{CONTOUR}/jobs/<id:job_id>/status", self.status),
                ("PUT", f"{CONTOUR}/jobs/status/v2", self.status_by_handle),
                ("PUT", f"{CONTOUR}/jobs/status/v3", self.status_by_handle),
                ("GET", f"{CONTOUR}/jobs/<id:job_id>/result", self.result),
                ("PUT", f"{CONTOUR}/jobs/result/v2", self.result_by_handle),
                ("PUT", f"{CONTOUR}/jobs/result/v3", self.result_by_handle),
                ("DELETE", f"{CONTOUR}/jobs/<id:job_id>", self.cancel),
                ("DELETE", f"{CONTOUR}/jobs", self.cancel_by_handle),
                ("DELETE", f"{CONTOUR}/jobs/v3", self.cancel_by_handle),
                ("PUT", f"{CONTOUR}/jobs/<id:job_id>/soft-cancel", self.soft_cancel),
            ],
        )

    # Submitting

    async def _submission(self, request: EmulatorRequest, source: JobSource) -> tuple[str, Submission]:
        """Return what a request submits, and the runtime that it is for."""
        principal, key, body = await self._read(request)
        rid = body.required_text("deployedAppRid")
        query_type = body.required_text("queryType")
        binding = await self.context.broker.resolve(rid, body.text("deployedAppBranch"))
        return binding.runtime_id, self._sign(principal, key, query_type, body.query, source, rid, binding.branch)

    async def _read(self, request: EmulatorRequest) -> tuple[Principal, str | None, SubmittedBody]:
        """Return who submits a job, what identifies the submission, and its body."""
        principal = await require_bearer(self.context, request)
        key = submission_key(request, f"user {principal.login}")
        return principal, key, await read_submission(self.context, request)

    def _sign(
        self,
        principal: Principal,
        key: str | None,
        query_type: str,
        query: bytes,
        source: JobSource,
        rid: str | None = None,
        branch: str | None = None,
    ) -> Submission:
        """Return a submission with its submitter."""
        admin = self.context.credentials.holds_admin_token(principal)
        return Submission(
            query_type, query, source, rid, branch, principal.login, key=key, scopes=principal.scopes, admin=admin
        )

    async def execute(self, request: EmulatorRequest) -> None:
        """Answer ``POST …/jobs/execute``: queue a job, park until its result, and send the result's bytes."""
        runtime_id, submission = await self._submission(request, JobSource.CONTOUR_SYNC)
        job = await submit_and_wait(self.context, request, runtime_id, submission)
        if job.state in (JobState.FAILED, JobState.CANCELED):
            raise errors.job_failed(job.job_id, job.error_message)
        if job.result is None:
            raise errors.job_timeout(job.job_id, await why_nothing_runs(self.context, runtime_id))
        await self._send(request, job, job.result)

    async def submit(self, request: EmulatorRequest) -> bytes:
        """Answer ``POST …/deployed-apps/jobs``: queue a job, and send its handle."""
        runtime_id, submission = await self._submission(request, JobSource.CONTOUR_ASYNC)
        return request.json(describe_handle(await submit(self.context, runtime_id, submission, request)))

    async def submit_to_module_group(self, request: EmulatorRequest) -> bytes:
        """Answer ``POST …/jobs``, which addresses a module group: here a runtime, by its id.

        Older clients send it. They read the status of the answer in Foundry's union.
        """
        principal, key, body = await self._read(request)
        runtime_id = body.required_text("moduleGroupName")
        query_type = body.required_text("queryType")
        if body.text("jobId") is not None:
            raise errors.invalid_request(
                "'jobId' cannot be chosen here. Leave it out, and use the id in the answer.", field="jobId"
            )
        submission = self._sign(principal, key, query_type, body.query, JobSource.CONTOUR_ASYNC)
        job = await submit(self.context, runtime_id, submission, request)
        return request.json({**describe_handle(job), "status": describe_foundry_status(job)})

    # Asking

    async def _named_job(self, request: EmulatorRequest) -> str:
        """Return the id of the job that the request's body names."""
        await require_bearer(self.context, request)
        return parse_handle(await request.read_json(self.context.limits.max_body))

    async def status(self, request: EmulatorRequest, job_id: str) -> bytes:
        """Answer ``GET …/jobs/{jobId}/status`` with a job's state: at once, or at its end with ``Prefer: wait=N``."""
        await require_bearer(self.context, request)
        wait = preferred_wait(request, 0)
        return request.json(describe_status(await self.context.broker.wait_end(job_id, wait)))

    async def status_by_handle(self, request: EmulatorRequest) -> bytes:
        """Answer ``PUT …/jobs/status/v2`` and ``v3``: park until the job has ended, and send its state."""
        job_id = await self._named_job(request)
        wait = preferred_wait(request, self.context.limits.poll_timeout)
        return request.json(describe_foundry_status(await self.context.broker.wait_end(job_id, wait)))

    async def result(self, request: EmulatorRequest, job_id: str) -> None:
        """Answer ``GET …/jobs/{jobId}/result`` with the bytes of a result."""
        await require_bearer(self.context, request)
        await self._send_result_of(request, job_id)

    async def result_by_handle(self, request: EmulatorRequest) -> None:
        """Answer ``PUT …/jobs/result/v2`` and ``v3`` with the bytes of a result."""
        await self._send_result_of(request, await self._named_job(request))

    async def _send_result_of(self, request: EmulatorRequest, job_id: str) -> None:
        job = await self.context.broker.job(job_id)
        if job.state is not JobState.SUCCEEDED or job.result is None:
            raise errors.job_not_ready(job_id)
        request.setHeader("X-Job-Id", job_id)
        await self._send(request, job, job.result)

    async def _send(self, request: EmulatorRequest, job: Job, result: JobResult) -> None:
        """Send a result; if it is lost on the way, answer with an error as long as nothing was sent."""
        faults, function = self.context.faults, job.submission.query_type
        if faults.active and await faults.draw(FaultKind.CUT_RESULT, job.runtime_id, function) is not None:
            request.setHeader("Content-Type", "application/octet-stream")
            request.setHeader("Content-Length", str(max(result.size, 1)))
            request.write(await result.read(0, result.size // 2))
            await _break_off(request)
        try:
            sent = await send_result(request, result)
        except UnknownJob:
            sent = False
        if not sent:
            if request.startedWriting:
                await _break_off(request)
            # If the job has been forgotten, with its result, this is answered with 404.
            job = await self.context.broker.job(job.job_id)
            raise errors.job_failed(job.job_id, job.error_message)

    # Canceling

    async def cancel(self, request: EmulatorRequest, job_id: str) -> bytes:
        """Answer ``DELETE …/jobs/{jobId}``: cancel a job, unless it has ended."""
        await require_bearer(self.context, request)
        await self.context.broker.cancel(job_id, _CANCELED)
        return request.no_content()

    async def cancel_by_handle(self, request: EmulatorRequest) -> bytes:
        """Answer ``DELETE …/jobs`` and ``DELETE …/jobs/v3``: cancel the job that the body names."""
        await self.context.broker.cancel(await self._named_job(request), _CANCELED)
        return request.no_content()

    async def soft_cancel(self, request: EmulatorRequest, job_id: str) -> bytes:
        """Answer ``PUT …/jobs/{jobId}/soft-cancel``: cancel a job if it is still queued."""
        await require_bearer(self.context, request)
        await self.context.broker.cancel(job_id, _CANCELED, only_queued=True)
        return request.no_content()


async def send_result(request: EmulatorRequest, result: JobResult) -> bool:
    """Answer with a result, and follow it while it is still being posted.

    Returns:
        Whether all of the result was sent; it was not if the post broke off.
    """
    request.setHeader("Content-Type", "application/octet-stream")
    if result.complete:
        request.setHeader("Content-Length", str(result.size))
    if result.complete and result.size <= WRITTEN_AT_ONCE:
        request.write(await result.read(0, result.size))
        return True
    return await result.deliver(request)


async def _break_off(request: EmulatorRequest) -> None:
    """End an answer in its middle; the Deferred never fires, but is canceled when the connection closes."""
    request.break_off()
    await Deferred()


def parse_handle(body: JSONValue) -> str:
    """Return the job id that a request names.

    Args:
        body: ``{id}`` or ``{jobHandle}``.

    Raises:
        ApiError: 400 if the body names no job.
    """
    if not isinstance(body, dict) or body.get("jobHandle") is None:
        return required_text(body, "id")
    try:
        handle = json.loads(required_text(body, "jobHandle"))
    except (ValueError, RecursionError):
        raise errors.invalid_request(
            "'jobHandle' is not JSON. Send it as it was received.", field="jobHandle"
        ) from None
    if not isinstance(handle, dict) or not isinstance(handle.get("jobId"), str):
        raise errors.invalid_request("'jobHandle' has no jobId. Send it as received.", field="jobHandle")
    job_id: str = handle["jobId"]
    return job_id
