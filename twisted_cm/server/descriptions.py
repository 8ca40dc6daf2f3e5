"""What inspection shows of jobs and runtimes, as JSON (contract section 1)."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence

from attrs import asdict

from ..broker.interface import ReplicaSnapshot, RuntimeSnapshot
from ..model.faults import Fault, describe_fault
from ..model.jobs import Job
from ..model.raised import first_line
from ..model.replicas import DEFAULT_REPLICA
from ..model.runtimes import FunctionSchema, Runtime
from ..model.types import JSONValue
from .json_body import to_json

#: What stands for a module auth token to a caller that does not hold it.
MASKED_TOKEN = "********"


async def describe_job(job: Job) -> tuple[bytes, bytes, bytes]:
    """Return everything about a job as JSON, in three parts; the second part is the query.

    The query is the last field, so that a client can cut it out without parsing it.
    """
    text: str | None = None
    binary: dict[str, JSONValue] = {}
    if job.result is not None and job.result.complete:
        content = await job.result.read(0, job.result.size)
        try:
            text = content.decode("utf-8")
        except UnicodeDecodeError:
            binary["result_body_base64"] = b64encode(content).decode("ascii")
    description = {
        **_describe_progress(job),
        "result_content_type": None if job.result is None else job.result.content_type,
        "result_body_utf8": text,
        "attempts": [asdict(attempt) for attempt in job.attempt_log],
        "raised_message": job.raised,
        "output": job.output,
        **binary,
    }
    return to_json(description)[:-1] + b',"query":', job.submission.query or b"null", b"}"


def summarize_job(job: Job) -> JSONValue:
    """Return a job as it stands in a list, without its query and its result."""
    return {
        **_describe_progress(job),
        "attempts": job.attempts,
        "raised_message": None if job.raised is None else first_line(job.raised),
        "result_bytes": None if job.result is None else job.result.size,
        "number": job.number,
    }


def _describe_progress(job: Job) -> dict[str, JSONValue]:
    """Return what a description and a summary of a job have in common."""
    return {
        "job_id": job.job_id,
        "runtime_id": job.runtime_id,
        "replica_id": job.replica_id,
        "deployed_app_rid": job.submission.deployed_app_rid,
        "deployed_app_branch": job.submission.branch,
        "query_type": job.submission.query_type,
        "source": job.submission.source.value,
        "status": job.state.value,
        "queued_at": job.queued_at,
        "started_at": job.started_at,
        "completed_at": job.completed_at,
        "error_message": job.error_message,
        "raised": job.raised is not None,
    }


def describe_runtime(runtime: Runtime, token_shown: bool) -> dict[str, JSONValue]:
    """Return a runtime.

    Args:
        token_shown: Whether the caller may see the module auth token; otherwise it is masked.
    """
    return {
        "runtime_id": runtime.runtime_id,
        "module_auth_token": runtime.module_auth_token if token_shown else MASKED_TOKEN,
        "connected": runtime.connected,
        "last_poll_at": runtime.last_poll_at,
        "last_schema_post_at": runtime.last_schema_post_at,
    }


def describe_snapshot(
    snapshot: RuntimeSnapshot, faults: Iterable[Fault], token_shown: bool, module: JSONValue
) -> dict[str, JSONValue]:
    """Return a runtime with its queue, replicas, bindings and faults.

    Args:
        module: How the processes are that the emulator starts for it, or ``None``.
        faults: All faults; those that are for other runtimes are left out.
        token_shown: Whether the caller may see the module auth token.
    """
    runtime = snapshot.runtime
    return {
        **describe_runtime(runtime, token_shown),
        "queued_jobs": snapshot.queued,
        "running_jobs": snapshot.running,
        "parked_polls": snapshot.parked_polls,
        "module": module,
        "replicas": [describe_replica(each) for each in replicas_in_use(snapshot.replicas)],
        "faults": [describe_fault(each) for each in faults if each.plan.runtime_id in (None, runtime.runtime_id)],
        "bindings": [
            {
                "deployed_app_rid": binding.deployed_app_rid,
                "branch": binding.branch,
                "display_name": binding.display_name,
                "active": binding.active,
            }
            for binding in snapshot.bindings
        ],
    }


def replicas_in_use(replicas: Sequence[ReplicaSnapshot]) -> list[ReplicaSnapshot]:
    """Return the replicas of a runtime, those that are gone included, without a default replica that nobody uses.

    Every runtime has a default replica. Nobody uses it if it has never polled while another replica is open.
    """
    others = any(not each.replica.gone for each in replicas if each.replica.replica_id != DEFAULT_REPLICA)
    return [
        each
        for each in replicas
        if not others or each.replica.replica_id != DEFAULT_REPLICA or each.replica.last_poll_at is not None
    ]


def describe_replica(snapshot: ReplicaSnapshot) -> dict[str, JSONValue]:
    """Return a replica (contract section 1a). Its token is not shown."""
    replica = snapshot.replica
    return {
        "replica_id": replica.replica_id,
        "state": snapshot.state.value,
        "max_concurrent_tasks": replica.limit,
        "running_jobs": snapshot.job_ids,
        "parked_polls": snapshot.parked_polls,
        "opened_at": replica.opened_at,
        "last_poll_at": replica.last_poll_at,
        "ended_at": replica.ended_at,
        "ended_why": replica.ended_why,
    }


def describe_schemas(schemas: Mapping[str, FunctionSchema] | None) -> JSONValue:
    """Return function schemas, sorted by name."""
    return [
        {"function_name": name, "schema_payload": schema.payload, "posted_at": schema.posted_at}
        for name, schema in sorted((schemas or {}).items())
    ]
