"""
What can go wrong between a client and an emulator.

Every answer that is not a success is an L{ApiError}, of the subclass that has
its kind's name (contract section 4).  The other errors here are of the
connection: they say whether the request can have been carried out.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import ClassVar

from ..model import errors as names
from ..model.types import JSONValue


class ComputeModulesError(Exception):
    """Whatever the client raises when something went wrong outside the program that uses it."""


class CannotConnect(ComputeModulesError):
    """There was no connection, so the request was never sent."""


class UntrustedServer(CannotConnect):
    """The server's certificate does not verify, or it speaks no TLS; the request was never sent."""


class AnswerLost(ComputeModulesError):
    """The connection was lost after the request was sent, or partly: it may have been carried out or not."""


class ResultBrokenOff(AnswerLost):
    """
    An answer began and broke off: what arrived of it is not whole.

    @ivar job_id: the job it is the result of, if the answer named one.
    """

    def __init__(self, description: str, job_id: str | None = None) -> None:
        super().__init__(description)
        self.job_id = job_id


class TimedOut(ComputeModulesError, TimeoutError):
    """There was no answer within the seconds that the caller gave; the request was canceled."""


class ApiError(ComputeModulesError):
    """
    An answer that is not a success, of a kind that has no class of its own.

    @cvar kind: what the wire calls the kind that a subclass stands for.
    @ivar status: the HTTP status.
    @ivar error: the kind, such as C{job_failed}; C{unknown} for an answer that is no emulator's.
    @ivar description: what went wrong, for people.
    @ivar parameters: what it is about, by name.
    @ivar job_id: the job it is about, if the answer names one.
    @ivar retry_after: seconds after which the server says to try again, if it does.
    """

    kind: ClassVar[str] = ""

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


class InvalidRequest(ApiError):
    """The request cannot be understood; C{parameters} names what is wrong."""

    kind = names.INVALID_REQUEST


class InvalidToken(ApiError):
    """The bearer token is missing, unknown or expired."""

    kind = names.INVALID_TOKEN


class InvalidModuleAuthToken(ApiError):
    """The module auth token is missing or not this runtime's."""

    kind = names.INVALID_MODULE_AUTH_TOKEN


class Forbidden(ApiError):
    """The token is known and may not do this."""

    kind = names.FORBIDDEN


class NotFound(ApiError):
    """There is no such runtime, job, function or deployed app."""

    kind = names.NOT_FOUND


class MethodNotAllowed(ApiError):
    """The route takes other methods."""

    kind = names.METHOD_NOT_ALLOWED


class PayloadTooLarge(ApiError):
    """The query or the result has more bytes than the emulator takes."""

    kind = names.PAYLOAD_TOO_LARGE


class QueueFull(ApiError):
    """As many jobs wait for the runtime as may; this one was not queued."""

    kind = names.QUEUE_FULL


class JobNotReady(ApiError):
    """The job has no result, or none yet."""

    kind = names.JOB_NOT_READY


class JobAlreadyCompleted(ApiError):
    """The job has a result already, and it is another one."""

    kind = names.JOB_ALREADY_COMPLETED


class JobFailed(ApiError):
    """The job has failed or was canceled."""

    kind = names.JOB_FAILED


class Unavailable(ApiError):
    """The emulator is shutting down, or cannot reach its broker.  With a C{job_id}, the job was queued before that."""

    kind = names.UNAVAILABLE


class JobTimeout(ApiError):
    """The job takes longer than a caller may park; it lives on, and C{job_id} names it."""

    kind = names.JOB_TIMEOUT


_KINDS = {each.kind: each for each in ApiError.__subclasses__()}


def api_error(status: int, content: bytes, job_id: str | None = None, retry_after: str | None = None) -> ApiError:
    """
    @param content: the body of an answer that is not a success.
    @param job_id: its C{X-Job-Id} header.
    @param retry_after: its C{Retry-After} header; one that is no number of seconds counts for nothing.
    """
    seconds = float(retry_after) if retry_after is not None and retry_after.isdecimal() else None
    try:
        answer = json.loads(content)
        error, parameters = answer["error"], answer.get("parameters", {})
        return _KINDS.get(error, ApiError)(
            status, error, answer["error_description"], parameters, parameters.get("jobId") or job_id, seconds
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        return no_emulator(status)


def no_emulator(status: int) -> ApiError:
    """
    @return: what to raise for an answer that makes no sense.
    """
    return ApiError(status, "unknown", f"The server answered {status}; is it an emulator of compute modules?")
