"""
The routes of applications (contract section 3): submit a job, ask for its status, fetch its result, cancel it.
"""

from __future__ import annotations

import json

from attrs import frozen
from klein import Klein
from twisted.internet.defer import CancelledError, Deferred

from ...model.faults import FaultKind
from ...model.jobs import Job, JobResult, JobSource, JobState, Submission
from ...model.paths import CONTOUR, CONTOUR_SERVICE
from ...model.runtimes import Runtime
from ...model.types import JSONValue
from .. import errors
from ..context import Context
from ..descriptions import (
    describe_deployed_app,
    describe_foundry_status,
    describe_functions,
    describe_handle,
    describe_status,
)
from ..parsing import preferred_wait, query_parameter, text_field
from ..transport.request import EmulatorRequest

_CANCELED = "The job was canceled."


@frozen
class ContourRoutes:
    """The Contour routes, over one L{Context}."""

    context: Context

    def register(self, app: Klein) -> None:
        """Put the routes on C{app}."""
        deployed_app = f"{CONTOUR_SERVICE}/deployed-apps/<id:rid>/<id:branch>"
        for method, path, handler in (
            ("POST", f"{CONTOUR}/compute-modules/jobs/execute", self.execute),
            ("POST", f"{CONTOUR}/deployed-apps/jobs/execute", self.execute),
            ("POST", f"{CONTOUR}/deployed-apps/jobs", self.submit),
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
            ("GET", f"{CONTOUR}/schemas", self.schemas),
            ("GET", f"{deployed_app}/function-schemas", self.deployed_app_schemas),
            ("GET", f"{deployed_app}/status", self.deployed_app_status),
        ):
            app.route(path, methods=[method], endpoint=f"{method} {path}")(handler)

    # Submitting

    async def _enqueue(self, request: EmulatorRequest, source: JobSource) -> Job:
        principal = await self.context.bearer(request)
        body = await request.read_json(self.context.limits.max_body)
        rid = text_field(body, "deployedAppRid", required=True)
        query_type = text_field(body, "queryType", required=True)
        branch = text_field(body, "deployedAppBranch")
        query = body.get("query", {})
        assert rid is not None and query_type is not None
        binding = await self.context.broker.resolve(rid, branch)
        await self.context.check_query(binding.runtime_id, query_type, query)
        submission = Submission(query_type, query, source, rid, binding.branch, principal.login, request.body.received)
        return await self.context.submit(binding.runtime_id, submission)

    async def execute(self, request: EmulatorRequest) -> None:
        """C{POST …/jobs/execute}: park until the result, then answer with its bytes."""
        job = await self._enqueue(request, JobSource.CONTOUR_SYNC)
        request.setHeader("X-Job-Id", job.job_id)
        try:
            job = await self.context.broker.wait_result(job.job_id, self.context.limits.sync_timeout)
        except CancelledError:
            await self.context.broker.cancel(job.job_id, "The caller disconnected.", only_queued=True)
            raise
        if job.state in (JobState.FAILED, JobState.CANCELED):
            raise errors.job_failed(job.job_id, job.error_message)
        if job.result is None:
            raise errors.job_timeout(job.job_id)
        await self._send(request, job, job.result)

    async def submit(self, request: EmulatorRequest) -> bytes:
        """C{POST …/deployed-apps/jobs}: queue a job and answer with its handle."""
        return request.json(describe_handle(await self._enqueue(request, JobSource.CONTOUR_ASYNC)))

    # Asking

    async def _named_job(self, request: EmulatorRequest) -> str:
        await self.context.bearer(request)
        return parse_handle(await request.read_json(self.context.limits.max_body))

    async def status(self, request: EmulatorRequest, job_id: str) -> bytes:
        """C{GET …/jobs/{jobId}/status}: how a job stands, at once, or as C{Prefer: wait=N} has it once it has ended."""
        await self.context.bearer(request)
        wait = preferred_wait(request, 0)
        return request.json(describe_status(await self.context.broker.wait_end(job_id, wait)))

    async def status_by_handle(self, request: EmulatorRequest) -> bytes:
        """C{PUT …/jobs/status/v2} and C{v3}: park until the job has ended, and say how in Foundry's own union."""
        job_id = await self._named_job(request)
        wait = preferred_wait(request, self.context.limits.poll_timeout)
        return request.json(describe_foundry_status(await self.context.broker.wait_end(job_id, wait)))

    async def result(self, request: EmulatorRequest, job_id: str) -> None:
        """C{GET …/jobs/{jobId}/result}: the bytes of a result."""
        await self.context.bearer(request)
        await self._send_result_of(request, job_id)

    async def result_by_handle(self, request: EmulatorRequest) -> None:
        """C{PUT …/jobs/result/v2} and C{v3}: the bytes of a result."""
        await self._send_result_of(request, await self._named_job(request))

    async def _send_result_of(self, request: EmulatorRequest, job_id: str) -> None:
        job = await self.context.broker.job(job_id)
        if job.state is not JobState.SUCCEEDED or job.result is None:
            raise errors.job_not_ready(job_id)
        request.setHeader("X-Job-Id", job_id)
        await self._send(request, job, job.result)

    async def _send(self, request: EmulatorRequest, job: Job, result: JobResult) -> None:
        if await self.context.fault(FaultKind.CUT_RESULT, job.runtime_id, job.submission.query_type) is not None:
            request.setHeader("Content-Type", "application/octet-stream")
            request.setHeader("Content-Length", str(max(result.size, 1)))
            request.write(await result.read(0, result.size // 2))
            request.break_off()
            await Deferred()
        if not await send_result(request, result):
            if request.startedWriting:
                request.break_off()
                await Deferred()
            job = await self.context.broker.job(job.job_id)
            raise errors.job_failed(job.job_id, job.error_message)

    # Canceling

    async def cancel(self, request: EmulatorRequest, job_id: str) -> bytes:
        """C{DELETE …/jobs/{jobId}}: cancel a job; one that has ended stays as it is."""
        await self.context.bearer(request)
        await self.context.broker.cancel(job_id, _CANCELED)
        return request.no_content()

    async def cancel_by_handle(self, request: EmulatorRequest) -> bytes:
        """C{DELETE …/jobs} and C{DELETE …/jobs/v3}: the same, with the job named in the body."""
        await self.context.broker.cancel(await self._named_job(request), _CANCELED)
        return request.no_content()

    async def soft_cancel(self, request: EmulatorRequest, job_id: str) -> bytes:
        """C{PUT …/jobs/{jobId}/soft-cancel}: cancel a job if no runtime has it yet."""
        await self.context.bearer(request)
        await self.context.broker.cancel(job_id, _CANCELED, only_queued=True)
        return request.no_content()

    # Deployed apps

    async def _runtime_of(self, rid: str, branch: str | None) -> Runtime:
        binding = await self.context.broker.resolve(rid, branch)
        return await self.context.broker.runtime(binding.runtime_id)

    async def schemas(self, request: EmulatorRequest) -> bytes:
        """C{GET …/schemas?rid=&branch=}: the functions of a deployed app, null before its runtime has posted any."""
        await self.context.bearer(request)
        rid = query_parameter(request, "rid", required=True)
        assert rid is not None
        return request.json(describe_functions(await self._runtime_of(rid, query_parameter(request, "branch"))))

    async def deployed_app_schemas(self, request: EmulatorRequest, rid: str, branch: str) -> bytes:
        """C{GET …/deployed-apps/{rid}/{branch}/function-schemas}: the same, by path."""
        await self.context.bearer(request)
        return request.json(describe_functions(await self._runtime_of(rid, branch)))

    async def deployed_app_status(self, request: EmulatorRequest, rid: str, branch: str) -> bytes:
        """C{GET …/deployed-apps/{rid}/{branch}/status}: whether a runtime process is there."""
        await self.context.bearer(request)
        return request.json(describe_deployed_app(rid, await self._runtime_of(rid, branch)))


async def send_result(request: EmulatorRequest, result: JobResult) -> bool:
    """
    Answer with a result, following it while it is still being posted.

    @return: whether it is whole.
    """
    request.setHeader("Content-Type", "application/octet-stream")
    if result.complete:
        request.setHeader("Content-Length", str(result.size))
    if result.complete and result.size <= 65536:
        request.write(await result.read(0, result.size))
        return True
    return await result.deliver(request)


def parse_handle(body: JSONValue) -> str:
    """
    @param body: C{{id}} or C{{jobHandle}}.
    @return: the job id that it names.
    @raise ApiError: 400 if it names none.
    """
    if isinstance(body, dict) and body.get("jobHandle") is not None:
        handle = text_field(body, "jobHandle", required=True)
        assert handle is not None
        try:
            parsed = json.loads(handle)
        except (ValueError, RecursionError):
            raise errors.invalid_request("'jobHandle' is not JSON.", field="jobHandle") from None
        if not isinstance(parsed, dict) or not isinstance(parsed.get("jobId"), str):
            raise errors.invalid_request("'jobHandle' holds no jobId.", field="jobHandle")
        job_id: str = parsed["jobId"]
        return job_id
    job_id_field = text_field(body, "id", required=True)
    assert job_id_field is not None
    return job_id_field
