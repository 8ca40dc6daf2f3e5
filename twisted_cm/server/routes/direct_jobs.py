"""Jobs that are queued for a runtime directly, without a deployed app (contract section 1)."""

from __future__ import annotations

from attrs import frozen

from ...broker.interface import UnknownJob
from ...model.jobs import JobSource, Submission
from ...model.paths import RUNTIMES
from ...model.tokens import Principal
from ..auth import (
    has_admin_token,
    has_module_token,
    module_token,
    require_bearer,
    require_bearer_beyond_loopback,
    require_module,
)
from ..context import Context
from ..descriptions import describe_job, describe_runtime, describe_schemas
from ..idempotency import submission_key
from ..json_body import to_json
from ..parsing import required_text
from ..routing import App, add_routes
from ..submission import submit
from ..submitted import read_submission
from ..transport.request import EmulatorRequest


@frozen
class DirectJobRoutes:
    """The routes of jobs that are addressed to a runtime."""

    context: Context

    def register(self, app: App) -> None:
        """Put the routes on ``app``."""
        jobs = f"{RUNTIMES}/<id:runtime_id>/jobs"
        add_routes(
            app,
            [
                ("POST", jobs, self.enqueue),
                ("GET", f"{jobs}/<id:job_id>", self.show_job),
                ("POST", f"{jobs}/<id:job_id>/fail", self.fail_job),
            ],
        )

    async def enqueue(self, request: EmulatorRequest, runtime_id: str) -> bytes:
        """Answer ``POST /runtimes/{runtimeId}/jobs``: queue a job for the runtime."""
        if module_token(request) is not None:
            await require_module(self.context, request, runtime_id)
            submitter, caller = Principal(""), f"runtime {runtime_id}"
        else:
            submitter = await require_bearer(self.context, request)
            caller = f"user {submitter.login}"
        key = submission_key(request, caller)
        body = await read_submission(self.context, request)
        submission = Submission(
            body.required_text("queryType"),
            body.query,
            JobSource.RUNTIME_DIRECT,
            submitter=submitter.login,
            key=key,
            scopes=submitter.scopes,
            admin=self.context.credentials.holds_admin_token(submitter),
        )
        job = await submit(self.context, runtime_id, submission, request)
        return await request.answer_in_parts(await describe_job(job), "application/json", 201)

    async def show_job(self, request: EmulatorRequest, runtime_id: str, job_id: str) -> bytes:
        """Answer ``GET /runtimes/{runtimeId}/jobs/{jobId}`` with a job, its runtime and the runtime's schemas."""
        runtime = await self.context.broker.runtime(runtime_id)
        token_held = has_module_token(request, runtime)
        if not token_held:
            await require_bearer_beyond_loopback(self.context, request)
        job = await self.context.broker.job(job_id)
        if job.runtime_id != runtime_id:
            raise UnknownJob(job_id)
        around = {
            "runtime": describe_runtime(runtime, token_held or has_admin_token(self.context, request)),
            "schemas": describe_schemas(runtime.schemas),
        }
        parts = (to_json(around)[:-1] + b',"job":', *await describe_job(job), b"}")
        return await request.answer_in_parts(parts, "application/json")

    async def fail_job(self, request: EmulatorRequest, runtime_id: str, job_id: str) -> bytes:
        """Answer ``POST /runtimes/{runtimeId}/jobs/{jobId}/fail``: fail a job, unless it has ended.

        Only scripted runtimes call this. An SDK reports an exception of its function as a result.
        """
        await require_module(self.context, request, runtime_id)
        await self.context.broker.open_result(runtime_id, job_id)
        message = required_text(await request.read_json(self.context.limits.max_body), "message")
        await self.context.broker.fail_job(job_id, message)
        return request.no_content()
