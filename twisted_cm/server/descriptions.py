"""Jobs, runtimes and functions as JSON."""

from __future__ import annotations

import json
from base64 import b64encode
from datetime import datetime, timezone
from uuid import NAMESPACE_URL, uuid5

from attrs import asdict

from ..model.jobs import Job, JobState
from ..model.runtimes import FunctionSchema, Runtime
from ..model.types import JSONValue


async def describe_job(job: Job) -> JSONValue:
    """
    @return: a job as inspection shows it (contract section 1).
    """
    text: str | None = None
    answer: dict[str, JSONValue] = {}
    if job.result is not None and job.result.complete:
        content = await job.result.read(0, job.result.size)
        try:
            text = content.decode("utf-8")
        except UnicodeDecodeError:
            answer["result_body_base64"] = b64encode(content).decode("ascii")
    return {
        "job_id": job.job_id,
        "runtime_id": job.runtime_id,
        "deployed_app_rid": job.submission.deployed_app_rid,
        "deployed_app_branch": job.submission.branch,
        "query_type": job.submission.query_type,
        "query": job.submission.query,
        "source": job.submission.source.value,
        "status": job.state.value,
        "queued_at": job.queued_at,
        "started_at": job.started_at,
        "completed_at": job.completed_at,
        "result_content_type": None if job.result is None else job.result.content_type,
        "result_body_utf8": text,
        "error_message": job.error_message,
        "attempts": [asdict(attempt) for attempt in job.attempt_log],
        **answer,
    }


def describe_schemas(schemas: dict[str, FunctionSchema] | None) -> JSONValue:
    """
    @return: function schemas as inspection shows them, sorted by name.
    """
    return [
        {"function_name": name, "schema_payload": schema.payload, "posted_at": schema.posted_at}
        for name, schema in sorted((schemas or {}).items())
    ]


def summarize_job(job: Job) -> JSONValue:
    """
    @return: a job in a list: without its query and its result.
    """
    return {
        "job_id": job.job_id,
        "runtime_id": job.runtime_id,
        "deployed_app_rid": job.submission.deployed_app_rid,
        "deployed_app_branch": job.submission.branch,
        "query_type": job.submission.query_type,
        "source": job.submission.source.value,
        "status": job.state.value,
        "queued_at": job.queued_at,
        "started_at": job.started_at,
        "completed_at": job.completed_at,
        "attempts": job.attempts,
        "result_bytes": None if job.result is None else job.result.size,
        "error_message": job.error_message,
        "number": job.number,
    }


def describe_handle(job: Job) -> JSONValue:
    """
    @return: the job handle that an application keeps (contract section 3).
    """
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
    """What Foundry says of a job that a module has or had."""
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


def _union(kind: str, content: JSONValue) -> JSONValue:
    return {"type": kind, kind: content}


def describe_status(job: Job) -> JSONValue:
    """
    @return: the status union of C{GET …/status} and of job handles (contract section 3).
    """
    kind = job.state.value
    if job.state is JobState.QUEUED:
        return _union(kind, {"queueInfo": "NORMAL_OPERATION"})
    if job.state in (JobState.FAILED, JobState.CANCELED):
        return _union(kind, {"message": _reason(job)})
    return _union(kind, _progress(job))


def describe_foundry_status(job: Job) -> JSONValue:
    """
    @return: the status union of C{PUT …/status/v2} and C{v3}, in Foundry's own words (contract section 3).
    """
    if job.state is JobState.QUEUED:
        return _union("queued", {"queueInfo": "NORMAL_OPERATION"})
    if job.state is JobState.RUNNING:
        return _union("inProgress", {"completedTasks": 0, "approxNumTasks": None, "metadata": None})
    if job.state is JobState.SUCCEEDED:
        return _union("succeeded", _progress(job))
    name = "JobCanceled" if job.state is JobState.CANCELED else "JobFailed"
    exception = {
        "args": [],
        # The same each time that somebody asks.
        "errorInstanceId": str(uuid5(NAMESPACE_URL, job.job_id)),
        "errorType": {"code": "INTERNAL", "name": f"ComputeModules:{name}"},
        "message": _reason(job),
        "safeMessage": _reason(job),
    }
    return _union(job.state.value, {"exception": exception})


def describe_functions(runtime: Runtime) -> JSONValue:
    """
    @return: a runtime's functions as Foundry lists them, sorted by name; L{None} before it has posted any.
    """
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


def describe_deployed_app(rid: str, runtime: Runtime) -> JSONValue:
    """
    @return: the status of a compute module as Foundry has it: one replica, responsive once it has polled.
    """
    replicas = {
        "configuredMaxModules": 1,
        "configuredMinModules": 1,
        "images": [],
        "moduleGroupName": runtime.runtime_id,
        "replicaSetDiagnostic": None,
        "replicaSetId": runtime.runtime_id,
        "replicas": [
            {
                "replicaId": runtime.runtime_id,
                "state": {"reason": [], "state": "RESPONSIVE" if runtime.connected else "STARTING"},
            }
        ],
        "responsiveReplicas": int(runtime.connected),
        "state": "ACTIVE" if runtime.connected else "STARTING",
        "totalReplicas": 1,
    }
    return {
        "computeModuleId": rid,
        "buildRid": None,
        "buildJobRid": "",
        "currentReplicaSet": replicas,
        "targetReplicaSet": None,
        "previousUpdate": datetime.fromtimestamp(runtime.opened_at / 1000, timezone.utc).isoformat(),
        "resourceProgressStatus": _union("appliedInCluster", {}),
        "scalingConfig": {"maxNumModules": 1, "minNumModules": 1},
    }
