"""Reading jobs, runtimes and replicas from what Redis returned or published."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any, TypeAlias

from attrs import evolve

from ...model.jobs import Attempt, Job, JobSource, JobState, Submission
from ...model.limits import JobLimits
from ...model.queries import PostedFunction
from ...model.registry import Registry
from ...model.replicas import DEFAULT_REPLICA, Replica
from ...model.runtimes import FunctionSchema, Runtime
from ..interface import (
    BrokerError,
    BrokerUnavailable,
    IdempotencyKeyReused,
    QueueFull,
    ReplicaSnapshot,
    UnknownReplica,
    UnknownRuntime,
)
from ..noted_ends import NotedEnds
from .node import RedisNode
from .results import Followers, RedisResult
from .values import content, pairs, raw_pairs, text, to_json

#: The record of a job, as ``lua/1_state.lua`` returns or publishes it. A field that the job does not have is ``None``
#: in a returned record and ``False`` in a published one.
Record: TypeAlias = Sequence[bytes | str | bool | None]

_STATES: dict[bytes | str, JobState] = {each.value: each for each in JobState}
_STATES |= {each.value.encode("ascii"): each for each in JobState}


class JobRecords:
    """Reads jobs. Their results are read from Redis, and followed, on demand."""

    def __init__(self, node: RedisNode, followers: Followers) -> None:
        self._node = node
        self._followers = followers
        self._last: tuple[Record, Job] | None = None

    def job(self, record: Record | int, query: bytes | str | None = None, output: bytes | str | None = None) -> Job:
        """Read a job.

        Args:
            record: Its fields; 1 if those of the last change before count.
            query: Its query, if it is known.
            output: What its module wrote, if it is known.
        """
        # The same record is published to the observers of a node and to those that wait there.
        if not isinstance(record, int) and (self._last is None or self._last[0] != record):
            self._last = record, self._read(record)
        assert self._last is not None
        job = self._last[1]
        if query is not None:
            job.submission = job.submission.with_query(content(query))
        if output is not None:
            job.output = text(output)
        return job

    def _read(self, record: Record) -> Job:
        fields: Any = record if isinstance(record[0], bytes) else [None if each is False else each for each in record]
        # fmt: off
        (
            job_id, runtime_id, number, query_type, meta, size, key, rights, state, queued_at, started_at, completed_at,
            replica_id, error, raised, body_id, content_type, result_size, whole, ends_size, attempts, *attempt_log,
        ) = fields
        # fmt: on
        submission = _submission(query_type, meta, size, key, rights)
        job = Job(text(job_id), text(runtime_id), submission, int(queued_at), int(number))
        job.state = _STATES[state]
        job.attempts = int(attempts)
        job.attempt_log = [_attempt(each) for each in attempt_log if each is not None]
        job.replica_id = _text(replica_id)
        job.started_at = _time(started_at)
        job.completed_at = _time(completed_at)
        job.error_message = _text(error)
        job.raised = _text(raised)
        if body_id is not None:
            job.result = RedisResult(
                self._node,
                self._followers,
                job.job_id,
                _text(content_type),
                text(body_id),
                int(result_size),
                whole is not None,
            )
            job.result.unmarked = whole is not None and ends_size is None
        return job

    def submitted(self, record: Record | int, submission: Submission) -> Job:
        """Read a job that has this submission."""
        job = self.job(record)
        # The key of an earlier submission may have come again with other rights, which are not those of its job.
        self._last = None
        job.submission = submission
        return job

    def finished_job(
        self,
        record: Record | int,
        data: bytes | str | bool | None,
        ends: bytes | str = b"",
        query: bytes | None = None,
        output: bytes | None = None,
    ) -> Job:
        """Read a job that comes with the bytes of its result, if the result is whole and small.

        Args:
            record: As for :meth:`job`.
            data: The bytes of its result.
            ends: The bits of the ends that are noted in them.
            query: Its query, if it is known.
            output: What its module wrote, if it is known.
        """
        job = self.job(record, query, output)
        if isinstance(job.result, RedisResult) and data is not None and not isinstance(data, bool):
            job.result.data = content(data)
            job.result.noted = NotedEnds(content(ends)) if ends else None
        return job


def describe_submission(submission: Submission) -> str:
    """Return the part of a submission that is kept as JSON, in the field ``meta`` of the job."""
    return _meta(submission.source, submission.deployed_app_rid, submission.branch, submission.submitter)


@lru_cache(maxsize=1000)
def _meta(source: JobSource, deployed_app_rid: str | None, branch: str | None, submitter: str) -> str:
    return to_json(
        {"source": source.value, "deployed_app_rid": deployed_app_rid, "branch": branch, "submitter": submitter}
    )


def describe_rights(submission: Submission) -> str:
    """Return the rights of the submitter as JSON, for the field ``rights`` of the job; an empty text if there are none.

    They are apart from the other fields, because the same submission may come again with a token of other rights.
    """
    if not submission.scopes and not submission.admin:
        return ""
    return to_json({"scopes": list(submission.scopes), "admin": submission.admin})


@lru_cache(maxsize=1000)
def _submission(
    query_type: bytes | str,
    meta: bytes | str,
    size: bytes | str,
    key: bytes | str | None,
    rights: bytes | str | None,
) -> Submission:
    """Return a submission without its query. The records of a job, and of many jobs, have the same."""
    its = json.loads(meta)
    its_rights = {} if rights is None else json.loads(rights)
    return Submission(
        text(query_type),
        None,
        JobSource(its["source"]),
        its["deployed_app_rid"],
        its["branch"],
        its["submitter"],
        int(size),
        None if key is None else text(key),
        tuple(its_rights.get("scopes", ())),
        its_rights.get("admin", False),
    )


def _attempt(stored: bytes | str) -> Attempt:
    started, _, rest = text(stored).partition(" ")
    ended, _, outcome = rest.partition(" ")
    return Attempt(int(started), int(ended) if ended else None, outcome or None)


def unknown(reply: bytes, runtime_id: str, replica_id: str) -> UnknownRuntime | UnknownReplica:
    """Return the error for an operation that answered ``unknown runtime`` or ``unknown replica``."""
    return UnknownRuntime(runtime_id) if reply == b"unknown runtime" else UnknownReplica(runtime_id, replica_id)


def refusal(reply: bytes, runtime_id: str, limits: JobLimits) -> BrokerError:
    """Return the error for an operation that answered why it does not queue a job."""
    if reply == b"unknown runtime":
        return UnknownRuntime(runtime_id)
    if reply == b"too many jobs":
        return QueueFull(runtime_id, limits.queue_depth, "jobs")
    if reply == b"too many bytes":
        return QueueFull(runtime_id, limits.queue_bytes, "bytes")
    if reply == b"lost query":
        return BrokerUnavailable("Redis lost the query before its job was queued")
    return IdempotencyKeyReused(text(reply.removeprefix(b"other ")))


def read_runtime(
    known: Runtime, process: Sequence[bytes | str], schemas: Iterable[bytes | str], connected: bool
) -> Runtime:
    """Read a runtime.

    Args:
        known: The runtime as the registry has it.
        process: The fields of what its processes have done.
        schemas: The schemas that it has posted, as JSON by the names of their functions.
        connected: Whether any of its replicas is.
    """
    fields = raw_pairs(process)
    posted_at = _time(fields.get(b"last_schema_post_at"))
    found = {}
    for name, stored in pairs(schemas).items():
        found[name] = _read_schema(name, stored)
    return evolve(
        known,
        opened_at=int(fields[b"opened_at"]),
        connected=connected,
        last_poll_at=_time(fields.get(b"last_poll_at")),
        last_schema_post_at=posted_at,
        schemas=None if posted_at is None else found,
    )


def read_functions(registry: Registry, name: str, stored: Iterable[bytes | str]) -> list[PostedFunction]:
    """Read the functions of one name.

    Args:
        registry: The runtimes and their bindings.
        name: The name of the functions.
        stored: The runtimes that have posted one, each with the schema as JSON.
    """
    return [
        PostedFunction(runtime_id, tuple(registry.bindings_of(runtime_id)), _read_schema(name, schema))
        for runtime_id, schema in pairs(stored).items()
    ]


def _read_schema(name: str, stored: str) -> FunctionSchema:
    schema = json.loads(stored)
    return FunctionSchema(name, schema["payload"], tuple(schema["issues"]), schema["posted_at"])


def _time(value: bytes | str | None) -> int | None:
    return None if value is None else int(value)


def _text(value: bytes | str | None) -> str | None:
    return None if value is None else text(value)


def read_replicas(
    runtime: Runtime, opened: Iterable[Replica], stored: Iterable[Any], now: int, opened_at: int
) -> list[ReplicaSnapshot]:
    """Read the default replica of a runtime, and those that were opened.

    Args:
        runtime: The runtime.
        opened: The replicas as the registry has them.
        stored: Of each replica that is known to Redis: its id, what it has done, its jobs and its parked polls.
        now: Milliseconds since the epoch.
        opened_at: When the runtime was opened, and its default replica with it.
    """
    known = {text(replica_id): rest for replica_id, *rest in stored}
    default = Replica(runtime.runtime_id, DEFAULT_REPLICA, runtime.module_auth_token, opened_at=opened_at)
    found = []
    for each in (default, *opened):
        done, job_ids, parked = known.get(each.replica_id, ((), (), 0))
        fields = raw_pairs(done)
        replica = evolve(
            each,
            last_poll_at=_time(fields.get(b"last_poll_at")),
            last_heard_at=_time(fields.get(b"last_heard_at")),
            draining=b"draining" in fields,
        )
        state = replica.state(len(job_ids), parked, now)
        found.append(ReplicaSnapshot(replica, state, [text(job_id) for job_id in job_ids], parked))
    return found


def describe_schema(schema: FunctionSchema, now: int) -> dict[str, object]:
    """Return what is kept as JSON of a schema that is posted at ``now``."""
    return {"payload": schema.payload, "issues": schema.issues, "posted_at": now}
