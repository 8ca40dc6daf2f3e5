"""What Foundry's clients read about jobs and functions, as JSON (contract section 3)."""

from __future__ import annotations

import json
from uuid import NAMESPACE_URL, uuid5

from ..model.jobs import Job, JobState
from ..model.runtimes import Runtime
from ..model.types import JSONValue
from .json_body import to_json


def describe_handle(job: Job) -> dict[str, JSONValue]:
    """Return the handle that an application keeps of a job."""
    handle = {"type": "v1", "jobId": job.job_id, "nodeId": None, "moduleId": None, "persistJobResult": None}
    return {
        "id": job.job_id,
        "nodeId": None,
        "moduleId": None,
        "jobHandle": json.dumps(handle),
        "persistJobResult": None,
        "status": describe_status(job),
    }


def _reason(job: Job) -> str:
    return job.error_message or "Compute module job failed."


def _progress(job: Job) -> JSONValue:
    """Return what Foundry says of a job that a module has or had."""
    timing = {
        "type": "queuedJob",
        "queuedJob": {
            "multiplexerSubmitTimeMillis": job.queued_at,
            "queueSubmitTimeMillis": job.queued_at,
            "queuedJobDispatchTimeMillis": job.started_at,
            "moduleSubmitTimeMillis": job.started_at,
        },
    }
    return {"metadata": None, "intermediateJobInfoList": [], "multiplexerJobTiming": timing}


def union(kind: str, content: JSONValue) -> JSONValue:
    """Return a value of one of Foundry's unions, which names its kind twice."""
    return {"type": kind, kind: content}


def describe_status(job: Job) -> JSONValue:
    """Return the status union of ``GET …/status`` and of job handles."""
    kind = job.state.value
    if job.state is JobState.QUEUED:
        return union(kind, {"queueInfo": "NORMAL_OPERATION"})
    if job.state in (JobState.FAILED, JobState.CANCELED):
        return union(kind, {"message": _reason(job)})
    return union(kind, _progress(job))


def describe_foundry_status(job: Job) -> JSONValue:
    """Return the status union of ``PUT …/status/v2`` and ``v3``, in Foundry's own terms."""
    if job.state is JobState.QUEUED:
        return union("queued", {"queueInfo": "NORMAL_OPERATION"})
    if job.state is JobState.RUNNING:
        return union("inProgress", {"completedTasks": 0, "approxNumTasks": None, "metadata": None})
    if job.state is JobState.SUCCEEDED:
        return union("succeeded", _progress(job))
    name = "JobCanceled" if job.state is JobState.CANCELED else "JobFailed"
    exception = {
        "args": [],
        # The same in every answer about this job.
        "errorInstanceId": str(uuid5(NAMESPACE_URL, job.job_id)),
        "errorType": {"code": "INTERNAL", "name": f"ComputeModules:{name}"},
        "message": _reason(job),
        "safeMessage": _reason(job),
    }
    return union(job.state.value, {"exception": exception})


def describe_functions(runtime: Runtime) -> JSONValue:
    """Return a runtime's functions, sorted by name; ``None`` before the runtime has posted any."""
    if runtime.schemas is None:
        return None
    return [
        {
            "functionName": name,
            "inputs": schema.payload.get("inputs"),
            "output": schema.payload.get("output"),
            "issues": list(schema.issues),
        }
        for name, schema in sorted(runtime.schemas.items())
    ]


def flat_job(job: Job, token: str) -> tuple[bytes, bytes, bytes]:
    """Return a job as the Java SDK reads it (contract section 2), in JSON, in three parts; the second is the query.

    Args:
        job: The job.
        token: Its bearer token. In ``authHeader`` it has the form of a header, as that name means at Palantir.
    """
    submission = job.submission
    assert submission.query is not None
    before = {"jobId": job.job_id, "queryType": submission.query_type}
    after = {
        "temporaryCredentialsAuthToken": token,
        "authHeader": f"Bearer {token}",
        "userId": submission.submitter,
    }
    return to_json(before)[:-1] + b',"query":', submission.query, b"," + to_json(after)[1:]


def envelope(job: Job, token: str) -> tuple[bytes, bytes, bytes]:
    """Return a job as the other SDKs read it (contract section 1), in three parts like :func:`flat_job`."""
    before, query, after = flat_job(job, token)
    return b'{"type":"computeModuleJobV1","computeModuleJobV1":' + before, query, after + b"}"
