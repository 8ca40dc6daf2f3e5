"""The routes that an SDK calls, on the main listeners and on a sidecar (contract sections 1, 1a and 2)."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeAlias

from attrs import frozen
from twisted.internet.defer import CancelledError

from ...broker.interface import BrokerError, BrokerUnavailable, UnknownJob
from ...model.faults import FaultKind
from ...model.jobs import Job
from ...model.json_values import runs_on
from ...model.paths import RUNTIMES, SIDECAR
from ...model.raised import MOST_BYTES, raised_message
from ...model.replicas import DEFAULT_REPLICA
from .. import errors
from ..auth import Identify, identify_module, require_poller
from ..context import Context
from ..faults import delay_by_fault
from ..foundry_descriptions import envelope, flat_job
from ..function_schemas import InvalidSchemas, parse_function_schemas
from ..parsing import preferred_wait
from ..routing import App, add_routes
from ..transport.body import BodyLost
from ..transport.request import EmulatorRequest

Handler: TypeAlias = Callable[..., Any]
Written: TypeAlias = Callable[[Job, str], tuple[bytes, ...]]


@frozen
class ModuleRoutes:
    """The routes that an SDK calls.

    Attributes:
        context: What the routes share.
        identify: Says which replica sends a request.
    """

    context: Context
    identify: Identify = identify_module

    def register(self, app: App) -> None:
        """Put the routes of contract sections 1 and 1a on ``app``, for every runtime and every replica."""
        for prefix in ("", "/replicas/<id:replica_id>"):
            add_routes(app, self._routes(f"{RUNTIMES}/<id:runtime_id>{prefix}", self.poll, self.post_schemas))

    def register_as_foundry(self, app: App, runtime_id: str) -> None:
        """Put the routes of contract section 2 with Foundry's own paths on ``app``, for one runtime."""
        add_routes(app, self._routes(SIDECAR, self.poll, self.post_schemas_as_foundry), runtime_id=runtime_id)

    def register_bare(self, app: App, runtime_id: str) -> None:
        """Put the routes of contract section 2 with bare paths on ``app``, for one runtime and its replicas."""
        for prefix in ("", "/replicas/<id:replica_id>"):
            found = self._routes(prefix, self.poll_flat, self.post_schemas)
            # Newer Java SDKs have this path built in.
            found.append(("POST", f"{prefix}/restart-notify", self.restart))
            add_routes(app, found, runtime_id=runtime_id)

    def _routes(self, prefix: str, poll: Handler, post_schemas: Handler) -> list[tuple[str, str, Handler]]:
        return [
            ("GET", f"{prefix}/job", poll),
            ("POST", f"{prefix}/schemas", post_schemas),
            ("POST", f"{prefix}/results/<id:job_id>", self.post_result),
            ("POST", f"{prefix}/restart", self.restart),
        ]

    async def poll(self, request: EmulatorRequest, runtime_id: str, replica_id: str = DEFAULT_REPLICA) -> bytes:
        """Answer ``GET /job``: park until there is a job that the replica may have."""
        return await self._poll(request, runtime_id, replica_id, envelope)

    async def poll_flat(self, request: EmulatorRequest, runtime_id: str, replica_id: str = DEFAULT_REPLICA) -> bytes:
        """Answer ``GET /job`` like :meth:`poll`, with the fields of the job at the top level."""
        return await self._poll(request, runtime_id, replica_id, flat_job)

    async def _poll(self, request: EmulatorRequest, runtime_id: str, replica_id: str, written: Written) -> bytes:
        replica_id = (await require_poller(self.context, request, runtime_id, replica_id, self.identify)).replica_id
        broker = self.context.broker
        if self.context.faults.active:
            refusing = await self.context.faults.draw(FaultKind.POLL_ERROR, runtime_id)
            if refusing is not None:
                raise errors.injected(refusing.status or 500)
        wait = preferred_wait(request, self.context.limits.poll_timeout)
        while True:
            job = await broker.poll(runtime_id, wait, replica_id)
            if job is None:
                return request.no_content()
            parts = await self._prepare(request, job, written)
            if parts is not None:
                # From here on the request itself reports what became of the answer.
                return await request.answer_in_parts(parts, "application/json")
            # The poll has waited long enough.
            wait = 0

    async def _prepare(self, request: EmulatorRequest, job: Job, written: Written) -> tuple[bytes, ...] | None:
        """Return a job as its poller reads it, to be written at once, or ``None`` if another poll may have the job."""
        broker = self.context.broker
        runtime_id, job_id, attempt, function = job.runtime_id, job.job_id, job.attempts, job.submission.query_type

        def report(delivered: bool) -> None:
            told = broker.delivered if delivered else broker.give_back
            # If the broker cannot be reached, it puts the job back itself once it finds that this node let go of it.
            told(job_id, attempt).addErrback(lambda failure: failure.trap(BrokerError))

        try:
            if self.context.faults.active:
                if await self.context.faults.draw(FaultKind.DUPLICATE_DELIVERY, runtime_id, function) is not None:
                    await broker.deliver_again(job_id)
                await delay_by_fault(self.context, FaultKind.DELAY_DISPATCH, runtime_id, function)
            parts = written(job, self.context.credentials.job_token(job))
            # Last, since it does not hold for long.
            if not await broker.holds(job_id, attempt):
                return None
            request.when_delivered(report)
        except BaseException:
            # Whatever happens between the hand-out and the answer, the job must not be lost.
            report(False)
            raise
        return parts

    async def post_schemas(self, request: EmulatorRequest, runtime_id: str, replica_id: str = DEFAULT_REPLICA) -> bytes:
        """Answer ``POST /schemas``: keep all the functions that the runtime has, or none."""
        await self._keep_schemas(request, runtime_id, replica_id)
        return request.json({})

    async def post_schemas_as_foundry(self, request: EmulatorRequest, runtime_id: str) -> bytes:
        """Answer ``POST /schemas`` as the runtime service of Foundry does, with an empty body."""
        await self._keep_schemas(request, runtime_id, DEFAULT_REPLICA)
        return request.no_content()

    async def _keep_schemas(self, request: EmulatorRequest, runtime_id: str, replica_id: str) -> None:
        await self.identify(self.context, request, runtime_id, replica_id)
        posted = await request.read_json(self.context.limits.max_body)
        try:
            schemas = parse_function_schemas(posted)
        except InvalidSchemas as error:
            raise errors.violations("Invalid function schemas", error.violations) from None
        except RecursionError:
            raise errors.invalid_request("Invalid function schemas: they are nested too deeply.") from None
        await self.context.broker.put_schemas(runtime_id, schemas)
        self.context.unchecked_queries.has_schemas(runtime_id)

    async def post_result(
        self, request: EmulatorRequest, runtime_id: str, job_id: str, replica_id: str = DEFAULT_REPLICA
    ) -> bytes:
        """Answer ``POST /results/{jobId}``: keep the bytes of a result exactly.

        A result of known length counts once all of it has arrived, because an SDK posts it
        again if the connection breaks. A chunked result is passed on as it arrives, so the
        job fails if the result breaks off after its first byte. A streaming function posts each value in a chunk of its
        own: where values would run together, the end of the chunk is noted.
        """
        replica_id = (await self.identify(self.context, request, runtime_id, replica_id)).replica_id
        broker = self.context.broker
        job = await broker.open_result(runtime_id, job_id, replica_id)
        request.take_your_time()
        if self.context.faults.active:
            await delay_by_fault(self.context, FaultKind.DELAY_RESULT, runtime_id, job.submission.query_type)
        body = broker.new_result(job_id, request.header("Content-Type"))
        begun = False

        def chunk_ends(last: bytes, end: int) -> None:
            if runs_on(last):
                body.mark(end)

        try:
            if request.body.length is None:
                await request.body.begun()
                begun = await broker.begin_result(job_id, body, replica_id)
            await request.body.pipe(body, self.context.limits.max_body, chunk_ends)
            raised = None
            if body.size <= MOST_BYTES:
                raised = raised_message(job_id, await body.read(0, body.size))
            await broker.complete(job_id, body, raised)
        except (BodyLost, CancelledError, OSError, errors.ApiError, BrokerUnavailable) as error:
            body.abandon()
            if begun:
                # A broker that cannot be reached ends the job itself, once it finds that this node let go of it.
                with suppress(UnknownJob, BrokerUnavailable):
                    await broker.fail_job(job_id, _why_broken(error))
            if isinstance(error, OSError):
                raise errors.unavailable(f"The result cannot be kept: {error.strerror}.") from None
            raise
        return request.no_content()

    async def restart(self, request: EmulatorRequest, runtime_id: str, replica_id: str = DEFAULT_REPLICA) -> bytes:
        """Answer ``POST /restart``: the replica's process has started again, and what it was running fails."""
        replica_id = (await self.identify(self.context, request, runtime_id, replica_id)).replica_id
        return request.json(await self.context.broker.restart(runtime_id, replica_id))


def _why_broken(error: Exception) -> str:
    if isinstance(error, errors.ApiError):
        return f"The result stream was refused: {error.description}"
    if isinstance(error, OSError):
        return f"The result stream cannot be kept: {error.strerror}."
    if isinstance(error, BrokerUnavailable):
        return f"The result stream cannot be kept: {error}."
    return "The runtime's connection was lost while it streamed the result."
