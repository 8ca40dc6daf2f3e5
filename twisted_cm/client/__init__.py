"""
The emulator's routes as methods, on treq: for applications, for scripted runtimes, and for whoever tests with it.

What failed is sent again, with time between, where a second time does no harm:

- whatever was never sent, since there was no connection;
- whatever the server refused for now (429 or 503 with C{Retry-After}), unless a job was made of it;
- whatever changes nothing the second time, even if its answer was lost: to ask for a status, a result or how things
  stand, to cancel a job, to post a result or schemas that are there as a whole.

Not so, once it was sent: to submit a job, which could run twice; to poll, since the lost answer may have held a job,
which the emulator gives back only if it could not write it (its runtime can say C{restart}, or wait for the lease); to
open or restart or reset something, which would undo what came between; a result from an iterator, which is used up.
"""

from ..model.jobs import JobState
from .api import ComputeModules, EmulatorControl, RuntimeSession
from .connections import Retries
from .errors import (
    AnswerLost,
    ApiError,
    CannotConnect,
    ComputeModulesError,
    Forbidden,
    InvalidModuleAuthToken,
    InvalidRequest,
    InvalidToken,
    JobAlreadyCompleted,
    JobFailed,
    JobNotReady,
    JobTimeout,
    MethodNotAllowed,
    NotFound,
    PayloadTooLarge,
    QueueFull,
    ResultBrokenOff,
    TimedOut,
    Unavailable,
    UntrustedServer,
)
from .records import EmulatorInfo, JobHandle, JobStatus, ModuleJob, Result
from .streams import JSONValues, ResultStream

__all__ = [
    "AnswerLost",
    "ApiError",
    "CannotConnect",
    "ComputeModules",
    "ComputeModulesError",
    "EmulatorControl",
    "EmulatorInfo",
    "Forbidden",
    "InvalidModuleAuthToken",
    "InvalidRequest",
    "InvalidToken",
    "JSONValues",
    "JobAlreadyCompleted",
    "JobFailed",
    "JobHandle",
    "JobNotReady",
    "JobState",
    "JobStatus",
    "JobTimeout",
    "MethodNotAllowed",
    "ModuleJob",
    "NotFound",
    "PayloadTooLarge",
    "QueueFull",
    "Result",
    "ResultBrokenOff",
    "ResultStream",
    "Retries",
    "RuntimeSession",
    "TimedOut",
    "Unavailable",
    "UntrustedServer",
]
