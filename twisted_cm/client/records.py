"""What the emulator answers, as records."""

from __future__ import annotations

import json

from attrs import field, frozen

from ..model.jobs import JobState
from ..model.types import JSONValue


@frozen
class Result:
    """
    The result of a job.

    @ivar job_id: the job's id.
    @ivar content: the bytes, as the runtime posted them.
    """

    job_id: str | None
    content: bytes = field(repr=lambda content: f"<{len(content)} bytes>")

    def json(self) -> JSONValue:
        """
        @return: the content as JSON.
        @raise ValueError: it is something else.
        """
        return json.loads(self.content)

    def text(self) -> str:
        """
        @return: the content as UTF-8.
        @raise UnicodeDecodeError: it is something else.
        """
        return self.content.decode("utf-8")

    @property
    def exception(self) -> str | None:
        """What the function raised, if it did: the SDKs post that as a result, C{{"exception": "…"}}."""
        try:
            value = self.json()
        except (ValueError, RecursionError):
            return None
        if isinstance(value, dict) and len(value) == 1 and isinstance(value.get("exception"), str):
            return str(value["exception"])
        return None


@frozen
class JobStatus:
    """
    How a job stands.

    @ivar state: where it is; C{state.finished} says whether that is its end.
    @ivar message: why it failed or was canceled.
    @ivar submitted_at: milliseconds since the epoch; known while it runs and once it has succeeded.
    @ivar dispatched_at: milliseconds since the epoch; known as with C{submitted_at}.
    """

    state: JobState
    message: str | None = None
    submitted_at: int | None = None
    dispatched_at: int | None = None


@frozen
class JobHandle:
    """
    A job that was submitted and is not waited for.

    @ivar id: the job's id.
    @ivar job_handle: the text by which Foundry's routes know it.
    @ivar status: how it stood when it was submitted.
    """

    id: str
    job_handle: str
    status: JobStatus


@frozen
class ModuleJob:
    """
    A job that a runtime was handed.

    @ivar query_type: the function's name.
    @ivar query: the function's input.
    @ivar user_id: who submitted it.
    """

    job_id: str
    query_type: str
    query: JSONValue
    user_id: str


@frozen
class EmulatorInfo:
    """
    How an emulator is reached.

    @ivar http: base URL of the plain listener, or L{None}.
    @ivar https: base URL of the TLS listener, or L{None}.
    @ivar ca_certificate: what to verify C{https} with, in PEM, or L{None}.
    @ivar poll_timeout: seconds that a job poll parks.
    @ivar sync_timeout: seconds that a synchronous caller parks.
    @ivar max_body: the most bytes of a request body.
    @ivar started_at: milliseconds since the epoch.
    """

    version: str
    http: str | None
    https: str | None
    ca_certificate: str | None
    poll_timeout: float
    sync_timeout: float
    max_body: int
    started_at: int


def result_bytes(content: JSONValue) -> bytes:
    if isinstance(content, bytes | bytearray | memoryview):
        return bytes(content)
    return (content if isinstance(content, str) else json.dumps(content)).encode("utf-8")


def parse_job_status(value: JSONValue) -> JobStatus:
    content = value[value["type"]]
    timing = (content.get("multiplexerJobTiming") or {}).get("queuedJob", {})
    return JobStatus(
        JobState(value["type"]),
        content.get("message"),
        timing.get("multiplexerSubmitTimeMillis"),
        timing.get("queuedJobDispatchTimeMillis"),
    )


def parse_module_job(value: JSONValue) -> ModuleJob:
    job = value["computeModuleJobV1"]
    return ModuleJob(job["jobId"], job["queryType"], job["query"], job["userId"])


def parse_emulator_info(value: JSONValue) -> EmulatorInfo:
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


def parse_records(value: JSONValue) -> list[dict[str, JSONValue]]:
    return [dict(each) for each in value]
