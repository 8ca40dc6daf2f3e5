"""Every public name of the client, by the module that holds it."""

from __future__ import annotations

from ..model.states import JobState, ReplicaState
from .application import ComputeModules
from .control import EmulatorControl
from .errors import (
    AnswerLost,
    ApiError,
    CannotConnect,
    ComputeModulesError,
    Forbidden,
    IdempotencyKeyReused,
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
from .raw_json import RawJSON
from .records import EmulatorInfo, JobHandle, JobStatus, ModuleJob, ReplicaStatus, Result
from .replica import ReplicaSession
from .retries import Retries
from .runtime import RuntimeSession
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
    "IdempotencyKeyReused",
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
    "RawJSON",
    "ReplicaSession",
    "ReplicaState",
    "ReplicaStatus",
    "Result",
    "ResultBrokenOff",
    "ResultStream",
    "Retries",
    "RuntimeSession",
    "TimedOut",
    "Unavailable",
    "UntrustedServer",
]
