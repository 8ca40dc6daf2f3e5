"""
The routes of runtimes (contract sections 1 and 2).

Who calls them is a compute-module SDK, or a person with curl.
"""

from __future__ import annotations

from contextlib import suppress

from attrs import frozen
from klein import Klein
from twisted.internet.defer import CancelledError

from ... import __version__
from ...broker.interface import BrokerError, RuntimeSnapshot, UnknownJob
from ...model.faults import FaultKind, describe_fault
from ...model.jobs import JobSource, Submission
from ...model.paths import EMULATOR, RUNTIMES, SIDECAR, runtime_path
from ...model.registry import SessionRequest
from ...model.runtimes import Runtime
from ...model.types import JSONValue
from .. import errors
from ..context import Context
from ..descriptions import describe_job, describe_schemas
from ..function_schemas import InvalidSchemas, parse_function_schemas
from ..parsing import flag_field, preferred_wait, text_field
from ..transport.body import BodyLost
from ..transport.request import EmulatorRequest

_MASKED = "********"


@frozen
class RuntimeRoutes:
    """The runtime routes, over one L{Context}."""

    context: Context

    def register(self, app: Klein) -> None:
        """Put the routes of contract section 1 on C{app}."""
        one = f"{RUNTIMES}/<id:runtime_id>"
        app.route(f"{EMULATOR}/info", methods=["GET"])(self.info)
        app.route(f"{RUNTIMES}", methods=["POST"])(self.open_session)
        app.route(f"{RUNTIMES}", methods=["GET"])(self.list_runtimes)
        app.route(one, methods=["GET"])(self.show_runtime)
        app.route(one, methods=["DELETE"])(self.delete_runtime)
        app.route(f"{one}/jobs", methods=["POST"])(self.enqueue)
        app.route(f"{one}/jobs/<id:job_id>", methods=["GET"])(self.show_job)
        app.route(f"{one}/jobs/<id:job_id>/fail", methods=["POST"])(self.fail_job)
        self._register_module(app, one)

    def register_sidecar(self, app: Klein, runtime_id: str) -> None:
        """Put the routes of contract section 2 on C{app}, for one runtime."""
        for prefix in (SIDECAR, ""):
            self._register_module(app, prefix, runtime_id=runtime_id)

    def _register_module(self, app: Klein, prefix: str, **defaults: str) -> None:
        """The four routes that an SDK calls."""
        for method, path, handler in (
            ("GET", "/job", self.poll),
            ("POST", "/schemas", self.post_schemas),
            ("POST", "/results/<id:job_id>", self.post_result),
            ("POST", "/restart", self.restart),
        ):
            endpoint = f"{prefix}{path}"
            app.route(endpoint, methods=[method], endpoint=endpoint, defaults=defaults or None)(handler)

    # Sessions

    async def info(self, request: EmulatorRequest) -> bytes:
        """C{GET /info}: how to reach the emulator, for a client that found one of its addresses."""
        addresses, limits = self.context.addresses, self.context.limits
        return request.json(
            {
                "version": __version__,
                "http": addresses.http,
                "https": addresses.https,
                "caCertificate": addresses.ca_certificate,
                "pollTimeout": limits.poll_timeout,
                "syncTimeout": limits.sync_timeout,
                "maxBody": limits.max_body,
                "startedAt": self.context.started_at,
            }
        )

    async def open_session(self, request: EmulatorRequest) -> bytes:
        """C{POST /runtimes}: open a session, or reset one."""
        if self.context.credentials.guarded:
            await self.context.admin(request)
        body = await request.read_json(self.context.limits.max_body)
        runtime_id = text_field(body, "runtimeId", required=True)
        assert runtime_id is not None
        session = SessionRequest(
            runtime_id,
            text_field(body, "deployedAppRid"),
            text_field(body, "branch"),
            text_field(body, "displayName"),
            flag_field(body, "keepBindings"),
        )
        runtime = await self.context.broker.open_session(session)
        base = f"{self._base_url(request)}{runtime_path(runtime_id)}"
        return request.json(
            {
                "runtimeId": runtime_id,
                "moduleAuthToken": runtime.module_auth_token,
                "getJobUri": f"{base}/job",
                "postResultUri": f"{base}/results",
                "postSchemaUri": f"{base}/schemas",
                "restartNotificationUri": f"{base}/restart",
            }
        )

    def _base_url(self, request: EmulatorRequest) -> str:
        if self.context.addresses.base_url is not None:
            return self.context.addresses.base_url.rstrip("/")
        scheme = "https" if request.isSecure() else "http"
        address = request.getHost()
        return f"{scheme}://{request.header('Host') or f'{address.host}:{address.port}'}"

    async def list_runtimes(self, request: EmulatorRequest) -> bytes:
        """C{GET /runtimes}: every runtime."""
        await self.context.bearer(request)
        snapshots = await self.context.broker.snapshots()
        return request.json([await self._describe(request, snapshot) for snapshot in snapshots])

    async def show_runtime(self, request: EmulatorRequest, runtime_id: str) -> bytes:
        """C{GET /runtimes/{runtimeId}}: one runtime with its queue, bindings and schemas."""
        await self.context.bearer(request)
        snapshot = await self.context.broker.snapshot(runtime_id)
        return request.json(
            {**await self._describe(request, snapshot), "schemas": describe_schemas(snapshot.runtime.schemas)}
        )

    async def delete_runtime(self, request: EmulatorRequest, runtime_id: str) -> bytes:
        """C{DELETE /runtimes/{runtimeId}}: remove it and end its jobs."""
        await self.context.admin(request)
        await self.context.broker.delete_runtime(runtime_id)
        return request.no_content()

    async def _describe(self, request: EmulatorRequest, snapshot: RuntimeSnapshot) -> JSONValue:
        runtime = snapshot.runtime
        faults = [
            each for each in await self.context.faults.all() if each.plan.runtime_id in (None, runtime.runtime_id)
        ]
        return {
            **self._describe_runtime(request, runtime),
            "queued_jobs": snapshot.queued,
            "running_jobs": snapshot.running,
            "parked_polls": snapshot.parked_polls,
            "faults": [describe_fault(each) for each in faults if each.plan.runtime_id in (None, runtime.runtime_id)],
            "bindings": [
                {
                    "deployed_app_rid": binding.deployed_app_rid,
                    "branch": binding.branch,
                    "display_name": binding.display_name,
                    "active": binding.active,
                }
                for binding in snapshot.bindings
            ],
        }

    def _describe_runtime(self, request: EmulatorRequest, runtime: Runtime) -> dict[str, JSONValue]:
        shown = self.context.holds(request, runtime) or self.context.is_admin(request)
        return {
            "runtime_id": runtime.runtime_id,
            "module_auth_token": runtime.module_auth_token if shown else _MASKED,
            "connected": runtime.connected,
            "last_poll_at": runtime.last_poll_at,
            "last_schema_post_at": runtime.last_schema_post_at,
        }

    # What an SDK calls

    async def poll(self, request: EmulatorRequest, runtime_id: str) -> bytes:
        """C{GET /job}: park until there is a job."""
        await self.context.module(request, runtime_id)
        broker = self.context.broker
        refusing = await self.context.fault(FaultKind.POLL_ERROR, runtime_id)
        if refusing is not None:
            raise errors.injected(refusing.status or 500)
        wait = preferred_wait(request, self.context.limits.poll_timeout)
        job = await broker.poll(runtime_id, wait)
        if job is None:
            return request.no_content()
        job_id, attempt, function = job.job_id, job.attempts, job.submission.query_type
        if await self.context.fault(FaultKind.DUPLICATE_DELIVERY, runtime_id, function) is not None:
            await broker.deliver_again(job_id)
        try:
            await self.context.pause(await self.context.fault(FaultKind.DELAY_DISPATCH, runtime_id, function))
        except CancelledError:
            await broker.give_back(job_id, attempt)
            raise

        def written(delivered: bool) -> None:
            told = broker.delivered if delivered else broker.give_back
            # With no broker to tell, the job goes back when it is known that this poller's node has let go of it.
            told(job_id, attempt).addErrback(lambda failure: failure.trap(BrokerError))

        request.delivered().addCallback(written)
        return request.json(
            {
                "type": "computeModuleJobV1",
                "computeModuleJobV1": {
                    "jobId": job_id,
                    "queryType": job.submission.query_type,
                    "query": job.submission.query,
                    "temporaryCredentialsAuthToken": "",
                    "authHeader": "",
                    "userId": job.submission.submitter,
                },
            }
        )

    async def post_schemas(self, request: EmulatorRequest, runtime_id: str) -> bytes:
        """C{POST /schemas}: what functions the runtime has; all of them are kept, or none."""
        await self.context.module(request, runtime_id)
        posted = await request.read_json(self.context.limits.max_body)
        try:
            schemas = parse_function_schemas(posted)
        except InvalidSchemas as error:
            raise errors.invalid_request(
                f"Invalid function schemas: {error}",
                violations=[{"pointer": each.pointer, "message": each.message} for each in error.violations],
            ) from None
        except RecursionError:
            raise errors.invalid_request("Invalid function schemas: nested too deeply.") from None
        await self.context.broker.put_schemas(runtime_id, schemas)
        return request.json({})

    async def post_result(self, request: EmulatorRequest, runtime_id: str, job_id: str) -> bytes:
        """
        C{POST /results/{jobId}}: the bytes of a result, kept exactly.

        A result of known length counts once it is there whole, since an SDK
        posts it again if the connection breaks.  A chunked one is passed on as it
        arrives, so if it breaks off after its first byte the job has failed.
        """
        await self.context.module(request, runtime_id)
        broker = self.context.broker
        job = await broker.open_result(runtime_id, job_id)
        request.take_your_time()
        delaying = await self.context.fault(FaultKind.DELAY_RESULT, runtime_id, job.submission.query_type)
        await self.context.pause(delaying)
        body = broker.new_result(job_id, request.header("Content-Type"))
        begun = False
        try:
            if request.body.length is None:
                await request.body.begun()
                begun = await broker.begin_result(job_id, body)
            await request.body.pipe(body, self.context.limits.max_body)
        except (BodyLost, CancelledError, OSError, errors.ApiError) as error:
            if begun:
                with suppress(UnknownJob):
                    await broker.fail_job(job_id, _broken(error))
            if isinstance(error, OSError):
                raise errors.unavailable(f"The result cannot be kept: {error.strerror}.") from None
            raise
        await broker.complete(job_id, body)
        return request.no_content()

    async def restart(self, request: EmulatorRequest, runtime_id: str) -> bytes:
        """C{POST /restart}: the runtime process has come up afresh."""
        await self.context.module(request, runtime_id)
        return request.json(await self.context.broker.restart(runtime_id))

    # Jobs without a deployed app

    async def enqueue(self, request: EmulatorRequest, runtime_id: str) -> bytes:
        """C{POST /runtimes/{runtimeId}/jobs}: queue a job for this runtime directly."""
        if request.header("Module-Auth-Token") is not None:
            await self.context.module(request, runtime_id)
            submitter = ""
        else:
            submitter = (await self.context.bearer(request)).login
        body = await request.read_json(self.context.limits.max_body)
        query_type = text_field(body, "queryType", required=True)
        assert query_type is not None
        query = body.get("query", {})
        await self.context.check_query(runtime_id, query_type, query)
        submission = Submission(
            query_type, query, JobSource.RUNTIME_DIRECT, submitter=submitter, size=request.body.received
        )
        job = await self.context.submit(runtime_id, submission)
        return request.json(await describe_job(job), 201)

    async def show_job(self, request: EmulatorRequest, runtime_id: str, job_id: str) -> bytes:
        """C{GET /runtimes/{runtimeId}/jobs/{jobId}}: a job, its runtime and the runtime's schemas."""
        runtime = await self.context.broker.runtime(runtime_id)
        if self.context.credentials.guarded and not self.context.holds(request, runtime):
            await self.context.bearer(request)
        job = await self.context.broker.job(job_id)
        if job.runtime_id != runtime_id:
            raise UnknownJob(job_id)
        return request.json(
            {
                "runtime": self._describe_runtime(request, runtime),
                "job": await describe_job(job),
                "schemas": describe_schemas(runtime.schemas),
            }
        )

    async def fail_job(self, request: EmulatorRequest, runtime_id: str, job_id: str) -> bytes:
        """
        C{POST /runtimes/{runtimeId}/jobs/{jobId}/fail}: a scripted runtime gives a job up; one that has ended stays so.

        No SDK has this: what its function raises is a result.
        """
        await self.context.module(request, runtime_id)
        await self.context.broker.open_result(runtime_id, job_id)
        message = text_field(await request.read_json(self.context.limits.max_body), "message", required=True)
        assert message is not None
        await self.context.broker.fail_job(job_id, message)
        return request.no_content()


def _broken(error: Exception) -> str:
    if isinstance(error, errors.ApiError):
        return f"The result stream was refused: {error.description}"
    if isinstance(error, OSError):
        return f"The result stream cannot be kept: {error.strerror}."
    return "The runtime's connection was lost while it streamed the result."
