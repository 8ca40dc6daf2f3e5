"""What the routes share."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from attrs import frozen
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater

from ..broker.faults import IFaultBook
from ..broker.interface import IBroker
from ..metrics import Metrics
from ..model.addresses import Addresses
from ..model.faults import FaultKind, FaultPlan
from ..model.jobs import Job, Submission
from ..model.limits import Limits
from ..model.runtimes import Runtime
from ..model.tokens import Principal, Role, same_token
from ..model.types import JSONValue
from . import errors
from .auth import presented_token
from .browsers import BrowserGuard
from .credentials import Credentials
from .query_validation import UncheckableQuery, query_violations
from .transport.request import EmulatorRequest


@frozen
class Context:
    """
    What every group of routes is made with.

    @ivar reset: goes back to the seed.
    @ivar readiness: whether each part of the emulator can do its work.
    @ivar validate_queries: check each query against its function's schema before it is queued.
    @ivar started_at: when it began to serve, milliseconds since the epoch.
    """

    reactor: IReactorTime
    broker: IBroker
    credentials: Credentials
    limits: Limits
    addresses: Addresses
    faults: IFaultBook
    reset: Callable[[], Awaitable[None]]
    guard: BrowserGuard
    metrics: Metrics
    readiness: Callable[[], Awaitable[Mapping[str, bool]]]
    validate_queries: bool
    started_at: int

    async def bearer(self, request: EmulatorRequest) -> Principal:
        """
        @return: whose bearer token the request carries.
        @raise ApiError: 401 if it carries none or an unknown one.
        """
        token = presented_token(request)
        principal = None if token is None else await self.credentials.principal(token)
        if principal is None:
            raise errors.invalid_token()
        return principal

    async def admin(self, request: EmulatorRequest) -> Principal:
        """
        @return: the administrator whose token the request carries.
        @raise ApiError: 401 without a known token, 403 if it is not an administrator's.
        """
        principal = await self.bearer(request)
        if principal.role is not Role.ADMIN:
            raise errors.forbidden("Only the admin token may do this.")
        return principal

    def is_admin(self, request: EmulatorRequest) -> bool:
        """
        @return: whether the request carries the configured admin token.
        """
        token, expected = presented_token(request), self.credentials.admin_token
        return token is not None and expected is not None and same_token(token, expected)

    async def module(self, request: EmulatorRequest, runtime_id: str) -> None:
        """
        Make sure that the request carries the module auth token of a runtime.

        @raise ApiError: 401 without its token, 403 with another runtime's.
        @raise UnknownRuntime: there is no such runtime.
        """
        presented = request.header("Module-Auth-Token")
        owner = await self.broker.module_runtime(presented) if presented else None
        if owner != runtime_id:
            await self.broker.runtime(runtime_id)
            if owner is not None:
                raise errors.forbidden("The Module-Auth-Token header is another runtime's.")
            raise errors.invalid_module_auth_token()
        if await self.fault(FaultKind.EXPIRE_TOKEN, runtime_id) is not None:
            raise errors.invalid_module_auth_token()

    async def check_query(self, runtime_id: str, query_type: str, query: JSONValue) -> None:
        """
        Check a query against the schema that its runtime posted, where the user asked for that.

        A runtime that has posted none yet may have any function.

        @raise ApiError: 404 for a function that the runtime does not have,
            400 with the JSON pointer of everything that does not fit.
        """
        if not self.validate_queries:
            return
        schemas = (await self.broker.runtime(runtime_id)).schemas
        if schemas is None:
            return
        schema = schemas.get(query_type)
        if schema is None:
            raise errors.unknown_function(query_type, sorted(schemas))
        try:
            found = query_violations(schema, query)
        except UncheckableQuery as error:
            raise errors.invalid_request(
                f"The schema of function '{query_type}' cannot be applied: {error}.", field="query"
            ) from None
        if found:
            raise errors.invalid_request(
                f"The query does not fit function '{query_type}': "
                + "; ".join(f"{each.pointer or '/'}: {each.message}" for each in found),
                field="query",
                violations=[{"pointer": each.pointer, "message": each.message} for each in found],
            )

    async def submit(self, runtime_id: str, submission: Submission) -> Job:
        """
        Queue a job, unless a fault has other plans for it.
        """
        function = submission.query_type
        failing = await self.fault(FaultKind.FAIL_JOB, runtime_id, function)
        dropping = failing or await self.fault(FaultKind.DROP_JOB, runtime_id, function)
        job = await self.broker.enqueue(runtime_id, submission, held=dropping is not None)
        if failing is not None:
            await self.broker.fail_job(job.job_id, failing.message or "A fault was injected.")
        return job

    async def fault(self, kind: FaultKind, runtime_id: str, function: str | None = None) -> FaultPlan | None:
        """
        @return: what goes wrong now, see L{IFaultBook.draw}; where no fault is active, nothing is asked.
        """
        return await self.faults.draw(kind, runtime_id, function) if self.faults.active else None

    async def pause(self, fault: FaultPlan | None) -> None:
        """
        Wait for the time that a fault delays something for.
        """
        if fault is not None and fault.seconds is not None:
            await deferLater(self.reactor, fault.seconds)

    def holds(self, request: EmulatorRequest, runtime: Runtime) -> bool:
        """
        @return: whether the request carries the module auth token of C{runtime}.
        """
        presented = request.header("Module-Auth-Token")
        return presented is not None and same_token(presented, runtime.module_auth_token)
