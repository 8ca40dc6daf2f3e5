"""
The one shape of an error answer (contract section 4).

Routes raise an L{ApiError}, mostly through one of the functions below, so that
status, name and wording of each kind stand in one place.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any
from uuid import uuid4

from ..model import errors as names
from ..model.types import JSONValue

#: For each status, the error code that Foundry's SDKs expect beside it.
_CODES = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHORIZED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    405: "INVALID_ARGUMENT",
    409: "CONFLICT",
    413: "REQUEST_ENTITY_TOO_LARGE",
    429: "RATE_LIMIT",
    500: "INTERNAL",
    503: "UNAVAILABLE",
    504: "TIMEOUT",
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
        """
        @return: the answer's JSON, in UTF-8; each has an instance id of its own.
        """
        answer: dict[str, Any] = {
            "error": self.error,
            "error_description": self.description,
            "errorCode": _CODES[self.status],
            "errorName": "".join(word.capitalize() for word in self.error.split("_")),
            "errorInstanceId": str(uuid4()),
            "parameters": self.parameters,
        }
        return json.dumps(answer, ensure_ascii=False).encode("utf-8", "replace")


def invalid_request(description: str, **parameters: JSONValue) -> ApiError:
    """The request cannot be understood; C{parameters} names what is wrong."""
    return ApiError(400, names.INVALID_REQUEST, description, parameters)


def invalid_token() -> ApiError:
    """The bearer token is missing, unknown or expired."""
    return ApiError(
        401,
        names.INVALID_TOKEN,
        "The bearer token is missing, unknown or expired; send one in the Authorization header.",
        headers={"WWW-Authenticate": "Bearer"},
    )


def invalid_module_auth_token() -> ApiError:
    """The module auth token is missing or not this runtime's."""
    return ApiError(401, names.INVALID_MODULE_AUTH_TOKEN, "The Module-Auth-Token header is invalid.")


def forbidden(description: str) -> ApiError:
    """The token is known and may not do this."""
    return ApiError(403, names.FORBIDDEN, description)


def injected(status: int) -> ApiError:
    """A fault has it that a poll is answered so."""
    if status == 401:
        return invalid_module_auth_token()
    return ApiError(status, "injected_fault", "A fault was injected.")


def queue_full(runtime_id: str, limit: int, unit: str) -> ApiError:
    """As much waits for the runtime as may."""
    return ApiError(
        429,
        names.QUEUE_FULL,
        f"Compute-module runtime '{runtime_id}' has {limit} {unit} waiting, as many as may; try again later.",
        {"runtimeId": runtime_id, "limit": limit, "unit": unit},
        {"Retry-After": "1"},
    )


def not_found(description: str, **parameters: JSONValue) -> ApiError:
    """There is no such runtime, job or route."""
    return ApiError(404, names.NOT_FOUND, description, parameters)


def unknown_runtime(runtime_id: str) -> ApiError:
    """There is no such runtime."""
    return not_found(f"Unknown compute-module runtime '{runtime_id}'.", runtimeId=runtime_id)


def unknown_job(job_id: str) -> ApiError:
    """There is no such job."""
    return not_found(f"Unknown compute-module job '{job_id}'.", jobId=job_id)


def not_bound(rid: str, branch: str | None) -> ApiError:
    """No active runtime serves the deployed app."""
    where = f"'{rid}'" if branch is None else f"'{rid}' on branch '{branch}'"
    return not_found(
        f"No active compute-module runtime is bound to {where}.", deployedAppRid=rid, deployedAppBranch=branch
    )


def unknown_function(query_type: str, known: list[str]) -> ApiError:
    """The runtime has posted its functions, and this is none of them."""
    names = ", ".join(known) or "none"
    return not_found(f"Unknown function '{query_type}'; known are: {names}.", queryType=query_type, known=list(known))


def payload_too_large(limit: int) -> ApiError:
    """The request's body has more bytes than C{limit}."""
    return ApiError(
        413, names.PAYLOAD_TOO_LARGE, f"The request body is larger than the limit of {limit} bytes.", {"limit": limit}
    )


def job_not_ready(job_id: str) -> ApiError:
    """There is no result to fetch."""
    return ApiError(
        409, names.JOB_NOT_READY, f"Compute-module job '{job_id}' has not completed successfully.", {"jobId": job_id}
    )


def job_already_completed(job_id: str) -> ApiError:
    """A different result for a job that has one."""
    return ApiError(
        409, names.JOB_ALREADY_COMPLETED, f"Compute-module job '{job_id}' has already completed.", {"jobId": job_id}
    )


def job_failed(job_id: str, reason: str | None) -> ApiError:
    """The job that a caller is parked on has failed or was canceled."""
    return ApiError(500, names.JOB_FAILED, reason or "Compute module job failed.", {"jobId": job_id})


def job_timeout(job_id: str) -> ApiError:
    """The job that a caller is parked on takes longer than the caller may park."""
    return ApiError(504, names.JOB_TIMEOUT, f"Timed out waiting for compute-module job '{job_id}'.", {"jobId": job_id})


def unavailable(description: str, **parameters: JSONValue) -> ApiError:
    """No work is taken now; the client may try again."""
    return ApiError(503, names.UNAVAILABLE, description, parameters, {"Retry-After": "1"})
