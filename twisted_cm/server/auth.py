"""Which tokens a request carries, and whether they are enough for its route."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import NoReturn, TypeAlias

from werkzeug.datastructures import Authorization

from ..broker.interface import UnknownJob, UnknownReplica, UnknownRuntime
from ..model.faults import FaultKind
from ..model.jobs import JobState
from ..model.replicas import DEFAULT_REPLICA, ModuleIdentity
from ..model.runtimes import Runtime
from ..model.tokens import Principal, Role, same_token
from . import errors
from .context import Context
from .replica_lookup import find_replica
from .transport.request import EmulatorRequest

#: Says which replica sends a request to the routes of a runtime and a replica, or refuses the request.
Identify: TypeAlias = Callable[[Context, EmulatorRequest, str, str], Awaitable[ModuleIdentity]]

#: Headers that browsers send, and modules do not.
_OF_BROWSERS = ("Sec-Fetch-Site", "Sec-Fetch-Mode", "Origin", "Referer")

# What a request carries


def authorization(request: EmulatorRequest) -> Authorization | None:
    """Return the ``Authorization`` header of a request, or ``None`` if it is absent or malformed."""
    try:
        return Authorization.from_header(request.header("Authorization"))
    except (ValueError, IndexError):
        # Werkzeug raises the first for Basic credentials that are not ASCII,
        # and, in its first 3.0 versions, the second for a parameter without a name.
        return None


def bearer_token(request: EmulatorRequest) -> str | None:
    """Return the bearer token of a request, or ``None`` if it carries none."""
    # Not by Werkzeug: a seeded token may have "=" inside, which it reads as parameters.
    scheme, _, token = (request.header("Authorization") or "").partition(" ")
    return (token.strip() or None) if scheme.lower() == "bearer" else None


def module_token(request: EmulatorRequest) -> str | None:
    """Return the module auth token of a request, or ``None`` if it carries none."""
    return request.header("Module-Auth-Token")


def has_admin_token(context: Context, request: EmulatorRequest) -> bool:
    """Return whether the request carries the configured admin token."""
    token, expected = bearer_token(request), context.credentials.admin_token
    return token is not None and expected is not None and same_token(token, expected)


def has_module_token(request: EmulatorRequest, runtime: Runtime) -> bool:
    """Return whether the request carries the module auth token of ``runtime``."""
    presented = module_token(request)
    return presented is not None and same_token(presented, runtime.module_auth_token)


def from_browser(request: EmulatorRequest) -> bool:
    """Return whether a browser sent the request."""
    return any(request.header(name) is not None for name in _OF_BROWSERS)


# What a route requires


async def require_bearer(context: Context, request: EmulatorRequest) -> Principal:
    """Return the owner of the bearer token that the request carries.

    Raises:
        ApiError: 401 if the token is missing, unknown or expired, or if its job does not run.
    """
    token = bearer_token(request)
    principal = None if token is None else await _owner(context, token)
    if principal is None:
        raise errors.invalid_token()
    return principal


async def _owner(context: Context, token: str) -> Principal | None:
    """Return the owner of a bearer token. The token of a job belongs to its submitter while the job runs."""
    credentials = context.credentials
    job_id = credentials.job_of_token(token)
    if job_id is None:
        return await credentials.principal(token)
    try:
        job = await context.broker.wait_end(job_id, 0)
    except UnknownJob:
        return None
    if job.state is not JobState.RUNNING or (credentials.guarded and not job.submission.submitter):
        # Beyond loopback, the token of a module must not become one that opens other routes.
        return None
    return credentials.submitter(job)


async def require_admin(context: Context, request: EmulatorRequest) -> None:
    """Make sure that the request carries the bearer token of an administrator.

    Raises:
        ApiError: 401 without a known token, 403 if its owner is no administrator.
    """
    principal = await require_bearer(context, request)
    if principal.role is not Role.ADMIN:
        raise errors.forbidden("Only the admin token may do this. Send it as the bearer token.")


async def require_bearer_beyond_loopback(context: Context, request: EmulatorRequest) -> None:
    """Like :func:`require_bearer`, unless only loopback is listened on."""
    if context.credentials.guarded:
        await require_bearer(context, request)


async def require_admin_beyond_loopback(context: Context, request: EmulatorRequest) -> None:
    """Like :func:`require_admin`, unless only loopback is listened on."""
    if context.credentials.guarded:
        await require_admin(context, request)


async def require_module(
    context: Context,
    request: EmulatorRequest,
    runtime_id: str,
    replica_id: str = DEFAULT_REPLICA,
    or_runtime: bool = False,
) -> ModuleIdentity:
    """Make sure that the request carries the module auth token of a replica, by default that of its runtime.

    Args:
        context: What the routes share.
        request: The request.
        runtime_id: The runtime.
        replica_id: The replica.
        or_runtime: Whether the token of the runtime will do, too.

    Returns:
        Whose token it is.

    Raises:
        ApiError: 401 without a known token, 403 with that of another runtime or replica.
        UnknownRuntime: There is no such runtime.
        UnknownReplica: The token is known, and the runtime has no such replica.
    """
    presented = module_token(request)
    owner = await context.broker.module_runtime(presented) if presented else None
    allowed = (replica_id, DEFAULT_REPLICA) if or_runtime else (replica_id,)
    if owner is None or owner.runtime_id != runtime_id or owner.replica_id not in allowed:
        await _refuse_module(context, owner, runtime_id, replica_id)
    return owner


async def identify_module(
    context: Context, request: EmulatorRequest, runtime_id: str, replica_id: str
) -> ModuleIdentity:
    """Do the same as :func:`require_module` for a request of an SDK, whose token a fault may refuse.

    Raises:
        ApiError: 401 without a known token, 403 with that of another runtime or replica.
        UnknownRuntime: There is no such runtime.
        UnknownReplica: The token is known, and the runtime has no such replica.
    """
    owner = await require_module(context, request, runtime_id, replica_id)
    if context.faults.active and await context.faults.draw(FaultKind.EXPIRE_TOKEN, runtime_id) is not None:
        raise errors.invalid_module_auth_token()
    return owner


async def identify_at_sidecar(
    context: Context, request: EmulatorRequest, runtime_id: str, replica_id: str
) -> ModuleIdentity:
    """Do the same as :func:`identify_module` at a sidecar, whose paths say less than its tokens (contract section 2).

    The token of any replica is accepted at the paths of the runtime, and says which replica it is.

    Raises:
        ApiError: 401 without a known token, 403 with that of another runtime or replica.
        UnknownRuntime: There is no such runtime.
        UnknownReplica: The token is known, and the runtime has no such replica.
    """
    presented = module_token(request)
    if presented and replica_id == DEFAULT_REPLICA:
        owner = await context.broker.module_runtime(presented)
        if owner is not None and owner.runtime_id == runtime_id:
            replica_id = owner.replica_id
    return await identify_module(context, request, runtime_id, replica_id)


async def identify_without_token(
    context: Context, request: EmulatorRequest, runtime_id: str, replica_id: str
) -> ModuleIdentity:
    """Do the same as :func:`identify_at_sidecar`, but let a module in over plain HTTP that sends no token.

    Newer Java SDKs send none. A browser never is a module: without a token, a page that embeds the address of the
    listener as a picture would take a job.

    Raises:
        ApiError: 401 with an unknown token, or if a browser sends none; 403 with that of another runtime or replica.
        UnknownRuntime: There is no such runtime.
        UnknownReplica: The runtime has no such replica.
    """
    if module_token(request) is not None or request.is_secure or from_browser(request):
        return await identify_at_sidecar(context, request, runtime_id, replica_id)
    await _require_open(context, runtime_id, replica_id)
    return ModuleIdentity(runtime_id, replica_id)


async def require_poller(
    context: Context, request: EmulatorRequest, runtime_id: str, replica_id: str, identify: Identify
) -> ModuleIdentity:
    """Do the same as ``identify`` for a poll, but refuse late what the process will ask again at once.

    Raises:
        ApiError: 401 without a valid token, 403 with that of another runtime or replica.
        UnknownRuntime: There is no such runtime.
        UnknownReplica: The token is valid, and the runtime has no such replica.
    """
    try:
        identity = await identify(context, request, runtime_id, replica_id)
    except (errors.ApiError, UnknownRuntime, UnknownReplica) as error:
        presented = module_token(request)
        if presented:
            is_late = await context.broker.module_runtime(presented) is None
        else:
            # A module at a sidecar needs no token, and its replica or runtime may be gone.
            is_late = not isinstance(error, errors.ApiError) and not from_browser(request)
        if is_late:
            await context.refused_polls.hold(runtime_id, replica_id)
        raise
    context.refused_polls.accepted(identity)
    return identity


async def _require_open(context: Context, runtime_id: str, replica_id: str) -> None:
    """Raise :class:`.UnknownReplica` or :class:`.UnknownRuntime` unless a replica is open."""
    if replica_id == DEFAULT_REPLICA:
        await context.broker.runtime(runtime_id)
        return
    found = await find_replica(context.broker, runtime_id, replica_id)
    if found is None or found.replica.gone:
        raise UnknownReplica(runtime_id, replica_id)


async def _refuse_module(context: Context, owner: ModuleIdentity | None, runtime_id: str, replica_id: str) -> NoReturn:
    """Say why a module auth token is not enough for the routes of a replica."""
    await context.broker.runtime(runtime_id)
    if owner is None:
        # This may have been the token of a replica that is no longer remembered, so nothing is said of the replica.
        raise errors.invalid_module_auth_token()
    if replica_id == DEFAULT_REPLICA:
        raise errors.forbidden(f"The Module-Auth-Token header is not that of runtime '{runtime_id}'.")
    await _require_open(context, runtime_id, replica_id)
    raise errors.forbidden(
        f"The Module-Auth-Token header is not that of replica '{replica_id}' of runtime '{runtime_id}'."
    )
