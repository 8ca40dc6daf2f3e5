"""What the routes share: the broker, the credentials, and how a request is checked against both."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from urllib.parse import unquote

from attrs import frozen
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from werkzeug.routing import BaseConverter, ValidationError

from ..broker import IBroker
from ..credentials import Credentials, Principal, Role, same_token
from ..faults import FaultKind, FaultPlan, IFaultBook
from ..jobs import Job, JSONValue, Submission
from ..metrics import Metrics
from ..query_validation import UncheckableQuery, query_violations
from ..registry import Runtime
from . import errors
from .browsers import BrowserGuard
from .site import EmulatorRequest

#: The longest poll that a request may ask for, in seconds.
LONGEST_POLL = 60.0

_WAIT = re.compile(r"(?:^|,)\s*wait\s*=\s*\"?(\d{1,9})\"?\s*(?:$|[,;])", re.IGNORECASE)


@frozen
class Limits:
    """
    How long requests park and how large they may be.

    @ivar poll_timeout: seconds that a job poll parks.
    @ivar sync_timeout: seconds that a synchronous caller parks.
    @ivar max_body: the most bytes of a request body, results included.
    """

    poll_timeout: float = 2.0
    sync_timeout: float = 30.0
    max_body: int = 64 * 1024 * 1024


@frozen
class Addresses:
    """
    Where the emulator is reached.

    @ivar http: base URL of the plain listener, or L{None}.
    @ivar https: base URL of the TLS listener, or L{None}.
    @ivar ca_certificate: the CA that signed the TLS listener's certificate, in PEM, or L{None}.
    @ivar base_url: what session URIs are built on, where the user fixed it.
    """

    http: str | None = None
    https: str | None = None
    ca_certificate: str | None = None
    base_url: str | None = None


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
        token = _presented(request)
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
        token, expected = _presented(request), self.credentials.admin_token
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


def _presented(request: EmulatorRequest) -> str | None:
    """The bearer token that a request carries."""
    scheme, _, token = (request.header("Authorization") or "").partition(" ")
    return token.strip() or None if scheme.lower() == "bearer" else None


def preferred_wait(request: EmulatorRequest, default: float) -> float:
    """
    How long a long-poll parks: C{Prefer: wait=N} (RFC 7240), up to a cap, else the default.

    @param default: seconds.
    @return: seconds; the answer says C{Preference-Applied} where the preference decided.
    """
    match = _WAIT.search(",".join(request.header_values("Prefer")))
    if match is None:
        return default
    wait = min(int(match.group(1)), int(LONGEST_POLL))
    request.setHeader("Preference-Applied", f"wait={wait}")
    return float(wait)


class IdConverter(BaseConverter):
    """An id in a path: percent-encoded there, decoded once, and text."""

    regex = "[^/]+"
    part_isolating = True

    def to_python(self, value: str) -> str:
        """
        @raise ValidationError: the id is not UTF-8, or holds a NUL; no route matches then.
        """
        try:
            decoded = unquote(value, errors="strict")
        except UnicodeDecodeError:
            raise ValidationError from None
        if "\0" in decoded:
            raise ValidationError
        return decoded


def text_field(body: JSONValue, name: str, required: bool = False) -> str | None:
    """
    One field of a request body that is text.

    @param body: the body, as JSON.
    @return: the text, or L{None} where the field is absent or null and not required.
    @raise ApiError: 400, naming the field, if it is of another type, or missing or blank and required.
    """
    if not isinstance(body, dict):
        raise errors.invalid_request("The request body must be a JSON object.")
    value = body.get(name)
    if value is None and not required:
        return None
    if not isinstance(value, str):
        raise errors.invalid_request(f"'{name}' must be a string.", field=name)
    if "\0" in value or any("\ud800" <= character <= "\udfff" for character in value):
        raise errors.invalid_request(f"'{name}' holds a character that is not allowed.", field=name)
    if not value.strip():
        if required:
            raise errors.invalid_request(f"'{name}' must not be blank.", field=name)
        return None
    return value


def query_parameter(request: EmulatorRequest, name: str, required: bool = False) -> str | None:
    """
    @return: a parameter of the request's query string, or L{None} where it is absent or blank and not required.
    @raise ApiError: 400, naming it, if it is there twice, not UTF-8, or missing or blank and required.
    """
    values = request.args.get(name.encode("ascii"), [])
    if len(values) > 1:
        raise errors.invalid_request(f"'{name}' is there twice.", field=name)
    try:
        text = values[0].decode("utf-8") if values else None
    except UnicodeDecodeError:
        raise errors.invalid_request(f"'{name}' is not UTF-8.", field=name) from None
    return text_field({name: text}, name, required)


def flag_field(body: JSONValue, name: str) -> bool:
    """
    @return: one field of a request body that is true or false; absent or null is false.
    @raise ApiError: 400, naming the field, if it is anything else.
    """
    value = body.get(name)
    if value is None:
        return False
    if not isinstance(value, bool):
        raise errors.invalid_request(f"'{name}' must be true or false.", field=name)
    return value
