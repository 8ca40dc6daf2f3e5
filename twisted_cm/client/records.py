"""What the emulator answers, as records."""

from __future__ import annotations

import json

from attrs import field, frozen

from ..model.raised import raised_message
from ..model.states import JobState, ReplicaState
from ..model.types import JSONValue


@frozen
class Result:
    """The result of a job.

    Attributes:
        job_id: The job's id.
        content: The bytes as the runtime posted them.
    """

    job_id: str | None
    content: bytes = field(repr=lambda content: f"<{len(content)} bytes>")

    def json(self) -> JSONValue:
        """Return the content, parsed as JSON.

        Raises:
            ValueError: The content is not JSON.
        """
        return json.loads(self.content)

    def text(self) -> str:
        """Return the content, decoded as UTF-8.

        Raises:
            UnicodeDecodeError: The content is not UTF-8.
        """
        return self.content.decode("utf-8")

    @property
    def exception(self) -> str | None:
        """What the function raised, if it did. Each SDK posts that as a result, in a form of its own."""
        return raised_message(self.job_id or "", self.content)


@frozen
class JobStatus:
    """The status of a job.

    Attributes:
        state: The job's state; ``state.finished`` says whether it is final.
        message: Why the job failed or was canceled.
        submitted_at: Milliseconds since the epoch. Known while the job runs and once it has succeeded.
        dispatched_at: Milliseconds since the epoch. Known when ``submitted_at`` is.
    """

    state: JobState
    message: str | None = None
    submitted_at: int | None = None
    dispatched_at: int | None = None


@frozen
class JobHandle:
    """A job that was submitted without waiting for its result.

    Attributes:
        id: The job's id.
        job_handle: The text that identifies the job on Foundry's routes.
        status: The job's status when it was submitted.
    """

    id: str
    job_handle: str
    status: JobStatus


@frozen
class ModuleJob:
    """A job that the emulator dispatched to a runtime.

    Attributes:
        query_type: The function's name.
        query: The function's input.
        user_id: The user who submitted the job.
    """

    job_id: str
    query_type: str
    query: JSONValue
    user_id: str


@frozen
class ReplicaStatus:
    """What a replica does.

    Attributes:
        state: The replica's state; ``state.connected`` says whether it takes jobs.
        max_concurrent_tasks: How many unfinished jobs may be on it; ``None`` for no limit.
        functions: The names of the functions that the runtime has reported; ``None`` if it has reported nothing.
        ended_why: Why the replica is gone.
    """

    state: ReplicaState
    max_concurrent_tasks: int | None
    functions: list[str] | None
    ended_why: str | None


@frozen
class EmulatorInfo:
    """An emulator's addresses and limits.

    Attributes:
        http: The base URL of the plain listener, or ``None``.
        https: The base URL of the TLS listener, or ``None``.
        ca_certificate: The certificate in PEM to verify ``https`` with, or ``None``.
        poll_timeout: Seconds that a job poll parks.
        sync_timeout: Seconds that a synchronous caller parks.
        max_body: The maximum size of a request body, in bytes.
        started_at: Milliseconds since the epoch.
    """

    version: str
    http: str | None
    https: str | None
    ca_certificate: str | None
    poll_timeout: float
    sync_timeout: float
    max_body: int
    started_at: int


def parse_job_handle(value: JSONValue) -> JobHandle:
    """Return the record for a job handle on the wire."""
    return JobHandle(value["id"], value["jobHandle"], parse_job_status(value["status"]))


def parse_job_status(value: JSONValue) -> JobStatus:
    """Return the record for a job's status on the wire."""
    content = value[value["type"]]
    timing = (content.get("multiplexerJobTiming") or {}).get("queuedJob", {})
    return JobStatus(
        JobState(value["type"]),
        content.get("message"),
        timing.get("multiplexerSubmitTimeMillis"),
        timing.get("queuedJobDispatchTimeMillis"),
    )


def parse_module_job(value: JSONValue) -> ModuleJob:
    """Return the record for a job envelope."""
    job = value["computeModuleJobV1"]
    return ModuleJob(job["jobId"], job["queryType"], job["query"], job["userId"])


def parse_replica_status(value: JSONValue) -> ReplicaStatus:
    """Return the record for a replica on the wire."""
    return ReplicaStatus(
        ReplicaState(value["state"]), value["max_concurrent_tasks"], value["functions"], value["ended_why"]
    )


def parse_emulator_info(value: JSONValue) -> EmulatorInfo:
    """Return the record for the answer of the discovery route."""
    return EmulatorInfo(
        value["version"],
        value["http"],
        value["https"],
        value["caCertificate"],
        value["pollTimeout"],
        value["syncTimeout"],
        value["maxBody"],
        value["startedAt"],
    )


def parse_objects(value: JSONValue) -> list[dict[str, JSONValue]]:
    """Return a list of JSON objects, checked to be one."""
    return [dict(each) for each in value]
