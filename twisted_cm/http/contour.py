"""
The routes of applications (contract section 3): submit a job, ask for its status, fetch its result.
"""

from __future__ import annotations

import json

from attrs import frozen
from klein import Klein
from twisted.internet.defer import CancelledError, Deferred

from ..broker import NotBound, UnknownJob
from ..jobs import Job, JobSource, JobState, JSONValue, Submission
from ..results import ResultBody, ResultReader
from . import errors
from .context import Context, text_field
from .site import EmulatorRequest

PREFIX = "/contour-backend-multiplexer/api/module-group-multiplexer"


@frozen
class ContourRoutes:
    """The Contour routes, over one L{Context}."""

    context: Context

    def register(self, app: Klein) -> None:
        """Put the routes on C{app}."""
        app.route(f"{PREFIX}/compute-modules/jobs/execute", methods=["POST"])(self.execute)
        app.route(f"{PREFIX}/deployed-apps/jobs", methods=["POST"])(self.submit)
        app.route(f"{PREFIX}/jobs/<id:job_id>/status", methods=["GET"])(self.status)
        app.route(f"{PREFIX}/jobs/result/v2", methods=["PUT"])(self.result_by_handle)

    async def _enqueue(self, request: EmulatorRequest, source: JobSource) -> Job:
        principal = self.context.bearer(request)
        body = await request.read_json(self.context.limits.max_body)
        rid = text_field(body, "deployedAppRid", required=True)
        query_type = text_field(body, "queryType", required=True)
        branch = text_field(body, "deployedAppBranch")
        assert rid is not None and query_type is not None
        try:
            binding = await self.context.broker.resolve(rid, branch)
        except NotBound:
            where = f"'{rid}'" if branch is None else f"'{rid}' on branch '{branch}'"
            raise errors.not_found(
                f"No active compute-module runtime is bound to {where}.", deployedAppRid=rid, deployedAppBranch=branch
            ) from None
        submission = Submission(query_type, body.get("query", {}), source, rid, binding.branch, principal.login)
        return await self.context.broker.enqueue(binding.runtime_id, submission)

    async def execute(self, request: EmulatorRequest) -> bytes | None:
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
        return await send_result(request, job.result)

    async def submit(self, request: EmulatorRequest) -> bytes:
        """C{POST …/deployed-apps/jobs}: queue a job and answer with its handle."""
        return request.json(describe_handle(await self._enqueue(request, JobSource.CONTOUR_ASYNC)))

    async def _job(self, job_id: str) -> Job:
        try:
            return await self.context.broker.job(job_id)
        except UnknownJob:
            raise errors.unknown_job(job_id) from None

    async def status(self, request: EmulatorRequest, job_id: str) -> bytes:
        """C{GET …/jobs/{jobId}/status}: how a job stands."""
        self.context.bearer(request)
        return request.json(describe_status(await self._job(job_id)))

    async def result_by_handle(self, request: EmulatorRequest) -> bytes | None:
        """C{PUT …/jobs/result/v2}: the bytes of a result."""
        self.context.bearer(request)
        job_id = parse_handle(await request.read_json(self.context.limits.max_body))
        job = await self._job(job_id)
        if job.state is not JobState.SUCCEEDED or job.result is None:
            raise errors.job_not_ready(job_id)
        request.setHeader("X-Job-Id", job_id)
        return await send_result(request, job.result)


async def send_result(request: EmulatorRequest, result: ResultBody) -> bytes | None:
    """
    Answer with a result, following it while it is still being posted.

    @return: the bytes where they are few and all there, L{None} where they have been written already.
    """
    if result.complete and result.size <= 65536:
        return request.answer(result.as_bytes(), "application/octet-stream")
    request.setHeader("Content-Type", "application/octet-stream")
    if result.complete:
        request.setHeader("Content-Length", str(result.size))
    done: Deferred[bool] = Deferred()
    reader = ResultReader(result, request, done.callback)
    try:
        reader.start()
        whole = await done
    except CancelledError:
        reader.stopProducing()
        raise
    if not whole:
        request.break_off()
        await Deferred()
    return None


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


def describe_handle(job: Job) -> JSONValue:
    """
    @return: the job handle that an application keeps (contract section 3).
    """
    handle = {"type": "v1", "jobId": job.job_id, "nodeId": None, "moduleId": None, "persistJobResult": None}
    return {
        "id": job.job_id,
        "nodeId": None,
        "moduleId": None,
        "jobHandle": json.dumps(handle),
        "persistJobResult": None,
        "status": describe_status(job),
    }


def describe_status(job: Job) -> JSONValue:
    """
    @return: the status union of C{GET …/status} (contract section 3).
    """
    kind = job.state.value
    if job.state is JobState.QUEUED:
        return {"type": kind, kind: {"queueInfo": "NORMAL_OPERATION"}}
    if job.state in (JobState.FAILED, JobState.CANCELED):
        return {"type": kind, kind: {"message": job.error_message or "Compute module job failed."}}
    timing = {
        "type": "queuedJob",
        "queuedJob": {
            "multiplexerSubmitTimeMillis": job.queued_at,
            "queueSubmitTimeMillis": job.queued_at,
            "queuedJobDispatchTimeMillis": job.started_at,
            "moduleSubmitTimeMillis": job.started_at,
        },
    }
    return {"type": kind, kind: {"metadata": None, "intermediateJobInfoList": [], "multiplexerJobTiming": timing}}
