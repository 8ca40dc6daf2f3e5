"""What can go wrong between a client and an emulator.

Every answer that is not a success is an :class:`ApiError`, of the subclass for its kind (contract section 4).
The other errors concern the connection. They say whether the emulator can have carried out the request.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import ClassVar

from typing_extensions import Self

from ..model import errors as names
from ..model.types import JSONValue


class ComputeModulesError(Exception):
    """The base class of everything that the client raises for a cause outside the program that uses it."""


class CannotConnect(ComputeModulesError):
    """No connection could be made, so the request was not sent."""


class UntrustedServer(CannotConnect):
    """The server's certificate does not verify, or the server does not speak TLS. The request was not sent."""


class AnswerLost(ComputeModulesError):
    """The connection was lost after at least a part of the request was sent.

    The emulator may or may not have carried out the request.
    """


class ResultBrokenOff(AnswerLost):
    """The connection was lost in the middle of an answer, so what arrived of the answer is incomplete.

    Attributes:
        job_id: The job whose result it is, if the answer named one.
    """

    def __init__(self, description: str, job_id: str | None = None) -> None:
        super().__init__(description)
        self.job_id = job_id


class TimedOut(ComputeModulesError, TimeoutError):
    """No answer arrived within the caller's timeout. The request was canceled."""


class ApiError(ComputeModulesError):
    """An answer that is not a success. Kinds that have a subclass raise that subclass.

    Attributes:
        kind: The name on the wire of the kind that a subclass stands for.
        usual_status: The HTTP status that the contract gives for that kind.
        status: The HTTP status of the answer.
        error: The kind, such as ``job_failed``, or ``unknown`` if the answer does not come from an emulator.
        description: What went wrong, for people.
        parameters: Details by name, such as the id of the job.
        job_id: The job that the error is about, if the answer names one.
        retry_after: Seconds after which the server asks for another attempt, if it does.
    """

    kind: ClassVar[str] = ""
    usual_status: ClassVar[int] = 0

    def __init__(
        self,
        status: int,
        error: str,
        description: str,
        parameters: Mapping[str, JSONValue] | None = None,
        job_id: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(description)
        self.status = status
        self.error = error
        self.description = description
        self.parameters = dict(parameters or {})
        self.job_id = job_id
        self.retry_after = retry_after

    @classmethod
    def make(cls, description: str, job_id: str | None = None, **parameters: JSONValue) -> Self:
        """Return an error of this kind that comes from no answer.

        Call it on a subclass: ``NotFound.make("Unknown job '7'.", job_id="7")``.
        """
        return cls(cls.usual_status, cls.kind, description, parameters, job_id)


class InvalidRequest(ApiError):
    """The emulator cannot understand the request. ``parameters`` names what is wrong."""

    kind = names.INVALID_REQUEST
    usual_status = 400


class InvalidToken(ApiError):
    """The bearer token is missing, unknown or expired."""

    kind = names.INVALID_TOKEN
    usual_status = 401


class InvalidModuleAuthToken(ApiError):
    """The module auth token is missing or belongs to no runtime."""

    kind = names.INVALID_MODULE_AUTH_TOKEN
    usual_status = 401


class Forbidden(ApiError):
    """The token is valid but does not permit this request."""

    kind = names.FORBIDDEN
    usual_status = 403


class NotFound(ApiError):
    """The runtime, job, function, deployed app or route does not exist."""

    kind = names.NOT_FOUND
    usual_status = 404


class MethodNotAllowed(ApiError):
    """The route does not support this method."""

    kind = names.METHOD_NOT_ALLOWED
    usual_status = 405


class PayloadTooLarge(ApiError):
    """The query or the result exceeds the emulator's size limit."""

    kind = names.PAYLOAD_TOO_LARGE
    usual_status = 413


class QueueFull(ApiError):
    """The runtime's queue has reached its limit. The job was not queued."""

    kind = names.QUEUE_FULL
    usual_status = 429


class JobNotReady(ApiError):
    """The job has no result, or does not have it yet."""

    kind = names.JOB_NOT_READY
    usual_status = 409


class JobAlreadyCompleted(ApiError):
    """The job already has a different result."""

    kind = names.JOB_ALREADY_COMPLETED
    usual_status = 409


class IdempotencyKeyReused(ApiError):
    """The key of the submission was sent before with another submission."""

    kind = names.IDEMPOTENCY_KEY_REUSED
    usual_status = 422


class JobFailed(ApiError):
    """The job failed or was canceled."""

    kind = names.JOB_FAILED
    usual_status = 500


class Unavailable(ApiError):
    """The emulator is shutting down or cannot reach its broker.

    If ``job_id`` is set, the job was queued before that.
    """

    kind = names.UNAVAILABLE
    usual_status = 503


class JobTimeout(ApiError):
    """The job takes longer than a caller may wait. The job continues, and ``job_id`` names it."""

    kind = names.JOB_TIMEOUT
    usual_status = 504


_KINDS = {each.kind: each for each in ApiError.__subclasses__()}


def api_error(status: int, content: bytes, job_id: str | None = None, retry_after: str | None = None) -> ApiError:
    """Return the error that an answer stands for.

    Args:
        content: The body of an answer that is not a success.
        job_id: The answer's ``X-Job-Id`` header.
        retry_after: The answer's ``Retry-After`` header. A date is ignored; only a number of seconds counts.
    """
    seconds = float(retry_after) if retry_after is not None and retry_after.isdecimal() else None
    try:
        answer = json.loads(content)
        error, parameters = answer["error"], answer.get("parameters", {})
        return _KINDS.get(error, ApiError)(
            status, error, answer["error_description"], parameters, parameters.get("jobId") or job_id, seconds
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        return not_an_emulator(status)


def not_an_emulator(status: int) -> ApiError:
    """Return the error for an answer that no emulator gives."""
    return ApiError(status, "unknown", f"The server answered {status}; is it an emulator of compute modules?")
