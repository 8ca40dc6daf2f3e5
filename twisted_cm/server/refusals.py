"""Which error answer an exception becomes."""

from __future__ import annotations

from collections.abc import Callable

from twisted.logger import Logger
from twisted.python.failure import Failure
from werkzeug.exceptions import HTTPException, MethodNotAllowed

from ..broker.interface import (
    BrokerError,
    BrokerStopped,
    BrokerUnavailable,
    IdempotencyKeyReused,
    JobAlreadyCompleted,
    NotBound,
    QueueFull,
    ReplicaExists,
    TokenInUse,
    UnknownJob,
    UnknownReplica,
    UnknownRuntime,
)
from . import errors

#: The error for each exception of the broker, made from the exception's arguments.
_BROKER_ERRORS: dict[type[BrokerError], Callable[..., errors.ApiError]] = {
    UnknownRuntime: errors.unknown_runtime,
    UnknownReplica: errors.unknown_replica,
    ReplicaExists: errors.replica_exists,
    TokenInUse: errors.token_in_use,
    UnknownJob: errors.unknown_job,
    NotBound: errors.not_bound,
    QueueFull: errors.queue_full,
    JobAlreadyCompleted: errors.job_already_completed,
    IdempotencyKeyReused: errors.idempotency_key_reused,
    BrokerStopped: lambda: errors.unavailable("The emulator is shutting down. Try again when it is back."),
    BrokerUnavailable: lambda reason: errors.unavailable(f"{reason}. Try again when it is back."),
}

_log = Logger()


def refusal(error: Exception) -> errors.ApiError:
    """Return the answer to an exception that a route, or the search for one, raised; log an unexpected one."""
    if isinstance(error, errors.ApiError):
        return error
    if isinstance(error, BrokerError):
        make_error = next(_BROKER_ERRORS[kind] for kind in type(error).__mro__ if kind in _BROKER_ERRORS)
        return make_error(*error.args)
    if isinstance(error, MethodNotAllowed):
        return errors.method_not_allowed(sorted(error.valid_methods or ()))
    if isinstance(error, HTTPException):
        return errors.not_found("There is no such route. GET /openapi.json describes all of them.")
    _log.failure("a route failed", Failure(error))
    return errors.internal()
