"""What an error answer looks like (contract section 4).

Routes raise an :class:`ApiError`, mostly through one of the functions below, so that
the status, name and wording of each kind stand in one place.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import uuid4

from ..model import errors as names
from ..model.types import JSONValue
from .violations import Violation

#: The ``errorCode`` that Foundry's SDKs expect with each status.
_CODES = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHORIZED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    405: "INVALID_ARGUMENT",
    409: "CONFLICT",
    413: "REQUEST_ENTITY_TOO_LARGE",
    422: "INVALID_ARGUMENT",
    429: "RATE_LIMIT",
    500: "INTERNAL",
    502: "UNAVAILABLE",
    503: "UNAVAILABLE",
    504: "TIMEOUT",
    508: "FAILED_PRECONDITION",
}


class ApiError(Exception):
    """An answer that is not a success."""

    def __init__(
        self,
        status: int,
        error: str,
        description: str,
        parameters: Mapping[str, JSONValue] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(description)
        self.status = status
        self.error = error
        self.description = description
        self.parameters = dict(parameters or {})
        self.headers = dict(headers or {})

    def body(self) -> bytes:
        """Return the answer's JSON in UTF-8, with an instance id of its own each time."""
        answer: dict[str, Any] = {
            "error": self.error,
            "error_description": self.description,
            "errorCode": _CODES[self.status],
            "errorName": "".join(word.capitalize() for word in self.error.split("_")),
            "errorInstanceId": str(uuid4()),
            # OSDK clients show this one.
            "errorDescription": self.description,
            "parameters": self.parameters,
        }
        return json.dumps(answer, ensure_ascii=False).encode("utf-8", "replace")


def invalid_request(description: str, **parameters: JSONValue) -> ApiError:
    """Make the error for a request that cannot be understood; ``parameters`` name what is wrong."""
    return ApiError(400, names.INVALID_REQUEST, description, parameters)


def violations(summary: str, found: Sequence[Violation], **parameters: JSONValue) -> ApiError:
    """Make the error for a body that breaks the rules of a schema.

    Args:
        summary: What is wrong in a few words; each violation is appended.
    """
    return invalid_request(
        f"{summary}: " + "; ".join(map(str, found)),
        **parameters,
        violations=[{"pointer": each.pointer, "message": each.message} for each in found],
    )


def invalid_token() -> ApiError:
    """Make the error for a bearer token that is missing, unknown or expired."""
    return ApiError(
        401,
        names.INVALID_TOKEN,
        "The bearer token is missing, unknown or expired. Send a valid one in the Authorization header.",
        headers={"WWW-Authenticate": "Bearer"},
    )


def invalid_module_auth_token() -> ApiError:
    """Make the error for a module auth token that is missing or unknown."""
    return ApiError(401, names.INVALID_MODULE_AUTH_TOKEN, "The Module-Auth-Token header is invalid.")


def forbidden(description: str) -> ApiError:
    """Make the error for a known token that may not do this."""
    return ApiError(403, names.FORBIDDEN, description)


def injected(status: int) -> ApiError:
    """Make the error that a fault answers a poll with."""
    if status == 401:
        return invalid_module_auth_token()
    return ApiError(status, "injected_fault", "A fault was injected.")


def internal() -> ApiError:
    """Make the error for a bug in the emulator."""
    return ApiError(500, "internal", "The emulator failed to answer. See its log for the reason.")


def method_not_allowed(allowed: Sequence[str]) -> ApiError:
    """Make the error for a route that does not take the request's method."""
    methods = ", ".join(allowed)
    return ApiError(
        405,
        names.METHOD_NOT_ALLOWED,
        f"This route does not take that method. It takes {methods}.",
        {"allow": methods},
        {"Allow": methods},
    )


def queue_full(runtime_id: str, limit: int, unit: str) -> ApiError:
    """Make the error for a queue that is full.

    Args:
        unit: What the limit counts: ``jobs`` or ``bytes``.
    """
    return ApiError(
        429,
        names.QUEUE_FULL,
        f"The queue of runtime '{runtime_id}' is full (limit: {limit} {unit}). Try again later.",
        {"runtimeId": runtime_id, "limit": limit, "unit": unit},
        {"Retry-After": "1"},
    )


def not_found(description: str, **parameters: JSONValue) -> ApiError:
    """Make the error for something that does not exist."""
    return ApiError(404, names.NOT_FOUND, description, parameters)


def unknown_runtime(runtime_id: str) -> ApiError:
    """Make the error for a runtime that does not exist."""
    return not_found(
        f"Unknown compute-module runtime '{runtime_id}'. Open a session for it, or add it to the seed.",
        runtimeId=runtime_id,
    )


def unknown_replica(runtime_id: str, replica_id: str) -> ApiError:
    """Make the error for a replica that does not exist, or is gone."""
    return not_found(
        f"Runtime '{runtime_id}' has no replica '{replica_id}'. It was never opened, or it is gone. Open it with POST"
        " to the runtime's replicas.",
        runtimeId=runtime_id,
        replicaId=replica_id,
    )


def replica_exists(runtime_id: str, replica_id: str) -> ApiError:
    """Make the error for a replica that is opened while it is open."""
    return invalid_request(
        f"'replicaId' must be new, but runtime '{runtime_id}' has a replica '{replica_id}'. Leave the id out, or delete"
        " that replica first.",
        field="replicaId",
        runtimeId=runtime_id,
        replicaId=replica_id,
    )


def token_in_use(runtime_id: str) -> ApiError:
    """Make the error for a replica that is to have the token of another one."""
    return invalid_request(
        "'moduleAuthToken' belongs to a runtime or to another replica. Leave it out, or send a token that nothing has.",
        field="moduleAuthToken",
        runtimeId=runtime_id,
    )


def unknown_job(job_id: str) -> ApiError:
    """Make the error for a job that does not exist."""
    return not_found(
        f"Unknown compute-module job '{job_id}'. It was never submitted to this runtime, or it is no longer kept.",
        jobId=job_id,
    )


def not_bound(rid: str, branch: str | None) -> ApiError:
    """Make the error for a deployed app that no active runtime serves."""
    where = f"'{rid}'" if branch is None else f"'{rid}' on branch '{branch}'"
    return not_found(
        f"No active compute-module runtime is bound to {where}.", deployedAppRid=rid, deployedAppBranch=branch
    )


def unknown_function(query_type: str, known: Sequence[str]) -> ApiError:
    """Make the error for a function that is not among those the runtime posted."""
    functions = f"The runtime has: {', '.join(known)}." if known else "The runtime has no functions."
    return not_found(f"Unknown function '{query_type}'. {functions}", queryType=query_type, known=list(known))


def payload_too_large(limit: int) -> ApiError:
    """Make the error for a request body of more than ``limit`` bytes."""
    return ApiError(
        413, names.PAYLOAD_TOO_LARGE, f"The request body is larger than the limit of {limit} bytes.", {"limit": limit}
    )


def job_not_ready(job_id: str) -> ApiError:
    """Make the error for a job that has no result to fetch."""
    return ApiError(
        409, names.JOB_NOT_READY, f"Compute-module job '{job_id}' has not completed successfully.", {"jobId": job_id}
    )


def job_already_completed(job_id: str) -> ApiError:
    """Make the error for a different result of a job that already has one."""
    return ApiError(
        409, names.JOB_ALREADY_COMPLETED, f"Compute-module job '{job_id}' has already completed.", {"jobId": job_id}
    )


def idempotency_key_reused(job_id: str) -> ApiError:
    """Make the error for a submission whose key was sent before with another one."""
    return ApiError(
        422,
        names.IDEMPOTENCY_KEY_REUSED,
        f"The Idempotency-Key was sent before with another submission, which made job '{job_id}'. Send a new key with"
        " each submission, and the same key only to send the same submission again.",
        {"jobId": job_id},
    )


def job_failed(job_id: str, reason: str | None) -> ApiError:
    """Make the error for the caller of a job that failed or was canceled."""
    return ApiError(500, names.JOB_FAILED, reason or "Compute module job failed.", {"jobId": job_id})


def job_timeout(job_id: str, likely_cause: str | None = None) -> ApiError:
    """Make the error for a caller whose job takes longer than the caller may park.

    Args:
        job_id: The job.
        likely_cause: A sentence that says why, if that is known.
    """
    description = f"Timed out waiting for compute-module job '{job_id}'."
    if likely_cause is not None:
        description += f" {likely_cause}"
    return ApiError(504, names.JOB_TIMEOUT, description, {"jobId": job_id})


def unavailable(description: str, **parameters: JSONValue) -> ApiError:
    """Make the error for a time when no work is accepted."""
    return ApiError(503, names.UNAVAILABLE, description, parameters, {"Retry-After": "1"})


def bad_gateway(prefix: str, what_failed: str) -> ApiError:
    """Make the error for a request that was passed on and has no answer; it does not name the other server."""
    return ApiError(
        502,
        names.BAD_GATEWAY,
        f"The server that the seed names for '{prefix}' {what_failed}. Check 'foundry.proxy' in the seed.",
        {"prefix": prefix},
    )


def loop_detected(prefix: str) -> ApiError:
    """Make the error for a request that comes back after it was passed on."""
    return ApiError(
        508,
        names.LOOP_DETECTED,
        f"The request was passed on before, and came back: the server that the seed names for '{prefix}' leads to this"
        " emulator. Name another one under 'foundry.proxy'.",
        {"prefix": prefix},
    )
