"""When a request that failed is sent again, and after how long."""

from __future__ import annotations

import enum
import random

from attrs import field, frozen

from ..model.finite import finite_field
from .errors import AnswerLost, ApiError, CannotConnect, ComputeModulesError, UntrustedServer

#: Statuses with which a server refuses a request for now: the queue is full, or the server is shutting down.
_REFUSED_FOR_NOW = (429, 503)


class Repeat(enum.Enum):
    """When it is safe to repeat a request that failed."""

    #: Only if the request was not sent.
    UNSENT = enum.auto()
    #: Also if the server refused the request for now (429 or 503 with ``Retry-After``) and created no job for it.
    REFUSED = enum.auto()
    #: Also if the answer was lost, because the request has a key by which the server knows it again.
    KEYED = enum.auto()
    #: Also if the answer was lost, because sending the request twice has the same effect as sending it once.
    ALWAYS = enum.auto()


#: The requests that are repeated if their answer was lost.
_ANSWER_MAY_BE_LOST = (Repeat.KEYED, Repeat.ALWAYS)


@frozen
class Retries:
    """How often a request is repeated if that is safe, and after how long.

    The delay doubles with each attempt. It is shortened at random by up to a half, so that clients that lost the
    same server do not return at the same moment. If the server asks for a longer delay, that delay is used.

    Attributes:
        attempts: The maximum number of times that a request is sent, including the first.
        initial: The delay before the second attempt, in seconds.
        maximum: The maximum delay, in seconds. If the server asks for more, its error is raised.
    """

    attempts: int = 5
    initial: float = field(default=0.1, validator=finite_field)
    maximum: float = field(default=5.0, validator=finite_field)

    def delay(self, failures: int) -> float:
        """Return the seconds to wait after a number of failed attempts."""
        seconds: float = min(self.maximum, self.initial * 2 ** (failures - 1))
        return seconds * random.uniform(0.5, 1)

    def delay_after(self, error: ComputeModulesError, failures: int, repeat: Repeat) -> float | None:
        """Return the seconds until the request is sent again, or ``None`` if it is not.

        Args:
            error: What the last attempt failed with.
            failures: How many attempts have failed.
            repeat: When it is safe to repeat the request.
        """
        if failures >= self.attempts or isinstance(error, UntrustedServer):
            return None
        if isinstance(error, CannotConnect) or (isinstance(error, AnswerLost) and repeat in _ANSWER_MAY_BE_LOST):
            return self.delay(failures)
        if not isinstance(error, ApiError) or error.status not in _REFUSED_FOR_NOW or error.retry_after is None:
            return None
        # A server that shuts down also answers its parked callers with 503. The id says that their job exists.
        refused = repeat is Repeat.ALWAYS or (repeat is not Repeat.UNSENT and error.job_id is None)
        if not refused or error.retry_after > self.maximum:
            return None
        return max(error.retry_after, self.delay(failures))


#: What a client does unless its user says otherwise.
DEFAULT_RETRIES = Retries()
